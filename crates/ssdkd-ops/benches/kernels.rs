//! The convolution kernels at the shapes that the networks spend their time on, beside the multiply-add peak of the machine.
//!
//! ```text
//! cargo bench --workspace --bench kernels [-- FILTER]
//! ```
//!
//! An item is a floating-point operation of the direct sum: two for each product. Kernels that need fewer products than the
//! direct sum (3×3 with stride 1) may therefore go beyond the peak; `direct` shows the same shapes without that. `peak` has the
//! two bounds of every kernel: multiply-adds, and bytes to and from memory.

#![allow(unsafe_code, reason = "the peak is measured with the instructions themselves")]

use std::fmt::{self, Display};

use candle_core::{Device, Tensor};
use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use rayon::prelude::*;
use ssdkd_ops::{CachingAllocator, Conv2dSpec, Value, conv2d, with_direct_convolutions};

#[global_allocator]
static ALLOCATOR: CachingAllocator = CachingAllocator::new(4 << 30);

fn main() {
    // As in the programs, this thread is one of the workers.
    let pool = rayon::ThreadPoolBuilder::new().use_current_thread().build_global();
    pool.expect("no pool was started before");
    divan::main();
}

/// A square map, input channels, output channels, kernel, stride, batch, groups.
struct Shape(usize, usize, usize, usize, usize, usize, usize);

impl Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(size, channels, outputs, kernel, stride, batch, groups) = self;
        let depthwise = if *groups == 1 { "" } else { " depthwise" };
        write!(f, "{size}x{size} {channels}>{outputs} {kernel}x{kernel}/{stride} b{batch}{depthwise}")
    }
}

const SHAPES: [Shape; 27] = [
    Shape(32, 3, 16, 3, 1, 128, 1),
    Shape(32, 16, 16, 3, 1, 128, 1),
    Shape(32, 32, 32, 3, 1, 128, 1),
    Shape(32, 64, 64, 3, 1, 128, 1),
    Shape(16, 64, 64, 3, 1, 128, 1),
    Shape(16, 128, 128, 3, 1, 128, 1),
    Shape(8, 128, 128, 3, 1, 128, 1),
    Shape(8, 128, 128, 3, 1, 1, 1),
    Shape(4, 512, 512, 3, 1, 128, 1),
    Shape(32, 16, 32, 3, 2, 128, 1),
    Shape(16, 32, 64, 3, 2, 128, 1),
    Shape(8, 256, 512, 3, 2, 128, 1),
    Shape(32, 16, 32, 1, 1, 128, 1),
    Shape(32, 16, 32, 1, 2, 128, 1),
    Shape(8, 256, 256, 1, 1, 128, 1),
    Shape(32, 64, 3, 3, 1, 128, 1),
    // Of MobileNets and EfficientNets.
    Shape(112, 32, 32, 3, 1, 8, 32),
    Shape(56, 144, 144, 3, 1, 8, 144),
    Shape(56, 144, 144, 3, 2, 8, 144),
    Shape(28, 240, 240, 5, 2, 8, 240),
    Shape(14, 672, 672, 5, 1, 8, 672),
    Shape(7, 960, 960, 3, 1, 8, 960),
    Shape(56, 24, 144, 1, 1, 8, 1),
    Shape(56, 144, 24, 1, 1, 8, 1),
    Shape(14, 96, 576, 1, 1, 8, 1),
    Shape(14, 576, 96, 1, 1, 8, 1),
    Shape(7, 320, 1280, 1, 1, 8, 1),
];

struct Tensors {
    x: Tensor,
    weight: Tensor,
    gradient: Tensor,
    spec: Conv2dSpec,
    operations: ItemsCount,
}

impl Shape {
    fn tensors(&self) -> Tensors {
        let &Self(size, channels, outputs, kernel, stride, batch, groups) = self;
        let random =
            |dims: (usize, usize, usize, usize)| Tensor::rand(-1f32, 1f32, dims, &Device::Cpu).expect("memory");
        let x = random((batch, size, size, channels));
        let weight = random((outputs, channels / groups, kernel, kernel));
        let out = size.div_ceil(stride);
        let gradient = random((batch, out, out, outputs));
        let operations = ItemsCount::new(2 * batch * out * out * outputs * (channels / groups) * kernel * kernel);
        let spec = Conv2dSpec { groups, ..Conv2dSpec::new(stride, kernel / 2) };
        Tensors { x, weight, gradient, spec, operations }
    }
}

impl Tensors {
    fn forward(&self, x: &Value, weight: &Value) -> Value {
        conv2d(x, weight, None, self.spec).expect("the shapes fit together")
    }

    fn bench_forward(&self, bencher: Bencher) {
        let (x, weight) = (Value::constant(self.x.clone()), Value::constant(self.weight.clone()));
        bencher.counter(self.operations).bench_local(|| self.forward(&x, &weight));
    }

    fn bench_backward(&self, bencher: Bencher, x: &Value, weight: &Value) {
        bencher
            .counter(self.operations)
            .with_inputs(|| self.forward(x, weight))
            .bench_local_values(|y| y.backward_from(self.gradient.clone()).expect("a gradient of the right shape"));
    }
}

