//! Steps of the persistent generator.

use candle_core::Result;
use ssdkd_method::inversion::persistent::PersistentSettings;
use ssdkd_method::inversion::start;
use ssdkd_method::{
    BatchNormForm, ClassPrior, Distiller, Diversity, ImageFormat, InvertSettings, LossSettings, Modulation,
    ModulationSettings, Objective, Position, Strategy, TargetRule,
};
use ssdkd_nn::random::{stream, uniform_tensor};
use ssdkd_nn::{Border, DifferentiableViewSettings};
use ssdkd_ops as ops;

use crate::{Bits, assert_same_bits, bits, distillation, gpu, network, place, with_and_without_graphs};

/// Rounds: a warm-up without a student, and two with one that learns between them.
const ROUNDS: u32 = 3;

/// Batches of a round.
const BATCHES: u32 = 4;

/// What an inversion left: the bits of all images, labels, losses and tensors of the generator, and what its steps were.
#[derive(Default)]
struct Inverted {
    bits: Bits,
    replays: u64,
    read_backs: u64,
}

/// Makes the images of all rounds. From round to round the student and φ's class counts change.
fn invert(settings: &InvertSettings, prior: &ClassPrior) -> Result<Inverted> {
    let device = place::device();
    let (teacher, student) = (network("resnet20", 1)?.frozen(), network("resnet8", 2)?);
    let mut distiller = Distiller::new(distillation::settings(), &teacher, &student, 0)?;
    let mut inversion = start(settings, &teacher, 5, &device)?;
    let (mut inverted, mut batches) = (Inverted::default(), Vec::new());
    for round in 0..ROUNDS {
        let distilling_round = round.checked_sub(1);
        let counts = [5, 2 * u64::from(round), 1, 3];
        let modulation = Modulation::new(settings.phi, &counts).with_prior(prior);
        let student_now = distilling_round.map(|_| &student);
        let objective = Objective::new(settings.loss, &teacher, student_now, &modulation).with_prior(prior);
        for batch in 0..BATCHES {
            let before = (ops::replays(), ops::read_backs());
            batches.push(inversion.synthesize(&objective, Position { seed: 5, round, distilling_round, batch })?);
            inverted.replays += ops::replays() - before.0;
            inverted.read_backs += ops::read_backs() - before.1;
        }
        let rng = &mut stream(3, "images", &[u64::from(round)]);
        let images = uniform_tensor(rng, (0.0, 1.0), (4, 8, 8, 3), &device)?;
        distiller.step(&teacher, &student, &images, None, (u64::from(round), 8), rng)?;
    }
    // Last: images of one replay are held while the next ones are made.
    for (index, made) in batches.iter().enumerate() {
        inverted.bits.insert(format!("images {index:02}"), bits(&made.images)?);
        inverted.bits.insert(format!("targets {index:02}"), made.targets.clone());
        let losses = made.loss.terms().iter().map(|(_, term)| term.to_bits()).chain([made.loss.total.to_bits()]);
        inverted.bits.insert(format!("losses {index:02}"), losses.collect());
        inverted.bits.insert(format!("logits {index:02}"), bits(&made.predictions.logits)?);
    }
    for (name, tensor) in inversion.state_dict() {
        inverted.bits.insert(name, bits(&tensor)?);
    }
    Ok(inverted)
}

fn settings(own: PersistentSettings) -> InvertSettings {
    InvertSettings {
        strategy: Strategy::Persistent(PersistentSettings { latent_size: 8, width: 4, ..own }),
        batch: 6,
        steps: 1,
        targets: TargetRule::Balanced,
        image_format: ImageFormat::F32,
        loss: LossSettings { activation: 0.01, ..PersistentSettings::LOSS },
        views: DifferentiableViewSettings { crop_padding: 2, border: Border::Zeros, flip: true, color_jitter: 0.0 },
        phi: ModulationSettings { diversity: Diversity::Ratio, gamma: 2.0 },
        ..InvertSettings::default()
    }
}

/// Inverts with and without graphs. `replays` is how many steps and labelings are to be replayed ones.
#[track_caller]
fn check(what: &str, settings: &InvertSettings, prior: &ClassPrior, replays: u64) {
    let [ordinary, replayed] = with_and_without_graphs(|| invert(settings, prior).unwrap());
    assert_eq!((ordinary.replays, replayed.replays), (0, replays), "{what}: replays");
    assert_eq!(replayed.read_backs, ordinary.read_backs, "{what}: waits");
    assert_same_bits(what, &ordinary.bits, &replayed.bits);
    let distinct = (0..ROUNDS * BATCHES).map(|index| &replayed.bits[&format!("images {index:02}")]);
    let distinct = distinct.collect::<std::collections::BTreeSet<_>>();
    assert_eq!(distinct.len(), (ROUNDS * BATCHES) as usize, "{what}: each batch has images of its own");
}

/// Two ordinary steps, then a recording; again once there is a student. Its weights and φ's counts change without another recording.
const STEPS: u64 = (ROUNDS * BATCHES - 4) as u64;

/// The same of the labels, which have nothing to do with the student.
const LABELS: u64 = (ROUNDS * BATCHES - 2) as u64;

#[test]
fn replayed_steps_of_the_generator_are_ordinary_steps_byte_for_byte() {
    let Some(_turn) = gpu() else { return };
    let uniform = ClassPrior::uniform();
    let plain = PersistentSettings { embeddings_per_class: 2, ..PersistentSettings::default() };
    check("embeddings", &settings(plain.clone()), uniform, STEPS + LABELS);
    let table = PersistentSettings { embedding_rank: 3, ..plain };
    let wrapped =
        DifferentiableViewSettings { border: Border::Wrap, color_jitter: 1.0, ..settings(table.clone()).views };
    let relative = LossSettings { batch_norm_form: BatchNormForm::Relative, ..PersistentSettings::LOSS };
    let prior = ClassPrior::new(&[4.0, 1.0, 2.0, 3.0], 4).unwrap();
    check("a table", &InvertSettings { views: wrapped, loss: relative, ..settings(table) }, &prior, STEPS + LABELS);
    let predicted = settings(PersistentSettings { reset_round: 2, ..PersistentSettings::default() });
    let predicted = InvertSettings { targets: TargetRule::Predicted, image_format: ImageFormat::U8, ..predicted };
    check("predicted classes", &predicted, uniform, STEPS + LABELS);
    let two = InvertSettings { steps: 2, views: DifferentiableViewSettings::OFF, ..predicted };
    check("two steps a batch", &two, uniform, u64::from(ROUNDS * BATCHES) + STEPS + LABELS);
}

#[test]
fn steps_with_averaged_statistics_are_not_recorded() {
    let Some(_turn) = gpu() else { return };
    let loss = LossSettings { batch_norm_momentum: 0.9, ..PersistentSettings::LOSS };
    let averaged = InvertSettings { loss, ..settings(PersistentSettings::default()) };
    check("averages", &averaged, ClassPrior::uniform(), LABELS);
}
