//! The tables of results.md.

use std::fmt::Write as _;

use anyhow::Result;
use ssdkd_stage::exit;

use super::charts::MARKS;
use super::methods::Method;
use crate::report::results::{Published, Row};

/// A text of a run within Markdown: neither HTML nor a cell of its own.
pub(super) fn cell(text: &str) -> String {
    exit::one_line(text).replace('&', "&amp;").replace('<', "&lt;").replace('|', "\\|").replace('`', "\\`")
}

/// A text of a run within backticks.
pub(super) fn code(text: &str) -> String {
    exit::one_line(text).replace('`', "'")
}

/// The section of one pair: a row for each run, the spread over seeds, and how each was made.
pub(super) fn describe(text: &mut String, pair: &str, methods: &[Method<'_>], real: &[&Row]) -> Result<()> {
    let rows = || methods.iter().flat_map(|method| method.rows.iter());
    let percent = |value: Option<f64>| value.map_or("–".into(), |value| format!("{:.2}", 100.0 * value));
    let last = |row: &Row| match row.averaged_rounds {
        1 => percent(row.last),
        rounds => format!("{} (mean of {rounds})", percent(row.last)),
    };
    writeln!(text, "\n## {}\n", cell(pair))?;
    if let Some(teacher) = rows().find_map(|row| row.teacher) {
        writeln!(text, "The teacher: {:.2} %.\n", 100.0 * teacher)?;
    }
    for row in real {
        writeln!(
            text,
            "The student's architecture, trained on real images and their labels: {} % after {} steps (`{}`).\n",
            percent(row.last),
            row.steps,
            code(&row.command)
        )?;
    }
    text.push_str(
        "| method | seed | last, % | last rounds, % | buffer | images | steps | device | synthesis, s | distillation, s | total, s | MiB |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows() {
        writeln!(
            text,
            "| {} | {} | {} | {} ± {} | {} | {} | {} | {} | {:.0} | {:.0} | {:.0} | {} |",
            cell(&row.method),
            row.seed,
            last(row),
            percent(row.last5_mean),
            percent(row.last5_std),
            row.buffer,
            row.distinct_images,
            row.steps,
            cell(&row.device),
            row.synthesis_s,
            row.distillation_s,
            row.total_s,
            row.peak_mib
        )?;
    }
    text.push('\n');
    for method in methods.iter().filter(|method| method.rows.len() > 1) {
        if let Some((mean, deviation)) = method.last() {
            let (mean, deviation) = (100.0 * mean, 100.0 * deviation);
            let (name, seeds) = (cell(&method.name), method.rows.iter().filter(|row| row.last.is_some()).count());
            let of = if method.rows.iter().any(|row| row.averaged_rounds > 1) { "results" } else { "last students" };
            writeln!(text, "{name}, the {of} of {seeds} seeds: **{mean:.2} ± {deviation:.2} %**\n")?;
        }
    }
    for row in rows() {
        writeln!(
            text,
            "- {}, seed {}: `{}` ({} test images; {}; {})",
            cell(&row.method),
            row.seed,
            code(&row.command),
            row.measured_on,
            cell(&row.machine),
            cell(&row.date)
        )?;
    }
    text.push('\n');
    Ok(())
}

/// Published figures of the pair, next to the best of ours: gaps to the teacher, in points.
pub(super) fn describe_published(
    text: &mut String,
    methods: &[Method<'_>],
    figures: &[&Published],
    about: &str,
) -> Result<()> {
    if figures.is_empty() {
        return Ok(());
    }
    writeln!(text, "Published figures; the best {MARKS} are rings in the chart over steps. {about}\n")?;
    text.push_str("| | teacher, % | student, % | gap | steps |\n|---|---|---|---|---|\n");
    let gap = |teacher: f64, student: f64| {
        format!("{:.2} | {:.2} | {:.2}", 100.0 * teacher, 100.0 * student, 100.0 * (teacher - student))
    };
    let best = methods.first().and_then(|method| Some((method, method.rows[0].teacher?, method.last()?.0)));
    if let Some((method, teacher, student)) = best {
        let (name, steps) = (cell(&method.name), method.rows[0].steps);
        writeln!(text, "| {name} (here) | {} | {steps} |", gap(teacher, student))?;
    }
    for Published { method, teacher, student, steps, batch, source, .. } in figures {
        let (name, address) = (cell(method), cell(source));
        writeln!(text, "| [{name}]({address}) | {} | {steps} of {batch} |", gap(*teacher, *student))?;
    }
    text.push('\n');
    Ok(())
}

/// Images of each method, as far as they were kept.
pub(super) fn describe_strips(text: &mut String, strips: &[(&Row, String)]) -> Result<()> {
    if !strips.is_empty() {
        text.push_str("\nThe newest images of the last buffer, two of each class:\n\n| method | images |\n|---|---|\n");
    }
    for (row, file) in strips {
        writeln!(text, "| {0} | ![{0}]({file}) |", cell(&row.method))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::compare::methods::methods;
    use crate::report::results::tests::{figure, result};

    #[test]
    fn seeds_are_summed_up_by_their_mean_and_sample_deviation() {
        let averaged = |seed| Row { averaged_rounds: 3, ..result("averaged", seed, 0.3) };
        let rows = [result("theirs", 0, 0.4), result("ours", 1, 0.6), result("ours", 0, 0.5), averaged(0), averaged(1)];
        let real = Row { steps: 77, ..result("labels", 0, 0.91) };
        let methods = methods(&rows.iter().collect::<Vec<_>>());
        let mut text = String::new();
        describe(&mut text, &rows[0].pair, &methods, &[&real]).unwrap();
        assert!(text.contains("ours, the last students of 2 seeds: **55.00 ± 7.07 %**"), "{text}");
        assert!(text.contains("91.00 % after 77 steps"), "{text}");
        assert!(!text.contains("theirs, the last"), "{text}");
        assert!(text.contains("| averaged | 0 | 30.00 (mean of 3) |"), "{text}");
        assert!(text.contains("averaged, the results of 2 seeds: **30.00 ± 0.00 %**"), "{text}");
        let order = ["| ours | 0 ", "| ours | 1 ", "| theirs | 0 "].map(|row| text.find(row).expect(row));
        assert!(order.is_sorted(), "the best method first, seeds in order: {text}");
    }

    #[test]
    fn texts_of_a_run_are_neither_html_nor_cells() {
        let hostile = Row { command: "ssdkd run `x`\n# y".into(), ..result("<script>|\u{1b}[31m`x`\n", 0, 0.5) };
        let mut text = String::new();
        describe(&mut text, "<b>", &methods(&[&hostile]), &[]).unwrap();
        assert!(
            text.contains("\n## &lt;b>\n") && text.contains("| &lt;script>\\|\u{fffd}[31m\\`x\\`\u{fffd} | 0 |"),
            "{text}"
        );
        assert!(text.contains("`ssdkd run 'x'\u{fffd}# y`"), "{text}");
    }

    #[test]
    fn published_figures_are_rows_with_their_gap() {
        let rows = [result("ours", 0, 0.85)];
        let methods = methods(&rows.iter().collect::<Vec<_>>());
        let mut text = String::new();
        describe_published(&mut text, &methods, &[&figure("Fast-10", 0.8929)], "Other teachers.").unwrap();
        assert!(text.contains("over steps. Other teachers.\n"), "{text}");
        assert!(text.contains("| ours (here) | 90.00 | 85.00 | 5.00 | 2 |"), "{text}");
        let row = "| [Fast-10](https://example.org/table) | 94.87 | 89.29 | 5.58 | 80000 of 256 |";
        assert!(text.contains(row), "{text}");
        text.clear();
        describe_published(&mut text, &methods, &[], "Other teachers.").unwrap();
        assert_eq!(text, "");
    }
}
