//! Between the shards' C,H,W values and the networks' channels-last tensors.

use candle_core::{Device, Result, Tensor};

/// The values of `images` (B, H, W, C) in B,C,H,W order.
pub fn to_planes(images: &Tensor) -> Result<Vec<f32>> {
    images.permute((0, 3, 1, 2))?.contiguous()?.flatten_all()?.to_vec1()
}

/// A tensor (B, H, W, C) of images whose values are given in C,H,W order.
pub fn from_planes<'a, T: Copy + 'a>(
    images: impl ExactSizeIterator<Item = &'a [T]>,
    [channels, height, width]: [usize; 3],
    value: impl Fn(T) -> f32,
    device: &Device,
) -> Result<Tensor> {
    let batch = images.len();
    let pixels = height * width;
    let mut values = vec![0.0; batch * pixels * channels];
    for (image, target) in images.zip(values.chunks_exact_mut(pixels * channels)) {
        for (channel, plane) in image.chunks_exact(pixels).enumerate() {
            for (pixel, &from) in plane.iter().enumerate() {
                target[pixel * channels + channel] = value(from);
            }
        }
    }
    Tensor::from_vec(values, (batch, height, width, channels), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_survive_the_way_there_and_back() -> Result<()> {
        let planes = (0..2 * 3 * 4 * 5).map(|value| value as f32).collect::<Vec<_>>();
        let images = from_planes(planes.chunks_exact(60), [3, 4, 5], |value| value, &Device::Cpu)?;
        assert_eq!(images.dims(), [2, 4, 5, 3]);
        assert_eq!(to_planes(&images)?, planes);
        let pixel = images.get(0)?.get(0)?.get(1)?.to_vec1::<f32>()?;
        assert_eq!(pixel, [1.0, 21.0, 41.0], "pixel (0, 1): one value of each plane");
        Ok(())
    }
}
