//! Feature distillation: the student also learns the teacher's feature maps \[C: FitNets, Romero et al. 2015\]\[O\].
//!
//! ```text
//! L_F = (1/M) Σ_m ‖P_m(a_m) − b_m‖₂ / ‖b_m‖₂      a_m, b_m: maps (B, H, W, C) of student and teacher, of one batch of views
//! ```
//!
//! A row of logits says ten numbers about an image, its maps say ten thousands: the fewer images and steps there are, the more
//! that matters. m runs over the student's blocks whose resolution the teacher has too; b_m is of the teacher's block that
//! is as deep among its own of that resolution. Of a network that came as a graph, whose blocks have no names, only the last map of each
//! resolution counts. P_m is the identity where both have as many channels, and otherwise a 1×1
//! convolution that is trained with the student and not part of it. The distance is relative, so that its factor means
//! the same for any teacher.

use candle_core::{Result, Tensor, Var, bail};
use rand::Rng;
use ssdkd_nn::random::stream;
use ssdkd_nn::{Draw, FeatureMap, Network, NetworkSpec, StateDict, Store};
use ssdkd_ops as ops;
use ssdkd_ops::{Activation, Conv2dSpec, Value};

/// The P_m and their weights; see the [module](self).
pub(crate) struct FeatureDistillation {
    store: Store,
    pairs: Vec<Pair>,
}

/// A map of the student, and the teacher's that it should be like.
struct Pair {
    student: usize,
    teacher: usize,
    /// Weight and bias of P_m; `None`: the identity.
    projector: Option<(Tensor, Tensor)>,
}

impl FeatureDistillation {
    /// Returns fresh P_m between two networks, their weights a function of `seed`.
    ///
    /// # Errors
    /// If the networks have no resolution in common.
    pub(crate) fn new(teacher: &Network, student: &Network, seed: u64) -> Result<Self> {
        let store = Store::seeded(student.store().device(), stream(seed, "distill/projector", &[]).random());
        let (theirs, ours) = (teacher.spec().feature_maps()?, student.spec().feature_maps()?);
        let mut pairs = Vec::new();
        for (student, teacher) in matched_of(teacher.spec(), student.spec())? {
            let (from, to) = (ours[student].channels, theirs[teacher].channels);
            let projector = if from == to {
                None
            } else {
                let (weight, bias) = Draw::PYTORCH.of_layer(from);
                let weight = store.tensor(&format!("{student}.weight"), &[to, from, 1, 1], weight, true)?;
                Some((weight, store.tensor(&format!("{student}.bias"), &[to], bias, true)?))
            };
            pairs.push(Pair { student, teacher, projector });
        }
        if pairs.is_empty() {
            bail!(
                "no feature map of a {} has the size of one of a {}\nhint: set distill.feature_distillation to 0",
                student.spec().architecture,
                teacher.spec().architecture
            );
        }
        Ok(Self { store, pairs })
    }

    /// Returns the b_m among all maps of the teacher; they get no gradient.
    pub(crate) fn targets(&self, teacher: &[Value]) -> Result<Vec<Tensor>> {
        self.pairs.iter().map(|pair| Ok(ops::to_f32(&teacher[pair.teacher].detach())?.tensor().clone())).collect()
    }

    /// Returns L_F of the student's maps and the [targets](Self::targets) of the same views.
    pub(crate) fn loss(&self, student: &[Value], targets: &[Tensor]) -> Result<Value> {
        let mut distances = Vec::new();
        for (pair, target) in self.pairs.iter().zip(targets) {
            let map = &student[pair.student];
            let projected = match &pair.projector {
                Some((weight, bias)) => {
                    let (weight, bias) = (Value::leaf(weight), Value::leaf(bias));
                    ops::conv2d_then(map, &weight, Some(&bias), Conv2dSpec::new(1, 0), None, Activation::None)?
                }
                None => map.clone(),
            };
            distances.push(ops::relative_distance(&projected, target)?);
        }
        let share = 1.0 / self.pairs.len() as f64;
        ops::weighted_sum(&distances.iter().map(|distance| (share, distance)).collect::<Vec<_>>())
    }

