//! One generator, trained all along.
//!
//! ```text
//! each step:  z ~ N(0, 1) afresh;  x = g(z);  t = f_t(view(x)),  s = f_s(view(x)) after the warm-up
//!             L_G = bn·L_BN + oh·mean φ·CE(t, argmax t) + bal·Σ_c p̄_c ln p̄_c + act·L_act + adv·L_adv          [O][C: DAFL]
//!             one Adam step on g
//! ```
//!
//! Where the settings name the classes that images should be of, x = g(z, ρ·e_{y,m}) and the task term is CE(t, y): ρ is the length of
//! the class code, e_{y,m} the unit vector of one of the class's M codes, m drawn afresh with z \[O; C, for M = 1: conditional GANs, Mirza and
//! Osindero 2014\]. Without it z alone decides on the class, and g is continuous: between the latents of two classes lie images of neither. With one
//! code for a class g settles on one outline for it, which z colours; each code has weights of its own in g's first layer, and so an outline of
//! its own.
//!
//! Nothing is optimised image by image, so a batch costs as many steps as the settings say, one by default, and images
//! follow the student's latest mistakes. At small budgets this taught a student far more than the meta-generator did in
//! the same time: what a small buffer lacks is not better images but newer ones \[O\].

use std::collections::BTreeMap;

use candle_core::{Device, Result, Tensor, bail};
use ssdkd_nn::{Network, Pass};
use ssdkd_ops::Value;

use crate::generator::{TrainedGenerator, draw_targets, draws, finish};
use crate::inversion::{Inversion, InvertSettings, Position, Synthesis};
use crate::inversion_loss::{InversionTerms, Judgement, Objective};

/// The generator of [`Strategy::Persistent`](crate::Strategy::Persistent) and its state; see the [module](self).
pub struct PersistentGenerator(TrainedGenerator);

impl PersistentGenerator {
    /// A fresh generator, its weights a function of `seed`.
    pub fn new(settings: InvertSettings, teacher: &Network, seed: u64, device: &Device) -> Result<Self> {
        Ok(Self(TrainedGenerator::new(settings, teacher, seed, device)?))
    }

    /// One Adam step on fresh inputs of the generator: the images (B, H, W, C), their loss, their batch statistics.
    fn step(
        &mut self,
        objective: &Objective<'_>,
        inputs: Tensor,
        targets: Option<&[u32]>,
        position: Position,
        step: usize,
    ) -> Result<Step> {
        let generator = &mut self.0;
        let settings = &generator.settings;
        let images = generator.network.forward(&Value::constant(inputs), &Pass::train())?; // (B, H, W, C)
        let views = settings.augment.view(&images, &mut draws(position, "invert/views", step))?;
        let Judgement { total, terms, statistics, .. } = objective.judge(&views, targets, &generator.averages)?;
        let made = images.tensor().clone();
        drop((images, views));
        generator.optimizer.step(&total.backward()?, settings.lr_g)?;
        Ok((made, terms, statistics))
    }
}

impl Inversion for PersistentGenerator {
    fn synthesize(&mut self, objective: &Objective<'_>, position: Position) -> Result<Synthesis> {
        self.0.reset_if_due(position)?;
        let classes = objective.teacher.classes();
        let targets = draw_targets(&self.0.settings, position, classes);
        if !objective.weights.any(objective.student.is_some()) {
            // A generator that only follows the student has nothing to learn in the warm-up.
            let inputs = self.0.inputs(position, 0, targets.as_deref(), classes)?;
            let images = self.0.network.forward(&Value::constant(inputs), &Pass::train_frozen())?;
            return finish(&self.0.settings, objective.teacher, images.tensor(), targets, InversionTerms::default());
        }
        let mut last = None;
        for step in 0..self.0.settings.steps {
            let inputs = self.0.inputs(position, step, targets.as_deref(), classes)?;
            last = Some(self.step(objective, inputs, targets.as_deref(), position, step)?);
        }
        let Some((images, terms, statistics)) = last else {
            bail!("invert.steps is 0; a batch needs at least one generator step")
        };
        self.0.averages.update(statistics)?;
        finish(&self.0.settings, objective.teacher, &images, targets, terms)
    }

    fn state_tensors(&self) -> BTreeMap<String, Tensor> {
        self.0.state_tensors()
    }

    fn load_state(&mut self, tensors: BTreeMap<String, Tensor>) -> Result<()> {
        self.0.load_state(tensors)
    }
}

type Step = (Tensor, InversionTerms, Vec<(Tensor, Tensor)>);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::augment::AugmentSettings;
    use crate::golden::{Golden, check_parameters, device, fill, formula, network, numbers};
    use crate::inversion::TargetRule;
    use crate::modulation::{Modulation, ModulationSettings};

    #[track_caller]
    fn check_steps(name: &str, targets: Option<[u32; 5]>) {
        let golden = Golden::load();
        let (teacher, student) = (network(1), network(2));
        let settings = InvertSettings {
            latent: 8,
            width: 4,
            batch: 5,
            targets: if targets.is_some() { TargetRule::Random } else { TargetRule::Predicted },
            class_code: 1.5,
            augment: AugmentSettings::OFF,
            ..Default::default()
        };
        let modulation = Modulation::new(ModulationSettings::OFF, &[]);
        let objective = Objective::new(&settings, &teacher, Some(&student), &modulation);
        let mut generator = PersistentGenerator::new(settings, &teacher, 0, &device()).unwrap();
        fill(&generator.0.store, 3);
        let position = Position { seed: 0, round: 0, distilling_round: Some(0), batch: 0 };
        let targets = targets.as_ref().map(|targets| &targets[..]);
        for step in 0..3 {
            let latents = formula(30 + step, &[5, 8], 2.0);
            let inputs = match targets {
                Some(codes) => generator.0.with_code(latents, codes, 4).unwrap(),
                None => latents,
            };
            let (images, terms, _) = generator.step(&objective, inputs, targets, position, step as usize).unwrap();
            let terms = [terms.batch_norm, terms.task, terms.balance, terms.adversarial, terms.total];
            golden.check(&format!("{name}.losses.{step}"), &terms, 1e-4);
            if step == 2 {
                golden.check(&format!("{name}.images"), &numbers(&images), 1e-3);
            }
        }
        check_parameters(&golden, &format!("{name}.generator"), &generator.0.store, 1e-3);
    }

    #[test]
    fn three_steps_are_those_of_pytorch() {
        check_steps("persistent", None);
        check_steps("conditional", Some([2, 0, 3, 3, 1]));
    }
}
