//! Networks of the zoo compute the same when they are written as ONNX files and read again.
//!
//! With `SSDKD_EXPORTED` set to a folder, each network is left there for `tests/golden/check_exported.py`, which computes it in ONNX Runtime
//! and in PyTorch.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::Tensor;
use ssdkd_graph::write::{OnnxTexts, PythonTexts, to_onnx, to_python, with_folded_norms};
use ssdkd_graph::{Executor, Graph, Mode, parse};
use ssdkd_nn::StateDict;
use ssdkd_ops::Value;

use crate::formula::{close, formula, numbers};
use crate::place::device;
use crate::zoo::network;

/// Writes a network, with its batch norms and without, reads it again, and compares the logits of one and of three images.
#[track_caller]
fn check(architecture: &str, size: [usize; 2]) {
    check_with(architecture, size, &["kept", "folded"]);
}

#[track_caller]
fn check_with(architecture: &str, [height, width]: [usize; 2], norms: &[&str]) {
    let network = network(architecture, [height, width]);
    for &what in norms {
        let graph = network.spec().blueprint().unwrap().graph;
        let mut network_written = (graph, BTreeMap::from(network.store().state_dict()));
        if what == "folded" {
            network_written = with_folded_norms(&network_written.0, &network_written.1).unwrap();
        }
        let (graph, tensors) = &network_written;
        let bytes = to_onnx(graph, tensors, &OnnxTexts::default()).unwrap();
        let read = parse(&bytes, Path::new("model.onnx")).unwrap_or_else(|error| panic!("{architecture}: {error}"));
        let tensors_read = read.tensors.into_iter().map(|(name, tensor)| (name, tensor.to_device(&device()).unwrap()));
        let executor = Executor::new(read.graph, tensors_read.collect(), &[]).unwrap();
        let mut io = HashMap::new();
        for count in [1, 3] {
            let images = formula(count as u32, &[count, height, width, 3], 0.5).affine(1.0, 0.5).unwrap();
            let wanted = network.logits(&images).unwrap();
            let found = executor.run(&Value::constant(images.clone()), Mode::Eval).unwrap();
            let found = found.outputs[0].tensor();
            close(&format!("{architecture}, norms {what}"), &numbers(found), &numbers(&wanted), 1e-4);
            let wanted = wanted.reshape(found.dims()).unwrap();
            io.extend([(format!("x{count}"), channels_first(&images)), (format!("y{count}"), channels_first(&wanted))]);
        }
        let name = format!("{}-{what}", architecture.replace(['/', '*'], "-"));
        leave(&name, &network_written, &bytes, &io);
    }
}

/// In PyTorch's layout, and a row as it is.
fn channels_first(x: &Tensor) -> Tensor {
    if x.rank() == 4 { x.permute((0, 3, 1, 2)).and_then(|x| x.contiguous()).unwrap() } else { x.clone() }
}

/// Leaves a network for Python.
fn leave(name: &str, (graph, tensors): &(Graph, BTreeMap<String, Tensor>), onnx: &[u8], io: &HashMap<String, Tensor>) {
    let Some(folder) = std::env::var_os("SSDKD_EXPORTED") else { return };
    let folder = Path::new(&folder).join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let texts = PythonTexts {
        weights: "model.safetensors".into(),
        range: [0.0, 1.0],
        mean: vec![0.0; 3],
        std: vec![1.0; 3],
        ..PythonTexts::default()
    };
    std::fs::write(folder.join("model.onnx"), onnx).unwrap();
    std::fs::write(folder.join("model.py"), to_python(graph, &texts).unwrap()).unwrap();
    std::fs::write(folder.join("model.safetensors"), StateDict::from(tensors.clone()).to_safetensors().unwrap())
        .unwrap();
    candle_core::safetensors::save(io, folder.join("io.safetensors")).unwrap();
}

#[test]
fn cifar_resnets_are_written() {
    for architecture in ["resnet8", "resnet20", "resnet20-conv", "resnet8x4", "wrn-16-2", "resnet18", "resnet50"] {
        check(architecture, [16, 16]);
    }
}

#[test]
fn resnets_of_torchvision_are_written() {
    check("torchvision/resnet18", [64, 64]);
    check("torchvision/resnet50", [64, 48]);
}

#[test]
fn mobilenets_are_written() {
    check("torchvision/mobilenet_v2", [64, 64]);
    check("torchvision/mobilenet_v2*0.5", [48, 64]);
    check("torchvision/mobilenet_v3_small", [64, 64]);
}

#[test]
fn vgg_for_cifar_is_written() {
    for architecture in ["vgg11", "vgg11_bn", "vgg11_bn-mlp"] {
        check(architecture, [32, 32]);
    }
}

/// Its pooling makes seven windows of three pixels each way. Its weights take half a gigabyte.
#[test]
fn vgg_of_torchvision_is_written() {
    check_with("torchvision/vgg11_bn", [96, 96], &["kept"]);
}

#[test]
fn networks_that_label_pixels_are_written() {
    check("fpn-resnet8", [16, 24]);
    check("fpn-wrn-16-2", [16, 16]);
    check("fpn-torchvision/resnet18", [40, 56]);
    check("torchvision/deeplabv3_resnet50", [24, 304]);
}
