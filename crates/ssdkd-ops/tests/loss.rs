//! Losses against PyTorch, finite differences and what their definitions imply.

mod common;

use candle_core::Tensor;
use common::{
    Golden, assert_close, assert_refuses, assert_same_number, check_gradients, check_same_bytes, flat, numbers,
    on_cuda, tensor, tolerance,
};
use ssdkd_ops::{
    Packed, Value, agreement, argmax, argmax_rows, confidence, cross_entropy, cross_entropy_smoothed, focal_weights,
    group_means, kl_divergence, kl_per_sample, l2_distance, mean_absolute_difference, mean_softmax_negentropy,
    read_backs, same_argmax, side_by_side, softmax, total_variation, unit_rows,
};

const TARGETS: [u32; 6] = [0, 6, 3, 3, 1, 5];

fn logits(salt: u64) -> Tensor {
    (numbers((6, 7), salt) * 4.0).unwrap()
}

#[test]
fn agree_with_pytorch() {
    let golden = Golden::load();
    let weights = flat(&golden.get("cross_entropy", "weights"));
    golden.check("cross_entropy", &["logits"], |x| cross_entropy(&x[0], &TARGETS, None));
    golden.check("cross_entropy_weighted", &["logits"], |x| cross_entropy(&x[0], &TARGETS, Some(&weights)));
    golden.check("cross_entropy_smoothed", &["logits"], |x| cross_entropy_smoothed(&x[0], &TARGETS, 0.1, None));
    golden.check("mean_softmax_negentropy", &["logits"], |x| mean_softmax_negentropy(&x[0]));
    for temperature in [1.0, 4.0] {
        golden.check(&format!("kl_divergence_{temperature}"), &["target", "logits"], |x| {
            kl_divergence(&x[0], &x[1], temperature, Some(&tensor(&weights, 6)))
        });
    }
    let target = golden.get("l2_distance", "target");
    golden.check("l2_distance", &["x"], |x| l2_distance(&x[0], &target));
    assert_close("softmax", &softmax(&golden.get("softmax", "logits")).unwrap(), &golden.get("softmax", "y"), 1e-6);
}

#[test]
fn gradients_agree_with_differences() {
    let weights = [0.5, 2.0, 0.0, 1.0, 1.5, 0.1];
    let x = [numbers((6, 7), 1)];
    check_gradients(|x| cross_entropy(&x[0], &TARGETS, Some(&weights)), &x);
    check_gradients(|x| cross_entropy_smoothed(&x[0], &TARGETS, 0.2, None), &x);
    check_gradients(|x| cross_entropy_smoothed(&x[0], &TARGETS, 0.2, Some(&weights)), &x);
    check_gradients(|x| mean_softmax_negentropy(&x[0]), &x);
    check_gradients(|x| l2_distance(&x[0], &numbers((6, 7), 3)), &x);
    for temperature in [0.5, 3.0] {
        check_gradients(
            |x| kl_divergence(&x[0], &x[1], temperature, Some(&tensor(&weights, 6))),
            &[numbers((6, 7), 1), numbers((6, 7), 2)],
        );
    }
}

#[test]
fn gradients_of_the_baselines_terms_agree_with_differences() {
    let rows = [numbers((6, 7), 1), numbers((6, 7), 2)];
    check_gradients(|x| mean_absolute_difference(&x[0], &x[1]), &rows);
    check_gradients(|x| unit_rows(&x[0]), &rows[..1]);
    check_gradients(|x| side_by_side(&x[0], &x[1]), &[numbers((3, 4), 1), numbers((3, 2), 2)]);
    check_gradients(|x| total_variation(&x[0]), &[numbers((2, 4, 5, 3), 1)]);
}

#[test]
fn terms_of_the_baselines_by_hand() {
    let leaf = |numbers: &[f32], shape: &[usize]| Value::leaf(&tensor(numbers, shape));
    let difference = mean_absolute_difference(&leaf(&[1.0, -2.0], &[1, 2]), &leaf(&[0.0, 4.0], &[1, 2])).unwrap();
    assert_same_number("difference", difference.scalar().unwrap(), 3.5);
    // Right: 1, 1; below: 2, 2; diagonals: 1 and 3.
    let variation = total_variation(&leaf(&[0.0, 1.0, 2.0, 3.0], &[1, 2, 2, 1])).unwrap();
    let expected = 2.0_f32.sqrt() + 8.0_f32.sqrt() + 1.0 + 3.0;
    assert!((variation.scalar().unwrap() - expected).abs() < tolerance(1e-6));
    let flat_image = leaf(&[0.5; 12], &[1, 2, 2, 3]);
    assert_eq!(total_variation(&flat_image).unwrap().scalar().unwrap(), 0.0);
    let rows = flat(unit_rows(&leaf(&[3.0, 4.0, 0.0, 0.0], &[2, 2])).unwrap().tensor());
    for (number, expected) in rows.into_iter().zip([0.6, 0.8, 0.0, 0.0]) {
        assert_same_number("a row of length 1", number, expected);
    }
}

