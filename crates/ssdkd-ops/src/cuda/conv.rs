//! Convolutions and fully connected layers on a GPU.

use candle_core::{DType, Result, Tensor};
use cudarc::cublas::{result, sys::cublasOperation_t as Transposed};

use super::direct;
use super::dnn::{Direction, Operands};
use super::error::or_error;
use super::gpu::{Gpu, count};
use super::norm::sum_rows;
use super::padding::Padded;
use super::pointwise::{activated, activation_gradient};
use super::program::{Argument, arguments};
use super::settings::Stored;
use crate::activation::Activation;
use crate::conv::{ConvShape, Convolution, Transposed as TransposedConvolution};
use crate::value::Value;

/// As [`Convolution::record`], for tensors on a GPU.
pub(crate) fn record(conv: &Convolution, dims: &[usize]) -> Result<Value> {
    let Convolution { x, weight, packed, bias, residual, activation, shape, name } = *conv;
    let gpu = Gpu::of(x.tensor(), name)?;
    let stored = Stored::of(x.tensor(), name)?;
    let kernel = Kernel::new(&gpu, shape, stored, weight.tensor(), packed, name)?;
    let (out, at) = gpu.new_activations(stored, dims)?;
    kernel.forward(&gpu, gpu.activations(x.tensor(), stored, name)?, at)?;
    let inputs = [Some(x), Some(weight), bias, residual].into_iter().flatten().collect::<Vec<_>>();
    // What the activation's gradient takes: its output, or its input.
    let keeps_input = activation.needs_input() && inputs.iter().any(|input| input.wants_gradient());
    let fused = if keeps_input { Activation::None } else { activation };
    if bias.is_some() || residual.is_some() || fused != Activation::None {
        let bias = gpu.at_optional(bias.map(Value::tensor), name)?;
        let residual = gpu.optional_activations(residual.map(Value::tensor), stored, name)?;
        finish(&gpu, stored, [at, bias, residual], out.elem_count(), shape.output[2], fused)?;
    }
    let kept_out = (activation != Activation::None).then(|| out.clone());
    let out = if keeps_input { activated(name, &out, activation)? } else { out };

    // Each gradient needs the other factor, and no gradient needs its own.
    let kept_kernel = x.wants_gradient().then_some(kernel);
    let kept_x = weight.wants_gradient().then(|| x.tensor().clone());
    let (x_dims, weight_dims) = (x.dims().to_vec(), weight.dims().to_vec());
    let (wants_bias, wants_residual) = (bias.map(Value::wants_gradient), residual.map(Value::wants_gradient));
    Ok(Value::record1(out, &inputs, move |gradient: &Tensor| {
        let gpu = Gpu::of(gradient, name)?;
        let before = match &kept_out {
            Some(z) => activation_gradient(name, z, gradient, activation)?,
            None => gradient.clone(),
        };
        let gradient = gpu.activations(&before, stored, name)?;
        let mut gradients = vec![None, None];
        if let Some(kernel) = &kept_kernel {
            let (to_x, at) = gpu.new_activations(stored, &*x_dims)?;
            kernel.input_gradient(&gpu, gradient, at)?;
            gradients[0] = Some(to_x);
        }
        if let Some(x) = &kept_x {
            let x = gpu.activations(x, stored, name)?;
            gradients[1] = Some(weight_gradient(&gpu, shape, stored, x, gradient, &weight_dims)?);
        }
        if let Some(wants) = wants_bias {
            let rows = shape.batch * shape.output[0] * shape.output[1];
            let to_bias = wants.then(|| sum_rows(&gpu, stored, gradient, rows, shape.output[2]));
            gradients.push(to_bias.transpose()?);
        }
        if let Some(wants) = wants_residual {
            gradients.push(wants.then_some(before));
        }
        Ok(gradients)
    }))
}

