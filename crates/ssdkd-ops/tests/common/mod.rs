//! What the tests of this crate share: numbers, comparisons, golden values, finite differences.
#![allow(dead_code, reason = "every test file uses its own part")]

mod place;

use std::collections::HashMap;

use candle_core::{Result, Shape, Tensor};
pub use place::{device, golden, on_cuda, skips, tolerance};
use ssdkd_ops::{SimdPath, Value};

/// Numbers between −1 and 1; the same for the same salt.
pub fn numbers(shape: impl Into<Shape>, salt: u64) -> Tensor {
    let shape = shape.into();
    let mut state = salt.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(1);
    let mut next = || {
        // splitmix64
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) >> 40) as f32 / 8_388_608.0 - 1.0
    };
    let numbers = (0..shape.elem_count()).map(|_| next()).collect();
    Tensor::from_vec(numbers, shape, &device()).unwrap()
}

/// A tensor of the given numbers.
pub fn tensor(numbers: &[f32], shape: impl Into<Shape>) -> Tensor {
    Tensor::from_slice(numbers, shape.into(), &device()).unwrap()
}

/// All numbers of a tensor.
pub fn flat(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

/// Asserts equal shapes, and numbers that differ by at most `cpu` ([`tolerance`]) times the largest of those expected.
#[track_caller]
pub fn assert_close(what: &str, got: &Tensor, expected: &Tensor, cpu: f32) {
    assert_eq!(got.dims(), expected.dims(), "{what}: shapes differ");
    let tolerance = tolerance(cpu);
    let (got, expected) = (flat(got), flat(expected));
    let scale = expected.iter().fold(1e-6_f32, |largest, x| largest.max(x.abs()));
    for (index, (got, expected)) in got.iter().zip(&expected).enumerate() {
        let error = (got - expected).abs();
        assert!(error <= tolerance * scale, "{what}: number {index} is {got}, expected {expected} (scale {scale})");
    }
}

/// Asserts the same shape and the same bits.
#[track_caller]
pub fn assert_same(what: &str, got: &Tensor, expected: &Tensor) {
    assert_eq!(got.dims(), expected.dims(), "{what}: shapes differ");
    let bits = |x: &Tensor| flat(x).into_iter().map(f32::to_bits).collect::<Vec<_>>();
    assert!(bits(got) == bits(expected), "{what}: the bytes differ");
}

/// Asserts the same bits where two ways to one number are one kernel: on the CPU. On a GPU they may be two.
#[track_caller]
pub fn assert_same_kernel(what: &str, got: &Tensor, expected: &Tensor) {
    if on_cuda() { assert_close(what, got, expected, 0.0) } else { assert_same(what, got, expected) }
}

/// The same for one number.
#[track_caller]
pub fn assert_same_number(what: &str, got: f32, expected: f32) {
    if on_cuda() {
        assert!((got - expected).abs() <= tolerance(0.0) * expected.abs().max(1.0), "{what}: {got}, not {expected}");
    } else {
        assert_eq!(got.to_bits(), expected.to_bits(), "{what}: {got}, not {expected}");
    }
}

/// Asserts that `result` is an error that says each of `parts`.
#[track_caller]
pub fn assert_refuses<T>(result: Result<T>, parts: &[&str]) {
    let message = result.err().expect("this should have been refused").to_string();
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in the message: {message}");
    }
}

/// What PyTorch computed: `tests/golden/ops.py` and `graph_ops.py` of the workspace.
pub struct Golden(HashMap<String, Tensor>);

impl Golden {
    pub fn load() -> Self {
        Self::of("ops.safetensors")
    }

    pub fn of(file: &str) -> Self {
        let values = candle_core::safetensors::load(golden(file), &device());
        Self(values.expect("the golden values are part of the repository"))
    }

    #[track_caller]
    pub fn get(&self, case: &str, name: &str) -> Tensor {
        let key = format!("{case}/{name}");
        self.0.get(&key).unwrap_or_else(|| panic!("no golden value {key}")).clone()
    }

    /// Compares `f`, its inputs named `inputs`, and its gradients with PyTorch's.
    #[track_caller]
    pub fn check(&self, case: &str, inputs: &[&str], f: impl Fn(&[Value]) -> Result<Value>) {
        let leaves = inputs.iter().map(|name| self.get(case, name)).collect::<Vec<_>>();
        let values = leaves.iter().map(Value::leaf).collect::<Vec<_>>();
        let y = f(&values).unwrap();
        assert_close(case, y.tensor(), &self.get(case, "y"), 1e-5);
        let gradients = y.backward_from(self.get(case, "grad")).unwrap();
        for (name, leaf) in inputs.iter().zip(&leaves) {
            let gradient = gradients.get(leaf).expect("every leaf has a gradient");
            assert_close(&format!("{case}, gradient of {name}"), gradient, &self.get(case, &format!("d_{name}")), 1e-5);
        }
    }
}

