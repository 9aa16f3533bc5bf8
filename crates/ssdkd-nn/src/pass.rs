//! How a forward pass is made: which statistics normalise, and what wants a gradient.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use candle_core::{Result, Tensor, TensorId};
use ssdkd_ops::{PreparedConvolution, Value};

/// How a forward pass is made. The same network is trained, frozen and looked into, by different passes.
pub struct Pass {
    pub(crate) statistics: Statistics,
    gradients: bool,
    taps: RefCell<Vec<Tap>>,
    kept: RefCell<Option<Rc<Kept>>>,
}

/// What a network whose weights do not move has worked out about them: its convolutions.
#[derive(Default)]
pub(crate) struct Kept(RefCell<HashMap<Key, Rc<PreparedConvolution>>>);

/// The tensors of a convolution's weight and of the gamma that is folded in.
type Key = (TensorId, Option<TensorId>);

/// What batch normalisation normalises with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Statistics {
    /// The batch's; the running ones follow.
    Batch,
    /// The batch's; the running ones stay.
    BatchOnly,
    /// The running ones.
    Running,
    /// The running ones, and the batch's are handed out.
    Tapped,
}

/// What one batch normalisation saw at its input, beside what it saw in training.
#[derive(Clone)]
pub struct Tap {
    /// Mean over batch, height and width (C,); gradients flow through it.
    pub mean: Value,
    /// Biased variance of each channel.
    pub variance: Value,
    /// Running mean (C,).
    pub running_mean: Tensor,
    /// Running variance (C,).
    pub running_variance: Tensor,
}

impl Pass {
    /// To train: batch statistics, running statistics updated, gradients of the parameters.
    pub fn train() -> Self {
        Self::new(Statistics::Batch, true)
    }

    /// Batch statistics, but nothing of the network changes: the running statistics stay, no gradient of any parameter.
    pub fn train_frozen() -> Self {
        Self::new(Statistics::BatchOnly, false)
    }

    /// To use or to look through: running statistics, no gradient of any parameter.
    pub fn eval() -> Self {
        Self::new(Statistics::Running, false)
    }

    /// As [`eval`](Self::eval), and every batch normalisation leaves a [`Tap`], in the order of the forward pass.
    pub fn tapped() -> Self {
        Self::new(Statistics::Tapped, false)
    }

    fn new(statistics: Statistics, gradients: bool) -> Self {
        Self { statistics, gradients, taps: RefCell::default(), kept: RefCell::default() }
    }

    /// A parameter as this pass sees it: a leaf to train, or a constant.
    pub fn parameter(&self, tensor: &Tensor) -> Value {
        if self.gradients { Value::leaf(tensor) } else { Value::constant(tensor.clone()) }
    }

    /// Whether batch normalisation is a constant scale and shift that nobody looks into, and may be folded away.
    pub(crate) fn is_frozen(&self) -> bool {
        self.statistics == Statistics::Running && !self.gradients
    }

    /// Names the network that the pass goes through now by what it keeps; `None`: its weights may move.
    pub(crate) fn enter(&self, network: Option<Rc<Kept>>) {
        *self.kept.borrow_mut() = network;
    }

    /// Whether the weights are constants that are the same in every pass.
    pub(crate) fn keeps(&self) -> bool {
        !self.gradients && self.kept.borrow().is_some()
    }

    /// A convolution by its key, made by `prepare` where the network keeps none yet.
    pub(crate) fn prepared(
        &self,
        key: Key,
        prepare: impl FnOnce() -> Result<PreparedConvolution>,
    ) -> Result<Rc<PreparedConvolution>> {
        let kept = self.kept.borrow();
        let Some(Kept(kept)) = kept.as_deref() else { return Ok(Rc::new(prepare()?)) };
        if let Some(there) = kept.borrow().get(&key) {
            return Ok(there.clone());
        }
        let prepared = Rc::new(prepare()?);
        kept.borrow_mut().insert(key, prepared.clone());
        Ok(prepared)
    }

    pub(crate) fn leave_tap(&self, tap: Tap) {
        self.taps.borrow_mut().push(tap);
    }

    /// Takes the taps left so far.
    pub fn take_taps(&self) -> Vec<Tap> {
        self.taps.take()
    }
}
