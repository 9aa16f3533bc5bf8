//! What makes a synthetic image good: the terms of the inversion's loss.
//!
//! Per image x, with teacher logits t = f_t(x), student logits s = f_s(x) and target label y:
//!
//! ```text
//! batch_norm      = Σ_l ‖μ_l(x) − μ_run,l‖₂ + ‖σ²_l(x) − σ²_run,l‖₂, or relative to deviations                    [R][C]
//! class           = mean_i φ(x_i) · CE(t_i, y_i)                                                                    [R]
//! balance         = Σ_c p̄_c ln p̄_c            p̄: batch mean of softmax(t)                                  [C: DAFL][O]
//! activation      = − mean |penultimate features of the teacher|                                              [C: DAFL]
//! adversarial     = − mean_i m_i · KL(softmax t_i ‖ softmax s_i)                                     [C: Fast-Datafree]
//!                   − mean |t − s|                                                                           [C: DFAD]
//! total_variation, l2      of the pixels: see `pixels.rs`                                             [C: DeepInversion]
//! contrastive              of two views: see `contrastive.rs`                                                  [C: CMI]
//! L               = Σ over the terms, each times its factor                                                          [C]
//! ```
//!
//! **Batch-norm statistics.** See `batch_norm.rs`.
//!
//! **Adversarial term.** At temperature 1, with gradients into x through *both* networks, and only after the warm-up. The mask
//! m_i = 1\[argmax s_i = argmax t_i\] of Fast-Datafree rewards disagreement in confidence and stops at the decision
//! boundary; without it (m_i = 1) the generator may cross it.
//!
//! **Activation.** Images of the kind a network was trained on excite its features more than noise does; DAFL rewards that.

use candle_core::{Result, Tensor, bail};
use ssdkd_nn::{Mode, Network, Output};
use ssdkd_ops as ops;
use ssdkd_ops::{Packed, Value};

use crate::inversion::batch_norm::{BatchNormMomentum, statistics};
use crate::inversion::loss_settings::{Discrepancy, LossSettings};
use crate::modulation::Modulation;
use crate::prior::ClassPrior;

/// A term of the loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Term {
    /// How far the statistics of the teacher's batch norms are from those of its training images.
    BatchNorm,
    /// Cross-entropy of the teacher's logits with the classes that the images should be of, times φ.
    Class,
    /// How unevenly a batch is spread over the classes, in nats: −ln(classes) when it is as even as the prior, which is the least.
    Balance,
    /// Minus the mean activation of the teacher's features.
    Activation,
    /// Minus the disagreement of teacher and student.
    Adversarial,
    /// Total variation of the pixels.
    TotalVariation,
    /// Distance of the pixels from mid-gray.
    L2,
    /// How alike the images are, to each other and to those before.
    Contrastive,
}

impl Term {
    /// All terms, in the order in which they are computed and shown.
    pub const ALL: [Self; 8] = [
        Self::BatchNorm,
        Self::Class,
        Self::Balance,
        Self::Activation,
        Self::Adversarial,
        Self::TotalVariation,
        Self::L2,
        Self::Contrastive,
    ];

    /// Returns the name that settings, columns and metrics share.
    pub fn name(self) -> &'static str {
        match self {
            Self::BatchNorm => "batch_norm",
            Self::Class => "class",
            Self::Balance => "balance",
            Self::Activation => "activation",
            Self::Adversarial => "adversarial",
            Self::TotalVariation => "total_variation",
            Self::L2 => "l2",
            Self::Contrastive => "contrastive",
        }
    }
}

impl LossSettings {
    /// Returns the factor of a term.
    pub fn factor(&self, term: Term) -> f64 {
        match term {
            Term::BatchNorm => self.batch_norm,
            Term::Class => self.class,
            Term::Balance => self.balance,
            Term::Activation => self.activation,
            Term::Adversarial => self.adversarial,
            Term::TotalVariation => self.total_variation,
            Term::L2 => self.l2,
            Term::Contrastive => self.contrastive,
        }
    }

