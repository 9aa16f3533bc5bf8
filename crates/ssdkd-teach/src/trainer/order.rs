//! The order of the images in an epoch.

use rand::Rng;
use ssdkd_nn::random::stream;

/// 0..count in the order of an epoch.
pub(super) fn shuffled(count: usize, seed: u64, epoch: u32) -> Vec<usize> {
    let mut rng = stream(seed, "teach order", &[epoch.into()]);
    let mut order = (0..count).collect::<Vec<_>>();
    for last in (1..count).rev() {
        order.swap(last, below(&mut rng, last + 1));
    }
    order
}

/// Returns a number in `0..count`, nearly uniform.
fn below(rng: &mut impl Rng, count: usize) -> usize {
    ((u64::from(rng.random::<u32>()) * count as u64) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_holds_every_image_once_and_differs_between_epochs() {
        let mut order = shuffled(100, 0, 3);
        assert_ne!(order, shuffled(100, 0, 4));
        assert_ne!(order, shuffled(100, 1, 3));
        order.sort_unstable();
        assert_eq!(order, (0..100).collect::<Vec<_>>());
    }
}
