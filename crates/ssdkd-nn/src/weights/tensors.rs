//! Tensors as a pickle describes them: calls of PyTorch's functions that would rebuild them, and arrays of NumPy.

use candle_core::DType;
use ssdkd_pickle::{Object, Value};

/// A type of storage.
pub(super) struct Class {
    pub name: &'static str,
    /// Bytes of an element.
    pub size: usize,
    /// What a tensor of it becomes; `None` for what no network here has.
    pub dtype: Option<DType>,
}

const fn class(name: &'static str, size: usize, dtype: Option<DType>) -> Class {
    Class { name, size, dtype }
}

static CLASSES: [Class; 18] = [
    class("FloatStorage", 4, Some(DType::F32)),
    class("DoubleStorage", 8, Some(DType::F64)),
    class("HalfStorage", 2, Some(DType::F16)),
    class("BFloat16Storage", 2, Some(DType::BF16)),
    class("LongStorage", 8, Some(DType::I64)),
    class("IntStorage", 4, Some(DType::I32)),
    class("ByteStorage", 1, Some(DType::U8)),
    class("ShortStorage", 2, None),
    class("CharStorage", 1, None),
    class("BoolStorage", 1, None),
    class("ComplexFloatStorage", 8, None),
    class("ComplexDoubleStorage", 16, None),
    class("QInt8Storage", 1, None),
    class("QUInt8Storage", 1, None),
    class("QInt32Storage", 4, None),
    class("QUInt4x2Storage", 1, None),
    class("QUInt2x4Storage", 1, None),
    class("UntypedStorage", 1, None),
];

/// Returns the class of storage with this name.
pub(super) fn class_named(name: &str) -> Option<&'static Class> {
    CLASSES.iter().find(|class| class.name == name)
}

/// A reference to a storage of the file.
#[derive(Clone, Copy)]
pub(super) struct Storage<'a> {
    pub key: &'a str,
    pub class: &'static Class,
    /// How many elements it has, as the pickle says.
    pub count: u64,
}

impl Storage<'_> {
    /// Returns how many bytes it has, as the pickle says.
    pub fn bytes(&self) -> u64 {
        self.count.saturating_mul(self.class.size as u64)
    }
}

/// Where a tensor's numbers are.
#[derive(Clone, Copy)]
pub(super) enum Numbers<'a> {
    /// In a storage of the file.
    Storage(Storage<'a>),
    /// In a stream within the pickle, as Python's own pickle writes a storage.
    Stream(Value<'a>),
}

/// A tensor as the pickle describes it: offset and strides in elements.
pub(super) struct Description<'a> {
    pub numbers: Numbers<'a>,
    pub offset: usize,
    pub shape: Vec<usize>,
    pub stride: Vec<usize>,
}

/// A value that is a tensor.
pub(super) enum Source<'a> {
    /// A tensor of PyTorch.
    Torch(Description<'a>),
    /// An array of NumPy, and its shape.
    Array(Value<'a>, Vec<usize>),
    /// One that cannot be read: what it is, what to do, and its shape if it says.
    Unusable { what: String, remedy: Option<Remedy>, shape: Vec<usize> },
}

/// What makes a tensor one that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remedy {
    /// `to_dense()`
    Dense,
    /// `float()`
    Float,
    /// The network before its quantization.
    Unquantized,
    /// A network with numbers.
    Numbers,
}

impl Source<'_> {
    pub fn shape(&self) -> &[usize] {
        match self {
            Self::Torch(description) => &description.shape,
            Self::Array(_, shape) | Self::Unusable { shape, .. } => shape,
        }
    }

    /// Returns the storage of the file that its numbers are in.
    pub fn storage(&self) -> Option<Storage<'_>> {
        match self {
            Self::Torch(Description { numbers: Numbers::Storage(storage), .. }) => Some(*storage),
            _ => None,
        }
    }

    fn broken(what: String) -> Self {
        Self::Unusable { what, remedy: None, shape: Vec::new() }
    }
}

/// Most dimensions of a tensor. Many entries may name one description: what each takes must be bounded.
const MOST_DIMENSIONS: usize = 8;

/// Most wrappers around a tensor; PyTorch makes one.
const MOST_WRAPPERS: usize = 8;

