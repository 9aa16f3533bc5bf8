//! Differentiable channels-last tensor operations on candle tensors.
//!
//! Training small networks on a CPU is what data-free distillation spends its time on. This crate makes that fast: its
//! own tape ([`Value`]) over candle's tensors, convolutions that run near the multiply-add peak of the machine, and
//! operations fused so that each activation is read and written once. Images are `(B, H, W, C)`, weights are laid out
//! as PyTorch lays them out, numbers are `f32`, but for activations on a GPU that was asked for bf16.
//!
//! Results on the CPU are the same bytes at any number of threads: work is split by shape, and partial sums are added
//! in a fixed order.
//!
//! This is the only crate of the workspace with `unsafe` code: SIMD kernels, the access to tensor storage and the
//! caching allocator. It knows nothing of models or files.
#![allow(unsafe_code)]
#![expect(clippy::inline_always, reason = "kernels have to take on the target features of their callers")]

#[doc = include_str!("../KERNELS.md")]
pub mod kernels {}

#[macro_use]
mod dispatch;

mod accumulate;
mod activation;
mod alloc;
mod arithmetic;
mod augment;
mod channels;
mod conv;
#[cfg(feature = "cuda")]
mod cuda;
mod device;
mod elementwise;
mod images;
mod linear;
mod logits;
mod loss;
mod norm;
mod optim;
mod parallel;
mod pool;
mod precision;
mod read_back;
mod recording;
mod resample;
mod rows;
mod separable;
mod simd;
mod softmax;
mod table;
mod value;
mod variation;
mod vectorised;

pub use activation::{Activation, activate, leaky_relu, relu, sigmoid};
pub use alloc::{CachingAllocator, allocated_bytes, peak_bytes, reset_peak};
pub use arithmetic::{add, divide, multiply, prelu, subtract};
pub use augment::{CropFlip, color_lines, crop_flip, crop_flip_at, crop_flip_masks};
pub use channels::{concat_channels, shuffle_channels, slice_channels, split_channels};
pub use conv::{
    Conv2dSpec, PreparedConvolution, conv_transpose2d, conv2d, conv2d_prepared, conv2d_then, prepare_convolution,
    with_direct_convolutions,
};
#[cfg(feature = "cuda")]
pub use cuda::{CudaSettings, cuda_settings, name as cuda_name, open as cuda_device, set_cuda_settings};
pub use elementwise::{
    affine_channels, mean_all, nchw_to_nhwc, reshape, round_to_u8_levels, scale, sum_all, weighted_sum,
};
pub use images::gather_images;
pub use linear::linear;
pub use logits::{agreement, argmax, argmax_rows, confidence, focal_weights, group_means, kl_per_sample, same_argmax};
pub use loss::{
    check_row_weights, cross_entropy, cross_entropy_of, cross_entropy_smoothed, kl_divergence, l2_distance,
    mean_absolute_difference, mean_softmax_negentropy, relative_distance, softmax,
};
pub use norm::{
    BatchMoments, FrozenNorm, Running, batch_norm_eval, batch_norm_tapped, batch_norm_train, channel_moments,
    fold_batch_norm,
};
pub use optim::{
    AdamSlot, SgdSlot, adam_rates, adam_step, adam_steps, adam_steps_at, copy_assign, lerp_assign, norm_of_all,
    sgd_step, sgd_steps, sgd_steps_at,
};
pub use pool::{Pool2dSpec, adaptive_avg_pool2d, avg_pool2d, global_avg_pool, max_pool2d};
pub use precision::{to_f32, to_reduced_precision};
pub use read_back::{Packed, read_backs};
pub use recording::{Recording, records_steps, replays};
pub use resample::{Interpolation, resize, subsample_pad, upsample_nearest};
pub use rows::{side_by_side, unit_rows};
pub use simd::SimdPath;
pub use value::{Backward, Gradients, Value};
pub use variation::total_variation;
