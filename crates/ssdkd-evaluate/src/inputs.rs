//! What is measured, and on what: models and data sets, each failing with the exit code it deserves.

use std::io::ErrorKind;
use std::path::Path;

use candle_core::Device;
use ssdkd_data::{DataError, Dataset, Split};
use ssdkd_nn::weights::{self, Choice, WeightsError};
use ssdkd_nn::{Architecture, CardError, Network, NetworkSpec, TeacherCard, identify};
use ssdkd_stage::StageError;
use ssdkd_stage::exit::{self, Code};

use crate::evaluation::check_masks;

/// Opens a split of a data set; see [`ssdkd_data::open`].
pub fn open_data(spec: &str, split: Split, adapt_to: Option<[usize; 3]>) -> Result<Dataset, StageError> {
    let dataset = ssdkd_data::open(spec, split, adapt_to).map_err(data_error)?;
    for notice in dataset.notices() {
        tracing::warn!("{}", exit::plain(notice));
    }
    Ok(dataset)
}

/// The same for a model: its images brought into the shape that it takes, its classes numbered as the model's are, by name.
pub fn open_data_for(
    spec: &str,
    split: Split,
    input: [usize; 3],
    class_names: &[String],
) -> Result<Dataset, StageError> {
    let dataset = open_data(spec, split, Some(input))?.numbered_as(class_names);
    let named = |names: &[String]| names.iter().any(|name| name.parse::<u32>().is_err());
    if let Some(own) = dataset.class_names()
        && own != class_names
        && named(own)
        && named(class_names)
    {
        let first = |names: &[String]| names.iter().take(3).map(String::as_str).collect::<Vec<_>>().join(", ");
        tracing::warn!(
            "the classes of {spec} ({}, …) are not called as the model's are ({}, …): they are compared by their numbers",
            first(own),
            first(class_names)
        );
    }
    Ok(dataset)
}

/// Whether a split of a data set is there for a network of this architecture, without reading it; see [`ssdkd_data::look_for`].
pub fn look_for_data(spec: &str, split: Split, architecture: Architecture) -> Result<(), StageError> {
    let masked = ssdkd_data::look_for(spec, split).map_err(data_error)?;
    check_masks(architecture, masked).map_err(|error| StageError::Usage(format!("{spec}: {error}")))
}

fn data_error(error: DataError) -> StageError {
    let code = match &error {
        DataError::Spec { .. } => Code::Usage,
        DataError::Missing { .. } | DataError::UnknownFormat { .. } => Code::MissingInput,
        DataError::Read { source, .. } if is_refusal(source) => Code::Failed,
        DataError::TooLarge { .. } => Code::Failed,
        _ => Code::Integrity,
    };
    StageError::other(code, error)
}

/// The operating system's no, in contrast to a stream that does not unpack.
fn is_refusal(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::PermissionDenied || error.raw_os_error().is_some()
}

/// A teacher's card and its network.
pub fn load_card(path: &Path, device: &Device) -> Result<(TeacherCard, Network), StageError> {
    let load = || {
        let card = TeacherCard::load(path)?;
        let network = card.network(path, device)?;
        Ok((card, network))
    };
    load().map_err(|error: CardError| {
        let code = if matches!(error, CardError::Read { .. }) { Code::MissingInput } else { Code::Integrity };
        StageError::other(code, error)
    })
}

/// A model: its card (`.json`), or its bare weights, whose architecture is recognised from their tensors.
///
/// Bare weights do not say how images are normalised nor how large they are, so they need the card of the teacher they
/// were distilled from. Beside the network what its classes are called.
pub fn load_model(
    path: &Path,
    teacher: Option<&TeacherCard>,
    device: &Device,
) -> Result<(Network, Vec<String>), StageError> {
    if path.extension().is_some_and(|ending| ending == "json") {
        let (card, network) = load_card(path, device)?;
        return Ok((network, card.class_names));
    }
    let imported = weights::import(path, &Choice::default()).map_err(|error| {
        let code = if matches!(error, WeightsError::Read { .. }) { Code::MissingInput } else { Code::Integrity };
        StageError::other(code, error)
    })?;
    let tensors = imported.tensors;
    let unusable =
        |reason: String| StageError::other(Code::Integrity, format!("{} cannot be used: {reason}", path.display()));
    let Some(teacher) = teacher else {
        return Err(StageError::Usage(format!(
            "{} holds bare weights, which do not say how images are normalised\nhint: add --teacher CARD, the teacher it \
             was distilled from, or give the model's own card",
            path.display()
        )));
    };
    let shapes = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.dims().to_vec())).collect();
    let identity = identify(&shapes).map_err(unusable)?;
    if (identity.classes, identity.channels) != (teacher.classes, teacher.input[0]) {
        return Err(unusable(format!(
            "it is a {} for {} classes and {} channels, and its teacher is for {} and {}",
            identity.architecture, identity.classes, identity.channels, teacher.classes, teacher.input[0]
        )));
    }
    let spec = NetworkSpec { architecture: identity.architecture, names: identity.names, ..teacher.spec() };
    let network = Network::load(&spec, tensors, device).map_err(|error| unusable(error.to_string()))?;
    Ok((network, teacher.class_names.clone()))
}
