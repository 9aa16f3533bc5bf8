//! A network from an `.onnx` or `.pt2` file as a model: its output, its normalization and its class names.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use candle_core::{Device, Tensor};
use serde_json::Value as Json;
use ssdkd_graph::{Executor, Graph, GraphError, Imported, Mode, Shape, import};
use ssdkd_nn::Preprocessing;
use ssdkd_ops::{self as ops, Value};
use ssdkd_stage::StageError;
use ssdkd_stage::exit::{self, Code};

use super::PredictArgs;
use super::model::Kind;
use crate::import::normalization::Values;
use crate::network_file::read_error;

/// The extra text of a file that may hold mean, std, class names and the preprocessing together, as a JSON object.
const PREPROCESSING: &str = "preprocessing.json";
/// Outputs that an error lists, at most.
const LISTED: usize = 16;

/// A graph with the normalization of its images.
pub struct GraphModel {
    executor: Executor,
    preprocessing: Preprocessing,
    scale: Vec<f32>,
    shift: Vec<f32>,
}

/// Loads the network, and a word for each of its classes.
///
/// # Errors
/// If the network cannot be used, or neither the file nor a flag says how images are normalized.
pub fn load(arguments: &PredictArgs, device: &Device) -> Result<(GraphModel, Vec<String>)> {
    let path = &arguments.model;
    let unusable =
        |error: GraphError| StageError::other(Code::Integrity, format!("{} cannot be used: {error}", path.display()));
    let Imported { graph, mut tensors, extra, .. } = import(path).map_err(read_error)?;
    let graph = graph.with_output(output(path, &graph, arguments.output)?).map_err(unusable)?;
    let (graph, removed) = graph.without_probabilities().map_err(unusable)?;
    for node in removed {
        let what = format!(
            "the last softmax or sigmoid ({node}) is removed: logits are its input, and probabilities their softmax"
        );
        tracing::warn!("{}", exit::plain(&what));
    }
    let classes = graph.shape(graph.outputs()[0]).channels();
    if classes < 2 {
        let what = format!("{} has one number for each result; predictions need two classes or more", path.display());
        return Err(StageError::Usage(what).into());
    }
    let [channels, ..] = graph.input();
    let preprocessing = arguments.preprocessing.applied_to(preprocessing(path, channels, &extra)?, channels)?;
    let Values { mean, std, .. } = normalization(arguments, channels, &preprocessing, &extra)?;
    let class_names = class_names(classes, &extra);
    tensors.retain(|name, _| graph.tensors().contains_key(name));
    for tensor in tensors.values_mut() {
        *tensor = tensor.to_device(device)?;
    }
    let executor = Executor::new(graph, tensors, &[]).map_err(unusable)?.frozen();
    let (scale, shift) = preprocessing.scale_and_shift(&mean, &std);
    Ok((GraphModel { executor, preprocessing, scale, shift }, class_names))
}

/// The position of the output to predict with.
fn output(path: &Path, graph: &Graph, wanted: Option<usize>) -> Result<usize, StageError> {
    let count = graph.outputs().len();
    match wanted {
        Some(position) if position < count => Ok(position),
        None if count == 1 => Ok(0),
        _ => {
            let outputs = graph.outputs().iter().enumerate().take(LISTED);
            let list = outputs.map(|(at, &id)| format!("\n  {at}: {} {}", graph.node(id).name, graph.shape(id)));
            Err(StageError::Usage(format!(
                "{} has {count} outputs:{}\nhint: choose one with --output N",
                path.display(),
                list.collect::<String>()
            )))
        }
    }
}

/// Mean and standard deviation: those of the flags, else those of the file's texts.
fn normalization(
    arguments: &PredictArgs,
    channels: usize,
    preprocessing: &Preprocessing,
    extra: &BTreeMap<String, Vec<u8>>,
) -> Result<Values, StageError> {
    if let Some(values) = arguments.normalization.values(channels, preprocessing)? {
        return Ok(values);
    }
    let path = arguments.model.display();
    let hint = "hint: add --normalization imagenet, cifar10, cifar100, half or none, or --mean and --std";
    let [Some(mean), Some(std)] = ["mean", "std"].map(|key| text(extra, key)) else {
        return Err(StageError::Usage(format!("{path} does not say how images are normalized\n{hint}")));
    };
    let [mean, std] = [mean, std].map(|value| numbers(&value).unwrap_or_default());
    let [low, high] = preprocessing.range;
    let values = Values::checked(mean, std, channels, preprocessing.range).map_err(|_| {
        let what =
            format!("the mean and the std in {path} do not fit images of {channels} channels from {low} to {high}");
        StageError::Usage(format!("{what}\n{hint}"))
    })?;
    tracing::info!("mean {:?} and std {:?} are those of the file", values.mean, values.std);
    Ok(values)
}

/// The preprocessing of the file's texts. They have the names that a card has for them.
fn preprocessing(path: &Path, channels: usize, extra: &BTreeMap<String, Vec<u8>>) -> Result<Preprocessing, StageError> {
    let named = ["channels", "range", "resize", "interpolation", "crop"].into_iter();
    let fields = named.filter_map(|key| Some((key.to_string(), text(extra, key)?))).collect();
    let parsed = serde_json::from_value::<Preprocessing>(Json::Object(fields)).map_err(|error| error.to_string());
    let checked = parsed.and_then(|preprocessing| preprocessing.check(channels).map(|()| preprocessing));
    checked.map_err(|reason| {
        StageError::Usage(format!(
            "the preprocessing in {} cannot be used: {reason}\nhint: export the network again, as in \
             {{\"channels\": \"bgr\", \"range\": [0, 255], \"resize\": {{\"short_side\": 256}}, \"interpolation\": \"bilinear\", \"crop\": [224, 224]}}",
            path.display()
        ))
    })
}

