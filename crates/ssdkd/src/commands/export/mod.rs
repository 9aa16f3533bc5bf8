//! `ssdkd export`: a student or a teacher leaves with everything that is needed to use it elsewhere.
//!
//! Whatever is exported, the files have the same names: `model.onnx`, `model.safetensors`, `model.py` and `card.json`.

mod files;
mod source;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use ssdkd_stage::exit::Code;
use ssdkd_stage::{AskArgs, RunArgs, StageError, exit, quote_path, write_folder};

use crate::asked::only_asked;
use files::{Choice, files};
use source::Source;

pub use files::CARD;

/// `ssdkd export`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  ssdkd export pipelines/shapes.toml --out student\n  \
                  ssdkd export teacher.json --out teacher --fold --normalize",
    mut_arg("recipe", |argument| argument
        .value_name("MODEL")
        .help("A run (its recipe or its folder), a card (.json), or the folder of an exported model"))
)]
pub struct ExportArgs {
    #[command(flatten)]
    run: RunArgs,

    /// The round of the run whose student it is, from 0 [default: the last]
    #[arg(long, value_name = "N")]
    round: Option<u32>,

    /// The folder to write model.onnx, model.safetensors, model.py and card.json to
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// Fold the batch norms of model.onnx into its convolutions; the other files keep them
    #[arg(long)]
    fold: bool,

    /// Let model.onnx normalize images itself: it takes RGB from 0 to 1
    #[arg(long)]
    normalize: bool,

    /// Replace another model in the folder
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    ask: AskArgs,
}

/// Exports a card's network, or the student of `--round` or of the last round.
pub fn export(arguments: &ExportArgs) -> Result<()> {
    arguments.run.common.set_up()?;
    let card = source::card_of(&arguments.run.recipe);
    if card.is_none() {
        source::refuse_file(&arguments.run.recipe)?;
        let would = format!("write a student to {}", shown(&arguments.out));
        if only_asked(&arguments.run, &arguments.ask, &would)? {
            return Ok(());
        }
    }
    let Source { what, card, network } = match card {
        Some(card) => {
            refuse_flags_of_runs(arguments)?;
            source::of_card(&card)?
        }
        None => source::of_run(&arguments.run, arguments.round)?,
    };
    let choice = Choice { fold: arguments.fold, normalize: arguments.normalize };
    let files = files(card, &network, choice)?;
    let out = &arguments.out;
    if !arguments.force {
        refuse_others(out, &files)?;
    }
    if arguments.ask.dry_run {
        return Ok(exit::print_plain(&format!("would write {what} to {}\n", shown(out)))?);
    }
    let named = files.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect::<Vec<_>>();
    write_folder(out, &named).map_err(elsewhere)?;
    let images = if arguments.normalize { "takes RGB images from 0 to 1" } else { "takes normalized images" };
    let text = format!(
        "{}: {what}\n  model.onnx         the network in ONNX; it {images}\n  \
         model.safetensors  the weights, with the network's own tensor names\n  \
         model.py           the network in PyTorch: from model import load, normalize\n  \
         {CARD}          everything else: ssdkd predict {} IMAGE\n",
        shown(out),
        quote_path(out)
    );
    Ok(exit::print_plain(&text)?)
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// A card has no rounds and no settings.
fn refuse_flags_of_runs(arguments: &ExportArgs) -> Result<(), StageError> {
    let given = [
        ("--round", arguments.round.is_some()),
        ("--set", !arguments.run.set.is_empty()),
        ("--print-config", arguments.ask.print_config),
    ];
    match given.iter().find(|(_, is_given)| *is_given) {
        None => Ok(()),
        Some((flag, _)) => Err(StageError::Usage(format!(
            "{flag} is for runs, and {} is a card's network\nhint: leave {flag} out, or name a run",
            arguments.run.recipe.display()
        ))),
    }
}

/// Refuses to replace a file of another model.
fn refuse_others(out: &Path, files: &[(&str, Vec<u8>)]) -> Result<(), StageError> {
    if out.exists() && !out.is_dir() {
        let what = format!("{} is a file, and a model needs a folder\nhint: give another --out", out.display());
        return Err(StageError::Usage(what));
    }
    for (name, bytes) in files {
        let path = out.join(name);
        if path.exists() && std::fs::read(&path).is_ok_and(|there| there != *bytes) {
            return Err(StageError::Usage(format!(
                "{} exists and belongs to another model\nhint: give another --out, or replace it with --force",
                path.display()
            )));
        }
    }
    Ok(())
}

/// An error of writing, with the remedy of this command.
fn elsewhere(error: StageError) -> StageError {
    match error {
        StageError::Write { action, path, source } => StageError::other(
            Code::Failed,
            format!(
                "cannot {action} {}: {source}\nhint: give another --out: a folder with room that you may write to",
                path.display()
            ),
        ),
        other => other,
    }
}
