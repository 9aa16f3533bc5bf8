//! Reads Python pickles and runs no code: those inside PyTorch checkpoints and those of data sets in Python's form.
//!
//! A pickle is a program for a stack machine that may call any function. This machine knows the instructions that
//! such files use, builds plain data, and records a call as data too. Objects live in an arena and are
//! referred to by index, so that a hostile pickle can neither recurse nor multiply: an instruction adds at most one object,
//! and no object is larger than the bytes that spell it out.

use std::collections::HashMap;

/// An object's index in [`Pickle::objects`].
pub type Id = usize;

/// A plain object.
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// A whole number that fits 64 bits.
    Int(i64),
    /// A floating-point number.
    Float(f64),
    /// A `str`, or the bytes of one in protocols before 3.
    Text(String),
    /// A list or a tuple.
    Sequence(Vec<Id>),
    /// A `dict`, in the order of its items.
    Dict(Vec<(Id, Id)>),
    /// `module.name`
    Global(String),
    /// A call that was not made, and the items set on its result.
    Call {
        /// What would be called.
        function: Id,
        /// Its arguments, a [`Sequence`](Self::Sequence).
        arguments: Id,
        /// Items that are set on the result.
        items: Vec<(Id, Id)>,
    },
    /// A reference to something outside of the pickle: a storage.
    Persistent(Id),
}

impl Object {
    /// What it is, for messages: its contents may be as long as the file.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::None => "nothing",
            Self::Bool(_) => "a truth value",
            Self::Int(_) => "a whole number",
            Self::Float(_) => "a number",
            Self::Text(_) => "a text",
            Self::Sequence(_) => "a sequence",
            Self::Dict(_) => "a dictionary",
            Self::Global(_) => "a class",
            Self::Call { .. } => "an object",
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

/// Reads one pickle from the front of `bytes`, and returns it with the number of bytes it took.
pub fn read(bytes: &[u8]) -> Result<(Pickle, usize), String> {
    let mut machine =
        Machine { bytes, at: 0, objects: Vec::new(), stack: Vec::new(), marks: Vec::new(), memo: HashMap::new() };
    while machine.step()? {
        if machine.objects.len() > OBJECT_LIMIT {
            return Err(format!("the pickle makes more than {OBJECT_LIMIT} objects, which no checkpoint needs"));
        }
    }
    let root = machine.pop()?;
    Ok((Pickle { objects: machine.objects, root }, machine.at))
}

/// Most objects of a pickle: they take up to a hundred times the space of the instructions that make them.
const OBJECT_LIMIT: usize = 1 << 22;

/// Longest name of a class, in bytes.
const NAME_LIMIT: usize = 256;

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    objects: Vec<Object>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
}

