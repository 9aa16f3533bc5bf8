//! JPEG files, decoded strictly.
//!
//! The decoder of the `image` crate fills what a damaged file does not have with gray, and succeeds. The same decoder in its strict mode
//! refuses data that does not decode. A file that ends early may still decode: it lacks the marker of the end.

use image::{DynamicImage, GrayImage, RgbImage};
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use crate::read::{MAX_DECODER_BYTES, MAX_SIDE};

/// Decodes a JPEG file; CMYK becomes RGB.
pub(crate) fn decode(bytes: &[u8]) -> Result<DynamicImage, String> {
    if !is_whole(bytes) {
        return Err("the file is truncated: a JPEG ends with the marker EOI, and this one is not there".into());
    }
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(MAX_SIDE as usize)
        .set_max_height(MAX_SIDE as usize);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(|error| error.to_string())?;
    let found = decoder.input_colorspace().ok_or("the file has no colors")?;
    let gray = found == ColorSpace::Luma;
    let wanted = if gray { ColorSpace::Luma } else { ColorSpace::RGB };
    decoder.set_options(options.jpeg_set_out_colorspace(wanted));
    let (width, height) = decoder.dimensions().ok_or("the file has no size")?;
    let size = (width * height) as u64 * found.num_components().max(3) as u64;
    if size > MAX_DECODER_BYTES {
        return Err(format!("{height}×{width} pixels (height × width) are too many"));
    }
    let pixels = decoder.decode().map_err(|error| error.to_string())?;
    let (width, height) = (width as u32, height as u32);
    let image = if gray {
        GrayImage::from_raw(width, height, pixels).map(DynamicImage::ImageLuma8)
    } else {
        RgbImage::from_raw(width, height, pixels).map(DynamicImage::ImageRgb8)
    };
    image.ok_or_else(|| "the decoder gives another number of pixels".into())
}

/// Returns whether the marker EOI is where the image ends. Bytes after it are allowed.
fn is_whole(bytes: &[u8]) -> bool {
    const SOI: u8 = 0xd8;
    const EOI: u8 = 0xd9;
    const SOS: u8 = 0xda;
    let mut at = 2; // behind SOI
    while let Some(marker) = next_marker(bytes, &mut at) {
        match marker {
            EOI => return true,
            0x01 | SOI | 0xd0..=0xd7 => {} // markers without a segment
            _ => {
                let Some(length) = bytes.get(at..at + 2) else { return false };
                at += usize::from(u16::from_be_bytes([length[0], length[1]])).max(2);
                if marker == SOS {
                    skip_scan(bytes, &mut at);
                }
            }
        }
    }
    false
}

/// Returns the next marker from `at` on, which then is behind it.
fn next_marker(bytes: &[u8], at: &mut usize) -> Option<u8> {
    let rest = bytes.get(*at..)?;
    let start = rest.iter().position(|&byte| byte == 0xff)?;
    let length = rest[start..].iter().position(|&byte| byte != 0xff)?;
    *at += start + length + 1;
    Some(rest[start + length])
}

/// Moves `at` to the marker that ends the compressed data there: `ff 00` is a byte of data, and `ff d0` to `ff d7` are restarts.
fn skip_scan(bytes: &[u8], at: &mut usize) {
    let Some(rest) = bytes.get(*at..) else { return };
    let ends = |pair: &[u8]| pair[0] == 0xff && !matches!(pair[1], 0x00 | 0xd0..=0xd7 | 0xff);
    *at += rest.windows(2).position(ends).unwrap_or(rest.len());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_found_behind_thumbnails_restarts_and_fill_bytes() {
        // APP1 with a thumbnail's end inside, a scan with a stuffed byte and a restart, fill bytes before the end.
        let whole = b"\xff\xd8\xff\xe1\x00\x06\xff\xd9\xff\xd9\xff\xda\x00\x02ab\xff\x00c\xff\xd0d\xff\xff\xd9";
        assert!(is_whole(whole));
        assert!(is_whole(&[&whole[..], b"after"].concat()), "bytes after the end are allowed");
        for length in 0..whole.len() {
            assert!(!is_whole(&whole[..length]), "{length} bytes");
        }
    }
}
