//! A fresh generator for each batch, whose images should differ from all images before \[C: CMI, Fang et al. 2021\].
//!
//! ```text
//! g ← fresh weights;  z ~ N(0, 1)
//! for each of K steps:
//!     a, b = the teacher's penultimate features of two views of g(z);  u = h(a)/‖h(a)‖, v = h(b)/‖h(b)‖
//!     contrastive = mean_i CE( [u_i·v_1 … u_i·v_B, u_i·m_1 … u_i·m_M] / τ, i )  m: the memory, through the same h    [R]
//!     the loss of `loss.rs` with this term;  Adam on g and h at lr, on z at latent_lr
//! the batch: the images of the step with the lowest loss; their features a enter the memory, the oldest leave it
//! ```
//!
//! h is a network of two linear layers that is trained for the whole run, as the memory is kept; both are the strategy's state. An image
//! is told from all others when it looks like no other: that is what the term rewards. The public code compares features
//! of several layers and mines hard negatives; here it is the penultimate layer and all negatives \[O\].

use candle_core::{Device, Result, Tensor, Var, bail};
use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssdkd_nn::random::stream;
use ssdkd_nn::{Adam, Draw, Mode, Network, Optimizer, StateDict, Store};
use ssdkd_ops as ops;
use ssdkd_ops::Value;

use crate::inversion::batch_norm::BatchNormMomentum;
use crate::inversion::generator::Sizes;
use crate::inversion::loss::{Evaluated, Loss, Objective, Term};
use crate::inversion::loss_settings::LossSettings;
use crate::inversion::synthesis::{BatchSettings, Inversion, Position, Synthesis};

/// Numbers in a projected feature.
const PROJECTED: usize = 128;

/// Strategy "contrastive": a fresh generator for each batch, whose images should differ from those before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ContrastiveSettings {
    /// Numbers in a latent z \[C: 256\].
    #[schemars(range(min = 1, max = 65_536))]
    pub latent_size: usize,
    /// Channels of the generator's last hidden layer; the first one has twice as many \[C: 64\].
    #[schemars(range(min = 1, max = 4096))]
    pub width: usize,
    /// Adam's learning rate for the generator and the projection head \[C: CMI: 1e-3\].
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub lr: f64,
    /// Adam's learning rate for the latents \[C: CMI: 0.01\].
    #[schemars(range(min = 0.0))]
    pub latent_lr: f64,
    /// Adam's first decay \[C: 0.5\].
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1.0))]
    pub beta1: f64,
    /// Adam's second decay \[C: 0.999\].
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1.0))]
    pub beta2: f64,
    /// Temperature of the contrastive term \[C: CMI: 0.1\].
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub temperature: f64,
    /// Images whose features the contrastive term remembers \[C: CMI: 4096\].
    #[schemars(range(min = 0, max = 1_000_000))]
    pub memory_size: usize,
}

impl Default for ContrastiveSettings {
    fn default() -> Self {
        Self {
            latent_size: 256,
            width: 64,
            lr: 1e-3,
            latent_lr: 0.01,
            beta1: 0.5,
            beta2: 0.999,
            temperature: 0.1,
            memory_size: 4096,
        }
    }
}

impl ContrastiveSettings {
    /// The default of `[invert.loss]` for this strategy \[C: CMI\].
    pub const LOSS: LossSettings = LossSettings {
        batch_norm: 1.0,
        class: 1.0,
        adversarial: 0.5,
        adversarial_mask: true,
        contrastive: 0.8,
        ..LossSettings::NONE
    };
}

/// Strategy "contrastive" and its state; see the [module](self).
pub struct ContrastiveInversion {
    settings: ContrastiveSettings,
    batch: BatchSettings,
    device: Device,
    head_store: Store,
    head: Head,
    head_adam: Adam,
    /// Features (M, F) of images before, the newest last; none at first.
    memory: Option<Tensor>,
}

/// h: features (B, F) to unit rows (B, [`PROJECTED`]).
struct Head {
    first: Layer,
    second: Layer,
}

/// A linear layer: weight (out, in) and bias (out,).
struct Layer {
    weight: Tensor,
    bias: Tensor,
}

