//! Says in words what network some tensors are of, where this program cannot run it.
//!
//! A network that is not supported must not be called by the name of one that is.

use std::collections::BTreeMap;

use ssdkd_graph::read::EXPORT_HINT;

use super::zoo::{CIFAR_DEPTHS, WIDE_DEPTHS};

/// Names and shapes of the tensors of a `state_dict`.
pub(super) type Shapes = BTreeMap<String, Vec<usize>>;

/// Things that a list in an error has.
const LISTED: usize = 5;

/// Returns the first few, with commas between them.
fn listed(mut items: impl Iterator<Item = String>) -> String {
    let mut first = items.by_ref().take(LISTED).collect::<Vec<_>>();
    first.extend(items.next().map(|_| "…".into()));
    first.join(", ")
}

/// Says what the tensors of an unknown network are called.
pub(super) fn unknown(shapes: &Shapes) -> String {
    let first = listed(shapes.keys().cloned());
    format!("no known network has these {} tensors ({first})\n{EXPORT_HINT}", shapes.len())
}

/// Describes a network that is not supported, as in "it is …". `None` for a supported one, and where nothing is known.
pub(super) fn describe(shapes: &Shapes) -> Option<String> {
    by_a_word(shapes)
        .or_else(|| depthwise(shapes))
        .or_else(|| residual(shapes))
        .or_else(|| wide(shapes))
        .or_else(|| vgg(shapes))
}

/// Words in tensor names that give a family away.
const WORDS: [(&str, &str); 9] = [
    ("pos_embed", "a vision transformer"),
    ("cls_token", "a vision transformer"),
    ("relative_position_bias_table", "a Swin transformer"),
    ("self_attn", "a transformer"),
    ("attention", "a network with attention"),
    ("denseblock1", "a DenseNet"),
    ("squeeze", "a SqueezeNet"),
    ("Mixed_5b", "an Inception network"),
    ("inception3a", "a GoogLeNet"),
];

fn by_a_word(shapes: &Shapes) -> Option<String> {
    let has = |word: &str| shapes.keys().any(|name| name.split('.').any(|part| part == word));
    WORDS.iter().find(|(word, _)| has(word)).map(|(_, what)| (*what).to_string())
}

/// MobileNets, EfficientNets, ConvNeXts. `None` for the MobileNets of torchvision that are supported: some tensor is wrong then.
fn depthwise(shapes: &Shapes) -> Option<String> {
    if shapes.contains_key("features.17.conv.2.weight") || shapes.contains_key("features.12.0.weight") {
        return None;
    }
    let is_depthwise = |shape: &&Vec<usize>| matches!(shape[..], [outputs, 1, height, _] if outputs > 1 && height > 1);
    // The first convolution of a network for gray images has one input channel, too.
    let count = shapes.values().filter(is_depthwise).count();
    (count > 1)
        .then(|| format!("a network with {count} depthwise convolutions, as MobileNet and EfficientNet have them"))
}

/// A residual network whose blocks are named `layer1.0` and so on.
struct Residual {
    /// Blocks of each group.
    blocks: Vec<usize>,
    /// Output channels of each group.
    channels: Vec<usize>,
    /// Kernel and channels of the first convolution.
    stem: Option<(usize, usize)>,
    /// Three convolutions in a block, the first of them 1×1.
    bottleneck: bool,
    /// Batch norm before each convolution.
    pre_activation: bool,
    /// Where it differs from a supported network in more than names.
    remark: &'static str,
    /// Channels of the convolutions within the blocks of each group, where they are bottlenecks.
    inner: Vec<usize>,
    /// The 3×3 convolutions are grouped.
    grouped: bool,
    /// Modules of a block that an ordinary one does not have.
    others: Vec<String>,
}

/// A wide residual network that is another function than a supported one.
const MELIKETOY: &str =
    ", as in meliketoy/wide-resnet.pytorch: its shortcuts start before batch norm, those of a supported WRN behind it";

