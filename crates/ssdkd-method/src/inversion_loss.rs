//! What makes a synthetic image good: the terms of the generator's loss.
//!
//! Per image x = g(z), with teacher logits t = f_t(x), student logits s = f_s(x) and target label y:
//!
//! ```text
//! L_BN  = Σ_l ‖μ_l(x) − μ_run,l‖₂ + ‖σ²_l(x) − σ²_run,l‖₂                                                      [R][C]
//! L_CE  = mean_i φ(x_i) · CE(t_i, y_i)                                                                            [R]
//! L_bal = Σ_c p̄_c ln p̄_c            p̄: batch mean of softmax(t)                                          [C: DAFL][O]
//! L_act = − mean |penultimate features of the teacher|                                                      [C: DAFL]
//! L_adv = − mean_i m_i · KL(softmax t_i ‖ softmax s_i)                                             [C: Fast-Datafree]
//!         − mean |t − s|                                                                                   [C: DFAD]
//! L_G   = bn·L_BN + oh·L_CE + bal·L_bal + act·L_act + adv·L_adv                                                   [C]
//! ```
//!
//! **Batch-norm statistics.** μ_l and σ²_l (biased) are taken over N, H and W of the *input* of every batch norm of the
//! teacher, which is in evaluation mode; the norms are not squared. With a momentum m they are blended with their own
//! running average before they are compared, μ_l ← (1−m)·μ_l + m·μ_ema,l once there is one, and the average moves once a
//! synthesis batch, by that batch's last iteration \[C: Fast-Datafree\].
//!
//! **Adversary.** At temperature 1, with gradients into x through *both* networks, and only after the warm-up. The mask
//! m_i = 1\[argmax s_i = argmax t_i\] of Fast-Datafree rewards disagreement in confidence and stops at the decision
//! boundary; without it (m_i = 1) the generator may cross it.
//!
//! **Activation.** Images of the kind a network was trained on excite its features more than noise does; DAFL rewards that.

use std::collections::BTreeMap;

use candle_core::{Device, Result, Tensor, bail};
use serde::{Deserialize, Serialize};
use ssdkd_nn::{Network, Output, Pass, Tap};
use ssdkd_ops as ops;
use ssdkd_ops::Value;

use crate::inversion::InvertSettings;
use crate::modulation::Modulation;

/// The factors of the terms in L_G; a term with factor 0 is not computed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossWeights {
    /// Of the batch-norm statistics.
    pub bn: f64,
    /// Of the task term ("one-hot").
    pub oh: f64,
    /// Of the class balance within the batch.
    pub bal: f64,
    /// Of the activation of the teacher's features.
    pub act: f64,
    /// Of the adversarial term.
    pub adv: f64,
    /// What teacher and student are to disagree in.
    pub discrepancy: Discrepancy,
    /// Whether the adversarial term counts only images on which teacher and student agree.
    pub adv_mask: bool,
}

impl LossWeights {
    /// Whether there is anything to learn from, with or without a student.
    pub fn any(&self, student: bool) -> bool {
        [self.bn, self.oh, self.bal, self.act].iter().any(|factor| *factor != 0.0) || (student && self.adv != 0.0)
    }
}

/// What the adversarial term measures, and in DFAD what the student learns to close.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Discrepancy {
    /// KL of the probabilities.
    Kl,
    /// Mean absolute difference of the logits \[C: DFAD\].
    L1,
}

/// The terms of one batch, before their factors; a term that was not computed is 0.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct InversionTerms {
    /// L_BN.
    pub batch_norm: f32,
    /// L_CE, φ included.
    pub task: f32,
    /// L_bal, in nats: −ln(classes) when the batch is even, 0 when it is of one class.
    pub balance: f32,
    /// L_act: 0 or below.
    pub activation: f32,
    /// L_adv: 0 or below.
    pub adversarial: f32,
    /// L_G: the terms times their factors.
    pub total: f32,
}

/// Where a term's number goes.
type Term = fn(&mut InversionTerms) -> &mut f32;

/// The networks and rules by which a batch of images is judged.
pub struct Objective<'a> {
    /// f_t, in evaluation mode throughout.
    pub teacher: &'a Network,
    /// f_s, in evaluation mode here; `None` during the warm-up.
    pub student: Option<&'a Network>,
    /// The factors.
    pub weights: LossWeights,
    /// φ.
    pub modulation: &'a Modulation,
    heed: &'a dyn Fn() -> Result<()>,
}

/// A batch of images, judged.
pub struct Judgement {
    /// L_G, one element, to walk back from.
    pub total: Value,
    /// Its terms.
    pub terms: InversionTerms,
    /// Mean and variance (C,) of every batch norm's input, for [`BatchNormMomentum::update`].
    pub statistics: Vec<(Tensor, Tensor)>,
    /// The teacher's penultimate features (B, F) of the views.
    pub features: Value,
}