#[test]
fn a_distribution_does_not_diverge_from_itself() {
    let x = logits(1);
    let leaves = [x.clone(), x.copy().unwrap()];
    let [target, student] = [Value::leaf(&leaves[0]), Value::leaf(&leaves[1])];
    let divergence = kl_divergence(&target, &student, 2.0, None).unwrap();
    assert_same_number("divergence", divergence.scalar().unwrap(), 0.0);
    let gradients = divergence.backward().unwrap();
    for leaf in &leaves {
        assert!(flat(gradients.get(leaf).unwrap()).iter().all(|g| g.abs() < tolerance(0.0).max(1e-12)));
    }
    for divergence in flat(&kl_per_sample(&x, &x, 1.0).unwrap()) {
        assert_same_number("divergence of a sample", divergence, 0.0);
    }
}

#[test]
fn weights_of_one_change_nothing() {
    let (target, student) = (Value::constant(logits(1)), Value::constant(logits(2)));
    let ones = [1.0; 6];
    let number = |value: candle_core::Result<Value>| value.unwrap().scalar().unwrap();
    let plain = number(cross_entropy(&student, &TARGETS, None));
    assert_same_number("weighted", number(cross_entropy(&student, &TARGETS, Some(&ones))), plain);
    assert_same_number("smoothed", number(cross_entropy_smoothed(&student, &TARGETS, 0.0, None)), plain);
    let plain = number(kl_divergence(&target, &student, 4.0, None));
    assert_same_number("divergence", number(kl_divergence(&target, &student, 4.0, Some(&tensor(&ones, 6)))), plain);
}

#[test]
fn the_divergence_is_the_mean_of_those_of_the_samples() {
    let (target, student) = (logits(1), logits(2));
    let samples = flat(&kl_per_sample(&target, &student, 3.0).unwrap());
    let all = kl_divergence(&Value::constant(target), &Value::constant(student), 3.0, None).unwrap().scalar().unwrap();
    assert!((samples.iter().sum::<f32>() / 6.0 - all).abs() < tolerance(1e-6));
    assert!(samples.iter().all(|kl| *kl > 0.0));
}

#[test]
fn adding_a_constant_to_logits_changes_nothing() {
    let x = logits(1);
    let shifted = (&x + 64.0).unwrap();
    let close = |f: &dyn Fn(&Value) -> candle_core::Result<Value>| {
        let [a, b] = [&x, &shifted].map(|x| f(&Value::constant(x.clone())).unwrap());
        assert_close("shifted", b.tensor(), a.tensor(), 1e-5);
    };
    close(&|x| cross_entropy(x, &TARGETS, None));
    close(&|x| kl_divergence(x, &Value::constant(logits(2)), 2.0, None));
    close(&|x| mean_softmax_negentropy(x));
}

#[test]
fn huge_logits_stay_finite() {
    let x = tensor(&[1e4, -1e4, 0.0, -1e4, 3e4, 1e4], (2, 3));
    let leaf = Value::leaf(&x);
    let other = Value::constant(tensor(&[-1e4, 1e4, 0.0, 1e4, 0.0, 3e4], (2, 3)));
    for loss in [
        cross_entropy(&leaf, &[1, 0], None).unwrap(),
        kl_divergence(&leaf, &other, 1.0, None).unwrap(),
        kl_divergence(&other, &leaf, 1.0, None).unwrap(),
        mean_softmax_negentropy(&leaf).unwrap(),
    ] {
        assert!(loss.scalar().unwrap().is_finite());
        assert!(flat(loss.backward().unwrap().get(&x).unwrap()).iter().all(|g| g.is_finite()));
    }
    assert_eq!(confidence(&x).unwrap(), [1.0, 1.0]);
}

