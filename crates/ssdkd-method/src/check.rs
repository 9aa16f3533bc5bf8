//! The checks behind every `validate`: each failure names the recipe's key, the value, and what would be right.

/// Finite and above zero.
pub(crate) fn positive(key: &str, value: f64) -> Result<(), String> {
    ensure(value.is_finite() && value > 0.0, key, value, "a number above 0")
}

/// Finite and not below zero.
pub(crate) fn not_negative(key: &str, value: f64) -> Result<(), String> {
    ensure(value.is_finite() && value >= 0.0, key, value, "0 or a number above it")
}

/// In `[0, 1]`.
pub(crate) fn fraction(key: &str, value: f64) -> Result<(), String> {
    ensure((0.0..=1.0).contains(&value), key, value, "between 0 and 1")
}

/// In `[0, 1)`: the decay of a moving average.
pub(crate) fn decay(key: &str, value: f64) -> Result<(), String> {
    ensure((0.0..1.0).contains(&value), key, value, "at least 0 and below 1")
}

/// A count within `range`.
pub(crate) fn count(key: &str, value: usize, range: std::ops::RangeInclusive<usize>) -> Result<(), String> {
    let (low, high) = (range.start(), range.end());
    ensure(range.contains(&value), key, value, &format!("a whole number from {low} to {high}"))
}

fn ensure(holds: bool, key: &str, value: impl std::fmt::Display, wanted: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(format!("{key} is {value}; it must be {wanted}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_name_key_value_and_remedy() {
        assert_eq!(positive("distill.lr", 0.0).unwrap_err(), "distill.lr is 0; it must be a number above 0");
        assert_eq!(
            count("invert.batch", 0, 2..=4096).unwrap_err(),
            "invert.batch is 0; it must be a whole number from 2 to 4096"
        );
        assert!(positive("k", f64::NAN).is_err() && not_negative("k", f64::INFINITY).is_err());
        assert!(fraction("k", 1.0).is_ok() && decay("k", 1.0).is_err() && not_negative("k", 0.0).is_ok());
    }
}
