//! The tape: values that remember how they were made, and the walk back.
//!
//! candle's own backward pass zero-fills and re-adds every gradient on one thread, computes gradients of weights that
//! nobody trains, and gives an operation one output. A training step of a small network is bound by memory traffic, so
//! this tape does none of that: an operation says at forward time which of its inputs want a gradient, keeps only what
//! those gradients need, may have several outputs, and a gradient that arrives alone is passed on without a copy.
//!
//! Tensors stay candle's: storage, devices, dtypes and files are shared with everything else that speaks candle.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use candle_core::{Result, Tensor, TensorId, bail};

use crate::accumulate::{add_assign, add_tensors};

/// A tensor and, where a gradient may be asked for, the operation that made it.
///
/// Cloning is cheap: it copies two reference counts, no numbers.
#[derive(Clone)]
pub struct Value {
    tensor: Tensor,
    source: Source,
}

#[derive(Clone)]
enum Source {
    /// No gradient flows here.
    Constant,
    /// A gradient is wanted here, filed under the tensor's id.
    Leaf(TensorId),
    /// Output number `.1` of an operation.
    Output(Rc<Operation>, usize),
}

struct Operation {
    /// Grows along the tape, so that descending order is a reverse topological order.
    id: u64,
    /// How many numbers each output has.
    outputs: Vec<usize>,
    inputs: Vec<Source>,
    backward: Backward,
}

/// The gradients of an operation's outputs, one entry for each (`None`: nothing flowed back into that output), to those
/// of its inputs (`None`: not wanted, or zero).
pub type Backward = Box<dyn Fn(&[Option<Tensor>]) -> Result<Vec<Option<Tensor>>>>;

thread_local! {
    static NEXT_OPERATION: Cell<u64> = const { Cell::new(0) };
}

impl Value {
    /// A value without a gradient: an input, a frozen weight, a target.
    pub fn constant(tensor: Tensor) -> Self {
        Self { tensor, source: Source::Constant }
    }

    /// A value whose gradient [`backward`](Self::backward) files under `tensor.id()`: a weight in training, a latent.
    pub fn leaf(tensor: &Tensor) -> Self {
        Self { tensor: tensor.clone(), source: Source::Leaf(tensor.id()) }
    }

    /// The numbers.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// The same numbers, cut off from the tape.
    #[must_use]
    pub fn detach(&self) -> Self {
        Self::constant(self.tensor.clone())
    }

    /// Whether a gradient flows back through this value.
    pub fn wants_gradient(&self) -> bool {
        !matches!(self.source, Source::Constant)
    }

    /// The sizes of the dimensions.
    pub fn dims(&self) -> &[usize] {
        self.tensor.dims()
    }

    /// The number in a value of one element (any rank).
    pub fn scalar(&self) -> Result<f32> {
        self.tensor.flatten_all()?.squeeze(0)?.to_scalar()
    }

    /// Records an operation: its outputs, its inputs in order, and how gradients go back through it.
    ///
    /// When no input wants a gradient, nothing is recorded and the outputs are constants. `backward` must return one
    /// entry for each input; the walk back is an error otherwise, and where a gradient is not of its output's size.
    pub fn record<const N: usize>(
        outputs: [Tensor; N],
        inputs: &[&Value],
        backward: impl Fn(&[Option<Tensor>]) -> Result<Vec<Option<Tensor>>> + 'static,
    ) -> [Value; N] {
        let mut values = Self::record_all(outputs.into(), inputs, backward).into_iter();
        std::array::from_fn(|_| values.next().expect("there is a value for each output"))
    }

    /// Records an operation with as many outputs as there are tensors; see [`record`](Self::record).
    pub fn record_all(
        outputs: Vec<Tensor>,
        inputs: &[&Value],
        backward: impl Fn(&[Option<Tensor>]) -> Result<Vec<Option<Tensor>>> + 'static,
    ) -> Vec<Value> {
        if !inputs.iter().any(|input| input.wants_gradient()) {
            return outputs.into_iter().map(Value::constant).collect();
        }
        let operation = Rc::new(Operation {
            id: NEXT_OPERATION.with(|next| next.replace(next.get() + 1)),
            outputs: outputs.iter().map(Tensor::elem_count).collect(),
            inputs: inputs.iter().map(|input| input.source.clone()).collect(),
            backward: Box::new(backward),
        });
        let with_source = |(index, tensor)| Value { tensor, source: Source::Output(operation.clone(), index) };
        outputs.into_iter().enumerate().map(with_source).collect()
    }

