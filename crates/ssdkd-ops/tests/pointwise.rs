//! Activations, elementwise operations, changes of layout and random views.

mod common;

use candle_core::Tensor;
use common::{
    Golden, assert_close, assert_refuses, assert_same, assert_same_number, check_gradients, check_same_bytes, device,
    flat, numbers, tensor,
};
use ssdkd_ops::{
    CropFlip, Value, add, affine_channels, color_lines, crop_flip, crop_flip_at, crop_flip_masks, leaky_relu, mean_all,
    nchw_to_nhwc, relu, reshape, round_to_u8_levels, scale, sigmoid, sum_all, weighted_sum,
};

/// The crops of the golden values.
fn crops() -> CropFlip {
    CropFlip {
        offsets: vec![(0, 3), (2, 2), (4, 1), (1, 4)],
        flips: vec![false, true, true, false],
        padding: 2,
        wrap: false,
    }
}

/// Gain and centers of four images of three channels.
fn lines() -> Tensor {
    tensor(&[0.5, 0.4, 0.5, 0.7, 1.0, 0.5, 0.5, 0.5, 0.1, 0.9, 0.2, 0.5, 1.6, 0.3, 0.3, 0.6], (4, 4))
}

#[test]
fn agree_with_pytorch() {
    let golden = Golden::load();
    golden.check("relu", &["x"], |x| relu(&x[0]));
    golden.check("leaky_relu", &["x"], |x| leaky_relu(&x[0], 0.2));
    golden.check("sigmoid", &["x"], |x| sigmoid(&x[0]));
    golden.check("add", &["a", "b"], |x| add(&x[0], &x[1]));
    golden.check("mean_all", &["x"], |x| mean_all(&x[0]));
    golden.check("nchw_to_nhwc", &["x"], |x| nchw_to_nhwc(&x[0]));
    golden.check("affine_channels", &["x"], |x| affine_channels(&x[0], &[2.0, 4.0, 0.5], &[-0.5, -2.0, -0.375]));
    golden.check("crop_flip", &["x"], |x| crop_flip(&x[0], &crops()));
}

#[test]
fn gradients_agree_with_differences() {
    let x = [numbers((4, 5, 6, 3), 1)];
    check_gradients(|x| relu(&x[0]), &x);
    check_gradients(|x| leaky_relu(&x[0], 0.3), &x);
    check_gradients(|x| sigmoid(&x[0]), &x);
    check_gradients(|x| scale(&x[0], -2.5), &x);
    check_gradients(|x| sum_all(&x[0]), &x);
    check_gradients(|x| mean_all(&x[0]), &x);
    check_gradients(|x| reshape(&x[0], (4, ())), &x);
    check_gradients(|x| nchw_to_nhwc(&x[0]), &x);
    check_gradients(|x| affine_channels(&x[0], &[2.0, -1.0, 0.5], &[1.0, 2.0, 3.0]), &x);
    check_gradients(|x| crop_flip(&x[0], &crops()), &x);
    check_gradients(|x| crop_flip(&x[0], &CropFlip { wrap: true, ..crops() }), &x);
    check_gradients(|x| color_lines(&x[0], &lines()), &x);
    check_gradients(|x| add(&x[0], &x[1]), &[numbers((3, 7), 1), numbers((3, 7), 2)]);
    check_gradients(|x| weighted_sum(&[(2.0, &x[0]), (-0.5, &x[1])]), &[numbers((), 1), numbers((1, 1), 2)]);
}

#[test]
fn the_same_bytes_on_any_number_of_threads_and_path() {
    // Two odd sizes: one with short rows, one larger than a piece of work.
    for shape in [(3, 5, 7, 3), (7, 33, 31, 19)] {
        let (x, grad) = (numbers(shape, 1), numbers(shape, 2));
        let channels = shape.3;
        let how = CropFlip {
            offsets: (0..shape.0).map(|image| (image % 5, (3 * image) % 5)).collect(),
            flips: (0..shape.0).map(|image| image % 2 == 1).collect(),
            padding: 2,
            wrap: shape.0 == 3,
        };
        let lines = numbers((shape.0, 1 + channels), 5);
        let (factors, shifts) = (flat(&numbers(channels, 3)), flat(&numbers(channels, 4)));
        check_same_bytes(true, || {
            let leaf = Value::leaf(&x);
            let mut results = Vec::new();
            for y in [
                relu(&leaf)?,
                leaky_relu(&leaf, 0.1)?,
                sigmoid(&leaf)?,
                affine_channels(&leaf, &factors, &shifts)?,
                crop_flip(&leaf, &how)?,
                color_lines(&leaf, &lines)?,
                add(&leaf, &leaf)?,
            ] {
                results.push(y.tensor().clone());
                results.push(y.backward_from(grad.clone())?.remove(&x).unwrap());
            }
            results.push(mean_all(&leaf)?.tensor().clone());
            Ok(results)
        });
    }
}

