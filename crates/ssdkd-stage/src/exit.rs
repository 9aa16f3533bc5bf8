//! How a program ends: one place that prints errors.

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use ssdkd_shards::ShardError;

pub use crate::code::Code;
use crate::error::StageError;
use crate::signals::Interrupted;

/// Returns the code of the first error in the chain that has one; otherwise [`Code::Failed`].
pub fn code_of(error: &(dyn Error + 'static)) -> Code {
    let code = |error: &(dyn Error + 'static)| {
        let interrupted = error.downcast_ref::<Interrupted>().map(|&Interrupted(signal)| Code::Interrupted(signal));
        let damaged = || error.downcast_ref::<ShardError>().map(|_| Code::Integrity);
        error.downcast_ref::<StageError>().map(StageError::code).or(interrupted).or_else(damaged)
    };
    chain(error).find_map(code).unwrap_or(Code::Failed)
}

/// Runs `body`, the body of every `main`; prints its error to stderr and returns the right code.
pub fn main<E: Into<Box<dyn Error + Send + Sync>>>(body: impl FnOnce() -> Result<(), E>) -> ExitCode {
    match body() {
        Ok(()) => Code::Done.into(),
        Err(error) => report(&*error.into()).into(),
    }
}

/// Prints `error` and its causes to stderr and says what the process shall return.
pub fn report(error: &(dyn Error + 'static)) -> Code {
    let code = code_of(error);
    let text = describe(error);
    crate::logging::note_error(&text);
    // If stderr is closed, the message is lost.
    let _ = crate::progress::print_above(&text);
    code
}

/// Returns `error: …`, a line for each cause, and all hints last, where the eye ends up.
///
/// What a file says of itself may be part of it, so it is made [plain], and nothing in it is longer than a screen.
pub fn describe(error: &(dyn Error + 'static)) -> String {
    let (mut lines, mut hints) = (Vec::<String>::new(), Vec::<String>::new());
    for error in chain(error) {
        let text = error.to_string();
        let text = without_frames(&text);
        let (text, own_hints) = split_hints(&text);
        // An error that prints its source itself would say everything twice.
        if lines.iter().all(|line| !line.contains(&text)) {
            lines.push(text);
        }
        for hint in own_hints {
            if !hints.contains(&hint) {
                hints.push(hint);
            }
        }
    }
    let lines = format!("error: {}", lines.join("\n  cause: "));
    let hints = hints.iter().flat_map(|hint| hint.lines());
    let shown =
        lines.lines().take(LINES).chain(hints.take(LINES)).map(|line| match line.char_indices().nth(LINE_LENGTH) {
            Some((end, _)) => format!("{}…", &line[..end]),
            None => line.into(),
        });
    plain(&shown.collect::<Vec<_>>().join("\n"))
}

/// Splits an error's text into its message and its hints. The lines below a hint, such as code, belong to it.
fn split_hints(text: &str) -> (String, Vec<String>) {
    let (mut message, mut hints) = (Vec::new(), Vec::<String>::new());
    for line in text.lines() {
        if line.starts_with("hint: ") {
            hints.push(line.into());
        } else if let Some(hint) = hints.last_mut() {
            hint.push('\n');
            hint.push_str(line);
        } else {
            message.push(line);
        }
    }
    let hints = hints.iter().map(|hint| hint.trim_end().to_string()).collect();
    (message.join("\n").trim_end().into(), hints)
}

/// Lines of an error, and lines of hints, that are shown; letters of a line. Paths are at most half as long.
const LINES: usize = 40;
const LINE_LENGTH: usize = 2000;

/// Returns the text without what would steer a terminal: control characters but for line breaks and tabs.
pub fn plain(text: &str) -> String {
    let steers = |c: char| c.is_control() && !matches!(c, '\n' | '\t') || turns(c);
    text.chars().map(|c| if steers(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// A name from a file as a part of one line: as [`plain`], and without line breaks and tabs.
pub fn one_line(name: &str) -> String {
    plain(name).replace(['\n', '\t'], "\u{fffd}")
}

/// Whether a character breaks lines, has no width, or changes the direction of others.
fn turns(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Returns what a user should read of an error's text. With RUST_BACKTRACE set, candle writes all of the backtrace into it. Without,
/// a line that looks like one of a backtrace is the error's own.
pub(crate) fn without_frames(text: &str) -> String {
    let asked = |name| std::env::var_os(name).is_some_and(|value| value != "0");
    remove_frames(text, asked("RUST_BACKTRACE") || asked("RUST_LIB_BACKTRACE"))
}

fn remove_frames(text: &str, has_backtrace: bool) -> String {
    let lines = text.lines().filter(|line| !has_backtrace || !is_frame(line)).collect::<Vec<_>>();
    lines.join("\n").trim_end().into()
}

/// Returns a line of a backtrace: `  12: function` or `      at file:line`.
fn is_frame(line: &str) -> bool {
    let rest = line.trim_start();
    let (number, name) = rest.split_once(": ").unwrap_or(("", ""));
    let numbered = !number.is_empty() && !name.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    rest.len() < line.len() && (numbered || rest.starts_with("at "))
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// Writes text to stdout without what would steer a terminal.
pub fn print_plain(text: &str) -> Result<(), StageError> {
    print(&plain(text))
}

/// Writes data to stdout. A reader that has seen enough (`ssdkd inspect … | head`) is no error.
pub fn print(data: &str) -> Result<(), StageError> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(data.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(StageError::write("write", "standard output".as_ref())(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signals::Signal;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<dyn Error + Send + Sync>>,
    }

    fn layer(
        text: &'static str,
        source: impl Into<Option<Box<dyn Error + Send + Sync>>>,
    ) -> Box<dyn Error + Send + Sync> {
        Box::new(Layer { text, source: source.into() })
    }

    #[test]
    fn causes_are_listed_once_and_hints_come_last() {
        let inner = layer("no such column\nhint: rerun `balance`", None);
        let error = layer("round 7 failed: no such column", layer("cannot load the buffer", inner));
        assert_eq!(
            describe(&*error),
            "error: round 7 failed: no such column\n  cause: cannot load the buffer\nhint: rerun `balance`"
        );
    }

    #[test]
    fn code_below_a_hint_stays_below_it() {
        let inner = layer("a whole object\nhint: save it with Python:\n  import torch\n  torch.save(x)", None);
        let error = layer("cannot import\nhint: give a file", inner);
        assert_eq!(
            describe(&*error),
            "error: cannot import\n  cause: a whole object\n\
             hint: give a file\nhint: save it with Python:\n  import torch\n  torch.save(x)"
        );
    }

    #[test]
    fn backtraces_are_left_out() {
        let text = "NaN at 3\n   0: bt\n             at /src/error.rs:260:25\n  21: _start\n\nhint: retrain";
        assert_eq!(remove_frames(text, true), "NaN at 3\n\nhint: retrain");
        assert_eq!(remove_frames(text, false), text);
        // What a TOML error looks like is no backtrace.
        let toml = "not a table\nat line 7:\n  |\n7 | steps: 3\n  |      ^";
        assert_eq!(remove_frames(toml, true), toml);
    }

    #[test]
    fn names_neither_steer_a_terminal_nor_make_lines() {
        let hostile = "\u{1b}[31m\u{202e}a\nb\tc";
        assert_eq!(plain(hostile), "\u{fffd}[31m\u{fffd}a\nb\tc");
        assert_eq!(one_line(hostile), "\u{fffd}[31m\u{fffd}a\u{fffd}b\u{fffd}c");
        assert_eq!(one_line("Käse 🧀"), "Käse 🧀");
    }

    #[test]
    fn an_error_neither_fills_the_screen_nor_steers_it() {
        let named = StageError::Usage(format!("no key `\u{1b}[2J{}`\nhint: look", "x".repeat(1 << 20)));
        let text = describe(&named);
        assert!(text.starts_with("error: no key `\u{fffd}[2Jxxx") && text.ends_with("…\nhint: look"), "{text}");
        assert!(text.len() < 3000, "{}", text.len());
        let lines = StageError::Usage("line\n".repeat(1 << 16) + "hint: look");
        assert!(describe(&lines).ends_with("line\nhint: look") && describe(&lines).len() < 300);
    }

    #[test]
    fn the_code_is_found_below_other_errors() {
        let missing = StageError::Missing { what: "it".into(), path: "x".into(), hint: "make it".into() };
        assert_eq!(code_of(&*layer("outer", Box::<dyn Error + Send + Sync>::from(missing))), Code::MissingInput);
        let damaged = ShardError::Damaged { path: "x".into(), reason: "EOF".into() };
        assert_eq!(code_of(&*layer("outer", Box::<dyn Error + Send + Sync>::from(damaged))), Code::Integrity);
        assert_eq!(code_of(&*layer("outer", None)), Code::Failed);
        assert_eq!(code_of(&Interrupted(Signal::Terminate)).number(), 143);
    }
}
