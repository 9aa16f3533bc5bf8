//! Supervised training: `mean_i CE(f(view(x_i)), y_i)`, SGD, one step at a time. i runs over images, or where the network
//! labels pixels over those of all views; what a view shows of the padding, and pixels of no class, count nothing.
//!
//! Which images a step sees, and through which views, is a function of (seed, epoch, step). So the position and the
//! tensors are the whole state, and training can stop and go on between any two steps.

use candle_core::{Device, Result, Tensor, bail};
use rand::Rng;
use serde::{Deserialize, Serialize};
use ssdkd_data::{Dataset, UNLABELLED};
use ssdkd_nn::random::stream;
use ssdkd_nn::{Mode, Network, NetworkSpec, Optimizer, Sgd, StateDict};
use ssdkd_ops as ops;
use ssdkd_ops::{CropFlip, Value};

use crate::settings::TeachSettings;

/// Where training is, with the sums of the epoch that is going on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Epochs that are complete.
    pub epoch: u32,
    /// Steps taken in the present one.
    pub step: u64,
    /// Sum of their losses.
    pub loss: f64,
    /// Images of theirs, or pixels, that were put into the right class.
    pub correct: u64,
    /// Images of theirs, or pixels, that are of a class.
    #[serde(default)]
    pub counted: u64,
    /// Seconds spent on them.
    pub seconds: f64,
}

/// What an epoch showed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EpochReport {
    /// Its number, from 1.
    pub epoch: u32,
    /// Steps taken.
    pub steps: u64,
    /// The learning rate of the last one.
    pub lr: f64,
    /// Mean loss over the steps.
    pub loss: f64,
    /// Share of the views, or of their pixels, that were put into the right class, each by the weights of its own step.
    pub accuracy: f64,
    /// Seconds spent on the steps.
    pub seconds: f64,
}

/// A network in training.
pub struct Trainer<'a> {
    settings: TeachSettings,
    data: &'a Dataset,
    network: Network,
    optimizer: Sgd,
    average: Option<Network>,
    position: Position,
    /// The present epoch and the order of its images.
    order: Option<(u32, Vec<usize>)>,
}

/// Of each row of logits its class, and what it counts in the loss; without weights, all are 1.
struct Targets {
    classes: Vec<u32>,
    weights: Option<Vec<f32>>,
}

const NETWORK: &str = "network";
const OPTIMIZER: &str = "optimizer";
const AVERAGE: &str = "average";

impl<'a> Trainer<'a> {
    /// Creates a fresh network for `data`.
    pub fn new(settings: &TeachSettings, data: &'a Dataset, device: &Device) -> Result<Self> {
        if data.len() < 2 {
            bail!("{} training images are too few: batch norm needs two", data.len());
        }
        ssdkd_evaluate::check_task(&settings.architecture, data)?;
        let (mean, std) = data.channel_statistics();
        let spec = NetworkSpec {
            architecture: settings.architecture.clone(),
            classes: data.classes(),
            input: data.shape(),
            mean: settings.mean.clone().unwrap_or(mean),
            std: settings.std.clone().unwrap_or(std),
            preprocessing: ssdkd_nn::Preprocessing::default(),
        };
        let network = Network::create(&spec, settings.seed, device)?;
        let average =
            if settings.ema > 0.0 { Some(Network::load(&spec, network.store().state_dict(), device)?) } else { None };
        let TeachSettings { momentum, weight_decay, nesterov, .. } = *settings;
        let optimizer = Sgd::new(network.store().parameters(), momentum, weight_decay, nesterov)?;
        Ok(Self {
            settings: settings.clone(),
            data,
            network,
            optimizer,
            average,
            position: Position::default(),
            order: None,
        })
    }

    /// Images in a step.
    fn batch(&self) -> usize {
        (self.settings.batch as usize).min(self.data.len())
    }

    /// Steps in an epoch.
    pub fn steps_per_epoch(&self) -> u64 {
        (self.data.len() / self.batch()) as u64
    }

    /// Total steps.
    pub fn total_steps(&self) -> u64 {
        self.steps_per_epoch() * u64::from(self.settings.epochs)
    }

    /// Steps taken so far.
    pub fn steps_done(&self) -> u64 {
        u64::from(self.position.epoch) * self.steps_per_epoch() + self.position.step
    }

    /// Returns whether all epochs are complete.
    pub fn is_done(&self) -> bool {
        self.position.epoch >= self.settings.epochs
    }

