//! IDX files.

use ssdkd_data::{Split, open};

use crate::support::{check_error, folder, gz, idx, open_at, pixels};

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
        let test = open(place.path().to_str().unwrap(), Split::Test, Some([3, 32, 32].into())).unwrap();
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
    check_error(open(long.path().to_str().unwrap(), Split::Test, Some([3, 8, 8].into())), &["1×20000", "too large"]);
}
