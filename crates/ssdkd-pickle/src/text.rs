//! The spellings of protocol 0, whose instructions take their arguments as lines of text.

use crate::Object;

/// Returns `I`: a whole number, or a truth value as `01` and `00`.
pub(crate) fn int(line: &str) -> Result<Object, String> {
    match line {
        "00" => Ok(Object::Bool(false)),
        "01" => Ok(Object::Bool(true)),
        _ => long(line),
    }
}

/// Returns `L`: a whole number, with an `L` at its end in Python 2.
pub(crate) fn long(line: &str) -> Result<Object, String> {
    let digits = line.strip_suffix('L').unwrap_or(line);
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match digits.parse() {
        Ok(value) => Ok(Object::Int(value)),
        Err(_) if is_number(digits.trim_start_matches('-')) => Ok(Object::None), // more than 64 bits
        Err(_) => Err("the pickle has a whole number that is none".into()),
    }
}

/// Returns `F`: a floating-point number.
pub(crate) fn float(line: &str) -> Result<Object, String> {
    line.parse().map(Object::Float).map_err(|_| "the pickle has a number that is none".into())
}

/// Returns `S`: a `str` of Python 2 as it is written in source code, within quotes.
pub(crate) fn quoted(line: &[u8]) -> Result<Object, String> {
    let ([b'\'', inner @ .., b'\''] | [b'"', inner @ .., b'"']) = line else {
        return Err("the pickle has a text without quotes".into());
    };
    let mut bytes = Vec::with_capacity(inner.len());
    let mut rest = inner.iter().copied();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        match rest.next() {
            Some(b'n') => bytes.push(b'\n'),
            Some(b'r') => bytes.push(b'\r'),
            Some(b't') => bytes.push(b'\t'),
            Some(b'x') => {
                let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16));
                let (high, low) = digit().zip(digit()).ok_or("the pickle has a text with a broken \\x")?;
                bytes.push((high * 16 + low) as u8);
            }
            Some(byte @ (b'\\' | b'\'' | b'"')) => bytes.push(byte),
            _ => return Err("the pickle has a text with an unknown escape".into()),
        }
    }
    Ok(python2(bytes))
}

/// Returns `V`: a text in Latin-1, and other letters as `\uXXXX` or `\UXXXXXXXX`.
pub(crate) fn raw_unicode(line: &[u8]) -> Object {
    let mut text = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((&byte, after)) = rest.split_first() {
        let digits = match after.first() {
            Some(b'u') if byte == b'\\' => 4,
            Some(b'U') if byte == b'\\' => 8,
            _ => 0,
        };
        let escaped = after.get(1..=digits).filter(|_| digits > 0);
        let escaped = escaped.and_then(|digits| u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        let (letter, length) = escaped.and_then(char::from_u32).map_or((byte.into(), 0), |letter| (letter, 1 + digits));
        text.push(letter);
        rest = &after[length..];
    }
    Object::Text(text)
}

/// Returns a `str` of Python 2, which holds texts and bytes.
pub(crate) fn python2(bytes: Vec<u8>) -> Object {
    match String::from_utf8(bytes) {
        Ok(text) => Object::Text(text),
        Err(error) => Object::Bytes(error.into_bytes()),
    }
}
