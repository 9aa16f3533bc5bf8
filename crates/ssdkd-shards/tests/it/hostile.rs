//! Files that are not what they should be: every one is refused with an error that names it, and none ends the process.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, FixedSizeListArray, RecordBatch, UInt8Array, UInt32Array, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use ssdkd_shards::{DrawRow, ImageReader, ObservedRow, Rows, ShardError, tables};

use crate::{float_shard, origin};

const PATH: &str = "runs/x/sample/0007/draws.parquet";

fn draws() -> Vec<DrawRow> {
    (0..40).map(|i| DrawRow { step: i / 8, slot: i % 8, sample_id: u64::from(i), weight: 1.0 }).collect()
}

/// What refuses these bytes as a table of draws.
#[track_caller]
fn refusal(bytes: Vec<u8>) -> ShardError {
    let error = tables::decode::<DrawRow>(bytes, Path::new(PATH)).unwrap_err();
    assert!(error.to_string().contains(PATH) && error.to_string().contains("\nhint: "), "{error}");
    error
}

/// A Parquet file made without this project's help.
fn foreign(metadata: &[(&str, &str)], columns: Vec<(Field, ArrayRef)>) -> Vec<u8> {
    let (fields, arrays): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap();
    let metadata = metadata.iter().map(|(key, value)| KeyValue::new((*key).into(), value.to_string())).collect();
    let properties = WriterProperties::builder().set_key_value_metadata(Some(metadata)).build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bytes
}

fn step_column() -> (Field, ArrayRef) {
    (Field::new("step", DataType::UInt32, false), Arc::new(UInt32Array::from(vec![1, 2])))
}

const DRAWS: [(&str, &str); 2] = [("ssdkd.schema_version", "2"), ("ssdkd.table", "draws")];

#[test]
fn what_is_not_parquet_is_refused() {
    for bytes in [Vec::new(), b"PAR1".to_vec(), b"PAR1PAR1PAR1".to_vec(), vec![0; 4096]] {
        assert!(matches!(refusal(bytes), ShardError::Damaged { .. }));
    }
    let whole = tables::encode(&draws(), &origin()).unwrap();
    for length in (0..whole.len()).step_by(97) {
        assert!(matches!(refusal(whole[..length].to_vec()), ShardError::Damaged { .. }));
    }
}

#[test]
fn parquet_of_something_else_is_refused() {
    assert!(matches!(refusal(foreign(&[], vec![step_column()])), ShardError::MissingMetadata { .. }));
    let newer = [("ssdkd.schema_version", "3"), ("ssdkd.table", "draws")];
    let error = refusal(foreign(&newer, vec![step_column()]));
    assert!(matches!(error, ShardError::NewerSchema { found: 3, supported: 2, .. }));
    let older = [("ssdkd.schema_version", "1"), ("ssdkd.table", "draws")];
    let error = refusal(foreign(&older, vec![step_column()]));
    assert!(error.to_string().contains("the last program that reads it is that of commit"), "{error}");
    let nonsense = [("ssdkd.schema_version", "-1"), ("ssdkd.table", "draws")];
    assert!(matches!(refusal(foreign(&nonsense, vec![step_column()])), ShardError::Metadata { .. }));
    let other = tables::encode::<ObservedRow>(&[], &origin()).unwrap();
    assert!(matches!(refusal(other), ShardError::WrongTable { expected: "draws", .. }));
}

#[test]
fn columns_that_are_missing_or_of_another_type_are_named() {
    let error = refusal(foreign(&DRAWS, vec![step_column()]));
    assert!(error.to_string().contains("no column `slot`; its columns are step"), "{error}");

    let wide: (Field, ArrayRef) = (Field::new("step", DataType::UInt64, false), Arc::new(UInt64Array::from(vec![1])));
    let error = refusal(foreign(&DRAWS, vec![wide]));
    assert!(error.to_string().contains("column `step`") && error.to_string().contains("UInt64"), "{error}");

    let mut columns = vec![(
        Field::new("step", DataType::UInt32, true),
        Arc::new(UInt32Array::from(vec![Some(1), None])) as ArrayRef,
    )];
    columns.push((Field::new("slot", DataType::UInt32, false), Arc::new(UInt32Array::from(vec![1, 2]))));
    columns.push((Field::new("sample_id", DataType::UInt64, false), Arc::new(UInt64Array::from(vec![1, 2]))));
    columns.push((
        Field::new("weight", DataType::Float32, false),
        Arc::new(arrow::array::Float32Array::from(vec![1.0, 2.0])),
    ));
    let error = refusal(foreign(&DRAWS, columns));
    assert!(matches!(error, ShardError::Nulls { nulls: 1, .. }), "{error}");
}