#[test]
fn negentropy_is_least_when_classes_are_even() {
    // Each sample is sure of its class, the batch as a whole has every class once.
    let even = tensor(&[50.0, 0.0, 0.0, 0.0, 50.0, 0.0, 0.0, 0.0, 50.0], (3, 3));
    let least = mean_softmax_negentropy(&Value::constant(even)).unwrap().scalar().unwrap();
    assert!((least + 3_f32.ln()).abs() < tolerance(1e-6));
    let one_class = tensor(&[50.0, 0.0, 0.0, 50.0, 0.0, 0.0], (2, 3));
    assert!(mean_softmax_negentropy(&Value::constant(one_class)).unwrap().scalar().unwrap().abs() < tolerance(1e-6));
}

/// As many rows as labeled pixels have: the mean of copies is that of the original, and each copy has its share of the gradient.
#[test]
fn copies_change_no_mean() {
    let (of_rows, classes, copies) = (7, 5, 3001);
    let repeated = |x: &Tensor| Tensor::cat(&vec![x; copies], 0).unwrap();
    let (few, few_targets) = (numbers((of_rows, classes), 1), numbers((of_rows, classes), 2));
    let (many, many_targets) = (repeated(&few), repeated(&few_targets));
    let losses = |logits: &Tensor, targets: &Tensor| {
        let labels = (0..logits.dims()[0] as u32).map(|row| row % of_rows as u32 % 5).collect::<Vec<_>>();
        let loss = |of: &dyn Fn(&Value) -> candle_core::Result<Value>| {
            let loss = of(&Value::leaf(logits)).unwrap();
            let value = loss.scalar().unwrap();
            (value, loss.backward().unwrap().remove(logits).unwrap())
        };
        [
            loss(&|logits| cross_entropy(logits, &labels, None)),
            loss(&|logits| kl_divergence(&Value::constant(targets.clone()), logits, 4.0, None)),
            loss(&mean_softmax_negentropy),
        ]
    };
    for ((few, few_gradient), (many, gradient)) in
        losses(&few, &few_targets).into_iter().zip(losses(&many, &many_targets))
    {
        assert!((few - many).abs() <= tolerance(1e-6) * few.abs(), "{few} is not {many}");
        let share = (few_gradient / copies as f64).unwrap();
        for copy in [0, copies / 2, copies - 1] {
            assert_close("a copy", &gradient.narrow(0, copy * of_rows, of_rows).unwrap(), &share, 1e-5);
        }
    }
}

#[test]
fn the_distance_to_oneself_has_no_gradient() {
    let x = numbers(9, 1);
    let distance = l2_distance(&Value::leaf(&x), &x.copy().unwrap()).unwrap();
    assert_eq!(distance.scalar().unwrap().to_bits(), 0);
    assert!(flat(distance.backward().unwrap().get(&x).unwrap()).iter().all(|g| *g == 0.0));
}

#[test]
fn what_is_read_off_logits() {
    let x = tensor(&[1.0, 3.0, 3.0, -1.0, -1.0, -2.0, 0.0, 0.0, 0.0], (3, 3));
    assert_eq!(argmax(&x).unwrap(), [1, 0, 0], "the first of equals");
    let probabilities = softmax(&x).unwrap();
    let rows = probabilities.to_vec2::<f32>().unwrap();
    for (row, confidence) in rows.iter().zip(confidence(&x).unwrap()) {
        assert!((row.iter().sum::<f32>() - 1.0).abs() < tolerance(1e-6));
        assert!((row.iter().copied().fold(0.0, f32::max) - confidence).abs() < tolerance(1e-7));
    }
}

#[test]
fn what_two_networks_have_in_common_on_the_device_of_their_logits() {
    let (a, b) = (logits(1), logits(2));
    let (of_a, of_b) = (argmax(&a).unwrap(), argmax(&b).unwrap());
    assert_eq!(argmax_rows(&a).unwrap().to_vec1::<u32>().unwrap(), of_a);
    let expected = of_a.iter().zip(&of_b).map(|(a, b)| if a == b { 1.0 } else { 0.0 }).collect::<Vec<f32>>();
    assert_eq!(flat(&same_argmax(&a, &b).unwrap()), expected);
    let share = flat(&agreement(&a, &b).unwrap())[0];
    assert_same_number("agreement", share, expected.iter().sum::<f32>() / 6.0);
    assert_eq!(flat(&agreement(&a, &a).unwrap()), [1.0]);
    let means = flat(&group_means(&tensor(&[1.0, 2.0, 6.0, -1.0, 0.0, 1.0], 6), 3).unwrap());
    assert_eq!(means, [3.0, 0.0]);
}

