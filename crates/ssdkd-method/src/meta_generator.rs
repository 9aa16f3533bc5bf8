//! A generator that is learnt as a starting point: first-order meta-learning over batches \[C: Fast-Datafree\].
//!
//! ```text
//! g' ← clone of g;  z ~ N(0, 1)
//! for each of K inner steps:
//!     x = g'(z);  L_G of a view of x;  Adam(β 0.5, 0.999) on g' at lr_g and on z at lr_z
//!     G ← G + ∂L_G/∂g'                                            first-order MAML: the clone's gradient, taken for g's
//! one step of a persistent Adam at lr_g·K on g with the gradient G
//! the batch: the images of the inner step with the lowest loss
//! ```
//!
//! The clone and its Adam live for one batch; g, its Adam and the averages of the batch-norm statistics for the whole run.
//! (The public code resumes without them, so its generator starts over; ours goes on to the same bits.)

use std::collections::BTreeMap;

use candle_core::{Device, Result, Tensor, Var, bail};
use ssdkd_nn::{Adam, Network, Pass};
use ssdkd_ops::Value;

use crate::generator::{TrainedGenerator, build, draw_targets, draws, finish};
use crate::inversion::{Inversion, InvertSettings, Position, Synthesis};
use crate::inversion_loss::{InversionTerms, Judgement, Objective};

/// The generator of [`Strategy::Meta`](crate::Strategy::Meta) and its state; see the [module](self).
pub struct MetaGenerator(TrainedGenerator);

impl MetaGenerator {
    /// A fresh generator, its weights a function of `seed`.
    pub fn new(settings: InvertSettings, teacher: &Network, seed: u64, device: &Device) -> Result<Self> {
        Ok(Self(TrainedGenerator::new(settings, teacher, seed, device)?))
    }

    /// One meta step from given latents (B, latent): the best images (B, H, W, C) and their loss.
    fn meta_step(
        &mut self,
        objective: &Objective<'_>,
        latents: &Tensor,
        targets: Option<&[u32]>,
        position: Position,
    ) -> Result<(Tensor, InversionTerms)> {
        let generator = &mut self.0;
        let settings = &generator.settings;
        let weights = generator.store.deep_clone()?;
        let clone = build(settings, objective.teacher, &weights)?;
        let latents = Var::from_tensor(latents)?;
        let mut clone_adam = Adam::new(weights.parameters(), settings.beta1, settings.beta2, 0.0)?;
        let mut latent_adam = Adam::new(vec![("z".into(), latents.clone())], settings.beta1, settings.beta2, 0.0)?;

        let mut summed = BTreeMap::<String, Tensor>::new();
        let mut best: Option<(Tensor, InversionTerms)> = None;
        for step in 0..settings.steps {
            let images = clone.forward(&Value::leaf(&latents), &Pass::train())?; // (B, H, W, C)
            let views = settings.augment.view(&images, &mut draws(position, "invert/views", step))?;
            let Judgement { total, terms, statistics, .. } = objective.judge(&views, targets, &generator.averages)?;
            if best.as_ref().is_none_or(|(_, best)| terms.total < best.total) {
                best = Some((images.tensor().clone(), terms));
            }
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
            if step + 1 < settings.steps {
                clone_adam.step(&gradients, settings.lr_g)?;
                latent_adam.step(&gradients, settings.lr_z)?;
            } else {
                // Nobody will look at the clone again.
                generator.averages.update(statistics)?;
            }
        }
        generator.optimizer.step_with(&summed, settings.lr_g * settings.steps as f64)?;
        match best {
            Some(best) => Ok(best),
            None => bail!("invert.steps is 0; a batch needs at least one inner step"),
        }
    }
}

impl Inversion for MetaGenerator {
    fn synthesize(&mut self, objective: &Objective<'_>, position: Position) -> Result<Synthesis> {
        self.0.reset_if_due(position)?;
        let latents = self.0.latents(position, 0)?;
        let targets = draw_targets(&self.0.settings, position, objective.teacher.classes());
        let (images, terms) = self.meta_step(objective, &latents, targets.as_deref(), position)?;
        finish(&self.0.settings, objective.teacher, &images, targets, terms)
    }

    fn state_tensors(&self) -> BTreeMap<String, Tensor> {
        self.0.state_tensors()
    }

    fn load_state(&mut self, tensors: BTreeMap<String, Tensor>) -> Result<()> {
        self.0.load_state(tensors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::augment::AugmentSettings;
    use crate::golden::{Golden, check_parameters, device, fill, formula, network, numbers};
    use crate::inversion::{Strategy, TargetRule};
    use crate::modulation::{Diversity, Modulation, ModulationSettings};

    #[test]
    fn two_meta_steps_are_those_of_pytorch() {
        let golden = Golden::load();
        let (teacher, student) = (network(1), network(2));
        let settings = InvertSettings {
            strategy: Strategy::Meta,
            targets: TargetRule::Random,
            latent: 8,
            width: 4,
            batch: 5,
            steps: 3,
            lr_g: 2e-3,
            lr_z: 1e-2,
            bn: 10.0,
            bn_momentum: 0.9,
            bal: 0.0,
            adv: 1.1,
            adv_mask: true,
            augment: AugmentSettings::OFF,
            ..Default::default()
        };
        let modulation =
            Modulation::new(ModulationSettings { diversity: Diversity::Share, gamma: 1.0 }, &[5, 0, 12, 3]);
        let objective = Objective::new(&settings, &teacher, Some(&student), &modulation);
        let mut meta = MetaGenerator::new(settings, &teacher, 0, &device()).unwrap();
        fill(&meta.0.store, 3);
        let position = Position { seed: 0, round: 0, distilling_round: Some(0), batch: 0 };
        for batch in 0..2 {
            let latents = formula(20 + batch, &[5, 8], 2.0);
            let targets = [0, 1, 2, 3, batch];
            let (images, terms) = meta.meta_step(&objective, &latents, Some(&targets), position).unwrap();
            let terms = [terms.batch_norm, terms.task, terms.adversarial, terms.total];
            // The last step's loss is the lowest.
            golden.check(&format!("meta.{batch}.losses.2"), &terms, 1e-4);
            golden.check(&format!("meta.{batch}.images"), &numbers(&images), 1e-3);
        }
        check_parameters(&golden, "meta.generator", &meta.0.store, 1e-3);
    }
}
