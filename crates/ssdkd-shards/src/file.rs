//! A Parquet file of this project, as bytes: how one is written, what every one says of itself, how one is opened.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::datatypes::{Metadata, Schema};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection,
};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder};
use serde::de::DeserializeOwned;

use crate::guard::{guard_file, row_bytes};
use crate::{OLDEST_SCHEMA_VERSION, SCHEMA_VERSION, ShardError};

pub(crate) const SCHEMA_VERSION_KEY: &str = "ssdkd.schema_version";
pub(crate) const TABLE_KEY: &str = "ssdkd.table";
pub(crate) const STAGE_KEY: &str = "ssdkd.stage";
pub(crate) const FINGERPRINT_KEY: &str = "ssdkd.fingerprint";

/// Rows that are decoded at once.
const BATCH_ROWS: usize = 4096;

/// Most bytes that one reading may take. What would take more is no shard of ours: a few KB can promise it.
const MOST_BYTES: u64 = 16 << 30;

/// What made a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The stage's name, such as `balance`.
    pub stage: String,
    /// The stage's fingerprint for that round.
    pub fingerprint: String,
}

/// What a file says of itself, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// `images`, or the name of a table.
    pub table: String,
    /// What made it.
    pub origin: Origin,
    /// Number of rows.
    pub rows: usize,
    /// Name and Arrow type of every column.
    pub columns: Vec<(String, String)>,
    /// All file metadata of this project, by key.
    pub metadata: BTreeMap<String, String>,
}

/// Reads a file's footer only.
pub fn describe(bytes: Vec<u8>, path: &Path) -> Result<Description, ShardError> {
    let file = ParquetFile::open(bytes, path)?;
    let columns = file.footer.schema().fields().iter();
    Ok(Description {
        table: file.required(TABLE_KEY)?.into(),
        origin: file.origin()?,
        rows: file.rows(),
        columns: columns.map(|field| (field.name().clone(), field.data_type().to_string())).collect(),
        metadata: file.metadata.clone(),
    })
}

/// Properties common to all files: zstd 3, which no reader lacks.
pub(crate) fn properties() -> WriterPropertiesBuilder {
    let level = ZstdLevel::try_new(3).expect("3 is a level of zstd");
    WriterProperties::builder().set_compression(Compression::ZSTD(level))
}

/// One file with `batch` in it. The metadata goes in the order given, after what every file says.
pub(crate) fn encode(
    table: &'static str,
    batch: &RecordBatch,
    origin: &Origin,
    metadata: &[(&str, String)],
    properties: WriterPropertiesBuilder,
) -> Result<Vec<u8>, ShardError> {
    let common = [
        (SCHEMA_VERSION_KEY, SCHEMA_VERSION.to_string()),
        (TABLE_KEY, table.to_string()),
        (STAGE_KEY, origin.stage.clone()),
        (FINGERPRINT_KEY, origin.fingerprint.clone()),
    ];
    let metadata = common.iter().chain(metadata).map(|(key, value)| ((*key).to_string(), value.clone()));
    let metadata = metadata.collect::<Vec<_>>();
    // In both places: pyarrow shows the Arrow schema's alone, and readers without Arrow see the file's alone.
    let in_schema = metadata.iter().cloned().collect::<Metadata>();
    let schema = Schema::new_with_metadata(batch.schema().fields().clone(), in_schema);
    let metadata = metadata.into_iter().map(|(key, value)| KeyValue::new(key, value));
    let properties = properties.set_key_value_metadata(Some(metadata.collect())).build();
    let mut bytes = Vec::new();
    ArrowWriter::try_new(&mut bytes, schema.into(), Some(properties))
        .and_then(|mut writer| {
            writer.write(batch)?;
            writer.close()
        })
        .map_err(|error| ShardError::Encode { table, reason: error.to_string() })?;
    Ok(bytes)
}

/// An opened file whose footer was read and whose schema version is known.
pub(crate) struct ParquetFile {
    pub(crate) path: PathBuf,
    bytes: Bytes,
    footer: ArrowReaderMetadata,
    metadata: BTreeMap<String, String>,
}

