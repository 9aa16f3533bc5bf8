//! Parquet files.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, FixedSizeListArray, Float32Array, Int32Array, Int64Array, StringArray, UInt8Array,
};
use arrow::datatypes::{DataType, Field, Schema};
use ssdkd_data::{Split, open};
use tempfile::TempDir;

use crate::support::{
    check_error, empty_tensor, encoded, folder, labels, open_at, parquet_folder, pixels, png, tensors, write_parquet,
};

#[test]
fn hugging_face_parquet() {
    let metadata = r#"{"info": {"features": {"label": {"names": ["cat", "dog", "eel"], "_type": "ClassLabel"}}}}"#;
    let place = TempDir::new().unwrap();
    for (name, files, values) in [
        ("train-00000-of-00002.parquet", vec![png([3, 4, 4], 1), png([3, 4, 4], 2)], vec![1, 0]),
        ("train-00001-of-00002.parquet", vec![png([3, 4, 4], 3)], vec![1]),
        ("test-00000-of-00001.parquet", vec![png([3, 4, 4], 4)], vec![0]),
    ] {
        let (image, label) = (encoded(&files), labels("label", &values));
        let schema =
            Schema::new(vec![image.0, label.0]).with_metadata([("huggingface".to_string(), metadata.to_string())]);
        write_parquet(&place.path().join("data").join(name), schema, vec![image.1, label.1]);
    }
    let train = open_at(&place, Split::Train).unwrap();
    assert_eq!((train.shape(), train.labels()), ([3, 4, 4], &[1, 0, 1][..]));
    assert_eq!(
        (train.image(2), train.class_names().unwrap()),
        (&pixels(3, 48)[..], &["cat", "dog", "eel"].map(String::from)[..])
    );
    assert_eq!(open_at(&place, Split::Test).unwrap().image(0), pixels(4, 48));
}

#[test]
fn a_validation_split_is_measured_on_where_there_is_no_other() {
    let place = TempDir::new().unwrap();
    let put = |name: &str, pixel: u8| {
        let (image, label) = (encoded(&[png([3, 4, 4], pixel)]), labels("label", &[0]));
        fs::create_dir_all(place.path().join(name).parent().unwrap()).unwrap();
        write_parquet(&place.path().join(name), Schema::new(vec![image.0, label.0]), vec![image.1, label.1]);
    };
    let of = |split| open_at(&place, split).unwrap();
    put("training/0000.parquet", 1);
    put("validation/0000.parquet", 2);
    assert_eq!((of(Split::Train).image(0), of(Split::Test).image(0)), (&pixels(1, 48)[..], &pixels(2, 48)[..]));
    put("test/0000.parquet", 3);
    assert_eq!((of(Split::Test).len(), of(Split::Test).image(0)), (1, &pixels(3, 48)[..]));
    // A file's own name decides before its folder's.
    fs::remove_dir_all(place.path().join("test")).unwrap();
    put("training/test-1.parquet", 4);
    assert_eq!((of(Split::Train).len(), of(Split::Test).image(0)), (1, &pixels(4, 48)[..]));
}

/// Writes a file of one image, whose pixels say `pixel`.
fn put_image(place: &TempDir, name: &str, pixel: u8) {
    let (image, label) = (encoded(&[png([3, 4, 4], pixel)]), labels("label", &[0]));
    write_parquet(&place.path().join(name), Schema::new(vec![image.0, label.0]), vec![image.1, label.1]);
}

#[test]
fn a_split_may_be_named_anywhere_in_a_name() {
    for [train, test] in [
        ["cifar10-train.parquet", "cifar10-test.parquet"],
        ["faces_train2.parquet", "faces_dev.parquet"],
        ["default/train/0000.parquet", "default/test/0000.parquet"],
    ] {
        let place = TempDir::new().unwrap();
        put_image(&place, train, 1);
        put_image(&place, test, 2);
        let of = |split| open_at(&place, split).unwrap().images().to_vec();
        assert_eq!((of(Split::Train), of(Split::Test)), (pixels(1, 48), pixels(2, 48)), "{train}");
    }
}

#[test]
fn files_of_one_split_in_two_folders_are_refused() {
    for [first, other] in
        [["fine/test.parquet", "coarse/test.parquet"], ["fine/test/0000.parquet", "coarse/test/0000.parquet"]]
    {
        let place = TempDir::new().unwrap();
        put_image(&place, first, 1);
        put_image(&place, other, 2);
        check_error(open_at(&place, Split::Test), &[first, other, "hint: give one of them", "/coarse or "]);
    }
}

#[test]
fn a_test_split_with_the_label_of_none_gives_way_to_validation() {
    let place = TempDir::new().unwrap();
    for (name, pixel, label) in [("train-0.parquet", 1, 0), ("validation-0.parquet", 2, 0), ("test-0.parquet", 3, -1)] {
        let (image, label) = (encoded(&[png([3, 4, 4], pixel)]), labels("label", &[label]));
        write_parquet(&place.path().join(name), Schema::new(vec![image.0, label.0]), vec![image.1, label.1]);
    }
    let test = open_at(&place, Split::Test).unwrap();
    assert_eq!(test.image(0), pixels(2, 48));
    assert!(test.notices()[0].contains("test-0.parquet has no labels"), "{:?}", test.notices());
    fs::remove_file(place.path().join("validation-0.parquet")).unwrap();
    check_error(open_at(&place, Split::Test), &["record 0 has label -1", "no label"]);
}

