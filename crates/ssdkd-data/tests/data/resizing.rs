//! Resizing and cropping against Pillow and torchvision; `tests/golden/resize.py` makes the images.

use std::path::PathBuf;

use ssdkd_data::{Filter, Fit, Resizing, Scale, Split, open, open_image};

use crate::support::{folder, png};

fn golden(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/resize")).join(format!("{name}.png"))
}

#[track_caller]
fn check_golden(name: &str, filter: Filter, scale: Scale, size: [usize; 2]) {
    check_within(0, name, filter, scale, size);
}

/// Pixels may differ by `most` of 255.
#[track_caller]
fn check_within(most: u8, name: &str, filter: Filter, scale: Scale, [height, width]: [usize; 2]) {
    let fit = Fit::new([3, height, width], Resizing { scale, filter });
    let found = open_image(&golden("source"), &fit).unwrap();
    let expected = open_image(&golden(name), &[3, height, width].into()).unwrap();
    let worst = found.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).max();
    assert!(worst.is_some_and(|worst| worst <= most), "{name}: a pixel differs by {worst:?}");
}

#[test]
fn shrinking_averages_as_pillow_does() {
    for (name, filter) in [
        ("nearest-short24-20x18", Filter::Nearest),
        ("bilinear-short24-20x18", Filter::Bilinear),
        ("bicubic-short24-20x18", Filter::Bicubic),
        ("lanczos-short24-20x18", Filter::Lanczos),
    ] {
        check_golden(name, filter, Scale::ShortSide(24), [20, 18]);
    }
}

#[test]
fn enlarging_interpolates_as_pillow_does() {
    for (name, filter) in [
        ("nearest-exact70x61-70x61", Filter::Nearest),
        ("bilinear-exact70x61-70x61", Filter::Bilinear),
        ("bicubic-exact70x61-70x61", Filter::Bicubic),
        ("lanczos-exact70x61-70x61", Filter::Lanczos),
    ] {
        check_golden(name, filter, Scale::Exact([70, 61]), [70, 61]);
    }
}

#[test]
fn each_side_has_its_own_scale() {
    // Pillow 13 takes the columns first here.
    check_within(1, "bilinear-exact9x90-9x90", Filter::Bilinear, Scale::Exact([9, 90]), [9, 90]);
}

#[test]
fn a_side_that_keeps_its_length_keeps_its_pixels() {
    check_golden("bicubic-exact37x16-37x16", Filter::Bicubic, Scale::Exact([37, 16]), [37, 16]);
}

#[test]
fn a_small_image_gets_a_black_frame_as_torchvision_does() {
    check_golden("lanczos-short13-24x40", Filter::Lanczos, Scale::ShortSide(13), [24, 40]);
}

#[test]
fn a_crop_alone_moves_no_pixel() {
    check_golden("bilinear-keep-24x40", Filter::Bilinear, Scale::Keep, [24, 40]);
}

#[test]
fn what_happens_to_the_images_of_a_folder_is_said() {
    let place = folder(&[("test/a/0.png", &png([3, 8, 4], 7)[..]), ("test/a/1.png", &png([3, 2, 3], 7)[..])]);
    let fit = Fit::new([3, 2, 3], Resizing { scale: Scale::ShortSide(4), filter: Filter::Bicubic });
    let data = open(place.path().to_str().unwrap(), Split::Test, Some(fit)).unwrap();
    let notice = "1 of 2 images are resized to a short side of 4, then cropped to 2×3 (height × width)";
    assert_eq!(
        (data.shape(), data.notices().iter().any(|found| found == notice)),
        ([3, 2, 3], true),
        "{:?}",
        data.notices()
    );
}

#[test]
fn a_size_that_no_image_can_get_is_refused() {
    let fit = Fit::new([3, 2, 3], Resizing { scale: Scale::ShortSide(100_000), filter: Filter::Bicubic });
    let error = open("shapes", Split::Test, Some(fit)).unwrap_err().to_string();
    assert!(error.contains("short side of 100000"), "{error}");
}
