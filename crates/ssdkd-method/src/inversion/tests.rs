//! What holds for all strategies.

use candle_core::{DType, Tensor};
use ssdkd_nn::{DifferentiableViewSettings, Network, StateDict};
use ssdkd_ops as ops;

use super::contrastive::ContrastiveSettings;
use super::meta::MetaSettings;
use super::persistent::PersistentSettings;
use super::*;
use crate::fixtures::{assert_repeated, device, network, numbers, on_cuda, pixel_network};
use crate::modulation::{Diversity, Modulation, ModulationSettings};

/// Returns small settings of a strategy.
fn settings(name: StrategyName) -> InvertSettings {
    let (latent_size, width, reset_round) = (8, 4, 2);
    let mut settings = InvertSettings { batch: 6, steps: 2, ..InvertSettings::of(name) };
    match &mut settings.strategy {
        Strategy::Persistent(own) => {
            *own = PersistentSettings { latent_size, width, reset_round, ..own.clone() };
            settings.loss.batch_norm_momentum = 0.9;
        }
        Strategy::Meta(own) => *own = MetaSettings { latent_size, width, reset_round, ..own.clone() },
        Strategy::Pixels(_) => {}
        Strategy::Contrastive(own) => *own = ContrastiveSettings { latent_size, width, ..own.clone() },
    }
    settings
}

/// Returns small settings of "persistent", changed.
fn persistent(change: impl FnOnce(&mut InvertSettings, &mut PersistentSettings)) -> InvertSettings {
    let mut settings = settings(StrategyName::Persistent);
    let Strategy::Persistent(mut own) = settings.strategy.clone() else { unreachable!("it was asked for") };
    change(&mut settings, &mut own);
    settings.strategy = Strategy::Persistent(own);
    settings
}

fn position(round: u32, distilling_round: Option<u32>, batch: u32) -> Position {
    Position { seed: 9, round, distilling_round, batch }
}

fn all(made: &Synthesis) -> Vec<f32> {
    let targets = made.targets.iter().map(|&target| target as f32).collect();
    [numbers(&made.images), targets, numbers(&made.predictions.logits), vec![made.loss.total]].concat()
}

#[track_caller]
fn check_resumes(settings: &InvertSettings) {
    check_resumes_for(settings, &network(1), &network(2));
}

#[track_caller]
fn check_resumes_for(settings: &InvertSettings, teacher: &Network, student: &Network) {
    let modulation = Modulation::new(settings.phi, &[5, 0, 12, 3]);
    let make = |inversion: &mut dyn Inversion, rounds: std::ops::Range<u32>| {
        let batch = |(round, batch): (u32, u32)| {
            let distilling = round.checked_sub(1);
            let student = distilling.map(|_| student);
            let objective = Objective::new(settings.loss, teacher, student, &modulation);
            all(&inversion.synthesize(&objective, position(round, distilling, batch)).unwrap())
        };
        rounds.flat_map(|round| [(round, 0), (round, 1)]).flat_map(batch).collect::<Vec<_>>()
    };
    let fresh = || start(settings, teacher, 9, &device()).unwrap();
    let mut inversion = fresh();
    make(&mut *inversion, 0..2);
    let copy = |(name, tensor): (String, Tensor)| (name, tensor.copy().unwrap());
    let state = inversion.state_dict().into_iter().map(copy).collect::<StateDict>();
    let expected = make(&mut *inversion, 2..4);

    let mut resumed = fresh();
    resumed.load_state_dict(state.clone()).unwrap();
    assert_repeated("batches", &make(&mut *resumed, 2..4), &expected);
    let mut restarted = fresh();
    assert_ne!(make(&mut *restarted, 2..4), expected, "the state matters");

    // What does not fit is refused by name.
    for missing in ["optimizer.l1.0.weight.first", "batch_norm.mean.0001", "generator.l1.0.bias"] {
        let mut state = state.clone();
        assert!(state.remove(missing).is_some(), "{missing}");
        assert!(fresh().load_state_dict(state).is_err(), "{missing}");
    }
    let mut state = state;
    state.insert("student.conv1".into(), teacher.store().state_dict()["conv1.weight"].clone());
    assert!(fresh().load_state_dict(state).unwrap_err().to_string().contains("student.conv1"));
}

#[test]
fn strategies_with_a_generator_of_their_own_resume_to_the_same_bits() {
    check_resumes(&persistent(|_, _| {}));
    check_resumes(&persistent(|all, own| (all.targets, own.embeddings_per_class) = (TargetRule::Random, 3)));
    check_resumes(&settings(StrategyName::Meta));
    check_resumes(&persistent(|all, _| all.loss.batch_norm_form = BatchNormForm::Relative));
    let (teacher, student) = (pixel_network(1), pixel_network(2));
    for name in [StrategyName::Persistent, StrategyName::Meta] {
        let phi = ModulationSettings { diversity: Diversity::Off, gamma: 1.0 };
        let settings = InvertSettings { targets: TargetRule::Predicted, phi, ..settings(name) };
        check_resumes_for(&settings, &teacher, &student);
    }
}

