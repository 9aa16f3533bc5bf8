//! A contact sheet: one row of images for each class.

use anyhow::{Context as _, Result, bail};
use image::{ExtendedColorType, ImageEncoder as _, codecs::png::PngEncoder};

/// White space between images, in pixels of the sheet.
const GAP: usize = 2;

/// Images in C,H,W order (1 or 3 channels), row by row, each enlarged `zoom` times, as PNG bytes.
///
/// Rows may differ in length; what is missing stays white.
pub fn contact_sheet(rows: &[Vec<&[u8]>], shape: [usize; 3], zoom: usize) -> Result<Vec<u8>> {
    let [channels, height, width] = shape;
    if channels != 1 && channels != 3 {
        bail!("a contact sheet needs images of 1 or 3 channels, these have {channels}");
    }
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    if columns == 0 {
        bail!("there is no image to draw");
    }
    let (cell_width, cell_height) = (width * zoom + GAP, height * zoom + GAP);
    let (sheet_width, sheet_height) = (columns * cell_width + GAP, rows.len() * cell_height + GAP);
    let mut sheet = vec![255u8; sheet_width * sheet_height * 3];
    for (row, images) in rows.iter().enumerate() {
        for (column, image) in images.iter().enumerate() {
            if image.len() != channels * height * width {
                bail!("an image has {} values instead of {channels}×{height}×{width}", image.len());
            }
            let (top, left) = (GAP + row * cell_height, GAP + column * cell_width);
            for y in 0..height * zoom {
                for x in 0..width * zoom {
                    let target = ((top + y) * sheet_width + left + x) * 3;
                    for c in 0..3 {
                        let plane = c.min(channels - 1) * height * width;
                        sheet[target + c] = image[plane + (y / zoom) * width + x / zoom];
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

/// The colour of a class in pictures of masks: that of Pascal VOC's colour map, black for the first.
pub fn class_colour(class: u8) -> [u8; 3] {
    // The bits of the class go to the three colours in turn, the lowest to the highest of each.
    let bit = |at: u32| class.checked_shr(at).unwrap_or(0) & 1;
    [0, 1, 2].map(|first| (0..3).map(|place| bit(3 * place + first) << (7 - place)).sum::<u8>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_land_where_they_belong() {
        let red = [255, 0, 0].map(|v| [v; 4]).concat();
        let blue = [0, 0, 255].map(|v| [v; 4]).concat();
        let png = contact_sheet(&[vec![&red, &blue], vec![&blue]], [3, 2, 2], 3).unwrap();
        let sheet = image::load_from_memory(&png).unwrap().to_rgb8();
        assert_eq!(sheet.dimensions(), (2 * 8 + 2, 2 * 8 + 2));
        assert_eq!(sheet.get_pixel(2, 2).0, [255, 0, 0]);
        assert_eq!(sheet.get_pixel(10, 2).0, [0, 0, 255]);
        assert_eq!(sheet.get_pixel(7, 15).0, [0, 0, 255]);
        assert_eq!(sheet.get_pixel(10, 10).0, [255, 255, 255]);
    }

    #[test]
    fn classes_have_the_colours_of_pascal_voc() {
        let colours = [0, 1, 2, 3, 8, 15, 20].map(class_colour);
        let expected = [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [64, 0, 0], [192, 128, 128], [0, 64, 128]];
        assert_eq!(colours, expected);
    }

    #[test]
    fn wrong_sizes_are_refused() {
        assert!(contact_sheet(&[vec![&[0; 5]]], [3, 2, 2], 1).is_err());
        assert!(contact_sheet(&[], [3, 2, 2], 1).is_err());
    }
}