/// Checks the gradients of `f` with respect to every input against central differences, and that asking for the gradient
/// of one input alone gives the same numbers and no others.
///
/// `f` may have kinks: where the difference quotients of two steps disagree, the number is passed over, as long as half
/// of them are not.
#[track_caller]
pub fn check_gradients(f: impl Fn(&[Value]) -> Result<Value>, inputs: &[Tensor]) {
    const STEP: f32 = 1.0 / 128.0;
    const NUMBERS: usize = 60;

    // Leaves of different inputs must have different ids.
    let inputs = inputs.iter().map(|x| x.copy().unwrap()).collect::<Vec<_>>();
    let leaves = inputs.iter().map(Value::leaf).collect::<Vec<_>>();
    let output = f(&leaves).unwrap();
    let direction = numbers(output.dims().to_vec(), 77);
    let gradients = output.backward_from(direction.clone()).unwrap();
    let weights = flat(&direction);
    let along = |inputs: &[Tensor]| {
        let values = inputs.iter().cloned().map(Value::constant).collect::<Vec<_>>();
        let output = f(&values).unwrap();
        assert!(!output.wants_gradient(), "constants should record nothing");
        flat(output.tensor()).iter().zip(&weights).map(|(y, d)| f64::from(*y) * f64::from(*d)).sum::<f64>()
    };
    for (which, input) in inputs.iter().enumerate() {
        let gradient = gradients.get(input).unwrap_or_else(|| panic!("input {which} got no gradient"));
        assert_eq!(gradient.dims(), input.dims(), "the gradient of input {which} has another shape");

        let alone = inputs
            .iter()
            .enumerate()
            .map(|(other, input)| if other == which { Value::leaf(input) } else { Value::constant(input.clone()) });
        let output = f(&alone.collect::<Vec<_>>()).unwrap();
        let only = output.backward_from(direction.clone()).unwrap();
        assert_eq!(only.len(), 1, "a gradient that nobody wanted was computed");
        assert_close(&format!("gradient of input {which} alone"), only.get(input).unwrap(), gradient, 1e-5);

        let gradient = flat(gradient);
        let start = flat(input);
        let scale = gradient.iter().fold(1e-2_f32, |largest, g| largest.max(g.abs()));
        let quotient = |index: usize, step: f32| {
            let at = |offset: f32| {
                let mut moved = start.clone();
                moved[index] += offset;
                let mut inputs = inputs.clone();
                inputs[which] = tensor(&moved, input.shape());
                along(&inputs)
            };
            ((at(step) - at(-step)) / f64::from(2.0 * step)) as f32
        };
        let every = start.len().div_ceil(NUMBERS);
        let (mut smooth, mut tried) = (0, 0);
        for index in (0..start.len()).step_by(every) {
            tried += 1;
            let (coarse, fine) = (quotient(index, STEP), quotient(index, STEP / 2.0));
            if (coarse - fine).abs() > 5e-3 * scale {
                continue;
            }
            smooth += 1;
            let error = (fine - gradient[index]).abs();
            assert!(
                error <= 1e-2 * scale,
                "gradient {index} of input {which} is {}, differences say {fine} (scale {scale})",
                gradient[index]
            );
        }
        assert!(smooth * 2 >= tried, "input {which}: only {smooth} of {tried} numbers could be checked");
    }
}

/// Asserts that `f` gives the same bytes on 1, 2 and 5 threads and, with `paths`, on every SIMD path of this CPU.
#[track_caller]
pub fn check_same_bytes(paths: bool, f: impl Fn() -> Result<Vec<Tensor>> + Sync) {
    if skips("the same bytes at any number of threads") {
        return;
    }
    let expected = f().unwrap();
    let compare = |what: &str, got: &[Tensor]| {
        assert_eq!(got.len(), expected.len());
        for (index, (got, expected)) in got.iter().zip(&expected).enumerate() {
            assert_same(&format!("tensor {index} {what}"), got, expected);
        }
    };
    for threads in [1, 2, 5] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        compare(&format!("on {threads} threads"), &pool.install(&f).unwrap());
    }
    for path in SimdPath::ALL.into_iter().filter(|path| paths && path.is_available()) {
        compare(&format!("on the path {}", path.name()), &path.force(&f).unwrap());
    }
}
