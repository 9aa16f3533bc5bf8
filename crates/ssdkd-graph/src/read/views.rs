//! Operations that only move numbers: reshape, transpose, slice, split, concatenate.

use std::rc::Rc;

use super::build::{Builder, Outcome, normal_axis};
use super::meaning::{Dim, MOST_WHOLE, Meaning, View, Whole};
use crate::graph::NodeId;
use crate::op::{Op, PadValue};
use crate::shape::Shape;

/// Most dimensions of a view.
const MOST_DIMENSIONS: usize = 8;

impl Builder {
    /// Returns `x` in other sizes; `-1` is what is left.
    pub fn reshape(&mut self, name: &str, x: &Meaning, dims: &[Dim]) -> Outcome {
        if dims.len() > MOST_DIMENSIONS {
            return Err(format!("it has {} dimensions", dims.len()));
        }
        match x {
            Meaning::Constant(constant) => {
                let total = constant.count()? as i64;
                let fixed = Whole::list(dims.to_vec()).fixed()?;
                let known =
                    fixed.iter().filter(|&&size| size != -1).try_fold(1_i64, |all, &size| all.checked_mul(size));
                let known = known.filter(|&known| known > 0).ok_or("it is a constant of impossible sizes")?;
                let sizes = fixed.iter().map(|&size| if size == -1 { total / known } else { size } as usize);
                constant.reshaped(&sizes.collect::<Vec<_>>()).map(Meaning::Constant)
            }
            Meaning::Whole(whole) => {
                let scalar = dims.is_empty();
                if scalar && whole.values.len() != 1 || dims.len() > 1 {
                    return Err("it makes a table of whole numbers".into());
                }
                Ok(Meaning::Whole(Whole { values: whole.values.clone(), scalar }))
            }
            Meaning::View(view) if view.order.iter().copied().ne(0..view.dims.len()) => {
                self.unshuffled(name, view, dims)
            }
            Meaning::View(view) => self.reshape_node(name, view.source, dims),
            _ => {
                let source = self.value(x)?;
                self.reshape_node(name, source, dims)
            }
        }
    }

    fn reshape_node(&mut self, name: &str, source: NodeId, dims: &[Dim]) -> Outcome {
        let shape = self.shape(source);
        let sizes = self.resolve(dims, shape.numbers())?;
        match (sizes.as_slice(), shape) {
            (_, Shape::Rows { features }) if sizes == [features] => Ok(Meaning::Value(source)),
            (&[channels, height, width], shape) if shape == (Shape::Map { channels, height, width }) => {
                Ok(Meaning::Value(source))
            }
            ([_], Shape::Map { .. }) => self.push(name, Op::Flatten, &[source]),
            (&[channels, height, width], Shape::Rows { .. }) => {
                self.push(name, Op::Unflatten { channels, height, width }, &[source])
            }
            _ => {
                let dims = [Dim::Batch].into_iter().chain(sizes.iter().map(|&size| Dim::Fixed(size as i64))).collect();
                let order = (0..=sizes.len()).collect();
                Ok(Meaning::View(Rc::new(View { source, dims, order })))
            }
        }
    }

    /// Returns (B, g, n, …) with g and n exchanged, back in the sizes of its source: a channel shuffle.
    fn unshuffled(&mut self, name: &str, view: &View, dims: &[Dim]) -> Outcome {
        let refused = || "it turns dimensions in a way that is no channel shuffle".to_string();
        let Shape::Map { channels, height, width } = self.shape(view.source) else { return Err(refused()) };
        let sizes = self.resolve(dims, self.shape(view.source).numbers())?;
        let fixed = |dim: Dim| match dim {
            Dim::Fixed(size) => size as usize,
            Dim::Batch => 0,
        };
        let [Dim::Batch, groups, each, ..] = view.dims[..] else { return Err(refused()) };
        let swapped = view.order.len() >= 4
            && view.order[..3] == [0, 2, 1]
            && view.order[3..].iter().copied().eq(3..view.dims.len());
        if swapped && fixed(groups) * fixed(each) == channels && sizes == [channels, height, width] {
            return self.push(name, Op::ChannelShuffle { groups: fixed(groups) }, &[view.source]);
        }
        Err(refused())
    }

    /// Returns `x` with its axes in another order.
    pub fn transpose(&mut self, x: &Meaning, order: &[usize]) -> Outcome {
        if let Meaning::Constant(constant) = x {
            return constant.transposed(order, &mut self.budget).map(Meaning::Constant);
        }
        let view = if let Meaning::View(view) = x {
            (**view).clone()
        } else {
            let dims = self.dims(x)?;
            let source = self.value(x)?;
            View { source, order: (0..dims.len()).collect(), dims }
        };
        let mut sorted = order.to_vec();
        sorted.sort_unstable();
        if !sorted.iter().copied().eq(0..view.dims.len()) {
            return Err(format!("it is no order of {} dimensions", view.dims.len()));
        }
        let order = order.iter().map(|&axis| view.order[axis]).collect::<Vec<_>>();
        if order.iter().copied().eq(0..view.dims.len()) && view.dims == self.dims(&Meaning::Value(view.source))? {
            return Ok(Meaning::Value(view.source));
        }
        Ok(Meaning::View(Rc::new(View { order, ..view })))
    }

