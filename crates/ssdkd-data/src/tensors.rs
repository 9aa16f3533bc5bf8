//! Images as raw tensors: Arrow's extension type `arrow.fixed_shape_tensor`.
//!
//! The order of the sides is C, H, W, or what `dim_names` or `permutation` say. Whole numbers are from 0 to 255 and others from 0 to 1.

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeListArray};
use arrow::datatypes::{DataType, Field, Float32Type, Int64Type, UInt8Type};

/// Why a column cannot be used.
pub(crate) struct Fault {
    pub(crate) what: String,
    pub(crate) hint: &'static str,
    /// The row of the batch that shows it.
    pub(crate) row: Option<usize>,
}

const LAYOUT_HINT: &str =
    "store arrow.fixed_shape_tensor of u8 or f32 with the shape [C, H, W], or encoded image files";
const ORDER_HINT: &str = "name the sides: dim_names of C, H and W, in the order that the values are in";

impl Fault {
    fn of_column(what: impl Into<String>, hint: &'static str) -> Self {
        Self { what: what.into(), hint, row: None }
    }
}

/// The images of a batch.
pub(crate) struct Tensors {
    /// \[C, H, W\]
    pub(crate) shape: [usize; 3],
    /// How far apart in an image's values the neighbors along C, H and W are.
    strides: [usize; 3],
    values: Vec<u8>,
}

impl Tensors {
    pub(crate) fn read(field: &Field, list: &FixedSizeListArray) -> Result<Self, Fault> {
        let (shape, strides) = layout(field)?;
        let size = shape.iter().try_fold(1_usize, |size, &side| size.checked_mul(side)).filter(|&size| size > 0);
        if size != Some(list.value_length() as usize) {
            let what = format!("says the shape {shape:?} and has {} values", list.value_length());
            return Err(Fault::of_column(what, LAYOUT_HINT));
        }
        // `values` is not sliced with the list; the reader's batches start at 0.
        let (values, size) = (list.values(), list.value_length() as usize);
        let count = list.len() * size;
        if list.null_count() > 0 || values.null_count() > 0 || values.len() < count {
            return Err(Fault::of_column("has nulls", "leave out the rows without an image"));
        }
        Ok(Self { shape, strides, values: bytes(&values.slice(0, count), size)? })
    }

    pub(crate) fn len(&self) -> usize {
        self.values.len() / self.shape.iter().product::<usize>()
    }

    /// Returns each image, (C, H, W).
    pub(crate) fn images(&self) -> impl Iterator<Item = Vec<u8>> {
        let ([channels, height, width], [c, h, w]) = (self.shape, self.strides);
        self.values.chunks_exact(channels * height * width).map(move |image| {
            if [c, h, w] == [height * width, width, 1] {
                return image.to_vec();
            }
            let places = (0..channels).flat_map(|channel| (0..height).map(move |y| channel * c + y * h));
            places.flat_map(|start| (0..width).map(move |x| image[start + x * w])).collect()
        })
    }
}

/// Returns \[C, H, W\] and the strides of these, from the extension type's metadata.
fn layout(field: &Field) -> Result<([usize; 3], [usize; 3]), Fault> {
    let fault = |what: &str| Fault::of_column(what, LAYOUT_HINT);
    let metadata = field.metadata();
    if metadata.get("ARROW:extension:name").map(String::as_str) != Some("arrow.fixed_shape_tensor") {
        return Err(fault("is a list that does not say its shape"));
    }
    let metadata = metadata.get("ARROW:extension:metadata").and_then(|text| serde_json::from_str(text).ok());
    let metadata: serde_json::Value = metadata.ok_or_else(|| fault("does not say its shape"))?;
    let numbers = |key: &str| -> Option<Vec<usize>> {
        metadata.get(key)?.as_array()?.iter().map(|value| value.as_u64().map(|value| value as usize)).collect()
    };
    let sides = numbers("shape").ok_or_else(|| fault("does not say its shape"))?;
    let order = match metadata.get("dim_names").filter(|names| !names.is_null()) {
        Some(names) => Some(order_of_names(names)?),
        // The order that the sides have says nothing: every column that pyarrow writes has it.
        None => numbers("permutation").filter(|order| !order.iter().copied().eq(0..sides.len())),
    };
    if sides.len() == 2 && order.as_ref().is_none_or(|order| *order == [0, 1]) {
        let [height, width] = [sides[0], sides[1]]; // gray
        return Ok(([1, height, width], strides([1, height, width], [0, 1, 2])));
    }
    let sides: [usize; 3] =
        sides.try_into().map_err(|sides: Vec<_>| fault(&format!("says the shape {sides:?}, which is no image's")))?;
    let Some(order) = order else {
        let is_channels = |side: usize| matches!(side, 1 | 3 | 4);
        if is_channels(sides[2]) && !is_channels(sides[0]) {
            let what = format!("says the shape {sides:?} and not the order of its sides, which looks like H, W, C");
            return Err(Fault::of_column(what, ORDER_HINT));
        }
        return Ok((sides, strides(sides, [0, 1, 2])));
    };
    match <[usize; 3]>::try_from(order) {
        Ok(order) if (0..3).all(|side| order.contains(&side)) => {
            Ok((order.map(|side| sides[side]), strides(sides, order)))
        }
        _ => Err(Fault::of_column("has a permutation that does not fit its shape", ORDER_HINT)),
    }
}

