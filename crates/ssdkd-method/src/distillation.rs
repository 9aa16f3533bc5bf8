//! One step of the student.
//!
//! ```text
//! L_S = mean_i w_i · T² · KL( softmax(t_i / T) ‖ softmax(s_i / T) )                                               [C]
//!       mean |t − s|                                                                      [C: DFAD, for its baseline]
//!       + feature_distillation · L_F                                             [O]: see `feature_distillation.rs`
//! ```
//!
//! i runs over images, or over the pixels of all images where networks label these. Teacher logits t and student logits s are of the same
//! [view](ssdkd_nn::views) of image i; w_i is the importance weight from
//! the [priority sampling](crate::priority) (1 if it does not scale the loss). T² keeps the gradient's size when T
//! changes. The student is in training mode, the teacher in evaluation mode. The step also yields what the next round's
//! priorities may be made of: each sample's KL at T = 1, and how often the two networks name the same class.
//!
//! The learning rate is a function of the global step alone: a straight line up over the warm-up steps, then a cosine
//! from `lr` to `lr_min` at the run's last step. Settings of the public baselines \[C: Fast-Datafree\]: SGD with
//! momentum 0.9 and weight decay 1e-4, lr 0.2 down to 2e-4, T = 20, batches of 256, 80,000 steps. The defaults here are
//! those of shorter runs \[O\].

use candle_core::{Result, Tensor, bail};
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssdkd_nn::{Adam, Mode, Network, Optimizer, Output, Sgd, StateDict, Store, ViewSettings, schedule};
use ssdkd_ops as ops;
use ssdkd_ops::{Gradients, Packed, Value};

use crate::feature_distillation::FeatureDistillation;
use crate::inversion::Discrepancy;
use crate::passes::Labelled;
use crate::range;
use crate::replay::Replayed;

/// Distillation: the student's training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DistillSettings {
    /// Student steps in a round \[C: 400\].
    #[schemars(range(min = 1, max = 1_000_000))]
    pub steps: usize,
    /// Images in a step \[C: 256\].
    #[schemars(range(min = 2, max = 65_536))]
    pub batch: usize,
    /// How often the student sees each view of a round. The teacher labels a view once. `steps` must be a multiple of it \[O\].
    #[schemars(range(min = 1))]
    pub passes: usize,
    /// The loss on the logits: "kl", or "l1", which uses neither temperature nor importance weights \[C: DFAD\].
    pub loss: Discrepancy,
    /// Softmax temperature of the "kl" loss \[C: 20\].
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub temperature: f64,
    /// Factor of feature distillation, the distance between the feature maps of student and teacher; 0: logits alone \[O\].
    #[schemars(range(min = 0.0))]
    pub feature_distillation: f64,
    /// The student's optimizer.
    pub optimizer: OptimizerKind,
    /// Highest learning rate \[C: 0.2\].
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub lr: f64,
    /// Learning rate at the last step of the run. It falls to it along a cosine \[C: 2e-4\].
    #[schemars(range(min = 0.0))]
    pub lr_min: f64,
    /// Steps, counted over the whole run, in which the learning rate rises linearly to `lr` \[C: 0\].
    #[schemars(range(min = 0, max = 100_000_000))]
    pub warmup_steps: usize,
    /// Momentum of SGD \[C: 0.9\].
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1.0))]
    pub momentum: f64,
    /// Use Nesterov momentum in SGD \[C: no\].
    pub nesterov: bool,
    /// L2 penalty on every trained parameter \[C: 1e-4\].
    #[schemars(range(min = 0.0))]
    pub weight_decay: f64,
    /// The views of the images that the teacher labels and the student learns from.
    pub views: ViewSettings,
}

impl Default for DistillSettings {
    fn default() -> Self {
        Self {
            steps: 40,
            batch: 128,
            passes: 1,
            loss: Discrepancy::Kl,
            temperature: 4.0,
            feature_distillation: 0.0,
            optimizer: OptimizerKind::Sgd,
            lr: 0.1,
            lr_min: 1e-4,
            warmup_steps: 0,
            momentum: 0.9,
            nesterov: false,
            weight_decay: 5e-4,
            views: ViewSettings::default(),
        }
    }
}