#[test]
fn focal_weights_are_products_of_class_and_doubt() {
    let x = logits(1);
    let of_class = [0.5, 1.0, 0.0, 2.0, 3.0, 1.5, 0.25];
    for gamma in [0.0, 0.5, 2.0] {
        let found = flat(&focal_weights(&x, &tensor(&of_class, 7), gamma).unwrap());
        for ((found, class), p) in found.into_iter().zip(argmax(&x).unwrap()).zip(confidence(&x).unwrap()) {
            let expected = of_class[class as usize] * f64::from(1.0 - p).powf(gamma) as f32;
            assert_same_number("a weight", found, expected);
        }
    }
}

#[test]
fn packed_numbers_are_read_at_once() {
    // More pieces than one launch takes, of all lengths.
    let pieces = (0..60).map(|at| numbers(at * 13 % 700, at as u64)).collect::<Vec<_>>();
    let packed = Packed::of(&pieces.iter().collect::<Vec<_>>()).unwrap();
    let before = read_backs();
    let read = packed.read().unwrap();
    assert_eq!(read_backs() - before, u64::from(on_cuda()));
    assert_eq!(read.len(), 60);
    for (read, piece) in read.iter().zip(&pieces) {
        assert_eq!(*read, flat(piece));
    }
    assert_refuses(Packed::of(&[]), &["there are no tensors"]);
}

#[test]
fn the_same_bytes_on_any_number_of_threads() {
    let (target, student) = (numbers((3000, 11), 1), numbers((3000, 11), 2));
    let targets = (0..3000).map(|row| row % 11).collect::<Vec<u32>>();
    check_same_bytes(true, || {
        let values = [Value::leaf(&target), Value::leaf(&student)];
        let mut results = vec![softmax(&target)?];
        for loss in [
            cross_entropy(&values[1], &targets, None)?,
            kl_divergence(&values[0], &values[1], 4.0, None)?,
            mean_softmax_negentropy(&values[1])?,
            l2_distance(&values[1], &target)?,
        ] {
            results.push(loss.tensor().clone());
            results.push(loss.backward()?.remove(&student).unwrap());
        }
        Ok(results)
    });
}

#[test]
fn refuse_what_does_not_fit() {
    let x = Value::constant(logits(1));
    assert_refuses(cross_entropy(&x, &[0, 1], None), &["cross_entropy", "6 rows", "got 2"]);
    assert_refuses(cross_entropy(&x, &[0, 1, 2, 3, 7, 0], None), &["target 7", "row 4", "7 classes"]);
    assert_refuses(cross_entropy(&x, &TARGETS, Some(&[1.0])), &["one weight", "got 1"]);
    let infinite = [1.0, 1.0, f32::INFINITY, 1.0, 1.0, 1.0];
    assert_refuses(cross_entropy(&x, &TARGETS, Some(&infinite)), &["weight of row 2", "inf"]);
    assert_refuses(cross_entropy_smoothed(&x, &TARGETS, 1.5, None), &["cross_entropy_smoothed", "1.5"]);
    for temperature in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert_refuses(kl_divergence(&x, &x, temperature, None), &["kl_divergence", "temperature"]);
        assert_refuses(kl_per_sample(x.tensor(), x.tensor(), temperature), &["kl_per_sample", "temperature"]);
    }
    let narrow = Value::constant(numbers((6, 5), 1));
    assert_refuses(kl_divergence(&x, &narrow, 1.0, None), &["kl_divergence", "[6, 7]", "[6, 5]"]);
    assert_refuses(l2_distance(&x, narrow.tensor()), &["l2_distance", "[6, 7]", "[6, 5]"]);
    assert_refuses(softmax(&numbers(5, 1)), &["softmax", "(B, K)", "[5]"]);
    assert_refuses(argmax(&numbers((0, 5), 1)), &["argmax", "[0, 5]"]);
    assert_refuses(group_means(&numbers(6, 1), 4), &["group_means", "6 numbers", "groups of 4"]);
    assert_refuses(focal_weights(x.tensor(), &numbers(6, 1), 1.0), &["focal_weights", "7 classes", "got 6"]);
}
