//! Identifies a network from the names and shapes of all its tensors.

use std::collections::BTreeMap;

use super::describe::{describe, unknown};
use super::{Architecture, Backbone, KNOWN, Names, Shortcut, Stem, Task, ZooArchitecture};

/// Names and shapes of the tensors of a `state_dict`.
pub(super) type Shapes = BTreeMap<String, Vec<usize>>;

/// The scores of a segmentation network.
const PIXEL_HEAD: &str = "score.weight";

/// Names of a head, and of the first convolution.
const HEADS: [&str; 8] = [
    "linear.weight",
    "fc.weight",
    "classifier.weight",
    PIXEL_HEAD,
    "classifier.1.weight",
    "classifier.3.weight",
    "classifier.6.weight",
    "classifier.4.weight",
];
const STEMS: [&str; 5] =
    ["conv1.weight", "block0.0.weight", "features.0.0.weight", "features.0.weight", "backbone.conv1.weight"];

/// What the tensors of a `state_dict` say about their network.
#[derive(Debug, Clone, PartialEq)]
pub struct Identity {
    /// The architecture, with the names of its tensors.
    pub architecture: Architecture,
    /// Number of classes.
    pub classes: usize,
    /// Channels of its input.
    pub channels: usize,
}

/// Identifies a network from the names and shapes of its tensors, in PyTorch's layout.
///
/// Every tensor of the network is there and has its shape, and no tensor is left over. Only a missing `num_batches_tracked` is no
/// error: old files lack these.
///
/// # Errors
/// If the tensors are of no supported architecture. The error says in words what network they look like, and what is supported.
pub fn identify(shapes: &Shapes) -> Result<Identity, String> {
    check_filled(shapes)?;
    let candidate = candidate(shapes);
    let difference = candidate.as_ref().map(|identity| difference(identity, shapes));
    match (candidate, difference) {
        (Some(identity), Some(None)) => Ok(identity),
        (candidate, difference) => Err(match (describe(shapes), candidate, difference.flatten()) {
            (Some(description), ..) => {
                format!("it is {description}; this program cannot run it yet\nhint: supported are {KNOWN}")
            }
            (None, Some(nearest), Some(difference)) => format!(
                "its tensors are close to those of a {}, but do not fit: {difference}\n\
                 hint: save the whole state_dict of an unchanged network; supported are {KNOWN}",
                nearest.architecture
            ),
            _ => unknown(shapes),
        }),
    }
}

/// Returns what else must be known of a network that is said to be an `architecture`: names, classes and channels.
///
/// Whether its tensors are those of the architecture is for [`Network::load`](crate::Network::load) to check.
///
/// # Errors
/// If no head or no first convolution is found.
pub fn identify_as(architecture: ZooArchitecture, shapes: &Shapes) -> Result<Identity, String> {
    check_filled(shapes)?;
    let (classes, channels) = ends_of(architecture, shapes).ok_or_else(|| unknown(shapes))?;
    Ok(Identity { architecture: Architecture::Zoo { architecture, names: names(shapes) }, classes, channels })
}

/// Numbers of classes and of input channels of a network that is said to be an `architecture`.
fn ends_of(architecture: ZooArchitecture, shapes: &Shapes) -> Option<(usize, usize)> {
    let head = match architecture.backbone {
        Backbone::MobileNetV2 { .. } => "classifier.1.weight",
        Backbone::MobileNetV3Small => "classifier.3.weight",
        Backbone::Vgg { .. } => "classifier.6.weight",
        Backbone::DeepLabV3 { .. } => "classifier.4.weight",
        _ => return ends(shapes),
    };
    let &[classes, ..] = shapes.get(head)?.as_slice() else { return None };
    Some((classes, ends(shapes)?.1))
}

fn check_filled(shapes: &Shapes) -> Result<(), String> {
    match shapes.iter().find(|(_, shape)| shape.contains(&0)) {
        Some((name, shape)) => {
            Err(format!("the tensor {name} holds no numbers (shape {shape:?}): no network has such a tensor"))
        }
        None => Ok(()),
    }
}

