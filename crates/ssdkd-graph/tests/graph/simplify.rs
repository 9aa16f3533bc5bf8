//! What exporters write in several operations becomes one.

use ssdkd_graph::op::{Activation, Conv2d, Op, PadValue, Pool, ResizeTo};
use ssdkd_graph::{Graph, GraphError, simplify};

use crate::common::{NETWORKS, read};

fn kinds(graph: &Graph) -> Vec<&'static str> {
    graph.nodes().iter().map(|node| node.op.kind()).collect()
}

#[test]
fn padding_moves_into_what_follows() -> Result<(), GraphError> {
    let mut graph = Graph::new("x", [3, 9, 9])?;
    graph.declare("w", &[4, 3, 3, 3], true)?;
    let x = graph.find("x").unwrap();
    let pad = |value| Op::Pad { sides: [0, 0, 1, 1], value };
    let zeros = graph.push("zeros", pad(PadValue::Zero), &[x])?;
    let conv = graph.push("conv", Op::Conv2d(Conv2d::new("w", 2, 0)), &[zeros])?;
    let infinite = graph.push("infinite", pad(PadValue::NegativeInfinity), &[conv])?;
    let pool = graph.push("pool", Op::MaxPool(Pool::new(2, 2, 0)), &[infinite])?;
    let wrong = graph.push("wrong", pad(PadValue::Zero), &[pool])?;
    let kept = graph.push("kept", Op::MaxPool(Pool::new(2, 1, 0)), &[wrong])?;
    graph.set_outputs(&[kept])?;
    let simple = simplify(&graph)?;
    assert_eq!(kinds(&simple), ["input", "conv2d", "max_pool", "pad", "max_pool"]);
    let Op::Conv2d(conv) = &simple.nodes()[1].op else { panic!("no convolution") };
    assert_eq!(conv.padding, [0, 0, 1, 1]);
    Ok(())
}

#[test]
fn gates_of_their_own_input_are_activations() -> Result<(), GraphError> {
    let mut graph = Graph::new("x", [3, 9, 9])?;
    let x = graph.find("x").unwrap();
    let sigmoid = graph.push("sigmoid", Op::Activation(Activation::Sigmoid), &[x])?;
    let silu = graph.push("silu", Op::Mul, &[x, sigmoid])?;
    let hard = graph.push("hard", Op::Activation(Activation::HARD_SIGMOID), &[silu])?;
    let swish = graph.push("swish", Op::Mul, &[hard, silu])?;
    graph.set_outputs(&[swish])?;
    assert_eq!(kinds(&simplify(&graph)?), ["input", "silu", "hard_swish"]);
    Ok(())
}

#[test]
fn what_no_output_needs_is_dropped() -> Result<(), GraphError> {
    let mut graph = Graph::new("x", [3, 9, 9])?;
    graph.declare("w", &[4, 3, 3, 3], true)?;
    let x = graph.find("x").unwrap();
    graph.push("unused", Op::Conv2d(Conv2d::new("w", 1, 0)), &[x])?;
    let relu = graph.push("relu", Op::Activation(Activation::Relu), &[x])?;
    graph.set_outputs(&[relu])?;
    let simple = simplify(&graph)?;
    assert_eq!(kinds(&simple), ["input", "relu"]);
    assert!(simple.tensors().is_empty() && simple.check().is_ok());
    Ok(())
}

#[test]
fn both_formats_become_the_same_operations() {
    for name in NETWORKS {
        let count = |kind: &str| {
            let mut kinds = kinds(&read(&format!("{name}.{kind}")).graph);
            // ONNX has no adaptive pooling: the exporter writes one with windows of a fixed size.
            kinds.iter_mut().filter(|kind| **kind == "adaptive_pool").for_each(|kind| *kind = "avg_pool");
            kinds.sort_unstable();
            kinds
        };
        assert_eq!(count("pt2"), count("onnx"), "{name}");
    }
}

#[test]
fn sizes_that_were_exported_become_relative() {
    let graph = read("unet.pt2").graph;
    let sizes = graph.nodes().iter().filter_map(|node| match node.op {
        Op::Resize { size, .. } => Some(size),
        _ => None,
    });
    let sizes = sizes.collect::<Vec<_>>();
    assert_eq!(sizes.last(), Some(&ResizeTo::Like), "the last one is as large as the image: {sizes:?}");
    assert!(sizes.contains(&ResizeTo::Fixed([12, 16])), "nothing else has this size: {sizes:?}");
}