    /// Returns whether there is anything to learn from, with or without a student.
    pub fn any(&self, student: bool) -> bool {
        let of_the_teacher = [Term::BatchNorm, Term::Class, Term::Balance, Term::Activation];
        of_the_teacher.iter().any(|&term| self.factor(term) != 0.0) || (student && self.adversarial != 0.0)
    }
}

/// The loss of one batch, as numbers.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Loss {
    /// The terms times their factors.
    pub total: f32,
    terms: Vec<(Term, f32)>,
}

impl Loss {
    /// Returns a term before its factor; `None` if it was not computed.
    pub fn term(&self, term: Term) -> Option<f32> {
        self.terms.iter().find(|(of, _)| *of == term).map(|(_, value)| *value)
    }

    /// Returns every term that was computed.
    pub fn terms(&self) -> &[(Term, f32)] {
        &self.terms
    }
}

/// A loss while its terms are added. What is in the total is also in the record.
pub struct Terms {
    settings: LossSettings,
    parts: Vec<(Term, Value)>,
}

impl Terms {
    /// Returns a loss without terms.
    pub fn new(settings: LossSettings) -> Self {
        Self { settings, parts: Vec::new() }
    }

    /// Computes and adds a term, unless its factor is 0.
    pub fn add(&mut self, term: Term, compute: impl FnOnce() -> Result<Value>) -> Result<()> {
        if self.settings.factor(term) != 0.0 {
            self.parts.push((term, compute()?));
        }
        Ok(())
    }

    /// Sums up the terms. Returns one element to walk back from, and the numbers, which are still on the device.
    ///
    /// # Errors
    /// If there is no term.
    pub fn total(self) -> Result<(Value, UnreadLoss)> {
        if self.parts.is_empty() {
            bail!(
                "the generator has no loss: all factors that apply now are 0\n\
                 hint: set batch_norm, class, balance, activation or adversarial in [invert.loss]"
            );
        }
        let parts = self.parts.iter().map(|(term, value)| (self.settings.factor(*term), value)).collect::<Vec<_>>();
        let sum = ops::weighted_sum(&parts)?;
        let terms = self.parts.iter().map(|(term, value)| (*term, value.tensor().clone())).collect();
        let total = sum.tensor().clone();
        Ok((sum, UnreadLoss { total, terms }))
    }
}

/// A loss that is not read back yet, as a GPU is waited for then.
pub struct UnreadLoss {
    total: Tensor,
    terms: Vec<(Term, Tensor)>,
}

impl UnreadLoss {
    /// Reads all terms at once. A step calls it last, when all of its work is ordered.
    ///
    /// # Errors
    /// If the loss is not finite.
    pub fn read(self) -> Result<Loss> {
        Ok(self.read_with(&[])?.0)
    }

    /// Returns a copy on the same device.
    pub(crate) fn copied(&self) -> Result<Self> {
        let copy = |(term, value): &(Term, Tensor)| Ok((*term, value.copy()?));
        Ok(Self { total: self.total.copy()?, terms: self.terms.iter().map(copy).collect::<Result<_>>()? })
    }

    /// As [`read`](Self::read), and the numbers of `others`, with one wait for all.
    pub(crate) fn read_with(self, others: &[&Tensor]) -> Result<(Loss, Vec<Vec<f32>>)> {
        let terms = self.terms.iter().map(|(_, term)| term);
        let all = std::iter::once(&self.total).chain(terms).chain(others.iter().copied()).collect::<Vec<_>>();
        let mut numbers = Packed::of(&all)?.read()?.into_iter();
        let mut single = || numbers.next().and_then(|numbers| numbers.first().copied()).unwrap_or(f32::NAN);
        let total = single();
        let terms = self.terms.iter().map(|(term, _)| (*term, single())).collect();
        Ok((Loss::checked(total, terms)?, numbers.collect()))
    }
}

