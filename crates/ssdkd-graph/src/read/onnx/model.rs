//! The messages of an ONNX file.

use std::collections::HashMap;

use half::{bf16, f16};

use super::external::Files;
use super::wire::{Content, Message};
use crate::error::clean;
use crate::read::constant::{Constant, Numbers, count};
use crate::read::meaning::{Dim, MOST_LISTED, Meaning, Whole};

/// An ONNX file without its nodes and tensors.
#[derive(Default)]
pub(super) struct Model<'a> {
    pub producer: String,
    /// The version of the standard operations.
    pub opset: Option<i64>,
    pub metadata: Vec<(&'a str, &'a str)>,
    pub graph: Option<Message<'a>>,
    pub functions: usize,
}

impl<'a> Model<'a> {
    pub fn read(bytes: &'a [u8]) -> Result<Self, String> {
        let mut model = Self::default();
        for field in Message::new(bytes) {
            match field? {
                (2, name) => model.producer.insert_str(0, name.text()?),
                (3, version) => model.producer = format!("{} {}", model.producer, version.text()?),
                (7, graph) => model.graph = Some(graph.message()?),
                (8, opset) => {
                    let (mut domain, mut version) = ("", 0);
                    for field in opset.message()? {
                        match field? {
                            (1, name) => domain = name.text()?,
                            (2, number) => version = number.int()?,
                            _ => {}
                        }
                    }
                    if matches!(domain, "" | "ai.onnx") {
                        model.opset = Some(version);
                    }
                }
                (14, entry) => model.metadata.push(pair(entry)?),
                (25, _) => model.functions += 1,
                _ => {}
            }
        }
        Ok(model)
    }
}

/// Returns a key and its text.
fn pair(entry: Content<'_>) -> Result<(&str, &str), String> {
    let (mut key, mut value) = ("", "");
    for field in entry.message()? {
        match field? {
            (1, text) => key = text.text()?,
            (2, text) => value = text.text()?,
            _ => {}
        }
    }
    Ok((key, value))
}

/// A node.
#[derive(Default)]
pub(super) struct Node<'a> {
    pub name: &'a str,
    pub op: &'a str,
    pub domain: &'a str,
    pub inputs: Vec<&'a str>,
    pub outputs: Vec<&'a str>,
    pub attributes: HashMap<&'a str, Attribute<'a>>,
    pub metadata: Vec<(&'a str, &'a str)>,
}

/// An attribute's value.
pub(super) enum Attribute<'a> {
    Float(f32),
    Int(i64),
    Text(&'a [u8]),
    Tensor(Message<'a>),
    Floats(Vec<f32>),
    Ints(Vec<i64>),
    Other,
}

impl<'a> Node<'a> {
    pub fn read(message: Message<'a>) -> Result<Self, String> {
        let mut node = Self::default();
        for field in message {
            match field? {
                (1, name) => node.inputs.push(name.text()?),
                (2, name) => node.outputs.push(name.text()?),
                (3, name) => node.name = name.text()?,
                (4, op) => node.op = op.text()?,
                (5, attribute) => {
                    let (name, value) = Attribute::read(attribute.message()?)?;
                    node.attributes.insert(name, value);
                }
                (7, domain) => node.domain = domain.text()?,
                (9, entry) => node.metadata.push(pair(entry)?),
                _ => {}
            }
        }
        Ok(node)
    }

    /// Returns its name, or that of its first result.
    pub fn label(&self) -> &'a str {
        if self.name.is_empty() { self.outputs.first().copied().unwrap_or("without a name") } else { self.name }
    }
}

impl<'a> Attribute<'a> {
    fn read(message: Message<'a>) -> Result<(&'a str, Self), String> {
        let (mut name, mut kind) = ("", None);
        let (mut value, mut floats, mut ints) = (Self::Other, Vec::new(), Vec::new());
        for field in message {
            match field? {
                (1, text) => name = text.text()?,
                (2, number) => value = Self::Float(number.float()?),
                (3, number) => value = Self::Int(number.int()?),
                (4, text) => value = Self::Text(text.bytes()?),
                (5, tensor) => value = Self::Tensor(tensor.message()?),
                (7, numbers) => numbers.floats(&mut floats)?,
                (8, numbers) => numbers.ints(&mut ints)?,
                (20, number) => kind = Some(number.int()?),
                _ => {}
            }
        }
        // A number that is 0 may be left out: then the kind tells what the attribute is.
        let value = match (kind, value) {
            (Some(6), _) => Self::Floats(floats),
            (Some(7), _) => Self::Ints(ints),
            (Some(1), Self::Other) => Self::Float(0.0),
            (Some(2), Self::Other) => Self::Int(0),
            (Some(3), Self::Other) => Self::Text(&[]),
            (None, Self::Other) if !floats.is_empty() => Self::Floats(floats),
            (None, Self::Other) if !ints.is_empty() => Self::Ints(ints),
            (_, value) => value,
        };
        Ok((name, value))
    }
}

/// Returns an input of the graph: its name and its sizes, `None` where they are open.
pub(super) fn value_info(message: Message<'_>) -> Result<(&str, Vec<Option<i64>>), String> {
    let (mut name, mut dims) = ("", Vec::new());
    for field in message {
        match field? {
            (1, text) => name = text.text()?,
            (2, kind) => {
                // type → tensor type → shape → dimension
                for tensor in kind.message()?.filter(|field| !matches!(field, Ok((number, _)) if *number != 1)) {
                    for shape in tensor?.1.message()?.filter(|field| !matches!(field, Ok((number, _)) if *number != 2))
                    {
                        for dim in shape?.1.message()? {
                            let mut size = None;
                            for field in dim?.1.message()? {
                                if let (1, number) = field? {
                                    size = Some(number.int()?);
                                }
                            }
                            dims.push(size);
                        }
                    }
                }
            }
            _ => {}
        }
    }
    Ok((name, dims))
}

