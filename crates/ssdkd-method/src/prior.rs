//! How common the teacher's classes are \[O\].
//!
//! The published methods give every class the same share of the images. That is right for data sets with equally many images of each class. A
//! teacher of rare and common classes has seen other shares, and its batch-norm statistics are those of its data. With a
//! prior π, which sums to 1 over the K classes:
//!
//! | where | without a prior | with π |
//! |---|---|---|
//! | `invert.targets` | each class alike | class c with probability π_c |
//! | balance term | Σ p̄ ln p̄ | Σ p̄ ln(p̄ / (K·π)) |
//! | φ's diversity | n_c images of class c | n_c / (K·π_c), of a total of their sum |
//! | class-balanced eviction | from the class with the largest n_c | with the largest n_c / π_c |
//!
//! With π_c = 1/K each line is the one without a prior.

use candle_core::Tensor;
use ssdkd_ops as ops;
use ssdkd_ops::Value;

/// How common the teacher's classes are. By default all are equally common.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ClassPrior {
    /// π, one share for each class; empty where all are 1/K.
    shares: Vec<f64>,
}

static UNIFORM: ClassPrior = ClassPrior { shares: Vec::new() };

impl ClassPrior {
    /// Returns the prior under which all classes are equally common.
    pub fn uniform() -> &'static Self {
        &UNIFORM
    }

    /// Returns the prior in proportion to `weights`, one for each of `classes` classes; uniform where there are none.
    ///
    /// # Errors
    /// If there is not one weight for each class, or a weight is not a finite number above 0.
    pub fn new(weights: &[f64], classes: usize) -> Result<Self, String> {
        if weights.is_empty() {
            return Ok(Self::default());
        }
        check_weights(weights)?;
        if weights.len() != classes {
            return Err(format!(
                "teacher.class_prior has {} numbers, and the teacher has {classes} classes\n\
                 hint: give one number for each class, in the order of the card's class_names",
                weights.len()
            ));
        }
        // Of the largest first: a sum of huge numbers is not finite.
        let largest = weights.iter().copied().fold(0.0, f64::max);
        let sum = weights.iter().map(|weight| weight / largest).sum::<f64>();
        Ok(Self { shares: weights.iter().map(|weight| weight / largest / sum).collect() })
    }

    /// Returns whether all classes are equally common.
    pub fn is_uniform(&self) -> bool {
        self.shares.is_empty()
    }

    /// Returns π_c of class `class` of `classes`.
    pub fn share(&self, class: usize, classes: usize) -> f64 {
        self.shares.get(class).copied().unwrap_or(1.0 / classes.max(1) as f64)
    }

    /// Returns the share of the most common class of `classes`: how often a constant guess is right.
    pub fn largest(&self, classes: usize) -> f64 {
        self.shares.iter().copied().fold(self.share(usize::MAX, classes), f64::max)
    }

    /// Returns K·π_c: how much more common class `class` is than under the uniform prior, where it is 1.
    pub(crate) fn relative(&self, class: usize) -> f64 {
        self.shares.get(class).map_or(1.0, |share| share * self.shares.len() as f64)
    }

    /// Returns π; `None` where all classes are equally common.
    pub(crate) fn shares(&self) -> Option<&[f64]> {
        (!self.is_uniform()).then_some(&self.shares)
    }

    /// Returns the balance term of the teacher's logits (B, K): Σ p̄ ln(p̄ / (K·π)).
    ///
    /// # Errors
    /// If the prior is of another number of classes.
    pub(crate) fn balance(&self, logits: &Value) -> candle_core::Result<Value> {
        let evenness = ops::mean_softmax_negentropy(logits)?;
        let Some(shares) = self.shares() else { return Ok(evenness) };
        // KL(p ‖ π) − KL(p ‖ 1/K) of each row is −Σ p ln(K·π): linear in p, so its mean is that of p̄.
        let constant = |numbers: Vec<f32>| -> candle_core::Result<Value> {
            let row = Tensor::new(numbers, logits.tensor().device())?;
            Ok(Value::constant(row.broadcast_as(logits.tensor().shape())?.contiguous()?))
        };
        let to_prior = constant(shares.iter().map(|share| share.ln() as f32).collect())?;
        let to_uniform = constant(vec![0.0; shares.len()])?;
        let to_prior = ops::kl_divergence(logits, &to_prior, 1.0, None)?;
        let to_uniform = ops::kl_divergence(logits, &to_uniform, 1.0, None)?;
        ops::weighted_sum(&[(1.0, &evenness), (1.0, &to_prior), (-1.0, &to_uniform)])
    }
}

