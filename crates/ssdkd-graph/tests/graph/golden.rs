//! The networks of `tests/golden/graph.py` compute what PyTorch computes.

use candle_core::{DType, Device, Result, Tensor, Var};
use ssdkd_graph::{Executor, Imported, Mode, feature_maps};
use ssdkd_ops::Value;

use crate::common::{NETWORKS, channels_last, golden, mean_square, read, relative_error, values};

const TOLERANCE: f64 = 1e-4;

fn executor(Imported { graph, tensors, .. }: Imported) -> Executor {
    Executor::new(graph, tensors, &[]).unwrap_or_else(|error| panic!("{error}"))
}

/// All networks in both formats, with the numbers that PyTorch has for them.
fn each(check: impl Fn(&str, Imported, &std::collections::BTreeMap<String, Tensor>) -> Result<()>) -> Result<()> {
    for name in NETWORKS {
        let expected = values(&golden(&format!("{name}.safetensors")))?;
        for kind in ["pt2", "onnx"] {
            let file = format!("{name}.{kind}");
            check(&file, read(&file), &expected)?;
        }
    }
    Ok(())
}

#[test]
fn outputs_are_those_of_pytorch() -> Result<()> {
    each(|file, network, expected| {
        let x = Value::constant(channels_last(&expected["x"])?);
        let wanted = channels_last(&expected["y"])?;
        for executor in [executor(network.clone()), executor(network).frozen()] {
            for mode in [Mode::Eval, Mode::Tapped, Mode::Eval] {
                let error = relative_error(executor.run(&x, mode)?.outputs[0].tensor(), &wanted)?;
                assert!(error < TOLERANCE, "{file} in mode {mode:?}: {error:e}");
            }
        }
        Ok(())
    })
}

#[test]
fn gradients_of_the_input_are_those_of_pytorch() -> Result<()> {
    each(|file, network, expected| {
        let x = channels_last(&expected["x"])?;
        let run = executor(network).run(&Value::leaf(&x), Mode::Eval)?;
        let gradients = mean_square(&run.outputs[0])?.backward()?;
        let error = relative_error(gradients.get(&x).unwrap(), &channels_last(&expected["g"])?)?;
        assert!(error < TOLERANCE, "{file}: {error:e}");
        Ok(())
    })
}

#[test]
fn taps_are_the_moments_of_what_pytorch_normalizes() -> Result<()> {
    each(|file, network, expected| {
        let x = Value::constant(channels_last(&expected["x"])?);
        let run = executor(network).run(&x, Mode::Tapped)?;
        let moments = expected.iter().filter(|(name, _)| name.starts_with("moment.")).collect::<Vec<_>>();
        assert_eq!(run.taps.len(), moments.len(), "{file}");
        for (tap, (name, moments)) in run.taps.iter().zip(moments) {
            let mean = relative_error(tap.mean.tensor(), &moments.get(0)?)?;
            let variance = relative_error(tap.variance.tensor(), &moments.get(1)?)?;
            assert!(mean < TOLERANCE && variance < TOLERANCE, "{file} {name}: {mean:e} {variance:e}");
        }
        Ok(())
    })
}

#[test]
fn tensors_and_nodes_have_the_names_of_modules() {
    let network = read("resnet.pt2");
    for name in ["conv1.weight", "layer2.0.downsample.1.running_var", "layer1.1.bn2.num_batches_tracked", "fc.bias"] {
        assert!(network.tensors.contains_key(name), "{name} is not among {:?}", network.tensors.keys());
    }
    for name in ["conv1", "layer1.0.conv1", "layer2.0.downsample.0", "fc"] {
        assert!(network.graph.find(name).is_some(), "there is no node {name}");
    }
    assert_eq!(network.graph.tensors()["layer1.0.bn1.weight"].shape, [8]);
    assert!(network.graph.tensors()["layer1.0.bn1.weight"].trained);
    assert!(!network.graph.tensors()["layer1.0.bn1.running_mean"].trained);
}

#[test]
fn both_formats_have_the_same_tensors() {
    for name in NETWORKS {
        let (pt2, onnx) = (read(&format!("{name}.pt2")), read(&format!("{name}.onnx")));
        let weights = |network: &Imported| {
            let trained = network.graph.tensors().iter().filter(|(_, spec)| spec.trained && spec.shape.len() > 1);
            trained.map(|(name, spec)| (name.clone(), spec.shape.clone())).collect::<Vec<_>>()
        };
        assert_eq!(weights(&pt2), weights(&onnx), "{name}");
    }
}

