//! Operations on rows of features on a GPU.

use candle_core::Result;

use super::gpu::{Gpu, count};
use super::loss::blocks_of_rows;
use super::program::arguments;
use crate::value::Value;

pub(crate) fn unit_rows(operation: &'static str, x: &Value, [rows, columns]: [usize; 2]) -> Result<Value> {
    let gpu = Gpu::of(x.tensor(), operation)?;
    let (out, to) = gpu.tensor((rows, columns))?;
    let (inverses, inverses_at) = gpu.tensor_of::<f64>(rows)?;
    let arguments = arguments![gpu.at(x.tensor(), operation)?, to, inverses_at, count(rows), count(columns)];
    gpu.launch("unit_rows", blocks_of_rows(operation, rows)?, arguments)?;
    let kept = out.clone();
    Ok(Value::record1(out, &[x], move |grad| {
        let gpu = Gpu::of(grad, operation)?;
        let (out, to) = gpu.tensor((rows, columns))?;
        let (unit, grad) = (gpu.at(&kept, operation)?, gpu.at(grad, operation)?);
        let inverses = gpu.address::<f64>(&inverses, operation)?;
        let arguments = arguments![unit, grad, inverses, to, count(rows), count(columns)];
        gpu.launch("unit_rows_backward", blocks_of_rows(operation, rows)?, arguments)?;
        Ok(vec![Some(out)])
    }))
}