impl<'a> Machine<'a> {
    /// One instruction; false after the last.
    fn step(&mut self) -> Result<bool, String> {
        let opcode = self.take(1)?[0];
        match opcode {
            b'.' => return Ok(false),
            0x80 => drop(self.take(1)?),               // PROTO
            0x95 => drop(self.take(8)?),               // FRAME
            b'(' => self.marks.push(self.stack.len()), // MARK
            // POP, and BUILD: attributes set on an object that is not built here
            b'0' | b'b' => drop(self.pop()?),
            b'N' => self.push(Object::None),
            0x88 => self.push(Object::Bool(true)),
            0x89 => self.push(Object::Bool(false)),
            b'K' => self.int(1)?,
            b'M' => self.int(2)?,
            b'J' => {
                let value = i32::from_le_bytes(self.array()?);
                self.push(Object::Int(value.into()));
            }
            0x8a => self.long()?,
            b'G' => {
                let value = f64::from_be_bytes(self.array()?);
                self.push(Object::Float(value));
            }
            b'X' | b'T' => {
                let length = u32::from_le_bytes(self.array()?);
                self.text(u64::from(length))?;
            }
            0x8c | b'U' => {
                let length = self.take(1)?[0];
                self.text(length.into())?;
            }
            b')' | b']' => self.push(Object::Sequence(Vec::new())),
            b'}' => self.push(Object::Dict(Vec::new())),
            b't' | b'l' => {
                let items = self.pop_to_mark()?;
                self.push(Object::Sequence(items));
            }
            0x85..=0x87 => {
                let items = self.pop_many(usize::from(opcode - 0x84))?;
                self.push(Object::Sequence(items));
            }
            b'd' => {
                let items = self.pop_to_mark()?;
                self.push(Object::Dict(pairs(&items)?));
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' => {
                let items = self.pop_to_mark()?;
                self.append(items)?;
            }
            b's' => {
                let items = self.pop_many(2)?;
                self.set_items(&items)?;
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.set_items(&items)?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(&module, &name)?;
            }
            0x93 => {
                let (name, module) = (self.pop_text()?, self.pop_text()?);
                self.global(&module, &name)?;
            }
            b'R' | 0x81 => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                self.push(Object::Call { function, arguments, items: Vec::new() });
            }
            b'Q' => {
                let id = self.pop()?;
                self.push(Object::Persistent(id));
            }
            b'q' => {
                let key = self.take(1)?[0];
                self.put(key.into())?;
            }
            b'r' => {
                let key = u32::from_le_bytes(self.array()?);
                self.put(key.into())?;
            }
            0x94 => self.put(self.memo.len() as u64)?,
            b'h' => {
                let key = self.take(1)?[0];
                self.get(key.into())?;
            }
            b'j' => {
                let key = u32::from_le_bytes(self.array()?);
                self.get(key.into())?;
            }
            _ => {
                return Err(format!(
                    "the pickle has the instruction {opcode:#04x} at byte {}, which no checkpoint needs",
                    self.at - 1
                ));
            }
        }
        Ok(true)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(count).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or_else(|| format!("the pickle ends in mid-instruction at byte {}", self.at))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        Ok(self.take(N)?.try_into().expect("taken by length"))
    }

    fn int(&mut self, bytes: usize) -> Result<(), String> {
        let value = self.take(bytes)?.iter().rev().fold(0, |value, &byte| (value << 8) | i64::from(byte));
        self.push(Object::Int(value));
        Ok(())
    }

    /// Longer integers than 64 bits are ids of Python objects or magic numbers: nobody needs their value.
    fn long(&mut self) -> Result<(), String> {
        let length = usize::from(self.take(1)?[0]);
        let bytes = self.take(length)?;
        let negative = bytes.last().is_some_and(|&byte| byte & 0x80 != 0);
        let start = if negative { -1 } else { 0 };
        let value = bytes.iter().take(8).rev().fold(start, |value: i64, &byte| (value << 8) | i64::from(byte));
        self.push(if length <= 8 { Object::Int(value) } else { Object::None });
        Ok(())
    }

    fn text(&mut self, length: u64) -> Result<(), String> {
        let bytes = self.take(usize::try_from(length).map_err(|_| "a text is too long".to_string())?)?;
        self.push(Object::Text(String::from_utf8_lossy(bytes).into_owned()));
        Ok(())
    }

    fn line(&mut self) -> Result<String, String> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|&byte| byte == b'\n').ok_or("the pickle ends in mid-line")?;
        let line = String::from_utf8_lossy(&rest[..length]).into_owned();
        self.at += length + 1;
        Ok(line)
    }

    /// The name of a class. Its parts may be texts recalled from the memo, so that a few bytes could copy a long one.
    fn global(&mut self, module: &str, name: &str) -> Result<(), String> {
        if module.len() + name.len() > NAME_LIMIT {
            return Err(format!("the pickle names a class with more than {NAME_LIMIT} letters"));
        }
        self.push(Object::Global(format!("{module}.{name}")));
        Ok(())
    }

    fn push(&mut self, object: Object) {
        self.objects.push(object);
        self.stack.push(self.objects.len() - 1);
    }

    fn pop(&mut self) -> Result<Id, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(format!("the pickle takes from an empty stack at byte {}", self.at));
        }
        self.stack.pop().ok_or_else(|| "the pickle takes from an empty stack".into())
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<Id>, String> {
        let mut items = (0..count).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        items.reverse();
        Ok(items)
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.marks.pop().ok_or_else(|| format!("the pickle has no mark at byte {}", self.at))?;
        Ok(self.stack.split_off(mark))
    }

    fn pop_text(&mut self) -> Result<String, String> {
        let id = self.pop()?;
        match &self.objects[id] {
            Object::Text(text) if text.len() <= NAME_LIMIT => Ok(text.clone()),
            other => Err(format!("the pickle names a class with {}", other.kind())),
        }
    }

    fn top(&mut self) -> Result<&mut Object, String> {
        let id = *self.stack.last().ok_or_else(|| format!("the pickle's stack is empty at byte {}", self.at))?;
        Ok(&mut self.objects[id])
    }

    fn append(&mut self, mut items: Vec<Id>) -> Result<(), String> {
        match self.top()? {
            Object::Sequence(list) => list.append(&mut items),
            Object::Call { .. } => {} // a list subclass: nothing that a checkpoint's tensors are in
            other => return Err(format!("the pickle appends to {}", other.kind())),
        }
        Ok(())
    }

    fn set_items(&mut self, items: &[Id]) -> Result<(), String> {
        let mut new = pairs(items)?;
        match self.top()? {
            Object::Dict(items) | Object::Call { items, .. } => items.append(&mut new),
            other => return Err(format!("the pickle sets items of {}", other.kind())),
        }
        Ok(())
    }

    fn put(&mut self, key: u64) -> Result<(), String> {
        let id = *self.stack.last().ok_or_else(|| format!("the pickle's stack is empty at byte {}", self.at))?;
        self.memo.insert(key, id);
        Ok(())
    }

    fn get(&mut self, key: u64) -> Result<(), String> {
        let id = *self.memo.get(&key).ok_or_else(|| format!("the pickle recalls {key}, which it did not store"))?;
        self.stack.push(id);
        Ok(())
    }
}

