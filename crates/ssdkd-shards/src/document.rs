//! `docs/tables.md`: every column of every table, from the structs that declare them.

use std::fmt::Write as _;

use crate::column::Row;
use crate::images::{SampleRow, TENSOR_COLUMNS};
use crate::tables::{BufferRow, ClassRow, DrawRow, ObservedRow, PriorityRow, StepRow};

const HEAD: &str = "# Tables\n\n\
    Each stage writes its tables into `runs/NAME/STAGE/ROUND/`, such as `runs/shapes/balance/0007/buffer.parquet`. They are Parquet with zstd.\n\
    `sample_id` joins them: it is unique in a run. Rounds, steps and classes start at 0. KL divergences are in nats, probabilities from 0 to 1.\n\n\
    The metadata of each file has `ssdkd.schema_version`, `ssdkd.table`, `ssdkd.stage` and `ssdkd.fingerprint`. Image shards also have\n\
    `ssdkd.normalisation`, the teacher's mean and std as JSON, and `ssdkd.class_names`, a JSON list.\n\n\
    [Python](python.md) has snippets that read them. This page is generated from the code. `make docs-tables` writes it.\n";

/// Returns `docs/tables.md`.
pub fn tables_markdown() -> String {
    let mut text = HEAD.to_string();
    describe::<SampleRow>(&mut text, &TENSOR_COLUMNS);
    describe::<BufferRow>(&mut text, &[]);
    describe::<ClassRow>(&mut text, &[]);
    describe::<PriorityRow>(&mut text, &[]);
    describe::<DrawRow>(&mut text, &[]);
    describe::<StepRow>(&mut text, &[]);
    describe::<ObservedRow>(&mut text, &[]);
    text
}

/// Appends the section of one table, whose last columns are not fields of its row.
fn describe<R: Row>(text: &mut String, others: &[(&str, &str, &str)]) {
    let about = R::ABOUT.trim();
    let (name, about) = about.split_once(": ").unwrap_or((R::TABLE, about));
    let mut line = |line: String| writeln!(text, "{line}").expect("a string takes all");
    line(format!("\n## {name}\n\n{}\n\n| column | type | meaning |\n|---|---|---|", sentence(about)));
    for (field, meaning) in R::fields().iter().zip(R::COLUMNS) {
        let empty = if field.is_nullable() { ", may be empty" } else { "" };
        line(format!("| `{}` | {}{empty} | {} |", field.name(), field.data_type(), meaning.trim()));
    }
    for (column, kind, meaning) in others {
        line(format!("| `{column}` | {kind} | {meaning} |"));
    }
}

/// Returns the text with a capital letter in front.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_is_described() {
        let text = tables_markdown();
        for field in SampleRow::fields().iter().chain(&BufferRow::fields()).chain(&StepRow::fields()) {
            assert!(text.contains(&format!("| `{}` |", field.name())), "{} is not there", field.name());
        }
        assert!(!text.contains("|  |"), "a column without a meaning: {text}");
    }
}
