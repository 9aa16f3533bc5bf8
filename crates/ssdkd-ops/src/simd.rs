//! Which instructions the kernels use, and the vector type that lets one kernel be compiled for each of them.
//!
//! A kernel is written once, over [`Vector`], marked `#[inline(always)]`, and instantiated by [`dispatch!`] inside one
//! function for each path that enables that path's target features. The path is chosen at run time, once for each
//! operation: the best the CPU has, or what `SSDKD_SIMD` says.
//!
//! Paths differ in rounding (fused multiply-add or not, and the order of some sums): results are reproducible on one
//! path, close between paths.

use std::cell::Cell;
use std::sync::OnceLock;

use candle_core::{Result, bail};

/// A set of instructions that the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SimdPath {
    /// AVX-512F: 16 numbers at a time in 32 registers.
    Avx512,
    /// AVX2 with FMA: 8 numbers at a time in 16 registers.
    Avx2,
    /// Whatever the compiler makes of plain arrays of 4 numbers: SSE2, NEON, …
    Portable,
}

impl SimdPath {
    /// Every path, fastest first.
    pub const ALL: [SimdPath; 3] = [SimdPath::Avx512, SimdPath::Avx2, SimdPath::Portable];

    /// The name in `SSDKD_SIMD`.
    pub fn name(self) -> &'static str {
        match self {
            SimdPath::Avx512 => "avx512",
            SimdPath::Avx2 => "avx2",
            SimdPath::Portable => "portable",
        }
    }

    /// Whether this CPU has the instructions.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            SimdPath::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
            }
            #[cfg(target_arch = "x86_64")]
            SimdPath::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(not(target_arch = "x86_64"))]
            SimdPath::Avx512 | SimdPath::Avx2 => false,
            SimdPath::Portable => true,
        }
    }

    /// The path that operations called from this thread use now.
    ///
    /// # Errors
    /// If `SSDKD_SIMD` names no path, or one that this CPU lacks.
    pub fn current() -> Result<Self> {
        static CHOSEN: OnceLock<std::result::Result<SimdPath, String>> = OnceLock::new();
        if let Some(path) = FORCED.get() {
            return Ok(path);
        }
        match CHOSEN.get_or_init(|| choose(std::env::var("SSDKD_SIMD").ok().as_deref())) {
            Ok(path) => Ok(*path),
            Err(message) => bail!("{message}"),
        }
    }

    /// Runs `work` with the operations it calls on this thread held to this path: for tests and benchmarks.
    ///
    /// # Errors
    /// If this CPU lacks the path; otherwise, whatever `work` returns.
    pub fn force<R>(self, work: impl FnOnce() -> Result<R>) -> Result<R> {
        struct Restore(Option<SimdPath>);
        impl Drop for Restore {
            fn drop(&mut self) {
                FORCED.set(self.0);
            }
        }
        if !self.is_available() {
            bail!("this CPU does not have the instructions of the path `{}`", self.name());
        }
        let _restore = Restore(FORCED.replace(Some(self)));
        work()
    }
}

thread_local! {
    static FORCED: Cell<Option<SimdPath>> = const { Cell::new(None) };
}

fn choose(wanted: Option<&str>) -> std::result::Result<SimdPath, String> {
    let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) else {
        return Ok(SimdPath::ALL.into_iter().find(|path| path.is_available()).unwrap_or(SimdPath::Portable));
    };
    match SimdPath::ALL.into_iter().find(|path| path.name() == wanted) {
        Some(path) if path.is_available() => Ok(path),
        Some(_) => Err(format!(
            "SSDKD_SIMD={wanted}: this CPU does not have these instructions\nhint: unset SSDKD_SIMD to use the best it has"
        )),
        None => Err(format!("SSDKD_SIMD={wanted}: no such path\nhint: one of avx512, avx2, portable")),
    }
}

/// Numbers in the narrowest register of every path.
pub(crate) const NARROW: usize = 4;

