//! A classifier of images or of pixels with everything that is needed to use it: its tensors, and how its input is normalized.

use crate::StateDict;
use candle_core::{DType, Device, Result, Tensor, bail};
use ssdkd_graph::op::Conv2d;
use ssdkd_graph::{Executor, GraphError, Mode, NodeId, Op, Run, Tap};
use ssdkd_ops as ops;
use ssdkd_ops::Value;

use crate::architecture::{Architecture, Backbone, Stem, Task};
use crate::preprocessing::{ChannelOrder, Preprocessing};
use crate::store::Store;
use crate::zoo::Blueprint;

/// Pixels in one forward pass of [`Network::logits`], 256 images of CIFAR: bounds the memory, and on the CPU changes no number.
const PIXELS: usize = 256 * 32 * 32;

/// Images in such a pass, of fewer pixels each.
const IMAGES: usize = 256;

/// What a network is, without its weights.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkSpec {
    /// What it looks like.
    pub architecture: Architecture,
    /// Number of classes.
    pub classes: usize,
    /// Channels, height, width of its input.
    pub input: [usize; 3],
    /// Subtracted from an image in the [range](Preprocessing::range) of the network, for each channel in the network's order.
    pub mean: Vec<f32>,
    /// Divided by after that.
    pub std: Vec<f32>,
    /// The order and the range of the network's channels, and how image files are brought to its size.
    pub preprocessing: Preprocessing,
}

impl NetworkSpec {
    /// Counts the numbers that training moves, without drawing any.
    ///
    /// # Errors
    /// As [`Network::create`].
    pub fn num_parameters(&self) -> Result<usize> {
        Ok(usize::try_from(self.blueprint()?.graph.parameters()).unwrap_or(usize::MAX))
    }

    /// Returns the multiplications with an addition that one image costs.
    ///
    /// # Errors
    /// As [`Network::create`].
    pub fn multiply_adds(&self) -> Result<u64> {
        Ok(self.blueprint()?.graph.total_multiply_adds())
    }

    /// Returns its feature maps, in order.
    ///
    /// # Errors
    /// As [`Network::create`].
    pub fn feature_maps(&self) -> Result<Vec<FeatureMap>> {
        let Blueprint { graph, maps, .. } = self.blueprint()?;
        let map = |id: NodeId| {
            let (shape, name) = (graph.shape(id), graph.node(id).name.clone());
            FeatureMap { name, size: shape.size(), channels: shape.channels() }
        };
        Ok(maps.into_iter().map(map).collect())
    }

    /// Returns the graph at the size of the input.
    ///
    /// # Errors
    /// As [`Network::create`].
    pub fn blueprint(&self) -> Result<Blueprint> {
        check_normalisation(self)?;
        check_sides(self)?;
        self.architecture.blueprint(self.classes, self.input).map_err(|error| {
            let hint = match error {
                GraphError::Node { .. } => {
                    "\nhint: choose another size of images (--size of `ssdkd import`) or another architecture"
                }
                _ => "",
            };
            candle_core::Error::Msg(format!("a {} cannot be built: {error}{hint}", self.architecture))
        })
    }
}

/// One of the feature maps that a network makes of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureMap {
    /// The node of the graph that makes it.
    pub name: String,
    /// Height and width.
    pub size: [usize; 2],
    /// Channels.
    pub channels: usize,
}

/// Whether mean and std fit the channels.
fn check_normalisation(spec: &NetworkSpec) -> Result<()> {
    let NetworkSpec { input: [channels, ..], mean, std, .. } = spec;
    if mean.len() != *channels || std.len() != *channels {
        bail!("the normalization needs one mean and one std for each of {channels} channels, not {mean:?} and {std:?}");
    }
    if mean.iter().any(|mean| !mean.is_finite()) || std.iter().any(|std| !std.is_finite() || *std <= 0.0) {
        bail!("the normalization needs finite means and stds above 0, not {mean:?} and {std:?}");
    }
    Ok(())
}

