//! The members of a zip file, inflated within bounds.

use std::io::{Cursor, Read as _};

use flate2::Crc;
use flate2::read::DeflateDecoder;
use ssdkd_pickle::{self as pickle, Pickle};
use zip::read::{ArchiveOffset, Config};
use zip::{CompressionMethod, ZipArchive};

use crate::weights::refusal::{Refusal, Result};

pub(super) const MAGIC: &[u8] = b"PK\x03\x04";

/// PyTorch does not compress, and weights hardly can be. Members take at most this many times the file's size together,
/// so that a zip bomb ends.
const INFLATION: u64 = 64;

/// The members of a checkpoint.
pub(in crate::weights) struct Members<'a> {
    archive: ZipArchive<Cursor<&'a [u8]>>,
    names: Vec<String>,
    /// What is before the names of the checkpoint's members: `NAME/`.
    folder: String,
    /// How many bytes members may still have.
    left: u64,
}

impl<'a> Members<'a> {
    pub fn open(bytes: &'a [u8]) -> Result<Self> {
        let damaged = |error| {
            Refusal::new(format!("the zip file is damaged or cut short: {error}"), "fetch or copy the file again")
        };
        // The search for the archive's start misses it where zip64 end records have the length of a directory entry.
        // So the archive is first expected at the file's start.
        let at_start = Config { archive_offset: ArchiveOffset::Known(0) };
        let archive = ZipArchive::with_config(at_start, Cursor::new(bytes))
            .or_else(|_| ZipArchive::new(Cursor::new(bytes)))
            .map_err(damaged)?;
        let names = archive.file_names().filter_map(|name| Some(name.ok()?.into_owned())).collect::<Vec<_>>();
        let prefix = |name: &String| {
            let folder = name.strip_suffix("data.pkl")?;
            (folder.is_empty() || folder.ends_with('/')).then(|| folder.to_string())
        };
        let folder = names.iter().find_map(prefix).unwrap_or_default();
        Ok(Self { archive, names, folder, left: INFLATION.saturating_mul(bytes.len() as u64) })
    }

    pub fn names(&self) -> &[String] {
        &self.names
    }

    pub fn pickle(&mut self) -> Result<Pickle> {
        Ok(pickle::read(&self.read("data.pkl", u64::MAX)?)?.0)
    }

    /// Returns whether the machine that wrote the numbers had the most significant byte first. Old files do not say.
    pub fn is_big_endian(&mut self) -> Result<bool> {
        let name = format!("{}byteorder", self.folder);
        Ok(self.names.contains(&name) && self.read("byteorder", 16)?.starts_with(b"big"))
    }

    /// Returns the first bytes of a storage, as many as the pickle says that it has.
    pub fn storage(&mut self, key: &str, declared: u64) -> Result<Vec<u8>> {
        self.read(&format!("data/{key}"), declared)
    }

    fn read(&mut self, name: &str, most: u64) -> Result<Vec<u8>> {
        let name = format!("{}{name}", self.folder);
        let unreadable = |error| format!("its member {name} cannot be read: {error}");
        let index = self.archive.index_for_name(&name);
        let index = index.ok_or_else(|| format!("its member {name} is not there"))?;
        let member = self.archive.by_index_raw(index).map_err(unreadable)?;
        if member.encrypted() {
            return Err(Refusal::new("it is a zip file with a password", "unpack it, and zip it without one"));
        }
        let (method, expected) = (member.compression(), member.crc32());
        let limit = self.left.min(most);
        let mut contents = Vec::new();
        let read = if method == CompressionMethod::Stored {
            member.take(limit + 1).read_to_end(&mut contents)
        } else if method == CompressionMethod::DEFLATE {
            DeflateDecoder::new(member).take(limit.saturating_add(1)).read_to_end(&mut contents)
        } else {
            return Err(Refusal::new(
                format!("its member {name} is compressed by {method}, which PyTorch does not read either"),
                "unpack it, and zip it again with `zip -0 -r`",
            ));
        };
        read.map_err(|error| format!("its member {name} is damaged: {error}"))?;
        if contents.len() as u64 > self.left {
            return Err(format!(
                "its members are more than {INFLATION} times as large as the file: PyTorch did not write it"
            )
            .into());
        }
        self.left -= contents.len() as u64;
        if contents.len() as u64 > most {
            contents.truncate(most as usize); // a storage of which no tensor needs the rest
            return Ok(contents);
        }
        let mut crc = Crc::new();
        crc.update(&contents);
        if crc.sum() != expected {
            return Err(format!("its member {name} is damaged: its checksum is wrong").into());
        }
        Ok(contents)
    }
}
