//! The image shard: what one round of `invert` made, stored once and never changed.
//!
//! The image column is an `arrow.fixed_shape_tensor` of shape C, H, W, so pyarrow opens it as a tensor and DuckDB and
//! Polars as a list. The extension's two metadata keys are written by hand: arrow's own typed extension demands a child
//! that cannot be null, which makes pyarrow drop the type, and it cannot read its own output back.
//!
//! `u8` images are dictionary-coded, which for 256 values is a byte a value. `f32` images and logits are split into byte
//! streams, which zstd packs far better than whole floats; a dictionary of floats would only be thrown away.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, FixedSizeListArray, PrimitiveArray, RecordBatch};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{ArrowPrimitiveType, DataType, Field, FieldRef, Float32Type, Schema, UInt8Type};
use parquet::basic::Encoding;
use parquet::file::properties::EnabledStatistics;
use parquet::schema::types::ColumnPath;
use serde::{Deserialize, Serialize};

use crate::column::Row;
use crate::file::{self, Origin};
use crate::{ShardError, table};

mod reader;

pub use reader::{ImageReader, Rows};

/// Images in a Parquet row group: small enough to fetch a few images without reading all of them.
pub const ROW_GROUP: usize = 512;

const NORMALISATION_KEY: &str = "ssdkd.normalisation";
/// The metadata of a shard under which the names of the teacher's classes are, a list in JSON.
pub const CLASS_NAMES_KEY: &str = "ssdkd.class_names";
const EXTENSION_NAME_KEY: &str = "ARROW:extension:name";
const EXTENSION_METADATA_KEY: &str = "ARROW:extension:metadata";
const TENSOR: &str = "arrow.fixed_shape_tensor";
const IMAGE: &str = "image";
const LOGITS: &str = "teacher_logits";
const MASK: &str = "teacher_mask";

/// The columns of an image shard behind those of [`SampleRow`]: name, type, and what it is.
pub(crate) const TENSOR_COLUMNS: [(&str, &str, &str); 3] = [
    (
        IMAGE,
        "FixedSizeList, `arrow.fixed_shape_tensor` (C, H, W)",
        "Pixels: UInt8 from 0 to 255, or Float32 from 0 to 1, as `invert.image_format` says.",
    ),
    (
        LOGITS,
        "FixedSizeList of Float32, (K)",
        "The teacher's logits of exactly this image, not of a view. Of a segmentation teacher the logarithm of its mean probabilities over the pixels.",
    ),
    (
        MASK,
        "FixedSizeList of UInt8, `arrow.fixed_shape_tensor` (H, W)",
        "The teacher's class of each pixel. Only of a segmentation teacher.",
    ),
];
/// More values than any image has; a file that claims more is not believed.
const LARGEST_IMAGE: usize = 1 << 28;

table! {
    /// `samples/part-00000.parquet` of `invert`: the images of a round, one row an image.
    pub struct SampleRow in "images" {
        /// Unique in a run.
        sample_id: u64,
        /// The class the image was made for.
        target: u32,
        /// The teacher's class of the clean image.
        teacher_class: u32,
        /// The teacher's probability for it; of a segmentation teacher the mean over pixels of each one's largest.
        teacher_confidence: f32,
        /// Batch-norm term of the loss of the image's batch, before its factor. This and the other terms are empty if they were not computed.
        loss_batch_norm: Option<f32>,
        /// Class term, with φ.
        loss_class: Option<f32>,
        /// Balance term.
        loss_balance: Option<f32>,
        /// Activation term.
        loss_activation: Option<f32>,
        /// Adversarial term.
        loss_adversarial: Option<f32>,
        /// Total variation of the pixels.
        loss_total_variation: Option<f32>,
        /// Distance of the pixels from mid-gray.
        loss_l2: Option<f32>,
        /// Contrastive term.
        loss_contrastive: Option<f32>,
        /// The loss of that batch: all terms times their factors.
        loss_total: f32,
        /// The round that made the image.
        round: u32,
    }
}

/// Pixels of N images, (N, C, H, W).
#[derive(Debug, Clone, PartialEq)]
pub enum Pixels {
    /// `round(255 x)`. A network must have seen the rounded image.
    U8(Vec<u8>),
    /// `x` in `[0, 1]`.
    F32(Vec<f32>),
}

impl Pixels {
    /// Returns values in `[0, 1]` rounded to the nearest of 256 levels.
    pub fn rounded(values: &[f32]) -> Self {
        Self::U8(values.iter().map(|value| (value * 255.0).round() as u8).collect())
    }

    /// Values in `[0, 1]`.
    pub fn to_unit(&self) -> Vec<f32> {
        match self {
            Self::U8(levels) => levels.iter().map(|&level| f32::from(level) / 255.0).collect(),
            Self::F32(values) => values.clone(),
        }
    }

    /// Returns the number of values: N · C · H · W.
    pub fn len(&self) -> usize {
        match self {
            Self::U8(values) => values.len(),
            Self::F32(values) => values.len(),
        }
    }

    /// Returns whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What the teacher expects of its input; both lists have an entry for each channel of the shard's images, red first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalisation {
    /// Subtracted from an image in `[0, 1]`.
    pub mean: Vec<f32>,
    /// Divided by after that.
    pub std: Vec<f32>,
}

