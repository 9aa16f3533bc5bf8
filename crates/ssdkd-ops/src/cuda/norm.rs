//! Batch normalisation on a GPU: what [`crate::norm`] says, in two launches forward and two back; the running
//! statistics of training are a third.

use candle_core::{Result, Tensor};

use super::gpu::{BLOCK, Gpu, count};
use super::pointwise::activated;
use super::program::{Argument, arguments};
use super::settings::Stored;
use crate::activation::Activation;
use crate::norm::BatchMoments;
use crate::value::Value;

/// Groups of channels that the counters suffice for, times the channels of one. The generator's first layer has a bias of 401,408
/// numbers for images of 224×224.
const MOST_CHANNELS: usize = 1 << 20;

/// The arguments that all normalisations share, checked.
#[derive(Clone, Copy)]
pub(crate) struct Layer<'a> {
    pub(crate) operation: &'static str,
    pub(crate) x: &'a Value,
    pub(crate) gamma: &'a Value,
    pub(crate) beta: &'a Value,
    pub(crate) residual: Option<&'a Value>,
    pub(crate) activation: Activation,
    pub(crate) eps: f64,
}

/// How the rows of activations (rows, C) are cut into blocks: `Lanes` of `kernels/norm.cu`.
struct Cut {
    stored: Stored,
    rows: usize,
    channels: usize,
    /// Whether four channels are read at once.
    four: bool,
    /// Groups of channels.
    groups: u32,
    /// Rows that a block takes at once.
    down: u32,
}

impl Cut {
    fn new(operation: &str, stored: Stored, rows: usize, channels: usize, addresses: &[u64]) -> Result<Self> {
        let four = channels.is_multiple_of(4) && addresses.iter().all(|address| address.is_multiple_of(16));
        Self::by(operation, stored, rows, channels, four)
    }

    /// For kernels that read one channel at once.
    fn by_one(operation: &str, rows: usize, channels: usize) -> Result<Self> {
        Self::by(operation, Stored::F32, rows, channels, false)
    }

    fn by(operation: &str, stored: Stored, rows: usize, channels: usize, four: bool) -> Result<Self> {
        if channels > MOST_CHANNELS {
            candle_core::bail!("{operation}: {channels} channels are too many for a GPU, at most {MOST_CHANNELS}");
        }
        let packs = count(channels) / if four { 4 } else { 1 };
        let across = packs.min(BLOCK);
        Ok(Self { stored, rows, channels, four, groups: packs.div_ceil(across), down: BLOCK / across })
    }

    /// Starts the first kernel where four channels are read at once, else the second.
    fn launch(
        &self,
        gpu: &Gpu,
        [four, one]: [&'static str; 2],
        grid: (u32, u32),
        arguments: &[Argument],
    ) -> Result<()> {
        gpu.launch_for(self.stored, if self.four { four } else { one }, grid, arguments)
    }

    /// The grid of a pass that writes: enough threads to hide the latency of memory, few enough to spread the constants.
    fn wide(&self, gpu: &Gpu) -> (u32, u32) {
        let steps = count(self.rows).div_ceil(self.down);
        (steps.div_ceil(2).min((16 * gpu.blocks()).div_ceil(self.groups)).max(1), self.groups)
    }

    /// The grid of a pass that reduces: no more blocks than are computed at once, as one of them adds up their sums.
    fn narrow(&self, gpu: &Gpu) -> (u32, u32) {
        let steps = count(self.rows).div_ceil(self.down);
        (steps.div_ceil(4).min((2 * gpu.blocks()).div_ceil(self.groups)).max(1), self.groups)
    }
}

/// A normalisation as the kernels have it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Norm {
    gamma: u64,
    beta: u64,
    mean: u64,
    variance: u64,
    eps: f64,
    activation: super::Activation,
}

/// How x's gradient depends on each of its numbers, as the kernels have it.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Line {
    mean: u64,
    slope: u64,
    offset: u64,
    slopes: f64,
    offsets: f64,
}

