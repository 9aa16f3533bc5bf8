//! Channels put together, taken apart and reordered: tensors (…, C) of any rank from 1 on.

use std::ops::Range;

use candle_core::{Result, Tensor, bail};

use crate::device;
use crate::parallel;
use crate::value::Value;

/// Puts the channels of tensors (…, Cᵢ) with the same other sizes side by side: (…, Σ Cᵢ).
///
/// # Errors
/// If there are no tensors, one of them has no channels, or their other sizes differ.
pub fn concat_channels(parts: &[&Value]) -> Result<Value> {
    let operation = "concat_channels";
    let Some(first) = parts.first() else { bail!("{operation}: takes at least one tensor") };
    let rows = Rows::of(operation, first.tensor())?;
    let mut ends = Vec::with_capacity(parts.len());
    let mut channels = 0;
    for part in parts {
        let of = Rows::of(operation, part.tensor())?;
        if part.dims().len() != first.dims().len() || !part.dims().starts_with(&first.dims()[..first.dims().len() - 1])
        {
            bail!(
                "{operation}: takes tensors that differ in their channels alone, got {:?} and {:?}",
                first.dims(),
                part.dims()
            );
        }
        ends.push(channels..channels + of.channels);
        channels += of.channels;
    }
    let dims = with_channels(first.dims(), channels);
    let to = Rows { channels, ..rows };
    let out = {
        let pieces = parts.iter().map(|part| part.tensor()).zip(ends.iter().cloned()).collect::<Vec<_>>();
        joined(operation, &pieces, to, &dims)?
    };
    let wanted = parts.iter().map(|part| part.wants_gradient().then(|| part.dims().to_vec())).collect::<Vec<_>>();
    Ok(Value::record1(out, parts, move |grad| {
        let part = |(dims, range): (&Option<Vec<usize>>, &Range<usize>)| {
            dims.as_ref().map(|dims| taken(operation, grad, to, range.clone(), dims)).transpose()
        };
        wanted.iter().zip(&ends).map(part).collect()
    }))
}

/// Takes `count` channels of `x` (…, C) from channel `start` on: (…, count).
///
/// # Errors
/// If there are no such channels.
pub fn slice_channels(x: &Value, start: usize, count: usize) -> Result<Value> {
    let operation = "slice_channels";
    let from = Rows::of(operation, x.tensor())?;
    let end = start.checked_add(count).filter(|end| *end <= from.channels && count > 0);
    let Some(end) = end else {
        bail!("{operation}: there are no {count} channels from {start} on in a tensor of shape {:?}", x.dims());
    };
    let out = taken(operation, x.tensor(), from, start..end, &with_channels(x.dims(), count))?;
    let dims = x.dims().to_vec();
    Ok(Value::record1(out, &[x], move |grad| Ok(vec![Some(joined(operation, &[(grad, start..end)], from, &dims)?)])))
}

/// Takes `x` (…, C) apart into tensors of so many channels each, which have to add up to C.
///
/// # Errors
/// If they do not, or one of them has none.
pub fn split_channels(x: &Value, counts: &[usize]) -> Result<Vec<Value>> {
    let operation = "split_channels";
    let from = Rows::of(operation, x.tensor())?;
    let total = counts.iter().try_fold(0_usize, |total, count| total.checked_add(*count));
    if total != Some(from.channels) || counts.contains(&0) {
        bail!("{operation}: {counts:?} channels are not the {} of a tensor of shape {:?}", from.channels, x.dims());
    }
    let mut start = 0;
    let mut ranges = Vec::with_capacity(counts.len());
    let mut outputs = Vec::with_capacity(counts.len());
    for count in counts {
        outputs.push(taken(operation, x.tensor(), from, start..start + count, &with_channels(x.dims(), *count))?);
        ranges.push(start..start + count);
        start += count;
    }
    let dims = x.dims().to_vec();
    Ok(Value::record_all(outputs, &[x], move |grads| {
        // Where nothing flowed back, zeros stay.
        let pieces = grads.iter().zip(&ranges).filter_map(|(grad, range)| Some((grad.as_ref()?, range.clone())));
        Ok(vec![Some(joined(operation, &pieces.collect::<Vec<_>>(), from, &dims)?)])
    }))
}

