//! PyTorch modules as source code.
//!
//! Nothing of a file stands in the code but literals: what is not a plain name of a module is replaced by a number.

mod layers;
mod steps;

use std::fmt::Write as _;

use crate::error::GraphError;
use crate::graph::Graph;
use layers::Layers;

/// What a module says besides the network.
#[derive(Debug, Clone, Default)]
pub struct PythonTexts {
    /// The name of the safetensors file beside the module.
    pub weights: String,
    /// The names of the classes, in the order of the logits; may be empty.
    pub class_names: Vec<String>,
    /// Where the network came from.
    pub source: String,
    /// Its license; may be empty.
    pub license: String,
    /// The values that black and white have before mean and std are applied.
    pub range: [f32; 2],
    /// Subtracted from each channel.
    pub mean: Vec<f32>,
    /// Divided by after that.
    pub std: Vec<f32>,
    /// Whether the network takes blue first.
    pub swaps_red_and_blue: bool,
}

/// Returns a network as the source code of a module of PyTorch, which needs nothing but PyTorch.
///
/// `load()` reads the weights from the safetensors file next to it, and `normalize` prepares images. Tensors of the module have the names of
/// the graph's, where modules can have such names. `RENAMED` lists the others.
///
/// # Errors
/// If PyTorch has no operation for a node. The error names it.
pub fn to_python(graph: &Graph, texts: &PythonTexts) -> Result<String, GraphError> {
    graph.check()?;
    let layers = Layers::of(graph);
    let steps = steps::steps(graph, &layers)?;
    let [channels, height, width] = graph.input();
    let mut code = HEAD.replace("SHAPE", &format!("(batch, {channels}, {height}, {width})"));
    let lines = [
        ("INPUT", format!("({channels}, {height}, {width})")),
        ("CLASS_NAMES", list(&texts.class_names)),
        ("SOURCE", python_string(&texts.source)),
        ("LICENSE", python_string(&texts.license)),
        ("WEIGHTS", python_string(&texts.weights)),
    ];
    for (name, value) in lines {
        let _ = writeln!(code, "{name} = {value}"); // writing to a String cannot fail
    }
    code.push_str(
        "\n# Tensors whose name in the file cannot be that of a module: the name here, and in the file.\nRENAMED = {",
    );
    for (ours, theirs) in layers.renamed() {
        let _ = write!(code, "\n    {}: {},", python_string(&ours), python_string(&theirs)); // as above
    }
    code.push_str(if code.ends_with('{') { "}\n" } else { "\n}\n" });
    code.push_str(PLACE);
    for helper in &steps.helpers {
        let _ = write!(code, "\n\n{helper}"); // as above
    }
    code.push_str("\n\nclass Model(nn.Module):\n    def __init__(self):\n        super().__init__()\n");
    for layer in layers.all() {
        let _ = writeln!(code, "        place(self, {}, {})", python_string(&layer.path), layer.made); // as above
    }
    for ([path, name], [earlier, of_earlier]) in layers.tied() {
        let (path, earlier) = (python_string(path), python_string(earlier));
        let (ours, theirs) = (format!("self.get_submodule({path})"), format!("self.get_submodule({earlier})"));
        let _ = writeln!(code, "        {ours}.{name} = {theirs}.{of_earlier}"); // as above
    }
    code.push_str("\n    def forward(self, images):\n");
    if !layers.all().is_empty() {
        code.push_str("        layer = self.get_submodule\n");
    }
    for line in &steps.lines {
        let _ = writeln!(code, "        {line}"); // as above
    }
    code.push_str(LOAD);
    code.push_str(&normalize(texts));
    Ok(code)
}

/// What a file begins with.
const HEAD: &str = r#""""A network in PyTorch, written by `ssdkd export`.

    from model import load, normalize

    model = load()
    logits = model(normalize(images))    # RGB images SHAPE with values from 0 to 1
"""

import json
import pathlib
import struct

import torch
from torch import nn
from torch.nn import functional as F

"#;

/// Puts a layer at its path.
const PLACE: &str = r#"

def place(module, path, layer):
    *folders, name = path.split(".")
    for folder in folders:
        if folder not in dict(module.named_children()):
            module.add_module(folder, nn.Module())
        module = module.get_submodule(folder)
    for child, inner in dict(module.named_children()).get(name, nn.Module()).named_children():
        layer.add_module(child, inner)
    module.add_module(name, layer)
"#;

/// Reads the weights.
const LOAD: &str = r#"

def read_state_dict(path):
    """The tensors of a safetensors file by name."""
    data = pathlib.Path(path).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    types = {"F32": torch.float32, "I64": torch.int64}
    tensors = {}
    for name, entry in json.loads(data[8 : 8 + length]).items():
        if name != "__metadata__":
            start, end = (8 + length + offset for offset in entry["data_offsets"])
            numbers = torch.frombuffer(bytearray(data[start:end]), dtype=types[entry["dtype"]])
            tensors[name] = numbers.reshape(entry["shape"])
    return tensors


def load(path=None):
    """The network with its weights, in evaluation mode."""
    tensors = read_state_dict(path or pathlib.Path(__file__).with_name(WEIGHTS))
    model = Model()
    model.load_state_dict({name: tensors[RENAMED.get(name, name)] for name in model.state_dict()})
    return model.eval()
"#;

/// The function that prepares images.
fn normalize(texts: &PythonTexts) -> String {
    let PythonTexts { range: [low, high], mean, std, swaps_red_and_blue, .. } = texts;
    let swap = if *swaps_red_and_blue { "    images = images.flip(1)  # the network takes blue first\n" } else { "" };
    let range = if [*low, *high] == [0.0, 1.0] {
        "images".to_string()
    } else {
        format!("({low:?} + {:?} * images)", high - low)
    };
    let column = |numbers: &[f32]| {
        format!("torch.tensor({numbers:?}, dtype=images.dtype, device=images.device).reshape(-1, 1, 1)")
    };
    format!(
        "\n\ndef normalize(images):\n    \"\"\"What the network takes, from RGB images with values from 0 to 1.\"\"\"\n{swap}    \
         mean = {}\n    std = {}\n    return ({range} - mean) / std\n",
        column(mean),
        column(std)
    )
}

/// A list of texts.
fn list(texts: &[String]) -> String {
    format!("[{}]", texts.iter().map(|text| python_string(text)).collect::<Vec<_>>().join(", "))
}

/// Returns a text as a literal of Python. It consists of printable letters of ASCII alone.
fn python_string(text: &str) -> String {
    let mut literal = String::from('"');
    for character in text.chars() {
        let code = u32::from(character);
        let _ = match character {
            '"' | '\\' => write!(literal, "\\{character}"),
            ' '..='~' => write!(literal, "{character}"),
            '\n' => write!(literal, "\\n"),
            _ if code <= 0xff => write!(literal, "\\x{code:02x}"),
            _ if code <= 0xffff => write!(literal, "\\u{code:04x}"),
            _ => write!(literal, "\\U{code:08x}"),
        }; // writing to a String cannot fail
    }
    literal.push('"');
    literal
}

#[cfg(test)]
mod tests {
    use super::python_string;

    #[test]
    fn literals_end_where_they_begin() {
        assert_eq!(python_string("\"); import os; os.system('x')#"), r#""\"); import os; os.system('x')#""#);
        assert_eq!(python_string("a\\\n\u{1b}[31m"), r#""a\\\n\x1b[31m""#);
        assert_eq!(python_string("\u{2028}é😀"), r#""\u2028\xe9\U0001f600""#);
    }
}
