//! Random views of images: the crop, the flip and the colors, decided by the caller, differentiable.

use std::ops::Range;

use candle_core::{Device, Result, Tensor, bail};

use crate::device;
use crate::images::{Images, map_images};
use crate::value::Value;

/// How each image of a batch is cropped and flipped.
///
/// An image is surrounded by `padding` pixels, a window of its own size is cut out at its offset (row, column)
/// from the padded corner, and the window is flipped left to right where the flip says so. An offset of
/// (padding, padding) without a flip leaves the image as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CropFlip {
    /// Row and column, each in 0..=2·padding, for each image.
    pub offsets: Vec<(usize, usize)>,
    /// For each image.
    pub flips: Vec<bool>,
    /// Pixels on every side.
    pub padding: usize,
    /// Whether these pixels are the image again, as on a tiled floor, and not zeros.
    pub wrap: bool,
}

/// Crops and flips images (B, H, W, C); the shape stays.
///
/// # Errors
/// If `x` is not of rank 4, there is not one offset and one flip for each image, or an offset is too large.
pub fn crop_flip(x: &Value, how: &CropFlip) -> Result<Value> {
    let operation = "crop_flip";
    let images = Images::of(operation, x.tensor())?;
    if how.offsets.len() != images.batch || how.flips.len() != images.batch {
        bail!(
            "{operation}: takes one offset and one flip for each of the {} images, got {} and {}",
            images.batch,
            how.offsets.len(),
            how.flips.len()
        );
    }
    let most = 2 * how.padding;
    if let Some((image, offset)) = how.offsets.iter().enumerate().find(|(_, (y, x))| *y > most || *x > most) {
        bail!("{operation}: the offset {offset:?} of image {image} is not in 0..={most} (twice the padding)");
    }
    on_gpu!(x.tensor() => crate::cuda::crop_flip(operation, x, images, how));
    let how = how.clone();
    let out = map_images(operation, x.tensor(), images, images, |image, x, out| {
        how.copy(image, images, x, out, |view, image| (image, view));
    })?;
    Ok(Value::record1(out, &[x], move |grad| {
        let grad = map_images(operation, grad, images, images, |image, grad, out| {
            how.copy(image, images, grad, out, |view, image| (view, image));
        })?;
        Ok(vec![Some(grad)])
    }))
}

/// As [`crop_flip`], with the [draws](CropFlip::draws) in a tensor on the device of the images: a [recorded](crate::Recording) step
/// reads them there each time.
///
/// # Errors
/// As those of [`crop_flip`]. A GPU does not check the offsets.
pub fn crop_flip_at(x: &Value, draws: &Tensor, padding: usize, wrap: bool) -> Result<Value> {
    let operation = "crop_flip";
    let images = Images::of(operation, x.tensor())?;
    if draws.dims() != [images.batch, 3] {
        bail!("{operation}: takes draws of shape {:?}, these have {:?}", [images.batch, 3], draws.dims());
    }
    on_gpu!(x.tensor() => crate::cuda::crop_flip_at(operation, x, images, draws.clone(), (padding, wrap)));
    let draws = draws.to_vec2::<u32>()?;
    let offsets = draws.iter().map(|draw| (draw[0] as usize, draw[1] as usize)).collect();
    crop_flip(x, &CropFlip { offsets, flips: draws.iter().map(|draw| draw[2] != 0).collect(), padding, wrap })
}

/// `½ + g·(x − ½) + o`, cut to `[0, 1]`, of images (B, H, W, C): a line for each channel of each image. A row of `lines` (B, 1 + C) has an
/// image's g and, for each channel, `½ + o`. What is cut gets no gradient.
///
/// # Errors
/// If `x` is not of rank 4, or there is not one row of 1 + C numbers for each image.
pub fn color_lines(x: &Value, lines: &Tensor) -> Result<Value> {
    let operation = "color_lines";
    let images = Images::of(operation, x.tensor())?;
    if lines.dims() != [images.batch, 1 + images.channels] {
        let expected = [images.batch, 1 + images.channels];
        bail!("{operation}: takes lines of shape {expected:?}, these have {:?}", lines.dims());
    }
    on_gpu!(x.tensor() => crate::cuda::color_lines(operation, x, images, lines.clone()));
    let lines = lines.to_vec2::<f32>()?;
    let out = map_images(operation, x.tensor(), images, images, |image, x, out| {
        let (gain, centers) = (lines[image][0], &lines[image][1..]);
        for (x, out) in x.chunks_exact(images.channels).zip(out.chunks_exact_mut(images.channels)) {
            for ((x, out), center) in x.iter().zip(out).zip(centers) {
                *out = ((x - 0.5) * gain + center).clamp(0.0, 1.0);
            }
        }
    })?;
    let seen = out.clone();
    Ok(Value::record1(out, &[x], move |grad| {
        let seen = device::slice(&seen, operation)?;
        let size = images.height * images.width * images.channels;
        let grad = map_images(operation, grad, images, images, |image, grad, out| {
            let seen = &seen[image * size..][..size];
            for ((grad, out), seen) in grad.iter().zip(out).zip(seen) {
                *out = if *seen > 0.0 && *seen < 1.0 { grad * lines[image][0] } else { 0.0 };
            }
        })?;
        Ok(vec![Some(grad)])
    }))
}

