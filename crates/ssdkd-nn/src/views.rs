//! Random views: what networks see in training instead of the images themselves.
//!
//! ```text
//! crop, flip:    x ← a window of x's size out of x with zeros, or x again, around it, mirrored or not [C: Fast-Datafree]
//! quarter turn:  x ← x turned by 0, 90, 180 or 270 degrees; an oblong image by 0 or 180           [O]
//! cut and paste: x ← x with a random rectangle of x' in its place, of a share of the pixels in [0, cut_mix] [C: CutMix, Yun et al. 2019]
//! channel mix:   x ← ½ + A·(x − ½), cut to [0, 1]     A = 1 + channel_mix·N, N a matrix of standard normal numbers    [O]
//! mixup:         x ← x + λ·(x' − x)                   x' another image of the batch, λ uniform in [0, mixup]
//! color jitter:  x ← ½ + g·(x − ½) + o, cut to [0, 1] g = e^(s·(N − 0.4)/4), o = s·(0.11·N' + 0.03·N'')             [O]
//! ```
//!
//! A, λ, g and o are drawn for each image. In the last line s is `color_jitter`; N and N' are standard normal numbers of an image, and
//! N'' of each of its channels.
//!
//! Inversion uses crops and flips alone. They are differentiable, so that a generator learns images that survive them. A teacher in
//! training uses the same. Distillation uses all of them: there the teacher labels each view, so a view need not look like data. A small
//! buffer reaches further this way, at the price of a copy. Mixup in distillation is "function matching" \[C: Beyer et al. 2022\]. Channel
//! mixing answers generators that settle on one palette. Color jitter answers generators whose images are alike in brightness: their
//! means have a deviation of 0.08, and those of CIFAR-10's images have 0.12. The median gain is below 1, as such images are rich in
//! contrast. Its constants were tried at strength 1, as a whole.

use candle_core::{Result, Tensor};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssdkd_ops::{CropFlip, Value, crop_flip};

use crate::random::{normal_tensor, uniform_tensor};

/// The views of the images that the teacher and the student see in this stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CropFlipSettings {
    /// Border around an image, in pixels. A random window of the image's own size is cut out \[C: 4\].
    #[schemars(range(min = 0, max = 512))]
    pub crop_padding: usize,
    /// What lies around an image.
    pub border: Border,
    /// Mirror half of the images, left to right. Switch it off where left and right differ in meaning.
    pub flip: bool,
}

/// What lies around an image that is cropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Border {
    /// Black pixels.
    #[default]
    Zeros,
    /// The image again, as on a tiled floor: no black edges, so the statistics of the image stay \[C: DeepInversion\].
    Wrap,
}

impl Default for CropFlipSettings {
    fn default() -> Self {
        Self { crop_padding: 4, border: Border::Zeros, flip: true }
    }
}

impl CropFlipSettings {
    /// Leaves images as they are.
    pub const OFF: Self = Self { crop_padding: 0, border: Border::Zeros, flip: false };

    /// Draws one view for each of `batch` images. Returns `None` when the settings leave images as they are.
    ///
    /// An offset is uniform in `0..=2·crop_padding` both ways. Half of the images are flipped. Every image consumes the
    /// same three draws whatever the settings, so switching one off does not change the other.
    pub fn draw(&self, batch: usize, rng: &mut ChaCha8Rng) -> Option<CropFlip> {
        if self.crop_padding == 0 && !self.flip {
            return None;
        }
        let wrap = self.border == Border::Wrap;
        let mut how = CropFlip { offsets: Vec::new(), flips: Vec::new(), padding: self.crop_padding, wrap };
        let positions = 2 * self.crop_padding as u64 + 1;
        for _ in 0..batch {
            let (down, right, side) = (rng.random::<u32>(), rng.random::<u32>(), rng.random::<u32>());
            let offset = |draw: u32| ((u64::from(draw) * positions) >> 32) as usize;
            how.offsets.push((offset(down), offset(right)));
            how.flips.push(self.flip && side >> 31 == 1);
        }
        Some(how)
    }

    /// Returns a random view of each image of `images` (B, H, W, C); gradients flow through it.
    pub fn view(&self, images: &Value, rng: &mut ChaCha8Rng) -> Result<Value> {
        view(images, self.draw(images.dims()[0], rng).as_ref())
    }
}

/// Returns the views that were [drawn](CropFlipSettings::draw), or the images themselves.
pub fn view(images: &Value, how: Option<&CropFlip>) -> Result<Value> {
    match how {
        Some(how) => crop_flip(images, how),
        None => Ok(images.clone()),
    }
}

