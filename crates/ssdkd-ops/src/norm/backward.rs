//! The gradients of a normalisation: at most one pass that reduces, and one that writes.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::Affine;
use super::kernels::{
    Gate, Line, add_gradients, before_activation, draw_line, fold, scale_gradients, scale_gradients_and_line,
};
use super::moments::Moments;
use crate::activation::{Activation, with_activation};
use crate::device;
use crate::simd::SimdPath;
use crate::vectorised::{pattern, pattern_piece_rows};

/// Where the statistics came from, which decides how x's gradient depends on them.
pub(super) enum Statistics {
    /// From the batch: gradients flow through them.
    Batch,
    /// From earlier batches: constants.
    Running,
    /// Constants, while the batch's own are outputs with gradients.
    Tapped(Moments),
}

/// Where the activation's input is read from.
pub(super) enum GateSource {
    /// There is no activation.
    Open,
    /// Recomputed from x.
    Input,
    /// The output, which tells as much; or the input itself.
    Output(Tensor),
}

/// What a normalisation keeps for its gradients.
pub(super) struct Saved {
    pub(super) operation: &'static str,
    pub(super) activation: Activation,
    pub(super) affine: Affine,
    pub(super) statistics: Statistics,
    pub(super) x: Option<Tensor>,
    pub(super) gate: GateSource,
    pub(super) wants_x: bool,
    pub(super) wants_gamma: bool,
    pub(super) wants_beta: bool,
    /// Whether there is a residual, and whether its gradient is wanted.
    pub(super) residual: Option<bool>,
}

/// A gradient on its way back through the activation.
#[derive(Clone, Copy)]
struct Flow<'a> {
    activation: Activation,
    gate: Gate<'a>,
    grad: &'a [f32],
}

impl<'a> Flow<'a> {
    fn part(&self, at: usize, len: usize) -> Self {
        let gate = Gate { numbers: &self.gate.numbers[at..at + len], ..self.gate };
        Self { gate, grad: &self.grad[at..at + len], ..*self }
    }

    /// The same with the activation already passed.
    fn passed(self, grad: &'a [f32]) -> Self {
        Self { activation: Activation::None, gate: Gate { numbers: grad, ..self.gate }, grad }
    }
}

/// Σ dz and Σ dz · (x − mean) of every channel.
struct Sums {
    before: Vec<f64>,
    products: Vec<f64>,
}

