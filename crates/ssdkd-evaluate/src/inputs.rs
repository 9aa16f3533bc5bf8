//! What is measured, and on what: models and data sets, each failing with the exit code it deserves.

use std::io::ErrorKind;
use std::path::Path;

use candle_core::Device;
use ssdkd_data::{DataError, Dataset, Filter, Fit, Resizing, Scale, Split, UnlabeledImages};
use ssdkd_nn::weights::{self, Choice, WeightsError};
use ssdkd_nn::{
    Architecture, CardError, Interpolation, Network, NetworkSpec, Preprocessing, Resize, TeacherCard, adopt, identify,
};
use ssdkd_stage::StageError;
use ssdkd_stage::exit::{self, Code};

use crate::fit::check_masks;

/// Returns how image files become the input \[C, H, W\] of a network with this preprocessing.
pub fn fit_of(preprocessing: &Preprocessing, input: [usize; 3]) -> Fit {
    if preprocessing.is_plain_resize() {
        return input.into();
    }
    let [_, height, width] = input;
    let Preprocessing { resize, interpolation, crop, .. } = preprocessing.at_size([height, width]);
    let scale = match (resize, crop) {
        (_, None) => Scale::Exact([height, width]),
        (None, Some(_)) => Scale::Keep,
        (Some(Resize::ShortSide(length)), Some(_)) => Scale::ShortSide(length),
        (Some(Resize::Exact(size)), Some(_)) => Scale::Exact(size),
    };
    let filter = match interpolation {
        Interpolation::Nearest => Filter::Nearest,
        Interpolation::Bilinear => Filter::Bilinear,
        Interpolation::Bicubic => Filter::Bicubic,
        Interpolation::Lanczos => Filter::Lanczos,
    };
    Fit::new(input, Resizing { scale, filter })
}

/// Opens a split of a data set; see [`ssdkd_data::open`].
pub fn open_data(spec: &str, split: Split, adapt_to: Option<Fit>) -> Result<Dataset, StageError> {
    let dataset = ssdkd_data::open(spec, split, adapt_to).map_err(data_error)?;
    for notice in dataset.notices() {
        tracing::warn!("{}", exit::plain(notice));
    }
    Ok(dataset)
}

/// Opens a folder of images without labels, in the shape that a model takes; see [`ssdkd_data::open_unlabeled`].
pub fn open_unlabeled(folder: &Path, fit: Fit) -> Result<UnlabeledImages, StageError> {
    let images = ssdkd_data::open_unlabeled(folder, Some(fit)).map_err(data_error)?;
    for notice in images.notices() {
        tracing::warn!("{}", exit::plain(notice));
    }
    Ok(images)
}

/// Opens a split for a model: its images have the shape of `fit`, its classes the model's indices.
///
/// Classes are matched by name where both sides have names, and by index otherwise. `class_names` is empty for a model without names.
///
/// # Errors
/// As [`open_data`]; also where the names of both sides are consecutive numbers in different orders, so that they may be names or indices.
pub fn open_data_for(spec: &str, split: Split, fit: Fit, class_names: &[String]) -> Result<Dataset, StageError> {
    let dataset = open_data(spec, split, Some(fit))?;
    let first = |names: &[String]| names.iter().take(4).map(String::as_str).collect::<Vec<_>>().join(", ");
    let Some(own) = dataset.class_names().filter(|own| *own != class_names) else { return Ok(dataset) };
    let own = own.to_vec();
    let is_number = |name: &String| name.parse::<u32>().is_ok();
    if class_names.is_empty() {
        let in_order = own.iter().enumerate().all(|(class, name)| name.parse() == Ok(class));
        if dataset.names_are_numbers() && !in_order {
            tracing::info!(
                "the class folders {}, … of {spec} have the indices 0, 1, 2, 3, … in this order",
                first(&own)
            );
        }
        return Ok(dataset);
    }
    let moved = own.iter().enumerate().any(|(class, name)| class_names.get(class) != Some(name));
    if moved && own.iter().all(|name| class_names.contains(name)) && may_be_indices(class_names) {
        return Err(StageError::Usage(format!(
            "the classes of {spec} ({}, …) and of the model ({}, …) are numbers in different orders: are they names or indices?\n\
             hint: if the model's outputs are in the order of the data, as torchvision sorts folders, import it without \
             --class-names; if not, give --class-names in the order of its outputs, and the classes of the data other names than numbers",
            first(&own),
            first(class_names)
        )));
    }
    let dataset = dataset.numbered_as(class_names);
    if dataset.class_names() != Some(class_names) && !own.iter().all(is_number) && !class_names.iter().all(is_number) {
        tracing::warn!(
            "the classes of {spec} ({}, …) are not called as the model's are ({}, …): they are compared by their indices",
            first(&own),
            first(class_names)
        );
    }
    Ok(dataset)
}

