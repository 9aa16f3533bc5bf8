//! The tables that stages hand over: small rows of ids and numbers, joined with the image shards by `sample_id`.
//!
//! Round and step numbers start at 0. KL divergences are in nats, probabilities in `[0, 1]`.

use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;

use crate::column::{Columns, Row, check_column};
use crate::file::{self, Origin, ParquetFile};
use crate::{ShardError, table};

/// Where an image is: a row of the shard that `invert` made in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ImageRef {
    /// The round that made the image.
    pub round: u32,
    /// The image's row in that round's shard.
    pub row: u32,
}

impl BufferRow {
    /// Returns where the image is.
    pub fn image(&self) -> ImageRef {
        ImageRef { round: self.birth_round, row: self.row }
    }
}

table! {
    /// `buffer.parquet` of `balance`: the images in the replay buffer, in the order in which they came.
    pub struct BufferRow in "buffer" {
        /// The image, as in its shard.
        sample_id: u64,
        /// Path of the image's shard, from the run folder, with `/`.
        shard: String,
        /// The image's row in that shard.
        row: u32,
        /// The teacher's class of the clean image.
        teacher_class: u32,
        /// The teacher's probability for it.
        teacher_confidence: f32,
        /// φ's diversity factor when the image entered the buffer.
        diversity: f32,
        /// φ's difficulty factor at that time.
        difficulty: f32,
        /// φ, their product.
        phi: f32,
        /// The round that made the image.
        birth_round: u32,
    }

    /// `classes.parquet` of `balance`: the class counts of the buffer, one row a class.
    pub struct ClassRow in "classes" {
        /// The class's index in the teacher's output.
        class: u32,
        /// Its name on the teacher's card.
        name: String,
        /// Images of that class in the buffer.
        count: u64,
        /// Mean of their `teacher_confidence`; empty if the class has no image.
        mean_confidence: Option<f32>,
    }

    /// `priorities.parquet` of `sample`: one row for each image of the buffer, in the same order.
    pub struct PriorityRow in "priorities" {
        /// The image.
        sample_id: u64,
        /// KL(f_t ‖ f_s) in nats, from which the priority was computed; empty if it was not measured since the last round.
        kl: Option<f32>,
        /// δ: the priority, 0 or above.
        priority: f64,
        /// P: the probability of one draw. The column sums to 1.
        probability: f64,
        /// w: the importance weight, above 0.
        weight: f64,
    }

    /// `draws.parquet` of `sample`: the images that the student sees, in order of step and slot.
    pub struct DrawRow in "draws" {
        /// The distillation step of this round, in the first pass over its views.
        step: u32,
        /// The position in that step's batch.
        slot: u32,
        /// The image.
        sample_id: u64,
        /// Its importance weight in the student's loss.
        weight: f32,
    }

    /// `steps.parquet` of `distill`: the student's training, one row a step.
    pub struct StepRow in "steps" {
        /// The distillation step of this round.
        step: u32,
        /// Learning rate.
        lr: f64,
        /// The student's loss, feature distillation included.
        loss: f32,
        /// Distance between the feature maps, before its factor; empty without feature distillation.
        feature_distillation: Option<f32>,
        /// Mean KL(f_t ‖ f_s) over the batch, at temperature 1, before the step.
        kl: f32,
        /// Share of the batch that both networks put into the same class.
        agreement: f32,
        /// Euclidean norm of the gradient over all parameters.
        gradient_norm: f32,
    }

    /// `observed.parquet` of `distill`: the disagreement of both networks on each image that the student saw, in order of step and slot.
    pub struct ObservedRow in "observed" {
        /// The distillation step of this round.
        step: u32,
        /// The position in that step's batch.
        slot: u32,
        /// The image.
        sample_id: u64,
        /// KL(f_t ‖ f_s) on the augmented view, at temperature 1, before the step.
        kl: f32,
    }
}

/// Returns the bytes of a Parquet file with these rows: the same for the same rows and origin.
pub fn encode<R: Row>(rows: &[R], origin: &Origin) -> Result<Vec<u8>, ShardError> {
    let schema = Arc::new(Schema::new(R::fields()));
    let batch = RecordBatch::try_new(schema, R::to_columns(rows))
        .map_err(|error| ShardError::Encode { table: R::TABLE, reason: error.to_string() })?;
    file::encode(R::TABLE, &batch, origin, &[], file::properties())
}

/// Returns the rows in `bytes`; `path` is for errors. Columns that the row does not have are ignored.
pub fn decode<R: Row>(bytes: Vec<u8>, path: &Path) -> Result<Vec<R>, ShardError> {
    let file = ParquetFile::open(bytes, path)?;
    file.check_table(R::TABLE)?;
    read_rows(&file, None)
}

/// Returns all rows of `selection`, in file order.
pub(crate) fn read_rows<R: Row>(
    file: &ParquetFile,
    selection: Option<parquet::arrow::arrow_reader::RowSelection>,
) -> Result<Vec<R>, ShardError> {
    let fields = R::fields();
    // Against the footer, so that a file without rows is checked too.
    for field in &fields {
        check_column(&file.path, file.schema(), field.name(), field.data_type())?;
    }
    let names = fields.iter().map(|field| field.name().as_str()).collect::<Vec<_>>();
    let mut rows = Vec::new();
    for batch in file.read(&names, selection)? {
        rows.extend(R::from_columns(&Columns { path: &file.path, batch: &batch })?);
    }
    Ok(rows)
}