/// The names of the file's texts where they are as many as the classes, else the indices.
fn class_names(classes: usize, extra: &BTreeMap<String, Vec<u8>>) -> Vec<String> {
    let names = match text(extra, "class_names") {
        Some(Json::Array(names)) => names.iter().filter_map(|name| name.as_str().map(str::to_string)).collect(),
        Some(Json::String(lines)) => lines.lines().map(|line| line.trim().to_string()).collect::<Vec<_>>(),
        _ => Vec::new(),
    };
    if names.len() == classes {
        return names;
    }
    if !names.is_empty() {
        tracing::warn!("the file names {} classes, and its network has {classes}: indices are shown", names.len());
    }
    (0..classes).map(|class| class.to_string()).collect()
}

/// A text of the file: one of its own, as JSON or as it is, or a value of `preprocessing.json`.
fn text(extra: &BTreeMap<String, Vec<u8>>, key: &str) -> Option<Json> {
    if let Some(bytes) = extra.get(key) {
        let plain = || Json::String(String::from_utf8_lossy(bytes).into_owned());
        return Some(serde_json::from_slice(bytes).unwrap_or_else(|_| plain()));
    }
    serde_json::from_slice::<Json>(extra.get(PREPROCESSING)?).ok()?.get(key).cloned()
}

/// The numbers of a JSON array, or of a text with commas between them.
fn numbers(value: &Json) -> Option<Vec<f32>> {
    match value {
        Json::Array(numbers) => numbers.iter().map(|number| Some(number.as_f64()? as f32)).collect(),
        Json::String(text) => text.split(',').map(|number| number.trim().parse().ok()).collect(),
        _ => None,
    }
}

impl GraphModel {
    /// Channels, height and width of its images.
    pub fn input(&self) -> [usize; 3] {
        self.executor.graph().input()
    }

    /// How image files become its input.
    pub fn preprocessing(&self) -> &Preprocessing {
        &self.preprocessing
    }

    /// What it predicts. A map of one pixel is a class of the image.
    pub fn kind(&self) -> Kind {
        let graph = self.executor.graph();
        match graph.shape(graph.outputs()[0]) {
            Shape::Map { height, width, .. } if height * width > 1 => Kind::Segmentation([height, width]),
            _ => Kind::Classifier,
        }
    }

    /// The output for RGB images (B, H, W, C) from 0 to 1: rows (B, K), or maps (B, H, W, K).
    ///
    /// # Errors
    /// If the network cannot be computed.
    pub fn logits(&self, images: Tensor) -> candle_core::Result<Tensor> {
        let images = self.preprocessing.channels.of_rgb(&images)?;
        let images = ops::affine_channels(&Value::constant(images), &self.scale, &self.shift)?;
        Ok(self.executor.run(&images, Mode::Eval)?.outputs[0].tensor().clone())
    }
}

#[cfg(test)]
mod tests {
    use ssdkd_nn::ChannelOrder;

    use super::*;

    fn extra(texts: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
        texts.iter().map(|(name, text)| ((*name).to_string(), text.as_bytes().to_vec())).collect()
    }

    #[test]
    fn numbers_are_read_from_a_list_or_a_json_array() {
        for given in [("mean", "0.5, 0.25"), ("mean", "[0.5, 0.25]"), (PREPROCESSING, r#"{"mean": [0.5, 0.25]}"#)] {
            let value = text(&extra(&[given]), "mean").unwrap();
            assert_eq!(numbers(&value), Some(vec![0.5, 0.25]), "{given:?}");
        }
    }

    fn preprocessing_in(texts: &[(&str, &str)]) -> Result<Preprocessing, StageError> {
        preprocessing(Path::new("m.pt2"), 3, &extra(texts))
    }

    #[test]
    fn the_preprocessing_is_read_from_the_texts_of_a_file() {
        let json = r#"{"channels": "bgr", "crop": [24, 40], "mean": [0.5, 0.5, 0.5]}"#;
        let expected = Preprocessing { channels: ChannelOrder::Bgr, crop: Some([24, 40]), ..Preprocessing::default() };
        assert_eq!(preprocessing_in(&[(PREPROCESSING, json)]).unwrap(), expected);
        assert_eq!(preprocessing_in(&[("channels", "bgr"), ("crop", "[24, 40]")]).unwrap(), expected);
        assert_eq!(preprocessing_in(&[("mean", "0.5")]).unwrap(), Preprocessing::default());
    }

    #[test]
    fn a_preprocessing_that_makes_no_sense_is_refused() {
        for (key, value, part) in
            [("channels", "gbr", "gbr"), ("crop", "[0, 8]", "side of 0"), ("range", "[1, 0]", "[1, 0]")]
        {
            let error = preprocessing_in(&[(key, value)]).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("m.pt2") && error.contains("hint:"), "{error}");
        }
    }

    #[test]
    fn class_names_are_read_from_lines_or_a_json_array() {
        for given in ["cat\ndog\n", r#"["cat", "dog"]"#] {
            assert_eq!(class_names(2, &extra(&[("class_names", given)])), ["cat", "dog"]);
        }
    }

    #[test]
    fn class_names_that_do_not_fit_the_classes_are_replaced_by_indices() {
        assert_eq!(class_names(3, &extra(&[("class_names", "cat\ndog")])), ["0", "1", "2"]);
    }
}