    /// Returns where it is.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Returns the network to use: the running average where one is kept.
    pub fn result(&self) -> &Network {
        self.average.as_ref().unwrap_or(&self.network)
    }

    /// Takes one step. The last one of an epoch gives the epoch's report.
    pub fn step(&mut self) -> Result<Option<EpochReport>> {
        let started = std::time::Instant::now();
        let (epoch, step) = (self.position.epoch, self.position.step);
        let indices = self.indices();
        let [channels, height, width] = self.data.shape();
        let images = self.data.gather(&indices);
        let images = Tensor::from_vec(images, (indices.len(), height, width, channels), self.network.store().device())?;
        let how = self.views(indices.len());
        let images = match &how {
            Some(how) => ops::crop_flip(&Value::constant(images), how)?,
            None => Value::constant(images),
        };
        let Targets { classes: targets, weights } = self.targets(&indices, how.as_ref())?;

        let answers = self.network.forward(&images, Mode::Train)?.logits; // (B, K), or a row for each pixel
        let loss = ops::cross_entropy_smoothed(&answers, &targets, self.settings.label_smoothing, weights.as_deref())?;
        let (logits, loss_tensor) = (answers.tensor().clone(), loss.detach());
        drop(answers); // who holds a value holds what it was made of
        let lr = self.settings.learning_rate(self.steps_done(), self.total_steps());
        self.optimizer.step(&loss.backward()?, lr)?;
        self.update_average()?;

        // Read back last, so that a GPU is waited for once in a step.
        let predicted = ops::argmax(&logits)?;
        let loss_value = f64::from(loss_tensor.scalar()?);
        if !loss_value.is_finite() {
            bail!(
                "the loss of epoch {}, step {step}, is {loss_value}\nhint: training diverged; use a smaller --lr",
                epoch + 1
            );
        }

        let at = &mut self.position;
        at.step += 1;
        at.loss += loss_value;
        let counts = |row: usize| weights.as_ref().is_none_or(|weights| weights[row] > 0.0);
        let counted = (0..targets.len()).filter(|&row| counts(row));
        at.counted += counted.clone().count() as u64;
        at.correct += counted.filter(|&row| predicted[row] == targets[row]).count() as u64;
        at.seconds += started.elapsed().as_secs_f64();
        if at.step < self.steps_per_epoch() {
            return Ok(None);
        }
        let Position { step: steps, loss, correct, counted, seconds, .. } = self.position;
        self.position = Position { epoch: epoch + 1, ..Position::default() };
        Ok(Some(EpochReport {
            epoch: epoch + 1,
            steps,
            lr,
            loss: loss / steps as f64,
            accuracy: correct as f64 / counted.max(1) as f64,
            seconds,
        }))
    }

    /// Returns the images of the present step.
    fn indices(&mut self) -> Vec<usize> {
        let (epoch, start) = (self.position.epoch, self.position.step as usize * self.batch());
        let batch = self.batch();
        let (count, seed) = (self.data.len(), self.settings.seed);
        let order = match &mut self.order {
            Some((of, order)) if *of == epoch => order,
            stale => &mut stale.insert((epoch, shuffled(count, seed, epoch))).1,
        };
        order[start..start + batch].to_vec()
    }

    /// Returns how the images of the present step are cropped and mirrored.
    fn views(&self, batch: usize) -> Option<CropFlip> {
        let Position { epoch, step, .. } = self.position;
        let mut rng = stream(self.settings.seed, "teach views", &[epoch.into(), step]);
        self.settings.views().draw(batch, &mut rng)
    }

    /// Returns what the views of the present step are to be taken for.
    fn targets(&self, indices: &[usize], how: Option<&CropFlip>) -> Result<Targets> {
        if self.network.rows_per_image() == 1 {
            let classes = indices.iter().map(|&index| self.data.label(index)).collect();
            return Ok(Targets { classes, weights: None });
        }
        // A mask goes the way of its image.
        let [_, height, width] = self.data.shape();
        let mask = indices.iter().flat_map(|&index| self.data.mask(index).unwrap_or_default());
        let mask = mask.map(|&class| (class != UNLABELLED).then_some(u32::from(class))).collect::<Vec<_>>();
        let mask = match how {
            Some(how) => ops::crop_flip_masks(&mask, [indices.len(), height, width], how)?,
            None => mask,
        };
        // The mean is over what counts.
        let weight = mask.len() as f32 / mask.iter().flatten().count().max(1) as f32;
        Ok(Targets {
            classes: mask.iter().map(|class| class.unwrap_or(0)).collect(),
            weights: Some(mask.iter().map(|class| if class.is_some() { weight } else { 0.0 }).collect()),
        })
    }

