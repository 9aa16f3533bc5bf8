//! Reading a shard: any rows in any order, any columns, nothing decoded that is not asked for.

use std::path::Path;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{ArrowPrimitiveType, DataType, Field, Float32Type, Schema, UInt8Type};
use parquet::arrow::arrow_reader::RowSelection;
use serde::Deserialize;

use super::{
    CLASS_NAMES_KEY, EXTENSION_METADATA_KEY, EXTENSION_NAME_KEY, IMAGE, ImageInfo, ImageShard, LARGEST_IMAGE, LOGITS,
    MASK, NORMALISATION_KEY, Normalisation, Pixels, SampleRow, TENSOR, list_type,
};
use crate::column::{Columns, Row, check_column, nulls_error};
use crate::file::ParquetFile;
use crate::{ShardError, tables};

/// Which rows of a shard to read.
#[derive(Debug, Clone, Copy)]
pub enum Rows<'a> {
    /// All, in file order.
    All,
    /// These, in this order; a row may be asked for more than once.
    Only(&'a [u32]),
}

/// An opened shard, of which any rows and columns can be read; nothing is decoded before that.
pub struct ImageReader {
    file: ParquetFile,
    info: ImageInfo,
    /// The type of a pixel: u8 or f32.
    pixel: DataType,
}

impl ImageReader {
    /// Reads the footer; `path` is for errors.
    pub fn open(bytes: Vec<u8>, path: &Path) -> Result<Self, ShardError> {
        let file = ParquetFile::open(bytes, path)?;
        file.check_table(SampleRow::TABLE)?;
        let normalisation: Normalisation = file.json(NORMALISATION_KEY)?;
        let class_names: Vec<String> = file.json(CLASS_NAMES_KEY)?;
        check_column(path, file.schema(), LOGITS, &list_type(DataType::Float32, class_names.len()))?;
        let (shape, pixel) = image_type(path, file.schema())?;
        if normalisation.mean.len() != shape[0] || normalisation.std.len() != shape[0] {
            let reason = format!("it is not for images with {} channels", shape[0]);
            return Err(ShardError::Metadata { path: path.into(), key: NORMALISATION_KEY, reason });
        }
        if file.schema().field_with_name(MASK).is_ok() {
            check_column(path, file.schema(), MASK, &list_type(DataType::UInt8, shape[1] * shape[2]))?;
        }
        let info = ImageInfo { origin: file.origin()?, shape, normalisation, class_names };
        Ok(Self { file, info, pixel })
    }

    /// Returns what holds for all images.
    pub fn info(&self) -> &ImageInfo {
        &self.info
    }