#[test]
fn sums_are_precise() {
    let ones = Value::constant(Tensor::ones(20_000_001, candle_core::DType::F32, &device()).unwrap());
    assert_same_number("sum", sum_all(&ones).unwrap().scalar().unwrap(), 20_000_001.0);
    assert_same_number("mean", mean_all(&ones).unwrap().scalar().unwrap(), 1.0);
}

#[test]
fn a_weighted_sum_of_nothing_is_zero() {
    assert_eq!(weighted_sum(&[]).unwrap().scalar().unwrap().to_bits(), 0_f32.to_bits());
}

#[test]
fn draws_in_a_tensor_make_the_same_views() {
    let (x, grad) = (numbers((4, 5, 6, 2), 1), numbers((4, 5, 6, 2), 2));
    for wrap in [false, true] {
        let offsets = vec![(0, 4), (3, 1), (2, 2), (4, 0)];
        let how = CropFlip { offsets, flips: vec![true, false, true, false], padding: 2, wrap };
        let draws = how.draws(&device()).unwrap();
        let leaf = Value::leaf(&x);
        let [expected, found] = [crop_flip(&leaf, &how), crop_flip_at(&leaf, &draws, 2, wrap)].map(Result::unwrap);
        assert_same("view", found.tensor(), expected.tensor());
        let gradient = |view: Value| view.backward_from(grad.clone()).unwrap().remove(&x).unwrap();
        assert_same("gradient", &gradient(found), &gradient(expected));
    }
}

#[test]
fn colors_are_a_line_and_what_is_cut_gets_no_gradient() {
    let x = tensor(&[0.0, 0.5, 1.0, 0.25], (2, 1, 1, 2));
    let leaf = Value::leaf(&x);
    let view = color_lines(&leaf, &tensor(&[0.5, 0.5, 0.75, 4.0, 0.5, 0.5], (2, 3))).unwrap();
    assert_eq!(flat(view.tensor()), [0.25, 0.75, 1.0, 0.0]);
    let gradient = view.backward_from(tensor(&[1.0, 2.0, 3.0, 4.0], (2, 1, 1, 2))).unwrap().remove(&x).unwrap();
    assert_eq!(flat(&gradient), [0.5, 1.0, 0.0, 0.0]);
    let same = color_lines(&leaf, &tensor(&[1.0, 0.5, 0.5, 1.0, 0.5, 0.5], (2, 3))).unwrap();
    assert_same("plain view", same.tensor(), &x);
}

#[test]
fn masks_are_cropped_and_mirrored_with_their_images() {
    // Two rows of three: moved right by one, and mirrored; one pixel is of no class.
    let how = CropFlip { offsets: vec![(1, 0), (1, 1)], flips: vec![false, true], padding: 1, wrap: false };
    let classes = |classes: &[i32]| classes.iter().map(|&class| u32::try_from(class).ok()).collect::<Vec<_>>();
    let masks = classes(&[0, 1, 2, 3, 4, 5, 0, 1, 2, 3, -1, 5]);
    let moved = crop_flip_masks(&masks, [2, 2, 3], &how).unwrap();
    assert_eq!(moved, classes(&[-1, 0, 1, -1, 3, 4, 2, 1, 0, 5, -1, 3]));
    assert!(crop_flip_masks(&masks[..6], [2, 2, 3], &how).is_err());
}

#[test]
fn a_crop_at_the_padding_without_a_flip_is_the_identity() {
    let x = numbers((3, 4, 5, 2), 1);
    let how = CropFlip { offsets: vec![(4, 4); 3], flips: vec![false; 3], padding: 4, wrap: false };
    assert_same("view", crop_flip(&Value::constant(x.clone()), &how).unwrap().tensor(), &x);
}

#[test]
fn a_view_that_wraps_shows_each_pixel_once() {
    let x = tensor(&(0..6).map(|at| at as f32).collect::<Vec<_>>(), (1, 2, 3, 1));
    for (offset, flip, expected) in [
        ((1, 0), false, [2.0, 0.0, 1.0, 5.0, 3.0, 4.0]),
        ((2, 2), false, [4.0, 5.0, 3.0, 1.0, 2.0, 0.0]),
        ((1, 2), true, [0.0, 2.0, 1.0, 3.0, 5.0, 4.0]),
    ] {
        let how = CropFlip { offsets: vec![offset], flips: vec![flip], padding: 1, wrap: true };
        assert_eq!(flat(crop_flip(&Value::constant(x.clone()), &how).unwrap().tensor()), expected, "{offset:?}");
    }
    // Further than the image is large.
    let far = CropFlip { offsets: vec![(0, 14)], flips: vec![false], padding: 7, wrap: true };
    let once = crop_flip(&Value::constant(x.clone()), &far).unwrap();
    assert_eq!(flat(once.tensor()), [4.0, 5.0, 3.0, 1.0, 2.0, 0.0]);
}

