//! A classifier of images or of pixels with everything that is needed to use it: its tensors, and how its input is normalised.

use std::collections::BTreeMap;
use std::rc::Rc;

use candle_core::{DType, Device, Result, Tensor, bail};
use ssdkd_ops as ops;
use ssdkd_ops::Value;

use crate::architecture::{Architecture, Backbone, Names, Task};
use crate::models::{Classifier, Output};
use crate::pass::{Kept, Pass};
use crate::store::Store;

/// Pixels in one forward pass of [`Network::logits`], 256 images of CIFAR: bounds the memory, and on the CPU changes no number.
const PIXELS: usize = 256 * 32 * 32;

/// Images in such a pass, of fewer pixels each.
const IMAGES: usize = 256;

/// What a network is, without its weights.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkSpec {
    /// What it looks like.
    pub architecture: Architecture,
    /// How its tensors are named.
    pub names: Names,
    /// Number of classes.
    pub classes: usize,
    /// Channels, height, width of its input.
    pub input: [usize; 3],
    /// Subtracted from an image in `[0, 1]`, for each channel.
    pub mean: Vec<f32>,
    /// Divided by after that.
    pub std: Vec<f32>,
}

impl NetworkSpec {
    /// Counts the numbers that training moves, without drawing any.
    ///
    /// # Errors
    /// As [`Network::create`].
    pub fn num_parameters(&self) -> Result<usize> {
        check_normalisation(self)?;
        check_sides(self)?;
        Ok(Network::build(self, Store::new(&Device::Cpu))?.store.num_parameters())
    }
}

/// Whether mean and std fit the channels.
fn check_normalisation(spec: &NetworkSpec) -> Result<()> {
    let NetworkSpec { input: [channels, ..], mean, std, .. } = spec;
    if mean.len() != *channels || std.len() != *channels {
        bail!("the normalisation needs one mean and one std for each of {channels} channels, not {mean:?} and {std:?}");
    }
    if mean.iter().any(|mean| !mean.is_finite()) || std.iter().any(|std| !std.is_finite() || *std <= 0.0) {
        bail!("the normalisation needs finite means and stds above 0, not {mean:?} and {std:?}");
    }
    Ok(())
}

/// Whether the maps of a network that labels pixels fit over each other: each is half as high and wide as the one before.
fn check_sides(spec: &NetworkSpec) -> Result<()> {
    let halvings = match spec.architecture.backbone {
        Backbone::ResNet { .. } => 3,
        _ => 2,
    };
    let [_, height, width] = spec.input;
    let multiple = 1 << halvings;
    if spec.architecture.task == Task::Pixels && !(height.is_multiple_of(multiple) && width.is_multiple_of(multiple)) {
        bail!(
            "a {} needs images whose sides are multiples of {multiple}, not {height} by {width} pixels\n\
             hint: have them brought into such a size, with --input of `ssdkd-teach` or --size of `ssdkd import`",
            spec.architecture
        );
    }
    Ok(())
}

/// A classifier of images in `[0, 1]`, or of their pixels.
pub struct Network {
    spec: NetworkSpec,
    store: Store,
    classifier: Classifier,
    scale: Vec<f32>,
    shift: Vec<f32>,
    kept: Option<Rc<Kept>>,
}

impl Network {
    /// A network with fresh weights, drawn from `seed`.
    ///
    /// # Errors
    /// If mean or std do not fit the channels, or where pixels are labelled the sides of images its maps.
    pub fn create(spec: &NetworkSpec, seed: u64, device: &Device) -> Result<Self> {
        check_normalisation(spec)?;
        check_sides(spec)?;
        Self::build(spec, Store::seeded(device, seed))
    }

    /// A network with the weights of a `state_dict`.
    ///
    /// # Errors
    /// If a tensor is missing, left over, of another shape, or not finite: the error names tensor and architecture.
    pub fn load(spec: &NetworkSpec, tensors: BTreeMap<String, Tensor>, device: &Device) -> Result<Self> {
        check_normalisation(spec)?;
        check_sides(spec)?;
        let loaded = Self::build(spec, Store::expecting(device, &tensors)).and_then(|network| {
            network.store.load_tensors(tensors)?;
            Ok(network)
        });
        match loaded {
            Ok(network) => Ok(network),
            Err(error) => bail!(
                "the weights are not those of a {} with {} classes: {error}\n\
                 hint: check that architecture, names and classes are those the weights were trained with",
                spec.architecture,
                spec.classes
            ),
        }
    }