/// Whether the maps of a network that labels pixels fit over each other: each is half as high and wide as the one before.
fn check_sides(spec: &NetworkSpec) -> Result<()> {
    let halvings = match spec.architecture.original().zoo().map(|zoo| zoo.backbone) {
        Some(Backbone::ResNet { stem: Stem::Cifar, .. }) => 3,
        Some(Backbone::CifarResNet { .. } | Backbone::WideCifarResNet { .. } | Backbone::Wrn { .. }) => 2,
        _ => return Ok(()), // these bring their maps to one size themselves
    };
    let [_, height, width] = spec.input;
    let multiple = 1 << halvings;
    if spec.architecture.task() == Task::Pixels && !(height.is_multiple_of(multiple) && width.is_multiple_of(multiple))
    {
        bail!(
            "a {} needs images whose sides are multiples of {multiple}, not {height} by {width} pixels\n\
             hint: have them brought into such a size, with --input of `ssdkd-teach` or --size of `ssdkd import`",
            spec.architecture
        );
    }
    Ok(())
}

/// What a network computes.
pub struct Output {
    /// The feature maps (B, H, W, C): in a residual network what each block makes, as the next one sees it. As the pass stored them:
    /// [`ops::to_f32`] for what takes nothing else.
    pub maps: Vec<Value>,
    /// What the last layer sees (B, F); where pixels are labeled, the last map averaged over height and width.
    pub features: Value,
    /// (B, K); where each pixel is put into a class, a row for each: (B·H·W, K), image by image, row by row.
    pub logits: Value,
    /// What the batch norms saw, in a [tapped](Mode::Tapped) pass.
    pub taps: Vec<Tap>,
}

/// A network that classifies images in `[0, 1]`, or their pixels.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use ssdkd_nn::{Network, NetworkSpec, Preprocessing};
///
/// let spec = NetworkSpec {
///     architecture: "resnet8".parse()?,
///     classes: 10,
///     input: [3, 32, 32],
///     mean: vec![0.5; 3],
///     std: vec![0.25; 3],
///     preprocessing: Preprocessing::default(),
/// };
/// let network = Network::create(&spec, 0, &Device::Cpu)?;
/// let images = Tensor::zeros((2, 32, 32, 3), DType::F32, &Device::Cpu)?;
/// assert_eq!(network.logits(&images)?.dims(), [2, 10]);
/// assert!(network.store().state_dict().contains_key("conv1.weight"), "tensors have PyTorch's names");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Network {
    spec: NetworkSpec,
    store: Store,
    executor: Executor,
    maps_count: usize,
    has_features: bool,
    is_frozen: bool,
    scale: Vec<f32>,
    shift: Vec<f32>,
}

impl Network {
    /// A network with fresh weights, drawn from `seed`.
    ///
    /// # Errors
    /// If mean or std do not fit the channels, or where pixels are labeled the sides of images its maps.
    pub fn create(spec: &NetworkSpec, seed: u64, device: &Device) -> Result<Self> {
        Self::build(spec, spec.blueprint()?, Store::seeded(device, seed))
    }

