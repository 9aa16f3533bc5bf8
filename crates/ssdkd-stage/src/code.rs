//! Exit codes that scripts can rely on.

use std::process::ExitCode;

use crate::signals::Signal;

/// What a process returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// 0: done, or nothing to do.
    Done,
    /// 1: it failed.
    Failed,
    /// 2: the command line or the recipe is wrong.
    Usage,
    /// 3: something that must be made first is missing.
    MissingInput,
    /// 4: a file is damaged, or not the one it should be.
    Integrity,
    /// 128 + the signal's number.
    Interrupted(Signal),
}

impl Code {
    /// Returns the number.
    pub fn number(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::MissingInput => 3,
            Self::Integrity => 4,
            Self::Interrupted(signal) => signal.exit_code(),
        }
    }
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code.number())
    }
}