/// What holds for all images of a shard; it is in the file metadata.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageInfo {
    /// What made it.
    pub origin: Origin,
    /// Channels, height, width.
    pub shape: [usize; 3],
    /// The teacher's.
    pub normalisation: Normalisation,
    /// The teacher's classes, in the order of its logits.
    pub class_names: Vec<String>,
}

/// A shard in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageShard {
    /// What holds for all images.
    pub info: ImageInfo,
    /// One for each image.
    pub samples: Vec<SampleRow>,
    /// (N, C, H, W)
    pub pixels: Pixels,
    /// (N, K): the teacher's logits of exactly these images, not augmented; of a teacher that labels pixels the logarithm of its
    /// probabilities' mean over them.
    pub teacher_logits: Vec<f32>,
    /// (N, H, W): the class of each pixel, of a teacher that labels these.
    pub teacher_masks: Option<Vec<u8>>,
}

impl ImageShard {
    /// Returns the bytes of a Parquet file: the same for the same shard.
    pub fn encode(&self) -> Result<Vec<u8>, ShardError> {
        let (rows, info) = (self.samples.len(), &self.info);
        let (size, classes) = (info.shape.iter().product::<usize>(), info.class_names.len());
        let [channels, height, width] = info.shape;
        let masks = self.teacher_masks.as_deref();
        for (what, found, expected) in [
            ("pixel values", self.pixels.len(), rows * size),
            ("teacher logits", self.teacher_logits.len(), rows * classes),
            ("mask values", masks.map_or(rows * height * width, <[u8]>::len), rows * height * width),
            ("channel means", info.normalisation.mean.len(), channels),
            ("channel deviations", info.normalisation.std.len(), channels),
        ] {
            if found != expected {
                return Err(ShardError::Uneven { rows, what, found, expected });
            }
        }
        let images: ArrayRef = match &self.pixels {
            Pixels::U8(values) => fixed_size_list::<UInt8Type>(values, size, rows),
            Pixels::F32(values) => fixed_size_list::<Float32Type>(values, size, rows),
        };
        let logits = fixed_size_list::<Float32Type>(&self.teacher_logits, classes, rows);
        let tensor = |name: &str, values: &ArrayRef, shape: serde_json::Value| {
            Field::new(name, values.data_type().clone(), false).with_metadata(HashMap::from([
                (EXTENSION_NAME_KEY.into(), TENSOR.into()),
                (EXTENSION_METADATA_KEY.into(), crate::canonical::to_string(&shape)),
            ]))
        };
        let of_images = serde_json::json!({"shape": info.shape, "dim_names": ["C", "H", "W"]});
        let mut fields = SampleRow::fields();
        fields.extend([tensor(IMAGE, &images, of_images), Field::new(LOGITS, logits.data_type().clone(), false)]);
        let mut columns = SampleRow::to_columns(&self.samples);
        columns.extend([images, logits]);
        if let Some(masks) = masks {
            let masks = fixed_size_list::<UInt8Type>(masks, height * width, rows);
            fields.push(tensor(MASK, &masks, serde_json::json!({"shape": [height, width], "dim_names": ["H", "W"]})));
            columns.push(masks);
        }
        let encode_error = |reason: String| ShardError::Encode { table: SampleRow::TABLE, reason };
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
            .map_err(|error| encode_error(error.to_string()))?;
        let json = |value: serde_json::Result<String>| value.map_err(|error| encode_error(error.to_string()));
        let metadata = [
            (NORMALISATION_KEY, json(serde_json::to_string(&info.normalisation))?),
            (CLASS_NAMES_KEY, json(serde_json::to_string(&info.class_names))?),
        ];
        let mut properties = file::properties()
            .set_max_row_group_row_count(Some(ROW_GROUP))
            // The smallest and largest pixel of a page help no reader to skip it.
            .set_column_statistics_enabled(leaf(IMAGE), EnabledStatistics::None)
            .set_column_statistics_enabled(leaf(LOGITS), EnabledStatistics::None);
        let floats = match self.pixels {
            Pixels::U8(_) => vec![LOGITS],
            Pixels::F32(_) => vec![IMAGE, LOGITS],
        };
        for column in floats {
            properties = properties
                .set_column_dictionary_enabled(leaf(column), false)
                .set_column_encoding(leaf(column), Encoding::BYTE_STREAM_SPLIT);
        }
        file::encode(SampleRow::TABLE, &batch, &info.origin, &metadata, properties)
    }
}

/// Returns the Parquet column with a list's values. From parts: `ColumnPath::from` does not split at dots.
fn leaf(column: &str) -> ColumnPath {
    ColumnPath::new(vec![column.into(), "list".into(), "element".into()])
}

/// Returns the type of a list. Its `element` may be null by the schema, as in pyarrow's tensors.
fn list_type(values: DataType, length: usize) -> DataType {
    DataType::FixedSizeList(FieldRef::new(Field::new("element", values, true)), length as i32)
}

fn fixed_size_list<T: ArrowPrimitiveType>(values: &[T::Native], length: usize, rows: usize) -> ArrayRef {
    let values = PrimitiveArray::<T>::new(ScalarBuffer::from(values.to_vec()), None);
    let element = FieldRef::new(Field::new("element", T::DATA_TYPE, true));
    let list = FixedSizeListArray::try_new_with_length(element, length as i32, Arc::new(values), None, rows);
    Arc::new(list.expect("the lengths were compared"))
}
