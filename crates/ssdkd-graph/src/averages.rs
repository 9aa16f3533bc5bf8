//! Adaptive averages as a product with a matrix, which is how ONNX files have them.

/// Returns the matrix (windows, size), row by row, whose product with `size` numbers is the mean of each window.
///
/// Window `i` goes from ⌊i · size / windows⌋ to ⌈(i + 1) · size / windows⌉, as in PyTorch's `AdaptiveAvgPool2d`.
pub(crate) fn averages(size: usize, windows: usize) -> Vec<f32> {
    let mut matrix = vec![0.0; size * windows];
    for (window, row) in matrix.chunks_exact_mut(size).enumerate() {
        let (start, end) = (window * size / windows, ((window + 1) * size).div_ceil(windows));
        row[start..end].fill(1.0 / (end - start) as f32);
    }
    matrix
}

#[cfg(test)]
mod tests {
    use super::averages;

    #[test]
    fn windows_overlap_where_sizes_do_not_divide() {
        assert_eq!(averages(3, 2), [0.5, 0.5, 0.0, 0.0, 0.5, 0.5]);
        assert_eq!(averages(1, 2), [1.0, 1.0]);
    }
}
