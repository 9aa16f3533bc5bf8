//! Encoded images: every format, every depth, and files that end early.

use std::io::Cursor;

use image::{DynamicImage, ImageFormat};
use ssdkd_data::{Split, open};

use crate::support::{check_error, encoded, folder, labels, open_at, parquet_folder, pixels};

/// A progressive JPEG of 16×16 gray pixels, a WebP with losses of 16×16 and a JPEG of these in CMYK, all from Pillow.
const PROGRESSIVE: &str = "\
ffd8ffe000104a46494600010100000100010000ffdb004300281c1e231e19282321232d2b28303c64413c37373c7b585d4964918099968f\
808c8aa0b4e6c3a0aadaad8a8cc8ffcbdaeef5ffffff9bc1fffffffaffe6fdfff8ffc2000b080010001001011100ffc40016000101010000\
0000000000000000000000040105ffda0008010100000001368967ffc40014100100000000000000000000000000000020ffda0008010100\
0105021fffc40014100100000000000000000000000000000020ffda0008010100063f021fffc40015100101000000000000000000000000\
00000001ffda0008010100013f218888ffda00080101000000102fffc40014100100000000000000000000000000000020ffda0008010100\
013f101fffd9";
const WEBP: &str = "\
524946463600000057454250565038202a0000007001009d012a100010000fc07c25b0027401400000fec647fdf83ee87f31f525f93327fe\
e3e307600000";
const CMYK: &str = "\
ffd8ffee000e41646f626500640000000000ffdb0043000d090a0b0a080d0b0a0b0e0e0d0f13201513121213271c1e17202e2931302e292d\
2c333a4a3e333646372c2d405741464c4e525352323e5a615a50604a51524fffc000140800100010044311004d11005911004b1100ffc400\
1800000301010000000000000000000000000006070405ffc4001810010003010000000000000000000000000004134161ffda000e044300\
4d0059004b00003f00488f872bfae5c8d539698f89cdfd6a91a0871f0b97f4f923432c7c36dfd45a4687ffd9";

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect()
}