impl Layer {
    fn new(store: &Store, name: &str, inputs: usize) -> Result<Self> {
        let (weight, bias) = Draw::PYTORCH.of_layer(inputs);
        Ok(Self {
            weight: store.tensor(&format!("{name}.weight"), &[PROJECTED, inputs], weight, true)?,
            bias: store.tensor(&format!("{name}.bias"), &[PROJECTED], bias, true)?,
        })
    }

    fn forward(&self, x: &Value) -> Result<Value> {
        ops::linear(x, &Value::leaf(&self.weight), Some(&Value::leaf(&self.bias)))
    }
}

impl Head {
    fn new(features: usize, store: &Store) -> Result<Self> {
        Ok(Self { first: Layer::new(store, "0", features)?, second: Layer::new(store, "1", PROJECTED)? })
    }

    fn forward(&self, features: &Value) -> Result<Value> {
        ops::unit_rows(&self.second.forward(&ops::relu(&self.first.forward(features)?)?)?)
    }
}

impl ContrastiveInversion {
    /// Returns an untrained head and an empty memory; the head's weights are a function of `seed`.
    pub fn new(
        settings: ContrastiveSettings,
        batch: BatchSettings,
        teacher: &Network,
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        let head_store = Store::seeded(device, stream(seed, "invert/head", &[]).random());
        let head = Head::new(teacher.features()?, &head_store)?;
        let head_adam = Adam::new(head_store.parameters(), settings.beta1, settings.beta2, 0.0)?;
        Ok(Self { settings, batch, device: device.clone(), head_store, head, head_adam, memory: None })
    }

    /// Returns the contrastive term of the features (B, F) of two views of the same images.
    fn contrast(&self, features: &Value, others: &Value) -> Result<Value> {
        let (u, v) = (self.head.forward(features)?, self.head.forward(others)?);
        let mut similarities = ops::linear(&u, &v, None)?; // (B, B)
        if let Some(memory) = &self.memory {
            let before = self.head.forward(&Value::constant(memory.clone()))?;
            similarities = ops::side_by_side(&similarities, &ops::linear(&u, &before, None)?)?; // (B, B + M)
        }
        let own = (0..u.dims()[0] as u32).collect::<Vec<_>>();
        ops::cross_entropy(&ops::scale(&similarities, 1.0 / self.settings.temperature)?, &own, None)
    }

    /// Puts features (B, F) into the memory.
    fn remember(&mut self, features: &Tensor) -> Result<()> {
        let all = match &self.memory {
            Some(memory) => Tensor::cat(&[memory, features], 0)?,
            None => features.clone(),
        };
        let kept = all.dim(0)?.min(self.settings.memory_size);
        self.memory = match kept {
            0 => None,
            kept => Some(all.narrow(0, all.dim(0)? - kept, kept)?.copy()?),
        };
        Ok(())
    }
}

impl Inversion for ContrastiveInversion {
    fn synthesize(&mut self, objective: &Objective<'_>, position: Position) -> Result<Synthesis> {
        let (settings, batch) = (self.settings.clone(), self.batch);
        let contrasts = objective.loss.contrastive != 0.0;
        let targets = batch.targets(position, objective.teacher.classes(), objective.prior);
        let weights = Store::seeded(&self.device, position.stream("invert/generator", 0).random());
        let sizes = Sizes { inputs: settings.latent_size, width: settings.width };
        let generator = sizes.build(objective.teacher, &weights)?;
        let latents = Var::from_tensor(&batch.latents(settings.latent_size, position, 0, &self.device)?)?;
        let mut generator_adam = Adam::new(weights.parameters(), settings.beta1, settings.beta2, 0.0)?;
        let mut latent_adam = Adam::new(vec![("z".into(), latents.clone())], settings.beta1, settings.beta2, 0.0)?;
        let averages = BatchNormMomentum::new(objective.loss.batch_norm_form, 0.0);

        let mut best: Option<(Tensor, Tensor, Loss)> = None;
        for step in 0..batch.steps {
            let images = generator.forward(&Value::leaf(&latents), Mode::Train)?; // (B, H, W, C)
            let views = batch.views.view(&images, &mut position.stream("invert/views", step))?;
            let Evaluated { mut terms, features, .. } = objective.evaluate(&views, targets.as_deref(), &averages)?;
            terms.add(Term::Contrastive, || {
                let others = batch.views.view(&images, &mut position.stream("invert/contrast", step))?;
                let others = objective.teacher.forward(&others, Mode::Eval)?.features;
                self.contrast(&features, &others)
            })?;
            let (total, loss) = terms.total()?;
            let (made, of_made) = (images.tensor().clone(), features.tensor().clone());
            drop((images, views, features));
            let gradients = total.backward()?;
            generator_adam.step(&gradients, settings.lr)?;
            latent_adam.step(&gradients, settings.latent_lr)?;
            if contrasts {
                self.head_adam.step(&gradients, settings.lr)?;
            }
            let loss = loss.read()?;
            if best.as_ref().is_none_or(|(_, _, best)| loss.total < best.total) {
                best = Some((made, of_made, loss));
            }
        }
        let Some((images, features, loss)) = best else { bail!("invert.steps is 0; a batch needs at least one step") };
        if contrasts {
            self.remember(&features)?;
        }
        batch.finish(objective.teacher, &images, targets, loss)
    }

