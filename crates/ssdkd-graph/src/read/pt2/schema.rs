//! The parts of a `.pt2`'s `model.json` that matter here. What else is in it is skipped without being kept.

use std::collections::HashMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, Visitor};

#[derive(Deserialize)]
pub(super) struct Model {
    pub graph_module: GraphModule,
    #[serde(default)]
    pub torch_version: String,
}

/// What is looked at first.
#[derive(Deserialize)]
pub(super) struct Versioned {
    pub schema_version: Version,
}

#[derive(Deserialize)]
pub(super) struct Version {
    pub major: i64,
    pub minor: i64,
}

#[derive(Deserialize)]
pub(super) struct GraphModule {
    pub graph: Graph,
    pub signature: Signature,
}

#[derive(Deserialize)]
pub(super) struct Graph {
    pub nodes: Vec<Node>,
    pub outputs: Vec<Argument>,
    pub tensor_values: HashMap<String, TensorMeta>,
}

#[derive(Deserialize)]
pub(super) struct Signature {
    pub input_specs: Vec<InputSpec>,
}

/// What an input of the graph is.
pub(super) enum InputSpec {
    Parameter { name: String, tensor: String },
    Buffer { name: String, tensor: String },
    User(Option<String>),
    Other,
}

#[derive(Deserialize)]
pub(super) struct TensorMeta {
    pub dtype: i64,
    pub sizes: Vec<Size>,
    #[serde(default)]
    pub strides: Vec<Size>,
    pub storage_offset: Option<Size>,
}

/// A number that may depend on the sizes of the inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Size {
    Fixed(i64),
    /// With the number for which the network was exported.
    Expression(Option<i64>),
}

impl Size {
    pub fn known(&self) -> Option<i64> {
        match self {
            Self::Fixed(size) => Some(*size),
            Self::Expression(size) => *size,
        }
    }
}

#[derive(Deserialize)]
pub(super) struct Node {
    pub target: String,
    pub inputs: Vec<Input>,
    pub outputs: Vec<Argument>,
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    name: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Input {
    #[serde(default)]
    pub name: String,
    pub arg: Argument,
}

#[derive(Deserialize, Default)]
struct Metadata {
    #[serde(default)]
    nn_module_stack: String,
}

/// An argument or a result.
#[derive(Debug)]
pub(super) enum Argument {
    None,
    Tensor(String),
    Tensors(Vec<String>),
    OptionalTensors(Vec<Option<String>>),
    Int(i64),
    Ints(Vec<i64>),
    Float(f64),
    Floats(Vec<f64>),
    Bool(bool),
    Text(String),
    /// Whole numbers, some of which earlier nodes make.
    Symbolic(Vec<Symbolic>, bool),
    Other,
}

/// A whole number that an earlier node may make.
#[derive(Debug, Clone)]
pub(super) enum Symbolic {
    Name(String),
    Int(i64),
}

/// Operations whose result is a view of their first input.
const VIEWS: [&str; 23] = [
    "view",
    "reshape",
    "_unsafe_view",
    "flatten",
    "unflatten",
    "transpose",
    "permute",
    "t",
    "slice",
    "narrow",
    "select",
    "chunk",
    "split",
    "split_with_sizes",
    "squeeze",
    "unsqueeze",
    "expand",
    "contiguous",
    "dropout",
    "alias",
    "detach",
    "to",
    "feature_dropout",
];

impl Node {
    /// Returns the operation without its package, overload and underscore: `relu` of `torch.ops.aten.relu_.default`.
    pub fn operation(&self) -> &str {
        let name = self.target.strip_prefix("torch.ops.aten.").unwrap_or(&self.target);
        let name = if name.len() < self.target.len() { name.split('.').next().unwrap_or(name) } else { name };
        if name.starts_with('_') { name } else { name.trim_end_matches('_') }
    }

    /// Returns whether it changes its first input.
    pub fn in_place(&self) -> bool {
        let name = self.target.strip_prefix("torch.ops.aten.").and_then(|name| name.split('.').next());
        name.is_some_and(|name| name.ends_with('_') && !name.ends_with("__") && !name.starts_with("dropout"))
    }

    /// Returns whether its results are views of its first input.
    pub fn is_view(&self) -> bool {
        VIEWS.contains(&self.operation())
    }

    /// Returns whether a view that it makes has the numbers in the same order.
    pub fn keeps_order(&self) -> bool {
        !matches!(self.operation(), "transpose" | "permute" | "t")
    }

    /// Returns whether its one result is a list of tensors.
    pub fn makes_list(&self) -> bool {
        matches!(self.outputs.as_slice(), [Argument::Tensors(_)])
    }

    /// Returns the first tensor among its inputs.
    pub fn first_tensor(&self) -> Option<&str> {
        match &self.inputs.first()?.arg {
            Argument::Tensor(name) => Some(name),
            _ => None,
        }
    }

    /// Returns the path of the module that it comes from: the last of `key,path,class;key,path,class`.
    pub fn path(&self) -> &str {
        let last = self.metadata.nn_module_stack.rsplit(';').next().unwrap_or_default();
        last.split(',').nth(1).unwrap_or_default()
    }

