//! ONNX files that are damaged, made up, or ask for memory that they do not have.

use std::path::Path;

use ssdkd_graph::{Imported, ReadError, import, parse};

use crate::common::golden;

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 127 {
        bytes.push((value & 127) as u8 | 128);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn field(number: u64, content: &[u8]) -> Vec<u8> {
    [varint(number << 3 | 2), varint(content.len() as u64), content.to_vec()].concat()
}

fn int(number: u64, value: i64) -> Vec<u8> {
    [varint(number << 3), varint(value.cast_unsigned())].concat()
}

fn ints(name: &str, values: &[i64]) -> Vec<u8> {
    let values = values.iter().flat_map(|&value| int(8, value)).collect::<Vec<_>>();
    [field(1, name.as_bytes()), values, int(20, 7)].concat()
}

fn attribute(name: &str, value: i64) -> Vec<u8> {
    [field(1, name.as_bytes()), int(3, value), int(20, 2)].concat()
}

fn node(op: &str, inputs: &[&str], output: &str, attributes: &[Vec<u8>]) -> Vec<u8> {
    let inputs = inputs.iter().flat_map(|name| field(1, name.as_bytes())).collect::<Vec<_>>();
    let attributes = attributes.iter().flat_map(|attribute| field(5, attribute)).collect::<Vec<_>>();
    field(1, &[inputs, field(2, output.as_bytes()), field(4, op.as_bytes()), attributes].concat())
}

/// A tensor of whole numbers (7) or numbers (1) with its bytes.
fn tensor(name: &str, kind: i64, dims: &[i64], bytes: &[u8]) -> Vec<u8> {
    let dims = dims.iter().flat_map(|&dim| int(1, dim)).collect::<Vec<_>>();
    field(5, &[dims, int(2, kind), field(8, name.as_bytes()), field(9, bytes)].concat())
}

fn whole(name: &str, values: &[i64]) -> Vec<u8> {
    tensor(name, 7, &[values.len() as i64], &values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>())
}

fn numbers(name: &str, dims: &[i64]) -> Vec<u8> {
    tensor(name, 1, dims, &vec![0; 4 * dims.iter().product::<i64>() as usize])
}

fn info(number: u64, name: &str, dims: &[i64]) -> Vec<u8> {
    let dims =
        dims.iter().flat_map(|&dim| field(1, &if dim > 0 { int(1, dim) } else { field(2, b"b") })).collect::<Vec<_>>();
    field(number, &[field(1, name.as_bytes()), field(2, &field(1, &[int(1, 1), field(2, &dims)].concat()))].concat())
}

fn model_of(opset: i64, parts: &[Vec<u8>]) -> Vec<u8> {
    let graph = [info(11, "x", &[-1, 3, 8, 8]), parts.concat(), info(12, "y", &[-1])].concat();
    [int(1, 8), field(2, b"test"), field(7, &graph), field(8, &int(2, opset))].concat()
}

fn model(parts: &[Vec<u8>]) -> Vec<u8> {
    model_of(17, parts)
}

fn read(bytes: &[u8]) -> Result<Imported, ReadError> {
    parse(bytes, Path::new("some.onnx"))
}

#[track_caller]
fn refused(bytes: &[u8], parts: &[&str]) {
    let error = read(bytes).map(drop).unwrap_err().to_string();
    assert!(error.starts_with("some.onnx ") && error.len() < 4000, "{error}");
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
}

#[test]
fn a_model_by_hand_is_read() {
    let conv = node("Conv", &["x", "w"], "c", &[ints("pads", &[0, 0, 1, 1]), ints("strides", &[2, 2])]);
    let flatten = [whole("shape", &[2, -1]), node("Reshape", &["c", "shape"], "y", &[])];
    let mut file = model(&[numbers("w", &[4, 3, 3, 3]), conv.clone(), flatten[0].clone(), flatten[1].clone()]);
    refused(&file, &["Reshape at y", "cannot take the sizes [2, -1]"]);
    let keeps = [whole("shape", &[0, -1]), node("Reshape", &["c", "shape"], "y", &[])];
    file = model(&[numbers("w", &[4, 3, 3, 3]), conv, keeps.concat()]);
    let network = read(&file).unwrap();
    assert_eq!(network.graph.shape(network.graph.outputs()[0]).to_string(), "[batch, 64]");
}

#[test]
fn a_fixed_number_of_images_is_taken_for_any() {
    let graph = [
        info(11, "x", &[2, 3, 8, 8]),
        whole("shape", &[2, -1]),
        node("Reshape", &["x", "shape"], "y", &[]),
        info(12, "y", &[2]),
    ];
    let file = [field(7, &graph.concat()), field(8, &int(2, 17))].concat();
    assert_eq!(read(&file).unwrap().graph.nodes()[1].op.kind(), "flatten");
}

#[test]
fn padding_by_name_is_computed() {
    let same = [field(1, b"auto_pad"), field(4, b"SAME_UPPER"), int(20, 3)].concat();
    let conv = node("Conv", &["x", "w"], "y", &[same, ints("strides", &[2, 2])]);
    let network = read(&model(&[numbers("w", &[4, 3, 3, 3]), conv])).unwrap();
    assert_eq!(network.graph.shape(network.graph.outputs()[0]).to_string(), "[batch, 4, 4, 4]");
    let ssdkd_graph::Op::Conv2d(conv) = &network.graph.nodes()[1].op else { panic!("no convolution") };
    assert_eq!(conv.padding, [0, 0, 1, 1]);
}

#[test]
fn a_normalization_written_as_arithmetic_is_found() {
    let of_channels =
        |name: &str, value: f32| tensor(name, 1, &[1, 3, 1, 1], &[value; 3].map(f32::to_le_bytes).concat());
    let network = read(&model(&[
        [of_channels("weight", 2.0), of_channels("bias", 0.5), of_channels("mean", 0.25), of_channels("variance", 4.0)]
            .concat(),
        tensor("eps", 1, &[], &1e-3_f32.to_le_bytes()),
        node("Add", &["variance", "eps"], "sum", &[]),
        node("Sqrt", &["sum"], "root", &[]),
        node("Reciprocal", &["root"], "inverse", &[]),
        node("Mul", &["weight", "inverse"], "scale", &[]),
        node("Mul", &["mean", "scale"], "moved", &[]),
        node("Sub", &["bias", "moved"], "shift", &[]),
        node("Mul", &["x", "scale"], "scaled", &[]),
        node("Add", &["scaled", "shift"], "y", &[]),
    ]));
    let network = network.unwrap_or_else(|error| panic!("{error}"));
    let [_, norm] = network.graph.nodes() else { panic!("{:?}", network.graph.nodes()) };
    let ssdkd_graph::Op::BatchNorm(norm) = &norm.op else { panic!("{norm:?}") };
    assert_eq!((norm.eps, norm.running_var.as_str()), (1e-3, "variance"));
    assert_eq!(network.tensors["variance"].to_vec1::<f32>().unwrap(), [4.0; 3]);
}

#[test]
fn cut_files_are_errors() {
    let bytes = std::fs::read(golden("same.onnx")).unwrap();
    for length in (0..bytes.len()).step_by(53) {
        assert!(read(&bytes[..length]).is_err(), "{length} bytes");
    }
}

#[test]
fn other_versions_are_refused() {
    let relu = node("Relu", &["x"], "y", &[]);
    refused(&model_of(10, std::slice::from_ref(&relu)), &["version 10", "reads 11 to"]);
    refused(&model_of(1000, &[relu]), &["version 1000"]);
    refused(&[int(1, 8), field(2, b"x")].concat(), &["without a graph", "torch.export.save"]);
}

#[test]
fn tensors_that_do_not_hold_together_are_errors() {
    let conv = node("Conv", &["x", "w"], "y", &[]);
    let with = |weight: Vec<u8>| model(&[weight, conv.clone()]);
    refused(&with(tensor("w", 1, &[i64::MAX, i64::MAX], &[])), &["w is too large"]);
    refused(&with(tensor("w", 1, &[1 << 40], &[])), &["w of sizes [1099511627776] has 0 bytes"]);
    refused(&with(tensor("w", 1, &[-4, 3, 3, 3], &[])), &["w has a negative size"]);
    refused(&with(tensor("w", 1, &[4, 3, 3, 3], &[0; 3])), &["has 3 bytes"]);
    refused(&with(tensor("w", 99, &[1], &[0; 4])), &["of type 99"]);
    refused(&with(tensor("w", 1, &[1; 9], &[0; 4])), &["more than 8 dimensions"]);
    refused(&with(numbers("w", &[4, 9, 3, 3])), &["Conv at y", "takes 9 channels"]);
    refused(&with(whole("w", &[1, 2])), &["Conv at y", "weight is not a tensor of the file"]);
    refused(&model(std::slice::from_ref(&conv)), &["uses w, which no node before it makes"]);
}

#[test]
fn graphs_in_a_circle_are_errors() {
    refused(&model(&[node("Relu", &["y"], "y", &[])]), &["uses y, which no node before it makes"]);
    let circle = [node("Add", &["x", "b"], "a", &[]), node("Relu", &["a"], "b", &[]), node("Relu", &["b"], "y", &[])];
    refused(&model(&circle), &["uses b, which no node before it makes"]);
    let twice = [node("Relu", &["x"], "y", &[]), node("Sigmoid", &["x"], "y", &[])];
    refused(&model(&twice), &["two nodes make y"]);
    refused(&model(&[]), &["no node makes the output y"]);
}

#[test]
fn memory_is_not_made_out_of_nothing() {
    let huge = whole("shape", &[1 << 20, 3, 1 << 10, 1]);
    let fill = node("ConstantOfShape", &["shape"], "w", &[]);
    refused(&model(&[huge.clone(), fill, node("Conv", &["x", "w"], "y", &[])]), &["file is too small"]);
    let one = tensor("one", 1, &[1], &1_f32.to_le_bytes());
    let expand = node("Expand", &["one", "shape"], "w", &[]);
    refused(&model(&[huge, one.clone(), expand, node("Conv", &["x", "w"], "y", &[])]), &["file is too small"]);
    let range =
        [whole("a", &[0]), whole("b", &[i64::MAX]), whole("c", &[1]), node("Range", &["a", "b", "c"], "r", &[])];
    refused(&model(&[range.concat(), node("Reshape", &["x", "r"], "y", &[])]), &["Range at r"]);
    let long = node("Expand", &["a", "b"], "r", &[]);
    refused(
        &model(&[whole("a", &[7]), whole("b", &[1 << 40]), long, node("Reshape", &["x", "r"], "y", &[])]),
        &["long list"],
    );
    // Computing with large constants again and again.
    let mut parts = vec![numbers("c0", &[1, 64, 64])];
    parts.extend((0..400).map(|i| node("Neg", &[&format!("c{i}")], &format!("c{}", i + 1), &[])));
    parts.push(node("Mul", &["x", "c400"], "y", &[]));
    refused(&model(&parts), &["Neg at", "file is too small"]);
}

#[test]
fn tensors_in_other_files_are_read_in_the_folder_alone() {
    let folder = tempfile::tempdir().unwrap();
    let external = |location: &str| {
        let entry =
            |key: &str, value: &str| field(13, &[field(1, key.as_bytes()), field(2, value.as_bytes())].concat());
        let dims = [4, 3, 1, 1].iter().flat_map(|&dim| int(1, dim)).collect::<Vec<_>>();
        let weight = [dims, int(2, 1), field(8, b"w"), entry("location", location), entry("length", "48"), int(14, 1)];
        model(&[field(5, &weight.concat()), node("Conv", &["x", "w"], "y", &[])])
    };
    std::fs::create_dir(folder.path().join("model")).unwrap();
    std::fs::write(folder.path().join("model/w.bin"), [0; 48]).unwrap();
    std::fs::write(folder.path().join("secret.bin"), [0; 48]).unwrap();
    let path = folder.path().join("model/m.onnx");
    std::fs::write(&path, external("w.bin")).unwrap();
    assert_eq!(import(&path).unwrap().tensors["w"].dims(), [4, 3, 1, 1]);
    for location in ["../secret.bin", "/etc/passwd", "missing.bin"] {
        std::fs::write(&path, external(location)).unwrap();
        let error = import(&path).unwrap_err().to_string();
        assert!(error.contains("outside the model's folder") || error.contains("cannot be read"), "{error}");
    }
    refused(&external("w.bin"), &["not at hand"]);
}

#[test]
fn all_unsupported_operations_are_listed() {
    let parts = [
        node("Erf", &["x"], "a", &[]),
        node("Relu", &["a"], "b", &[]),
        node("If", &["x"], "c", &[]),
        field(1, &[field(1, b"x"), field(2, b"d"), field(4, b"Thing"), field(7, b"com.example")].concat()),
        node("Add", &["b", "d"], "y", &[]),
    ];
    refused(&model(&parts), &["Erf at a", "If at c", "com.example.Thing at d"]);
}

#[test]
fn absurd_numbers_are_errors() {
    let conv =
        |attributes: &[Vec<u8>]| model(&[numbers("w", &[4, 3, 3, 3]), node("Conv", &["x", "w"], "y", attributes)]);
    for attributes in [
        vec![ints("strides", &[0, 0])],
        vec![ints("strides", &[i64::MAX, i64::MAX])],
        vec![ints("pads", &[i64::MAX; 4])],
        vec![ints("pads", &[-1, 0, 0, 0])],
        vec![ints("dilations", &[i64::MAX; 2])],
        vec![attribute("group", i64::MIN)],
        vec![[field(1, b"auto_pad"), field(4, b"SAME_UPPER"), int(20, 3)].concat(), ints("strides", &[0, 1])],
        vec![[field(1, b"auto_pad"), field(4, b"SAME_LOWER"), int(20, 3)].concat(), ints("dilations", &[i64::MAX, 1])],
    ] {
        refused(&conv(&attributes), &["Conv at y"]);
    }
    refused(&model(&[node("Concat", &["x", "x"], "y", &[attribute("axis", i64::MIN)])]), &["Concat at y"]);
    refused(&model(&[node("Flatten", &["x"], "y", &[attribute("axis", i64::MAX)])]), &["Flatten at y"]);
    let slice = [whole("s", &[i64::MIN]), whole("e", &[i64::MAX]), whole("a", &[1]), whole("t", &[i64::MIN])];
    refused(&model(&[slice.concat(), node("Slice", &["x", "s", "e", "a", "t"], "y", &[])]), &["Slice at y"]);
}
