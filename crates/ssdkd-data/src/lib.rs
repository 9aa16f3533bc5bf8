//! Data sets to teach with and to evaluate on.
//!
//! The method itself is data-free; teachers are not, and neither is an honest measurement. [`open()`] takes what people have on
//! disk in the form its authors publish it in, recognizes the format by what is there, and gives a [`Dataset`]: 8 bit images
//! of one shape in memory. Nothing here knows of tensors or of stages.
//!
//! Files come from anywhere, so a header is never trusted with an allocation: what is read is bounded by what is there and
//! by [`MAX_BYTES`].

mod adapt;
mod checks;
mod cifar;
mod cifar_python;
mod conversions;
mod dataset;
mod encoded;
mod ends;
mod error;
mod fit;
mod folder;
mod hints;
mod idx;
mod jpeg;
mod listing;
mod mask_pixels;
mod masked;
mod open;
mod page_header;
mod pages;
mod read;
mod resample;
mod rows;
pub mod shapes;
mod splits;
mod table;
mod tensors;
mod unlabeled;

pub use dataset::{Dataset, Split, UNLABELLED};
pub use error::DataError;
pub use fit::{Fit, Resizing, Scale};
pub use folder::open_image;
pub use mask_pixels::{BINARY_MASKS, MaskPixels};
pub use open::{look_for, open};
pub use read::MAX_BYTES;
pub use resample::Filter;
pub use unlabeled::{UnlabeledImages, open_unlabeled};