    /// Returns what is trained with the student.
    pub(crate) fn parameters(&self) -> Vec<(String, Var)> {
        self.store.parameters().into_iter().map(|(name, var)| (format!("projector.{name}"), var)).collect()
    }

    /// Returns the weights of the P_m, by their names.
    pub(crate) fn state_dict(&self) -> StateDict {
        self.store.state_dict()
    }

    /// Restores saved weights. The error names what does not fit.
    pub(crate) fn load_state_dict(&self, tensors: StateDict) -> Result<()> {
        self.store.load_state_dict(tensors)
    }
}

/// Returns which map of the student learns to be like which of the teacher, in the student's order.
///
/// # Errors
/// If a network cannot be built.
pub fn feature_pairs(teacher: &NetworkSpec, student: &NetworkSpec) -> Result<Vec<(FeatureMap, FeatureMap)>> {
    let (theirs, ours) = (teacher.feature_maps()?, student.feature_maps()?);
    let pairs = matched_of(teacher, student)?.into_iter();
    Ok(pairs.map(|(student, teacher)| (ours[student].clone(), theirs[teacher].clone())).collect())
}

/// Returns the places of the maps that [`feature_pairs`] returns.
fn matched_of(teacher: &NetworkSpec, student: &NetworkSpec) -> Result<Vec<(usize, usize)>> {
    let (theirs, ours) = (teacher.feature_maps()?, student.feature_maps()?);
    let mut pairs = matched(&ours, &theirs);
    if teacher.architecture.graph().or(student.architecture.graph()).is_some() {
        let is_last = |&(map, _): &(usize, usize)| ours.get(map + 1).is_none_or(|next| next.size != ours[map].size);
        pairs.retain(is_last);
    }
    Ok(pairs)
}

/// Returns which of the student's maps goes with which of the teacher's: of the same resolution, and as deep there.
fn matched(student: &[FeatureMap], teacher: &[FeatureMap]) -> Vec<(usize, usize)> {
    let of_resolution = |maps: &[FeatureMap], size: [usize; 2]| {
        let same = maps.iter().enumerate().filter(|(_, map)| map.size == size);
        same.map(|(index, _)| index).collect::<Vec<_>>()
    };
    let mut pairs = Vec::new();
    for (index, map) in student.iter().enumerate() {
        let (ours, theirs) = (of_resolution(student, map.size), of_resolution(teacher, map.size));
        if theirs.is_empty() {
            continue;
        }
        // The k-th of n blocks has done k/n of the work: so has the ⌈k/n · m⌉-th of m.
        let place = 1 + ours.iter().filter(|&&other| other < index).count();
        pairs.push((index, theirs[(place * theirs.len()).div_ceil(ours.len()) - 1]));
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_go_with_those_as_deep() {
        let maps = |counts: [usize; 3]| {
            let sizes = [32, 16, 8].into_iter().zip(counts);
            let map = |size| FeatureMap { name: String::new(), size: [size; 2], channels: 16 };
            sizes.flat_map(|(size, count)| vec![map(size); count]).collect::<Vec<_>>()
        };
        let nine = maps([9, 9, 9]);
        let expected = [2, 5, 8, 11, 14, 17, 20, 23, 26];
        assert_eq!(matched(&maps([3, 3, 3]), &nine), expected.into_iter().enumerate().collect::<Vec<_>>());
        assert_eq!(matched(&maps([2, 0, 1]), &maps([3, 1, 1])), [(0, 1), (1, 2), (2, 4)]);
        // More blocks than the teacher has: some share one.
        assert_eq!(matched(&maps([3, 0, 0]), &maps([2, 0, 0])), [(0, 0), (1, 1), (2, 1)]);
        assert_eq!(matched(&maps([1, 0, 0]), &maps([0, 2, 0])), []);
    }
}