/// Most dimensions of a tensor.
const MOST_DIMENSIONS: usize = 8;

/// Returns a tensor of the file: its name and what it stands for.
pub(super) fn tensor<'a>(message: Message<'a>, files: &mut Files<'_>) -> Result<(&'a str, Meaning), String> {
    let (mut name, mut kind, mut dims, mut raw) = ("", 0, Vec::new(), None);
    let (mut floats, mut ints, mut external, mut is_external) = (Vec::new(), Vec::new(), Vec::new(), false);
    for field in message {
        match field? {
            (1, sizes) => sizes.ints(&mut dims)?,
            (2, number) => kind = number.int()?,
            (3, _) => return Err("it has a tensor in segments".into()),
            (4, numbers) => numbers.floats(&mut floats)?,
            (5 | 7 | 11, numbers) => numbers.ints(&mut ints)?,
            (8, text) => name = text.text()?,
            (9, bytes) => raw = Some(bytes.bytes()?),
            (10, numbers) => numbers.doubles(&mut floats)?,
            (13, entry) => external.push(pair(entry)?),
            (14, number) => is_external = number.int()? == 1,
            _ => {}
        }
        if dims.len() > MOST_DIMENSIONS {
            return Err(format!("it has a tensor of more than {MOST_DIMENSIONS} dimensions"));
        }
    }
    let shown = clean(name);
    let damaged = |reason: &str| format!("the tensor {shown} {reason}");
    let sizes = dims.iter().map(|&size| usize::try_from(size)).collect::<Result<Vec<_>, _>>();
    let sizes = sizes.map_err(|_| damaged("has a negative size"))?;
    let total = count(&sizes).ok_or_else(|| damaged("is too large"))?;
    let outside;
    if is_external {
        outside = files.read(&external).map_err(|reason| damaged(&reason))?;
        raw = Some(&outside);
    }
    let whole = matches!(kind, 2..=7 | 9 | 12 | 13);
    if let Some(bytes) = raw {
        let size = element_size(kind)
            .ok_or_else(|| damaged(&format!("is of type {kind}, which no network for images has")))?;
        if total.checked_mul(size) != Some(bytes.len()) {
            return Err(damaged(&format!("of sizes {sizes:?} has {} bytes", bytes.len())));
        }
        if whole {
            ints.extend(bytes.chunks_exact(size).map(|bytes| int(kind, bytes)));
        } else {
            floats.extend(bytes.chunks_exact(size).map(|bytes| float(kind, bytes)));
        }
    } else if matches!(kind, 10 | 16) {
        // Numbers of 16 bits stand among the whole numbers of 32 bits.
        floats.extend(ints.drain(..).map(|bits| float(kind, &(bits as u16).to_le_bytes())));
    }
    if (if whole { ints.len() } else { floats.len() }) != total {
        return Err(damaged(&format!(
            "of sizes {sizes:?} has {} numbers",
            if whole { ints.len() } else { floats.len() }
        )));
    }
    if whole {
        if total > MOST_LISTED || sizes.len() > 1 {
            return Ok((name, Meaning::Unknown));
        }
        let values = ints.into_iter().map(Dim::Fixed).collect::<Vec<_>>().into();
        return Ok((name, Meaning::Whole(Whole { values, scalar: sizes.is_empty() })));
    }
    if !matches!(kind, 1 | 10 | 11 | 16) {
        return Ok((name, Meaning::Unknown));
    }
    let numbers = Numbers::All(std::rc::Rc::new(floats));
    Ok((
        name,
        Meaning::Constant(Constant { name: name.into(), dims: sizes.into(), numbers, trained: true, origin: None }),
    ))
}

/// Returns the bytes of an element of ONNX's types of whole numbers and floats.
fn element_size(kind: i64) -> Option<usize> {
    match kind {
        2 | 3 | 9 => Some(1),
        4 | 5 | 10 | 16 => Some(2),
        1 | 6 | 12 => Some(4),
        7 | 11 | 13 => Some(8),
        _ => None,
    }
}

fn float(kind: i64, bytes: &[u8]) -> f32 {
    match (kind, bytes) {
        (10, &[a, b]) => f16::from_le_bytes([a, b]).to_f32(),
        (16, &[a, b]) => bf16::from_le_bytes([a, b]).to_f32(),
        (_, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
        (_, &[a, b, c, d, e, f, g, h]) => f64::from_le_bytes([a, b, c, d, e, f, g, h]) as f32,
        _ => f32::NAN,
    }
}

fn int(kind: i64, bytes: &[u8]) -> i64 {
    match (kind, bytes) {
        (3, &[byte]) => i64::from(byte.cast_signed()),
        (_, &[byte]) => i64::from(byte),
        (4, &[a, b]) => i64::from(u16::from_le_bytes([a, b])),
        (_, &[a, b]) => i64::from(i16::from_le_bytes([a, b])),
        (12, &[a, b, c, d]) => i64::from(u32::from_le_bytes([a, b, c, d])),
        (_, &[a, b, c, d]) => i64::from(i32::from_le_bytes([a, b, c, d])),
        (_, &[a, b, c, d, e, f, g, h]) => i64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => 0,
    }
}
