//! How far it is: a bar on a terminal, and elsewhere (a batch system's log, a pipe) a plain line every few seconds.
//! All of it goes to stderr.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// How often a plain line is written.
const LINE_INTERVAL: Duration = Duration::from_secs(5);
/// How often the text next to the bar changes.
const BAR_INTERVAL: Duration = Duration::from_millis(100);

static QUIET: AtomicBool = AtomicBool::new(false);
/// All bars, so that a line of the log can be written above them.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Whether progress is shown at all.
pub fn set_quiet(quiet: bool) {
    QUIET.store(quiet, Ordering::Relaxed);
}

/// Writes a line to stderr, above any bar.
pub(crate) fn print_above(line: &str) -> io::Result<()> {
    BARS.suspend(|| writeln!(io::stderr().lock(), "{line}"))
}

/// How far one piece of work is.
pub struct Progress {
    label: String,
    total: u64,
    started: Instant,
    bar: Option<ProgressBar>,
    interval: Duration,
    at: Mutex<Position>,
}

struct Position {
    done: u64,
    /// Of those, what was done before: it says nothing of how long the rest will take.
    before: u64,
    shown: Instant,
}

impl Progress {
    /// Work of `total` parts, such as steps or images.
    pub fn start(label: impl Into<String>, total: u64) -> Self {
        let (label, started) = (label.into(), Instant::now());
        let terminal = io::stderr().is_terminal();
        let bar = (terminal && !QUIET.load(Ordering::Relaxed)).then(|| {
            let template = "{prefix} {bar:30} {pos}/{len} {elapsed} (eta {eta}) {msg}";
            let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            BARS.add(ProgressBar::new(total).with_style(style).with_prefix(label.clone()))
        });
        let interval = if bar.is_some() { BAR_INTERVAL } else { LINE_INTERVAL };
        Self { label, total, started, bar, interval, at: Mutex::new(Position { done: 0, before: 0, shown: started }) }
    }

    /// `parts` more were done by a process before this one.
    pub fn skip(&self, parts: u64) {
        let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        (at.done, at.before) = (at.done + parts, at.before + parts);
        if let Some(bar) = &self.bar {
            bar.set_position(at.done);
            bar.reset_eta();
        }
    }

    /// Adds `parts` to what is done. `message` is called only when something is about to be shown.
    pub fn advance(&self, parts: u64, message: impl FnOnce() -> String) {
        let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        at.done += parts;
        let due = at.shown.elapsed() >= self.interval;
        if due {
            at.shown = Instant::now();
        }
        let (done, before) = (at.done, at.before);
        drop(at);
        match &self.bar {
            Some(bar) => {
                bar.set_position(done);
                if due {
                    bar.set_message(message());
                }
            }
            None if due && !QUIET.load(Ordering::Relaxed) => {
                let line = plain_line(&self.label, (before, done, self.total), self.started.elapsed(), &message());
                // A progress line that cannot be written must not stop the work.
                let _ = print_above(&line);
            }
            None => {}
        }
    }

    /// The work is over; the bar goes.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    /// Also when an error ends the work, so that the message does not share a line with a bar.
    fn drop(&mut self) {
        self.finish();
    }
}

/// Returns the line `distill 0007: 30/40 (75 %), 1:30 gone, 0:30 to go, loss 0.3`
fn plain_line(label: &str, (before, done, total): (u64, u64, u64), elapsed: Duration, message: &str) -> String {
    let percent = (100 * done).checked_div(total).unwrap_or(100);
    let mut parts = vec![format!("{label}: {done}/{total} ({percent} %)"), format!("{} gone", clock(elapsed))];
    if done > before && done < total {
        let left = elapsed.mul_f64((total - done) as f64 / (done - before) as f64);
        parts.push(format!("{} to go", clock(left)));
    }
    if !message.is_empty() {
        parts.push(message.into());
    }
    parts.join(", ")
}

/// Returns `1:02:03`, `2:03`
fn clock(time: Duration) -> String {
    let seconds = time.as_secs_f64().round() as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(parts: (u64, u64, u64), seconds: u64, message: &str, expected: &str) {
        assert_eq!(plain_line("distill 0007", parts, Duration::from_secs(seconds), message), expected);
    }

    #[test]
    fn plain_lines_say_how_long_it_takes() {
        check((0, 30, 40), 90, "loss 0.3", "distill 0007: 30/40 (75 %), 1:30 gone, 0:30 to go, loss 0.3");
        check((0, 40, 40), 3723, "", "distill 0007: 40/40 (100 %), 1:02:03 gone");
        check((20, 30, 40), 90, "", "distill 0007: 30/40 (75 %), 1:30 gone, 1:30 to go");
        check((20, 20, 40), 5, "", "distill 0007: 20/40 (50 %), 0:05 gone");
        check((0, 0, 0), 5, "", "distill 0007: 0/0 (100 %), 0:05 gone");
    }

    #[test]
    fn the_message_is_made_only_when_it_is_shown() {
        let progress = Progress::start("test", 3);
        progress.advance(1, || panic!("nothing is due yet"));
        assert_eq!(progress.at.lock().unwrap().done, 1);
    }
}