/// A register of `LANES` numbers.
///
/// # Safety
/// The methods may only run on a CPU with the path's instructions, inlined into a function that enables them.
pub(crate) trait Vector: Copy {
    const LANES: usize;

    /// The register of [`NARROW`] numbers on the same path, or this one if it has no more.
    type Narrow: Vector;

    unsafe fn zero() -> Self;

    /// Reads `LANES` numbers at `from`, which may be unaligned.
    unsafe fn load(from: *const f32) -> Self;

    /// The number at `from`, in every lane.
    unsafe fn splat(from: *const f32) -> Self;

    /// Writes `LANES` numbers at `to`, which may be unaligned.
    unsafe fn store(self, to: *mut f32);

    /// Reads the first `count` numbers at `from`, at most `LANES`, and nothing beyond; the others are zero.
    unsafe fn load_first(from: *const f32, count: usize) -> Self;

    /// Writes the first `count` numbers at `to`, at most `LANES`, and nothing beyond.
    unsafe fn store_first(self, to: *mut f32, count: usize);

    /// `self * factor + sum`.
    unsafe fn multiply_add(self, factor: Self, sum: Self) -> Self;

    unsafe fn add(self, other: Self) -> Self;

    unsafe fn subtract(self, other: Self) -> Self;

    /// The positive numbers, and 0 for the others; NaN stays NaN.
    unsafe fn relu(self) -> Self;

