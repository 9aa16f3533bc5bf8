//! Seconds of whole steps: forward passes and training steps of the networks, one iteration of the inversion, one step of
//! the distillation; and of single kernels, for the comparison with PyTorch.
//!
//! ```text
//! cargo bench --workspace --bench steps [-- SUBSTRING-OF-A-ROW]     a table
//! cargo bench --workspace --bench steps -- --serve                  rows on stdin, one step each; `pytorch.py` drives it
//! ```
//!
//! The column `CPU s` is the time that processors worked on a step, of all threads together. On a machine that others use, too,
//! it says more than the others.
//!
//! `--device cuda[:N]` or SSDKD_BENCH_DEVICE: on a GPU, if built for one, as `SSDKD_GPU_MATH` says. A step has ended when the GPU has
//! done its work.

#[path = "../../ssdkd-ops/tests/common/place.rs"]
mod place;

#[path = "steps/kernels.rs"]
mod kernels;
#[path = "steps/large.rs"]
mod large;

use std::io::{BufRead, Write};
use std::time::Instant;

use candle_core::{Device, Result, Tensor, bail};
use rustix::time::{ClockId, clock_gettime};
use ssdkd_method::distillation::distillation_loss;
use ssdkd_method::inversion::start;
use ssdkd_method::{DistillSettings, Distiller, InvertSettings, Modulation, ModulationSettings, Objective, Position};
use ssdkd_nn::random::{stream, uniform_tensor};
use ssdkd_nn::{Architecture, DifferentiableViewSettings, Mode, Network, NetworkSpec, Optimizer, Sgd, ViewSettings};
use ssdkd_ops::{self as ops, CachingAllocator, Value};

#[global_allocator]
static ALLOCATOR: CachingAllocator = CachingAllocator::new(4 << 30);

const NETWORKS: [&str; 7] = ["resnet20", "resnet56", "wrn-16-1", "wrn-16-2", "wrn-40-2", "resnet18", "vgg11"];
const BATCHES: [usize; 2] = [128, 256];
/// Those of a GPU, which smaller ones leave idle.
const LARGE_BATCHES: [usize; 2] = [256, 1024];
const TEACHER: &str = "wrn-40-2";
const STUDENT: &str = "wrn-16-1";

/// Timed repetitions of each row in the table.
const REPETITIONS: usize = 7;

/// Untimed steps before them: a GPU's library tries its algorithms in the first ones.
const WARM_UP: usize = 1;
const GPU_WARM_UP: usize = 5;

/// One step of a row.
type Step = Box<dyn FnMut() -> Result<()>>;

fn main() -> Result<()> {
    let mut device = std::env::var("SSDKD_BENCH_DEVICE").unwrap_or_default();
    let (mut serves, mut wanted) = (false, String::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--bench" => {} // cargo's
            "--serve" => serves = true,
            "--device" => device = arguments.next().unwrap_or_default(),
            _ => wanted = argument,
        }
    }
    // As in the programs, this thread is one of the workers.
    rayon::ThreadPoolBuilder::new().use_current_thread().build_global().map_err(candle_core::Error::wrap)?;
    let device = open(&device)?;
    if serves { serve(&device) } else { table(&device, &wanted) }
}

/// The device of a name; a GPU as the programs open theirs, so that `SSDKD_GPU_MATH` says how it computes.
fn open(name: &str) -> Result<Device> {
    let (kind, index) = name.split_once(':').unwrap_or((name, "0"));
    match (kind, index.parse(), ssdkd_nn::OPEN_GPU) {
        ("cuda", Ok(index), Some(open)) => open(index),
        _ => Ok(place::open(name)),
    }
}

fn table(device: &Device, wanted: &str) -> Result<()> {
    println!(
        "{:<44} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}",
        "step", "min s", "median s", "max s", "CPU s", "ordered s", "peak MiB"
    );
    for row in rows(device).iter().filter(|row| row.contains(wanted)) {
        let mut step = ready(row, device)?;
        let mut seconds = Vec::new();
        let (mut peak, mut ordered, mut worked) = (0, f64::INFINITY, f64::INFINITY);
        for _ in 0..REPETITIONS {
            let time = timed(&mut step, device)?;
            seconds.push(time.seconds);
            ordered = time.ordered.min(ordered);
            worked = time.worked.min(worked);
            peak = peak.max(time.peak);
        }
        seconds.sort_by(f64::total_cmp);
        let [min, median, max] = [0, REPETITIONS / 2, REPETITIONS - 1].map(|at| seconds[at]);
        println!("{row:<44} {min:>10.5} {median:>10.5} {max:>10.5} {worked:>10.5} {ordered:>10.5} {:>10}", peak >> 20);
    }
    Ok(())
}