/// Returns the place of C, H and W among the names of the sides.
fn order_of_names(names: &serde_json::Value) -> Result<Vec<usize>, Fault> {
    const KNOWN: [&[&str]; 3] = [
        &["c", "channel", "channels"],
        &["h", "height", "y", "row", "rows"],
        &["w", "width", "x", "column", "columns", "col"],
    ];
    let names = names.as_array().into_iter().flatten().map(|name| name.as_str().unwrap_or_default().to_lowercase());
    let names = names.collect::<Vec<_>>();
    let known = if names.len() == 2 { &KNOWN[1..] } else { &KNOWN };
    let place = |known: &&[&str]| names.iter().position(|name| known.contains(&name.as_str()));
    known.iter().map(place).collect::<Option<Vec<_>>>().ok_or_else(|| {
        Fault::of_column(format!("calls its sides {:?}, which are not C, H and W", names.join(", ")), ORDER_HINT)
    })
}

/// Returns the strides of sides that are stored in the order of `sides`, taken in another `order`.
fn strides(sides: [usize; 3], order: [usize; 3]) -> [usize; 3] {
    let stored = [sides[1].saturating_mul(sides[2]), sides[2], 1];
    order.map(|side| stored[side])
}

/// Returns the values as bytes; `size` of them are an image.
fn bytes(values: &ArrayRef, size: usize) -> Result<Vec<u8>, Fault> {
    let holds = |values: &ArrayRef| Fault::of_column(format!("holds {}", values.data_type()), LAYOUT_HINT);
    let cast = |to: &DataType| arrow::compute::cast(values, to).ok().filter(|cast| cast.null_count() == 0);
    match values.data_type() {
        DataType::UInt8 => Ok(values.as_primitive::<UInt8Type>().values().to_vec()),
        kind if kind.is_integer() => {
            let values = cast(&DataType::Int64).ok_or_else(|| holds(values))?;
            let values = values.as_primitive::<Int64Type>().values();
            let fault = |at: usize| Fault {
                what: format!("holds {}; whole numbers are from 0 to 255", values[at]),
                hint: "store u8 from 0 to 255, or f32 from 0 to 1",
                row: Some(at / size),
            };
            let byte = |(at, &value): (usize, &i64)| u8::try_from(value).map_err(|_| fault(at));
            values.iter().enumerate().map(byte).collect()
        }
        DataType::Float16 | DataType::Float32 | DataType::Float64 => {
            let values = cast(&DataType::Float32).ok_or_else(|| holds(values))?;
            let values = values.as_primitive::<Float32Type>().values();
            if let Some(at) = values.iter().position(|value| !(0.0..=1.0).contains(value)) {
                let what = format!("holds {}; numbers that are not whole are from 0 to 1", values[at]);
                return Err(Fault { what, hint: remedy(values), row: Some(at / size) });
            }
            Ok(values.iter().map(|value| (value * 255.0).round() as u8).collect())
        }
        _ => Err(holds(values)),
    }
}

/// Returns what to do about values that are not from 0 to 1.
fn remedy(values: &[f32]) -> &'static str {
    let (lowest, highest) = values
        .iter()
        .fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), value| (low.min(*value), high.max(*value)));
    if values.iter().any(|value| !value.is_finite()) {
        "repair or leave out the images with values that are not finite"
    } else if lowest < 0.0 {
        "store the images as they were before normalization, or clamp them to 0 to 1"
    } else if highest > 2.0 {
        "divide by 255, or store u8"
    } else {
        "clamp the values to 0 to 1"
    }
}
