//! PyTorch checkpoints: the zip files of today and the bare streams from before version 1.6.
//!
//! Both hold a pickle whose tensors refer to storages by key. A zip file has each storage as a member `NAME/data/KEY`;
//! the old stream has five pickles (magic number, protocol, system, object, keys) and then, for each key, a length and
//! the numbers.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::io::{Cursor, Read as _};

use candle_core::{DType, Device, Tensor};
use ssdkd_pickle::{self as pickle, Id, Object, Pickle};

const ZIP_MAGIC: &[u8] = b"PK\x03\x04";
/// A pickle of the magic number 0x1950a86a20f9469cfc6c.
const STREAM_MAGIC: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";

/// Tensors may share storages, and come out apart. No more than this many times the file's size in all.
const SHARING: usize = 4;

/// Where a `state_dict` may be when it is not the whole file.
const ENTRIES: [&str; 4] = ["state_dict", "model_state_dict", "model", "net"];

/// Whether the bytes look like one of the two formats.
pub(super) fn is_checkpoint(bytes: &[u8]) -> bool {
    bytes.starts_with(ZIP_MAGIC) || bytes.starts_with(STREAM_MAGIC)
}

/// The tensors of a checkpoint's `state_dict`, by name.
pub(super) fn read(bytes: &[u8]) -> Result<BTreeMap<String, Tensor>, String> {
    if bytes.starts_with(ZIP_MAGIC) { read_zip(bytes) } else { read_stream(bytes) }
}

/// The bytes of each storage, by key.
type Storages<'a> = HashMap<String, Cow<'a, [u8]>>;

fn read_zip(bytes: &[u8]) -> Result<BTreeMap<String, Tensor>, String> {
    let damaged = |error| format!("the zip file is damaged or cut short: {error}");
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).map_err(damaged)?;
    let names = archive.file_names().filter_map(|name| Some(name.ok()?.into_owned())).collect::<Vec<_>>();
    let folder = names
        .iter()
        .find_map(|name| name.strip_suffix("data.pkl").filter(|rest| rest.is_empty() || rest.ends_with('/')));
    let folder = folder.ok_or("it is a zip file without data.pkl: PyTorch did not write it")?;
    // PyTorch does not compress, so all members together are smaller than the file: a zip bomb ends here.
    let mut left = bytes.len() as u64;
    let mut member = |name: &str| -> Result<Vec<u8>, String> {
        let file = archive.by_name(name).map_err(|error| format!("its member {name} cannot be read: {error}"))?;
        let mut contents = Vec::new();
        file.take(left + 1)
            .read_to_end(&mut contents)
            .map_err(|error| format!("its member {name} is damaged: {error}"))?;
        left = left
            .checked_sub(contents.len() as u64)
            .ok_or("its members are larger than the file: PyTorch did not write it")?;
        Ok(contents)
    };
    let (pickle, _) = pickle::read(&member(&format!("{folder}data.pkl"))?)?;
    let wanted = state_dict(&pickle)?;
    let mut storages = Storages::new();
    for (_, tensor) in &wanted {
        if !storages.contains_key(tensor.storage.key) {
            let contents = member(&format!("{folder}data/{}", tensor.storage.key))?;
            storages.insert(tensor.storage.key.into(), contents.into());
        }
    }
    build(&wanted, &storages, bytes.len())
}

fn read_stream(bytes: &[u8]) -> Result<BTreeMap<String, Tensor>, String> {
    let mut at = 0;
    let mut next = || -> Result<Pickle, String> {
        let (pickle, length) = pickle::read(&bytes[at..])?;
        at += length;
        Ok(pickle)
    };
    let [_magic, _protocol, _system, object, keys] = [next()?, next()?, next()?, next()?, next()?];
    let wanted = state_dict(&object)?;
    // Every storage is needed to find where the next one starts, an optimiser's too.
    let mut element_sizes = HashMap::new();
    for entry in &object.objects {
        if let Object::Persistent(id) = entry
            && let Some(storage) = storage(&object, *id)?
        {
            element_sizes.insert(storage.key, storage.element_size);
        }
    }
    let mut storages = Storages::new();
    for &key in sequence(&keys, keys.root)? {
        let key = text(&keys, key)?;
        let size = *element_sizes.get(key).ok_or_else(|| format!("it lists a storage {key} that nothing uses"))?;
        let cut = || format!("it ends within the storage {key}: it is cut short");
        let (count, rest) = bytes[at..].split_first_chunk().ok_or_else(cut)?;
        let length = usize::try_from(u64::from_le_bytes(*count)).ok().and_then(|count| count.checked_mul(size));
        let contents = length.and_then(|length| rest.get(..length)).ok_or_else(cut)?;
        storages.insert(key.into(), contents.into());
        at += count.len() + contents.len();
    }
    build(&wanted, &storages, bytes.len())
}