    /// Returns its name, or that of its first result.
    pub fn label(&self) -> String {
        let name = self.name.as_deref().filter(|name| !name.is_empty());
        let first = || self.outputs.iter().flat_map(Argument::names).next();
        name.or_else(first).unwrap_or(&self.target).to_string()
    }
}

impl Argument {
    /// Returns the names in it.
    pub fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        match self {
            Self::Tensor(name) => Box::new(std::iter::once(name.as_str())),
            Self::Tensors(names) => Box::new(names.iter().map(String::as_str)),
            Self::OptionalTensors(names) => Box::new(names.iter().flatten().map(String::as_str)),
            Self::Symbolic(all, _) => Box::new(all.iter().filter_map(|one| match one {
                Symbolic::Name(name) => Some(name.as_str()),
                Symbolic::Int(_) => None,
            })),
            _ => Box::new(std::iter::empty()),
        }
    }
}

/// An object of one field, whose name says what it holds: how the schema writes unions.
macro_rules! union {
    ($type:ident, $map:ident, $key:ident, { $($arm:tt)* }) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct One;
                impl<'de> Visitor<'de> for One {
                    type Value = $type;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("an object with one field")
                    }

                    fn visit_map<A: MapAccess<'de>>(self, mut $map: A) -> Result<$type, A::Error> {
                        let Some($key) = $map.next_key::<String>()? else { return Err(A::Error::custom("an empty union")) };
                        let value = match $key.as_str() { $($arm)* };
                        while $map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                        Ok(value)
                    }
                }
                deserializer.deserialize_map(One)
            }
        }
    };
}

union!(Argument, map, key, {
    "as_none" => { map.next_value::<IgnoredAny>()?; Argument::None }
    "as_tensor" => Argument::Tensor(map.next_value::<Named>()?.name),
    "as_tensors" => Argument::Tensors(map.next_value::<Vec<Named>>()?.into_iter().map(|named| named.name).collect()),
    "as_optional_tensors" => Argument::OptionalTensors(
        map.next_value::<Vec<OptionalTensor>>()?.into_iter().map(|tensor| tensor.as_tensor.map(|named| named.name)).collect(),
    ),
    "as_int" | "as_scalar_type" => Argument::Int(map.next_value()?),
    "as_ints" => Argument::Ints(map.next_value()?),
    "as_float" => Argument::Float(map.next_value::<Float>()?.0),
    "as_floats" => Argument::Floats(map.next_value::<Vec<Float>>()?.into_iter().map(|float| float.0).collect()),
    "as_bool" => Argument::Bool(map.next_value()?),
    "as_string" => Argument::Text(map.next_value()?),
    "as_sym_int" => Argument::Symbolic(vec![map.next_value()?], true),
    "as_sym_ints" => Argument::Symbolic(map.next_value()?, false),
    _ => { map.next_value::<IgnoredAny>()?; Argument::Other }
});

union!(Symbolic, map, key, {
    "as_name" => Symbolic::Name(map.next_value()?),
    "as_int" => Symbolic::Int(map.next_value()?),
    _ => return Err(A::Error::custom("a whole number of an unknown kind")),
});

union!(Size, map, key, {
    "as_int" => Size::Fixed(map.next_value()?),
    "as_expr" => Size::Expression(map.next_value::<Expression>()?.hint.and_then(|hint| hint.as_int)),
    _ => return Err(A::Error::custom("a size of an unknown kind")),
});

union!(InputSpec, map, key, {
    "parameter" => {
        let Bound { arg, parameter_name, .. } = map.next_value()?;
        InputSpec::Parameter { name: arg.name, tensor: parameter_name.unwrap_or_default() }
    }
    "buffer" => {
        let Bound { arg, buffer_name, .. } = map.next_value()?;
        InputSpec::Buffer { name: arg.name, tensor: buffer_name.unwrap_or_default() }
    }
    "tensor_constant" => {
        let Bound { arg, tensor_constant_name, .. } = map.next_value()?;
        InputSpec::Buffer { name: arg.name, tensor: tensor_constant_name.unwrap_or_default() }
    }
    "user_input" => match map.next_value::<UserInput>()?.arg {
        Argument::Tensor(name) => InputSpec::User(Some(name)),
        _ => InputSpec::User(None),
    },
    _ => { map.next_value::<IgnoredAny>()?; InputSpec::Other }
});

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
struct OptionalTensor {
    as_tensor: Option<Named>,
}

#[derive(Deserialize)]
struct Bound {
    arg: Named,
    parameter_name: Option<String>,
    buffer_name: Option<String>,
    tensor_constant_name: Option<String>,
}

#[derive(Deserialize)]
struct UserInput {
    arg: Argument,
}

#[derive(Deserialize)]
struct Expression {
    hint: Option<Hint>,
}

#[derive(Deserialize)]
struct Hint {
    as_int: Option<i64>,
}

/// A number, or the text of one that JSON cannot hold.
struct Float(f64);

impl<'de> Deserialize<'de> for Float {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl Visitor<'_> for Any {
            type Value = Float;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number")
            }

            fn visit_f64<E>(self, value: f64) -> Result<Float, E> {
                Ok(Float(value))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Float, E> {
                Ok(Float(value as f64))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Float, E> {
                Ok(Float(value as f64))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Float, E> {
                match text {
                    "Infinity" => Ok(Float(f64::INFINITY)),
                    "-Infinity" => Ok(Float(f64::NEG_INFINITY)),
                    "NaN" => Ok(Float(f64::NAN)),
                    _ => Err(E::custom("a text where a number is expected")),
                }
            }
        }
        deserializer.deserialize_any(Any)
    }
}
