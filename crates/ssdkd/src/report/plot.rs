//! Pictures of numbers, as SVG.

use std::fmt::Display;

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use ssdkd_stage::exit;

/// A line of a chart: what it is called, and its points. Lines of one name have one color.
pub struct Line<'a> {
    pub name: &'a str,
    pub points: Vec<(f64, f64)>,
}

/// A point that stands for itself, drawn as a black ring.
pub struct Mark {
    pub name: String,
    pub at: (f64, f64),
}

/// The size of one chart, in pixels.
const SIZE: (u32, u32) = (760, 440);
const MARGIN: u32 = 12;
const LABELS: u32 = 48;
/// The width of the names to the right of a chart, the distance of their lines, and how many letters fit into a line, or above a panel.
const NAMES: u32 = 270;
const ENTRY: u32 = 19;
const LETTERS: usize = 36;
/// Colors of lines and of their names, dark enough for text on white; the first is that of bars.
const COLORS: [RGBColor; 8] = [
    RGBColor(31, 119, 180),
    RGBColor(214, 39, 40),
    RGBColor(44, 140, 44),
    RGBColor(148, 103, 189),
    RGBColor(200, 110, 0),
    RGBColor(140, 86, 75),
    RGBColor(200, 60, 150),
    RGBColor(0, 140, 150),
];
/// The lines that join names to what they name.
const LEADERS: RGBColor = RGBColor(190, 190, 190);
/// The size of one of several charts side by side, and how many stand in a row.
const PANEL: (u32, u32) = (250, 180);
const COLUMNS: usize = 4;

/// One chart: lines and marks over a common pair of axes. Names stand to the right, each joined to the end of its longest line or to its
/// mark. The vertical axis starts above 0 where all points are far from it.
pub fn lines(title: &str, (x, y): (&str, &str), lines: &[Line], marks: &[Mark]) -> Result<String> {
    let points = || lines.iter().flat_map(|line| finite(&line.points)).chain(marks.iter().map(|mark| mark.at));
    let most = |of: fn((f64, f64)) -> f64| points().map(of).fold(0.0, f64::max).max(1e-9);
    let (right, top) = (most(|point| point.0), most(|point| point.1));
    let lowest = points().map(|point| point.1).fold(top, f64::min);
    let bottom = if lowest > 0.75 * top { (2.0 * lowest - top).max(0.0) } else { 0.0 };
    let mut names = Vec::<(&str, (f64, f64))>::new(); // and where the longest line of the name ends
    let mut colors = Vec::with_capacity(lines.len());
    for line in lines {
        let end = finite(&line.points).fold((0.0, bottom), |end, point| if point.0 >= end.0 { point } else { end });
        let at = names.iter().position(|(name, _)| *name == line.name).unwrap_or(names.len());
        match names.get_mut(at) {
            Some((_, longest)) if longest.0 < end.0 => *longest = end,
            Some(_) => {}
            None => names.push((line.name, end)),
        }
        colors.push(at);
    }
    let color = |at: usize| if at < names.len() { COLORS[at % COLORS.len()] } else { BLACK };
    let named = names.iter().copied().chain(marks.iter().map(|mark| (mark.name.as_str(), mark.at)));
    let named = named.map(|(name, end)| (wrapped(name), end)).collect::<Vec<_>>();
    let heights = named.iter().map(|(name, _)| (ENTRY * name.len() as u32) as i32).collect::<Vec<_>>();
    let height = SIZE.1.max(2 * MARGIN + heights.iter().sum::<i32>() as u32);
    drawing((SIZE.0 + NAMES, height), |whole| {
        let (area, _) = whole.split_horizontally(SIZE.0);
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 18))
            .margin(MARGIN)
            .x_label_area_size(LABELS)
            .y_label_area_size(LABELS)
            .build_cartesian_2d(0.0..right, bottom..top + 0.05 * (top - bottom))
            .map_err(failed)?;
        let mut mesh = chart.configure_mesh();
        mesh.x_label_formatter(&|x| number(*x))
            .y_label_formatter(&|y| number(*y))
            .x_desc(x)
            .y_desc(y)
            .light_line_style(WHITE);
        mesh.draw().map_err(failed)?;
        for (line, &at) in lines.iter().zip(&colors) {
            let style = color(at).stroke_width(2);
            chart.draw_series(LineSeries::new(finite(&line.points), style)).map_err(failed)?;
        }
        chart.draw_series(marks.iter().map(|mark| Circle::new(mark.at, 4, BLACK))).map_err(failed)?;
        let ends = named.iter().map(|(_, end)| chart.plotting_area().map_coordinate(end)).collect::<Vec<_>>();
        let wanted = ends.iter().map(|end| end.1).collect::<Vec<_>>();
        let tops = apart(&wanted, &heights, MARGIN as i32..(height - MARGIN) as i32);
        for (at, ((name, _), (end, top))) in named.iter().zip(ends.iter().zip(tops)).enumerate() {
            let beside = (SIZE.0 as i32, top + ENTRY as i32 / 2);
            whole.draw(&PathElement::new([*end, beside], LEADERS)).map_err(failed)?;
            for (index, line) in name.iter().enumerate() {
                let at_line = (beside.0 + 4, top + 2 + (ENTRY as usize * index) as i32);
                let style = ("sans-serif", 13).into_font().color(&color(at));
                whole.draw(&Text::new(line.as_str(), at_line, style)).map_err(failed)?;
            }
        }
        Ok(())
    })
}