    /// The numbers between `low` and `high`, and these for those beyond; NaN stays NaN.
    unsafe fn clip(self, low: Self, high: Self) -> Self;
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m128, __m128i, __m256, __m256i, __m512, _mm_add_ps, _mm_fmadd_ps, _mm_loadu_ps, _mm_loadu_si128,
        _mm_maskload_ps, _mm_maskstore_ps, _mm_max_ps, _mm_min_ps, _mm_set1_ps, _mm_setzero_ps, _mm_storeu_ps,
        _mm_sub_ps, _mm256_add_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_maskload_ps,
        _mm256_maskstore_ps, _mm256_max_ps, _mm256_min_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
        _mm256_sub_ps, _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps,
        _mm512_max_ps, _mm512_min_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps, _mm512_sub_ps,
    };

    use super::Vector;

    /// As many lanes of −1 as any register of AVX2 has, and as many of 0: from lane 8 − n on, n are set.
    static LANES_SET: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

    /// # Safety
    /// The CPU has AVX2; so it is below.
    #[inline(always)]
    unsafe fn narrow_mask(count: usize) -> __m128i {
        // SAFETY: `count` is at most 4.
        unsafe { _mm_loadu_si128(LANES_SET.as_ptr().add(8 - count).cast()) }
    }

    #[inline(always)]
    unsafe fn narrow_load(from: *const f32, count: usize) -> __m128 {
        unsafe { _mm_maskload_ps(from, narrow_mask(count)) }
    }

    #[inline(always)]
    unsafe fn narrow_store(numbers: __m128, to: *mut f32, count: usize) {
        unsafe { _mm_maskstore_ps(to, narrow_mask(count), numbers) }
    }

    #[inline(always)]
    unsafe fn medium_mask(count: usize) -> __m256i {
        // SAFETY: `count` is at most 8.
        unsafe { _mm256_loadu_si256(LANES_SET.as_ptr().add(8 - count).cast()) }
    }

    #[inline(always)]
    unsafe fn medium_load(from: *const f32, count: usize) -> __m256 {
        unsafe { _mm256_maskload_ps(from, medium_mask(count)) }
    }

    #[inline(always)]
    unsafe fn medium_store(numbers: __m256, to: *mut f32, count: usize) {
        unsafe { _mm256_maskstore_ps(to, medium_mask(count), numbers) }
    }

    /// A bit for each of the first `count` of 16 lanes.
    #[inline(always)]
    fn wide_mask(count: usize) -> u16 {
        ((1_u32 << count) - 1) as u16
    }

    #[inline(always)]
    unsafe fn wide_load(from: *const f32, count: usize) -> __m512 {
        unsafe { _mm512_maskz_loadu_ps(wide_mask(count), from) }
    }

    #[inline(always)]
    unsafe fn wide_store(numbers: __m512, to: *mut f32, count: usize) {
        unsafe { _mm512_mask_storeu_ps(to, wide_mask(count), numbers) }
    }

    macro_rules! vector {
        ($type:ty, $lanes:literal, $zero:ident, $load:ident, $splat:ident, $store:ident, $multiply_add:ident,
         $add:ident, $subtract:ident, $max:ident, $min:ident, $load_first:ident, $store_first:ident) => {
            // SAFETY: the caller guarantees the instructions and the pointers, as the trait asks.
            impl Vector for $type {
                const LANES: usize = $lanes;
                type Narrow = __m128;

                #[inline(always)]
                unsafe fn zero() -> Self {
                    unsafe { $zero() }
                }

                #[inline(always)]
                unsafe fn load(from: *const f32) -> Self {
                    unsafe { $load(from) }
                }

                #[inline(always)]
                unsafe fn splat(from: *const f32) -> Self {
                    unsafe { $splat(*from) }
                }

                #[inline(always)]
                unsafe fn store(self, to: *mut f32) {
                    unsafe { $store(to, self) }
                }

                #[inline(always)]
                unsafe fn load_first(from: *const f32, count: usize) -> Self {
                    unsafe { $load_first(from, count) }
                }

                #[inline(always)]
                unsafe fn store_first(self, to: *mut f32, count: usize) {
                    unsafe { $store_first(self, to, count) }
                }

                #[inline(always)]
                unsafe fn multiply_add(self, factor: Self, sum: Self) -> Self {
                    unsafe { $multiply_add(self, factor, sum) }
                }

                #[inline(always)]
                unsafe fn add(self, other: Self) -> Self {
                    unsafe { $add(self, other) }
                }

                #[inline(always)]
                unsafe fn subtract(self, other: Self) -> Self {
                    unsafe { $subtract(self, other) }
                }

                #[inline(always)]
                unsafe fn relu(self) -> Self {
                    // Of two numbers that cannot be compared, the instruction takes the second.
                    unsafe { $max($zero(), self) }
                }

                #[inline(always)]
                unsafe fn clip(self, low: Self, high: Self) -> Self {
                    unsafe { $min(high, $max(low, self)) }
                }
            }
        };
    }

    vector!(
        __m128,
        4,
        _mm_setzero_ps,
        _mm_loadu_ps,
        _mm_set1_ps,
        _mm_storeu_ps,
        _mm_fmadd_ps,
        _mm_add_ps,
        _mm_sub_ps,
        _mm_max_ps,
        _mm_min_ps,
        narrow_load,
        narrow_store
    );
    vector!(
        __m256,
        8,
        _mm256_setzero_ps,
        _mm256_loadu_ps,
        _mm256_set1_ps,
        _mm256_storeu_ps,
        _mm256_fmadd_ps,
        _mm256_add_ps,
        _mm256_sub_ps,
        _mm256_max_ps,
        _mm256_min_ps,
        medium_load,
        medium_store
    );
    vector!(
        __m512,
        16,
        _mm512_setzero_ps,
        _mm512_loadu_ps,
        _mm512_set1_ps,
        _mm512_storeu_ps,
        _mm512_fmadd_ps,
        _mm512_add_ps,
        _mm512_sub_ps,
        _mm512_max_ps,
        _mm512_min_ps,
        wide_load,
        wide_store
    );
}

/// Four numbers in a plain array, which compilers keep in one 128-bit register where there is one.
#[derive(Clone, Copy)]
pub(crate) struct Portable([f32; 4]);

// SAFETY: the caller guarantees the pointers, as the trait asks; no special instructions.
impl Vector for Portable {
    const LANES: usize = 4;
    type Narrow = Self;

