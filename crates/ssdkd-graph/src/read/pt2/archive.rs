//! The members of a `.pt2`: a zip file that is not compressed.

use std::collections::{BTreeMap, HashMap};
use std::io::{Cursor, Read as _};
use std::rc::Rc;

use half::{bf16, f16};
use serde::Deserialize;
use zip::ZipArchive;
use zip::read::{ArchiveOffset, Config};

use super::schema::{Model, Size, TensorMeta, Versioned};
use crate::error::clean;
use crate::read::constant::{Budget, Constant, Numbers, count};
use crate::read::{EXPORT_HINT, Problem};

/// The version of the archive, and of the schema, that can be read.
const ARCHIVE_VERSION: &str = "0";
const SCHEMA_MAJOR: i64 = 8;

/// An opened file.
pub(super) struct Archive<'a> {
    zip: ZipArchive<Cursor<&'a [u8]>>,
    /// The folder that all members are in.
    root: String,
    names: Vec<String>,
    /// Nothing is compressed, so that all members together are smaller than the file.
    left: u64,
}

#[derive(Deserialize)]
struct Listing {
    config: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    path_name: String,
    #[serde(default)]
    is_param: bool,
    #[serde(default)]
    use_pickle: bool,
    tensor_meta: Option<TensorMeta>,
}

impl<'a> Archive<'a> {
    pub fn open(bytes: &'a [u8]) -> Result<Self, Problem> {
        let damaged =
            |error| format!("the zip file is damaged or cut short: {error}\nhint: fetch or copy the file again");
        // A member may be a zip file, too: nothing is looked for in the middle of the file.
        let config = Config { archive_offset: ArchiveOffset::Known(0) };
        let zip = ZipArchive::with_config(config, Cursor::new(bytes)).map_err(damaged)?;
        let names = zip.file_names().filter_map(|name| Some(name.ok()?.into_owned())).collect::<Vec<_>>();
        let find = |end: &str| names.iter().find_map(|name| name.strip_suffix(end).map(str::to_string));
        if let Some(root) = find("models/model.json") {
            return Ok(Self { zip, root, names, left: bytes.len() as u64 });
        }
        let what = if find("constants.pkl").is_some() {
            "it is a TorchScript file"
        } else if find("data.pkl").is_some() {
            "it is a checkpoint with tensors but no network"
        } else if find("serialized_exported_program.json").is_some() {
            "it is a .pt2 of PyTorch 2.7 or older, which has its tensors as Python pickles"
        } else if find("config.json").is_some() && find("model.weights.h5").is_some() {
            "it is a file of Keras"
        } else {
            "it is a zip file without models/model.json"
        };
        Err(format!("{what}\n{EXPORT_HINT}").into())
    }

    /// Returns the graph.
    pub fn model(&mut self) -> Result<Model, Problem> {
        if let Ok(version) = self.read("archive_version") {
            let version = String::from_utf8_lossy(&version).trim().to_string();
            if version != ARCHIVE_VERSION {
                return Err(format!(
                    "its archive has version {}; this program reads version {ARCHIVE_VERSION}\n{EXPORT_HINT}",
                    clean(&version)
                )
                .into());
            }
        }
        if let Ok(order) = self.read("byteorder")
            && order.trim_ascii() != b"little"
        {
            return Err("its numbers are not in little-endian order".into());
        }
        let text = self.read("models/model.json")?;
        let damaged =
            |error: serde_json::Error| format!("its models/model.json is damaged: {}", clean(&error.to_string()));
        let version = serde_json::from_slice::<Versioned>(&text).map_err(damaged)?.schema_version;
        if version.major != SCHEMA_MAJOR {
            return Err(format!(
                "its schema has version {}.{}; this program reads version {SCHEMA_MAJOR}\n{EXPORT_HINT}",
                version.major, version.minor
            )
            .into());
        }
        Ok(serde_json::from_slice(&text).map_err(damaged)?)
    }

    /// Returns all tensors by name.
    pub fn tensors(&mut self, budget: &mut Budget) -> Result<HashMap<String, Constant>, Problem> {
        let mut tensors = HashMap::new();
        // Tensors may share their memory: each member is read once.
        let mut members = HashMap::<String, Rc<Vec<u8>>>::new();
        let mut shared = HashMap::<(String, i64), Rc<Vec<f32>>>::new();
        for kind in ["weights", "constants"] {
            let Ok(text) = self.read(&format!("data/{kind}/model_{kind}_config.json")) else { continue };
            let listing = serde_json::from_slice::<Listing>(&text)
                .map_err(|error| format!("its list of {kind} is damaged: {}", clean(&error.to_string())))?;
            for (name, entry) in listing.config {
                let shown = clean(&name);
                if entry.use_pickle {
                    return Err(
                        format!("the tensor {shown} is a Python pickle, which is not read\n{EXPORT_HINT}").into()
                    );
                }
                let Some(meta) = entry.tensor_meta else { continue };
                let member = format!("data/{kind}/{}", entry.path_name);
                if !members.contains_key(&member) {
                    members.insert(member.clone(), Rc::new(self.read(&member)?));
                }
                let bytes = members[&member].clone();
                let damaged = |reason: String| format!("the tensor {shown}: {reason}");
                let (dims, strides, offset) = layout(&meta).map_err(damaged)?;
                let element = element_size(meta.dtype).map_err(damaged)?;
                let total = count(&dims).filter(|&total| total <= bytes.len() / element);
                let total = total.ok_or_else(|| damaged("it reaches beyond its bytes".into()))?;
                let dense = is_dense(&dims, &strides) && offset == 0 && bytes.len() == total * element;
                let key = (member.clone(), meta.dtype);
                let numbers = if let Some(numbers) = shared.get(&key).filter(|_| dense) {
                    numbers.clone()
                } else {
                    if shared.contains_key(&key) || !dense {
                        budget.take(total)?;
                    }
                    let numbers = gather(&bytes, meta.dtype, element, &dims, &strides, offset).map_err(damaged)?;
                    let numbers = Rc::new(numbers);
                    if dense {
                        shared.insert(key, numbers.clone());
                    }
                    numbers
                };
                let constant = Constant {
                    name: name.as_str().into(),
                    dims: dims.into(),
                    numbers: Numbers::All(numbers),
                    trained: entry.is_param,
                    origin: None,
                };
                tensors.insert(name, constant);
            }
        }
        Ok(tensors)
    }