/// Checks that each weight is a finite number above 0. The error names the recipe's key.
pub fn check_weights(weights: &[f64]) -> Result<(), String> {
    match weights.iter().position(|weight| !weight.is_finite() || *weight <= 0.0) {
        Some(class) => Err(format!(
            "teacher.class_prior has {} for class {class}; it must be a finite number above 0",
            weights[class]
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{device, formula, numbers};

    #[test]
    fn weights_become_shares() {
        let prior = ClassPrior::new(&[3.0, 1.0], 2).unwrap();
        assert_eq!([prior.share(0, 2), prior.share(1, 2), prior.largest(2)], [0.75, 0.25, 0.75]);
        assert_eq!([prior.relative(0), prior.relative(1)], [1.5, 0.5]);
        assert_eq!(ClassPrior::new(&[1e308, 1e308], 2).unwrap().share(1, 2), 0.5);
        let uniform = ClassPrior::new(&[], 4).unwrap();
        assert!(uniform.is_uniform());
        assert_eq!([uniform.share(3, 4), uniform.largest(4), uniform.relative(3)], [0.25, 0.25, 1.0]);
    }

    #[track_caller]
    fn check_refused(weights: &[f64], message: &str) {
        let error = ClassPrior::new(weights, 3).unwrap_err();
        assert!(error.starts_with(message), "{error}");
    }

    #[test]
    fn impossible_weights_are_refused_by_the_recipe_s_key() {
        check_refused(&[1.0, 2.0], "teacher.class_prior has 2 numbers, and the teacher has 3 classes");
        check_refused(&[1.0, 0.0, 1.0], "teacher.class_prior has 0 for class 1");
        check_refused(&[1.0, 1.0, f64::NAN], "teacher.class_prior has NaN for class 2");
    }

    /// Returns Σ p̄ ln(p̄ / (K·π)) by its definition.
    fn by_definition(logits: &Tensor, shares: &[f64]) -> f64 {
        let rows = ops::softmax(logits).unwrap().to_vec2::<f32>().unwrap();
        let mean = |class: usize| rows.iter().map(|row| f64::from(row[class])).sum::<f64>() / rows.len() as f64;
        let term = |(class, share): (usize, &f64)| mean(class) * (mean(class) / (share * shares.len() as f64)).ln();
        shares.iter().enumerate().map(term).sum()
    }

    #[test]
    fn the_balance_term_is_least_where_the_batch_has_the_prior_s_shares() {
        let weights = [5.0, 1.0, 2.0, 2.0];
        let prior = ClassPrior::new(&weights, 4).unwrap();
        let balance = |logits: &Tensor| prior.balance(&Value::leaf(logits)).unwrap().scalar().unwrap();
        let shares = prior.shares().unwrap();
        for logits in [formula(3, &[6, 4], 3.0), formula(4, &[1, 4], 1.0)] {
            let expected = by_definition(&logits, shares) as f32;
            assert!((balance(&logits) - expected).abs() < 1e-5, "{} is not {expected}", balance(&logits));
        }
        let right = Tensor::new(vec![weights.map(|weight: f64| weight.ln() as f32).to_vec()], &device()).unwrap();
        let value = prior.balance(&Value::leaf(&right)).unwrap();
        assert!((value.scalar().unwrap() + 4_f32.ln()).abs() < 1e-5);
        let gradient = numbers(value.backward().unwrap().get(&right).unwrap());
        assert!(gradient.iter().all(|slope| slope.abs() < 1e-5), "{gradient:?}");
    }

    #[test]
    fn equal_weights_are_the_uniform_prior() {
        let logits = formula(3, &[6, 4], 3.0);
        let term = |prior: &ClassPrior| prior.balance(&Value::leaf(&logits)).unwrap().scalar().unwrap();
        let equal = ClassPrior::new(&[2.0; 4], 4).unwrap();
        assert!((term(&equal) - term(ClassPrior::uniform())).abs() < 1e-5);
    }
}