/// Where the statistics came from, which decides how x's gradient depends on them.
enum Statistics {
    /// From the batch: gradients flow through them.
    Batch,
    /// From earlier batches: constants.
    Running,
    /// Constants, while the batch's own mean and variance are outputs with gradients.
    Tapped(Tensor),
}

/// Where the activation's input is read from, see [`crate::norm`]; the kernels number them so.
enum Gate {
    Open,
    Input,
    Output(Tensor),
}

/// What a normalisation keeps for its gradients.
struct Saved {
    operation: &'static str,
    activation: Activation,
    eps: f64,
    gamma: Tensor,
    beta: Tensor,
    mean: Tensor,
    variance: Tensor,
    statistics: Statistics,
    x: Option<Tensor>,
    gate: Gate,
    wants_x: bool,
    wants_gamma: bool,
    wants_beta: bool,
    /// Whether there is a residual, and whether its gradient is wanted.
    residual: Option<bool>,
}

impl Layer<'_> {
    fn channels(&self) -> usize {
        self.gamma.tensor().elem_count()
    }

    fn rows(&self) -> usize {
        self.x.tensor().elem_count() / self.channels()
    }

    fn stored(&self) -> Result<Stored> {
        Stored::of(self.x.tensor(), self.operation)
    }

    fn norm(&self, gpu: &Gpu, mean: &Tensor, variance: &Tensor) -> Result<Norm> {
        let activation = if self.keeps_sum() { Activation::None } else { self.activation };
        norm(gpu, self.operation, [self.gamma.tensor(), self.beta.tensor(), mean, variance], self.eps, activation)
    }

    /// Whether the sum before the activation is kept for the gradient; see [`crate::norm`].
    fn keeps_sum(&self) -> bool {
        let takes_sum = self.activation.needs_input() && self.residual.is_some();
        takes_sum && self.inputs().iter().any(|input| input.wants_gradient())
    }

    /// The output, from what a normalisation made, and what its gradient passes the activation by.
    fn activate(&self, made: Tensor) -> Result<(Tensor, Tensor)> {
        if !self.keeps_sum() {
            return Ok((made.clone(), made));
        }
        Ok((activated(self.operation, &made, self.activation)?, made))
    }

    /// What the gradients will need, and no more. `made` is the output, or the sum before the activation.
    fn saved(&self, made: Tensor, mean: &Tensor, variance: &Tensor, statistics: Statistics) -> Saved {
        let (wants_x, wants_gamma) = (self.x.wants_gradient(), self.gamma.wants_gradient());
        let takes_x = self.activation.needs_input() && self.residual.is_none();
        let keeps_x = match statistics {
            Statistics::Batch | Statistics::Tapped(_) => wants_x || wants_gamma || takes_x,
            Statistics::Running => wants_gamma || takes_x,
        };
        let gate = match (self.activation, self.residual) {
            (Activation::None, _) => Gate::Open,
            (_, None) if keeps_x => Gate::Input,
            _ => Gate::Output(made),
        };
        Saved {
            operation: self.operation,
            activation: self.activation,
            eps: self.eps,
            gamma: self.gamma.tensor().clone(),
            beta: self.beta.tensor().clone(),
            mean: mean.clone(),
            variance: variance.clone(),
            statistics,
            x: keeps_x.then(|| self.x.tensor().clone()),
            gate,
            wants_x,
            wants_gamma,
            wants_beta: self.beta.wants_gradient(),
            residual: self.residual.map(Value::wants_gradient),
        }
    }

    fn inputs(&self) -> Vec<&Value> {
        [self.x, self.gamma, self.beta].into_iter().chain(self.residual).collect()
    }

    /// `activation(x · scale + shift + residual)`.
    fn normalise(&self, gpu: &Gpu, mean: &Tensor, variance: &Tensor) -> Result<Tensor> {
        let (operation, stored) = (self.operation, self.stored()?);
        let x = gpu.activations(self.x.tensor(), stored, operation)?;
        let residual = gpu.optional_activations(self.residual.map(Value::tensor), stored, operation)?;
        let (out, to) = gpu.new_activations(stored, self.x.tensor().shape().clone())?;
        let cut = Cut::new(operation, stored, self.rows(), self.channels(), &[x, residual])?;
        let norm = self.norm(gpu, mean, variance)?;
        let arguments = arguments![x, residual, to, count(cut.rows), count(cut.channels), Argument::of(&norm)];
        cut.launch(gpu, ["normalise_4", "normalise_1"], cut.wide(gpu), arguments)?;
        Ok(out)
    }
}

