//! The batch-norm term: synthetic images should have the statistics of the teacher's training images.
//!
//! ```text
//! absolute:  batch_norm = Σ_l ‖μ_l(x) − μ_run,l‖₂ + ‖σ²_l(x) − σ²_run,l‖₂                                        [R][C]
//! relative:  batch_norm = 1/L · Σ_l rms_c((μ_l(x) − μ_run,l)/s_l) + rms_c((σ²_l(x) − σ²_run,l)/s²_l)                [O]
//!            s²_l = max(σ²_run,l, 0.01 · mean_c σ²_run,l)
//! ```
//!
//! μ_l and σ²_l (biased) are taken over N, H and W of the *input* of every batch norm of the teacher, which is in evaluation mode.
//! The norms are not squared. With a momentum m they are blended with their own running average before they are compared,
//! μ_l ← (1−m)·μ_l + m·μ_ema,l once there is one. The average moves once a synthesis batch, by that batch's last iteration
//! \[C: Fast-Datafree\].
//!
//! **Relative form.** The absolute form has the units of the teacher's activations: it grows with their size, with the channels and with
//! the layers. The relative form is a root mean square over the C channels and a mean over the L layers, so it has none. A value of 1
//! means "one deviation off" for every network.
//!
//! A channel whose weights have decayed to nothing is constant, and so is one that sees only dead channels of the ReLU before it. In three
//! of seven CIFAR teachers 3 % of the channels have less than 0.001 of their layer's mean variance. In its own deviation a trace of
//! activation would be a hundred deviations, and one such channel would hide all others. The floor measures it in a tenth of its
//! layer's typical deviation. Channels that are alive lie above the floor: fewer than one in 500 of those teachers' lies between
//! 0.001 and 0.03, and in the other four none is below 0.06.
//!
//! The floor takes the place of the layer's epsilon, which has the units of the activations. A layer without any variance has no deviation
//! to measure in, and counts as right.

use std::cell::RefCell;

use candle_core::{Device, Result, Tensor, bail};
use ssdkd_nn::{StateDict, Tap};
use ssdkd_ops as ops;
use ssdkd_ops::{Packed, Value};

use crate::inversion::loss_settings::{BatchNormForm, LossSettings};

/// The default factor of the relative form, for a default of 1 in the absolute one: see docs/lab/batch-norm-form.md.
pub const RELATIVE_FACTOR: f64 = 100.0;

/// The smallest variance that a channel is measured in, as a share of its layer's mean variance.
const VARIANCE_FLOOR: f64 = 0.01;

/// Returns what a tap saw, detached from the tape.
pub(crate) fn statistics(tap: &Tap) -> (Tensor, Tensor) {
    (tap.mean.tensor().clone(), tap.variance.tensor().clone())
}

/// What one layer's statistics are measured in, in the relative form.
#[derive(Debug, Clone)]
struct Units {
    /// 1/s (C,).
    of_mean: Tensor,
    /// 1/s² (C,).
    of_variance: Tensor,
}

impl Units {
    /// `numbers` are those of the tap's running variance.
    fn of(tap: &Tap, numbers: Vec<f32>) -> Result<Self> {
        let variance = &tap.running_variance;
        let mean = numbers.iter().map(|&number| f64::from(number)).sum::<f64>() / numbers.len().max(1) as f64;
        // A layer that is constant has no units: its statistics count as right.
        let inverse = |number: f32| match f64::from(number).max(VARIANCE_FLOOR * mean) {
            tiny if tiny < f64::from(f32::MIN_POSITIVE) => 0.0,
            number => 1.0 / number,
        };
        let of_variance = numbers.into_iter().map(inverse).collect::<Vec<_>>();
        let tensor = |numbers: Vec<f32>| Tensor::from_vec(numbers, variance.dims(), variance.device());
        Ok(Self {
            of_mean: tensor(of_variance.iter().map(|number| number.sqrt() as f32).collect())?,
            of_variance: tensor(of_variance.iter().map(|&number| number as f32).collect())?,
        })
    }
}

/// The batch-norm term of one teacher, with the running averages of the batch statistics of synthetic images, layer by layer.
#[derive(Debug, Clone)]
pub struct BatchNormMomentum {
    form: BatchNormForm,
    rate: f64,
    /// Mean and variance (C,) of each layer; empty before the first update.
    averages: Vec<(Tensor, Tensor)>,
    /// Of the teacher's layers, after the first pass; empty in the absolute form.
    units: RefCell<Vec<Units>>,
}

impl BatchNormMomentum {
    /// Returns no averages yet. A `rate` of 0 never keeps any: statistics are those of the batch alone.
    pub fn new(form: BatchNormForm, rate: f64) -> Self {
        Self { form, rate, averages: Vec::new(), units: RefCell::default() }
    }

    /// Returns no averages yet, in the form and with the momentum of `settings`.
    pub fn of(settings: &LossSettings) -> Self {
        Self::new(settings.batch_norm_form, settings.batch_norm_momentum)
    }

