//! Reading a recipe: the file, `--set`, and an error for every mistake.

use std::path::{Path, PathBuf};

use ssdkd_shards::LAST_PROGRAM_BEFORE;

use super::renamed;
use super::settings::{RECIPE_VERSION, Recipe};

/// What is wrong with a recipe.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeError {
    /// The file cannot be read.
    #[error(
        "cannot read the recipe {path}: {source}\nhint: `ls pipelines/` shows the recipes that come with the project"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML, or has a wrong key or value.
    #[error("the recipe {path} cannot be used: {message}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What, where, and the nearest key.
        message: String,
    },
    /// A run folder of a program before recipes had a version.
    #[error(
        "{path} is the recipe of a run that an older program made; {LAST_PROGRAM_BEFORE}\nhint: start the run again from its recipe, in another runs folder"
    )]
    OlderRun {
        /// The run's recipe.
        path: PathBuf,
    },
    /// A `--set` cannot be applied.
    #[error("cannot apply --set {assignment}: {message}")]
    Set {
        /// As given.
        assignment: String,
        /// Why.
        message: String,
    },
}

impl Recipe {
    /// Reads `path`, applies `assignments` (`section.key=value`), checks every value.
    pub fn load(path: &Path, assignments: &[String]) -> Result<Self, RecipeError> {
        let text = std::fs::read_to_string(path).map_err(|source| RecipeError::Read { path: path.into(), source })?;
        Self::parse(&text, path, assignments)
    }

    /// Reads a run folder's recipe, as [`load`](Self::load) does. A folder of an older program is refused.
    pub fn load_frozen(path: &Path, assignments: &[String]) -> Result<Self, RecipeError> {
        let text = std::fs::read_to_string(path).map_err(|source| RecipeError::Read { path: path.into(), source })?;
        // Every recipe in a run folder has a version since there are versions.
        if toml::from_str::<toml::Table>(&text).is_ok_and(|table| !table.contains_key("version")) {
            return Err(RecipeError::OlderRun { path: path.into() });
        }
        Self::parse(&text, path, assignments)
    }

    /// As [`load`](Self::load), from the file's text; `path` is for messages.
    pub fn parse(text: &str, path: &Path, assignments: &[String]) -> Result<Self, RecipeError> {
        let invalid = |message: String| RecipeError::Invalid { path: path.into(), message };
        let mut table: toml::Table = toml::from_str(text).map_err(|error| invalid(error.to_string()))?;
        check_version(&table).map_err(invalid)?;
        renamed::check(&table).map_err(invalid)?;
        // The file alone first: its errors carry line and column.
        let _: Self = toml::from_str(text).map_err(|error| invalid(explain_unknown(&error.to_string())))?;
        let set = |message: String| RecipeError::Set { assignment: assignments.join(" --set "), message };
        for assignment in assignments {
            assign(&mut table, assignment)?;
        }
        renamed::check(&table).map_err(set)?;
        let mut recipe: Self = table.try_into().map_err(|error: toml::de::Error| match assignments {
            [] => invalid(explain_unknown(&error.to_string())),
            _ => set(explain_unknown(&error.to_string())),
        })?;
        recipe.student.start = recipe.student.start.of_student(&recipe.student.architecture);
        recipe.validate().map_err(invalid)?;
        Ok(recipe)
    }
}

/// Refuses a recipe of a version that this program does not read.
fn check_version(table: &toml::Table) -> Result<(), String> {
    match table.get("version") {
        None => Ok(()),
        Some(toml::Value::Integer(version)) if *version == i64::from(RECIPE_VERSION) => Ok(()),
        Some(other) => {
            // A string may be of any length.
            let found =
                other.as_integer().map_or_else(|| format!("a {}", other.type_str()), |version| version.to_string());
            Err(format!("version is {found}; this program reads recipes of version {RECIPE_VERSION}"))
        }
    }
}

/// Returns `a.b.c=value`, where value is TOML, or a bare word taken as a string.
fn assign(table: &mut toml::Table, assignment: &str) -> Result<(), RecipeError> {
    let error = |message: &str| RecipeError::Set { assignment: assignment.into(), message: message.into() };
    let (key, value) =
        assignment.split_once('=').ok_or_else(|| error("it must read section.key=value, as in distill.lr=0.1"))?;
    let value = value.trim();
    let value = toml::from_str::<toml::Table>(&format!("value = {value}"))
        .ok()
        .and_then(|mut parsed| parsed.remove("value"))
        .unwrap_or_else(|| toml::Value::String(value.into()));
    let mut path = key.trim().split('.').peekable();
    let mut here = table;
    while let Some(part) = path.next() {
        if path.peek().is_none() {
            // An integer where the recipe has a float is a float.
            let value = match (here.get(part), value) {
                (Some(toml::Value::Float(_)), toml::Value::Integer(n)) => toml::Value::Float(n as f64),
                (_, value) => value,
            };
            here.insert(part.into(), value);
            return Ok(());
        }
        here = here
            .entry(part)
            .or_insert_with(|| toml::Value::Table(toml::Table::new()))
            .as_table_mut()
            .ok_or_else(|| error(&format!("`{part}` is a value, not a section")))?;
    }
    Err(error("the key is empty"))
}