fn norm(
    gpu: &Gpu,
    operation: &str,
    [gamma, beta, mean, variance]: [&Tensor; 4],
    eps: f64,
    activation: Activation,
) -> Result<Norm> {
    let [gamma, beta] = [gpu.at(gamma, operation)?, gpu.at(beta, operation)?];
    let [mean, variance] = [gpu.at(mean, operation)?, gpu.at(variance, operation)?];
    Ok(Norm { gamma, beta, mean, variance, eps, activation: activation.into() })
}

/// Mean (C,) and biased variance (C,) of `x` (…, C).
fn moments(gpu: &Gpu, operation: &str, x: &Tensor, channels: usize) -> Result<(Tensor, Tensor)> {
    let stored = Stored::of(x, operation)?;
    let at = gpu.activations(x, stored, operation)?;
    let (mean, mean_at) = gpu.tensor(channels)?;
    let (variance, variance_at) = gpu.tensor(channels)?;
    let cut = Cut::new(operation, stored, x.elem_count() / channels, channels, &[at])?;
    let arguments =
        arguments![at, count(cut.rows), count(channels), gpu.scratch(), gpu.counters(), mean_at, variance_at];
    cut.launch(gpu, ["moments_4", "moments_1"], cut.narrow(gpu), arguments)?;
    Ok((mean, variance))
}

/// The mean (K,) of probabilities (rows, K) over rows, in `f64`.
pub(super) fn mean_probabilities(
    gpu: &Gpu,
    operation: &str,
    probabilities: &Tensor,
    (rows, classes): (usize, usize),
) -> Result<(Tensor, u64)> {
    let (mean, to) = gpu.tensor_of::<f64>(classes)?;
    let cut = Cut::by_one(operation, rows, classes)?;
    let at = gpu.at(probabilities, operation)?;
    let arguments = arguments![at, count(rows), count(classes), gpu.scratch(), gpu.counters(), to];
    gpu.launch("mean_probabilities", cut.narrow(gpu), arguments)?;
    Ok((mean, to))
}

/// Σ over rows (C,): the gradient of a bias.
pub(super) fn sum_rows(gpu: &Gpu, stored: Stored, x: u64, rows: usize, channels: usize) -> Result<Tensor> {
    let (out, to) = gpu.tensor(channels)?;
    let cut = Cut::new("the gradient of a bias", stored, rows, channels, &[x])?;
    let arguments = arguments![x, count(rows), count(channels), gpu.scratch(), gpu.counters(), to];
    cut.launch(gpu, ["sum_rows_4", "sum_rows_1"], cut.narrow(gpu), arguments)?;
    Ok(out)
}

pub(crate) fn batch_norm_train(layer: Layer) -> Result<(Value, BatchMoments)> {
    let gpu = Gpu::of(layer.x.tensor(), layer.operation)?;
    let (mean, variance) = moments(&gpu, layer.operation, layer.x.tensor(), layer.channels())?;
    let (out, made) = layer.activate(layer.normalise(&gpu, &mean, &variance)?)?;
    let saved = layer.saved(made, &mean, &variance, Statistics::Batch);
    let out = Value::record1(out, &layer.inputs(), move |grad| saved.gradients(Some(grad), None));
    Ok((out, BatchMoments { mean, variance, count: layer.rows() }))
}

pub(crate) fn batch_norm_eval(layer: Layer, mean: &Tensor, variance: &Tensor) -> Result<Value> {
    let gpu = Gpu::of(layer.x.tensor(), layer.operation)?;
    let (out, made) = layer.activate(layer.normalise(&gpu, mean, variance)?)?;
    let saved = layer.saved(made, mean, variance, Statistics::Running);
    Ok(Value::record1(out, &layer.inputs(), move |grad| saved.gradients(Some(grad), None)))
}

