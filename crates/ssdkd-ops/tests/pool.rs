//! Pooling and resampling against PyTorch, finite differences and plain loops.

mod common;

use candle_core::Tensor;
use common::{
    Golden, assert_close, assert_refuses, assert_same, check_gradients, check_same_bytes, flat, numbers, tensor,
};
use ssdkd_ops::{
    Interpolation, Pool2dSpec, Value, adaptive_avg_pool2d, avg_pool2d, global_avg_pool, max_pool2d, reshape, resize,
    subsample_pad, upsample_nearest,
};

const BILINEAR: [Interpolation; 2] =
    [Interpolation::Bilinear { align_corners: false }, Interpolation::Bilinear { align_corners: true }];

/// Windows of 3×2 pixels, every second pixel, with a pixel of padding around.
fn oblong(ceil_mode: bool, count_include_pad: bool) -> Pool2dSpec {
    Pool2dSpec { kernel: [3, 2], ceil_mode, count_include_pad, ..Pool2dSpec::new(3, 2, 1) }
}

/// Windows that may begin a pixel left of the image and end two below it.
fn sides() -> Pool2dSpec {
    Pool2dSpec { kernel: [3, 2], stride: [1, 2], padding: [0, 2, 1, 0], ..Pool2dSpec::new(3, 1, 0) }
}

#[test]
fn agree_with_pytorch() {
    let golden = Golden::load();
    golden.check("global_avg_pool", &["x"], |x| global_avg_pool(&x[0]));
    for (kernel, stride, padding) in [(2, 2, 0), (3, 2, 1), (3, 1, 1), (2, 3, 1)] {
        let case = format!("max_pool2d_{kernel}_{stride}_{padding}");
        golden.check(&case, &["x"], |x| max_pool2d(&x[0], Pool2dSpec::new(kernel, stride, padding)));
    }
    for (kernel, stride) in [(2, 2), (3, 2), (2, 1)] {
        golden.check(&format!("avg_pool2d_{kernel}_{stride}"), &["x"], |x| {
            avg_pool2d(&x[0], Pool2dSpec::new(kernel, stride, 0))
        });
    }
    for factor in [2, 3] {
        golden.check(&format!("upsample_nearest_{factor}"), &["x"], |x| upsample_nearest(&x[0], factor));
    }
    golden.check("subsample_pad", &["x"], |x| subsample_pad(&x[0], 2, 3));
}

#[test]
fn general_windows_agree_with_pytorch() {
    let golden = Golden::of("graph_ops.safetensors");
    let ceil = Pool2dSpec { ceil_mode: true, ..Pool2dSpec::new(3, 2, 1) };
    golden.check("max_pool_ceil", &["x"], |x| max_pool2d(&x[0], ceil));
    golden.check("max_pool_sides", &["x"], |x| max_pool2d(&x[0], sides()));
    for (ceil, counted) in [(false, false), (false, true), (true, false), (true, true)] {
        let case = format!("avg_pool_{}{}", i32::from(ceil), i32::from(counted));
        golden.check(&case, &["x"], |x| avg_pool2d(&x[0], oblong(ceil, counted)));
    }
    for size in [[3, 4], [1, 1], [9, 5]] {
        let case = format!("adaptive_{}_{}", size[0], size[1]);
        golden.check(&case, &["x"], |x| adaptive_avg_pool2d(&x[0], size));
    }
}

#[test]
fn resizing_agrees_with_pytorch() {
    let golden = Golden::of("graph_ops.safetensors");
    for (name, how) in [("nearest", Interpolation::Nearest), ("bilinear", BILINEAR[0]), ("corners", BILINEAR[1])] {
        for size in [[13, 9], [4, 5], [1, 12]] {
            let case = format!("resize_{name}_{}_{}", size[0], size[1]);
            golden.check(&case, &["x"], |x| resize(&x[0], size, how));
        }
    }
}

