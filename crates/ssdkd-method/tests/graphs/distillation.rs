//! Labeling, and steps of the student.

use candle_core::Result;
use ssdkd_method::passes::order;
use ssdkd_method::{Discrepancy, DistillSettings, Distiller, Labelled, OptimizerKind, StepReport};
use ssdkd_nn::random::{stream, uniform_tensor};
use ssdkd_nn::{Network, ViewSettings};
use ssdkd_ops as ops;

use crate::{Bits, assert_same_bits, bits, gpu, network, place, with_and_without_graphs};

const STEPS: u64 = 8;

/// What a training left: the bits of all numbers of its student, its optimizer and its reports, and how many of its labelings and
/// steps were replays.
#[derive(Default)]
struct Trained {
    bits: Bits,
    rates: Vec<f64>,
    replays: [u64; 2],
    read_backs: u64,
}

/// Trains a student in the settings' passes; `sizes` are the batches of the first one, and of one size if there are more.
fn train(settings: &DistillSettings, sizes: &[usize]) -> Result<Trained> {
    let device = place::device();
    let (teacher, student) = (network("resnet20", 1)?.frozen(), network("resnet8", 2)?);
    let mut distiller = Distiller::new(settings.clone(), &teacher, &student, 0)?;
    let mut trained = Trained::default();
    let mut parts = Vec::new();
    for (step, &size) in (0..).zip(sizes) {
        let rng = &mut stream(3, "images", &[step]);
        let images = uniform_tensor(rng, (0.0, 1.0), (size, 8, 8, 3), &device)?;
        let before = ops::replays();
        let labelled = distiller.label(&teacher, &images, rng)?;
        trained.replays[0] += ops::replays() - before;
        parts.push(labelled.clone());
        trained.learn(&mut distiller, &student, labelled, (size, step))?;
        // Other work between the steps, in memory of many sizes.
        for size in 1..4 {
            teacher.logits(&uniform_tensor(rng, (0.0, 1.0), (size, 8, 8, 3), &device)?)?;
            student.logits(&uniform_tensor(rng, (0.0, 1.0), (size, 8, 8, 3), &device)?)?;
        }
    }
    let mut step = sizes.len() as u64;
    for pass in 1..settings.passes {
        for places in order(sizes.iter().sum(), 0, 0, pass).chunks(sizes[0]) {
            let places = places.iter().map(|&view| (view as usize / sizes[0], view as usize % sizes[0]));
            let labelled = Labelled::gather(&parts, &places.collect::<Vec<_>>())?;
            trained.learn(&mut distiller, &student, labelled, (sizes[0], step))?;
            step += 1;
        }
    }
    for (name, tensor) in student.store().state_dict().into_iter().chain(distiller.state_dict()) {
        trained.bits.insert(name, bits(&tensor)?);
    }
    Ok(trained)
}

impl Trained {
    /// Takes step `step` on `size` labeled views.
    fn learn(
        &mut self,
        distiller: &mut Distiller,
        student: &Network,
        labelled: Labelled,
        (size, step): (usize, u64),
    ) -> Result<()> {
        let weights = (0..size).map(|image| 0.5 + (image as f32 + step as f32) / 8.0);
        let before = (ops::replays(), ops::read_backs());
        let report = distiller.learn(student, labelled, Some(&weights.collect::<Vec<_>>()), (step, STEPS))?;
        self.replays[1] += ops::replays() - before.0;
        self.read_backs += ops::read_backs() - before.1;
        self.rates.push(report.lr);
        self.bits.insert(format!("report {step}"), figures(&report));
        Ok(())
    }
}

fn figures(report: &StepReport) -> Vec<u32> {
    let StepReport { loss, feature_distillation, disagreement, agreement, gradient_norm, .. } = report;
    let single = [*loss, feature_distillation.unwrap_or(0.0), *agreement, *gradient_norm];
    single.iter().chain(disagreement).map(|number| number.to_bits()).collect()
}

/// Trains with and without graphs. `replays` is how many of the labelings and of the steps are to be replayed ones.
#[track_caller]
fn check(what: &str, settings: &DistillSettings, sizes: &[usize], replays: [u64; 2]) {
    let [ordinary, replayed] = with_and_without_graphs(|| train(settings, sizes).unwrap());
    assert_eq!((ordinary.replays, replayed.replays), ([0; 2], replays), "{what}: replays");
    assert_eq!(replayed.read_backs, replayed.rates.len() as u64, "{what}: waits");
    assert_same_bits(what, &ordinary.bits, &replayed.bits);
    let mut rates = replayed.rates.clone();
    rates.dedup();
    assert!(rates.len() > sizes.len() / 2, "{what}: the learning rate changes from step to step: {rates:?}");
}

pub(crate) fn settings() -> DistillSettings {
    DistillSettings {
        lr: 0.05,
        warmup_steps: 3,
        feature_distillation: 1.0,
        nesterov: true,
        views: ViewSettings::OFF,
        ..DistillSettings::default()
    }
}

#[test]
fn replayed_steps_are_ordinary_steps_byte_for_byte() {
    let Some(_turn) = gpu() else { return };
    // Two ordinary steps, then a recording.
    check("SGD", &settings(), &[6; STEPS as usize], [STEPS - 2; 2]);
    let adam = DistillSettings { optimizer: OptimizerKind::Adam, feature_distillation: 0.0, ..settings() };
    check("Adam", &DistillSettings { lr: 1e-3, lr_min: 1e-5, ..adam }, &[6; STEPS as usize], [STEPS - 2; 2]);
    let l1 = DistillSettings { loss: Discrepancy::L1, ..settings() };
    check("L1", &l1, &[6; STEPS as usize], [STEPS - 2; 2]);
    // A batch of another size restarts it: two ordinary steps, then a recording.
    check("sizes", &settings(), &[6, 6, 6, 6, 5, 6, 6, 6], [3; 2]);
}

#[test]
fn labels_of_one_replay_outlive_the_next() {
    let Some(_turn) = gpu() else { return };
    // All batches of the first pass are held until the last one.
    let passes = DistillSettings { passes: 2, views: ViewSettings::default(), ..settings() };
    check("passes", &passes, &[6; 4], [2, 6]);
}
