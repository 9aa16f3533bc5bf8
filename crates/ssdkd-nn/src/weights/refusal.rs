//! Why a file's bytes are refused, and what to do instead.

use std::path::Path;

use super::WeightsError;

/// A refusal of a file that has no name yet.
#[derive(Debug)]
pub(super) struct Refusal {
    pub reason: String,
    pub hint: String,
    /// Whether another `--key` or `--prefix` would do.
    pub choice: bool,
}

pub(super) type Result<T> = std::result::Result<T, Refusal>;

/// What can be read, where nothing more is known.
pub(super) const READABLE: &str =
    "PyTorch checkpoints (.pth, .pt, .th, .pth.tar) and .safetensors with a state_dict can be read";

impl From<String> for Refusal {
    fn from(reason: String) -> Self {
        Self { reason, hint: READABLE.into(), choice: false }
    }
}

impl From<&str> for Refusal {
    fn from(reason: &str) -> Self {
        reason.to_string().into()
    }
}

impl Refusal {
    pub fn new(reason: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { reason: reason.into(), hint: hint.into(), choice: false }
    }

    pub fn choice(reason: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { choice: true, ..Self::new(reason, hint) }
    }

    pub fn of(self, path: &Path) -> WeightsError {
        let Self { reason, hint, choice } = self;
        let path = path.into();
        if choice { WeightsError::Choice { path, reason, hint } } else { WeightsError::Damaged { path, reason, hint } }
    }
}

/// Returns a hint with two lines of Python: the first makes `state_dict` from the file's name, the second saves it.
pub(super) fn save_with(load: &str) -> String {
    format!(
        "save its state_dict with Python, and give that file:\n  import torch; {load}\n  torch.save(state_dict, \"weights.pth\")"
    )
}

/// Returns the file's name as a string of Python.
pub(super) fn quoted(path: &Path) -> String {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    format!("{name:?}")
}

/// Most names in one message, and most letters of one.
const MOST_LISTED: usize = 8;
const MOST_LETTERS: usize = 80;

/// Returns the names with commas between them, the first few if there are many.
pub(super) fn listed<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> String {
    let mut names = names.into_iter();
    let first = names.by_ref().take(MOST_LISTED).map(|name| short(name.as_ref())).collect::<Vec<_>>().join(", ");
    match names.count() {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

/// Returns a name that may be as long as the file, cut to what a message has space for.
pub(super) fn short(name: &str) -> String {
    let mut letters = name.chars();
    let mut text = letters.by_ref().take(MOST_LETTERS).collect::<String>();
    if letters.next().is_some() {
        text.push('…');
    }
    text
}