/// Answers each row on stdin with seconds, the processors' seconds and peak bytes of one step, and the first failure with `error` and a message: a GPU
/// may be of no use after it. `-` forgets the row before.
fn serve(device: &Device) -> Result<()> {
    let mut current: Option<(String, Step)> = None;
    for row in std::io::stdin().lock().lines() {
        let row = row?;
        if row == "-" {
            current = None;
            continue;
        }
        match answer(&row, &mut current, device) {
            Ok(Time { seconds, worked, peak, .. }) => println!("{seconds}\t{worked}\t{peak}"),
            Err(error) => {
                // Without the backtrace that candle may have put below it.
                let message = error.to_string();
                let words = message.lines().take_while(|line| !line.starts_with("   ")).collect::<Vec<_>>();
                println!("error\t{}", words.join(" | "));
                return Err(error);
            }
        }
        std::io::stdout().flush()?;
    }
    Ok(())
}

fn answer(row: &str, current: &mut Option<(String, Step)>, device: &Device) -> Result<Time> {
    if let Some((_, step)) = current.as_mut().filter(|(name, _)| name == row) {
        return timed(step, device);
    }
    *current = None; // its memory first
    let (_, step) = current.insert((row.to_owned(), ready(row, device)?));
    timed(step, device)
}

/// A row's step, warmed up.
fn ready(row: &str, device: &Device) -> Result<Step> {
    let mut step = step(row, device)?;
    for _ in 0..if device.is_cpu() { WARM_UP } else { GPU_WARM_UP } {
        step()?;
    }
    Ok(step)
}

/// What one step took.
struct Time {
    seconds: f64,
    /// Until all of its work was ordered. On a GPU, a step that takes little longer than that waits for the program.
    ordered: f64,
    /// That the processors worked, of all threads together.
    worked: f64,
    /// Bytes of the program's memory.
    peak: usize,
}

fn timed(step: &mut Step, device: &Device) -> Result<Time> {
    ops::reset_peak();
    device.synchronize()?;
    let (start, before) = (Instant::now(), processors());
    step()?;
    let ordered = start.elapsed().as_secs_f64();
    device.synchronize()?;
    let (seconds, worked) = (start.elapsed().as_secs_f64(), processors() - before);
    Ok(Time { seconds, ordered, worked, peak: ops::peak_bytes() })
}

/// Seconds that processors have worked on this program.
fn processors() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + 1e-9 * time.tv_nsec as f64
}

/// `KIND NETWORK BATCH`, in the order of the table.
fn rows(device: &Device) -> Vec<String> {
    let mut rows = Vec::new();
    let batches = if device.is_cpu() { BATCHES } else { LARGE_BATCHES };
    for batch in batches {
        for kind in ["forward", "train"] {
            rows.extend(NETWORKS.iter().map(|network| format!("{kind} {network} {batch}")));
        }
        let kinds = if device.is_cpu() {
            &["invert", "distil"][..]
        } else {
            &["invert", "invert-graphs", "distil", "distil-graphs", "distil-bare"]
        };
        rows.extend(kinds.iter().map(|kind| format!("{kind} {TEACHER}/{STUDENT} {batch}")));
    }
    rows.extend(kernels::cifar_rows(batches[0]).chain(large::rows()).chain(kernels::large_rows()));
    rows
}

fn step(row: &str, device: &Device) -> Result<Step> {
    let words = row.split(' ').collect::<Vec<_>>();
    let [kind, network, batch] = words[..] else { bail!("a row reads KIND NETWORK BATCH, not {row:?}") };
    let Ok(batch) = batch.parse::<usize>() else { bail!("{batch:?} is not a batch size") };
    if let Some(direction) = kind.strip_prefix("conv-") {
        return kernels::convolution(direction, network, batch, device);
    }
    if let Some(direction) = kind.strip_prefix("resize-") {
        return kernels::resize(direction, network, batch, device);
    }
    if let Some((name, size)) = large::parse(network) {
        let (network, images) = (large::build(name, size, device)?, random((batch, size, size, 3), device)?);
        return match kind {
            "forward" => Ok(forward(network, images)),
            "train" => train(network, images),
            "tapped" => large::tapped(network, batch, size, device),
            "invert" => invert(network.frozen(), None, batch),
            _ => bail!("{kind:?} is not a kind of step of a network at {size} pixels"),
        };
    }
    let images = random((batch, 32, 32, 3), device)?;
    match kind {
        "forward" => Ok(forward(build(network, device)?, images)),
        "train" => train(build(network, device)?, images),
        "invert" => invert(build(TEACHER, device)?.frozen(), Some(build(STUDENT, device)?), batch),
        "invert-graphs" => {
            Ok(with_graphs(invert(build(TEACHER, device)?.frozen(), Some(build(STUDENT, device)?), batch)?))
        }
        "distil" => distil(images),
        "distil-graphs" => Ok(with_graphs(distil(images)?)),
        "distil-bare" => distil_bare(images),
        _ => bail!("{kind:?} is not a kind of step"),
    }
}

