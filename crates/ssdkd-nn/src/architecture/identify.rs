//! Identifies a network from the names and shapes of all its tensors.

use ssdkd_graph::read::EXPORT_HINT;

use super::describe::{Shapes, describe, unknown};
use super::{Architecture, Backbone, Names, Shortcut, Stem, Task, VggHead, ZooArchitecture};
use crate::zoo::v2_channels;

/// The scores of a segmentation network.
const PIXEL_HEAD: &str = "score.weight";

/// Names of the first convolution.
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
/// If the tensors are of no supported architecture, or of two that only their code tells apart. The error says in words what network
/// they look like, and what to do.
pub fn identify(shapes: &Shapes) -> Result<Identity, String> {
    check_filled(shapes)?;
    let description = || describe(shapes).map(|description| not_supported(&description));
    let Some(zoo) = candidate(shapes) else {
        return Err(description().unwrap_or_else(|| unknown(shapes)));
    };
    let near = |difference: &str| {
        format!(
            "its tensors are close to those of a {zoo}, but do not fit: {difference}\n\
             hint: if the network is unchanged, save its whole state_dict\n{EXPORT_HINT}"
        )
    };
    let identity = match identity_as(zoo, shapes) {
        Ok(identity) => identity,
        Err(missing) => return Err(description().unwrap_or_else(|| near(&format!("{missing} is missing")))),
    };
    match (difference(&identity, shapes), open_question(zoo.backbone)) {
        (None, None) => Ok(identity),
        (None, Some(question)) => Err(format!(
            "it has the tensors of a {zoo}, but they do not say {question}\n\
             hint: if it computes the same as that of {}, import it with --architecture {}\n{EXPORT_HINT}",
            published(zoo.backbone),
            quoted(zoo)
        )),
        (Some(difference), _) => Err(description().unwrap_or_else(|| near(&difference))),
    }
}

/// Returns the name as a shell takes it: `*` stands for file names there.
fn quoted(architecture: ZooArchitecture) -> String {
    let name = architecture.to_string();
    if name.contains('*') { format!("'{name}'") } else { name }
}

fn not_supported(description: &str) -> String {
    format!("it is {description}; this program cannot build it from its tensors alone\n{EXPORT_HINT}")
}

/// Returns what a `state_dict` leaves open, so that a person has to name the architecture.
fn open_question(backbone: Backbone) -> Option<&'static str> {
    match backbone {
        Backbone::ResNet { depth: 50.., .. } => Some(
            "which convolution of a block halves the resolution: the 3×3 (in torchvision, timm and most public code) or the first 1×1 (in the \
             paper and in Caffe)",
        ),
        Backbone::MobileNetV2 { .. } => {
            Some("the epsilon of the batch norms (1e-5 in torchvision, 1e-3 in TensorFlow) and the padding")
        }
        Backbone::MobileNetV3Small => {
            Some("the epsilon of the batch norms (1e-3 in torchvision and TensorFlow, 1e-5 in timm) and the padding")
        }
        Backbone::DeepLabV3 { .. } => Some("where the strides are, and how far the convolutions are dilated"),
        _ => None,
    }
}

/// Whose network an architecture with an open question is.
fn published(backbone: Backbone) -> &'static str {
    match backbone {
        Backbone::ResNet { stem: Stem::Cifar, .. } => "kuangliu/pytorch-cifar",
        _ => "torchvision",
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
    identity_as(architecture, shapes).map_err(|missing| {
        let what = describe(shapes).map(|what| format!("; they look like those of {what}")).unwrap_or_default();
        format!(
            "its tensors are not those of a {architecture}: {missing} is missing{what}\n\
             hint: leave --architecture out to have the network identified"
        )
    })
}

/// Returns what an `architecture` with these tensors is. The error says which end of the network is missing.
fn identity_as(architecture: ZooArchitecture, shapes: &Shapes) -> Result<Identity, String> {
    let names = names(architecture, shapes);
    let head = head(architecture, &names);
    let side = |shape: Option<&Vec<usize>>, at: usize, least: usize| {
        shape.filter(|shape| shape.len() >= least).and_then(|shape| shape.get(at)).copied()
    };
    // The scores of pixels are a 1×1 convolution, and have four sides.
    let Some(classes) = side(shapes.get(&head), 0, 2) else { return Err(format!("the last layer {head}")) };
    let stem = STEMS.iter().find_map(|name| shapes.get(*name));
    let Some(channels) = side(stem, 1, 4) else { return Err("the first convolution".into()) };
    Ok(Identity { architecture: Architecture::Zoo { architecture, names }, classes, channels })
}

/// Returns the weight of the last layer.
fn head(architecture: ZooArchitecture, names: &Names) -> String {
    match architecture.backbone {
        Backbone::DeepLabV3 { .. } => "classifier.4.weight".into(),
        _ if architecture.task == Task::Pixels => PIXEL_HEAD.into(),
        Backbone::Vgg11 | Backbone::Vgg { head: VggHead::Linear, .. } => "classifier.weight".into(),
        Backbone::Vgg { .. } => "classifier.6.weight".into(),
        Backbone::MobileNetV2 { .. } => "classifier.1.weight".into(),
        Backbone::MobileNetV3Small => "classifier.3.weight".into(),
        Backbone::Wrn { .. } => "fc.weight".into(),
        Backbone::CifarResNet { .. } | Backbone::ResNet { .. } | Backbone::WideCifarResNet { .. } => {
            format!("{}.weight", names.head)
        }
    }
}