/// A transposed convolution; see [`crate::conv_transpose2d`].
pub(crate) fn transposed(conv: &TransposedConvolution) -> Result<Value> {
    let TransposedConvolution { x, weight, bias, shape, name } = *conv;
    let (gpu, stored) = (Gpu::of(x.tensor(), name)?, Stored::of(x.tensor(), name)?);
    let kernel = Kernel::new(&gpu, shape, stored, weight.tensor(), None, name)?;
    let (out, at) = gpu.new_activations(stored, &conv.dims())?;
    kernel.input_gradient(&gpu, gpu.activations(x.tensor(), stored, name)?, at)?;
    let channels = shape.input[2];
    if let Some(bias) = bias {
        let bias = gpu.at(bias.tensor(), name)?;
        finish(&gpu, stored, [at, bias, 0], out.elem_count(), channels, Activation::None)?;
    }

    let kept_kernel = x.wants_gradient().then_some(kernel);
    let kept_x = weight.wants_gradient().then(|| x.tensor().clone());
    let (x_dims, weight_dims) = (x.dims().to_vec(), weight.dims().to_vec());
    let inputs = [Some(x), Some(weight), bias].into_iter().flatten().collect::<Vec<_>>();
    let wants_bias = bias.map(Value::wants_gradient);
    Ok(Value::record1(out, &inputs, move |gradient: &Tensor| {
        let gpu = Gpu::of(gradient, name)?;
        let numbers = gradient.elem_count();
        let gradient = gpu.activations(gradient, stored, name)?;
        let mut gradients = vec![None, None];
        if let Some(kernel) = &kept_kernel {
            let (to_x, at) = gpu.new_activations(stored, &*x_dims)?;
            kernel.forward(&gpu, gradient, at)?;
            gradients[0] = Some(to_x);
        }
        if let Some(x) = &kept_x {
            let x = gpu.activations(x, stored, name)?;
            gradients[1] = Some(weight_gradient(&gpu, shape, stored, gradient, x, &weight_dims)?);
        }
        if let Some(wants) = wants_bias {
            let to_bias = wants.then(|| sum_rows(&gpu, stored, gradient, numbers / channels, channels));
            gradients.push(to_bias.transpose()?);
        }
        Ok(gradients)
    }))
}

/// Whether this is a matrix product of `f32`: one pixel of one tap each.
fn is_linear(shape: &ConvShape, stored: Stored) -> bool {
    shape.kernel == [1, 1] && shape.input[1] == 1 && shape.spec == crate::Conv2dSpec::default() && stored == Stored::F32
}

/// A weight, in the layouts that the convolutions of a layer want.
struct Kernel {
    shape: ConvShape,
    stored: Stored,
    /// As PyTorch stores it: (O, C/groups, kh, kw).
    weight: Tensor,
    /// As [`pack_weight`] makes it, where that is something else.
    packed: Option<Tensor>,
    name: &'static str,
}

impl Kernel {
    fn new(
        gpu: &Gpu,
        shape: ConvShape,
        stored: Stored,
        weight: &Tensor,
        packed: Option<&Tensor>,
        name: &'static str,
    ) -> Result<Self> {
        let packed = match packed {
            // What was packed for convolutions that are stored in another way is of no use.
            Some(packed) if Stored::of(packed, name)? == stored => Some(packed.clone()),
            _ => pack(gpu, stored, weight, shape.in_per_group(), shape.taps(), name)?,
        };
        Ok(Self { shape, stored, weight: weight.clone(), packed, name })
    }

    fn forward(&self, gpu: &Gpu, x: u64, out: u64) -> Result<()> {
        let (shape, weight) = (&self.shape, gpu.at(&self.weight, self.name)?);
        if is_linear(shape, self.stored) {
            let [rows, inputs, outputs] = matrix(shape);
            let (yes, no) = (Transposed::CUBLAS_OP_T, Transposed::CUBLAS_OP_N);
            return product(gpu, (yes, no), [outputs, rows, inputs], (weight, inputs), (x, inputs), (out, outputs));
        }
        if shape.is_depthwise() {
            return direct::forward(gpu, shape, self.stored, x, weight, out);
        }
        let padded = Padded::of(gpu, shape, self.stored)?;
        let operands = Operands { x: padded.surround(gpu, x)?, weight: self.packed(gpu)?, y: out };
        if gpu.dnn().run(&padded.shape, self.stored, Direction::Forward, operands)? {
            return Ok(());
        }
        direct::forward(gpu, shape, self.stored, x, weight, out)
    }

    fn input_gradient(&self, gpu: &Gpu, gradient: u64, out: u64) -> Result<()> {
        let (shape, weight) = (&self.shape, gpu.at(&self.weight, self.name)?);
        if is_linear(shape, self.stored) {
            let [rows, inputs, outputs] = matrix(shape);
            let no = Transposed::CUBLAS_OP_N;
            return product(
                gpu,
                (no, no),
                [inputs, rows, outputs],
                (weight, inputs),
                (gradient, outputs),
                (out, inputs),
            );
        }
        if shape.is_depthwise() {
            return direct::input_gradient(gpu, shape, self.stored, gradient, weight, out);
        }
        let padded = Padded::of(gpu, shape, self.stored)?;
        let operands = Operands { x: padded.room(out), weight: self.packed(gpu)?, y: gradient };
        if gpu.dnn().run(&padded.shape, self.stored, Direction::Input, operands)? {
            return padded.cut(gpu, out);
        }
        direct::input_gradient(gpu, shape, self.stored, gradient, weight, out)
    }

    fn packed(&self, gpu: &Gpu) -> Result<u64> {
        gpu.activations(self.packed.as_ref().unwrap_or(&self.weight), self.stored, self.name)
    }
}

