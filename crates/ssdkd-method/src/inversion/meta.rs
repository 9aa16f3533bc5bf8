//! A generator that is learned as a starting point: first-order meta-learning over batches \[C: Fast-Datafree\].
//!
//! ```text
//! g' ← clone of g;  z ~ N(0, 1)
//! for each of K inner steps:
//!     x = g'(z);  the loss L of a view of x;  Adam on g' at lr and on z at latent_lr
//!     G ← G + ∂L/∂g'                                              first-order MAML: the clone's gradient, taken for g's
//! one step of a persistent Adam at lr·K on g with the gradient G
//! the batch: the images of the inner step with the lowest loss
//! ```
//!
//! The clone and its Adam live for one batch; g, its Adam and the averages of the batch-norm statistics for the whole run.
//! (The public code resumes without them, so its generator restarts; ours resumes to the same bits.)

use std::collections::BTreeMap;

use candle_core::{Device, Result, Tensor, Var, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssdkd_nn::{Adam, Mode, Network, Optimizer, StateDict};
use ssdkd_ops::Value;

use crate::inversion::batch_norm::BatchNormMomentum;
use crate::inversion::generator::{ResetSchedule, Sizes, TrainedGenerator};
use crate::inversion::loss::{Evaluated, Loss, Objective};
use crate::inversion::loss_settings::LossSettings;
use crate::inversion::synthesis::{BatchSettings, Inversion, Position, Synthesis};

/// Strategy "meta": a generator that is learned as a starting point and cloned for each batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MetaSettings {
    /// Numbers in a latent z \[C: 256\].
    #[schemars(range(min = 1, max = 65_536))]
    pub latent_size: usize,
    /// Channels of the generator's last hidden layer; the first one has twice as many \[C: 64\].
    #[schemars(range(min = 1, max = 4096))]
    pub width: usize,
    /// Adam's learning rate for the generator \[C: 5e-3, 3e-3, 2e-3 for 2, 5, 10 steps\].
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub lr: f64,
    /// Adam's learning rate for the latents \[C: 0.015, 0.01, 0.01 for 2, 5, 10 steps\].
    #[schemars(range(min = 0.0))]
    pub latent_lr: f64,
    /// Adam's first decay \[C: 0.5\].
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1.0))]
    pub beta1: f64,
    /// Adam's second decay \[C: 0.999\].
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1.0))]
    pub beta2: f64,
    /// Re-initialize the generator's first linear layer once, at the start of this round (from 1, after the warm-up); 0: never \[C: 120\].
    pub reset_round: u32,
    /// Re-initialize it at the start of every so many rounds after the warm-up; 0: never \[O\] \[C: NAYER, for each batch\].
    pub reset_every: u32,
}

impl Default for MetaSettings {
    fn default() -> Self {
        Self {
            latent_size: 256,
            width: 64,
            lr: 3e-3,
            latent_lr: 0.01,
            beta1: 0.5,
            beta2: 0.999,
            reset_round: 0,
            reset_every: 0,
        }
    }
}

impl MetaSettings {
    /// The default of `[invert.loss]` for this strategy \[C\].
    pub const LOSS: LossSettings = LossSettings {
        batch_norm: 10.0,
        class: 0.5,
        adversarial: 1.0,
        adversarial_mask: true,
        batch_norm_momentum: 0.9,
        ..LossSettings::NONE
    };

    pub(crate) fn resets(&self) -> ResetSchedule {
        ResetSchedule { round: self.reset_round, every: self.reset_every }
    }
}

/// The generator of strategy "meta" and its state; see the [module](self).
pub struct MetaGenerator {
    settings: MetaSettings,
    batch: BatchSettings,
    generator: TrainedGenerator,
}

impl MetaGenerator {
    /// Returns a fresh generator, its weights a function of `seed`.
    pub fn new(
        settings: MetaSettings,
        batch: BatchSettings,
        averages: BatchNormMomentum,
        teacher: &Network,
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        let sizes = Sizes { inputs: settings.latent_size, width: settings.width };
        let betas = (settings.beta1, settings.beta2);
        let generator = TrainedGenerator::new(sizes, betas, averages, teacher, seed, device)?;
        Ok(Self { settings, batch, generator })
    }

