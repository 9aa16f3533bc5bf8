//! Steps of the student that a GPU replays as CUDA graphs: the same bytes as ordinary steps. One test, as one thread at a time may
//! use a GPU on which work is recorded.

#[path = "../../ssdkd-ops/tests/common/place.rs"]
mod place;

use std::collections::BTreeMap;

use candle_core::{DType, Result, Tensor};
use ssdkd_method::{Discrepancy, DistillSettings, Distiller, OptimizerKind, StepReport};
use ssdkd_nn::random::{stream, uniform_tensor};
use ssdkd_nn::{Network, NetworkSpec, Preprocessing, ViewSettings};
use ssdkd_ops as ops;

const STEPS: u64 = 8;

fn network(architecture: &str, seed: u64) -> Result<Network> {
    let spec = NetworkSpec {
        architecture: architecture.parse().map_err(candle_core::Error::msg)?,
        classes: 4,
        input: [3, 8, 8],
        mean: vec![0.4, 0.5, 0.6],
        std: vec![0.2, 0.25, 0.3],
        preprocessing: Preprocessing::default(),
    };
    Network::create(&spec, seed, &place::device())
}

/// What a training left: the bits of all numbers of its student, its optimizer and its reports, and how many steps were replays.
struct Trained {
    bits: BTreeMap<String, Vec<u32>>,
    rates: Vec<f64>,
    replays: u64,
    read_backs: u64,
}

fn bits(tensor: &Tensor) -> Result<Vec<u32>> {
    let numbers = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    Ok(numbers.into_iter().map(f32::to_bits).collect())
}

/// Trains a student; `sizes` are its batches.
fn train(settings: &DistillSettings, sizes: &[usize]) -> Result<Trained> {
    let device = place::device();
    let (teacher, student) = (network("resnet20", 1)?.frozen(), network("resnet8", 2)?);
    let mut distiller = Distiller::new(settings.clone(), &teacher, &student, 0)?;
    let mut trained = Trained { bits: BTreeMap::new(), rates: Vec::new(), replays: 0, read_backs: 0 };
    for (step, &size) in (0..).zip(sizes) {
        let rng = &mut stream(3, "images", &[step]);
        let images = uniform_tensor(rng, (0.0, 1.0), (size, 8, 8, 3), &device)?;
        let labelled = distiller.label(&teacher, &images, rng)?;
        let weights = (0..size).map(|image| 0.5 + (image as f32 + step as f32) / 8.0).collect::<Vec<_>>();
        let before = (ops::replays(), ops::read_backs());
        let report = distiller.learn(&student, labelled, Some(&weights), (step, STEPS))?;
        trained.replays += ops::replays() - before.0;
        trained.read_backs += ops::read_backs() - before.1;
        trained.rates.push(report.lr);
        trained.bits.insert(format!("report {step}"), figures(&report));
        // Other work between the steps, in memory of many sizes.
        for size in 1..4 {
            teacher.logits(&uniform_tensor(rng, (0.0, 1.0), (size, 8, 8, 3), &device)?)?;
            student.logits(&uniform_tensor(rng, (0.0, 1.0), (size, 8, 8, 3), &device)?)?;
        }
    }
    for (name, tensor) in student.store().state_dict().into_iter().chain(distiller.state_dict()) {
        trained.bits.insert(name, bits(&tensor)?);
    }
    Ok(trained)
}

fn figures(report: &StepReport) -> Vec<u32> {
    let StepReport { loss, feature_distillation, disagreement, agreement, gradient_norm, .. } = report;
    let single = [*loss, feature_distillation.unwrap_or(0.0), *agreement, *gradient_norm];
    single.iter().chain(disagreement).map(|number| number.to_bits()).collect()
}

#[cfg(feature = "cuda")]
fn set_graphs(graphs: bool) {
    ops::set_cuda_settings(ops::CudaSettings { graphs, ..ops::cuda_settings() });
}

#[cfg(not(feature = "cuda"))]
fn set_graphs(_graphs: bool) {}

/// Trains with and without graphs. `replays` is how many of the steps are to be replayed ones.
#[track_caller]
fn check(what: &str, settings: &DistillSettings, sizes: &[usize], replays: u64) {
    let [ordinary, replayed] = [false, true].map(|graphs| {
        set_graphs(graphs);
        let trained = train(settings, sizes).unwrap();
        set_graphs(false);
        trained
    });
    assert_eq!((ordinary.replays, replayed.replays), (0, replays), "{what}: replays");
    assert_eq!(replayed.read_backs, sizes.len() as u64, "{what}: waits");
    assert_eq!(ordinary.bits.len(), replayed.bits.len());
    let differ = |(name, bits): &(&String, &Vec<u32>)| replayed.bits[*name] != **bits;
    let different = ordinary.bits.iter().filter(differ).map(|(name, _)| name).collect::<Vec<_>>();
    assert!(different.is_empty(), "{what}: {} of {} differ: {different:?}", different.len(), ordinary.bits.len());
    let mut rates = replayed.rates.clone();
    rates.dedup();
    assert!(rates.len() > sizes.len() / 2, "{what}: the learning rate changes from step to step: {rates:?}");
}

#[test]
fn replayed_steps_are_ordinary_steps_byte_for_byte() {
    if !place::on_cuda() || place::takes_the_fastest_algorithms() {
        eprintln!("skipped: a GPU that gives the same bytes every time records steps");
        return;
    }
    let settings = DistillSettings {
        lr: 0.05,
        warmup_steps: 3,
        feature_distillation: 1.0,
        nesterov: true,
        views: ViewSettings::OFF,
        ..DistillSettings::default()
    };
    // Two ordinary steps, then a recording.
    check("SGD", &settings, &[6; STEPS as usize], STEPS - 2);
    let adam = DistillSettings { optimizer: OptimizerKind::Adam, feature_distillation: 0.0, ..settings.clone() };
    check("Adam", &DistillSettings { lr: 1e-3, lr_min: 1e-5, ..adam.clone() }, &[6; STEPS as usize], STEPS - 2);
    let l1 = DistillSettings { loss: Discrepancy::L1, ..settings.clone() };
    check("L1", &l1, &[6; STEPS as usize], STEPS - 2);
    // A batch of another size restarts it: two ordinary steps, then a recording.
    check("sizes", &settings, &[6, 6, 6, 6, 5, 6, 6, 6], 3);
}
