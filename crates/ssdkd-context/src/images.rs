//! Between the shards' C,H,W values and the networks' channels-last tensors.

use candle_core::{Device, Result, Tensor};
use ssdkd_shards::Pixels;

/// Returns the values of `images` (B, H, W, C) in B,C,H,W order.
pub fn to_planes(images: &Tensor) -> Result<Vec<f32>> {
    images.permute((0, 3, 1, 2))?.contiguous()?.flatten_all()?.to_vec1()
}

/// Returns a tensor (B, H, W, C) in `[0, 1]` of images of a shape C,H,W, each given by the pixels of a shard and its row there.
pub fn from_shards<'a>(
    images: impl ExactSizeIterator<Item = (&'a Pixels, usize)>,
    [channels, height, width]: [usize; 3],
    device: &Device,
) -> Result<Tensor> {
    let batch = images.len();
    let size = channels * height * width;
    let mut values = vec![0.0; batch * size];
    for ((pixels, row), target) in images.zip(values.chunks_exact_mut(size)) {
        let row = row * size..(row + 1) * size;
        match pixels {
            Pixels::U8(levels) => turn(&levels[row], target, channels, |level| f32::from(level) / 255.0),
            Pixels::F32(values) => turn(&values[row], target, channels, |value| value),
        }
    }
    Tensor::from_vec(values, (batch, height, width, channels), device)
}

/// From C,H,W order to H,W,C.
fn turn<T: Copy>(image: &[T], target: &mut [f32], channels: usize, value: impl Fn(T) -> f32) {
    let pixels = image.len() / channels;
    for (channel, plane) in image.chunks_exact(pixels).enumerate() {
        for (target, &from) in target[channel..].iter_mut().step_by(channels).zip(plane) {
            *target = value(from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_survive_the_way_there_and_back() -> Result<()> {
        let planes = (0..2 * 3 * 4 * 5).map(|value| value as f32).collect::<Vec<_>>();
        let shard = Pixels::F32(planes.clone());
        let images = from_shards([0, 1].map(|row| (&shard, row)).into_iter(), [3, 4, 5], &Device::Cpu)?;
        assert_eq!(images.dims(), [2, 4, 5, 3]);
        assert_eq!(to_planes(&images)?, planes);
        let pixel = images.get(0)?.get(0)?.get(1)?.to_vec1::<f32>()?;
        assert_eq!(pixel, [1.0, 21.0, 41.0], "pixel (0, 1): one value of each plane");

        let other = Pixels::U8(vec![255; 60]);
        let images = from_shards([(&shard, 1), (&other, 0)].into_iter(), [3, 4, 5], &Device::Cpu)?;
        assert_eq!(to_planes(&images)?[..60], planes[60..]);
        assert_eq!(to_planes(&images)?[60..], [1.0; 60]);
        Ok(())
    }
}
