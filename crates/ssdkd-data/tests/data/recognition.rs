//! Which format is taken for what, and what is said where there is none.

use std::fs;

use ssdkd_data::{Split, look_for, open, shapes};

use crate::support::{check_error, folder, open_at, png};

#[test]
fn unknown_things_are_named_with_what_was_looked_for() {
    let place = folder(&[("readme.txt", b"nothing")]);
    check_error(open_at(&place, Split::Train), &["holds no data set", "data_batch_1.bin", "*.parquet", "hint:"]);
    check_error(
        open(place.path().join("readme.txt").to_str().unwrap(), Split::Train, None),
        &["readme.txt", "holds no data set"],
    );
    check_error(
        open("/nowhere/at/all", Split::Train, None),
        &["/nowhere/at/all is missing", "check the path", "`shapes`"],
    );
    check_error(open("", Split::Train, None), &["it is empty"]);
    check_error(open("shapes:many", Split::Train, None), &["shapes:many", "whole number"]);
    check_error(open("shapes", Split::Test, Some([3, 0, 32].into())), &["[3, 0, 32]"]);
}

/// Before a long run, to know that the data is there is worth much, and to read it twice is not.
#[test]
fn what_is_there_is_found_without_reading_an_image() {
    let image = png([3, 2, 2], 1);
    let places = [
        folder(&[("test_batch.bin", b"damaged")]),
        folder(&[("test.bin", b"damaged")]),
        folder(&[("t10k-images-idx3-ubyte", b"damaged"), ("t10k-labels-idx1-ubyte", b"damaged")]),
        folder(&[("test/cat/1.png", b"damaged"), ("test/dog/1.png", &image)]),
        folder(&[("test-00000.parquet", b"damaged")]),
    ];
    for place in &places {
        look_for(place.path().to_str().unwrap(), Split::Test).unwrap();
        check_error(open_at(place, Split::Test), &[place.path().to_str().unwrap()]);
        let missing = look_for(place.path().to_str().unwrap(), Split::Train).unwrap_err().to_string();
        assert!(missing.contains("is missing") && missing.contains("hint:"), "{missing}");
    }
    look_for("shapes:3", Split::Test).unwrap();
    look_for("shapes-masks", Split::Test).unwrap();
    for (spec, part) in [
        ("shapes:x", "whole number"),
        ("shapes-masks:", "for example shapes-masks:0"),
        ("/nowhere/at/all", "is missing"),
        ("", "it is empty"),
    ] {
        let error = look_for(spec, Split::Test).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    let none = folder(&[("readme.txt", b"nothing")]);
    let error = look_for(none.path().to_str().unwrap(), Split::Test).unwrap_err().to_string();
    assert!(error.contains("holds no data set"), "{error}");
}

#[test]
fn shapes_open_by_name() {
    let test = open("shapes:4", Split::Test, None).unwrap();
    assert_eq!((test.len(), test.shape(), test.classes()), (shapes::TEST_IMAGES, [3, 32, 32], 10));
    assert_eq!(test.image(99), shapes::generate(4, Split::Test, 100).image(99));
    assert!(test.masks().is_none());
    let masked = open("shapes-masks:4", Split::Test, None).unwrap();
    assert_eq!((masked.images(), masked.classes()), (test.images(), 11));
    assert_eq!(masked.mask(99), shapes::generate_masked(4, Split::Test, 100).mask(99));
}

#[test]
fn a_missing_path_gets_the_hint_of_its_own_data_set() {
    for (path, target) in [
        ("data/camvid", "make data-camvid"),
        ("data/cifar10", "make data-cifar10`"),
        ("/mnt/CIFAR-100", "make data-cifar100`"),
    ] {
        check_error(open(path, Split::Train, None), &["is missing", "check the path", target]);
    }
    let message = open("data/flowers", Split::Train, None).unwrap_err().to_string();
    assert!(!message.contains("cifar") && !message.contains("camvid"), "{message}");
}

#[test]
fn an_archive_is_named_with_what_unpacks_it() {
    let place = folder(&[("cifar-10-python.tar.gz", b"packed"), ("notes.txt", b"")]);
    check_error(open_at(&place, Split::Train), &["cifar-10-python.tar.gz is an archive", "hint: unpack it: tar xf"]);
    let file = place.path().join("train.ZIP");
    fs::write(&file, b"packed").unwrap();
    check_error(open(file.to_str().unwrap(), Split::Train, None), &["train.ZIP is an archive", "unzip"]);
}

#[test]
fn class_folders_without_a_split_get_the_layout() {
    let image = png([3, 2, 2], 1);
    let place = folder(&[("cat/1.png", &image), ("dog/1.png", &image)]);
    check_error(
        open_at(&place, Split::Train),
        &["holds no data set", "hint: move the class folders into", "train/CLASS"],
    );
    let place = folder(&[("train/cat/1.png", &image)]);
    let split = place.path().join("train");
    let parent = format!("hint: give the folder of all splits, {}", place.path().display());
    check_error(open(split.to_str().unwrap(), Split::Train, None), &["holds no data set", &parent]);
}