#[test]
fn files_of_one_split_need_the_same_class_names() {
    let place = TempDir::new().unwrap();
    for (name, names) in [("train-0.parquet", r#"["cat","dog"]"#), ("train-1.parquet", r#"["dog","cat"]"#)] {
        let (image, label) = (encoded(&[png([3, 4, 4], 1)]), labels("label", &[0]));
        let metadata = [("ssdkd.class_names".to_string(), names.to_string())];
        let schema = Schema::new(vec![image.0, label.0]).with_metadata(HashMap::from(metadata));
        write_parquet(&place.path().join(name), schema, vec![image.1, label.1]);
    }
    check_error(open_at(&place, Split::Train), &["train-1.parquet", "class names", "train-0.parquet"]);
    fs::remove_file(place.path().join("train-1.parquet")).unwrap();
    assert_eq!(open_at(&place, Split::Train).unwrap().class_names().unwrap(), ["cat", "dog"]);
}

#[test]
fn labels_without_names_are_indices() {
    let place = parquet_folder("train.parquet", encoded(&[png([3, 4, 4], 1)]), labels("label", &[2]));
    let train = open_at(&place, Split::Train).unwrap();
    assert_eq!((train.class_names(), train.classes()), (None, 3));
}

#[test]
fn shards_of_this_project() {
    let bytes = pixels(0, 2 * 12);
    let integers: ArrayRef = Arc::new(UInt8Array::from(bytes.clone()));
    let floats: ArrayRef = Arc::new(Float32Array::from_iter_values(bytes.iter().map(|&b| f32::from(b) / 255.0)));
    for values in [integers, floats] {
        let target = (Field::new("target", DataType::Int32, false), Arc::new(Int32Array::from(vec![2, 0])) as ArrayRef);
        let place = parquet_folder("samples/part-00000.parquet", tensors(values, "[3,2,2]", 12), target);
        // Nothing names a split, so the files serve either.
        for split in [Split::Train, Split::Test] {
            let dataset = open_at(&place, split).unwrap();
            assert_eq!((dataset.shape(), dataset.labels(), dataset.images()), ([3, 2, 2], &[2, 0][..], &bytes[..]));
        }
        let file = place.path().join("samples/part-00000.parquet");
        let adapted = open(file.to_str().unwrap(), Split::Test, Some([1, 4, 4].into())).unwrap();
        assert_eq!((adapted.shape(), adapted.classes()), ([1, 4, 4], 3));
    }
}

#[test]
fn what_can_be_wrong_with_parquet() {
    let image = || tensors(Arc::new(UInt8Array::from(pixels(0, 12))), "[3,2,2]", 12);
    let check = |image: (Field, ArrayRef), label: (Field, ArrayRef), parts: &[&str]| {
        check_error(open_at(&parquet_folder("train.parquet", image, label), Split::Train), parts);
    };
    check(image(), labels("label", &[-1]), &["train.parquet", "record 0 has label -1"]);
    check(image(), labels("label", &[70_000]), &["label 70000"]);
    check(image(), labels("caption", &[0]), &["no column that could be a label", "it has image, caption"]);
    let text = (Field::new("label", DataType::Utf8, true), Arc::new(StringArray::from(vec!["cat"])) as ArrayRef);
    check(image(), text, &["column label is Utf8"]);
    let null = (Field::new("label", DataType::Int64, true), Arc::new(Int64Array::from(vec![None])) as ArrayRef);
    check(image(), null, &["column label has nulls"]);
    check(encoded(&[b"no image".to_vec()]), labels("label", &[0]), &["train.parquet row 0", "not a readable image"]);
    let wrong = tensors(Arc::new(UInt8Array::from(pixels(0, 12))), "[3,2,3]", 12);
    check(wrong, labels("label", &[0]), &["says the shape [3, 2, 3] and has 12 values"]);
    let huge = tensors(Arc::new(UInt8Array::from(pixels(0, 12))), "[4294967296,4294967296,4294967296]", 12);
    check(huge, labels("label", &[0]), &["and has 12 values"]);
    // A null takes as many bytes as its type says, and next to none in the file.
    let element = Arc::new(Field::new("element", DataType::UInt8, true));
    let list = FixedSizeListArray::new_null(element.clone(), 1 << 20, 1);
    let field = Field::new("image", list.data_type().clone(), true);
    check((field, Arc::new(list)), labels("label", &[0]), &["does not say its shape"]);
    let place = parquet_folder("train.parquet", empty_tensor(), labels("label", &[0]));
    check_error(open(place.path().to_str().unwrap(), Split::Train, Some([3, 2, 2].into())), &["train.parquet"]);

    let place = parquet_folder("train.parquet", image(), labels("label", &[0]));
    check_error(open_at(&place, Split::Test), &["test-*.parquet", "is missing"]);
    let whole = fs::read(place.path().join("train.parquet")).unwrap();
    check_error(
        open_at(&folder(&[("train.parquet", &whole[..whole.len() - 9])]), Split::Train),
        &["train.parquet", "not a readable Parquet file"],
    );
}
