//! Networks that are written and read again compute the same.
//!
//! With `SSDKD_EXPORTED` set to a folder, each case is left there for `tests/golden/check_exported.py`, which computes it in ONNX Runtime and
//! in PyTorch.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Result, Tensor};
use ssdkd_graph::op::{
    Activation, BatchNorm, Conv2d, ConvTranspose2d, Op, PadValue, Pool, PoolKind, ResizeMethod, ResizeTo,
};
use ssdkd_graph::write::{
    Normalization, OnnxTexts, PythonTexts, to_onnx, to_python, with_folded_norms, with_normalization,
};
use ssdkd_graph::{Executor, Graph, GraphError, Imported, Mode, NodeId, parse};
use ssdkd_ops::Value;

use crate::common::{NETWORKS, read, relative_error};

const TOLERANCE: f64 = 1e-5;

/// A network under construction, with formula weights.
struct Net {
    graph: Graph,
    tensors: BTreeMap<String, Tensor>,
    last: NodeId,
}

/// Numbers in [-1, 1) that only depend on `seed`.
fn numbers(seed: usize, shape: &[usize]) -> Result<Tensor> {
    let number = |at: usize| ((at * 2_654_435 + seed * 40_503 + 12_345) * 7_919 % 100_003) as f32 / 50_001.5 - 1.0;
    let count = shape.iter().product::<usize>();
    Tensor::from_vec((0..count).map(number).collect::<Vec<_>>(), shape, &Device::Cpu)
}

impl Net {
    /// A network whose first node is a convolution, so that values have signs and sizes.
    fn new(channels: usize, size: [usize; 2]) -> Self {
        let graph = Graph::new("image", [3, size[0], size[1]]).unwrap();
        let last = graph.ids().next().unwrap();
        let mut net = Self { graph, tensors: BTreeMap::new(), last };
        net.tensor("stem.weight", &[channels, 3, 3, 3], 0.5, 0.0);
        net.push(Op::Conv2d(Conv2d::new("stem.weight", 1, 1)));
        net
    }

    fn tensor(&mut self, name: &str, shape: &[usize], scale: f64, shift: f64) -> String {
        self.graph.declare(name, shape, true).unwrap();
        let tensor = numbers(self.tensors.len() + 1, shape).and_then(|tensor| tensor.affine(scale, shift));
        self.tensors.insert(name.into(), tensor.unwrap());
        name.into()
    }

    fn push(&mut self, op: Op) -> NodeId {
        self.push_on(op, &[self.last])
    }

    fn push_on(&mut self, op: Op, inputs: &[NodeId]) -> NodeId {
        let name = format!("node{}.{}", self.graph.nodes().len(), op.kind());
        self.last = self.graph.push(&name, op, inputs).unwrap();
        self.last
    }

    fn norm(&mut self, prefix: &str, channels: usize) -> Op {
        let norm = BatchNorm { eps: 1e-3, momentum: 0.01, ..BatchNorm::new(prefix) };
        for (name, scale, shift) in [
            (&norm.weight, 0.3, 1.0),
            (&norm.bias, 0.2, 0.0),
            (&norm.running_mean, 0.2, 0.0),
            (&norm.running_var, 0.4, 1.0),
        ] {
            self.tensor(name, &[channels], scale, shift);
        }
        self.graph.declare(&norm.num_batches_tracked, &[], false).unwrap();
        self.tensors.insert(norm.num_batches_tracked.clone(), Tensor::zeros((), DType::I64, &Device::Cpu).unwrap());
        Op::BatchNorm(norm)
    }

    fn finish(mut self) -> Network {
        self.graph.set_outputs(&[self.last]).unwrap();
        self.graph.check().unwrap();
        (self.graph, self.tensors)
    }
}

type Network = ssdkd_graph::write::Network;

/// The stem of eight channels and one more node.
fn with(size: [usize; 2], op: Op) -> Network {
    let mut net = Net::new(8, size);
    net.push(op);
    net.finish()
}

