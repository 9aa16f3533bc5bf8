//! The card in the folder of a weight file: that of an exported student, or of a run's teacher.

use std::path::Path;

use ssdkd_nn::{Identity, TeacherCard};
use ssdkd_stage::StageError;
use ssdkd_stage::exit::Code;

use super::file_name;

/// The card that was found in the folder of a weight file.
#[derive(Default)]
pub struct Beside {
    /// The card of exactly these weights.
    pub card: Option<TeacherCard>,
    /// What was found, in a sentence.
    pub notice: Option<String>,
}

/// Looks for the card of the weights at `path`: `NAME.json`, or the `card.json` of a run's teacher.
///
/// # Errors
/// If the weights cannot be read.
pub fn find(path: &Path, found: &Identity) -> Result<Beside, StageError> {
    let name = file_name(path);
    let candidates = [path.with_extension("json"), path.with_file_name("card.json")];
    let card = candidates.iter().filter(|candidate| candidate.is_file()).find_map(|candidate| {
        let card = TeacherCard::load(candidate).ok().filter(|card| card.weights == name)?;
        Some((candidate, card))
    });
    let Some((place, card)) = card else { return Ok(Beside::default()) };
    let bytes = std::fs::read(path).map_err(|source| StageError::Read { path: path.into(), source })?;
    let same = blake3::hash(&bytes).to_hex().as_str() == card.digest;
    if !same {
        let notice = format!("{} is not used: it is the card of other weights", place.display());
        return Ok(Beside { card: None, notice: Some(notice) });
    }
    if (&card.architecture, card.classes, card.input[0]) != (&found.architecture, found.classes, found.channels) {
        let what = format!(
            "{} says {} with {} classes, and its weights are a {} with {}\nhint: export the model again",
            place.display(),
            card.architecture,
            card.classes,
            found.architecture,
            found.classes
        );
        return Err(StageError::other(Code::Integrity, what));
    }
    let notice = format!("took size, preprocessing, class names and source from {}; flags go first", place.display());
    Ok(Beside { card: Some(card), notice: Some(notice) })
}
