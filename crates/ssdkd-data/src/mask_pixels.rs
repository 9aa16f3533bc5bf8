//! How many pixels of a data set's masks are of which class.

/// The remedy for [masks of 0 and 255](MaskPixels::are_binary_with_255).
pub const BINARY_MASKS: &str = "masks hold the classes' numbers from 0, and 255 is no class: if the masks were saved with 0 and 255, write 1 instead of 255";

/// How many pixels of all masks are of each class, and of none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaskPixels {
    /// Pixels of each class.
    pub classes: Vec<u64>,
    /// Pixels of no class.
    pub unlabelled: u64,
}

impl MaskPixels {
    /// Returns the share of pixels of no class.
    pub fn unlabelled_share(&self) -> f64 {
        let total = self.classes.iter().sum::<u64>() + self.unlabelled;
        self.unlabelled as f64 / total.max(1) as f64
    }

    /// Returns the classes without a pixel.
    pub fn missing(&self) -> Vec<usize> {
        (0..self.classes.len()).filter(|&class| self.classes[class] == 0).collect()
    }

    /// Returns whether the masks look like those of two classes that were saved as 0 and 255: one class has every pixel that is of a class.
    pub fn are_binary_with_255(&self) -> bool {
        self.classes.len() == 2 && self.unlabelled > 0 && !self.missing().is_empty()
    }
}
