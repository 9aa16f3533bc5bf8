//! Images without a generator: their pixels are what is trained \[C: DeepInversion, Yin et al. 2020\].
//!
//! ```text
//! x ← noise with the mean and deviation that the teacher's normalisation expects
//! for each of K steps:
//!     L = bn·L_BN + oh·CE + bal·L_bal + act·L_act + adv·L_adv of a jittered view of x  +  tv·TV(x) + l2·‖x − ½‖₂
//!     Adam on x;  x ← x cut to [0, 1]
//! the batch: the x of the step with the lowest loss
//! ```
//!
//! The public code jitters by rolling the image round its edges; here the [views](crate::augment) do that, with zeros that
//! come in \[O\]. Its competition term is a Jensen-Shannon divergence; here it is the L_adv that all strategies share \[O\]. Each batch
//! starts anew: there is no state.

use std::collections::BTreeMap;

use candle_core::{Device, Result, Tensor, Var, bail};
use ssdkd_nn::random::normal_tensor;
use ssdkd_nn::{Adam, Network};
use ssdkd_ops as ops;
use ssdkd_ops::Value;

use crate::generator::{draw_targets, draws, finish};
use crate::inversion::{Inversion, InvertSettings, Position, Synthesis};
use crate::inversion_loss::{BatchNormMomentum, InversionTerms, Judgement, Objective};

/// [`Strategy::Pixels`](crate::Strategy::Pixels); see the [module](self).
pub struct PixelOptimisation {
    settings: InvertSettings,
    device: Device,
}

impl PixelOptimisation {
    /// Holds the settings and nothing else.
    pub fn new(settings: InvertSettings, device: &Device) -> Self {
        Self { settings, device: device.clone() }
    }

    /// Moves `pixels` (B, H, W, C) down the loss; the best images on the way, and their loss.
    fn optimise(
        &self,
        objective: &Objective<'_>,
        pixels: &Var,
        targets: Option<&[u32]>,
        position: Position,
    ) -> Result<(Tensor, InversionTerms)> {
        let settings = &self.settings;
        let mut adam = Adam::new(vec![("x".into(), pixels.clone())], settings.beta1, settings.beta2, 0.0)?;
        let averages = BatchNormMomentum::new(0.0);
        let grey = Tensor::full(0.5f32, pixels.dims(), &self.device)?;
        let mut best: Option<(Tensor, InversionTerms)> = None;
        for step in 0..settings.steps {
            let images = Value::leaf(pixels);
            let views = settings.augment.view(&images, &mut draws(position, "invert/views", step))?;
            let Judgement { total, terms, .. } = objective.judge(&views, targets, &averages)?;
            let mut parts = vec![(1.0, total)];
            if settings.tv != 0.0 {
                parts.push((settings.tv, ops::total_variation(&images)?));
            }
            if settings.l2 != 0.0 {
                parts.push((settings.l2, ops::l2_distance(&images, &grey)?));
            }
            let total = ops::weighted_sum(&parts.iter().map(|(factor, part)| (*factor, part)).collect::<Vec<_>>())?;
            drop((images, views, parts));
            let terms = InversionTerms { total: total.scalar()?, ..terms };
            if best.as_ref().is_none_or(|(_, best)| terms.total < best.total) {
                // The optimiser works in place: what is kept is a copy.
                best = Some((pixels.as_tensor().copy()?, terms));
            }
            let gradients = total.backward()?;
            adam.step(&gradients, settings.lr_z)?;
            ops::copy_assign(pixels, &pixels.as_tensor().clamp(0f32, 1f32)?)?;
        }
        match best {
            Some(best) => Ok(best),
            None => bail!("invert.steps is 0; a batch needs at least one step"),
        }
    }

    /// Standard normal numbers after the teacher's normalisation, cut to `[0, 1]`: (B, H, W, C).
    fn noise(&self, teacher: &Network, position: Position) -> Result<Tensor> {
        let (height, width, channels) = teacher.input_shape();
        let shape = (self.settings.batch, height, width, channels);
        let noise = normal_tensor(&mut draws(position, "invert/pixels", 0), shape, &self.device)?;
        let of = |numbers: &[f32]| Tensor::new(numbers, &self.device);
        let noise = noise.broadcast_mul(&of(&teacher.spec().std)?)?.broadcast_add(&of(&teacher.spec().mean)?)?;
        noise.clamp(0f32, 1f32)
    }
}

impl Inversion for PixelOptimisation {
    fn synthesize(&mut self, objective: &Objective<'_>, position: Position) -> Result<Synthesis> {
        let settings = &self.settings;
        let targets = draw_targets(settings, position, objective.teacher.classes());
        let pixels = Var::from_tensor(&self.noise(objective.teacher, position)?)?;
        let (images, terms) = self.optimise(objective, &pixels, targets.as_deref(), position)?;
        finish(settings, objective.teacher, &images, targets, terms)
    }

    /// Each batch starts from noise.
    fn state_tensors(&self) -> BTreeMap<String, Tensor> {
        BTreeMap::new()
    }

    fn load_state(&mut self, tensors: BTreeMap<String, Tensor>) -> Result<()> {
        match tensors.keys().next() {
            Some(name) => bail!("pixels have no state, the saved one holds {name}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::augment::AugmentSettings;
    use crate::golden::{assert_repeated, device, network, numbers};
    use crate::inversion::{Strategy, TargetRule};
    use crate::modulation::{Modulation, ModulationSettings};

    fn settings(steps: usize) -> InvertSettings {
        InvertSettings {
            strategy: Strategy::Pixels,
            targets: TargetRule::Balanced,
            batch: 6,
            steps,
            lr_z: 0.02,
            bn: 0.01, // this teacher's statistics are a formula's, of no image
            oh: 1.0,
            bal: 0.0,
            tv: 1e-3,
            l2: 1e-3,
            augment: AugmentSettings::OFF,
            ..Default::default()
        }
    }

    fn synthesize(steps: usize) -> Synthesis {
        let modulation = Modulation::new(ModulationSettings::OFF, &[]);
        let position = Position { seed: 3, round: 0, distilling_round: None, batch: 0 };
        let (settings, teacher) = (settings(steps), network(1));
        let objective = Objective::new(&settings, &teacher, None, &modulation);
        PixelOptimisation::new(settings.clone(), &device()).synthesize(&objective, position).unwrap()
    }

    #[test]
    fn images_become_what_they_should_be() {
        let (noise, made) = (synthesize(1), synthesize(60));
        assert!(made.terms.task < 0.2 * noise.terms.task, "{:?} from {:?}", made.terms, noise.terms);
        let right = |made: &Synthesis| {
            made.answers.classes.iter().zip(&made.targets).filter(|(class, target)| class == target).count()
        };
        assert_eq!(right(&made), 6, "the teacher sees the targets");
        assert!(numbers(&made.images).iter().all(|x| (0.0..=1.0).contains(x)));
    }

    #[test]
    fn the_same_position_makes_the_same_images() {
        assert_repeated("images", &numbers(&synthesize(5).images), &numbers(&synthesize(5).images));
    }
}
