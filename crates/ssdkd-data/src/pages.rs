//! Checks what the compressed pages of a Parquet file expand to, before they are decoded.
//!
//! The `parquet` crate decodes Brotli and gzip into memory without regard to the size that a page declares. A few bytes could fill
//! all memory. The check decompresses a page through a small buffer and counts.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use parquet::arrow::ProjectionMask;
use parquet::basic::Compression;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};

use crate::DataError;
use crate::page_header::PageHeader;
use crate::read::{MAX_BYTES, MAX_DECODER_BYTES};

/// Bytes that the pages of a file may declare together. A pixel takes up to 8 bytes in a file, as `f64`.
const MAX_DECLARED: u64 = 8 * MAX_BYTES;

/// Compressed bytes that the Brotli decoder takes at a time.
const BUFFER: usize = 8 << 10;

/// Refuses a file whose pages expand to more than they declare, or declare too much. Only columns of `mask` count.
pub(crate) fn check(path: &Path, metadata: &ParquetMetaData, mask: &ProjectionMask) -> Result<(), DataError> {
    let mut file = BufReader::new(File::open(path).map_err(DataError::read(path))?);
    let mut declared = 0;
    for group in metadata.row_groups() {
        let columns = group.columns().iter().enumerate().filter(|(leaf, _)| mask.leaf_included(*leaf));
        for (_, column) in columns.filter(|(_, column)| is_unbounded(column.compression())) {
            check_column(path, &mut file, column, &mut declared)?;
        }
    }
    Ok(())
}

/// Returns whether the `parquet` crate ignores the declared size of pages with this compression.
fn is_unbounded(compression: Compression) -> bool {
    matches!(compression, Compression::BROTLI(_) | Compression::GZIP(_))
}

fn check_column(
    path: &Path,
    file: &mut BufReader<File>,
    column: &ColumnChunkMetaData,
    declared: &mut u64,
) -> Result<(), DataError> {
    let (start, length) = column.byte_range();
    file.seek(SeekFrom::Start(start)).map_err(DataError::read(path))?;
    let mut chunk = file.take(length);
    while chunk.limit() > 0 {
        let at = start + (length - chunk.limit());
        let unreadable =
            |error: io::Error| DataError::Table { path: path.into(), reason: format!("page at byte {at}: {error}") };
        let header = PageHeader::read(&mut chunk).map_err(unreadable)?;
        *declared += header.uncompressed;
        check_declared(path, at, header.uncompressed, *declared)?;
        let mut page = (&mut chunk).take(header.compressed);
        if header.is_compressed && header.uncompressed > header.levels {
            let expected = header.uncompressed - header.levels;
            skip(&mut page, header.levels).map_err(unreadable)?;
            let expanded = expand(column.compression(), &mut page, expected + 1).map_err(unreadable)?;
            if expanded > expected {
                let what = format!("the page at byte {at} expands to more than the {expected} bytes that it declares");
                return Err(DataError::broken(path, what, "fetch or copy the file again"));
            }
        }
        let rest = page.limit();
        skip(&mut page, rest).map_err(unreadable)?;
    }
    Ok(())
}

/// Refuses sizes that the decoder should not be asked to allocate.
fn check_declared(path: &Path, at: u64, page: u64, file: u64) -> Result<(), DataError> {
    if page > MAX_DECODER_BYTES {
        let what =
            format!("the page at byte {at} declares {page} bytes, and at most {MAX_DECODER_BYTES} are decoded at once");
        return Err(DataError::broken(path, what, "write the file again with smaller pages"));
    }
    if file > MAX_DECLARED {
        let what = format!("its pages declare more than {MAX_DECLARED} bytes together");
        return Err(DataError::broken(path, what, "split the file, or use a part of the data set"));
    }
    Ok(())
}

/// Decompresses at most `limit` bytes, and returns how many there were.
fn expand(compression: Compression, page: impl Read, limit: u64) -> io::Result<u64> {
    let mut sink = io::sink();
    match compression {
        Compression::BROTLI(_) => io::copy(&mut brotli::Decompressor::new(page, BUFFER).take(limit), &mut sink),
        _ => io::copy(&mut flate2::read::MultiGzDecoder::new(page).take(limit), &mut sink),
    }
}

fn skip(input: &mut impl Read, bytes: u64) -> io::Result<()> {
    io::copy(&mut input.take(bytes), &mut io::sink()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_large_declarations_are_refused() {
        let check = |page, file| check_declared(Path::new("a.parquet"), 4, page, file);
        assert!(check(MAX_DECODER_BYTES, MAX_DECLARED).is_ok());
        let page = check(MAX_DECODER_BYTES + 1, MAX_DECLARED).unwrap_err().to_string();
        assert!(page.contains("byte 4") && page.contains("smaller pages"), "{page}");
        let file = check(1, MAX_DECLARED + 1).unwrap_err().to_string();
        assert!(file.contains("together") && file.contains("split the file"), "{file}");
    }
}