    /// Returns `x` with the axes from `start` to `end` as one.
    pub fn flatten(&mut self, name: &str, x: &Meaning, start: i64, end: i64) -> Outcome {
        let mut dims = self.dims(x)?;
        let (start, end) = (normal_axis(start, dims.len())?, normal_axis(end, dims.len())?);
        if start > end || start == 0 && end > 0 && dims[0] == Dim::Batch {
            return Err(format!("it joins the axes {start} to {end}"));
        }
        let product = dims[start..=end].iter().try_fold(1_i64, |all, dim| match dim {
            Dim::Fixed(size) => all.checked_mul(*size),
            Dim::Batch => None,
        });
        if start < end {
            let product = product.ok_or("it joins axes that are too large")?;
            dims.splice(start..=end, [Dim::Fixed(product)]);
        }
        self.reshape(name, x, &dims)
    }

    /// Returns `x` without the axes of size 1 among `axes`, or with new ones.
    pub fn squeeze(&mut self, name: &str, x: &Meaning, axes: &[i64]) -> Outcome {
        let dims = self.dims(x)?;
        if let Meaning::Whole(whole) = x {
            return Ok(Meaning::Whole(Whole { scalar: whole.values.len() == 1, ..whole.clone() }));
        }
        let axes = axes.iter().map(|&axis| normal_axis(axis, dims.len())).collect::<Result<Vec<_>, _>>()?;
        let kept = dims.iter().enumerate().filter(|(axis, dim)| !(axes.contains(axis) && **dim == Dim::Fixed(1)));
        let kept = kept.map(|(_, dim)| *dim).collect::<Vec<_>>();
        self.reshape(name, x, &kept)
    }

    /// Returns `x` with new axes of size 1, which have the numbers `axes` afterwards.
    pub fn unsqueeze(&mut self, name: &str, x: &Meaning, axes: &[i64]) -> Outcome {
        if let Meaning::Whole(whole) = x {
            return if whole.scalar {
                Ok(Meaning::Whole(Whole { scalar: false, ..whole.clone() }))
            } else {
                Err("it makes a table of whole numbers".into())
            };
        }
        let mut dims = self.dims(x)?;
        if axes.len() + dims.len() > MOST_DIMENSIONS {
            return Err("it has too many dimensions".into());
        }
        let rank = dims.len() + axes.len();
        let mut axes = axes.iter().map(|&axis| normal_axis(axis, rank)).collect::<Result<Vec<_>, _>>()?;
        axes.sort_unstable();
        for axis in axes {
            if axis > dims.len() {
                return Err(format!("it has no axis {axis}"));
            }
            dims.insert(axis, Dim::Fixed(1));
        }
        self.reshape(name, x, &dims)
    }

    /// Returns the part of `x` from `start` to `end` along an axis; both may count from the end.
    pub fn slice(&mut self, x: &Meaning, axis: i64, [start, end, step]: [i64; 3]) -> Outcome {
        let axis = self.axis(x, axis)?;
        let dim = self.dims(x)?[axis];
        let Dim::Fixed(size) = dim else {
            // All images, however many.
            let all = start == 0 && end >= i64::from(i32::MAX) && step == 1;
            return if all { Ok(x.clone()) } else { Err("it takes some of the images".into()) };
        };
        let place = |at: i64| if at < 0 { at.saturating_add(size).max(0) } else { at.min(size) };
        let (start, end) = (place(start), place(end));
        if start == 0 && end == size && step == 1 {
            return Ok(x.clone());
        }
        if step < 1 || start >= end {
            return Err(format!("it takes {start}..{end} in steps of {step}"));
        }
        if let Meaning::Whole(whole) = x {
            if end - start > MOST_WHOLE as i64 {
                return Err("it takes many whole numbers".into());
            }
            let values = whole.values[start as usize..end as usize].iter().step_by(step as usize).copied().collect();
            return Ok(Meaning::Whole(Whole::list(values)));
        }
        match (x, axis) {
            (Meaning::Value(_) | Meaning::Piece(..), 1) if step == 1 => {
                let (source, first) = match x {
                    Meaning::Piece(source, [first, _]) => (*source, *first),
                    _ => (self.value(x)?, 0),
                };
                Ok(Meaning::Piece(source, [first + start as usize, first + end as usize]))
            }
            (Meaning::Value(_) | Meaning::Strided(..), 2 | 3) if start == 0 && end == size => {
                let (source, mut steps) = match x {
                    Meaning::Strided(source, steps) => (*source, *steps),
                    _ => (self.value(x)?, [1, 1]),
                };
                steps[axis - 2] *=
                    usize::try_from(step).ok().filter(|&step| step <= 64).ok_or("its step is too large")?;
                Ok(Meaning::Strided(source, steps))
            }
            _ => Err(format!("it takes {start}..{end} in steps of {step} along axis {axis}")),
        }
    }