fn activations() -> Vec<(String, Network)> {
    let all = [
        Activation::Relu,
        Activation::RELU6,
        Activation::Clip { min: -0.25, max: 0.5 },
        Activation::LeakyRelu { slope: 0.1 },
        Activation::Sigmoid,
        Activation::HARD_SIGMOID,
        Activation::HardSigmoid { alpha: 0.3, beta: 0.4 },
        Activation::HardSwish,
        Activation::Silu,
    ];
    let name = |at: usize, activation: &Activation| format!("activation-{at}-{}", activation.kind());
    let mut cases = all
        .into_iter()
        .enumerate()
        .map(|(at, activation)| (name(at, &activation), with([6, 5], Op::Activation(activation))))
        .collect::<Vec<_>>();
    for (what, slopes) in [("one", 1), ("each", 8)] {
        let mut net = Net::new(8, [6, 5]);
        let weight = net.tensor("act.weight", &[slopes], 0.5, 0.1);
        net.push(Op::Activation(Activation::Prelu { weight }));
        cases.push((format!("prelu-{what}"), net.finish()));
    }
    cases
}

fn convolutions() -> Vec<(String, Network)> {
    let mut cases = Vec::new();
    let conv = |weight: &str| Conv2d::new(weight, 1, 0);
    for (name, shape, change) in [
        ("strides", [6, 8, 3, 2], Conv2d { stride: [2, 3], padding: [1, 0, 1, 0], ..conv("c.weight") }),
        ("sides", [6, 8, 3, 3], Conv2d { stride: [2, 2], padding: [0, 1, 2, 0], ..conv("c.weight") }),
        ("groups", [6, 4, 3, 3], Conv2d { groups: 2, dilation: [2, 1], padding: [2; 4], ..conv("c.weight") }),
        ("depthwise", [8, 1, 3, 3], Conv2d { groups: 8, padding: [1; 4], ..conv("c.weight") }),
        ("bias", [6, 8, 1, 1], Conv2d { bias: Some("c.bias".into()), ..conv("c.weight") }),
        ("odd-names", [6, 8, 1, 1], Conv2d { bias: Some("c.b_0".into()), ..conv("c.w_0") }),
    ] {
        let mut net = Net::new(8, [9, 12]);
        net.tensor(&change.weight, &shape, 0.3, 0.0);
        if let Some(bias) = &change.bias {
            net.tensor(bias, &shape[..1], 0.3, 0.0);
        }
        net.push(Op::Conv2d(change));
        cases.push((format!("conv-{name}"), net.finish()));
    }
    let transposed = ConvTranspose2d {
        weight: "t.weight".into(),
        bias: None,
        stride: [2, 2],
        padding: [1; 4],
        output_padding: [1, 1],
        dilation: [1, 1],
        groups: 1,
    };
    for (name, shape, change) in [
        ("twice", [8, 5, 3, 3], transposed.clone()),
        (
            "sides",
            [8, 5, 3, 3],
            ConvTranspose2d { padding: [0, 1, 1, 0], output_padding: [0, 0], ..transposed.clone() },
        ),
        (
            "groups",
            [8, 3, 2, 2],
            ConvTranspose2d { groups: 2, padding: [0; 4], output_padding: [0, 0], ..transposed.clone() },
        ),
        ("bias", [8, 5, 3, 3], ConvTranspose2d { bias: Some("t.bias".into()), ..transposed }),
    ] {
        let mut net = Net::new(8, [5, 6]);
        net.tensor(&change.weight, &shape, 0.3, 0.0);
        if let Some(bias) = &change.bias {
            net.tensor(bias, &[shape[1] * change.groups], 0.3, 0.0);
        }
        net.push(Op::ConvTranspose2d(change));
        cases.push((format!("transposed-{name}"), net.finish()));
    }
    cases
}

