//! Reading the objects of a pickle: by key, by index, and as the type that is expected.

use std::borrow::Cow;

use crate::{Call, Id, Object, Pickle};

/// An object of a pickle, with what it takes to follow its references.
///
/// A pickle may refer to itself, so code that walks through one must bound the walk.
#[derive(Debug, Clone, Copy)]
pub struct Value<'a> {
    pickle: &'a Pickle,
    id: Id,
}

impl<'a> Value<'a> {
    pub(crate) fn new(pickle: &'a Pickle, id: Id) -> Self {
        Self { pickle, id }
    }

    /// Returns its index in [`Pickle::objects`].
    pub fn id(self) -> Id {
        self.id
    }

    /// Returns the object itself.
    pub fn object(self) -> &'a Object {
        &self.pickle.objects[self.id]
    }

    /// Returns what it is, for messages.
    pub fn kind(self) -> &'static str {
        self.object().kind()
    }

    /// Returns a text.
    pub fn text(self) -> Option<&'a str> {
        if let Object::Text(text) = self.object() { Some(text) } else { None }
    }

    /// Returns a whole number.
    pub fn int(self) -> Option<i64> {
        if let Object::Int(value) = *self.object() { Some(value) } else { None }
    }

    /// Returns a truth value.
    pub fn bool(self) -> Option<bool> {
        if let Object::Bool(value) = *self.object() { Some(value) } else { None }
    }

    /// Bytes, as every version of Python writes them.
    ///
    /// Python 2 has no type of their own for them. Python 3 writes them with protocol 2 as a text in Latin-1, and a call
    /// that encodes it.
    pub fn bytes(self) -> Option<Cow<'a, [u8]>> {
        match self.object() {
            Object::Bytes(bytes) => Some(bytes.into()),
            Object::Text(text) => Some(text.as_bytes().into()),
            Object::Call(_) => match self.function()? {
                "_codecs.encode" if self.argument(1)?.text()? == "latin1" => {
                    let text = self.argument(0)?.text()?;
                    text.chars().map(|letter| u8::try_from(u32::from(letter)).ok()).collect::<Option<Vec<_>>>()
                }
                // `bytes()`, as Python 3 writes empty ones with protocol 2.
                "__builtin__.bytes" | "builtins.bytes" if self.argument(0).is_none() => Some(Vec::new()),
                _ => None,
            }
            .map(Cow::Owned),
            _ => None,
        }
    }

    /// Returns the elements of a list, a tuple or a set.
    pub fn elements(self) -> Option<impl ExactSizeIterator<Item = Value<'a>> + use<'a>> {
        let Object::Sequence(elements) = self.object() else { return None };
        Some(elements.iter().map(move |&id| self.pickle.value(id)))
    }

    /// Returns the element of a list or a tuple at this index.
    pub fn element(self, index: usize) -> Option<Value<'a>> {
        let Object::Sequence(elements) = self.object() else { return None };
        elements.get(index).map(|&id| self.pickle.value(id))
    }

    /// Returns the keys and values of a dictionary, or of an object that is one, as an `OrderedDict`.
    pub fn entries(
        self,
    ) -> Option<impl ExactSizeIterator<Item = (Value<'a>, Value<'a>)> + DoubleEndedIterator + use<'a>> {
        let items = match self.object() {
            Object::Dict(items) => items,
            Object::Call(call) => &call.items,
            _ => return None,
        };
        Some(items.iter().map(move |&(key, value)| (self.pickle.value(key), self.pickle.value(value))))
    }

    /// Returns the value of a dictionary under this key, a text or the same in bytes.
    pub fn get(self, key: &str) -> Option<Value<'a>> {
        // Of two values under one key Python keeps the later one.
        let mut entries = self.entries()?.rev();
        let is_key = |value: Value<'_>| match value.object() {
            Object::Text(text) => text == key,
            Object::Bytes(bytes) => bytes == key.as_bytes(),
            // Python 3 writes the bytes of a key like this with protocol 2.
            Object::Call(_) => {
                value.argument(0).and_then(Value::text) == Some(key) && value.bytes().as_deref() == Some(key.as_bytes())
            }
            _ => false,
        };
        entries.find(|(name, _)| is_key(*name)).map(|(_, value)| value)
    }

    /// Returns `module.name` of a class or a function.
    pub fn global(self) -> Option<&'a str> {
        if let Object::Global(name) = self.object() { Some(name) } else { None }
    }

    /// Returns the call that would make this object.
    pub fn call(self) -> Option<&'a Call> {
        if let Object::Call(call) = self.object() { Some(call) } else { None }
    }

    /// Returns what would be called for this object.
    pub fn function_value(self) -> Option<Value<'a>> {
        Some(self.pickle.value(self.call()?.function))
    }

    /// Returns `module.name` of what would be called for this object.
    pub fn function(self) -> Option<&'a str> {
        self.function_value()?.global()
    }

    /// Returns the arguments of the call that would make this object.
    pub fn arguments(self) -> Option<Value<'a>> {
        Some(self.pickle.value(self.call()?.arguments))
    }

    /// Returns the argument at this index of the call that would make this object.
    pub fn argument(self, index: usize) -> Option<Value<'a>> {
        self.arguments()?.element(index)
    }

    /// Returns the state that the object is given: for most a dictionary of its attributes.
    pub fn state(self) -> Option<Value<'a>> {
        Some(self.pickle.value(self.call()?.state?))
    }

    /// Returns what a reference to something outside of the pickle says.
    pub fn persistent(self) -> Option<Value<'a>> {
        if let Object::Persistent(id) = *self.object() { Some(self.pickle.value(id)) } else { None }
    }
}
