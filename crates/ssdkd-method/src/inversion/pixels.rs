//! Images without a generator: their pixels are trained \[C: DeepInversion, Yin et al. 2020\].
//!
//! ```text
//! x ← noise with the mean and deviation that the teacher's normalization expects
//! for each of K steps:
//!     L = the loss of a jittered view of x  +  total_variation·TV(x) + l2·‖x − ½‖₂
//!     Adam on x;  x ← x cut to [0, 1]
//! the batch: the x of the step with the lowest loss
//! ```
//!
//! The public code jitters by rolling the image round its edges; here the views do that, with zeros that
//! come in \[O\]. Its competition term is a Jensen-Shannon divergence; here it is the adversarial term that all strategies share \[O\].
//! Each batch starts from noise: there is no state.

use candle_core::{Device, Result, Tensor, Var, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssdkd_nn::random::normal_tensor;
use ssdkd_nn::{Adam, Network, NetworkSpec, Optimizer, StateDict};
use ssdkd_ops as ops;
use ssdkd_ops::Value;

use crate::inversion::batch_norm::BatchNormMomentum;
use crate::inversion::loss::{Evaluated, Loss, Objective, Term};
use crate::inversion::loss_settings::LossSettings;
use crate::inversion::synthesis::{BatchSettings, Inversion, Position, Synthesis};

/// Strategy "pixels": no generator; the pixels are trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PixelsSettings {
    /// Adam's learning rate for the pixels, in units of the image's range \[C: DeepInversion: 0.05, in normalized units\].
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub lr: f64,
    /// Adam's first decay \[C: 0.5 or 0.9\].
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1.0))]
    pub beta1: f64,
    /// Adam's second decay \[C: 0.999\].
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1.0))]
    pub beta2: f64,
}

impl Default for PixelsSettings {
    fn default() -> Self {
        Self { lr: 0.02, beta1: 0.9, beta2: 0.999 }
    }
}

impl PixelsSettings {
    /// The default of `[invert.loss]` for this strategy \[O\].
    pub const LOSS: LossSettings =
        LossSettings { batch_norm: 1.0, class: 1.0, total_variation: 2.5e-4, l2: 3e-4, ..LossSettings::NONE };
}

/// Strategy "pixels"; see the [module](self).
pub struct PixelOptimization {
    settings: PixelsSettings,
    batch: BatchSettings,
    device: Device,
}

impl PixelOptimization {
    /// Holds the settings and nothing else.
    pub fn new(settings: PixelsSettings, batch: BatchSettings, device: &Device) -> Self {
        Self { settings, batch, device: device.clone() }
    }

    /// Moves `pixels` (B, H, W, C) down the loss. Returns the best images on the way, and their loss.
    fn optimize(
        &self,
        objective: &Objective<'_>,
        pixels: &Var,
        targets: Option<&[u32]>,
        position: Position,
    ) -> Result<(Tensor, Loss)> {
        let settings = &self.settings;
        let mut adam = Adam::new(vec![("x".into(), pixels.clone())], settings.beta1, settings.beta2, 0.0)?;
        let averages = BatchNormMomentum::new(objective.loss.batch_norm_form, 0.0);
        let gray = Tensor::full(0.5f32, pixels.dims(), &self.device)?;
        let mut best: Option<(Tensor, Loss)> = None;
        for step in 0..self.batch.steps {
            let images = Value::leaf(pixels);
            let views = self.batch.views.view(&images, &mut position.stream("invert/views", step))?;
            let Evaluated { mut terms, .. } = objective.evaluate(&views, targets, &averages)?;
            terms.add(Term::TotalVariation, || ops::total_variation(&images))?;
            terms.add(Term::L2, || ops::l2_distance(&images, &gray))?;
            let (total, loss) = terms.total()?;
            drop((images, views));
            // The optimizer works in place, and the loss is read last.
            let before = pixels.as_tensor().copy()?;
            let gradients = total.backward()?;
            adam.step(&gradients, settings.lr)?;
            ops::copy_assign(pixels, &pixels.as_tensor().clamp(0f32, 1f32)?)?;
            let loss = loss.read()?;
            if best.as_ref().is_none_or(|(_, best)| loss.total < best.total) {
                best = Some((before, loss));
            }
        }
        match best {
            Some(best) => Ok(best),
            None => bail!("invert.steps is 0; a batch needs at least one step"),
        }
    }

    /// Draws RGB images (B, H, W, C) that the teacher's normalization makes standard normal, cut to `[0, 1]`.
    fn noise(&self, teacher: &Network, position: Position) -> Result<Tensor> {
        let (height, width, channels) = teacher.input_shape();
        let shape = (self.batch.batch, height, width, channels);
        let noise = normal_tensor(&mut position.stream("invert/pixels", 0), shape, &self.device)?;
        let NetworkSpec { mean, std, preprocessing, .. } = teacher.spec();
        let (mean, std) = preprocessing.normalization_of_rgb(mean, std);
        let of = |numbers: Vec<f32>| Tensor::new(numbers, &self.device);
        let noise = noise.broadcast_mul(&of(std)?)?.broadcast_add(&of(mean)?)?;
        noise.clamp(0f32, 1f32)
    }
}

