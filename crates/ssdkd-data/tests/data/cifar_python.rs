//! CIFAR's Python version: pickles as Python 2 and Python 3 write them.

use ssdkd_data::{Split, look_for};
use tempfile::TempDir;

use crate::support::{check_error, folder, open_at, pixels};

const RECORD: usize = 3072;

/// How a pickle writes a `str` or `bytes`.
#[derive(Clone, Copy)]
enum Python {
    /// As the authors' files: `str` is bytes.
    Two,
    Three,
    /// As `pickle.dump(…, protocol=2)`: text, and a call that encodes it.
    ThreeForTwo,
}

fn bytes_of(python: Python, bytes: &[u8]) -> Vec<u8> {
    let opcode = match python {
        Python::Two => b'T',
        Python::Three => b'B',
        Python::ThreeForTwo => {
            let latin = bytes.iter().map(|&byte| char::from(byte)).collect::<String>();
            return [b"c_codecs\nencode\n".to_vec(), text(&latin), text("latin1"), b"\x86R".to_vec()].concat();
        }
    };
    [&[opcode][..], &(bytes.len() as u32).to_le_bytes(), bytes].concat()
}

fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

fn int(value: u32) -> Vec<u8> {
    [b"J", &value.to_le_bytes()[..]].concat()
}

/// An array of u8 (N, 3072), as NumPy pickles it.
fn array(python: Python, images: &[u8]) -> Vec<u8> {
    let rows = int((images.len() / RECORD) as u32);
    [
        &b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"[..],
        &rows,
        &int(RECORD as u32),
        b"\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89",
        &bytes_of(python, images),
        b"tb",
    ]
    .concat()
}

fn list(items: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
    [b"](".to_vec(), items.into_iter().flatten().collect(), b"e".to_vec()].concat()
}

fn dictionary(python: Python, entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let entries = entries.iter().flat_map(|(key, value)| [bytes_of(python, key.as_bytes()), value.clone()].concat());
    [b"\x80\x02}(".to_vec(), entries.collect(), b"u.".to_vec()].concat()
}

fn batch(python: Python, key: &str, labels: &[u32]) -> Vec<u8> {
    // Values above 127, which are no text.
    let images = labels.iter().flat_map(|&label| pixels(label as u8 + 128, RECORD)).collect::<Vec<_>>();
    dictionary(
        python,
        &[
            ("data", array(python, &images)),
            (key, list(labels.iter().map(|&label| int(label)))),
            ("batch_label", text("b")),
        ],
    )
}

fn cifar10(python: Python, inner: &str) -> TempDir {
    let names = (0..10).map(|class| bytes_of(python, format!("thing {class}").as_bytes()));
    let mut files =
        (1..=5).map(|n| (format!("{inner}data_batch_{n}"), batch(python, "labels", &[n, 9 - n]))).collect::<Vec<_>>();
    files.push((format!("{inner}test_batch"), batch(python, "labels", &[7, 0])));
    files.push((format!("{inner}batches.meta"), dictionary(python, &[("label_names", list(names))])));
    folder(&files.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect::<Vec<_>>())
}

#[test]
fn cifar10_of_both_pythons_and_in_the_folder_of_the_archive() {
    let inner = "cifar-10-batches-py/";
    for (python, inner) in [(Python::Two, ""), (Python::Three, ""), (Python::ThreeForTwo, ""), (Python::Two, inner)] {
        let place = cifar10(python, inner);
        let train = open_at(&place, Split::Train).unwrap();
        assert_eq!(train.labels(), [1, 8, 2, 7, 3, 6, 4, 5, 5, 4]);
        assert_eq!((train.shape(), train.image(3)), ([3, 32, 32], &pixels(128 + 7, RECORD)[..]));
        assert_eq!(train.class_names().unwrap()[2], "thing 2");
        assert_eq!(open_at(&place, Split::Test).unwrap().labels(), [7, 0]);
        look_for(place.path().to_str().unwrap(), Split::Test).unwrap();
    }
}

#[test]
fn cifar10_without_its_list_has_the_known_names() {
    let place = cifar10(Python::Two, "");
    std::fs::remove_file(place.path().join("batches.meta")).unwrap();
    assert_eq!(open_at(&place, Split::Test).unwrap().class_names().unwrap()[7], "horse");
}

#[test]
fn cifar100_takes_the_fine_labels() {
    let (train, test) = (batch(Python::Two, "fine_labels", &[99, 0]), batch(Python::Two, "fine_labels", &[42]));
    let place = folder(&[("cifar-100-python/train", &train), ("cifar-100-python/test", &test)]);
    assert_eq!(open_at(&place, Split::Train).unwrap().labels(), [99, 0]);
    let test = open_at(&place, Split::Test).unwrap();
    assert_eq!((test.labels(), test.classes(), test.class_names()), (&[42][..], 100, None));
}

#[test]
fn what_can_be_wrong_with_a_batch() {
    let test = |bytes: &[u8]| open_at(&folder(&[("test_batch", bytes)]), Split::Test);
    let good = batch(Python::Two, "labels", &[1, 2]);
    check_error(test(&good[..good.len() / 2]), &["test_batch", "ends in mid-instruction", "hint:"]);
    check_error(test(&batch(Python::Two, "labels", &[1, 10])), &["test_batch", "record 1 has label 10", "0 to 9"]);
    check_error(test(&batch(Python::Two, "coarse_labels", &[1])), &["test_batch", "no list `labels`"]);
    check_error(test(&dictionary(Python::Two, &[("labels", list([]))])), &["test_batch", "no entry `data`"]);
    let text = dictionary(Python::Two, &[("data", text("x")), ("labels", list([]))]);
    check_error(test(&text), &["test_batch", "no array"]);
    let few = dictionary(Python::Two, &[("data", array(Python::Two, &pixels(0, RECORD))), ("labels", list([]))]);
    check_error(test(&few), &["test_batch", "1 images and 0 labels"]);
    check_error(open_at(&folder(&[("test_batch", &good)]), Split::Train), &["data_batch_1", "is missing"]);
}

#[test]
fn a_damaged_batch_does_no_harm() {
    let whole = batch(Python::Two, "labels", &[1]);
    let place = folder(&[("test_batch", &whole)]);
    // The first bytes and the last: what is between them are pixels.
    for at in (2..300).chain(whole.len() - 60..whole.len()) {
        for bits in [0x01, 0x10, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] ^= bits;
            std::fs::write(place.path().join("test_batch"), bytes).unwrap();
            if let Err(error) = open_at(&place, Split::Test) {
                assert!(error.to_string().contains("test_batch"), "byte {at}: {error}");
            }
        }
    }
}
