//! `.pt2` files that are damaged, made up, or of another kind.

use std::io::{Cursor, Read, Write};
use std::path::Path;

use serde_json::{Value, json};
use ssdkd_graph::parse;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use crate::common::golden;

fn bytes(file: &str) -> Vec<u8> {
    std::fs::read(golden(file)).unwrap()
}

/// The members of a file, changed, as a file again.
fn changed(file: &str, change: impl Fn(&str, Vec<u8>) -> Option<Vec<u8>>) -> Vec<u8> {
    let mut old = ZipArchive::new(Cursor::new(bytes(file))).unwrap();
    let mut new = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for index in 0..old.len() {
        let mut member = old.by_index(index).unwrap();
        let name = member.name().unwrap().into_owned();
        let mut content = Vec::new();
        member.read_to_end(&mut content).unwrap();
        if let Some(content) = change(&name, content) {
            new.start_file(name.as_str(), options).unwrap();
            new.write_all(&content).unwrap();
        }
    }
    new.finish().unwrap().into_inner()
}

fn with_json(file: &str, member: &str, change: impl Fn(&mut Value)) -> Vec<u8> {
    changed(file, |name, content| {
        if !name.ends_with(member) {
            return Some(content);
        }
        let mut value = serde_json::from_slice(&content).unwrap();
        change(&mut value);
        Some(value.to_string().into_bytes())
    })
}

fn with_model(change: impl Fn(&mut Value)) -> Vec<u8> {
    with_json("same.pt2", "models/model.json", change)
}

fn with_weights(change: impl Fn(&mut Value)) -> Vec<u8> {
    with_json("same.pt2", "model_weights_config.json", |value| change(&mut value["config"]))
}

#[track_caller]
fn refused(bytes: &[u8], parts: &[&str]) {
    let error = parse(bytes, Path::new("some.pt2")).map(drop).unwrap_err().to_string();
    assert!(error.starts_with("some.pt2 ") && error.len() < 4000, "{error}");
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
}

#[test]
fn cut_files_are_errors() {
    let bytes = bytes("same.pt2");
    for length in (0..bytes.len()).step_by(211) {
        assert!(parse(&bytes[..length], Path::new("some.pt2")).is_err(), "{length} bytes");
    }
}

#[test]
fn other_versions_say_how_to_export() {
    let archive = changed("same.pt2", |name, content| {
        Some(if name.ends_with("archive_version") { b"1".to_vec() } else { content })
    });
    refused(&archive, &["archive has version 1", "reads version 0", "torch.export.save"]);
    let schema = with_model(|model| model["schema_version"] = json!({"major": 9, "minor": 1}));
    refused(&schema, &["schema has version 9.1", "reads version 8", "torch.export.save"]);
    let pickled = with_weights(|config| config["conv1.weight"]["use_pickle"] = json!(true));
    refused(&pickled, &["conv1.weight is a Python pickle", "torch.export.save"]);
}

#[test]
fn other_kinds_of_files_are_named() {
    let renamed = |to: &'static str| {
        let mut new = ZipWriter::new(Cursor::new(Vec::new()));
        new.start_file(to, SimpleFileOptions::default().compression_method(CompressionMethod::Stored)).unwrap();
        new.finish().unwrap().into_inner()
    };
    refused(&renamed("m/constants.pkl"), &["TorchScript", "torch.export.save"]);
    refused(&renamed("m/data.pkl"), &["checkpoint with tensors but no network", "torch.export.save"]);
    refused(&renamed("serialized_exported_program.json"), &["PyTorch 2.7 or older"]);
    refused(b"\x89HDF\r\n\x1a\n", &["HDF5", "torch.export.save"]);
    refused(b"\x1c\0\0\0TFL3....", &["TFLite"]);
    refused(b"", &["empty"]);
}

#[test]
fn tensors_that_do_not_hold_together_are_errors() {
    let shape = |dims: Value, strides: Value| {
        with_weights(|config| {
            config["conv1.weight"]["tensor_meta"]["sizes"] = dims.clone();
            config["conv1.weight"]["tensor_meta"]["strides"] = strides.clone();
        })
    };
    let ints = |values: &[i64]| Value::from(values.iter().map(|value| json!({"as_int": value})).collect::<Vec<_>>());
    let huge = i64::MAX;
    refused(&shape(ints(&[huge, huge]), ints(&[1, 1])), &["conv1.weight", "beyond its bytes"]);
    refused(&shape(ints(&[8, 3, 3, 3]), ints(&[huge, 9, 3, 1])), &["conv1.weight", "beyond its bytes"]);
    refused(&shape(ints(&[8, 3, 3, 4]), ints(&[36, 12, 4, 1])), &["conv1.weight", "beyond its bytes"]);
    refused(&shape(ints(&[8, -3, 3, 3]), ints(&[27, 9, 3, 1])), &["conv1.weight", "impossible"]);
    refused(&shape(ints(&[216]), ints(&[1])), &["weight has 1 dimensions instead of 4"]);
    refused(&with_weights(|config| config["conv1.weight"]["tensor_meta"]["dtype"] = json!(99)), &["of type 99"]);
    refused(
        &with_weights(|config| config["conv1.weight"]["path_name"] = json!("../../etc/passwd")),
        &["cannot be read"],
    );
    refused(
        &with_weights(|config| drop(config.as_object_mut().unwrap().remove("conv1.weight"))),
        &["conv1.weight is missing"],
    );
}

