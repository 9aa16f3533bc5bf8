//! Tables on a terminal.

use std::fmt;

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ContentArrangement};

/// Where the text of a column stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// For names.
    Left,
    /// For numbers.
    Right,
}

/// A heading and rows, as text whose columns are aligned. Wide characters count as two, as terminals show them.
///
/// ```
/// use ssdkd_stage::table::{Align, Table};
///
/// let mut table = Table::new([("class", Align::Left), ("images", Align::Right)]);
/// table.row(["cat", "7"]);
/// assert_eq!(table.to_string(), "class  images\ncat         7\n");
/// ```
pub struct Table(comfy_table::Table);

impl Table {
    /// Starts a table with these headings.
    pub fn new<'a>(columns: impl IntoIterator<Item = (&'a str, Align)>) -> Self {
        let (headings, alignments): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
        let mut table = comfy_table::Table::new();
        table.load_preset(NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(headings);
        for (column, align) in table.column_iter_mut().zip(alignments) {
            column.set_padding((0, 2)).set_cell_alignment(match align {
                Align::Left => CellAlignment::Left,
                Align::Right => CellAlignment::Right,
            });
        }
        Self(table)
    }

    /// Adds a row with a cell for each heading.
    pub fn row<T: Into<String>>(&mut self, cells: impl IntoIterator<Item = T>) {
        self.0.add_row(cells.into_iter().map(Into::into).collect::<Vec<String>>());
    }
}

/// Every line ends with a line break, and none with spaces.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.lines().try_for_each(|line| writeln!(f, "{}", line.trim_end()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_characters_do_not_move_the_next_column() {
        let mut table = Table::new([("class", Align::Left), ("images", Align::Right)]);
        table.row(["猫猫猫猫", "7"]);
        table.row(["a dog", "1234567"]);
        assert_eq!(table.to_string(), "class      images\n猫猫猫猫        7\na dog     1234567\n");
    }
}
