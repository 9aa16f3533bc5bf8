//! Files that people hand over by mistake: what they are, and what to give instead.

use std::path::Path;

use super::refusal::{Refusal, listed, quoted, save_with};

/// Where the network's code is needed for its weights.
const FROM_PYTORCH: &str =
    "give the network's state_dict, saved in PyTorch: torch.save(model.state_dict(), \"weights.pth\")";

/// Says what the bytes are, where they are something that is known and not read.
pub(super) fn refuse(bytes: &[u8], path: &Path) -> Option<Refusal> {
    let starts = |prefix: &[u8]| bytes.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    let name = quoted(path);
    let refusal = if bytes.is_empty() {
        "it is empty".into()
    } else if starts(b"<!doctype") || starts(b"<html") {
        Refusal::new("it is a web page: the download went wrong", "fetch the file itself again")
    } else if starts(b"version https://git-lfs") {
        Refusal::new("it is a pointer of Git LFS, not the file it stands for", "run `git lfs pull`")
    } else if starts(b"\x1f\x8b") || starts(b"\xfd7zXZ") || starts(b"\x28\xb5\x2f\xfd") || starts(b"BZh") {
        Refusal::new("it is compressed", "unpack it first")
    } else if starts(b"7z\xbc\xaf\x27\x1c") || starts(b"Rar!\x1a\x07") {
        Refusal::new("it is an archive", "unpack it first")
    } else if bytes.get(257..262) == Some(b"ustar") {
        Refusal::new(
            "it is a tar archive",
            "unpack it, or if PyTorch wrote it before version 0.2, save it again with a newer one",
        )
    } else if starts(b"\x89HDF\r\n\x1a\n") {
        Refusal::new("it is an HDF5 file, as Keras and MATLAB write them, not PyTorch", FROM_PYTORCH)
    } else if bytes.get(4..8) == Some(b"TFL3") {
        Refusal::new("it is a TFLite model, which holds no state_dict", FROM_PYTORCH)
    } else if starts(b"GGUF") {
        Refusal::new("it is a GGUF file of quantized weights", FROM_PYTORCH)
    } else if starts(b"\x93NUMPY") {
        Refusal::new("it is a single NumPy array (.npy)", "give a state_dict, with a name for each tensor")
    } else if starts(b"MATLAB 5.0") {
        Refusal::new("it is a MATLAB file", FROM_PYTORCH)
    } else if is_onnx(bytes, path) {
        Refusal::new("it is an ONNX model, which is not read yet", FROM_PYTORCH)
    } else if starts(b"{") {
        json(bytes)
    } else {
        return by_name(path, &name);
    };
    Some(refusal)
}

/// Returns an index of shards, or settings.
fn json(bytes: &[u8]) -> Refusal {
    let start = &bytes[..bytes.len().min(1 << 16)];
    if String::from_utf8_lossy(start).contains("\"weight_map\"") {
        let load = "from safetensors.torch import load_file; import glob; \
                    state_dict = {k: v for f in sorted(glob.glob(\"*-of-*.safetensors\")) for k, v in load_file(f).items()}";
        return Refusal::new(
            "it is the index of weights in several files (shards), and holds none itself",
            save_with(load),
        );
    }
    Refusal::new("it is a JSON text, which holds no weights", "give the weight file next to it")
}

/// Returns what only the name's ending tells.
fn by_name(path: &Path, name: &str) -> Option<Refusal> {
    let lower = path.file_name()?.to_string_lossy().to_lowercase();
    let ending = lower.rsplit_once('.').map_or("", |(_, ending)| ending);
    let what = match ending {
        "pdparams" | "pdiparams" | "pdmodel" => "a file of PaddlePaddle",
        "pb" | "tflite" => "a TensorFlow model",
        "index" | "data-00000-of-00001" => "part of a TensorFlow checkpoint",
        "mlmodel" => "a Core ML model",
        "onnx" => "an ONNX model that is cut short or damaged",
        "msgpack" => "a file of Flax (JAX)",
        "params" => "a file of MXNet",
        "caffemodel" => "a Caffe model",
        "engine" | "plan" => "an engine of TensorRT",
        "t7" => "a file of Lua Torch",
        "ptl" => "a model of PyTorch Mobile",
        "npz" => return Some(npz(name)),
        _ => return None,
    };
    Some(Refusal::new(format!("it is {what}, by the ending of its name"), FROM_PYTORCH))
}

/// Returns a file of PaddlePaddle, whose linear layers are transposed and whose batch norms have other names.
pub(super) fn paddle() -> Refusal {
    Refusal::new("it is a file of PaddlePaddle, whose tensors have other names and shapes", FROM_PYTORCH)
}

fn npz(name: &str) -> Refusal {
    let load = format!("import numpy; state_dict = {{k: torch.from_numpy(v) for k, v in numpy.load({name}).items()}}");
    Refusal::new("it is a NumPy archive (.npz)", save_with(&load))
}