fn poolings() -> Vec<(String, Network)> {
    let mut cases = Vec::new();
    for (name, size, pool) in [
        ("even", [8, 8], Pool::new(2, 2, 0)),
        ("padded", [8, 9], Pool::new(3, 2, 1)),
        ("ceil", [8, 7], Pool { ceil_mode: true, ..Pool::new(3, 2, 0) }),
        ("ceil-padded", [8, 7], Pool { ceil_mode: true, ..Pool::new(3, 2, 1) }),
        ("ceil-left-out", [4, 4], Pool { ceil_mode: true, ..Pool::new(2, 3, 1) }),
        ("sides", [8, 8], Pool { padding: [0, 1, 2, 0], ..Pool::new(3, 2, 0) }),
        ("ceil-sides", [9, 8], Pool { padding: [0, 1, 1, 0], ceil_mode: true, ..Pool::new(3, 3, 0) }),
        ("wide", [8, 9], Pool { kernel: [2, 3], stride: [1, 2], ..Pool::new(1, 1, 0) }),
    ] {
        cases.push((format!("max-{name}"), with(size, Op::MaxPool(pool))));
        for count_padding in [true, false] {
            let counted = if count_padding { "counted" } else { "not-counted" };
            cases.push((format!("average-{name}-{counted}"), with(size, Op::AvgPool { pool, count_padding })));
        }
    }
    let dilated = Pool { dilation: [2, 1], ..Pool::new(2, 1, 0) };
    cases.push(("max-dilated".into(), with([8, 8], Op::MaxPool(dilated))));
    for (name, size, to) in [("one", [5, 6], [1, 1]), ("whole", [4, 6], [2, 3])] {
        for kind in [PoolKind::Average, PoolKind::Max] {
            let what = if kind == PoolKind::Max { "max" } else { "average" };
            cases.push((format!("adaptive-{name}-{what}"), with(size, Op::AdaptivePool { kind, size: to })));
        }
    }
    for (name, to) in [("uneven", [3, 4]), ("larger", [7, 7]), ("row", [1, 4])] {
        cases.push((format!("adaptive-{name}"), with([5, 6], Op::AdaptivePool { kind: PoolKind::Average, size: to })));
    }
    cases
}

fn resizes() -> Vec<(String, Network)> {
    let (half, corners) =
        (ResizeMethod::Bilinear { align_corners: false }, ResizeMethod::Bilinear { align_corners: true });
    let mut cases = Vec::new();
    for (method, what) in [(ResizeMethod::Nearest, "nearest"), (half, "bilinear"), (corners, "corners")] {
        for (name, size) in [
            ("twice", ResizeTo::Factor([2.0, 2.0])),
            ("larger", ResizeTo::Fixed([7, 11])),
            ("smaller", ResizeTo::Fixed([2, 1])),
            ("one-side", ResizeTo::Fixed([12, 5])),
        ] {
            cases.push((format!("resize-{what}-{name}"), with([4, 5], Op::Resize { size, method })));
        }
    }
    let mut net = Net::new(8, [9, 7]);
    let large = net.last;
    net.push(Op::MaxPool(Pool::new(3, 2, 1)));
    let like = net.push_on(Op::Resize { size: ResizeTo::Like, method: half }, &[net.last, large]);
    net.push_on(Op::Concat, &[large, like]);
    cases.push(("resize-like".into(), net.finish()));
    cases
}

