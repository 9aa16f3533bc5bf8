//! Files with every byte damaged in turn.

use std::fs;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Array, UInt8Array};
use ssdkd_data::{Split, open};
use tempfile::TempDir;

use crate::support::{encoded, folder, idx, labels, parquet_folder, pixels, png, tensors};

/// Opens `bytes` as the file `name` of a folder, with each byte changed in turn and with the rest cut off there: the answer is a
/// data set or an error that names the folder. How many were refused.
#[track_caller]
fn refusals(place: &TempDir, name: &str, bytes: &[u8]) -> usize {
    let (file, folder) = (place.path().join(name), place.path().to_str().unwrap());
    let mut refused = 0;
    for at in 0..bytes.len() {
        let flipped = |bits: u8| [&bytes[..at], &[bytes[at] ^ bits], &bytes[at + 1..]].concat();
        for damaged in [flipped(1 << (at % 8)), flipped(0xff), bytes[..at].to_vec()] {
            fs::write(&file, damaged).unwrap();
            for adapt_to in [None, Some([1, 3, 3].into())] {
                if let Err(error) = open(folder, Split::Train, adapt_to) {
                    assert!(error.to_string().contains(folder), "{name}, byte {at}: {error}");
                    refused += 1;
                }
            }
        }
    }
    fs::write(&file, bytes).unwrap();
    refused
}

#[test]
fn a_damaged_parquet_file_does_no_harm() {
    let bytes = pixels(0, 2 * 12);
    let floats: ArrayRef = Arc::new(Float32Array::from_iter_values(bytes.iter().map(|&b| f32::from(b) / 255.0)));
    let images = [
        tensors(Arc::new(UInt8Array::from(bytes)), "[3,2,2]", 12),
        tensors(floats, "[3,2,2]", 12),
        encoded(&[png([3, 2, 2], 1), png([3, 2, 2], 2)]),
    ];
    for image in images {
        let place = parquet_folder("train.parquet", image, labels("label", &[1, 0]));
        let whole = fs::read(place.path().join("train.parquet")).unwrap();
        let refused = refusals(&place, "train.parquet", &whole);
        // What is cut off has no footer, whether it is adapted or not.
        assert!(refused >= 2 * whole.len(), "{refused} of {} were refused", 6 * whole.len());
    }
}

#[test]
fn damaged_idx_files_do_no_harm() {
    let (images, labels) = (idx(&[2, 2, 2], &pixels(0, 8)), idx(&[2], &[1, 0]));
    let (image_file, label_file) = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte");
    let place = folder(&[(image_file, &images), (label_file, &labels)]);
    for (name, bytes) in [(image_file, images), (label_file, labels)] {
        let refused = refusals(&place, name, &bytes);
        assert!(refused >= 2 * bytes.len(), "{refused} of {} were refused", 6 * bytes.len());
    }
}
