//! Headers of Parquet pages: the sizes that they declare.
//!
//! The `parquet` crate reads these headers and keeps their sizes to itself. A header is a struct in Thrift's compact protocol.
//! Where `parquet` ignores the type of a field, this reader refuses a wrong one, so that both see the same header.

use std::io::{self, Error, ErrorKind, Read};

/// Types of fields.
const TRUE: u8 = 1;
const FALSE: u8 = 2;
const I32: u8 = 5;
const STRUCT: u8 = 12;

/// Structs: the header itself, and what it calls its fields of the struct types.
const PAGE: i16 = 0;
const DATA: i16 = 5;
const INDEX: i16 = 6;
const DICTIONARY: i16 = 7;
const DATA_V2: i16 = 8;

/// Structs inside each other that [`skip`] follows. Statistics have none.
const MAX_DEPTH: u32 = 3;

/// The sizes that a page's header declares, in bytes.
pub(crate) struct PageHeader {
    /// The page after its header, as it is in the file.
    pub(crate) compressed: u64,
    /// The same, decompressed.
    pub(crate) uncompressed: u64,
    /// The part at its start that is never compressed: the definition and repetition levels of version 2.
    pub(crate) levels: u64,
    /// Whether the rest is compressed.
    pub(crate) is_compressed: bool,
}

impl PageHeader {
    /// Reads a header, and nothing of the page behind it.
    pub(crate) fn read(input: &mut dyn Read) -> io::Result<Self> {
        let mut header = Self { compressed: 0, uncompressed: 0, levels: 0, is_compressed: true };
        header.read_struct(input, PAGE)?;
        Ok(header)
    }

    fn read_struct(&mut self, input: &mut dyn Read, name: i16) -> io::Result<()> {
        let mut last = 0;
        while let Some((id, kind)) = field(input, last)? {
            // Repeated fields would leave open which of them counts.
            if id <= last || !fits(name, id, kind) {
                return Err(malformed());
            }
            last = id;
            match (name, id) {
                (PAGE, 2) => self.uncompressed = size(input)?,
                (PAGE, 3) => self.compressed = size(input)?,
                (PAGE, DATA..=DATA_V2) => self.read_struct(input, id)?,
                (DATA_V2, 5 | 6) => self.levels += size(input)?,
                (DATA_V2, 7) => self.is_compressed = kind == TRUE,
                _ => skip(input, kind, MAX_DEPTH)?,
            }
        }
        Ok(())
    }
}

/// Returns whether a field has the type that the format gives it. Unknown fields may have any.
fn fits(name: i16, id: i16, kind: u8) -> bool {
    match (name, id) {
        (PAGE | DATA, 1..=4) | (DICTIONARY, 1..=2) | (DATA_V2, 1..=6) => kind == I32,
        (DICTIONARY, 3) | (DATA_V2, 7) => matches!(kind, TRUE | FALSE),
        (PAGE, DATA | INDEX | DICTIONARY | DATA_V2) => kind == STRUCT,
        _ => true,
    }
}

/// Reads the number and the type of the field after field `last`; none at the end of a struct.
fn field(input: &mut dyn Read, last: i16) -> io::Result<Option<(i16, u8)>> {
    let [byte] = bytes(input)?;
    let (step, kind) = (byte >> 4, byte & 0xf);
    if kind == 0 {
        return Ok(None);
    }
    let id = match step {
        0 => i16::try_from(size(input)?).ok(),
        _ => last.checked_add(i16::from(step)),
    };
    Ok(Some((id.ok_or_else(malformed)?, kind)))
}

/// Skips the value of a field. The format has no lists, sets or maps in these headers.
fn skip(input: &mut dyn Read, kind: u8, depth: u32) -> io::Result<()> {
    match kind {
        TRUE | FALSE => Ok(()),
        3 => bytes::<1>(input).map(drop),
        4..=6 => varint(input).map(drop),
        7 => bytes::<8>(input).map(drop),
        8 => {
            let length = varint(input)?;
            let skipped = io::copy(&mut input.take(length), &mut io::sink())?;
            if skipped == length { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
        }
        STRUCT if depth > 0 => {
            while let Some((_, kind)) = field(input, 0)? {
                skip(input, kind, depth - 1)?;
            }
            Ok(())
        }
        _ => Err(malformed()),
    }
}

/// Reads a signed number that must not be negative, of 31 bits.
fn size(input: &mut dyn Read) -> io::Result<u64> {
    let zigzag = varint(input)?;
    if zigzag % 2 == 1 || zigzag / 2 > i32::MAX as u64 {
        return Err(malformed());
    }
    Ok(zigzag / 2)
}

fn varint(input: &mut dyn Read) -> io::Result<u64> {
    let mut value = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let [byte] = bytes(input)?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(malformed())
}

fn bytes<const N: usize>(input: &mut dyn Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn malformed() -> Error {
    Error::new(ErrorKind::InvalidData, "its header is malformed")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a header, and returns its sizes and how many bytes follow it.
    fn read(bytes: &[u8]) -> Option<([u64; 3], bool, usize)> {
        let mut input = bytes;
        let header = PageHeader::read(&mut input).ok()?;
        Some(([header.uncompressed, header.compressed, header.levels], header.is_compressed, input.len()))
    }

    #[test]
    fn sizes_are_read_and_other_fields_skipped() {
        // Type 0, 300 bytes in 5, a checksum, a data page with statistics, and field 20 of bytes.
        let statistics = [0x18, 2, 9, 9, 0x36, 0x80, 1, 0];
        let data = [&[0x15, 8, 0x15, 0, 0x15, 6, 0x15, 6, 0x1c][..], &statistics, &[0]].concat();
        let header = [&[0x15, 0, 0x15, 0xd8, 4, 0x15, 10, 0x15, 3, 0x1c][..], &data, &[0xf8, 1, 7, 0]].concat();
        assert_eq!(read(&[&header[..], &[1, 2, 3]].concat()), Some(([300, 5, 0], true, 3)));
    }

    #[test]
    fn levels_of_version_2_are_counted() {
        let counts = [0x15, 8, 0x15, 0, 0x15, 8, 0x15, 0];
        for (flag, is_compressed) in [(&[0x11][..], true), (&[0x12], false), (&[], true)] {
            let page = [&[0x15, 6, 0x15, 40, 0x15, 20, 0x5c][..], &counts, &[0x15, 4, 0x15, 2], flag, &[0, 0]].concat();
            assert_eq!(read(&page), Some(([20, 10, 3], is_compressed, 0)));
        }
    }

    #[test]
    fn malformed_headers_are_refused() {
        let deep = [&[0x9c][..], &[0x1c; 200], &[0; 201]].concat();
        for (what, bytes) in [
            ("a size given twice", &[0x15, 0, 0x15, 40, 0x05, 4, 2, 0x15, 20, 0][..]),
            ("a size of another type", &[0x15, 0, 0x18, 1, 40, 0x15, 20, 0]),
            ("a negative size", &[0x15, 0, 0x15, 41, 0x15, 20, 0]),
            ("a size of more than 31 bits", &[0x15, 0, 0x15, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0x15, 20, 0]),
            ("a number without end", &[0x15, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0, 0]),
            ("a list", &[0x15, 0, 0x15, 40, 0x15, 20, 0x69, 0x15, 2, 0]),
            ("structs in structs without end", &deep),
            ("no end", &[0x15, 0, 0x15, 40, 0x15, 20]),
            ("bytes beyond the end", &[0x98, 200, 1, 0]),
        ] {
            assert_eq!(read(bytes), None, "{what}");
        }
    }
}
