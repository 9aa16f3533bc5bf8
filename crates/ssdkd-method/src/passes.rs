//! Passes over a round's views.
//!
//! A deep teacher can spend more on a view than a small student does on learning it. So the teacher labels each view of a round once, and the
//! student sees all of them `passes` times, each time in another order \[O; C: data echoing, Choi et al. 2019, of which this
//! is the form that repeats batches after augmentation and shuffles\].

use candle_core::{Result, Tensor, bail};
use rand::seq::SliceRandom;
use ssdkd_nn::random::stream;

/// Views of images and what the teacher says about them.
#[derive(Debug, Clone)]
pub struct Labelled {
    /// (B, H, W, C) in `[0, 1]`.
    pub(crate) views: Tensor,
    /// (B, K)
    pub(crate) logits: Tensor,
    /// The feature maps to learn from, (B, H, W, C) each; none without L_F.
    pub(crate) maps: Vec<Tensor>,
}

impl Labelled {
    /// The views of all `parts`, one after the other.
    ///
    /// # Errors
    /// If there are none, or they are of different networks.
    pub fn join(mut parts: Vec<Self>) -> Result<Self> {
        let maps = parts.first().map_or(0, |part| part.maps.len());
        // One kind at a time: the parts of what is joined are not needed again, and together they are large.
        let maps = (0..maps)
            .map(|_| Tensor::cat(&parts.iter_mut().map(|part| part.maps.remove(0)).collect::<Vec<_>>(), 0))
            .collect::<Result<_>>()?;
        let views = Tensor::cat(&parts.iter().map(|part| &part.views).collect::<Vec<_>>(), 0)?;
        let logits = Tensor::cat(&parts.iter().map(|part| &part.logits).collect::<Vec<_>>(), 0)?;
        Ok(Self { views, logits, maps })
    }

    /// The views in the given rows.
    ///
    /// # Errors
    /// If there is no such row.
    pub fn rows(&self, rows: &[u32]) -> Result<Self> {
        let rows = Tensor::new(rows, self.views.device())?;
        let pick = |tensor: &Tensor| {
            // candle's kernel counts in 32 bits, and does not say where they are too few.
            if u32::try_from(tensor.elem_count()).is_err() && !tensor.device().is_cpu() {
                bail!("the views of a round have {} numbers\nhint: lower distill.steps", tensor.elem_count());
            }
            tensor.index_select(&rows, 0)
        };
        Ok(Self {
            views: pick(&self.views)?,
            logits: pick(&self.logits)?,
            maps: self.maps.iter().map(pick).collect::<Result<_>>()?,
        })
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        let tensors = [&self.views, &self.logits].into_iter().chain(&self.maps);
        tensors.map(|tensor| (tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64).sum()
    }
}

/// The order in which pass `pass` (from 0) of round `round` takes up its views: as they were drawn, then shuffled.
pub fn order(views: usize, seed: u64, round: u32, pass: usize) -> Vec<u32> {
    let mut order = (0..views as u32).collect::<Vec<_>>();
    if pass > 0 {
        order.shuffle(&mut stream(seed, "distillation passes", &[u64::from(round), pass as u64]));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::{formula, numbers};

    #[test]
    fn each_pass_takes_every_view_once() {
        let orders = [0, 1, 2].map(|pass| order(40, 7, 3, pass));
        assert_eq!(orders[0], (0..40).collect::<Vec<_>>());
        for order in &orders {
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, orders[0]);
        }
        assert_ne!(orders[1], orders[0]);
        assert_ne!(orders[1], orders[2]);
        assert_eq!(orders[1], order(40, 7, 3, 1));
        assert_ne!(orders[1], order(40, 7, 4, 1));
    }

    #[test]
    fn rows_of_joined_parts_are_those_of_the_parts() {
        let part = |seed| Labelled {
            views: formula(seed, &[3, 2, 2, 1], 1.0),
            logits: formula(seed + 1, &[3, 4], 1.0),
            maps: vec![formula(seed + 2, &[3, 1, 1, 2], 1.0), formula(seed + 3, &[3, 2, 2, 2], 1.0)],
        };
        let (first, second) = (part(1), part(11));
        let picked = Labelled::join(vec![first.clone(), second.clone()]).unwrap().rows(&[4, 0, 4]).unwrap();
        let row = |tensor: &Tensor, row| numbers(&tensor.narrow(0, row, 1).unwrap());
        let expected = |of: &dyn Fn(&Labelled) -> Tensor| {
            let (first, second) = (row(&of(&first), 0), row(&of(&second), 1));
            [second.clone(), first, second].concat()
        };
        assert_eq!(numbers(&picked.views), expected(&|part| part.views.clone()));
        assert_eq!(numbers(&picked.logits), expected(&|part| part.logits.clone()));
        for map in 0..2 {
            assert_eq!(numbers(&picked.maps[map]), expected(&|part| part.maps[map].clone()));
        }
        assert_eq!(picked.bytes(), 4 * 3 * (4 + 4 + 2 + 8));
        assert!(picked.rows(&[3]).is_err());
        assert!(Labelled::join(Vec::new()).is_err());
    }
}