/// A weight (O, C/groups, kh, kw) as convolutions take it: (O, kh, kw, C/groups), stored as activations are, where that is
/// something else.
pub(crate) fn pack_weight(weight: &Tensor, activations: DType) -> Result<Option<Tensor>> {
    let name = "a convolution's weight";
    let (_, inputs, height, width) = weight.dims4()?;
    let stored = if activations == DType::BF16 { Stored::Bf16 } else { Stored::F32 };
    pack(&*Gpu::of(weight, name)?, stored, weight, inputs, height * width, name)
}

/// Whether a weight is the same in both orders.
fn is_one_order(inputs: usize, taps: usize) -> bool {
    taps == 1 || inputs == 1
}

fn pack(gpu: &Gpu, stored: Stored, weight: &Tensor, inputs: usize, taps: usize, name: &str) -> Result<Option<Tensor>> {
    if is_one_order(inputs, taps) && stored == Stored::F32 {
        return Ok(None);
    }
    let (packed, to) = gpu.new_activations(stored, weight.shape().clone())?;
    turn(gpu, stored, "pack_weight", gpu.at(weight, name)?, to, weight.elem_count(), [inputs, taps])?;
    Ok(Some(packed))
}

fn weight_gradient(
    gpu: &Gpu,
    shape: ConvShape,
    stored: Stored,
    x: u64,
    gradient: u64,
    dims: &[usize],
) -> Result<Tensor> {
    let (out, at) = gpu.tensor(dims)?;
    if is_linear(&shape, stored) {
        let [rows, inputs, outputs] = matrix(&shape);
        let (yes, no) = (Transposed::CUBLAS_OP_T, Transposed::CUBLAS_OP_N);
        product(gpu, (no, yes), [inputs, outputs, rows], (x, inputs), (gradient, outputs), (at, inputs))?;
        return Ok(out);
    }
    if shape.is_depthwise() {
        direct::depthwise_weight_gradient(gpu, &shape, stored, x, gradient, at)?;
        return Ok(out);
    }
    let (inputs, taps) = (shape.in_per_group(), shape.taps());
    let as_it_is = is_one_order(inputs, taps) && stored == Stored::F32;
    let (packed, to) = if as_it_is { (out.clone(), at) } else { gpu.new_activations(stored, dims)? };
    let padded = Padded::of(gpu, &shape, stored)?;
    let operands = Operands { x: padded.surround(gpu, x)?, weight: to, y: gradient };
    if !gpu.dnn().run(&padded.shape, stored, Direction::Weight, operands)? {
        direct::weight_gradient(gpu, &shape, stored, x, gradient, at)?;
    } else if !as_it_is {
        turn(gpu, stored, "unpack_weight", to, at, shape.weight_len(), [taps, inputs])?;
    }
    drop(packed);
    Ok(out)
}

/// Samples, features in and features out of a fully connected layer.
fn matrix(shape: &ConvShape) -> [usize; 3] {
    [shape.batch * shape.output[0], shape.input[2], shape.output[2]]
}

/// C (m × n) = A · B, column-major as cuBLAS has it; each matrix with the distance of its columns.
fn product(
    gpu: &Gpu,
    (a_transposed, b_transposed): (Transposed, Transposed),
    [m, n, k]: [usize; 3],
    (a, a_step): (u64, usize),
    (b, b_step): (u64, usize),
    (c, c_step): (u64, usize),
) -> Result<()> {
    let (one, zero) = (1.0_f32, 0.0_f32);
    // SAFETY: the addresses are those of tensors of these sizes; the factors are read during the call.
    let done = unsafe {
        result::sgemm(
            gpu.blas(),
            a_transposed,
            b_transposed,
            m as i32,
            n as i32,
            k as i32,
            &raw const one,
            a as *const f32,
            a_step as i32,
            b as *const f32,
            b_step as i32,
            &raw const zero,
            c as *mut f32,
            c_step as i32,
        )
    };
    or_error("a matrix product by cuBLAS", done)
}

/// Each of the matrices of rows × columns turned: weights from one layout to the other.
fn turn(
    gpu: &Gpu,
    stored: Stored,
    kernel: &'static str,
    from: u64,
    to: u64,
    numbers: usize,
    [rows, columns]: [usize; 2],
) -> Result<()> {
    let arguments = arguments![from, to, count(numbers), count(rows), count(columns)];
    gpu.launch_each_for(stored, kernel, numbers, arguments)
}

/// `out = activation(out + bias + residual)`, in place; 0 for what there is not.
fn finish(
    gpu: &Gpu,
    stored: Stored,
    [out, bias, residual]: [u64; 3],
    numbers: usize,
    channels: usize,
    activation: Activation,
) -> Result<()> {
    let function = super::Activation::from(activation);
    let four = channels.is_multiple_of(4) && (out | bias | residual).is_multiple_of(16);
    let (kernel, threads) = if four { ("finish_4", numbers / 4) } else { ("finish_1", numbers) };
    let arguments = arguments![out, bias, residual, count(numbers), count(channels), Argument::of(&function)];
    gpu.launch_each_for(stored, kernel, threads, arguments)
}