impl Saved {
    /// One entry for each input of the operation, from the gradient of the output and those of the tapped mean and
    /// variance.
    pub(super) fn gradients(
        &self,
        grad: Option<&Tensor>,
        taps: Option<(Option<&Tensor>, Option<&Tensor>)>,
    ) -> Result<Vec<Option<Tensor>>> {
        let Some(grad) = grad else {
            // Only the statistics were used.
            let x = match (taps, &self.statistics, &self.x) {
                (Some((mean, variance)), Statistics::Tapped(moments), Some(x)) => {
                    Some(line_gradient(self.operation, x, moments, mean, variance)?)
                }
                _ => None,
            };
            return Ok([x, None, None].into_iter().chain(self.residual.map(|_| None)).collect());
        };
        let path = SimdPath::current()?;
        let channels = self.affine.mean.len();
        let shape = grad.shape();
        let numbers = device::slice(grad, self.operation)?;
        let x = self.x.as_ref().map(|x| device::slice(x, self.operation)).transpose()?;
        let output = match &self.gate {
            GateSource::Output(output) => Some(device::slice(output, self.operation)?),
            _ => None,
        };
        let (ones, zeros) = (pattern(channels, |_| 1.0), pattern(channels, |_| 0.0));
        let gate = match (&self.gate, &output, &x) {
            (GateSource::Output(_), Some(output), _) => Gate { numbers: output, scale: &ones, shift: &zeros },
            (GateSource::Input, _, Some(x)) => {
                Gate { numbers: x, scale: &self.affine.scale, shift: &self.affine.shift }
            }
            _ => Gate { numbers: &numbers, scale: &ones, shift: &zeros },
        };
        let flow = Flow { activation: self.activation, gate, grad: &numbers };
        if flow.grad.len() != flow.gate.numbers.len() {
            bail!("{}: a gradient of shape {:?} arrived for an output of another shape", self.operation, grad.dims());
        }

        // The residual's gradient is what lies before the activation: written once, it also spares the second pass the
        // gate.
        let wants_residual = self.residual == Some(true);
        let mut before = Vec::new();
        if wants_residual && self.activation != Activation::None {
            before = device::unspecified(flow.grad.len());
        }
        let through_batch = matches!(self.statistics, Statistics::Batch);
        let reduces = self.wants_gamma || self.wants_beta || (self.wants_x && through_batch);
        let sums = if reduces || !before.is_empty() {
            Some(self.reduce(path, flow, x.as_deref(), &mut before, reduces))
        } else {
            None
        };
        let flow = if before.is_empty() { flow } else { flow.passed(&before) };

        let dx =
            if self.wants_x { Some(self.gradient_of_x(path, flow, x.as_deref(), sums.as_ref(), taps)?) } else { None };
        let per_channel = |wanted: bool, f: &dyn Fn(&Sums, usize) -> f64| match &sums {
            Some(sums) if wanted => {
                Some(device::tensor((0..channels).map(|c| f(sums, c) as f32).collect(), channels)).transpose()
            }
            _ => Ok(None),
        };
        let gamma = per_channel(self.wants_gamma, &|sums, c| sums.products[c] * self.affine.inverse_deviation[c])?;
        let beta = per_channel(self.wants_beta, &|sums, c| sums.before[c])?;
        let dx = dx.map(|dx| device::tensor(dx, shape)).transpose()?;
        let residual = match self.residual {
            None => None,
            Some(false) => Some(None),
            Some(true) if self.activation == Activation::None => Some(Some(grad.clone())),
            Some(true) => Some(Some(device::tensor(before, shape)?)),
        };
        Ok([dx, gamma, beta].into_iter().chain(residual).collect())
    }

    /// The pass that reduces; it also fills `before`, unless that is empty, with the gradient before the activation.
    fn reduce(&self, path: SimdPath, flow: Flow, x: Option<&[f32]>, before: &mut [f32], reduces: bool) -> Sums {
        let channels = self.affine.mean.len();
        let mean = pattern(channels, |c| self.affine.mean[c] as f32);
        let piece = pattern_piece_rows(channels) * channels;
        let work = |index: usize, before: &mut [f32]| {
            let at = index * piece;
            let len = piece.min(flow.grad.len() - at);
            let mut flow = flow.part(at, len);
            if !before.is_empty() {
                with_activation!(flow.activation, |r| before_activation(path, flow.gate, flow.grad, before, r));
                flow = flow.passed(before);
            }
            let (mut sums, mut products) = (vec![0.0; mean.len()], vec![0.0; mean.len()]);
            if reduces {
                // Without x only beta's sums are wanted, and the products may be anything.
                let x = x.map_or(flow.grad, |x| &x[at..at + len]);
                with_activation!(flow.activation, |r| {
                    add_gradients(path, flow.gate, flow.grad, x, &mean, &mut sums, &mut products, r);
                });
            }
            Sums { before: fold(channels, &sums), products: fold(channels, &products) }
        };
        let pieces: Vec<Sums> = if before.is_empty() {
            (0..flow.grad.len().div_ceil(piece)).into_par_iter().map(|index| work(index, &mut [])).collect()
        } else {
            before.par_chunks_mut(piece).enumerate().map(|(index, before)| work(index, before)).collect()
        };
        let mut total = Sums { before: vec![0.0; channels], products: vec![0.0; channels] };
        for piece in pieces {
            for c in 0..channels {
                total.before[c] += piece.before[c];
                total.products[c] += piece.products[c];
            }
        }
        total
    }

