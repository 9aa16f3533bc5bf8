//! The bare streams from before PyTorch 1.6.

use std::collections::HashMap;

use ssdkd_pickle::{self as pickle, Object, Pickle, Value};

use super::Storages;
use crate::weights::tensors::{expected, storage};

/// The pickled magic number 0x1950a86a20f9469cfc6c, behind the header of its protocol.
const MAGIC: &[u8] = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";

/// Returns whether the bytes are a stream, whatever protocol it has.
pub(super) fn is_stream(bytes: &[u8]) -> bool {
    let [0x80, 2..=5, rest @ ..] = bytes else { return false };
    // From protocol 4 on there is a frame around it.
    let rest = if rest.first() == Some(&0x95) { rest.get(9..).unwrap_or_default() } else { rest };
    rest.starts_with(MAGIC)
}

/// An old stream whose pickles have been read.
pub(super) struct Stream<'a> {
    pub pickle: Pickle,
    /// Whether the most significant byte of a number is the first.
    pub big_endian: bool,
    pub keys: Pickle,
    /// The storages, in the order of their keys.
    pub rest: &'a [u8],
}

/// Reads the pickles of a stream.
pub(super) fn read(bytes: &[u8]) -> Result<Stream<'_>, String> {
    let mut at = 0;
    let mut next = || -> Result<Pickle, String> {
        let (pickle, length) = pickle::read(&bytes[at..])?;
        at += length;
        Ok(pickle)
    };
    let [_magic, _protocol, system, pickle, keys] = [next()?, next()?, next()?, next()?, next()?];
    let big_endian = system.root().get("little_endian").and_then(Value::bool) == Some(false);
    Ok(Stream { pickle, big_endian, keys, rest: &bytes[at..] })
}

/// Finds the storages behind the pickle.
pub(super) fn storages<'a>(pickle: &Pickle, keys: &Pickle, mut rest: &'a [u8]) -> Result<Storages<'a>, String> {
    // Every storage is needed to find where the next one starts, an optimizer's too.
    let mut element_sizes = HashMap::new();
    for entry in &pickle.objects {
        if let Object::Persistent(id) = entry
            && let Some(storage) = storage(pickle.value(*id))?
        {
            element_sizes.insert(storage.key, storage.class.size);
        }
    }
    let mut storages = Storages::new();
    for key in keys.root().elements().ok_or_else(|| expected("a sequence", keys.root()))? {
        let key = key.text().ok_or_else(|| expected("a text", key))?;
        let size = *element_sizes.get(key).ok_or_else(|| format!("it lists a storage {key} that nothing uses"))?;
        let cut = || format!("it ends within the storage {key}: it is cut short");
        let (count, numbers) = rest.split_first_chunk().ok_or_else(cut)?;
        let length = usize::try_from(u64::from_le_bytes(*count)).ok().and_then(|count| count.checked_mul(size));
        let (contents, after) = length.and_then(|length| numbers.split_at_checked(length)).ok_or_else(cut)?;
        storages.insert(key.into(), contents.into());
        rest = after;
    }
    Ok(storages)
}

/// Reads the stream that a storage becomes when Python's pickle writes it: its bytes, and the name of its class.
pub(in crate::weights) fn unwrap(bytes: &[u8]) -> Result<(Vec<u8>, &'static str), String> {
    if !is_stream(bytes) {
        return Err("it has a storage that is no stream of PyTorch".into());
    }
    let Stream { pickle, big_endian, keys, rest } = read(bytes)?;
    let mut storages = storages(&pickle, &keys, rest)?;
    let root = pickle.root().persistent().ok_or("it has a storage that is none")?;
    let storage = storage(root)?.ok_or("it has a storage that is none")?;
    let contents = storages.remove(storage.key).ok_or("it has a storage without numbers")?;
    if big_endian {
        return Err("it has a storage of a machine with another byte order".into());
    }
    Ok((contents.into_owned(), storage.class.name))
}