#[test]
fn graphs_in_a_circle_are_errors() {
    let first =
        |model: &mut Value, change: &dyn Fn(&mut Value)| change(&mut model["graph_module"]["graph"]["nodes"][0]);
    let circle = with_model(|model| {
        let last = model["graph_module"]["graph"]["outputs"][0]["as_tensor"]["name"].clone();
        first(model, &|node| node["inputs"][0]["arg"]["as_tensor"]["name"] = last.clone());
    });
    refused(&circle, &["which no node before it makes"]);
    let itself = with_model(|model| first(model, &|node| node["inputs"][0]["arg"] = node["outputs"][0].clone()));
    refused(&itself, &["which no node before it makes"]);
    let nothing = with_model(|model| model["graph_module"]["graph"]["outputs"] = json!([]));
    refused(&nothing, &["no output"]);
}

#[test]
fn all_unsupported_operations_are_listed() {
    let strange = with_model(|model| {
        let nodes = model["graph_module"]["graph"]["nodes"].as_array_mut().unwrap();
        for node in nodes {
            if node["target"] == "torch.ops.aten.batch_norm.default" {
                node["target"] = json!("torch.ops.aten.layer_norm.default");
            } else if node["target"] == "torch.ops.aten.linear.default" {
                node["target"] = json!("torch.ops.mine.\u{1b}[31mlinear.default");
            }
        }
    });
    refused(&strange, &["not supported", "aten.layer_norm.default at bn1"]);
    let error = parse(&strange, Path::new("some.pt2")).unwrap_err().to_string();
    assert!(!error.contains('\u{1b}'), "{error:?}");
}

#[test]
fn a_network_in_training_mode_is_refused() {
    for (file, argument, op) in [("same.pt2", "training", "batch_norm"), ("inverted.pt2", "train", "dropout")] {
        let training = with_json(file, "models/model.json", |model| {
            for node in model["graph_module"]["graph"]["nodes"].as_array_mut().unwrap() {
                for input in node["inputs"].as_array_mut().unwrap() {
                    if input["name"] == argument {
                        input["arg"] = json!({"as_bool": true});
                    }
                }
            }
        });
        refused(&training, &[op, "training mode", "model.eval()"]);
    }
}

#[test]
fn numbers_that_another_view_shows_are_not_changed_in_place() {
    // The branch of the shuffling network reads half of a tensor; here the other half is changed before they are joined.
    let nodes = |model: &mut Value| {
        let nodes = model["graph_module"]["graph"]["nodes"].as_array_mut().unwrap();
        let chunk = nodes.iter().position(|node| node["target"] == "torch.ops.aten.chunk.default").unwrap();
        let part = nodes[chunk]["outputs"][0]["as_tensors"][0].clone();
        let whole = nodes[chunk]["inputs"][0]["arg"].clone();
        let relu = json!({
            "target": "torch.ops.aten.relu_.default",
            "inputs": [{"name": "self", "arg": whole, "kind": 1}],
            "outputs": [{"as_tensor": {"name": "changed"}}],
            "metadata": {},
        });
        assert!(part["name"].is_string());
        nodes.insert(chunk + 1, relu);
    };
    let file = with_json("shuffle.pt2", "models/model.json", nodes);
    refused(&file, &["relu_", "another view shows later"]);
}

#[test]
fn absurd_numbers_are_errors() {
    for (argument, value) in [
        ("stride", json!({"as_ints": [0, 0]})),
        ("stride", json!({"as_ints": [i64::MAX, i64::MAX]})),
        ("padding", json!({"as_ints": [i64::MAX, i64::MAX]})),
        ("padding", json!({"as_ints": [-1, 0]})),
        ("groups", json!({"as_int": i64::MAX})),
        ("dilation", json!({"as_ints": [i64::MAX, 1]})),
        ("eps", json!({"as_float": "NaN"})),
        ("pad", json!({"as_ints": [i64::MAX, i64::MAX, 0, 0]})),
        ("pad", json!({"as_ints": [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]})),
        ("end_dim", json!({"as_int": i64::MIN})),
        ("start_dim", json!({"as_int": i64::MAX})),
    ] {
        let file = with_model(|model| {
            for node in model["graph_module"]["graph"]["nodes"].as_array_mut().unwrap() {
                for input in node["inputs"].as_array_mut().unwrap() {
                    if input["name"] == argument {
                        input["arg"] = value.clone();
                    }
                }
            }
        });
        // Some of these mean nothing here; none may be more than an error.
        let _ = parse(&file, Path::new("some.pt2")).map_err(|error| assert!(error.to_string().len() < 4000));
    }
}
