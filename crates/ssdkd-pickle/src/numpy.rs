//! Arrays and scalars of NumPy, as it pickles them.

use std::borrow::Cow;

use crate::Value;

/// An array of NumPy.
#[derive(Debug, Clone, PartialEq)]
pub struct Array<'a> {
    /// The type of an element as NumPy's letter and size in bytes: `f4`, `u1`, `i8`, `b1`.
    pub dtype: &'a str,
    /// Whether the most significant byte of an element is the first.
    pub big_endian: bool,
    /// The sides; none for a scalar.
    pub shape: Vec<usize>,
    /// Whether the first index runs fastest in `data`, not the last.
    pub fortran: bool,
    /// The elements. Their number is not checked against the shape.
    pub data: Cow<'a, [u8]>,
}

/// Most dimensions of an array: what NumPy allows.
const MOST_DIMENSIONS: usize = 64;

/// What the pickle of an array or a scalar is made of.
struct Parts<'a> {
    dtype: Value<'a>,
    shape: Option<Value<'a>>,
    fortran: bool,
    data: Value<'a>,
}

impl<'a> Value<'a> {
    /// Returns an array or a scalar of NumPy; `None` for anything else, and for arrays of Python objects.
    pub fn array(self) -> Option<Array<'a>> {
        let parts = self.array_parts()?;
        // The state is (version, byte order, …).
        let order = parts.dtype.state().and_then(|state| state.element(1)).and_then(Value::text);
        let dtype = parts.dtype.argument(0)?.text()?.trim_start_matches(['<', '>', '|', '=']);
        let (shape, data) = (parts.shape.map_or(Some(Vec::new()), shape)?, parts.data.bytes()?);
        Some(Array { dtype, big_endian: order == Some(">"), shape, fortran: parts.fortran, data })
    }

    /// Returns the sides of what may be an [`array`](Self::array), without a look at its elements.
    pub fn array_shape(self) -> Option<Vec<usize>> {
        self.array_parts()?.shape.map_or(Some(Vec::new()), shape)
    }

    fn array_parts(self) -> Option<Parts<'a>> {
        let (module, name) = self.function()?.rsplit_once('.')?;
        let parts = match (module, name) {
            ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct") => {
                // (version, shape, dtype, is_fortran, data)
                let state = self.state()?;
                let [shape, dtype, fortran, data] = [1, 2, 3, 4].map(|index| state.element(index));
                Parts { dtype: dtype?, shape: Some(shape?), fortran: fortran?.bool()?, data: data? }
            }
            ("numpy.core.numeric" | "numpy._core.numeric", "_frombuffer") => {
                let [data, dtype, shape, order] = [0, 1, 2, 3].map(|index| self.argument(index));
                Parts { dtype: dtype?, shape: Some(shape?), fortran: order?.text()? == "F", data: data? }
            }
            ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar") => {
                Parts { dtype: self.argument(0)?, shape: None, fortran: false, data: self.argument(1)? }
            }
            _ => return None,
        };
        (parts.dtype.function()? == "numpy.dtype").then_some(parts)
    }
}

fn shape(shape: Value<'_>) -> Option<Vec<usize>> {
    let sides = shape.elements()?;
    let size = |side: Value<'_>| usize::try_from(side.int()?).ok();
    if sides.len() > MOST_DIMENSIONS { None } else { sides.map(size).collect() }
}