impl DistillSettings {
    /// Checks every value; the error names the recipe's key.
    pub fn validate(&self) -> std::result::Result<(), String> {
        range::check("distill", self)?;
        let Self { steps, passes, .. } = *self;
        if passes > steps {
            return Err(format!(
                "distill.passes is {passes}; it must be a whole number from 1 to distill.steps, {steps}"
            ));
        }
        if !steps.is_multiple_of(passes) {
            return Err(format!("distill.steps is {steps}; it must be a multiple of distill.passes, {passes}"));
        }
        if self.lr_min > self.lr {
            return Err(format!("distill.lr_min is {}; it must not be above distill.lr, {}", self.lr_min, self.lr));
        }
        if self.nesterov && self.momentum == 0.0 {
            return Err("distill.nesterov is true; it must be false while distill.momentum is 0".into());
        }
        Ok(())
    }

    /// Returns these settings; those that change nothing have their defaults.
    #[must_use]
    pub fn relevant(&self) -> Self {
        let default = Self::default();
        let mut settings = self.clone();
        if self.loss == Discrepancy::L1 {
            settings.temperature = default.temperature;
        }
        if self.optimizer == OptimizerKind::Adam {
            (settings.momentum, settings.nesterov) = (default.momentum, default.nesterov);
        }
        settings
    }

    /// Images drawn for a round: those of the steps of one pass.
    pub fn draws(&self) -> usize {
        self.steps / self.passes * self.batch
    }

    /// Returns the learning rate of step `step` (from 0) of `total` in the run.
    pub fn learning_rate(&self, step: u64, total: u64) -> f64 {
        let warmup = self.warmup_steps as u64;
        if step < warmup {
            return self.lr * (step + 1) as f64 / warmup as f64;
        }
        schedule::cosine(self.lr, self.lr_min, step - warmup, total.saturating_sub(warmup))
    }
}

/// The student's optimizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// Stochastic gradient descent with momentum.
    Sgd,
    /// Adam with decays 0.9 and 0.999.
    Adam,
}

/// What one step showed.
#[derive(Debug, Clone, PartialEq)]
pub struct StepReport {
    /// L_S, feature distillation included.
    pub loss: f32,
    /// L_F, before its factor; `None` without feature distillation.
    pub feature_distillation: Option<f32>,
    /// KL(f_t ‖ f_s) in nats at T = 1 of every sample's view, the mean over its pixels where these are labeled, before the step.
    pub disagreement: Vec<f32>,
    /// Share of the views, or of their pixels, that both networks take for the same class.
    pub agreement: f32,
    /// Euclidean norm of the gradient over all parameters, weight decay not included.
    pub gradient_norm: f32,
    /// The learning rate.
    pub lr: f64,
}

impl StepReport {
    /// Reads what [`Distiller::learn`] packed: L_F, if there is one, then loss, gradient norm, agreement and disagreement.
    fn read(figures: &Packed, has_features: bool, step: u64, lr: f64) -> Result<Self> {
        let mut figures = figures.read()?.into_iter();
        let mut next = || figures.next().unwrap_or_default();
        let mut single = || next().first().copied().unwrap_or(f32::NAN);
        let feature_distillation = has_features.then(&mut single);
        let [loss, gradient_norm, agreement] = [(); 3].map(|()| single());
        let disagreement = next();
        if !loss.is_finite() {
            bail!("the student's loss at step {step} is {loss}\nhint: it has diverged; lower distill.lr");
        }
        Ok(Self { loss, feature_distillation, disagreement, agreement, gradient_norm, lr })
    }
}