pub(crate) fn batch_norm_tapped(layer: Layer, mean: &Tensor, variance: &Tensor) -> Result<(Value, Value, Value)> {
    let (operation, stored) = (layer.operation, layer.stored()?);
    let gpu = Gpu::of(layer.x.tensor(), operation)?;
    let x = gpu.activations(layer.x.tensor(), stored, operation)?;
    let residual = gpu.optional_activations(layer.residual.map(Value::tensor), stored, operation)?;
    let (out, to) = gpu.new_activations(stored, layer.x.tensor().shape().clone())?;
    let cut = Cut::new(operation, stored, layer.rows(), layer.channels(), &[x, residual])?;
    let (tap_mean, mean_at) = gpu.tensor(cut.channels)?;
    let (tap_variance, variance_at) = gpu.tensor(cut.channels)?;
    let norm = layer.norm(&gpu, mean, variance)?;
    let arguments = arguments![
        x,
        residual,
        to,
        count(cut.rows),
        count(cut.channels),
        Argument::of(&norm),
        gpu.scratch(),
        gpu.counters(),
        mean_at,
        variance_at
    ];
    cut.launch(&gpu, ["normalise_tapped_4", "normalise_tapped_1"], cut.narrow(&gpu), arguments)?;

    let tapped = layer.x.wants_gradient();
    let (out, made) = layer.activate(out)?;
    let saved = layer.saved(made, mean, variance, Statistics::Tapped(tap_mean.clone()));
    let outputs = [out, tap_mean, tap_variance];
    let [out, mean, variance] = Value::record(outputs, &layer.inputs(), move |grads| {
        let (mean, variance) = (grads[1].as_ref(), grads[2].as_ref());
        let taps = (mean.is_some() || variance.is_some()).then_some((mean, variance));
        saved.gradients(grads[0].as_ref(), taps)
    });
    // The statistics depend on x alone.
    Ok(if tapped { (out, mean, variance) } else { (out, mean.detach(), variance.detach()) })
}

pub(crate) fn channel_moments(operation: &'static str, x: &Value, channels: usize) -> Result<(Value, Value)> {
    let gpu = Gpu::of(x.tensor(), operation)?;
    let (mean, variance) = moments(&gpu, operation, x.tensor(), channels)?;
    let (kept, middle) = (x.tensor().clone(), mean.clone());
    let [mean, variance] = Value::record([mean, variance], &[x], move |grads| {
        let gpu = Gpu::of(&kept, operation)?;
        let line = of_taps(&gpu, operation, &kept, &middle, grads[0].as_ref(), grads[1].as_ref())?;
        let stored = Stored::of(&kept, operation)?;
        let at = gpu.activations(&kept, stored, operation)?;
        let cut = Cut::new(operation, stored, kept.elem_count() / channels, channels, &[at])?;
        Ok(vec![Some(input_gradient(&gpu, operation, &cut, None, Some(&kept), (0, 0), NOTHING, line, &kept)?)])
    });
    Ok((mean, variance))
}

/// How the mean and the variance of x depend on each of its numbers: 1/N, and 2 (x − mean) / N.
fn of_taps(
    gpu: &Gpu,
    operation: &str,
    x: &Tensor,
    middle: &Tensor,
    mean: Option<&Tensor>,
    variance: Option<&Tensor>,
) -> Result<Line> {
    let rows = (x.elem_count() / middle.elem_count()) as f64;
    Ok(Line {
        mean: gpu.at(middle, operation)?,
        slope: gpu.at_optional(variance, operation)?,
        offset: gpu.at_optional(mean, operation)?,
        slopes: 2.0 / rows,
        offsets: 1.0 / rows,
    })
}

/// No normalisation: for gradients of the line alone.
const NOTHING: Norm = Norm {
    gamma: 0,
    beta: 0,
    mean: 0,
    variance: 0,
    eps: 0.0,
    activation: super::Activation { kind: 0, numbers: [0.0; 2] },
};

