//! Reads Python pickles and runs no code: those inside PyTorch checkpoints and those of data sets in Python's form.
//!
//! A pickle is a program for a stack machine that may call any function. This machine knows the instructions of
//! protocols 0 to 5, builds plain data, and records a call as data too. Objects live in an arena and are
//! referred to by index, so that a hostile pickle can neither recurse nor multiply: an instruction adds at most one object,
//! and no object is larger than the bytes that spell it out.
//!
//! [`read`] returns a [`Pickle`]; [`Pickle::root`] is where to start reading it:
//!
//! ```
//! // pickle.dumps({"labels": [6, 9]}, protocol=2)
//! let bytes = b"\x80\x02}q\x00X\x06\x00\x00\x00labelsq\x01]q\x02(K\x06K\tes.";
//! let (pickle, _) = ssdkd_pickle::read(bytes).unwrap();
//! let labels = pickle.root().get("labels").and_then(|labels| labels.elements()).unwrap();
//! assert_eq!(labels.map(|label| label.int()).collect::<Vec<_>>(), [Some(6), Some(9)]);
//! ```

mod machine;
mod numpy;
mod text;
mod value;

pub use machine::read;
pub use numpy::Array;
pub use value::Value;

/// An object's index in [`Pickle::objects`].
pub type Id = usize;

/// A plain object.
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    /// `None`, or a whole number of more than 64 bits: ids of Python objects and magic numbers.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// A whole number that fits 64 bits.
    Int(i64),
    /// A floating-point number.
    Float(f64),
    /// A `str`.
    Text(String),
    /// `bytes`, a `bytearray`, or a `str` of Python 2 that is no text.
    Bytes(Vec<u8>),
    /// A list, a tuple or a set.
    Sequence(Vec<Id>),
    /// A `dict`, in the order of its items.
    Dict(Vec<(Id, Id)>),
    /// `module.name`
    Global(String),
    /// A call that was not made: most objects are one.
    Call(Box<Call>),
    /// A reference to something outside of the pickle: a storage.
    Persistent(Id),
}

/// A call that was not made, with what is set on its result.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// What would be called.
    pub function: Id,
    /// Its arguments, a [`Sequence`](Object::Sequence).
    pub arguments: Id,
    /// Items that are set on the result, as on an `OrderedDict`.
    pub items: Vec<(Id, Id)>,
    /// The state that the result is given: for most objects a dictionary of its attributes.
    pub state: Option<Id>,
}

impl Object {
    /// Returns what it is, for messages: its contents may be as long as the file.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::None => "nothing",
            Self::Bool(_) => "a truth value",
            Self::Int(_) => "a whole number",
            Self::Float(_) => "a number",
            Self::Text(_) => "a text",
            Self::Bytes(_) => "bytes",
            Self::Sequence(_) => "a sequence",
            Self::Dict(_) => "a dictionary",
            Self::Global(_) => "a class",
            Self::Call(_) => "an object",
            Self::Persistent(_) => "a storage",
        }
    }
}

/// A finished pickle.
#[derive(Debug)]
pub struct Pickle {
    /// Every object, in the order of creation.
    pub objects: Vec<Object>,
    /// The object that the pickle describes.
    pub root: Id,
}

impl Pickle {
    /// Returns the object that the pickle describes.
    pub fn root(&self) -> Value<'_> {
        self.value(self.root)
    }

    /// Returns the object with this index.
    pub fn value(&self, id: Id) -> Value<'_> {
        Value::new(self, id)
    }
}

#[cfg(test)]
mod tests;