    fn state_dict(&self) -> StateDict {
        let memory = self.memory.iter().map(|memory| (MEMORY.to_owned(), memory.clone()));
        let state = memory.collect::<StateDict>();
        state.with(HEAD, self.head_store.state_dict()).with(OPTIMIZER, self.head_adam.state_dict())
    }

    fn load_state_dict(&mut self, mut state: StateDict) -> Result<()> {
        self.head_store.load_state_dict(state.take(HEAD))?;
        self.head_adam.load_state_dict(state.take(OPTIMIZER))?;
        self.memory = state.remove(MEMORY).map(|memory| memory.to_device(&self.device)).transpose()?;
        state.finish("the state of the inversion")
    }
}

const HEAD: &str = "head";
const OPTIMIZER: &str = "optimizer";
const MEMORY: &str = "memory";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{assert_repeated, device, formula, network, numbers};
    use crate::inversion::synthesis::{ImageFormat, TargetRule};
    use crate::modulation::{Modulation, ModulationSettings};
    use ssdkd_nn::DifferentiableViewSettings;

    fn fresh() -> ContrastiveInversion {
        let settings = ContrastiveSettings { latent_size: 8, width: 4, memory_size: 10, ..Default::default() };
        let batch = BatchSettings {
            batch: 6,
            steps: 3,
            targets: TargetRule::Balanced,
            image_format: ImageFormat::U8,
            views: DifferentiableViewSettings::default(),
        };
        ContrastiveInversion::new(settings, batch, &network(1), 5, &device()).unwrap()
    }

    fn make(inversion: &mut ContrastiveInversion, batch: u32) -> Vec<f32> {
        let modulation = Modulation::new(ModulationSettings::OFF, &[]);
        let position = Position { seed: 5, round: 1, distilling_round: Some(0), batch };
        let (teacher, student) = (network(1), network(2));
        let objective = Objective::new(ContrastiveSettings::LOSS, &teacher, Some(&student), &modulation);
        let made = inversion.synthesize(&objective, position).unwrap();
        assert!(made.loss.term(Term::Contrastive).is_some());
        [numbers(&made.images), vec![made.loss.total]].concat()
    }

    #[test]
    fn resumes_to_the_same_bits() {
        let mut inversion = fresh();
        make(&mut inversion, 0);
        make(&mut inversion, 1);
        assert_eq!(inversion.memory.as_ref().unwrap().dims()[0], 10, "the memory is full");
        let copy = |(name, tensor): (String, Tensor)| (name, tensor.copy().unwrap());
        let state = inversion.state_dict().into_iter().map(copy).collect::<StateDict>();
        let expected = make(&mut inversion, 2);
        let mut resumed = fresh();
        resumed.load_state_dict(state.clone()).unwrap();
        assert_repeated("batch", &make(&mut resumed, 2), &expected);
        assert_ne!(make(&mut fresh(), 2), expected, "the state matters");
        let mut foreign = state;
        foreign.insert("other".into(), formula(1, &[2], 1.0));
        assert!(fresh().load_state_dict(foreign).unwrap_err().to_string().contains("unknown tensor, other"));
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