    /// Returns the batch-norm term of the taps of one pass.
    pub fn loss(&self, taps: &[Tap]) -> Result<Value> {
        self.check(taps)?;
        self.measure(taps)?;
        let units = self.units.borrow();
        let mut norms = Vec::with_capacity(2 * taps.len());
        for (layer, tap) in taps.iter().enumerate() {
            let (mean, variance) = self.averages.get(layer).map(|(mean, variance)| (mean, variance)).unzip();
            let (of_mean, of_variance) = units.get(layer).map(|units| (&units.of_mean, &units.of_variance)).unzip();
            let factor = match self.form {
                BatchNormForm::Absolute => 1.0,
                BatchNormForm::Relative => 1.0 / (taps.len() as f64 * (tap.mean.tensor().elem_count() as f64).sqrt()),
            };
            norms.push((factor, self.distance(&tap.mean, &tap.running_mean, mean, of_mean)?));
            norms.push((factor, self.distance(&tap.variance, &tap.running_variance, variance, of_variance)?));
        }
        ops::weighted_sum(&norms.iter().map(|(factor, norm)| (*factor, norm)).collect::<Vec<_>>())
    }

    /// Returns ‖((1−m)·batch + m·average − running) · unit‖₂, or ‖(batch − running) · unit‖₂ without an average.
    fn distance(
        &self,
        batch: &Value,
        running: &Tensor,
        average: Option<&Tensor>,
        unit: Option<&Tensor>,
    ) -> Result<Value> {
        let (batch, goal) = match average {
            Some(average) => (ops::scale(batch, 1.0 - self.rate)?, (running - (average * self.rate)?)?),
            None => (batch.clone(), running.clone()),
        };
        match unit {
            Some(unit) => ops::l2_distance(&ops::multiply(&batch, &Value::constant(unit.clone()))?, &(goal * unit)?),
            None => ops::l2_distance(&batch, &goal),
        }
    }

    /// Works out the units of the teacher's layers in the first pass, and not again: a GPU is waited for.
    fn measure(&self, taps: &[Tap]) -> Result<()> {
        let mut units = self.units.borrow_mut();
        if self.form == BatchNormForm::Relative && units.len() != taps.len() {
            let variances = taps.iter().map(|tap| &tap.running_variance).collect::<Vec<_>>();
            let numbers = Packed::of(&variances)?.read()?;
            *units = taps.iter().zip(numbers).map(|(tap, numbers)| Units::of(tap, numbers)).collect::<Result<_>>()?;
        }
        Ok(())
    }

    /// Returns whether updates change the term: with a momentum of 0 it is always the same function of the taps.
    pub(crate) fn keeps_averages(&self) -> bool {
        self.rate != 0.0
    }

