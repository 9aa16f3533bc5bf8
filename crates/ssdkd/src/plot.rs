//! Pictures of numbers, as SVG.

use std::fmt::Display;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

/// A line of a chart: what it is called, and its points.
pub struct Line<'a> {
    pub name: &'a str,
    pub points: Vec<(f64, f64)>,
}

/// The size of one chart, in pixels.
const SIZE: (u32, u32) = (760, 440);
const MARGIN: u32 = 12;
const LABELS: u32 = 48;

/// One chart: lines over a common pair of axes, with a legend.
pub fn lines(title: &str, (x, y): (&str, &str), lines: &[Line]) -> Result<String> {
    let points = || lines.iter().flat_map(|line| line.points.iter());
    let most = |of: fn(&(f64, f64)) -> f64| points().map(of).fold(0.0, f64::max).max(1e-9);
    let (right, top) = (most(|point| point.0), most(|point| point.1));
    drawing(|area| {
        let mut chart = ChartBuilder::on(area)
            .caption(title, ("sans-serif", 18))
            .margin(MARGIN)
            .x_label_area_size(LABELS)
            .y_label_area_size(LABELS)
            .build_cartesian_2d(0.0..right, 0.0..1.05 * top)
            .map_err(failed)?;
        chart.configure_mesh().x_desc(x).y_desc(y).light_line_style(WHITE).draw().map_err(failed)?;
        for (index, line) in lines.iter().enumerate() {
            let colour = Palette99::pick(index).to_rgba();
            chart
                .draw_series(LineSeries::new(line.points.iter().copied(), colour.stroke_width(2)))
                .map_err(failed)?
                .label(line.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .draw()
            .map_err(failed)
    })
}

/// One chart: a bar for each value, `labels` below.
pub fn bars(title: &str, (x, y): (&str, &str), labels: &[String], values: &[f64]) -> Result<String> {
    let top = values.iter().copied().fold(0.0, f64::max).max(1e-9);
    drawing(|area| {
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
            .style(Palette99::pick(0).filled())
            .margin(2)
            .data(values.iter().enumerate().map(|(at, value)| (at, *value)));
        chart.draw_series(bars).map(drop).map_err(failed)
    })
}

fn drawing(draw: impl FnOnce(&DrawingArea<SVGBackend, plotters::coord::Shift>) -> Result<()>) -> Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        draw(&area)?;
        area.present().map_err(failed)?;
    }
    Ok(svg)
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
        let svg = lines("accuracy", ("seconds", "share"), &[line("ours"), line("theirs")]).unwrap();
        for text in ["accuracy", "seconds", "share", "ours", "theirs", "polyline"] {
            assert!(svg.contains(text), "{text} is not in the chart");
        }
        let svg = bars("classes", ("class", "images"), &["cat".into(), "dog".into()], &[3.0, 1.0]).unwrap();
        for text in ["classes", "images", "cat", "dog"] {
            assert!(svg.contains(text), "{text} is not in the chart");
        }
    }

    #[test]
    fn nothing_to_draw_is_an_empty_chart() {
        assert!(lines("none", ("x", "y"), &[]).unwrap().contains("</svg>"));
        assert!(bars("none", ("x", "y"), &[], &[]).is_ok());
    }
}