fn residual(shapes: &Shapes) -> Option<String> {
    let network = Residual::read(shapes)?;
    (!network.is_supported()).then(|| network.describe())
}

impl Residual {
    fn read(shapes: &Shapes) -> Option<Self> {
        let shape = |name: String| shapes.get(&name).map(Vec::as_slice);
        let count = |group: usize| {
            (0..shapes.len()).take_while(|index| shape(format!("layer{group}.{index}.conv1.weight")).is_some()).count()
        };
        let blocks = (1..=shapes.len()).map(count).take_while(|&blocks| blocks > 0).collect::<Vec<_>>();
        if blocks.is_empty() {
            return None;
        }
        let inner =
            |group: usize| shape(format!("layer{group}.0.conv1.weight")).and_then(|shape| shape.first().copied());
        let last = |group: usize| ["conv3", "conv2", "conv1"].map(|conv| format!("layer{group}.0.{conv}.weight"));
        let outputs = |group| last(group).into_iter().find_map(shape).and_then(|shape| shape.first().copied());
        let first = shape("layer1.0.conv1.weight".into())?;
        // Where a group begins, the input of its first convolution has another width than the output.
        let begins = |group: &usize| match shape(format!("layer{group}.0.conv1.weight")) {
            Some(&[outputs, inputs, ..]) => outputs != inputs,
            _ => false,
        };
        let changed = (1..=blocks.len()).find(begins);
        let norm_of_inputs = changed.is_some_and(|group| {
            let inputs = shape(format!("layer{group}.0.conv1.weight")).and_then(|shape| shape.get(1));
            shape(format!("layer{group}.0.bn1.weight")).and_then(|shape| shape.first()) == inputs
        });
        let ordinary = ["conv1", "conv2", "conv3", "bn1", "bn2", "bn3", "shortcut", "downsample"];
        let mut others = Vec::<String>::new();
        for name in shapes.keys() {
            let mut parts = name.split('.');
            if parts.next().is_some_and(|part| part.starts_with("layer"))
                && let Some(module) = parts.nth(1)
                && !ordinary.contains(&module)
                && !others.iter().any(|other| other == module)
            {
                others.push(module.into());
            }
        }
        Some(Self {
            channels: (1..=blocks.len()).filter_map(outputs).collect(),
            inner: (1..=blocks.len()).filter_map(inner).collect(),
            stem: shape("conv1.weight".into())
                .and_then(|shape| if let [outputs, _, kernel, _] = *shape { Some((kernel, outputs)) } else { None }),
            bottleneck: shape("layer1.0.conv3.weight".into()).is_some() && first.last() == Some(&1),
            pre_activation: norm_of_inputs,
            grouped: matches!(
                (first, shape("layer1.0.conv2.weight".into())),
                (&[width, ..], Some(&[_, inputs, ..])) if inputs < width
            ),
            remark: if norm_of_inputs && blocks.len() == 3 && shape("layer1.0.conv1.bias".into()).is_some() {
                MELIKETOY
            } else {
                ""
            },
            others,
            blocks,
        })
    }

    /// Returns whether these are the shapes of a supported network: some other tensor is wrong then.
    fn is_supported(&self) -> bool {
        let plain = !self.pre_activation && !self.grouped && self.others.is_empty();
        let widths = if self.bottleneck { &self.inner } else { &self.channels };
        let depth_of = |blocks: &[usize]| match *blocks {
            [first, second, third] if first == second && second == third => 6 * first + 2,
            _ => 0,
        };
        let shaped = match (&widths[..], &self.blocks[..]) {
            ([64, 128, 256, 512], blocks) => {
                let known: &[_] =
                    if self.bottleneck { &[[3, 4, 6, 3], [3, 4, 23, 3]] } else { &[[2, 2, 2, 2], [3, 4, 6, 3]] };
                known.iter().any(|known| known == blocks) && matches!(self.stem, Some((3 | 7, 64)))
            }
            _ if self.bottleneck => false,
            ([16, 32, 64], blocks) => CIFAR_DEPTHS.contains(&depth_of(blocks)) && self.stem == Some((3, 16)),
            ([64, 128, 256], blocks) => WIDE_DEPTHS.contains(&depth_of(blocks)) && self.stem == Some((3, 32)),
            _ => false,
        };
        plain && shaped
    }

