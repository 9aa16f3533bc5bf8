//! What ONNX computes without the image: whole numbers that describe shapes, and numbers that are written once for many.

use super::attributes::Attributes;
use super::external::Files;
use super::model::{self, Attribute, Node};
use crate::read::build::{Builder, Outcome, normal_axis};
use crate::read::constant::Constant;
use crate::read::meaning::{Dim, MOST_LISTED, MOST_WHOLE, Meaning, Whole};

pub(super) fn whole(meaning: &Meaning) -> Result<&Whole, String> {
    match meaning {
        Meaning::Whole(whole) => Ok(whole),
        _ => Err("an input that tells sizes is not known beforehand".into()),
    }
}

/// Whole numbers as numbers; numbers as they are.
pub(super) fn float(x: &Meaning) -> Outcome {
    let Meaning::Whole(whole) = x else { return Ok(x.clone()) };
    let numbers = whole.fixed()?.iter().map(|&value| value as f32).collect::<Vec<_>>();
    let dims = if whole.scalar { vec![] } else { vec![numbers.len()] };
    Constant::new("whole", &dims, numbers, false).map(Meaning::Constant)
}

/// Returns `dims` times the same number.
pub(super) fn fill(name: &str, value: &Meaning, dims: &[i64]) -> Outcome {
    match value {
        Meaning::Constant(constant) => {
            let sizes = dims.iter().map(|&size| usize::try_from(size)).collect::<Result<Vec<_>, _>>();
            let sizes = sizes.map_err(|_| "it has a negative size")?;
            let sizes = crate::read::constant::broadcast(&constant.dims, &sizes).ok_or("it cannot be repeated so")?;
            match constant.scalar() {
                _ if *constant.dims == *sizes => Ok(Meaning::Constant(constant.clone())),
                Some(value) => Ok(Meaning::Constant(Constant::fill(name, value, &sizes))),
                None => Err("it repeats numbers".into()),
            }
        }
        Meaning::Whole(whole) if whole.values.len() == 1 && dims.len() <= 1 => {
            let count = dims.first().copied().unwrap_or(1);
            let count = usize::try_from(count).ok().filter(|&count| count <= MOST_WHOLE);
            let values = vec![whole.values[0]; count.ok_or("it makes a long list of whole numbers")?];
            Ok(Meaning::Whole(Whole { values: values.into(), scalar: dims.is_empty() }))
        }
        _ => Err("it repeats a value that is not one number".into()),
    }
}

pub(super) fn constant_of(name: &str, node: &Node<'_>, files: &mut Files<'_>) -> Outcome {
    let one = |value: i64| Meaning::Whole(Whole::one(Dim::Fixed(value)));
    for (key, attribute) in &node.attributes {
        return match (*key, attribute) {
            ("value", Attribute::Tensor(tensor)) => Ok(match model::tensor(tensor.clone(), files)?.1 {
                Meaning::Constant(constant) => {
                    Meaning::Constant(Constant { name: name.into(), trained: false, ..constant })
                }
                meaning => meaning,
            }),
            ("value_int", Attribute::Int(value)) => Ok(one(*value)),
            ("value_float", Attribute::Float(value)) => Ok(Meaning::Constant(Constant::fill(name, *value, &[]))),
            ("value_ints", Attribute::Ints(values)) if values.len() <= MOST_LISTED => {
                Ok(Meaning::Whole(Whole::list(values.iter().map(|&value| Dim::Fixed(value)).collect())))
            }
            ("value_floats", Attribute::Floats(values)) => {
                Constant::new(name, &[values.len()], values.clone(), false).map(Meaning::Constant)
            }
            _ => continue,
        };
    }
    Err("it is neither numbers nor a tensor".into())
}

pub(super) fn gather(b: &mut Builder, a: &Attributes<'_, '_>, x: &Meaning, at: &Meaning) -> Outcome {
    let (Meaning::Whole(values), Meaning::Whole(positions)) = (x, at) else {
        return Err("it picks numbers of a tensor".into());
    };
    b.axis(x, a.int("axis", 0)?)?;
    let pick = |&at: &i64| normal_axis(at, values.values.len()).map(|at| values.values[at]);
    let picked = positions.fixed()?.iter().map(pick).collect::<Result<Vec<_>, _>>()?;
    if picked.len() > MOST_WHOLE {
        return Err("it picks many whole numbers".into());
    }
    Ok(Meaning::Whole(Whole { values: picked.into(), scalar: positions.scalar }))
}