#[test]
fn gradients_agree_with_differences() {
    let x = [numbers((2, 5, 6, 3), 1)];
    check_gradients(|x| global_avg_pool(&x[0]), &x);
    for (kernel, stride, padding) in [(2, 2, 0), (3, 1, 1), (2, 3, 0), (3, 2, 1)] {
        check_gradients(|x| max_pool2d(&x[0], Pool2dSpec::new(kernel, stride, padding)), &x);
        check_gradients(|x| avg_pool2d(&x[0], Pool2dSpec::new(kernel, stride, 0)), &x);
    }
    for factor in [1, 2, 3] {
        check_gradients(|x| upsample_nearest(&x[0], factor), &x);
        check_gradients(|x| subsample_pad(&x[0], factor, 2), &x);
    }
    for spec in [oblong(true, false), oblong(false, true), sides()] {
        check_gradients(|x| max_pool2d(&x[0], spec), &x);
        check_gradients(|x| avg_pool2d(&x[0], spec), &x);
    }
    for size in [[3, 4], [7, 2]] {
        check_gradients(|x| adaptive_avg_pool2d(&x[0], size), &x);
        for how in [Interpolation::Nearest, BILINEAR[0], BILINEAR[1]] {
            check_gradients(|x| resize(&x[0], size, how), &x);
        }
    }
}

#[test]
fn resizing_to_the_same_size_is_the_identity() {
    let x = Value::constant(numbers((2, 5, 7, 3), 1));
    for how in [Interpolation::Nearest, BILINEAR[0], BILINEAR[1]] {
        assert_same("image", resize(&x, [5, 7], how).unwrap().tensor(), x.tensor());
    }
}

#[test]
fn nearest_resizing_by_a_whole_factor_repeats_pixels() {
    let x = Value::constant(numbers((2, 5, 7, 3), 1));
    let resized = resize(&x, [15, 21], Interpolation::Nearest).unwrap();
    assert_same("image", resized.tensor(), upsample_nearest(&x, 3).unwrap().tensor());
}

#[test]
fn channels_are_resized_each_on_its_own() {
    for channels in [1, 3, 4, 15, 16, 21, 49, 131, 403] {
        let x = numbers((1, 3, 4, channels), 1);
        let resized = |x: Tensor| resize(&Value::constant(x), [5, 7], BILINEAR[0]).unwrap().tensor().clone();
        let one = |of: &Tensor, channel| of.narrow(3, channel, 1).unwrap().contiguous().unwrap();
        let together = resized(x.clone());
        for channel in [0, channels / 2, channels - 1] {
            assert_same("channel", &one(&together, channel), &resized(one(&x, channel)));
        }
    }
}

#[test]
fn pooling_undoes_upsampling() {
    let x = Value::constant(numbers((3, 4, 5, 2), 1));
    for factor in [1, 2, 4] {
        let large = upsample_nearest(&x, factor).unwrap();
        assert_close(
            "average",
            avg_pool2d(&large, Pool2dSpec::new(factor, factor, 0)).unwrap().tensor(),
            x.tensor(),
            1e-6,
        );
        assert_same("maximum", max_pool2d(&large, Pool2dSpec::new(factor, factor, 0)).unwrap().tensor(), x.tensor());
        assert_same("every one", subsample_pad(&large, factor, 0).unwrap().tensor(), x.tensor());
    }
}

#[test]
fn the_whole_image_is_one_window() {
    let x = Value::constant(numbers((3, 4, 4, 5), 1));
    let pooled = reshape(&avg_pool2d(&x, Pool2dSpec::new(4, 1, 0)).unwrap(), (3, 5)).unwrap();
    assert_close("average", pooled.tensor(), global_avg_pool(&x).unwrap().tensor(), 1e-6);
}

#[test]
fn the_first_of_equal_numbers_gets_the_gradient() {
    let x = tensor(&[1.0; 9], (1, 3, 3, 1));
    let y = max_pool2d(&Value::leaf(&x), Pool2dSpec::new(2, 1, 0)).unwrap();
    let gradients = y.backward_from(tensor(&[1.0, 2.0, 3.0, 4.0], (1, 2, 2, 1))).unwrap();
    assert_eq!(flat(gradients.get(&x).unwrap()), [1.0, 2.0, 0.0, 3.0, 4.0, 0.0, 0.0, 0.0, 0.0]);
}

