//! Parquet: what Hugging Face publishes, and the shards of this project.
//!
//! The image column may hold encoded files (`struct<bytes, path>` or plain binary) or raw tensors
//! (`arrow.fixed_shape_tensor` over a fixed-size list of `u8` or `f32` in `[0, 1]`, in the order C, H, W).

use std::fs::File;
use std::path::{Path, PathBuf};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Float32Type, Int64Type, Schema, UInt8Type};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::errors::ParquetError;
use rayon::prelude::*;
use ssdkd_shards::{guard, row_bytes};

use crate::dataset::MAX_CLASSES;
use crate::{DataError, Dataset, Split, folder, read};

/// Names of the columns, the first that exists is taken.
const IMAGE_COLUMNS: [&str; 2] = ["image", "img"];
const LABEL_COLUMNS: [&str; 5] = ["label", "target", "fine_label", "labels", "class"];

/// Rows decoded at a time, fewer where they take more than so many bytes together.
const ROWS: usize = 512;
const BYTES: u64 = 256 << 20;

/// The Parquet files of a folder, sorted by what their names say.
pub(crate) struct Tables {
    train: Vec<PathBuf>,
    test: Vec<PathBuf>,
    validation: Vec<PathBuf>,
    /// None of these: they serve whichever split is asked for.
    any: Vec<PathBuf>,
}

/// Looks for `.parquet` files in `folder` and in the folders right inside it (`data/`, `train/`, `samples/`, …).
pub(crate) fn recognise(folder: &Path) -> Result<Option<Tables>, DataError> {
    let mut files = Vec::new();
    for path in read::entries(folder)? {
        if path.is_dir() {
            files.extend(read::entries(&path)?);
        } else {
            files.push(path);
        }
    }
    files.retain(|path| path.extension().is_some_and(|ending| ending == "parquet") && path.is_file());
    let mut tables = Tables { train: Vec::new(), test: Vec::new(), validation: Vec::new(), any: Vec::new() };
    for path in files {
        // The file's name decides; where it says nothing, its folder's does.
        let inner = path.parent().filter(|parent| *parent != folder).map(read::file_name).unwrap_or_default();
        let says = |name: String| ["train", "test", "val"].into_iter().find(|word| name.starts_with(word));
        match says(read::file_name(&path)).or_else(|| says(inner)) {
            Some("train") => tables.train.push(path),
            Some("test") => tables.test.push(path),
            Some(_) => tables.validation.push(path),
            None => tables.any.push(path),
        }
    }
    let groups = [&tables.train, &tables.test, &tables.validation, &tables.any];
    Ok((!groups.iter().all(|group| group.is_empty())).then_some(tables))
}

impl Tables {
    /// The files of a split of `folder`.
    pub(crate) fn of(self, folder: &Path, split: Split) -> Result<Vec<PathBuf>, DataError> {
        let named = match split {
            Split::Train => self.train,
            // Where both are there, `test` is the one to measure on.
            Split::Test => {
                if self.test.is_empty() {
                    self.validation
                } else {
                    self.test
                }
            }
        };
        let files = if named.is_empty() { self.any } else { named };
        if files.is_empty() {
            return Err(DataError::Missing {
                path: folder.join(format!("{split}-*.parquet")),
                what: format!("the files of the {split} split"),
                hint: "a split is recognised by how the names of its files or of their folder begin".into(),
            });
        }
        Ok(files)
    }
}