/// A tensor as the pickle describes it: offset and strides in elements.
struct Description<'a> {
    storage: Storage<'a>,
    offset: usize,
    shape: Vec<usize>,
    stride: Vec<usize>,
}

struct Storage<'a> {
    key: &'a str,
    class: &'a str,
    element_size: usize,
}

/// The tensors of the pickle's `state_dict`, or of the pickle itself if it is one.
fn state_dict(pickle: &Pickle) -> Result<Vec<(&str, Description<'_>)>, String> {
    const WHOLE: &str = "it holds no dictionary of tensors: save model.state_dict(), not the model itself";
    let mut found = items(pickle, pickle.root).ok_or(WHOLE)?;
    let entry = |wanted| found.iter().find(|(name, _)| text(pickle, *name) == Ok(wanted));
    if let Some(inner) = ENTRIES.into_iter().find_map(|wanted| items(pickle, entry(wanted)?.1)) {
        found = inner;
    }
    let mut tensors = Vec::new();
    for &(name, value) in found {
        if let (Ok(name), Some(tensor)) = (text(pickle, name), tensor(pickle, value)?) {
            tensors.push((name, tensor));
        }
    }
    if tensors.is_empty() { Err(WHOLE.into()) } else { Ok(tensors) }
}

fn items(pickle: &Pickle, id: Id) -> Option<&[(Id, Id)]> {
    match &pickle.objects[id] {
        Object::Dict(items) if !items.is_empty() => Some(items),
        Object::Call(call) if !call.items.is_empty() => Some(&call.items),
        _ => None,
    }
}

fn text(pickle: &Pickle, id: Id) -> Result<&str, String> {
    match &pickle.objects[id] {
        Object::Text(text) => Ok(text),
        other => Err(format!("it has {} where a text is expected", other.kind())),
    }
}

fn sequence(pickle: &Pickle, id: Id) -> Result<&[Id], String> {
    match &pickle.objects[id] {
        Object::Sequence(items) => Ok(items),
        other => Err(format!("it has {} where a sequence is expected", other.kind())),
    }
}

fn size(pickle: &Pickle, id: Id) -> Result<usize, String> {
    match pickle.objects[id] {
        Object::Int(value) => usize::try_from(value).map_err(|_| format!("it has {value} where a size is expected")),
        ref other => Err(format!("it has {} where a size is expected", other.kind())),
    }
}

/// Most dimensions of a tensor. Many entries may name one description: what each takes must be bounded.
const MOST_DIMENSIONS: usize = 8;

/// Most wrappers around a tensor, likewise; PyTorch makes one.
const MOST_WRAPPERS: usize = 8;

fn sizes(pickle: &Pickle, id: Id) -> Result<Vec<usize>, String> {
    let sizes = sequence(pickle, id)?;
    if sizes.len() > MOST_DIMENSIONS {
        return Err(format!("it has a tensor of {} dimensions; at most {MOST_DIMENSIONS} are possible", sizes.len()));
    }
    sizes.iter().map(|&id| size(pickle, id)).collect()
}