/// x's gradient, of the shape of `like`: that through the normalisation, if `grad` arrived, and the line.
#[expect(clippy::too_many_arguments, reason = "the kernel's")]
fn input_gradient(
    gpu: &Gpu,
    operation: &str,
    cut: &Cut,
    grad: Option<u64>,
    x: Option<&Tensor>,
    (gate, gated): (u64, i32),
    norm: Norm,
    line: Line,
    like: &Tensor,
) -> Result<Tensor> {
    let (out, to) = gpu.new_activations(cut.stored, like.shape().clone())?;
    let x = gpu.optional_activations(x, cut.stored, operation)?;
    let arguments = arguments![
        grad.unwrap_or(0),
        x,
        gate,
        gated,
        count(cut.rows),
        count(cut.channels),
        Argument::of(&norm),
        Argument::of(&line),
        to
    ];
    cut.launch(gpu, ["norm_backward_4", "norm_backward_1"], cut.wide(gpu), arguments)?;
    Ok(out)
}

impl Saved {
    /// One entry for each input of the operation, from the gradient of the output and those of the tapped mean and
    /// variance.
    fn gradients(
        &self,
        grad: Option<&Tensor>,
        taps: Option<(Option<&Tensor>, Option<&Tensor>)>,
    ) -> Result<Vec<Option<Tensor>>> {
        let operation = self.operation;
        let gpu = Gpu::of(&self.gamma, operation)?;
        let channels = self.gamma.elem_count();
        let Some(like) = grad.or(self.x.as_ref()) else {
            return Ok([None, None, None].into_iter().chain(self.residual.map(|_| None)).collect());
        };
        let mut line = Line::default();
        if let (Statistics::Tapped(middle), Some((mean, variance)), Some(x)) = (&self.statistics, taps, &self.x) {
            line = of_taps(&gpu, operation, x, middle, mean, variance)?;
        }
        let stored = Stored::of(like, operation)?;
        let x_at = gpu.optional_activations(self.x.as_ref(), stored, operation)?;
        let grad_at = gpu.optional_activations(grad, stored, operation)?;
        let (mut gate, mut gated) = match &self.gate {
            Gate::Open => (0, 0),
            Gate::Input => (0, 1),
            Gate::Output(output) => (gpu.activations(output, stored, operation)?, 2),
        };
        let cut = Cut::new(operation, stored, like.elem_count() / channels, channels, &[x_at, grad_at, gate])?;
        let Some(grad) = grad else {
            // Only the statistics were used.
            let line = (line.mean != 0 && self.wants_x)
                .then(|| input_gradient(&gpu, operation, &cut, None, self.x.as_ref(), (0, 0), NOTHING, line, like));
            return Ok([line.transpose()?, None, None].into_iter().chain(self.residual.map(|_| None)).collect());
        };
        let norm =
            norm(&gpu, operation, [&self.gamma, &self.beta, &self.mean, &self.variance], self.eps, self.activation)?;

        // The residual's gradient is what lies before the activation: written once, it also spares the second pass the
        // gate.
        let writes_before = self.residual == Some(true) && self.activation != Activation::None;
        let through_batch = matches!(self.statistics, Statistics::Batch);
        let (mut gamma, mut beta, mut before, mut lines) = (None, None, None, None);
        if self.wants_gamma || self.wants_beta || (self.wants_x && through_batch) || writes_before {
            let made = |wanted: bool, make: &dyn Fn() -> Result<(Tensor, u64)>| -> Result<(Option<Tensor>, u64)> {
                if !wanted {
                    return Ok((None, 0));
                }
                let (tensor, at) = make()?;
                Ok((Some(tensor), at))
            };
            let for_channels = || gpu.tensor(channels);
            let (written, before_at) = made(writes_before, &|| gpu.new_activations(stored, like.shape().clone()))?;
            let (to_gamma, gamma_at) = made(self.wants_gamma, &for_channels)?;
            let (to_beta, beta_at) = made(self.wants_beta, &for_channels)?;
            let (slope, slope_at) = made(through_batch && self.wants_x, &for_channels)?;
            let (offset, offset_at) = made(through_batch && self.wants_x, &for_channels)?;
            let arguments = arguments![
                grad_at,
                x_at,
                gate,
                gated,
                count(cut.rows),
                count(channels),
                Argument::of(&norm),
                gpu.scratch(),
                gpu.counters(),
                before_at,
                gamma_at,
                beta_at,
                slope_at,
                offset_at
            ];
            cut.launch(&gpu, ["norm_reduce_4", "norm_reduce_1"], cut.narrow(&gpu), arguments)?;
            (gamma, beta, before) = (to_gamma, to_beta, written);
            if slope_at != 0 {
                line = Line { mean: norm.mean, slope: slope_at, offset: offset_at, slopes: 1.0, offsets: 1.0 };
                lines = Some((slope, offset));
            }
        }
        let mut passed = grad_at;
        if let Some(before) = &before {
            (gate, gated) = (0, 0);
            passed = gpu.activations(before, stored, operation)?;
        }
        let to_x = self.wants_x.then(|| {
            // A line without a mean is none, and needs no x.
            let x = self.x.as_ref().filter(|_| line.mean != 0 || gated == 1);
            input_gradient(&gpu, operation, &cut, Some(passed), x, (gate, gated), norm, line, grad)
        });
        let to_x = to_x.transpose()?;
        drop(lines);
        let residual = match self.residual {
            None => None,
            Some(false) => Some(None),
            Some(true) if self.activation == Activation::None => Some(Some(grad.clone())),
            Some(true) => Some(before),
        };
        Ok([to_x, gamma, beta].into_iter().chain(residual).collect())
    }
}

