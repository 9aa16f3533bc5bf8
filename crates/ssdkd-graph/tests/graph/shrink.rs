//! Smaller copies: which blocks and channels are left, and what is refused.

use ssdkd_graph::op::{Activation, BatchNorm, Conv2d, Op, PoolKind};
use ssdkd_graph::{Cut, Graph, GraphError, NodeId};

fn cut(text: &str) -> Cut {
    text.parse().unwrap()
}

/// A graph under construction.
struct Net(Graph);

impl Net {
    fn new(channels: usize) -> (Self, NodeId) {
        let graph = Graph::new("input", [channels, 8, 8]).unwrap();
        let input = graph.ids().next().unwrap();
        (Self(graph), input)
    }

    fn push(&mut self, name: &str, op: Op, inputs: &[NodeId]) -> NodeId {
        self.0.push(name, op, inputs).unwrap()
    }

    fn conv(&mut self, x: NodeId, name: &str, outputs: usize, groups: usize) -> NodeId {
        let weight = format!("{name}.weight");
        let inputs = self.0.shape(x).channels() / groups;
        self.0.declare(&weight, &[outputs, inputs, 3, 3], true).unwrap();
        self.push(name, Op::Conv2d(Conv2d { groups, ..Conv2d::new(weight, 1, 1) }), &[x])
    }

    fn norm(&mut self, x: NodeId, name: &str) -> NodeId {
        let norm = BatchNorm::new(name);
        let channels = self.0.shape(x).channels();
        for (tensor, trained) in
            [(&norm.weight, true), (&norm.bias, true), (&norm.running_mean, false), (&norm.running_var, false)]
        {
            self.0.declare(tensor, &[channels], trained).unwrap();
        }
        self.0.declare(&norm.num_batches_tracked, &[], false).unwrap();
        self.push(name, Op::BatchNorm(norm), &[x])
    }

    fn relu(&mut self, x: NodeId, name: &str) -> NodeId {
        self.push(name, Op::Activation(Activation::Relu), &[x])
    }

    /// x + f(x) and an activation.
    fn block(&mut self, x: NodeId, name: &str) -> NodeId {
        let channels = self.0.shape(x).channels();
        let f = self.conv(x, &format!("{name}.conv"), channels, 1);
        let f = self.norm(f, &format!("{name}.bn"));
        let sum = self.push(&format!("{name}.add"), Op::Add, &[x, f]);
        self.relu(sum, &format!("{name}.relu"))
    }

    fn head(mut self, x: NodeId) -> Graph {
        let x = self.push("pool", Op::AdaptivePool { kind: PoolKind::Average, size: [1, 1] }, &[x]);
        let x = self.push("flatten", Op::Flatten, &[x]);
        let inputs = self.0.shape(x).channels();
        self.0.declare("fc.weight", &[5, inputs], true).unwrap();
        let x = self.push("fc", Op::Linear { weight: "fc.weight".into(), bias: None }, &[x]);
        self.0.set_outputs(&[x]).unwrap();
        self.0
    }
}

fn shape<'a>(graph: &'a Graph, tensor: &str) -> &'a [usize] {
    &graph.tensors()[tensor].shape
}

/// A stem and four blocks.
fn four_blocks() -> Graph {
    let (mut net, x) = Net::new(3);
    let mut x = net.conv(x, "stem", 32, 1);
    x = net.relu(x, "stem.relu");
    for block in 0..4 {
        x = net.block(x, &format!("blocks.{block}"));
    }
    net.head(x)
}

#[test]
fn half_of_the_blocks_are_the_first_and_the_last_with_new_numbers() {
    let graph = four_blocks();
    let shrunk = graph.shrunk(cut("teacher-blocks*0.5")).unwrap();
    let left = |block: &str| graph.find(&format!("{block}.relu")).and_then(|id| shrunk.nodes[id.index()]);
    assert_eq!(left("blocks.0"), shrunk.graph.find("blocks.0.relu"));
    assert_eq!((left("blocks.1"), left("blocks.2")), (None, None));
    assert_eq!(left("blocks.3"), shrunk.graph.find("blocks.1.relu"));
    assert_eq!(shrunk.tensors["blocks.1.conv.weight"].name, "blocks.3.conv.weight");
    assert_eq!(shrunk.tensors["stem.weight"].name, "stem.weight");
    assert_eq!(shrunk.graph.nodes().len(), graph.nodes().len() - 2 * 4);
    shrunk.graph.check().unwrap();
}

#[test]
fn a_block_whose_inside_is_used_elsewhere_stays() {
    let (mut net, x) = Net::new(3);
    let x = net.conv(x, "stem", 8, 1);
    let inside = net.conv(x, "conv1", 8, 1);
    let f = net.conv(inside, "conv2", 8, 1);
    let sum = net.push("add", Op::Add, &[x, f]);
    let both = net.push("concat", Op::Concat, &[sum, inside]);
    let error = net.head(both).shrunk(cut("teacher-blocks*0.5")).unwrap_err();
    assert!(error.to_string().contains("no residual blocks"), "{error}");
}

