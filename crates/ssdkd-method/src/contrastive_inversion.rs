//! A fresh generator for each batch, whose images are to differ from all images before \[C: CMI, Fang et al. 2021\].
//!
//! ```text
//! g ← fresh weights;  z ~ N(0, 1)
//! for each of K steps:
//!     a, b = the teacher's penultimate features of two views of g(z);  u = h(a)/‖h(a)‖, v = h(b)/‖h(b)‖
//!     L_cr = mean_i CE( [u_i·v_1 … u_i·v_B, u_i·m_1 … u_i·m_M] / τ, i )         m: the bank, through the same h    [R]
//!     L_G + cr·L_cr;  Adam(β 0.5, 0.999) on g and h at lr_g, on z at lr_z
//! the batch: the images of the step with the lowest loss; their features a enter the bank, the oldest leave it
//! ```
//!
//! h is a network of two linear layers that is trained all along, as the bank is kept; both are the strategy's state. An image
//! is told from all others when it looks like no other: that is what the term rewards. The public code compares features
//! of several layers and mines hard negatives; here it is the penultimate layer and all negatives \[O\].

use std::collections::BTreeMap;

use candle_core::{Device, Result, Tensor, Var, bail};
use rand::Rng;
use ssdkd_nn::random::stream;
use ssdkd_nn::{Adam, Draw, Linear, Network, Pass, Store};
use ssdkd_ops as ops;
use ssdkd_ops::Value;

use crate::generator::{build, draw_latents, draw_targets, draws, finish};
use crate::inversion::{Inversion, InvertSettings, Position, Synthesis};
use crate::inversion_loss::{BatchNormMomentum, InversionTerms, Judgement, Objective};

/// Numbers in a projected feature.
const PROJECTED: usize = 128;

/// [`Strategy::Contrastive`](crate::Strategy::Contrastive) and its state; see the [module](self).
pub struct ContrastiveInversion {
    settings: InvertSettings,
    device: Device,
    head_store: Store,
    head: Head,
    head_adam: Adam,
    /// Features (M, F) of images before, the newest last; none at first.
    bank: Option<Tensor>,
}

/// h: features (B, F) to unit rows (B, [`PROJECTED`]).
struct Head {
    first: Linear,
    second: Linear,
}

impl Head {
    fn new(features: usize, store: &Store) -> Result<Self> {
        let vb = store.builder();
        Ok(Self {
            first: Linear::new(features, PROJECTED, Draw::PYTORCH, vb.pp("0"))?,
            second: Linear::new(PROJECTED, PROJECTED, Draw::PYTORCH, vb.pp("1"))?,
        })
    }

    fn forward(&self, features: &Value) -> Result<Value> {
        let pass = Pass::train();
        ops::unit_rows(&self.second.forward(&ops::relu(&self.first.forward(features, &pass)?)?, &pass)?)
    }
}

impl ContrastiveInversion {
    /// An untrained head and an empty bank; the head's weights are a function of `seed`.
    pub fn new(settings: InvertSettings, teacher: &Network, seed: u64, device: &Device) -> Result<Self> {
        let head_store = Store::seeded(device, stream(seed, "invert/head", &[]).random());
        let head = Head::new(teacher.features()?, &head_store)?;
        let head_adam = Adam::new(head_store.parameters(), settings.beta1, settings.beta2, 0.0)?;
        Ok(Self { settings, device: device.clone(), head_store, head, head_adam, bank: None })
    }

    /// L_cr of the features (B, F) of two views of the same images.
    fn contrast(&self, features: &Value, others: &Value) -> Result<Value> {
        let (u, v) = (self.head.forward(features)?, self.head.forward(others)?);
        let mut similarities = ops::linear(&u, &v, None)?; // (B, B)
        if let Some(bank) = &self.bank {
            let before = self.head.forward(&Value::constant(bank.clone()))?;
            similarities = ops::side_by_side(&similarities, &ops::linear(&u, &before, None)?)?; // (B, B + M)
        }
        let own = (0..u.dims()[0] as u32).collect::<Vec<_>>();
        ops::cross_entropy(&ops::scale(&similarities, 1.0 / self.settings.cr_temperature)?, &own, None)
    }

    /// Puts features (B, F) into the bank.
    fn remember(&mut self, features: &Tensor) -> Result<()> {
        let all = match &self.bank {
            Some(bank) => Tensor::cat(&[bank, features], 0)?,
            None => features.clone(),
        };
        let kept = all.dim(0)?.min(self.settings.cr_bank);
        self.bank = match kept {
            0 => None,
            kept => Some(all.narrow(0, all.dim(0)? - kept, kept)?.copy()?),
        };
        Ok(())
    }
}

