//! The networks of torchvision and of public CIFAR code against PyTorch.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use candle_core::{DType, Device, Tensor};
use ssdkd_nn::{Network, NetworkSpec, Preprocessing, Store};
use ssdkd_ops as ops;

use crate::formula::{Golden, filled, formula, hash_of};
use crate::passes::Case;
use crate::place::{device, on_cuda};

const CLASSES: usize = 7;
const TARGETS: [u32; 2] = [3, 0];

fn spec(architecture: &str, size: [usize; 2]) -> NetworkSpec {
    NetworkSpec {
        architecture: architecture.parse().unwrap(),
        classes: CLASSES,
        input: [3, size[0], size[1]],
        mean: vec![0.0; 3],
        std: vec![1.0; 3],
        preprocessing: Preprocessing::default(),
    }
}

/// A network with formula weights.
pub fn network(architecture: &str, size: [usize; 2]) -> Network {
    let spec = spec(architecture, size);
    let graph = spec.blueprint().unwrap().graph;
    let tensors = graph.tensors().iter().map(|(name, spec)| {
        let tensor = match spec.shape[..] {
            [] => Tensor::zeros((), DType::I64, &device()).unwrap(),
            _ => filled(name, &spec.shape),
        };
        (name.clone(), tensor)
    });
    Network::load(&spec, tensors.collect::<BTreeMap<_, _>>(), &device()).unwrap()
}

/// How much is compared.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Amount {
    Logits,
    Inversion,
    Training,
}

/// Gradients of deep networks depend on rounding, more so where a batch norm sees 8 pixels of each channel: those of ResNet-50 differ by up
/// to 1.6·10⁻².
#[track_caller]
fn check(architecture: &str, size: [usize; 2], amount: Amount) {
    let golden = Golden::read("zoo_nn.safetensors");
    let network = network(architecture, size);
    let images = formula(7, &[TARGETS.len(), size[0], size[1], 3], 2.0);
    let case =
        Case { golden: &golden, name: architecture, network: &network, images, targets: &TARGETS, is_short: true };
    case.check_evaluation();
    if amount >= Amount::Inversion {
        case.check_inversion();
    }
    if amount == Amount::Training {
        let of_gradients = if on_cuda() { 2e-2 } else { 5e-2 };
        ops::with_direct_convolutions(|| case.check_training(of_gradients));
    }
}

#[test]
fn resnets_with_the_imagenet_stem() {
    check("torchvision/resnet18", [64, 64], Amount::Training);
    check("torchvision/resnet34", [32, 48], Amount::Logits);
}

#[test]
fn bottleneck_resnets_with_the_imagenet_stem() {
    check("torchvision/resnet50", [64, 64], Amount::Training);
    check("torchvision/resnet101", [32, 32], Amount::Logits);
}

#[test]
fn bottleneck_resnets_with_the_cifar_stem() {
    check("resnet50", [16, 16], Amount::Training);
    check("resnet101", [8, 8], Amount::Logits);
}

#[test]
fn resnets_of_repdistiller() {
    check("resnet8x4", [16, 16], Amount::Training);
    check("resnet32x4", [16, 16], Amount::Logits);
}

#[test]
fn vgg_of_torchvision() {
    check("torchvision/vgg11_bn", [64, 64], Amount::Inversion);
}

#[test]
fn vgg_for_cifar() {
    check("vgg11_bn", [32, 32], Amount::Inversion);
    check("vgg11_bn-mlp", [32, 32], Amount::Inversion);
    for architecture in ["vgg13_bn", "vgg16_bn", "vgg19_bn"] {
        check(architecture, [32, 32], Amount::Logits);
    }
}

#[test]
fn mobilenets() {
    check("torchvision/mobilenet_v2", [64, 64], Amount::Training);
    check("torchvision/mobilenet_v2*0.5", [48, 64], Amount::Logits);
    check("torchvision/mobilenet_v3_small", [64, 64], Amount::Training);
}

/// Its head looks up to 36 pixels far: the maps are 38 pixels wide.
#[test]
fn deeplab() {
    check("torchvision/deeplabv3_resnet50", [24, 304], Amount::Inversion);
}