    fn describe(&self) -> String {
        let list = |numbers: &[usize]| listed(numbers.iter().map(usize::to_string));
        let (before, kind) = match (self.pre_activation, self.bottleneck) {
            (true, true) => ("pre-activation ", "bottleneck "),
            (true, false) => ("pre-activation ", ""),
            (false, true) => ("", "bottleneck "),
            (false, false) => ("", ""),
        };
        let name = self.usual_name().map(|name| format!(" ({name})")).unwrap_or_default();
        let channels = match &self.channels[..] {
            [] => String::new(),
            _ if self.bottleneck && [16, 64].map(|first| self.inner.first() == Some(&first)).contains(&true) => {
                String::new()
            }
            _ if self.bottleneck => format!(", {} channels within blocks", list(&self.inner)),
            channels => format!(", {} channels", list(channels)),
        };
        let stem = match self.stem {
            Some((7, _)) => "an ImageNet stem (7×7)".into(),
            Some((3, channels)) => format!("a CIFAR stem (3×3, {channels} channels)"),
            Some((kernel, _)) => format!("a stem of {kernel}×{kernel}"),
            None => "an unknown stem".into(),
        };
        let grouped = if self.grouped { ", with grouped convolutions as in ResNeXt" } else { "" };
        let others = match listed(self.others.iter().cloned()) {
            none if none.is_empty() => none,
            others => format!(", with {others} in its blocks"),
        };
        let blocks = list(&self.blocks);
        format!(
            "a {before}{kind}residual network with groups of {blocks} blocks{name}{channels} and {stem}{grouped}{others}{}",
            self.remark
        )
    }

    /// Returns what papers call it.
    fn usual_name(&self) -> Option<String> {
        if self.grouped {
            return None;
        }
        let depth = match (self.bottleneck, &self.blocks[..]) {
            (false, [1, 1, 1, 1]) => 10,
            (false, [2, 2, 2, 2]) => 18,
            (false, [3, 4, 6, 3]) => 34,
            (true, [3, 4, 6, 3]) => 50,
            (true, [3, 4, 23, 3]) => 101,
            (true, [3, 8, 36, 3]) => 152,
            (true, &[first, second, third]) if first == second && second == third => 9 * first + 2,
            _ => return None,
        };
        Some(format!("ResNet-{depth}"))
    }
}

/// Returns a wide residual network of another width.
fn wide(shapes: &Shapes) -> Option<String> {
    let outputs = |group: usize| shapes.get(&format!("block{group}.layer.0.conv1.weight"))?.first().copied();
    let channels = (1..=shapes.len()).map_while(outputs).collect::<Vec<_>>();
    let &first = channels.first()?;
    let doubles = channels.iter().eq([first, 2 * first, 4 * first].iter());
    if doubles && first % 16 == 0 && (1..=20).contains(&(first / 16)) {
        return None;
    }
    let channels = listed(channels.iter().map(usize::to_string));
    Some(format!(
        "a wide residual network with groups of {channels} channels; supported are 16, 32 and 64 times a whole number"
    ))
}

