//! The batch-norm term: synthetic images should have the statistics of the teacher's training images.
//!
//! ```text
//! batch_norm = Σ_l ‖μ_l(x) − μ_run,l‖₂ + ‖σ²_l(x) − σ²_run,l‖₂                                                   [R][C]
//! ```
//!
//! μ_l and σ²_l (biased) are taken over N, H and W of the *input* of every batch norm of the teacher, which is in evaluation mode.
//! The norms are not squared. With a momentum m they are blended with their own running average before they are compared,
//! μ_l ← (1−m)·μ_l + m·μ_ema,l once there is one. The average moves once a synthesis batch, by that batch's last iteration
//! \[C: Fast-Datafree\].

use std::collections::BTreeMap;

use candle_core::{Result, Tensor, bail};
use ssdkd_nn::Tap;
use ssdkd_ops as ops;
use ssdkd_ops::Value;

/// Returns what a tap saw, detached from the tape.
pub(crate) fn statistics(tap: &Tap) -> (Tensor, Tensor) {
    (tap.mean.tensor().clone(), tap.variance.tensor().clone())
}

/// The running averages of the batch statistics of synthetic images, layer by layer.
#[derive(Debug, Clone)]
pub struct BatchNormMomentum {
    rate: f64,
    /// Mean and variance (C,) of each layer; empty before the first update.
    averages: Vec<(Tensor, Tensor)>,
}

impl BatchNormMomentum {
    /// Returns no averages yet. A `rate` of 0 never keeps any: statistics are those of the batch alone.
    pub fn new(rate: f64) -> Self {
        Self { rate, averages: Vec::new() }
    }

    /// Returns the batch-norm term of the taps of one pass.
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
            bail!("the teacher has no batch normalisation to invert\nhint: set invert.loss.batch_norm to 0");
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

    /// Returns the averages as `mean.0000`, `variance.0000`, …; empty before the first update.
    pub fn state_tensors(&self) -> BTreeMap<String, Tensor> {
        let named = |(layer, (mean, variance)): (usize, &(Tensor, Tensor))| {
            [(format!("mean.{layer:04}"), mean.clone()), (format!("variance.{layer:04}"), variance.clone())]
        };
        self.averages.iter().enumerate().flat_map(named).collect()
    }

    /// Restores saved averages. [`loss`](Self::loss) refuses them if they are not this teacher's.
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
