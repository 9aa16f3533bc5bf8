//! A generator with its optimizer and state, as the strategies that keep one from batch to batch hold it.

use candle_core::{Device, Result, Tensor};
use rand::Rng;
use ssdkd_nn::random::{normal_tensor, stream};
use ssdkd_nn::{Adam, Generator, Network, Optimizer, StateDict, Store};
use ssdkd_ops as ops;

use crate::inversion::batch_norm::BatchNormMomentum;
use crate::inversion::synthesis::Position;

/// The layer that a [`ResetSchedule`] re-initializes.
const FIRST_LINEAR: &str = "l1.0";

/// The sizes of a generator.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    /// Numbers that an image is made from: the latents and what stands behind them.
    pub(crate) inputs: usize,
    /// Channels of its last hidden layer.
    pub(crate) width: usize,
}

impl Sizes {
    /// Builds the generator's network over the tensors of `store`.
    pub(crate) fn build(self, teacher: &Network, store: &Store) -> Result<Generator> {
        let (height, width, channels) = teacher.input_shape(); // (H, W, C)
        Generator::new(self.inputs, self.width, [height, width], channels, store)
    }
}

/// When the generator's first linear layer is re-initialized. Rounds count from 1 after the warm-up; 0 means never.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ResetSchedule {
    /// In this round.
    pub(crate) round: u32,
    /// In every multiple of this round.
    pub(crate) every: u32,
}

impl ResetSchedule {
    /// Returns whether a reset is due at the start of this round, which counts from 0.
    pub(crate) fn is_due(self, distilling_round: Option<u32>) -> bool {
        let due = |round: u32| round == self.round || (self.every > 0 && round.is_multiple_of(self.every));
        distilling_round.is_some_and(|round| due(round + 1))
    }
}

/// A generator in training, with all of its state.
pub(crate) struct TrainedGenerator {
    pub(crate) sizes: Sizes,
    pub(crate) store: Store,
    pub(crate) network: Generator,
    pub(crate) optimizer: Adam,
    pub(crate) averages: BatchNormMomentum,
}

impl TrainedGenerator {
    /// Returns a fresh generator of images like the teacher's, its weights a function of `seed`.
    pub(crate) fn new(
        sizes: Sizes,
        betas: (f64, f64),
        averages: BatchNormMomentum,
        teacher: &Network,
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        Self::with_table(sizes, betas, averages, teacher, seed, device, None)
    }

    /// As [`new`](Self::new), with a table of that name and those numbers that is trained with the network and feeds it.
    pub(crate) fn with_table(
        sizes: Sizes,
        (beta1, beta2): (f64, f64),
        averages: BatchNormMomentum,
        teacher: &Network,
        seed: u64,
        device: &Device,
        table: Option<(&str, Tensor)>,
    ) -> Result<Self> {
        let store = Store::seeded(device, stream(seed, "invert/generator", &[]).random());
        let network = sizes.build(teacher, &store)?;
        if let Some((name, numbers)) = table {
            store.insert(name, &numbers)?;
        }
        let optimizer = Adam::new(store.parameters(), beta1, beta2, 0.0)?;
        Ok(Self { sizes, store, network, optimizer, averages })
    }

    /// Re-initializes the first linear layer, N(0, 0.02) and zero bias, in the first batch of a round that the schedule names.
    pub(crate) fn reset_if_due(&self, schedule: ResetSchedule, position: Position) -> Result<()> {
        if position.batch != 0 || !schedule.is_due(position.distilling_round) {
            return Ok(());
        }
        let mut rng = position.stream("invert/reset", 0);
        for (name, var) in self.store.parameters() {
            if name == format!("{FIRST_LINEAR}.weight") {
                let noise = normal_tensor(&mut rng, var.dims(), self.store.device())?;
                ops::copy_assign(&var, &(noise * 0.02)?)?;
            } else if name == format!("{FIRST_LINEAR}.bias") {
                ops::copy_assign(&var, &var.zeros_like()?)?;
            }
        }
        Ok(())
    }

    /// Returns the parts `generator`, `optimizer` and `batch_norm`.
    pub(crate) fn state_dict(&self) -> StateDict {
        StateDict::default()
            .with(GENERATOR, self.store.state_dict())
            .with(OPTIMIZER, self.optimizer.state_dict())
            .with(BATCH_NORM, self.averages.state_dict())
    }

    /// Restores a saved state. The error names what does not fit.
    pub(crate) fn load_state_dict(&mut self, mut state: StateDict) -> Result<()> {
        self.store.load_state_dict(state.take(GENERATOR))?;
        self.optimizer.load_state_dict(state.take(OPTIMIZER))?;
        self.averages.load_state_dict(state.take(BATCH_NORM), self.store.device())?;
        state.finish("the generator state")
    }
}

const GENERATOR: &str = "generator";
const OPTIMIZER: &str = "optimizer";
const BATCH_NORM: &str = "batch_norm";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{device, network, numbers};
    use crate::inversion::loss_settings::LossSettings;

    fn position(round: u32, distilling_round: Option<u32>, batch: u32) -> Position {
        Position { seed: 9, round, distilling_round, batch }
    }

    #[test]
    fn the_first_layer_is_re_initialized_once() {
        let (sizes, averages) = (Sizes { inputs: 8, width: 4 }, BatchNormMomentum::of(&LossSettings::NONE));
        let generator = TrainedGenerator::new(sizes, (0.5, 0.999), averages, &network(1), 9, &device()).unwrap();
        let once = ResetSchedule { round: 2, every: 0 };
        let tensors = || generator.store.deep_clone().unwrap().state_dict();
        let before = tensors();
        for early in [position(0, None, 0), position(1, Some(0), 0), position(2, Some(1), 1), position(3, Some(2), 0)] {
            generator.reset_if_due(once, early).unwrap();
        }
        let same = |a: &StateDict, b: &StateDict, name: &str| numbers(&a[name]) == numbers(&b[name]);
        assert!(same(&before, &tensors(), "l1.0.weight"));
        generator.reset_if_due(once, position(2, Some(1), 0)).unwrap();
        let after = tensors();
        assert!(!same(&before, &after, "l1.0.weight") && same(&before, &after, "conv_blocks.2.weight"));
        assert!(numbers(&after["l1.0.bias"]).iter().all(|&bias| bias == 0.0));
        let squares = numbers(&after["l1.0.weight"]).iter().map(|x| x * x).collect::<Vec<_>>();
        let deviation = (squares.iter().sum::<f32>() / squares.len() as f32).sqrt();
        assert!((deviation - 0.02).abs() < 0.003, "{deviation}");
    }

    #[test]
    fn resets_are_due_in_one_round_and_in_every_multiple() {
        let rounds = |schedule: ResetSchedule| (0..9).filter(|&round| schedule.is_due(Some(round))).collect::<Vec<_>>();
        assert_eq!(rounds(ResetSchedule { round: 2, every: 0 }), [1]);
        assert_eq!(rounds(ResetSchedule { round: 2, every: 4 }), [1, 3, 7]);
        assert!(!ResetSchedule { round: 0, every: 1 }.is_due(None), "never in the warm-up");
    }
}
