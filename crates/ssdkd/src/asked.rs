//! Commands that are asked what they would do.

use anyhow::Result;
use ssdkd_context::Run;
use ssdkd_stage::{AskArgs, RunArgs, exit};

/// Returns whether a command is only asked to say something: the recipe with `--print-config`, or in a dry run what it would do.
pub fn only_asked(arguments: &RunArgs, ask: &AskArgs, would: &str) -> Result<bool> {
    if !ask.print_config && !ask.dry_run {
        return Ok(false);
    }
    let recipe = Run::recipe_of(arguments)?;
    if ask.print_config {
        exit::print(&recipe.to_toml())?;
    } else {
        exit::print_plain(&format!("would {would}\n"))?;
    }
    Ok(true)
}