impl ParquetFile {
    pub(crate) fn open(bytes: Vec<u8>, path: &Path) -> Result<Self, ShardError> {
        let bytes = Bytes::from(bytes);
        let footer = guard_file(path, || ArrowReaderMetadata::load(&bytes, ArrowReaderOptions::new()))?;
        let pairs = footer.metadata().file_metadata().key_value_metadata().into_iter().flatten();
        let metadata = pairs
            .filter(|pair| pair.key.starts_with("ssdkd."))
            .filter_map(|pair| Some((pair.key.clone(), pair.value.clone()?)))
            .collect();
        let file = Self { path: path.into(), bytes, footer, metadata };
        file.check_version()?;
        Ok(file)
    }

    pub(crate) fn schema(&self) -> &Schema {
        self.footer.schema()
    }

    /// As the footer says; damaged files may say anything.
    pub(crate) fn rows(&self) -> usize {
        usize::try_from(self.footer.metadata().file_metadata().num_rows()).unwrap_or(0)
    }

    /// As the footer says, in one place or in the other.
    fn promised_rows(&self) -> u64 {
        let groups = self.footer.metadata().row_groups().iter();
        let of_groups =
            groups.fold(0_u64, |sum, group| sum.saturating_add(u64::try_from(group.num_rows()).unwrap_or(0)));
        of_groups.max(self.rows() as u64)
    }

    pub(crate) fn required(&self, key: &'static str) -> Result<&str, ShardError> {
        let value = self.metadata.get(key).map(String::as_str);
        value.ok_or_else(|| ShardError::MissingMetadata { path: self.path.clone(), key })
    }

    /// Returns the metadata under `key`, which is JSON.
    pub(crate) fn json<T: DeserializeOwned>(&self, key: &'static str) -> Result<T, ShardError> {
        serde_json::from_str(self.required(key)?).map_err(|error| ShardError::Metadata {
            path: self.path.clone(),
            key,
            reason: error.to_string(),
        })
    }

    pub(crate) fn origin(&self) -> Result<Origin, ShardError> {
        Ok(Origin { stage: self.required(STAGE_KEY)?.into(), fingerprint: self.required(FINGERPRINT_KEY)?.into() })
    }

    pub(crate) fn check_table(&self, expected: &'static str) -> Result<(), ShardError> {
        match self.required(TABLE_KEY)? {
            found if found == expected => Ok(()),
            found => Err(ShardError::WrongTable { path: self.path.clone(), expected, found: found.into() }),
        }
    }

    fn check_version(&self) -> Result<(), ShardError> {
        let text = self.required(SCHEMA_VERSION_KEY)?;
        let path = self.path.clone();
        match text.parse::<u64>() {
            Ok(found) if found > SCHEMA_VERSION.into() => {
                Err(ShardError::NewerSchema { path, found, supported: SCHEMA_VERSION })
            }
            Ok(found @ 1..) if found < OLDEST_SCHEMA_VERSION.into() => Err(ShardError::OlderSchema { path, found }),
            Ok(1..) => Ok(()),
            _ => {
                let reason = format!("{text:?} is not a version");
                Err(ShardError::Metadata { path, key: SCHEMA_VERSION_KEY, reason })
            }
        }
    }

    /// Returns the rows of `selection` (all, if `None`) in file order, with those of the columns named that the file has.
    pub(crate) fn read(
        &self,
        columns: &[&str],
        selection: Option<RowSelection>,
    ) -> Result<Vec<RecordBatch>, ShardError> {
        let indices = columns.iter().filter_map(|name| self.schema().index_of(name).ok()).collect::<Vec<_>>();
        let rows = selection.as_ref().map_or_else(|| self.promised_rows(), |selection| selection.row_count() as u64);
        let of_row = indices.iter().map(|&index| row_bytes(self.schema().field(index).data_type()));
        let bytes = of_row.fold(0, u64::saturating_add).saturating_mul(rows);
        if bytes > MOST_BYTES {
            let reason = format!("{rows} rows of {} would take {} GiB of memory", columns.join(", "), bytes >> 30);
            return Err(ShardError::Damaged { path: self.path.clone(), reason });
        }
        let mask = ProjectionMask::roots(self.footer.parquet_schema(), indices);
        let mut builder = ParquetRecordBatchReaderBuilder::new_with_metadata(self.bytes.clone(), self.footer.clone())
            .with_batch_size(BATCH_ROWS)
            .with_projection(mask);
        if let Some(selection) = selection {
            builder = builder.with_row_selection(selection);
        }
        guard_file(&self.path, || Ok(builder.build()?.collect::<Result<_, _>>()?))
    }
}
