//! Operations that compute: convolutions, norms, pools, activations, sums and products.

use std::rc::Rc;

use super::build::{Builder, Outcome};
use super::constant::{Arithmetic, Constant, Deviation, Origin, Scale};
use super::meaning::{Dim, Meaning};
use crate::averages::averages;
use crate::graph::NodeId;
use crate::op::{Activation, BatchNorm, Conv2d, ConvTranspose2d, Op, Pool, PoolKind, ResizeMethod, ResizeTo};
use crate::shape::Shape;

/// How a convolution steps; [`Pool`] is the same of poolings.
#[derive(Clone)]
pub(crate) struct Steps {
    pub stride: [usize; 2],
    pub padding: [usize; 4],
    pub dilation: [usize; 2],
    pub output_padding: [usize; 2],
    pub groups: usize,
}

/// Statistics and constants of a batch normalization.
pub(crate) struct Norm<'a> {
    pub scale: Option<&'a Constant>,
    pub bias: Option<&'a Constant>,
    pub mean: &'a Constant,
    pub variance: &'a Constant,
    pub eps: f64,
    pub momentum: f64,
}

/// Returns the constant that an argument has to be.
pub(crate) fn constant<'a>(meaning: &'a Meaning, what: &str) -> Result<&'a Constant, String> {
    match meaning {
        Meaning::Constant(constant) => Ok(constant),
        _ => Err(format!("its {what} is not a tensor of the file")),
    }
}

/// Returns the constant that an argument may be.
pub(crate) fn optional<'a>(meaning: &'a Meaning, what: &str) -> Result<Option<&'a Constant>, String> {
    match meaning {
        Meaning::Nothing => Ok(None),
        meaning => constant(meaning, what).map(Some),
    }
}

impl Builder {
    /// Returns the name of a bias; one of zeros is none.
    fn bias(&mut self, bias: Option<&Constant>, channels: usize) -> Result<Option<String>, String> {
        match bias {
            None => Ok(None),
            Some(bias) if bias.scalar() == Some(0.0) && bias.dims.len() <= 1 && bias.count()? == channels => Ok(None),
            Some(bias) => self.tensor(bias, &[channels], bias.trained).map(Some),
        }
    }

    pub fn conv2d(
        &mut self,
        name: &str,
        x: &Meaning,
        weight: &Constant,
        bias: Option<&Constant>,
        steps: &Steps,
    ) -> Outcome {
        let x = self.value(x)?;
        let dims = weight.dims.clone();
        let outputs = *dims.first().ok_or("its weight has no dimensions")?;
        let bias = self.bias(bias, outputs)?;
        let weight = self.tensor(weight, &dims, weight.trained)?;
        let Steps { stride, padding, dilation, groups, .. } = *steps;
        self.push(name, Op::Conv2d(Conv2d { weight, bias, stride, padding, dilation, groups }), &[x])
    }

    pub fn conv_transpose2d(
        &mut self,
        name: &str,
        x: &Meaning,
        weight: &Constant,
        bias: Option<&Constant>,
        steps: &Steps,
    ) -> Outcome {
        let x = self.value(x)?;
        let dims = weight.dims.clone();
        let Steps { stride, padding, dilation, output_padding, groups } = *steps;
        let per_group = *dims.get(1).ok_or("its weight has too few dimensions")?;
        let bias = self.bias(bias, per_group.saturating_mul(groups))?;
        let weight = self.tensor(weight, &dims, weight.trained)?;
        let conv = ConvTranspose2d { weight, bias, stride, padding, output_padding, dilation, groups };
        self.push(name, Op::ConvTranspose2d(conv), &[x])
    }