impl<'a> Objective<'a> {
    /// What `settings` want of images. `student` is `None` during the warm-up.
    pub fn new(
        settings: &InvertSettings,
        teacher: &'a Network,
        student: Option<&'a Network>,
        modulation: &'a Modulation,
    ) -> Self {
        Self { teacher, student, weights: settings.loss_weights(), modulation, heed: &|| Ok(()) }
    }

    /// Asks `heed` before it judges, which is once a step: its error ends the batch.
    #[must_use]
    pub fn heeding(self, heed: &'a dyn Fn() -> Result<()>) -> Self {
        Self { heed, ..self }
    }

    /// Judges views of images (B, H, W, C) in `[0, 1]`.
    ///
    /// `targets` are the classes the images should be of; `None` takes the teacher's own opinion of each view, so that
    /// the task term makes it surer of what it sees \[C: DAFL\].
    pub fn judge(&self, views: &Value, targets: Option<&[u32]>, momentum: &BatchNormMomentum) -> Result<Judgement> {
        (self.heed)()?;
        let weights = self.weights;
        let pass = if weights.bn == 0.0 { Pass::eval() } else { Pass::tapped() };
        let Output { features, logits: teacher_logits, .. } = self.teacher.forward(views, &pass)?; // (B, F), (B, K)
        let taps = pass.take_taps();
        // Before anything is read back: a GPU works on both while the program waits for the first.
        let student_logits = match self.student {
            Some(student) if weights.adv != 0.0 => Some(student.forward(views, &Pass::eval())?.logits),
            _ => None,
        };

        let mut total: Vec<(f64, Value, Term)> = Vec::new();
        if weights.bn != 0.0 {
            total.push((weights.bn, momentum.loss(&taps)?, |terms| &mut terms.batch_norm));
        }
        if weights.oh != 0.0 {
            let loss = task_loss(&teacher_logits, targets, self.modulation)?;
            total.push((weights.oh, loss, |terms| &mut terms.task));
        }
        if weights.bal != 0.0 {
            let loss = ops::mean_softmax_negentropy(&teacher_logits)?;
            total.push((weights.bal, loss, |terms| &mut terms.balance));
        }
        if weights.act != 0.0 {
            // Features are pooled behind a ReLU: none is negative.
            let loss = ops::scale(&ops::mean_all(&features)?, -1.0)?;
            total.push((weights.act, loss, |terms| &mut terms.activation));
        }
        if let Some(student_logits) = student_logits {
            let loss = match weights.discrepancy {
                Discrepancy::Kl => adversarial_loss(&teacher_logits, &student_logits, weights.adv_mask)?,
                Discrepancy::L1 => ops::scale(&ops::mean_absolute_difference(&teacher_logits, &student_logits)?, -1.0)?,
            };
            total.push((weights.adv, loss, |terms| &mut terms.adversarial));
        }
        if total.is_empty() {
            bail!(
                "the generator has no loss: all factors that apply now are 0\nhint: set invert.bn, oh, bal, act or adv"
            );
        }
        let sum = ops::weighted_sum(&total.iter().map(|(factor, value, _)| (*factor, value)).collect::<Vec<_>>())?;
        let mut terms = InversionTerms { total: sum.scalar()?, ..InversionTerms::default() };
        for (_, value, of) in &total {
            *of(&mut terms) = value.scalar()?;
        }
        if !terms.total.is_finite() {
            let InversionTerms { batch_norm, task, balance, activation, adversarial, .. } = terms;
            // The other terms are of the teacher's answers alone.
            let student = [batch_norm, task, balance, activation].iter().all(|term| term.is_finite());
            let (whose, remedy) = if student && !adversarial.is_finite() {
                ("the student's answers are", "the student has diverged; lower distill.lr and run its rounds again")
            } else {
                ("the generator's loss is", "lower invert.lr_g")
            };
            bail!("{whose} not finite: {terms:?}\nhint: {remedy}");
        }
        Ok(Judgement { total: sum, terms, statistics: taps.iter().map(statistics).collect(), features })
    }
}

/// What a tap saw, cut off from the tape.
pub(crate) fn statistics(tap: &Tap) -> (Tensor, Tensor) {
    (tap.mean.tensor().clone(), tap.variance.tensor().clone())
}

/// L_CE of teacher logits (B, K); see the [module](self) and [`Objective::judge`].
pub fn task_loss(teacher_logits: &Value, targets: Option<&[u32]>, modulation: &Modulation) -> Result<Value> {
    let answers = teacher_logits.tensor().to_device(&Device::Cpu)?; // read back once
    let phi = modulation.weights(&answers)?;
    match targets {
        Some(targets) => ops::cross_entropy(teacher_logits, targets, Some(&phi)),
        None => ops::cross_entropy(teacher_logits, &ops::argmax(&answers)?, Some(&phi)),
    }
}