/// Mixes the channels of `groups` groups, as ShuffleNet does: channel k of group g becomes channel k·groups + g.
///
/// # Errors
/// If the channels of `x` (…, C) do not split into that many groups.
pub fn shuffle_channels(x: &Value, groups: usize) -> Result<Value> {
    let operation = "shuffle_channels";
    let rows = Rows::of(operation, x.tensor())?;
    if groups == 0 || !rows.channels.is_multiple_of(groups) {
        bail!("{operation}: {} channels do not split into {groups} groups", rows.channels);
    }
    let each = rows.channels / groups;
    let out = shuffled(operation, x.tensor(), rows, groups)?;
    Ok(Value::record1(out, &[x], move |grad| Ok(vec![Some(shuffled(operation, grad, rows, each)?)])))
}

/// A tensor (…, C) as rows of channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rows {
    pub(crate) rows: usize,
    pub(crate) channels: usize,
}

impl Rows {
    fn of(operation: &str, x: &Tensor) -> Result<Self> {
        match x.dims().last() {
            Some(&channels) if channels > 0 => Ok(Self { rows: x.elem_count() / channels, channels }),
            _ => bail!("{operation}: takes tensors (…, C) with channels, this one has shape {:?}", x.dims()),
        }
    }
}

fn with_channels(dims: &[usize], channels: usize) -> Vec<usize> {
    dims[..dims.len() - 1].iter().copied().chain([channels]).collect()
}

/// Tensors beside each other, each with the range of channels that it takes; channels of none become zero.
fn joined(operation: &str, pieces: &[(&Tensor, Range<usize>)], to: Rows, dims: &[usize]) -> Result<Tensor> {
    if let Some((piece, range)) = pieces.iter().find(|(piece, range)| piece.elem_count() != to.rows * range.len()) {
        bail!("{operation}: {:?} does not fit {} rows of {} channels", piece.dims(), to.rows, range.len());
    }
    let whole = pieces.iter().map(|(_, range)| range.len()).sum::<usize>() == to.channels;
    if !pieces.is_empty() {
        on_gpu!(pieces[0].0 => crate::cuda::join_channels(operation, pieces, to, dims, whole));
    }
    let numbers = pieces
        .iter()
        .map(|(piece, range)| Ok((device::slice(piece, operation)?, range.clone())))
        .collect::<Result<Vec<_>>>()?;
    let numbers = numbers.iter().map(|(slice, range)| (&**slice, range.clone())).collect::<Vec<_>>();
    let mut out = device::unspecified(to.rows * to.channels);
    parallel::for_each_rows(&mut out, to.channels, |rows, out| {
        if !whole {
            out.fill(0.0);
        }
        for (piece, range) in &numbers {
            let width = range.len();
            let piece = &piece[rows.start * width..rows.end * width];
            for (piece, out) in piece.chunks_exact(width).zip(out.chunks_exact_mut(to.channels)) {
                out[range.clone()].copy_from_slice(piece);
            }
        }
    });
    device::tensor(out, dims)
}

/// A range of the channels of each row.
fn taken(operation: &str, x: &Tensor, from: Rows, range: Range<usize>, dims: &[usize]) -> Result<Tensor> {
    if x.elem_count() != from.rows * from.channels {
        bail!("{operation}: {:?} does not fit {} rows of {} channels", x.dims(), from.rows, from.channels);
    }
    on_gpu!(x => crate::cuda::take_channels(operation, x, from, range, dims));
    let numbers = device::slice(x, operation)?;
    let numbers = &*numbers;
    let width = range.len();
    let mut out = device::unspecified(from.rows * width);
    parallel::for_each_rows(&mut out, width, |rows, out| {
        let x = &numbers[rows.start * from.channels..rows.end * from.channels];
        for (x, out) in x.chunks_exact(from.channels).zip(out.chunks_exact_mut(width)) {
            out.copy_from_slice(&x[range.clone()]);
        }
    });
    device::tensor(out, dims)
}

/// Each row, as a matrix of `groups` rows, transposed.
fn shuffled(operation: &str, x: &Tensor, of: Rows, groups: usize) -> Result<Tensor> {
    on_gpu!(x => crate::cuda::shuffle_channels(operation, x, of, groups));
    let each = of.channels / groups;
    let numbers = device::slice(x, operation)?;
    let numbers = &*numbers;
    let mut out = device::unspecified(numbers.len());
    parallel::for_each_rows(&mut out, of.channels, |rows, out| {
        let x = &numbers[rows.start * of.channels..rows.end * of.channels];
        for (x, out) in x.chunks_exact(of.channels).zip(out.chunks_exact_mut(of.channels)) {
            for (k, out) in out.chunks_exact_mut(groups).enumerate() {
                for (group, out) in out.iter_mut().enumerate() {
                    *out = x[group * each + k];
                }
            }
        }
    });
    device::tensor(out, x.shape())
}
