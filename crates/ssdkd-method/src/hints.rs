//! What the student can learn from a teacher beside its answers: the features that the answers are made of \[C: FitNets,
//! Romero et al. 2015\]\[O\].
//!
//! ```text
//! L_F = ‖P(a) − b‖₂ / ‖b‖₂      a, b: penultimate features of student and teacher of one batch of views
//! ```
//!
//! A row of logits says ten numbers about an image, a row of features says sixty-four and more: the fewer images there are,
//! the more that matters. P is the identity where the networks have as many features, and otherwise a linear map that is
//! trained with the student and not part of it. The distance is relative, so that its factor means the same for any teacher.

use std::collections::BTreeMap;

use candle_core::{Result, Tensor, Var, bail};
use rand::Rng;
use ssdkd_nn::random::stream;
use ssdkd_nn::{Draw, Linear, Network, Pass, Store};
use ssdkd_ops as ops;
use ssdkd_ops::Value;

/// P and its weights; see the [module](self).
pub(crate) struct Hints {
    store: Store,
    /// `None`: the identity.
    projector: Option<Linear>,
}

impl Hints {
    /// A fresh P between two networks.
    pub(crate) fn new(teacher: &Network, student: &Network) -> Result<Self> {
        let store = Store::seeded(student.store().device(), stream(0, "distill/projector", &[]).random());
        let (from, to) = (student.features()?, teacher.features()?);
        let projector = if from == to { None } else { Some(Linear::new(from, to, Draw::PYTORCH, store.builder())?) };
        Ok(Self { store, projector })
    }

    /// L_F of the features of both networks, (B, F_s) and (B, F_t); the teacher's get no gradient.
    pub(crate) fn loss(&self, student: &Value, teacher: &Tensor) -> Result<Value> {
        let projected = match &self.projector {
            Some(projector) => projector.forward(student, &Pass::train())?,
            None => student.clone(),
        };
        let norm = f64::from(teacher.sqr()?.sum_all()?.to_scalar::<f32>()?).sqrt();
        if norm == 0.0 {
            bail!("all of the teacher's features are 0\nhint: set distill.features to 0");
        }
        ops::scale(&ops::l2_distance(&projected, teacher)?, 1.0 / norm)
    }

    /// What is trained beside the student.
    pub(crate) fn parameters(&self) -> Vec<(String, Var)> {
        self.store.parameters().into_iter().map(|(name, var)| (format!("projector.{name}"), var)).collect()
    }

    /// P's weights, by their names.
    pub(crate) fn to_tensors(&self) -> BTreeMap<String, Tensor> {
        self.store.to_tensors()
    }

    /// Takes up saved weights; the error names what does not fit.
    pub(crate) fn load_tensors(&self, tensors: BTreeMap<String, Tensor>) -> Result<()> {
        self.store.load_tensors(tensors)
    }
}
