//! Flags that all programs have, and those that all stages have. A flag beats its environment variable, that beats the
//! recipe, that beats the default.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;

use crate::code::Code;
use crate::device::DeviceChoice;
use crate::error::StageError;
use crate::{logging, progress, signals};

/// What every program understands.
#[derive(Debug, Clone, Default, Args)]
pub struct CommonArgs {
    /// Worker threads [default: one for each core]; the results are the same for any number
    #[arg(long, env = "SSDKD_THREADS", value_name = "N", global = true)]
    pub threads: Option<NonZeroUsize>,

    /// Where to compute: cpu, cuda, cuda:N, or auto (a GPU if the machine has one and the program supports it)
    #[arg(long, env = "SSDKD_DEVICE", value_name = "DEVICE", default_value_t, global = true)]
    pub device: DeviceChoice,

    /// Show warnings and errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Show why things are done (-v), or everything (-vv)
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,
}

impl CommonArgs {
    /// Starts logging and worker threads, and listens for signals: once, early in `main`. Returns the thread count.
    pub fn set_up(&self) -> Result<usize, StageError> {
        logging::init(self.quiet, self.verbose);
        progress::set_quiet(self.quiet);
        signals::install()
            .map_err(|error| StageError::other(Code::Failed, format!("cannot listen for signals: {error}")))?;
        let threads = self.threads.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
        // This thread is one of them: it works where it would sleep until another is done, and need not be woken after.
        rayon::ThreadPoolBuilder::new().num_threads(threads).use_current_thread().build_global().map_err(|error| {
            StageError::Usage(format!("cannot start {threads} worker threads: {error}\nhint: use a smaller --threads"))
        })?;
        Ok(threads)
    }
}

/// Which run, with which settings, on which device.
#[derive(Debug, Clone, Default, Args)]
pub struct RunArgs {
    /// A recipe (pipelines/*.toml), or the folder of a run that exists
    #[arg(value_name = "RECIPE")]
    pub recipe: PathBuf,

    /// The folder with all runs
    #[arg(long, env = "SSDKD_RUNS", value_name = "DIR", default_value = "runs")]
    pub runs: PathBuf,

    /// Change a setting of the recipe, such as distill.lr=0.1
    #[arg(long, value_name = "KEY=VALUE", value_parser = assignment)]
    pub set: Vec<String>,

    /// How common the teacher's classes are, such as 900,90,10: sets teacher.class_prior
    #[arg(long, value_name = "N,N,...", value_delimiter = ',')]
    pub class_prior: Vec<f64>,

    /// What every program understands.
    #[command(flatten)]
    pub common: CommonArgs,
}

impl RunArgs {
    /// Returns all changes to the recipe as `KEY=VALUE`: those of `--set`, then those of flags of their own.
    pub fn changes(&self) -> Vec<String> {
        let prior = (!self.class_prior.is_empty()).then(|| format!("teacher.class_prior={:?}", self.class_prior));
        self.set.iter().cloned().chain(prior).collect()
    }
}

/// What a program can print instead of working.
#[derive(Debug, Clone, Default, Args)]
pub struct AskArgs {
    /// Show what would be done and why, and do nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Print the recipe with all defaults and changes, and do nothing
    #[arg(long)]
    pub print_config: bool,
}

/// What every stage of a run understands, and the commands that run all stages.
#[derive(Debug, Clone, Default, Args)]
pub struct StageArgs {
    /// Which run.
    #[command(flatten)]
    pub run: RunArgs,

    /// The round, from 0 [default: the first that is not fresh; of run and plan: all]
    #[arg(long, value_name = "N")]
    pub round: Option<u32>,

    /// Rebuild output that is fresh (a stage needs --round too)
    #[arg(long)]
    pub force: bool,

    /// Fail if there is nothing to resume
    #[arg(long, conflicts_with = "force")]
    pub resume: bool,

    /// Compare every file with its digest before calling it fresh
    #[arg(long)]
    pub verify: bool,

    /// What to print instead of working.
    #[command(flatten)]
    pub ask: AskArgs,
}

fn assignment(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((key, _)) if !key.trim().is_empty() => Ok(text.into()),
        _ => Err("it must read KEY=VALUE, as in distill.lr=0.1".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        stage: StageArgs,
    }

    fn parse(arguments: &str) -> Result<StageArgs, String> {
        let arguments = ["ssdkd-distill"].into_iter().chain(arguments.split_whitespace());
        Program::try_parse_from(arguments).map(|program| program.stage).map_err(|error| error.to_string())
    }

    #[test]
    fn flags_are_understood() {
        let stage =
            parse("r.toml --round 7 --set distill.lr=0.1 --set run.seed=3 --device cuda:1 --threads 4 -vv").unwrap();
        assert_eq!((stage.round, stage.run.recipe), (Some(7), "r.toml".into()));
        assert_eq!(stage.run.set, ["distill.lr=0.1", "run.seed=3"]);
        let common = stage.run.common;
        assert_eq!((common.device, common.verbose), (DeviceChoice::Cuda(1), 2));
        assert_eq!(common.threads.map(NonZeroUsize::get), Some(4));
    }

    #[test]
    fn a_class_prior_is_a_change_to_the_recipe() {
        let run = parse("r.toml --class-prior 900,90,1e-3 --set run.seed=3").unwrap().run;
        assert_eq!(run.changes(), ["run.seed=3", "teacher.class_prior=[900.0, 90.0, 0.001]"]);
    }

    #[track_caller]
    fn check_refused(arguments: &str, expected: &str) {
        let error = parse(arguments).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn mistakes_are_refused_by_the_parser() {
        check_refused("", "<RECIPE>");
        check_refused("r.toml --set distill.lr", "KEY=VALUE");
        check_refused("r.toml --class-prior 900,many", "'many' for '--class-prior <N,N,...>'");
        check_refused("r.toml --device tpu", "cpu, cuda, cuda:N or auto");
        check_refused("r.toml --device cuda:x", "not a GPU's index");
        check_refused("r.toml --threads 0", "--threads");
        check_refused("r.toml --force --resume", "--resume");
        check_refused("r.toml -q -v", "--verbose");
    }

    #[test]
    fn the_definition_is_consistent() {
        use clap::CommandFactory;
        Program::command().debug_assert();
    }
}
