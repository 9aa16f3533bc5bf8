//! Files that hold a whole network: `.pt2` and ONNX.

mod about;
mod load;

use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom};
use std::path::Path;

pub use about::About;
pub use load::{FromFile, load};
use ssdkd_graph::ReadError;
use ssdkd_stage::StageError;
use ssdkd_stage::exit::Code;

/// Bytes at the start that tell the kind of a file.
const START: usize = 64;
/// Bytes at the end that are searched for the member of a `.pt2` that holds its graph.
const END: u64 = 4 << 20;
/// The member of a `.pt2` that holds its graph.
const MODEL: &[u8] = b"models/model.json";

/// Returns whether a file holds a network. The contents decide where they tell, else the ending does.
///
/// # Errors
/// If the file cannot be read.
pub fn is_network(path: &Path) -> Result<bool, StageError> {
    let fail = |source: std::io::Error| match source.kind() {
        ErrorKind::NotFound => {
            let hint = "check the path".into();
            StageError::Missing { what: "the file".into(), path: path.into(), hint }
        }
        _ => StageError::Read { path: path.into(), source },
    };
    let mut file = std::fs::File::open(path).map_err(fail)?;
    let mut start = Vec::new();
    file.by_ref().take(START as u64).read_to_end(&mut start).map_err(fail)?;
    if starts_as_onnx(&start) {
        return Ok(true);
    }
    if start.starts_with(b"PK\x03\x04") {
        // The names of all members of a zip file are at its end.
        let length = file.metadata().map_err(fail)?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(END))).map_err(fail)?;
        let mut end = Vec::new();
        file.take(END).read_to_end(&mut end).map_err(fail)?;
        if end.windows(MODEL.len()).any(|window| window == MODEL) {
            return Ok(true);
        }
    }
    Ok(has_ending_of_network(path))
}

/// Returns whether a file looks like ONNX: it starts with its version (field 1, a small number) and another field of the model.
fn starts_as_onnx(start: &[u8]) -> bool {
    // Fields 2 to 8, 14 and 20 of the model, as protocol buffers number them.
    let is_field = |byte: u8| matches!(byte, 0x12 | 0x1a | 0x22 | 0x28 | 0x32 | 0x3a | 0x42 | 0x72);
    // A safetensors file starts with a length of eight bytes and a brace.
    matches!(start, [0x08, 1..=64, field, ..] if is_field(*field)) && start.get(8) != Some(&b'{')
}

fn has_ending_of_network(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("pt2") || ending.eq_ignore_ascii_case("onnx"))
}

/// Returns the name of the format, as the reader of the file tells it.
///
/// # Errors
/// If the file cannot be read.
pub fn format_name(path: &Path) -> Result<&'static str, StageError> {
    let mut start = [0; 4];
    let read = std::fs::File::open(path).and_then(|mut file| file.read(&mut start));
    read.map_err(|source| StageError::Read { path: path.into(), source })?;
    Ok(if start == *b"PK\x03\x04" { "PyTorch .pt2" } else { "ONNX" })
}

/// Gives an error of the reader its exit code.
pub fn read_error(error: ReadError) -> StageError {
    let code = match &error {
        ReadError::Read { source, .. } if source.kind() == ErrorKind::NotFound => Code::MissingInput,
        ReadError::Read { .. } => Code::Failed,
        _ => Code::Integrity,
    };
    StageError::other(code, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_onnx_file_is_recognized_by_its_first_fields() {
        assert!(starts_as_onnx(b"\x08\x08\x12\x07pytorch"));
        assert!(starts_as_onnx(b"\x08\x0a:\x80\x01"));
    }

    #[test]
    fn other_files_are_no_onnx_files() {
        assert!(!starts_as_onnx(b"\x08\x01\0\0\0\0\0\0{\"a\":"));
        assert!(!starts_as_onnx(b"\x80\x02}q"));
        assert!(!starts_as_onnx(b"\x08"));
        assert!(!starts_as_onnx(b""));
    }

    #[test]
    fn the_ending_decides_where_the_contents_do_not() {
        assert!(has_ending_of_network(Path::new("a/model.PT2")));
        assert!(has_ending_of_network(Path::new("model.onnx")));
        assert!(!has_ending_of_network(Path::new("model.pth")));
    }
}
