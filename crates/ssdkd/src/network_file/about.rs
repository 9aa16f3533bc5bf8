//! What a network's file says of itself: preprocessing, class names, source and license.
//!
//! The texts of the file are those that `tools/export_teacher.py` writes (`ssdkd.json`), a `preprocessing.json`, or texts with the names
//! of the values, such as `mean` and `class_names`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value as Json;
use ssdkd_nn::Preprocessing;
use ssdkd_stage::StageError;

use crate::commands::import::normalization::Values;

/// Texts that hold several values, as JSON objects.
const OBJECTS: [&str; 2] = ["ssdkd.json", "preprocessing.json"];

/// What a file says of its network.
#[derive(Debug, Default)]
pub struct About {
    /// Mean and standard deviation.
    pub values: Option<Values>,
    /// What else happens to image files.
    pub preprocessing: Preprocessing,
    /// Names of the classes; empty where the file has none, or not as many as there are classes.
    pub class_names: Vec<String>,
    /// Where the network came from.
    pub source: Option<String>,
    /// Its license.
    pub license: Option<String>,
}

impl About {
    /// Reads the texts of a file.
    ///
    /// # Errors
    /// If the preprocessing is unknown or impossible, or mean and std do not fit the channels.
    pub fn read(
        path: &Path,
        extra: &BTreeMap<String, Vec<u8>>,
        channels: usize,
        classes: usize,
    ) -> Result<Self, StageError> {
        let preprocessing = preprocessing(path, channels, extra)?;
        let one = |key| text(extra, key).and_then(|value| value.as_str().map(str::to_string));
        Ok(Self {
            values: values(path, channels, &preprocessing, extra)?,
            preprocessing,
            class_names: class_names(classes, extra),
            source: one("source"),
            license: one("license"),
        })
    }
}

/// Returns the mean and the standard deviation.
fn values(
    path: &Path,
    channels: usize,
    preprocessing: &Preprocessing,
    extra: &BTreeMap<String, Vec<u8>>,
) -> Result<Option<Values>, StageError> {
    let [Some(mean), Some(std)] = ["mean", "std"].map(|key| text(extra, key)) else { return Ok(None) };
    let [mean, std] = [mean, std].map(|value| numbers(&value).unwrap_or_default());
    let [low, high] = preprocessing.range;
    Values::checked(mean, std, channels, preprocessing.range).map(Some).map_err(|_| {
        StageError::Usage(format!(
            "the mean and the std in {} do not fit images of {channels} channels from {low} to {high}\n\
             hint: export the network again with others",
            path.display()
        ))
    })
}

/// Returns the preprocessing of the file's texts. They have the names that a card has for them.
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

/// Returns the names of the file's texts, where they are as many as the classes.
fn class_names(classes: usize, extra: &BTreeMap<String, Vec<u8>>) -> Vec<String> {
    let names = match text(extra, "class_names").or_else(|| text(extra, "classes")) {
        Some(Json::Array(names)) => names.iter().filter_map(|name| name.as_str().map(str::to_string)).collect(),
        Some(Json::String(lines)) => lines.lines().map(|line| line.trim().to_string()).collect::<Vec<_>>(),
        _ => Vec::new(),
    };
    if names.len() == classes {
        return names;
    }
    if !names.is_empty() {
        tracing::warn!("the file names {} classes, and its network has {classes}: the names are not used", names.len());
    }
    Vec::new()
}

/// Returns a text of the file: one of its own, as JSON or as it is, or a value of one of [`OBJECTS`].
fn text(extra: &BTreeMap<String, Vec<u8>>, key: &str) -> Option<Json> {
    if let Some(bytes) = extra.get(key) {
        let plain = || Json::String(String::from_utf8_lossy(bytes).into_owned());
        return Some(serde_json::from_slice(bytes).unwrap_or_else(|_| plain()));
    }
    let mut values = OBJECTS.iter().filter_map(|object| {
        let object = serde_json::from_slice::<Json>(extra.get(*object)?).ok()?;
        object.get(key).or_else(|| object.get("preprocessing")?.get(key)).cloned()
    });
    values.find(|value| !value.is_null())
}

/// Returns the numbers of a JSON array, or of a text with commas between them.
fn numbers(value: &Json) -> Option<Vec<f32>> {
    match value {
        Json::Array(numbers) => numbers.iter().map(|number| Some(number.as_f64()? as f32)).collect(),
        Json::String(text) => text.split(',').map(|number| number.trim().parse().ok()).collect(),
        _ => None,
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
        for given in
            [("mean", "0.5, 0.25"), ("mean", "[0.5, 0.25]"), ("preprocessing.json", r#"{"mean": [0.5, 0.25]}"#)]
        {
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
        assert_eq!(preprocessing_in(&[("ssdkd.json", json)]).unwrap(), expected);
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
    fn class_names_that_do_not_fit_the_classes_are_not_used() {
        assert!(class_names(3, &extra(&[("class_names", "cat\ndog")])).is_empty());
    }
}