/// Returns where names of these heights start, such that none covers another. Each is centered on what it wants, as far as there is room.
fn apart(wanted: &[i32], heights: &[i32], room: std::ops::Range<i32>) -> Vec<i32> {
    let mut order = (0..wanted.len()).collect::<Vec<_>>();
    order.sort_by_key(|&name| wanted[name]);
    let mut tops = vec![0; wanted.len()];
    let mut free = room.start;
    for &name in &order {
        tops[name] = free.max(wanted[name] - heights[name] / 2);
        free = tops[name] + heights[name];
    }
    let mut end = room.end;
    for &name in order.iter().rev() {
        tops[name] = tops[name].min(end - heights[name]);
        end = tops[name];
    }
    tops
}

/// Returns a chart of bars `width` apart for each name, all over the same axes.
pub fn panels(title: &str, (x, y): (&str, &str), width: f64, panels: &[(&str, Vec<f64>)]) -> Result<String> {
    let columns = panels.len().clamp(1, COLUMNS);
    let rows = panels.len().div_ceil(columns).max(1);
    let top = panels.iter().flat_map(|(_, values)| values).copied().fold(0.0, f64::max).max(1e-9);
    let names = panels.iter().map(|(name, _)| wrapped(name)).collect::<Vec<_>>();
    let above = ENTRY * names.iter().map(Vec::len).max().unwrap_or(0) as u32;
    drawing((columns as u32 * PANEL.0, rows as u32 * (PANEL.1 + above) + LABELS), |area| {
        let area = area.titled(title, ("sans-serif", 18)).map_err(failed)?;
        for ((area, name), (_, values)) in area.split_evenly((rows, columns)).iter().zip(&names).zip(panels) {
            for (index, line) in name.iter().enumerate() {
                let at = (MARGIN as i32, (ENTRY * index as u32 + MARGIN / 2) as i32);
                area.draw(&Text::new(line.as_str(), at, ("sans-serif", 13))).map_err(failed)?;
            }
            let mut chart = ChartBuilder::on(&area.margin(above, 0, 0, 0))
                .margin(MARGIN / 2)
                .x_label_area_size(LABELS - MARGIN)
                .y_label_area_size(LABELS)
                .build_cartesian_2d(0.0..width * values.len().max(1) as f64, 0.0..1.05 * top)
                .map_err(failed)?;
            let mut mesh = chart.configure_mesh();
            mesh.x_label_formatter(&|x| number(*x)).y_label_formatter(&|y| number(*y));
            mesh.disable_x_mesh().x_labels(5).y_labels(4).x_desc(x).y_desc(y).light_line_style(WHITE);
            mesh.draw().map_err(failed)?;
            let bars = values.iter().enumerate().map(|(index, &value)| {
                let left = index as f64 * width;
                Rectangle::new([(left + 0.05 * width, 0.0), (left + 0.95 * width, value)], COLORS[0].filled())
            });
            chart.draw_series(bars).map_err(failed)?;
        }
        Ok(())
    })
}

/// One chart: a bar for each value, `labels` below.
pub fn bars(title: &str, (x, y): (&str, &str), labels: &[String], values: &[f64]) -> Result<String> {
    let top = values.iter().copied().fold(0.0, f64::max).max(1e-9);
    drawing(SIZE, |area| {
        let mut chart = ChartBuilder::on(area)
            .caption(title, ("sans-serif", 18))
            .margin(MARGIN)
            .x_label_area_size(LABELS)
            .y_label_area_size(LABELS)
            .build_cartesian_2d((0..values.len()).into_segmented(), 0.0..1.05 * top)
            .map_err(failed)?;
        let label = |at: &SegmentValue<usize>| match at {
            SegmentValue::CenterOf(at) => labels.get(*at).cloned().unwrap_or_default(),
            _ => String::new(),
        };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(values.len().min(20))
            .x_label_formatter(&label)
            .x_desc(x)
            .y_desc(y)
            .light_line_style(WHITE)
            .draw()
            .map_err(failed)?;
        let bars = Histogram::vertical(&chart)
            .style(COLORS[0].filled())
            .margin(2)
            .data(values.iter().enumerate().map(|(at, value)| (at, *value)));
        chart.draw_series(bars).map(drop).map_err(failed)
    })
}

/// Returns a name in lines that fit into a legend. A word that is longer has a line of its own.
fn wrapped(name: &str) -> Vec<String> {
    let mut lines = Vec::<String>::new();
    for word in name.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= LETTERS => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.into()),
        }
    }
    lines
}

