//! Files and numbers that several tests share.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Result, Tensor};
use ssdkd_graph::{Imported, import};
use ssdkd_ops::Value;

/// The networks that `tests/golden/graph.py` makes.
pub const NETWORKS: [&str; 6] = ["resnet", "inverted", "same", "shuffle", "unet", "dense"];

pub fn golden(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/graph").join(file)
}

pub fn read(file: &str) -> Imported {
    import(&golden(file)).unwrap_or_else(|error| panic!("{error}"))
}

pub fn values(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    Ok(candle_core::safetensors::load(path, &Device::Cpu)?.into_iter().collect())
}

/// From PyTorch's layout to ours, and a row as it is.
pub fn channels_last(x: &Tensor) -> Result<Tensor> {
    if x.rank() == 4 { x.permute((0, 2, 3, 1))?.contiguous() } else { Ok(x.clone()) }
}

/// The largest difference by the largest number.
pub fn relative_error(a: &Tensor, b: &Tensor) -> Result<f64> {
    assert_eq!(a.dims(), b.dims());
    let (a, b) = (a.flatten_all()?.to_vec1::<f32>()?, b.flatten_all()?.to_vec1::<f32>()?);
    let largest = b.iter().fold(0_f32, |largest, b| largest.max(b.abs()));
    let difference =
        a.iter().zip(&b).fold(0_f32, |largest, (a, b)| if (a - b).abs() >= largest { (a - b).abs() } else { largest });
    assert!(a.iter().all(|a| a.is_finite()), "a result is not finite");
    Ok(f64::from(difference / largest))
}

/// The mean of the squares.
pub fn mean_square(x: &Value) -> Result<Value> {
    ssdkd_ops::mean_all(&ssdkd_ops::multiply(x, x)?)
}
