//! What the program says. To stderr: short lines for people, warnings marked by a word and not by color alone. To the
//! `log.jsonl` of the stage at work: the same and more, as one JSON object a line.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, filter};

use crate::error::StageError;
use crate::progress;

/// Overrides what goes to stderr, in tracing's filter syntax.
pub const FILTER_VARIABLE: &str = "SSDKD_LOG";

/// Where errors are noted that `exit` prints itself.
const EXIT_TARGET: &str = "ssdkd::exit";

/// The log of the stage at work.
static STAGE_LOG: Mutex<Option<File>> = Mutex::new(None);

/// Starts logging: `-q` shows warnings, nothing shows what is done, `-v` why, `-vv` everything. Later calls do nothing.
pub fn init(quiet: bool, verbose: u8) {
    let level = match (quiet, verbose) {
        (true, _) => "warn",
        (false, 0) => "info",
        (false, 1) => "debug",
        (false, _) => "trace",
    };
    let filter = EnvFilter::try_from_env(FILTER_VARIABLE)
        .unwrap_or_else(|_| EnvFilter::new(format!("warn,ssdkd={level}")))
        .add_directive(format!("{EXIT_TARGET}=off").parse().expect("a constant directive"));
    let people = tracing_subscriber::fmt::layer()
        .event_format(Plain)
        .with_ansi(io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()))
        .with_writer(|| Line(Vec::new()))
        .with_filter(filter);
    let machines = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_writer(|| StageLog)
        .with_filter(filter::Targets::new().with_default(Level::WARN).with_target("ssdkd", Level::DEBUG));
    // A process that tests more than one command line has logging already.
    let _ = tracing_subscriber::registry().with(people).with(machines).try_init();
}

/// From now on the JSON lines go to `path`, until [`detach`] or another call.
pub fn attach(path: &Path) -> Result<(), StageError> {
    let file = OpenOptions::new().create(true).append(true).open(path).map_err(StageError::write("write", path))?;
    *STAGE_LOG.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
    Ok(())
}

/// From now on no file gets the JSON lines.
pub fn detach() {
    *STAGE_LOG.lock().unwrap_or_else(PoisonError::into_inner) = None;
}

/// Notes in the log why the program ends; stderr hears it from `exit`.
pub(crate) fn note_error(text: &str) {
    tracing::error!(target: EXIT_TARGET, "{text}");
}

/// Returns the time, UTC, as in RFC 3339.
pub fn now() -> String {
    let mut text = String::new();
    match SystemTime.format_time(&mut Writer::new(&mut text)) {
        Ok(()) => text,
        Err(fmt::Error) => "unknown".into(),
    }
}

/// `warning: message key=value`; what is done needs no word in front.
struct Plain;

impl<S, N> FormatEvent<S, N> for Plain
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let (word, colour) = match *event.metadata().level() {
            Level::ERROR => ("error: ", "\x1b[31m"),
            Level::WARN => ("warning: ", "\x1b[33m"),
            Level::INFO => ("", ""),
            Level::DEBUG => ("debug: ", "\x1b[2m"),
            Level::TRACE => ("trace: ", "\x1b[2m"),
        };
        if writer.has_ansi_escapes() && !colour.is_empty() {
            write!(writer, "{colour}{word}\x1b[0m")?;
        } else {
            writer.write_str(word)?;
        }
        context.field_format().format_fields(writer.by_ref(), event)
    }
}

/// Collects one line, and writes it above any bar when it is complete. Writes each warning once: said again, it tells nothing new.
struct Line(Vec<u8>);

/// The warnings that were written.
static WARNED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Returns whether `text` is a warning that was written before.
fn is_repeated(text: &str) -> bool {
    let is_warning = text.trim_start_matches("\x1b[33m").starts_with("warning: ");
    is_warning && !WARNED.lock().unwrap_or_else(PoisonError::into_inner).insert(text.into())
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let text = String::from_utf8_lossy(&self.0);
        if !is_repeated(&text) {
            // If stderr is closed, the message is lost.
            let _ = progress::print_above(text.trim_end());
        }
    }
}

/// Writes to the attached file, if there is one.
struct StageLog;

impl Write for StageLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(file) = STAGE_LOG.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            // On a full disk the results are missed first, and that is said; a log that is missed, too, is not worth a word.
            let _ = file.write_all(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_written_once_and_anything_else_each_time() {
        for (text, repeated) in
            [("warning: no data", [false, true]), ("\x1b[33mwarning: \x1b[0mno data", [false, true])]
        {
            assert_eq!([is_repeated(text), is_repeated(text)], repeated, "{text:?}");
        }
        assert!(!is_repeated("invert 0001: fresh") && !is_repeated("invert 0001: fresh"));
        assert!(!is_repeated("warning: other data"));
    }
}
