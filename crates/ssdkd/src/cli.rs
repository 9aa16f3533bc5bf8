//! The command line: every command, and the file that runs it.

use std::path::PathBuf;

use anyhow::Result;
use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use ssdkd_stage::{CommonArgs, StageArgs};

use crate::commands::{
    compare, doctor, evaluate, explain, export, gc, import, inspect, man, plan, predict, repair, report, run, shrink,
    status, verify,
};

/// Distill a trained vision model into a small one, without its data
#[derive(Debug, Parser)]
#[command(
    name = "ssdkd",
    version,
    after_help = "Example:\n  ssdkd run pipelines/shapes.toml\n\n\
                  Exit codes: 0 done or fresh, 1 failed, 2 usage or recipe, 3 missing input, 4 unusable file, 130/143 signals"
)]
pub struct Program {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run all stages of all rounds in one process, then evaluate and report
    #[command(after_help = "Example:\n  ssdkd run pipelines/shapes.toml --set run.seed=1")]
    Run(StageArgs),
    /// Estimate a run's time, memory and disk
    #[command(after_help = "Example:\n  ssdkd plan pipelines/shapes.toml")]
    Plan(plan::PlanArgs),
    /// Explain a key of the recipe: its type, default, range and meaning
    #[command(after_help = "Example:\n  ssdkd explain distill.lr")]
    Explain(explain::ExplainArgs),
    /// Show for each round and stage whether its output is fresh, why not, and its cost
    #[command(after_help = "Example:\n  ssdkd status runs/shapes")]
    Status(status::StatusArgs),
    /// Compare every file of a run with its digest, and list the damaged ones
    #[command(after_help = "Example:\n  ssdkd verify runs/shapes")]
    Verify(verify::VerifyArgs),
    /// Rebuild the damaged output of a run
    #[command(after_help = "Example:\n  ssdkd repair runs/shapes")]
    Repair(repair::RepairArgs),
    /// List files that a run no longer needs; `--yes` deletes them
    #[command(after_help = "Example:\n  ssdkd gc runs/shapes --yes")]
    Gc(gc::GcArgs),
    /// Describe a Parquet shard, a manifest, a card, a weight file or a network (.pt2, .onnx)
    #[command(after_help = "Example:\n  ssdkd inspect runs/shapes/balance/0000/buffer.parquet")]
    Inspect(inspect::InspectArgs),
    /// Measure the students of a run on real data
    #[command(after_help = "Example:\n  ssdkd evaluate runs/shapes --set evaluate.data=shapes:0")]
    Evaluate(evaluate::EvaluateArgs),
    /// Write a run's summary and its pictures, and print the summary
    #[command(after_help = "Example:\n  ssdkd report runs/shapes")]
    Report(report::ReportArgs),
    /// Compare runs: tables and charts of their results
    #[command(after_help = "Example:\n  ssdkd compare runs/shapes runs/shapes-masks --out comparison")]
    Compare(compare::CompareArgs),
    /// Import a trained model as a teacher: a .pt2, an ONNX file, a PyTorch checkpoint or safetensors
    Import(import::ImportArgs),
    /// List smaller copies of a network: students that start from its weights
    #[command(after_help = "Example:\n  ssdkd shrink data/teachers/shapes-resnet20.json --list")]
    Shrink(shrink::ShrinkArgs),
    /// Predict classes of images, or masks, with any model
    #[command(after_help = "Example:\n  ssdkd predict data/teachers/shapes-resnet20.json photo.png --top 3")]
    Predict(predict::PredictArgs),
    /// Export a student or a teacher: an ONNX file, weights, a PyTorch module and a card
    Export(export::ExportArgs),
    /// Show what this machine offers: threads, kernels, devices
    #[command(after_help = "Example:\n  ssdkd doctor")]
    Doctor(CommonArgs),
    /// Print a shell's completions
    #[command(after_help = "Example:\n  ssdkd completions bash > ~/.local/share/bash-completion/completions/ssdkd")]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write the manual pages of all programs into a folder
    #[command(hide = true, after_help = "Example:\n  ssdkd man target/man")]
    Man {
        /// The folder
        folder: PathBuf,
    },
}

/// Subcommands that have another name now.
const RENAMED: [(&str, &str); 2] = [("mend", "repair"), ("clean", "gc")];

impl Program {
    /// Parses the arguments of this process. Help and mistakes end it.
    pub fn from_command_line() -> Self {
        Self::try_parse().unwrap_or_else(|error| with_new_name(error).exit())
    }
}

/// Adds the new name of a renamed subcommand to the error about the old one.
fn with_new_name(mut error: clap::Error) -> clap::Error {
    let Some(ContextValue::String(given)) = error.get(ContextKind::InvalidSubcommand) else { return error };
    if let Some((_, name)) = RENAMED.iter().find(|(old, _)| old == given) {
        error.insert(ContextKind::SuggestedSubcommand, ContextValue::Strings(vec![(*name).into()]));
    }
    error
}

/// Runs the command of a command line.
pub fn run(program: Program) -> Result<()> {
    match program.command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Plan(arguments) => plan::plan(&arguments),
        Command::Explain(arguments) => explain::explain(&arguments),
        Command::Status(arguments) => status::status(&arguments),
        Command::Verify(arguments) => verify::verify(&arguments),
        Command::Repair(arguments) => repair::repair(&arguments),
        Command::Gc(arguments) => gc::gc(&arguments),
        Command::Inspect(arguments) => inspect::inspect(&arguments),
        Command::Evaluate(arguments) => evaluate::evaluate(&arguments),
        Command::Report(arguments) => report::report(&arguments),
        Command::Compare(arguments) => compare::compare(&arguments),
        Command::Import(arguments) => import::import(&arguments),
        Command::Shrink(arguments) => shrink::shrink(&arguments),
        Command::Predict(arguments) => predict::predict(&arguments),
        Command::Export(arguments) => export::export(&arguments),
        Command::Doctor(arguments) => doctor::doctor(&arguments),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Program::command(), "ssdkd", &mut std::io::stdout());
            Ok(())
        }
        Command::Man { folder } => man::man(Program::command(), &folder),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_are_consistent() {
        Program::command().debug_assert();
    }

    #[test]
    fn an_old_name_of_a_command_is_answered_with_the_new_one() {
        for (old, new) in RENAMED {
            let error = Program::try_parse_from(["ssdkd", old, "runs/x"]).unwrap_err();
            let text = with_new_name(error).to_string();
            assert!(text.contains(&format!("similar subcommand exists: '{new}'")), "{text}");
        }
    }
}
