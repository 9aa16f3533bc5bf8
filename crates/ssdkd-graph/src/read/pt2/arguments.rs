//! The arguments of PyTorch's operations, typed.

use std::collections::HashMap;

use super::schema::{Argument, Symbolic};
use crate::op::Pool;
use crate::read::constant::Constant;
use crate::read::layers::Steps;
use crate::read::meaning::{Dim, Meaning, Whole};

/// An argument with names replaced by what they stand for.
pub(super) enum Value {
    One(Meaning),
    Several(Vec<Meaning>),
    Ints(Vec<i64>),
    Floats(Vec<f64>),
    Bool(bool),
    Text(String),
    Other,
}

impl Value {
    pub fn of(argument: &Argument, find: &dyn Fn(&String) -> Result<Meaning, String>) -> Result<Self, String> {
        Ok(match argument {
            Argument::None => Self::One(Meaning::Nothing),
            Argument::Tensor(name) => Self::One(find(name)?),
            Argument::Tensors(names) => Self::Several(names.iter().map(find).collect::<Result<_, _>>()?),
            Argument::OptionalTensors(names) => {
                let one = |name: &Option<String>| name.as_ref().map_or(Ok(Meaning::Nothing), find);
                Self::Several(names.iter().map(one).collect::<Result<_, _>>()?)
            }
            Argument::Int(value) => Self::Ints(vec![*value]),
            Argument::Ints(values) => Self::Ints(values.clone()),
            Argument::Float(value) => Self::Floats(vec![*value]),
            Argument::Floats(values) => Self::Floats(values.clone()),
            Argument::Bool(value) => Self::Bool(*value),
            Argument::Text(text) => Self::Text(text.clone()),
            Argument::Symbolic(values, scalar) => {
                let mut dims = Vec::with_capacity(values.len());
                for value in values {
                    dims.push(match value {
                        Symbolic::Int(value) => Dim::Fixed(*value),
                        Symbolic::Name(name) => match find(name)? {
                            Meaning::Whole(whole) if whole.values.len() == 1 => whole.values[0],
                            Meaning::Unknown => return Ok(Self::One(Meaning::Unknown)),
                            _ => return Err("a size is not a whole number".into()),
                        },
                    });
                }
                Self::One(Meaning::Whole(Whole { values: dims.into(), scalar: *scalar }))
            }
            Argument::Other => Self::Other,
        })
    }
}

/// The arguments of one node, by name.
pub(super) struct Arguments<'a>(pub &'a HashMap<String, Value>);

impl Arguments<'_> {
    /// Returns a tensor; `Nothing` if it is left out.
    pub fn tensor(&self, name: &str) -> Result<&Meaning, String> {
        match self.0.get(name) {
            None => Ok(&Meaning::Nothing),
            Some(Value::One(meaning)) => Ok(meaning),
            Some(_) => Err(format!("its argument {name} is no tensor")),
        }
    }

    /// Returns a tensor, or a number as a tensor without dimensions.
    pub fn operand(&self, name: &str) -> Result<Meaning, String> {
        match self.0.get(name) {
            Some(Value::Ints(ints)) if ints.len() == 1 => {
                Ok(Meaning::Constant(Constant::fill(name, ints[0] as f32, &[])))
            }
            Some(Value::Floats(floats)) if floats.len() == 1 => {
                Ok(Meaning::Constant(Constant::fill(name, floats[0] as f32, &[])))
            }
            _ => self.tensor(name).cloned(),
        }
    }

    pub fn several(&self, name: &str) -> Result<&[Meaning], String> {
        match self.0.get(name) {
            Some(Value::Several(all)) => Ok(all),
            _ => Err(format!("its argument {name} is no list of tensors")),
        }
    }

    /// Sizes that may depend on the number of images; `None` if they are left out.
    pub fn dims(&self, name: &str) -> Result<Option<Vec<Dim>>, String> {
        match self.0.get(name) {
            None | Some(Value::One(Meaning::Nothing)) => Ok(None),
            Some(Value::Ints(values)) => Ok(Some(values.iter().map(|&value| Dim::Fixed(value)).collect())),
            Some(Value::One(Meaning::Whole(whole))) => Ok(Some(whole.values.to_vec())),
            Some(_) => Err(format!("its argument {name} is no list of whole numbers")),
        }
    }

    pub fn ints(&self, name: &str) -> Result<Option<Vec<i64>>, String> {
        self.dims(name)?.map(|dims| Whole::list(dims).fixed()).transpose()
    }

    pub fn int(&self, name: &str, default: i64) -> Result<i64, String> {
        match self.ints(name)?.as_deref() {
            None => Ok(default),
            Some(&[value]) => Ok(value),
            Some(_) => Err(format!("its argument {name} is no whole number")),
        }
    }

    pub fn float(&self, name: &str, default: f64) -> Result<f64, String> {
        match self.0.get(name) {
            None | Some(Value::One(Meaning::Nothing)) => Ok(default),
            Some(Value::Floats(floats)) if floats.len() == 1 => Ok(floats[0]),
            Some(Value::Ints(ints)) if ints.len() == 1 => Ok(ints[0] as f64),
            Some(Value::Bool(value)) => Ok(f64::from(u8::from(*value))),
            Some(_) => Err(format!("its argument {name} is no number")),
        }
    }

    pub fn bool(&self, name: &str, default: bool) -> Result<bool, String> {
        match self.0.get(name) {
            None => Ok(default),
            Some(Value::Bool(value)) => Ok(*value),
            Some(_) => Err(format!("its argument {name} is neither true nor false")),
        }
    }

    /// Returns height and width; one number stands for both.
    pub fn pair(&self, name: &str, default: Option<[usize; 2]>) -> Result<[usize; 2], String> {
        let size = |value: i64| usize::try_from(value).map_err(|_| format!("its argument {name} is negative"));
        match (self.ints(name)?.as_deref(), default) {
            (Some(&[both]), _) => Ok([size(both)?; 2]),
            (Some(&[height, width]), _) => Ok([size(height)?, size(width)?]),
            (Some([]) | None, Some(default)) => Ok(default),
            _ => Err(format!("its argument {name} is no pair of sizes")),
        }
    }

    pub fn steps(&self) -> Result<Steps, String> {
        let [down, right] = match self.0.get("padding") {
            Some(Value::Text(text)) if text == "valid" => [0; 2],
            Some(Value::Text(_)) => return Err("its padding \"same\" is not supported".into()),
            _ => self.pair("padding", Some([0; 2]))?,
        };
        Ok(Steps {
            stride: self.pair("stride", Some([1; 2]))?,
            padding: [down, right, down, right],
            dilation: self.pair("dilation", Some([1; 2]))?,
            output_padding: self.pair("output_padding", Some([0; 2]))?,
            groups: usize::try_from(self.int("groups", 1)?).map_err(|_| "its groups are negative")?,
        })
    }

    pub fn pool(&self) -> Result<Pool, String> {
        let kernel = self.pair("kernel_size", None)?;
        let [down, right] = self.pair("padding", Some([0; 2]))?;
        Ok(Pool {
            kernel,
            stride: self.pair("stride", Some(kernel))?,
            padding: [down, right, down, right],
            dilation: self.pair("dilation", Some([1; 2]))?,
            ceil_mode: self.bool("ceil_mode", false)?,
        })
    }
}
