//! Commands that people paste into a shell.

use std::path::Path;

/// A word for a POSIX shell.
pub fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.into() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

/// A path as a word for a POSIX shell.
pub fn quote_path(path: &Path) -> String {
    quote(&path.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::quote;

    #[test]
    fn words_survive_a_shell() {
        assert_eq!(quote("pipelines/a-b_1.toml"), "pipelines/a-b_1.toml");
        assert_eq!(quote("my runs"), "'my runs'");
        assert_eq!(quote("it's"), "'it'\\''s'");
        assert_eq!(quote("$(touch x)`touch x`"), "'$(touch x)`touch x`'");
        assert_eq!(quote(""), "''");
    }
}
