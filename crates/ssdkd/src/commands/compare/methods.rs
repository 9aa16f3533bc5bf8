//! Rows of one pair, grouped by method.

use std::collections::{BTreeMap, BTreeSet};

use crate::report::results::Row;

/// Most methods in a chart.
const LINES: usize = 8;

/// The runs of one method on one kind of device with one size of the buffer, by their seeds; there is at least one.
pub(super) struct Method<'a> {
    /// The method, and the device if the pair's results are of several.
    pub(super) family: String,
    /// The same, and the size of the buffer if the family was run with several.
    pub(super) name: String,
    pub(super) rows: Vec<&'a Row>,
}

impl Method<'_> {
    /// Returns the mean and the sample deviation of the last students; `None` if none was measured.
    pub(super) fn last(&self) -> Option<(f64, f64)> {
        let last = self.rows.iter().filter_map(|row| row.last).collect::<Vec<_>>();
        let mean = last.iter().sum::<f64>() / last.len() as f64;
        let variance = last.iter().map(|last| (last - mean).powi(2)).sum::<f64>() / (last.len() as f64 - 1.0).max(1.0);
        (!last.is_empty()).then(|| (mean, variance.sqrt()))
    }
}

/// Returns the kinds of device that the rows are of.
pub(super) fn devices<'a>(rows: &[&'a Row]) -> BTreeSet<&'a str> {
    rows.iter().map(|row| row.device.as_str()).collect()
}

/// Returns the methods of a pair, the best first. One that was run on several kinds of device, or with several sizes of the buffer, is several,
/// and says so.
pub(super) fn methods<'a>(rows: &[&'a Row]) -> Vec<Method<'a>> {
    let mut groups = BTreeMap::<(&str, &str, u64), Vec<&Row>>::new();
    for row in rows {
        groups.entry((&row.method, &row.device, row.buffer)).or_default().push(row);
    }
    let several = devices(rows).len() > 1;
    let sizes = |of: (&str, &str)| groups.keys().filter(|(method, device, _)| (*method, *device) == of).count();
    let mut methods = groups
        .iter()
        .map(|(&(method, device, buffer), rows)| {
            let family = if several { format!("{method}, {device}") } else { method.into() };
            let name = if sizes((method, device)) > 1 { format!("{family}, {buffer} kept") } else { family.clone() };
            let mut rows = rows.clone();
            rows.sort_by_key(|row| row.seed);
            Method { family, name, rows }
        })
        .collect::<Vec<_>>();
    let last = |method: &Method<'_>| method.last().map_or(0.0, |(mean, _)| mean);
    methods.sort_by(|a, b| last(b).total_cmp(&last(a)));
    methods
}

/// Returns the methods that charts show, at most [`LINES`]: the best first, and variants of a method last. Sizes of the buffer have a chart of
/// their own; elsewhere the best size stands for the method.
pub(super) fn charted<'a, 'b>(methods: impl Iterator<Item = &'a Method<'b>>) -> Vec<&'a Method<'b>> {
    let mut families = BTreeSet::new();
    let all = methods.filter(|method| families.insert(&method.family)).collect::<Vec<_>>();
    let is_variant = |method: &&Method<'_>| {
        let of = |base: &&Method<'_>| method.rows[0].method.starts_with(&format!("{}, ", base.rows[0].method));
        all.iter().any(|base| of(base) && base.rows[0].device == method.rows[0].device)
    };
    let (variants, others): (Vec<_>, Vec<_>) = all.iter().copied().partition(is_variant);
    others.into_iter().chain(variants).take(LINES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::results::tests::result;

    #[test]
    fn charts_show_eight_methods_and_variants_last() {
        let names = ["ours", "ours, faster", "ours, slower", "a", "b", "c", "d", "e", "f", "theirs, faster"];
        let rows = names.iter().enumerate().map(|(at, name)| result(name, 0, 0.9 - 0.01 * at as f64));
        let rows = rows.chain([Row { buffer: 5, ..result("a", 0, 0.1) }]).collect::<Vec<_>>();
        let methods = methods(&rows.iter().collect::<Vec<_>>());
        let charted = |methods: &[Method<'_>]| {
            charted(methods.iter()).iter().map(|method| method.family.clone()).collect::<Vec<_>>()
        };
        assert_eq!(charted(&methods), ["ours", "a", "b", "c", "d", "e", "f", "theirs, faster"]);
        assert_eq!(charted(&methods[..4]), ["ours", "a", "ours, faster", "ours, slower"]);
    }
}
