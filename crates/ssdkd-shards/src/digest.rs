//! BLAKE3 digests, in lower-case hexadecimal: how "the same file" is decided.
//!
//! Parquet readers take a flipped byte silently (the writer makes no page checksums), so every file that a stage reads
//! is compared with the digest in its manifest first.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Characters of a digest.
pub const DIGEST_LENGTH: usize = 2 * blake3::OUT_LEN;

/// Returns the digest of `bytes`.
pub fn of_bytes(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// Size in bytes and digest of the file at `path`, which is never held in memory as a whole.
pub fn of_file(path: &Path) -> io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 17];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((hasher.count(), hasher.finalize().to_hex().to_string())),
            Ok(count) => {
                hasher.update(&buffer[..count]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Returns whether `text` is a digest at all.
pub fn is_digest(text: &str) -> bool {
    text.len() == DIGEST_LENGTH && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_and_its_bytes_have_one_digest() {
        let bytes = (0..300_000_u32).map(|i| (i % 251) as u8).collect::<Vec<_>>();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(of_file(&path).unwrap(), (300_000, of_bytes(&bytes)));
        assert!(is_digest(&of_bytes(&bytes)));
        assert!(of_file(&folder.path().join("absent")).is_err());
    }

    #[test]
    fn digests_are_those_of_the_reference() {
        // From the BLAKE3 reference test vectors: the empty input.
        assert_eq!(of_bytes(b""), "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
        assert!(!is_digest("AF1349B9"));
    }
}
