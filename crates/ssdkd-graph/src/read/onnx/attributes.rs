//! The attributes of ONNX's nodes, typed.

use super::model::{Attribute, Node};

/// The attributes of a node.
pub(super) struct Attributes<'n, 'a>(pub &'n Node<'a>);

impl Attributes<'_, '_> {
    pub fn get(&self, name: &str) -> Option<&Attribute<'_>> {
        self.0.attributes.get(name)
    }

    pub fn int(&self, name: &str, default: i64) -> Result<i64, String> {
        match self.get(name) {
            None => Ok(default),
            Some(Attribute::Int(value)) => Ok(*value),
            Some(_) => Err(format!("its attribute {name} is no whole number")),
        }
    }

    pub fn float(&self, name: &str, default: f64) -> Result<f64, String> {
        match self.get(name) {
            None => Ok(default),
            Some(Attribute::Float(value)) => Ok(widened(*value)),
            Some(_) => Err(format!("its attribute {name} is no number")),
        }
    }

    pub fn text(&self, name: &str, default: &'static str) -> Result<&str, String> {
        match self.get(name) {
            None => Ok(default),
            Some(Attribute::Text(text)) => {
                std::str::from_utf8(text).map_err(|_| format!("its attribute {name} is no text"))
            }
            Some(_) => Err(format!("its attribute {name} is no text")),
        }
    }

    pub fn ints(&self, name: &str) -> Result<Option<&[i64]>, String> {
        match self.get(name) {
            None => Ok(None),
            Some(Attribute::Ints(values)) => Ok(Some(values)),
            Some(_) => Err(format!("its attribute {name} is no list of whole numbers")),
        }
    }

    /// Sizes that are not negative.
    pub fn sizes<const N: usize>(&self, name: &str, default: [usize; N]) -> Result<[usize; N], String> {
        let Some(values) = self.ints(name)? else { return Ok(default) };
        let sizes = values.iter().map(|&value| usize::try_from(value)).collect::<Result<Vec<_>, _>>();
        let sizes = sizes.map_err(|_| format!("its attribute {name} has a negative size"))?;
        sizes.try_into().map_err(|_| format!("its attribute {name} has {} sizes instead of {N}", values.len()))
    }

    /// Returns padding on each side of windows of this size: top, left, bottom, right.
    pub fn padding(
        &self,
        input: [usize; 2],
        kernel: [usize; 2],
        stride: [usize; 2],
        dilation: [usize; 2],
    ) -> Result<[usize; 4], String> {
        let lower = match self.text("auto_pad", "NOTSET")? {
            "NOTSET" => return self.sizes("pads", [0; 4]),
            "VALID" => return Ok([0; 4]),
            "SAME_UPPER" => false,
            "SAME_LOWER" => true,
            other => return Err(format!("its padding {} is unknown", crate::error::clean(other))),
        };
        let side = |axis: usize| -> Result<[usize; 2], String> {
            let impossible = || "its windows are impossible".to_string();
            let reach = kernel[axis].checked_sub(1).and_then(|taps| taps.checked_mul(dilation[axis]));
            let reach = reach.and_then(|reach| reach.checked_add(1)).ok_or_else(impossible)?;
            if stride[axis] == 0 {
                return Err(impossible());
            }
            let windows = input[axis].div_ceil(stride[axis]);
            let covered = (windows - 1).checked_mul(stride[axis]).and_then(|start| start.checked_add(reach));
            let all = covered.ok_or_else(impossible)?.saturating_sub(input[axis]);
            let before = if lower { all.div_ceil(2) } else { all / 2 };
            Ok([before, all - before])
        };
        let ([top, bottom], [left, right]) = (side(0)?, side(1)?);
        Ok([top, left, bottom, right])
    }
}

/// Returns a number of 32 bits as someone would have written it: 0.001, not 0.0010000000474974513.
pub(super) fn widened(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}
