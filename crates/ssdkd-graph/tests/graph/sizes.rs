//! The same network at another size: what an export bakes in is recomputed.

use ssdkd_graph::op::{Conv2d, Op, Pool, ResizeMethod, ResizeTo};
use ssdkd_graph::{Graph, GraphError, NodeId};

use crate::common::read;

/// A network whose layers each take the one before.
struct Chain {
    graph: Graph,
    last: NodeId,
}

impl Chain {
    fn new(height: usize, width: usize) -> Self {
        let graph = Graph::new("image", [3, height, width]).unwrap();
        let last = graph.ids().next().unwrap();
        Self { graph, last }
    }

    fn push(&mut self, name: &str, op: Op) {
        self.last = self.graph.push(name, op, &[self.last]).unwrap();
    }

    /// A convolution from 3 to 3 channels.
    fn conv(&mut self, name: &str, kernel: usize, stride: usize, padding: [usize; 4]) {
        let weight = format!("{name}.weight");
        self.graph.declare(&weight, &[3, 3, kernel, kernel], true).unwrap();
        self.push(name, Op::Conv2d(Conv2d { padding, ..Conv2d::new(weight, stride, 0) }));
    }

    fn resize(&mut self, name: &str, size: [usize; 2]) {
        self.push(name, Op::Resize { size: ResizeTo::Fixed(size), method: ResizeMethod::Nearest });
    }

    fn finish(mut self) -> Graph {
        self.graph.set_outputs(&[self.last]).unwrap();
        self.graph
    }
}

fn size_of(graph: &Graph, name: &str) -> [usize; 2] {
    graph.shape(graph.find(name).unwrap()).size()
}

fn padding_of(graph: &Graph, name: &str) -> [usize; 4] {
    match &graph.node(graph.find(name).unwrap()).op {
        Op::Conv2d(conv) => conv.padding,
        Op::MaxPool(pool) => pool.padding,
        other => panic!("{name} is a {}", other.kind()),
    }
}

/// TensorFlow's SAME padding for 224 pixels: the odd pixel is at the bottom and on the right.
fn same() -> Graph {
    let mut net = Chain::new(224, 224);
    net.conv("stem", 3, 2, [0, 0, 1, 1]);
    net.conv("plain", 3, 1, [1, 1, 1, 1]);
    net.push("pool", Op::MaxPool(Pool { padding: [0, 0, 1, 1], ..Pool::new(3, 2, 0) }));
    net.conv("wide", 5, 2, [1, 1, 2, 2]);
    net.conv("point", 1, 2, [0, 0, 0, 0]);
    net.finish()
}

#[test]
fn same_padding_gives_as_many_pixels_as_in_tensorflow() -> Result<(), GraphError> {
    let names = ["stem", "plain", "pool", "wide", "point"];
    for ([height, width], expected) in [
        ([224, 224], [[112, 112], [112, 112], [56, 56], [28, 28], [14, 14]]),
        ([160, 160], [[80, 80], [80, 80], [40, 40], [20, 20], [10, 10]]),
        ([161, 225], [[81, 113], [81, 113], [41, 57], [21, 29], [11, 15]]),
        ([99, 130], [[50, 65], [50, 65], [25, 33], [13, 17], [7, 9]]),
    ] {
        let graph = same().resized(height, width)?;
        assert_eq!(names.map(|name| size_of(&graph, name)), expected, "{height} by {width}");
    }
    Ok(())
}

/// What SAME adds to an odd number of pixels is even, so it is the same on both sides.
#[test]
fn same_padding_follows_whether_sides_are_odd() -> Result<(), GraphError> {
    let graph = same().resized(161, 224)?;
    assert_eq!(padding_of(&graph, "stem"), [1, 0, 1, 1]);
    assert_eq!(padding_of(&graph, "plain"), [1, 1, 1, 1]);
    assert_eq!(padding_of(&graph, "pool"), [1, 0, 1, 1]); // 81 by 112
    assert_eq!(padding_of(&graph, "wide"), [2, 1, 2, 2]); // 41 by 56
    assert_eq!(padding_of(&graph, "point"), [0; 4]);
    // And back again.
    assert_eq!(graph.resized(224, 224)?, same());
    Ok(())
}