    /// Moves the averages by the statistics of a synthesis batch's last iteration.
    pub fn update(&mut self, statistics: Vec<(Tensor, Tensor)>) -> Result<()> {
        if !self.keeps_averages() {
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
            bail!("the teacher has no batch norm to invert\nhint: set invert.loss.batch_norm to 0");
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
    pub fn state_dict(&self) -> StateDict {
        let named = |(layer, (mean, variance)): (usize, &(Tensor, Tensor))| {
            [(format!("mean.{layer:04}"), mean.clone()), (format!("variance.{layer:04}"), variance.clone())]
        };
        self.averages.iter().enumerate().flat_map(named).collect()
    }

    /// Restores saved averages. [`loss`](Self::loss) refuses them if they are not this teacher's.
    pub fn load_state_dict(&mut self, mut state: StateDict, device: &Device) -> Result<()> {
        let mut averages = Vec::new();
        let mut take = |name: String| state.remove(&name).map(|tensor| tensor.to_device(device)).transpose();
        loop {
            let layer = averages.len();
            match (take(format!("mean.{layer:04}"))?, take(format!("variance.{layer:04}"))?) {
                (Some(mean), Some(variance)) => averages.push((mean, variance)),
                (None, None) => break,
                _ => {
                    bail!("the saved batch-norm averages are incomplete: layer {layer} lacks its mean or its variance")
                }
            }
        }
        state.finish("the saved batch-norm averages")?;
        self.averages = if self.keeps_averages() { averages } else { Vec::new() };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{device, formula, network, numbers};
    use ssdkd_nn::{Mode, Network};

    fn tensor(numbers: &[f32]) -> Tensor {
        Tensor::new(numbers, &device()).unwrap()
    }

    /// Returns a tap of three channels, the last one dead: batch statistics and running ones.
    fn tap(mean: &Tensor, variance: &Tensor) -> Tap {
        let (running_mean, running_variance) = (tensor(&[0.5, -1.0, 0.0]), tensor(&[4.0, 1.0, 1e-7]));
        Tap { mean: Value::leaf(mean), variance: Value::leaf(variance), running_mean, running_variance }
    }

    fn relative(taps: &[Tap]) -> f32 {
        BatchNormMomentum::new(BatchNormForm::Relative, 0.0).loss(taps).unwrap().scalar().unwrap()
    }

    #[test]
    fn one_deviation_off_in_every_mean_is_one() {
        // A dead channel's unit is a tenth of its layer's deviation.
        let dead = (0.01_f32 * 5.0 / 3.0).sqrt();
        let off = tap(&tensor(&[0.5 + 2.0, -1.0 - 1.0, dead]), &tensor(&[4.0, 1.0, 1e-7]));
        assert!((relative(std::slice::from_ref(&off)) - 1.0).abs() < 1e-3);
        let right = tap(&tensor(&[0.5, -1.0, 0.0]), &tensor(&[4.0, 1.0, 1e-7]));
        assert!(relative(std::slice::from_ref(&right)) < 1e-6);
        assert!((relative(&[off, right]) - 0.5).abs() < 1e-3, "a mean over layers");
    }

    #[test]
    fn a_trace_in_a_dead_channel_does_not_hide_the_others() {
        let found = relative(&[tap(&tensor(&[0.5, -1.0, 0.01]), &tensor(&[4.0, 1.0, 1e-4]))]);
        assert!(found < 0.1, "{found}; in its own deviation it would be {}", 0.01 / 1e-7_f32.sqrt() / 3.0_f32.sqrt());
    }

    #[test]
    fn a_layer_without_variance_counts_as_right() {
        let taps = [Tap { running_variance: tensor(&[0.0; 3]), ..tap(&tensor(&[3.0; 3]), &tensor(&[1.0; 3])) }];
        assert_eq!(relative(&taps), 0.0);
    }

    /// The gradient of the relative form by finite differences, with and without averages.
    #[track_caller]
    fn check_gradient(momentum: &BatchNormMomentum) {
        let (mean, variance) = ([0.9_f32, -1.7, 0.02], [3.0_f32, 1.6, 2e-3]);
        let loss = |mean: &[f32], variance: &[f32]| {
            f64::from(momentum.loss(&[tap(&tensor(mean), &tensor(variance))]).unwrap().scalar().unwrap())
        };
        let (means, variances) = (tensor(&mean), tensor(&variance));
        let gradients = momentum.loss(&[tap(&means, &variances)]).unwrap().backward().unwrap();
        let of = |leaf: &Tensor| numbers(gradients.get(leaf).unwrap());
        for channel in 0..3 {
            let moved = |numbers: [f32; 3], by: f32| {
                let mut numbers = numbers;
                numbers[channel] += by;
                numbers
            };
            let step = 1e-3;
            let slope = |change: &dyn Fn(f32) -> f64| (change(step) - change(-step)) / f64::from(2.0 * step);
            let by_mean = slope(&|by| loss(&moved(mean, by), &variance));
            let by_variance = slope(&|by| loss(&mean, &moved(variance, by)));
            for (found, expected) in [(of(&means)[channel], by_mean), (of(&variances)[channel], by_variance)] {
                let expected = expected as f32;
                assert!((found - expected).abs() < 2e-2 * expected.abs().max(0.1), "{found} is not {expected}");
            }
        }
    }

    #[test]
    fn the_relative_gradient_is_that_of_finite_differences() {
        let mut momentum = BatchNormMomentum::new(BatchNormForm::Relative, 0.9);
        check_gradient(&momentum);
        momentum.update(vec![(tensor(&[0.1, -1.2, 0.01]), tensor(&[3.5, 0.7, 1e-3]))]).unwrap();
        check_gradient(&momentum);
    }

    /// Multiplies the units in which `network` computes the input of its first batch norm.
    fn in_other_units(network: &Network, factor: f64) {
        for (name, var) in network.store().all() {
            let power = match name.as_str() {
                "conv1.weight" | "bn1.running_mean" => 1,
                "bn1.running_var" => 2,
                _ => continue,
            };
            ops::copy_assign(&var, &(var.as_tensor() * factor.powi(power)).unwrap()).unwrap();
        }
    }

    #[test]
    fn the_units_of_activations_change_the_absolute_form_alone() {
        let images = Value::constant((formula(50, &[6, 8, 8, 3], 0.5) + 0.5).unwrap());
        let loss = |factor: f64, form: BatchNormForm, layers: usize| {
            let network = network(1);
            in_other_units(&network, factor);
            let taps = network.forward(&images, Mode::Tapped).unwrap().taps;
            let taps = &taps[..layers.min(taps.len())];
            BatchNormMomentum::new(form, 0.0).loss(taps).unwrap().scalar().unwrap()
        };
        let of = |form, layers| [1.0, 30.0].map(|factor| loss(factor, form, layers));
        let [before, after] = of(BatchNormForm::Relative, usize::MAX);
        assert!((before - after).abs() < 1e-3 * before, "{before} became {after}");
        let [before, after] = of(BatchNormForm::Absolute, 1);
        assert!(after > 30.0 * before, "{before} became {after}");
    }
}
