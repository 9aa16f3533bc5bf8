//! Tensor columns: the order of their sides, the range of their values, and their types.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, FixedSizeListArray, Float32Array, Float64Array, Int64Array, ListArray, StringArray, UInt8Array,
};
use arrow::datatypes::{DataType, Field, Int64Type};
use parquet::basic::{BrotliLevel, Compression, GzipLevel};
use ssdkd_data::{DataError, Dataset, Split, open};

use crate::support::{
    check_error, compressed_folder, labels, open_at, parquet_folder, pixels, relabel, tensors, tensors_with,
};

fn read(image: (Field, ArrayRef)) -> Result<Dataset, DataError> {
    let rows = image.1.len() as i64;
    let label = labels("label", &(0..rows).collect::<Vec<_>>());
    open_at(&parquet_folder("train.parquet", image, label), Split::Train)
}

/// An image of 2 rows and 4 columns with three channels, in the order H, W, C: values are 100 × channel + 10 × row + column.
fn rows_first() -> ArrayRef {
    let values = (0..2).flat_map(|y| (0..4).flat_map(move |x| (0..3).map(move |c| 100 * c + 10 * y + x)));
    Arc::new(UInt8Array::from_iter_values(values))
}

#[test]
fn sides_are_taken_in_the_order_that_the_column_says() {
    let channels_first: Vec<u8> =
        (0..3).flat_map(|c| (0..2).flat_map(move |y| (0..4).map(move |x| 100 * c + 10 * y + x))).collect();
    for metadata in [
        r#"{"shape":[2,4,3],"dim_names":["H","W","C"]}"#,
        r#"{"shape":[2,4,3],"dim_names":["height","width","channels"]}"#,
        r#"{"shape":[2,4,3],"permutation":[2,0,1]}"#,
    ] {
        let found = read(tensors_with(rows_first(), metadata, 24)).unwrap();
        assert_eq!((found.shape(), found.images()), ([3, 2, 4], &channels_first[..]), "{metadata}");
    }
    let plain: ArrayRef = Arc::new(UInt8Array::from(channels_first.clone()));
    for metadata in [r#"{"shape":[3,2,4]}"#, r#"{"shape":[3,2,4],"permutation":[0,1,2],"dim_names":null}"#] {
        let found = read(tensors_with(plain.clone(), metadata, 24)).unwrap();
        assert_eq!((found.shape(), found.images()), ([3, 2, 4], &channels_first[..]), "{metadata}");
    }
    let gray = read(tensors(Arc::new(UInt8Array::from(pixels(0, 8))), "[2,4]", 8)).unwrap();
    assert_eq!((gray.shape(), gray.images()), ([1, 2, 4], &pixels(0, 8)[..]));
}

#[test]
fn sides_in_no_known_order_are_refused() {
    for (metadata, part) in [
        (r#"{"shape":[2,4,3]}"#, "looks like H, W, C"),
        (r#"{"shape":[2,4,3],"permutation":[0,1,2]}"#, "looks like H, W, C"),
        (r#"{"shape":[2,4,3],"dim_names":["a","b","c"]}"#, "not C, H and W"),
        (r#"{"shape":[2,4,3],"permutation":[2,2,1]}"#, "permutation"),
        (r#"{"shape":[2,4,3],"permutation":[2,0]}"#, "permutation"),
        (r#"{"shape":[2,2,2,3]}"#, "no image's"),
        ("{}", "does not say its shape"),
    ] {
        check_error(read(tensors_with(rows_first(), metadata, 24)), &["train.parquet", "column image", part, "hint:"]);
    }
}

#[test]
fn values_out_of_range_are_refused_with_their_row() {
    let floats = |second: [f32; 2]| -> ArrayRef {
        Arc::new(Float32Array::from_iter_values([0.25, 1.0].into_iter().chain(second)))
    };
    let read = |values: ArrayRef| read(tensors(values, "[1,1,2]", 2));
    assert_eq!(read(floats([0.0, 0.5])).unwrap().images(), [64, 255, 0, 128]);
    check_error(read(floats([3.0, 142.0])), &["train.parquet row 1", "holds 3", "divide by 255, or store u8"]);
    check_error(read(floats([-0.5, 0.0])), &["row 1", "holds -0.5", "before normalization"]);
    check_error(read(floats([1.25, 0.0])), &["row 1", "holds 1.25", "clamp"]);
    check_error(read(floats([f32::NAN, 0.0])), &["row 1", "holds NaN", "not finite"]);
    check_error(read(Arc::new(Int64Array::from(vec![0, 255, 256, 0]))), &["row 1", "holds 256", "0 to 255"]);
}

#[test]
fn other_types_of_numbers_are_read() {
    let whole: ArrayRef = Arc::new(Int64Array::from(vec![0, 128, 255, 7]));
    assert_eq!(read(tensors(whole, "[1,2,2]", 4)).unwrap().images(), [0, 128, 255, 7]);
    let double: ArrayRef = Arc::new(Float64Array::from(vec![0.0, 0.5, 1.0, 0.25]));
    assert_eq!(read(tensors(double, "[1,2,2]", 4)).unwrap().images(), [0, 128, 255, 64]);
}

#[test]
fn lists_and_texts_are_refused() {
    let nested = ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(0), Some(1)])]);
    let field = Field::new("image", nested.data_type().clone(), true);
    check_error(read((field, Arc::new(nested))), &["column image", "lists", "arrow.fixed_shape_tensor"]);
    let element = Arc::new(Field::new("element", DataType::UInt8, true));
    let fixed = FixedSizeListArray::new(element, 12, Arc::new(UInt8Array::from(pixels(0, 12))), None);
    let field = Field::new("image", fixed.data_type().clone(), true);
    check_error(read((field, Arc::new(fixed))), &["column image", "does not say its shape", "[C, H, W]"]);
    let paths: ArrayRef = Arc::new(StringArray::from(vec!["cat.png"]));
    check_error(read((Field::new("image", DataType::Utf8, true), paths)), &["column image", "text", "hint:"]);
}

#[test]
fn compressed_columns_are_read_or_refused_by_name() {
    let image = || tensors(Arc::new(UInt8Array::from(pixels(0, 24))), "[3,2,2]", 12);
    let place = |compression| compressed_folder("train.parquet", image(), labels("label", &[1, 0]), compression);
    for compression in [
        Compression::LZ4,
        Compression::LZ4_RAW,
        Compression::SNAPPY,
        Compression::GZIP(GzipLevel::default()),
        Compression::BROTLI(BrotliLevel::default()),
    ] {
        let found = open_at(&place(compression), Split::Train).unwrap();
        assert_eq!(found.images(), pixels(0, 24), "{compression:?}");
    }
    // Nothing here writes LZO: the file only says that it is.
    let place = place(Compression::UNCOMPRESSED);
    relabel(&place.path().join("train.parquet"), Compression::LZO);
    check_error(open(place.path().to_str().unwrap(), Split::Train, None), &["train.parquet", "LZO", "zstd or snappy"]);
}
