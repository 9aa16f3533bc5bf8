//! A run as its recipe describes it.

use std::path::{Path, PathBuf};

use anyhow::Result;
use ssdkd_nn::{OPEN_GPU, TeacherCard};
use ssdkd_stage::exit::{self, Code};
use ssdkd_stage::{RunArgs, RunFolder, StageError, quote};

use crate::cards::{Cards, digest_of};
use crate::command::{command_in, command_of};
use crate::preflight::{Finding, preflight};
use crate::recipe::{Recipe, RecipeError};

/// The teacher's card and weights within a run folder.
pub(crate) const CARD: &str = "card.json";

/// A run as its recipe describes it: the recipe, the cards of its networks, and its folder, which may not exist yet. Opening one
/// makes nothing and locks nothing.
#[derive(Clone)]
pub struct Run {
    recipe: Recipe,
    pub(crate) cards: Cards,
    folder: RunFolder,
}

impl Run {
    /// Opens the run that `arguments` name.
    pub fn open(arguments: &RunArgs) -> Result<Self> {
        Self::load(arguments, false)
    }

    /// Opens the run in a folder, with its own recipe.
    pub fn in_folder(root: &Path) -> Result<Self> {
        Self::open(&RunArgs { recipe: root.into(), ..RunArgs::default() })
    }

    /// Opens the run that `arguments` name with the networks that it carries. It must exist. Warns if it was made with other settings.
    pub fn existing(arguments: &RunArgs) -> Result<Self> {
        let run = Self::load(arguments, true)?;
        if run.has_recipe() == Some(false) {
            let root = run.folder.root().display();
            tracing::warn!(
                "{root} was made with other settings than these\nhint: name {root}, without --set, to take its own"
            );
        }
        Ok(run)
    }

    fn load(arguments: &RunArgs, exists: bool) -> Result<Self> {
        let (mut recipe, mut teacher, mut student) = load_recipe(arguments)?;
        let root =
            if arguments.recipe.is_dir() { arguments.recipe.clone() } else { arguments.runs.join(&recipe.run.name) };
        let folder = RunFolder::at(root);
        refuse_older_run(&folder)?;
        if exists {
            if !folder.recipe().is_file() {
                return Err(folder.absent(format!("`{}` starts it", start_command(arguments))).into());
            }
            let carried = |of: PathBuf| Some(of.join(CARD)).filter(|card| card.is_file());
            teacher = carried(folder.teacher()).unwrap_or(teacher);
            student = student.map(|named| carried(folder.student()).unwrap_or(named));
        }
        let cards = Cards::load(&recipe, teacher, student)?;
        if cards.student_card.is_some() {
            // The run has a copy, so its digest is used and not its path.
            recipe.student.card = Path::new("student").join(CARD);
        }
        arguments.common.device.check(OPEN_GPU.is_some())?;
        Ok(Self { recipe, cards, folder })
    }

    /// Returns the recipe that `arguments` name, without opening its run.
    pub fn recipe_of(arguments: &RunArgs) -> Result<Recipe> {
        Ok(load_recipe(arguments)?.0)
    }

    /// Returns the recipe, with all changes of the command line.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// Returns the cards of its networks.
    pub fn cards(&self) -> &Cards {
        &self.cards
    }

    /// Returns the run folder.
    pub fn folder(&self) -> &RunFolder {
        &self.folder
    }

    /// Checks the recipe and the teacher of a run that was not begun with them yet; see [`preflight`](crate::preflight()).
    pub fn preflight(&self) -> Vec<Finding> {
        if self.was_begun() {
            return Vec::new();
        }
        preflight(&self.recipe, &self.cards.teacher, &self.cards.student().architecture)
    }

    /// Returns whether the run folder holds this recipe and these networks already.
    pub fn was_begun(&self) -> bool {
        let carries = |folder: PathBuf, card: &TeacherCard| {
            TeacherCard::load(&folder.join(CARD)).is_ok_and(|carried| carried.digest == card.digest)
        };
        let student = self.cards.student_card.as_ref();
        self.has_recipe() == Some(true)
            && carries(self.folder.teacher(), &self.cards.teacher)
            && student.is_none_or(|(card, _)| carries(self.folder.student(), card))
    }

