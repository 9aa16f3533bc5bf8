//! The command that makes a run from nothing. It is the first line of the run's recipe: a run that is resumed by its folder
//! still knows it.

use ssdkd_stage::{RunArgs, quote};

/// Returns the command of these arguments. If they name the run's folder, `before` is what made it so far; nobody may know that.
pub(crate) fn command_of(arguments: &RunArgs, before: Option<&str>) -> Option<String> {
    let sets = arguments.changes().iter().flat_map(|change| [" --set ".into(), quote(change)]).collect::<String>();
    let command = match before {
        Some(before) => before.to_string(),
        None if arguments.recipe.is_dir() => return None,
        None => format!("ssdkd run {}", quote(&arguments.recipe.to_string_lossy())),
    };
    // What was said last time need not be said again.
    Some(if command.ends_with(&sets) { command } else { command + &sets })
}

/// Returns a recipe with the command that makes its run.
pub(crate) fn with_command(command: Option<&str>, toml: &str) -> String {
    command.map_or_else(|| toml.into(), |command| format!("# {}\n\n{toml}", command.replace(['\n', '\r'], " ")))
}

/// Returns the command that [`with_command`] put there.
pub(crate) fn command_in(toml: &str) -> Option<&str> {
    toml.lines().next()?.strip_prefix("# ").filter(|line| line.starts_with("ssdkd run "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_of_a_run_is_not_its_folder() {
        let arguments = |recipe: &str, set: &[&str]| RunArgs {
            recipe: recipe.into(),
            set: set.iter().map(ToString::to_string).collect(),
            ..RunArgs::default()
        };
        let first = command_of(&arguments("a.toml", &["run.method=a b"]), None);
        assert_eq!(first.as_deref(), Some("ssdkd run a.toml --set 'run.method=a b'"));
        let (begun, folder) = ("ssdkd run a.toml --set distill.lr=0.1", env!("CARGO_MANIFEST_DIR"));
        assert_eq!(command_of(&arguments(folder, &[]), None), None);
        assert_eq!(command_of(&arguments(folder, &[]), Some(begun)).as_deref(), Some(begun));
        assert_eq!(command_of(&arguments(folder, &["distill.lr=0.1"]), Some(begun)).as_deref(), Some(begun));
        let more = command_of(&arguments(folder, &["distill.lr=0.2"]), Some(begun));
        assert_eq!(more, Some(format!("{begun} --set distill.lr=0.2")));
    }

    #[test]
    fn a_recipe_keeps_its_command() {
        let toml = "[run]\nname = \"x\"\n";
        let kept = with_command(Some("ssdkd run a.toml --set 'run.method=a\nb'"), toml);
        assert_eq!(command_in(&kept), Some("ssdkd run a.toml --set 'run.method=a b'"));
        assert!(kept.ends_with(toml));
        assert_eq!((with_command(None, toml).as_str(), command_in(toml)), (toml, None));
        assert_eq!(command_in("# CIFAR-10, a comment"), None);
    }
}
