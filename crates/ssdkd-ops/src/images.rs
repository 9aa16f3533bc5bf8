//! What operations on images share: their shape, and one piece of work for each image.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use crate::device;

/// The shape of images (B, H, W, C).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Images {
    pub(crate) batch: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) channels: usize,
}

impl Images {
    /// # Errors
    /// If `x` is not of rank 4, or has no pixels.
    pub(crate) fn of(operation: &str, x: &Tensor) -> Result<Self> {
        match *x.dims() {
            [batch, height, width, channels] if height * width * channels > 0 => {
                Ok(Self { batch, height, width, channels })
            }
            _ => bail!("{operation}: takes images (B, H, W, C) with pixels, this tensor has shape {:?}", x.dims()),
        }
    }

    pub(crate) fn dims(self) -> (usize, usize, usize, usize) {
        (self.batch, self.height, self.width, self.channels)
    }

    /// The same images with another height and width.
    ///
    /// # Errors
    /// If one of them is 0, or there would be more numbers than can be counted.
    pub(crate) fn resized(self, operation: &str, [height, width]: [usize; 2]) -> Result<Self> {
        let numbers =
            [height, width, self.channels].iter().try_fold(self.batch, |product, size| product.checked_mul(*size));
        let fits =
            numbers.is_some_and(|numbers| isize::try_from(numbers).is_ok()) && u32::try_from(height.max(width)).is_ok();
        if height == 0 || width == 0 || !fits {
            bail!("{operation}: images of {height}×{width} pixels cannot be made of {:?}", self.dims());
        }
        Ok(Self { height, width, ..self })
    }

    /// Numbers in one image.
    pub(crate) fn size(self) -> usize {
        self.height * self.width * self.channels
    }

    /// Numbers in one row of pixels.
    pub(crate) fn row(self) -> usize {
        self.width * self.channels
    }
}

/// A batch (B, H, W, C) of images that lie in other tensors (N, H, W, C), each given by its tensor and its place there.
///
/// # Errors
/// If there are none, their shapes differ, or a place is outside of its tensor.
pub fn gather_images(images: &[(&Tensor, usize)]) -> Result<Tensor> {
    let operation = "gather_images";
    let Some(&(first, _)) = images.first() else { bail!("{operation}: a batch of no images has no shape") };
    let shape = Images::of(operation, first)?;
    for &(tensor, place) in images {
        let of = Images::of(operation, tensor)?;
        if (Images { batch: shape.batch, ..of }) != shape || place >= of.batch {
            bail!("{operation}: image {place} of a tensor {:?} does not fit images of {:?}", of.dims(), shape.dims());
        }
    }
    let to = Images { batch: images.len(), ..shape };
    on_gpu!(first => crate::cuda::gather_images(operation, images, to));
    let mut out = device::unspecified(to.batch * to.size());
    out.par_chunks_exact_mut(to.size()).zip(images).try_for_each(|(out, &(tensor, place))| {
        out.copy_from_slice(&device::slice(tensor, operation)?[place * to.size()..][..to.size()]);
        Ok::<_, candle_core::Error>(())
    })?;
    device::tensor(out, to.dims())
}

/// Makes images of shape `to` from those of `x`, shape `from`, one by one: `work` gets the index of the image, its
/// numbers, and those to write, every one of them.
///
/// # Errors
/// If `x` is not of shape `from`.
pub(crate) fn map_images(
    operation: &str,
    x: &Tensor,
    from: Images,
    to: Images,
    work: impl Fn(usize, &[f32], &mut [f32]) + Sync + Send,
) -> Result<Tensor> {
    if x.elem_count() != from.batch * from.size() {
        bail!("{operation}: expected shape {:?}, got {:?}", from.dims(), x.dims());
    }
    let numbers = device::slice(x, operation)?;
    let mut out = device::unspecified(to.batch * to.size());
    let images = numbers.par_chunks_exact(from.size()).zip(out.par_chunks_exact_mut(to.size()));
    images.enumerate().for_each(|(image, (x, out))| work(image, x, out));
    drop(numbers);
    device::tensor(out, to.dims())
}