    pub fn batch_norm(&mut self, name: &str, x: &Meaning, norm: &Norm<'_>) -> Outcome {
        let x = self.value(x)?;
        let channels = self.shape(x).channels();
        // A normalization without factor and sum gets ones and zeros, as PyTorch treats it.
        let filled = |value, what: &str| Constant::fill(&format!("{name}.{what}"), value, &[channels]);
        let (ones, zeros) = (filled(1.0, "weight"), filled(0.0, "bias"));
        let (scale, bias) = (norm.scale.unwrap_or(&ones), norm.bias.unwrap_or(&zeros));
        let running_mean = self.tensor(norm.mean, &[channels], false)?;
        let count = match running_mean.strip_suffix("running_mean") {
            Some(prefix) => format!("{prefix}num_batches_tracked"),
            None => format!("{running_mean}.num_batches_tracked"),
        };
        self.graph.declare(&count, &[], false).map_err(|error| error.to_string())?;
        let op = BatchNorm {
            weight: self.tensor(scale, &[channels], scale.trained)?,
            bias: self.tensor(bias, &[channels], bias.trained)?,
            running_mean,
            running_var: self.tensor(norm.variance, &[channels], false)?,
            num_batches_tracked: count,
            eps: norm.eps,
            momentum: norm.momentum,
        };
        self.push(name, Op::BatchNorm(op), &[x])
    }

    /// Returns `x · weightᵀ + bias`, of rows.
    pub fn linear(&mut self, name: &str, x: &Meaning, weight: &Constant, bias: Option<&Constant>) -> Outcome {
        let x = self.value(x)?;
        let dims = weight.dims.clone();
        let outputs = *dims.first().ok_or("its weight has no dimensions")?;
        let bias = self.bias(bias, outputs)?;
        let weight = self.tensor(weight, &dims, weight.trained)?;
        self.push(name, Op::Linear { weight, bias }, &[x])
    }

    pub fn activation(&mut self, name: &str, x: &Meaning, activation: Activation) -> Outcome {
        let x = self.value(x)?;
        self.push(name, Op::Activation(activation), &[x])
    }

    /// x limited to an interval, either end of which may be open.
    pub fn clip(&mut self, name: &str, x: &Meaning, min: f64, max: f64) -> Outcome {
        let (lowest, highest) = (f64::from(f32::MIN), f64::from(f32::MAX));
        let activation = if min == 0.0 && max >= highest {
            Activation::Relu
        } else if min <= lowest && max >= highest {
            return Ok(x.clone());
        } else {
            Activation::Clip { min: min.max(lowest) as f32, max: max.min(highest) as f32 }
        };
        self.activation(name, x, activation)
    }

    pub fn prelu(&mut self, name: &str, x: &Meaning, slope: &Constant) -> Outcome {
        let x = self.value(x)?;
        let channels = self.shape(x).channels();
        let sizes = if slope.count()? == 1 { [1] } else { [channels] };
        let weight = self.tensor(slope, &sizes, slope.trained)?;
        self.push(name, Op::Activation(Activation::Prelu { weight }), &[x])
    }

    /// Arithmetic of values, constants and whole numbers.
    pub fn arithmetic(&mut self, name: &str, a: &Meaning, b: &Meaning, kind: Arithmetic) -> Outcome {
        match (a, b) {
            (Meaning::Whole(a), Meaning::Whole(b)) => a.zip(b, |a, b| kind.of_whole(a, b)).map(Meaning::Whole),
            (Meaning::Constant(a), Meaning::Constant(b)) => {
                let origin = Origin::of(a, b, kind);
                let result = a.zip(b, name, |a, b| kind.of(a, b), &mut self.budget)?;
                Ok(Meaning::Constant(result.computed(origin)))
            }
            (Meaning::Constant(constant), x) => match kind {
                Arithmetic::Add | Arithmetic::Mul => self.with_constant(name, x, constant, kind),
                Arithmetic::Sub => {
                    let minus = Constant::fill(&format!("{name}.minus"), -1.0, &[]);
                    let negative = self.with_constant(&format!("{name}.minus"), x, &minus, Arithmetic::Mul)?;
                    self.with_constant(name, &negative, constant, Arithmetic::Add)
                }
                Arithmetic::Div => Err("it divides by a value".into()),
            },
            (x, Meaning::Constant(constant)) => self.with_constant(name, x, constant, kind),
            _ => {
                let (a, mut b) = (self.value(a)?, self.value(b)?);
                let op = match kind {
                    Arithmetic::Add => Op::Add,
                    Arithmetic::Mul => Op::Mul,
                    Arithmetic::Sub => {
                        let minus = Constant::fill(&format!("{name}.minus"), -1.0, &[]);
                        let negative = format!("{name}.minus");
                        let negative = self.with_constant(&negative, &Meaning::Value(b), &minus, Arithmetic::Mul)?;
                        b = self.value(&negative)?;
                        Op::Add
                    }
                    Arithmetic::Div => return Err("it divides by a value".into()),
                };
                self.push(name, op, &[a, b])
            }
        }
    }