    fn update_average(&self) -> Result<()> {
        match &self.average {
            Some(average) => average.store().move_towards(self.network.store(), 1.0 - self.settings.ema),
            None => Ok(()),
        }
    }

    /// Returns everything that a later step needs, besides the position.
    pub fn state_dict(&self) -> StateDict {
        let average = self.average.as_ref().map(|network| network.store().state_dict()).unwrap_or_default();
        StateDict::default()
            .with(NETWORK, self.network.store().state_dict())
            .with(OPTIMIZER, self.optimizer.state_dict())
            .with(AVERAGE, average)
    }

    /// Restores a saved state.
    ///
    /// # Errors
    /// If a tensor is missing, left over or of another shape.
    pub fn load_state_dict(&mut self, position: Position, mut state: StateDict) -> Result<()> {
        if position.epoch > self.settings.epochs || position.step >= self.steps_per_epoch() {
            bail!("it stands at epoch {}, step {}, which this training does not have", position.epoch, position.step);
        }
        self.network.store().load_state_dict(state.take(NETWORK))?;
        self.optimizer.load_state_dict(state.take(OPTIMIZER))?;
        let average = state.take(AVERAGE);
        match &self.average {
            Some(kept) => kept.store().load_state_dict(average)?,
            None if average.is_empty() => {}
            None => bail!("it holds a running average of the weights, and none is wanted"),
        }
        state.finish("it")?;
        // Of a version that counted no pixels.
        let counted = if position.counted == 0 { position.step * self.batch() as u64 } else { position.counted };
        self.position = Position { counted, ..position };
        Ok(())
    }
}

/// 0..count in the order of an epoch.
fn shuffled(count: usize, seed: u64, epoch: u32) -> Vec<usize> {
    let mut rng = stream(seed, "teach order", &[epoch.into()]);
    let mut order = (0..count).collect::<Vec<_>>();
    for last in (1..count).rev() {
        order.swap(last, below(&mut rng, last + 1));
    }
    order
}

