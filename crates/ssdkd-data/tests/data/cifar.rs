//! CIFAR's binary version.

use ssdkd_data::Split;

use crate::support::{check_error, cifar, folder, gz, open_at, pixels, xz};

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
