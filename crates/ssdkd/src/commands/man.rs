//! `ssdkd man`: manual pages of all programs, for `make man`.

use std::path::Path;

use anyhow::{Context as _, Result};
use clap::{Command, CommandFactory};
use ssdkd_context::Stage;

use crate::stages::STAGES;

/// Writes a page for each program and each subcommand into the folder.
pub fn man(program: Command, folder: &Path) -> Result<()> {
    let others = [program, ssdkd_teach::TeachArgs::command(), ssdkd_evaluate::EvaluateArgs::command()];
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for command in others.into_iter().chain(STAGES.map(Stage::command)) {
        clap_mangen::generate_to(command, folder)
            .with_context(|| format!("cannot write the manual pages into {}", folder.display()))?;
    }
    Ok(())
}