impl Loss {
    /// Returns a loss of these numbers.
    ///
    /// # Errors
    /// If the total is not finite. The message names the network whose fault it is.
    fn checked(total: f32, terms: Vec<(Term, f32)>) -> Result<Self> {
        if !total.is_finite() {
            // Only the adversarial term has seen the student.
            let finite = |(term, value): &(Term, f32)| value.is_finite() != (*term == Term::Adversarial);
            let (whose, remedy) =
                if terms.iter().any(|(term, _)| *term == Term::Adversarial) && terms.iter().all(finite) {
                    ("the student's logits are", "the student has diverged; lower distill.lr and run its rounds again")
                } else {
                    ("the generator's loss is", "lower `lr` in the strategy's section, such as [invert.persistent]")
                };
            let terms = terms.iter().map(|(term, value)| format!("{} {value}", term.name())).collect::<Vec<_>>();
            bail!("{whose} not finite: {}\nhint: {remedy}", terms.join(", "));
        }
        Ok(Self { total, terms })
    }
}

/// The networks and rules by which a batch of images is evaluated.
pub struct Objective<'a> {
    /// f_t, in evaluation mode throughout.
    pub teacher: &'a Network,
    /// f_s, in evaluation mode here; `None` during the warm-up.
    pub student: Option<&'a Network>,
    /// The factors.
    pub loss: LossSettings,
    /// φ.
    pub modulation: &'a Modulation,
    /// How common the classes should be.
    pub prior: &'a ClassPrior,
    interrupt: &'a dyn Fn() -> Result<()>,
}

/// What evaluations have to have in common for one recording.
pub(crate) type Constants = (LossSettings, f64, ClassPrior);

/// A batch of images, evaluated.
pub struct Evaluated {
    /// The loss so far; a strategy adds its own terms.
    pub terms: Terms,
    /// Mean and variance (C,) of every batch norm's input, for [`BatchNormMomentum::update`].
    pub statistics: Vec<(Tensor, Tensor)>,
    /// The teacher's penultimate features (B, F) of the views.
    pub features: Value,
}

impl<'a> Objective<'a> {
    /// Returns what `loss` wants of images. `student` is `None` during the warm-up.
    pub fn new(
        loss: LossSettings,
        teacher: &'a Network,
        student: Option<&'a Network>,
        modulation: &'a Modulation,
    ) -> Self {
        Self { teacher, student, loss, modulation, prior: ClassPrior::uniform(), interrupt: &|| Ok(()) }
    }

    /// Wants images of classes that are as common as `prior` says.
    #[must_use]
    pub fn with_prior(self, prior: &'a ClassPrior) -> Self {
        Self { prior, ..self }
    }

    /// Calls `interrupt` before each evaluation, which is once a step. Its error ends the batch.
    #[must_use]
    pub fn interruptible(self, interrupt: &'a dyn Fn() -> Result<()>) -> Self {
        Self { interrupt, ..self }
    }

    /// Evaluates views of images (B, H, W, C) in `[0, 1]`.
    ///
    /// `targets` are the classes the images should be of; `None` takes the teacher's own opinion of each view, so that
    /// the class term makes it surer of what it sees \[C: DAFL\].
    pub fn evaluate(&self, views: &Value, targets: Option<&[u32]>, momentum: &BatchNormMomentum) -> Result<Evaluated> {
        self.check_interrupt()?;
        let device = views.tensor().device();
        let targets = targets.map(|targets| Tensor::new(targets, device)).transpose()?;
        let diversities = Tensor::new(self.modulation.diversities(self.teacher.classes()), device)?;
        self.evaluate_at(views, targets.as_ref(), &diversities, momentum)
    }

    /// Returns the error of an [interrupt](Self::interruptible), if there is one.
    pub(crate) fn check_interrupt(&self) -> Result<()> {
        (self.interrupt)()
    }

    /// Returns what a recorded evaluation has in it: factors, γ and the prior.
    pub(crate) fn constants(&self) -> Constants {
        (self.loss, self.modulation.gamma(), self.prior.clone())
    }

