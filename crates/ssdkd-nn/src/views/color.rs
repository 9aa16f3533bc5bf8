//! Views in other colors.

use candle_core::{Device, Result, Tensor};
use rand_chacha::ChaCha8Rng;
use ssdkd_ops::{Value, color_lines};

use crate::random::normal_tensor;

/// Mixes the channels of each image (B, H, W, C) in `[0, 1]` by a random matrix. At `strength` 0 images stay as they are.
pub fn mix_channels(images: &Tensor, strength: f64, rng: &mut ChaCha8Rng) -> Result<Tensor> {
    if strength == 0.0 {
        return Ok(images.clone());
    }
    let (batch, height, width, channels) = images.dims4()?;
    let device = images.device();
    let noise = normal_tensor(rng, (batch, channels, channels), device)?;
    let matrices = Tensor::eye(channels, images.dtype(), device)?.broadcast_add(&(noise * strength)?)?; // (B, C, C)
    let centered = (images.reshape((batch, height * width, channels))? - 0.5)?; // (B, HW, C)
    (centered.matmul(&matrices)? + 0.5)?.clamp(0f32, 1f32)?.reshape((batch, height, width, channels))
}

/// Changes contrast, brightness and tint of each image (B, H, W, C) in `[0, 1]`. At `strength` 0 images stay as they are.
pub fn jitter_color(images: &Tensor, strength: f64, rng: &mut ChaCha8Rng) -> Result<Tensor> {
    let (batch, _, _, channels) = images.dims4()?;
    match draw_lines(strength, batch, channels, rng, images.device())? {
        Some(lines) => Ok(color_lines(&Value::constant(images.clone()), &lines)?.tensor().clone()),
        None => Ok(images.clone()),
    }
}

/// Draws what color jitter makes of each image: g, and ½ + o for each channel, (B, 1 + C) on `device`. `None` at `strength` 0.
pub(super) fn draw_lines(
    strength: f64,
    batch: usize,
    channels: usize,
    rng: &mut ChaCha8Rng,
    device: &Device,
) -> Result<Option<Tensor>> {
    if strength == 0.0 {
        return Ok(None);
    }
    let mut normal = |channels| normal_tensor(rng, (batch, channels), device);
    let gain = ((normal(1)? - 0.4)? * (strength / 4.0))?.exp()?;
    let offset = (normal(1)? * (0.11 * strength))?;
    let tint = (normal(channels)? * (0.03 * strength))?;
    let center = offset.broadcast_add(&tint)?.affine(1.0, 0.5)?; // (B, C)
    Tensor::cat(&[gain, center], 1).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::uniform_tensor;
    use crate::views::fixtures::{images, numbers, rng};
    use crate::views::place;

    #[test]
    fn channel_mixing_changes_colors_and_keeps_shapes() {
        let flat = Tensor::full(0.5f32, (2, 4, 4, 3), images().device()).unwrap();
        assert_eq!(numbers(&mix_channels(&flat, 2.0, &mut rng(2)).unwrap()), numbers(&flat));
        let mixed = mix_channels(&images(), 0.5, &mut rng(2)).unwrap();
        assert!(numbers(&mixed).iter().all(|x| (0.0..=1.0).contains(x)));
        assert_ne!(numbers(&mixed), numbers(&images()));
        // Pixels that are alike stay alike.
        let row = images().narrow(1, 0, 1).unwrap().repeat((1, 4, 1, 1)).unwrap();
        let mixed = mix_channels(&row, 0.5, &mut rng(2)).unwrap();
        let rows = [0, 3].map(|at| numbers(&mixed.narrow(1, at, 1).unwrap()));
        assert_eq!(rows[0], rows[1]);
    }

    /// Returns a and b of (x, y) pairs with y = a + b·x.
    fn line(pairs: &[(f32, f32)]) -> (f32, f32) {
        let (low, high) = pairs.iter().fold((pairs[0], pairs[0]), |(low, high), &pair| {
            (if pair.0 < low.0 { pair } else { low }, if pair.0 > high.0 { pair } else { high })
        });
        let slope = (high.1 - low.1) / (high.0 - low.0);
        (low.1 - slope * low.0, slope)
    }

    #[test]
    fn color_jitter_stays_within_the_range_of_images() {
        let views = numbers(&jitter_color(&images(), 4.0, &mut rng(3)).unwrap());
        assert!(views.iter().all(|x| (0.0..=1.0).contains(x)));
        assert!(views.contains(&0.0) || views.contains(&1.0), "nothing had to be cut");
    }

    #[test]
    fn color_jitter_is_one_line_a_channel_with_the_image_s_gain() {
        // Near the middle, so that nothing is cut.
        let plain = uniform_tensor(&mut rng(51), (0.48, 0.52), (400, 4, 4, 3), &place::device()).unwrap();
        let views = jitter_color(&plain, 1.0, &mut rng(3)).unwrap();
        let (plain, views) = (numbers(&plain), numbers(&views));
        let (mut gains, mut offsets, mut tints) = (vec![], vec![], vec![]);
        for (plain, view) in plain.chunks(48).zip(views.chunks(48)) {
            let lines = [0, 1, 2].map(|channel| {
                let pairs = plain.iter().copied().zip(view.iter().copied()).skip(channel).step_by(3);
                let pairs = pairs.collect::<Vec<_>>();
                let (at, slope) = line(&pairs);
                assert!(pairs.iter().all(|(x, y)| (at + slope * x - y).abs() < 1e-5));
                (at + slope / 2.0 - 0.5, slope)
            });
            assert!(lines.iter().all(|(_, slope)| (slope - lines[0].1).abs() < 1e-3), "{lines:?}");
            gains.push(lines[0].1.ln());
            let offset = (lines[0].0 + lines[1].0 + lines[2].0) / 3.0;
            offsets.push(offset);
            tints.extend(lines.map(|(at, _)| at - offset));
        }
        let moments = |numbers: &[f32]| {
            let mean = numbers.iter().sum::<f32>() / numbers.len() as f32;
            [mean, (numbers.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / numbers.len() as f32).sqrt()]
        };
        // An offset also has the mean of three tints, which a tint then lacks.
        let spread = |x: f32, share: f32| (x * x + share * 0.03 * 0.03).sqrt();
        let wanted = [[-0.1, 0.25], [0.0, spread(0.11, 1.0 / 3.0)], [0.0, spread(0.0, 2.0 / 3.0)]];
        for (numbers, wanted) in [gains, offsets, tints].iter().zip(wanted) {
            let found = moments(numbers);
            // Four deviations of a mean of 400, and of a deviation of 400.
            assert!((found[0] - wanted[0]).abs() < 0.2 * wanted[1], "{found:?} {wanted:?}");
            assert!((found[1] / wanted[1] - 1.0).abs() < 0.15, "{found:?} {wanted:?}");
        }
    }
}
