//! Remakes the small files in `tests/fuzz/corpus` that fuzzing begins with:
//! `cargo build --release --workspace --example seeds && target/release/examples/seeds`.
//!
//! What fuzzing found is kept beside them, under the name `found-…`, and is not made here.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde_json::{Map, json};
use ssdkd_context::Recipe;
use ssdkd_nn::{Network, NetworkSpec, StateDict, TeacherCard};
use ssdkd_shards::{
    BufferRow, ClassRow, DrawRow, FileEntry, ImageInfo, ImageShard, Manifest, Normalisation, ObservedRow, Origin,
    Pixels, PriorityRow, Role, Row, SampleRow, StepRow, digest, tables,
};
use ssdkd_stage::FingerprintInput;
use writer::{Writer, dict, int, object};

#[allow(dead_code)] // the tests of weight files use the rest
#[path = "../../crates/ssdkd-nn/tests/nn/writer.rs"]
mod writer;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn save(reader: &str, name: &str, bytes: impl AsRef<[u8]>) {
    let folder = workspace().join("tests/fuzz/corpus").join(reader);
    fs::create_dir_all(&folder).expect("the corpus is writable");
    fs::write(folder.join(name), bytes).expect("the corpus is writable");
}

fn read(path: &str) -> Vec<u8> {
    fs::read(workspace().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn recipes() {
    let shapes = read("pipelines/shapes.toml");
    save("recipe", "shapes", &shapes);
    save("recipe", "dafl", read("pipelines/baselines/dafl.toml"));
    let text = String::from_utf8(shapes).expect("a recipe is UTF-8");
    let recipe = Recipe::parse(&text, "shapes.toml".as_ref(), &[]).expect("a recipe that comes with the project");
    save("recipe", "every-setting", recipe.to_toml());
    save("recipe", "changed", text + "\0run.seed=7\0distill.lr=1\0student.architecture=wrn-16-1\0invert.phi.gamma=2.5");
    let least = "[run]\nname='t'\nwarmup_rounds=1\nrounds=1\n[teacher]\ncard='t'\n[student]\narchitecture='vgg11'\n";
    save("recipe", "least", least);
}

fn manifests() {
    let digest = digest::of_bytes(b"x");
    let parameters = json!({"distill": {"lr": 0.2, "steps": 40, "views": {"flip": true}}, "run": {"rounds": 60}});
    let mut input = FingerprintInput::new("distill", 3, 2, 18_446_744_073_709_551_615, parameters);
    input.inputs = BTreeMap::from([("teacher".into(), digest.clone()), ("sample/0002".into(), digest.clone())]);
    let entry = |path: &str, rows, role| FileEntry { path: path.into(), bytes: 1, blake3: digest.clone(), rows, role };
    let manifest = Manifest {
        schema_version: input.schema_version,
        stage: input.stage.clone(),
        stage_version: input.stage_version,
        round: input.round,
        seed: input.seed,
        fingerprint: input.fingerprint(),
        parameters: input.parameters.clone(),
        inputs: input.inputs.clone(),
        files: vec![
            entry("optimizer.safetensors", None, Role::State),
            entry("samples/part-00000.parquet", Some(40), Role::Shard),
            entry("student.safetensors", None, Role::Data),
        ],
        metrics: Map::from_iter([("loss".to_string(), json!(0.25)), ("steps".to_string(), json!(1e-300))]),
    };
    save("manifest", "distill", manifest.to_bytes());
    save("manifest", "newer", r#"{"schema_version": 3, "anything": [1, null]}"#);
}

fn cards() -> TeacherCard {
    let shapes = read("data/teachers/shapes-resnet20.json");
    save("card", "shapes", &shapes);
    let mut card = TeacherCard::parse(&shapes, "card.json".as_ref()).expect("a card that comes with the project");
    card.architecture = "wrn-16-1".parse().expect("a known architecture");
    (card.classes, card.class_names) = (2, vec!["Bär".into(), "\"x\"\\".into()]);
    save("card", "wrn", card.to_json());
    card
}

/// A state_dict of the smallest network, its numbers few so that the file is small: all tensors of ones or zeros.
fn safetensors(card: &TeacherCard) {
    let some = |shape: &[usize], dtype| Tensor::ones(shape, dtype, &Device::Cpu).expect("a small tensor");
    let tensors = StateDict::from_iter([
        ("module.conv1.weight".to_string(), some(&[16, 3, 3, 3], DType::BF16)),
        ("module.bn1.num_batches_tracked".to_string(), some(&[], DType::I64)),
        ("module.layer1.0.conv1.weight".to_string(), some(&[1, 2], DType::F64)),
        ("module.linear.weight".to_string(), some(&[2, 64], DType::F16)),
        ("module.linear.bias".to_string(), some(&[2], DType::F32)),
        ("module.empty".to_string(), some(&[0, 3], DType::U8)),
    ]);
    let encoded = tensors.to_safetensors().expect("plain tensors");
    save("safetensors", "part-of-a-resnet", encoded);
    let one = StateDict::from_iter([("w".to_string(), some(&[2, 1], DType::F32))]);
    let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    let encoded = one.to_safetensors_with(&metadata).expect("plain tensors");
    save("safetensors", "one-tensor", encoded);
    let spec = NetworkSpec { architecture: "resnet8".parse().expect("a known architecture"), ..card.spec() };
    let network = Network::create(&spec, 0, &Device::Cpu).expect("a network");
    let tensors = network.store().state_dict().into_iter();
    let tensors = tensors.map(|(name, tensor)| (name, some(tensor.dims(), DType::U8))).collect::<StateDict>();
    save("safetensors", "resnet8-of-bytes", tensors.to_safetensors().expect("plain tensors"));
}

/// Checkpoints as a stranger's: several entries, wrapped names, and each kind of container and protocol.
fn strange_checkpoints() {
    let pickle = |root: &[u8]| [b"\x80\x02", root, b"."].concat();
    let mut file = Writer::default();
    let averaged = dict(&[("decay", int(1)), ("module", dict(&file.network("_orig_mod.module.", 2.)))]);
    let (network, optimizer) = (dict(&file.network("", 1.)), dict(&[("state", dict::<&str>(&[]))]));
    let root = dict(&[("model", network), ("model_ema", averaged), ("optimizer", optimizer), ("epoch", int(3))]);
    save("checkpoint", "entries", file.zip(&root));
    save("checkpoint", "deflated-big-endian", file.zip_with(&pickle(&root), b"big", true));

    let mut file = Writer::default();
    let mut items = file.network("encoder_q.", 1.);
    items.extend(file.network("encoder_k.", 2.));
    items.push(("total_ops".into(), file.tensor(&[1], 0.)));
    save("checkpoint", "prefixes", file.zip(&dict(&items)));

    let mut file = Writer::default();
    let parts = [("a.weight_orig", [2, 2]), ("a.weight_mask", [2, 2]), ("b.weight_g", [2, 1]), ("b.weight_v", [2, 2])];
    let parts = parts.map(|(name, shape)| (name, file.tensor(&shape, 1.)));
    save("checkpoint", "parts", file.zip(&dict(&parts)));

    let mut file = Writer::default();
    let parameters = dict(&[("weight", file.tensor(&[4, 2], 1.))]);
    let layer = object("torch.nn.Linear", &[("_parameters", parameters), ("_modules", b"}".to_vec())]);
    let model = object("__main__.Net", &[("_modules", dict(&[("fc", layer)]))]);
    save("checkpoint", "whole-model", file.zip(&model));

    // A set, frozen sets, bytes, a byte array, long texts and integers, named arguments, POP_MARK and DUP.
    let newer = b"\x80\x05\x95\x00\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x01a\x8f(K\x01C\x01b\x90\x8c\x01b(K\x02\x91\x8c\x01c\
                  \x96\x02\x00\x00\x00\x00\x00\x00\x00xy\x8d\x01\x00\x00\x00\x00\x00\x00\x00d\x8b\x09\x00\x00\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\
                  \x8c\x01e\x8c\x02os\x8c\x04path\x93)}\x92}b(N1\x8c\x01f2u.";
    save("checkpoint", "protocol-5", newer);
    let array = b"\x80\x05}\x8c\x09fc.weight\x8c\x13numpy._core.numeric\x8c\x0b_frombuffer\x93(\x96\x08\x00\x00\x00\x00\x00\x00\x00\x00\
                  \x00\x80?\x00\x00\x00@\x8c\x05numpy\x8c\x05dtype\x93\x8c\x02f4\x89\x88\x87R(K\x03\x8c\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff\
                  K\x00tbK\x01K\x02\x86\x8c\x01CtRs.";
    save("checkpoint", "numpy", array);
}

fn checkpoints() {
    strange_checkpoints();
    save("checkpoint", "zip", read("tests/golden/nn_zip.pth"));
    save("checkpoint", "stream", read("tests/golden/nn_stream.pth"));
    // Every instruction of a pickle that calls something: none is followed.
    let front = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.";
    let harm = b"\x80\x02cposix\nsystem\nX\x07\x00\x00\x00touch x\x85R.\x80\x02]X\x01\x00\x00\x000a.";
    let spelled =
        b"(dp0\nVa\np1\n(lp2\nI1\naF2.5\naI01\naS'x\\'\\xff'\naL-12345678901234567890L\na(i__main__\nNet\nas.";
    save("checkpoint", "protocol-0", [&front[..], spelled, b"\x80\x02]."].concat());
    save("checkpoint", "system", [&front[..], harm, &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]].concat());
}

fn table<R: Row>(name: &str, rows: &[R]) {
    let origin = Origin { stage: "balance".into(), fingerprint: digest::of_bytes(name.as_bytes()) };
    save("shard", name, tables::encode(rows, &origin).expect("plain rows"));
}

fn shards() {
    let shard = "invert/0001/samples/part-00000.parquet".to_string();
    let member = |sample_id: u64| BufferRow {
        sample_id,
        shard: shard.clone(),
        row: sample_id as u32,
        teacher_class: 1,
        teacher_confidence: 0.5,
        diversity: 0.25,
        difficulty: 0.5,
        phi: 0.125,
        birth_round: 1,
    };
    table("buffer", &(0..5).map(member).collect::<Vec<_>>());
    let class =
        |class: u32, mean_confidence| ClassRow { class, name: format!("class {class}"), count: 2, mean_confidence };
    table("classes", &[class(0, Some(0.5)), class(1, None)]);
    table("priorities", &[PriorityRow { sample_id: 0, kl: None, priority: 0.1, probability: 1.0, weight: 1.0 }]);
    table("draws", &[0, 1].map(|slot| DrawRow { step: 0, slot, sample_id: 3, weight: 0.5 }));
    let step = StepRow {
        step: 0,
        lr: 0.1,
        loss: 2.0,
        feature_distillation: Some(0.5),
        kl: 1.0,
        agreement: 0.5,
        gradient_norm: 3.0,
    };
    table("steps", &[step]);
    table("observed", &[ObservedRow { step: 0, slot: 0, sample_id: 3, kl: 0.5 }]);
    let values = (0..3 * 12).map(|index| index as f32 / 36.0).collect::<Vec<_>>();
    for (name, pixels) in [("images-u8", Pixels::rounded(&values)), ("images-f32", Pixels::F32(values))] {
        let sample = |sample_id| SampleRow {
            sample_id,
            target: 0,
            teacher_class: 1,
            teacher_confidence: 0.5,
            loss_batch_norm: Some(1.0),
            loss_class: Some(0.5),
            loss_balance: Some(0.25),
            loss_activation: None,
            loss_adversarial: Some(0.0),
            loss_total_variation: None,
            loss_l2: None,
            loss_contrastive: None,
            loss_total: 1.75,
            round: 1,
        };
        let shard = ImageShard {
            info: ImageInfo {
                origin: Origin { stage: "invert".into(), fingerprint: digest::of_bytes(b"invert") },
                shape: [3, 2, 2],
                normalisation: Normalisation { mean: vec![0.5; 3], std: vec![0.25; 3] },
                class_names: vec!["disc".into(), "ring".into()],
            },
            samples: (0..3).map(sample).collect(),
            pixels,
            teacher_logits: vec![0.5; 6],
            teacher_masks: None,
        };
        save("shard", name, shard.encode().expect("a shard that holds together"));
    }
}

fn graphs() {
    save("pt2", "same", read("tests/golden/graph/same.pt2"));
    save("onnx", "same", read("tests/golden/graph/same.onnx"));
    for name in ["same", "unet"] {
        let network = ssdkd_graph::import(&workspace().join(format!("tests/golden/graph/{name}.pt2")));
        let graph = network.expect("a golden network").graph;
        save("graph", name, graph.to_json().expect("a graph that was read holds together"));
    }
}

fn main() {
    recipes();
    manifests();
    let card = cards();
    safetensors(&card);
    checkpoints();
    shards();
    graphs();
}
