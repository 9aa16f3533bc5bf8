//! Folders of images without labels.

use ssdkd_data::{DataError, UnlabeledImages, open_unlabeled};
use tempfile::TempDir;

use crate::support::{folder, pixels, png};

fn open_at(place: &TempDir) -> Result<UnlabeledImages, DataError> {
    open_unlabeled(place.path(), None)
}

#[track_caller]
fn check_error(result: Result<UnlabeledImages, DataError>, parts: &[&str]) {
    let message = result.expect_err("this must not open").to_string();
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

#[test]
fn images_of_any_depth_are_read_in_order() {
    let place = folder(&[
        ("b.png", &png([3, 2, 2], 2)),
        ("a.PNG", &png([3, 2, 2], 1)),
        ("a/deep/c.png", &png([3, 2, 2], 3)),
        (".cache/d.png", &png([3, 2, 2], 4)),
    ]);
    let mut images = open_at(&place).unwrap();
    assert_eq!((images.len(), images.shape()), (3, [3, 2, 2]));
    for (index, n) in [1, 2, 3].into_iter().enumerate() {
        assert_eq!(images.image(index), pixels(n, 12));
    }
    assert!(images.notices().is_empty(), "{:?}", images.notices());
    images.truncate(2);
    assert_eq!((images.len(), images.gather(&[1]).len()), (2, 12));
    images.truncate(usize::MAX);
    assert_eq!(images.len(), 2);
}

#[test]
fn a_batch_is_channels_last_and_between_0_and_1() {
    let images = open_at(&folder(&[("a.png", &png([3, 1, 2], 0))])).unwrap();
    let expected = [0, 14, 28, 7, 21, 35].map(|value: u8| f32::from(value) / 255.0);
    assert_eq!(images.gather(&[0]), expected);
}

#[test]
fn images_are_resized_and_ignored_files_are_counted() {
    let place = folder(&[
        ("a.png", &png([3, 4, 4], 1)),
        ("b.png", &png([1, 9, 5], 2)),
        ("notes.txt", b"no image"),
        ("deep/labels.csv", b"no image"),
    ]);
    let images = open_unlabeled(place.path(), Some([3, 4, 4].into())).unwrap();
    assert_eq!((images.len(), images.shape()), (2, [3, 4, 4]));
    let told = images.notices().join("\n");
    for part in ["2 files ignored: .csv (1), .txt (1)", "1 of 2 images are gray", "1 of 2 images are resized to 4×4"] {
        assert!(told.contains(part), "{part:?} is not in {told}");
    }
}

#[test]
fn a_damaged_image_is_an_error_that_names_the_file() {
    let good = png([3, 4, 4], 0);
    let place = folder(&[("a.png", &good), ("deep/b.png", &good[..40])]);
    check_error(open_at(&place), &["deep/b.png", "is not a readable image", "hint:"]);
}

#[test]
fn a_folder_without_images_is_an_error() {
    check_error(open_at(&folder(&[("notes.txt", b"")])), &["*.png is missing", "no images", ".jpg", "hint:"]);
    let place = folder(&[("a.png", &png([3, 4, 4], 0))]);
    check_error(open_unlabeled(&place.path().join("b"), None), &["b is missing", "no such folder", "hint:"]);
    check_error(open_unlabeled(&place.path().join("a.png"), None), &["a.png", "a file, not a folder", "hint:"]);
}
