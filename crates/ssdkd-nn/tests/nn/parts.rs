//! Weights that are no plain tensors: stored in parts, or of integers.

use crate::formula::numbers;
use crate::reading::{check_refused, number_of, read};
use crate::writer::{Writer, call, dict, int, text, tuple};

#[test]
fn pruning_masks_are_applied() {
    let mut file = Writer::default();
    let root = dict(&[
        ("fc.weight_orig", file.tensor_of(&[2, 2], &[1., 2., 3., 4.])),
        ("fc.weight_mask", file.tensor_of(&[2, 2], &[1., 0., 0., 1.])),
        ("fc.bias", file.tensor(&[2], 5.)),
    ]);
    let import = read(&file.zip(&root));
    assert_eq!(numbers(&import.tensors["fc.weight"]), [1., 0., 0., 4.]);
    assert_eq!(import.tensors.len(), 2);
    assert_eq!(import.notices, ["applied the pruning masks of 1 tensors: fc.weight"]);
}

#[test]
fn a_mask_of_another_shape_is_refused() {
    let mut file = Writer::default();
    let root = dict(&[("fc.weight_orig", file.tensor(&[2, 2], 1.)), ("fc.weight_mask", file.tensor(&[3], 1.))]);
    check_refused(&file.zip(&root), "parts of the tensor fc.weight do not fit");
}

/// Rows (3, 4) and (0, 2), of the lengths 10 and 1.
#[test]
fn weight_norm_is_computed() {
    for (length, direction) in [
        ("fc.weight_g", "fc.weight_v"),
        ("fc.parametrizations.weight.original0", "fc.parametrizations.weight.original1"),
    ] {
        let mut file = Writer::default();
        let root = dict(&[
            (length, file.tensor_of(&[2, 1], &[10., 1.])),
            (direction, file.tensor_of(&[2, 2], &[3., 4., 0., 2.])),
        ]);
        let import = read(&file.zip(&root));
        assert_eq!(numbers(&import.tensors["fc.weight"]), [6., 8., 0., 1.], "{length}");
        assert_eq!(import.tensors.len(), 1);
    }
}

#[test]
fn other_weights_in_parts_are_named() {
    let mut file = Writer::default();
    let spectral = ["fc.weight_orig", "fc.weight_u", "fc.weight_v"].map(|name| (name, file.tensor(&[2, 2], 1.)));
    check_refused(&file.zip(&dict(&spectral)), "spectral norm");
    let parametrized = [("fc.parametrizations.weight.original", file.tensor(&[2, 2], 1.))];
    check_refused(&file.zip(&dict(&parametrized)), "remove_parametrizations");
}

#[test]
fn quantized_tensors_are_named() {
    let mut file = Writer::default();
    let storage = file.storage("QInt8Storage", vec![1, 2], 2);
    let arguments = [storage, int(0), tuple(&[int(1), int(2)]), tuple(&[int(2), int(1)])];
    let quantized = call("torch._utils._rebuild_qtensor", &arguments);
    let root = dict(&[("fc.weight", quantized.clone()), ("fc.bias", file.tensor(&[1], 1.))]);
    check_refused(&file.zip(&root), "the tensor fc.weight is quantized");
    let packed = dict(&[("fc._packed_params._packed_params", tuple(&[quantized, b"N".to_vec()]))]);
    check_refused(&file.zip(&packed), "is quantized");
}

#[test]
fn the_observers_of_a_quantization_to_come_are_left_out() {
    let mut file = Writer::default();
    let mut items = file.network("", 1.);
    items.push(("conv1.activation_post_process.scale".into(), file.tensor(&[1], 1.)));
    let import = read(&file.zip(&dict(&items)));
    assert_eq!((number_of(&import), import.dropped.len()), (1., 1));
}

#[test]
fn sparse_tensors_are_named() {
    let mut file = Writer::default();
    let parts = tuple(&[file.tensor(&[2, 1], 0.), file.tensor(&[1], 1.), tuple(&[int(4), int(2)])]);
    let sparse = call("torch._utils._rebuild_sparse_tensor", &[b"ctorch\nsparse_coo\n".to_vec(), parts]);
    let root = dict(&[("fc.weight", sparse)]);
    check_refused(&file.zip(&root), "the tensor fc.weight is sparse");
    check_refused(&file.zip(&root), "v.to_dense() for k, v in torch.load(\"strange.pth\"");
}

#[test]
fn tensors_without_numbers_are_named() {
    let arguments =
        [b"ctorch\nfloat32\n".to_vec(), tuple(&[int(4), int(2)]), tuple(&[int(2), int(1)]), b"\x89".to_vec()];
    let root = dict(&[("fc.weight", call("torch._utils._rebuild_meta_tensor_no_storage", &arguments))]);
    check_refused(&Writer::default().zip(&root), "without numbers (on the device meta)");
}

#[test]
fn types_that_no_network_has_are_named() {
    let mut file = Writer::default();
    let storage = file.storage("ComplexFloatStorage", vec![0; 16], 2);
    let arguments = [storage, int(0), tuple(&[int(1), int(2)]), tuple(&[int(2), int(1)])];
    let root = dict(&[("fc.weight", call("torch._utils._rebuild_tensor_v2", &arguments))]);
    check_refused(&file.zip(&root), "of type ComplexFloatStorage");
}

/// What cannot be read does not matter in an entry that is not wanted.
#[test]
fn other_entries_may_hold_anything() {
    let mut file = Writer::default();
    let storage = file.storage("ComplexFloatStorage", vec![0; 16], 2);
    let arguments = [storage, int(0), tuple(&[int(1), int(2)]), tuple(&[int(2), int(1)])];
    let complex = dict(&[("fc.weight", call("torch._utils._rebuild_tensor_v2", &arguments))]);
    let root = dict(&[("state_dict", dict(&file.network("", 1.))), ("spectrum", complex), ("arch", text("a"))]);
    assert_eq!(number_of(&read(&file.zip(&root))), 1.);
}