/// The views of the images that the teacher labels and the student learns from.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ViewSettings {
    /// Border around an image, in pixels. A random window of the image's own size is cut out \[C: 4\].
    #[schemars(range(min = 0, max = 512))]
    pub crop_padding: usize,
    /// What lies around an image.
    pub border: Border,
    /// Mirror half of the images, left to right. Switch it off where left and right differ in meaning.
    pub flip: bool,
    /// Turn each image by a random multiple of 90 degrees, an oblong one of 180 \[O\]. The teacher labels the turned image.
    pub quarter_turns: bool,
    /// Largest share of the pixels that a rectangle of a second image covers; 0 switches it off \[C: CutMix, Yun et al. 2019\].
    #[schemars(range(min = 0.0, max = 1.0))]
    pub cut_mix: f64,
    /// Strength of random channel mixing; 0 switches it off \[O\].
    #[schemars(range(min = 0.0))]
    pub channel_mix: f64,
    /// Largest share of a second image in a view; 0 switches mixup off \[C: Beyer et al. 2022\].
    #[schemars(range(min = 0.0, max = 1.0))]
    pub mixup: f64,
    /// Strength of random contrast, brightness and tint; 0 switches color jitter off \[O\].
    #[schemars(range(min = 0.0))]
    pub color_jitter: f64,
}

impl Default for ViewSettings {
    fn default() -> Self {
        let CropFlipSettings { crop_padding, border, flip } = CropFlipSettings::default();
        Self { crop_padding, border, flip, ..Self::OFF }
    }
}

impl ViewSettings {
    /// Leaves images as they are.
    pub const OFF: Self = Self {
        crop_padding: 0,
        border: Border::Zeros,
        flip: false,
        quarter_turns: false,
        cut_mix: 0.0,
        channel_mix: 0.0,
        mixup: 0.0,
        color_jitter: 0.0,
    };

    /// Returns the crop and the flip alone.
    pub fn crop_flip(&self) -> CropFlipSettings {
        CropFlipSettings { crop_padding: self.crop_padding, border: self.border, flip: self.flip }
    }

    /// Returns a random view of each image of `images` (B, H, W, C) in `[0, 1]`.
    pub fn view(&self, images: &Tensor, rng: &mut ChaCha8Rng) -> Result<Tensor> {
        let images = if self.quarter_turns { turn(images, rng)? } else { images.clone() };
        let images = mix_channels(&images, self.channel_mix, rng)?;
        let images = cut_and_paste(&images, self.cut_mix, rng)?;
        let images = mix_up(&images, self.mixup, rng)?;
        let view = self.crop_flip().view(&Value::constant(images), rng)?;
        jitter_color(view.tensor(), self.color_jitter, rng)
    }
}

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

/// Turns each image (B, H, W, C) by a random multiple of 90 degrees; an oblong one, which keeps its shape, by one of 180.
pub fn turn(images: &Tensor, rng: &mut ChaCha8Rng) -> Result<Tensor> {
    let (batch, height, width, _) = images.dims4()?;
    let mut turned = Vec::with_capacity(batch);
    for image in 0..batch {
        let quarters = rng.random_range(0..4u32) & if height == width { 3 } else { 2 };
        let mut x = images.narrow(0, image, 1)?;
        if quarters & 2 != 0 {
            x = x.flip(&[1, 2])?;
        }
        if quarters & 1 != 0 {
            x = x.transpose(1, 2)?.contiguous()?.flip(&[1])?;
        }
        turned.push(x.contiguous()?);
    }
    Tensor::cat(&turned, 0)
}

/// The batch turned on by a random number of images: each image gets another one as its partner, and each is the partner of one.
fn partners(images: &Tensor, rng: &mut ChaCha8Rng) -> Result<Tensor> {
    let batch = images.dim(0)?;
    let turn = rng.random_range(1..batch.max(2)) % batch;
    Tensor::cat(&[images.narrow(0, turn, batch - turn)?, images.narrow(0, 0, turn)?], 0)
}

/// Covers a random rectangle of each image (B, H, W, C) with the same part of another one of the batch: up to a share `most` of the
/// pixels. At `most` 0 images stay as they are.
pub fn cut_and_paste(images: &Tensor, most: f64, rng: &mut ChaCha8Rng) -> Result<Tensor> {
    if most == 0.0 {
        return Ok(images.clone());
    }
    let (batch, height, width, _) = images.dims4()?;
    let partners = partners(images, rng)?;
    let mut covered = vec![0f32; batch * height * width];
    for mask in covered.chunks_exact_mut(height * width) {
        // Height and width of the rectangle have the image's proportions.
        let side = (most * rng.random::<f64>()).sqrt();
        let [rows, columns] = [height, width].map(|size| ((size as f64 * side).round() as usize).min(size));
        let (top, left) = (rng.random_range(0..=height - rows), rng.random_range(0..=width - columns));
        for row in mask.chunks_exact_mut(width).skip(top).take(rows) {
            row[left..left + columns].fill(1.0);
        }
    }
    let covered = Tensor::from_vec(covered, (batch, height, width, 1), images.device())?;
    images + (partners - images)?.broadcast_mul(&covered)?
}

