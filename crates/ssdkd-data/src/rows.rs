//! Rows of Parquet as labeled images.

use std::path::{Path, PathBuf};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type};
use rayon::prelude::*;

use crate::conversions::Conversions;
use crate::dataset::MAX_CLASSES;
use crate::tensors::Tensors;
use crate::{DataError, Dataset, Fit, encoded, read};

/// What is read of the rows so far.
pub(crate) struct Rows {
    adapt_to: Option<Fit>,
    /// The shape that images are brought into, known from the first row on.
    conversions: Option<Conversions>,
    images: Vec<u8>,
    labels: Vec<u32>,
    /// The present file, the number of classes that it names, and its next row.
    path: PathBuf,
    classes: Option<usize>,
    row: usize,
}

impl Rows {
    pub(crate) fn new(adapt_to: Option<Fit>) -> Self {
        let (images, labels, path) = (Vec::new(), Vec::new(), PathBuf::new());
        Self { adapt_to, conversions: None, images, labels, path, classes: None, row: 0 }
    }

    /// Goes on with another file.
    pub(crate) fn start(&mut self, path: &Path, classes: Option<usize>) {
        (self.path, self.classes, self.row) = (path.into(), classes, 0);
    }

    /// Returns the data set of all rows. Without names its labels are indices.
    pub(crate) fn finish(self, names: Option<Vec<String>>) -> Result<Dataset, DataError> {
        // No rows at all: `open` says so.
        let shape = self.conversions.as_ref().map_or([1, 1, 1], Conversions::shape);
        let classes = self.labels.iter().max().map_or(0, |&label| label as usize + 1);
        let dataset = match names {
            Some(names) => Dataset::new(shape, self.images, self.labels, names),
            None => Dataset::without_names(shape, self.images, self.labels, classes),
        }?;
        Ok(dataset.with_notices(self.conversions.iter().flat_map(Conversions::notices)))
    }

    pub(crate) fn append(&mut self, image: &Field, label: &Field, batch: &RecordBatch) -> Result<(), DataError> {
        let images = batch.column_by_name(image.name()).expect("the projection has it");
        let labels = batch.column_by_name(label.name()).expect("the projection has it");
        self.append_labels(label, labels)?;
        match images.data_type() {
            DataType::FixedSizeList(..) => self.append_tensors(image, images)?,
            DataType::Struct(_) => {
                let bytes = images.as_struct().column_by_name("bytes").ok_or_else(|| {
                    let what = format!("column {} is a struct without a field `bytes`", image.name());
                    DataError::broken(&self.path, what, "store the images themselves, not only their paths")
                })?;
                self.append_encoded(image, bytes)?;
            }
            _ => self.append_encoded(image, images)?,
        }
        self.row += batch.num_rows();
        read::within_limit(&self.path, self.images.len() as u64)
    }

    fn append_labels(&mut self, field: &Field, labels: &ArrayRef) -> Result<(), DataError> {
        let unusable = |what: &str| {
            let what = format!("column {} {what}", field.name());
            DataError::broken(&self.path, what, "store the index of the class, a whole number from 0")
        };
        if !field.data_type().is_integer() {
            return Err(unusable(&format!("is {}, not a whole number", field.data_type())));
        }
        let labels = arrow::compute::cast(labels, &DataType::Int64).map_err(|error| unusable(&error.to_string()))?;
        if labels.null_count() > 0 {
            return Err(unusable("has nulls"));
        }
        let classes = self.classes.unwrap_or(MAX_CLASSES);
        for (row, &label) in labels.as_primitive::<Int64Type>().values().iter().enumerate() {
            if label < 0 || label as u64 >= classes as u64 {
                return Err(DataError::Label { path: self.path.clone(), record: self.row + row, label, classes });
            }
            self.labels.push(label as u32);
        }
        Ok(())
    }

    /// Returns where a row of the present batch is, for messages.
    fn place(&self, row: usize) -> PathBuf {
        PathBuf::from(format!("{} row {}", self.path.display(), self.row + row))
    }

    /// Returns the conversions, into the shape of the first row unless another is wanted.
    fn conversions(&mut self, first: [usize; 3]) -> &Conversions {
        let (fit, resize) = (self.adapt_to.unwrap_or(first.into()), self.adapt_to.is_some());
        self.conversions.get_or_insert_with(|| Conversions::new(fit, resize))
    }

    /// Appends encoded image files.
    fn append_encoded(&mut self, field: &Field, files: &ArrayRef) -> Result<(), DataError> {
        let unusable = |what: String| {
            let hint = "store encoded image files, or arrow.fixed_shape_tensor of u8 with the shape [C, H, W]";
            DataError::broken(&self.path, format!("column {} {what}", field.name()), hint)
        };
        match files.data_type() {
            DataType::List(_) | DataType::LargeList(_) | DataType::ListView(_) | DataType::LargeListView(_) => {
                return Err(unusable("holds lists, which do not say which side is the channels".into()));
            }
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
                return Err(unusable("holds text, such as paths, and no images".into()));
            }
            _ => {}
        }
        let binary = arrow::compute::cast(files, &DataType::LargeBinary);
        let binary = binary.map_err(|_| unusable(format!("holds {}, and no images", files.data_type())))?;
        if let Some(row) = (0..binary.len()).find(|&row| binary.is_null(row)) {
            let hint = "leave the row out; where only paths are stored, store the files themselves";
            return Err(DataError::broken(&self.place(row), format!("column {} is null", field.name()), hint));
        }
        let files = binary.as_binary::<i64>();
        if files.is_empty() {
            return Ok(());
        }
        let first = match &self.conversions {
            Some(conversions) => conversions.shape(),
            None => encoded::planes(&encoded::decode(&self.place(0), files.value(0))?).0,
        };
        let size = self.conversions(first).shape().iter().product::<usize>();
        read::within_limit(&self.path, (self.images.len() + files.len().saturating_mul(size)) as u64)?;
        let conversions = self.conversions.as_ref().expect("it was just made");
        let images = (0..files.len())
            .into_par_iter()
            .map(|row| conversions.fit(&self.place(row), &encoded::decode(&self.place(row), files.value(row))?))
            .collect::<Result<Vec<_>, _>>()?;
        self.images.extend(images.into_iter().flatten());
        Ok(())
    }

    /// Appends raw tensors.
    fn append_tensors(&mut self, field: &Field, images: &ArrayRef) -> Result<(), DataError> {
        let tensors = Tensors::read(field, images.as_fixed_size_list()).map_err(|fault| {
            let what = format!("column {} {}", field.name(), fault.what);
            let place = fault.row.map_or_else(|| self.path.clone(), |row| self.place(row));
            DataError::broken(&place, what, fault.hint)
        })?;
        let (found, path) = (tensors.shape, self.path.clone());
        let conversions = self.conversions(found);
        let size = conversions.shape().iter().product::<usize>();
        let mut bytes = Vec::with_capacity(tensors.len() * size);
        for image in tensors.images() {
            bytes.extend(conversions.fit_bytes(&path, found, image)?);
        }
        self.images.extend(bytes);
        Ok(())
    }
}