/// L_adv of teacher and student logits (B, K), gradients into both; see the [module](self).
pub fn adversarial_loss(teacher_logits: &Value, student_logits: &Value, masked: bool) -> Result<Value> {
    let mask = if masked {
        let teacher_classes = ops::argmax(teacher_logits.tensor())?;
        let student_classes = ops::argmax(student_logits.tensor())?;
        let agree = |(t, s): (&u32, &u32)| if t == s { 1.0 } else { 0.0 };
        Some(teacher_classes.iter().zip(&student_classes).map(agree).collect::<Vec<f32>>())
    } else {
        None
    };
    ops::scale(&ops::kl_divergence(teacher_logits, student_logits, 1.0, mask.as_deref())?, -1.0)
}

/// The running averages of the batch statistics of synthetic images, layer by layer.
#[derive(Debug, Clone)]
pub struct BatchNormMomentum {
    rate: f64,
    /// Mean and variance (C,) of each layer; empty before the first update.
    averages: Vec<(Tensor, Tensor)>,
}

impl BatchNormMomentum {
    /// No averages yet. A `rate` of 0 never keeps any: statistics are those of the batch alone.
    pub fn new(rate: f64) -> Self {
        Self { rate, averages: Vec::new() }
    }

    /// L_BN of the taps of one pass.
    pub fn loss(&self, taps: &[Tap]) -> Result<Value> {
        self.check(taps)?;
        let mut norms = Vec::with_capacity(2 * taps.len());
        for (layer, tap) in taps.iter().enumerate() {
            let average = self.averages.get(layer);
            norms.push(self.distance(&tap.mean, &tap.running_mean, average.map(|(mean, _)| mean))?);
            norms.push(self.distance(&tap.variance, &tap.running_variance, average.map(|(_, variance)| variance))?);
        }
        ops::weighted_sum(&norms.iter().map(|norm| (1.0, norm)).collect::<Vec<_>>())
    }

    /// ‖(1−m)·batch + m·average − running‖₂, or ‖batch − running‖₂ without an average.
    fn distance(&self, batch: &Value, running: &Tensor, average: Option<&Tensor>) -> Result<Value> {
        match average {
            Some(average) => {
                let goal = (running - (average * self.rate)?)?;
                ops::l2_distance(&ops::scale(batch, 1.0 - self.rate)?, &goal)
            }
            None => ops::l2_distance(batch, running),
        }
    }

    /// Moves the averages by the statistics of a synthesis batch's last iteration.
    pub fn update(&mut self, statistics: Vec<(Tensor, Tensor)>) -> Result<()> {
        if self.rate == 0.0 {
            return Ok(());
        }
        if self.averages.is_empty() {
            self.averages = statistics;
            return Ok(());
        }
        let blend = |average: &Tensor, batch: &Tensor| (average * self.rate)? + (batch * (1.0 - self.rate))?;
        for ((mean, variance), (batch_mean, batch_variance)) in self.averages.iter_mut().zip(&statistics) {
            *mean = blend(mean, batch_mean)?;
            *variance = blend(variance, batch_variance)?;
        }
        Ok(())
    }

    fn check(&self, taps: &[Tap]) -> Result<()> {
        let fits = |((mean, _), tap): (&(Tensor, Tensor), &Tap)| mean.dims() == tap.mean.dims();
        if taps.is_empty() {
            bail!("the teacher has no batch normalisation to invert\nhint: set invert.bn to 0");
        }
        if !self.averages.is_empty() && (self.averages.len() != taps.len() || !self.averages.iter().zip(taps).all(fits))
        {
            bail!(
                "the saved averages of {} batch norms do not fit this teacher, which has {}\n\
                 hint: the generator state belongs to a run with another teacher",
                self.averages.len(),
                taps.len()
            );
        }
        Ok(())
    }

    /// The averages as `mean.0000`, `variance.0000`, …; empty before the first update.
    pub fn state_tensors(&self) -> BTreeMap<String, Tensor> {
        let named = |(layer, (mean, variance)): (usize, &(Tensor, Tensor))| {
            [(format!("mean.{layer:04}"), mean.clone()), (format!("variance.{layer:04}"), variance.clone())]
        };
        self.averages.iter().enumerate().flat_map(named).collect()
    }

    /// Takes up saved averages; [`loss`](Self::loss) refuses them if they are not this teacher's.
    pub fn load_state(&mut self, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
        let mut averages = Vec::new();
        while let (Some(mean), Some(variance)) = (
            tensors.get(&format!("mean.{:04}", averages.len())),
            tensors.get(&format!("variance.{:04}", averages.len())),
        ) {
            averages.push((mean.clone(), variance.clone()));
        }
        if 2 * averages.len() != tensors.len() {
            let names = tensors.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            bail!("the saved batch-norm averages are incomplete: found {names}");
        }
        self.averages = if self.rate == 0.0 { Vec::new() } else { averages };
        Ok(())
    }
}