/// Returns a number in `0..count`, nearly uniform.
fn below(rng: &mut impl Rng, count: usize) -> usize {
    ((u64::from(rng.random::<u32>()) * count as u64) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::DType;
    use ssdkd_data::{Split, shapes};

    fn settings() -> TeachSettings {
        TeachSettings {
            architecture: "resnet8".parse().unwrap(),
            epochs: 2,
            batch: 8,
            lr: 0.1,
            schedule: crate::Schedule::OneCycle,
            momentum: 0.9,
            nesterov: true,
            weight_decay: 5e-4,
            label_smoothing: 0.1,
            ema: 0.5,
            crop_padding: 4,
            no_flip: false,
            no_augment: false,
            seed: 1,
            mean: None,
            std: None,
        }
    }

    fn bytes(network: &Network) -> Vec<u8> {
        network.store().state_dict().to_safetensors().unwrap()
    }

    #[test]
    fn an_order_holds_every_image_once_and_differs_between_epochs() {
        let mut order = shuffled(100, 0, 3);
        assert_ne!(order, shuffled(100, 0, 4));
        assert_ne!(order, shuffled(100, 1, 3));
        order.sort_unstable();
        assert_eq!(order, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn an_epoch_reports_and_leaves_out_what_is_left_over() -> Result<()> {
        let data = shapes::generate(0, Split::Train, 30);
        let mut trainer = Trainer::new(&settings(), &data, &Device::Cpu)?;
        assert_eq!((trainer.steps_per_epoch(), trainer.total_steps()), (3, 6));
        assert_eq!((trainer.step()?, trainer.step()?), (None, None));
        let report = trainer.step()?.expect("the third step ends the epoch");
        assert_eq!((report.epoch, report.steps), (1, 3));
        assert!(report.loss > 0.0 && (0.0..=1.0).contains(&report.accuracy), "{report:?}");
        assert_eq!(trainer.position(), Position { epoch: 1, ..Position::default() });
        Ok(())
    }

    #[test]
    fn going_on_from_any_step_gives_the_same_bytes() -> Result<()> {
        let data = shapes::generate(0, Split::Train, 24);
        let mut whole = Trainer::new(&settings(), &data, &Device::Cpu)?;
        let mut parts = Trainer::new(&settings(), &data, &Device::Cpu)?;
        while !whole.is_done() {
            whole.step()?;
            let state = parts.state_dict().to_safetensors()?;
            let position = parts.position();
            parts = Trainer::new(&settings(), &data, &Device::Cpu)?;
            parts.load_state_dict(position, StateDict::from_safetensors(&state, &Device::Cpu)?)?;
            parts.step()?;
        }
        assert!(parts.is_done());
        assert_eq!(bytes(whole.result()), bytes(parts.result()));
        assert_ne!(bytes(whole.result()), bytes(&whole.network), "the result is the running average");
        Ok(())
    }

    #[test]
    fn a_mask_goes_the_way_of_its_image() -> Result<()> {
        let data = shapes::generate_masked(0, Split::Train, 24);
        let settings = TeachSettings { architecture: "fpn-resnet8".parse().unwrap(), ..settings() };
        let trainer = Trainer::new(&settings, &data, &Device::Cpu)?;
        let (size, moved) =
            (32 * 32, CropFlip { offsets: vec![(4, 4), (4, 7)], flips: vec![true, false], padding: 4, wrap: false });
        let Targets { classes, weights } = trainer.targets(&[3, 5], Some(&moved))?;
        let weights = weights.unwrap();
        let [mirrored, shifted] = [3, 5].map(|index| data.mask(index).unwrap());
        for (at, (&class, &weight)) in classes.iter().zip(&weights).enumerate() {
            let (row, column) = (at % size / 32, at % 32);
            let (expected, of_image) = match at / size {
                0 => (mirrored[row * 32 + 31 - column], true),
                _ => (shifted[row * 32 + (column + 3).min(31)], column + 3 < 32),
            };
            // Three of 32 columns of the second are padding.
            assert_eq!(weight, if of_image { 2.0 / (2.0 - 3.0 / 32.0) } else { 0.0 });
            assert_eq!(class, if of_image { u32::from(expected) } else { 0 }, "at {at}");
        }
        Ok(())
    }

    #[test]
    fn images_and_pixels_are_not_taken_for_each_other() {
        let masked = shapes::generate_masked(0, Split::Train, 24);
        let plain = shapes::generate(0, Split::Train, 24);
        for (architecture, data, message) in [("fpn-resnet8", &plain, "no masks"), ("resnet8", &masked, "fpn-resnet8")]
        {
            let settings = TeachSettings { architecture: architecture.parse().unwrap(), ..settings() };
            let error = Trainer::new(&settings, data, &Device::Cpu).err().unwrap().to_string();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn a_state_that_does_not_fit_is_refused() -> Result<()> {
        let data = shapes::generate(0, Split::Train, 24);
        let mut trainer = Trainer::new(&settings(), &data, &Device::Cpu)?;
        let refused = |trainer: &mut Trainer<'_>, position, change: &dyn Fn(&mut StateDict)| {
            let mut state = trainer.state_dict();
            for tensor in state.values_mut() {
                *tensor = tensor.copy().unwrap();
            }
            change(&mut state);
            trainer.load_state_dict(position, state).unwrap_err().to_string()
        };
        let late = Position { epoch: 3, ..Position::default() };
        assert!(refused(&mut trainer, late, &|_| ()).contains("epoch 3"));
        let start = Position::default();
        let message = refused(&mut trainer, start, &|state| state.retain(|name, _| !name.starts_with(OPTIMIZER)));
        assert!(message.contains("optimizer's state lacks"), "{message}");
        let odd = Tensor::zeros(1, DType::F32, &Device::Cpu)?;
        let message = refused(&mut trainer, start, &|state| drop(state.insert("odd".into(), odd.clone())));
        assert!(message.contains("unknown tensor, odd"), "{message}");
        Ok(())
    }

    #[test]
    fn a_few_steps_learn_what_they_see_again_and_again() -> Result<()> {
        let of = |name: &str, epochs: u32, data: &Dataset| {
            let architecture = name.parse().unwrap();
            let settings = TeachSettings { architecture, epochs, ema: 0.0, label_smoothing: 0.0, ..settings() };
            let settings = TeachSettings { no_augment: true, batch: 16, ..settings };
            let mut trainer = Trainer::new(&settings, data, &Device::Cpu)?;
            let first = trainer.step()?.unwrap();
            let mut last = first;
            while !trainer.is_done() {
                last = trainer.step()?.unwrap();
            }
            assert!(last.loss < first.loss / 4.0 && last.accuracy > 0.9, "{name}: {first:?} {last:?}");
            Ok(())
        };
        of("resnet8", 30, &shapes::generate(0, Split::Train, 16))?;
        of("fpn-resnet8", 90, &shapes::generate_masked(0, Split::Train, 16))
    }
}