    /// A network with the weights of a `state_dict`.
    ///
    /// # Errors
    /// If a tensor is missing, left over, of another shape, or not finite: the error names tensor and architecture. If the network
    /// cannot work on images of that size.
    pub fn load(spec: &NetworkSpec, tensors: impl Into<StateDict>, device: &Device) -> Result<Self> {
        let tensors = tensors.into();
        let blueprint = spec.blueprint()?;
        let loaded = Self::build(spec, blueprint, Store::expecting(device, &tensors)).and_then(|network| {
            network.store.load_state_dict(tensors)?;
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

    fn build(spec: &NetworkSpec, blueprint: Blueprint, store: Store) -> Result<Self> {
        let NetworkSpec { mean, std, preprocessing, .. } = spec;
        let tensors = store.tensors_of(&blueprint)?;
        let Blueprint { graph, maps, features, apart, .. } = blueprint;
        let maps_count = maps.len();
        let kept = maps.into_iter().chain(features).chain(apart).collect::<Vec<NodeId>>();
        let executor = Executor::new(graph, tensors, &kept).map_err(candle_core::Error::wrap)?;
        let (scale, shift) = preprocessing.scale_and_shift(mean, std);
        let has_features = features.is_some();
        Ok(Self { spec: spec.clone(), store, executor, maps_count, has_features, is_frozen: false, scale, shift })
    }

    /// Returns the same network with a cache of what is computed from the weights alone. Mutating the weights afterwards leaves
    /// stale results in this cache.
    #[must_use]
    pub fn frozen(self) -> Self {
        Self { executor: self.executor.frozen(), is_frozen: true, ..self }
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
        match self.spec.architecture.task() {
            Task::Images => 1,
            Task::Pixels => height * width,
        }
    }

    /// Returns the weights of its last layer, a row for each class (K, F); `None` if the scores do not come from one layer.
    pub fn class_weights(&self) -> Result<Option<Tensor>> {
        let graph = self.spec.blueprint()?.graph;
        let mut node = graph.outputs().first().map(|output| graph.node(*output));
        while let Some(found) = node {
            match &found.op {
                Op::Linear { weight, .. } | Op::Conv2d(Conv2d { weight, groups: 1, .. }) => {
                    let weights = self.store.find(weight);
                    return weights.map(|weights| weights.flatten_from(1)).transpose();
                }
                // Scores of pixels are brought to the size of the image.
                Op::Resize { .. } => node = found.inputs.first().map(|input| graph.node(*input)),
                _ => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Numbers in its penultimate features.
    pub fn features(&self) -> Result<usize> {
        Ok(self.probe()?.features.dims()[1])
    }

    fn probe(&self) -> Result<Output> {
        let (height, width, channels) = self.input_shape();
        let blank = Tensor::zeros((1, height, width, channels), DType::F32, self.store.device())?;
        self.forward(&Value::constant(blank), Mode::Eval)
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
    pub fn forward(&self, images: &Value, mode: Mode) -> Result<Output> {
        let (height, width, channels) = self.input_shape();
        if images.dims().len() != 4 || images.dims()[1..] != [height, width, channels] {
            bail!(
                "a {} needs images of shape [batch, {height}, {width}, {channels}], these have {:?}",
                self.spec.architecture,
                images.dims()
            );
        }
        let Run { outputs, mut maps, taps } = self.executor.run(&self.normalised(images)?, mode)?;
        let features = maps.split_off(self.maps_count).into_iter().next().filter(|_| self.has_features);
        let features = match features {
            Some(features) => Some(features),
            None => maps.last().map(ops::global_avg_pool).transpose()?,
        };
        let (Some(features), Some(output)) = (features, outputs.first()) else {
            bail!("a {} has no feature maps", self.spec.architecture)
        };
        Ok(Output { maps, features: ops::to_f32(&features)?, logits: self.rows(output)?, taps })
    }

    /// The network's result as rows of logits: one an image, or one a pixel.
    fn rows(&self, output: &Value) -> Result<Value> {
        let dims = output.dims();
        let Some((classes, places)) = dims.split_last() else { bail!("the network's result is one number") };
        if *classes != self.spec.classes {
            bail!(
                "a {} gives {classes} numbers, not one for each of {} classes",
                self.spec.architecture,
                self.spec.classes
            );
        }
        if dims.len() == 2 {
            Ok(output.clone())
        } else {
            ops::reshape(output, (places.iter().product::<usize>(), *classes))
        }
    }

    /// What the graph takes. A network whose weights do not move may compute in fewer bits.
    fn normalised(&self, images: &Value) -> Result<Value> {
        let images = match self.spec.preprocessing.channels {
            ChannelOrder::Rgb => images.clone(),
            ChannelOrder::Bgr => {
                let channels = [2, 1, 0].map(|channel| ops::slice_channels(images, channel, 1));
                let channels = channels.into_iter().collect::<Result<Vec<_>>>()?;
                ops::concat_channels(&channels.iter().collect::<Vec<_>>())?
            }
        };
        let images = &images;
        let images = ops::affine_channels(images, &self.scale, &self.shift)?;
        if self.is_frozen { ops::to_reduced_precision(&images) } else { Ok(images) }
    }

    /// The logits (B, K) of any number of images (B, H, W, C) in `[0, 1]`, in evaluation mode; (B·H·W, K) where pixels are labeled.
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
            logits.push(self.forward(&chunk, Mode::Eval)?.logits.tensor().clone());
        }
        Tensor::cat(&logits, 0)
    }
}