fn check_filled(shapes: &Shapes) -> Result<(), String> {
    match shapes.iter().find(|(_, shape)| shape.contains(&0)) {
        Some((name, shape)) => {
            Err(format!("the tensor {name} holds no numbers (shape {shape:?}): no network has such a tensor"))
        }
        None => Ok(()),
    }
}

/// Returns the one architecture that these tensors can be of, by the few that tell architectures apart.
fn candidate(shapes: &Shapes) -> Option<ZooArchitecture> {
    let backbone = backbone(shapes)?;
    let is_pixels = shapes.contains_key(PIXEL_HEAD) || matches!(backbone, Backbone::DeepLabV3 { .. });
    let task = if is_pixels { Task::Pixels } else { Task::Images };
    // Only what has a name can be built.
    ZooArchitecture { backbone, task }.to_string().parse().ok()
}

fn backbone(shapes: &Shapes) -> Option<Backbone> {
    let has = |name: &str| shapes.contains_key(name);
    if has("block0.0.weight") {
        return Some(Backbone::Vgg11);
    }
    if let Some(&[outputs, ..]) = shapes.get("block1.layer.0.conv1.weight").map(Vec::as_slice) {
        let depth = 6 * count(shapes, "block1.layer") + 4;
        return Some(Backbone::Wrn { depth, width: outputs / 16 });
    }
    if has("classifier.0.convs.0.0.weight") && has("backbone.layer1.0.conv3.weight") {
        let depth = if count(shapes, "backbone.layer3") > 6 { 101 } else { 50 };
        return Some(Backbone::DeepLabV3 { depth });
    }
    residual(shapes).or_else(|| vgg(shapes)).or_else(|| mobilenet(shapes))
}

/// Blocks of a group.
fn count(shapes: &Shapes, group: &str) -> usize {
    (0..shapes.len()).take_while(|index| shapes.contains_key(&format!("{group}.{index}.conv1.weight"))).count()
}

fn residual(shapes: &Shapes) -> Option<Backbone> {
    let shape = |name: &str| shapes.get(name).map(Vec::as_slice);
    let stem = if matches!(shape("conv1.weight"), Some([.., 7, 7])) { Stem::ImageNet } else { Stem::Cifar };
    let is_bottleneck = shape("layer1.0.conv3.weight").is_some();
    Some(match ["layer1", "layer2", "layer3", "layer4"].map(|group| count(shapes, group)) {
        [2, 2, 2, 2] if !is_bottleneck => Backbone::ResNet { depth: 18, stem },
        [3, 4, 6, 3] if is_bottleneck => Backbone::ResNet { depth: 50, stem },
        [3, 4, 6, 3] => Backbone::ResNet { depth: 34, stem },
        [3, 4, 23, 3] if is_bottleneck => Backbone::ResNet { depth: 101, stem },
        [count, _, _, 0]
            if count > 0 && shape("layer1.0.conv1.weight").is_some_and(|shape| shape.first() == Some(&64)) =>
        {
            Backbone::WideCifarResNet { depth: 6 * count + 2 }
        }
        [count, _, _, 0] if count > 0 => {
            let is_convolution = |name: &str| has_module(shapes, &format!("layer2.0.{name}"));
            let shortcut = if ["shortcut", "downsample"].into_iter().any(is_convolution) {
                Shortcut::Convolution
            } else {
                Shortcut::Pad
            };
            Backbone::CifarResNet { depth: 6 * count + 2, shortcut }
        }
        _ => return None,
    })
}

fn has_module(shapes: &Shapes, module: &str) -> bool {
    shapes.contains_key(&format!("{module}.0.weight"))
}

/// Returns a VGG network with batch norm, whose `features` have the entries of torchvision's.
fn vgg(shapes: &Shapes) -> Option<Backbone> {
    let is_convolution = |place: &usize| shapes.get(&format!("features.{place}.weight")).is_some_and(|w| w.len() == 4);
    // Convolution, norm and activation are three entries, a pooling is one: 11 layers are the convolutions and three linear layers.
    let convolutions = (0..shapes.len()).filter(is_convolution).count();
    let is_norm = shapes.get("features.1.running_mean").is_some();
    let head = if shapes.contains_key("classifier.weight") {
        VggHead::Linear
    } else if shapes.get("classifier.0.weight").is_some_and(|weight| weight.get(1) == Some(&512)) {
        VggHead::Mlp
    } else {
        VggHead::ImageNet
    };
    (is_norm && convolutions > 0).then_some(Backbone::Vgg { depth: convolutions + 3, head })
}

/// Percentages that are tried first, where several make the same channels.
const USUAL_PERCENTAGES: [usize; 6] = [100, 50, 75, 35, 140, 25];

