//! Writing safetensors.
//!
//! Files of runs are compared and cached by their digest, so the same tensors must make the same bytes. The format leaves
//! open how its header is ordered, and the reference writer puts metadata in the random order of a hash map. So the header
//! is written here: metadata by key, then tensors by size of their elements, the largest first so that all are aligned,
//! and by name.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use candle_core::{Result, Tensor};
use safetensors::tensor::View;

/// Returns the bytes of a safetensors file with this metadata: the same for the same tensors.
pub(crate) fn to_safetensors_bytes(
    tensors: &BTreeMap<String, Tensor>,
    metadata: &BTreeMap<String, String>,
) -> Result<Vec<u8>> {
    let mut ordered = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        ordered.push((name, tensor.contiguous()?));
    }
    ordered.sort_by_key(|(name, tensor)| (Reverse(tensor.dtype().size_in_bytes()), *name));

    let mut header = String::from("{");
    if !metadata.is_empty() {
        let _ = write!(header, "\"__metadata__\":{}", json(metadata)?); // writing to a String cannot fail
    }
    let mut end = 0;
    for (name, tensor) in &ordered {
        let start = end;
        end += tensor.elem_count() * tensor.dtype().size_in_bytes();
        let comma = if header.len() > 1 { "," } else { "" };
        let (name, dtype, shape) = (json(name)?, json(&View::dtype(tensor))?, json(tensor.dims())?);
        let _ =
            write!(header, "{comma}{name}:{{\"dtype\":{dtype},\"shape\":{shape},\"data_offsets\":[{start},{end}]}}");
    }
    header.push('}');
    let length = header.len().next_multiple_of(8);

    let mut bytes = Vec::with_capacity(8 + length + end);
    bytes.extend((length as u64).to_le_bytes());
    bytes.extend(header.bytes());
    bytes.resize(8 + length, b' ');
    for (_, tensor) in &ordered {
        bytes.extend_from_slice(&View::data(tensor));
    }
    Ok(bytes)
}

fn json<T: serde::Serialize + ?Sized>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(candle_core::Error::wrap)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::{BTreeMap, Result, Tensor, to_safetensors_bytes};
    use crate::weights::from_safetensors_bytes;

    fn tensors() -> Result<BTreeMap<String, Tensor>> {
        let ramp = Tensor::arange(0f32, 6., &Device::Cpu)?.reshape((2, 3))?;
        Ok(BTreeMap::from([
            ("half \"quoted\"".into(), ramp.to_dtype(DType::F16)?),
            ("transposed".into(), ramp.t()?),
            ("count".into(), Tensor::new(7i64, &Device::Cpu)?),
            ("bytes".into(), ramp.to_dtype(DType::U8)?),
            ("empty".into(), Tensor::zeros((0, 4), DType::F32, &Device::Cpu)?),
            ("ramp".into(), ramp),
        ]))
    }

    #[test]
    fn what_is_written_can_be_read_back() -> Result<()> {
        let metadata = BTreeMap::from([("format".into(), "pt".into()), ("a".into(), "b".into())]);
        let bytes = to_safetensors_bytes(&tensors()?, &metadata)?;
        let read = from_safetensors_bytes(&bytes, &Device::Cpu)?;
        for (name, tensor) in tensors()? {
            assert_eq!((read[&name].dims(), read[&name].dtype()), (tensor.dims(), tensor.dtype()), "{name}");
            let numbers = |tensor: &Tensor| tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
            assert_eq!(numbers(&read[&name])?, numbers(&tensor)?, "{name}");
        }
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).map_err(candle_core::Error::wrap)?;
        assert_eq!(header.metadata().as_ref().map(|texts| texts["format"].as_str()), Some("pt"));
        Ok(())
    }

    #[test]
    fn bytes_are_those_of_the_reference_writer() -> Result<()> {
        let tensors = tensors()?;
        let same_type = tensors.iter().filter(|(_, tensor)| tensor.dtype() == DType::F32);
        let same_type = same_type.map(|(name, tensor)| Ok((name.clone(), tensor.contiguous()?)));
        let same_type = same_type.collect::<Result<BTreeMap<_, _>>>()?;
        let reference = safetensors::serialize(same_type.iter(), None).map_err(candle_core::Error::wrap)?;
        assert_eq!(to_safetensors_bytes(&same_type, &BTreeMap::new())?, reference);
        Ok(())
    }
}
