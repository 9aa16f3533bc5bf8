//! Parquet: what Hugging Face publishes, and the shards of this project.
//!
//! The image column may hold encoded files (`struct<bytes, path>` or plain binary) or raw tensors (`arrow.fixed_shape_tensor`).

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int64Type, Schema};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, RowGroupMetaData};
use ssdkd_shards::images::CLASS_NAMES_KEY;
use ssdkd_shards::{guard, row_bytes};

use crate::listing::some;
use crate::rows::Rows;
use crate::{DataError, Dataset, Fit, Split, pages, read};

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

/// Parts of names that say which split a file is of.
const SPLITS: [(&str, &[&str]); 3] = [
    ("train", &["train", "training"]),
    ("test", &["test", "testing"]),
    ("val", &["val", "valid", "validation", "dev"]),
];

/// Returns the split that a name says: `cifar10-test`, `validation_1` or `train2`.
fn split_in(name: &str) -> Option<&'static str> {
    let name = name.to_lowercase();
    let of_part = |part: &str| {
        let part = part.trim_end_matches(|c: char| c.is_ascii_digit());
        SPLITS.iter().find(|(_, words)| words.contains(&part)).map(|&(split, _)| split)
    };
    let beginning = || SPLITS.iter().map(|&(split, _)| split).find(|split| name.starts_with(split));
    name.split(['-', '_', '.']).find_map(of_part).or_else(beginning)
}

/// Looks for `.parquet` files in `folder` and in the folders right inside it (`data/`, `train/`, `samples/`, …). One level deeper
/// only files of a named split count, as in Hugging Face's `default/train/0000.parquet`.
pub(crate) fn recognise(folder: &Path) -> Result<Option<Tables>, DataError> {
    let mut files = Vec::new();
    for path in read::entries(folder)? {
        if !path.is_dir() {
            files.push(path);
            continue;
        }
        for inner in read::entries(&path)? {
            if inner.is_dir() {
                let says_split = |file: &PathBuf| split_of(file, folder).is_some();
                files.extend(read::entries(&inner)?.into_iter().filter(says_split));
            } else {
                files.push(inner);
            }
        }
    }
    files.retain(|path| is_table(path) && path.is_file());
    let mut tables = Tables { train: Vec::new(), test: Vec::new(), validation: Vec::new(), any: Vec::new() };
    for path in files {
        match split_of(&path, folder) {
            Some("train") => tables.train.push(path),
            Some("test") => tables.test.push(path),
            Some(_) => tables.validation.push(path),
            None => tables.any.push(path),
        }
    }
    let groups = [&tables.train, &tables.test, &tables.validation, &tables.any];
    Ok((!groups.iter().all(|group| group.is_empty())).then_some(tables))
}

/// Returns the split of a file below `folder`. Its name decides; where it says nothing, the name of the next folder above does.
fn split_of(path: &Path, folder: &Path) -> Option<&'static str> {
    path.ancestors().take_while(|part| *part != folder).find_map(|part| split_in(&read::file_name(part)))
}

/// Returns whether a path's name is that of a Parquet file.
pub(crate) fn is_table(path: &Path) -> bool {
    read::ending(path).as_deref() == Some("parquet")
}

impl Tables {
    /// Returns the files of a split of `folder`, and what a user should know of the choice.
    pub(crate) fn of(self, folder: &Path, split: Split) -> Result<(Vec<PathBuf>, Vec<String>), DataError> {
        let mut notices = Vec::new();
        let named = match split {
            Split::Train => self.train,
            Split::Test if self.test.is_empty() => self.validation,
            // Where both are there, `test` is the one to measure on, if it has labels.
            Split::Test if !self.validation.is_empty() && self.test.iter().any(|path| is_unlabelled(path)) => {
                let [test, validation] = [&self.test[0], &self.validation[0]].map(|path| path.display());
                notices.push(format!("{test} has no labels: {validation} is taken for the {split} split"));
                self.validation
            }
            Split::Test => self.test,
        };
        refuse_siblings(folder, split, &named)?;
        if named.is_empty() {
            if !self.any.is_empty() {
                return Ok((self.any, notices));
            }
            return Err(DataError::Missing {
                path: folder.join(format!("{split}-*.parquet")),
                what: format!("the files of the {split} split"),
                hint: "a split is recognized by train, test or val in the names of its files or of their folder".into(),
            });
        }
        if !self.any.is_empty() {
            let names = self.any.iter().map(|path| read::file_name(path)).collect::<Vec<_>>();
            let folder = folder.display();
            notices.push(format!("{folder}: Parquet files ignored whose names say no split: {}", some(&names)));
        }
        Ok((named, notices))
    }
}

/// Refuses files of one split from different folders: they are of different data sets or configurations.
fn refuse_siblings(folder: &Path, split: Split, files: &[PathBuf]) -> Result<(), DataError> {
    let Some(first) = files.first() else { return Ok(()) };
    let Some(other) = files.iter().find(|path| path.parent() != first.parent()) else { return Ok(()) };
    let what = format!("{} and {} are both of its {split} split", first.display(), other.display());
    let inside = |path: &Path| path.ancestors().take_while(|part| *part != folder).last().unwrap_or(path).to_path_buf();
    let [first, other] = [inside(first), inside(other)];
    let hint = if first == other {
        "keep the files of one split in one folder".into()
    } else {
        format!("give one of them: {} or {}", first.display(), other.display())
    };
    Err(DataError::broken(folder, what, hint))
}