/// Trains the student: optimizer, schedule, and the projections of feature distillation.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use ssdkd_method::{DistillSettings, Distiller};
/// use ssdkd_nn::{Network, NetworkSpec, TeacherCard, random::stream};
///
/// let path = "../../data/teachers/shapes-resnet20.json".as_ref();
/// let card = TeacherCard::load(path)?;
/// let teacher = card.network(path, &Device::Cpu)?.frozen();
/// let spec = NetworkSpec { architecture: "resnet8".parse()?, ..card.spec() };
/// let student = Network::create(&spec, 0, &Device::Cpu)?;
/// let mut distiller = Distiller::new(DistillSettings::default(), &teacher, &student, 0)?;
/// let images = Tensor::rand(0_f32, 1.0, (4, 32, 32, 3), &Device::Cpu)?;
/// let report = distiller.step(&teacher, &student, &images, None, (0, 100), &mut stream(0, "views", &[]))?;
/// assert_eq!(report.disagreement.len(), 4);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Distiller {
    settings: DistillSettings,
    optimizer: Box<dyn Optimizer>,
    features: Option<FeatureDistillation>,
    replayed: Replayed,
}

impl Distiller {
    /// Creates a fresh optimizer for `student`. Steps change its weights in place. `seed` draws the projections.
    pub fn new(settings: DistillSettings, teacher: &Network, student: &Network, seed: u64) -> Result<Self> {
        let wanted = settings.feature_distillation > 0.0;
        let features = if wanted { Some(FeatureDistillation::new(teacher, student, seed)?) } else { None };
        let mut parameters = student.store().parameters();
        parameters.extend(features.iter().flat_map(FeatureDistillation::parameters));
        let optimizer: Box<dyn Optimizer> = match settings.optimizer {
            OptimizerKind::Sgd => {
                Box::new(Sgd::new(parameters, settings.momentum, settings.weight_decay, settings.nesterov)?)
            }
            OptimizerKind::Adam => Box::new(Adam::new(parameters, 0.9, 0.999, settings.weight_decay)?),
        };
        Ok(Self { settings, optimizer, features, replayed: Replayed::default() })
    }

    /// Takes one step on `images` that are seen once: [`label`](Self::label), then [`learn`](Self::learn).
    pub fn step(
        &mut self,
        teacher: &Network,
        student: &Network,
        images: &Tensor,
        weights: Option<&[f32]>,
        position: (u64, u64),
        views: &mut ChaCha8Rng,
    ) -> Result<StepReport> {
        let labelled = self.label(teacher, images, views)?;
        self.learn(student, labelled, weights, position)
    }

    /// Returns a view, drawn from `views`, of each of `images` (B, H, W, C) in `[0, 1]`, and what the teacher says about it.
    pub fn label(&self, teacher: &Network, images: &Tensor, views: &mut ChaCha8Rng) -> Result<Labelled> {
        let views = Value::constant(self.settings.views.view(images, views)?);
        let Output { maps, logits, .. } = teacher.forward(&views, Mode::Eval)?; // …, (B, K)
        let maps = self.features.as_ref().map_or_else(|| Ok(Vec::new()), |features| features.targets(&maps))?;
        Ok(Labelled { views: views.tensor().clone(), logits: logits.tensor().clone(), maps })
    }

    /// Takes one step, number `step` (from 0) of `total` in the run. `weights` are the importance weights w, if they scale the loss.
    pub fn learn(
        &mut self,
        student: &Network,
        labelled: Labelled,
        weights: Option<&[f32]>,
        (step, total): (u64, u64),
    ) -> Result<StepReport> {
        let lr = self.settings.learning_rate(step, total);
        let mut numbers = self.optimizer.next_rates(lr);
        let rates = numbers.len();
        if let Some(weights) = weights.filter(|_| self.settings.loss == Discrepancy::Kl) {
            ops::check_row_weights("the student's loss", weights)?;
            numbers.extend(repeated(weights, student.rows_per_image()));
        }
        let length = numbers.len();
        let numbers = Tensor::from_vec(numbers, length, student.store().device())?;
        let Labelled { views, logits, maps } = labelled;
        let inputs = [views, logits, numbers].into_iter().chain(maps).collect();
        let mut replayed = std::mem::take(&mut self.replayed);
        let figures = replayed.step(inputs, student.store(), |inputs| self.order(student, rates, inputs))?;
        self.replayed = replayed;
        // Last and at once: a GPU is waited for once in a step.
        StepReport::read(&figures, self.features.is_some(), step, lr)
    }

