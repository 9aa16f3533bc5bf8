//! Everything that reads files which may come from strangers, as functions of the files' bytes.
//!
//! Each function reads what it is given the way the programs do, and panics if that is answered with anything but a
//! value that holds together or one clear error. The fuzz targets call them, and so does `tests/readers`, on the kept files
//! and on thousands of mutations of these.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Debug;
use std::path::Path;

use candle_core::{Device, Tensor};
use ssdkd_context::Recipe;
use ssdkd_graph::write::{OnnxTexts, PythonTexts, to_onnx, to_python};
use ssdkd_graph::{Executor, Graph, feature_maps, fuse, simplify};
use ssdkd_nn::weights::{self, Choice};
use ssdkd_nn::{Network, NetworkSpec, TeacherCard, adopt, identify};
use ssdkd_shards::{
    BufferRow, ClassRow, DrawRow, ImageReader, Manifest, ObservedRow, PriorityRow, Row, Rows, StepRow, describe, tables,
};
use ssdkd_stage::{FingerprintInput, State, exit};

/// A reader's name, which is that of its fuzz target and of its folder in `tests/fuzz/corpus`, and the reader.
pub type Reader = (&'static str, fn(&[u8]));

/// All readers.
pub const ALL: [Reader; 9] = [
    ("recipe", recipe),
    ("manifest", manifest),
    ("card", card),
    ("checkpoint", checkpoint),
    ("safetensors", safetensors),
    ("shard", shard),
    ("pt2", pt2),
    ("onnx", onnx),
    ("graph", graph),
];

/// What the files are called in errors.
const PATH: &str = "some/strange.file";

/// Longest error, in bytes: what fits a screen, with room for one long line.
const ERROR_LIMIT: usize = 10_000;

/// One clear error: it names `what`, fits a screen, and does not steer the terminal.
#[track_caller]
fn refused(error: &(dyn Error + 'static), what: &str) {
    let text = exit::describe(error);
    assert!(text.starts_with("error: ") && text.contains(what), "{what} is not named: {text}");
    assert!(text.len() <= ERROR_LIMIT, "{} bytes of error: {text}", text.len());
    assert_eq!(text, exit::plain(&text));
}

/// The value, if there is one; otherwise the error must be a clear one.
#[track_caller]
fn answer<T, E: Error + 'static>(result: Result<T, E>) -> Option<T> {
    result.inspect_err(|error| refused(error, PATH)).ok()
}

#[track_caller]
fn same<T: PartialEq + Debug>(read: &T, again: Option<&T>) {
    assert_eq!(Some(read), again, "what was read is not what is written");
}

/// A recipe; after a zero byte, changes as with `--set`, separated by zero bytes.
pub fn recipe(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut parts = text.split('\0');
    let text = parts.next().unwrap_or_default();
    if let Some(recipe) = answer(Recipe::parse(text, PATH.as_ref(), &[])) {
        same(&recipe, answer(Recipe::parse(&recipe.to_toml(), PATH.as_ref(), &[])).as_ref());
        let changes = parts.map(str::to_string).collect::<Vec<_>>();
        match Recipe::parse(text, PATH.as_ref(), &changes) {
            Ok(changed) => same(&changed, answer(Recipe::parse(&changed.to_toml(), PATH.as_ref(), &[])).as_ref()),
            Err(error) => refused(&error, ""),
        }
    }
}

/// A manifest, read back and compared with another one as `status` does.
pub fn manifest(bytes: &[u8]) {
    if let Some(manifest) = answer(Manifest::parse(bytes, PATH.as_ref())) {
        let again = answer(Manifest::parse(&manifest.to_bytes(), PATH.as_ref()));
        same(&manifest, again.as_ref());
        let before = FingerprintInput::of(&manifest);
        assert_eq!(before.fingerprint(), FingerprintInput::of(&again.expect("it was compared")).fingerprint());
        assert!(before.reasons_against(&before).is_empty());
        let other = FingerprintInput::new("distill", 3, 2, 0, serde_json::json!({"distill": {"lr": 0.1}}));
        let why = State::Stale { reasons: other.reasons_against(&before) }.describe();
        assert_eq!(why, exit::plain(&why));
    }
}

/// A teacher's card, and the network that it speaks of.
pub fn card(bytes: &[u8]) {
    if let Some(card) = answer(TeacherCard::parse(bytes, PATH.as_ref())) {
        same(&card, answer(TeacherCard::parse(card.to_json().as_bytes(), PATH.as_ref())).as_ref());
        let none = Network::load(&card.spec(), BTreeMap::new(), &Device::Cpu);
        refused(&none.err().expect("no network is without weights"), "");
    }
}

/// A PyTorch checkpoint, imported as a teacher.
pub fn checkpoint(bytes: &[u8]) {
    import(bytes);
}

/// A safetensors file, imported as a teacher.
pub fn safetensors(bytes: &[u8]) {
    import(bytes);
}

/// Most bytes of tensors for a byte of a file that is compressed.
const INFLATION: usize = 64;

fn import(bytes: &[u8]) {
    let parse = |choice| weights::parse(bytes, PATH.as_ref(), &choice);
    answer(parse(Choice { key: None, prefix: Some("module.") }));
    let Some(import) = answer(parse(Choice::default())) else { return };
    for line in import.describe() {
        assert!(line.len() <= ERROR_LIMIT, "{} bytes in a line: {line}", line.len());
    }
    for entry in import.also.iter().take(2) {
        answer(parse(Choice { key: Some(&entry.key), prefix: None }));
    }
    let size =
        import.tensors.values().map(|tensor| tensor.elem_count() * tensor.dtype().size_in_bytes()).sum::<usize>();
    assert!(size <= INFLATION * bytes.len(), "{size} bytes of tensors in a file of {} bytes", bytes.len());
    let tensors = match adopt(import.tensors) {
        Ok(adopted) => adopted.tensors,
        Err(error) => return refused(&error, ""),
    };
    let shapes = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.dims().to_vec())).collect();
    match identify(&shapes) {
        Ok(found) => build(&found, tensors),
        Err(reason) => refused(&ssdkd_stage::StageError::Usage(reason), ""),
    }
}

