//! Learning rates as pure functions of the step.

use std::f64::consts::PI;

/// Returns a cosine from `highest` at step 0 to `lowest` at the last step, `total − 1`.
pub fn cosine(highest: f64, lowest: f64, step: u64, total: u64) -> f64 {
    let progress = (step as f64 / total.saturating_sub(1).max(1) as f64).min(1.0);
    lowest + (highest - lowest) * 0.5 * (1.0 + (PI * progress).cos())
}

/// Returns `highest`, times `factor` for every milestone (a step) that has passed.
pub fn milestones(highest: f64, factor: f64, milestones: &[u64], step: u64) -> f64 {
    let passed = milestones.iter().filter(|&&milestone| step >= milestone).count();
    highest * factor.powi(passed as i32)
}

/// Returns a straight line up to `highest`, which it reaches in step `steps − 1`; then it stays there.
pub fn warm_up(highest: f64, step: u64, steps: u64) -> f64 {
    if step < steps { highest * (step + 1) as f64 / steps as f64 } else { highest }
}

/// One cycle, PyTorch's `OneCycleLR` with its defaults: a cosine from `highest / 25` up to `highest` over the first 30 %
/// of the steps, then one down to `highest / 250,000` at the last.
pub fn one_cycle(highest: f64, step: u64, total: u64) -> f64 {
    let (step, last) = (step as f64, total.saturating_sub(1) as f64);
    let peak = 0.3 * total as f64 - 1.0;
    let between = |from: f64, to: f64, part: f64| to + (from - to) * 0.5 * (1.0 + (PI * part.min(1.0)).cos());
    if step < peak {
        between(highest / 25.0, highest, step / peak)
    } else {
        between(highest, highest / 250_000.0, (step - peak) / (last - peak))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-9, "{found} is not {expected}");
    }

    #[test]
    fn cosine_starts_high_and_ends_low() {
        check(cosine(0.2, 2e-4, 0, 101), 0.2);
        check(cosine(0.2, 2e-4, 50, 101), 0.1001);
        check(cosine(0.2, 2e-4, 100, 101), 2e-4);
        check(cosine(0.2, 2e-4, 500, 101), 2e-4);
        check(cosine(0.2, 2e-4, 0, 1), 0.2);
    }

    #[test]
    fn milestones_count_when_reached() {
        check(milestones(0.1, 0.1, &[100, 150], 99), 0.1);
        check(milestones(0.1, 0.1, &[100, 150], 100), 0.01);
        check(milestones(0.1, 0.1, &[100, 150], 400), 0.001);
    }

    #[test]
    fn warm_up_ends_at_the_highest() {
        check(warm_up(0.2, 0, 4), 0.05);
        check(warm_up(0.2, 3, 4), 0.2);
        check(warm_up(0.2, 4, 4), 0.2);
        check(warm_up(0.2, 0, 0), 0.2);
    }

    #[test]
    fn one_cycle_rises_and_falls() {
        check(one_cycle(1.0, 0, 100), 0.04);
        check(one_cycle(1.0, 29, 100), 1.0);
        check(one_cycle(1.0, 99, 100), 4e-6);
        check(one_cycle(1.0, 500, 100), 4e-6);
        assert!((0..3).all(|total| one_cycle(1.0, 0, total).is_finite()), "short runs too");
    }
}
