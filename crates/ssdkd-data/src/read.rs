//! Reading whole files, plain or compressed, without trusting them.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use crate::DataError;

/// Most bytes of pixels that are taken into memory. All of ImageNet at 32×32 is just below.
pub const MAX_BYTES: u64 = 4 << 30;

/// Widest and highest image that is decoded, and the memory one decoder may take.
pub(crate) const MAX_SIDE: u32 = 16_384;
pub(crate) const MAX_DECODER_BYTES: u64 = 1 << 30;

/// What the decoder of an `.xz` file may allocate; `xz -9` needs 65 MiB.
const XZ_MEMORY: u64 = 256 << 20;

/// What operating systems leave behind in folders and archives.
const LEFT_BEHIND: [&str; 3] = ["__MACOSX", "Thumbs.db", "desktop.ini"];

/// Endings that [`find`] tries, the plain file first.
const ENDINGS: [&str; 3] = ["", ".gz", ".xz"];

/// Returns the file `name` of a folder, or its compressed form.
pub(crate) fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    ENDINGS.iter().map(|ending| folder.join(format!("{name}{ending}"))).find(|path| path.is_file())
}

/// Opens a file; `.gz` and `.xz` are unpacked on the way.
pub(crate) fn open(path: &Path) -> Result<Box<dyn Read>, DataError> {
    let file = BufReader::new(File::open(path).map_err(DataError::read(path))?);
    Ok(match path.extension().and_then(|ending| ending.to_str()) {
        Some("gz") => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        Some("xz") => {
            let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, liblzma::stream::CONCATENATED)
                .map_err(|error| DataError::broken(path, error.to_string(), ""))?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(file, stream))
        }
        _ => Box::new(file),
    })
}

/// Returns everything in a file, as it is.
pub(crate) fn plain(path: &Path) -> Result<Vec<u8>, DataError> {
    rest(path, File::open(path).map_err(DataError::read(path))?)
}

/// Returns everything that `reader` still has. Memory grows with what is there, not with what a header promises.
pub(crate) fn rest(path: &Path, reader: impl Read) -> Result<Vec<u8>, DataError> {
    at_most(path, reader, MAX_BYTES)
}

/// Returns [`rest`], where more than `limit` bytes are an error.
pub(crate) fn at_most(path: &Path, reader: impl Read, limit: u64) -> Result<Vec<u8>, DataError> {
    let mut bytes = Vec::new();
    reader.take(limit + 1).read_to_end(&mut bytes).map_err(DataError::read(path))?;
    if bytes.len() as u64 > limit {
        return Err(DataError::TooLarge { path: path.into(), bytes: bytes.len() as u64, limit });
    }
    Ok(bytes)
}

/// Refuses more bytes of pixels than may be in memory.
pub(crate) fn within_limit(path: &Path, bytes: u64) -> Result<(), DataError> {
    if bytes > MAX_BYTES {
        return Err(DataError::TooLarge { path: path.into(), bytes, limit: MAX_BYTES });
    }
    Ok(())
}

/// Returns the names in a text file, one a line; none if there is no such file.
pub(crate) fn names(path: &Path) -> Result<Option<Vec<String>>, DataError> {
    Ok(lines(path)?.map(|lines| lines.into_iter().filter(|line| !line.is_empty()).collect()))
}

/// Returns the lines of a text file of names, without blank ones at the end; none if there is no such file.
pub(crate) fn lines(path: &Path) -> Result<Option<Vec<String>>, DataError> {
    if !path.is_file() {
        return Ok(None);
    }
    let text = text(path, "it should hold one class name a line")?;
    Ok(Some(text.trim_end().lines().map(|line| line.trim().into()).collect()))
}

/// Returns a text file. `hint` says what it should hold.
pub(crate) fn text(path: &Path, hint: &str) -> Result<String, DataError> {
    String::from_utf8(plain(path)?).map_err(|_| DataError::broken(path, "it is not UTF-8 text", hint))
}

/// Returns the entries of a folder, sorted by name. Hidden ones are left out, and what operating systems leave behind.
pub(crate) fn entries(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let mut paths = std::fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>())
        .map_err(DataError::read(folder))?;
    paths.retain(|path| {
        let name = file_name(path);
        !name.starts_with('.') && !LEFT_BEHIND.iter().any(|other| name.eq_ignore_ascii_case(other))
    });
    paths.sort();
    Ok(paths)
}

/// Returns the last part of a path as text.
pub(crate) fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Returns what follows the last point of a path's name, in lower case.
pub(crate) fn ending(path: &Path) -> Option<String> {
    path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase())
}