/// An image shard whose image column claims `extension`, with images of four values.
fn image_claim(extension: &[(&str, &str)]) -> String {
    let metadata = [
        ("ssdkd.schema_version", "2"),
        ("ssdkd.table", "images"),
        ("ssdkd.stage", "invert"),
        ("ssdkd.fingerprint", ""),
        ("ssdkd.normalisation", r#"{"mean":[0.5],"std":[0.5]}"#),
        ("ssdkd.class_names", "[]"),
    ];
    let element = Arc::new(Field::new("element", DataType::UInt8, true));
    let values = Arc::new(UInt8Array::from(vec![0; 4]));
    let images = FixedSizeListArray::new(element, 4, values, None);
    let extension =
        extension.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect::<HashMap<_, _>>();
    let image = Field::new("image", images.data_type().clone(), false).with_metadata(extension);
    let logits_element = Arc::new(Field::new("element", DataType::Float32, true));
    let logits = FixedSizeListArray::try_new_with_length(
        logits_element,
        0,
        arrow::array::new_empty_array(&DataType::Float32),
        None,
        1,
    )
    .unwrap();
    let logits_field = Field::new("teacher_logits", logits.data_type().clone(), false);
    let bytes = foreign(&metadata, vec![(image, Arc::new(images)), (logits_field, Arc::new(logits))]);
    match ImageReader::open(bytes, Path::new(PATH)) {
        Ok(reader) => format!("opened as {:?}", reader.info().shape),
        Err(error) => error.to_string(),
    }
}

#[test]
fn images_that_are_not_what_they_claim_are_refused() {
    let name = ("ARROW:extension:name", "arrow.fixed_shape_tensor");
    let claim = |metadata: &str| image_claim(&[name, ("ARROW:extension:metadata", metadata)]);
    assert_eq!(claim(r#"{"shape":[1,2,2]}"#), "opened as [1, 2, 2]");
    assert!(claim(r#"{"shape":[3,2,2]}"#).contains("shape [3, 2, 2]"));
    assert!(claim(r#"{"shape":[4294967296,4294967296,4294967296]}"#).contains("a tensor that says"));
    assert!(claim(r#"{"shape":[1,65536,65537]}"#).contains("shape [1, 65536, 65537]"));
    assert!(claim(r#"{"shape":[4]}"#).contains("a tensor that says"));
    assert!(claim("").contains("a tensor that says"));
    assert!(image_claim(&[]).contains("without that extension type"));
}

/// Nobody decodes a file whose digest is wrong, so damage need not be noticed here; but it must not end the process.
#[test]
fn a_flipped_bit_anywhere_does_no_harm() {
    let path = Path::new(PATH);
    let table = refusals(&tables::encode(&draws(), &origin()).unwrap(), |bytes| tables::decode::<DrawRow>(bytes, path));
    let images = refusals(&float_shard(20).encode().unwrap(), |bytes| ImageReader::open(bytes, path)?.read(Rows::All));
    // The magic numbers and the length of the footer at least: 12 bytes.
    assert!(table >= 12 && images >= 12, "{table} and {images} flipped bits were noticed");
}

/// How many of the files that differ in one bit from `whole` are refused.
fn refusals<T>(whole: &[u8], decode: impl Fn(Vec<u8>) -> Result<T, ShardError>) -> usize {
    let flipped = (0..whole.len()).filter(|&at| {
        let mut bytes = whole.to_vec();
        bytes[at] ^= 1 << (at % 8);
        decode(bytes).is_err()
    });
    flipped.count()
}