/// Returns the tensor that a value is; `None` for what is none.
pub(super) fn tensor(value: Value<'_>) -> Option<Source<'_>> {
    // The function, and a sequence of its arguments.
    let (mut name, mut arguments) = (value.function()?, value.arguments()?);
    for _ in 0..=MOST_WRAPPERS {
        let inner = |index: usize| arguments.element(index);
        let Some(function) = name.strip_prefix("torch._utils.").or_else(|| name.strip_prefix("torch._tensor.")) else {
            // The name is that of another function: at the first turn this may be an array.
            return tensor_of_array(value);
        };
        let odd = |what: &str, remedy, shape: Option<Value<'_>>| {
            let shape = shape.and_then(|shape| sizes(shape).ok()).unwrap_or_default();
            Some(Source::Unusable { what: what.into(), remedy: Some(remedy), shape })
        };
        let wrapped = match function {
            "_rebuild_tensor" | "_rebuild_tensor_v2" => {
                return Some(describe(arguments).map_or_else(Source::broken, Source::Torch));
            }
            "_rebuild_parameter" | "_rebuild_parameter_with_state" | "_rebuild_device_tensor_from_cpu_tensor" => {
                inner(0)
            }
            // A subclass of Tensor: (function, type, arguments, state).
            "_rebuild_from_type_v2" | "_rebuild_from_type" => match [0, 2].map(inner) {
                [Some(function), Some(inner)] if function.global().is_some() => {
                    (name, arguments) = (function.global()?, inner);
                    continue;
                }
                _ => None,
            },
            "_rebuild_qtensor" => return odd("quantized", Remedy::Unquantized, inner(2)),
            "_rebuild_sparse_tensor" => {
                return odd("sparse", Remedy::Dense, inner(1).and_then(|parts| parts.element(2)));
            }
            "_rebuild_sparse_csr_tensor" => {
                return odd("sparse", Remedy::Dense, inner(1).and_then(|parts| parts.element(3)));
            }
            "_rebuild_nested_tensor" => return odd("nested", Remedy::Dense, None),
            "_rebuild_meta_tensor_no_storage" => {
                return odd("without numbers (on the device meta)", Remedy::Numbers, inner(1));
            }
            "_rebuild_tensor_v3" => {
                let dtype = inner(6).and_then(Value::global).unwrap_or("of an unknown type");
                return odd(&format!("of the type {dtype}"), Remedy::Float, inner(2));
            }
            _ if function.starts_with("_rebuild") => return odd("of a kind that is not known", Remedy::Float, None),
            _ => return None,
        };
        let Some(wrapped) = wrapped else { return Some(Source::broken("it has a parameter without a tensor".into())) };
        if wrapped.array_shape().is_some() {
            return tensor_of_array(wrapped);
        }
        let (Some(function), Some(inner)) = (wrapped.function(), wrapped.arguments()) else {
            return Some(Source::broken(format!("it has a parameter with {} for a tensor", wrapped.kind())));
        };
        (name, arguments) = (function, inner);
    }
    Some(Source::broken(format!("it has a parameter within more than {MOST_WRAPPERS} others")))
}

/// Returns an array, but no scalar: those are measurements.
fn tensor_of_array(array: Value<'_>) -> Option<Source<'_>> {
    if array.function()?.ends_with(".scalar") {
        return None;
    }
    let shape = array.array_shape()?;
    (shape.len() <= MOST_DIMENSIONS).then_some(Source::Array(array, shape))
}

/// Returns `(storage, offset, shape, stride, …)`
fn describe(arguments: Value<'_>) -> Result<Description<'_>, String> {
    let part = |index| arguments.element(index).ok_or("it has a tensor with too few arguments");
    let holder = part(0)?;
    let numbers = match holder.object() {
        Object::Persistent(_) => {
            let storage = holder.persistent().map(storage).transpose()?.flatten();
            Numbers::Storage(storage.ok_or("it has a tensor without a storage")?)
        }
        Object::Call(_) if holder.function() == Some("torch.storage._load_from_bytes") => {
            Numbers::Stream(holder.argument(0).ok_or("it has a tensor without a storage")?)
        }
        _ => return Err("it has a tensor without a storage".into()),
    };
    let (offset, shape, stride) = (size(part(1)?)?, sizes(part(2)?)?, sizes(part(3)?)?);
    if shape.len() != stride.len() {
        return Err(format!("it has a tensor of {} dimensions with {} strides", shape.len(), stride.len()));
    }
    Ok(Description { numbers, offset, shape, stride })
}

pub(super) fn expected(what: &str, value: Value<'_>) -> String {
    format!("it has {} where {what} is expected", value.kind())
}

fn size(value: Value<'_>) -> Result<usize, String> {
    let number = value.int().ok_or_else(|| expected("a size", value))?;
    usize::try_from(number).map_err(|_| format!("it has {number} where a size is expected"))
}

fn sizes(value: Value<'_>) -> Result<Vec<usize>, String> {
    // `torch.Size` is a call with the tuple.
    let value = if value.function() == Some("torch.Size") { value.argument(0).unwrap_or(value) } else { value };
    let sizes = value.elements().ok_or_else(|| expected("a sequence", value))?;
    if sizes.len() > MOST_DIMENSIONS {
        return Err(format!("it has a tensor of {} dimensions; at most {MOST_DIMENSIONS} are possible", sizes.len()));
    }
    sizes.map(size).collect()
}

/// Returns `("storage", torch.FloatStorage, key, device, count)`, in old streams with a view at the end. `None` for the source
/// code of a module, which old streams refer to in the same way.
pub(super) fn storage(arguments: Value<'_>) -> Result<Option<Storage<'_>>, String> {
    if !matches!(arguments.object(), Object::Sequence(_)) {
        return Err(expected("a sequence", arguments));
    }
    if arguments.element(0).and_then(Value::text) == Some("module") {
        return Ok(None);
    }
    let [Some(class), Some(key)] = [1, 2].map(|index| arguments.element(index)) else {
        return Err("it has a storage with too few arguments".into());
    };
    if arguments.element(5).is_some_and(|view| *view.object() != Object::None) {
        return Err("it has a view of a storage, as PyTorch 0.1 wrote them: save it again with a newer one".into());
    }
    let class = class.global().ok_or("it has a storage without a type")?;
    let class = class.rsplit_once('.').map_or(class, |(_, name)| name);
    let class = class_named(class).ok_or_else(|| format!("it has a storage of the unknown type {class}"))?;
    let count = arguments.element(4).and_then(Value::int).and_then(|count| u64::try_from(count).ok());
    let key = key.text().ok_or_else(|| expected("a text", key))?;
    Ok(Some(Storage { key, class, count: count.unwrap_or(u64::MAX) }))
}
