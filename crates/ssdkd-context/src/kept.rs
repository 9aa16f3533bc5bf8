//! What an earlier stage of the same process still has in memory.
//!
//! Everything here is filed under the digest of the file that holds the same numbers. A stage that finds nothing reads
//! the file. So one process or five, the results are the same, and only the time differs.

use std::any::Any;
use std::collections::HashMap;

/// One value in each named place.
#[derive(Default)]
pub struct Kept(HashMap<String, (String, Box<dyn Any>)>);

impl Kept {
    /// Takes the value out of `place`, if it is a `T` and equals the file with this digest.
    pub fn take<T: 'static>(&mut self, place: &str, digest: &str) -> Option<T> {
        let (filed, value) = self.0.remove(place)?;
        if filed != digest {
            return None;
        }
        value.downcast().ok().map(|value| *value)
    }

    /// Files `value` as equal to the file with this digest; what was in `place` is dropped.
    pub fn put<T: 'static>(&mut self, place: &str, digest: &str, value: T) {
        self.0.insert(place.into(), (digest.into(), Box::new(value)));
    }

    /// Drops what is in the places that `keep` turns down.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.0.retain(|place, _| keep(place));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_digest_and_type_come_back() {
        let mut kept = Kept::default();
        kept.put("student", "abc", 7_u32);
        assert_eq!(kept.take::<u32>("student", "abc"), Some(7));
        assert_eq!(kept.take::<u32>("student", "abc"), None, "taken is taken");
        kept.put("student", "abc", 7_u32);
        assert_eq!(kept.take::<u32>("student", "abd"), None, "another file");
        kept.put("student", "abc", 7_u32);
        assert_eq!(kept.take::<u64>("student", "abc"), None, "another type");
    }
}
