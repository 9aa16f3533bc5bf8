//! Operations on rows of features (B, F): what a contrastive loss is made of.

use candle_core::{Result, Tensor, bail};

use crate::value::Value;
use crate::{device, parallel};

/// The rows of `x` (B, F), each divided by its norm; a row of zeros stays, without a gradient.
///
/// # Errors
/// If `x` is not of rank 2, or has no columns.
pub fn unit_rows(x: &Value) -> Result<Value> {
    let operation = "unit_rows";
    let [rows, columns] = *x.dims() else {
        bail!("{operation}: takes rows (B, F), this tensor has shape {:?}", x.dims());
    };
    if columns == 0 {
        bail!("{operation}: rows of no numbers have no direction, shape {:?}", x.dims());
    }
    on_gpu!(x.tensor() => crate::cuda::unit_rows(operation, x, [rows, columns]));
    let numbers = device::slice(x.tensor(), operation)?;
    let norm = |row: &[f32]| row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    let inverses = numbers.chunks_exact(columns).map(norm).map(|norm| if norm == 0.0 { 0.0 } else { 1.0 / norm });
    let inverses = inverses.collect::<Vec<_>>();
    let mut out = device::unspecified(numbers.len());
    parallel::for_each_rows(&mut out, columns, |range, out| {
        for (row, out) in range.zip(out.chunks_exact_mut(columns)) {
            for (out, &x) in out.iter_mut().zip(&numbers[row * columns..]) {
                *out = (f64::from(x) * inverses[row]) as f32;
            }
        }
    });
    drop(numbers);
    let out = device::tensor(out, (rows, columns))?;
    let kept = out.clone();
    Ok(Value::record1(out, &[x], move |grad| {
        // (grad − u · ⟨u, grad⟩) / ‖x‖
        let (unit, grad) = (device::slice(&kept, operation)?, device::slice(grad, operation)?);
        let (unit, grad) = (&*unit, &*grad);
        let mut out = device::unspecified(grad.len());
        parallel::for_each_rows(&mut out, columns, |range, out| {
            for (row, out) in range.zip(out.chunks_exact_mut(columns)) {
                let (unit, grad) = (&unit[row * columns..][..columns], &grad[row * columns..][..columns]);
                let along = unit.iter().zip(grad).map(|(&u, &g)| f64::from(u) * f64::from(g)).sum::<f64>();
                for ((out, &u), &g) in out.iter_mut().zip(unit).zip(grad) {
                    *out = ((f64::from(g) - f64::from(u) * along) * inverses[row]) as f32;
                }
            }
        });
        Ok(vec![Some(device::tensor(out, (rows, columns))?)])
    }))
}

/// `a` (B, F) and `b` (B, G) side by side: (B, F + G).
///
/// # Errors
/// If they are not of rank 2 with as many rows.
pub fn side_by_side(a: &Value, b: &Value) -> Result<Value> {
    let operation = "side_by_side";
    let (&[rows, left], &[others, right]) = (a.dims(), b.dims()) else {
        bail!("{operation}: takes rows (B, F) and (B, G), got {:?} and {:?}", a.dims(), b.dims());
    };
    if rows != others {
        bail!("{operation}: takes as many rows of both, got {:?} and {:?}", a.dims(), b.dims());
    }
    let out = Tensor::cat(&[a.tensor(), b.tensor()], 1)?;
    let (a_wants, b_wants) = (a.wants_gradient(), b.wants_gradient());
    Ok(Value::record1(out, &[a, b], move |grad| {
        let part =
            |wants: bool, start: usize, len: usize| wants.then(|| grad.narrow(1, start, len)?.contiguous()).transpose();
        Ok(vec![part(a_wants, 0, left)?, part(b_wants, left, right)?])
    }))
}
