//! Being asked to stop. The first SIGINT or SIGTERM sets a flag that loops look at, so that a stage ends between two
//! steps and leaves nothing half-made; the second one ends the process at once.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// The last signal that came; 0 is none.
static RECEIVED: LazyLock<Arc<AtomicUsize>> = LazyLock::new(Arc::default);

/// A request to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT: Ctrl-C.
    Interrupt,
    /// SIGTERM: `kill`, a batch system's time limit.
    Terminate,
}

impl Signal {
    const ALL: [Self; 2] = [Self::Interrupt, Self::Terminate];

    fn number(self) -> i32 {
        match self {
            Self::Interrupt => SIGINT,
            Self::Terminate => SIGTERM,
        }
    }

    /// Returns what a process that it ended returns: 130 or 143.
    pub fn exit_code(self) -> u8 {
        128 + self.number() as u8
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Interrupt => "SIGINT (Ctrl-C)",
            Self::Terminate => "SIGTERM",
        })
    }
}

/// The user asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("stopped by {0}; complete output stays\nhint: run the same command again to resume")]
pub struct Interrupted(pub Signal);

/// From now on signals set the flag. Call it once, early in `main`.
pub fn install() -> io::Result<()> {
    let asked_before = Arc::new(AtomicBool::new(false));
    let register = |signal: Signal| -> io::Result<()> {
        let number = signal.number();
        // In this order: the first signal finds the flag down, raises it, and the second one finds it up.
        flag::register_conditional_shutdown(number, signal.exit_code().into(), asked_before.clone())?;
        flag::register(number, asked_before.clone())?;
        flag::register_usize(number, RECEIVED.clone(), number as usize)?;
        Ok(())
    };
    Signal::ALL.into_iter().try_for_each(register)
}

/// Returns the request to stop, if there was one.
pub fn interrupted() -> Option<Signal> {
    let received = RECEIVED.load(Ordering::Relaxed);
    Signal::ALL.into_iter().find(|signal| signal.number() as usize == received)
}

/// Fails if there was a request to stop: for use in loops.
pub fn check() -> Result<(), Interrupted> {
    interrupted().map_or(Ok(()), |signal| Err(Interrupted(signal)))
}