    /// Returns a value and a constant: one number for everything, or one for each channel.
    fn with_constant(&mut self, name: &str, x: &Meaning, constant: &Constant, kind: Arithmetic) -> Outcome {
        let x = self.value(x)?;
        let neutral = if matches!(kind, Arithmetic::Add | Arithmetic::Sub) { 0.0 } else { 1.0 };
        let (channels, rank) = match self.shape(x) {
            Shape::Map { channels, .. } => (channels, 4),
            Shape::Rows { features } => (features, 2),
        };
        let offset = rank - constant.dims.len().min(rank);
        let along_channels =
            constant.dims.iter().enumerate().all(|(axis, &size)| size == 1 || axis + offset == 1 && size == channels);
        let single = constant.dims.iter().all(|&size| size == 1);
        if constant.dims.len() > rank || !(along_channels || single) {
            return Err(format!("it combines a value with a constant of sizes {:?}", constant.dims));
        }
        if constant.scalar() == Some(neutral) {
            return Ok(Meaning::Value(x));
        }
        if let Some(normalized) = self.frozen_norm(name, x, constant, kind)? {
            return Ok(normalized);
        }
        let origin = constant.origin.clone();
        let constant = match kind {
            Arithmetic::Sub => constant.map(&format!("{name}.shift"), |number| -number, &mut self.budget)?,
            Arithmetic::Div => constant.map(&format!("{name}.scale"), |number| 1.0 / number, &mut self.budget)?,
            _ => constant.clone(),
        };
        let constant = match constant.scalar() {
            Some(number) => Constant::fill(&constant.name, number, &[channels]),
            None => constant,
        };
        let tensor = Some(self.tensor(&constant, &[channels], constant.trained)?);
        let op = match kind {
            Arithmetic::Add | Arithmetic::Sub => Op::Affine { scale: None, shift: tensor },
            Arithmetic::Mul | Arithmetic::Div => Op::Affine { scale: tensor, shift: None },
        };
        let node = self.node(name, op, &[x])?;
        if let (Arithmetic::Mul, Some(Origin::Scale(scale))) = (kind, origin.as_deref()) {
            self.scaled.insert(node, scale.clone());
        }
        Ok(Meaning::Value(node))
    }

    /// Returns the normalization whose product `x` is and whose sum `shift` is, if they are.
    fn frozen_norm(
        &mut self,
        name: &str,
        x: NodeId,
        shift: &Constant,
        kind: Arithmetic,
    ) -> Result<Option<Meaning>, String> {
        let (Arithmetic::Add, Some(Origin::Shift(frozen))) = (kind, shift.origin.as_deref()) else { return Ok(None) };
        let same = |scale: &Rc<Scale>| Rc::ptr_eq(scale, &frozen.scale);
        if !self.scaled.get(&x).is_some_and(same) {
            return Ok(None);
        }
        let Deviation { variance, eps } = &frozen.scale.deviation;
        let norm = Norm {
            scale: Some(&frozen.scale.weight),
            bias: Some(&frozen.bias),
            mean: &frozen.mean,
            variance,
            eps: *eps,
            momentum: 0.1,
        };
        let source = self.graph.node(x).inputs[0];
        self.batch_norm(name, &Meaning::Value(source), &norm).map(Some)
    }

    pub fn max_pool(&mut self, name: &str, x: &Meaning, pool: Pool) -> Outcome {
        let x = self.value(x)?;
        self.push(name, Op::MaxPool(pool), &[x])
    }

