//! Which plans of a run would be executed, found without executing any.

use std::collections::HashSet;

use anyhow::Result;
use ssdkd_stage::{State, judge};

use crate::output::Output;
use crate::outputs::Outputs;
use crate::plan::Plan;
use crate::run::Run;

/// Checks plans one after another, in the order of the run.
pub struct Judge<'a> {
    run: &'a Run,
    outputs: Outputs,
    force: bool,
    verify: bool,
    /// What would be made by now, to bytes that nobody knows yet.
    remade: HashSet<Output>,
}

/// What is on disk for a plan.
#[derive(Debug)]
pub struct Judgement {
    /// The plan's output.
    pub output: Output,
    /// Whether the output is right, as far as that is known before its inputs are made.
    pub state: State,
    /// What a dry run says of it.
    found: Found,
}

#[derive(Debug)]
enum Found {
    Fresh,
    WouldRun(String),
    /// An input cannot be read. No plan that was checked before makes it.
    Unknown(anyhow::Error),
}

impl<'a> Judge<'a> {
    /// Checks plans of `run`. With `force` all would be executed. With `verify` the digests of all files are compared.
    pub fn new(run: &'a Run, force: bool, verify: bool) -> Self {
        Self { run, outputs: Outputs::new(run.folder().clone()), force, verify, remade: HashSet::new() }
    }

    /// Checks the next plan.
    pub fn judge(&mut self, plan: &Plan) -> Result<Judgement> {
        let output = plan.output;
        let remade = plan.reads.all().find(|input| self.remade.contains(input));
        let (state, why) = if let Some(input) = remade {
            let why = format!("{input}, which it reads, would run");
            (self.outdated(output, &why), why)
        } else {
            match plan.fingerprint(self.run.cards(), &mut self.outputs) {
                Ok(wanted) => {
                    let state = judge(self.run.folder(), &wanted, self.verify)?;
                    let why = state.describe();
                    (state, why)
                }
                Err(error) => {
                    let state = self.outdated(output, "its freshness cannot be checked");
                    return Ok(Judgement { output, state, found: Found::Unknown(error) });
                }
            }
        };
        if state == State::Fresh && !self.force {
            return Ok(Judgement { output, state, found: Found::Fresh });
        }
        // A damaged file is made again from the same: what reads it finds what it knows, if the manifest is whole.
        let same = matches!(state, State::Corrupt { .. }) && self.outputs.complete(output).is_ok();
        if !same {
            self.remade.insert(output);
        }
        let why = if self.force { "forced".into() } else { why };
        Ok(Judgement { output, state, found: Found::WouldRun(why) })
    }

    /// Returns the state of an output that is not of its plan's inputs.
    fn outdated(&self, Output { stage, round }: Output, why: &str) -> State {
        match self.run.folder().complete(stage, round) {
            Ok(Some(_)) => State::Stale { reasons: vec![why.into()] },
            _ => State::Missing,
        }
    }
}

impl Judgement {
    /// Says what a run would do.
    pub fn report(&self) {
        let output = self.output;
        match &self.found {
            Found::Fresh => tracing::info!("{output}: fresh, nothing to do"),
            Found::WouldRun(why) => tracing::warn!("{output}: would run ({why})"),
            Found::Unknown(error) => tracing::warn!("{output}: its freshness cannot be checked yet: {error:#}"),
        }
    }
}