fn build(found: &ssdkd_nn::Identity, tensors: BTreeMap<String, Tensor>) {
    let spec = NetworkSpec {
        architecture: found.architecture.clone(),
        classes: found.classes,
        input: [found.channels, 32, 32],
        mean: vec![0.5; 3],
        std: vec![0.25; 3],
        preprocessing: ssdkd_nn::Preprocessing::default(),
    };
    match Network::load(&spec, tensors, &Device::Cpu) {
        Ok(network) => assert!(network.store().num_parameters() > 0),
        Err(error) => refused(&error, ""),
    }
}

/// A network of PyTorch's export.
pub fn pt2(bytes: &[u8]) {
    network(bytes);
}

/// A network in ONNX.
pub fn onnx(bytes: &[u8]) {
    network(bytes);
}

fn network(bytes: &[u8]) {
    let Some(network) = answer(ssdkd_graph::parse(bytes, PATH.as_ref())) else { return };
    let size =
        network.tensors.values().map(|tensor| tensor.elem_count() * tensor.dtype().size_in_bytes()).sum::<usize>();
    // Small networks may have constants that exporters write as one number.
    assert!(size <= 12 * bytes.len() + (1 << 20), "{size} bytes of tensors in a file of {} bytes", bytes.len());
    taken_apart(&network.graph);
    if let Err(error) = to_onnx(&network.graph, &network.tensors, &OnnxTexts::default()) {
        refused(&error, "");
    }
    if let Err(error) = Executor::new(network.graph, network.tensors, &[]) {
        refused(&error, "");
    }
}

/// A `graph.json`.
pub fn graph(bytes: &[u8]) {
    match Graph::from_json(&String::from_utf8_lossy(bytes)) {
        Ok(graph) => taken_apart(&graph),
        Err(error) => refused(&error, ""),
    }
}

/// Everything that is asked of a graph: it can be saved, and each answer is one or a clear error.
fn taken_apart(graph: &Graph) {
    let text = graph.to_json().expect("a graph that was read holds together");
    same(graph, Graph::from_json(&text).ok().as_ref());
    let simple = simplify(graph).expect("a graph stays one when it is simplified");
    assert!(simple.nodes().len() <= graph.nodes().len() && simple.check().is_ok());
    assert_eq!(graph.costs().len(), graph.nodes().len());
    assert!(feature_maps(graph).nodes.len() < graph.nodes().len());
    assert!(fuse::plan(graph, &[]).len() < graph.nodes().len());
    if let Err(error) = to_python(graph, &PythonTexts::default()) {
        refused(&error, "the node ");
    }
    let [_, height, width] = graph.input();
    for result in [
        graph.shapes_at(height, width).map(drop),
        graph.shapes_at(2 * height, width / 2).map(drop),
        graph.channel_groups().map(drop),
        graph.without_probabilities().map(drop),
        graph.with_output(1).map(drop),
    ] {
        if let Err(error) = result {
            refused(&error, "");
        }
    }
}

/// A Parquet file: what it says of itself, its rows as each of the tables, and its images.
pub fn shard(bytes: &[u8]) {
    answer(describe(bytes.to_vec(), PATH.as_ref()));
    table::<BufferRow>(bytes);
    table::<ClassRow>(bytes);
    table::<PriorityRow>(bytes);
    table::<DrawRow>(bytes);
    table::<StepRow>(bytes);
    table::<ObservedRow>(bytes);
    let Some(reader) = answer(ImageReader::open(bytes.to_vec(), PATH.as_ref())) else { return };
    if let Some(shard) = answer(reader.read(Rows::All)) {
        let values = shard.info.shape.iter().product::<usize>();
        assert_eq!(shard.samples.len(), reader.len());
        assert_eq!(shard.pixels.len(), reader.len() * values);
        assert_eq!(shard.teacher_logits.len(), reader.len() * shard.info.class_names.len());
    }
    answer(reader.read(Rows::Only(&[1, 0, 1])));
}

fn table<R: Row>(bytes: &[u8]) {
    answer(tables::decode::<R>(bytes.to_vec(), Path::new(PATH)));
}