    /// Returns the number of images.
    pub fn len(&self) -> usize {
        self.file.rows()
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns everything of some rows.
    pub fn read(&self, rows: Rows<'_>) -> Result<ImageShard, ShardError> {
        Ok(ImageShard {
            info: self.info.clone(),
            samples: self.samples(rows)?,
            pixels: self.pixels(rows)?,
            teacher_logits: self.teacher_logits(rows)?,
            teacher_masks: self.teacher_masks(rows)?,
        })
    }

    /// Returns what is known of the images, without decoding one.
    pub fn samples(&self, rows: Rows<'_>) -> Result<Vec<SampleRow>, ShardError> {
        let order = Order::new(&self.file, rows)?;
        let samples = tables::read_rows::<SampleRow>(&self.file, order.selection())?;
        order.check(samples.len(), &self.file)?;
        Ok(order.arrange(samples, 1))
    }

    /// Returns the images, (N, C, H, W).
    pub fn pixels(&self, rows: Rows<'_>) -> Result<Pixels, ShardError> {
        let size = self.info.shape.iter().product();
        Ok(if self.pixel == DataType::UInt8 {
            Pixels::U8(self.lists::<UInt8Type>(IMAGE, size, rows)?)
        } else {
            Pixels::F32(self.lists::<Float32Type>(IMAGE, size, rows)?)
        })
    }

    /// Returns the teacher's logits, (N, K).
    pub fn teacher_logits(&self, rows: Rows<'_>) -> Result<Vec<f32>, ShardError> {
        self.lists::<Float32Type>(LOGITS, self.info.class_names.len(), rows)
    }

    /// Returns the class that the teacher puts each pixel into, (N, H, W), where it labels pixels.
    pub fn teacher_masks(&self, rows: Rows<'_>) -> Result<Option<Vec<u8>>, ShardError> {
        if self.file.schema().field_with_name(MASK).is_err() {
            return Ok(None);
        }
        let [_, height, width] = self.info.shape;
        Ok(Some(self.lists::<UInt8Type>(MASK, height * width, rows)?))
    }

    fn lists<T: ArrowPrimitiveType>(
        &self,
        name: &str,
        length: usize,
        rows: Rows<'_>,
    ) -> Result<Vec<T::Native>, ShardError> {
        let order = Order::new(&self.file, rows)?;
        let path = &self.file.path;
        let (mut values, mut count) = (Vec::new(), 0);
        for batch in self.file.read(&[name], order.selection())? {
            let columns = Columns { path, batch: &batch };
            let list = columns.array(name, &list_type(T::DATA_TYPE, length), false)?.as_fixed_size_list();
            let elements = list.values();
            if elements.null_count() > 0 {
                return Err(nulls_error(path, name, elements.null_count()));
            }
            values.extend_from_slice(elements.as_primitive::<T>().values());
            count += list.len();
        }
        order.check(count, &self.file)?;
        Ok(order.arrange(values, length))
    }
}

/// The extension's metadata; names of the dimensions do not matter.
#[derive(Deserialize)]
struct Tensor {
    shape: [usize; 3],
}

/// Returns the shape that the image column claims, which must agree with its list type, and the type of a pixel.
fn image_type(path: &Path, schema: &Schema) -> Result<([usize; 3], DataType), ShardError> {
    let wrong_type = |found: String| ShardError::ColumnType {
        path: path.into(),
        column: IMAGE.into(),
        expected: format!("{TENSOR} of u8 or f32, shape C, H, W"),
        found,
    };
    let found = schema.field_with_name(IMAGE).map_or(DataType::Null, |field| field.data_type().clone());
    check_column(path, schema, IMAGE, &found)?;
    let metadata = schema.field_with_name(IMAGE).map(Field::metadata).ok();
    let get = |key: &str| metadata.and_then(|metadata| metadata.get(key));
    if get(EXTENSION_NAME_KEY).is_none_or(|name| name != TENSOR) {
        return Err(wrong_type(format!("{found} without that extension type")));
    }
    let shape = get(EXTENSION_METADATA_KEY)
        .and_then(|json| serde_json::from_str::<Tensor>(json).ok())
        .map(|tensor| tensor.shape)
        .filter(|shape| !shape.contains(&0))
        .filter(|shape| shape.iter().try_fold(1_usize, |size, &side| size.checked_mul(side)).is_some());
    let Some(shape) = shape else {
        return Err(wrong_type(format!("a tensor that says {:?}", get(EXTENSION_METADATA_KEY))));
    };
    let size = shape.iter().product::<usize>();
    [DataType::UInt8, DataType::Float32]
        .into_iter()
        .find(|pixel| size <= LARGEST_IMAGE && list_type(pixel.clone(), size) == found)
        .map(|pixel| (shape, pixel))
        .ok_or_else(|| wrong_type(format!("{found}, shape {shape:?}")))
}

/// Parquet gives rows in file order and each once; this brings them into the order asked for.
struct Order<'a> {
    rows: Rows<'a>,
    /// Rows to read: ascending, each once. Empty for [`Rows::All`].
    distinct: Vec<u32>,
    total: usize,
}

impl<'a> Order<'a> {
    fn new(file: &ParquetFile, rows: Rows<'a>) -> Result<Self, ShardError> {
        let total = file.rows();
        let mut distinct = match rows {
            Rows::All => Vec::new(),
            Rows::Only(rows) => rows.to_vec(),
        };
        distinct.sort_unstable();
        distinct.dedup();
        match distinct.last() {
            Some(&row) if row as usize >= total => {
                Err(ShardError::RowOutOfRange { path: file.path.clone(), row, rows: total })
            }
            _ => Ok(Self { rows, distinct, total }),
        }
    }

    fn selection(&self) -> Option<RowSelection> {
        let Rows::Only(_) = self.rows else { return None };
        let ranges = self.distinct.iter().map(|&row| row as usize..row as usize + 1);
        Some(RowSelection::from_consecutive_ranges(ranges, self.total))
    }

    /// Checks the number of values: a footer may promise what the pages do not hold.
    fn check(&self, found: usize, file: &ParquetFile) -> Result<(), ShardError> {
        let expected = match self.rows {
            Rows::All => self.total,
            Rows::Only(_) => self.distinct.len(),
        };
        if found == expected {
            return Ok(());
        }
        let reason = format!("it holds {found} of the {expected} rows that its footer promises");
        Err(ShardError::Damaged { path: file.path.clone(), reason })
    }

    fn arrange<T: Clone>(&self, values: Vec<T>, length: usize) -> Vec<T> {
        match self.rows {
            Rows::Only(rows) if rows != self.distinct => rows
                .iter()
                .filter_map(|row| self.distinct.binary_search(row).ok())
                .flat_map(|index| values[index * length..(index + 1) * length].iter().cloned())
                .collect(),
            _ => values,
        }
    }
}