fn random(shape: (usize, usize, usize, usize), device: &Device) -> Result<Tensor> {
    uniform_tensor(&mut stream(0, "images", &[]), (0.0, 1.0), shape, device)
}

fn build(architecture: &str, device: &Device) -> Result<Network> {
    let architecture = architecture.parse::<Architecture>().map_err(candle_core::Error::msg)?;
    let spec = NetworkSpec {
        architecture,
        classes: 10,
        input: [3, 32, 32],
        mean: vec![0.5; 3],
        std: vec![0.25; 3],
        preprocessing: ssdkd_nn::Preprocessing::default(),
    };
    Network::create(&spec, 0, device)
}

/// Logits, with running statistics.
fn forward(network: Network, images: Tensor) -> Step {
    let (network, images) = (network.frozen(), Value::constant(images));
    Box::new(move || network.forward(&images, Mode::Eval).map(|_| ()))
}

/// Cross-entropy, all gradients, one step of SGD.
fn train(network: Network, images: Tensor) -> Result<Step> {
    let rows = images.dim(0)? * network.rows_per_image();
    let labels = (0..rows as u32).map(|index| index % 10).collect::<Vec<_>>();
    let mut sgd = Sgd::new(network.store().parameters(), 0.9, 5e-4, false)?;
    let images = Value::constant(images);
    Ok(Box::new(move || {
        let logits = network.forward(&images, Mode::Train)?.logits;
        let loss = ops::cross_entropy(&logits, &labels, None)?;
        drop(logits);
        sgd.step(&loss.backward()?, 1e-3)
    }))
}

/// The generator, the teacher with all taps, the student, if any, as adversary; one Adam step; labels of the rounded images.
fn invert(teacher: Network, student: Option<Network>, batch: usize) -> Result<Step> {
    let (views, phi) = (DifferentiableViewSettings::OFF, ModulationSettings::OFF);
    let settings = InvertSettings { batch, views, phi, ..Default::default() };
    let mut generator = start(&settings, &teacher, 0, teacher.store().device())?;
    let modulation = Modulation::new(ModulationSettings::OFF, &[]);
    let mut index = 0;
    Ok(Box::new(move || {
        index += 1;
        let position = Position { seed: 0, round: 0, distilling_round: Some(0), batch: index };
        let objective = Objective::new(settings.loss, &teacher, student.as_ref(), &modulation);
        generator.synthesize(&objective, position).map(|_| ())
    }))
}

/// The teacher's logits, the student's training step at T = 4, and what the step reports.
fn distil(images: Tensor) -> Result<Step> {
    let (teacher, student) = (build(TEACHER, images.device())?.frozen(), build(STUDENT, images.device())?);
    let settings = DistillSettings { lr: 1e-3, views: ViewSettings::OFF, ..Default::default() };
    let mut distiller = Distiller::new(settings, &teacher, &student, 0)?;
    Ok(Box::new(move || {
        distiller.step(&teacher, &student, &images, None, (0, 1), &mut stream(0, "views", &[])).map(|_| ())
    }))
}

/// The same, recorded in the untimed steps and replayed as CUDA graphs in the timed ones.
fn with_graphs(mut step: Step) -> Step {
    Box::new(move || {
        set_graphs(true);
        let taken = step();
        set_graphs(false);
        taken
    })
}

#[cfg(feature = "cuda")]
fn set_graphs(graphs: bool) {
    ops::set_cuda_settings(ops::CudaSettings { graphs, ..ops::cuda_settings() });
}

#[cfg(not(feature = "cuda"))]
fn set_graphs(_graphs: bool) {}

/// The same without the report: nothing is read back from a GPU.
fn distil_bare(images: Tensor) -> Result<Step> {
    let (teacher, student) = (build(TEACHER, images.device())?.frozen(), build(STUDENT, images.device())?);
    let mut sgd = Sgd::new(student.store().parameters(), 0.9, 5e-4, false)?;
    let images = Value::constant(images);
    Ok(Box::new(move || {
        let teacher_logits = teacher.forward(&images, Mode::Eval)?.logits;
        let logits = student.forward(&images, Mode::Train)?.logits;
        let loss = distillation_loss(&teacher_logits, &logits, 4.0, None)?;
        drop((teacher_logits, logits));
        sgd.step(&loss.backward()?, 1e-3)
    }))
}
