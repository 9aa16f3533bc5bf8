//! Protocol buffers: fields one after the other.

/// A message under construction. The same fields in the same order make the same bytes.
#[derive(Default)]
pub(super) struct Message {
    bytes: Vec<u8>,
}

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
        self.bytes.extend(value.to_le_bytes());
        self
    }

    /// Appends bytes.
    pub fn bytes(mut self, field: u64, bytes: &[u8]) -> Self {
        self.tag(field, LENGTH);
        self.varint(bytes.len() as u64);
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// Appends a text.
    pub fn text(self, field: u64, text: &str) -> Self {
        self.bytes(field, text.as_bytes())
    }

    /// Appends a message.
    pub fn message(self, field: u64, message: &Self) -> Self {
        self.bytes(field, &message.bytes)
    }

    /// Appends several messages with the same field number.
    pub fn messages(self, field: u64, messages: impl IntoIterator<Item = Self>) -> Self {
        messages.into_iter().fold(self, |all, message| all.message(field, &message))
    }

    /// Returns the number of bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Returns the bytes.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }

    fn tag(&mut self, field: u64, kind: u64) {
        self.varint(field << 3 | kind);
    }

    /// Appends a whole number of seven bits a byte, the lowest first.
    fn varint(&mut self, mut value: u64) {
        while value > 0x7f {
            self.bytes.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::Message;

    #[test]
    fn fields_have_the_bytes_of_protocol_buffers() {
        let inner = Message::default().text(2, "hi");
        let bytes = Message::default().int(1, 150).message(2, &inner).float(3, 1.0).finish();
        assert_eq!(bytes, [8, 0x96, 1, 0x12, 4, 0x12, 2, b'h', b'i', 0x1d, 0, 0, 0x80, 0x3f]);
    }

    #[test]
    fn a_negative_number_takes_ten_bytes() {
        assert_eq!(Message::default().int(1, -1).len(), 11);
    }
}