#[test]
fn maxima_of_nothing_but_infinities_and_nan() {
    let x = tensor(&[f32::NEG_INFINITY, f32::NEG_INFINITY, 1.0, f32::NAN], (2, 1, 2, 1));
    let y = max_pool2d(&Value::leaf(&x), Pool2dSpec::new(2, 1, 1)).unwrap();
    let numbers = flat(y.tensor());
    assert!(numbers[..6].iter().all(|y| *y == f32::NEG_INFINITY), "{numbers:?}");
    assert!(numbers[6].to_bits() == 1_f32.to_bits() && numbers[7].is_nan() && numbers[8].is_nan(), "{numbers:?}");
    let gradients = y.backward_from(tensor(&[1.0; 12], (2, 2, 3, 1))).unwrap();
    assert_eq!(flat(gradients.get(&x).unwrap()), [4.0, 2.0, 2.0, 4.0]);
}

#[test]
fn subsampling_keeps_channels_in_the_middle() {
    let x = Value::constant(tensor(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], (1, 1, 3, 2)));
    let y = subsample_pad(&x, 2, 1).unwrap();
    assert_eq!(y.dims(), [1, 1, 2, 4]);
    assert_eq!(flat(y.tensor()), [0.0, 1.0, 2.0, 0.0, 0.0, 5.0, 6.0, 0.0]);
}

#[test]
fn the_same_bytes_on_any_number_of_threads_and_path() {
    let x = numbers((5, 9, 11, 21), 1);
    check_same_bytes(true, || {
        let leaf = Value::leaf(&x);
        let mut results = Vec::new();
        for y in [
            global_avg_pool(&leaf)?,
            max_pool2d(&leaf, Pool2dSpec::new(3, 2, 1))?,
            avg_pool2d(&leaf, Pool2dSpec::new(3, 1, 0))?,
            upsample_nearest(&leaf, 2)?,
            subsample_pad(&leaf, 2, 4)?,
            max_pool2d(&leaf, sides())?,
            avg_pool2d(&leaf, oblong(true, false))?,
            adaptive_avg_pool2d(&leaf, [4, 3])?,
            resize(&leaf, [20, 5], BILINEAR[0])?,
            resize(&leaf, [4, 30], Interpolation::Nearest)?,
        ] {
            let grad = numbers(y.dims().to_vec(), 2);
            results.push(y.tensor().clone());
            results.push(y.backward_from(grad)?.remove(&x).unwrap());
        }
        Ok(results)
    });
}

#[test]
fn refuse_what_does_not_fit() {
    let x = Value::constant(numbers((2, 4, 5, 3), 1));
    let rows = Value::constant(numbers((4, 5), 1));
    assert_refuses(global_avg_pool(&rows), &["global_avg_pool", "(B, H, W, C)", "[4, 5]"]);
    assert_refuses(max_pool2d(&x, Pool2dSpec::new(5, 1, 0)), &["max_pool2d", "kernel of [5, 5]", "4×5", "hint:"]);
    assert_refuses(max_pool2d(&x, Pool2dSpec::new(2, 0, 0)), &["max_pool2d", "stride [0, 0]"]);
    assert_refuses(max_pool2d(&x, Pool2dSpec::new(2, 2, 2)), &["padding [2, 2, 2, 2]"]);
    assert_refuses(avg_pool2d(&x, Pool2dSpec::new(0, 1, 0)), &["avg_pool2d", "kernel of [0, 0]"]);
    let wide = Pool2dSpec { padding: [0, 0, 0, 2], ..Pool2dSpec::new(2, 1, 0) };
    assert_refuses(avg_pool2d(&x, wide), &["padding [0, 0, 0, 2]", "padding < kernel"]);
    assert_refuses(adaptive_avg_pool2d(&x, [0, 1]), &["adaptive_avg_pool2d", "0×1"]);
    assert_refuses(resize(&x, [3, 0], Interpolation::Nearest), &["resize", "3×0"]);
    assert_refuses(upsample_nearest(&x, 0), &["upsample_nearest", "at least 1"]);
    assert_refuses(subsample_pad(&x, 0, 1), &["subsample_pad", "at least 1"]);
}
