//! GFLOP/s of the convolution kernels at the shapes that the networks spend their time on.
//!
//! ```text
//! cargo bench -p ssdkd-ops [-- SUBSTRING-OF-A-ROW]
//! ```
//!
//! Prints tab-separated columns: the best of several repetitions, after a warm-up, of the forward pass, the input's
//! gradient and the weight's gradient. `benches/pytorch.py` prints the same columns for PyTorch.

use std::time::{Duration, Instant};

use candle_core::{Device, Result, Tensor};
use ssdkd_ops::{CachingAllocator, Conv2dSpec, Value, conv2d};

#[global_allocator]
static ALLOCATOR: CachingAllocator = CachingAllocator::new(4 << 30);

/// Size of the map, input channels, output channels, kernel, stride, batch.
const SHAPES: [(usize, usize, usize, usize, usize, usize); 16] = [
    (32, 3, 16, 3, 1, 128),
    (32, 16, 16, 3, 1, 128),
    (32, 32, 32, 3, 1, 128),
    (32, 64, 64, 3, 1, 128),
    (16, 64, 64, 3, 1, 128),
    (8, 128, 128, 3, 1, 128),
    (4, 512, 512, 3, 1, 128),
    (32, 16, 32, 3, 2, 128),
    (16, 32, 64, 3, 2, 128),
    (8, 256, 512, 3, 2, 128),
    (32, 16, 32, 1, 1, 128),
    (32, 16, 32, 1, 2, 128),
    (8, 256, 256, 1, 1, 128),
    (32, 64, 3, 3, 1, 128),
    (16, 128, 128, 3, 1, 128),
    (8, 128, 128, 3, 1, 1),
];

fn main() -> Result<()> {
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with("--")).unwrap_or_default();
    println!("map\tin\tout\tkernel\tstride\tbatch\tforward\tinput_gradient\tweight_gradient");
    for (size, channels, outputs, kernel, stride, batch) in SHAPES {
        let row = format!("{size}\t{channels}\t{outputs}\t{kernel}\t{stride}\t{batch}");
        if !row.replace('\t', " ").contains(&wanted) {
            continue;
        }
        let spec = Conv2dSpec::new(stride, kernel / 2);
        let x = Tensor::rand(-1f32, 1f32, (batch, size, size, channels), &Device::Cpu)?;
        let weight = Tensor::rand(-1f32, 1f32, (outputs, channels, kernel, kernel), &Device::Cpu)?;
        let constant = |tensor: &Tensor| Value::constant(tensor.clone());
        let gradient = conv2d(&constant(&x), &constant(&weight), None, spec)?.tensor().affine(0.5, 0.1)?;
        let products = gradient.elem_count() * channels * kernel * kernel;
        let rate = |best: Duration| 2.0 * products as f64 / best.as_secs_f64() / 1e9;

        let forward = best(|| {
            let start = Instant::now();
            conv2d(&constant(&x), &constant(&weight), None, spec)?;
            Ok(start.elapsed())
        })?;
        let backward = |x: Value, weight: Value| {
            best(|| {
                let y = conv2d(&x, &weight, None, spec)?;
                let start = Instant::now();
                y.backward_from(gradient.clone())?;
                Ok(start.elapsed())
            })
        };
        let to_x = backward(Value::leaf(&x), constant(&weight))?;
        let to_weight = backward(constant(&x), Value::leaf(&weight))?;
        println!("{row}\t{:.0}\t{:.0}\t{:.0}", rate(forward), rate(to_x), rate(to_weight));
    }
    Ok(())
}

/// The shortest time that `run` reports, over a third of a second.
fn best(mut run: impl FnMut() -> Result<Duration>) -> Result<Duration> {
    let mut best = run()?;
    let end = Instant::now() + Duration::from_millis(300);
    while Instant::now() < end {
        best = best.min(run()?);
    }
    Ok(best)
}
