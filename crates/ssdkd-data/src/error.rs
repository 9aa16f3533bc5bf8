//! Why a data set cannot be used: which file, what is wrong with it, and what to do.

use std::path::{Path, PathBuf};

/// Why a data set cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// Nothing is there.
    #[error("{} is missing: {what}\nhint: {hint}", path.display())]
    Missing {
        /// What was looked for.
        path: PathBuf,
        /// What it would have been.
        what: String,
        /// Where to get it.
        hint: String,
    },
    /// The operating system refuses, or a compressed stream is broken.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file ends early.
    #[error("{} is truncated: {found} bytes, and {expected} were expected{}\nhint: fetch or copy the file again", path.display(), with(what))]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Bytes there should be.
        expected: u64,
        /// Bytes there are.
        found: u64,
        /// What says so.
        what: String,
    },
    /// The file is not what its name says.
    #[error("{} cannot be used: {what}{}", path.display(), hint_line(hint))]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
        /// What to do about it, if anything.
        hint: String,
    },
    /// A label that is no class.
    #[error("{}: record {record} has label {label}, but the classes are 0 to {}\nhint: {}", path.display(), classes.saturating_sub(1), label_hint(*label))]
    Label {
        /// The file.
        path: PathBuf,
        /// Which image, from 0.
        record: usize,
        /// Its label.
        label: i64,
        /// Number of classes.
        classes: usize,
    },
    /// An encoded image that does not decode.
    #[error("{} is not a readable image: {reason}\nhint: {hint}", place.display())]
    Image {
        /// The file, or the row of a table.
        place: PathBuf,
        /// Why.
        reason: String,
        /// What to do about it.
        hint: String,
    },
    /// Images of different shapes, where nothing says which shape is wanted.
    #[error("{}: shape {found:?} (channels, height, width), but {expected:?} in the images before{}\nhint: bring all images into one shape, with `ssdkd-teach --input {}` or in the files", place.display(), mixed_colors(*found, *expected), input_flag(*found, *expected))]
    Shapes {
        /// The first image that differs.
        place: PathBuf,
        /// Its shape.
        found: [usize; 3],
        /// The shape of those before.
        expected: [usize; 3],
    },
    /// A class folder without an image.
    #[error("{}: the class has no images (looked for {looked_for}; found {found})\nhint: remove the folder or fill it", path.display())]
    EmptyClass {
        /// The folder.
        path: PathBuf,
        /// Endings of the files that count.
        looked_for: String,
        /// Endings of the files that are there, with their counts.
        found: String,
    },
    /// A folder or file of no known kind.
    #[error("{} holds no data set this program knows; looked for {looked_for}\nhint: {hint}", path.display())]
    UnknownFormat {
        /// The folder or file.
        path: PathBuf,
        /// Everything that would have been recognized.
        looked_for: String,
        /// What to do with what is there.
        hint: String,
    },
    /// An archive that would have to be unpacked first.
    #[error("{} is an archive, and is not unpacked\nhint: unpack it: {command}", path.display())]
    Archive {
        /// The archive.
        path: PathBuf,
        /// What unpacks it.
        command: String,
    },
    /// More than fits.
    #[error("{} is too large: {bytes} bytes of pixels, and at most {limit} are taken into memory\nhint: use a part of the data set", path.display())]
    TooLarge {
        /// The file or folder.
        path: PathBuf,
        /// Bytes at least.
        bytes: u64,
        /// [`MAX_BYTES`](crate::MAX_BYTES), or a file's share of it.
        limit: u64,
    },
    /// A Parquet file that cannot be decoded.
    #[error("{} is not a readable Parquet file: {reason}\nhint: fetch or copy the file again", path.display())]
    Table {
        /// The file.
        path: PathBuf,
        /// What the decoder says.
        reason: String,
    },
    /// A specification such as `shapes:x`.
    #[error("the data set {spec:?} cannot be used: {what}\nhint: {hint}")]
    Spec {
        /// As given.
        spec: String,
        /// What is wrong with it.
        what: String,
        /// What would be right.
        hint: String,
    },
    /// Parts that do not make a data set.
    #[error("these parts do not make a data set: {what}")]
    Invalid {
        /// What does not agree.
        what: String,
    },
}

impl DataError {
    pub(crate) fn broken(path: &Path, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Broken { path: path.into(), what: what.into(), hint: hint.into() }
    }

    pub(crate) fn read(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Read { path: path.into(), source }
    }
}

fn label_hint(label: i64) -> &'static str {
    match label {
        -1 => "-1 stands for no label: take a split that has labels, such as validation",
        _ => "check that this file belongs to this data set, and that its labels are whole numbers from 0",
    }
}

fn mixed_colors(found: [usize; 3], expected: [usize; 3]) -> &'static str {
    if found[0] == expected[0] { "" } else { ": gray and colored images are mixed" }
}

/// Returns `C,H,W` for a flag.
fn input_flag(found: [usize; 3], expected: [usize; 3]) -> String {
    let [channels, height, width] = expected;
    format!("{},{height},{width}", channels.max(found[0]))
}

fn hint_line(hint: &str) -> String {
    if hint.is_empty() { String::new() } else { format!("\nhint: {hint}") }
}

fn with(what: &str) -> String {
    if what.is_empty() { String::new() } else { format!(" {what}") }
}
