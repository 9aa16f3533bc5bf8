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

mod loss;
mod report;
mod settings;
#[cfg(test)]
mod tests;

use candle_core::{Result, Tensor, bail};
use rand_chacha::ChaCha8Rng;
use ssdkd_nn::{Adam, Mode, Network, Optimizer, Output, Sgd, StateDict, Store};
use ssdkd_ops as ops;
use ssdkd_ops::{Gradients, Packed, Value};

pub use loss::{disagreement, distillation_loss};
pub use report::StepReport;
pub use settings::{DistillSettings, OptimizerKind};

use crate::feature_distillation::FeatureDistillation;
use crate::inversion::Discrepancy;
use crate::passes::Labelled;
use crate::replay::Replayed;
use loss::divergences;

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
    labels: Replayed<Vec<Tensor>>,
    replayed: Replayed<Packed>,
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
        Ok(Self { settings, optimizer, features, labels: Replayed::default(), replayed: Replayed::default() })
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
    pub fn label(&mut self, teacher: &Network, images: &Tensor, views: &mut ChaCha8Rng) -> Result<Labelled> {
        let views = self.settings.views.view(images, views)?;
        let features = self.features.as_ref();
        let order = |inputs: Vec<Tensor>| labels(teacher, features, inputs);
        let mut labels = self.labels.step((), vec![views.clone()], &[teacher.store()], order)?.into_iter();
        let Some(logits) = labels.next() else { bail!("the teacher has no logits") };
        Ok(Labelled { views, logits, maps: labels.collect() })
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
        let figures = replayed.step((), inputs, &[student.store()], |inputs| self.order(student, rates, inputs))?;
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

/// Orders the teacher's work on views, the one input. Returns its logits, and behind them the maps that the student learns from.
fn labels(teacher: &Network, features: Option<&FeatureDistillation>, inputs: Vec<Tensor>) -> Result<Vec<Tensor>> {
    let Some(views) = inputs.into_iter().next() else { bail!("the teacher labels views") };
    let Output { maps, logits, .. } = teacher.forward(&Value::constant(views), Mode::Eval)?; // …, (B, K)
    let mut labels = vec![logits.tensor().clone()];
    if let Some(features) = features {
        labels.extend(features.targets(&maps)?);
    }
    Ok(labels)
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