/// Returns whether names may be indices: numbers from 0 or 1 without a gap. The angles 0, 90, 180 and 270 are names.
fn may_be_indices(names: &[String]) -> bool {
    let mut numbers = names.iter().filter_map(|name| name.parse::<u32>().ok()).collect::<Vec<_>>();
    numbers.sort_unstable();
    let Some(&first @ (0 | 1)) = numbers.first() else { return false };
    numbers.len() == names.len() && numbers.iter().zip(first..).all(|(&number, index)| number == index)
}

/// Reads one image file as bytes (C, H, W) of the shape of `fit`; see [`ssdkd_data::open_image`].
///
/// # Errors
/// If the file is missing, damaged, or no image. The error names it.
pub fn open_image(path: &Path, fit: &Fit) -> Result<Vec<u8>, StageError> {
    ssdkd_data::open_image(path, fit).map_err(|error| match error {
        DataError::Read { ref source, .. } if source.kind() == ErrorKind::NotFound => {
            StageError::other(Code::MissingInput, error)
        }
        error => data_error(error),
    })
}

/// Returns whether a split of a data set is there for a network of this architecture, without reading it; see [`ssdkd_data::look_for`].
pub fn look_for_data(spec: &str, split: Split, architecture: &Architecture) -> Result<(), StageError> {
    let masked = ssdkd_data::look_for(spec, split).map_err(data_error)?;
    check_masks(architecture, masked).map_err(|error| StageError::Usage(format!("{spec}: {error}")))
}

fn data_error(error: DataError) -> StageError {
    let code = match &error {
        DataError::Spec { .. } => Code::Usage,
        DataError::Missing { .. } | DataError::UnknownFormat { .. } | DataError::Archive { .. } => Code::MissingInput,
        DataError::Read { source, .. } if is_refusal(source) => Code::Failed,
        DataError::TooLarge { .. } => Code::Failed,
        _ => Code::Integrity,
    };
    StageError::other(code, error)
}

/// Returns the operating system's refusal, in contrast to a stream that does not unpack.
fn is_refusal(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::PermissionDenied || error.raw_os_error().is_some()
}

/// Reads a teacher's card and its network.
///
/// # Errors
/// If the card or its weights cannot be read or do not fit each other.
pub fn load_card(path: &Path, device: &Device) -> Result<(TeacherCard, Network), StageError> {
    let load = || {
        let card = TeacherCard::load(path)?;
        let network = card.network(path, device)?;
        Ok((card, network))
    };
    load().map_err(|error: CardError| match error {
        CardError::Read { .. } => StageError::other(Code::MissingInput, error),
        CardError::NotACard { .. } => StageError::Usage(error.to_string()),
        _ => StageError::other(Code::Integrity, error),
    })
}

/// A network to be measured, and what must be known of it.
pub struct Model {
    /// The network.
    pub network: Network,
    /// The names of its classes; empty where they have none.
    pub class_names: Vec<String>,
    /// How image files become its input.
    pub fit: Fit,
    /// What a user must know before relying on it.
    pub warning: Option<String>,
}

