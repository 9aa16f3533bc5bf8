//! Names of a network that lost blocks: `layer1.0`, `layer1.5`, `layer1.8` become `layer1.0`, `layer1.1`, `layer1.2`, as in a network that
//! was built with three blocks.

use std::collections::{BTreeMap, BTreeSet};

/// The numbers that follow each prefix in `names`: of `layer1.` the blocks.
fn numbers<'a>(names: impl Iterator<Item = &'a str>) -> BTreeMap<String, BTreeSet<usize>> {
    let mut numbers = BTreeMap::<String, BTreeSet<usize>>::new();
    for name in names {
        for (start, part) in parts(name) {
            if let Some(number) = number(part) {
                numbers.entry(name[..start].into()).or_default().insert(number);
            }
        }
    }
    numbers
}

/// The parts between the dots of a name, and where each starts.
fn parts(name: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut start = 0;
    name.split('.').map(move |part| {
        let here = start;
        start += part.len() + 1;
        (here, part)
    })
}

/// A number that is written as one: not `+1` or `01`.
fn number(part: &str) -> Option<usize> {
    part.parse::<usize>().ok().filter(|number| number.to_string() == part)
}

/// The new names of what is left of a network.
pub(super) struct Renumbering {
    before: BTreeMap<String, BTreeSet<usize>>,
    after: BTreeMap<String, BTreeSet<usize>>,
}

impl Renumbering {
    /// `before` are all names of the whole network, `after` those that are left.
    pub(super) fn new<'a>(before: impl Iterator<Item = &'a str>, after: impl Iterator<Item = &'a str>) -> Self {
        Self { before: numbers(before), after: numbers(after) }
    }

    /// Returns the new name: each number falls by the numbers before it that are gone.
    pub(super) fn name(&self, name: &str) -> String {
        let renumbered = parts(name).map(|(start, part)| {
            let prefix = &name[..start];
            match (number(part), self.before.get(prefix), self.after.get(prefix)) {
                (Some(number), Some(before), Some(after)) => {
                    let gone = before.range(..number).filter(|earlier| !after.contains(earlier)).count();
                    (number - gone).to_string()
                }
                _ => part.into(),
            }
        });
        renumbered.collect::<Vec<_>>().join(".")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_close_the_gaps_and_other_numbers_stay() {
        let before = ["stem.0.w", "stem.3.w", "a.0.c.1", "a.1.c.1", "a.2.c.1", "a.10.c.1", "add_7"];
        let after = ["stem.0.w", "stem.3.w", "a.0.c.1", "a.2.c.1", "a.10.c.1", "add_7"];
        let names = Renumbering::new(before.into_iter(), after.into_iter());
        let renamed = after.map(|name| names.name(name));
        assert_eq!(renamed, ["stem.0.w", "stem.3.w", "a.0.c.1", "a.1.c.1", "a.9.c.1", "add_7"]);
    }
}
