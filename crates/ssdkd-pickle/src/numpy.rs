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

impl<'a> Value<'a> {
    /// An array or a scalar of NumPy; `None` for anything else, and for arrays of Python objects.
    pub fn array(self) -> Option<Array<'a>> {
        let (module, name) = self.function()?.rsplit_once('.')?;
        match (module, name) {
            ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct") => {
                // (version, shape, dtype, is_fortran, data)
                let state = self.state()?;
                let [sides, dtype, fortran, data] = [1, 2, 3, 4].map(|index| state.element(index));
                array(dtype?, shape(sides?)?, fortran?.bool()?, data?)
            }
            ("numpy.core.numeric" | "numpy._core.numeric", "_frombuffer") => {
                let [data, dtype, sides, order] = [0, 1, 2, 3].map(|index| self.argument(index));
                array(dtype?, shape(sides?)?, order?.text()? == "F", data?)
            }
            ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar") => {
                array(self.argument(0)?, Vec::new(), false, self.argument(1)?)
            }
            _ => None,
        }
    }
}

fn array<'a>(dtype: Value<'a>, shape: Vec<usize>, fortran: bool, data: Value<'a>) -> Option<Array<'a>> {
    if dtype.function()? != "numpy.dtype" {
        return None;
    }
    // The state is (version, byte order, …).
    let order = dtype.state().and_then(|state| state.element(1)).and_then(Value::text);
    let name = dtype.argument(0)?.text()?;
    let name = name.trim_start_matches(['<', '>', '|', '=']);
    Some(Array { dtype: name, big_endian: order == Some(">"), shape, fortran, data: data.bytes()? })
}

fn shape(shape: Value<'_>) -> Option<Vec<usize>> {
    let sides = shape.elements()?;
    let size = |side: Value<'_>| usize::try_from(side.int()?).ok();
    if sides.len() > MOST_DIMENSIONS { None } else { sides.map(size).collect() }
}