/// Reads Parquet files as one data set.
pub(crate) fn load(files: &[PathBuf], adapt_to: Option<[usize; 3]>) -> Result<Dataset, DataError> {
    let mut rows = Rows { shape: adapt_to, convert: adapt_to.is_some(), ..Rows::default() };
    let mut names = None;
    for path in files {
        let file = File::open(path).map_err(DataError::read(path))?;
        let builder = decode(path, || ParquetRecordBatchReaderBuilder::try_new(file))?;
        let schema = builder.schema().clone();
        let image = column(path, &schema, "an image", &IMAGE_COLUMNS)?;
        let label = column(path, &schema, "a label", &LABEL_COLUMNS)?;
        let row = row_bytes(schema.field(image).data_type()).saturating_add(row_bytes(schema.field(label).data_type()));
        read::within_limit(path, row)?;
        let at_once = (BYTES / row.max(1)).clamp(1, ROWS as u64) as usize;
        let names = names.get_or_insert_with(|| class_names(&schema, schema.field(label).name()));
        let mut reader = decode(path, || {
            let mask = ProjectionMask::roots(builder.parquet_schema(), [image, label]);
            builder.with_projection(mask).with_batch_size(at_once).build()
        })?;
        let (image, label) = (schema.field(image), schema.field(label));
        while let Some(batch) = decode(path, || Ok(reader.next().transpose()?))? {
            rows.append(path, image, label, &batch, names.as_ref().map(Vec::len))?;
        }
        rows.record = 0;
    }
    // No rows at all: `open` says so.
    let shape = rows.shape.unwrap_or([1, 1, 1]);
    match names.flatten() {
        Some(names) => Dataset::new(shape, rows.images, rows.labels, names),
        None => {
            let classes = rows.labels.iter().max().map_or(0, |&label| label as usize + 1);
            Dataset::without_names(shape, rows.images, rows.labels, classes)
        }
    }
}

