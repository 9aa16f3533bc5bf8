//! What the strategies hold and do alike: the network with its optimiser and averages, the draws, the finished batch.

use std::collections::BTreeMap;

use candle_core::{Device, Result, Tensor, bail};
use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use ssdkd_nn::random::{normal_tensor, stream};
use ssdkd_nn::{Adam, Generator, Network, Store};
use ssdkd_ops as ops;

use crate::answers::Answers;
use crate::inversion::{ImageFormat, InvertSettings, Position, Synthesis, TargetRule};
use crate::inversion_loss::{BatchNormMomentum, InversionTerms};

/// The layer that is [drawn anew](TrainedGenerator::reset_if_due).
const FIRST_LINEAR: &str = "l1.0";

/// A generator in training, with all of its state.
pub(crate) struct TrainedGenerator {
    pub(crate) settings: InvertSettings,
    pub(crate) store: Store,
    pub(crate) network: Generator,
    pub(crate) optimizer: Adam,
    pub(crate) averages: BatchNormMomentum,
}

impl TrainedGenerator {
    /// A fresh generator of images like the teacher's.
    pub(crate) fn new(settings: InvertSettings, teacher: &Network, seed: u64, device: &Device) -> Result<Self> {
        let store = Store::seeded(device, stream(seed, "invert/generator", &[]).random());
        let network = build(&settings, teacher, &store)?;
        let optimizer = Adam::new(store.parameters(), settings.beta1, settings.beta2, 0.0)?;
        let averages = BatchNormMomentum::new(settings.bn_momentum);
        Ok(Self { settings, store, network, optimizer, averages })
    }

    /// z (B, latent), standard normal.
    pub(crate) fn latents(&self, position: Position, step: usize) -> Result<Tensor> {
        draw_latents(&self.settings, position, step, self.store.device())
    }

    /// What the network makes a step's images of `targets` from: fresh [latents](Self::latents), and behind them the class code.
    pub(crate) fn inputs(
        &self,
        position: Position,
        step: usize,
        targets: Option<&[u32]>,
        classes: usize,
    ) -> Result<Tensor> {
        let latents = self.latents(position, step)?;
        let Some(targets) = targets else { return Ok(latents) };
        self.with_code(latents, &draw_codes(&self.settings, position, step, targets), classes)
    }

    /// `latents` (B, latent), and behind them ρ at each row's code and 0 at all others: (B, latent + K·M), M codes for each of K classes.
    pub(crate) fn with_code(&self, latents: Tensor, codes: &[u32], classes: usize) -> Result<Tensor> {
        let width = classes * self.settings.codes_per_class;
        let mut rows = vec![0.0; codes.len() * width];
        for (row, &code) in rows.chunks_exact_mut(width).zip(codes) {
            row[code as usize] = self.settings.class_code as f32;
        }
        let rows = Tensor::from_vec(rows, (codes.len(), width), latents.device())?;
        Tensor::cat(&[latents, rows], 1)
    }

    /// Draws the first linear layer anew, N(0, 0.02) and zero bias, in the first batch of a round where the settings say so.
    pub(crate) fn reset_if_due(&self, position: Position) -> Result<()> {
        if position.batch != 0 || !self.settings.resets(position.distilling_round) {
            return Ok(());
        }
        let mut rng = draws(position, "invert/reset", 0);
        for (name, var) in self.store.parameters() {
            if name == format!("{FIRST_LINEAR}.weight") {
                let noise = normal_tensor(&mut rng, var.dims(), self.store.device())?;
                ops::copy_assign(&var, &(noise * 0.02)?)?;
            } else if name == format!("{FIRST_LINEAR}.bias") {
                ops::copy_assign(&var, &var.zeros_like()?)?;
            }
        }
        Ok(())
    }

