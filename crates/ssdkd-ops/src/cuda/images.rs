//! Operations on images on a GPU: every number of a result is gathered by a thread of its own.

use candle_core::{Result, Tensor};

use super::gpu::{Gpu, count};
use super::program::{Argument, arguments};
use super::settings::Stored;
use crate::augment::CropFlip;
use crate::images::Images;
use crate::separable::Separable;
use crate::value::Value;

/// As the kernels have it.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Image {
    height: u32,
    width: u32,
    channels: u32,
}

impl Image {
    /// Numbers in one image.
    pub(super) fn size(&self) -> usize {
        self.height as usize * self.width as usize * self.channels as usize
    }
}

impl From<[usize; 3]> for Image {
    fn from([height, width, channels]: [usize; 3]) -> Self {
        Self { height: count(height), width: count(width), channels: count(channels) }
    }
}

impl From<Images> for Image {
    fn from(images: Images) -> Self {
        Self { height: count(images.height), width: count(images.width), channels: count(images.channels) }
    }
}

/// Images of shape `to`, made from those of `x` by a kernel of (x, out, n, more…).
fn make(operation: &str, kernel: &'static str, x: &Tensor, to: Images, more: &[Argument]) -> Result<Tensor> {
    let (gpu, stored) = (Gpu::of(x, operation)?, Stored::of(x, operation)?);
    let (out, at) = gpu.new_activations(stored, to.dims())?;
    let n = out.elem_count();
    let mut arguments = arguments![gpu.activations(x, stored, operation)?, at, count(n)].to_vec();
    arguments.extend_from_slice(more);
    gpu.launch_each_for(stored, kernel, n, &arguments)?;
    Ok(out)
}

pub(crate) fn gather_images(operation: &str, images: &[(&Tensor, usize)], to: Images) -> Result<Tensor> {
    let gpu = Gpu::of(images[0].0, operation)?;
    let mut words = Vec::with_capacity(2 * images.len());
    for &(tensor, place) in images {
        let address = gpu.at(tensor, operation)? + (place * to.size() * size_of::<f32>()) as u64;
        words.extend([address as u32, (address >> 32) as u32]);
    }
    let (_words, from) = gpu.upload(&words)?;
    let (out, at) = gpu.tensor(to.dims())?;
    let n = out.elem_count();
    gpu.launch_each("gather", n, arguments![from, at, count(n), count(to.size())])?;
    Ok(out)
}

pub(crate) fn global_avg_pool(operation: &'static str, x: &Value, from: Images) -> Result<Value> {
    let to = Images { height: 1, width: 1, ..from };
    let sizes = [count(from.height * from.width), count(from.channels)];
    let out = make(operation, "global_avg_pool", x.tensor(), to, arguments![sizes[0], sizes[1]])?;
    let out = out.reshape((from.batch, from.channels))?;
    Ok(Value::record1(out, &[x], move |grad| {
        let grad = make(operation, "global_avg_pool_backward", grad, from, arguments![sizes[0], sizes[1]])?;
        Ok(vec![Some(grad)])
    }))
}

/// As the kernels have it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Windows {
    from: Image,
    to: Image,
    /// Down, across; above, before.
    kernel: [u32; 2],
    stride: [u32; 2],
    padding: [u32; 2],
}

impl From<crate::pool::Windows> for Windows {
    fn from(windows: crate::pool::Windows) -> Self {
        let [kernel, stride, padding] = [windows.kernel, windows.stride, windows.before].map(|sizes| sizes.map(count));
        Self { from: windows.from.into(), to: windows.to.into(), kernel, stride, padding }
    }
}

/// A map of images that treats rows and columns apart; see [`crate::separable`].
pub(crate) fn separable(operation: &str, map: &Separable, x: &Tensor, from: Images, to: Images) -> Result<Tensor> {
    let gpu = Gpu::of(x, operation)?;
    let (_words, tables) = gpu.upload(&map.rows.words().chain(map.columns.words()).collect::<Vec<_>>())?;
    let (small, large) = (Image::from(from), Image::from(to));
    let taps = [map.rows.len(), map.columns.len()].map(count);
    make(
        operation,
        "separable",
        x,
        to,
        arguments![Argument::of(&small), Argument::of(&large), tables, taps[0], taps[1]],
    )
}

pub(crate) fn max_pool2d(operation: &'static str, x: &Value, windows: crate::pool::Windows) -> Result<Value> {
    let (gpu, stored) = (Gpu::of(x.tensor(), operation)?, Stored::of(x.tensor(), operation)?);
    let sizes = Windows::from(windows);
    let (out, to) = gpu.new_activations(stored, windows.to.dims())?;
    let (positions, positions_at) = gpu.tensor_of::<u32>(windows.to.dims())?;
    let n = out.elem_count();
    let from = gpu.activations(x.tensor(), stored, operation)?;
    let arguments = arguments![from, to, positions_at, count(n), Argument::of(&sizes)];
    gpu.launch_each_for(stored, "max_pool", n, arguments)?;
    Ok(Value::record1(out, &[x], move |grad| {
        let gpu = Gpu::of(grad, operation)?;
        let (out, to) = gpu.new_activations(stored, windows.from.dims())?;
        let n = out.elem_count();
        let positions = gpu.address::<u32>(&positions, operation)?;
        let grad = gpu.activations(grad, stored, operation)?;
        let arguments = arguments![grad, positions, to, count(n), Argument::of(&sizes)];
        gpu.launch_each_for(stored, "max_pool_backward", n, arguments)?;
        Ok(vec![Some(out)])
    }))
}

