//! Checks before a run starts that need more than its recipe: the data that it is measured on, and this machine.

use std::path::Path;

use anyhow::Result;
use indicatif::HumanBytes;
use ssdkd_context::preflight::enforce;
use ssdkd_context::{Finding, Run, Severity};
use ssdkd_stage::machine;

use crate::footprint::{RoundState, disk, images_in_memory};
use crate::measure;

/// Checks a run that is about to start. Nothing is made.
///
/// # Errors
/// If the run cannot end well, or its data is not there.
pub fn before_run(run: &Run) -> Result<()> {
    let mut findings = run.preflight();
    let possible = findings.iter().all(|finding| finding.severity == Severity::Warning);
    if possible && !run.was_begun() {
        let root = run.folder().root();
        findings.extend(resources(needs(run)?, has(root), root));
    }
    enforce(&findings)?;
    Ok(enforce(&measure::check_data(run)?)?)
}

/// Bytes that a run takes.
#[derive(Debug, Clone, Copy)]
pub struct Needs {
    pub disk: u64,
    pub memory: u64,
}

/// Bytes that this machine has, where it says so.
#[derive(Debug, Clone, Copy)]
pub struct Has {
    pub disk: Option<u64>,
    pub memory: Option<u64>,
}

/// Counts what a run takes at least, without building a network.
fn needs(run: &Run) -> Result<Needs> {
    let (recipe, card) = (run.recipe(), run.cards().teacher());
    let state = RoundState::of_student(recipe, run.cards().student().num_parameters()?);
    Ok(Needs { disk: disk(recipe, card, state), memory: images_in_memory(recipe, card) })
}

/// Asks this machine what it has for the run in `root`.
pub fn has(root: &Path) -> Has {
    Has { disk: machine::free_space(root), memory: machine::memory() }
}

/// Compares what a run in `root` takes with what this machine has.
pub fn resources(needs: Needs, has: Has, root: &Path) -> Vec<Finding> {
    let mut found = Vec::new();
    if let Some(free) = has.disk.filter(|&free| free < needs.disk) {
        found.push(Finding::warning(
            format!(
                "the run takes about {} of disk, and {} has {} free",
                HumanBytes(needs.disk),
                root.display(),
                HumanBytes(free)
            ),
            "free some space, put the runs elsewhere with --runs, or set keep.shards to \"buffer\"",
        ));
    }
    if let Some(memory) = has.memory.filter(|&memory| memory < needs.memory) {
        found.push(Finding::warning(
            format!(
                "the run takes about {} of memory, and this machine has {}",
                HumanBytes(needs.memory),
                HumanBytes(memory)
            ),
            "lower invert.batch, distill.batch or balance.capacity, or take smaller networks",
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(needs: Needs, has: Has) -> Vec<String> {
        resources(needs, has, Path::new("runs/x")).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_run_that_needs_more_than_the_machine_has_is_a_warning() {
        let needs = Needs { disk: 20 << 30, memory: 3 << 30 };
        let found = check(needs, Has { disk: Some(5 << 20), memory: Some(2 << 30) });
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("about 20.00 GiB of disk, and runs/x has 5.00 MiB free"), "{found:?}");
        assert!(found[1].contains("about 3.00 GiB of memory, and this machine has 2.00 GiB"), "{found:?}");
    }

    #[test]
    fn a_machine_that_does_not_say_is_not_complained_about() {
        let needs = Needs { disk: 1 << 40, memory: 1 << 40 };
        assert_eq!(check(needs, Has { disk: None, memory: None }), Vec::<String>::new());
        assert_eq!(check(needs, Has { disk: Some(1 << 40), memory: Some(1 << 40) }), Vec::<String>::new());
    }
}
