//! Names of a model's classes.

use std::path::Path;

use ssdkd_stage::StageError;

/// Reads the names of `--class-names`: a list with commas, or a file with one name a line.
///
/// # Errors
/// If there are more or fewer names than classes, or two classes have the same name.
pub fn read(names: &str, classes: usize) -> Result<Vec<String>, StageError> {
    let path = Path::new(names);
    let (found, place) = if path.is_file() {
        let text = std::fs::read_to_string(path).map_err(|source| StageError::Read { path: path.into(), source })?;
        (lines(&text), format!("the file {names}"))
    } else {
        (names.split(',').map(|name| name.trim().to_string()).collect(), "--class-names".into())
    };
    if let Some(empty) = found.iter().position(String::is_empty) {
        return Err(StageError::Usage(format!("{place} has no name for class {empty}")));
    }
    if found.len() == classes {
        return match found.iter().enumerate().find(|(at, name)| found[..*at].contains(name)) {
            Some((class, name)) => Err(StageError::Usage(format!(
                "{place} has the name {name} for class {class} and for one before it\nhint: give each class a name of its own"
            ))),
            None => Ok(found),
        };
    }
    let hint = match &found[..] {
        [one] if !path.is_file() && one.contains(['/', '.']) => format!("there is no file {one}"),
        _ => "give one name for each output of the model, in their order".into(),
    };
    Err(StageError::Usage(format!(
        "{place} has {} names, and the model has {classes} classes\nhint: {hint}",
        found.len()
    )))
}

/// Returns the lines of a file, without the mark that some editors put first, and without empty ones at the end.
fn lines(text: &str) -> Vec<String> {
    text.trim_start_matches('\u{feff}').trim_end().lines().map(|line| line.trim().to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_a_list_or_a_file() {
        assert_eq!(read("cat, dog", 2).unwrap(), ["cat", "dog"]);
        assert_eq!(lines("\u{feff}great white shark\r\ngoose, gray\r\n\r\n"), ["great white shark", "goose, gray"]);
    }

    #[test]
    fn names_that_do_not_name_the_classes_are_refused() {
        let error = |names: &str| read(names, 3).unwrap_err().to_string();
        assert!(error("cat,dog").contains("has 2 names, and the model has 3 classes"), "{}", error("cat,dog"));
        assert!(error("cat,,dog").contains("no name for class 1"), "{}", error("cat,,dog"));
        assert!(error("cat,dog,cat").contains("has the name cat for class 2"), "{}", error("cat,dog,cat"));
        assert!(error("no/names.txt").contains("there is no file no/names.txt"), "{}", error("no/names.txt"));
    }
}