fn mobilenet(shapes: &Shapes) -> Option<Backbone> {
    let outputs = |name: String| shapes.get(&name).and_then(|shape| shape.first()).copied();
    if shapes.get("features.12.0.weight").is_some_and(|shape| shape[..] == [576, 96, 1, 1]) {
        return Some(Backbone::MobileNetV3Small);
    }
    // The last convolution of the first block of each kind.
    let blocks = [1, 2, 4, 7, 11, 14, 17]
        .map(|place| format!("features.{place}.conv.{}.weight", if place == 1 { 1 } else { 2 }));
    let found = std::iter::once("features.0.0.weight".into()).chain(blocks).map(outputs).collect::<Option<Vec<_>>>()?;
    let percent = USUAL_PERCENTAGES.into_iter().chain(5..=400).find(|percent| v2_channels(*percent)[..] == found[..]);
    // A width that no factor makes is described by the tensor that differs from the usual one.
    Some(Backbone::MobileNetV2 { percent: percent.unwrap_or(100) })
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

/// Returns how the tensors of a residual network are named; the usual names for the others.
fn names(architecture: ZooArchitecture, shapes: &Shapes) -> Names {
    let usual = Architecture::from(architecture).names();
    if matches!(
        architecture.backbone,
        Backbone::Vgg { .. } | Backbone::MobileNetV2 { .. } | Backbone::MobileNetV3Small | Backbone::DeepLabV3 { .. }
    ) {
        return usual;
    }
    let has = |wanted: &str| shapes.keys().any(|name| name.split('.').any(|part| part == wanted));
    let pick = |usual: String, both: [&str; 2]| {
        let other = both.into_iter().find(|name| *name != usual && has(name) && !has(&usual));
        other.map_or(usual, Into::into)
    };
    Names { head: pick(usual.head, ["linear", "fc"]), shortcut: pick(usual.shortcut, ["shortcut", "downsample"]) }
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
                let shapes = shapes_of(architecture, names, 7, 1);
                let zoo = architecture.parse::<ZooArchitecture>().unwrap();
                let found = match open_question(zoo.backbone) {
                    None => identify(&shapes).unwrap(),
                    Some(question) => {
                        let error = identify(&shapes).unwrap_err();
                        let flag = format!("--architecture {}\n", quoted(zoo));
                        assert!([question, &flag, EXPORT_HINT].into_iter().all(|part| error.contains(part)), "{error}");
                        identify_as(zoo, &shapes).unwrap()
                    }
                };
                assert_eq!(
                    (found.architecture.to_string().as_str(), found.classes, found.channels),
                    (architecture, 7, 1)
                );
            }
        }
    }

    #[test]
    fn networks_whose_tensors_say_all_need_no_name() {
        for name in ["torchvision/resnet18", "torchvision/resnet34", "torchvision/vgg16_bn", "vgg11_bn", "vgg16_bn-mlp"]
        {
            let found = identify(&shapes_of(name, &Names::torchvision(), 7, 3)).unwrap();
            assert_eq!(found.architecture, Architecture::from(name.parse::<ZooArchitecture>().unwrap()));
        }
        for name in
            ["torchvision/resnet50", "resnet50", "torchvision/mobilenet_v2*0.5", "torchvision/deeplabv3_resnet50"]
        {
            assert!(identify(&shapes_of(name, &Names::torchvision(), 7, 3)).is_err(), "{name}");
        }
    }

    #[test]
    fn widths_of_mobilenet_v2_that_nobody_names_are_known() {
        for name in ["torchvision/mobilenet_v2*0.35", "torchvision/mobilenet_v2*1.4", "torchvision/mobilenet_v2*0.63"] {
            let shapes = shapes_of(name, &Names::default(), 10, 3);
            let found = candidate(&shapes).unwrap();
            let identity = identify_as(found, &shapes).unwrap();
            assert_eq!(difference(&identity, &shapes), None, "{name} was taken for {found}");
        }
    }

    #[test]
    fn a_vgg_network_with_another_head_is_refused_by_that_head() {
        let mut shapes = shapes_of("torchvision/vgg11_bn", &Names::default(), 10, 3);
        shapes.insert("classifier.0.weight".into(), vec![1024, 25088]);
        let error = identify(&shapes).unwrap_err();
        assert!(error.contains("close to those of a torchvision/vgg11_bn"), "{error}");
        assert!(error.contains("classifier.0.weight has the shape [1024, 25088], not [4096, 25088]"), "{error}");
        assert!(error.ends_with(EXPORT_HINT), "{error}");
    }

    #[test]
    fn a_name_of_another_network_is_refused_by_what_is_missing() {
        let shapes = shapes_of("resnet20", &Names::default(), 10, 3);
        let error = identify_as("torchvision/mobilenet_v2".parse().unwrap(), &shapes).unwrap_err();
        assert!(
            error.contains("not those of a torchvision/mobilenet_v2: the last layer classifier.1.weight is missing"),
            "{error}"
        );
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
        check_near(|shapes| drop(shapes.remove("linear.weight")), "the last layer linear.weight is missing");
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