#[test]
fn padding_of_pytorch_stays() -> Result<(), GraphError> {
    let mut net = Chain::new(224, 224);
    net.conv("stem", 3, 2, [1; 4]);
    net.conv("wide", 5, 2, [2; 4]);
    let graph = net.finish().resized(161, 100)?;
    assert_eq!((padding_of(&graph, "stem"), padding_of(&graph, "wide")), ([1; 4], [2; 4]));
    assert_eq!((size_of(&graph, "stem"), size_of(&graph, "wide")), ([81, 50], [41, 25]));
    Ok(())
}

/// `F.interpolate(x, size=skip.shape[2:])`, exported.
#[test]
fn a_resize_follows_the_map_that_had_its_size() -> Result<(), GraphError> {
    let mut net = Chain::new(33, 48);
    net.conv("half", 3, 2, [1; 4]);
    net.conv("quarter", 3, 2, [1; 4]);
    net.resize("up", [17, 24]);
    let skip = net.graph.find("half").unwrap();
    let sum = net.graph.push("sum", Op::Add, &[net.last, skip])?;
    net.last = sum;
    net.resize("full", [33, 48]);
    let graph = net.finish();
    for (size, half, quarter) in [([40, 50], [20, 25], [10, 13]), ([31, 31], [16, 16], [8, 8])] {
        let graph = graph.resized(size[0], size[1])?;
        let found = ["half", "quarter", "up", "sum", "full"].map(|name| size_of(&graph, name));
        assert_eq!(found, [half, quarter, half, half, size]);
    }
    Ok(())
}

#[test]
fn a_resize_to_a_size_that_no_map_has_keeps_its_proportion() -> Result<(), GraphError> {
    let mut net = Chain::new(32, 32);
    net.resize("twice", [64, 64]);
    net.conv("conv", 3, 1, [1; 4]);
    let graph = net.finish();
    assert_eq!(size_of(&graph.resized(48, 40)?, "conv"), [96, 80]);

    // Three quarters of 33 pixels are no whole number: the size stays.
    let mut net = Chain::new(32, 32);
    net.resize("three_quarters", [24, 24]);
    let graph = net.finish();
    assert_eq!(size_of(&graph.resized(64, 16)?, "three_quarters"), [48, 12]);
    assert_eq!(size_of(&graph.resized(33, 33)?, "three_quarters"), [24, 24]);
    Ok(())
}

/// `x.view(batch, 3, 16, 16)`, exported.
#[test]
fn a_view_with_baked_in_sizes_is_refused_by_its_name() {
    let mut net = Chain::new(16, 16);
    net.push("flatten", Op::Flatten);
    net.push("decoder.view", Op::Unflatten { channels: 3, height: 16, width: 16 });
    let error = net.finish().resized(24, 16).unwrap_err().to_string();
    let expected = "the node decoder.view (unflatten): 1152 features do not make a map [batch, 3, 16, 16], \
        for images of 24 by 16 pixels";
    assert_eq!(error, expected);
}

#[test]
fn a_layer_of_all_pixels_is_refused_by_its_name() {
    let mut net = Chain::new(16, 16);
    net.push("flatten", Op::Flatten);
    net.graph.declare("fc.weight", &[10, 768], true).unwrap();
    net.push("fc", Op::Linear { weight: "fc.weight".into(), bias: None });
    let error = net.finish().resized(16, 17).unwrap_err().to_string();
    assert!(error.starts_with("the node fc (linear): ") && error.ends_with("for images of 16 by 17 pixels"), "{error}");
}

/// The network of `tests/golden/graph.py` with SAME padding, which PyTorch's exporter writes as padding of its own.
#[test]
fn an_exported_network_with_same_padding_works_at_other_sizes() -> Result<(), GraphError> {
    let graph = read("same.pt2").graph;
    let [_, height, width] = graph.input();
    for (height, width) in [(height + 1, width + 2), (2 * height, width + 3)] {
        let resized = graph.resized(height, width)?;
        assert_eq!(resized.tensors(), graph.tensors());
        assert_eq!(resized.resized(graph.input()[1], graph.input()[2])?, graph);
    }
    Ok(())
}
