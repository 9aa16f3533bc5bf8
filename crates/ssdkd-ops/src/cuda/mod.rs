//! The operations on a GPU.
//!
//! | file | what it decides |
//! |---|---|
//! | `libraries` | where NVIDIA's libraries are |
//! | `program` | how the kernels of `kernels/` are compiled for the GPU at hand |
//! | `gpu` | tensors, launches, settings |
//! | `memory`, `pools` | what is done with memory that is given back; memory of recordings |
//! | `graph` | what is recorded once and launched as one |
//! | `dnn` | which of cuDNN's algorithms computes a convolution |
//! | the others | the operations, as the modules of the same names beside this one have them for the CPU |
//!
//! An operation's public function checks its arguments, and comes here when they are on a GPU. Nothing here waits for
//! the GPU, except what returns numbers to the program, and cuDNN's trials of a shape that is seen for the first time. All
//! work is in order on the one stream of a device.

mod arithmetic;
mod channels;
mod conv;
mod direct;
mod dnn;
mod error;
mod gpu;
mod graph;
mod images;
mod libraries;
mod logits;
mod loss;
mod memory;
mod norm;
mod optim;
mod padding;
mod pointwise;
mod pools;
mod program;
mod reduce;
mod rows;
mod settings;

pub(crate) use arithmetic::{elementwise, negative, pair_forward, pair_to_large, pair_to_small};
pub(crate) use channels::{join_channels, shuffle_channels, take_channels};
pub(crate) use conv::{pack_weight, record as convolution, transposed as transposed_convolution};
pub use gpu::{name, open};
pub(crate) use graph::{Graph, launches};
pub(crate) use images::{
    color_lines, crop_flip, crop_flip_at, gather_images, global_avg_pool, max_pool2d, separable, subsample_pad,
    total_variation, upsample_nearest,
};
pub(crate) use logits::{argmax_rows, focal_weights, group_means, kl_per_sample, same_argmax};
pub(crate) use loss::{cross_entropy, kl_divergence, mean_softmax_negentropy, softmax};
pub(crate) use memory::read_backs;
pub(crate) use norm::{Layer, batch_norm_eval, batch_norm_tapped, batch_norm_train, channel_moments, fold, follow};
pub(crate) use optim::{Rates, Slot, adam, norm, sgd};
pub(crate) use pointwise::{
    activate, add, add_assign, affine_channels, copy_assign, lerp_assign, nchw_to_nhwc, round_to_u8_levels, scale,
    sigmoid, to_bf16, to_f32,
};
pub(crate) use reduce::{l2_distance, mean, mean_absolute_difference, pack, relative_distance, sum, weighted_sum};
pub(crate) use rows::unit_rows;
pub use settings::{CudaSettings, cuda_settings, set_cuda_settings};

/// An activation as the kernels have it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Activation {
    kind: i32,
    numbers: [f32; 2],
}

impl From<crate::Activation> for Activation {
    fn from(activation: crate::Activation) -> Self {
        let (kind, numbers) = match activation {
            crate::Activation::None => (0, [0.0; 2]),
            crate::Activation::Relu => (1, [0.0; 2]),
            crate::Activation::LeakyRelu(slope) => (2, [slope, 0.0]),
            crate::Activation::Clip(low, high) => (3, [low, high]),
            crate::Activation::HardSigmoid => (4, [0.0; 2]),
            crate::Activation::HardSwish => (5, [0.0; 2]),
            crate::Activation::Silu => (6, [0.0; 2]),
        };
        Self { kind, numbers }
    }
}