    fn build(spec: &NetworkSpec, store: Store) -> Result<Self> {
        let NetworkSpec { input: [channels, ..], mean, std, .. } = spec;
        let classifier = Classifier::new(&spec.architecture, &spec.names, spec.classes, *channels, store.builder())?;
        let scale = std.iter().map(|std| 1.0 / std).collect();
        let shift = mean.iter().zip(std).map(|(mean, std)| -mean / std).collect();
        Ok(Self { spec: spec.clone(), store, classifier, scale, shift, kept: None })
    }

    /// The same network, whose weights will not move any more: what passes work out about them is kept. Whoever moves them all
    /// the same gets the answers of before.
    #[must_use]
    pub fn frozen(self) -> Self {
        Self { kept: Some(Rc::default()), ..self }
    }

    /// What it is.
    pub fn spec(&self) -> &NetworkSpec {
        &self.spec
    }

    /// Its tensors.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.spec.classes
    }

    /// Rows of logits that an image gets: one, or one for each pixel.
    pub fn rows_per_image(&self) -> usize {
        let [_, height, width] = self.spec.input;
        match self.spec.architecture.task {
            Task::Images => 1,
            Task::Pixels => height * width,
        }
    }

    /// Numbers in its penultimate features.
    pub fn features(&self) -> Result<usize> {
        Ok(self.probe()?.features.dims()[1])
    }

    /// Height, width and channels of the [maps](Output::maps) it makes of an image.
    pub fn map_shapes(&self) -> Result<Vec<(usize, usize, usize)>> {
        Ok(self.probe()?.maps.iter().map(|map| (map.dims()[1], map.dims()[2], map.dims()[3])).collect())
    }

    fn probe(&self) -> Result<Output> {
        let (height, width, channels) = self.input_shape();
        let blank = Tensor::zeros((1, height, width, channels), DType::F32, self.store.device())?;
        self.forward(&Value::constant(blank), &Pass::eval())
    }

    /// Height, width and channels of its images.
    pub fn input_shape(&self) -> (usize, usize, usize) {
        let [channels, height, width] = self.spec.input;
        (height, width, channels)
    }

    /// From images (B, H, W, C) in `[0, 1]`.
    ///
    /// # Errors
    /// If the images are not of the network's shape.
    pub fn forward(&self, images: &Value, pass: &Pass) -> Result<Output> {
        let (height, width, channels) = self.input_shape();
        if images.dims().len() != 4 || images.dims()[1..] != [height, width, channels] {
            bail!(
                "a {} needs images of shape [batch, {height}, {width}, {channels}], these have {:?}",
                self.spec.architecture,
                images.dims()
            );
        }
        pass.enter(self.kept.clone());
        let output = self.normalised(images).and_then(|images| self.classifier.forward(&images, pass));
        pass.enter(None); // what the pass goes through next is none of this network's
        output
    }

    /// What the classifier takes. That of a network whose weights do not move may compute in fewer bits.
    fn normalised(&self, images: &Value) -> Result<Value> {
        let images = ops::affine_channels(images, &self.scale, &self.shift)?;
        if self.kept.is_some() { ops::to_reduced_precision(&images) } else { Ok(images) }
    }

    /// The logits (B, K) of any number of images (B, H, W, C) in `[0, 1]`, in evaluation mode; (B·H·W, K) where pixels are labelled.
    pub fn logits(&self, images: &Tensor) -> Result<Tensor> {
        let count = images.dims().first().copied().unwrap_or(0);
        if count == 0 {
            return Tensor::zeros((0, self.classes()), DType::F32, self.store.device());
        }
        let (height, width, _) = self.input_shape();
        let batch = (PIXELS / (height * width).max(1)).clamp(1, IMAGES);
        let mut logits = Vec::new();
        for start in (0..count).step_by(batch) {
            let chunk = Value::constant(images.narrow(0, start, batch.min(count - start))?.contiguous()?);
            logits.push(self.forward(&chunk, &Pass::eval())?.logits.tensor().clone());
        }
        Tensor::cat(&logits, 0)
    }
}