#[test]
fn names_and_shapes_of_all_tensors_are_those_of_pytorch() {
    let golden = Golden::read("zoo_nn.safetensors");
    let mut checked = 0;
    for name in golden.names().filter_map(|name| name.strip_suffix(".tensors")) {
        let graph = spec(name, [64, 64]).blueprint().unwrap().graph;
        let mut lines = String::new();
        for (name, spec) in graph.tensors() {
            writeln!(lines, "{name} {:?}", spec.shape).unwrap();
        }
        let expected = golden.tensor(&format!("{name}.tensors")).to_vec1::<i64>().unwrap();
        assert_eq!(expected, [graph.tensors().len() as i64, i64::from(hash_of(&lines))], "{name}");
        checked += 1;
    }
    assert_eq!(checked, 24);
}

#[test]
fn networks_work_at_other_sizes_than_they_were_made_for() {
    for (name, sizes) in [
        ("torchvision/resnet18", [[32, 32], [64, 64], [33, 47]]),
        ("torchvision/resnet50", [[32, 32], [16, 16], [97, 64]]),
        ("torchvision/vgg11_bn", [[32, 32], [64, 64], [96, 50]]),
        ("vgg11_bn", [[32, 32], [64, 64], [96, 50]]),
        ("torchvision/mobilenet_v2", [[32, 32], [64, 64], [33, 47]]),
        ("torchvision/mobilenet_v3_small", [[32, 32], [64, 64], [33, 47]]),
        ("torchvision/deeplabv3_resnet50", [[32, 32], [64, 64], [33, 47]]),
        ("fpn-torchvision/resnet18", [[32, 32], [64, 64], [33, 47]]),
        ("fpn-torchvision/mobilenet_v2", [[32, 32], [64, 64], [33, 47]]),
    ] {
        for size in sizes {
            let graph = spec(name, size).blueprint().unwrap().graph;
            let output = graph.shape(graph.outputs()[0]);
            assert_eq!(output.channels(), CLASSES, "{name}");
            let expected = if name.contains("fpn") || name.contains("deeplab") { size } else { [1, 1] };
            assert_eq!(output.size(), expected, "{name} for {size:?}");
        }
    }
}

#[test]
fn images_that_are_too_small_are_refused_by_the_layer_that_they_do_not_reach() {
    let expected = "a torchvision/vgg11_bn cannot be built: the node features.28 (max_pool): \
        a window of 2 pixels does not fit into 1, for images of 16 by 24 pixels\n\
        hint: choose another size of images (--size of `ssdkd import`) or another architecture";
    let spec = spec("torchvision/vgg11_bn", [16, 24]);
    assert_eq!(spec.blueprint().unwrap_err().to_string(), expected);
    // The size is at fault, and not the weights.
    let loaded = Network::load(&spec, BTreeMap::new(), &Device::Cpu);
    assert_eq!(loaded.err().unwrap().to_string(), expected);
}

/// A pyramid on an ImageNet stem is this program's own: its scores are as fine as the first maps, and brought to the image's size.
#[test]
fn a_pyramid_on_an_imagenet_stem_scores_every_pixel() {
    let network = Network::create(&spec("fpn-torchvision/resnet18", [48, 40]), 1, &device()).unwrap();
    let images = formula(7, &[2, 48, 40, 3], 0.5).affine(1.0, 0.5).unwrap();
    let logits = network.logits(&images).unwrap();
    assert_eq!(logits.dims(), [2 * 48 * 40, CLASSES]);
    let other = network.logits(&images.narrow(0, 1, 1).unwrap()).unwrap();
    let difference = (logits.narrow(0, 48 * 40, 48 * 40).unwrap() - other).unwrap().abs().unwrap();
    assert!(difference.max_all().unwrap().to_scalar::<f32>().unwrap() < 1e-4);
}

#[test]
fn fresh_networks_are_ready_to_learn() {
    for name in ["torchvision/resnet18", "resnet8x4", "vgg11_bn", "torchvision/mobilenet_v3_small"] {
        let network = Network::create(&spec(name, [32, 32]), 1, &device()).unwrap();
        let store: &Store = network.store();
        let weights = store.parameters().into_iter().filter(|(_, var)| var.rank() > 1);
        for (name, var) in weights {
            let spread = var.sqr().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
            assert!(spread > 1e-3 && spread < 2.0, "{name}: {spread}");
        }
    }
}