    #[inline(always)]
    unsafe fn zero() -> Self {
        Self([0.0; 4])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Self(unsafe { from.cast::<[f32; 4]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn splat(from: *const f32) -> Self {
        Self([unsafe { *from }; 4])
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { to.cast::<[f32; 4]>().write_unaligned(self.0) };
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        // SAFETY: only the first `count` numbers are looked at.
        Self(std::array::from_fn(|lane| if lane < count { unsafe { *from.add(lane) } } else { 0.0 }))
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        for (lane, number) in self.0.into_iter().enumerate().take(count) {
            // SAFETY: so many numbers may be written.
            unsafe { *to.add(lane) = number };
        }
    }

    #[inline(always)]
    unsafe fn multiply_add(self, factor: Self, sum: Self) -> Self {
        Self(std::array::from_fn(|lane| self.0[lane] * factor.0[lane] + sum.0[lane]))
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(std::array::from_fn(|lane| self.0[lane] + other.0[lane]))
    }

    #[inline(always)]
    unsafe fn subtract(self, other: Self) -> Self {
        Self(std::array::from_fn(|lane| self.0[lane] - other.0[lane]))
    }

    #[inline(always)]
    unsafe fn relu(self) -> Self {
        Self(self.0.map(|number| if number <= 0.0 { 0.0 } else { number }))
    }

    #[inline(always)]
    unsafe fn clip(self, low: Self, high: Self) -> Self {
        Self(std::array::from_fn(|lane| {
            let above = if self.0[lane] <= low.0[lane] { low.0[lane] } else { self.0[lane] };
            if above >= high.0[lane] { high.0[lane] } else { above }
        }))
    }
}

/// Asks for the cache line of `address`, which may be any address at all.
#[inline(always)]
pub(crate) fn prefetch(address: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch of an address that cannot be read does nothing; every x86-64 CPU has the instruction.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Calls `$kernel::<V, $sizes…>($arguments…)` with the vector type and the tile sizes of a path, in a function that
/// enables the path's instructions.
///
/// `$kernel` must be `#[inline(always)]`. The macro's value is the kernel's. The call is unsafe as the kernel is; that
/// the CPU has the instructions is guaranteed by how a [`SimdPath`] is obtained.
macro_rules! dispatch {
    ($path:expr, $kernel:ident, [$($wide:literal),*], [$($medium:literal),*], [$($narrow:literal),*],
     ($($argument:ident: $type:ty),* $(,)?)) => {{
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
        unsafe fn avx512($($argument: $type),*) {
            // SAFETY: the caller keeps the kernel's contract.
            unsafe { $kernel::<std::arch::x86_64::__m512, $($wide),*>($($argument),*) }
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma")]
        unsafe fn avx2($($argument: $type),*) {
            // SAFETY: the caller keeps the kernel's contract.
            unsafe { $kernel::<std::arch::x86_64::__m256, $($medium),*>($($argument),*) }
        }
        match $path {
            #[cfg(target_arch = "x86_64")]
            $crate::simd::SimdPath::Avx512 => avx512($($argument),*),
            #[cfg(target_arch = "x86_64")]
            $crate::simd::SimdPath::Avx2 => avx2($($argument),*),
            _ => $kernel::<$crate::simd::Portable, $($narrow),*>($($argument),*),
        }
    }};
}
pub(crate) use dispatch;

/// Numbers in a register of the path.
pub(crate) fn lanes(path: SimdPath) -> usize {
    match path {
        SimdPath::Avx512 => 16,
        SimdPath::Avx2 => 8,
        SimdPath::Portable => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_names_a_path() {
        assert_eq!(choose(Some("portable")), Ok(SimdPath::Portable));
        assert_eq!(choose(Some("")), choose(None));
        assert!(choose(Some("sse9")).is_err_and(|message| message.contains("one of avx512, avx2, portable")));
    }

    #[test]
    fn a_forced_path_ends_with_its_scope() -> Result<()> {
        let before = SimdPath::current()?;
        SimdPath::Portable.force(|| {
            assert_eq!(SimdPath::current()?, SimdPath::Portable);
            Ok(())
        })?;
        assert_eq!(SimdPath::current()?, before);
        Ok(())
    }
}