/// Numbers of classes and of input channels.
fn ends(shapes: &Shapes) -> Option<(usize, usize)> {
    let shape = |name: &&str| shapes.get(*name).map(Vec::as_slice);
    // The scores of pixels are a 1×1 convolution, and have four sides.
    let &[classes, _, ..] = HEADS.iter().find_map(shape)? else { return None };
    let &[_, channels, _, _] = STEMS.iter().find_map(shape)? else { return None };
    Some((classes, channels))
}

/// The one architecture that these tensors can be of, by the few that tell architectures apart.
fn candidate(shapes: &Shapes) -> Option<Identity> {
    let shape = |name: &str| shapes.get(name).map(Vec::as_slice);
    let (classes, channels) = ends(shapes)?;
    let names = names(shapes);
    let count = |group: &str| {
        (0..shapes.len()).take_while(|index| shape(&format!("{group}.{index}.conv1.weight")).is_some()).count()
    };
    let stem = match shape("conv1.weight") {
        Some([.., 7, 7]) => Stem::ImageNet,
        _ => Stem::Cifar,
    };
    let bottleneck = shape("layer1.0.conv3.weight").is_some();
    let backbone = if shape("block0.0.weight").is_some() {
        Backbone::Vgg11
    } else if let Some(&[outputs, ..]) = shape("block1.layer.0.conv1.weight") {
        Backbone::Wrn { depth: 6 * count("block1.layer") + 4, width: outputs / 16 }
    } else {
        match ["layer1", "layer2", "layer3", "layer4"].map(count) {
            [2, 2, 2, 2] => Backbone::ResNet { depth: 18, stem },
            [3, 4, 6, 3] if bottleneck => Backbone::ResNet { depth: 50, stem },
            [3, 4, 6, 3] => Backbone::ResNet { depth: 34, stem },
            [3, 4, 23, 3] => Backbone::ResNet { depth: 101, stem },
            [count, _, _, 0] if count > 0 && shape("layer1.0.conv1.weight").is_some_and(|shape| shape[0] == 64) => {
                Backbone::WideCifarResNet { depth: 6 * count + 2 }
            }
            [count, _, _, 0] if count > 0 => {
                let convolutions = shape(&format!("layer2.0.{}.0.weight", names.shortcut)).is_some();
                let shortcut = if convolutions { Shortcut::Convolution } else { Shortcut::Pad };
                Backbone::CifarResNet { depth: 6 * count + 2, shortcut }
            }
            _ => return None,
        }
    };
    let task = if shape(PIXEL_HEAD).is_some() { Task::Pixels } else { Task::Images };
    // Only what has a name can be built.
    let architecture = ZooArchitecture { backbone, task }.to_string().parse().ok()?;
    Some(Identity { architecture: Architecture::Zoo { architecture, names }, classes, channels })
}

/// An image that every network of the zoo takes: its tensors are the same for any other.
const SIDE: usize = 64;

/// Returns the name and shape of every tensor of a network.
fn tensor_shapes(architecture: &Architecture, classes: usize, channels: usize) -> Result<Shapes, String> {
    let blueprint = architecture.blueprint(classes, [channels, SIDE, SIDE]).map_err(|error| error.to_string())?;
    Ok(blueprint.graph.tensors().iter().map(|(name, spec)| (name.clone(), spec.shape.clone())).collect())
}

/// Says which tensor does not fit; `None` if all do.
fn difference(identity: &Identity, shapes: &Shapes) -> Option<String> {
    let Identity { architecture, classes, channels } = identity;
    let expected = match tensor_shapes(architecture, *classes, *channels) {
        Ok(expected) => expected,
        Err(error) => return Some(error),
    };
    for (name, wanted) in &expected {
        match shapes.get(name) {
            Some(found) if found == wanted => {}
            Some(found) => return Some(format!("the tensor {name} has the shape {found:?}, not {wanted:?}")),
            None if name.ends_with("num_batches_tracked") => {}
            None => return Some(format!("the tensor {name} of shape {wanted:?} is missing")),
        }
    }
    let left_over = shapes.iter().find(|(name, _)| !expected.contains_key(*name));
    left_over.map(|(name, shape)| format!("the tensor {name} of shape {shape:?} is left over"))
}