#[test]
fn epsilon_and_momentum_are_those_of_each_layer() {
    for file in ["inverted.pt2", "inverted.onnx"] {
        let network = read(file);
        let norms = network.graph.nodes().iter().filter_map(|node| match &node.op {
            ssdkd_graph::Op::BatchNorm(norm) => Some((norm.eps, norm.momentum)),
            _ => None,
        });
        let norms = norms.collect::<Vec<_>>();
        assert!(
            norms.len() == 4 && norms.iter().all(|&(eps, momentum)| eps == 1e-3 && (momentum - 0.01).abs() < 1e-6),
            "{file} {norms:?}"
        );
    }
}

#[test]
fn texts_that_come_along_are_returned_as_they_are() {
    let network = read("unet.pt2");
    let text = String::from_utf8(network.extra["preprocessing.json"].clone()).unwrap();
    assert_eq!(text, r#"{"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}"#);
    assert!(network.producer.starts_with("PyTorch 2."), "{}", network.producer);
}

#[test]
fn a_network_without_its_norms_says_why() {
    let network = read("folded.onnx");
    assert!(network.folded.unwrap().contains("FuseBatchNormIntoConv"));
    assert_eq!(read("resnet.onnx").folded, None);
}

#[test]
fn training_follows_the_statistics_of_the_batch() -> Result<()> {
    let Imported { graph, tensors, .. } = read("resnet.pt2");
    let expected = values(&golden("resnet.safetensors"))?;
    let variables = tensors.into_iter().map(|(name, tensor)| Ok((name, Var::from_tensor(&tensor)?.into_inner())));
    let executor = Executor::new(graph, variables.collect::<Result<_>>()?, &[]).unwrap();
    let before = executor.tensors()["bn1.running_mean"].copy()?;
    let x = Value::constant(channels_last(&expected["x"])?);
    let run = executor.run(&x, Mode::Train)?;
    let wanted = ((before * 0.9)? + (expected["moment.000"].get(0)? * 0.1)?)?;
    assert!(relative_error(&executor.tensors()["bn1.running_mean"], &wanted)? < TOLERANCE);
    assert_eq!(executor.tensors()["bn1.num_batches_tracked"].to_scalar::<i64>()?, 1);
    let gradients = mean_square(&run.outputs[0])?.backward()?;
    let trained = executor.graph().tensors().values().filter(|spec| spec.trained).count();
    assert_eq!(gradients.len(), trained, "every parameter has a gradient");
    Ok(())
}

#[test]
fn a_pass_that_trains_nothing_changes_nothing() -> Result<()> {
    let executor = executor(read("resnet.pt2"));
    let before = executor.tensors()["bn1.running_mean"].copy()?.to_vec1::<f32>()?;
    let x = Tensor::ones((2, 24, 32, 3), DType::F32, &Device::Cpu)?;
    let run = executor.run(&Value::leaf(&x), Mode::TrainFrozen)?;
    assert_eq!(mean_square(&run.outputs[0])?.backward()?.len(), 1, "only the image has a gradient");
    assert_eq!(executor.tensors()["bn1.running_mean"].to_vec1::<f32>()?, before);
    Ok(())
}

#[test]
fn feature_maps_are_returned_in_order() -> Result<()> {
    for file in ["resnet.pt2", "unet.onnx"] {
        let Imported { graph, tensors, .. } = read(file);
        let nodes = feature_maps(&graph).nodes;
        let shapes = nodes.iter().map(|node| graph.shape(*node)).collect::<Vec<_>>();
        let x = Value::constant(Tensor::ones((2, 24, 32, 3), DType::F32, &Device::Cpu)?);
        let executor = Executor::new(graph, tensors, &nodes).unwrap();
        let (with, without) = (executor.run(&x, Mode::Eval)?, self::executor(read(file)).run(&x, Mode::Eval)?);
        for (map, shape) in with.maps.iter().zip(&shapes) {
            let [height, width] = shape.size();
            assert_eq!(map.dims(), [2, height, width, shape.channels()], "{file}");
        }
        assert_eq!(with.maps.len(), nodes.len());
        let error = relative_error(with.outputs[0].tensor(), without.outputs[0].tensor())?;
        assert!(error < 1e-6, "{file}: asking for maps changes the output by {error:e}");
    }
    Ok(())
}

#[test]
fn images_of_other_sizes_are_computed() -> Result<()> {
    for file in ["resnet.pt2", "inverted.onnx", "unet.onnx"] {
        let executor = executor(read(file));
        let x = Value::constant(Tensor::ones((1, 40, 56, 3), DType::F32, &Device::Cpu)?);
        let output = executor.run(&x, Mode::Eval)?.outputs[0].dims().to_vec();
        let wanted = if file == "unet.onnx" { vec![1, 40, 56, 4] } else { vec![1, output[1]] };
        assert_eq!(output, wanted, "{file}");
    }
    Ok(())
}