fn structures() -> Vec<(String, Network)> {
    let mut cases = vec![
        ("slice".to_string(), with([4, 5], Op::SliceChannels { start: 2, end: 7 })),
        ("shuffle".into(), with([4, 5], Op::ChannelShuffle { groups: 4 })),
        ("subsample".into(), with([7, 5], Op::SubsamplePad { stride: 2, before: 3, after: 3 })),
        ("subsample-only".into(), with([7, 5], Op::SubsamplePad { stride: 3, before: 0, after: 0 })),
        ("pad-channels".into(), with([4, 5], Op::SubsamplePad { stride: 1, before: 2, after: 2 })),
    ];
    let mut gated = Net::new(8, [4, 5]);
    let x = gated.last;
    gated.push(Op::AdaptivePool { kind: PoolKind::Average, size: [1, 1] });
    gated.push(Op::Activation(Activation::HARD_SIGMOID));
    let product = gated.push_on(Op::Mul, &[gated.last, x]);
    gated.push_on(Op::Add, &[product, x]);
    cases.push(("gated".into(), gated.finish()));

    for (name, has_scale, has_shift) in [("both", true, true), ("scale", true, false), ("shift", false, true)] {
        let mut net = Net::new(8, [4, 5]);
        let scale = has_scale.then(|| net.tensor("a.scale", &[8], 0.5, 1.0));
        let shift = has_shift.then(|| net.tensor("a.shift", &[8], 0.5, 0.0));
        net.push(Op::Affine { scale, shift });
        cases.push((format!("affine-{name}"), net.finish()));
    }

    let mut residual = Net::new(8, [6, 6]);
    let first = residual.norm("bn1", 8);
    residual.push(first);
    let shortcut = residual.push(Op::Activation(Activation::Relu));
    residual.tensor("conv2.weight", &[8, 8, 3, 3], 0.2, 0.0);
    residual.push(Op::Conv2d(Conv2d::new("conv2.weight", 1, 1)));
    let second = residual.norm("bn2", 8);
    let branch = residual.push(second);
    residual.push_on(Op::Add, &[branch, shortcut]);
    residual.push(Op::Activation(Activation::Relu));
    residual.push(Op::AdaptivePool { kind: PoolKind::Average, size: [2, 2] });
    residual.push(Op::Flatten);
    let weight = residual.tensor("fc1.weight", &[6, 32], 0.2, 0.0);
    residual.push(Op::Linear { weight, bias: None });
    let rows = residual.norm("bn3", 6);
    residual.push(rows);
    residual.push(Op::Activation(Activation::HardSwish));
    let (weight, bias) =
        (residual.tensor("fc2.weight", &[12, 6], 0.3, 0.0), residual.tensor("fc2.bias", &[12], 0.3, 0.0));
    residual.push(Op::Linear { weight, bias: Some(bias) });
    residual.push(Op::Unflatten { channels: 3, height: 2, width: 2 });
    cases.push(("residual".into(), residual.finish()));

    // Two nodes with the same weights, at another stride.
    let mut shared = Net::new(8, [6, 6]);
    shared.tensor("c.weight", &[8, 8, 3, 3], 0.2, 0.0);
    let x = shared.last;
    let a = shared.push_on(Op::Conv2d(Conv2d::new("c.weight", 1, 1)), &[x]);
    shared.push_on(Op::Conv2d(Conv2d::new("c.weight", 1, 1)), &[a]);
    shared.push(Op::Conv2d(Conv2d::new("c.weight", 2, 1)));
    cases.push(("shared".into(), shared.finish()));

    // Layers below other layers, in either order.
    let mut nested = Net::new(8, [6, 6]);
    for name in ["a.b.weight", "a.weight", "a.b.c.weight"] {
        nested.tensor(name, &[8, 8, 1, 1], 0.3, 0.0);
        nested.push(Op::Conv2d(Conv2d::new(name, 1, 0)));
    }
    cases.push(("nested".into(), nested.finish()));
    cases.push(("hostile".into(), hostile()));
    cases
}

/// Names that would be code, or steer a terminal, if anything took them for more than names.
const HOSTILE: [&str; 9] = [
    "\"); import os; os.system(\"x\")#",
    "'''\"\"\"\nimport os",
    "a\\",
    "<script>alert(1)</script>",
    "\u{1b}[31mred\u{1b}[0m",
    "$(touch x)`touch x`",
    "\u{202e}\u{2028}\u{0}\u{7f}",
    "forward.weight",
    "..weight",
];

/// A chain of convolutions whose weights and nodes have hostile names.
fn hostile() -> Network {
    let mut net = Net::new(4, [5, 5]);
    for name in HOSTILE {
        net.tensor(name, &[4, 4, 1, 1], 0.6, 0.1);
        let op = Op::Conv2d(Conv2d::new(name, 1, 0));
        net.last = net.graph.push(&format!("node {name}"), op, &[net.last]).unwrap();
    }
    net.finish()
}

fn texts() -> PythonTexts {
    PythonTexts {
        weights: "model.safetensors".into(),
        class_names: HOSTILE.map(String::from).to_vec(),
        source: HOSTILE.concat(),
        license: HOSTILE[0].into(),
        range: [0.0, 255.0],
        mean: vec![103.5, 116.25, 123.75],
        std: vec![57.0, 57.5, 58.25],
        swaps_red_and_blue: true,
    }
}

