//! What makes a stage a well-behaved program.
//!
//! - [`atomic`]: the one helper that makes files
//! - [`run_folder`]: where everything of a run is, and reading it with its digests checked
//! - [`stage_folder`]: outputs that appear complete or not at all
//! - [`fingerprint`], [`freshness`]: what results depend on, and whether those on disk are still right
//! - [`verify`]: whether every file is still what it was
//! - [`gc`]: garbage collection, of files that a run no longer needs
//! - [`lock`]: one writer for each run folder
//! - [`args`], [`device`], [`exit`], [`signals`]: the common flags, where to compute, how a program ends, how it is asked to stop
//! - [`machine`]: how much memory and disk there is
//! - [`progress`], [`logging`], [`table`]: what it says. Stdout carries data only.
//!
//! A file uses only files before it in this list: `shell`, `system`, `machine`, `table`, `signals`, `code`, `error`, `progress`, `logging`,
//! `exit`, `atomic`, `run_folder`, `fingerprint`, `stage_folder`, `freshness`, `verify`, `gc`, `lock`, `device`, `args`.

pub mod args;
pub mod atomic;
mod code;
pub mod device;
pub mod error;
pub mod exit;
pub mod fingerprint;
pub mod freshness;
pub mod gc;
pub mod lock;
pub mod logging;
pub mod machine;
pub mod progress;
pub mod run_folder;
mod shell;
pub mod signals;
pub mod stage_folder;
mod system;
pub mod table;
pub mod verify;

pub use args::{AskArgs, CommonArgs, RunArgs, StageArgs};
pub use atomic::{remove_unfinished, write_file, write_folder};
pub use device::DeviceChoice;
pub use error::StageError;
pub use fingerprint::FingerprintInput;
pub use freshness::{State, judge};
pub use gc::{Removable, collect_state, remove};
pub use lock::RunLock;
pub use progress::Progress;
pub use run_folder::{Complete, RunFolder};
pub use shell::{quote, quote_path};
pub use stage_folder::StageFolder;
pub use verify::Damage;
