//! Small files of every format, and checks of errors.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, FixedSizeListArray, Int64Array, RecordBatch, StringArray, StructArray, UInt8Array,
};
use arrow::datatypes::{DataType, Field, Fields, Schema};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::metadata::{ParquetMetaDataReader, ParquetMetaDataWriter, RowGroupMetaData};
use parquet::file::properties::WriterProperties;
use ssdkd_data::{Dataset, Split, open};
use tempfile::TempDir;

pub fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for (name, bytes) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    folder
}

/// Opens a split, and returns what a user is told of it.
pub fn notices_at(place: &TempDir, split: Split) -> Vec<String> {
    open_at(place, split).unwrap().notices().to_vec()
}

pub fn open_at(place: &TempDir, split: Split) -> Result<Dataset, ssdkd_data::DataError> {
    open(place.path().to_str().unwrap(), split, None)
}

/// The message of the error, which holds every one of `parts`.
#[track_caller]
pub fn check_error(result: Result<Dataset, ssdkd_data::DataError>, parts: &[&str]) {
    let message = result.expect_err("this must not open").to_string();
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

pub fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The pixels of record `n` in a made-up file.
pub fn pixels(n: u8, size: usize) -> Vec<u8> {
    (0..size).map(|at| (at as u8).wrapping_mul(7).wrapping_add(n)).collect()
}

pub fn cifar(labels: &[&[u8]]) -> Vec<u8> {
    labels.iter().flat_map(|label| [label.to_vec(), pixels(*label.last().unwrap(), 3072)].concat()).collect()
}

pub fn png(shape: [usize; 3], n: u8) -> Vec<u8> {
    let [channels, height, width] = shape;
    let planes = pixels(n, channels * height * width);
    let interleaved: Vec<u8> = (0..height * width)
        .flat_map(|at| (0..channels).map(|c| planes[c * height * width + at]).collect::<Vec<_>>())
        .collect();
    let colour = if channels == 1 { image::ColorType::L8 } else { image::ColorType::Rgb8 };
    let mut bytes = std::io::Cursor::new(Vec::new());
    let (width, height) = (width as u32, height as u32);
    image::write_buffer_with_format(&mut bytes, &interleaved, width, height, colour, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

pub fn idx(sides: &[u32], bytes: &[u8]) -> Vec<u8> {
    let mut file = (0x0800 + sides.len() as u32).to_be_bytes().to_vec();
    file.extend(sides.iter().flat_map(|side| side.to_be_bytes()));
    file.extend(bytes);
    file
}

pub fn write_parquet(path: &Path, schema: Schema, columns: Vec<ArrayRef>) {
    write_with(path, schema, columns, WriterProperties::default());
}

fn write_with(path: &Path, schema: Schema, columns: Vec<ArrayRef>, properties: WriterProperties) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let batch = RecordBatch::try_new(Arc::new(schema), columns).unwrap();
    let mut writer = ArrowWriter::try_new(fs::File::create(path).unwrap(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

/// A column `image` of tensors with the given values.
pub fn tensors(values: ArrayRef, shape: &str, size: i32) -> (Field, ArrayRef) {
    tensors_with(values, &format!("{{\"shape\":{shape}}}"), size)
}

/// The same with all of the extension type's metadata.
pub fn tensors_with(values: ArrayRef, metadata: &str, size: i32) -> (Field, ArrayRef) {
    let element = Arc::new(Field::new("element", values.data_type().clone(), true));
    let field = Field::new("image", DataType::FixedSizeList(element.clone(), size), false).with_metadata([
        ("ARROW:extension:name".to_string(), "arrow.fixed_shape_tensor".to_string()),
        ("ARROW:extension:metadata".to_string(), metadata.to_string()),
    ]);
    (field, Arc::new(FixedSizeListArray::new(element, size, values, None)))
}

/// A column `image` of one tensor without a value.
pub fn empty_tensor() -> (Field, ArrayRef) {
    let (field, _) = tensors(Arc::new(UInt8Array::from(Vec::<u8>::new())), "[0,2,2]", 1);
    let element = Arc::new(Field::new("element", DataType::UInt8, true));
    let none = arrow::array::new_empty_array(&DataType::UInt8);
    let list = FixedSizeListArray::try_new_with_length(element, 0, none, None, 1).unwrap();
    (field.with_data_type(list.data_type().clone()), Arc::new(list))
}

/// A column `img` as Hugging Face writes it.
pub fn encoded(files: &[Vec<u8>]) -> (Field, ArrayRef) {
    let fields =
        Fields::from(vec![Field::new("bytes", DataType::Binary, true), Field::new("path", DataType::Utf8, true)]);
    let bytes: ArrayRef = Arc::new(BinaryArray::from_iter_values(files));
    let path: ArrayRef = Arc::new(StringArray::from(vec![None::<&str>; files.len()]));
    (
        Field::new("img", DataType::Struct(fields.clone()), true),
        Arc::new(StructArray::new(fields, vec![bytes, path], None)),
    )
}

pub fn labels(name: &str, values: &[i64]) -> (Field, ArrayRef) {
    (Field::new(name, DataType::Int64, true), Arc::new(Int64Array::from(values.to_vec())))
}

pub fn parquet_folder(name: &str, image: (Field, ArrayRef), label: (Field, ArrayRef)) -> TempDir {
    folder_with(name, image, label, WriterProperties::default())
}

pub fn compressed_folder(
    name: &str,
    image: (Field, ArrayRef),
    label: (Field, ArrayRef),
    compression: Compression,
) -> TempDir {
    folder_with(name, image, label, WriterProperties::builder().set_compression(compression).build())
}

/// The folder of a Parquet file that is written with these properties.
pub fn folder_with(
    name: &str,
    image: (Field, ArrayRef),
    label: (Field, ArrayRef),
    properties: WriterProperties,
) -> TempDir {
    let place = TempDir::new().unwrap();
    let (schema, columns) = (Schema::new(vec![image.0, label.0]), vec![image.1, label.1]);
    write_with(&place.path().join(name), schema, columns, properties);
    place
}

/// Has a Parquet file say of every column that it is compressed in another way.
pub fn relabel(path: &Path, compression: Compression) {
    let metadata = ParquetMetaDataReader::new().parse_and_finish(&fs::File::open(path).unwrap()).unwrap();
    let of_group = |group: &RowGroupMetaData| {
        let columns = group
            .columns()
            .iter()
            .map(|column| column.clone().into_builder().set_compression(compression).build().unwrap());
        group.clone().into_builder().set_column_metadata(columns.collect()).build().unwrap()
    };
    let groups = metadata.row_groups().iter().map(of_group).collect();
    let file = fs::read(path).unwrap();
    let length = u32::from_le_bytes(file[file.len() - 8..file.len() - 4].try_into().unwrap()) as usize;
    let mut bytes = file[..file.len() - 8 - length].to_vec();
    let metadata = metadata.into_builder().set_row_groups(groups).build();
    ParquetMetaDataWriter::new(&mut bytes, &metadata).finish().unwrap();
    fs::write(path, bytes).unwrap();
}