    /// `generator.…`, `optimizer.…`, `batch_norm.…`.
    pub(crate) fn state_tensors(&self) -> BTreeMap<String, Tensor> {
        let parts = [
            (GENERATOR, self.store.to_tensors()),
            (OPTIMIZER, self.optimizer.state_tensors()),
            (BATCH_NORM, self.averages.state_tensors()),
        ];
        let prefixed = |(prefix, tensors): (&str, BTreeMap<String, Tensor>)| {
            tensors.into_iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor)).collect::<Vec<_>>()
        };
        parts.into_iter().flat_map(prefixed).collect()
    }

    /// Takes up a saved state; the error names what does not fit.
    pub(crate) fn load_state(&mut self, tensors: BTreeMap<String, Tensor>) -> Result<()> {
        let mut parts = [GENERATOR, OPTIMIZER, BATCH_NORM].map(|prefix| (prefix, BTreeMap::new()));
        for (name, tensor) in tensors {
            let part = parts.iter_mut().find_map(|(prefix, part)| Some((name.strip_prefix(*prefix)?.to_owned(), part)));
            match part {
                Some((name, part)) => part.insert(name, tensor.to_device(self.store.device())?),
                None => bail!("the generator state holds an unknown tensor, {name}"),
            };
        }
        let [(_, generator), (_, optimizer), (_, averages)] = parts;
        self.store.load_tensors(generator)?;
        self.optimizer.load_state(optimizer)?;
        self.averages.load_state(&averages)
    }
}

/// z (B, latent), standard normal.
pub(crate) fn draw_latents(
    settings: &InvertSettings,
    position: Position,
    step: usize,
    device: &Device,
) -> Result<Tensor> {
    normal_tensor(&mut draws(position, "invert/latents", step), (settings.batch, settings.latent), device)
}

/// The classes that the images of a batch should be of; `None`: whatever the teacher takes them for.
pub(crate) fn draw_targets(settings: &InvertSettings, position: Position, classes: usize) -> Option<Vec<u32>> {
    let mut rng = draws(position, "invert/targets", 0);
    let batch = settings.batch;
    match settings.targets {
        TargetRule::Predicted => None,
        TargetRule::Random => Some((0..batch).map(|_| rng.random_range(0..classes as u32)).collect()),
        TargetRule::Balanced => {
            // Which classes get the remainder is left to chance.
            let mut order = (0..classes as u32).collect::<Vec<_>>();
            order.shuffle(&mut rng);
            Some(order.into_iter().cycle().take(batch).collect())
        }
    }
}

/// One of the codes of each image's class, M·y to M·y + M − 1 for class y.
fn draw_codes(settings: &InvertSettings, position: Position, step: usize, targets: &[u32]) -> Vec<u32> {
    let codes = settings.codes_per_class as u32;
    let mut rng = draws(position, "invert/codes", step);
    targets.iter().map(|&target| target * codes + rng.random_range(0..codes)).collect()
}

/// Rounds the images (B, H, W, C), and has the teacher look at what will be stored.
pub(crate) fn finish(
    settings: &InvertSettings,
    teacher: &Network,
    images: &Tensor,
    targets: Option<Vec<u32>>,
    terms: InversionTerms,
) -> Result<Synthesis> {
    let images = match settings.image_format {
        ImageFormat::U8 => ops::round_to_u8_levels(images)?,
        ImageFormat::F32 => images.clone(),
    };
    let answers = Answers::of(&teacher.logits(&images)?, teacher.rows_per_image())?;
    let targets = targets.unwrap_or_else(|| answers.classes.clone());
    Ok(Synthesis { images, targets, answers, terms })
}

const GENERATOR: &str = "generator.";
const OPTIMIZER: &str = "optimizer.";
const BATCH_NORM: &str = "batch_norm.";

/// The generator's network over the tensors of `store`.
pub(crate) fn build(settings: &InvertSettings, teacher: &Network, store: &Store) -> Result<Generator> {
    let (height, width, channels) = teacher.input_shape(); // (H, W, C)
    if height != width {
        bail!("the generator makes square images, but this teacher's are {height} by {width} pixels");
    }
    let code = if settings.knows_classes() { teacher.classes() * settings.codes_per_class } else { 0 };
    Generator::new(settings.latent + code, settings.width, height, channels, store.builder())
}

