//! Batch normalization written as arithmetic: `x · s + (bias − mean · s)` with `s = weight / √(variance + eps)`, as torchvision's
//! `FrozenBatchNorm2d` computes it. The statistics are in the file, so the normalization is found again.

use std::rc::Rc;

use super::constant::{Arithmetic, Constant, Deviation, Frozen, Origin, Scale};

impl Origin {
    /// Of the sum, difference, product or quotient of two constants.
    pub fn of(a: &Constant, b: &Constant, kind: Arithmetic) -> Option<Self> {
        let origin = |constant: &Constant| constant.origin.clone();
        match (kind, origin(a).as_deref(), origin(b).as_deref()) {
            (Arithmetic::Add, None, None) => {
                let (variance, eps) = if b.scalar().is_some() { (a, b) } else { (b, a) };
                let eps = eps.scalar().filter(|eps| *eps > 0.0 && *eps < 1.0)?;
                // A number of 32 bits as someone would have written it.
                let eps = eps.to_string().parse().ok()?;
                Some(Self::Variance(Deviation { variance: variance.clone(), eps }))
            }
            (Arithmetic::Mul, None, Some(Self::Inverse(deviation)))
            | (Arithmetic::Div, None, Some(Self::Root(deviation))) => Some(Self::scale(a, deviation)),
            (Arithmetic::Mul, Some(Self::Inverse(deviation)), None) => Some(Self::scale(b, deviation)),
            (Arithmetic::Mul, None, Some(Self::Scale(scale))) => Some(Self::Mean(a.clone(), scale.clone())),
            (Arithmetic::Mul, Some(Self::Scale(scale)), None) => Some(Self::Mean(b.clone(), scale.clone())),
            (Arithmetic::Sub, None, Some(Self::Mean(mean, scale))) => {
                Some(Self::Shift(Frozen { bias: a.clone(), mean: mean.clone(), scale: scale.clone() }))
            }
            _ => None,
        }
    }

    fn scale(weight: &Constant, deviation: &Deviation) -> Self {
        Self::Scale(Rc::new(Scale { weight: weight.clone(), deviation: deviation.clone() }))
    }

    /// Of the square root of a constant.
    pub fn root(of: &Constant) -> Option<Self> {
        match of.origin.as_deref() {
            Some(Self::Variance(deviation)) => Some(Self::Root(deviation.clone())),
            _ => None,
        }
    }

    /// Of one by a constant.
    pub fn reciprocal(of: &Constant) -> Option<Self> {
        match of.origin.as_deref() {
            Some(Self::Root(deviation)) => Some(Self::Inverse(deviation.clone())),
            _ => None,
        }
    }

    /// Of one by the square root of a constant.
    pub fn inverse_root(of: &Constant) -> Option<Self> {
        match of.origin.as_deref() {
            Some(Self::Variance(deviation)) => Some(Self::Inverse(deviation.clone())),
            _ => None,
        }
    }
}
