//! `ssdkd shrink`: the smaller copies that a network has, as students of it.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use ssdkd_context::card_error;
use ssdkd_graph::Cut;
use ssdkd_nn::{NetworkSpec, TeacherCard};
use ssdkd_stage::exit;
use ssdkd_stage::table::{Align, Table};

/// Arguments of `ssdkd shrink`.
#[derive(Debug, Args)]
pub struct ShrinkArgs {
    /// The card of a trained network
    card: PathBuf,
    /// List smaller copies of the network with their parameters and multiply-adds
    #[arg(long, required_unless_present = "sizes")]
    list: bool,
    /// List this size, such as teacher*0.3, and not the proposed ones (may be repeated)
    #[arg(long = "size", value_name = "SIZE")]
    sizes: Vec<Cut>,
}

/// The copies that are proposed.
const PROPOSED: [Cut; 4] = [
    Cut { width: 0.75, blocks: 1.0 },
    Cut { width: 0.5, blocks: 1.0 },
    Cut { width: 0.25, blocks: 1.0 },
    Cut { width: 1.0, blocks: 0.5 },
];

/// Prints the smaller copies.
pub fn shrink(arguments: &ShrinkArgs) -> Result<()> {
    let card = TeacherCard::load(&arguments.card).map_err(card_error)?;
    let whole = card.spec();
    let sizes = if arguments.sizes.is_empty() { PROPOSED.as_slice() } else { &arguments.sizes };
    Ok(exit::print(&list(&whole, sizes)?)?)
}

/// Returns a table of what each copy costs, and why there is none of some sizes.
fn list(whole: &NetworkSpec, sizes: &[Cut]) -> Result<String> {
    let mut table = Table::new([
        ("student.architecture", Align::Left),
        ("parameters", Align::Right),
        ("million multiply-adds", Align::Right),
        ("share", Align::Right),
    ]);
    let all = whole.multiply_adds()?;
    let mut describe = |name: String, spec: &NetworkSpec| -> Result<()> {
        let (parameters, cost) = (spec.num_parameters()?, spec.multiply_adds()?);
        let share = 100.0 * cost as f64 / all.max(1) as f64;
        table.row([name, parameters.to_string(), format!("{:.1}", cost as f64 / 1e6), format!("{share:.0} %")]);
        Ok(())
    };
    describe("the network".into(), whole)?;
    let mut missing = String::new();
    for cut in sizes {
        let copy = NetworkSpec { architecture: whole.architecture.cut(*cut), ..whole.clone() };
        match copy.blueprint() {
            Ok(_) => describe(cut.to_string(), &copy)?,
            Err(error) => {
                let reason = error.to_string();
                let reason = reason.split("\nhint").next().unwrap_or_default();
                let reason = reason.split_once("cannot be built: ").map_or(reason, |(_, reason)| reason);
                writeln!(missing, "there is no {cut}: {}", exit::plain(reason))?;
            }
        }
    }
    Ok(format!("{table}{missing}"))
}

/// Adds the smaller copies that are proposed for a network, one in a line. Copies that it does not have are left out.
pub fn propose(text: &mut String, whole: &NetworkSpec) -> Result<()> {
    let all = whole.multiply_adds()?;
    for cut in PROPOSED {
        let copy = NetworkSpec { architecture: whole.architecture.cut(cut), ..whole.clone() };
        if copy.blueprint().is_err() {
            continue;
        }
        let (parameters, cost) = (copy.num_parameters()?, copy.multiply_adds()?);
        writeln!(
            text,
            "{:<10} {cut}: {parameters} parameters, {:.1} million multiply-adds ({:.0} %)",
            "could be",
            cost as f64 / 1e6,
            100.0 * cost as f64 / all.max(1) as f64
        )?;
    }
    Ok(())
}