    /// Records an operation with one output; see [`record`](Self::record).
    pub fn record1(
        output: Tensor,
        inputs: &[&Value],
        backward: impl Fn(&Tensor) -> Result<Vec<Option<Tensor>>> + 'static,
    ) -> Value {
        let [value] = Self::record([output], inputs, move |grads| match &grads[0] {
            Some(grad) => backward(grad),
            None => bail!("an operation was walked back without a gradient"),
        });
        value
    }

    /// The gradients of this value (one element) with respect to every leaf it depends on.
    ///
    /// Takes the value: activations are freed as the walk passes them, unless someone else still holds them.
    pub fn backward(self) -> Result<Gradients> {
        let one = self.tensor.ones_like()?;
        if one.elem_count() != 1 {
            bail!("backward needs a value of one element, this one has shape {:?}", self.tensor.shape());
        }
        self.backward_from(one)
    }

    /// As [`backward`](Self::backward), from a given gradient of this value (same shape).
    pub fn backward_from(self, gradient: Tensor) -> Result<Gradients> {
        let mut walk = Walk::default();
        let Value { tensor, source } = self;
        if tensor.dims() != gradient.dims() {
            bail!("backward: a gradient of shape {:?} for a value of shape {:?}", gradient.dims(), tensor.dims());
        }
        drop(tensor);
        walk.file(source, gradient)?;
        while let Some((_, (operation, arrived))) = walk.pending.pop_last() {
            let outputs = arrived.into_iter().map(|a| a.map(|a| a.sum)).collect::<Vec<_>>();
            let grads = (operation.backward)(&outputs)?;
            drop(outputs);
            if grads.len() != operation.inputs.len() {
                bail!("backward: {} gradients of an operation with {} inputs", grads.len(), operation.inputs.len());
            }
            // When the tape is the last holder, what the operation kept for its gradient is freed here.
            let inputs = match Rc::try_unwrap(operation) {
                Ok(Operation { inputs, backward, .. }) => {
                    drop(backward);
                    inputs
                }
                Err(shared) => shared.inputs.clone(),
            };
            for (source, grad) in inputs.into_iter().zip(grads) {
                if let Some(grad) = grad {
                    walk.file(source, grad)?;
                }
            }
        }
        Ok(Gradients(walk.leaves.into_iter().map(|(id, a)| (id, a.sum)).collect()))
    }
}

/// What has flowed into one place so far.
struct Arrived {
    sum: Tensor,
    /// Whether `sum` was made here, and may be added to in place.
    owned: bool,
}

#[derive(Default)]
struct Walk {
    pending: BTreeMap<u64, (Rc<Operation>, Vec<Option<Arrived>>)>,
    leaves: HashMap<TensorId, Arrived>,
}

impl Walk {
    fn file(&mut self, source: Source, grad: Tensor) -> Result<()> {
        match source {
            Source::Constant => Ok(()),
            Source::Leaf(id) => {
                if let Some(arrived) = self.leaves.get_mut(&id) {
                    return arrived.add(&grad);
                }
                self.leaves.insert(id, Arrived { sum: grad, owned: false });
                Ok(())
            }
            Source::Output(operation, index) => {
                // Kernels take a gradient's size from the output that it belongs to.
                let wanted = operation.outputs[index];
                if grad.elem_count() != wanted {
                    bail!("backward: a gradient of shape {:?} for a value of {wanted} numbers", grad.dims());
                }
                let (_, slots) = self.pending.entry(operation.id).or_insert_with(|| {
                    let slots = operation.outputs.iter().map(|_| None).collect();
                    (operation, slots)
                });
                match &mut slots[index] {
                    Some(arrived) => arrived.add(&grad),
                    slot @ None => {
                        *slot = Some(Arrived { sum: grad, owned: false });
                        Ok(())
                    }
                }
            }
        }
    }
}

impl Arrived {
    fn add(&mut self, grad: &Tensor) -> Result<()> {
        if self.owned {
            add_assign(&self.sum, grad)
        } else {
            self.sum = add_tensors(&self.sum, grad)?;
            self.owned = true;
            Ok(())
        }
    }
}

/// Gradients by leaf.
#[derive(Debug, Default)]
pub struct Gradients(HashMap<TensorId, Tensor>);

impl Gradients {
    /// The gradient of the leaf made from `tensor`, if any flowed there.
    pub fn get(&self, tensor: &Tensor) -> Option<&Tensor> {
        self.0.get(&tensor.id())
    }

    /// Takes that gradient out.
    pub fn remove(&mut self, tensor: &Tensor) -> Option<Tensor> {
        self.0.remove(&tensor.id())
    }

    /// How many leaves have a gradient.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no leaf has one.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
