//! The name of an output.

use std::fmt;

/// The output of one stage in one round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Output {
    /// The stage's name.
    pub stage: &'static str,
    /// From 0.
    pub round: u32,
}

impl Output {
    /// The images and the generator of a round.
    pub const fn invert(round: u32) -> Self {
        Self { stage: "invert", round }
    }

    /// The buffer after a round.
    pub const fn balance(round: u32) -> Self {
        Self { stage: "balance", round }
    }

    /// The priorities and the draws of a round.
    pub const fn sample(round: u32) -> Self {
        Self { stage: "sample", round }
    }

    /// The student and the optimizer after a round.
    pub const fn distill(round: u32) -> Self {
        Self { stage: "distill", round }
    }

    /// Returns its folder within the run folder, such as `invert/0007`: its name among the inputs of a manifest.
    pub fn path(self) -> String {
        format!("{}/{:04}", self.stage, self.round)
    }
}

/// Rounds of a stage that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rounds {
    /// The output of the first.
    pub first: Output,
    /// The last.
    pub last: u32,
}

impl Rounds {
    /// Returns one round.
    pub const fn of(first: Output) -> Self {
        Self { first, last: first.round }
    }

    /// Returns whether `next` follows, and takes it in if so.
    pub fn take(&mut self, next: Output) -> bool {
        let follows = self.first.stage == next.stage && self.last + 1 == next.round;
        self.last += u32::from(follows);
        follows
    }
}

impl fmt::Display for Rounds {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, last } = self;
        if first.round == *last { first.fmt(formatter) } else { write!(formatter, "{first} to {last:04}") }
    }
}

impl fmt::Display for Output {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {:04}", self.stage, self.round)
    }
}