/// Returns a VGG of another depth, or without batch norm.
fn vgg(shapes: &Shapes) -> Option<String> {
    let named = |start: &str| {
        let of_convolution = |(name, shape): (&String, &Vec<usize>)| match name.split('.').collect::<Vec<_>>()[..] {
            [group, place, "weight"] if group.starts_with(start) && place.parse::<usize>().is_ok() => {
                Some(shape.clone()).filter(|shape| shape.len() == 4)
            }
            _ => None,
        };
        shapes.iter().filter_map(of_convolution).collect::<Vec<_>>()
    };
    let (blocks, features) = (named("block"), named("features"));
    let convolutions = if blocks.is_empty() { &features } else { &blocks };
    if convolutions.is_empty() || !convolutions.iter().all(|shape| shape[2..] == [3, 3]) {
        return None;
    }
    let has_norms = shapes.keys().any(|name| name.ends_with(".running_mean"));
    let usual = match (convolutions.len(), blocks.is_empty()) {
        (8, false) | (8 | 10 | 13 | 16, true) if has_norms => return None,
        (8, _) => " (VGG-11)",
        (10, _) => " (VGG-13)",
        (13, _) => " (VGG-16)",
        (16, _) => " (VGG-19)",
        _ => "",
    };
    let norms = if has_norms { "" } else { " and no batch norm" };
    let layout = if blocks.is_empty() { "" } else { ", named `block0` and so on" };
    Some(format!("a VGG network with {} convolutions{usual}{norms}{layout}", convolutions.len()))
}

#[cfg(test)]
mod tests {
    use super::super::identify;
    use super::*;

    /// Tensors of a residual network in torchvision's names.
    fn residual_network(blocks: &[usize], widths: &[usize], bottleneck: bool, stem: usize) -> Shapes {
        let mut shapes = Shapes::from([("conv1.weight".into(), vec![widths[0], 3, stem, stem])]);
        let expansion = if bottleneck { 4 } else { 1 };
        let mut inputs = widths[0];
        for (group, (&count, &width)) in blocks.iter().zip(widths).enumerate() {
            for index in 0..count {
                let mut conv = |name: &str, outputs: usize, inputs: usize, kernel: usize| {
                    let place = format!("layer{}.{index}.", group + 1);
                    shapes.insert(format!("{place}conv{name}.weight"), vec![outputs, inputs, kernel, kernel]);
                    shapes.insert(format!("{place}bn{name}.weight"), vec![outputs]);
                };
                if bottleneck {
                    conv("1", width, inputs, 1);
                    conv("2", width, width, 3);
                    conv("3", 4 * width, width, 1);
                } else {
                    conv("1", width, inputs, 3);
                    conv("2", width, width, 3);
                }
                inputs = expansion * width;
            }
        }
        shapes.insert("fc.weight".into(), vec![10, inputs]);
        shapes
    }

    #[track_caller]
    fn check(shapes: &Shapes, description: &str) {
        let error = identify(shapes).unwrap_err();
        assert!(error.starts_with(&format!("it is {description}")), "{error}");
        assert!(error.contains(&format!("cannot build it from its tensors alone\n{EXPORT_HINT}")), "{error}");
    }

    #[test]
    fn other_residual_networks_are_described() {
        let widths = [64, 128, 256, 512];
        check(
            &residual_network(&[3, 8, 36, 3], &widths, true, 7),
            "a bottleneck residual network with groups of 3, 8, 36, 3 blocks (ResNet-152) and an ImageNet stem (7×7)",
        );
        check(
            &residual_network(&[18, 18, 18], &[16, 32, 64], true, 3),
            "a bottleneck residual network with groups of 18, 18, 18 blocks (ResNet-164) and a CIFAR stem (3×3, 16 channels)",
        );
        check(
            &residual_network(&[1, 1, 1, 1], &widths, false, 7),
            "a residual network with groups of 1, 1, 1, 1 blocks (ResNet-10), 64, 128, 256, 512 channels and an ImageNet stem",
        );
        check(
            &residual_network(&[3, 4, 6, 3], &[128, 256, 512, 1024], true, 7),
            "a bottleneck residual network with groups of 3, 4, 6, 3 blocks (ResNet-50), 128, 256, 512, 1024 channels within blocks",
        );
        check(
            &residual_network(&[5, 5, 5], &[64, 128, 256], false, 3),
            "a residual network with groups of 5, 5, 5 blocks, 64, 128, 256 channels and a CIFAR stem (3×3, 64 channels)",
        );
    }

