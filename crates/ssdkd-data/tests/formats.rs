//! Each format from files made here, and what is said about each way a file can be wrong.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, FixedSizeListArray, Float32Array, Int32Array, Int64Array, RecordBatch, StringArray,
    StructArray, UInt8Array,
};
use arrow::datatypes::{DataType, Field, Fields, Schema};
use parquet::arrow::ArrowWriter;
use ssdkd_data::{Dataset, Split, look_for, open, shapes};
use tempfile::TempDir;

// ---- helpers

fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for (name, bytes) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    folder
}

fn open_at(place: &TempDir, split: Split) -> Result<Dataset, ssdkd_data::DataError> {
    open(place.path().to_str().unwrap(), split, None)
}

/// The message of the error, which holds every one of `parts`.
#[track_caller]
fn check_error(result: Result<Dataset, ssdkd_data::DataError>, parts: &[&str]) {
    let message = result.expect_err("this must not open").to_string();
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The pixels of record `n` in a made-up file.
fn pixels(n: u8, size: usize) -> Vec<u8> {
    (0..size).map(|at| (at as u8).wrapping_mul(7).wrapping_add(n)).collect()
}

fn cifar(labels: &[&[u8]]) -> Vec<u8> {
    labels.iter().flat_map(|label| [label.to_vec(), pixels(*label.last().unwrap(), 3072)].concat()).collect()
}

fn png(shape: [usize; 3], n: u8) -> Vec<u8> {
    let [channels, height, width] = shape;
    let planes = pixels(n, channels * height * width);
    let interleaved: Vec<u8> = (0..height * width)
        .flat_map(|at| (0..channels).map(|c| planes[c * height * width + at]).collect::<Vec<_>>())
        .collect();
    let colour = if channels == 1 { image::ColorType::L8 } else { image::ColorType::Rgb8 };
    let mut bytes = std::io::Cursor::new(Vec::new());
    let (width, height) = (width as u32, height as u32);
    image::write_buffer_with_format(&mut bytes, &interleaved, width, height, colour, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn idx(sides: &[u32], bytes: &[u8]) -> Vec<u8> {
    let mut file = (0x0800 + sides.len() as u32).to_be_bytes().to_vec();
    file.extend(sides.iter().flat_map(|side| side.to_be_bytes()));
    file.extend(bytes);
    file
}

fn write_parquet(path: &Path, schema: Schema, columns: Vec<ArrayRef>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let batch = RecordBatch::try_new(Arc::new(schema), columns).unwrap();
    let mut writer = ArrowWriter::try_new(fs::File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

/// A column `image` of tensors with the given values.
fn tensors(values: ArrayRef, shape: &str, size: i32) -> (Field, ArrayRef) {
    let element = Arc::new(Field::new("element", values.data_type().clone(), true));
    let field = Field::new("image", DataType::FixedSizeList(element.clone(), size), false).with_metadata([
        ("ARROW:extension:name".to_string(), "arrow.fixed_shape_tensor".to_string()),
        ("ARROW:extension:metadata".to_string(), format!("{{\"shape\":{shape}}}")),
    ]);
    (field, Arc::new(FixedSizeListArray::new(element, size, values, None)))
}

/// A column `image` of one tensor without a value.
fn empty_tensor() -> (Field, ArrayRef) {
    let (field, _) = tensors(Arc::new(UInt8Array::from(Vec::<u8>::new())), "[0,2,2]", 1);
    let element = Arc::new(Field::new("element", DataType::UInt8, true));
    let none = arrow::array::new_empty_array(&DataType::UInt8);
    let list = FixedSizeListArray::try_new_with_length(element, 0, none, None, 1).unwrap();
    (field.with_data_type(list.data_type().clone()), Arc::new(list))
}

/// A column `img` as Hugging Face writes it.
fn encoded(files: &[Vec<u8>]) -> (Field, ArrayRef) {
    let fields =
        Fields::from(vec![Field::new("bytes", DataType::Binary, true), Field::new("path", DataType::Utf8, true)]);
    let bytes: ArrayRef = Arc::new(BinaryArray::from_iter_values(files));
    let path: ArrayRef = Arc::new(StringArray::from(vec![None::<&str>; files.len()]));
    (
        Field::new("img", DataType::Struct(fields.clone()), true),
        Arc::new(StructArray::new(fields, vec![bytes, path], None)),
    )
}

fn labels(name: &str, values: &[i64]) -> (Field, ArrayRef) {
    (Field::new(name, DataType::Int64, true), Arc::new(Int64Array::from(values.to_vec())))
}

fn parquet_folder(name: &str, image: (Field, ArrayRef), label: (Field, ArrayRef)) -> TempDir {
    let place = TempDir::new().unwrap();
    write_parquet(&place.path().join(name), Schema::new(vec![image.0, label.0]), vec![image.1, label.1]);
    place
}

// ---- CIFAR

#[test]
fn cifar10_plain_gz_xz_and_in_the_folder_of_the_archive() {
    let batch = |n: u8| cifar(&[&[n], &[9 - n]]);
    for inner in ["", "cifar-10-batches-bin/"] {
        let name = |n: u8, ending: &str| format!("{inner}data_batch_{n}.bin{ending}");
        let place = folder(&[
            (&name(1, ""), &batch(1)),
            (&name(2, ".gz"), &gz(&batch(2))),
            (&name(3, ".xz"), &xz(&batch(3))),
            (&name(4, ""), &batch(4)),
            (&name(5, ""), &batch(5)),
            (&format!("{inner}test_batch.bin.xz"), &xz(&cifar(&[&[7], &[0], &[7]]))),
        ]);
        let train = open_at(&place, Split::Train).unwrap();
        assert_eq!(train.labels(), [1, 8, 2, 7, 3, 6, 4, 5, 5, 4]);
        assert_eq!((train.shape(), train.classes()), ([3, 32, 32], 10));
        assert_eq!(train.image(3), pixels(7, 3072));
        assert_eq!(train.class_names().unwrap()[3], "cat");
        assert_eq!(open_at(&place, Split::Test).unwrap().class_counts(), [1, 0, 0, 0, 0, 0, 0, 2, 0, 0]);
    }
}

#[test]
fn cifar100_takes_the_fine_label() {
    let names = (0..100).map(|n| format!("thing {n}")).collect::<Vec<_>>().join("\n");
    let place = folder(&[
        ("train.bin", &cifar(&[&[19, 99], &[3, 0]])),
        ("test.bin.gz", &gz(&cifar(&[&[1, 42]]))),
        ("fine_label_names.txt", names.as_bytes()),
    ]);
    let train = open_at(&place, Split::Train).unwrap();
    assert_eq!((train.labels(), train.classes()), (&[99, 0][..], 100));
    assert_eq!(train.image(0), pixels(99, 3072));
    let test = open_at(&place, Split::Test).unwrap();
    assert_eq!((test.label(0), test.class_names().unwrap()[42].as_str()), (42, "thing 42"));
}

#[test]
fn what_can_be_wrong_with_cifar() {
    let one = cifar(&[&[1]]);
    check_error(
        open_at(&folder(&[("data_batch_1.bin", &one)]), Split::Train),
        &["data_batch_2.bin", "is missing", "hint:", "fetch-cifar.sh 10"],
    );
    check_error(open_at(&folder(&[("data_batch_1.bin", &one)]), Split::Test), &["test_batch.bin", "is missing"]);
    check_error(
        open_at(&folder(&[("test_batch.bin", &one[..3000])]), Split::Test),
        &["test_batch.bin", "truncated: 3000 bytes, and 3073"],
    );
    check_error(open_at(&folder(&[("test_batch.bin", &[])]), Split::Test), &["truncated: 0 bytes"]);
    check_error(
        open_at(&folder(&[("test_batch.bin", &cifar(&[&[1], &[10]]))]), Split::Test),
        &["test_batch.bin", "record 1 has label 10", "0 to 9"],
    );
    let whole = xz(&cifar(&[&[1], &[2], &[3]]));
    check_error(
        open_at(&folder(&[("test_batch.bin.xz", &whole[..whole.len() / 2])]), Split::Test),
        &["cannot read", "test_batch.bin.xz"],
    );
    check_error(
        open_at(&folder(&[("test_batch.bin", &one), ("batches.meta.txt", b"cat\ndog\n")]), Split::Test),
        &["class names has 2 entries, not 10"],
    );
}

// ---- IDX

#[test]
fn idx_files_are_gray_and_adapt_to_a_model() {
    for (prefix, ending) in [("", "-idx3-ubyte"), ("emnist-digits-", "-idx3-ubyte"), ("", ".idx3-ubyte")] {
        let labels = ending.replace("idx3", "idx1");
        let place = folder(&[
            (&format!("{prefix}train-images{ending}"), &idx(&[2, 28, 28], &pixels(0, 2 * 28 * 28))),
            (&format!("{prefix}train-labels{labels}"), &idx(&[2], &[4, 9])),
            (&format!("{prefix}t10k-images{ending}.gz"), &gz(&idx(&[1, 28, 28], &[200; 28 * 28]))),
            (&format!("{prefix}t10k-labels{labels}.gz"), &gz(&idx(&[1], &[5]))),
        ]);
        let train = open_at(&place, Split::Train).unwrap();
        assert_eq!((train.shape(), train.labels(), train.classes()), ([1, 28, 28], &[4, 9][..], 10));
        let test = open(place.path().to_str().unwrap(), Split::Test, Some([3, 32, 32])).unwrap();
        assert_eq!((test.shape(), test.label(0), test.classes()), ([3, 32, 32], 5, 10));
        assert!(test.image(0).iter().all(|&value| value == 200));
    }
}

#[test]
fn what_can_be_wrong_with_idx() {
    let with = |images: &[u8], labels: &[u8]| {
        open_at(&folder(&[("train-images-idx3-ubyte", images), ("train-labels-idx1-ubyte", labels)]), Split::Train)
    };
    let good = idx(&[2, 2, 2], &[0; 8]);
    check_error(with(&good[..good.len() - 1], &idx(&[2], &[0, 1])), &["truncated: 7 bytes, and 8", "[2, 2, 2]"]);
    check_error(with(&[good.as_slice(), &[0]].concat(), &idx(&[2], &[0, 1])), &["9 bytes follow its header"]);
    check_error(with(&idx(&[u32::MAX; 3], &[0; 8]), &idx(&[2], &[0, 1])), &["too large"]);
    check_error(with(&idx(&[1 << 10, 1 << 10, 1 << 11], &[0; 8]), &idx(&[2], &[0, 1])), &["truncated: 8 bytes"]);
    check_error(with(&idx(&[0, 2, 2], &[]), &idx(&[0], &[])), &["0 images"]);
    check_error(with(&good, &idx(&[1], &[0])), &["train-labels-idx1-ubyte", "1 labels", "2 images"]);
    check_error(with(b"not idx at all", &idx(&[2], &[0, 1])), &["starts with", "0x00000803"]);
    check_error(with(&good[..6], &idx(&[2], &[0, 1])), &["cannot read", "train-images"]);
    check_error(
        open_at(&folder(&[("train-images-idx3-ubyte", &good)]), Split::Train),
        &["train-labels-idx1-ubyte", "is missing"],
    );
    // EMNIST's archive has six data sets in one folder.
    let labels = idx(&[2], &[0, 1]);
    let place = folder(&[
        ("emnist-digits-train-images-idx3-ubyte", &good),
        ("emnist-letters-train-images-idx3-ubyte.gz", &gz(&good)),
        ("emnist-digits-train-labels-idx1-ubyte", &labels),
    ]);
    check_error(open_at(&place, Split::Train), &["several data sets", "emnist-digits-train", "emnist-letters-train"]);
    // Plain and compressed, one is one.
    let names = ["train-images-idx3-ubyte", "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte"];
    let place = folder(&[(names[0], &good), (names[1], &gz(&good)), (names[2], &labels)]);
    assert_eq!(open_at(&place, Split::Train).unwrap().len(), 2);
    // Resizing takes memory for the width of the one by the height of the other.
    let long = folder(&[
        ("t10k-images-idx3-ubyte", &idx(&[1, 1, 20_000], &vec![0; 20_000])),
        ("t10k-labels-idx1-ubyte", &idx(&[1], &[0])),
    ]);
    check_error(open(long.path().to_str().unwrap(), Split::Test, Some([3, 8, 8])), &["1×20000", "too large"]);
}

// ---- image folders

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

    // A gray file among colour ones is taken as one of them.
    assert_eq!(open_at(&place, Split::Test).unwrap().shape(), [3, 9, 9]);
    let adapted = open(place.path().to_str().unwrap(), Split::Test, Some([3, 4, 4])).unwrap();
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
    check_error(train(&[("train/a/1.png", &good), ("train/b/x.txt", b"")]), &["train/b", "no images", ".png"]);
    check_error(
        train(&[("train/a/1.png", &good), ("train/a/2.png", &png([3, 5, 4], 0))]),
        &["2.png", "[3, 5, 4]", "[3, 4, 4]"],
    );
    let place = folder(&[("train/a/1.png", &good), ("test/b/1.png", &good)]);
    check_error(open_at(&place, Split::Test), &["test/b", "is not in"]);
    let place = folder(&[("train/a/1.png", &good), ("train/b/1.png", &good), ("test/a/1.png", &good)]);
    check_error(open_at(&place, Split::Test), &["test/b", "is missing"]);
    check_error(open_at(&folder(&[("train/a/1.png", &good)]), Split::Test), &["is missing", "test, val, validation"]);
    let place = folder(&[("train/1.png", &good), ("test/a/1.png", &good)]);
    check_error(open_at(&place, Split::Train), &["/train", "no class folders"]);
    let spec = place.path().to_str().unwrap();
    check_error(open(spec, Split::Train, Some([3, 4, 4])), &["no class folders"]);
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

// ---- Parquet

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
    // A file's own name is heard before its folder's.
    put("training/test-1.parquet", 4);
    assert_eq!((of(Split::Train).len(), of(Split::Test).len()), (1, 2));
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
        let adapted = open(file.to_str().unwrap(), Split::Test, Some([1, 4, 4])).unwrap();
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
    check_error(open(place.path().to_str().unwrap(), Split::Train, Some([3, 2, 2])), &["train.parquet"]);

    let place = parquet_folder("train.parquet", image(), labels("label", &[0]));
    check_error(open_at(&place, Split::Test), &["test-*.parquet", "is missing"]);
    let whole = fs::read(place.path().join("train.parquet")).unwrap();
    check_error(
        open_at(&folder(&[("train.parquet", &whole[..whole.len() - 9])]), Split::Train),
        &["train.parquet", "not a readable Parquet file"],
    );
}

// ---- damage

/// Opens `bytes` as the file `name` of a folder, with each byte changed in turn and with the rest cut off there: the answer is a
/// data set or an error that names the folder. How many were refused.
#[track_caller]
fn refusals(place: &TempDir, name: &str, bytes: &[u8]) -> usize {
    let (file, folder) = (place.path().join(name), place.path().to_str().unwrap());
    let mut refused = 0;
    for at in 0..bytes.len() {
        let flipped = |bits: u8| [&bytes[..at], &[bytes[at] ^ bits], &bytes[at + 1..]].concat();
        for damaged in [flipped(1 << (at % 8)), flipped(0xff), bytes[..at].to_vec()] {
            fs::write(&file, damaged).unwrap();
            for adapt_to in [None, Some([1, 3, 3])] {
                if let Err(error) = open(folder, Split::Train, adapt_to) {
                    assert!(error.to_string().contains(folder), "{name}, byte {at}: {error}");
                    refused += 1;
                }
            }
        }
    }
    fs::write(&file, bytes).unwrap();
    refused
}

#[test]
fn a_damaged_parquet_file_does_no_harm() {
    let bytes = pixels(0, 2 * 12);
    let floats: ArrayRef = Arc::new(Float32Array::from_iter_values(bytes.iter().map(|&b| f32::from(b) / 255.0)));
    let images = [
        tensors(Arc::new(UInt8Array::from(bytes)), "[3,2,2]", 12),
        tensors(floats, "[3,2,2]", 12),
        encoded(&[png([3, 2, 2], 1), png([3, 2, 2], 2)]),
    ];
    for image in images {
        let place = parquet_folder("train.parquet", image, labels("label", &[1, 0]));
        let whole = fs::read(place.path().join("train.parquet")).unwrap();
        let refused = refusals(&place, "train.parquet", &whole);
        // What is cut off has no footer, whether it is adapted or not.
        assert!(refused >= 2 * whole.len(), "{refused} of {} were refused", 6 * whole.len());
    }
}

#[test]
fn damaged_idx_files_do_no_harm() {
    let (images, labels) = (idx(&[2, 2, 2], &pixels(0, 8)), idx(&[2], &[1, 0]));
    let (image_file, label_file) = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte");
    let place = folder(&[(image_file, &images), (label_file, &labels)]);
    for (name, bytes) in [(image_file, images), (label_file, labels)] {
        let refused = refusals(&place, name, &bytes);
        assert!(refused >= 2 * bytes.len(), "{refused} of {} were refused", 6 * bytes.len());
    }
}

// ---- recognising

#[test]
fn unknown_things_are_named_with_what_was_looked_for() {
    let place = folder(&[("readme.txt", b"nothing")]);
    check_error(open_at(&place, Split::Train), &["holds no data set", "data_batch_1.bin", "*.parquet", "hint:"]);
    check_error(
        open(place.path().join("readme.txt").to_str().unwrap(), Split::Train, None),
        &["readme.txt", "holds no data set"],
    );
    check_error(open("/nowhere/at/all", Split::Train, None), &["/nowhere/at/all is missing", "fetch-cifar.sh"]);
    check_error(open("", Split::Train, None), &["it is empty"]);
    check_error(open("shapes:many", Split::Train, None), &["shapes:many", "whole number"]);
    check_error(open("shapes", Split::Test, Some([3, 0, 32])), &["[3, 0, 32]"]);
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
