//! Feature maps, outputs, steps and groups of channels.

use ssdkd_graph::fuse::plan;
use ssdkd_graph::op::{Activation, Conv2d, Op, ResizeMethod, ResizeTo};
use ssdkd_graph::{CutRule, Graph, GraphError, feature_maps};

use crate::common::read;

fn names(graph: &Graph, nodes: &[ssdkd_graph::NodeId]) -> Vec<String> {
    nodes.iter().map(|node| graph.node(*node).name.clone()).collect()
}

#[test]
fn maps_of_a_residual_network_are_its_blocks() {
    let graph = read("resnet.pt2").graph;
    let maps = feature_maps(&graph);
    assert_eq!(maps.rule, CutRule::Bottlenecks);
    let shapes = maps.nodes.iter().map(|node| graph.shape(*node).to_string()).collect::<Vec<_>>();
    // After the stem and after each block.
    assert_eq!(shapes, ["[batch, 8, 6, 8]", "[batch, 8, 6, 8]", "[batch, 8, 6, 8]", "[batch, 12, 3, 4]"]);
    let kinds = maps.nodes.iter().map(|node| graph.node(*node).op.kind()).collect::<Vec<_>>();
    assert_eq!(kinds, ["max_pool", "relu", "relu", "relu"]);
}

#[test]
fn maps_of_a_network_with_long_connections_are_its_resolutions() {
    let graph = read("unet.pt2").graph;
    let maps = feature_maps(&graph);
    assert_eq!(maps.rule, CutRule::Resolutions, "{:?}", names(&graph, &maps.nodes));
    let sizes = maps.nodes.iter().map(|node| graph.shape(*node).size()).collect::<Vec<_>>();
    assert_eq!(sizes[..3], [[24, 32], [12, 16], [6, 8]], "the way down");
    assert!(sizes[3..].contains(&[12, 16]) && sizes[3..].contains(&[24, 32]), "the way up: {sizes:?}");
}

#[test]
fn a_size_that_is_looked_up_is_no_connection() -> Result<(), GraphError> {
    let mut graph = Graph::new("x", [3, 32, 32])?;
    graph.declare("w", &[3, 3, 3, 3], true)?;
    let x = graph.find("x").unwrap();
    let mut last = x;
    for index in 0..5 {
        let conv = graph.push(&format!("conv{index}"), Op::Conv2d(Conv2d::new("w", 1, 1)), &[last])?;
        last = graph.push(&format!("relu{index}"), Op::Activation(Activation::Relu), &[conv])?;
    }
    let resize = Op::Resize { size: ResizeTo::Like, method: ResizeMethod::Nearest };
    let resized = graph.push("resized", resize, &[last, x])?;
    graph.set_outputs(&[resized])?;
    let maps = feature_maps(&graph);
    assert_eq!(names(&graph, &maps.nodes), ["relu0", "relu1", "relu2", "relu3", "relu4"]);
    Ok(())
}

#[test]
fn a_block_is_one_step() {
    let graph = read("resnet.pt2").graph;
    let steps = plan(&graph, &[]);
    let full = steps.iter().filter(|step| {
        step.convolution.is_some() && step.norm.is_some() && step.residual.is_some() && step.activation.is_some()
    });
    assert_eq!(full.count(), 3, "one for each block");
    assert_eq!(steps.len(), 12, "{steps:?}");
    let kept = graph.find("layer1.0.bn2").unwrap();
    assert!(plan(&graph, &[kept]).iter().any(|step| step.output() == kept), "what is asked for is a result");
}

#[test]
fn every_step_has_its_inputs_by_then() {
    for name in crate::common::NETWORKS {
        let graph = read(&format!("{name}.onnx")).graph;
        let mut there = std::collections::HashSet::from([graph.ids().next().unwrap()]);
        for step in plan(&graph, &[]) {
            for input in step.inputs(&graph) {
                assert!(there.contains(&input), "{name}: {} is not there", graph.node(input).name);
            }
            there.insert(step.output());
        }
    }
}

fn classifier() -> Result<Graph, GraphError> {
    let mut graph = Graph::new("x", [3, 8, 8])?;
    graph.declare("w", &[4, 3, 8, 8], true)?;
    let x = graph.find("x").unwrap();
    let conv = graph.push("conv", Op::Conv2d(Conv2d::new("w", 1, 0)), &[x])?;
    let rows = graph.push("rows", Op::Flatten, &[conv])?;
    let softmax = graph.push("softmax", Op::Softmax { log: false }, &[rows])?;
    let relu = graph.push("relu", Op::Activation(Activation::Relu), &[conv])?;
    graph.set_outputs(&[softmax, relu])?;
    Ok(graph)
}

#[test]
fn probabilities_are_removed() -> Result<(), GraphError> {
    let (logits, removed) = classifier()?.without_probabilities()?;
    assert_eq!(removed, ["softmax"]);
    assert_eq!(names(&logits, logits.outputs()), ["rows", "relu"]);
    assert!(logits.find("softmax").is_none());
    Ok(())
}

#[test]
fn one_of_several_outputs_is_chosen() -> Result<(), GraphError> {
    let graph = classifier()?;
    let chosen = graph.with_output(1)?;
    assert_eq!(names(&chosen, chosen.outputs()), ["relu"]);
    assert!(chosen.find("rows").is_none());
    let refused = graph.with_output(2).unwrap_err().to_string();
    assert!(refused.contains("no output 2") && refused.contains("0: softmax [batch, 4]"), "{refused}");
    Ok(())
}

#[test]
fn channels_of_a_residual_network_are_groups() -> Result<(), GraphError> {
    let graph = read("resnet.pt2").graph;
    let groups = graph.channel_groups()?;
    let of = |name: &str| groups.of_node[graph.find(name).unwrap().index()].clone();
    assert_eq!(of("conv1"), of("layer1.0.conv2"), "what is added has equally many channels");
    assert_eq!(of("conv1"), of("layer1.1.conv2"));
    assert_ne!(of("layer1.0.conv1"), of("layer1.0.conv2"), "the inside of a block is its own");
    assert_eq!(of("layer2.0.conv2"), of("layer2.0.downsample.0"));
    let fixed = groups.groups.iter().filter(|group| group.fixed).map(|group| group.channels).collect::<Vec<_>>();
    assert_eq!(fixed, [3, 5], "the image's channels and the classes");
    Ok(())
}

#[test]
fn depthwise_convolutions_and_gates_keep_their_groups() -> Result<(), GraphError> {
    let graph = read("inverted.pt2").graph;
    let groups = graph.channel_groups()?;
    let of = |name: &str| groups.of_node[graph.find(name).unwrap().index()].clone();
    assert_eq!(of("expand.0"), of("depthwise.0"));
    assert_eq!(of("expand.0"), of("excite"));
    assert_ne!(of("squeeze"), of("excite"));
    assert_eq!(of("stem.0"), of("project.0"));
    Ok(())
}

#[test]
fn a_concatenation_has_the_groups_of_its_parts() -> Result<(), GraphError> {
    let graph = read("unet.pt2").graph;
    let groups = graph.channel_groups()?;
    let joined = graph.nodes().iter().position(|node| node.op == Op::Concat).unwrap();
    assert_eq!(groups.of_node[joined].len(), 2);
    Ok(())
}

#[test]
fn channel_shuffles_are_refused() {
    let refused = read("shuffle.pt2").graph.channel_groups().unwrap_err().to_string();
    assert!(refused.contains("cannot be scaled"), "{refused}");
}