impl Inversion for PixelOptimization {
    fn synthesize(&mut self, objective: &Objective<'_>, position: Position) -> Result<Synthesis> {
        let targets = self.batch.targets(position, objective.teacher.classes(), objective.prior);
        let pixels = Var::from_tensor(&self.noise(objective.teacher, position)?)?;
        let (images, loss) = self.optimize(objective, &pixels, targets.as_deref(), position)?;
        self.batch.finish(objective.teacher, &images, targets, loss)
    }

    /// Each batch starts from noise, so there is no state.
    fn state_dict(&self) -> StateDict {
        StateDict::default()
    }

    fn load_state_dict(&mut self, state: StateDict) -> Result<()> {
        state.finish("the state of strategy \"pixels\", which has none,")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{assert_repeated, device, network, numbers, oblong_networks};
    use crate::inversion::synthesis::{ImageFormat, TargetRule};
    use crate::modulation::{Modulation, ModulationSettings};
    use ssdkd_nn::{ChannelOrder, DifferentiableViewSettings, Preprocessing};

    fn synthesize(steps: usize) -> Synthesis {
        synthesize_for(&network(1), steps)
    }

    fn synthesize_for(teacher: &Network, steps: usize) -> Synthesis {
        let modulation = Modulation::new(ModulationSettings::OFF, &[]);
        let position = Position { seed: 3, round: 0, distilling_round: None, batch: 0 };
        let batch = BatchSettings {
            batch: 6,
            steps,
            targets: TargetRule::Balanced,
            image_format: ImageFormat::U8,
            views: DifferentiableViewSettings::OFF,
        };
        // This teacher's statistics are a formula's, of no image.
        let loss = LossSettings { batch_norm: 0.01, total_variation: 1e-3, l2: 1e-3, ..PixelsSettings::LOSS };
        let objective = Objective::new(loss, teacher, None, &modulation);
        let settings = PixelsSettings { beta1: 0.5, ..PixelsSettings::default() };
        PixelOptimization::new(settings, batch, &device()).synthesize(&objective, position).unwrap()
    }

    #[test]
    fn images_become_what_they_should_be() {
        let (noise, made) = (synthesize(1), synthesize(60));
        let of_class = |made: &Synthesis| made.loss.term(Term::Class).unwrap();
        assert!(of_class(&made) < 0.2 * of_class(&noise), "{:?} from {:?}", made.loss, noise.loss);
        let right = |made: &Synthesis| {
            made.predictions.classes.iter().zip(&made.targets).filter(|(class, target)| class == target).count()
        };
        assert_eq!(right(&made), 6, "the teacher sees the targets");
        assert!(numbers(&made.images).iter().all(|x| (0.0..=1.0).contains(x)));
    }

    #[test]
    fn images_have_the_size_of_an_oblong_teacher() {
        let [teacher, _] = oblong_networks(1);
        let [noise, made] = [1, 10].map(|steps| synthesize_for(&teacher, steps));
        assert_eq!(made.images.dims(), [6, 24, 40, 3]);
        assert!(made.loss.total < noise.loss.total, "{:?} from {:?}", made.loss, noise.loss);
    }

    #[test]
    fn noise_is_rgb_whatever_order_and_range_the_teacher_takes() {
        let rgb = network(1);
        let spec = rgb.spec().clone();
        let to_bgr = |numbers: &[f32]| numbers.iter().rev().map(|number| 255.0 * number).collect::<Vec<_>>();
        let (mean, std) = (to_bgr(&spec.mean), to_bgr(&spec.std));
        let preprocessing =
            Preprocessing { channels: ChannelOrder::Bgr, range: [0.0, 255.0], ..Preprocessing::default() };
        let bgr = Network::create(&NetworkSpec { mean, std, preprocessing, ..spec }, 0, &device()).unwrap();
        let batch = BatchSettings {
            batch: 2,
            steps: 1,
            targets: TargetRule::Balanced,
            image_format: ImageFormat::U8,
            views: DifferentiableViewSettings::OFF,
        };
        let pixels = PixelOptimization::new(PixelsSettings::default(), batch, &device());
        let position = Position { seed: 3, round: 0, distilling_round: None, batch: 0 };
        let [of_rgb, of_bgr] = [&rgb, &bgr].map(|teacher| numbers(&pixels.noise(teacher, position).unwrap()));
        let largest = of_rgb.iter().zip(&of_bgr).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(largest < 1e-5, "{largest}");
    }

    #[test]
    fn the_loss_records_the_terms_of_the_pixels() {
        let made = synthesize(1);
        for term in [Term::BatchNorm, Term::Class, Term::TotalVariation, Term::L2] {
            assert!(made.loss.term(term).is_some_and(|value| value > 0.0), "{}", term.name());
        }
        assert_eq!(made.loss.terms().len(), 4);
    }

    #[test]
    fn the_same_position_makes_the_same_images() {
        assert_repeated("images", &numbers(&synthesize(5).images), &numbers(&synthesize(5).images));
    }
}
