//! Image folders.

use std::fs;

use ssdkd_data::{Split, look_for, open};
use tempfile::TempDir;

use crate::support::{check_error, folder, open_at, pixels, png};

#[test]
fn an_image_folder_numbers_its_classes_by_name() {
    let place = folder(&[
        ("train/dog/1.png", &png([3, 4, 6], 1)),
        ("train/cat/2.png", &png([3, 4, 6], 2)),
        ("train/cat/1.png", &png([3, 4, 6], 3)),
        ("train/cat/notes.txt", b"not an image"),
        ("val/cat/x.PNG", &png([3, 9, 9], 4)),
        ("val/dog/x.png", &png([1, 9, 9], 5)),
    ]);
    let train = open_at(&place, Split::Train).unwrap();
    assert_eq!((train.shape(), train.labels()), ([3, 4, 6], &[0, 0, 1][..]));
    assert_eq!(train.class_names().unwrap(), ["cat", "dog"]);
    assert_eq!((train.image(0), train.image(2)), (&pixels(3, 72)[..], &pixels(1, 72)[..]));

    // A gray file among color ones is taken as one of them.
    assert_eq!(open_at(&place, Split::Test).unwrap().shape(), [3, 9, 9]);
    let adapted = open(place.path().to_str().unwrap(), Split::Test, Some([3, 4, 4].into())).unwrap();
    assert_eq!((adapted.shape(), adapted.labels()), ([3, 4, 4], &[0, 1][..]));
}

#[test]
fn what_can_be_wrong_with_an_image_folder() {
    let good = png([3, 4, 4], 0);
    let train = |files: &[(&str, &[u8])]| open_at(&folder(files), Split::Train);
    check_error(
        train(&[("train/a/1.png", &good), ("train/a/2.png", &good[..40])]),
        &["2.png", "is not a readable image", "hint:"],
    );
    check_error(
        train(&[("train/a/1.png", &good), ("train/b/x.txt", b"")]),
        &["train/b", "no images", ".png", "found .txt (1)"],
    );
    let only_arrays = folder(&[("train/a/1.png", &good), ("test/a/1.npy", b""), ("test/a/2.npy", b"")]);
    check_error(open_at(&only_arrays, Split::Test), &["holds no images", "2 files ignored: .npy (2)"]);
    check_error(
        train(&[("train/a/1.png", &good), ("train/a/2.png", &png([3, 5, 4], 0))]),
        &["2.png", "[3, 5, 4]", "[3, 4, 4]"],
    );
    let place = folder(&[("train/a/1.png", &good), ("test/b/1.png", &good)]);
    check_error(open_at(&place, Split::Test), &["test/b", "is not in"]);
    check_error(
        open_at(&folder(&[("train/a/1.png", &good)]), Split::Test),
        &["is missing", "test, val, valid, validation"],
    );
    let place = folder(&[("train/1.png", &good), ("test/a/1.png", &good)]);
    check_error(open_at(&place, Split::Train), &["/train", "1 file", "in no class folder"]);
    let spec = place.path().to_str().unwrap();
    check_error(open(spec, Split::Train, Some([3, 4, 4].into())), &["in no class folder"]);
    assert!(ssdkd_data::look_for(spec, Split::Train).is_err());
}

/// A header that promises 60,000 × 60,000 pixels is refused before anything is allocated for them.
#[test]
fn a_picture_with_a_hostile_header_is_refused() {
    let mut bytes = png([1, 4, 4], 0);
    bytes[16..24].copy_from_slice(&[0, 0, 0xEA, 0x60, 0, 0, 0xEA, 0x60]);
    let mut crc = flate2::Crc::new();
    crc.update(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&crc.sum().to_be_bytes());
    check_error(open_at(&folder(&[("train/a/1.png", &bytes)]), Split::Train), &["1.png", "not a readable image"]);
}

#[test]
fn folders_named_by_numbers_are_in_text_order_as_in_torchvision() {
    let files = (0..12).map(|class: u8| (format!("train/{class}/1.png"), png([3, 2, 2], class))).collect::<Vec<_>>();
    let place = folder(&files.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect::<Vec<_>>());
    let train = open_at(&place, Split::Train).unwrap();
    assert_eq!(train.class_names().unwrap()[..4], ["0", "1", "10", "11"]);
    assert!(train.names_are_numbers());
    assert_eq!(train.image(2), pixels(10, 12));
}

/// Tiny ImageNet as its authors publish it, with two classes.
fn tiny_imagenet() -> TempDir {
    let image = |n| png([3, 2, 2], n);
    folder(&[
        ("wnids.txt", b"n02\nn01\n"),
        ("train/n02/images/n02_0.JPEG", &image(3)),
        ("train/n02/n02_boxes.txt", b"n02_0.JPEG\t0\t0\t1\t1\n"),
        ("train/n01/images/n01_0.JPEG", &image(1)),
        ("train/n01/images/n01_1.JPEG", &image(2)),
        ("val/images/val_0.JPEG", &image(4)),
        ("val/images/val_1.JPEG", &image(5)),
        ("val/images/val_2.JPEG", &image(6)),
        ("val/val_annotations.txt", b"val_1.JPEG\tn01\t0\t0\t1\t1\nval_0.JPEG\tn02\t0\t0\t1\t1\n"),
        ("test/images/test_0.JPEG", &image(7)),
    ])
}

