//! Folders of images with masks, from files made here, and what is said about each way one can be wrong.

use std::fs;
use std::path::Path;

use png::{BitDepth, ColorType};
use ssdkd_data::{DataError, Dataset, Filter, Fit, Resizing, Scale, Split, look_for, open};
use tempfile::TempDir;

/// A PNG whose numbers are `rows` as they are.
fn png(kind: ColorType, depth: BitDepth, width: u32, rows: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, rows.len() as u32);
    encoder.set_color(kind);
    encoder.set_depth(depth);
    if kind == ColorType::Indexed {
        // Colors that say nothing of the numbers.
        encoder.set_palette((0..256 * 3).map(|at| (255 - at % 256) as u8).collect::<Vec<_>>());
    }
    encoder.write_header().unwrap().write_image_data(&rows.concat()).unwrap();
    bytes
}

fn gray(width: u32, rows: &[&[u8]]) -> Vec<u8> {
    png(ColorType::Grayscale, BitDepth::Eight, width, rows)
}

/// An image of 2×3 pixels and two masks for it: in 8 bits of gray, and in 4 bits with a palette.
fn image() -> Vec<u8> {
    gray(3, &[&[10, 20, 30], &[40, 50, 60]])
}

fn first_mask() -> Vec<u8> {
    gray(3, &[&[0, 1, 2], &[255, 1, 1]])
}

fn second_mask() -> Vec<u8> {
    png(ColorType::Indexed, BitDepth::Four, 3, &[&[0x20, 0x10], &[0x00, 0x20]])
}