/// What the views of masks (B, H, W) show, each pixel of a class below 2²⁴ or of none: of none is also what a view shows of its padding.
///
/// # Errors
/// As those of [`crop_flip`], and if there is not one class for each pixel.
pub fn crop_flip_masks(masks: &[Option<u32>], sides: [usize; 3], how: &CropFlip) -> Result<Vec<Option<u32>>> {
    let [batch, height, width] = sides;
    // As images of class + 1: the padding is 0.
    let marks = masks.iter().map(|class| class.map_or(0.0, |class| (class + 1) as f32)).collect::<Vec<_>>();
    let marks = Value::constant(Tensor::from_vec(marks, (batch, height, width, 1), &Device::Cpu)?);
    let marks = crop_flip(&marks, how)?.tensor().flatten_all()?.to_vec1::<f32>()?;
    Ok(marks.into_iter().map(|mark| (mark as u32).checked_sub(1)).collect())
}

impl CropFlip {
    /// Returns row, column and flip (1 or 0) of each image, as a tensor (B, 3) of `u32` on `device`.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn draws(&self, device: &Device) -> Result<Tensor> {
        let draws = self.offsets.iter().zip(&self.flips);
        let draws = draws.flat_map(|(&(row, column), &flip)| [row as u32, column as u32, u32::from(flip)]);
        Tensor::from_vec(draws.collect(), (self.flips.len(), 3), device)
    }

    /// Copies pixels from `from` to `to`; those of `to` that get none become zero. Every pixel that the view shares with
    /// the image has a place in both: `direction` orders (view, image) into (from, to).
    fn copy(
        &self,
        image: usize,
        images: Images,
        from: &[f32],
        to: &mut [f32],
        direction: impl Fn(Range<usize>, Range<usize>) -> (Range<usize>, Range<usize>),
    ) {
        let Images { height, width, channels, .. } = images;
        let (row_offset, column_offset) = self.offsets[image];
        let (rows, columns) = (self.runs(row_offset, height), self.runs(column_offset, width));
        // Where padding shows in the view, or the view leaves parts of the image out, zeros stay.
        if !self.wrap && (rows[0].0.len() < height || columns[0].0.len() < width) {
            to.fill(0.0);
        }
        let numbers = |row: usize, columns: Range<usize>| {
            (row * width + columns.start) * channels..(row * width + columns.end) * channels
        };
        for (row, image_row) in rows.into_iter().flat_map(|(rows, start)| rows.zip(start..)) {
            for (columns, start) in columns.clone() {
                if self.flips[image] {
                    for (column, image_column) in columns.zip(start..) {
                        let flipped = width - 1 - column;
                        let (source, target) = direction(
                            numbers(row, flipped..flipped + 1),
                            numbers(image_row, image_column..image_column + 1),
                        );
                        to[target].copy_from_slice(&from[source]);
                    }
                } else {
                    let image_columns = start..start + columns.len();
                    let (source, target) = direction(numbers(row, columns), numbers(image_row, image_columns));
                    to[target].copy_from_slice(&from[source]);
                }
            }
        }
    }

    /// Rows (or columns) of the unflipped view, and the first row of the image that each run of them shows.
    fn runs(&self, offset: usize, size: usize) -> [(Range<usize>, usize); 2] {
        if self.wrap {
            let first = (offset + size - self.padding % size) % size;
            [(0..size - first, first), (size - first..size, 0)]
        } else {
            match shared(offset, self.padding, size) {
                shown if shown.is_empty() => [(0..0, 0), (0..0, 0)],
                shown => [(shown.clone(), shown.start + offset - self.padding), (0..0, 0)],
            }
        }
    }
}

/// Which rows (or columns) of the unflipped view lie inside the image of `size`.
fn shared(offset: usize, padding: usize, size: usize) -> Range<usize> {
    let start = padding.saturating_sub(offset).min(size);
    let end = (size + padding).saturating_sub(offset).min(size);
    start..end.max(start)
}
