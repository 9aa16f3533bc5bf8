//! `ssdkd export`: a student leaves with everything that is needed to use it elsewhere.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use ssdkd_context::{Context, STUDENT};
use ssdkd_nn::{CARD_VERSION, TeacherCard};
use ssdkd_stage::{AskArgs, RunArgs, exit, write_file};

use crate::current::count_only_current;
use crate::run;

/// `ssdkd export`
#[derive(Debug, Args)]
#[command(after_help = "Example: ssdkd export pipelines/shapes.toml --out student")]
pub struct ExportArgs {
    #[command(flatten)]
    run: RunArgs,

    /// The round whose student it is, from 0 [default: the last]
    #[arg(long, value_name = "N")]
    round: Option<u32>,

    /// The folder to write student.safetensors, student.json and load_student.py to
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    #[command(flatten)]
    ask: AskArgs,
}

/// Exports the student of `--round`, or the last one.
pub fn export(arguments: &ExportArgs) -> Result<()> {
    let threads = arguments.run.common.set_up()?;
    if run::only_asked(&arguments.run, &arguments.ask, &format!("write a student to {}", arguments.out.display()))? {
        return Ok(());
    }
    let mut context = Context::read_only(&arguments.run, threads)?;
    count_only_current(&mut context, threads)?;
    if let Some(round) = arguments.round {
        context.distilling_round("distill", round)?;
        ensure!(
            context.rounds("distill")?.contains(&round),
            "the run has no student of round {round}\nhint: `ssdkd run {}` makes it",
            context.run().root().display()
        );
    }
    let last = context.last_round("distill")?;
    let round = arguments.round.or(last).context("the run has no student yet\nhint: `ssdkd run RECIPE` first")?;
    let (bytes, _) = context.read("distill", round, STUDENT)?;
    let student = context.student_after(round)?;
    let spec = context.student_spec()?;
    let teacher = context.teacher_card();
    let card = TeacherCard {
        card_version: CARD_VERSION,
        architecture: spec.architecture,
        names: None,
        classes: spec.classes,
        input: spec.input,
        mean: spec.mean,
        std: spec.std,
        preprocessing: teacher.preprocessing,
        normalization: teacher.normalization.clone(),
        class_names: teacher.names_of_classes().to_vec(),
        weights: STUDENT.into(),
        digest: blake3::hash(&bytes).to_hex().to_string(),
        parameters: student.store().num_parameters(),
        source: format!(
            "distilled without data from {} by ssdkd {}, run {}, seed {}, round {round}",
            teacher.architecture,
            env!("CARGO_PKG_VERSION"),
            context.recipe().run.name,
            context.recipe().run.seed
        ),
        license: None,
    };
    write_file(&arguments.out.join(STUDENT), &bytes)?;
    write_file(&arguments.out.join("student.json"), card.to_json().as_bytes())?;
    write_file(&arguments.out.join("load_student.py"), SNIPPET.as_bytes())?;
    Ok(exit::print(&format!("{}: the student of round {round}\n", arguments.out.display()))?)
}

/// The names and shapes are PyTorch's, so PyTorch needs nothing but the model's class.
const SNIPPET: &str = r#"# Loads the student into a PyTorch model of the same architecture. Tensor names and shapes are PyTorch's.
import json, pathlib, torch
from safetensors.torch import load_file

here = pathlib.Path(__file__).parent
card = json.loads((here / "student.json").read_text())
state = load_file(here / card["weights"])


def load_into(model: torch.nn.Module) -> torch.nn.Module:
    """`model`: your implementation of card["architecture"] with card["classes"] classes."""
    model.load_state_dict(state)
    return model.eval()


def normalise(images: torch.Tensor) -> torch.Tensor:
    """images: RGB or gray, (B, C, H, W) in [0, 1], resized and cropped as card["preprocessing"] says."""
    low, high = card["preprocessing"]["range"]
    if card["preprocessing"]["channels"] == "bgr":
        images = images.flip(1)
    mean = torch.tensor(card["mean"]).view(1, -1, 1, 1)
    std = torch.tensor(card["std"]).view(1, -1, 1, 1)
    return (low + (high - low) * images - mean) / std


if __name__ == "__main__":
    architecture = card["architecture"]  # a name; or an object with a name and a graph
    if isinstance(architecture, dict):
        architecture = architecture.get("zoo") or architecture["name"]
    print(architecture, card["parameters"], "parameters,", len(state), "tensors")
"#;
