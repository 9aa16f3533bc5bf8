//! Checks that PNG and GIF files have their ends. The decoders stop at the last pixel and do not look further.

/// Checks that a PNG file has all of its chunks up to `IEND`.
pub(crate) fn check_png(bytes: &[u8]) -> Result<(), String> {
    let mut at = 8_usize;
    while let Some([a, b, c, d, kind @ ..]) = bytes.get(at..at.saturating_add(8)) {
        // Length and kind take 8 bytes, and the checksum 4.
        at = at.saturating_add(12).saturating_add(u32::from_be_bytes([*a, *b, *c, *d]) as usize);
        if kind == b"IEND" && at <= bytes.len() {
            return Ok(());
        }
    }
    Err("the file is truncated: its IEND chunk is not complete".into())
}

/// Checks that a GIF file has all of its blocks up to the trailer.
pub(crate) fn check_gif(bytes: &[u8]) -> Result<(), String> {
    walk_gif(bytes).ok_or_else(|| "the file is truncated: it has no GIF trailer".into())
}

/// Walks the blocks. `None` if the bytes end before the trailer, or if something is no block.
fn walk_gif(bytes: &[u8]) -> Option<()> {
    let mut at = 13 + color_table(*bytes.get(10)?);
    loop {
        at = match *bytes.get(at)? {
            0x3b => return Some(()),
            // An extension: its label and its data.
            0x21 => sub_blocks(bytes, at + 2)?,
            // A frame: its descriptor, its colors, the size of its codes and its data.
            0x2c => sub_blocks(bytes, at + 11 + color_table(*bytes.get(at + 9)?))?,
            // Some programs pad blocks with zeros.
            0 => at + 1,
            _ => return None,
        };
    }
}

/// Returns the bytes of the color table that these flags announce.
fn color_table(flags: u8) -> usize {
    if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) }
}

/// Returns the position after the sub-blocks that begin here.
fn sub_blocks(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1 + length;
        if length == 0 {
            return Some(at);
        }
    }
}