/// `None` for what is no tensor.
fn tensor(pickle: &Pickle, mut id: Id) -> Result<Option<Description<'_>>, String> {
    for _ in 0..=MOST_WRAPPERS {
        let Object::Call(call) = &pickle.objects[id] else { return Ok(None) };
        let Object::Global(name) = &pickle.objects[call.function] else { return Ok(None) };
        match (name.as_str(), sequence(pickle, call.arguments)) {
            ("torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2", Ok(arguments)) => {
                let [storage_id, offset, shape, stride, ..] = arguments else {
                    return Err("it has a tensor with too few arguments".into());
                };
                let Object::Persistent(storage_id) = pickle.objects[*storage_id] else {
                    return Err("it has a tensor without a storage".into());
                };
                let Some(storage) = storage(pickle, storage_id)? else {
                    return Err("it has a tensor without a storage".into());
                };
                let (offset, shape, stride) = (size(pickle, *offset)?, sizes(pickle, *shape)?, sizes(pickle, *stride)?);
                if shape.len() != stride.len() {
                    return Err(format!("it has a tensor of {} dimensions with {} strides", shape.len(), stride.len()));
                }
                return Ok(Some(Description { storage, offset, shape, stride }));
            }
            ("torch._utils._rebuild_parameter", Ok(&[inner, ..])) => id = inner,
            _ => return Ok(None),
        }
    }
    Err(format!("it has a parameter within more than {MOST_WRAPPERS} others"))
}

/// `("storage", torch.FloatStorage, key, device, count)`, in old streams with a view at the end. `None` for the source
/// code of a module, which old streams refer to in the same way.
fn storage(pickle: &Pickle, id: Id) -> Result<Option<Storage<'_>>, String> {
    let arguments = sequence(pickle, id)?;
    if arguments.first().is_some_and(|&kind| text(pickle, kind) == Ok("module")) {
        return Ok(None);
    }
    let &[_, class, key, ..] = arguments else { return Err("it has a storage with too few arguments".into()) };
    if arguments.get(5).is_some_and(|&view| pickle.objects[view] != Object::None) {
        return Err("it has a view of a storage, as PyTorch 0.1 wrote them: save it again with a newer one".into());
    }
    let Object::Global(class) = &pickle.objects[class] else { return Err("it has a storage without a type".into()) };
    let class = class.strip_prefix("torch.").unwrap_or(class);
    let element_size = match class {
        "ByteStorage" | "CharStorage" | "BoolStorage" | "UntypedStorage" => 1,
        "HalfStorage" | "BFloat16Storage" | "ShortStorage" => 2,
        "FloatStorage" | "IntStorage" => 4,
        "DoubleStorage" | "LongStorage" | "ComplexFloatStorage" => 8,
        "ComplexDoubleStorage" => 16,
        _ => return Err(format!("it has a storage of the unknown type {class}")),
    };
    Ok(Some(Storage { key: text(pickle, key)?, class, element_size }))
}

impl Storage<'_> {
    fn dtype(&self) -> Option<DType> {
        Some(match self.class {
            "FloatStorage" => DType::F32,
            "DoubleStorage" => DType::F64,
            "HalfStorage" => DType::F16,
            "BFloat16Storage" => DType::BF16,
            "LongStorage" => DType::I64,
            "IntStorage" => DType::I32,
            "ByteStorage" => DType::U8,
            _ => return None,
        })
    }
}

fn build(
    wanted: &[(&str, Description<'_>)],
    storages: &Storages<'_>,
    file_size: usize,
) -> Result<BTreeMap<String, Tensor>, String> {
    let (mut tensors, mut total) = (BTreeMap::new(), 0);
    for (name, description) in wanted {
        let Storage { key, class, .. } = description.storage;
        let dtype = description
            .storage
            .dtype()
            .ok_or_else(|| format!("the tensor {name} is of type {class}: no network has one"))?;
        let storage = storages.get(key).ok_or_else(|| format!("the tensor {name} has no storage in the file"))?;
        let packed = gather(storage, dtype.size_in_bytes(), description).ok_or_else(|| {
            format!(
                "the tensor {name} with shape {:?} reaches beyond its storage: the file is damaged",
                description.shape
            )
        })?;
        total += packed.len();
        if total > SHARING * file_size {
            return Err(format!(
                "its tensors are more than {SHARING} times as large as the file: PyTorch did not write it"
            ));
        }
        let tensor = Tensor::from_raw_buffer(&packed, dtype, &description.shape, &Device::Cpu);
        tensors.insert((*name).to_string(), tensor.map_err(|error| format!("the tensor {name} is unusable: {error}"))?);
    }
    Ok(tensors)
}

/// The elements of a strided view, in row-major order; `None` if it reaches beyond the storage.
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
    use super::*;

    fn view(offset: usize, shape: &[usize], stride: &[usize]) -> Description<'static> {
        let storage = Storage { key: "0", class: "ByteStorage", element_size: 1 };
        Description { storage, offset, shape: shape.into(), stride: stride.into() }
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