/// Leaves a case for Python. Without logits only ONNX Runtime and PyTorch are compared with each other.
fn leave(name: &str, (graph, tensors): &Network, onnx: &[u8], mut io: BTreeMap<String, Tensor>) -> Result<()> {
    let Some(folder) = std::env::var_os("SSDKD_EXPORTED") else { return Ok(()) };
    let folder = Path::new(&folder).join(name);
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("model.onnx"), onnx)?;
    std::fs::write(folder.join("model.py"), to_python(graph, &texts()).unwrap())?;
    candle_core::safetensors::save(&tensors.clone().into_iter().collect(), folder.join("model.safetensors"))?;
    for tensor in io.values_mut().filter(|tensor| tensor.rank() == 4) {
        *tensor = tensor.permute((0, 3, 1, 2))?.contiguous()?;
    }
    candle_core::safetensors::save(&io.into_iter().collect(), folder.join("io.safetensors"))
}

fn images(graph: &Graph, count: usize) -> Result<Tensor> {
    let [channels, height, width] = graph.input();
    numbers(count, &[count, height, width, channels])
}

fn executor((graph, tensors): Network) -> Executor {
    Executor::new(graph, tensors, &[]).unwrap_or_else(|error| panic!("{error}"))
}

fn written(name: &str, (graph, tensors): &Network) -> Vec<u8> {
    to_onnx(graph, tensors, &OnnxTexts::default()).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn read_again(name: &str, bytes: &[u8]) -> Network {
    let Imported { graph, tensors, .. } = parse(bytes, Path::new(name)).unwrap_or_else(|error| panic!("{error}"));
    (graph, tensors)
}

/// Writes a network, reads it again, and compares the logits of one and of three images.
fn check(name: &str, network: &Network) -> Result<()> {
    let bytes = written(name, network);
    let (before, after) = (executor(network.clone()), executor(read_again(name, &bytes)));
    let mut io = BTreeMap::new();
    for count in [1, 3] {
        let x = images(&network.0, count)?;
        let run = |executor: &Executor| executor.run(&Value::constant(x.clone()), Mode::Eval);
        let (wanted, found) = (run(&before)?, run(&after)?);
        let wanted = wanted.outputs[0].tensor();
        let error = relative_error(found.outputs[0].tensor(), wanted)?;
        assert!(error < TOLERANCE, "{name}: {error:e}");
        io.extend([(format!("x{count}"), x.clone()), (format!("y{count}"), wanted.clone())]);
    }
    leave(name, network, &bytes, io)
}

#[track_caller]
fn check_all(cases: Vec<(String, Network)>) {
    for (name, network) in cases {
        check(&name, &network).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn activations_compute_the_same_when_read_again() {
    check_all(activations());
}

#[test]
fn convolutions_compute_the_same_when_read_again() {
    check_all(convolutions());
}

#[test]
fn resizes_compute_the_same_when_read_again() {
    check_all(resizes());
}

#[test]
fn structures_compute_the_same_when_read_again() {
    check_all(structures());
}

#[test]
fn poolings_compute_the_same_when_read_again() {
    let is_dilated = |(name, _): &(String, Network)| name == "max-dilated";
    let (dilated, others): (Vec<_>, Vec<_>) = poolings().into_iter().partition(is_dilated);
    check_all(others);
    assert_eq!(dilated.len(), 1);
    check_node(dilated.into_iter().next().unwrap());
}

/// What this program cannot compute itself is the same node when it is read again.
fn check_node((name, network): (String, Network)) {
    let bytes = written(&name, &network);
    let (graph, _) = read_again(&name, &bytes);
    assert_eq!(graph.nodes().last().unwrap().op, network.0.nodes().last().unwrap().op, "{name}");
    let io = [1, 3].map(|count| (format!("x{count}"), images(&network.0, count).unwrap()));
    leave(&name, &network, &bytes, io.into_iter().collect()).unwrap();
}

#[test]
fn operations_that_are_not_computed_here_are_the_same_when_read_again() {
    for (name, op) in [
        ("softmax", Op::Softmax { log: false }),
        ("log-softmax", Op::Softmax { log: true }),
        ("pad", Op::Pad { sides: [1, 0, 2, 3], value: PadValue::Zero }),
        ("uneven-channels", Op::SubsamplePad { stride: 2, before: 1, after: 2 }),
    ] {
        check_node((name.into(), with([4, 5], op)));
    }
}

#[test]
fn networks_of_files_compute_the_same_when_written_and_read_again() -> Result<()> {
    for name in NETWORKS {
        let Imported { graph, tensors, .. } = read(&format!("{name}.pt2"));
        check(&format!("golden-{name}"), &(graph, tensors))?;
    }
    Ok(())
}

#[test]
fn a_network_keeps_its_norms_and_tensor_names() {
    let network = structures().into_iter().find(|(name, _)| name == "residual").unwrap().1;
    let (graph, tensors) = read_again("residual", &written("residual", &network));
    assert!(tensors.keys().eq(network.1.keys()), "{:?}", tensors.keys());
    let norms = |graph: &Graph| {
        let norm = |node: &ssdkd_graph::Node| match &node.op {
            Op::BatchNorm(norm) => Some((norm.clone(), (norm.momentum * 1e6).round())),
            _ => None,
        };
        graph
            .nodes()
            .iter()
            .filter_map(norm)
            .map(|(norm, momentum)| (norm.running_mean, norm.eps, momentum))
            .collect::<Vec<_>>()
    };
    assert_eq!(norms(&graph), norms(&network.0));
    assert_eq!(norms(&graph).len(), 3);
}

#[test]
fn folded_norms_give_the_same_logits() -> Result<()> {
    let mut cases = structures();
    cases.retain(|(name, _)| name == "residual");
    for name in NETWORKS {
        let Imported { graph, tensors, .. } = read(&format!("{name}.pt2"));
        cases.push((name.into(), (graph, tensors)));
    }
    for (name, network) in cases {
        let (graph, tensors) = with_folded_norms(&network.0, &network.1).unwrap();
        let norms = graph.nodes().iter().filter(|node| matches!(node.op, Op::BatchNorm(_))).count();
        // A normalization before the layers has no layer that it could be part of.
        let before_layers = match name.as_str() {
            "shuffle" => 1,
            "dense" => 4,
            _ => 0,
        };
        assert!(norms <= before_layers, "{name}: {norms} norms are left");
        let x = Value::constant(images(&graph, 2)?);
        let run = |network: Network| executor(network).run(&x, Mode::Eval);
        let wanted = run(network)?;
        let error =
            relative_error(run((graph.clone(), tensors.clone()))?.outputs[0].tensor(), wanted.outputs[0].tensor())?;
        assert!(error < TOLERANCE, "{name}: {error:e}");
        check(&format!("folded-{name}"), &(graph, tensors))?;
    }
    Ok(())
}

#[test]
fn a_norm_whose_input_is_needed_elsewhere_stays() {
    let mut net = Net::new(8, [4, 4]);
    let stem = net.last;
    let norm = net.norm("bn", 8);
    let normed = net.push(norm);
    net.push_on(Op::Add, &[normed, stem]);
    let (graph, tensors) = net.finish();
    assert_eq!(with_folded_norms(&graph, &tensors).unwrap().0, graph);
}

#[test]
fn normalization_becomes_part_of_the_network() -> Result<()> {
    let (graph, tensors) = with([5, 4], Op::Activation(Activation::Relu));
    let normalization =
        Normalization { swaps_red_and_blue: true, scale: vec![2.0, 3.0, 4.0], shift: vec![-1.0, 0.5, 0.25] };
    let inside = with_normalization(&graph, &tensors, &normalization).unwrap();
    let x = images(&graph, 2)?;
    let parts = [2, 1, 0].map(|channel| x.narrow(3, channel, 1));
    let swapped = Tensor::cat(&parts.into_iter().collect::<Result<Vec<_>>>()?, 3)?;
    let row = |numbers: &[f32]| Tensor::from_slice(numbers, (1, 1, 1, 3), &Device::Cpu);
    let normal = swapped.broadcast_mul(&row(&normalization.scale)?)?.broadcast_add(&row(&normalization.shift)?)?;
    let wanted = executor((graph, tensors)).run(&Value::constant(normal), Mode::Eval)?;
    let found = executor(inside.clone()).run(&Value::constant(x), Mode::Eval)?;
    assert!(relative_error(found.outputs[0].tensor(), wanted.outputs[0].tensor())? < TOLERANCE);
    check("normalized", &inside)
}

#[test]
fn the_same_network_makes_the_same_bytes() {
    let network = structures().into_iter().find(|(name, _)| name == "residual").unwrap().1;
    assert_eq!(written("once", &network), written("again", &network));
    let code = || to_python(&network.0, &texts()).unwrap();
    assert_eq!(code(), code());
}

#[test]
fn metadata_is_read_again() {
    let (graph, tensors) = with([4, 4], Op::Activation(Activation::Relu));
    let texts = OnnxTexts {
        version: "1.2".into(),
        metadata: vec![("class_names".into(), format!("{HOSTILE:?}")), ("source".into(), HOSTILE.concat())],
    };
    let read = parse(&to_onnx(&graph, &tensors, &texts).unwrap(), Path::new("x.onnx")).unwrap();
    assert_eq!(read.extra["source"], HOSTILE.concat().as_bytes());
    assert_eq!(read.producer, "ssdkd 1.2");
}

#[test]
fn what_cannot_be_written_is_refused_by_its_node() {
    let dilated = Pool { dilation: [2, 2], ..Pool::new(2, 1, 0) };
    let uneven = Op::AdaptivePool { kind: PoolKind::Max, size: [3, 4] };
    for (op, part) in [
        (Op::AvgPool { pool: dilated, count_padding: true }, "average pooling with dilation"),
        (uneven, "the largest numbers of 5 by 6 pixels in 3 by 4 windows"),
    ] {
        let (graph, tensors) = with([5, 6], op);
        let error = to_onnx(&graph, &tensors, &OnnxTexts::default()).unwrap_err();
        assert!(matches!(&error, GraphError::Node { node, .. } if node.starts_with("node2")), "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn names_of_files_never_become_code() {
    let (graph, _) = hostile();
    let code = to_python(&graph, &texts()).unwrap();
    assert!(code.bytes().all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte)), "{code}");
    // Without its literals the code has nothing of the names.
    let mut outside = String::new();
    for line in code.replace("\"\"\"", "").lines() {
        let mut rest = line.chars();
        let mut is_inside = false;
        while let Some(character) = rest.next() {
            match character {
                '\\' if is_inside => drop(rest.next()),
                '"' => is_inside = !is_inside,
                character if !is_inside => outside.push(character),
                _ => {}
            }
        }
        assert!(!is_inside, "a literal does not end in its line: {line}");
        outside.push('\n');
    }
    for part in ["os", "script", "touch", "alert"] {
        let words = outside.split(|character: char| !character.is_ascii_alphanumeric()).collect::<Vec<_>>();
        assert!(!words.contains(&part), "{part} is outside of a literal");
    }
}

#[test]
fn weights_that_nodes_share_are_shared_in_the_module() {
    let network = structures().into_iter().find(|(name, _)| name == "shared").unwrap().1;
    let code = to_python(&network.0, &texts()).unwrap();
    let line = "self.get_submodule(\"conv2d_2\").weight = self.get_submodule(\"c\").weight";
    assert!(code.contains(line) && code.matches("nn.Conv2d(8, 8,").count() == 2, "{code}");
}

#[test]
fn layers_have_the_names_of_the_files_tensors() {
    let network = structures().into_iter().find(|(name, _)| name == "residual").unwrap().1;
    let code = to_python(&network.0, &PythonTexts { mean: vec![0.5; 3], std: vec![0.5; 3], ..texts() }).unwrap();
    for line in [
        "RENAMED = {}",
        "place(self, \"conv2\", nn.Conv2d(8, 8, 3, padding=1, bias=False))",
        "place(self, \"bn1\", nn.BatchNorm2d(8, eps=0.001, momentum=0.01))",
        "place(self, \"bn3\", nn.BatchNorm1d(6, eps=0.001, momentum=0.01))",
        "place(self, \"fc2\", nn.Linear(6, 12))",
        "x1 = layer(\"stem\")(images)",
    ] {
        assert!(code.contains(line), "{line} is missing in\n{code}");
    }
}
