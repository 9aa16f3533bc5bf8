//! The meaning of a file's names, while the file is read.

use std::rc::Rc;

use super::constant::Constant;
use crate::graph::NodeId;

/// The meaning of a name.
#[derive(Debug, Clone)]
pub(crate) enum Meaning {
    /// The result of a node: it depends on the image.
    Value(NodeId),
    /// The numbers of a node in other dimensions, which no node can have.
    View(Rc<View>),
    /// Some channels of a node. The slice becomes a node where it is used.
    Piece(NodeId, [usize; 2]),
    /// Every so-many-th pixel of a node, in height and width.
    Strided(NodeId, [usize; 2]),
    /// All pieces of a split.
    Pieces(NodeId, Rc<Vec<[usize; 2]>>),
    /// Numbers of the file.
    Constant(Constant),
    /// Whole numbers, which describe shapes.
    Whole(Whole),
    /// An argument that was left out.
    Nothing,
    /// The result of an operation that is not supported.
    Unknown,
}

/// Numbers of `source` as if they had the sizes `dims`, afterwards with the axes in `order`.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub source: NodeId,
    pub dims: Vec<Dim>,
    pub order: Vec<usize>,
}

/// A size of a dimension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dim {
    /// The number of images.
    Batch,
    /// Any other number.
    Fixed(i64),
}

/// A list of whole numbers, or one.
#[derive(Debug, Clone)]
pub(crate) struct Whole {
    pub values: Rc<[Dim]>,
    pub scalar: bool,
}

/// Most whole numbers in a list of a file: shapes are short.
pub(crate) const MOST_LISTED: usize = 1024;

/// Most whole numbers in a list that is computed: a node of a few bytes can make one.
pub(crate) const MOST_WHOLE: usize = 64;

impl Whole {
    pub fn list(values: Vec<Dim>) -> Self {
        Self { values: values.into(), scalar: false }
    }

    pub fn one(value: Dim) -> Self {
        Self { values: Rc::new([value]), scalar: true }
    }

    /// Returns all numbers, if none is the batch.
    pub fn fixed(&self) -> Result<Vec<i64>, String> {
        let fixed = |dim: &Dim| match dim {
            Dim::Fixed(value) => Ok(*value),
            Dim::Batch => Err("it depends on the number of images".to_string()),
        };
        self.values.iter().map(fixed).collect()
    }

    /// Returns `f` of every pair; one number is repeated.
    pub fn zip(&self, other: &Self, f: impl Fn(i64, i64) -> Option<i64>) -> Result<Self, String> {
        let length = self.values.len().max(other.values.len());
        if length > MOST_WHOLE {
            return Err("it computes with long lists of whole numbers".into());
        }
        let at = |whole: &Self, index: usize| match whole.values[..] {
            [one] => Ok(one),
            ref values => {
                values.get(index).copied().ok_or_else(|| "two lists of whole numbers differ in length".to_string())
            }
        };
        let mut values = Vec::with_capacity(length);
        for index in 0..length {
            values.push(match (at(self, index)?, at(other, index)?) {
                (Dim::Fixed(a), Dim::Fixed(b)) => {
                    Dim::Fixed(f(a, b).ok_or_else(|| format!("it cannot be computed of {a} and {b}"))?)
                }
                // The batch stays what it is when nothing is added or it is multiplied by 1.
                (Dim::Batch, Dim::Fixed(b)) if f(7, b) == Some(7) && f(100, b) == Some(100) => Dim::Batch,
                (Dim::Fixed(a), Dim::Batch) if f(a, 7) == Some(7) && f(a, 100) == Some(100) => Dim::Batch,
                _ => return Err("it computes with the number of images".into()),
            });
        }
        Ok(Self { values: values.into(), scalar: self.scalar && other.scalar })
    }
}
