//! Makes tensors of what a pickle describes, from the storages of its file.

use std::borrow::Cow;

use candle_core::{DType, Device, Tensor};
use ssdkd_pickle::Value;

use super::refusal::{Refusal, Result, save_with, short};
use super::tensors::{Description, Numbers, Remedy, Source, class_named};
use super::torch::{Storages, unwrap_storage};

/// Tensors may share storages, and come out apart. At most this many times the file's size together.
const SHARING: usize = 4;

/// The storages that tensors are made of.
pub(super) struct Maker<'a> {
    pub storages: Storages<'a>,
    /// Whether the most significant byte of a number is the first.
    pub big_endian: bool,
    /// How many bytes tensors may still have.
    left: usize,
    /// The `state_dict` as an expression of Python, for errors.
    expression: &'a str,
}

impl<'a> Maker<'a> {
    /// `file_size` bounds what the tensors take; a compressed file's storages are larger than it.
    pub fn new(storages: Storages<'a>, big_endian: bool, file_size: usize, expression: &'a str) -> Self {
        let stored = storages.values().map(|storage| storage.len()).sum::<usize>();
        Self { storages, big_endian, left: (SHARING * file_size).max(stored), expression }
    }

    /// Makes the tensor; `name` is for errors.
    pub fn make(&mut self, name: &str, source: &Source<'_>) -> Result<Tensor> {
        match source {
            Source::Torch(description) => self.torch(name, description),
            Source::Array(array, _) => self.array(name, *array),
            Source::Unusable { what, remedy, .. } => Err(self.unusable(name, what, *remedy)),
        }
    }

    fn torch(&mut self, name: &str, description: &Description<'_>) -> Result<Tensor> {
        let missing = || format!("the tensor {} has no storage in the file", short(name));
        match description.numbers {
            Numbers::Storage(storage) => {
                let dtype = storage.class.dtype.ok_or_else(|| self.of_type(name, storage.class.name))?;
                // The storage leaves the map while its elements are read, so that the count of bytes can change.
                let bytes = self.storages.remove(storage.key).ok_or_else(missing)?;
                let tensor = self.gathered(name, &bytes, dtype, description);
                self.storages.insert(storage.key.into(), bytes);
                tensor
            }
            Numbers::Stream(stream) => {
                let stream = stream.bytes().ok_or_else(missing)?;
                self.spend(stream.len())?;
                let (bytes, class) = unwrap_storage(&stream)?;
                let dtype =
                    class_named(class).and_then(|class| class.dtype).ok_or_else(|| self.of_type(name, class))?;
                self.gathered(name, &bytes, dtype, description)
            }
        }
    }

    fn gathered(&mut self, name: &str, storage: &[u8], dtype: DType, description: &Description<'_>) -> Result<Tensor> {
        let size = dtype.size_in_bytes();
        let packed = gather(storage, size, description).ok_or_else(|| {
            format!(
                "the tensor {} with shape {:?} reaches beyond its storage: the file is damaged",
                short(name),
                description.shape
            )
        })?;
        self.spend(packed.len())?;
        tensor(name, in_order(packed, size, self.big_endian), dtype, &description.shape)
    }

    fn array(&mut self, name: &str, array: Value<'_>) -> Result<Tensor> {
        let array = array.array().ok_or_else(|| format!("the array {} is of no type of numbers", short(name)))?;
        let dtype = match array.dtype {
            "f4" => DType::F32,
            "f8" => DType::F64,
            "f2" => DType::F16,
            "i8" => DType::I64,
            "i4" => DType::I32,
            "u1" => DType::U8,
            other => return Err(self.of_type(name, other)),
        };
        self.spend(array.data.len())?;
        let size = dtype.size_in_bytes();
        let count = array.shape.iter().try_fold(1_usize, |count, &side| count.checked_mul(side));
        if count.and_then(|count| count.checked_mul(size)) != Some(array.data.len()) {
            return Err(format!("the array {} has another number of elements than its shape says", short(name)).into());
        }
        let data = in_order(array.data, size, array.big_endian);
        if !array.fortran {
            return tensor(name, data, dtype, &array.shape);
        }
        let reversed = array.shape.iter().rev().copied().collect::<Vec<_>>();
        let tensor = tensor(name, data, dtype, &reversed)?;
        let order = (0..reversed.len()).rev().collect::<Vec<_>>();
        let tensor = tensor.permute(order).and_then(|tensor| tensor.contiguous());
        Ok(tensor.map_err(|error| format!("the array {} is unusable: {error}", short(name)))?)
    }

    fn of_type(&self, name: &str, class: &str) -> Refusal {
        if class.starts_with('Q') {
            return self.unusable(name, "quantized", Some(Remedy::Unquantized));
        }
        self.unusable(name, &format!("of type {class}, which no network here has"), Some(Remedy::Float))
    }