    /// Takes one meta step from given latents (B, latent). Returns the best images (B, H, W, C) and their loss.
    fn meta_step(
        &mut self,
        objective: &Objective<'_>,
        latents: &Tensor,
        targets: Option<&[u32]>,
        position: Position,
    ) -> Result<(Tensor, Loss)> {
        let Self { settings, batch, generator } = self;
        let weights = generator.store.deep_clone()?;
        let clone = generator.sizes.build(objective.teacher, &weights)?;
        let latents = Var::from_tensor(latents)?;
        let mut clone_adam = Adam::new(weights.parameters(), settings.beta1, settings.beta2, 0.0)?;
        let mut latent_adam = Adam::new(vec![("z".into(), latents.clone())], settings.beta1, settings.beta2, 0.0)?;

        let mut summed = BTreeMap::<String, Tensor>::new();
        let mut best: Option<(Tensor, Loss)> = None;
        for step in 0..batch.steps {
            let images = clone.forward(&Value::leaf(&latents), Mode::Train)?; // (B, H, W, C)
            let views = batch.views.view(&images, &mut position.stream("invert/views", step))?;
            let Evaluated { terms, statistics, .. } = objective.evaluate(&views, targets, &generator.averages)?;
            let (total, loss) = terms.total()?;
            let made = images.tensor().clone();
            drop((images, views));
            let gradients = total.backward()?;
            for (name, var) in weights.parameters() {
                if let Some(gradient) = gradients.get(&var) {
                    let sum = match summed.remove(&name) {
                        Some(sum) => (sum + gradient)?,
                        None => gradient.clone(),
                    };
                    summed.insert(name, sum);
                }
            }
            if step + 1 < batch.steps {
                clone_adam.step(&gradients, settings.lr)?;
                latent_adam.step(&gradients, settings.latent_lr)?;
            } else {
                // The clone is not used again.
                generator.averages.update(statistics)?;
            }
            let loss = loss.read()?;
            if best.as_ref().is_none_or(|(_, best)| loss.total < best.total) {
                best = Some((made, loss));
            }
        }
        generator.optimizer.step_with(&summed, settings.lr * batch.steps as f64)?;
        match best {
            Some(best) => Ok(best),
            None => bail!("invert.steps is 0; a batch needs at least one inner step"),
        }
    }
}

impl Inversion for MetaGenerator {
    fn synthesize(&mut self, objective: &Objective<'_>, position: Position) -> Result<Synthesis> {
        self.generator.reset_if_due(self.settings.resets(), position)?;
        let device = self.generator.store.device();
        let latents = self.batch.latents(self.settings.latent_size, position, 0, device)?;
        let targets = self.batch.targets(position, objective.teacher.classes(), objective.prior);
        let (images, loss) = self.meta_step(objective, &latents, targets.as_deref(), position)?;
        self.batch.finish(objective.teacher, &images, targets, loss)
    }

    fn state_dict(&self) -> StateDict {
        self.generator.state_dict()
    }

    fn load_state_dict(&mut self, state: StateDict) -> Result<()> {
        self.generator.load_state_dict(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{Golden, check_parameters, device, fill, formula, network, numbers};
    use crate::inversion::loss::Term;
    use crate::inversion::synthesis::{ImageFormat, TargetRule};
    use crate::modulation::{Diversity, Modulation, ModulationSettings};
    use ssdkd_nn::DifferentiableViewSettings;

    #[test]
    fn two_meta_steps_are_those_of_pytorch() {
        let golden = Golden::load();
        let (teacher, student) = (network(1), network(2));
        let settings = MetaSettings { latent_size: 8, width: 4, lr: 2e-3, latent_lr: 1e-2, ..Default::default() };
        let batch = BatchSettings {
            batch: 5,
            steps: 3,
            targets: TargetRule::Random,
            image_format: ImageFormat::U8,
            views: DifferentiableViewSettings::OFF,
        };
        let loss = LossSettings { adversarial: 1.1, ..MetaSettings::LOSS };
        let modulation =
            Modulation::new(ModulationSettings { diversity: Diversity::Share, gamma: 1.0 }, &[5, 0, 12, 3]);
        let objective = Objective::new(loss, &teacher, Some(&student), &modulation);
        let mut meta =
            MetaGenerator::new(settings, batch, BatchNormMomentum::of(&loss), &teacher, 0, &device()).unwrap();
        fill(&meta.generator.store, 3);
        let position = Position { seed: 0, round: 0, distilling_round: Some(0), batch: 0 };
        for batch in 0..2 {
            let latents = formula(20 + batch, &[5, 8], 2.0);
            let targets = [0, 1, 2, 3, batch];
            let (images, loss) = meta.meta_step(&objective, &latents, Some(&targets), position).unwrap();
            let terms = [Term::BatchNorm, Term::Class, Term::Adversarial].map(|term| loss.term(term).unwrap());
            // The last step's loss is the lowest.
            golden.check(&format!("meta.{batch}.losses.2"), &[&terms[..], &[loss.total]].concat(), 1e-4);
            golden.check(&format!("meta.{batch}.images"), &numbers(&images), 1e-3);
        }
        check_parameters(&golden, "meta.generator", &meta.generator.store, 1e-3);
    }
}
