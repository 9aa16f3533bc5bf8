//! Protocol buffers: fields one after the other, without a schema.

/// The fields of one message. Nothing is copied, and nested messages are bytes until someone reads them.
#[derive(Clone)]
pub(super) struct Message<'a> {
    bytes: &'a [u8],
}

/// The number of a field and what it holds.
pub(super) type Field<'a> = (u64, Content<'a>);

/// What a field holds.
#[derive(Clone, Copy)]
pub(super) enum Content<'a> {
    Varint(u64),
    Fixed64([u8; 8]),
    Bytes(&'a [u8]),
    Fixed32([u8; 4]),
}

/// What is wrong with bytes that are no message.
const CUT: &str = "it is damaged or cut short: a field reaches beyond the end\nhint: fetch or copy the file again";

impl<'a> Message<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// Returns the next field.
    fn field(&mut self) -> Result<Field<'a>, String> {
        let tag = varint(&mut self.bytes)?;
        let content = match tag & 7 {
            0 => Content::Varint(varint(&mut self.bytes)?),
            1 => Content::Fixed64(self.array()?),
            2 => {
                let length = usize::try_from(varint(&mut self.bytes)?).map_err(|_| CUT)?;
                let (content, rest) = self.bytes.split_at_checked(length).ok_or(CUT)?;
                self.bytes = rest;
                Content::Bytes(content)
            }
            5 => Content::Fixed32(self.array()?),
            kind => return Err(format!("it is no ONNX file, or damaged: a field of kind {kind}")),
        };
        Ok((tag >> 3, content))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (array, rest) = self.bytes.split_first_chunk().ok_or(CUT)?;
        self.bytes = rest;
        Ok(*array)
    }
}

impl<'a> Iterator for Message<'a> {
    type Item = Result<Field<'a>, String>;

    /// Ends after the first error.
    fn next(&mut self) -> Option<Self::Item> {
        if self.bytes.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.bytes = &[];
        }
        Some(field)
    }
}

/// Returns a whole number of seven bits a byte, the lowest first.
fn varint(bytes: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or(CUT)?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err("it is no ONNX file, or damaged: a number of more than 64 bits".into())
}

impl<'a> Content<'a> {
    pub fn bytes(self) -> Result<&'a [u8], String> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err("it is damaged: a number where bytes are expected".into()),
        }
    }

    pub fn message(self) -> Result<Message<'a>, String> {
        self.bytes().map(Message::new)
    }

    pub fn text(self) -> Result<&'a str, String> {
        std::str::from_utf8(self.bytes()?).map_err(|_| "it is damaged: a text is not UTF-8".into())
    }

    pub fn int(self) -> Result<i64, String> {
        match self {
            Self::Varint(value) => Ok(value.cast_signed()),
            _ => Err("it is damaged: something else where a whole number is expected".into()),
        }
    }

    pub fn float(self) -> Result<f32, String> {
        match self {
            Self::Fixed32(bytes) => Ok(f32::from_le_bytes(bytes)),
            _ => Err("it is damaged: something else where a number is expected".into()),
        }
    }

    /// Appends whole numbers, one or packed.
    pub fn ints(self, into: &mut Vec<i64>) -> Result<(), String> {
        match self {
            Self::Bytes(mut bytes) => {
                while !bytes.is_empty() {
                    into.push(varint(&mut bytes)?.cast_signed());
                }
                Ok(())
            }
            one => {
                into.push(one.int()?);
                Ok(())
            }
        }
    }

    /// Appends numbers of 32 bits, one or packed.
    pub fn floats(self, into: &mut Vec<f32>) -> Result<(), String> {
        match self {
            Self::Bytes(bytes) => {
                let (numbers, rest) = bytes.as_chunks();
                if !rest.is_empty() {
                    return Err("it is damaged: numbers of other than four bytes".into());
                }
                into.extend(numbers.iter().map(|&number| f32::from_le_bytes(number)));
                Ok(())
            }
            one => {
                into.push(one.float()?);
                Ok(())
            }
        }
    }

    /// Appends numbers of 64 bits, one or packed.
    pub fn doubles(self, into: &mut Vec<f32>) -> Result<(), String> {
        let bytes = match &self {
            Self::Bytes(bytes) => bytes,
            Self::Fixed64(bytes) => bytes.as_slice(),
            _ => return Err("it is damaged: something else where a number is expected".into()),
        };
        let (numbers, rest) = bytes.as_chunks();
        if !rest.is_empty() {
            return Err("it is damaged: numbers of other than eight bytes".into());
        }
        into.extend(numbers.iter().map(|&number| f64::from_le_bytes(number) as f32));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_in_order() -> Result<(), String> {
        let bytes = [8, 0x96, 1, 0x12, 2, b'h', b'i', 0x1d, 0, 0, 0x80, 0x3f];
        let fields = Message::new(&bytes).collect::<Result<Vec<_>, _>>()?;
        assert_eq!((fields[0].0, fields[0].1.int()?), (1, 150));
        assert_eq!((fields[1].0, fields[1].1.text()?), (2, "hi"));
        assert_eq!((fields[2].0, fields[2].1.float()?), (3, 1.0));
        Ok(())
    }

    #[test]
    fn numbers_may_be_packed_or_single() -> Result<(), String> {
        let mut ints = Vec::new();
        Content::Bytes(&[1, 0x96, 1]).ints(&mut ints)?;
        Content::Varint(u64::MAX).ints(&mut ints)?;
        assert_eq!(ints, [1, 150, -1]);
        Ok(())
    }

    #[test]
    fn damage_is_an_error() {
        let damaged: [&[u8]; 5] = [&[8], &[0x12, 5, 1], &[0x80; 11], &[0x0b], &[0x1d, 0]];
        for bytes in damaged {
            assert!(Message::new(bytes).any(|field| field.is_err()), "{bytes:?}");
            assert!(Message::new(bytes).count() <= 1);
        }
    }
}
