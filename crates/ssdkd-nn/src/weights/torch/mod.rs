//! PyTorch checkpoints: the zip files of today, the bare streams from before version 1.6, and plain pickles.
//!
//! Each holds a pickle whose tensors refer to storages by key. A zip file has each storage as a member `NAME/data/KEY`;
//! the old stream has five pickles (magic number, protocol, system, object, keys) and then, for each key, a length and
//! the numbers. Other programs write a pickle alone, with arrays of NumPy in it.

mod stream;
mod zipped;

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use ssdkd_pickle::{self as pickle, Pickle};

use super::foreign;
use super::refusal::{Refusal, Result, quoted, save_with};

use stream::Stream;

pub(super) use stream::unwrap as unwrap_storage;

/// The bytes of each storage, by key.
pub(super) type Storages<'a> = HashMap<String, Cow<'a, [u8]>>;

/// A checkpoint whose pickle has been read, and whose storages may not have been.
pub(super) struct Checkpoint<'a> {
    pub pickle: Pickle,
    /// Whether the most significant byte of a number is the first.
    pub big_endian: bool,
    pub source: Source<'a>,
}

/// Where the storages are.
pub(super) enum Source<'a> {
    Zip(Box<zipped::Members<'a>>),
    /// The keys of the storages, and the storages.
    Stream(Pickle, &'a [u8]),
    Bare,
}

/// Returns whether the bytes look like one of the formats.
pub(super) fn is_checkpoint(bytes: &[u8]) -> bool {
    bytes.starts_with(zipped::MAGIC) || stream::is_stream(bytes) || is_pickle(bytes)
}

/// Returns whether the bytes look like a pickle. A safetensors file whose header is that long has a brace behind the length.
fn is_pickle(bytes: &[u8]) -> bool {
    bytes.first() == Some(&0x80) && matches!(bytes.get(1), Some(2..=5)) && bytes.get(8) != Some(&b'{')
}

/// Reads the pickle of a checkpoint.
pub(super) fn open<'a>(bytes: &'a [u8], path: &Path) -> Result<Checkpoint<'a>> {
    if bytes.starts_with(zipped::MAGIC) {
        let mut members = zipped::Members::open(bytes)?;
        if let Some(refusal) = foreign::refuse_zip(members.names(), path) {
            return Err(refusal);
        }
        let (pickle, big_endian) = (members.pickle()?, members.is_big_endian()?);
        return Ok(Checkpoint { pickle, big_endian, source: Source::Zip(Box::new(members)) });
    }
    if stream::is_stream(bytes) {
        let Stream { pickle, big_endian, keys, rest } = stream::read(bytes)?;
        return Ok(Checkpoint { pickle, big_endian, source: Source::Stream(keys, rest) });
    }
    let (pickle, _) = pickle::read(bytes).map_err(|reason| {
        let load = format!("import pickle; state_dict = pickle.load(open({}, \"rb\"))", quoted(path));
        Refusal::new(format!("it is a Python pickle that PyTorch did not write, and {reason}"), save_with(&load))
    })?;
    Ok(Checkpoint { pickle, big_endian: false, source: Source::Bare })
}

impl<'a> Source<'a> {
    /// Returns the storages with these keys, and as many bytes of each as the pickle says. Others stay in the file.
    pub fn storages<'k>(self, pickle: &Pickle, wanted: impl Iterator<Item = (&'k str, u64)>) -> Result<Storages<'a>> {
        let mut members = match self {
            Self::Zip(members) => members,
            Self::Stream(keys, rest) => return Ok(stream::storages(pickle, &keys, rest)?),
            Self::Bare => return Ok(Storages::new()),
        };
        let mut storages = Storages::new();
        for (key, bytes) in wanted {
            if !storages.contains_key(key) {
                storages.insert(key.into(), members.storage(key, bytes)?.into());
            }
        }
        Ok(storages)
    }
}