fn names(shapes: &Shapes) -> Names {
    let pick = |default: String, other: &str| {
        let has = |wanted: &str| shapes.keys().any(|name| name.split('.').any(|part| part == wanted));
        if !has(&default) && has(other) { other.to_string() } else { default }
    };
    let Names { head, shortcut } = Names::default();
    Names { head: pick(head, "fc"), shortcut: pick(shortcut, "downsample") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shapes_of(architecture: &str, names: &Names, classes: usize, channels: usize) -> Shapes {
        let architecture = Architecture::Zoo { architecture: architecture.parse().unwrap(), names: names.clone() };
        tensor_shapes(&architecture, classes, channels).unwrap()
    }

    #[test]
    fn every_architecture_is_known_by_its_tensors() {
        let published = Names { head: "fc".into(), shortcut: "downsample".into() };
        for architecture in super::super::zoo::COMMON {
            for names in [&Names::default(), &published] {
                let found = identify(&shapes_of(architecture, names, 7, 1)).unwrap();
                assert_eq!(
                    (found.architecture.to_string().as_str(), found.classes, found.channels),
                    (architecture, 7, 1)
                );
            }
        }
    }

    #[test]
    fn a_file_from_before_batches_were_counted_is_known() {
        let mut shapes = shapes_of("resnet20", &Names::default(), 10, 3);
        shapes.retain(|name, _| !name.ends_with("num_batches_tracked"));
        assert_eq!(identify(&shapes).unwrap().architecture.to_string(), "resnet20");
    }

    #[track_caller]
    fn check_near(change: impl Fn(&mut Shapes), message: &str) {
        let mut shapes = shapes_of("resnet20", &Names::default(), 10, 3);
        change(&mut shapes);
        let error = identify(&shapes).unwrap_err();
        assert!(error.contains("close to those of a resnet20") && error.contains(message), "{error}");
    }

    #[test]
    fn a_network_with_one_wrong_tensor_is_refused_by_that_tensor() {
        check_near(|shapes| drop(shapes.remove("layer3.2.bn2.weight")), "layer3.2.bn2.weight of shape [64] is missing");
        check_near(
            |shapes| drop(shapes.insert("extra.weight".into(), vec![5])),
            "extra.weight of shape [5] is left over",
        );
        check_near(|shapes| drop(shapes.insert("layer1.1.bn1.bias".into(), vec![9])), "[9], not [16]");
    }

    #[track_caller]
    fn check_unknown(tensors: &[(&str, &[usize])], message: &str) {
        let shapes = tensors.iter().map(|(name, shape)| ((*name).to_string(), shape.to_vec())).collect();
        let error = identify(&shapes).unwrap_err();
        assert!(error.contains(message) && !error.contains("close to"), "{error}");
    }

    #[test]
    fn strange_tensors_are_no_network() {
        check_unknown(&[], "these 0 tensors");
        check_unknown(&[("conv1.weight", &[]), ("fc.weight", &[10, 64])], "no known network");
        check_unknown(&[("conv1.weight", &[16, 3, 3, 3]), ("fc.weight", &[10])], "conv1.weight, fc.weight");
        check_unknown(&[("conv1.weight", &[16, 3, 3, 3]), ("fc.weight", &[10, 0])], "fc.weight holds no numbers");
        let wide = ("block1.layer.0.conv1.weight", &[8, 16, 3, 3][..]);
        check_unknown(&[("conv1.weight", &[16, 3, 3, 3]), ("fc.weight", &[10, 64]), wide], "8 channels");
    }
}
