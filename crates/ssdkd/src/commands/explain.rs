//! `ssdkd explain`: one entry of docs/recipe.md.

use anyhow::Result;
use clap::Args;
use ssdkd_context::recipe;
use ssdkd_stage::{StageError, exit};

/// Arguments of `ssdkd explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// A key such as distill.lr, or a section such as invert.loss
    #[arg(value_name = "KEY")]
    key: String,
}

/// Prints what is known of a recipe's key.
pub fn explain(arguments: &ExplainArgs) -> Result<()> {
    let text = recipe::explain(arguments.key.trim()).map_err(StageError::Usage)?;
    Ok(exit::print(&text)?)
}
