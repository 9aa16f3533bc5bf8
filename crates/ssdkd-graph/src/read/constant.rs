//! Numbers that come from a file, and what is computed from them alone.

use std::rc::Rc;

/// A tensor of a file, or computed from such: it does not depend on the image.
#[derive(Debug, Clone)]
pub(crate) struct Constant {
    pub name: Rc<str>,
    pub dims: Rc<[usize]>,
    pub numbers: Numbers,
    /// Whether it is trained: a parameter of the network, as it is in the file.
    pub trained: bool,
    /// How it was computed from others.
    pub origin: Option<Rc<Origin>>,
}

/// The numbers of a constant, in the order of its dimensions.
#[derive(Debug, Clone)]
pub(crate) enum Numbers {
    /// One after the other.
    All(Rc<Vec<f32>>),
    /// The same number everywhere: no file needs to hold it, and no memory is used for it until a network needs it.
    Fill(f32),
}

/// How a constant was computed, as far as it may be a part of a normalization.
#[derive(Debug)]
pub(crate) enum Origin {
    /// variance + eps.
    Variance(Deviation),
    /// √(variance + eps).
    Root(Deviation),
    /// 1 / √(variance + eps).
    Inverse(Deviation),
    /// weight / √(variance + eps).
    Scale(Rc<Scale>),
    /// mean · scale.
    Mean(Constant, Rc<Scale>),
    /// bias − mean · scale.
    Shift(Frozen),
}

/// What a normalization divides by.
#[derive(Debug, Clone)]
pub(crate) struct Deviation {
    pub variance: Constant,
    pub eps: f64,
}

/// What it multiplies with.
#[derive(Debug)]
pub(crate) struct Scale {
    pub weight: Constant,
    pub deviation: Deviation,
}

/// All of it.
#[derive(Debug, Clone)]
pub(crate) struct Frozen {
    pub bias: Constant,
    pub mean: Constant,
    pub scale: Rc<Scale>,
}

/// A sum, difference, product or quotient.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arithmetic {
    Add,
    Sub,
    Mul,
    Div,
}

impl Arithmetic {
    pub fn of(self, a: f32, b: f32) -> f32 {
        match self {
            Self::Add => a + b,
            Self::Sub => a - b,
            Self::Mul => a * b,
            Self::Div => a / b,
        }
    }

    pub fn of_whole(self, a: i64, b: i64) -> Option<i64> {
        match self {
            Self::Add => a.checked_add(b),
            Self::Sub => a.checked_sub(b),
            Self::Mul => a.checked_mul(b),
            Self::Div => a.checked_div_euclid(b),
        }
    }
}

/// How many numbers may be made from those of a file: bounds the memory that a file can cause.
#[derive(Debug)]
pub(crate) struct Budget(usize);

impl Budget {
    /// For a file of so many bytes: each of its numbers may be copied once, and small networks need some more.
    pub fn of_file(bytes: usize) -> Self {
        Self(bytes / 4 + (1 << 16))
    }

    /// Takes `count` numbers out.
    pub fn take(&mut self, count: usize) -> Result<(), String> {
        match self.0.checked_sub(count) {
            Some(left) => {
                self.0 = left;
                Ok(())
            }
            None => Err(format!("{count} numbers would be made here; the file is too small for so many")),
        }
    }
}

/// Returns how many numbers a tensor of these sizes has.
pub(crate) fn count(dims: &[usize]) -> Option<usize> {
    dims.iter().try_fold(1_usize, |product, &size| product.checked_mul(size))
}

impl Constant {
    pub fn fill(name: &str, value: f32, dims: &[usize]) -> Self {
        Self { name: name.into(), dims: dims.into(), numbers: Numbers::Fill(value), trained: false, origin: None }
    }

    pub fn new(name: &str, dims: &[usize], numbers: Vec<f32>, trained: bool) -> Result<Self, String> {
        if count(dims) != Some(numbers.len()) {
            return Err(format!("the tensor of sizes {dims:?} has {} numbers", numbers.len()));
        }
        Ok(Self {
            name: name.into(),
            dims: dims.into(),
            numbers: Numbers::All(Rc::new(numbers)),
            trained,
            origin: None,
        })
    }

