//! Files of other programs are named, with what to give instead.

use std::path::Path;

use ssdkd_nn::weights::{self, Choice};

use crate::reading::check_refused;
use crate::writer::{dict, zip};

fn member(name: &str) -> (String, Vec<u8>) {
    (name.into(), b"{}".to_vec())
}

#[track_caller]
fn check_named(name: &str, bytes: &[u8], message: &str) {
    let error = weights::parse(bytes, Path::new(name), &Choice::default()).map(|import| import.tensors).unwrap_err();
    assert!(error.to_string().contains(message), "{error}");
}

/// Version 8, the producer, a graph of two bytes, version 17 of the operators.
const ONNX: &[u8] = b"\x08\x08\x12\x07pytorch\x3a\x02\x0a\x00\x42\x02\x10\x11";

#[test]
fn onnx() {
    check_refused(ONNX, "ONNX");
    check_refused(ONNX, "torch.save(model.state_dict(), \"weights.pth\")");
    check_named("cut.onnx", &ONNX[..14], "ONNX");
}

/// The length of its header begins as an ONNX model does.
#[test]
fn a_safetensors_file_is_no_onnx_model() {
    let header = format!("{:264}", r#"{"fc.weight":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}"#);
    let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 8]].concat();
    assert_eq!(bytes[..2], [0x08, 0x01]);
    assert!(weights::parse(&bytes, Path::new("a.safetensors"), &Choice::default()).is_ok());
}

#[test]
fn files_of_other_programs_by_their_contents() {
    check_refused(b"\x1c\x00\x00\x00TFL3\x14\x00", "TFLite");
    check_refused(b"\x89HDF\r\n\x1a\n\x00\x00", "HDF5");
    check_refused(b"GGUF\x03\x00\x00\x00", "GGUF");
    check_refused(b"\x93NUMPY\x01\x00", ".npy");
    check_refused(b"BZh91AY&SY", "compressed");
    check_refused(br#"{"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}"#, "index of weights");
    let structured = [b"\x80\x02", &dict(&[("StructuredToParameterName@@", b"}".to_vec())])[..], b"."].concat();
    check_refused(&structured, "PaddlePaddle");
}

#[test]
fn files_of_other_programs_by_their_names() {
    check_named("model.pdiparams", b"\x00\x00\x00\x00", "PaddlePaddle");
    check_named("saved_model.pb", b"\x0a\x00", "TensorFlow");
    check_named("flax_model.msgpack", b"\x81\xa6params", "Flax");
}

#[test]
fn zip_files_of_other_programs() {
    let check = |names: &[&str], message| {
        check_refused(&zip(&names.iter().map(|name| member(name)).collect::<Vec<_>>(), false), message);
    };
    check(&["net/data.pkl", "net/code/__torch__.py", "net/constants.pkl"], "torch.jit.load(\"strange.pth\"");
    check(
        &["net/archive_format", "net/models/model.json", "net/data/weights/weight_0"],
        "torch.export.load(\"strange.pth\")",
    );
    check(&["config.json", "metadata.json", "model.weights.h5"], "Keras");
    check(&["conv1.weight.npy", "fc.weight.npy"], "numpy.load(\"strange.pth\")");
    check(&["notes.txt"], "without data.pkl");
}

#[test]
fn a_folder_names_what_may_be_meant() {
    let folder = tempfile::tempdir().unwrap();
    let import =
        || weights::import(folder.path(), &Choice::default()).map(|import| import.tensors).unwrap_err().to_string();
    assert!(import().contains("no weights lie in it"), "{}", import());
    for name in ["config.json", "model.safetensors"] {
        std::fs::write(folder.path().join(name), b"").unwrap();
    }
    let file = folder.path().join("model.safetensors");
    assert!(import().contains(&format!("give one of its files: {}", file.display())), "{}", import());
}