    /// Returns whether the run folder's recipe is this one; `None` if it has none or a damaged one. What to measure and what to keep
    /// may differ.
    fn has_recipe(&self) -> Option<bool> {
        let mut frozen = Recipe::load(&self.folder.recipe(), &[]).ok()?;
        frozen.teacher.card.clone_from(&self.recipe.teacher.card);
        (frozen.evaluate, frozen.keep) = (self.recipe.evaluate.clone(), self.recipe.keep.clone());
        Some(frozen == self.recipe)
    }

    /// Refuses a run that has nothing to resume.
    pub fn check_resumable(&self) -> Result<(), StageError> {
        if self.folder.latest_complete("invert")?.is_some() {
            return Ok(());
        }
        let root = self.folder.root().display();
        Err(StageError::Usage(format!("{root} holds nothing to resume\nhint: leave out --resume")))
    }

    /// Refuses to replace what was made from another teacher: hours of work, where two runs share a name by mistake.
    pub fn check_same_teacher(&self) -> Result<(), StageError> {
        let carried = self.folder.teacher().join(CARD);
        let is_other = |card: TeacherCard| digest_of(&card) != self.cards.teacher_digest();
        if !TeacherCard::load(&carried).is_ok_and(is_other) || self.folder.latest_complete("invert")?.is_none() {
            return Ok(());
        }
        Err(StageError::Usage(format!(
            "{} was made from another teacher than {}, or with another preparation of its images\n\
             hint: give the new run a name of its own, `--set run.name=NAME`; or add --force, which replaces the old one",
            self.folder.root().display(),
            self.cards.teacher_path.display()
        )))
    }

    /// Warns if the teacher's card holds a guess. Call it once in a command.
    pub fn warn_of_teacher(&self) {
        if let Some(warning) = self.cards.teacher.warning(&self.cards.teacher_path) {
            tracing::warn!("{}", exit::plain(&warning));
        }
    }

    /// Returns the command that makes the run from nothing, as the recipe in its folder has it.
    pub fn command(&self) -> Option<String> {
        command_in(&std::fs::read_to_string(self.folder.recipe()).ok()?).map(String::from)
    }
}

/// Returns the recipe that `arguments` name, and where its teacher's card is.
pub(crate) fn load_recipe(arguments: &RunArgs) -> Result<(Recipe, PathBuf, Option<PathBuf>), StageError> {
    let path = &arguments.recipe;
    let (path, recipe) = if path.is_dir() {
        let path = RunFolder::open(path)?.recipe();
        let recipe = Recipe::load_frozen(&path, &arguments.changes());
        (path, recipe)
    } else {
        if !path.exists() && path.extension().is_none_or(|ending| ending != "toml") {
            return Err(no_such_run(arguments));
        }
        (path.clone(), Recipe::load(path, &arguments.changes()))
    };
    let recipe = recipe.map_err(|error: RecipeError| StageError::other(Code::Usage, error))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let teacher = folder.join(&recipe.teacher.card);
    let student = Some(&recipe.student.card).filter(|card| !card.as_os_str().is_empty()).map(|card| folder.join(card));
    Ok((recipe, teacher, student))
}

/// Returns the error for the folder of a run that is not there.
fn no_such_run(arguments: &RunArgs) -> StageError {
    let named = &arguments.recipe;
    let elsewhere = arguments.runs.join(named);
    let hint = if elsewhere.is_dir() {
        format!("did you mean {}?", elsewhere.display())
    } else {
        "name a recipe, such as pipelines/shapes.toml, or the folder of a run, such as runs/shapes".into()
    };
    StageError::Missing { what: "the recipe or run".into(), path: named.clone(), hint }
}

/// Returns the command that starts the run that `arguments` name.
pub fn start_command(arguments: &RunArgs) -> String {
    let command = command_of(arguments, None).unwrap_or_else(|| "ssdkd run RECIPE".into());
    let runs = arguments.runs.to_string_lossy();
    if runs == "runs" { command } else { format!("{command} --runs {}", quote(&runs)) }
}

/// Refuses a run folder of an older program, whatever recipe it was asked for with.
fn refuse_older_run(run: &RunFolder) -> Result<(), StageError> {
    match Recipe::load_frozen(&run.recipe(), &[]) {
        Err(error @ RecipeError::OlderRun { .. }) => Err(StageError::other(Code::Usage, error)),
        // A recipe that is not there or damaged is the business of those that use it.
        Ok(_) | Err(_) => Ok(()),
    }
}
