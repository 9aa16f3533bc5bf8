//! `ssdkd`: the front. Runs whole pipelines, looks into runs, brings teachers in and students out.

mod clean;
mod compare;
mod estimate;
mod export;
mod footprint;
mod grid;
mod histogram;
mod import;
mod inspect;
mod measure;
mod mend;
mod own;
mod pictures;
mod plot;
mod preflight;
mod report;
mod results;
mod run;
mod status;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use candle_core::Device;
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use ssdkd_nn::{OPEN_GPU, device_name};
use ssdkd_stage::{CommonArgs, StageArgs, exit};

#[global_allocator]
static ALLOCATOR: ssdkd_ops::CachingAllocator = ssdkd_ops::CachingAllocator::new(4 << 30);

/// Distil a trained vision model into a small one, without its data.
#[derive(Debug, Parser)]
#[command(
    name = "ssdkd",
    version,
    after_help = "Exit codes: 0 done or fresh, 1 failed, 2 usage or recipe, 3 missing input, 4 integrity, 130/143 signals"
)]
struct Program {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run all stages of all rounds in one process, then evaluate and report
    Run(StageArgs),
    /// Say what a run consists of and what it will cost, from a step of each kind on this machine
    Plan(run::PlanArgs),
    /// Say for every round and stage whether it is fresh, why not, and what it cost
    Status(status::StatusArgs),
    /// Hash every file of a run and say which are damaged, and what makes them again
    Verify(verify::VerifyArgs),
    /// Make damaged output of a run again, and nothing else
    Mend(mend::MendArgs),
    /// List what of a run takes up room and nothing needs, and remove it with --yes
    Clean(clean::CleanArgs),
    /// Describe a Parquet shard, a manifest, a card or a weight file
    Inspect(inspect::InspectArgs),
    /// Measure the students of a run on real data, after the fact
    Evaluate(measure::EvaluateArgs),
    /// Write a run's summary and its picture, and print the summary
    Report(report::ReportArgs),
    /// Add runs to a record of results, and make tables and charts of it
    Compare(compare::CompareArgs),
    /// Make a teacher, with a card, of a PyTorch checkpoint or a safetensors file
    Import(import::ImportArgs),
    /// Take a student out: safetensors, a card, and a Python snippet that loads it
    Export(export::ExportArgs),
    /// Say what this machine offers
    Doctor(CommonArgs),
    /// Print a shell's completions
    Completions {
        /// The shell
        shell: Shell,
    },
}

fn main() -> ExitCode {
    ssdkd_context::finish(body(Program::parse().command))
}

fn body(command: Command) -> Result<()> {
    match command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Plan(arguments) => run::plan(&arguments),
        Command::Status(arguments) => status::status(&arguments),
        Command::Verify(arguments) => verify::verify(&arguments),
        Command::Mend(arguments) => mend::mend(&arguments),
        Command::Clean(arguments) => clean::clean(&arguments),
        Command::Inspect(arguments) => inspect::inspect(&arguments),
        Command::Evaluate(arguments) => measure::evaluate(&arguments),
        Command::Report(arguments) => report::report(&arguments),
        Command::Compare(arguments) => compare::compare(&arguments),
        Command::Import(arguments) => import::import(&arguments),
        Command::Export(arguments) => export::export(&arguments),
        Command::Doctor(arguments) => doctor(&arguments),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Program::command(), "ssdkd", &mut std::io::stdout());
            Ok(())
        }
    }
}

fn doctor(arguments: &CommonArgs) -> Result<()> {
    let threads = arguments.set_up()?;
    let current = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("."));
    let lines = format!(
        "version   {}\nthreads   {threads}\nkernels   {:?} (SSDKD_SIMD forces another; SSDKD_CONV=direct: plain sums)\ndevice    {}\nfolder    {}\n",
        env!("CARGO_PKG_VERSION"),
        ssdkd_ops::SimdPath::current()?,
        device_name(&arguments.device.open(Device::Cpu, OPEN_GPU)?),
        current.display()
    );
    Ok(exit::print(&lines)?)
}