pub(crate) fn upsample_nearest(
    operation: &'static str,
    x: &Value,
    (from, to): (Images, Images),
    factor: usize,
) -> Result<Value> {
    resized(operation, ["upsample", "upsample_backward"], x, (from, to), [count(factor), 0])
}

pub(crate) fn subsample_pad(
    operation: &'static str,
    x: &Value,
    (from, to): (Images, Images),
    stride: usize,
    pad: usize,
) -> Result<Value> {
    resized(operation, ["subsample_pad", "subsample_pad_backward"], x, (from, to), [count(stride), count(pad)])
}

/// A change of resolution, by kernels of (…, from, to, one or two numbers); `upsample` ignores the second.
fn resized(
    operation: &'static str,
    [forward, backward]: [&'static str; 2],
    x: &Value,
    (from, to): (Images, Images),
    numbers: [u32; 2],
) -> Result<Value> {
    let (small, large) = (Image::from(from), Image::from(to));
    let out = {
        let more = arguments![Argument::of(&small), Argument::of(&large), numbers[0], numbers[1]];
        make(operation, forward, x.tensor(), to, more)?
    };
    Ok(Value::record1(out, &[x], move |grad| {
        let more = arguments![Argument::of(&small), Argument::of(&large), numbers[0], numbers[1]];
        Ok(vec![Some(make(operation, backward, grad, from, more)?)])
    }))
}

pub(crate) fn crop_flip(operation: &'static str, x: &Value, images: Images, how: &CropFlip) -> Result<Value> {
    let gpu = Gpu::of(x.tensor(), operation)?;
    let views = how.offsets.iter().zip(&how.flips);
    let views = views.flat_map(|(&(row, column), &flip)| [count(row), count(column), u32::from(flip)]);
    let (views, _) = gpu.upload(&views.collect::<Vec<_>>())?;
    crop_flip_at(operation, x, images, views, (how.padding, how.wrap))
}

/// `views` are row, column and flip of each image.
pub(crate) fn crop_flip_at(
    operation: &'static str,
    x: &Value,
    images: Images,
    views: Tensor,
    (padding, wrap): (usize, bool),
) -> Result<Value> {
    let wrap = u32::from(wrap);
    let view = move |kernel: &'static str, x: &Tensor| -> Result<Tensor> {
        let gpu = Gpu::of(x, operation)?;
        let (out, to) = gpu.tensor(images.dims())?;
        let (n, of) = (out.elem_count(), Image::from(images));
        let (x, views) = (gpu.at(x, operation)?, gpu.address::<u32>(&views, operation)?);
        gpu.launch_each(kernel, n, arguments![x, views, to, count(n), Argument::of(&of), count(padding), wrap])?;
        Ok(out)
    };
    let out = view("crop_flip", x.tensor())?;
    Ok(Value::record1(out, &[x], move |grad| Ok(vec![Some(view("crop_flip_backward", grad)?)])))
}

/// `lines` are g and the centers of each image.
pub(crate) fn color_lines(operation: &'static str, x: &Value, images: Images, lines: Tensor) -> Result<Value> {
    let out = {
        let gpu = Gpu::of(x.tensor(), operation)?;
        let (out, to) = gpu.tensor(images.dims())?;
        let (n, of) = (out.elem_count(), Image::from(images));
        let (x, lines) = (gpu.at(x.tensor(), operation)?, gpu.at(&lines, operation)?);
        gpu.launch_each("color_lines", n, arguments![x, lines, to, count(n), Argument::of(&of)])?;
        out
    };
    let seen = out.clone();
    Ok(Value::record1(out, &[x], move |grad| {
        let gpu = Gpu::of(grad, operation)?;
        let (out, to) = gpu.tensor(images.dims())?;
        let (n, of) = (out.elem_count(), Image::from(images));
        let [grad, lines, seen] = [grad, &lines, &seen].map(|tensor| gpu.at(tensor, operation));
        let arguments = arguments![grad?, lines?, seen?, to, count(n), Argument::of(&of)];
        gpu.launch_each("color_lines_backward", n, arguments)?;
        Ok(vec![Some(out)])
    }))
}

pub(crate) fn total_variation(operation: &'static str, x: &Value, images: Images) -> Result<Value> {
    let gpu = Gpu::of(x.tensor(), operation)?;
    let (n, of) = (x.tensor().elem_count(), Image::from(images));
    let (out, to) = gpu.tensor(())?;
    let (norms, norms_at) = gpu.tensor_of::<f64>(4)?;
    let blocks = (n / 1024).clamp(1, 2 * gpu.blocks() as usize);
    let at = gpu.at(x.tensor(), operation)?;
    let arguments = arguments![at, count(n), Argument::of(&of), gpu.scratch(), gpu.counters(), norms_at, to];
    gpu.launch("total_variation", (count(blocks), 1), arguments)?;
    let kept = x.tensor().clone();
    Ok(Value::record1(out, &[x], move |flow| {
        let gpu = Gpu::of(flow, operation)?;
        let (out, to) = gpu.tensor(images.dims())?;
        let (x, flow) = (gpu.at(&kept, operation)?, gpu.at(flow, operation)?);
        let norms = gpu.address::<f64>(&norms, operation)?;
        gpu.launch_each("total_variation_backward", n, arguments![x, norms, flow, to, count(n), Argument::of(&of)])?;
        Ok(vec![Some(out)])
    }))
}