    /// Texts that came along.
    pub fn extra(&mut self) -> Result<BTreeMap<String, Vec<u8>>, Problem> {
        let folder = format!("{}extra/", self.root);
        let names = self.names.iter().filter_map(|name| name.strip_prefix(&folder)).map(str::to_string);
        let names = names.filter(|name| !name.is_empty() && !name.ends_with('/')).collect::<Vec<_>>();
        names.into_iter().map(|name| Ok((name.clone(), self.read(&format!("extra/{name}"))?))).collect()
    }

    fn read(&mut self, member: &str) -> Result<Vec<u8>, String> {
        let shown = clean(member);
        let file = self.zip.by_name(&format!("{}{member}", self.root));
        let file = file.map_err(|error| format!("its member {shown} cannot be read: {error}"))?;
        let mut contents = Vec::new();
        file.take(self.left + 1)
            .read_to_end(&mut contents)
            .map_err(|error| format!("its member {shown} is damaged: {error}"))?;
        self.left = self
            .left
            .checked_sub(contents.len() as u64)
            .ok_or("its members are larger than the file: PyTorch did not write it")?;
        Ok(contents)
    }
}

fn sizes(sizes: &[Size]) -> Result<Vec<usize>, String> {
    let size = |size: &Size| size.known().and_then(|size| usize::try_from(size).ok());
    sizes.iter().map(size).collect::<Option<_>>().ok_or_else(|| "its sizes are impossible".to_string())
}

fn layout(meta: &TensorMeta) -> Result<(Vec<usize>, Vec<usize>, usize), String> {
    let (dims, strides) = (sizes(&meta.sizes)?, sizes(&meta.strides)?);
    if dims.len() > 8 || strides.len() != dims.len() {
        return Err(format!("it has {} sizes and {} strides", dims.len(), strides.len()));
    }
    let offset = match &meta.storage_offset {
        Some(offset) => sizes(std::slice::from_ref(offset))?[0],
        None => 0,
    };
    Ok((dims, strides, offset))
}

fn is_dense(dims: &[usize], strides: &[usize]) -> bool {
    let mut inner = 1_usize;
    dims.iter().zip(strides).rev().all(|(&size, &stride)| {
        let dense = size == 1 || stride == inner;
        inner = inner.saturating_mul(size);
        dense
    })
}

/// PyTorch's numbers for types of elements.
fn element_size(dtype: i64) -> Result<usize, String> {
    match dtype {
        1 | 2 | 12 => Ok(1),
        3 | 6 | 13 => Ok(2),
        4 | 7 => Ok(4),
        5 | 8 => Ok(8),
        _ => Err(format!("its elements are of type {dtype}, which no network for images has")),
    }
}

fn number(dtype: i64, bytes: &[u8]) -> f32 {
    match (dtype, bytes) {
        (1 | 12, &[byte]) => f32::from(byte),
        (2, &[byte]) => f32::from(byte.cast_signed()),
        (3, &[a, b]) => f32::from(i16::from_le_bytes([a, b])),
        (6, &[a, b]) => f16::from_le_bytes([a, b]).to_f32(),
        (13, &[a, b]) => bf16::from_le_bytes([a, b]).to_f32(),
        (4, &[a, b, c, d]) => i32::from_le_bytes([a, b, c, d]) as f32,
        (7, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
        (5, &[a, b, c, d, e, f, g, h]) => i64::from_le_bytes([a, b, c, d, e, f, g, h]) as f32,
        (_, &[a, b, c, d, e, f, g, h]) => f64::from_le_bytes([a, b, c, d, e, f, g, h]) as f32,
        _ => f32::NAN,
    }
}

/// Returns the numbers of a view in row-major order. `dims` has no more numbers than `bytes`.
fn gather(
    bytes: &[u8],
    dtype: i64,
    size: usize,
    dims: &[usize],
    strides: &[usize],
    offset: usize,
) -> Result<Vec<f32>, String> {
    let beyond = || "it reaches beyond its bytes".to_string();
    let total = count(dims).ok_or_else(beyond)?;
    if total == 0 {
        return Ok(Vec::new());
    }
    let mut last = offset;
    for (&size, &stride) in dims.iter().zip(strides) {
        last = (size - 1).checked_mul(stride).and_then(|reach| last.checked_add(reach)).ok_or_else(beyond)?;
    }
    if last >= bytes.len() / size {
        return Err(beyond());
    }
    if is_dense(dims, strides) {
        let bytes = &bytes[offset * size..(offset + total) * size];
        return Ok(bytes.chunks_exact(size).map(|bytes| number(dtype, bytes)).collect());
    }
    let mut index = vec![0; dims.len()];
    let mut out = Vec::with_capacity(total);
    for _ in 0..total {
        let at = offset + index.iter().zip(strides).map(|(i, stride)| i * stride).sum::<usize>();
        out.push(number(dtype, &bytes[at * size..(at + 1) * size]));
        for (i, &size) in index.iter_mut().zip(dims).rev() {
            *i += 1;
            if *i < size {
                break;
            }
            *i = 0;
        }
    }
    Ok(out)
}
