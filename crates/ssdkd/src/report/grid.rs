//! A contact sheet: one row of images for each class.

use anyhow::{Context as _, Result, bail};
use image::{ExtendedColorType, ImageEncoder as _, codecs::png::PngEncoder};

/// White space between images, in pixels of the sheet.
const GAP: usize = 2;
/// The longest side of an image on the sheet, in pixels: bounds the memory and the file.
const LONGEST: usize = 128;
/// How many times images are enlarged where that keeps them below [`LONGEST`].
const ZOOM: usize = 2;

/// How the pixels of an image become pixels of the sheet.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Scale {
    /// Pixels of the sheet for each pixel of the image, along a side.
    zoom: usize,
    /// One in so many pixels of the image is drawn, along a side.
    step: usize,
}

impl Scale {
    /// Enlarges small images, and thins out large ones.
    fn of(height: usize, width: usize) -> Self {
        let longest = height.max(width);
        Self { zoom: if longest * ZOOM <= LONGEST { ZOOM } else { 1 }, step: longest.div_ceil(LONGEST).max(1) }
    }

    /// Returns the length on the sheet of a side of `pixels`.
    fn length(self, pixels: usize) -> usize {
        pixels.div_ceil(self.step) * self.zoom
    }

    /// Returns the pixel of the image that is drawn at `place`.
    fn source(self, place: usize) -> usize {
        place / self.zoom * self.step
    }
}

/// Draws images in C,H,W order row by row as PNG: in color from three channels on, else the first channel in gray.
///
/// Rows may differ in length; what is missing stays white.
pub fn contact_sheet(rows: &[Vec<&[u8]>], shape: [usize; 3]) -> Result<Vec<u8>> {
    let [channels, height, width] = shape;
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    if columns == 0 {
        bail!("there is no image to draw");
    }
    let scale = Scale::of(height, width);
    let (drawn_width, drawn_height) = (scale.length(width), scale.length(height));
    let (cell_width, cell_height) = (drawn_width + GAP, drawn_height + GAP);
    let (sheet_width, sheet_height) = (columns * cell_width + GAP, rows.len() * cell_height + GAP);
    let mut sheet = vec![255u8; sheet_width * sheet_height * 3];
    for (row, images) in rows.iter().enumerate() {
        for (column, image) in images.iter().enumerate() {
            if image.len() != channels * height * width {
                bail!("an image has {} values instead of {channels}×{height}×{width}", image.len());
            }
            let (top, left) = (GAP + row * cell_height, GAP + column * cell_width);
            for y in 0..drawn_height {
                for x in 0..drawn_width {
                    let target = ((top + y) * sheet_width + left + x) * 3;
                    for c in 0..3 {
                        let plane = if channels < 3 { 0 } else { c * height * width };
                        sheet[target + c] = image[plane + scale.source(y) * width + scale.source(x)];
                    }
                }
            }
        }
    }
    let mut png = Vec::new();
    PngEncoder::new(&mut png)
        .write_image(&sheet, sheet_width as u32, sheet_height as u32, ExtendedColorType::Rgb8)
        .context("cannot encode the contact sheet as PNG")?;
    Ok(png)
}