/// A step of the decoder: what a stranger's file makes it stumble over is that file's fault.
fn decode<T>(path: &Path, step: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, DataError> {
    guard(step).map_err(|reason| DataError::Table { path: path.into(), reason })
}

fn column(path: &Path, schema: &Schema, what: &str, names: &[&str]) -> Result<usize, DataError> {
    names.iter().find_map(|name| schema.index_of(name).ok()).ok_or_else(|| {
        let have = schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ");
        let what = format!("it has no column that could be {what} ({}); it has {have}", names.join(", "));
        DataError::broken(path, what, "rename the column")
    })
}

/// Class names from the metadata that Hugging Face's `datasets` writes.
fn class_names(schema: &Schema, label: &str) -> Option<Vec<String>> {
    let metadata: serde_json::Value = serde_json::from_str(schema.metadata().get("huggingface")?).ok()?;
    let names = metadata.get("info")?.get("features")?.get(label)?.get("names")?.as_array()?;
    names.iter().map(|name| name.as_str().map(String::from)).collect()
}

#[derive(Default)]
struct Rows {
    shape: Option<[usize; 3]>,
    convert: bool,
    images: Vec<u8>,
    labels: Vec<u32>,
    /// Row of the present file.
    record: usize,
}

impl Rows {
    fn append(
        &mut self,
        path: &Path,
        image: &Field,
        label: &Field,
        batch: &RecordBatch,
        classes: Option<usize>,
    ) -> Result<(), DataError> {
        let images = batch.column_by_name(image.name()).expect("the projection has it");
        let labels = batch.column_by_name(label.name()).expect("the projection has it");
        self.append_labels(path, label, labels, classes)?;
        match images.data_type() {
            DataType::FixedSizeList(..) => self.append_tensors(path, image, images)?,
            DataType::Struct(_) => {
                let bytes = images.as_struct().column_by_name("bytes").ok_or_else(|| {
                    let what = format!("column {} is a struct without a field `bytes`", image.name());
                    DataError::broken(path, what, "store the images themselves, not only their paths")
                })?;
                self.append_encoded(path, image, bytes)?;
            }
            _ => self.append_encoded(path, image, images)?,
        }
        self.record += batch.num_rows();
        read::within_limit(path, self.images.len() as u64)
    }

    fn append_labels(
        &mut self,
        path: &Path,
        field: &Field,
        labels: &ArrayRef,
        classes: Option<usize>,
    ) -> Result<(), DataError> {
        let unusable = |what: &str| {
            let what = format!("column {} {what}", field.name());
            DataError::broken(path, what, "labels are whole numbers from 0")
        };
        if !field.data_type().is_integer() {
            return Err(unusable(&format!("is {}, not a whole number", field.data_type())));
        }
        let labels = arrow::compute::cast(labels, &DataType::Int64).map_err(|error| unusable(&error.to_string()))?;
        if labels.null_count() > 0 {
            return Err(unusable("has nulls"));
        }
        let classes = classes.unwrap_or(MAX_CLASSES);
        for (row, &label) in labels.as_primitive::<Int64Type>().values().iter().enumerate() {
            if label < 0 || label as u64 >= classes as u64 {
                return Err(DataError::Label { path: path.into(), record: self.record + row, label, classes });
            }
            self.labels.push(label as u32);
        }
        Ok(())
    }

    /// Encoded image files.
    fn append_encoded(&mut self, path: &Path, field: &Field, files: &ArrayRef) -> Result<(), DataError> {
        let files = arrow::compute::cast(files, &DataType::LargeBinary).ok().filter(|files| files.null_count() == 0);
        let Some(files) = files.filter(|_| field.data_type() != &DataType::Utf8) else {
            let what = format!("column {} is {}, or has nulls", field.name(), field.data_type());
            return Err(DataError::broken(path, what, "images are encoded files or fixed_shape_tensor of u8 or f32"));
        };
        let files = files.as_binary::<i64>();
        if files.is_empty() {
            return Ok(());
        }
        let place = |row: usize| PathBuf::from(format!("{} row {}", path.display(), self.record + row));
        let shape = match self.shape {
            Some(shape) => shape,
            None => folder::planes(&folder::decode(&place(0), files.value(0))?).0,
        };
        let size = shape.iter().product::<usize>();
        read::within_limit(path, (self.images.len() + files.len().saturating_mul(size)) as u64)?;
        let images = (0..files.len())
            .into_par_iter()
            .map(|row| folder::fit(&place(row), &folder::decode(&place(row), files.value(row))?, shape, self.convert))
            .collect::<Result<Vec<_>, _>>()?;
        self.shape = Some(shape);
        self.images.extend(images.into_iter().flatten());
        Ok(())
    }

    /// Raw tensors.
    fn append_tensors(&mut self, path: &Path, field: &Field, images: &ArrayRef) -> Result<(), DataError> {
        let unusable = |what: String| {
            let what = format!("column {} {what}", field.name());
            DataError::broken(path, what, "tensors are arrow.fixed_shape_tensor of u8 or f32, in the order C, H, W")
        };
        let list = images.as_fixed_size_list();
        let found = tensor_shape(field).ok_or_else(|| unusable("does not say its shape".into()))?;
        let size = found.iter().try_fold(1_usize, |size, &side| size.checked_mul(side)).filter(|&size| size > 0);
        if size != Some(list.value_length() as usize) {
            return Err(unusable(format!("says the shape {found:?} and has {} values", list.value_length())));
        }
        // `values` is not sliced with the list; the reader's batches start at 0.
        let (values, count) = (list.values(), list.len() * list.value_length() as usize);
        if list.null_count() > 0 || values.null_count() > 0 || values.len() < count {
            return Err(unusable("has nulls".into()));
        }
        let bytes: Vec<u8> = match values.data_type() {
            DataType::UInt8 => values.as_primitive::<UInt8Type>().values()[..count].to_vec(),
            DataType::Float32 => values.as_primitive::<Float32Type>().values()[..count]
                .iter()
                .map(|value| (value.clamp(0.0, 1.0) * 255.0).round() as u8)
                .collect(),
            other => return Err(unusable(format!("holds {other}"))),
        };
        let shape = *self.shape.get_or_insert(found);
        if found == shape {
            self.images.extend_from_slice(&bytes);
            return Ok(());
        }
        if !self.convert {
            return Err(DataError::Shapes { place: path.into(), found, expected: shape });
        }
        for image in bytes.chunks_exact(list.value_length() as usize) {
            self.images.extend(crate::adapt::convert(image, found, shape)?);
        }
        Ok(())
    }
}

/// \[C, H, W\] from the extension type's metadata.
fn tensor_shape(field: &Field) -> Option<[usize; 3]> {
    let metadata = field.metadata();
    if metadata.get("ARROW:extension:name")? != "arrow.fixed_shape_tensor" {
        return None;
    }
    let metadata: serde_json::Value = serde_json::from_str(metadata.get("ARROW:extension:metadata")?).ok()?;
    let sides = metadata.get("shape")?.as_array()?.iter().map(|side| side.as_u64().map(|side| side as usize));
    sides.collect::<Option<Vec<_>>>()?.try_into().ok()
}