fn write(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// An image of 9×7 pixels.
fn picture() -> DynamicImage {
    let image = image::RgbImage::from_fn(7, 9, |x, y| image::Rgb([x as u8 * 30, y as u8 * 25, (x * y) as u8 * 4]));
    DynamicImage::ImageRgb8(image)
}

/// The only image of a folder with the file `1.ENDING`.
fn read(ending: &str, bytes: &[u8]) -> Result<ssdkd_data::Dataset, ssdkd_data::DataError> {
    open_at(&folder(&[(&format!("train/a/1.{ending}"), bytes)]), Split::Train)
}

#[test]
fn every_format_is_read() {
    let picture = picture();
    let expected = read("png", &write(&picture, ImageFormat::Png)).unwrap();
    for (ending, format) in [
        ("BMP", ImageFormat::Bmp),
        ("tif", ImageFormat::Tiff),
        ("TIFF", ImageFormat::Tiff),
        ("webp", ImageFormat::WebP),
        ("ppm", ImageFormat::Pnm),
    ] {
        let found = read(ending, &write(&picture, format)).unwrap();
        assert_eq!((found.shape(), found.images()), ([3, 9, 7], expected.images()), "{ending}");
    }
    // GIF has 256 colors, and JPEG losses.
    for (ending, format) in [
        ("gif", ImageFormat::Gif),
        ("JPEG", ImageFormat::Jpeg),
        ("jfif", ImageFormat::Jpeg),
        ("jpe", ImageFormat::Jpeg),
    ] {
        let found = read(ending, &write(&picture, format)).unwrap();
        let distances = found.images().iter().zip(expected.images()).map(|(a, b)| u32::from(a.abs_diff(*b)));
        assert!(distances.sum::<u32>() / (3 * 63) < 20, "{ending}");
    }
}

#[test]
fn files_are_decoded_as_pillow_decodes_them() {
    let first_line = |ending: &str, hex: &str, shape: [usize; 3], expected: &[[u8; 3]]| {
        let found = read(ending, &unhex(hex)).unwrap();
        assert_eq!(found.shape(), shape, "{ending}");
        let plane = shape[1] * shape[2];
        for (&[y, x], expected) in [[0, 0], [4, 12], [12, 4]].iter().zip(expected) {
            for channel in 0..shape[0] {
                let value = found.images()[channel * plane + y * shape[2] + x];
                assert!(value.abs_diff(expected[channel]) <= 12, "{ending} at {y},{x}: {value} and {expected:?}");
            }
        }
    };
    first_line("jpg", PROGRESSIVE, [1, 16, 16], &[[23; 3], [211; 3], [116; 3]]);
    first_line("webp", WEBP, [3, 16, 16], &[[39, 216, 95], [197, 100, 110], [109, 41, 205]]);
    first_line("jpg", CMYK, [3, 16, 16], &[[24, 223, 110], [210, 94, 111], [113, 37, 208]]);
}

#[test]
fn sixteen_bits_are_scaled_and_transparency_is_dropped() {
    let deep = image::ImageBuffer::from_raw(2, 1, vec![0x1234_u16, 0xffff]).unwrap();
    for (ending, format) in [("png", ImageFormat::Png), ("tif", ImageFormat::Tiff)] {
        let found = read(ending, &write(&DynamicImage::ImageLuma16(deep.clone()), format)).unwrap();
        assert_eq!((found.shape(), found.images()), ([1, 1, 2], &[0x12, 0xff][..]), "{ending}");
    }
    let clear = image::RgbaImage::from_raw(1, 1, vec![10, 20, 30, 0]).unwrap();
    let found = read("png", &write(&DynamicImage::ImageRgba8(clear), ImageFormat::Png)).unwrap();
    assert_eq!((found.shape(), found.images()), ([3, 1, 1], &[10, 20, 30][..]));
    let floats = image::Rgb32FImage::from_raw(1, 1, vec![0.5, 128.0, 255.0]).unwrap();
    check_error(
        read("tif", &write(&DynamicImage::ImageRgb32F(floats), ImageFormat::Tiff)),
        &["1.tif", "floating-point", "8 or 16 bits", "hint: save it as PNG"],
    );
}

/// The sum of whatever a file shows when its end is missing would be trained on.
#[test]
fn a_file_that_ends_early_is_an_error_or_has_all_of_its_pixels() {
    let picture = picture();
    let mut files = [
        ("png", ImageFormat::Png),
        ("jpg", ImageFormat::Jpeg),
        ("bmp", ImageFormat::Bmp),
        ("gif", ImageFormat::Gif),
        ("tif", ImageFormat::Tiff),
        ("ppm", ImageFormat::Pnm),
        ("webp", ImageFormat::WebP),
    ]
    .map(|(ending, format)| (ending, write(&picture, format)))
    .to_vec();
    files.extend([("jpg", unhex(PROGRESSIVE)), ("jpg", unhex(CMYK)), ("webp", unhex(WEBP))]);
    for (ending, bytes) in files {
        let place = folder(&[(&format!("train/a/1.{ending}"), &bytes)]);
        let whole = open_at(&place, Split::Train).unwrap();
        let mut refused = 0;
        for length in 0..bytes.len() {
            std::fs::write(place.path().join(format!("train/a/1.{ending}")), &bytes[..length]).unwrap();
            match open_at(&place, Split::Train) {
                Ok(found) => assert_eq!(found.images(), whole.images(), "{ending}: {length} of {} bytes", bytes.len()),
                Err(error) => {
                    let message = error.to_string();
                    assert!(message.contains(&format!("1.{ending} is not a readable image")), "{message}");
                    refused += 1;
                }
            }
        }
        assert!(refused >= bytes.len() / 2, "{ending}: {refused} of {} lengths were refused", bytes.len());
    }
}

#[test]
fn a_png_or_gif_without_its_end_is_an_error() {
    let png = write(&picture(), ImageFormat::Png);
    let mut gif = Vec::new();
    {
        let mut encoder = image::codecs::gif::GifEncoder::new(&mut gif);
        encoder.encode_frames([picture(), picture()].map(|frame| image::Frame::new(frame.to_rgba8()))).unwrap();
    }
    for (ending, bytes) in [("png", png), ("gif", gif)] {
        read(ending, &bytes).unwrap();
        for length in 0..bytes.len() {
            assert!(read(ending, &bytes[..length]).is_err(), "{ending}: {length} of {} bytes", bytes.len());
        }
    }
}

/// Viewers show gray from there on.
#[test]
fn a_jpeg_whose_data_does_not_decode_is_an_error() {
    let picture = image::RgbImage::from_fn(64, 64, |x, y| image::Rgb([(x * y) as u8, (x * 7) as u8, (y * 5) as u8]));
    let mut bytes = write(&DynamicImage::ImageRgb8(picture), ImageFormat::Jpeg);
    let whole = read("jpg", &bytes).unwrap();
    let after = [&bytes[..], b"bytes after the end"].concat();
    assert_eq!(read("jpg", &after).unwrap().images(), whole.images());
    let middle = bytes.len() * 2 / 3;
    bytes[middle..middle + 2].copy_from_slice(&[0xff, 0xd8]);
    check_error(read("jpg", &bytes), &["1.jpg", "not a readable image"]);
}

#[test]
fn a_file_that_ends_early_within_parquet_is_named_by_its_row() {
    let whole = write(&picture(), ImageFormat::Jpeg);
    let files = [whole.clone(), whole[..whole.len() - 30].to_vec()];
    let place = parquet_folder("train.parquet", encoded(&files), labels("label", &[0, 0]));
    for adapt_to in [None, Some([3, 9, 7].into())] {
        check_error(
            open(place.path().to_str().unwrap(), Split::Train, adapt_to),
            &["train.parquet row 1", "not a readable image", "truncated"],
        );
    }
}

#[test]
fn an_empty_file_is_an_error() {
    check_error(read("png", b""), &["1.png", "the file is empty"]);
    check_error(read("png", &pixels(0, 64)), &["1.png", "not a readable image"]);
}
