//! Protocol buffers: fields one after the other.

/// A message under construction. The same fields in the same order make the same bytes.
#[derive(Default)]
pub(super) struct Message {
    /// Its bytes so far, in parts: what is large is not copied from message to message.
    parts: Vec<Vec<u8>>,
    len: usize,
}

/// Bytes from which on a part is kept apart.
const LARGE: usize = 1 << 16;

/// Kinds of fields.
const VARINT: u64 = 0;
const LENGTH: u64 = 2;
const FIXED32: u64 = 5;

impl Message {
    /// Appends a whole number.
    pub fn int(mut self, field: u64, value: i64) -> Self {
        self.tag(field, VARINT);
        self.varint(value.cast_unsigned());
        self
    }

    /// Appends a number of 32 bits.
    pub fn float(mut self, field: u64, value: f32) -> Self {
        self.tag(field, FIXED32);
        self.append(&value.to_le_bytes());
        self
    }

    /// Appends bytes.
    pub fn bytes(mut self, field: u64, bytes: Vec<u8>) -> Self {
        self.tag(field, LENGTH);
        self.varint(bytes.len() as u64);
        self.take(bytes);
        self
    }

    /// Appends a text.
    pub fn text(self, field: u64, text: &str) -> Self {
        self.bytes(field, text.as_bytes().to_vec())
    }

    /// Appends a message.
    pub fn message(mut self, field: u64, message: Self) -> Self {
        self.tag(field, LENGTH);
        self.varint(message.len as u64);
        message.parts.into_iter().for_each(|part| self.take(part));
        self
    }

    /// Appends several messages with the same field number.
    pub fn messages(self, field: u64, messages: impl IntoIterator<Item = Self>) -> Self {
        messages.into_iter().fold(self, |all, message| all.message(field, message))
    }

    /// Returns the number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns the bytes.
    pub fn finish(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len);
        for part in self.parts {
            bytes.extend(part);
        }
        bytes
    }

    /// Appends bytes to the last part, or as a part of their own.
    fn take(&mut self, bytes: Vec<u8>) {
        if bytes.len() < LARGE {
            return self.append(&bytes);
        }
        self.len += bytes.len();
        self.parts.push(bytes);
    }

    fn append(&mut self, bytes: &[u8]) {
        self.len += bytes.len();
        match self.parts.last_mut() {
            Some(last) if last.len() < LARGE => last.extend_from_slice(bytes),
            _ => self.parts.push(bytes.to_vec()),
        }
    }

    fn tag(&mut self, field: u64, kind: u64) {
        self.varint(field << 3 | kind);
    }

    /// Appends a whole number of seven bits a byte, the lowest first.
    fn varint(&mut self, mut value: u64) {
        while value > 0x7f {
            self.append(&[(value & 0x7f) as u8 | 0x80]);
            value >>= 7;
        }
        self.append(&[value as u8]);
    }
}

#[cfg(test)]
mod tests {
    use super::Message;

    #[test]
    fn fields_have_the_bytes_of_protocol_buffers() {
        let inner = Message::default().text(2, "hi");
        let bytes = Message::default().int(1, 150).message(2, inner).float(3, 1.0).finish();
        assert_eq!(bytes, [8, 0x96, 1, 0x12, 4, 0x12, 2, b'h', b'i', 0x1d, 0, 0, 0x80, 0x3f]);
    }

    #[test]
    fn large_parts_stay_in_order() {
        let large = vec![7; super::LARGE + 3];
        let inner = Message::default().bytes(1, large.clone()).int(2, 1);
        let bytes = Message::default().message(1, inner).text(3, "end").finish();
        // A tag, a length of three bytes, and the same for what is within.
        assert_eq!(bytes[..8], [0x0a, 0x89, 0x80, 0x04, 0x0a, 0x83, 0x80, 0x04]);
        assert_eq!((&bytes[8..8 + large.len()], &bytes[8 + large.len()..]), (&*large, &b"\x10\x01\x1a\x03end"[..]));
    }

    #[test]
    fn a_negative_number_takes_ten_bytes() {
        assert_eq!(Message::default().int(1, -1).len(), 11);
    }
}