    /// Returns `x` in pieces of these sizes along an axis.
    pub fn split(&mut self, x: &Meaning, axis: i64, sizes: &[i64]) -> Outcome {
        let axis = self.axis(x, axis)?;
        let Dim::Fixed(size) = self.dims(x)?[axis] else { return Err("it splits the images".into()) };
        if axis != 1 || sizes.iter().any(|&size| size <= 0) {
            return Err(format!("it splits axis {axis} into pieces of {} sizes", sizes.len()));
        }
        if sizes.iter().try_fold(0_i64, |all, &size| all.checked_add(size)) != Some(size) {
            return Err(format!("its {} pieces are not the {size} channels", sizes.len()));
        }
        let (source, mut start) = match x {
            Meaning::Piece(source, [first, _]) => (*source, *first),
            _ => (self.value(x)?, 0),
        };
        self.budget.take(4 * sizes.len())?;
        let mut pieces = Vec::with_capacity(sizes.len());
        for &size in sizes {
            pieces.push([start, start + size as usize]);
            start += size as usize;
        }
        Ok(Meaning::Pieces(source, Rc::new(pieces)))
    }

    /// Returns `x` in pieces of `size`, the last one smaller.
    pub fn split_evenly(&mut self, x: &Meaning, axis: i64, size: i64) -> Outcome {
        let at = self.axis(x, axis)?;
        let Dim::Fixed(all) = self.dims(x)?[at] else { return Err("it splits the images".into()) };
        if size <= 0 || all / size >= MOST_WHOLE as i64 {
            return Err(format!("it splits {all} channels into pieces of {size}"));
        }
        let mut sizes = vec![size; (all / size) as usize];
        sizes.extend(Some(all % size).filter(|&rest| rest > 0));
        self.split(x, axis, &sizes)
    }

    /// One of several pieces.
    pub fn item(&mut self, pieces: &Meaning, index: i64) -> Outcome {
        let Meaning::Pieces(source, bounds) = pieces else {
            return if index == 0 { Ok(pieces.clone()) } else { Err(format!("it takes result {index}")) };
        };
        let piece = bounds[normal_axis(index, bounds.len())?];
        let all = piece == [0, self.shape(*source).channels()];
        Ok(if all { Meaning::Value(*source) } else { Meaning::Piece(*source, piece) })
    }

    /// Several things behind each other.
    pub fn concat(&mut self, name: &str, parts: &[Meaning], axis: i64) -> Outcome {
        if let [one] = parts {
            return Ok(one.clone());
        }
        if !parts.is_empty() && parts.iter().all(|part| matches!(part, Meaning::Whole(_))) {
            let values = parts.iter().flat_map(|part| match part {
                Meaning::Whole(whole) => &*whole.values,
                _ => &[],
            });
            let values = values.copied().take(MOST_WHOLE + 1).collect::<Vec<_>>();
            return if values.len() > MOST_WHOLE {
                Err("it makes a long list of whole numbers".into())
            } else {
                Ok(Meaning::Whole(Whole::list(values)))
            };
        }
        let first = parts.first().ok_or("it has no inputs")?;
        if self.axis(first, axis)? != 1 {
            return Err(format!("it joins along axis {axis}"));
        }
        let inputs = parts.iter().map(|part| self.value(part)).collect::<Result<Vec<_>, _>>()?;
        self.push(name, Op::Concat, &inputs)
    }

    /// Pads, as PyTorch gives them: left, right, top, bottom, channels before, channels after.
    pub fn pad(&mut self, name: &str, x: &Meaning, pads: &[i64], value: f64) -> Outcome {
        let mut all = [0_usize; 6];
        for (all, &pad) in all.iter_mut().zip(pads) {
            *all = usize::try_from(pad).map_err(|_| format!("it cuts off {} pixels", pad.unsigned_abs()))?;
        }
        if pads.iter().skip(6).any(|&pad| pad != 0) {
            return Err("it pads the images".into());
        }
        let [left, right, top, bottom, before, after] = all;
        if all == [0; 6] {
            return Ok(x.clone());
        }
        if before + after > 0 {
            if [left, right, top, bottom] != [0; 4] || value != 0.0 {
                return Err("it pads channels with values other than zero".into());
            }
            let (source, stride) = match x {
                Meaning::Strided(source, [down, right]) if down == right => (*source, *down),
                _ => (self.value(x)?, 1),
            };
            return self.push(name, Op::SubsamplePad { stride, before, after }, &[source]);
        }
        let value = match value {
            0.0 => PadValue::Zero,
            value if value <= f64::from(f32::MIN) => PadValue::NegativeInfinity,
            value => return Err(format!("it pads with {value}")),
        };
        let x = self.value(x)?;
        self.push(name, Op::Pad { sides: [top, left, bottom, right], value }, &[x])
    }
}
