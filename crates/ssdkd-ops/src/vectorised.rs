//! Plain loops, compiled once for each SIMD path, and the elementwise passes built on them.
//!
//! Operations without a multiply-add peak to reach (normalisation, activations, losses, optimisers) are bound by memory.
//! They are written as loops over slices that the compiler vectorises by itself, given the instructions; nothing in
//! them may depend on the width of a register, so that their results are the same bytes on every path.

use candle_core::{Result, Tensor, bail};

use crate::device;
use crate::parallel;
use crate::simd::SimdPath;

/// Declares a function whose plain loops are compiled for every [`SimdPath`]; callers pass the path first.
macro_rules! vectorised {
    ($(#[$attribute:meta])*
     $visibility:vis fn $name:ident $(<$($generic:ident: $bound:path),*>)? ($($argument:ident: $type:ty),* $(,)?) $(-> $output:ty)? $body:block
    ) => {
        $(#[$attribute])*
        $visibility fn $name $(<$($generic: $bound),*>)? (
            path: $crate::simd::SimdPath, $($argument: $type),*
        ) $(-> $output)? {
            #[inline(always)]
            fn portable $(<$($generic: $bound),*>)? ($($argument: $type),*) $(-> $output)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
            fn avx512 $(<$($generic: $bound),*>)? ($($argument: $type),*) $(-> $output)? { portable($($argument),*) }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2 $(<$($generic: $bound),*>)? ($($argument: $type),*) $(-> $output)? { portable($($argument),*) }

            match path {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: a path is only ever chosen on a CPU that has its instructions.
                $crate::simd::SimdPath::Avx512 => unsafe { avx512($($argument),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                $crate::simd::SimdPath::Avx2 => unsafe { avx2($($argument),*) },
                _ => portable($($argument),*),
            }
        }
    };
}
pub(crate) use vectorised;

vectorised! {
    fn map_slice<F: Fn(f32) -> f32>(x: &[f32], out: &mut [f32], f: &F) {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = f(x);
        }
    }
}

vectorised! {
    fn map_slices<F: Fn(f32, f32) -> f32>(a: &[f32], b: &[f32], out: &mut [f32], f: &F) {
        for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
            *out = f(a, b);
        }
    }
}

vectorised! {
    fn change_slice<F: Fn(f32, f32) -> f32>(target: &mut [f32], x: &[f32], f: &F) {
        for (target, &x) in target.iter_mut().zip(x) {
            *target = f(*target, x);
        }
    }
}

vectorised! {
    /// The sum of `f(a, b)`, with sixteen running sums in f64.
    fn sum_slices<F: Fn(f64, f64) -> f64>(a: &[f32], b: &[f32], f: &F) -> f64 {
        let mut sums = [0.0; 16];
        let (a_blocks, a_rest) = a.as_chunks::<16>();
        let (b_blocks, b_rest) = b.as_chunks::<16>();
        for (a, b) in a_blocks.iter().zip(b_blocks) {
            for lane in 0..16 {
                sums[lane] += f(f64::from(a[lane]), f64::from(b[lane]));
            }
        }
        for ((sum, &a), &b) in sums.iter_mut().zip(a_rest).zip(b_rest) {
            *sum += f(f64::from(a), f64::from(b));
        }
        sums.iter().sum()
    }
}

/// A tensor of `f` of every number of `x`.
pub(crate) fn map(operation: &str, x: &Tensor, f: impl Fn(f32) -> f32 + Sync) -> Result<Tensor> {
    let path = SimdPath::current()?;
    let numbers = device::slice(x, operation)?;
    let numbers = &*numbers;
    let mut out = device::unspecified(numbers.len());
    parallel::for_each_rows(&mut out, 1, |range, out| map_slice(path, &numbers[range], out, &f));
    device::tensor(out, x.shape())
}

/// A tensor of `f` of every pair of numbers of `a` and `b`.
///
/// # Errors
/// If the shapes differ.
pub(crate) fn map_pairs(operation: &str, a: &Tensor, b: &Tensor, f: impl Fn(f32, f32) -> f32 + Sync) -> Result<Tensor> {
    check_same_shape(operation, a, b)?;
    let path = SimdPath::current()?;
    let (numbers_a, numbers_b) = (device::slice(a, operation)?, device::slice(b, operation)?);
    let (numbers_a, numbers_b) = (&*numbers_a, &*numbers_b);
    let mut out = device::unspecified(numbers_a.len());
    parallel::for_each_rows(&mut out, 1, |range, out| {
        map_slices(path, &numbers_a[range.clone()], &numbers_b[range], out, &f);
    });
    device::tensor(out, a.shape())
}

/// Replaces every number of `target` by `f` of it and of its partner in `x`, in place.
///
/// # Errors
/// If the shapes differ, or both are views of one storage.
pub(crate) fn change(
    operation: &'static str,
    target: &Tensor,
    x: &Tensor,
    f: impl Fn(f32, f32) -> f32 + Sync + Send,
) -> Result<()> {
    check_same_shape(operation, target, x)?;
    check_separate(operation, &[target, x])?;
    let path = SimdPath::current()?;
    let numbers = device::slice(x, operation)?;
    let numbers = &*numbers;
    device::update(target, operation, |target| {
        parallel::for_each_rows(target, 1, |range, target| change_slice(path, target, &numbers[range], &f));
        Ok(())
    })
}

/// The sum of `f` of every pair of numbers of two slices of the same length, in f64 and in a fixed order.
pub(crate) fn sum_pairs(a: &[f32], b: &[f32], f: impl Fn(f64, f64) -> f64 + Sync + Send) -> Result<f64> {
    let path = SimdPath::current()?;
    let piece = parallel::rows_per_piece(1);
    let mut partial = vec![0.0; a.len().div_ceil(piece)];
    let sum = |index: usize| {
        let range = index * piece..((index + 1) * piece).min(a.len());
        sum_slices(path, &a[range.clone()], &b[range], &f)
    };
    if let [only] = partial.as_mut_slice() {
        *only = sum(0);
    } else {
        use rayon::prelude::*;
        partial.par_iter_mut().with_max_len(1).enumerate().for_each(|(index, partial)| *partial = sum(index));
    }
    Ok(partial.iter().sum())
}

/// # Errors
/// If the shapes differ.
pub(crate) fn check_same_shape(operation: &str, a: &Tensor, b: &Tensor) -> Result<()> {
    if a.dims() != b.dims() {
        bail!("{operation}: takes two tensors of the same shape, these have {:?} and {:?}", a.dims(), b.dims());
    }
    Ok(())
}

/// Refuses tensors that share a storage: writing to one while reading another would wait for ever on the storage's lock.
///
/// # Errors
/// If two of the tensors are views of one storage.
pub(crate) fn check_separate(operation: &str, tensors: &[&Tensor]) -> Result<()> {
    for (index, a) in tensors.iter().enumerate() {
        for b in &tensors[..index] {
            if storage_address(a) == storage_address(b) {
                bail!("{operation}: two of its tensors share one storage\nhint: copy one of them with copy()");
            }
        }
    }
    Ok(())
}

fn storage_address(tensor: &Tensor) -> usize {
    let (storage, _) = tensor.storage_and_layout();
    std::ptr::from_ref(&*storage).addr()
}

/// Per-channel constants repeated until they fill a long inner loop, whatever the number of channels.
///
/// With 3 or 16 channels, a loop over the channels of one pixel is shorter than a register or two and spends its time on
/// entering and leaving. A loop over this many numbers of consecutive pixels does not.
const PATTERN: usize = 128;

/// How many pixels' worth of channels a pattern spans.
pub(crate) fn pattern_rows(channels: usize) -> usize {
    PATTERN.div_ceil(channels.max(1))
}

/// `f` of every channel, repeated [`pattern_rows`] times.
pub(crate) fn pattern(channels: usize, f: impl Fn(usize) -> f32) -> Vec<f32> {
    (0..channels).map(f).collect::<Vec<_>>().repeat(pattern_rows(channels))
}

/// Rows in one piece of work over rows of `channels` numbers: a whole number of patterns, and so many rows that
/// per-channel sums are small beside them.
pub(crate) fn pattern_piece_rows(channels: usize) -> usize {
    let rows = pattern_rows(channels);
    parallel::rows_per_piece(channels).max(64).div_ceil(rows) * rows
}

vectorised! {
    /// `out = f(x, scale, shift)`, with patterns of per-channel constants.
    pub(crate) fn affine_slice<F: Fn(f32) -> f32>(x: &[f32], scale: &[f32], shift: &[f32], out: &mut [f32], f: &F) {
        for (x, out) in x.chunks(scale.len()).zip(out.chunks_mut(scale.len())) {
            for (((out, &x), &scale), &shift) in out.iter_mut().zip(x).zip(scale).zip(shift) {
                *out = f(x * scale + shift);
            }
        }
    }
}
