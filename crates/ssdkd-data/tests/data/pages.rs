//! Pages of Parquet files that are decompressed: what they declare, and what they expand to.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, UInt8Array};
use arrow::datatypes::Field;
use parquet::basic::{BrotliLevel, Compression, GzipLevel};
use parquet::file::properties::{WriterProperties, WriterVersion};
use ssdkd_data::Split;

use crate::support::{check_error, compressed_folder, folder_with, labels, open_at, pixels, tensors};

const ROWS: usize = 40;

/// The kinds of compression whose decoders ignore the size that a page declares.
fn unbounded() -> [Compression; 2] {
    [Compression::BROTLI(BrotliLevel::default()), Compression::GZIP(GzipLevel::default())]
}

fn images() -> (Field, ArrayRef) {
    tensors(Arc::new(UInt8Array::from(pixels(0, ROWS * 12))), "[3,2,2]", 12)
}

fn classes() -> (Field, ArrayRef) {
    labels("label", &[0, 1].repeat(ROWS / 2))
}

/// Changes the size that the first page of a file declares. Its number keeps its bytes.
fn declare(path: &Path, change: impl Fn(u64) -> u64) {
    let mut file = fs::read(path).unwrap();
    // The magic number, the type as field 1, and the size as field 2.
    assert_eq!((&file[..5], file[6]), (&b"PAR1\x15"[..], 0x15));
    let length = 1 + file[7..].iter().position(|byte| byte & 0x80 == 0).unwrap();
    let number = &mut file[7..7 + length];
    let declared = number.iter().rev().fold(0, |sum, byte| sum << 7 | u64::from(byte & 0x7f)) / 2;
    let changed = change(declared) * 2;
    for (at, byte) in number.iter_mut().enumerate() {
        *byte = *byte & 0x80 | (changed >> (7 * at)) as u8 & 0x7f;
    }
    fs::write(path, file).unwrap();
}

#[test]
fn pages_of_both_versions_are_read() {
    for compression in unbounded() {
        for (version, dictionary) in
            [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0].into_iter().flat_map(|v| [(v, true), (v, false)])
        {
            let properties = WriterProperties::builder()
                .set_compression(compression)
                .set_writer_version(version)
                .set_dictionary_enabled(dictionary)
                .set_data_page_row_count_limit(7)
                .set_write_batch_size(7)
                .set_max_row_group_row_count(Some(25))
                .build();
            let place = folder_with("train.parquet", images(), classes(), properties);
            let found = open_at(&place, Split::Train).unwrap();
            assert_eq!(found.images(), pixels(0, ROWS * 12), "{compression:?}, {version:?}");
            assert_eq!(found.labels(), [0, 1].repeat(ROWS / 2), "{compression:?}, {version:?}");
        }
    }
}

#[test]
fn a_page_that_expands_to_more_than_it_declares_is_refused() {
    for compression in unbounded() {
        for change in [|size| size - 1, |_| 1] {
            let place = compressed_folder("train.parquet", images(), classes(), compression);
            declare(&place.path().join("train.parquet"), change);
            check_error(
                open_at(&place, Split::Train),
                &["train.parquet", "page at byte 4 ", "expands to more", "hint:"],
            );
        }
    }
}

#[test]
fn a_page_that_expands_to_less_than_it_declares_is_refused() {
    for compression in unbounded() {
        let place = compressed_folder("train.parquet", images(), classes(), compression);
        declare(&place.path().join("train.parquet"), |size| size + 1);
        check_error(open_at(&place, Split::Train), &["train.parquet", "not a readable Parquet file", "size"]);
    }
}
