//! Supervised training: `mean_i CE(f(view(x_i)), y_i)`, SGD, one step at a time. i runs over images, or where the network
//! labels pixels over those of all views; what a view shows of the padding, and pixels of no class, count nothing.
//!
//! Which images a step sees, and through which views, is a function of (seed, epoch, step). So the position and the
//! tensors are the whole state, and training can stop and go on between any two steps.

mod order;
mod targets;
#[cfg(test)]
mod tests;

use candle_core::{Device, Result, Tensor, bail};
use serde::{Deserialize, Serialize};
use ssdkd_data::Dataset;
use ssdkd_nn::random::stream;
use ssdkd_nn::{Mode, Network, NetworkSpec, Optimizer, Sgd, StateDict};
use ssdkd_ops as ops;
use ssdkd_ops::{CropFlip, Value};

use crate::settings::TeachSettings;
use order::shuffled;
use targets::Targets;

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
        let labels_pixels = self.network.rows_per_image() > 1;
        let Targets { classes: targets, weights } = if labels_pixels {
            Targets::of_pixels(self.data, &indices, how.as_ref())?
        } else {
            Targets::of_images(self.data, &indices)
        };

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
