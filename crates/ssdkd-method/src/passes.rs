//! Passes over a round's views.
//!
//! A deep teacher can spend more on a view than a small student does on learning it. So the teacher labels each view of a round once, and the
//! student sees all of them `passes` times, each time in another order \[O; C: data echoing, Choi et al. 2019, of which this
//! is the form that repeats batches after augmentation and shuffles\].

use candle_core::{Result, Tensor, bail};
use rand::seq::SliceRandom;
use ssdkd_nn::random::stream;
use ssdkd_ops as ops;

/// Views of images and what the teacher says about them.
#[derive(Debug, Clone)]
pub struct Labelled {
    /// (B, H, W, C) in `[0, 1]`.
    pub(crate) views: Tensor,
    /// (B, K), or (B·S, K) with S rows for each view.
    pub(crate) logits: Tensor,
    /// The feature maps to learn from, (B, H, W, C) each; none without L_F.
    pub(crate) maps: Vec<Tensor>,
}

impl Labelled {
    /// Views that lie in several `parts`, each by its part and its row there.
    ///
    /// They are never put together: that would take as much memory again, and a round's maps are most of what a run holds.
    ///
    /// # Errors
    /// If there is no such part or row, none is asked for, or the parts are of different networks.
    pub fn gather(parts: &[Self], places: &[(usize, usize)]) -> Result<Self> {
        let picked = places.iter().map(|&(part, row)| Some((parts.get(part)?, row))).collect::<Option<Vec<_>>>();
        let Some(picked) = picked else { bail!("there are {} parts of labeled views, not so many", parts.len()) };
        let maps = picked.first().map_or(0, |(part, _)| part.maps.len());
        if picked.iter().any(|(part, _)| part.maps.len() != maps) {
            bail!("labeled views with different numbers of feature maps");
        }
        let of = |tensor: &dyn Fn(&'_ Self) -> Result<Tensor>| -> Result<Tensor> {
            let tensors = picked.iter().map(|(part, row)| Ok((tensor(part)?, *row))).collect::<Result<Vec<_>>>()?;
            ops::gather_images(&tensors.iter().map(|(tensor, row)| (tensor, *row)).collect::<Vec<_>>())
        };
        // Logits are images of one line, with a pixel for each of a view's rows.
        let lines = |part: &Self| {
            let (views, (rows, classes)) = (part.views.dim(0)?, part.logits.dims2()?);
            part.logits.reshape((views, 1, rows / views.max(1), classes))
        };
        Ok(Self {
            views: of(&|part| Ok(part.views.clone()))?,
            logits: of(&lines)?.flatten_to(2)?,
            maps: (0..maps).map(|map| of(&|part| Ok(part.maps[map].clone()))).collect::<Result<_>>()?,
        })
    }

    /// Returns the bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        let tensors = [&self.views, &self.logits].into_iter().chain(&self.maps);
        tensors.map(|tensor| (tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64).sum()
    }
}

/// Returns the order in which pass `pass` (from 0) of round `round` sees its views: as they were drawn, then shuffled.
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
    use crate::fixtures::{formula, numbers};

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
    fn what_is_gathered_is_what_the_parts_hold() {
        check_gathered(1);
        check_gathered(4);
    }

    /// With `rows` of logits for each view.
    #[track_caller]
    fn check_gathered(rows: usize) {
        let part = |seed| Labelled {
            views: formula(seed, &[3, 2, 2, 1], 1.0),
            logits: formula(seed + 1, &[3 * rows, 4], 1.0),
            maps: vec![formula(seed + 2, &[3, 1, 1, 2], 1.0), formula(seed + 3, &[3, 2, 2, 2], 1.0)],
        };
        let (first, second) = (part(1), part(11));
        let parts = [first.clone(), second.clone()];
        let picked = Labelled::gather(&parts, &[(1, 1), (0, 0), (1, 1)]).unwrap();
        let row = |tensor: &Tensor, view: usize| {
            let each = tensor.dim(0).unwrap() / 3;
            numbers(&tensor.narrow(0, view * each, each).unwrap())
        };
        let expected = |of: &dyn Fn(&Labelled) -> Tensor| {
            let (first, second) = (row(&of(&first), 0), row(&of(&second), 1));
            [second.clone(), first, second].concat()
        };
        assert_eq!(numbers(&picked.views), expected(&|part| part.views.clone()));
        assert_eq!(numbers(&picked.logits), expected(&|part| part.logits.clone()));
        for map in 0..2 {
            assert_eq!(numbers(&picked.maps[map]), expected(&|part| part.maps[map].clone()));
        }
        assert_eq!(picked.logits.dims(), [3 * rows, 4]);
        assert_eq!(picked.bytes(), 4 * 3 * (4 + 4 * rows as u64 + 2 + 8));
        for place in [(0, 3), (2, 0)] {
            assert!(Labelled::gather(&parts, &[place]).is_err());
        }
        assert!(Labelled::gather(&parts, &[]).is_err());
        let bare = Labelled { maps: Vec::new(), ..first };
        assert!(Labelled::gather(&[bare, second], &[(0, 0), (1, 0)]).is_err());
    }
}
