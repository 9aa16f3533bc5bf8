//! The files of an exported model.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use ssdkd_graph::write::{
    Normalization, OnnxTexts, PythonTexts, to_onnx, to_python, with_folded_norms, with_normalization,
};
use ssdkd_nn::{CARD_VERSION, ChannelOrder, Network, Preprocessing, TeacherCard};

/// The card of an exported model: it is written last, and says that the others are complete.
pub const CARD: &str = "card.json";

const ONNX: &str = "model.onnx";
const WEIGHTS: &str = "model.safetensors";
const PYTHON: &str = "model.py";

/// How the ONNX file differs from the network.
#[derive(Debug, Clone, Copy)]
pub struct Choice {
    /// Batch norms become part of convolutions.
    pub fold: bool,
    /// Images are normalized by the network.
    pub normalize: bool,
}

/// Names and bytes of the files, the card last.
///
/// # Errors
/// If ONNX or PyTorch has no operation for a node. The error names it.
pub fn files(mut card: TeacherCard, network: &Network, choice: Choice) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let graph = network.spec().blueprint()?.graph;
    let tensors = network.store().state_dict();
    // The file of a card may lack counts of batches, or have numbers of 16 bits.
    let weights = tensors.to_safetensors()?;
    // A card of version 1 numbered classes that had no names.
    card.class_names = card.names_of_classes().to_vec();
    (card.card_version, card.weights) = (CARD_VERSION, WEIGHTS.into());
    card.digest = blake3::hash(&weights).to_hex().to_string();
    let is_bgr = card.preprocessing.channels == ChannelOrder::Bgr;
    let python = PythonTexts {
        weights: WEIGHTS.into(),
        class_names: card.class_names.clone(),
        source: card.source.clone(),
        license: card.license.clone().unwrap_or_default(),
        range: card.preprocessing.range,
        mean: card.mean.clone(),
        std: card.std.clone(),
        swaps_red_and_blue: is_bgr,
    };
    let python = to_python(&graph, &python).context("the network cannot be written for PyTorch")?;

    let mut network = (graph, BTreeMap::from(tensors));
    if choice.fold {
        network = with_folded_norms(&network.0, &network.1)?;
    }
    if choice.normalize {
        let (scale, shift) = card.preprocessing.scale_and_shift(&card.mean, &card.std);
        let normalization = Normalization { swaps_red_and_blue: is_bgr, scale, shift };
        network = with_normalization(&network.0, &network.1, &normalization)?;
    }
    let texts = OnnxTexts { version: env!("CARGO_PKG_VERSION").into(), metadata: metadata(&card, choice.normalize)? };
    let onnx = to_onnx(&network.0, &network.1, &texts).context("the network cannot be written as ONNX")?;
    let card_text = card.to_json().into_bytes();
    Ok(vec![(ONNX, onnx), (WEIGHTS, weights), (PYTHON, python.into_bytes()), (CARD, card_text)])
}

/// What `ssdkd import` and `ssdkd predict` read in an ONNX file, and people too.
fn metadata(card: &TeacherCard, is_normalized: bool) -> serde_json::Result<Vec<(String, String)>> {
    let channels = card.input[0];
    let (mean, std, preprocessing) = if is_normalized {
        let plain = Preprocessing { channels: ChannelOrder::Rgb, range: [0.0, 1.0], ..card.preprocessing };
        (vec![0.0; channels], vec![1.0; channels], plain)
    } else {
        (card.mean.clone(), card.std.clone(), card.preprocessing)
    };
    let Preprocessing { channels: order, range, resize, interpolation, crop } = preprocessing;
    let mut texts = Vec::new();
    let mut say = |key: &str, text: String| texts.push((key.to_string(), text));
    say("architecture", plain(&card.architecture.to_string()));
    say("channels", json(&order)?);
    if !card.class_names.is_empty() {
        say("class_names", json(&card.class_names)?);
    }
    if let Some(crop) = crop {
        say("crop", json(&crop)?);
    }
    say("input_size", json(&card.input)?);
    say("interpolation", json(&interpolation)?);
    if let Some(license) = &card.license {
        say("license", plain(license));
    }
    say("mean", json(&mean)?);
    say("range", json(&range)?);
    if let Some(resize) = resize {
        say("resize", json(&resize)?);
    }
    say("source", plain(&card.source));
    say("std", json(&std)?);
    Ok(texts)
}

/// A value as JSON, or a word without its quotes.
fn json<T: serde::Serialize>(value: &T) -> serde_json::Result<String> {
    let text = serde_json::to_string(value)?;
    Ok(serde_json::from_str::<String>(&text).map_or(text, |word| plain(&word)))
}

/// Returns a text; one that JSON would read as a number, a list or a word of its own gets quotes.
fn plain(text: &str) -> String {
    if serde_json::from_str::<serde_json::Value>(text).is_err() {
        text.into()
    } else {
        serde_json::Value::from(text).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::{json, plain};

    #[test]
    fn texts_that_json_would_read_get_quotes() {
        assert_eq!(plain("from Paddle, \"1.0\""), "from Paddle, \"1.0\"");
        assert_eq!(plain("2024"), "\"2024\"");
    }

    #[test]
    fn numbers_have_the_digits_of_the_card() {
        assert_eq!(json(&vec![0.485_f32, 1.0]).unwrap(), "[0.485,1.0]");
        assert_eq!(json(&ssdkd_nn::ChannelOrder::Bgr).unwrap(), "bgr");
    }
}
