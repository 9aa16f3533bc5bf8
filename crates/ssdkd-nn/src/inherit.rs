//! A shallow network that starts from the blocks of a deep one.
//!
//! Residual networks of one family and width differ in how many blocks each group has. A block refines the stream that
//! it is given, so some of a trained network's blocks are a better start than random weights \[C: DistilBERT, Sanh et
//! al. 2019, starts from every second layer of its teacher\].

use std::collections::BTreeMap;

use candle_core::{Result, bail};

use crate::architecture::Names;
use crate::network::Network;

/// Gives `student` the tensors that `teacher` has at the same places. Of a group's n blocks the k-th is the ⌈k/n · m⌉-th of
/// the teacher's m, but the first, where the shape may change, is the first.
///
/// # Errors
/// If the student is not a [shallower network of the teacher's kind](crate::Architecture::is_shallower_than), or has other
/// classes.
pub fn inherit(student: &Network, teacher: &Network) -> Result<()> {
    let (ours, theirs) = (student.spec(), teacher.spec());
    if !ours.architecture.is_shallower_than(&theirs.architecture) {
        bail!("a {} cannot start from the blocks of a {}", ours.architecture, theirs.architecture);
    }
    let (fresh, sources) = (student.store().to_tensors(), teacher.store().to_tensors());
    let (counts, source_counts) = (block_counts(fresh.keys()), block_counts(sources.keys()));
    let mut tensors = BTreeMap::new();
    for name in fresh.keys() {
        let place = match Block::of(name) {
            Some(Block { group, index: 0, rest }) => format!("{group}0{rest}"),
            Some(Block { group, index, rest }) => {
                let (n, m) = (counts[group], source_counts.get(group).copied().unwrap_or(0));
                format!("{group}{}{rest}", ((index + 1) * m).div_ceil(n).saturating_sub(1))
            }
            None => name.clone(),
        };
        if let Some(source) = sources.get(&renamed(&place, &ours.architecture.names(), &theirs.architecture.names())) {
            tensors.insert(name.clone(), source.clone());
        }
    }
    student.store().load_tensors(tensors)
}

/// Where a tensor of a residual network is: `layer2.` `3` `.conv1.weight`.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Block<'a> {
    group: &'a str,
    index: usize,
    rest: &'a str,
}

impl<'a> Block<'a> {
    /// `None` for what is in no block.
    fn of(name: &'a str) -> Option<Self> {
        let mut start = 0;
        for part in name.split_inclusive('.') {
            let end = start + part.len();
            if let Ok(index) = part.trim_end_matches('.').parse() {
                return Some(Self { group: &name[..start], index, rest: &name[end - 1..] });
            }
            start = end;
        }
        None
    }
}

/// How many blocks each group has.
fn block_counts<'a>(names: impl Iterator<Item = &'a String>) -> BTreeMap<&'a str, usize> {
    let mut counts = BTreeMap::new();
    for Block { group, index, .. } in names.filter_map(|name| Block::of(name)) {
        let count = counts.entry(group).or_insert(0);
        *count = (index + 1).max(*count);
    }
    counts
}

/// The same place as another file names it.
fn renamed(place: &str, from: &Names, to: &Names) -> String {
    let part = |part: &str| match part {
        part if part == from.head => to.head.clone(),
        part if part == from.shortcut => to.shortcut.clone(),
        part => part.to_owned(),
    };
    place.split('.').map(part).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::architecture::Architecture;
    use crate::network::NetworkSpec;

    fn network(architecture: &str, head: &str, seed: u64) -> Network {
        let spec = NetworkSpec {
            architecture: Architecture::Zoo {
                architecture: architecture.parse().unwrap(),
                names: Names { head: head.into(), ..Names::default() },
            },
            classes: 3,
            input: [3, 8, 8],
            mean: vec![0.5; 3],
            std: vec![0.25; 3],
            preprocessing: crate::preprocessing::Preprocessing::default(),
        };
        Network::create(&spec, seed, &Device::Cpu).unwrap()
    }

    fn numbers(network: &Network, name: &str) -> Vec<f32> {
        network.store().to_tensors()[name].flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn a_students_blocks_are_the_teachers_as_deep() {
        let (teacher, student) = (network("resnet56", "fc", 1), network("resnet20", "linear", 2));
        inherit(&student, &teacher).unwrap();
        for (ours, theirs) in [
            ("conv1.weight", "conv1.weight"),
            ("layer1.0.conv1.weight", "layer1.0.conv1.weight"),
            ("layer2.0.conv1.weight", "layer2.0.conv1.weight"),
            ("layer2.1.conv2.weight", "layer2.5.conv2.weight"),
            ("layer3.2.bn1.running_var", "layer3.8.bn1.running_var"),
            ("linear.weight", "fc.weight"),
        ] {
            assert_eq!(numbers(&student, ours), numbers(&teacher, theirs), "{ours}");
        }
        // The numbers are the student's own.
        let before = numbers(&teacher, "conv1.weight");
        for (_, var) in student.store().parameters() {
            var.set(&var.zeros_like().unwrap()).unwrap();
        }
        assert_eq!(numbers(&teacher, "conv1.weight"), before);
    }

    #[test]
    fn any_other_pair_is_refused() {
        for (student, teacher) in
            [("resnet20", "resnet20"), ("resnet20", "resnet8"), ("wrn-16-1", "wrn-40-2"), ("resnet20", "vgg11")]
        {
            let error = inherit(&network(student, "linear", 2), &network(teacher, "linear", 1)).unwrap_err();
            let expected = format!("a {student} cannot start from the blocks of a {teacher}");
            assert!(error.to_string().starts_with(&expected), "{error}");
        }
        inherit(&network("wrn-16-2", "linear", 2), &network("wrn-40-2", "linear", 1)).unwrap();
        inherit(&network("resnet18", "linear", 2), &network("resnet34", "linear", 1)).unwrap();
    }
}