#[test]
fn tiny_imagenet_is_read_as_published() {
    let place = tiny_imagenet();
    let train = open_at(&place, Split::Train).unwrap();
    assert_eq!((train.class_names().unwrap(), train.labels()), (&["n01", "n02"].map(String::from)[..], &[0, 0, 1][..]));
    assert_eq!(train.image(2), pixels(3, 12));
    let test = open_at(&place, Split::Test).unwrap();
    assert_eq!((test.labels(), test.image(0)), (&[0, 1][..], &pixels(5, 12)[..]));
    look_for(place.path().to_str().unwrap(), Split::Test).unwrap();
    let told = test.notices().join("\n");
    for part in ["test has no labels", "val is taken for the test split", "1 file ignored that", "does not list"] {
        assert!(told.contains(part), "{part:?} is not in {told}");
    }
}

#[test]
fn a_list_of_annotations_that_does_not_fit_is_refused() {
    for (list, parts) in [
        ("val_1.JPEG\n", &["val_annotations.txt", "line 1"][..]),
        ("val_1.JPEG n03\n", &["val_annotations.txt", "n03"]),
        ("val_9.JPEG n01\n", &["val_9.JPEG", "is missing"]),
    ] {
        let place = tiny_imagenet();
        fs::write(place.path().join("val/val_annotations.txt"), list).unwrap();
        check_error(open_at(&place, Split::Test), parts);
    }
    let place = tiny_imagenet();
    fs::remove_file(place.path().join("val/val_annotations.txt")).unwrap();
    check_error(open_at(&place, Split::Test), &["/val", "3 files", "in no class folder", "annotations.txt"]);
}

#[test]
fn a_test_split_without_labels_does_not_hide_the_others() {
    let image = png([3, 2, 2], 1);
    for name in ["val", "valid", "validation", "Val"] {
        let place = folder(&[
            ("train/a/1.png", &image),
            ("test/1.png", &image),
            (&format!("{name}/a/1.png"), &png([3, 2, 2], 9)),
        ]);
        let test = open_at(&place, Split::Test).unwrap();
        assert_eq!(test.image(0), pixels(9, 12), "{name}");
        assert!(test.notices()[0].contains("test has no labels"), "{:?}", test.notices());
    }
}

#[test]
fn a_test_split_without_images_of_a_known_class_does_not_hide_the_others() {
    let image = png([3, 2, 2], 1);
    for unlabelled in ["test/unknown/1.png", "test/a/notes.txt"] {
        let place = folder(&[
            ("train/a/1.png", &image),
            ("train/b/1.png", &image),
            (unlabelled, &image),
            ("val/a/1.png", &png([3, 2, 2], 9)),
        ]);
        let test = open_at(&place, Split::Test).unwrap();
        assert_eq!(test.image(0), pixels(9, 12), "{unlabelled}");
        assert!(test.notices()[0].contains("test has no labels"), "{:?}", test.notices());
    }
}

#[test]
fn a_folder_above_the_data_set_is_refused_with_the_one_to_give() {
    let image = png([3, 2, 2], 1);
    for inner in ["pets", "pets/v2"] {
        let place = folder(&[
            (&format!("{inner}/train/a/1.png"), &image),
            (&format!("{inner}/test/a/1.png"), &image),
            ("docs/notes.txt", b""),
        ]);
        let expected =
            format!("hint: give the folder below it that holds a data set, {}", place.path().join(inner).display());
        check_error(open_at(&place, Split::Train), &[&expected]);
    }
}

#[test]
fn images_below_a_class_folder_are_its_images() {
    let image = png([3, 2, 2], 1);
    let place = folder(&[
        ("train/a/1.png", &image),
        ("train/a/more/deep/2.png", &image),
        ("train/b/images/1.png", &image),
        ("train/b/.ipynb_checkpoints/1.png", &image),
        ("train/__MACOSX/a/1.png", &image),
        ("train/.cache/1.png", &image),
    ]);
    assert_eq!(open_at(&place, Split::Train).unwrap().labels(), [0, 0, 1]);
}

#[test]
#[cfg(unix)]
fn links_are_followed_and_those_to_nothing_refused() {
    use std::os::unix::fs::symlink;
    let image = png([3, 2, 2], 1);
    let place = folder(&[("train/a/1.png", &image), ("elsewhere/2.png", &image)]);
    let class = place.path().join("train/a");
    symlink(place.path().join("elsewhere"), class.join("linked")).unwrap();
    symlink(&class, class.join("itself")).unwrap();
    assert_eq!(open_at(&place, Split::Train).unwrap().len(), 2);
    symlink(place.path().join("nowhere.png"), class.join("3.png")).unwrap();
    check_error(open_at(&place, Split::Train), &["3.png", "link to nothing", "hint:"]);
}
