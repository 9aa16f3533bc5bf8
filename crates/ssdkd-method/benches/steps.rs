//! Seconds of whole steps: forward passes and training steps of the networks, one iteration of the inversion, one step of
//! the distillation; and of single convolutions, for the comparison with PyTorch.
//!
//! ```text
//! cargo bench --workspace --bench steps [-- SUBSTRING-OF-A-ROW]     a table
//! cargo bench --workspace --bench steps -- --serve                  rows on stdin, one step each; `pytorch.py` drives it
//! ```

use std::io::{BufRead, Write};
use std::time::Instant;

use candle_core::{Device, Result, Tensor, bail};
use ssdkd_method::persistent_generator::PersistentGenerator;
use ssdkd_method::{
    AugmentSettings, DistillSettings, Distiller, Inversion as _, InvertSettings, Modulation, ModulationSettings,
    Position,
};
use ssdkd_nn::random::{stream, uniform_tensor};
use ssdkd_nn::{Architecture, Names, Network, NetworkSpec, Pass, Sgd};
use ssdkd_ops::{self as ops, CachingAllocator, Value};

#[global_allocator]
static ALLOCATOR: CachingAllocator = CachingAllocator::new(4 << 30);

const NETWORKS: [&str; 7] = ["resnet20", "resnet56", "wrn-16-1", "wrn-16-2", "wrn-40-2", "resnet18", "vgg11"];
const BATCHES: [usize; 2] = [128, 256];
/// One 3×3 convolution, `MAPxINxOUT`: the shapes that the networks spend their time on.
const CONVOLUTIONS: [&str; 6] = ["32x16x16", "32x32x32", "32x64x64", "16x64x64", "8x128x128", "4x512x512"];
/// Calls of one convolution in a step: alone it would be too short to time.
const CALLS: usize = 10;
const TEACHER: &str = "wrn-40-2";
const STUDENT: &str = "wrn-16-1";

/// Timed repetitions of each row in the table.
const REPETITIONS: usize = 7;

/// One step of a row.
type Step = Box<dyn FnMut() -> Result<()>>;

fn main() -> Result<()> {
    let arguments = std::env::args().skip(1).filter(|argument| argument != "--bench").collect::<Vec<_>>();
    if arguments.iter().any(|argument| argument == "--serve") {
        return serve();
    }
    let wanted = arguments.first().cloned().unwrap_or_default();
    println!("{:<28} {:>10} {:>10} {:>10} {:>10}", "step", "min s", "median s", "max s", "peak MiB");
    for row in rows().iter().filter(|row| row.contains(&wanted)) {
        let mut step = step(row)?;
        step()?;
        let mut seconds = Vec::new();
        let mut peak = 0;
        for _ in 0..REPETITIONS {
            let (spent, bytes) = timed(&mut step)?;
            seconds.push(spent);
            peak = peak.max(bytes);
        }
        seconds.sort_by(f64::total_cmp);
        let [min, median, max] = [0, REPETITIONS / 2, REPETITIONS - 1].map(|at| seconds[at]);
        println!("{row:<28} {min:>10.4} {median:>10.4} {max:>10.4} {:>10}", peak >> 20);
    }
    Ok(())
}

/// Answers each row on stdin with seconds and peak bytes of one step; `-` forgets the row before.
fn serve() -> Result<()> {
    let mut current: Option<(String, Step)> = None;
    for row in std::io::stdin().lock().lines() {
        let row = row?;
        if row == "-" {
            current = None;
            continue;
        }
        if current.as_ref().is_none_or(|(name, _)| *name != row) {
            drop(current.take()); // its memory first
            let mut fresh = step(&row)?;
            fresh()?;
            current = Some((row.clone(), fresh));
        }
        if let Some((_, step)) = &mut current {
            let (seconds, peak) = timed(step)?;
            println!("{seconds}\t{peak}");
            std::io::stdout().flush()?;
        }
    }
    Ok(())
}

fn timed(step: &mut Step) -> Result<(f64, usize)> {
    ops::reset_peak();
    let start = Instant::now();
    step()?;
    Ok((start.elapsed().as_secs_f64(), ops::peak_bytes()))
}

/// `KIND NETWORK BATCH`, in the order of the table.
fn rows() -> Vec<String> {
    let mut rows = Vec::new();
    for batch in BATCHES {
        for kind in ["forward", "train"] {
            rows.extend(NETWORKS.iter().map(|network| format!("{kind} {network} {batch}")));
        }
        rows.extend(["invert", "distil"].map(|kind| format!("{kind} {TEACHER}/{STUDENT} {batch}")));
    }
    for kind in ["forward", "input", "weight"] {
        rows.extend(CONVOLUTIONS.iter().map(|shape| format!("conv-{kind} {shape} {}", BATCHES[0])));
    }
    rows
}

