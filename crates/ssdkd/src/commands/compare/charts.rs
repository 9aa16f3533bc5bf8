//! The charts of one pair of networks.

use std::collections::BTreeMap;

use anyhow::Result;
use ssdkd_nn::{Architecture, Task};

use super::methods::{Method, charted, devices};
use super::slug;
use crate::report::histogram::BINS;
use crate::report::plot::{self, Line, Mark};
use crate::report::results::{Published, Row};

/// Most published figures in a chart.
pub(super) const MARKS: usize = 4;

/// Returns the charts of one pair: file names and SVG, or why there is none.
pub(super) fn charts(pair: &str, methods: &[Method<'_>], published: &[&Published]) -> Vec<(String, Result<String>)> {
    let teacher = pair.split(' ').next().and_then(|name| name.parse::<Architecture>().ok());
    let of_pixels = teacher.is_some_and(|teacher| teacher.task() == Task::Pixels);
    let accuracy = if of_pixels { "mean IoU, %" } else { "accuracy, %" };
    let all = charted(methods.iter());
    let over = |x: &str, methods: &[&Method<'_>], of: fn(&(u64, f64, f64)) -> f64, marks: &[Mark]| {
        let lines = methods.iter().flat_map(|method| {
            let curve = |row: &&Row| row.curve.iter().map(|point| (of(point), 100.0 * point.2)).collect();
            method.rows.iter().map(move |row| Line { name: &method.name, points: curve(row) })
        });
        plot::lines(pair, (x, accuracy), &lines.collect::<Vec<_>>(), marks)
    };
    let shares = |x: &str, width: f64, of: fn(&Row) -> Vec<f64>| {
        let panels = all.iter().map(|method| {
            let percent = of(method.rows[0]).into_iter().map(|share| 100.0 * share).collect();
            (method.name.as_str(), percent)
        });
        plot::panels(&format!("synthesized images: {pair}"), (x, "%"), width, &panels.collect::<Vec<_>>())
    };
    let marks = published.iter().take(MARKS).map(|figure| Mark {
        name: format!("{}, published (teacher {:.2} %)", figure.method, 100.0 * figure.teacher),
        at: (figure.steps as f64, 100.0 * figure.student),
    });
    let over_steps = over("distillation steps", &all, |point| point.0 as f64, &marks.collect::<Vec<_>>());
    let mut charts = vec![("steps".into(), over_steps)];
    // Seconds of a processor and of a GPU say nothing about each other.
    for device in devices(&methods.iter().map(|method| method.rows[0]).collect::<Vec<_>>()) {
        let there = charted(methods.iter().filter(|method| method.rows[0].device == device));
        let seconds = over(&format!("total seconds, {device}"), &there, |point| point.1, &[]);
        charts.push((format!("time-on-{device}"), seconds));
    }
    charts.extend([
        ("classes".into(), shares("teacher's class", 1.0, |row| row.made.shares().0)),
        ("confidence".into(), shares("teacher's confidence", 1.0 / BINS as f64, |row| row.made.shares().1)),
    ]);
    let by_buffer = by_buffer(methods);
    if !by_buffer.is_empty() {
        let lines = by_buffer.iter().map(|(name, points)| Line { name, points: points.clone() });
        let chart = plot::lines(pair, ("images in the buffer", accuracy), &lines.collect::<Vec<_>>(), &[]);
        charts.push(("buffer".into(), chart));
    }
    charts.into_iter().map(|(over, chart)| (format!("{}-over-{over}.svg", slug(pair)), chart)).collect()
}

/// Size of the buffer and mean accuracy, of each method that was run with several sizes.
pub(super) fn by_buffer<'a>(methods: &'a [Method<'_>]) -> BTreeMap<&'a str, Vec<(f64, f64)>> {
    let mut lines = BTreeMap::<&str, Vec<(f64, f64)>>::new();
    for method in methods {
        if let Some((last, _)) = method.last() {
            let row = method.rows[0];
            lines.entry(&method.family).or_default().push((row.buffer as f64, 100.0 * last));
        }
    }
    lines.retain(|_, points| points.len() > 1);
    for points in lines.values_mut() {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::compare::methods::methods;
    use crate::report::results::tests::{figure, result};

    #[test]
    fn sizes_of_the_buffer_make_a_line() {
        let small = Row { buffer: 512, ..result("ours", 0, 0.3) };
        let rows = [result("ours", 0, 0.5), small, result("ours", 1, 0.75), result("theirs", 0, 0.4)];
        let methods = methods(&rows.iter().collect::<Vec<_>>());
        let names = methods.iter().map(|method| method.name.as_str()).collect::<Vec<_>>();
        assert_eq!(names, ["ours, 5120 kept", "theirs", "ours, 512 kept"]);
        assert_eq!(by_buffer(&methods), BTreeMap::from([("ours", vec![(512.0, 30.0), (5120.0, 62.5)])]));
        let files = charts(&rows[0].pair, &methods, &[]).into_iter().map(|(file, _)| file).collect::<Vec<_>>();
        assert_eq!(files[0], "wrn-40-2-wrn-16-1-on-cifar10-over-steps.svg");
        assert_eq!(files[1], "wrn-40-2-wrn-16-1-on-cifar10-over-time-on-cpu.svg");
        assert_eq!(files[4], "wrn-40-2-wrn-16-1-on-cifar10-over-buffer.svg");
    }

    #[test]
    fn each_kind_of_device_has_its_own_lines_and_its_own_seconds() {
        let on_cuda = |row| Row { device: "cuda".into(), ..row };
        let small = on_cuda(Row { buffer: 512, ..result("ours", 0, 0.3) });
        let rows = [result("ours", 0, 0.5), on_cuda(result("ours", 0, 0.6)), small, result("theirs", 0, 0.4)];
        let methods = methods(&rows.iter().collect::<Vec<_>>());
        let names = methods.iter().map(|method| method.name.as_str()).collect::<Vec<_>>();
        assert_eq!(names, ["ours, cuda, 5120 kept", "ours, cpu", "theirs, cpu", "ours, cuda, 512 kept"]);
        assert_eq!(by_buffer(&methods), BTreeMap::from([("ours, cuda", vec![(512.0, 30.0), (5120.0, 60.0)])]));
        let charts = charts(&rows[0].pair, &methods, &[]);
        let chart = |end: &str| charts.iter().find(|(file, _)| file.ends_with(end)).expect(end).1.as_ref().unwrap();
        assert!(chart("over-time-on-cpu.svg").contains("theirs, cpu"));
        assert!(!chart("over-time-on-cuda.svg").contains("theirs, cpu"));
    }

    #[test]
    fn published_figures_are_rings_over_steps() {
        let rows = [result("ours", 0, 0.85)];
        let methods = methods(&rows.iter().collect::<Vec<_>>());
        let figures = [0.89, 0.88, 0.87, 0.86, 0.85].map(|student| figure("Fast-10", student));
        let charts = charts(&rows[0].pair, &methods, &figures.iter().collect::<Vec<_>>());
        let over_steps = charts[0].1.as_ref().unwrap();
        assert!(over_steps.contains("80000") && over_steps.matches("<circle").count() == MARKS, "{over_steps}");
        assert!(!charts[1].1.as_ref().unwrap().contains("<circle"), "its seconds are not known");
    }
}