/// Adds to each image (B, H, W, C) up to a share `most` of another one of the batch. At `most` 0 images stay as they are.
pub fn mix_up(images: &Tensor, most: f64, rng: &mut ChaCha8Rng) -> Result<Tensor> {
    if most == 0.0 {
        return Ok(images.clone());
    }
    let (batch, device) = (images.dim(0)?, images.device());
    let partners = partners(images, rng)?;
    let shares = uniform_tensor(rng, (0.0, most as f32), (batch, 1, 1, 1), device)?;
    images + (partners - images)?.broadcast_mul(&shares)?
}

/// Changes contrast, brightness and tint of each image (B, H, W, C) in `[0, 1]`. At `strength` 0 images stay as they are.
pub fn jitter_color(images: &Tensor, strength: f64, rng: &mut ChaCha8Rng) -> Result<Tensor> {
    if strength == 0.0 {
        return Ok(images.clone());
    }
    let (batch, _, _, channels) = images.dims4()?;
    let mut normal = |channels| normal_tensor(rng, (batch, 1, 1, channels), images.device());
    let gain = ((normal(1)? - 0.4)? * (strength / 4.0))?.exp()?;
    let offset = (normal(1)? * (0.11 * strength))?;
    let tint = (normal(channels)? * (0.03 * strength))?;
    let center = offset.broadcast_add(&tint)?.affine(1.0, 0.5)?; // (B, 1, 1, C)
    images.affine(1.0, -0.5)?.broadcast_mul(&gain)?.broadcast_add(&center)?.clamp(0f32, 1f32)
}

