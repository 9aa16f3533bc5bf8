//! What a user is told of a data set that opens.

use ssdkd_data::{Split, open};

use crate::support::{cifar, encoded, folder, idx, labels, notices_at, parquet_folder, pixels, png};

#[track_caller]
fn check(notices: &[String], expected: &[&[&str]]) {
    assert_eq!(notices.len(), expected.len(), "{notices:?}");
    for (notice, parts) in notices.iter().zip(expected) {
        for part in *parts {
            assert!(notice.contains(part), "{part:?} is not in {notice:?}");
        }
    }
}

#[test]
fn files_that_are_passed_over_are_counted_by_ending() {
    let image = png([3, 2, 2], 1);
    let place = folder(&[
        ("train/a/1.png", &image),
        ("train/a/2.heic", b""),
        ("train/a/3.HEIC", b""),
        ("train/a/notes", b""),
        ("train/a/Thumbs.db", b""),
        ("train/a/.DS_Store", b""),
        ("train/b/1.png", &image),
        ("train/b/images.zip", b""),
        ("train/loose.png", &image),
    ]);
    check(
        &notices_at(&place, Split::Train),
        &[&["train: 4 files ignored: .heic (2), .zip (1), no ending (1)"], &["1 file ignored", "no class folder"]],
    );
}

#[test]
fn classes_without_an_image_are_named() {
    let image = png([3, 2, 2], 1);
    let place = folder(&[
        ("train/a/1.png", &image),
        ("train/b/1.png", &image),
        ("train/c/1.png", &image),
        ("test/b/1.png", &image),
        ("test/c/notes.txt", b""),
    ]);
    check(
        &notices_at(&place, Split::Test),
        &[&["1 file ignored: .txt (1)"], &["no image of the test split is of class a, c (2 of 3 classes)"]],
    );
    let place = folder(&[
        ("t10k-images-idx3-ubyte", &idx(&[2, 1, 1], &[7, 8])),
        ("t10k-labels-idx1-ubyte", &idx(&[2], &[0, 2])),
    ]);
    check(&notices_at(&place, Split::Test), &[&["is of class 1 (1 of 3 classes)"]]);
    let all = (0..10).collect::<Vec<u8>>();
    let whole = cifar(&all.iter().map(std::slice::from_ref).collect::<Vec<_>>());
    check(&notices_at(&folder(&[("test_batch.bin", &whole)]), Split::Test), &[]);
}

#[test]
fn gray_among_colored_images_is_said() {
    let (colored, gray) = (png([3, 2, 2], 1), png([1, 2, 2], 1));
    let place = folder(&[("train/a/1.png", &colored), ("train/a/2.png", &gray), ("train/a/3.png", &gray)]);
    check(&notices_at(&place, Split::Train), &[&["2 of 3 images are gray", "gray is repeated"]]);
    let place = parquet_folder("train.parquet", encoded(&[colored, gray]), labels("label", &[0, 0]));
    let adapted = open(place.path().to_str().unwrap(), Split::Train, Some([1, 2, 2].into())).unwrap();
    check(adapted.notices(), &[&["1 of 2 images are gray", "colored ones are turned to gray"]]);
}

#[test]
fn resizing_is_said() {
    let place = folder(&[("test/a/1.png", &png([3, 4, 6], 1)), ("test/a/2.png", &png([3, 2, 2], 1))]);
    let adapted = open(place.path().to_str().unwrap(), Split::Test, Some([3, 2, 2].into())).unwrap();
    check(adapted.notices(), &[&["1 of 2 images are resized to 2×2"]]);
    let digits = folder(&[
        ("t10k-images-idx3-ubyte", &idx(&[1, 2, 2], &pixels(0, 4))),
        ("t10k-labels-idx1-ubyte", &idx(&[1], &[0])),
    ]);
    let adapted = open(digits.path().to_str().unwrap(), Split::Test, Some([3, 4, 4].into())).unwrap();
    check(adapted.notices(), &[&["all images of 2×2 are resized to 4×4"]]);
}