#[test]
fn flipping_twice_is_the_identity() {
    let x = numbers((2, 4, 5, 3), 1);
    let flip = CropFlip { offsets: vec![(0, 0); 2], flips: vec![true; 2], padding: 0, wrap: false };
    let once = crop_flip(&Value::constant(x.clone()), &flip).unwrap();
    assert_same("view", crop_flip(&once, &flip).unwrap().tensor(), &x);
    assert!(flat(once.tensor()) != flat(&x));
}

#[test]
fn a_view_may_miss_the_image() {
    let x = numbers((1, 2, 3, 1), 1);
    for (offset, flip) in [((8, 3), true), ((4, 0), false), ((4, 8), false), ((4, 0), true), ((0, 0), false)] {
        let how = CropFlip { offsets: vec![offset], flips: vec![flip], padding: 4, wrap: false };
        let leaf = Value::leaf(&x);
        let view = crop_flip(&leaf, &how).unwrap();
        assert!(flat(view.tensor()).iter().all(|x| *x == 0.0), "{offset:?}");
        let gradients = view.backward_from(numbers((1, 2, 3, 1), 2)).unwrap();
        assert!(flat(gradients.get(&x).unwrap()).iter().all(|x| *x == 0.0), "{offset:?}");
    }
}

#[test]
fn nchw_to_nhwc_is_a_permutation() {
    let x = numbers((3, 5, 4, 2), 1);
    let expected = x.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap();
    assert_same("images", nchw_to_nhwc(&Value::constant(x)).unwrap().tensor(), &expected);
}

#[test]
fn u8_levels_survive_eight_bits() {
    let x = numbers((2, 9, 9, 3), 1).affine(0.7, 0.5).unwrap();
    let rounded = round_to_u8_levels(&x).unwrap();
    for (x, rounded) in flat(&x).into_iter().zip(flat(&rounded)) {
        let level = (rounded * 255.0).round() as u8;
        assert_eq!((f32::from(level) / 255.0).to_bits(), rounded.to_bits());
        assert!((rounded - x.clamp(0.0, 1.0)).abs() <= 0.5 / 255.0 + 1e-6);
    }
    assert_same("rounded twice", &round_to_u8_levels(&rounded).unwrap(), &rounded);
}

#[test]
fn extreme_numbers() {
    let x = Value::constant(tensor(&[-1e30, -100.0, 0.0, 100.0, 1e30, f32::INFINITY, f32::NAN], 7));
    let y = flat(sigmoid(&x).unwrap().tensor());
    assert_close("sigmoid", &tensor(&y[..6], 6), &tensor(&[0.0, 0.0, 0.5, 1.0, 1.0, 1.0], 6), 1e-7);
    assert!(y[6].is_nan());
    assert!(flat(relu(&x).unwrap().tensor())[6].is_nan());
    assert!(flat(leaky_relu(&x, 0.1).unwrap().tensor())[6].is_nan());
}

#[test]
fn refuse_what_does_not_fit() {
    let x = Value::constant(numbers((2, 4, 4, 3), 1));
    let vector = Value::constant(numbers(3, 1));
    let other = Value::constant(numbers(4, 1));
    assert_refuses(add(&x, &other), &["add", "[2, 4, 4, 3]", "[4]"]);
    assert_refuses(leaky_relu(&x, f32::NAN), &["leaky_relu", "slope"]);
    assert_refuses(weighted_sum(&[(1.0, &vector)]), &["weighted_sum", "one element", "[3]"]);
    assert_refuses(nchw_to_nhwc(&vector), &["nchw_to_nhwc", "(B, C, H, W)", "[3]"]);
    assert_refuses(affine_channels(&x, &[1.0], &[0.0, 0.0, 0.0]), &["affine_channels", "3 channels", "1 and 3"]);
    assert_refuses(mean_all(&Value::constant(numbers((0, 2), 1))), &["mean_all", "[0, 2]"]);
    let how = |offsets: &[(usize, usize)], flips: usize| CropFlip {
        offsets: offsets.to_vec(),
        flips: vec![false; flips],
        padding: 1,
        wrap: false,
    };
    assert_refuses(crop_flip(&x, &how(&[(0, 0)], 2)), &["crop_flip", "2 images", "1 and 2"]);
    assert_refuses(crop_flip(&x, &how(&[(0, 0), (0, 3)], 2)), &["(0, 3)", "image 1", "0..=2"]);
    let of_one = how(&[(0, 0)], 1).draws(&device()).unwrap();
    assert_refuses(crop_flip_at(&x, &of_one, 1, false), &["crop_flip", "[2, 3]", "[1, 3]"]);
    assert_refuses(color_lines(&x, &lines()), &["color_lines", "[2, 4]", "[4, 4]"]);
    assert_refuses(crop_flip(&vector, &how(&[], 0)), &["(B, H, W, C)", "[3]"]);
    assert_refuses(relu(&Value::constant(numbers((2, 3), 1).t().unwrap())), &["relu", "contiguous"]);
}
