//! The stack machine: one instruction after the other.

use std::collections::HashMap;

use crate::{Call, Id, Object, Pickle, text};

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
    /// Runs one instruction; false after the last.
    fn step(&mut self) -> Result<bool, String> {
        let opcode = self.take(1)?[0];
        match opcode {
            b'.' => return Ok(false),
            0x80 => drop(self.take(1)?),               // PROTO
            0x95 => drop(self.take(8)?),               // FRAME
            b'(' => self.marks.push(self.stack.len()), // MARK
            b'0' => self.discard()?,
            b'1' => drop(self.pop_to_mark()?),
            b'2' => {
                let top = self.top_id()?;
                self.stack.push(top);
            }
            b'N' => self.push(Object::None),
            0x88 => self.push(Object::Bool(true)),
            0x89 => self.push(Object::Bool(false)),
            b'K' | b'M' | b'J' | 0x8a | 0x8b | b'G' => self.number(opcode)?,
            b'X' | b'T' | b'B' | 0x8c | b'U' | b'C' | 0x8d | 0x8e | 0x96 => self.string(opcode)?,
            b'I' | b'L' | b'F' | b'S' | b'V' => self.spelled(opcode)?,
            b')' | b']' | 0x8f => self.push(Object::Sequence(Vec::new())),
            b'}' => self.push(Object::Dict(Vec::new())),
            b't' | b'l' | 0x91 => {
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
            b'e' | 0x90 => {
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
            b'c' | 0x93 | b'R' | 0x81 | 0x92 | b'i' | b'o' | b'b' => self.object(opcode)?,
            b'Q' => {
                let id = self.pop()?;
                self.push(Object::Persistent(id));
            }
            b'P' => {
                let id = self.line_text()?;
                self.push(Object::Text(id));
                let id = self.pop()?;
                self.push(Object::Persistent(id));
            }
            b'q' | b'r' | b'p' | 0x94 => {
                let key = if opcode == 0x94 { self.memo.len() as u64 } else { self.key(opcode)? };
                let id = self.top_id()?;
                self.memo.insert(key, id);
            }
            b'h' | b'j' | b'g' => {
                let key = self.key(opcode)?;
                let id = self.memo.get(&key).ok_or_else(|| format!("the pickle recalls {key}, which it did not store"));
                self.stack.push(*id?);
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

    /// Returns a number in binary form.
    fn number(&mut self, opcode: u8) -> Result<(), String> {
        let object = match opcode {
            b'K' => Object::Int(self.take(1)?[0].into()),
            b'M' => Object::Int(u16::from_le_bytes(self.array()?).into()),
            b'J' => Object::Int(i32::from_le_bytes(self.array()?).into()),
            b'G' => Object::Float(f64::from_be_bytes(self.array()?)),
            0x8a => {
                let length = self.take(1)?[0];
                self.long(length.into())?
            }
            _ => {
                let length = self.length(4)?;
                self.long(length)?
            }
        };
        self.push(object);
        Ok(())
    }

    /// Longer integers than 64 bits are ids of Python objects or magic numbers: their value is not needed.
    fn long(&mut self, length: usize) -> Result<Object, String> {
        let bytes = self.take(length)?;
        let negative = bytes.last().is_some_and(|&byte| byte & 0x80 != 0);
        let start = if negative { -1 } else { 0 };
        let value = bytes.iter().take(8).rev().fold(start, |value: i64, &byte| (value << 8) | i64::from(byte));
        Ok(if length <= 8 { Object::Int(value) } else { Object::None })
    }

    /// Returns a text or bytes behind their length.
    fn string(&mut self, opcode: u8) -> Result<(), String> {
        let length = match opcode {
            0x8c | b'U' | b'C' => self.length(1)?,
            b'X' | b'T' | b'B' => self.length(4)?,
            _ => self.length(8)?,
        };
        let bytes = self.take(length)?;
        self.push(match opcode {
            b'X' | 0x8c | 0x8d => Object::Text(String::from_utf8_lossy(bytes).into_owned()),
            b'T' | b'U' => text::python2(bytes.to_vec()),
            _ => Object::Bytes(bytes.to_vec()),
        });
        Ok(())
    }

    /// Returns a number or a text of protocol 0.
    fn spelled(&mut self, opcode: u8) -> Result<(), String> {
        let line = self.line()?;
        let object = match opcode {
            b'S' => text::quoted(line)?,
            b'V' => text::raw_unicode(line),
            _ => {
                let line = String::from_utf8_lossy(line);
                match opcode {
                    b'I' => text::int(&line)?,
                    b'L' => text::long(&line)?,
                    _ => text::float(&line)?,
                }
            }
        };
        self.push(object);
        Ok(())
    }

    /// Returns a class, a call, or the state of what was called.
    fn object(&mut self, opcode: u8) -> Result<(), String> {
        match opcode {
            b'c' => {
                let (module, name) = (self.line_text()?, self.line_text()?);
                self.global(&module, &name)?;
            }
            0x93 => {
                let (name, module) = (self.pop_text()?, self.pop_text()?);
                self.global(&module, &name)?;
            }
            b'R' | 0x81 => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                self.call(function, arguments);
            }
            // NEWOBJ_EX: named arguments are those of classes that no tensor is made by.
            0x92 => {
                let (_named, arguments, function) = (self.pop()?, self.pop()?, self.pop()?);
                self.call(function, arguments);
            }
            b'i' => {
                let arguments = self.pop_to_mark()?;
                self.push(Object::Sequence(arguments));
                let arguments = self.pop()?;
                let (module, name) = (self.line_text()?, self.line_text()?);
                self.global(&module, &name)?;
                let function = self.pop()?;
                self.call(function, arguments);
            }
            b'o' => {
                let mut arguments = self.pop_to_mark()?;
                if arguments.is_empty() {
                    return Err("the pickle makes an object of no class".into());
                }
                let function = arguments.remove(0);
                self.push(Object::Sequence(arguments));
                let arguments = self.pop()?;
                self.call(function, arguments);
            }
            _ => {
                let state = self.pop()?;
                let id = self.top_id()?;
                if let Object::Call(call) = &mut self.objects[id] {
                    call.state = Some(state);
                }
            }
        }
        Ok(())
    }

    fn call(&mut self, function: Id, arguments: Id) {
        self.push(Object::Call(Box::new(Call { function, arguments, items: Vec::new(), state: None })));
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

    /// Returns a length of so many bytes, the least significant first.
    fn length(&mut self, bytes: usize) -> Result<usize, String> {
        let length = self.take(bytes)?.iter().rev().fold(0, |value, &byte| (value << 8) | u64::from(byte));
        usize::try_from(length).map_err(|_| "a text is too long".to_string())
    }

    fn line(&mut self) -> Result<&'a [u8], String> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|&byte| byte == b'\n').ok_or("the pickle ends in mid-line")?;
        self.at += length + 1;
        Ok(&rest[..length])
    }

    fn line_text(&mut self) -> Result<String, String> {
        Ok(String::from_utf8_lossy(self.line()?).into_owned())
    }

    /// Returns the key that an instruction stores an object under, or recalls it by.
    fn key(&mut self, opcode: u8) -> Result<u64, String> {
        Ok(match opcode {
            b'q' | b'h' => self.take(1)?[0].into(),
            b'r' | b'j' => u32::from_le_bytes(self.array()?).into(),
            _ => {
                self.line_text()?.parse().map_err(|_| "the pickle stores under a key that is no number".to_string())?
            }
        })
    }

    /// Returns the name of a class. Its parts may be texts recalled from the memo, so that a few bytes could copy a long one.
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

    /// Takes the top of the stack away, which may be a mark.
    fn discard(&mut self) -> Result<(), String> {
        if self.marks.last() == Some(&self.stack.len()) {
            self.marks.pop();
            return Ok(());
        }
        self.pop().map(drop)
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

    fn top_id(&self) -> Result<Id, String> {
        self.stack.last().copied().ok_or_else(|| format!("the pickle's stack is empty at byte {}", self.at))
    }

    fn top(&mut self) -> Result<&mut Object, String> {
        let id = self.top_id()?;
        Ok(&mut self.objects[id])
    }

    fn append(&mut self, mut items: Vec<Id>) -> Result<(), String> {
        match self.top()? {
            Object::Sequence(list) => list.append(&mut items),
            Object::Call(_) => {} // a list subclass: nothing that a checkpoint's tensors are in
            other => return Err(format!("the pickle appends to {}", other.kind())),
        }
        Ok(())
    }

    fn set_items(&mut self, items: &[Id]) -> Result<(), String> {
        let mut new = pairs(items)?;
        match self.top()? {
            Object::Dict(items) => items.append(&mut new),
            Object::Call(call) => call.items.append(&mut new),
            other => return Err(format!("the pickle sets items of {}", other.kind())),
        }
        Ok(())
    }
}

fn pairs(items: &[Id]) -> Result<Vec<(Id, Id)>, String> {
    if !items.len().is_multiple_of(2) {
        return Err("the pickle has a key without a value".into());
    }
    Ok(items.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}