    /// These lack tensors, but they are of networks that are known.
    #[test]
    fn a_supported_network_is_not_called_unsupported() {
        let widths = [64, 128, 256, 512];
        for (shapes, name) in [
            (residual_network(&[2, 2, 2, 2], &widths, false, 7), "torchvision/resnet18"),
            (residual_network(&[3, 4, 6, 3], &widths, false, 3), "resnet34"),
            (residual_network(&[3, 4, 6, 3], &widths, true, 7), "torchvision/resnet50"),
            (residual_network(&[3, 4, 23, 3], &widths, true, 3), "resnet101"),
        ] {
            let error = identify(&shapes).unwrap_err();
            assert!(error.starts_with(&format!("its tensors are close to those of a {name}, but")), "{error}");
        }
    }

    #[test]
    fn a_pre_activation_network_is_no_resnet() {
        let mut shapes = residual_network(&[4, 4, 4], &[160, 320, 640], false, 3);
        shapes.insert("conv1.weight".into(), vec![16, 3, 3, 3]);
        shapes.insert("layer1.0.conv1.weight".into(), vec![160, 16, 3, 3]);
        for (name, inputs) in [("layer1.0.bn1.weight", 16), ("layer2.0.bn1.weight", 160), ("layer3.0.bn1.weight", 320)]
        {
            shapes.insert(name.into(), vec![inputs]);
        }
        check(&shapes, "a pre-activation residual network with groups of 4, 4, 4 blocks");
        shapes.insert("layer1.0.conv1.bias".into(), vec![160]);
        assert!(identify(&shapes).unwrap_err().contains("its shortcuts start before batch norm"));
    }

    /// Returns a network of convolutions of these names, each with a batch norm of the name that follows.
    fn convolutions(names: &[(String, String)], inputs: usize) -> Shapes {
        let tensors = |(conv, norm): &(String, String)| {
            [(format!("{conv}.weight"), vec![64, inputs, 3, 3]), (format!("{norm}.running_mean"), vec![64])]
        };
        let mut shapes = names.iter().flat_map(tensors).collect::<Shapes>();
        shapes.insert("classifier.weight".into(), vec![10, 64]);
        shapes
    }

    #[test]
    fn other_families_are_described() {
        let places = |counts: &[usize]| {
            let of = |(block, &count): (usize, &usize)| {
                (0..count).map(move |layer| {
                    (format!("block{block}.{}", 3 * layer), format!("block{block}.{}", 3 * layer + 1))
                })
            };
            counts.iter().enumerate().flat_map(of).collect::<Vec<_>>()
        };
        check(&convolutions(&places(&[2, 2, 2, 2, 2]), 64), "a VGG network with 10 convolutions (VGG-13)");
        check(&convolutions(&places(&[2, 2, 4, 4, 4]), 64), "a VGG network with 16 convolutions (VGG-19)");
        let features = |count: usize| {
            (0..count)
                .map(|layer| (format!("features.{}", 4 * layer), format!("features.{}", 4 * layer + 1)))
                .collect::<Vec<_>>()
        };
        check(&convolutions(&features(7), 64), "a VGG network with 7 convolutions;");
        let mut bare = convolutions(&features(8), 64);
        bare.retain(|name, _| !name.ends_with("running_mean"));
        check(&bare, "a VGG network with 8 convolutions (VGG-11) and no batch norm");
        check(&convolutions(&features(8), 1), "a network with 8 depthwise convolutions");
        let transformer = Shapes::from([("pos_embed".into(), vec![1, 65, 192]), ("head.weight".into(), vec![10, 192])]);
        check(&transformer, "a vision transformer");
    }
}