/// Returns two batches of a round, as numbers.
fn round_of(settings: &InvertSettings, distilling_round: Option<u32>) -> Vec<f32> {
    let (teacher, student) = (network(1), network(2));
    let modulation = Modulation::new(settings.phi, &[5, 0, 12, 3]);
    let student = settings.looks_at_student(distilling_round).then_some(&student);
    let objective = Objective::new(settings.loss, &teacher, student, &modulation);
    let mut inversion = start(settings, &teacher, 9, &device()).unwrap();
    let batch = |batch| all(&inversion.synthesize(&objective, position(1, distilling_round, batch)).unwrap());
    let made = (0..2).flat_map(batch).collect::<Vec<_>>();
    let state = inversion.state_dict();
    let of_state = state.values().flat_map(|tensor| numbers(&tensor.to_dtype(DType::F32).unwrap()));
    made.into_iter().chain(of_state).collect()
}

/// `relevant` says that settings changed by `change` make the same images exactly if they do.
#[track_caller]
fn check_relevance(
    settings: &InvertSettings,
    distilling_round: Option<u32>,
    change: impl FnOnce(&mut InvertSettings, &mut PersistentSettings),
    relevant: bool,
) {
    let mut changed = settings.clone();
    let Strategy::Persistent(mut own) = changed.strategy.clone() else { unreachable!("it was asked for") };
    change(&mut changed, &mut own);
    changed.strategy = Strategy::Persistent(own);
    assert_eq!(settings.relevant(distilling_round) != changed.relevant(distilling_round), relevant);
    assert_eq!(round_of(settings, distilling_round) != round_of(&changed, distilling_round), relevant);
}

#[test]
fn the_adversarial_term_is_irrelevant_in_the_warm_up() {
    for (round, relevant) in [(None, false), (Some(0), true)] {
        check_relevance(&persistent(|_, _| {}), round, |all, _| all.loss.adversarial = 3.0, relevant);
        check_relevance(&persistent(|_, _| {}), round, |all, _| all.loss.discrepancy = Discrepancy::L1, relevant);
    }
}

#[test]
fn phi_is_irrelevant_without_the_class_term() {
    for (class, relevant) in [(0.0, false), (0.5, true)] {
        let settings = persistent(|all, _| all.loss.class = class);
        check_relevance(&settings, Some(1), |all, _| all.phi.gamma = 0.5, relevant);
    }
}

#[test]
fn the_form_is_irrelevant_without_the_batch_norm_term() {
    for (batch_norm, relevant) in [(0.0, false), (1.0, true)] {
        let settings = persistent(|all, _| all.loss.batch_norm = batch_norm);
        let change = |all: &mut InvertSettings, _: &mut _| all.loss.batch_norm_form = BatchNormForm::Relative;
        check_relevance(&settings, Some(1), change, relevant);
    }
}

#[test]
fn embeddings_are_irrelevant_for_predicted_targets() {
    for (targets, relevant) in [(TargetRule::Predicted, false), (TargetRule::Balanced, true)] {
        let settings = persistent(|all, _| all.targets = targets);
        check_relevance(&settings, Some(1), |_, own| own.embedding_scale = 1.0, relevant);
        check_relevance(&settings, Some(1), |_, own| own.embeddings_per_class = 3, relevant);
    }
}

#[test]
fn resets_are_relevant_in_their_rounds_alone() {
    for (round, relevant) in [(None, false), (Some(0), true), (Some(1), false)] {
        let never = persistent(|_, own| own.reset_round = 0);
        check_relevance(&never, round, |_, own| own.reset_round = 1, relevant);
    }
}

#[test]
fn a_generator_that_is_not_trained_has_no_relevant_optimizer() {
    // It only follows the student, and the warm-up has none.
    let follower = LossSettings { adversarial: 1.0, ..LossSettings::NONE };
    for (round, relevant) in [(None, false), (Some(1), true)] {
        let settings = persistent(|all, _| all.loss = follower);
        check_relevance(&settings, round, |_, own| own.lr = 0.1, relevant);
        check_relevance(&settings, round, |all, _| all.steps = 1, relevant);
        check_relevance(&settings, round, |all, _| all.views.color_jitter = 1.0, relevant);
    }
}

#[test]
fn a_segmentation_teacher_takes_no_classes_of_images() {
    let teacher = pixel_network(1);
    let refused = |settings: InvertSettings, message: &str| {
        let error = start(&settings, &teacher, 9, &device()).err().unwrap().to_string();
        assert!(error.contains(message), "{error}");
    };
    refused(persistent(|_, _| {}), "invert.phi.diversity must be \"off\" for a fpn-resnet8");
    let of_images = persistent(|all, _| (all.targets, all.phi) = (TargetRule::Balanced, ModulationSettings::OFF));
    refused(of_images, "invert.targets must be \"predicted\" for a fpn-resnet8");
}