/// Returns whether the first label of a file is -1, as Hugging Face has it where there are none. A damaged file is said to be so later.
fn is_unlabelled(path: &Path) -> bool {
    let first = || -> Option<bool> {
        let table = Table::open(path).ok()?;
        let Ok(column) = table.column("a label", &LABEL_COLUMNS) else { return Some(true) };
        if !table.schema.field(column).data_type().is_integer() {
            return None;
        }
        let batch = table.batches(&[column], 1).ok()?.next()?.ok()?;
        let labels = arrow::compute::cast(batch.column(0), &DataType::Int64).ok()?;
        labels.as_primitive::<Int64Type>().values().first().map(|&label| label == -1)
    };
    first().unwrap_or(false)
}

/// Reads Parquet files as one data set.
pub(crate) fn load(files: &[PathBuf], adapt_to: Option<Fit>) -> Result<Dataset, DataError> {
    let mut rows = Rows::new(adapt_to);
    let mut names: Option<Option<Vec<String>>> = None;
    for path in files {
        let table = Table::open(path)?;
        let image = table.column("an image", &IMAGE_COLUMNS)?;
        let label = table.column("a label", &LABEL_COLUMNS)?;
        let schema = table.schema.clone();
        let (image_field, label_field) = (schema.field(image), schema.field(label));
        let row = row_bytes(image_field.data_type()).saturating_add(row_bytes(label_field.data_type()));
        read::within_limit(path, row)?;
        let at_once = (BYTES / row.max(1)).clamp(1, ROWS as u64) as usize;
        let own = class_names(&schema, label_field.name());
        let known = names.get_or_insert_with(|| own.clone());
        if *known != own {
            let what = format!("its class names are not those of {}", files[0].display());
            return Err(DataError::broken(path, what, "all files of a split need the same class names"));
        }
        rows.start(path, known.as_ref().map(Vec::len));
        for batch in table.batches(&[image, label], at_once)? {
            rows.append(image_field, label_field, &batch?)?;
        }
    }
    rows.finish(names.flatten())
}

/// An opened file.
struct Table {
    path: PathBuf,
    schema: Arc<Schema>,
    builder: ParquetRecordBatchReaderBuilder<File>,
}

impl Table {
    fn open(path: &Path) -> Result<Self, DataError> {
        let file = File::open(path).map_err(DataError::read(path))?;
        let builder = decode(path, || ParquetRecordBatchReaderBuilder::try_new(file))?;
        let columns = builder.metadata().row_groups().iter().flat_map(RowGroupMetaData::columns);
        if columns.map(ColumnChunkMetaData::compression).any(|compression| compression == Compression::LZO) {
            let what = "its columns are compressed with LZO, which is not read";
            return Err(DataError::broken(path, what, "write the file again with zstd or snappy"));
        }
        Ok(Self { path: path.into(), schema: builder.schema().clone(), builder })
    }

    /// Returns the index of the first of these columns that there is.
    fn column(&self, what: &str, names: &[&str]) -> Result<usize, DataError> {
        names.iter().find_map(|name| self.schema.index_of(name).ok()).ok_or_else(|| {
            let have = self.schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ");
            let what = format!("it has no column that could be {what} ({}); it has {have}", names.join(", "));
            DataError::broken(&self.path, what, "rename the column")
        })
    }

    /// Returns the rows of these columns, so many at a time.
    fn batches(
        self,
        columns: &[usize],
        at_once: usize,
    ) -> Result<impl Iterator<Item = Result<RecordBatch, DataError>> + use<>, DataError> {
        let Self { path, builder, .. } = self;
        let mask = decode(&path, || {
            let mask = ProjectionMask::roots(builder.parquet_schema(), columns.iter().copied());
            Ok(pages::check(&path, builder.metadata(), &mask).map(|()| mask))
        })??;
        let mut reader = decode(&path, || builder.with_projection(mask).with_batch_size(at_once).build())?;
        Ok(std::iter::from_fn(move || decode(&path, || Ok(reader.next().transpose()?)).transpose()))
    }
}

/// Runs a step of the decoder: a panic on a stranger's file becomes an error of that file.
fn decode<T>(path: &Path, step: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, DataError> {
    guard(step).map_err(|reason| DataError::Table { path: path.into(), reason })
}

/// Class names from the metadata that Hugging Face's `datasets` writes, or that the shards of a run have.
fn class_names(schema: &Schema, label: &str) -> Option<Vec<String>> {
    if let Some(names) = schema.metadata().get(CLASS_NAMES_KEY) {
        return serde_json::from_str(names).ok().filter(|names: &Vec<_>| !names.is_empty());
    }
    let metadata: serde_json::Value = serde_json::from_str(schema.metadata().get("huggingface")?).ok()?;
    let names = metadata.get("info")?.get("features")?.get(label)?.get("names")?.as_array()?;
    names.iter().map(|name| name.as_str().map(String::from)).collect()
}