/// See [`Running::follow`](crate::Running::follow).
pub(crate) fn follow(running: &crate::Running, moments: &BatchMoments, unbiased: f64, momentum: f64) -> Result<()> {
    let operation = "running statistics";
    let gpu = Gpu::of(running.mean, operation)?;
    for (running, batch) in [(running.mean, &moments.mean), (running.variance, &moments.variance)] {
        crate::vectorised::check_same_shape(operation, running, batch)?;
        crate::vectorised::check_separate(operation, &[running, batch])?;
    }
    if running.batches.elem_count() != 1 {
        candle_core::bail!("{operation}: the count of batches is one number, not {:?}", running.batches.dims());
    }
    let [mean, variance] = [gpu.at(running.mean, operation)?, gpu.at(running.variance, operation)?];
    let [of_batch, spread] = [gpu.at(&moments.mean, operation)?, gpu.at(&moments.variance, operation)?];
    let (batches, channels) = (gpu.address::<i64>(running.batches, operation)?, moments.mean.elem_count());
    let arguments =
        arguments![mean, variance, batches, of_batch, spread, count(channels), unbiased as f32, momentum as f32];
    gpu.launch_each("follow", channels, arguments)
}

/// Weight and bias with the normalisation folded in; see [`crate::fold_batch_norm`].
pub(crate) fn fold(
    weight: &Tensor,
    bias: Option<&Tensor>,
    norm: crate::FrozenNorm,
    outputs: usize,
) -> Result<(Tensor, Tensor)> {
    let operation = "fold_batch_norm";
    let gpu = Gpu::of(weight, operation)?;
    let each = weight.elem_count() / outputs;
    let (folded, to) = gpu.tensor(weight.shape().clone())?;
    let (shift, shift_at) = gpu.tensor(outputs)?;
    let (weight, bias) = (gpu.at(weight, operation)?, gpu.at_optional(bias, operation)?);
    let [gamma, beta] = [gpu.at(norm.gamma, operation)?, gpu.at(norm.beta, operation)?];
    let [mean, variance] = [gpu.at(norm.mean, operation)?, gpu.at(norm.variance, operation)?];
    let arguments =
        arguments![weight, bias, gamma, beta, mean, variance, to, shift_at, count(outputs), count(each), norm.eps];
    gpu.launch_each("fold_norm", outputs * each, arguments)?;
    Ok((folded, shift))
}