fn pairs(items: &[Id]) -> Result<Vec<(Id, Id)>, String> {
    if !items.len().is_multiple_of(2) {
        return Err("the pickle has a key without a value".into());
    }
    Ok(items.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_nested_data() {
        // pickle.dumps({"a": [1, 2.5, None, True], "b": -3}, protocol=2)
        let bytes = b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01G@\x04\x00\x00\x00\x00\x00\x00N\x88eX\x01\x00\x00\x00bq\x03J\xfd\xff\xff\xffu.rest";
        let (pickle, length) = read(bytes).unwrap();
        assert_eq!(&bytes[length..], b"rest");
        let Object::Dict(items) = &pickle.objects[pickle.root] else { panic!("not a dict") };
        assert_eq!(pickle.objects[items[1].1], Object::Int(-3));
        let Object::Sequence(list) = &pickle.objects[items[0].1] else { panic!("not a list") };
        let list = list.iter().map(|&id| pickle.objects[id].clone()).collect::<Vec<_>>();
        assert_eq!(list, [Object::Int(1), Object::Float(2.5), Object::None, Object::Bool(true)]);
    }

    #[test]
    fn calls_are_written_down_and_not_made() {
        let (pickle, _) = read(b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R.").unwrap();
        let Object::Call { function, .. } = &pickle.objects[pickle.root] else { panic!("not a call") };
        assert_eq!(pickle.objects[*function], Object::Global("os.system".into()));
    }

    #[test]
    fn broken_programs_are_refused() {
        let programs: [&[u8]; 11] =
            [b"", b".", b"K", b"(", b"t.", b"h\x05.", b"K\x01a.", b"X\xff\xff\xff\xffa.", b"\x99.", b"K\x01s.", b"(0."];
        for program in programs {
            assert!(read(program).is_err(), "{program:?}");
        }
    }

    /// 300 bytes of text, which each repetition of five bytes would double: 'h0', 'h0', STACK_GLOBAL.
    #[test]
    fn a_long_name_is_not_multiplied() {
        let text = [b"X\x2c\x01\x00\x00".as_slice(), &[b'a'; 300], b"q\x00"].concat();
        let program = [text, b"h\x00h\x00\x93".repeat(1000), b".".to_vec()].concat();
        assert!(read(&program).unwrap_err().contains("names a class"));
    }
}