impl Inversion for ContrastiveInversion {
    fn synthesize(&mut self, objective: &Objective<'_>, position: Position) -> Result<Synthesis> {
        let settings = self.settings.clone();
        let targets = draw_targets(&settings, position, objective.teacher.classes());
        let weights = Store::seeded(&self.device, draws(position, "invert/generator", 0).random());
        let generator = build(&settings, objective.teacher, &weights)?;
        let latents = Var::from_tensor(&draw_latents(&settings, position, 0, &self.device)?)?;
        let mut generator_adam = Adam::new(weights.parameters(), settings.beta1, settings.beta2, 0.0)?;
        let mut latent_adam = Adam::new(vec![("z".into(), latents.clone())], settings.beta1, settings.beta2, 0.0)?;
        let averages = BatchNormMomentum::new(0.0);

        let mut best: Option<(Tensor, Tensor, InversionTerms)> = None;
        for step in 0..settings.steps {
            let images = generator.forward(&Value::leaf(&latents), &Pass::train())?; // (B, H, W, C)
            let views = settings.augment.view(&images, &mut draws(position, "invert/views", step))?;
            let Judgement { mut total, terms, features, .. } =
                objective.judge(&views, targets.as_deref(), &averages)?;
            if settings.cr != 0.0 {
                let others = settings.augment.view(&images, &mut draws(position, "invert/contrast", step))?;
                let others = objective.teacher.forward(&others, &Pass::eval())?.features;
                let contrast = self.contrast(&features, &others)?;
                total = ops::weighted_sum(&[(1.0, &total), (settings.cr, &contrast)])?;
            }
            let terms = InversionTerms { total: total.scalar()?, ..terms };
            if !terms.total.is_finite() {
                bail!("the generator's loss is not finite: {terms:?}\nhint: lower invert.lr_g");
            }
            if best.as_ref().is_none_or(|(_, _, best)| terms.total < best.total) {
                best = Some((images.tensor().clone(), features.tensor().clone(), terms));
            }
            drop((images, views, features));
            let gradients = total.backward()?;
            generator_adam.step(&gradients, settings.lr_g)?;
            latent_adam.step(&gradients, settings.lr_z)?;
            if settings.cr != 0.0 {
                self.head_adam.step(&gradients, settings.lr_g)?;
            }
        }
        let Some((images, features, terms)) = best else { bail!("invert.steps is 0; a batch needs at least one step") };
        if settings.cr != 0.0 {
            self.remember(&features)?;
        }
        finish(&settings, objective.teacher, &images, targets, terms)
    }

    fn state_tensors(&self) -> BTreeMap<String, Tensor> {
        let prefixed = |prefix: &str, tensors: BTreeMap<String, Tensor>| {
            tensors.into_iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor)).collect::<Vec<_>>()
        };
        let head = prefixed(HEAD, self.head_store.to_tensors());
        let optimizer = prefixed(OPTIMIZER, self.head_adam.state_tensors());
        let bank = self.bank.iter().map(|bank| (BANK.to_owned(), bank.clone()));
        head.into_iter().chain(optimizer).chain(bank).collect()
    }

    fn load_state(&mut self, tensors: BTreeMap<String, Tensor>) -> Result<()> {
        let (mut head, mut optimizer) = (BTreeMap::new(), BTreeMap::new());
        self.bank = None;
        for (name, tensor) in tensors {
            let tensor = tensor.to_device(&self.device)?;
            if let Some(name) = name.strip_prefix(HEAD) {
                head.insert(name.to_owned(), tensor);
            } else if let Some(name) = name.strip_prefix(OPTIMIZER) {
                optimizer.insert(name.to_owned(), tensor);
            } else if name == BANK {
                self.bank = Some(tensor);
            } else {
                bail!("the state of the inversion holds an unknown tensor, {name}");
            }
        }
        self.head_store.load_tensors(head)?;
        self.head_adam.load_state(optimizer)
    }
}

const HEAD: &str = "head.";
const OPTIMIZER: &str = "optimizer.";
const BANK: &str = "bank";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::{assert_repeated, device, formula, network, numbers};
    use crate::inversion::{Strategy, TargetRule};
    use crate::modulation::{Modulation, ModulationSettings};

    fn settings() -> InvertSettings {
        InvertSettings {
            strategy: Strategy::Contrastive,
            targets: TargetRule::Balanced,
            latent: 8,
            width: 4,
            batch: 6,
            steps: 3,
            bal: 0.0,
            cr_bank: 10,
            ..Default::default()
        }
    }

    fn fresh() -> ContrastiveInversion {
        ContrastiveInversion::new(settings(), &network(1), 5, &device()).unwrap()
    }

    fn make(inversion: &mut ContrastiveInversion, batch: u32) -> Vec<f32> {
        let modulation = Modulation::new(ModulationSettings::OFF, &[]);
        let position = Position { seed: 5, round: 1, distilling_round: Some(0), batch };
        let (teacher, student) = (network(1), network(2));
        let objective = Objective::new(&settings(), &teacher, Some(&student), &modulation);
        let made = inversion.synthesize(&objective, position).unwrap();
        [numbers(&made.images), vec![made.terms.total]].concat()
    }

    #[test]
    fn resumes_to_the_same_bits() {
        let mut inversion = fresh();
        make(&mut inversion, 0);
        make(&mut inversion, 1);
        assert_eq!(inversion.bank.as_ref().unwrap().dims()[0], 10, "the bank is full");
        let copy = |(name, tensor): (String, Tensor)| (name, tensor.copy().unwrap());
        let state = inversion.state_tensors().into_iter().map(copy).collect::<BTreeMap<_, _>>();
        let expected = make(&mut inversion, 2);
        let mut resumed = fresh();
        resumed.load_state(state.clone()).unwrap();
        assert_repeated("batch", &make(&mut resumed, 2), &expected);
        assert_ne!(make(&mut fresh(), 2), expected, "the state matters");
        let mut foreign = state;
        foreign.insert("other".into(), formula(1, &[2], 1.0));
        assert!(fresh().load_state(foreign).unwrap_err().to_string().contains("unknown tensor, other"));
    }

    #[test]
    fn images_that_are_alike_are_punished() {
        let inversion = fresh();
        let rows = formula(7, &[6, 64], 1.0);
        let one = rows.narrow(0, 0, 1).unwrap().repeat((6, 1)).unwrap();
        let loss = |rows: &Tensor| {
            let rows = Value::constant(rows.clone());
            inversion.contrast(&rows, &rows).unwrap().scalar().unwrap()
        };
        // Six of the same cannot be told apart: ln 6.
        assert!((loss(&one) - 6f32.ln()).abs() < 4e-5);
        assert!(loss(&rows) < loss(&one));
    }
}
