//! Names as they are in a file, and as they are in the network.

use std::collections::BTreeMap;

/// How the tensors of a file are called in the network.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// The new name of each tensor that is kept, by its old one.
    pub kept: BTreeMap<String, String>,
    /// What was taken off the front of every name.
    pub prefix: String,
    /// Tensors that belong to no network.
    pub dropped: Vec<String>,
    /// What else was left out or changed, in sentences.
    pub notices: Vec<String>,
}

/// A tensor that is kept so far.
pub(super) struct Item<'a> {
    pub original: &'a str,
    pub name: String,
    /// How much of the name has been taken off.
    pub start: usize,
    pub shape: &'a [usize],
}

impl Item<'_> {
    pub fn rest(&self) -> &str {
        &self.name[self.start..]
    }

    /// Returns the part before the first dot, if there is one.
    pub fn head(&self) -> Option<&str> {
        self.rest().split_once('.').map(|(head, _)| head)
    }
}