    /// Orders the work of a step, and returns its figures as [`StepReport::read`] takes them. `inputs` are views, the teacher's
    /// logits, the optimizer's `rates` numbers and behind them the importance weights of the rows, if there are any, and the teacher's
    /// maps.
    fn order(&self, student: &Network, rates: usize, inputs: Vec<Tensor>) -> Result<Packed> {
        let mut inputs = inputs.into_iter();
        let (Some(views), Some(teacher_logits), Some(numbers)) = (inputs.next(), inputs.next(), inputs.next()) else {
            bail!("a step takes views, logits and numbers")
        };
        let teacher_maps = inputs.collect::<Vec<_>>();
        let weighted = numbers.elem_count() - rates;
        let weights = if weighted > 0 { Some(numbers.narrow(0, rates, weighted)?) } else { None };
        let rates = numbers.narrow(0, 0, rates)?;
        let rows = student.rows_per_image();

        let teacher_logits = Value::constant(teacher_logits);
        let Output { maps, logits: student_logits, .. } = student.forward(&Value::constant(views), Mode::Train)?;
        let mut loss = match self.settings.loss {
            Discrepancy::Kl => {
                distillation_loss(&teacher_logits, &student_logits, self.settings.temperature, weights.as_ref())?
            }
            Discrepancy::L1 => ops::mean_absolute_difference(&teacher_logits, &student_logits)?,
        };
        let mut figures = Vec::new();
        if let Some(features) = &self.features {
            let distance = features.loss(&maps, &teacher_maps)?;
            loss = ops::weighted_sum(&[(1.0, &loss), (self.settings.feature_distillation, &distance)])?;
            figures.push(distance.tensor().clone());
        }
        let (t, s) = (teacher_logits.tensor().clone(), student_logits.tensor().clone());
        // A value holds everything that it was made from, so the backward pass could free nothing.
        drop((maps, teacher_maps, teacher_logits, student_logits));

        figures.push(loss.tensor().clone());
        let gradients = loss.backward()?;
        self.optimizer.step_at(&gradients, &rates)?;
        figures.extend([gradient_norm(student.store(), &gradients)?, ops::agreement(&t, &s)?]);
        figures.push(divergences(&t, &s, rows)?);
        Packed::of(&figures.iter().collect::<Vec<_>>())
    }

    /// Returns everything besides the student that a later step needs: the parts `optimizer` and `projector`.
    pub fn state_dict(&self) -> StateDict {
        let projector = self.features.as_ref().map(FeatureDistillation::state_dict).unwrap_or_default();
        StateDict::default().with(OPTIMIZER, self.optimizer.state_dict()).with(PROJECTOR, projector)
    }

    /// Restores a saved state. The error names what does not fit these settings.
    pub fn load_state_dict(&mut self, mut state: StateDict) -> Result<()> {
        self.optimizer.load_state_dict(state.take(OPTIMIZER))?;
        let projector = state.take(PROJECTOR);
        match &self.features {
            Some(features) => features.load_state_dict(projector)?,
            None if projector.is_empty() => {}
            None => bail!(
                "the optimizer state holds a projector of features, but distill.feature_distillation is 0\n\
                 hint: set distill.feature_distillation as it was when the state was saved"
            ),
        }
        state.finish("the optimizer state")
    }
}

const OPTIMIZER: &str = "optimizer";
const PROJECTOR: &str = "projector";

/// L_S of teacher and student logits (B, K); see the [module](self).
pub fn distillation_loss(
    teacher_logits: &Value,
    student_logits: &Value,
    temperature: f64,
    weights: Option<&Tensor>,
) -> Result<Value> {
    let divergence = ops::kl_divergence(&teacher_logits.detach(), student_logits, temperature, weights)?;
    ops::scale(&divergence, temperature * temperature)
}

