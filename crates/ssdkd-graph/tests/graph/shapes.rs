//! Shapes and costs, and nodes that do not fit.

use ssdkd_graph::op::{Activation, BatchNorm, Conv2d, Op, Pool, PoolKind, ResizeMethod, ResizeTo};
use ssdkd_graph::{Graph, GraphError, Shape};

use crate::common::read;

fn graph() -> Graph {
    let mut graph = Graph::new("x", [3, 32, 48]).unwrap();
    graph.declare("conv.weight", &[8, 3, 3, 3], true).unwrap();
    graph
}

#[test]
fn sizes_follow_every_operation() -> Result<(), GraphError> {
    let mut graph = graph();
    let x = graph.ids().next().unwrap();
    let map = |channels, height, width| Shape::Map { channels, height, width };
    let conv = graph.push("conv", Op::Conv2d(Conv2d::new("conv.weight", 2, 1)), &[x])?;
    let same = Conv2d { padding: [0, 0, 1, 1], ..Conv2d::new("conv.weight", 2, 0) };
    let same = graph.push("same", Op::Conv2d(same), &[x])?;
    let pool = Pool { ceil_mode: true, ..Pool::new(3, 2, 0) };
    let ceil = graph.push("ceil", Op::MaxPool(pool), &[conv])?;
    let global = graph.push("global", Op::AdaptivePool { kind: PoolKind::Average, size: [1, 1] }, &[conv])?;
    let gated = graph.push("gated", Op::Mul, &[global, conv])?;
    let bilinear = ResizeMethod::Bilinear { align_corners: false };
    let like = graph.push("like", Op::Resize { size: ResizeTo::Like, method: bilinear }, &[ceil, x])?;
    let joined = graph.push("joined", Op::Concat, &[like, x])?;
    let flat = graph.push("flat", Op::Flatten, &[conv])?;
    for (node, shape) in [
        (conv, map(8, 16, 24)),
        (same, map(8, 16, 24)),
        (ceil, map(8, 8, 12)),
        (global, map(8, 1, 1)),
        (gated, map(8, 16, 24)),
        (joined, map(11, 32, 48)),
        (flat, Shape::Rows { features: 8 * 16 * 24 }),
    ] {
        assert_eq!(graph.shape(node), shape, "{}", graph.node(node).name);
    }
    Ok(())
}

#[test]
fn other_image_sizes_have_other_shapes() -> Result<(), GraphError> {
    let graph = read("unet.pt2").graph;
    let output = graph.outputs()[0];
    assert_eq!(graph.shapes_at(64, 48)?[output.index()], Shape::Map { channels: 4, height: 64, width: 48 });
    assert_eq!(graph.resized(64, 48)?.shape(output).size(), [64, 48]);
    let refused = read("resnet.pt2").graph.shapes_at(0, 48).unwrap_err().to_string();
    assert!(refused.contains("empty") && refused.contains("0 by 48"), "{refused}");
    Ok(())
}

#[test]
fn costs_are_those_of_the_layers() {
    let graph = read("resnet.pt2").graph;
    let stem = graph.find("conv1").unwrap();
    let cost = graph.costs()[stem.index()];
    assert_eq!((cost.parameters, cost.multiply_adds), (8 * 3 * 49, 8 * 3 * 49 * 12 * 16));
    let fc = graph.find("fc").unwrap();
    assert_eq!(graph.costs()[fc.index()].multiply_adds, 12 * 5);
    // As PyTorch counts parameters.
    assert_eq!(graph.parameters(), 5_953);
}

#[test]
fn a_node_that_does_not_fit_is_named() {
    let mut graph = graph();
    let x = graph.ids().next().unwrap();
    let refused = |graph: &mut Graph, op: Op| graph.push("n", op, &[x]).unwrap_err().to_string();
    let norm = Op::BatchNorm(BatchNorm::new("bn"));
    for (op, part) in [
        (norm, "bn.weight is missing"),
        (Op::Conv2d(Conv2d { groups: 3, ..Conv2d::new("conv.weight", 1, 1) }), "do not split"),
        (Op::Conv2d(Conv2d::new("conv.weight", 0, 1)), "is 0"),
        (Op::Conv2d(Conv2d { dilation: [99, 1], ..Conv2d::new("conv.weight", 1, 1) }), "does not fit"),
        (Op::Conv2d(Conv2d { padding: [usize::MAX; 4], ..Conv2d::new("conv.weight", 1, 1) }), "too large"),
        (Op::Linear { weight: "conv.weight".into(), bias: None }, "takes rows"),
        (Op::Add, "1 inputs instead of 2"),
        (Op::SliceChannels { start: 2, end: 9 }, "not among"),
        (Op::Activation(Activation::Clip { min: 6.0, max: 0.0 }), "interval"),
        (Op::Resize { size: ResizeTo::Factor([f64::INFINITY; 2]), method: ResizeMethod::Nearest }, "factors"),
        (Op::Resize { size: ResizeTo::Fixed([usize::MAX; 2]), method: ResizeMethod::Nearest }, "too large"),
        (Op::Input { channels: 3, height: 1, width: 1 }, "one input"),
    ] {
        let error = refused(&mut graph, op);
        assert!(error.starts_with("the node n (") && error.contains(part), "{part:?} is not in {error:?}");
    }
    assert!(graph.push("x", Op::Flatten, &[x]).unwrap_err().to_string().contains("same name"));
}