#[divan::bench(args = SHAPES, max_time = 0.5)]
fn forward(bencher: Bencher, shape: &Shape) {
    shape.tensors().bench_forward(bencher);
}

#[divan::bench(args = SHAPES, max_time = 0.5)]
fn input_gradient(bencher: Bencher, shape: &Shape) {
    let tensors = shape.tensors();
    tensors.bench_backward(bencher, &Value::leaf(&tensors.x), &Value::constant(tensors.weight.clone()));
}

#[divan::bench(args = SHAPES, max_time = 0.5)]
fn weight_gradient(bencher: Bencher, shape: &Shape) {
    let tensors = shape.tensors();
    tensors.bench_backward(bencher, &Value::constant(tensors.x.clone()), &Value::leaf(&tensors.weight));
}

mod direct {
    use super::{Bencher, SHAPES, Shape, Value, with_direct_convolutions};

    #[divan::bench(args = SHAPES, max_time = 0.5)]
    fn forward(bencher: Bencher, shape: &Shape) {
        with_direct_convolutions(|| shape.tensors().bench_forward(bencher));
    }

    #[divan::bench(args = SHAPES, max_time = 0.5)]
    fn weight_gradient(bencher: Bencher, shape: &Shape) {
        let tensors = shape.tensors();
        let x = Value::constant(tensors.x.clone());
        with_direct_convolutions(|| tensors.bench_backward(bencher, &x, &Value::leaf(&tensors.weight)));
    }
}

/// What memory gives and takes at most: `a = b + s·c` over vectors that no cache holds, on all threads. Bytes that are read only to
/// be overwritten are not counted.
#[divan::bench(max_time = 1.0)]
fn peak_memory(bencher: Bencher) {
    const NUMBERS: usize = 1 << 25;
    const PIECE: usize = 1 << 16;
    let (mut a, b, c) = (vec![0f32; NUMBERS], vec![1f32; NUMBERS], vec![2f32; NUMBERS]);
    bencher.counter(BytesCount::new(3 * size_of::<f32>() * NUMBERS)).bench_local(|| {
        let pieces = a.par_chunks_mut(PIECE).zip(b.par_chunks(PIECE)).zip(c.par_chunks(PIECE));
        pieces.for_each(|((a, b), c)| {
            for ((a, b), c) in a.iter_mut().zip(b).zip(c) {
                *a = b + 0.5 * c;
            }
        });
    });
}

/// What the multiply-add units of all threads do at most: sums that stay in registers.
#[cfg(target_arch = "x86_64")]
mod peak {
    use std::arch::x86_64::{
        __m512, __m512bh, _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_reduce_add_ps, _mm512_set1_ps,
    };
    use std::hint::black_box;

    use super::{Bencher, ItemsCount};

    const STEPS: usize = 1 << 20;

    /// Independent sums: more than the latency of a multiply-add times the number of units.
    const SUMS: usize = 12;

    /// # Safety
    /// The CPU has the instructions.
    #[target_feature(enable = "avx512f")]
    unsafe fn f32_products() -> f32 {
        let factor = _mm512_set1_ps(black_box(0.999));
        // Different ones, or the compiler finds that they are the same sum.
        let mut sums: [_; SUMS] = std::array::from_fn(|at| _mm512_set1_ps(at as f32));
        for _ in 0..STEPS {
            for at in 0..SUMS {
                sums[at] = _mm512_fmadd_ps(factor, factor, sums[at]);
            }
        }
        sums.into_iter().map(|sum| _mm512_reduce_add_ps(sum)).sum()
    }

    /// # Safety
    /// The CPU has the instructions.
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn bf16_products() -> f32 {
        let ones = _mm512_set1_ps(black_box(1.0));
        // SAFETY: registers of the same size; any bits are numbers.
        let factor = unsafe { std::mem::transmute::<__m512, __m512bh>(ones) };
        let mut sums: [_; SUMS] = std::array::from_fn(|at| _mm512_set1_ps(at as f32));
        for _ in 0..STEPS {
            for at in 0..SUMS {
                sums[at] = _mm512_dpbf16_ps(sums[at], factor, factor);
            }
        }
        sums.into_iter().map(|sum| _mm512_reduce_add_ps(sum)).sum()
    }

    fn on_all_threads(bencher: Bencher, lanes: usize, work: impl Fn() -> f32 + Sync) {
        let threads = rayon::current_num_threads();
        let operations = ItemsCount::new(2 * threads * STEPS * SUMS * lanes);
        bencher.counter(operations).bench_local(|| rayon::broadcast(|_| black_box(work())));
    }

    #[divan::bench(max_time = 0.5)]
    fn multiply_add_f32(bencher: Bencher) {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the CPU has the instructions.
            on_all_threads(bencher, 16, || unsafe { f32_products() });
        }
    }

    #[divan::bench(max_time = 0.5)]
    fn multiply_add_bf16(bencher: Bencher) {
        if is_x86_feature_detected!("avx512bf16") {
            // SAFETY: the CPU has the instructions.
            on_all_threads(bencher, 32, || unsafe { bf16_products() });
        }
    }
}
