//! Encoded image files: which there are, how they are decoded, and how damage is found.
//!
//! Decoders for viewers show what there is of a damaged file. Here a damaged file is an error: a gray rest would be trained on, and
//! measured, without a word. Orientation in EXIF data is ignored, as torchvision does; transparency is dropped; of an
//! animation the first frame is taken; 16 bits are scaled to 8.

use std::io::Cursor;
use std::path::Path;

use image::{DynamicImage, ImageError, ImageFormat, ImageReader, Limits};

use crate::read::{MAX_DECODER_BYTES, MAX_SIDE};
use crate::{DataError, ends, jpeg, read};

/// Endings of the files that are taken for images.
pub(crate) const ENDINGS: [&str; 14] =
    ["png", "jpg", "jpeg", "jpe", "jfif", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm", "pbm", "pnm"];

pub(crate) const DAMAGED: &str = "repair or remove it";
const UNSUPPORTED: &str = "save it as PNG";

/// Returns whether a path's name is that of an image.
pub(crate) fn is_image(path: &Path) -> bool {
    read::ending(path).is_some_and(|ending| ENDINGS.contains(&ending.as_str()))
}

/// Reads and decodes an image file.
pub(crate) fn open(path: &Path) -> Result<DynamicImage, DataError> {
    let bytes = read::plain(path)?;
    decode(path, &bytes)
}

/// Decodes an image file's bytes within limits; `place` is for messages.
pub(crate) fn decode(place: &Path, bytes: &[u8]) -> Result<DynamicImage, DataError> {
    let mut hint = DAMAGED;
    decode_bytes(bytes, &mut hint).map_err(|reason| DataError::Image { place: place.into(), reason, hint: hint.into() })
}

/// Decodes the bytes. Where the file is sound but of an unsupported kind, `hint` becomes that of such files.
fn decode_bytes(bytes: &[u8], hint: &mut &str) -> Result<DynamicImage, String> {
    if bytes.is_empty() {
        return Err("the file is empty".into());
    }
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|error| error.to_string())?;
    match reader.format() {
        Some(ImageFormat::Jpeg) => return jpeg::decode(bytes),
        Some(ImageFormat::WebP) => check_webp(bytes)?,
        Some(ImageFormat::Png) => ends::check_png(bytes)?,
        Some(ImageFormat::Gif) => ends::check_gif(bytes)?,
        _ => {}
    }
    let is_known = reader.format().is_some();
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_DECODER_BYTES);
    reader.limits(limits);
    let image = reader.decode().map_err(|error| {
        if matches!(error, ImageError::Unsupported(_)) && is_known {
            *hint = UNSUPPORTED;
        }
        error.to_string()
    })?;
    if matches!(image, DynamicImage::ImageRgb32F(_) | DynamicImage::ImageRgba32F(_)) {
        // Their range is not known: 0 to 1 and 0 to 255 are both in use.
        *hint = UNSUPPORTED;
        return Err("its pixels are floating-point numbers; save it with 8 or 16 bits".into());
    }
    Ok(image)
}

/// Checks the length that a WebP file declares: its decoder fills up what is missing.
fn check_webp(bytes: &[u8]) -> Result<(), String> {
    let length = bytes.get(4..8).map(|length| u32::from_le_bytes(length.try_into().expect("four bytes")));
    let expected = length.map_or(12, |length| u64::from(length) + 8);
    if (bytes.len() as u64) < expected {
        return Err(format!("the file is truncated: {} bytes, and it says {expected}", bytes.len()));
    }
    Ok(())
}

/// Returns (C, H, W) bytes of an image: one channel if it is gray, else three; transparency is dropped.
pub(crate) fn planes(image: &DynamicImage) -> ([usize; 3], Vec<u8>) {
    let (height, width) = (image.height() as usize, image.width() as usize);
    if !image.color().has_color() {
        return ([1, height, width], image.to_luma8().into_raw());
    }
    let pixels = image.to_rgb8().into_raw();
    let planes = (0..3).flat_map(|channel| pixels.iter().skip(channel).step_by(3).copied()).collect();
    ([3, height, width], planes)
}
