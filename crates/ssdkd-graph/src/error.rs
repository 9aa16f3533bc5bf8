//! What can be wrong with a graph.

use std::fmt::Write as _;

/// Why a graph cannot be built, read or executed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GraphError {
    /// One node does not fit.
    #[error("the node {} ({op}): {reason}", clean(.node))]
    Node {
        /// Its name.
        node: String,
        /// What it computes.
        op: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The graph as a whole does not fit.
    #[error("{0}")]
    Graph(String),
}

/// Longest name in an error.
const LONGEST: usize = 120;

/// Returns a name from a file, short enough for an error and without control characters.
pub(crate) fn clean(name: &str) -> String {
    let mut text = String::new();
    for character in name.chars() {
        if text.len() >= LONGEST {
            text.push('…');
            break;
        }
        if character.is_control() || is_invisible(character) {
            let _ = write!(text, "{}", character.escape_unicode()); // writing to a String cannot fail
        } else {
            text.push(character);
        }
    }
    text
}

/// Characters that change how a terminal orders or shows a line.
fn is_invisible(character: char) -> bool {
    matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::clean;

    #[test]
    fn names_in_errors_are_short_and_plain() {
        assert_eq!(clean("layer1.0.conv1"), "layer1.0.conv1");
        assert_eq!(clean("a\x1b[31m\n"), "a\\u{1b}[31m\\u{a}");
        assert!(clean(&"x".repeat(10_000)).len() < 200);
    }
}