    fn unusable(&self, name: &str, what: &str, remedy: Option<Remedy>) -> Refusal {
        let name = short(name);
        let reason = format!("the tensor {name} is {what}");
        let convert = |method: &str| {
            save_with(&format!("state_dict = {{k: v.{method}() for k, v in {}.items()}}", self.expression))
        };
        match remedy {
            None => what.into(),
            Some(Remedy::Unquantized) => Refusal::new(
                format!("{reason}: the network was converted to integers"),
                "give the state_dict of the network before it was quantized",
            ),
            Some(Remedy::Numbers) => {
                Refusal::new(reason, "load the trained weights into the model, then save model.state_dict()")
            }
            Some(Remedy::Dense) => Refusal::new(reason, convert("to_dense")),
            Some(Remedy::Float) => Refusal::new(reason, convert("float")),
        }
    }

    fn spend(&mut self, bytes: usize) -> Result<()> {
        self.left = self.left.checked_sub(bytes).ok_or_else(|| {
            format!("its tensors are more than {SHARING} times as large as the file: PyTorch did not write it")
        })?;
        Ok(())
    }
}

fn tensor(name: &str, data: Cow<'_, [u8]>, dtype: DType, shape: &[usize]) -> Result<Tensor> {
    let tensor = Tensor::from_raw_buffer(&data, dtype, shape, &Device::Cpu);
    Ok(tensor.map_err(|error| format!("the tensor {} is unusable: {error}", short(name)))?)
}

/// Returns the elements with the least significant byte first.
fn in_order(data: Cow<'_, [u8]>, size: usize, big_endian: bool) -> Cow<'_, [u8]> {
    if !big_endian || size == 1 {
        return data;
    }
    let mut data = data.into_owned();
    data.chunks_exact_mut(size).for_each(<[u8]>::reverse);
    data.into()
}

/// Returns the elements of a strided view, in row-major order; `None` if it reaches beyond the storage.
fn gather<'a>(storage: &'a [u8], size: usize, view: &Description<'_>) -> Option<Cow<'a, [u8]>> {
    let available = storage.len() / size;
    let count = view.shape.iter().try_fold(1_usize, |count, &side| count.checked_mul(side))?;
    // A view with stride 0 could be larger than its storage; no state_dict has one.
    if count > available {
        return None;
    }
    if count == 0 {
        return Some(Cow::Borrowed(&[]));
    }
    let (mut last, mut dense, mut inner) = (view.offset, true, 1);
    for (&side, &stride) in view.shape.iter().zip(&view.stride).rev() {
        last = last.checked_add((side - 1).checked_mul(stride)?)?;
        dense &= side == 1 || stride == inner;
        inner *= side;
    }
    if last >= available {
        return None;
    }
    if dense {
        return Some(Cow::Borrowed(&storage[view.offset * size..(view.offset + count) * size]));
    }
    let mut packed = Vec::with_capacity(count * size);
    let mut index = vec![0; view.shape.len()];
    for _ in 0..count {
        let at = view.offset + index.iter().zip(&view.stride).map(|(i, stride)| i * stride).sum::<usize>();
        packed.extend_from_slice(&storage[at * size..(at + 1) * size]);
        for (i, &side) in index.iter_mut().zip(&view.shape).rev() {
            *i += 1;
            if *i < side {
                break;
            }
            *i = 0;
        }
    }
    Some(Cow::Owned(packed))
}

#[cfg(test)]
mod tests {
    use super::super::tensors::Storage;
    use super::*;

    fn view(offset: usize, shape: &[usize], stride: &[usize]) -> Description<'static> {
        let class = class_named("ByteStorage").unwrap();
        let numbers = Numbers::Storage(Storage { key: "0", class, count: 1 });
        Description { numbers, offset, shape: shape.into(), stride: stride.into() }
    }

    #[test]
    fn views_are_packed_row_by_row() {
        let storage = [0, 1, 2, 3, 4, 5, 6];
        let packed = |view| gather(&storage, 1, &view).map(Cow::into_owned);
        assert_eq!(packed(view(1, &[2, 3], &[3, 1])), Some(vec![1, 2, 3, 4, 5, 6]));
        assert_eq!(packed(view(1, &[3, 2], &[1, 3])), Some(vec![1, 4, 2, 5, 3, 6]));
        assert_eq!(packed(view(6, &[], &[])), Some(vec![6]));
        assert_eq!(packed(view(9, &[0, 4], &[4, 1])), Some(vec![]));
        assert_eq!(packed(view(3, &[1, 2], &[99, 1])), Some(vec![3, 4]), "the stride of a single row does not matter");
    }

    #[test]
    fn views_beyond_the_storage_are_refused() {
        let storage = [0; 7];
        let views = [
            view(2, &[2, 3], &[3, 1]),
            view(7, &[], &[]),
            view(0, &[1000], &[0]),
            view(usize::MAX, &[2], &[1]),
            view(0, &[2], &[usize::MAX]),
            view(1, &[2, 2], &[usize::MAX, usize::MAX]),
            view(0, &[usize::MAX, usize::MAX], &[1, 1]),
        ];
        for view in views {
            assert!(gather(&storage, 1, &view).is_none(), "{:?} {:?}", view.shape, view.stride);
        }
    }
}
