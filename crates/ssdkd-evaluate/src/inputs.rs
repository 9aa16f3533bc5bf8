//! What is measured, and on what: models and data sets, each failing with the exit code it deserves.

use std::io::ErrorKind;
use std::path::Path;

use candle_core::Device;
use ssdkd_data::{DataError, Dataset, Split};
use ssdkd_nn::weights::{self, WeightsError};
use ssdkd_nn::{CardError, Network, NetworkSpec, TeacherCard, identify};
use ssdkd_stage::StageError;
use ssdkd_stage::exit::Code;

/// Opens a split of a data set; see [`ssdkd_data::open`].
pub fn open_data(spec: &str, split: Split, adapt_to: Option<[usize; 3]>) -> Result<Dataset, StageError> {
    ssdkd_data::open(spec, split, adapt_to).map_err(data_error)
}

/// Whether a split of a data set is there, without reading it; see [`ssdkd_data::look_for`].
pub fn look_for_data(spec: &str, split: Split) -> Result<(), StageError> {
    ssdkd_data::look_for(spec, split).map_err(data_error)
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
/// were distilled from.
pub fn load_model(path: &Path, teacher: Option<&TeacherCard>, device: &Device) -> Result<Network, StageError> {
    if path.extension().is_some_and(|ending| ending == "json") {
        return Ok(load_card(path, device)?.1);
    }
    let tensors = weights::import(path).map_err(|error| {
        let code = if matches!(error, WeightsError::Read { .. }) { Code::MissingInput } else { Code::Integrity };
        StageError::other(code, error)
    })?;
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
    Network::load(&spec, tensors, device).map_err(|error| unusable(error.to_string()))
}