    /// Returns how many numbers it has.
    pub fn count(&self) -> Result<usize, String> {
        count(&self.dims).ok_or_else(|| format!("a tensor of sizes {:?} is too large", self.dims))
    }

    /// Returns the number of a constant of one number, or that fills it.
    pub fn scalar(&self) -> Option<f32> {
        match &self.numbers {
            Numbers::Fill(value) => Some(*value),
            Numbers::All(numbers) if numbers.len() == 1 => Some(numbers[0]),
            Numbers::All(_) => None,
        }
    }

    /// Returns all numbers; those of a fill are made.
    pub fn materialized(&self, budget: &mut Budget) -> Result<Rc<Vec<f32>>, String> {
        match &self.numbers {
            Numbers::All(numbers) => Ok(numbers.clone()),
            Numbers::Fill(value) => {
                let count = self.count()?;
                budget.take(count)?;
                Ok(Rc::new(vec![*value; count]))
            }
        }
    }

    /// Computed as `origin` says.
    pub fn computed(self, origin: Option<Origin>) -> Self {
        Self { origin: origin.map(Rc::new), ..self }
    }

    /// With other sizes, of as many numbers.
    pub fn reshaped(&self, dims: &[usize]) -> Result<Self, String> {
        if count(dims) != Some(self.count()?) {
            return Err(format!("a constant of sizes {:?} cannot become {dims:?}", self.dims));
        }
        Ok(Self { dims: dims.into(), ..self.clone() })
    }

    /// With its dimensions in another order.
    pub fn transposed(&self, order: &[usize], budget: &mut Budget) -> Result<Self, String> {
        let mut sorted = order.to_vec();
        sorted.sort_unstable();
        if !sorted.iter().copied().eq(0..self.dims.len()) {
            return Err(format!("{order:?} is no order of {} dimensions", self.dims.len()));
        }
        let dims = order.iter().map(|&axis| self.dims[axis]).collect::<Vec<_>>();
        let Numbers::All(numbers) = &self.numbers else {
            return Ok(Self { dims: dims.into(), ..self.clone() });
        };
        budget.take(numbers.len())?;
        let mut strides = vec![1; self.dims.len()];
        for axis in (1..self.dims.len()).rev() {
            strides[axis - 1] = strides[axis] * self.dims[axis];
        }
        let strides = order.iter().map(|&axis| strides[axis]).collect::<Vec<_>>();
        let mut index = vec![0; dims.len()];
        let mut out = Vec::with_capacity(numbers.len());
        for _ in 0..numbers.len() {
            out.push(numbers[index.iter().zip(&strides).map(|(i, stride)| i * stride).sum::<usize>()]);
            advance(&mut index, &dims);
        }
        Ok(Self { dims: dims.into(), numbers: Numbers::All(Rc::new(out)), ..self.clone() })
    }

    /// Returns `f` of every number.
    pub fn map(&self, name: &str, f: impl Fn(f32) -> f32, budget: &mut Budget) -> Result<Self, String> {
        let numbers = match &self.numbers {
            Numbers::Fill(value) => Numbers::Fill(f(*value)),
            Numbers::All(numbers) => {
                budget.take(numbers.len())?;
                Numbers::All(Rc::new(numbers.iter().map(|&number| f(number)).collect()))
            }
        };
        Ok(Self { name: name.into(), dims: self.dims.clone(), numbers, trained: false, origin: None })
    }

