//! Poolings without what frameworks round differently.

use crate::op::Pool;

/// Returns the padding (top, left, bottom, right) with which windows rounded down are those of `pool`. `output` is the size of its result.
///
/// Programs disagree about windows that reach over the edge (`ceil_mode`). With this padding no window does.
pub(super) fn explicit_padding(pool: &Pool, input: [usize; 2], output: [usize; 2]) -> [usize; 4] {
    let [top, left, bottom, right] = pool.padding;
    let end = |side: usize, before: usize, after: usize| {
        if !pool.ceil_mode {
            return after;
        }
        let reach = (pool.kernel[side] - 1) * pool.dilation[side] + 1;
        ((output[side] - 1) * pool.stride[side] + reach).saturating_sub(input[side] + before)
    };
    [top, left, end(0, top, bottom), end(1, left, right)]
}

/// Returns how far `explicit` reaches beyond `padding` at the bottom and on the right.
pub(super) fn beyond(explicit: [usize; 4], padding: [usize; 4]) -> [usize; 2] {
    [explicit[2].saturating_sub(padding[2]), explicit[3].saturating_sub(padding[3])]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_over_the_edge_gets_its_padding() {
        let pool = Pool { ceil_mode: true, ..Pool::new(3, 2, 0) };
        assert_eq!(explicit_padding(&pool, [8, 7], [4, 3]), [0, 0, 1, 0]);
    }

    #[test]
    fn windows_rounded_down_keep_their_padding() {
        assert_eq!(explicit_padding(&Pool::new(3, 2, 1), [8, 8], [4, 4]), [1; 4]);
    }
}
