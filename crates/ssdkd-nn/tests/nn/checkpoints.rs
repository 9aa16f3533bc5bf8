//! PyTorch's files in both formats, written by `tests/golden/nn.py`.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use ssdkd_nn::weights::{self, Choice};

use crate::formula::numbers;
use crate::place::golden;

#[track_caller]
fn check(name: &str) {
    let tensors = weights::import(&golden(name), &Choice::default()).unwrap().tensors;
    let ramp = Tensor::arange(0f32, 24., &Device::Cpu).unwrap().reshape((4, 6)).unwrap();
    let row = ramp.get(0).unwrap();
    let expected = BTreeMap::from([
        ("whole", (ramp.clone(), DType::F32)),
        ("transposed", (ramp.t().unwrap(), DType::F32)),
        ("window", (ramp.narrow(0, 1, 2).unwrap().narrow(1, 2, 3).unwrap(), DType::F32)),
        ("parameter", ((&row + 0.5).unwrap(), DType::F32)),
        ("double", (row.clone(), DType::F64)),
        ("half", (row.clone(), DType::F16)),
        ("bfloat", (row, DType::BF16)),
        ("count", (Tensor::new(7f32, &Device::Cpu).unwrap(), DType::I64)),
        ("empty", (Tensor::zeros((0, 3), DType::F32, &Device::Cpu).unwrap(), DType::F32)),
    ]);
    assert_eq!(tensors.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "without the prefix module.");
    for (name, (tensor, dtype)) in expected {
        let found = &tensors[name];
        assert_eq!((found.dims(), found.dtype()), (tensor.dims(), dtype), "{name}");
        assert_eq!(numbers(&found.to_dtype(DType::F32).unwrap()), numbers(&tensor), "{name}");
    }
}

#[test]
fn zip_files() {
    check("nn_zip.pth");
}

#[test]
fn streams_from_before_1_6() {
    check("nn_stream.pth");
}