    /// Returns `f` of every pair of numbers; sizes of 1 are repeated.
    pub fn zip(
        &self,
        other: &Self,
        name: &str,
        f: impl Fn(f32, f32) -> f32,
        budget: &mut Budget,
    ) -> Result<Self, String> {
        let dims = broadcast(&self.dims, &other.dims)
            .ok_or_else(|| format!("constants of sizes {:?} and {:?} do not fit together", self.dims, other.dims))?;
        if let (Numbers::Fill(a), Numbers::Fill(b)) = (&self.numbers, &other.numbers) {
            return Ok(Self::fill(name, f(*a, *b), &dims));
        }
        let total = count(&dims).ok_or_else(|| format!("a tensor of sizes {dims:?} is too large"))?;
        budget.take(total)?;
        let (a, b) = (self.repeated(&dims), other.repeated(&dims));
        let mut index = vec![0; dims.len()];
        let mut out = Vec::with_capacity(total);
        for _ in 0..total {
            out.push(f(a.at(&index), b.at(&index)));
            advance(&mut index, &dims);
        }
        Ok(Self {
            name: name.into(),
            dims: dims.into(),
            numbers: Numbers::All(Rc::new(out)),
            trained: false,
            origin: None,
        })
    }

    fn repeated(&self, dims: &[usize]) -> Repeated<'_> {
        let mut strides = vec![0; dims.len()];
        let offset = dims.len() - self.dims.len();
        let mut stride = 1;
        for (axis, &size) in self.dims.iter().enumerate().rev() {
            strides[offset + axis] = if size == 1 { 0 } else { stride };
            stride *= size;
        }
        Repeated { numbers: &self.numbers, strides }
    }
}

/// A constant as if it were larger.
struct Repeated<'a> {
    numbers: &'a Numbers,
    strides: Vec<usize>,
}

impl Repeated<'_> {
    fn at(&self, index: &[usize]) -> f32 {
        match self.numbers {
            Numbers::Fill(value) => *value,
            Numbers::All(numbers) => {
                numbers[index.iter().zip(&self.strides).map(|(i, stride)| i * stride).sum::<usize>()]
            }
        }
    }
}

/// The next index in row-major order.
fn advance(index: &mut [usize], dims: &[usize]) {
    for (i, &size) in index.iter_mut().zip(dims).rev() {
        *i += 1;
        if *i < size {
            return;
        }
        *i = 0;
    }
}

/// Returns the sizes of two tensors together, as NumPy has it.
pub(crate) fn broadcast(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let size = |dims: &[usize], axis: usize| (axis + dims.len()).checked_sub(rank).map_or(1, |axis| dims[axis]);
    (0..rank)
        .map(|axis| match (size(a, axis), size(b, axis)) {
            (a, b) if a == b => Some(a),
            (1, more) | (more, 1) => Some(more),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn constant(dims: &[usize]) -> Constant {
        let numbers = (0..count(dims).unwrap()).map(|i| i as f32).collect();
        Constant::new("c", dims, numbers, true).unwrap()
    }

    fn numbers(constant: &Constant) -> Vec<f32> {
        constant.materialized(&mut Budget(100)).unwrap().to_vec()
    }

    #[test]
    fn dimensions_change_their_order() {
        let turned = constant(&[2, 3]).transposed(&[1, 0], &mut Budget(100)).unwrap();
        assert_eq!((&*turned.dims, numbers(&turned)), (&[3, 2][..], vec![0.0, 3.0, 1.0, 4.0, 2.0, 5.0]));
        assert!(constant(&[2, 3]).transposed(&[0, 0], &mut Budget(100)).is_err());
    }

    #[test]
    fn small_constants_are_repeated() {
        let sum = constant(&[2, 3]).zip(&constant(&[3]), "s", |a, b| a + b, &mut Budget(100)).unwrap();
        assert_eq!(numbers(&sum), [0.0, 2.0, 4.0, 3.0, 5.0, 7.0]);
        assert!(constant(&[2, 3]).zip(&constant(&[2]), "s", |a, b| a + b, &mut Budget(100)).is_err());
    }

    #[test]
    fn a_fill_takes_no_memory_until_it_is_needed() {
        let huge = Constant::fill("f", 0.0, &[1 << 20, 1 << 20]);
        let sum = huge.zip(&huge, "s", |a, b| a + b, &mut Budget(0)).unwrap();
        assert_eq!(sum.scalar(), Some(0.0));
        let error = sum.materialized(&mut Budget::of_file(1000)).unwrap_err();
        assert!(error.contains("too small"), "{error}");
    }
}