#[test]
fn sums_and_depthwise_convolutions_keep_equally_many_channels() {
    let (mut net, x) = Net::new(3);
    let x = net.conv(x, "stem", 32, 1);
    let x = net.conv(x, "depthwise", 32, 32);
    let x = net.block(x, "block");
    let wide = net.conv(x, "wide", 64, 1);
    let both = net.push("concat", Op::Concat, &[x, wide]);
    let last = net.push("slice", Op::SliceChannels { start: 32, end: 96 }, &[both]);
    let half = net.head(last).shrunk(cut("teacher*0.5")).unwrap().graph;
    assert_eq!(shape(&half, "stem.weight"), [16, 3, 3, 3]);
    assert_eq!(shape(&half, "depthwise.weight"), [16, 1, 3, 3]);
    assert_eq!(shape(&half, "block.conv.weight"), [16, 16, 3, 3]);
    assert_eq!(shape(&half, "block.bn.running_var"), [16]);
    assert_eq!(shape(&half, "wide.weight"), [32, 16, 3, 3]);
    assert_eq!(half.node(half.find("slice").unwrap()).op, Op::SliceChannels { start: 16, end: 48 });
    assert_eq!(shape(&half, "fc.weight"), [5, 32]);
}

#[test]
fn channels_are_multiples_of_eight_and_small_groups_stay() {
    for (channels, share, left) in [(32, 0.3, 8), (40, 0.5, 24), (24, 0.1, 8), (6, 0.5, 6), (100, 0.99, 96)] {
        let (mut net, x) = Net::new(3);
        let x = net.conv(x, "stem", channels, 1);
        let graph = net.head(x).shrunk(Cut { width: share, blocks: 1.0 }).unwrap().graph;
        assert_eq!(shape(&graph, "stem.weight")[0], left, "{share} of {channels}");
    }
}

#[test]
fn grouped_convolutions_lose_whole_groups() {
    let (mut net, x) = Net::new(3);
    let x = net.conv(x, "stem", 64, 1);
    let x = net.conv(x, "grouped", 64, 4);
    let shrunk = net.head(x).shrunk(cut("teacher*0.5")).unwrap();
    let conv = shrunk.graph.find("grouped").unwrap();
    assert!(matches!(&shrunk.graph.node(conv).op, Op::Conv2d(Conv2d { groups: 2, .. })));
    assert_eq!(shape(&shrunk.graph, "grouped.weight"), [32, 16, 3, 3]);
    // Channel 50 alone is the largest: its group of sixteen stays, in one piece.
    let kept = shrunk.largest(|name| {
        let shape = if name == "stem.weight" { vec![64, 3, 3, 3] } else { vec![64, 16, 3, 3] };
        let shape = if name == "fc.weight" { vec![5, 64] } else { shape };
        let mut numbers = vec![1.0; shape.iter().product()];
        if name == "stem.weight" {
            numbers[50 * 27..51 * 27].fill(9.0);
        }
        Ok::<_, std::convert::Infallible>((shape, numbers))
    });
    let part = &shrunk.tensors["grouped.weight"];
    let places = shrunk.places(&part.axes[0], &kept.unwrap()).unwrap();
    assert_eq!(places, (0..16).chain(48..64).collect::<Vec<_>>());
}

#[test]
fn a_channel_shuffle_is_refused_by_its_name() {
    let (mut net, x) = Net::new(3);
    let x = net.conv(x, "stem", 32, 1);
    let x = net.push("mix", Op::ChannelShuffle { groups: 2 }, &[x]);
    let error = net.head(x).shrunk(cut("teacher*0.5")).unwrap_err();
    assert!(matches!(&error, GraphError::Node { node, .. } if node == "mix"), "{error}");
    assert!(error.to_string().contains("channel shuffle"), "{error}");
}

#[test]
fn layers_that_share_a_tensor_and_have_other_channels_are_refused() {
    let (mut net, x) = Net::new(32);
    let a = net.conv(x, "a", 32, 1);
    let shared = Op::Conv2d(Conv2d::new("a.weight", 1, 1));
    let b = net.push("b", shared, &[a]);
    let error = net.head(b).shrunk(cut("teacher*0.5")).unwrap_err().to_string();
    assert!(error.contains("shares a tensor with a"), "{error}");
}

#[test]
fn parts_of_flattened_maps_are_refused() {
    let (mut net, x) = Net::new(3);
    let x = net.conv(x, "stem", 16, 1);
    let rows = net.push("rows", Op::Flatten, &[x]);
    let part = net.push("part", Op::SliceChannels { start: 0, end: 16 }, &[rows]);
    net.0.set_outputs(&[part]).unwrap();
    let error = net.0.shrunk(cut("teacher*0.5")).unwrap_err().to_string();
    assert!(error.contains("part") && error.contains("flattened map"), "{error}");
}

#[test]
fn flattened_maps_of_several_sizes_in_one_row_are_refused() {
    let (mut net, x) = Net::new(3);
    let x = net.conv(x, "stem", 16, 1);
    let pooled = net.push("pool", Op::AdaptivePool { kind: PoolKind::Average, size: [1, 1] }, &[x]);
    let rows = [net.push("large", Op::Flatten, &[x]), net.push("small", Op::Flatten, &[pooled])];
    let both = net.push("both", Op::Concat, &rows);
    net.0.set_outputs(&[both]).unwrap();
    let error = net.0.shrunk(cut("teacher*0.5")).unwrap_err().to_string();
    assert!(error.contains("both") && error.contains("several sizes"), "{error}");
}