/// KL(f_t ‖ f_s) in nats at T = 1 of every image, the mean over its `rows` of logits (B·rows, K): what δ is made of.
pub fn disagreement(teacher_logits: &Tensor, student_logits: &Tensor, rows: usize) -> Result<Vec<f32>> {
    divergences(teacher_logits, student_logits, rows)?.to_vec1()
}

/// As [`disagreement`], as a tensor (B,) on the device of the logits.
fn divergences(teacher_logits: &Tensor, student_logits: &Tensor, rows: usize) -> Result<Tensor> {
    ops::group_means(&ops::kl_per_sample(teacher_logits, student_logits, 1.0)?, rows)
}

/// Returns each of `values` `count` times: those of images for their rows of logits.
fn repeated(values: &[f32], count: usize) -> Vec<f32> {
    values.iter().flat_map(|&value| std::iter::repeat_n(value, count)).collect()
}

/// Returns the norm of all gradients of a network's parameters, a tensor of rank 0.
fn gradient_norm(store: &Store, gradients: &Gradients) -> Result<Tensor> {
    let parameters = store.parameters();
    let of_student = parameters.iter().filter_map(|(_, parameter)| gradients.get(parameter));
    ops::norm_of_all(&of_student.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{
        Golden, assert_repeated, formula, network, numbers, oblong_networks, on_cuda, pixel_network,
    };
    use ssdkd_nn::NetworkSpec;
    use ssdkd_nn::random::{stream, uniform_tensor};
    use ssdkd_nn::views::jitter_color;

    fn images(seed: u32) -> Tensor {
        (formula(seed, &[6, 8, 8, 3], 0.5) + 0.5).unwrap()
    }

    #[test]
    fn two_steps_are_those_of_pytorch() {
        let golden = Golden::load();
        let (teacher, student) = (network(1), network(2));
        let settings = DistillSettings { lr: 0.05, lr_min: 0.05, views: ViewSettings::OFF, ..Default::default() };
        let mut distiller = Distiller::new(settings, &teacher, &student, 0).unwrap();
        let weights = numbers(&(formula(12, &[6], 0.5) + 0.5).unwrap());
        for step in 0..2 {
            let rng = &mut stream(0, "test", &[]);
            let images = images(40 + step as u32);
            let report = distiller.step(&teacher, &student, &images, Some(&weights), (step, 2), rng).unwrap();
            golden.check(&format!("distil.{step}"), &[report.loss, report.gradient_norm, report.agreement], 1e-4);
            golden.check(&format!("distil.{step}.disagreement"), &report.disagreement, 1e-3);
        }
        let tensors = student.store().state_dict();
        for name in ["conv1.weight", "linear.weight", "bn1.running_mean", "bn1.running_var"] {
            golden.check(&format!("distil.student.{name}"), &numbers(&tensors[name]), 1e-4);
        }
    }

    #[test]
    fn a_step_waits_for_a_gpu_once() {
        let (teacher, student) = (network(1), network(2));
        let settings = DistillSettings { feature_distillation: 1.0, ..Default::default() };
        let mut distiller = Distiller::new(settings, &teacher, &student, 0).unwrap();
        let before = ops::read_backs();
        for step in 0..2 {
            let rng = &mut stream(0, "test", &[step]);
            distiller.step(&teacher, &student, &images(40), Some(&[0.5; 6]), (step, 2), rng).unwrap();
        }
        assert_eq!(ops::read_backs() - before, if on_cuda() { 2 } else { 0 });
    }

    #[test]
    fn the_teacher_labels_the_views_that_the_student_sees() {
        let (teacher, student) = (network(1), network(2));
        let settings =
            DistillSettings { views: ViewSettings { color_jitter: 1.0, ..ViewSettings::OFF }, ..Default::default() };
        let distiller = Distiller::new(settings, &teacher, &student, 0).unwrap();
        let labelled = distiller.label(&teacher, &images(40), &mut stream(0, "test", &[])).unwrap();
        let jittered = jitter_color(&images(40), 1.0, &mut stream(0, "test", &[])).unwrap();
        assert_ne!(numbers(&jittered), numbers(&images(40)));
        assert_eq!(numbers(&labelled.views), numbers(&jittered));
        assert_eq!(numbers(&labelled.logits), numbers(&teacher.logits(&jittered).unwrap()));
    }

    #[test]
    fn a_step_on_pixels_weighs_images_and_reports_them() {
        let (teacher, student) = (pixel_network(1), pixel_network(2));
        let settings = DistillSettings { views: ViewSettings::OFF, ..Default::default() };
        let mut distiller = Distiller::new(settings.clone(), &teacher, &student, 0).unwrap();
        let rng = &mut stream(0, "test", &[]);
        let (images, weights) = (images(40), [1.0, 0.0, 2.0, 0.0, 0.5, 0.0]);
        let of =
            |network: &Network, mode: Mode| network.forward(&Value::constant(images.clone()), mode).unwrap().logits;
        let (t, s) = (of(&teacher, Mode::Eval), of(&student, Mode::TrainFrozen));
        assert_eq!(s.dims(), [6 * 64, 4]);
        let of_rows = numbers(&ops::kl_per_sample(t.tensor(), s.tensor(), settings.temperature).unwrap());
        let of_image = |rows: &[f32]| rows.iter().sum::<f32>() / 64.0;
        let expected = of_rows.chunks(64).zip(weights).map(|(rows, weight)| weight * of_image(rows)).sum::<f32>();
        let expected = expected / 6.0 * (settings.temperature * settings.temperature) as f32;
        let observed = numbers(&ops::kl_per_sample(t.tensor(), s.tensor(), 1.0).unwrap());
        let report = distiller.step(&teacher, &student, &images, Some(&weights), (0, 1), rng).unwrap();
        assert!((report.loss / expected - 1.0).abs() < 1e-3, "{} is not {expected}", report.loss);
        assert_eq!(report.disagreement.len(), 6);
        for (found, rows) in report.disagreement.iter().zip(observed.chunks(64)) {
            assert!((found / of_image(rows) - 1.0).abs() < 1e-3, "{found}");
        }
    }

    /// Steps `range` of one training, on images and views that depend on the step alone.
    fn train(
        distiller: &mut Distiller,
        teacher: &Network,
        student: &Network,
        range: std::ops::Range<u64>,
    ) -> Vec<StepReport> {
        let step = |step| {
            let mut rng = stream(1, "test", &[step]);
            let images = uniform_tensor(&mut rng, (0.0, 1.0), (16, 8, 8, 3), student.store().device()).unwrap();
            distiller.step(teacher, student, &images, None, (step, 30), &mut rng).unwrap()
        };
        range.map(step).collect()
    }

    /// Returns all numbers of all reports.
    fn figures(reports: &[StepReport]) -> Vec<f32> {
        let of = |report: &StepReport| {
            let StepReport { loss, feature_distillation, disagreement, agreement, gradient_norm, lr } = report;
            let features = feature_distillation.unwrap_or_default();
            [&[*loss, features, *agreement, *gradient_norm, *lr as f32], &disagreement[..]].concat()
        };
        reports.iter().flat_map(of).collect()
    }

    #[track_caller]
    fn check_resumes(settings: &DistillSettings) {
        let teacher = network(1);
        let student = network(2);
        let mut distiller = Distiller::new(settings.clone(), &teacher, &student, 0).unwrap();
        train(&mut distiller, &teacher, &student, 0..3);
        let copies = |tensors: StateDict| {
            tensors.into_iter().map(|(name, tensor)| (name, tensor.copy().unwrap())).collect::<StateDict>()
        };
        let (weights, state) = (copies(student.store().state_dict()), copies(distiller.state_dict()));
        let expected = train(&mut distiller, &teacher, &student, 3..6);

        let resumed = network(7);
        let mut distiller_again = Distiller::new(settings.clone(), &teacher, &resumed, 0).unwrap();
        resumed.store().load_state_dict(weights).unwrap();
        distiller_again.load_state_dict(state).unwrap();
        let again = train(&mut distiller_again, &teacher, &resumed, 3..6);
        assert_repeated("reports", &figures(&again), &figures(&expected));
    }

    #[test]
    fn a_restored_state_goes_on_to_the_same_bits() {
        check_resumes(&DistillSettings::default());
        check_resumes(&DistillSettings { nesterov: true, ..Default::default() });
        check_resumes(&DistillSettings { optimizer: OptimizerKind::Adam, lr: 1e-3, ..Default::default() });
        check_resumes(&DistillSettings { feature_distillation: 2.0, ..Default::default() });
    }

    #[test]
    fn a_state_of_other_settings_is_refused() {
        let (teacher, student) = (network(1), network(2));
        let with_maps = DistillSettings { feature_distillation: 2.0, ..Default::default() };
        // Of other width, so that projections stand between.
        let spec = NetworkSpec { architecture: "wrn-16-2".parse().unwrap(), ..teacher.spec().clone() };
        let wide = Network::create(&spec, 5, teacher.store().device()).unwrap();
        let with_maps = Distiller::new(with_maps, &teacher, &wide, 0).unwrap();
        let mut plain = Distiller::new(DistillSettings::default(), &teacher, &wide, 0).unwrap();
        let mut state = with_maps.state_dict();
        state.retain(|name, _| !name.starts_with("optimizer."));
        state.extend(plain.state_dict().into_iter().map(|(name, tensor)| (name, tensor.copy().unwrap())));
        let error = plain.load_state_dict(state).unwrap_err().to_string();
        assert!(error.contains("distill.feature_distillation"), "{error}");
        let mut plain = Distiller::new(DistillSettings::default(), &teacher, &student, 0).unwrap();
        let unknown = StateDict::from_iter([("velocity".to_owned(), images(1))]);
        assert!(plain.load_state_dict(unknown).unwrap_err().to_string().contains("velocity"));
    }

    #[test]
    fn settings_are_irrelevant_exactly_where_they_change_nothing() {
        type Change = (&'static str, fn(&mut DistillSettings));
        let changes: [Change; 4] = [
            ("temperature", |s| s.temperature = 1.5),
            ("momentum", |s| s.momentum = 0.1),
            ("nesterov", |s| s.nesterov = true),
            ("weight_decay", |s| s.weight_decay = 0.1),
        ];
        let trained = |settings: &DistillSettings| {
            let (teacher, student) = (network(1), network(2));
            let mut distiller = Distiller::new(settings.clone(), &teacher, &student, 0).unwrap();
            figures(&train(&mut distiller, &teacher, &student, 0..4))
        };
        for (loss, optimizer, irrelevant) in [
            (Discrepancy::Kl, OptimizerKind::Sgd, ""),
            (Discrepancy::L1, OptimizerKind::Sgd, "temperature"),
            (Discrepancy::Kl, OptimizerKind::Adam, "momentum nesterov"),
        ] {
            let settings = DistillSettings { loss, optimizer, lr: 1e-3, ..Default::default() };
            let expected = trained(&settings);
            let same = changes.iter().filter(|(name, change)| {
                let mut changed = settings.clone();
                change(&mut changed);
                let relevant = changed.relevant() != settings.relevant();
                assert_eq!(trained(&changed) != expected, relevant, "{name} of {loss:?}, {optimizer:?}");
                !relevant
            });
            assert_eq!(same.map(|(name, _)| *name).collect::<Vec<_>>().join(" "), irrelevant);
        }
    }

    #[test]
    fn the_student_learns() {
        // An answer for each of 64 pixels takes longer to learn than one.
        for (teacher, student, most) in [(network(1), network(2), 0.5), (pixel_network(1), pixel_network(2), 0.7)] {
            let settings = DistillSettings { lr: 0.05, ..Default::default() };
            let mut distiller = Distiller::new(settings, &teacher, &student, 0).unwrap();
            let reports = train(&mut distiller, &teacher, &student, 0..30);
            let mean = |reports: &[StepReport]| reports.iter().map(|report| report.loss).sum::<f32>() / 5.0;
            let (first, last) = (mean(&reports[..5]), mean(&reports[25..]));
            assert!(last < most * first, "{first} fell only to {last}");
        }
    }

    #[test]
    fn oblong_images_are_labeled_and_learned() {
        let views = ViewSettings { channel_mix: 0.5, mixup: 0.5, color_jitter: 1.0, ..ViewSettings::default() };
        let settings = DistillSettings { feature_distillation: 2.0, lr: 0.05, views, ..Default::default() };
        for (teacher, student) in oblong_networks(1).into_iter().zip(oblong_networks(2)) {
            let mut distiller = Distiller::new(settings.clone(), &teacher, &student, 0).unwrap();
            let images = (formula(8, &[4, 24, 40, 3], 0.5) + 0.5).unwrap();
            let mut step = |step| {
                let rng = &mut stream(1, "test", &[]);
                distiller.step(&teacher, &student, &images, None, (step, 30), rng).unwrap()
            };
            let (first, last) = (step(0), (1..12).map(&mut step).last().unwrap());
            assert_eq!(last.disagreement.len(), 4);
            assert!(last.loss < first.loss, "{first:?} became {last:?}");
        }
    }

    #[test]
    fn features_are_learnt_too() {
        // As many channels as the teacher, and more, where projectors stand between: a convolution for each of three blocks.
        for student in ["resnet8", "wrn-16-2"] {
            let teacher = network(1);
            let spec = NetworkSpec { architecture: student.parse().unwrap(), ..teacher.spec().clone() };
            let student = Network::create(&spec, 5, teacher.store().device()).unwrap();
            let settings = DistillSettings { feature_distillation: 20.0, lr: 0.02, ..Default::default() };
            let mut distiller = Distiller::new(settings, &teacher, &student, 0).unwrap();
            let distance = |distiller: &Distiller| {
                let views = Value::constant(images(9));
                let of = |network: &Network| network.forward(&views, Mode::TrainFrozen).unwrap().maps;
                let features = distiller.features.as_ref().unwrap();
                let teacher = teacher.forward(&views, Mode::Eval).unwrap().maps;
                features.loss(&of(&student), &features.targets(&teacher).unwrap()).unwrap().scalar().unwrap()
            };
            let before = distance(&distiller);
            train(&mut distiller, &teacher, &student, 0..30);
            let after = distance(&distiller);
            assert!(after < 0.9 * before, "{before} fell only to {after}");
            let projectors = distiller.state_dict().keys().filter(|name| name.starts_with("projector.")).count();
            assert_eq!(projectors, if student.features().unwrap() == 64 { 0 } else { 12 });
        }
    }

    #[test]
    fn the_learning_rate_rises_and_falls() {
        let settings = DistillSettings { lr: 0.2, lr_min: 2e-4, warmup_steps: 4, ..Default::default() };
        for (step, expected) in [(0, 0.05), (3, 0.2), (4, 0.2), (54, 0.1001), (104, 2e-4), (999, 2e-4)] {
            let lr = settings.learning_rate(step, 105);
            assert!((lr - expected).abs() < 1e-12, "at step {step} it is {lr}");
        }
    }

    #[test]
    fn impossible_settings_are_refused_by_name() {
        let check = |settings: DistillSettings, message: &str| {
            let error = settings.validate().unwrap_err();
            assert!(error.contains(message), "{error}");
        };
        assert_eq!(DistillSettings::default().validate(), Ok(()));
        check(DistillSettings { lr_min: 1.0, ..Default::default() }, "distill.lr_min is 1");
        check(DistillSettings { nesterov: true, momentum: 0.0, ..Default::default() }, "distill.nesterov");
        check(DistillSettings { passes: 3, ..Default::default() }, "distill.steps is 40; it must be a multiple");
        check(DistillSettings { passes: 0, ..Default::default() }, "distill.passes is 0");
        let views = |views| DistillSettings { views, ..Default::default() };
        check(views(ViewSettings { mixup: 1.5, ..ViewSettings::OFF }), "distill.views.mixup is 1.5");
        check(views(ViewSettings { color_jitter: -0.5, ..ViewSettings::OFF }), "distill.views.color_jitter is -0.5");
        check(DistillSettings { temperature: 0.0, ..Default::default() }, "distill.temperature is 0");
    }
}
