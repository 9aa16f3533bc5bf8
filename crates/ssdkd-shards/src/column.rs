//! The one mechanism behind all tables: a row is a plain struct, and every field of it is a Parquet column.
//!
//! [`table!`](crate::table) declares the struct and writes its [`Row`] implementation; [`Cell`] says what types a field
//! may have. So a table is described once, by the struct that people read.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float32Array, PrimitiveArray, RecordBatch, StringArray};
use arrow::datatypes::{ArrowPrimitiveType, DataType, Field, Float32Type, Float64Type, Schema, UInt32Type, UInt64Type};

use crate::ShardError;

/// A type that a field of a table row may have.
pub trait Cell: Sized {
    /// Whether a column of it may have empty values.
    const NULLABLE: bool = false;

    /// Returns its Arrow type.
    fn data_type() -> DataType;

    /// Returns a column of `values`.
    fn to_array<'a>(values: impl Iterator<Item = &'a Self>) -> ArrayRef
    where
        Self: 'a;

    /// Returns the values of a column that has [`Cell::data_type`] and, unless [`Cell::NULLABLE`], no empty values.
    fn from_array(array: &dyn Array) -> Vec<Self>;
}

macro_rules! primitive_cell {
    ($($type:ty => $arrow:ty),*) => {$(
        impl Cell for $type {
            fn data_type() -> DataType {
                <$arrow as ArrowPrimitiveType>::DATA_TYPE
            }

            fn to_array<'a>(values: impl Iterator<Item = &'a Self>) -> ArrayRef {
                Arc::new(PrimitiveArray::<$arrow>::from_iter_values(values.copied()))
            }

            fn from_array(array: &dyn Array) -> Vec<Self> {
                array.as_primitive::<$arrow>().values().to_vec()
            }
        }
    )*};
}

primitive_cell!(u32 => UInt32Type, u64 => UInt64Type, f32 => Float32Type, f64 => Float64Type);

impl Cell for Option<f32> {
    const NULLABLE: bool = true;

    fn data_type() -> DataType {
        DataType::Float32
    }

    fn to_array<'a>(values: impl Iterator<Item = &'a Self>) -> ArrayRef {
        Arc::new(values.copied().collect::<Float32Array>())
    }

    fn from_array(array: &dyn Array) -> Vec<Self> {
        array.as_primitive::<Float32Type>().iter().collect()
    }
}

impl Cell for String {
    fn data_type() -> DataType {
        DataType::Utf8
    }

    fn to_array<'a>(values: impl Iterator<Item = &'a Self>) -> ArrayRef {
        Arc::new(StringArray::from_iter_values(values))
    }

    fn from_array(array: &dyn Array) -> Vec<Self> {
        array.as_string::<i32>().iter().flatten().map(Self::from).collect()
    }
}

/// A row of a table; made by [`table!`](crate::table).
pub trait Row: Sized {
    /// The table's name in the file metadata and in messages.
    const TABLE: &'static str;

    /// What a row is: the struct's doc comment.
    const ABOUT: &'static str;

    /// What each column is, in order: the doc comments of the struct's fields.
    const COLUMNS: &'static [&'static str];

    /// Returns the columns, in the order of the struct's fields.
    fn fields() -> Vec<Field>;

    /// One array for each of [`Row::fields`].
    fn to_columns(rows: &[Self]) -> Vec<ArrayRef>;

    /// Returns the rows of a batch that has at least the columns [`Row::fields`].
    fn from_columns(columns: &Columns<'_>) -> Result<Vec<Self>, ShardError>;
}

/// A batch of rows as read from a file, and the file's path for errors.
pub struct Columns<'a> {
    pub(crate) path: &'a Path,
    pub(crate) batch: &'a RecordBatch,
}