/// Adds the nearest existing key to serde's "unknown field `x`, expected one of `a`, `b`".
fn explain_unknown(message: &str) -> String {
    let message = message.trim_end();
    let Some(rest) = message.split("unknown field `").nth(1).or_else(|| message.split("unknown variant `").nth(1))
    else {
        return message.into();
    };
    let mut quoted = rest.split('`');
    let Some(unknown) = quoted.next() else { return message.into() };
    let known = quoted.skip(1).step_by(2);
    // For a long key a suggestion is useless, and comparing it costs time and memory in proportion.
    let known = known.filter(|key| unknown.len() <= 2 * key.len());
    let nearest = known
        .map(|key| (strsim::damerau_levenshtein(unknown, key), key))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, key)| *distance <= key.len().max(unknown.len()) / 2);
    match nearest {
        Some((_, key)) => format!("{message}\nhint: did you mean `{key}`?"),
        None => message.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = r#"
        [run]
        name = "t"
        warmup_rounds = 2
        rounds = 3
        [teacher]
        card = "teacher.json"
        [student]
        architecture = "resnet8"
    "#;

    fn parse(text: &str, set: &[&str]) -> Result<Recipe, String> {
        let set = set.iter().map(ToString::to_string).collect::<Vec<_>>();
        Recipe::parse(text, Path::new("r.toml"), &set).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_fill_what_is_not_said_and_survive_a_round_trip() {
        let recipe = parse(MINIMAL, &[]).unwrap();
        assert_eq!(recipe.run.seed, 0);
        assert_eq!(parse(&recipe.to_toml(), &[]).unwrap(), recipe);
    }

    #[track_caller]
    fn check_error(text: &str, set: &[&str], parts: &[&str]) {
        let message = parse(text, set).unwrap_err();
        for part in parts {
            assert!(message.contains(part), "{part:?} is not in {message:?}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        check_error(&format!("{MINIMAL}\n[distil]\n"), &[], &["unknown field `distil`", "did you mean `distill`"]);
        check_error(&format!("{MINIMAL}\n[distill]\nlearning = 1\n"), &[], &["unknown field `learning`"]);
        check_error(MINIMAL, &["run.sed=3"], &["--set run.sed=3", "did you mean `seed`"]);
        check_error(MINIMAL, &["run.rounds"], &["section.key=value"]);
        check_error(MINIMAL, &["run.rounds=0"], &["run.rounds is 0; it must be a whole number from 1 to 9999"]);
        check_error(MINIMAL, &["run.name=../up"], &["run.name"]);
        check_error(MINIMAL, &["teacher.class_prior=[1, -2]"], &["teacher.class_prior has -2 for class 1", "above 0"]);
        let short = ["distill.steps=4", "distill.warmup_steps=12"];
        check_error(MINIMAL, &short, &["distill.warmup_steps is 12", "the run has 12 steps"]);
        check_error(MINIMAL, &["keep.checkpoint=-1.0"], &["keep.checkpoint is -1"]);
        check_error(MINIMAL, &["keep.checkpoint=nan"], &["keep.checkpoint is not a finite number"]);
        check_error(MINIMAL, &["run.rounds=many"], &["run.rounds=many", "invalid type"]);
        check_error("[run", &[], &["r.toml"]);
    }

    #[test]
    fn an_unknown_version_is_refused_and_none_is_the_current() {
        assert_eq!(parse(MINIMAL, &[]).unwrap().version, RECIPE_VERSION);
        assert!(parse(MINIMAL, &[]).unwrap().to_toml().starts_with("version = 1\n"));
        check_error(&format!("version = 2\n{MINIMAL}"), &[], &["version is 2", "reads recipes of version 1"]);
        check_error(&format!("version = 'new'\n{MINIMAL}"), &[], &["version is a string"]);
    }

    #[test]
    fn an_old_key_is_refused_in_the_file_and_in_set() {
        let new = "`distill.colour` is now `distill.views.channel_mix`";
        check_error(&format!("{MINIMAL}\n[distill]\ncolour = 0.5\n"), &[], &["r.toml", new]);
        check_error(MINIMAL, &["distill.colour=0.5"], &["--set distill.colour=0.5", new]);
    }

    #[test]
    fn a_key_of_another_strategy_is_refused_by_both_names() {
        let expected = "invert.meta belongs to strategy \"meta\"; this recipe's strategy is \"persistent\"";
        check_error(&format!("{MINIMAL}\n[invert.meta]\nlatent_lr = 0.1\n"), &[], &[expected]);
        check_error(MINIMAL, &["invert.meta.latent_lr=0.1"], &[expected]);
        assert!(parse(MINIMAL, &["invert.strategy=meta", "invert.meta.latent_lr=0.1"]).is_ok());
    }

    #[test]
    fn a_run_folder_of_an_older_program_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("recipe.toml");
        std::fs::write(&path, MINIMAL).unwrap();
        let error = Recipe::load_frozen(&path, &[]).unwrap_err().to_string();
        assert!(error.contains("the last program that reads it is that of commit 172d8de"), "{error}");
        std::fs::write(&path, parse(MINIMAL, &[]).unwrap().to_toml()).unwrap();
        assert!(Recipe::load_frozen(&path, &[]).is_ok());
    }

    #[test]
    fn set_takes_toml_values_and_bare_words() {
        let recipe = parse(MINIMAL, &["run.seed=7", "student.architecture=wrn-16-1"]).unwrap();
        assert_eq!((recipe.run.seed, recipe.student.architecture.as_str()), (7, "wrn-16-1"));
    }
}