/// Returns the color of a class in pictures of masks: that of Pascal VOC's color map, black for the first.
pub fn class_colour(class: u8) -> [u8; 3] {
    // The bits of the class go to the three colors in turn, the lowest to the highest of each.
    let bit = |at: u32| class.checked_shr(at).unwrap_or(0) & 1;
    [0, 1, 2].map(|first| (0..3).map(|place| bit(3 * place + first) << (7 - place)).sum::<u8>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sheet(rows: &[Vec<&[u8]>], shape: [usize; 3]) -> image::RgbImage {
        image::load_from_memory(&contact_sheet(rows, shape).unwrap()).unwrap().to_rgb8()
    }

    #[test]
    fn pixels_land_where_they_belong() {
        let red = [255, 0, 0].map(|v| [v; 4]).concat();
        let blue = [0, 0, 255].map(|v| [v; 4]).concat();
        let sheet = sheet(&[vec![&red, &blue], vec![&blue]], [3, 2, 2]);
        assert_eq!(sheet.dimensions(), (2 * 6 + 2, 2 * 6 + 2));
        assert_eq!(sheet.get_pixel(2, 2).0, [255, 0, 0]);
        assert_eq!(sheet.get_pixel(8, 2).0, [0, 0, 255]);
        assert_eq!(sheet.get_pixel(5, 11).0, [0, 0, 255]);
        assert_eq!(sheet.get_pixel(8, 8).0, [255, 255, 255]);
    }

    #[test]
    fn oblong_images_keep_their_shape() {
        // Each pixel's column.
        let image = (0..24 * 40).map(|at| (at % 40) as u8).collect::<Vec<_>>();
        let sheet = sheet(&[vec![&image, &image], vec![&image]], [1, 24, 40]);
        assert_eq!(sheet.dimensions(), (2 * (80 + 2) + 2, 2 * (48 + 2) + 2));
        for (x, y, column) in [(2, 2, 0), (2 + 79, 2, 39), (84 + 78, 2 + 47, 39), (2 + 41, 52 + 47, 20)] {
            assert_eq!(sheet.get_pixel(x, y).0, [column; 3], "{x}, {y}");
        }
    }

    #[test]
    fn hundreds_of_rows_and_empty_ones_are_drawn() {
        let image = [7; 12];
        let rows = (0..300).map(|class| if class == 299 { vec![&image[..]] } else { vec![] }).collect::<Vec<_>>();
        let sheet = sheet(&rows, [3, 2, 2]);
        assert_eq!(sheet.dimensions(), (6 + 2, 300 * 6 + 2));
        assert_eq!(sheet.get_pixel(2, 2).0, [255, 255, 255]);
        assert_eq!(sheet.get_pixel(2, 299 * 6 + 2).0, [7, 7, 7]);
    }

    #[test]
    fn images_of_any_size_stay_small_on_the_sheet() {
        let scale = |height, width| {
            let scale = Scale::of(height, width);
            (scale, scale.length(height), scale.length(width))
        };
        assert_eq!(scale(32, 32), (Scale { zoom: 2, step: 1 }, 64, 64));
        assert_eq!(scale(64, 64), (Scale { zoom: 2, step: 1 }, 128, 128));
        assert_eq!(scale(65, 128), (Scale { zoom: 1, step: 1 }, 65, 128));
        assert_eq!(scale(224, 224), (Scale { zoom: 1, step: 2 }, 112, 112));
        assert_eq!(scale(4096, 1), (Scale { zoom: 1, step: 32 }, 128, 1));
        let large = vec![9; 4096 * 4096];
        assert_eq!(sheet(&[vec![&large]], [1, 4096, 4096]).dimensions(), (128 + 4, 128 + 4));
    }

    #[test]
    fn two_channels_are_drawn_by_their_first_and_four_by_their_first_three() {
        let image = (0..16).collect::<Vec<u8>>();
        assert_eq!(sheet(&[vec![&image[..8]]], [2, 2, 2]).get_pixel(2, 2).0, [0, 0, 0]);
        assert_eq!(sheet(&[vec![&image]], [4, 2, 2]).get_pixel(2, 2).0, [0, 4, 8]);
    }

    #[test]
    fn classes_have_the_colours_of_pascal_voc() {
        let colours = [0, 1, 2, 3, 8, 15, 20].map(class_colour);
        let expected = [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [64, 0, 0], [192, 128, 128], [0, 64, 128]];
        assert_eq!(colours, expected);
    }

    #[test]
    fn wrong_sizes_are_refused() {
        assert!(contact_sheet(&[vec![&[0; 5]]], [3, 2, 2]).is_err());
        assert!(contact_sheet(&[vec![], vec![]], [3, 2, 2]).is_err());
    }
}