/// Loads a model: its card (`.json`), or its bare weights, whose architecture is identified from their tensors.
///
/// Bare weights say neither how images are normalized nor how large they are, so they need the card of the teacher that they were
/// distilled from.
///
/// # Errors
/// If the file cannot be used. For bare weights without a teacher the error says where their card is.
pub fn load_model(path: &Path, teacher: Option<&TeacherCard>, device: &Device) -> Result<Model, StageError> {
    let is_card = path.extension().is_some_and(|ending| ending == "json");
    let Some(teacher) = teacher.filter(|_| !is_card) else {
        // For weights without a teacher's card the error says where their own card is.
        let (card, network) = load_card(path, device).map_err(|error| match error {
            StageError::Usage(what) if !is_card => StageError::Usage(format!(
                "{what}\nhint: or add --teacher CARD, the card of the teacher that the model was distilled from"
            )),
            error => error,
        })?;
        let warning = card.warning(path);
        let fit = fit_of(&card.preprocessing, card.input);
        return Ok(Model { network, class_names: card.names_of_classes().to_vec(), fit, warning });
    };
    let imported = weights::import(path, &Choice::default()).map_err(|error| {
        let code = if matches!(error, WeightsError::Read { .. }) { Code::MissingInput } else { Code::Integrity };
        StageError::other(code, error)
    })?;
    for line in imported.describe() {
        tracing::info!("{}", exit::plain(&line));
    }
    let unusable =
        |reason: String| StageError::other(Code::Integrity, format!("{} cannot be used: {reason}", path.display()));
    let adopted = adopt(imported.tensors).map_err(|error| unusable(error.to_string()))?;
    for notice in &adopted.notices {
        tracing::info!("{}", exit::plain(notice));
    }
    let tensors = adopted.tensors;
    let shapes = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.dims().to_vec())).collect();
    let identity = identify(&shapes).map_err(unusable)?;
    if (identity.classes, identity.channels) != (teacher.classes, teacher.input[0]) {
        return Err(unusable(format!(
            "it is a {} for {} classes and {} channels, and its teacher is for {} and {}",
            identity.architecture, identity.classes, identity.channels, teacher.classes, teacher.input[0]
        )));
    }
    let spec = NetworkSpec { architecture: identity.architecture, ..teacher.spec() };
    let network = Network::load(&spec, tensors, device).map_err(|error| unusable(error.to_string()))?;
    let fit = fit_of(&teacher.preprocessing, teacher.input);
    Ok(Model { network, class_names: teacher.names_of_classes().to_vec(), fit, warning: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_crop(resize: Option<Resize>) -> Preprocessing {
        let interpolation = Interpolation::Lanczos;
        Preprocessing { resize, interpolation, crop: Some([224, 224]), ..Preprocessing::default() }
    }

    fn lanczos(input: [usize; 3], scale: Scale) -> Fit {
        Fit::new(input, Resizing { scale, filter: Filter::Lanczos })
    }

    #[test]
    fn a_network_at_another_size_gets_images_in_proportion() {
        let fit = fit_of(&with_crop(Some(Resize::ShortSide(256))), [3, 160, 160]);
        assert_eq!(fit, lanczos([3, 160, 160], Scale::ShortSide(183)));
    }

    #[test]
    fn a_crop_alone_leaves_the_size() {
        assert_eq!(fit_of(&with_crop(None), [3, 224, 224]), lanczos([3, 224, 224], Scale::Keep));
    }

    #[test]
    fn without_a_crop_images_get_the_input_s_size() {
        let uncropped = Preprocessing { crop: None, ..with_crop(Some(Resize::ShortSide(520))) };
        assert_eq!(fit_of(&uncropped, [3, 24, 40]), lanczos([3, 24, 40], Scale::Exact([24, 40])));
        assert_eq!(fit_of(&Preprocessing::default(), [3, 24, 40]), Fit::from([3, 24, 40]));
    }
}