    pub fn avg_pool(&mut self, name: &str, x: &Meaning, pool: Pool, count_padding: bool) -> Outcome {
        let x = self.value(x)?;
        self.push(name, Op::AvgPool { pool, count_padding }, &[x])
    }

    pub fn adaptive_pool(&mut self, name: &str, x: &Meaning, kind: PoolKind, size: [usize; 2]) -> Outcome {
        let x = self.value(x)?;
        // For one pixel there is nothing to do, at any size of images.
        if self.shape(x).size() == [1, 1] && size == [1, 1] && matches!(self.shape(x), Shape::Map { .. }) {
            return Ok(Meaning::Value(x));
        }
        self.push(name, Op::AdaptivePool { kind, size }, &[x])
    }

    /// A product of maps with a matrix of means: from the left over the rows of pixels (windows, height), from the right over the columns
    /// (width, windows). That is an adaptive pooling.
    pub fn averaged(&mut self, name: &str, x: &Meaning, matrix: &Constant, is_left: bool) -> Outcome {
        let refused = || "it multiplies pixels with a matrix that does not average them".to_string();
        let x = self.value(x)?;
        let Shape::Map { height, width, .. } = self.shape(x) else { return Err(refused()) };
        let (size, windows) = match *matrix.dims {
            [windows, size] if is_left && size == height => (size, windows),
            [size, windows] if !is_left && size == width => (size, windows),
            _ => return Err(refused()),
        };
        // As many numbers as the matrix has are made to compare it.
        self.budget.take(matrix.count()?)?;
        let wanted = averages(size, windows);
        let numbers = matrix.materialized(&mut self.budget)?;
        let at = |window: usize, pixel: usize| {
            if is_left { numbers[window * size + pixel] } else { numbers[pixel * windows + window] }
        };
        let differs = |(index, &number): (usize, &f32)| (at(index / size, index % size) - number).abs() > 1e-6;
        if wanted.iter().enumerate().any(differs) {
            return Err(refused());
        }
        let size = if is_left { [windows, width] } else { [height, windows] };
        self.push(name, Op::AdaptivePool { kind: PoolKind::Average, size }, &[x])
    }

    /// Returns the mean or the largest number along axes: only global pooling is possible.
    pub fn reduce(&mut self, name: &str, x: &Meaning, axes: &[i64], keep: bool, kind: PoolKind) -> Outcome {
        let rank = self.dims(x)?.len();
        let axes = axes.iter().map(|&axis| super::build::normal_axis(axis, rank)).collect::<Result<Vec<_>, _>>()?;
        let source = match x {
            // All pixels as one axis.
            Meaning::View(view)
                if axes == [2]
                    && rank == 3
                    && view.order == [0, 1, 2]
                    && view.dims[1] == Dim::Fixed(self.shape(view.source).channels() as i64) =>
            {
                view.source
            }
            _ if rank == 4 && (axes == [2, 3] || axes == [3, 2]) => self.value(x)?,
            _ => return Err(format!("it reduces the axes {axes:?} of {rank}")),
        };
        if !matches!(self.shape(source), Shape::Map { .. }) || keep && rank == 3 {
            return Err(format!("it reduces the axes {axes:?} of {rank}"));
        }
        if keep {
            return self.adaptive_pool(name, &Meaning::Value(source), kind, [1, 1]);
        }
        let pooled = self.adaptive_pool(&format!("{name}.pool"), &Meaning::Value(source), kind, [1, 1])?;
        let pooled = self.value(&pooled)?;
        self.push(name, Op::Flatten, &[pooled])
    }

    pub fn resize(&mut self, name: &str, x: &Meaning, size: ResizeTo, method: ResizeMethod) -> Outcome {
        let x = self.value(x)?;
        self.push(name, Op::Resize { size, method }, &[x])
    }

    pub fn softmax(&mut self, name: &str, x: &Meaning, axis: i64, log: bool) -> Outcome {
        if self.axis(x, axis)? != 1 {
            return Err(format!("it is a softmax along axis {axis}, not along the classes"));
        }
        let x: NodeId = self.value(x)?;
        self.push(name, Op::Softmax { log }, &[x])
    }
}
