//! Which plans of a run would be executed, found without executing any.

use std::collections::HashSet;
use std::fmt;

use anyhow::Result;
use ssdkd_stage::{State, exit, judge};

use crate::output::{Output, Rounds};
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
    /// Why the plan would be executed, if it would be.
    why: Option<Why>,
}

/// Why a plan would be executed.
#[derive(Debug, Clone)]
enum Why {
    /// It reads an output that would be made again.
    Reads(Output),
    /// Its own output is not the right one, for this reason.
    Own(String),
}

impl Why {
    /// Returns whether a line may stand for both: inputs of one stage differ by their round alone.
    fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Reads(input), Self::Reads(other)) => input.stage == other.stage,
            (Self::Own(reason), Self::Own(other)) => reason == other,
            _ => false,
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reads(input) => write!(formatter, "{input}, which it reads, would run"),
            Self::Own(reason) => formatter.write_str(reason),
        }
    }
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
        let wanted = plan.fingerprint(self.run.cards(), &mut self.outputs);
        let (state, why) = match (remade, wanted) {
            (Some(input), _) => self.outdated(output, Why::Reads(input)),
            (None, Err(error)) => {
                // Nobody knows which bytes it reads: its own may be right.
                let error = error.to_string();
                let why = format!("not known yet: {}", error.lines().next().unwrap_or_default());
                let (state, why) = self.outdated(output, Why::Own(why));
                return Ok(Judgement { output, state, why: Some(why) });
            }
            (None, Ok(wanted)) => {
                let state = judge(self.run.folder(), &wanted, self.verify)?;
                let why = Why::Own(state.describe());
                (state, why)
            }
        };
        if state == State::Fresh && !self.force {
            return Ok(Judgement { output, state, why: None });
        }
        // A damaged file is made again from the same: what reads it finds what it knows, if the manifest is whole.
        let same = matches!(state, State::Corrupt { .. }) && self.outputs.complete(output).is_ok();
        if !same {
            self.remade.insert(output);
        }
        Ok(Judgement { output, state, why: Some(if self.force { Why::Own("forced".into()) } else { why }) })
    }

    /// Returns the state of an output whose inputs are not those of its plan.
    fn outdated(&self, Output { stage, round }: Output, why: Why) -> (State, Why) {
        let state = match self.run.folder().complete(stage, round) {
            Ok(Some(_)) => State::Stale { reasons: vec![why.to_string()] },
            _ => State::Missing,
        };
        (state, why)
    }
}

impl Judgement {
    /// Prints what a run would do. Rounds of a stage that follow each other share a line if the same holds for them.
    pub fn print(judgements: &[Self]) -> Result<()> {
        let mut groups = Vec::<(&Self, Rounds)>::new();
        for judgement in judgements {
            let output = judgement.output;
            let latest = groups.iter_mut().rev().find(|(first, _)| first.output.stage == output.stage);
            if !latest.is_some_and(|(first, rounds)| first.is_like(judgement) && rounds.take(output)) {
                groups.push((judgement, Rounds::of(output)));
            }
        }
        let lines = groups.into_iter().map(|(first, rounds)| match &first.why {
            None => format!("{rounds}: fresh, nothing to do\n"),
            Some(why) => format!("{rounds}: would run ({why})\n"),
        });
        Ok(exit::print_plain(&lines.collect::<String>())?)
    }

    /// Returns whether the same holds for both.
    fn is_like(&self, other: &Self) -> bool {
        match (&self.why, &other.why) {
            (None, None) => true,
            (Some(why), Some(other)) => why.is_like(other),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_share_a_line_only_if_they_say_the_same() {
        let own = |reason: &str| Why::Own(reason.into());
        assert!(Why::Reads(Output::distill(3)).is_like(&Why::Reads(Output::distill(4))));
        assert!(!Why::Reads(Output::distill(3)).is_like(&Why::Reads(Output::invert(3))));
        assert!(own("missing").is_like(&own("missing")));
        assert!(!own("stale: distill.lr 0.1 → 0.05").is_like(&own("stale: distill.lr 0.2 → 0.05")));
        assert!(!Why::Reads(Output::distill(3)).is_like(&own("missing")));
    }
}
