//! Reading what a test has written, and what to expect of it.

use ssdkd_nn::weights::{self, Choice, Import, WeightsError};

use crate::writer::NETWORK;

pub(crate) fn read_with(bytes: &[u8], choice: &Choice<'_>) -> Result<Import, WeightsError> {
    weights::parse(bytes, "strange.pth".as_ref(), choice)
}

#[track_caller]
pub(crate) fn read(bytes: &[u8]) -> Import {
    read_with(bytes, &Choice::default()).unwrap_or_else(|error| panic!("{error}"))
}

/// That the tensors are those of the small network, and which number they have.
#[track_caller]
pub(crate) fn number_of(import: &Import) -> f32 {
    let mut names = NETWORK.map(|(name, _)| name);
    names.sort_unstable();
    assert_eq!(import.tensors.keys().collect::<Vec<_>>(), names);
    let numbers = import.tensors.values().map(|tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap());
    let mut numbers = numbers.flatten().collect::<Vec<_>>();
    numbers.dedup();
    assert_eq!(numbers.len(), 1, "{numbers:?}");
    numbers[0]
}

/// That the file is refused, with an error that has this in it.
#[track_caller]
pub(crate) fn check_refused(bytes: &[u8], message: &str) {
    let error = read_with(bytes, &Choice::default()).map(|import| import.tensors).unwrap_err().to_string();
    assert!(error.contains("strange.pth") && error.contains(message), "{error}");
}