#[cfg(test)]
#[path = "../../ssdkd-ops/tests/common/place.rs"]
mod place;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::stream;

    fn rng(seed: u64) -> ChaCha8Rng {
        stream(seed, "test", &[])
    }

    fn numbers(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn images() -> Tensor {
        uniform_tensor(&mut rng(50), (0.0, 1.0), (6, 4, 4, 3), &place::device()).unwrap()
    }

    #[test]
    fn offsets_and_flips_are_uniform() {
        let how = CropFlipSettings::default().draw(9000, &mut rng(1)).unwrap();
        let mut counts = [0_u32; 9];
        for &(down, right) in &how.offsets {
            counts[down] += 1;
            counts[right] += 1;
        }
        assert!(counts.iter().all(|&count| (1800..2200).contains(&count)), "{counts:?}");
        let flips = how.flips.iter().filter(|&&flip| flip).count();
        assert!((4300..4700).contains(&flips), "{flips}");
    }

    #[test]
    fn switching_one_off_leaves_the_other_as_it_was() {
        let draw = |crop_padding, flip| {
            CropFlipSettings { crop_padding, flip, ..CropFlipSettings::OFF }.draw(50, &mut rng(2)).unwrap()
        };
        assert_eq!(draw(4, true).offsets, draw(4, false).offsets);
        assert_eq!(draw(4, true).flips, draw(0, true).flips);
        assert!(draw(4, false).flips.iter().all(|&flip| !flip));
        assert!(draw(0, true).offsets.iter().all(|&offset| offset == (0, 0)));
        assert!(CropFlipSettings::OFF.draw(50, &mut rng(2)).is_none());
    }

    #[test]
    fn off_is_the_images_and_no_draw() {
        let mut after = rng(0);
        assert_eq!(numbers(&ViewSettings::OFF.view(&images(), &mut after).unwrap()), numbers(&images()));
        assert_eq!(after, rng(0));
    }

    #[test]
    fn a_view_of_an_oblong_image_is_a_window_of_its_size() {
        let (height, width) = (24, 40);
        let number = |row: usize, column: usize| (1 + row * width + column) as f32;
        let image = (0..height).flat_map(|row| (0..width).map(move |column| number(row, column))).collect::<Vec<_>>();
        let image = Tensor::from_vec(image, (1, height, width, 1), &place::device()).unwrap();
        let settings = CropFlipSettings::default();
        let how = settings.draw(8, &mut rng(6)).unwrap();
        let images = Value::constant(image.repeat((8, 1, 1, 1)).unwrap());
        let views = numbers(view(&images, Some(&how)).unwrap().tensor());
        for (slot, found) in views.chunks_exact(height * width).enumerate() {
            let (down, right) = how.offsets[slot];
            for (at, &found) in found.iter().enumerate() {
                let (row, column) = (at / width, at % width);
                let column = if how.flips[slot] { width - 1 - column } else { column };
                let (row, column) = (row + down, column + right);
                let is_inside = (4..height + 4).contains(&row) && (4..width + 4).contains(&column);
                let expected = if is_inside { number(row - 4, column - 4) } else { 0.0 };
                assert_eq!(found, expected, "image {slot}, pixel {at}");
            }
        }
    }

    #[test]
    fn all_views_of_oblong_images_keep_their_shape() {
        let all = ViewSettings {
            channel_mix: 0.5,
            mixup: 0.5,
            color_jitter: 1.0,
            quarter_turns: true,
            cut_mix: 0.5,
            ..ViewSettings::default()
        };
        let images = uniform_tensor(&mut rng(52), (0.0, 1.0), (3, 24, 40, 3), &place::device()).unwrap();
        let views = all.view(&images, &mut rng(7)).unwrap();
        assert_eq!(views.dims(), [3, 24, 40, 3]);
        assert!(numbers(&views).iter().all(|x| (0.0..=1.0).contains(x)));
    }

    #[test]
    fn a_border_that_wraps_keeps_all_pixels() {
        let wrap = CropFlipSettings { crop_padding: 9, border: Border::Wrap, flip: true };
        let images = Value::constant(uniform_tensor(&mut rng(53), (0.1, 1.0), (5, 6, 4, 3), &place::device()).unwrap());
        let views = numbers(wrap.view(&images, &mut rng(8)).unwrap().tensor());
        for (view, image) in views.chunks(72).zip(numbers(images.tensor()).chunks(72)) {
            let [view, image] = [view, image].map(|pixels| {
                let mut pixels = pixels.to_vec();
                pixels.sort_by(f32::total_cmp);
                pixels
            });
            assert_eq!(view, image);
        }
    }

    #[test]
    fn square_images_are_turned_by_four_angles_and_oblong_ones_by_two() {
        let corners = |height: usize, width: usize| {
            let image = (0..height * width).map(|at| at as f32).collect::<Vec<_>>();
            let image = Tensor::from_vec(image, (1, height, width, 1), &place::device()).unwrap();
            let turned = turn(&image.repeat((64, 1, 1, 1)).unwrap(), &mut rng(9)).unwrap();
            assert_eq!(turned.dims(), [64, height, width, 1]);
            let mut found = numbers(&turned).chunks(height * width).map(<[f32]>::to_vec).collect::<Vec<_>>();
            found.sort_by(|a, b| a.partial_cmp(b).unwrap());
            found.dedup();
            found
        };
        assert_eq!(corners(2, 2), [[0., 1., 2., 3.], [1., 3., 0., 2.], [2., 0., 3., 1.], [3., 2., 1., 0.]]);
        assert_eq!(corners(1, 3), [[0., 1., 2.], [2., 1., 0.]]);
    }

    #[test]
    fn a_pasted_rectangle_is_of_one_other_image_and_not_too_large() {
        let flat = (0..6).map(|image| vec![image as f32; 10 * 20]).collect::<Vec<_>>().concat();
        let images = Tensor::from_vec(flat, (6, 10, 20, 1), &place::device()).unwrap();
        let pasted = numbers(&cut_and_paste(&images, 0.5, &mut rng(10)).unwrap());
        let mut covered = 0;
        for (image, pixels) in pasted.chunks(200).enumerate() {
            let foreign = pixels.iter().filter(|pixel| **pixel != image as f32).collect::<Vec<_>>();
            assert!(foreign.len() <= 110 && foreign.iter().all(|pixel| *pixel == foreign[0]), "{foreign:?}");
            covered += foreign.len();
        }
        assert!(covered > 100, "{covered}");
    }

    #[test]
    fn a_mixture_lies_between_its_images() {
        let mixed = numbers(&mix_up(&images(), 0.5, &mut rng(1)).unwrap());
        let (plain, size) = (numbers(&images()), 4 * 4 * 3);
        let lies_between = |slot: usize, other: usize| {
            let pixels = (0..size).map(|at| {
                let [x, from, to] = [mixed[slot * size + at], plain[slot * size + at], plain[other * size + at]];
                (x - from) / (to - from)
            });
            let shares = pixels.collect::<Vec<_>>();
            (0.0..=0.5).contains(&shares[0]) && shares.iter().all(|share| (share - shares[0]).abs() < 1e-2)
        };
        for slot in 0..6 {
            let partners = (0..6).filter(|&other| other != slot && lies_between(slot, other)).count();
            assert_eq!(partners, 1, "slot {slot}");
        }
    }

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
