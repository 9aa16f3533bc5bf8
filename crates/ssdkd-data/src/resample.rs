//! Resizes planes of 8 bit pixels with Pillow's filters.
//!
//! A pixel of the resized axis is a weighted mean of those under a filter. The filter is as wide as one pixel of the larger of both scales,
//! so that shrinking averages. Rows come first and are rounded to 8 bits, then columns. Weights are integers with 22 bits of fraction.
//! So the pixels are Pillow's to the bit, but where a height shrinks more than its width: there Pillow 13 takes the columns first, and pixels
//! differ by 1 of 255.

/// How the pixels of a resized image are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// The nearest pixel.
    Nearest,
    /// A triangle.
    Bilinear,
    /// The cubic of Keys with a = −½.
    Bicubic,
    /// Lanczos' window of three lobes.
    Lanczos,
}

/// A run of pixels of a resized axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    /// Pixels of the axis before.
    pub(crate) from: usize,
    /// Pixels of the axis after resizing, and the first of them that is wanted.
    pub(crate) to: usize,
    pub(crate) first: usize,
    /// How many are wanted.
    pub(crate) count: usize,
}

/// The pixels that one pixel is computed from, and their weights.
struct Taps {
    first: usize,
    weights: Vec<i64>,
}

/// Bits of the fraction of a weight.
const FRACTION: u32 = 22;

/// Resizes the plane (H, W), and returns the wanted rows and columns alone.
pub(crate) fn resample(plane: &[u8], rows: Span, columns: Span, filter: Filter) -> Vec<u8> {
    let (across, down) = (taps(columns, filter), taps(rows, filter));
    let first = down.iter().map(|taps| taps.first).min().unwrap_or(0);
    let last = down.iter().map(|taps| taps.first + taps.weights.len()).max().unwrap_or(0);
    let mut narrow = Vec::with_capacity((last - first) * columns.count);
    for row in plane[first * columns.from..last * columns.from].chunks_exact(columns.from) {
        narrow.extend(across.iter().map(|Taps { first, weights }| {
            let pixels = row[*first..].iter().zip(weights);
            rounded(pixels.map(|(&pixel, weight)| i64::from(pixel) * weight).sum())
        }));
    }
    let mut out = Vec::with_capacity(rows.count * columns.count);
    let mut sums = vec![0; columns.count];
    for taps in &down {
        sums.fill(0);
        let rows = narrow[(taps.first - first) * columns.count..].chunks_exact(columns.count);
        for (row, weight) in rows.zip(&taps.weights) {
            for (sum, &pixel) in sums.iter_mut().zip(row) {
                *sum += i64::from(pixel) * weight;
            }
        }
        out.extend(sums.iter().map(|&sum| rounded(sum)));
    }
    out
}

/// Returns a sum of weighted pixels as a pixel.
fn rounded(sum: i64) -> u8 {
    ((sum + (1 << (FRACTION - 1))) >> FRACTION).clamp(0, 255) as u8
}

/// Returns what each wanted pixel of an axis is computed from.
fn taps(span: Span, filter: Filter) -> Vec<Taps> {
    let Span { from, to, first, count } = span;
    let wanted = first..first + count;
    if from == to {
        return wanted.map(|at| Taps { first: at, weights: vec![1 << FRACTION] }).collect();
    }
    let (weight, support): (fn(f64) -> f64, f64) = match filter {
        Filter::Nearest => {
            // The pixel under the middle of the new one.
            let under = |at: usize| (2 * at + 1) * from / (2 * to);
            return wanted.map(|at| Taps { first: under(at), weights: vec![1 << FRACTION] }).collect();
        }
        Filter::Bilinear => (triangle, 1.0),
        Filter::Bicubic => (cubic, 2.0),
        Filter::Lanczos => (lanczos, 3.0),
    };
    let scale = from as f64 / to as f64;
    let width = scale.max(1.0);
    let of_pixel = |at: usize| {
        let center = (at as f64 + 0.5) * scale;
        let low = (center - support * width + 0.5).max(0.0) as usize;
        let high = ((center + support * width + 0.5) as usize).min(from);
        let mut weights = (low..high).map(|at| weight((at as f64 - center + 0.5) / width)).collect::<Vec<_>>();
        let total = weights.iter().sum::<f64>();
        if total != 0.0 {
            for weight in &mut weights {
                *weight /= total;
            }
        }
        let fixed = |weight: &f64| (weight * f64::from(1 << FRACTION)).round() as i64;
        Taps { first: low, weights: weights.iter().map(fixed).collect() }
    };
    wanted.map(of_pixel).collect()
}

fn triangle(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}

fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn lanczos(x: f64) -> f64 {
    if (-3.0..3.0).contains(&x) { sinc(x) * sinc(x / 3.0) } else { 0.0 }
}

fn sinc(x: f64) -> f64 {
    let x = x * std::f64::consts::PI;
    if x == 0.0 { 1.0 } else { x.sin() / x }
}