    /// As [`evaluate`](Self::evaluate), with what changes from step to step, or from round to round, on the device of the views:
    /// targets (B,) and φ's diversities (K,). So it can be [recorded](ops::Recording).
    pub(crate) fn evaluate_at(
        &self,
        views: &Value,
        targets: Option<&Tensor>,
        diversities: &Tensor,
        momentum: &BatchNormMomentum,
    ) -> Result<Evaluated> {
        let mode = if self.loss.batch_norm == 0.0 { Mode::Eval } else { Mode::Tapped };
        let Output { features, logits: teacher_logits, taps, .. } = self.teacher.forward(views, mode)?; // (B, F), (B, K)
        let student_logits = match self.student {
            Some(student) if self.loss.adversarial != 0.0 => Some(student.forward(views, Mode::Eval)?.logits),
            _ => None,
        };

        let mut terms = Terms::new(self.loss);
        terms.add(Term::BatchNorm, || momentum.loss(&taps))?;
        terms.add(Term::Class, || {
            class_loss(&teacher_logits, targets, &self.modulation.weights(teacher_logits.tensor(), diversities)?)
        })?;
        terms.add(Term::Balance, || self.prior.balance(&teacher_logits))?;
        // Features are pooled behind a ReLU: none is negative.
        terms.add(Term::Activation, || ops::scale(&ops::mean_all(&features)?, -1.0))?;
        if let Some(student_logits) = student_logits {
            terms.add(Term::Adversarial, || match self.loss.discrepancy {
                Discrepancy::Kl => adversarial_loss(&teacher_logits, &student_logits, self.loss.adversarial_mask),
                Discrepancy::L1 => ops::scale(&ops::mean_absolute_difference(&teacher_logits, &student_logits)?, -1.0),
            })?;
        }
        Ok(Evaluated { terms, statistics: taps.iter().map(statistics).collect(), features })
    }
}

/// Returns the class term of teacher logits (B, K), targets (B,) and φ (B,); see the [module](self) and [`Objective::evaluate`].
pub fn class_loss(teacher_logits: &Value, targets: Option<&Tensor>, phi: &Tensor) -> Result<Value> {
    match targets {
        Some(targets) => ops::cross_entropy_of(teacher_logits, targets, Some(phi)),
        None => ops::cross_entropy_of(teacher_logits, &ops::argmax_rows(teacher_logits.tensor())?, Some(phi)),
    }
}

/// Returns the adversarial term of teacher and student logits (B, K), with gradients into both; see the [module](self).
pub fn adversarial_loss(teacher_logits: &Value, student_logits: &Value, masked: bool) -> Result<Value> {
    let mask = if masked { Some(ops::same_argmax(teacher_logits.tensor(), student_logits.tensor())?) } else { None };
    ops::scale(&ops::kl_divergence(teacher_logits, student_logits, 1.0, mask.as_ref())?, -1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn what_is_in_the_total_is_in_the_record() {
        let factors = LossSettings { class: 2.0, l2: 0.5, contrastive: 0.0, ..LossSettings::NONE };
        let mut terms = Terms::new(factors);
        let one = |value: f32| Tensor::new(&[value], &Device::Cpu).map(Value::constant);
        for (term, value) in [(Term::Class, 3.0), (Term::L2, 4.0), (Term::Contrastive, 5.0)] {
            terms.add(term, || one(value)).unwrap();
        }
        let loss = terms.total().unwrap().1.read().unwrap();
        assert_eq!(loss.total, 8.0);
        assert_eq!(loss.terms(), [(Term::Class, 3.0), (Term::L2, 4.0)]);
        assert_eq!((loss.term(Term::L2), loss.term(Term::Contrastive)), (Some(4.0), None));
    }

    #[track_caller]
    fn check_not_finite(values: &[(Term, f32)], message: &str) {
        let mut terms = Terms::new(LossSettings { class: 1.0, adversarial: 1.0, ..LossSettings::NONE });
        for (term, value) in values {
            terms.add(*term, || Tensor::new(&[*value], &Device::Cpu).map(Value::constant)).unwrap();
        }
        let error = terms.total().unwrap().1.read().unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }

    #[test]
    fn a_loss_that_is_not_finite_names_the_network() {
        check_not_finite(&[(Term::Class, 1.0), (Term::Adversarial, f32::NAN)], "the student's logits are not finite");
        check_not_finite(&[(Term::Class, f32::NAN), (Term::Adversarial, 1.0)], "the generator's loss is not finite");
        check_not_finite(&[(Term::Class, f32::INFINITY)], "class inf");
    }
}