#[test]
fn a_batch_is_rounded_and_labelled_by_the_teacher() {
    let teacher = network(1);
    let modulation = Modulation::new(ModulationSettings::OFF, &[]);
    let settings = persistent(|_, _| {});
    let mut inversion = start(&settings, &teacher, 9, &device()).unwrap();
    let objective = Objective::new(settings.loss, &teacher, None, &modulation);
    let made = inversion.synthesize(&objective, position(0, None, 0)).unwrap();
    assert_eq!(made.images.dims(), [6, 8, 8, 3]);
    for x in numbers(&made.images) {
        let level = x * 255.0;
        assert!((0.0..=1.0).contains(&x) && (level - level.round()).abs() < 1e-3, "{x}");
    }
    let again = teacher.logits(&made.images).unwrap();
    assert_repeated("logits", &numbers(&again), &numbers(&made.predictions.logits));
    assert_eq!(made.targets, ops::argmax(&made.predictions.logits).unwrap());
    assert_eq!(made.loss.term(Term::Adversarial), None, "no student in the warm-up");
}

#[test]
fn unmodulated_and_modulated_by_one_are_the_same_bits() {
    let teacher = network(1);
    // An empty buffer has diversity 1, whatever the form; γ = 0 has difficulty 1.
    let made = [&[][..], &[0, 0, 0, 0]].map(|counts| {
        let phi = if counts.is_empty() {
            ModulationSettings::OFF
        } else {
            ModulationSettings { gamma: 0.0, ..Default::default() }
        };
        let modulation = Modulation::new(phi, counts);
        let settings = settings(StrategyName::Meta);
        let mut inversion = start(&settings, &teacher, 9, &device()).unwrap();
        let objective = Objective::new(settings.loss, &teacher, None, &modulation);
        all(&inversion.synthesize(&objective, position(0, None, 0)).unwrap())
    });
    assert_repeated("batch", &made[0], &made[1]);
}

#[test]
fn an_interrupted_batch_ends_at_its_next_step() {
    let teacher = network(1);
    let modulation = Modulation::new(ModulationSettings::OFF, &[]);
    for name in StrategyName::ALL {
        let settings = InvertSettings { steps: 3, ..settings(name) };
        let asked = std::cell::Cell::new(0);
        let interrupt = || {
            asked.set(asked.get() + 1);
            if asked.get() == 2 {
                candle_core::bail!("enough");
            }
            Ok(())
        };
        let mut inversion = start(&settings, &teacher, 9, &device()).unwrap();
        let objective = Objective::new(settings.loss, &teacher, None, &modulation).interruptible(&interrupt);
        let error = inversion.synthesize(&objective, position(0, None, 0)).unwrap_err().to_string();
        assert!(error.starts_with("enough") && asked.get() == 2, "{name:?}: {error}, asked {}", asked.get());
    }
}

#[test]
fn a_step_waits_for_a_gpu_once() {
    let (teacher, student) = (network(1), network(2));
    let modulation = Modulation::new(ModulationSettings::default(), &[5, 0, 12, 3]);
    for name in StrategyName::ALL {
        let settings = InvertSettings { steps: 3, ..settings(name) };
        let mut inversion = start(&settings, &teacher, 9, &device()).unwrap();
        let objective = Objective::new(settings.loss, &teacher, Some(&student), &modulation);
        let before = ops::read_backs();
        inversion.synthesize(&objective, position(1, Some(0), 0)).unwrap();
        // The labels come with the last step's loss, or after it where it decides which images are labeled.
        let expected = if name == StrategyName::Persistent { 3 } else { 4 };
        assert_eq!(ops::read_backs() - before, if on_cuda() { expected } else { 0 }, "{name:?}");
    }
}

#[test]
fn steps_lower_the_loss() {
    let teacher = network(1);
    let modulation = Modulation::new(ModulationSettings::OFF, &[]);
    let settings = persistent(|all, own| {
        (all.steps, all.batch, all.views) = (1, 16, DifferentiableViewSettings::OFF);
        (own.lr, all.loss.batch_norm_momentum) = (1e-2, 0.0);
    });
    let mut inversion = start(&settings, &teacher, 9, &device()).unwrap();
    let objective = Objective::new(settings.loss, &teacher, None, &modulation);
    let total = |batch| inversion.synthesize(&objective, position(0, None, batch)).unwrap().loss.total;
    let totals = (0..30).map(total).collect::<Vec<_>>();
    let mean = |totals: &[f32]| totals.iter().sum::<f32>() / totals.len() as f32;
    assert!(mean(&totals[25..]) < 0.9 * mean(&totals[1..6]), "{totals:?}");
}