    /// The pass that writes x's gradient.
    fn gradient_of_x(
        &self,
        path: SimdPath,
        flow: Flow,
        x: Option<&[f32]>,
        sums: Option<&Sums>,
        taps: Option<(Option<&Tensor>, Option<&Tensor>)>,
    ) -> Result<Vec<f32>> {
        let channels = self.affine.mean.len();
        let rows = flow.grad.len() / channels;
        let factor = &self.affine.scale;
        let lines = match (&self.statistics, sums, taps) {
            // dx = a · (dz − mean(dz) − x̂ · mean(dz · x̂)), a = gamma / deviation, x̂ = (x − mean) / deviation
            (Statistics::Batch, Some(sums), _) => Some(Lines {
                mean: pattern(channels, |c| self.affine.mean[c] as f32),
                slope: pattern(channels, |c| {
                    let inverse = self.affine.inverse_deviation[c];
                    (-f64::from(factor[c]) * inverse * inverse * sums.products[c] / rows as f64) as f32
                }),
                offset: pattern(channels, |c| (-f64::from(factor[c]) * sums.before[c] / rows as f64) as f32),
            }),
            (Statistics::Tapped(moments), _, Some((mean, variance))) => {
                Some(Lines::of_taps(self.operation, moments, mean, variance)?)
            }
            _ => None,
        };
        let piece = pattern_piece_rows(channels) * channels;
        let mut out = device::unspecified(flow.grad.len());
        out.par_chunks_mut(piece).enumerate().for_each(|(index, out)| {
            let at = index * piece;
            let flow = flow.part(at, out.len());
            let (gate, grad) = (flow.gate, flow.grad);
            if let (Some(lines), Some(x)) = (&lines, x) {
                let (x, line) = (&x[at..at + out.len()], lines.line());
                with_activation!(flow.activation, |f| {
                    scale_gradients_and_line(path, gate, grad, factor, x, line, out, f);
                });
            } else {
                with_activation!(flow.activation, |f| scale_gradients(path, gate, grad, factor, out, f));
            }
        });
        Ok(out)
    }
}

/// The patterns behind a [`Line`].
struct Lines {
    mean: Vec<f32>,
    slope: Vec<f32>,
    offset: Vec<f32>,
}

impl Lines {
    /// How the mean and the variance of x depend on each of its numbers: 1/N, and 2 (x − mean) / N.
    fn of_taps(operation: &str, moments: &Moments, mean: Option<&Tensor>, variance: Option<&Tensor>) -> Result<Self> {
        let channels = moments.mean.len();
        let numbers = |grad: Option<&Tensor>| match grad {
            Some(grad) => Ok(device::slice(grad, operation)?.to_vec()),
            None => Result::Ok(vec![0.0; channels]),
        };
        let (mean, variance, rows) = (numbers(mean)?, numbers(variance)?, moments.rows as f64);
        Ok(Self {
            mean: pattern(channels, |c| moments.mean[c] as f32),
            slope: pattern(channels, |c| (2.0 * f64::from(variance[c]) / rows) as f32),
            offset: pattern(channels, |c| (f64::from(mean[c]) / rows) as f32),
        })
    }

    fn line(&self) -> Line<'_> {
        Line { mean: &self.mean, slope: &self.slope, offset: &self.offset }
    }
}

/// x's gradient from those of its mean and variance alone.
pub(super) fn line_gradient(
    operation: &str,
    x: &Tensor,
    moments: &Moments,
    mean: Option<&Tensor>,
    variance: Option<&Tensor>,
) -> Result<Tensor> {
    let path = SimdPath::current()?;
    let channels = moments.mean.len();
    let lines = Lines::of_taps(operation, moments, mean, variance)?;
    let numbers = device::slice(x, operation)?;
    let mut out = device::unspecified(numbers.len());
    let piece = pattern_piece_rows(channels) * channels;
    let pieces = numbers.par_chunks(piece).zip(out.par_chunks_mut(piece));
    pieces.for_each(|(x, out)| draw_line(path, x, lines.line(), out));
    drop(numbers);
    device::tensor(out, x.shape())
}