/// Returns a number of an axis as people write it: 5000 and 0.1, not 5000.0 and 0.10000000000000001.
fn number(value: f64) -> String {
    format!("{}", (value * 1000.0).round() / 1000.0)
}

/// Returns the points that have a place on the axes.
fn finite(points: &[(f64, f64)]) -> impl Iterator<Item = (f64, f64)> {
    points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite())
}

fn drawing(
    size: (u32, u32),
    draw: impl FnOnce(&DrawingArea<SVGBackend, plotters::coord::Shift>) -> Result<()>,
) -> Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        draw(&area)?;
        area.present().map_err(failed)?;
    }
    // Names come from files, and XML has no control characters.
    Ok(exit::plain(&svg))
}

fn failed(error: impl Display) -> anyhow::Error {
    anyhow!("cannot draw the chart: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charts_say_what_they_show() {
        let line = |name| Line { name, points: vec![(0.0, 0.1), (10.0, 0.9)] };
        let mark = Mark { name: "published".into(), at: (20.0, 0.5) };
        let svg =
            lines("accuracy", ("seconds", "share"), &[line("ours"), line("theirs"), line("ours")], &[mark]).unwrap();
        for text in ["accuracy", "seconds", "share", "ours", "theirs", "polyline", "published", "circle", "20"] {
            assert!(svg.contains(text), "{text} is not in the chart");
        }
        assert_eq!(svg.matches("ours").count(), 1, "one entry for all lines of a name: {svg}");
        let svg =
            panels("classes", ("class", "share"), 0.5, &[("ours", vec![3.0, 1.0]), ("theirs", vec![2.0])]).unwrap();
        for text in ["classes", "class", "share", "ours", "theirs"] {
            assert!(svg.contains(text), "{text} is not in the chart");
        }
        let svg = bars("classes", ("class", "images"), &["cat".into(), "dog".into()], &[3.0, 1.0]).unwrap();
        for text in ["classes", "images", "cat", "dog"] {
            assert!(svg.contains(text), "{text} is not in the chart");
        }
    }

    #[test]
    fn names_stand_near_their_lines_and_apart_from_each_other() {
        assert_eq!(apart(&[300, 100, 104, 98], &[20; 4], 0..400), [290, 108, 128, 88]);
        let crowded = apart(&[395; 5], &[20; 5], 0..400);
        assert_eq!(crowded, [300, 320, 340, 360, 380]);
        assert_eq!(apart(&[5, 6], &[20, 40], 10..400), [10, 30]);
        assert!(apart(&[], &[], 0..400).is_empty());
    }

    #[test]
    fn long_names_are_in_the_picture_as_a_whole() {
        let name = "SSD-KD, from the teacher's blocks, 36,000 steps, a larger adversary";
        let lines_of_name = ["SSD-KD, from the teacher's blocks,", "36,000 steps, a larger adversary"];
        assert_eq!(wrapped(name), lines_of_name);
        let line = Line { name, points: vec![(0.0, 0.1), (10.0, 0.9)] };
        for svg in
            [lines("a", ("x", "y"), &[line], &[]).unwrap(), panels("a", ("x", "y"), 1.0, &[(name, vec![1.0])]).unwrap()]
        {
            assert!(!svg.contains(name) && svg.contains(lines_of_name[1]), "{svg}");
        }
        assert_eq!(wrapped(&"x".repeat(99)), ["x".repeat(99)]);
    }

    #[test]
    fn hundreds_of_bars_with_names_of_any_kind_are_drawn() {
        let names = (0..300).map(|class| format!("<{class}> & co")).collect::<Vec<_>>();
        let svg = bars("classes", ("class", "images"), &names, &[0.0; 300]).unwrap();
        assert!(svg.contains("&lt;0&gt; &amp; co") && !svg.contains("<0>"), "{svg}");
        let counts = (0..300).map(f64::from).collect::<Vec<_>>();
        assert!(bars("classes", ("class", "images"), &names, &counts).is_ok());
        assert!(panels("classes", ("class", "share"), 1.0, &[("ours", counts)]).is_ok());
    }

    #[test]
    fn one_point_and_no_numbers_are_drawn() {
        let line = |points| Line { name: "ours", points };
        assert!(lines("accuracy", ("steps", "%"), &[line(vec![(0.0, 0.0)])], &[]).is_ok());
        let wrong = vec![(f64::NAN, 1.0), (1.0, f64::INFINITY), (2.0, 3.0)];
        let svg = lines("accuracy", ("steps", "%"), &[line(wrong)], &[]).unwrap();
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn nothing_to_draw_is_an_empty_chart() {
        assert!(lines("none", ("x", "y"), &[], &[]).unwrap().contains("</svg>"));
        assert!(bars("none", ("x", "y"), &[], &[]).is_ok());
        assert!(panels("none", ("x", "y"), 1.0, &[]).is_ok());
        assert!(panels("none", ("x", "y"), 1.0, &[("nobody", vec![])]).is_ok());
    }
}