impl Columns<'_> {
    /// Returns the number of rows.
    pub fn rows(&self) -> usize {
        self.batch.num_rows()
    }

    /// Returns the values of one column, whose type and empty values are checked.
    pub fn read<C: Cell>(&self, name: &str) -> Result<Vec<C>, ShardError> {
        Ok(C::from_array(self.array(name, &C::data_type(), C::NULLABLE)?))
    }

    /// One column of the given type.
    pub(crate) fn array(&self, name: &str, expected: &DataType, nullable: bool) -> Result<&dyn Array, ShardError> {
        let index = check_column(self.path, &self.batch.schema(), name, expected)?;
        let array = self.batch.column(index);
        match array.null_count() {
            nulls if nulls > 0 && !nullable => Err(nulls_error(self.path, name, nulls)),
            _ => Ok(array),
        }
    }
}

/// Returns the index of the column `name`, which must be of the type `expected`.
pub(crate) fn check_column(path: &Path, schema: &Schema, name: &str, expected: &DataType) -> Result<usize, ShardError> {
    let (path, column) = (path.to_path_buf(), name.to_string());
    let Ok(index) = schema.index_of(name) else {
        let found = schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ");
        return Err(ShardError::MissingColumn { path, column, found });
    };
    let found = schema.field(index).data_type();
    if found != expected {
        let (expected, found) = (expected.to_string(), found.to_string());
        return Err(ShardError::ColumnType { path, column, expected, found });
    }
    Ok(index)
}

pub(crate) fn nulls_error(path: &Path, column: &str, nulls: usize) -> ShardError {
    ShardError::Nulls { path: path.into(), column: column.into(), nulls }
}

/// Declares the row of a table: a struct with public fields, each of them a column of the same name.
///
/// ```
/// ssdkd_shards::table! {
///     /// What a morning was like.
///     pub struct MorningRow in "mornings" {
///         /// Days since the first one.
///         day: u32,
///         /// In °C; empty if it was not measured.
///         temperature: Option<f32>,
///     }
/// }
///
/// use ssdkd_shards::{Origin, tables};
/// let rows = vec![MorningRow { day: 3, temperature: Some(21.5) }];
/// let origin = Origin { stage: "weather".into(), fingerprint: String::new() };
/// let bytes = tables::encode(&rows, &origin)?;
/// assert_eq!(tables::decode::<MorningRow>(bytes, "mornings.parquet".as_ref())?, rows);
/// # Ok::<(), ssdkd_shards::ShardError>(())
/// ```
#[macro_export]
macro_rules! table {
    ($(
        $(#[doc = $about:literal])*
        pub struct $row:ident in $table:literal {
            $( $(#[doc = $field_about:literal])* $field:ident: $type:ty, )*
        }
    )*) => {$(
        $(#[doc = $about])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $row {
            $( $(#[doc = $field_about])* pub $field: $type, )*
        }

        impl $crate::Row for $row {
            const TABLE: &'static str = $table;
            const ABOUT: &'static str = concat!($($about),*);
            const COLUMNS: &'static [&'static str] = &[$(concat!($($field_about),*)),*];

            fn fields() -> Vec<$crate::macro_support::Field> {
                vec![$(
                    $crate::macro_support::Field::new(
                        stringify!($field),
                        <$type as $crate::Cell>::data_type(),
                        <$type as $crate::Cell>::NULLABLE,
                    )
                ),*]
            }

            fn to_columns(rows: &[Self]) -> Vec<$crate::macro_support::ArrayRef> {
                vec![$( <$type as $crate::Cell>::to_array(rows.iter().map(|row| &row.$field)) ),*]
            }

            fn from_columns(columns: &$crate::Columns<'_>) -> Result<Vec<Self>, $crate::ShardError> {
                $( let mut $field = columns.read::<$type>(stringify!($field))?.into_iter(); )*
                // Columns of a batch are equally long, so this ends after the last row and nowhere else.
                Ok(std::iter::from_fn(|| Some(Self { $( $field: $field.next()?, )* })).collect())
            }
        }
    )*};
}