fn step(row: &str) -> Result<Step> {
    let words = row.split(' ').collect::<Vec<_>>();
    let [kind, network, batch] = words[..] else { bail!("a row reads KIND NETWORK BATCH, not {row:?}") };
    let Ok(batch) = batch.parse::<usize>() else { bail!("{batch:?} is not a batch size") };
    if let Some(direction) = kind.strip_prefix("conv-") {
        return convolution(direction, network, batch);
    }
    let images = random((batch, 32, 32, 3))?;
    match kind {
        "forward" => Ok(forward(build(network)?, images)),
        "train" => train(build(network)?, images),
        "invert" => invert(batch),
        "distil" => distil(images),
        _ => bail!("{kind:?} is not a kind of step"),
    }
}

fn random(shape: (usize, usize, usize, usize)) -> Result<Tensor> {
    uniform_tensor(&mut stream(0, "images", &[]), (0.0, 1.0), shape, &Device::Cpu)
}

/// The output, the input's gradient or the weight's gradient alone, [`CALLS`] times.
fn convolution(direction: &str, shape: &str, batch: usize) -> Result<Step> {
    let sizes = shape.split('x').filter_map(|size| size.parse().ok()).collect::<Vec<usize>>();
    let [size, inputs, outputs] = sizes[..] else { bail!("a convolution reads MAPxINxOUT, not {shape:?}") };
    let (x, weight) = (random((batch, size, size, inputs))?, random((outputs, inputs, 3, 3))?);
    let gradient = random((batch, size, size, outputs))?;
    let spec = ops::Conv2dSpec::new(1, 1);
    let (x, weight) = match direction {
        "forward" => (Value::constant(x), Value::constant(weight)),
        "input" => (Value::leaf(&x), Value::constant(weight)),
        "weight" => (Value::constant(x), Value::leaf(&weight)),
        _ => bail!("{direction:?} is not a direction of a convolution"),
    };
    if direction == "forward" {
        return Ok(Box::new(move || (0..CALLS).try_for_each(|_| ops::conv2d(&x, &weight, None, spec).map(|_| ()))));
    }
    let y = ops::conv2d(&x, &weight, None, spec)?;
    Ok(Box::new(move || (0..CALLS).try_for_each(|_| y.clone().backward_from(gradient.clone()).map(|_| ()))))
}

fn build(architecture: &str) -> Result<Network> {
    let architecture = architecture.parse::<Architecture>().map_err(candle_core::Error::msg)?;
    let names = Names::default();
    let spec =
        NetworkSpec { architecture, names, classes: 10, input: [3, 32, 32], mean: vec![0.5; 3], std: vec![0.25; 3] };
    Network::create(&spec, 0, &Device::Cpu)
}

/// Logits, with running statistics.
fn forward(network: Network, images: Tensor) -> Step {
    let images = Value::constant(images);
    Box::new(move || network.forward(&images, &Pass::eval()).map(|_| ()))
}

/// Cross-entropy, all gradients, one step of SGD.
fn train(network: Network, images: Tensor) -> Result<Step> {
    let labels = (0..images.dim(0)? as u32).map(|index| index % 10).collect::<Vec<_>>();
    let mut sgd = Sgd::new(network.store().parameters(), 0.9, 5e-4, false)?;
    let images = Value::constant(images);
    Ok(Box::new(move || {
        let logits = network.forward(&images, &Pass::train())?.logits;
        let loss = ops::cross_entropy(&logits, &labels, None)?;
        drop(logits);
        sgd.step(&loss.backward()?, 1e-3)
    }))
}

/// The generator, the teacher with all taps, the student as adversary; one Adam step; labels of the rounded images.
fn invert(batch: usize) -> Result<Step> {
    let (teacher, student) = (build(TEACHER)?, build(STUDENT)?);
    let settings = InvertSettings { batch, augment: AugmentSettings::OFF, ..Default::default() };
    let mut generator = PersistentGenerator::new(settings, &teacher, 0, &Device::Cpu)?;
    let modulation = Modulation::new(ModulationSettings::OFF, &[]);
    let mut index = 0;
    Ok(Box::new(move || {
        index += 1;
        let position = Position { seed: 0, round: 0, distilling_round: Some(0), batch: index };
        generator.synthesize(&teacher, Some(&student), &modulation, position).map(|_| ())
    }))
}

/// The teacher's logits, the student's training step at T = 4.
fn distil(images: Tensor) -> Result<Step> {
    let (teacher, student) = (build(TEACHER)?, build(STUDENT)?);
    let settings = DistillSettings { lr: 1e-3, augment: AugmentSettings::OFF, ..Default::default() };
    let mut distiller = Distiller::new(settings, &teacher, &student)?;
    Ok(Box::new(move || {
        distiller.step(&teacher, &student, &images, None, (0, 1), &mut stream(0, "views", &[])).map(|_| ())
    }))
}