/// Returns a zip file without PyTorch's pickle, or of another kind in spite of it.
pub(super) fn refuse_zip(names: &[String], path: &Path) -> Option<Refusal> {
    let name = quoted(path);
    let ends = |ending: &str| names.iter().any(|name| name.ends_with(ending));
    let within = |part: &str| names.iter().any(|name| name.contains(part) || name.starts_with(&part[1..]));
    let is_pickled = names.iter().any(|name| name == "data.pkl" || name.ends_with("/data.pkl"));
    if ends("constants.pkl") && within("/code/") {
        let load = format!("state_dict = torch.jit.load({name}, map_location=\"cpu\").state_dict()");
        return Some(Refusal::new("it is a TorchScript program (torch.jit.save)", save_with(&load)));
    }
    if ends("archive_format") || (within("/models/") && ends(".json") && !is_pickled) {
        let load = format!("state_dict = torch.export.load({name}).state_dict");
        return Some(Refusal::new("it is an exported program (.pt2), which is not read yet", save_with(&load)));
    }
    if is_pickled {
        return None;
    }
    if ends("model.weights.h5") || ends("metadata.json") && ends("config.json") {
        return Some(Refusal::new("it is a Keras model, not one of PyTorch", FROM_PYTORCH));
    }
    if !names.is_empty() && names.iter().all(|name| name.strip_suffix(".npy").is_some()) {
        return Some(npz(&name));
    }
    let inside = names.iter().filter(|name| has_weights_ending(name)).collect::<Vec<_>>();
    if !inside.is_empty() {
        return Some(Refusal::new(
            format!("it is a zip archive that holds {}", listed(inside)),
            "unpack it, and give the file within",
        ));
    }
    Some("it is a zip file without data.pkl: PyTorch did not write it".into())
}

const ENDINGS: [&str; 8] = [".pth", ".pt", ".th", ".tar", ".ckpt", ".bin", ".safetensors", ".pkl"];

fn has_weights_ending(name: &str) -> bool {
    ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// Returns a folder where a file is expected: the files in it that may be meant.
pub(super) fn refuse_folder(path: &Path) -> Refusal {
    let entries = std::fs::read_dir(path).into_iter().flatten().filter_map(Result::ok);
    let mut names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect::<Vec<_>>();
    names.sort();
    let has = |name: &str| names.iter().any(|other| other == name);
    if has("saved_model.pb") {
        return Refusal::new("it is a folder with a TensorFlow SavedModel", FROM_PYTORCH);
    }
    if names.iter().any(|name| name.ends_with(".distcp")) {
        return Refusal::new(
            "it is a folder with a distributed checkpoint",
            format!(
                "convert it with Python, and give that file:\n  \
                 python -m torch.distributed.checkpoint.format_utils dcp_to_torch {} weights.pth",
                path.display()
            ),
        );
    }
    if has("data.pkl") {
        return Refusal::new(
            "it is the folder of a checkpoint that was unpacked",
            "give the checkpoint itself (.pth), as it was before",
        );
    }
    let weights = names.iter().filter(|name| has_weights_ending(name)).collect::<Vec<_>>();
    if weights.is_empty() {
        return Refusal::new("it is a folder, and no weights lie in it", "give a file with weights");
    }
    let hint = format!("give one of its files: {}", path.join(weights[0]).display());
    Refusal::new(format!("it is a folder with {}", listed(weights)), hint)
}

/// Returns whether the bytes are a `ModelProto` of ONNX.
///
/// Its fields are those of the message, of the right kinds, and one is the graph. A file that is cut short is known by its
/// name.
fn is_onnx(bytes: &[u8], path: &Path) -> bool {
    let named = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("onnx"));
    if bytes.first() != Some(&0x08) {
        return false;
    }
    let (mut rest, mut has_graph) = (bytes, false);
    while !rest.is_empty() {
        let Some((tag, after)) = varint(rest) else { return named };
        let Some((value, after)) = varint(after) else { return named };
        let (field, kind) = (tag >> 3, tag & 7);
        rest = match (field, kind) {
            (1 | 5, 0) => after, // the version of the format, and of the model
            (2 | 3 | 4 | 6 | 7 | 8 | 14 | 20 | 25 | 26, 2) => {
                has_graph |= field == 7;
                match usize::try_from(value).ok().and_then(|length| after.get(length..)) {
                    Some(after) => after,
                    None => return named,
                }
            }
            _ => return false,
        };
    }
    has_graph
}

/// Returns a number of a protocol buffer, and what follows it.
fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let length = 1 + bytes.iter().take(10).position(|byte| byte & 0x80 == 0)?;
    let value = bytes[..length].iter().rev().fold(0_u64, |value, byte| (value << 7) | u64::from(byte & 0x7f));
    Some((value, &bytes[length..]))
}
