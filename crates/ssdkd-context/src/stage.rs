//! A stage as a value: its name, its program and its plans.

use anyhow::Result;

use crate::cards::Cards;
use crate::output::Output;
use crate::plan::Plan;
use crate::recipe::Recipe;
use crate::run::Run;

/// One of the four stages.
#[derive(Clone, Copy)]
pub struct Stage {
    /// The stage's name: its folder and its section of the recipe.
    pub name: &'static str,
    /// Whether it has a part in the warm-up.
    pub warms_up: bool,
    /// The name of its program.
    pub program: &'static str,
    /// What the program does, for its help.
    pub about: &'static str,
    /// Plans a round: a pure function of recipe and cards.
    pub plan: fn(&Recipe, &Cards, u32) -> Result<Plan>,
}

impl Stage {
    /// Returns what it leaves in a round.
    pub const fn output(&self, round: u32) -> Output {
        Output { stage: self.name, round }
    }

    /// Plans a round.
    ///
    /// # Errors
    /// If the run does not have this round, or the stage has no part in it.
    pub fn plan(&self, run: &Run, round: u32) -> Result<Plan> {
        let recipe = run.recipe();
        recipe.check_round(round)?;
        if !self.warms_up {
            recipe.distilling_round_of(self.name, round)?;
        }
        (self.plan)(recipe, run.cards(), round)
    }
}