fn place() -> TempDir {
    let place = TempDir::new().unwrap();
    for split in ["train", "val"] {
        for (file, bytes) in [
            ("images/a.png", image()),
            ("masks/a.png", first_mask()),
            ("images/b.png", image()),
            ("masks/b.png", second_mask()),
            ("masks/c.png", b"no image asks for it".to_vec()),
        ] {
            let path = place.path().join(split).join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }
    fs::write(place.path().join("classes.txt"), "sky\nroad\ncar\n").unwrap();
    place
}

fn open_at(place: &Path, adapt_to: Option<Fit>) -> Result<Dataset, DataError> {
    open(place.to_str().unwrap(), Split::Test, adapt_to)
}

#[test]
fn masks_keep_their_numbers() {
    let place = place();
    let data = open_at(place.path(), None).unwrap();
    assert_eq!((data.len(), data.shape()), (2, [1, 2, 3]));
    assert_eq!(data.class_names().unwrap(), ["sky", "road", "car"]);
    assert_eq!(data.mask(0), Some(&[0, 1, 2, 255, 1, 1][..]));
    assert_eq!(data.mask(1), Some(&[2, 0, 1, 0, 0, 2][..]));
    assert_eq!(data.labels(), [1, 0], "what most pixels are of");
    look_for(place.path().to_str().unwrap(), Split::Train).unwrap();
}

#[test]
fn numbers_may_be_no_class() {
    let place = place();
    for (lines, names, first) in [
        ("-\nroad\ncar\n", &["road", "car"][..], [255, 0, 1, 255, 0, 0]),
        ("sky\n-\ncar\n", &["sky", "car"], [0, 255, 1, 255, 255, 255]),
        ("sky\nroad\n-\n", &["sky", "road"], [0, 1, 255, 255, 1, 1]),
    ] {
        fs::write(place.path().join("classes.txt"), lines).unwrap();
        let data = open_at(place.path(), None).unwrap();
        assert_eq!(data.class_names().unwrap(), names);
        assert_eq!(data.mask(0), Some(&first[..]));
    }
}

#[test]
fn images_and_masks_are_brought_into_a_shape_together() {
    let data = open_at(place().path(), Some([3, 4, 6].into())).unwrap();
    assert_eq!((data.shape(), data.images().len()), ([3, 4, 6], 2 * 3 * 24));
    assert_eq!(data.mask(0).unwrap()[..12], [0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 2, 2]);
}

#[test]
fn a_crop_cuts_the_same_window_out_of_image_and_mask() {
    let resizing = Resizing { scale: Scale::ShortSide(4), filter: Filter::Nearest };
    let data = open_at(place().path(), Some(Fit::new([1, 2, 4], resizing))).unwrap();
    // 2×3 becomes 4×6: rows 1 and 2, columns 1 to 4.
    assert_eq!(data.image(0), [10, 20, 20, 30, 40, 50, 50, 60]);
    assert_eq!(data.mask(0), Some(&[0, 1, 1, 2, 255, 1, 1, 1][..]));
}

#[track_caller]
fn check_error(file: &str, bytes: Option<&[u8]>, parts: &[&str]) {
    let place = place();
    let path = place.path().join(file);
    match bytes {
        Some(bytes) => fs::write(&path, bytes).unwrap(),
        None if path.is_dir() => fs::remove_dir_all(&path).unwrap(),
        None => fs::remove_file(&path).unwrap(),
    }
    let message = open_at(place.path(), None).expect_err("this must not open").to_string();
    for part in parts.iter().chain(&["hint:"]) {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

#[test]
fn a_jpeg_mask_is_named() {
    let place = place();
    let mask = place.path().join("val/masks/a.png");
    fs::rename(&mask, mask.with_extension("jpg")).unwrap();
    let message = open_at(place.path(), None).unwrap_err().to_string();
    assert!(message.contains("hint: a.jpg is there: masks are PNG"), "{message}");
}

#[test]
fn the_hint_of_a_mask_fits_its_fault() {
    let colors = png(ColorType::Rgb, BitDepth::Eight, 1, &[&[1, 2, 3]]);
    check_error("val/masks/a.png", Some(&colors), &["a.png", "Rgb", "hint: write the class numbers, not colors"]);
    check_error("val/masks/a.png", Some(&first_mask()[..40]), &["a.png", "hint: repair or replace it"]);
}

#[test]
fn what_is_wrong_is_named() {
    check_error("classes.txt", None, &["classes.txt", "in the order of the masks' numbers"]);
    check_error("classes.txt", Some(b"\n"), &["classes.txt", "0 lines"]);
    check_error("classes.txt", Some(b"sky\n\nroad\ncar\n"), &["classes.txt", "line 2 is blank", "write `-`"]);
    check_error("classes.txt", Some(b"-\n-\n-\n"), &["classes.txt", "3 lines", "not all of them -"]);
    check_error("classes.txt", Some("-\n".repeat(300).as_bytes()), &["classes.txt", "300 lines"]);
    check_error("classes.txt", Some(b"sky\nroad\n"), &["of class 2", "classes.txt has 2 lines"]);
    check_error("classes.txt", Some(b"sky\nroad\nsky\n"), &["classes.txt", "\"sky\" twice"]);
    check_error("val/masks/b.png", None, &["b.png", "is missing", "the mask of"]);
    check_error("val/masks/a.png", Some(&second_mask()[..40]), &["a.png", "repair or replace it"]);
    check_error("val/masks/a.png", Some(&image()[..60]), &["a.png"]);
    check_error("val/masks/a.png", Some(&gray(2, &[&[0, 1], &[0, 1]])), &["it is 2×2", "its image 2×3"]);
    let colour = png(ColorType::Rgb, BitDepth::Eight, 1, &[&[1, 2, 3]]);
    check_error("val/masks/a.png", Some(&colour), &["a.png", "PNG of Rgb with 8 bits"]);
    check_error("val/images/a.png", Some(b"\x89PNG"), &["a.png", "not a readable image"]);
}

#[test]
fn a_damaged_mask_is_an_error_and_nothing_else() {
    let whole = second_mask();
    for at in 0..whole.len() {
        for bytes in [whole[..at].to_vec(), [&whole[..at], &[whole[at] ^ 0x11], &whole[at + 1..]].concat()] {
            let place = place();
            fs::write(place.path().join("val/masks/b.png"), bytes).unwrap();
            if let Err(error) = open_at(place.path(), None) {
                assert!(error.to_string().contains("b.png"), "{error}");
            }
        }
    }
}

#[test]
fn a_split_without_images_is_said_to_be_empty() {
    let place = place();
    for file in ["a.png", "b.png"] {
        fs::remove_file(place.path().join("val/images").join(file)).unwrap();
    }
    let message = open_at(place.path(), None).unwrap_err().to_string();
    assert!(message.contains("holds no images"), "{message}");
}

/// Masks of 4×4 pixels in which `disc` fills a quarter with the number `of_disc`.
fn discs(of_disc: u8) -> TempDir {
    let mask = gray(4, &[&[0, 0, 0, 0], &[0, of_disc, of_disc, 0], &[0, of_disc, of_disc, 0], &[0, 0, 0, 0]]);
    let place = TempDir::new().unwrap();
    for (file, bytes) in [("train/images/a.png", gray(4, &[&[9; 4][..]; 4])), ("train/masks/a.png", mask)] {
        let path = place.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    fs::write(place.path().join("classes.txt"), "background\ndisc\n").unwrap();
    place
}

#[test]
fn masks_of_0_and_255_are_said_to_lack_a_class() {
    let open = |place: &TempDir| open(place.path().to_str().unwrap(), Split::Train, None).unwrap();
    let saved_as_255 = open(&discs(255));
    let pixels = saved_as_255.mask_pixels().unwrap();
    assert_eq!((&pixels.classes[..], pixels.unlabelled), (&[12, 0][..], 4));
    assert!(pixels.are_binary_with_255());
    let told = saved_as_255.notices().join("\n");
    for part in ["no pixel of the train split is of class disc (1 of 2 classes)", "25.0 %", "write 1 instead of 255"] {
        assert!(told.contains(part), "{part:?} is not in {told}");
    }
    let right = open(&discs(1));
    assert_eq!(right.mask_pixels().unwrap().missing(), [0; 0]);
    assert_eq!(right.notices(), [""; 0]);
}

#[test]
fn masks_without_an_image_and_other_files_are_counted() {
    let place = place();
    fs::write(place.path().join("val/images/readme.md"), "").unwrap();
    let told = open_at(place.path(), None).unwrap().notices().join("\n");
    for part in
        ["images: 1 file ignored: .md (1)", "masks: 1 file ignored that belong to no image", "8.3 % of the test"]
    {
        assert!(told.contains(part), "{part:?} is not in {told}");
    }
}

#[test]
fn a_test_split_without_masks_gives_way_to_val() {
    let place = place();
    let path = place.path().join("test/images/x.png");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, image()).unwrap();
    let test = open_at(place.path(), None).unwrap();
    assert_eq!(test.len(), 2);
    assert!(test.notices()[0].contains("test has no labels"), "{:?}", test.notices());
}