/// The stream of one purpose at one step of one batch.
pub(crate) fn draws(position: Position, purpose: &str, step: usize) -> ChaCha8Rng {
    stream(position.seed, purpose, &[u64::from(position.round), u64::from(position.batch), step as u64])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::augment::AugmentSettings;
    use crate::golden::{assert_repeated, device, network, numbers, pixel_network};
    use crate::inversion::{Inversion, Strategy};
    use crate::inversion_loss::{Discrepancy, Objective};
    use crate::modulation::{Diversity, Modulation, ModulationSettings};
    use candle_core::DType;

    fn settings(strategy: Strategy) -> InvertSettings {
        let targets = if strategy == Strategy::Meta { TargetRule::Balanced } else { TargetRule::Predicted };
        InvertSettings {
            strategy,
            targets,
            latent: 8,
            width: 4,
            batch: 6,
            steps: 2,
            bn_momentum: 0.9,
            reset_round: 2,
            ..Default::default()
        }
    }

    fn position(round: u32, distilling_round: Option<u32>, batch: u32) -> Position {
        Position { seed: 9, round, distilling_round, batch }
    }

    fn all(made: &Synthesis) -> Vec<f32> {
        let targets = made.targets.iter().map(|&target| target as f32).collect();
        [numbers(&made.images), targets, numbers(&made.answers.logits), vec![made.terms.total]].concat()
    }

    #[track_caller]
    fn check_resumes(settings: &InvertSettings) {
        check_resumes_for(settings, &network(1), &network(2));
    }

    #[track_caller]
    fn check_resumes_for(settings: &InvertSettings, teacher: &Network, student: &Network) {
        let modulation = Modulation::new(ModulationSettings::default(), &[5, 0, 12, 3]);
        let make = |inversion: &mut dyn Inversion, rounds: std::ops::Range<u32>| {
            let batch = |(round, batch): (u32, u32)| {
                let distilling = round.checked_sub(1);
                let student = distilling.map(|_| student);
                let objective = Objective::new(settings, teacher, student, &modulation);
                all(&inversion.synthesize(&objective, position(round, distilling, batch)).unwrap())
            };
            rounds.flat_map(|round| [(round, 0), (round, 1)]).flat_map(batch).collect::<Vec<_>>()
        };
        let fresh = || Strategy::start(settings, teacher, 9, &device()).unwrap();
        let mut inversion = fresh();
        make(&mut *inversion, 0..2);
        let copy = |(name, tensor): (String, Tensor)| (name, tensor.copy().unwrap());
        let state = inversion.state_tensors().into_iter().map(copy).collect::<BTreeMap<_, _>>();
        let expected = make(&mut *inversion, 2..4);

        let mut resumed = fresh();
        resumed.load_state(state.clone()).unwrap();
        assert_repeated("batches", &make(&mut *resumed, 2..4), &expected);
        let mut restarted = fresh();
        assert_ne!(make(&mut *restarted, 2..4), expected, "the state matters");

        // What does not fit is refused by name.
        for missing in ["optimizer.l1.0.weight.first", "batch_norm.mean.0001", "generator.l1.0.bias"] {
            let mut state = state.clone();
            assert!(state.remove(missing).is_some(), "{missing}");
            assert!(fresh().load_state(state).is_err(), "{missing}");
        }
        let mut state = state;
        state.insert("student.conv1".into(), teacher.store().to_tensors()["conv1.weight"].clone());
        assert!(fresh().load_state(state).unwrap_err().to_string().contains("student.conv1"));
    }

    /// Two batches of a round, as numbers.
    fn round_of(settings: &InvertSettings, distilling_round: Option<u32>) -> Vec<f32> {
        let (teacher, student) = (network(1), network(2));
        let modulation = Modulation::new(settings.phi, &[5, 0, 12, 3]);
        let student = settings.looks_at_student(distilling_round).then_some(&student);
        let objective = Objective::new(settings, &teacher, student, &modulation);
        let mut inversion = Strategy::start(settings, &teacher, 9, &device()).unwrap();
        let batch = |batch| all(&inversion.synthesize(&objective, position(1, distilling_round, batch)).unwrap());
        let made = (0..2).flat_map(batch).collect::<Vec<_>>();
        let state = inversion.state_tensors();
        let of_state = state.values().flat_map(|tensor| numbers(&tensor.to_dtype(DType::F32).unwrap()));
        made.into_iter().chain(of_state).collect()
    }

    type Change = (&'static str, fn(&mut InvertSettings));

    /// Changes that may be of no relevance, each to a value that would show.
    const CHANGES: [Change; 19] = [
        ("phi", |s| s.phi.gamma = 0.5),
        ("adv", |s| s.adv = 3.0),
        ("discrepancy", |s| s.discrepancy = Discrepancy::L1),
        ("adv_mask", |s| s.adv_mask = true),
        ("lr_z", |s| s.lr_z = 0.5),
        ("latent", |s| s.latent = 9),
        ("width", |s| s.width = 5),
        ("lr_g", |s| s.lr_g = 0.1),
        ("tv", |s| s.tv = 0.5),
        ("l2", |s| s.l2 = 0.5),
        ("cr", |s| s.cr = 5.0),
        ("cr_temperature", |s| s.cr_temperature = 0.5),
        ("cr_bank", |s| s.cr_bank = 1),
        ("reset_round", |s| s.reset_round = 1),
        ("bn_momentum", |s| s.bn_momentum = 0.1),
        ("steps", |s| s.steps = 1),
        ("class_code", |s| s.class_code = 1.0),
        ("codes_per_class", |s| s.codes_per_class = 3),
        ("reset_every", |s| s.reset_every = 2),
    ];

    #[track_caller]
    fn check_irrelevant(settings: &InvertSettings, distilling_round: Option<u32>, irrelevant: &str) {
        let expected = round_of(settings, distilling_round);
        let mut same = Vec::new();
        for (name, change) in CHANGES {
            let mut changed = settings.clone();
            change(&mut changed);
            let made = round_of(&changed, distilling_round);
            let relevant = settings.relevant(distilling_round) != changed.relevant(distilling_round);
            // The mask shows only where teacher and student differ.
            let shows = made != expected || (name == "adv_mask" && relevant);
            assert_eq!(shows, relevant, "{name} of {:?} in {distilling_round:?}", settings.strategy);
            same.extend((!relevant).then_some(name));
        }
        assert_eq!(same.join(" "), irrelevant);
    }

    #[test]
    fn settings_are_irrelevant_exactly_where_they_change_nothing() {
        let settings = |strategy| InvertSettings { reset_round: 0, bn_momentum: 0.5, ..settings(strategy) };
        let adversary = "adv discrepancy adv_mask";
        let persistent = settings(Strategy::Persistent);
        let of_classes = |strategy| InvertSettings { targets: TargetRule::Balanced, ..settings(strategy) };
        let (always, code) = ("lr_z tv l2 cr cr_temperature cr_bank", "class_code codes_per_class");
        check_irrelevant(&persistent, None, &format!("{adversary} {always} reset_round {code} reset_every"));
        check_irrelevant(&persistent, Some(0), &format!("{always} {code} reset_every"));
        check_irrelevant(&persistent, Some(1), &format!("{always} reset_round {code}"));
        check_irrelevant(&persistent, Some(2), &format!("{always} reset_round {code} reset_every"));
        check_irrelevant(&of_classes(Strategy::Persistent), Some(1), &format!("{always} reset_round"));
        let alone = InvertSettings { adv: 0.0, oh: 0.0, ..persistent.clone() };
        check_irrelevant(&alone, Some(1), &format!("phi discrepancy adv_mask {always} reset_round {code}"));

        let without_statistics = InvertSettings { bn: 0.0, ..persistent.clone() };
        check_irrelevant(&without_statistics, Some(1), &format!("{always} reset_round bn_momentum {code}"));
        // It only follows the student, of whom there is none in the warm-up.
        let follower = InvertSettings { bn: 0.0, oh: 0.0, bal: 0.0, act: 0.0, adv: 1.0, ..persistent.clone() };
        let untrained = format!(
            "phi {adversary} lr_z lr_g tv l2 cr cr_temperature cr_bank reset_round bn_momentum steps {code} reset_every"
        );
        check_irrelevant(&follower, None, &untrained);

        let of_meta = format!("tv l2 cr cr_temperature cr_bank {code} reset_every");
        check_irrelevant(&settings(Strategy::Meta), Some(0), &of_meta);
        let without_generator =
            format!("latent width lr_g cr cr_temperature cr_bank reset_round bn_momentum {code} reset_every");
        check_irrelevant(&of_classes(Strategy::Pixels), Some(0), &without_generator);
        let mut contrastive = of_classes(Strategy::Contrastive);
        check_irrelevant(&contrastive, Some(0), &format!("tv l2 reset_round bn_momentum {code} reset_every"));
        contrastive.cr = 0.0;
        let without_contrast =
            format!("{adversary} tv l2 cr_temperature cr_bank reset_round bn_momentum {code} reset_every");
        check_irrelevant(&contrastive, None, &without_contrast);
    }

    #[test]
    fn codes_are_of_the_image_s_class_and_uniform() {
        let targets = TargetRule::Random;
        let settings = InvertSettings { targets, codes_per_class: 3, ..settings(Strategy::Persistent) };
        let targets = [2, 0, 1].repeat(1000);
        let mut counts = [0_u32; 9];
        for (code, target) in draw_codes(&settings, position(1, None, 0), 0, &targets).into_iter().zip(&targets) {
            assert_eq!(code / 3, *target);
            counts[code as usize] += 1;
        }
        assert!(counts.iter().all(|&count| (270..400).contains(&count)), "{counts:?}");
        // Another code makes another image of the same latents.
        let generator = TrainedGenerator::new(settings, &network(1), 9, &device()).unwrap();
        let latents = generator.latents(position(1, None, 0), 0).unwrap();
        let inputs = |code| generator.with_code(latents.clone(), &[code; 6], 4).unwrap();
        assert_eq!(inputs(5).dims(), [6, 8 + 4 * 3]);
        let images = |code| {
            let inputs = ssdkd_ops::Value::constant(inputs(code));
            numbers(generator.network.forward(&inputs, &ssdkd_nn::Pass::train_frozen()).unwrap().tensor())
        };
        assert_ne!(images(5), images(4));
    }

    #[test]
    fn both_strategies_resume_to_the_same_bits() {
        let persistent = settings(Strategy::Persistent);
        check_resumes(&persistent);
        check_resumes(&InvertSettings { targets: TargetRule::Random, codes_per_class: 3, ..persistent });
        check_resumes(&settings(Strategy::Meta));
        let (teacher, student) = (pixel_network(1), pixel_network(2));
        for strategy in [Strategy::Persistent, Strategy::Meta] {
            let phi = ModulationSettings { diversity: Diversity::Off, gamma: 1.0 };
            let settings = InvertSettings { targets: TargetRule::Predicted, phi, ..settings(strategy) };
            check_resumes_for(&settings, &teacher, &student);
        }
    }

    #[test]
    fn a_teacher_of_pixels_takes_no_classes_of_images() {
        let teacher = pixel_network(1);
        let refused = |settings: InvertSettings, message: &str| {
            let error = Strategy::start(&settings, &teacher, 9, &device()).err().unwrap().to_string();
            assert!(error.contains(message), "{error}");
        };
        let settings = settings(Strategy::Persistent);
        refused(settings.clone(), "invert.phi.diversity must be \"off\" for a fpn-resnet8");
        let of_images = InvertSettings { targets: TargetRule::Balanced, phi: ModulationSettings::OFF, ..settings };
        refused(of_images, "invert.targets must be \"predicted\" for a fpn-resnet8");
    }

    #[test]
    fn a_batch_is_rounded_and_labelled_by_the_teacher() {
        let teacher = network(1);
        let modulation = Modulation::new(ModulationSettings::OFF, &[]);
        let settings = settings(Strategy::Persistent);
        let mut inversion = Strategy::start(&settings, &teacher, 9, &device()).unwrap();
        let objective = Objective::new(&settings, &teacher, None, &modulation);
        let made = inversion.synthesize(&objective, position(0, None, 0)).unwrap();
        assert_eq!(made.images.dims(), [6, 8, 8, 3]);
        for x in numbers(&made.images) {
            let level = x * 255.0;
            assert!((0.0..=1.0).contains(&x) && (level - level.round()).abs() < 1e-3, "{x}");
        }
        let again = teacher.logits(&made.images).unwrap();
        assert_repeated("logits", &numbers(&again), &numbers(&made.answers.logits));
        assert_eq!(made.targets, ops::argmax(&made.answers.logits).unwrap());
        assert_eq!(made.terms.adversarial, 0.0, "no adversary in the warm-up");
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
            let settings = settings(Strategy::Meta);
            let mut inversion = Strategy::start(&settings, &teacher, 9, &device()).unwrap();
            let objective = Objective::new(&settings, &teacher, None, &modulation);
            all(&inversion.synthesize(&objective, position(0, None, 0)).unwrap())
        });
        assert_repeated("batch", &made[0], &made[1]);
    }

    #[test]
    fn balanced_targets_are_even_and_random_ones_are_not_always() {
        let counts = |targets, batch| {
            let settings = InvertSettings { batch, targets, ..settings(Strategy::Meta) };
            let mut counts = [0; 4];
            for class in draw_targets(&settings, position(0, None, 0), 4).unwrap() {
                counts[class as usize] += 1;
            }
            counts
        };
        assert_eq!(counts(TargetRule::Balanced, 40), [10; 4]);
        let remainder = counts(TargetRule::Balanced, 42);
        assert!(remainder.iter().all(|count| (10..=11).contains(count)), "{remainder:?}");
        let random = counts(TargetRule::Random, 4000);
        assert!(random.iter().all(|count| (900..1100).contains(count)), "{random:?}");
        assert_ne!(random, [1000; 4]);
    }

    #[test]
    fn the_first_layer_is_drawn_anew_once() {
        let generator = TrainedGenerator::new(settings(Strategy::Meta), &network(1), 9, &device()).unwrap();
        let tensors = || generator.store.deep_clone().unwrap().to_tensors();
        let before = tensors();
        for early in [position(0, None, 0), position(1, Some(0), 0), position(2, Some(1), 1), position(3, Some(2), 0)] {
            generator.reset_if_due(early).unwrap();
        }
        let rounds =
            |settings: InvertSettings| (0..9).filter(|&round| settings.resets(Some(round))).collect::<Vec<_>>();
        assert_eq!(rounds(generator.settings.clone()), [1]);
        assert_eq!(rounds(InvertSettings { reset_every: 4, ..generator.settings.clone() }), [1, 3, 7]);
        let same = |a: &BTreeMap<String, Tensor>, b: &BTreeMap<String, Tensor>, name: &str| {
            numbers(&a[name]) == numbers(&b[name])
        };
        assert!(same(&before, &tensors(), "l1.0.weight"));
        generator.reset_if_due(position(2, Some(1), 0)).unwrap();
        let after = tensors();
        assert!(!same(&before, &after, "l1.0.weight") && same(&before, &after, "conv_blocks.2.weight"));
        assert!(numbers(&after["l1.0.bias"]).iter().all(|&bias| bias == 0.0));
        let squares = numbers(&after["l1.0.weight"]).iter().map(|x| x * x).collect::<Vec<_>>();
        let deviation = (squares.iter().sum::<f32>() / squares.len() as f32).sqrt();
        assert!((deviation - 0.02).abs() < 0.003, "{deviation}");
    }

    #[test]
    fn a_batch_that_is_called_off_ends_at_its_next_step() {
        let teacher = network(1);
        let modulation = Modulation::new(ModulationSettings::OFF, &[]);
        for strategy in [Strategy::Persistent, Strategy::Meta, Strategy::Pixels, Strategy::Contrastive] {
            let settings = InvertSettings { steps: 3, ..settings(strategy) };
            let asked = std::cell::Cell::new(0);
            let heed = || {
                asked.set(asked.get() + 1);
                if asked.get() == 2 {
                    candle_core::bail!("enough");
                }
                Ok(())
            };
            let mut inversion = Strategy::start(&settings, &teacher, 9, &device()).unwrap();
            let objective = Objective::new(&settings, &teacher, None, &modulation).heeding(&heed);
            let error = inversion.synthesize(&objective, position(0, None, 0)).unwrap_err().to_string();
            assert!(error.starts_with("enough") && asked.get() == 2, "{strategy:?}: {error}, asked {}", asked.get());
        }
    }

    #[test]
    fn steps_lower_the_loss() {
        let teacher = network(1);
        let modulation = Modulation::new(ModulationSettings::OFF, &[]);
        let settings = InvertSettings {
            steps: 1,
            batch: 16,
            lr_g: 1e-2,
            bn_momentum: 0.0,
            augment: AugmentSettings::OFF,
            ..settings(Strategy::Persistent)
        };
        let mut inversion = Strategy::start(&settings, &teacher, 9, &device()).unwrap();
        let objective = Objective::new(&settings, &teacher, None, &modulation);
        let total = |batch| inversion.synthesize(&objective, position(0, None, batch)).unwrap().terms.total;
        let totals = (0..30).map(total).collect::<Vec<_>>();
        let mean = |totals: &[f32]| totals.iter().sum::<f32>() / totals.len() as f32;
        assert!(mean(&totals[25..]) < 0.9 * mean(&totals[1..6]), "{totals:?}");
    }
}
