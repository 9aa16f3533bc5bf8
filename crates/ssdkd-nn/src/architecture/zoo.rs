//! Architectures of the zoo, by name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What a network puts into classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Each image.
    Images,
    /// Each pixel of an image.
    Pixels,
}

/// A network of the zoo, but for the number of classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ZooArchitecture {
    /// What makes the feature maps.
    pub backbone: Backbone,
    /// What it says about them.
    pub task: Task,
}

/// The convolutional part of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backbone {
    /// The CIFAR family: `resnet20`, or `resnet20-conv` with convolutions as shortcuts.
    CifarResNet {
        /// 8, 14, 20, 32, 44, 56 or 110.
        depth: usize,
        /// Where the shape changes.
        shortcut: Shortcut,
    },
    /// `resnet18`, `resnet34`, `resnet50`, `resnet101` with the CIFAR stem; `torchvision/resnet18` and so on with the ImageNet stem.
    ResNet {
        /// 18, 34, 50 or 101.
        depth: usize,
        /// How the network begins.
        stem: Stem,
    },
    /// `resnet8x4`, `resnet32x4`: the networks of `RepDistiller`.
    WideCifarResNet {
        /// 8, 14, 20 or 32.
        depth: usize,
    },
    /// `wrn-16-2`: depth and width.
    Wrn {
        /// 6n + 4.
        depth: usize,
        /// Times 16, 32 and 64 channels.
        width: usize,
    },
    /// `vgg11`, with batch norm, as the public code of CMI has it.
    Vgg11,
    /// `torchvision/vgg11_bn`, `vgg11_bn`, `vgg11_bn-mlp` and so on.
    Vgg {
        /// 11, 13, 16 or 19.
        depth: usize,
        /// The linear layers behind the convolutions.
        head: VggHead,
    },
    /// `torchvision/mobilenet_v2`, or with half of its channels `torchvision/mobilenet_v2*0.5`.
    MobileNetV2 {
        /// Of the channels, in percent.
        percent: usize,
    },
    /// `torchvision/mobilenet_v3_small`.
    MobileNetV3Small,
    /// `torchvision/deeplabv3_resnet50` or `…101`, which labels pixels.
    DeepLabV3 {
        /// 50 or 101.
        depth: usize,
    },
}

/// How a residual network begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stem {
    /// A 3×3 convolution with stride 1.
    Cifar,
    /// A 7×7 convolution with stride 2, and max pooling with stride 2.
    ImageNet,
}

/// The linear layers of a VGG network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VggHead {
    /// Three on 7×7 pixels, with 4096 features between them, as in torchvision.
    ImageNet,
    /// One on the mean of the last map, as in kuangliu/pytorch-cifar.
    Linear,
    /// Three on the mean of the last map, with 512 features between them, as in chenyaofo/pytorch-cifar-models.
    Mlp,
}

/// The shortcut of a residual block whose shape changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortcut {
    /// Every other pixel, and zero channels on both sides.
    Pad,
    /// A 1×1 convolution and a batch norm.
    Convolution,
}

/// How a residual network's file names what the papers leave unnamed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Names {
    /// The last layer: `linear` or `fc`.
    pub head: String,
    /// A convolution as a shortcut: `shortcut` or `downsample`.
    pub shortcut: String,
}

impl Default for Names {
    fn default() -> Self {
        Self { head: "linear".into(), shortcut: "shortcut".into() }
    }
}

impl Names {
    /// Returns torchvision's names.
    pub fn torchvision() -> Self {
        Self { head: "fc".into(), shortcut: "downsample".into() }
    }
}

pub(super) const CIFAR_DEPTHS: [usize; 7] = [8, 14, 20, 32, 44, 56, 110];
const RESNET_DEPTHS: [usize; 4] = [18, 34, 50, 101];
pub(super) const WIDE_DEPTHS: [usize; 4] = [8, 14, 20, 32];

const VGG_DEPTHS: [usize; 4] = [11, 13, 16, 19];

/// What there is, for messages: a line for each family.
pub const KNOWN: &str = "\x20 CIFAR ResNets: resnet8, resnet14, resnet20, resnet32, resnet44, resnet56, resnet110, each also with -conv (resnet20-conv)
  wide CIFAR ResNets: resnet8x4, resnet14x4, resnet20x4, resnet32x4, and wrn-DEPTH-WIDTH (such as wrn-40-2)
  ResNets with a CIFAR stem: resnet18, resnet34, resnet50, resnet101
  ResNets with an ImageNet stem: torchvision/resnet18, torchvision/resnet34, torchvision/resnet50, torchvision/resnet101
  VGG for CIFAR: vgg11 (of CMI), vgg11_bn, vgg13_bn, vgg16_bn, vgg19_bn, the last four also with -mlp (vgg16_bn-mlp)
  VGG for ImageNet: torchvision/vgg11_bn, torchvision/vgg13_bn, torchvision/vgg16_bn, torchvision/vgg19_bn
  MobileNets: torchvision/mobilenet_v2, also at other widths (torchvision/mobilenet_v2*0.5), torchvision/mobilenet_v3_small
  segmentation: torchvision/deeplabv3_resnet50, torchvision/deeplabv3_resnet101, and fpn- before any other name but VGG (fpn-resnet20)";

/// Those that a misspelt name is compared with.
pub(super) const COMMON: [&str; 42] = [
    "resnet8",
    "resnet14",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "resnet110",
    "resnet20-conv",
    "resnet56-conv",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet8x4",
    "resnet32x4",
    "wrn-16-1",
    "wrn-16-2",
    "wrn-40-1",
    "wrn-40-2",
    "vgg11",
    "fpn-resnet20",
    "fpn-resnet56",
    "fpn-wrn-16-1",
    "fpn-wrn-40-2",
    "torchvision/resnet18",
    "torchvision/resnet34",
    "torchvision/resnet50",
    "torchvision/resnet101",
    "torchvision/vgg11_bn",
    "torchvision/vgg13_bn",
    "torchvision/vgg16_bn",
    "vgg11_bn",
    "vgg13_bn",
    "vgg16_bn",
    "vgg19_bn",
    "vgg16_bn-mlp",
    "torchvision/mobilenet_v2",
    "torchvision/mobilenet_v2*0.5",
    "torchvision/mobilenet_v3_small",
    "torchvision/deeplabv3_resnet50",
    "torchvision/deeplabv3_resnet101",
    "fpn-torchvision/resnet18",
];

fn unknown(text: &str) -> String {
    let distance = |name: &&str| strsim::damerau_levenshtein(name, text);
    // A long text is none of them, and to compare it would take time and memory in proportion.
    let near = COMMON.into_iter().filter(|name| text.len() <= name.len() + 3);
    let nearest = near.min_by_key(distance).filter(|name| distance(name) <= 3);
    let question = nearest.map(|name| format!("did you mean {name}? ")).unwrap_or_default();
    format!("there is no architecture {text:?}\nhint: {question}There are\n{KNOWN}")
}

impl ZooArchitecture {
    /// Returns whether it has a name, and can be built.
    pub fn exists(&self) -> bool {
        self.to_string().parse::<Self>().is_ok()
    }
}

impl FromStr for ZooArchitecture {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (is_pyramid, name) = match text.strip_prefix("fpn-") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let backbone = backbone(name, text)?;
        let task = match backbone {
            Backbone::Vgg11 | Backbone::Vgg { .. } | Backbone::DeepLabV3 { .. } if is_pyramid => {
                return Err(unknown(text));
            }
            Backbone::DeepLabV3 { .. } => Task::Pixels,
            _ if is_pyramid => Task::Pixels,
            _ => Task::Images,
        };
        let architecture = Self { backbone, task };
        // One spelling for each: "resnet020" and "wrn-+16-1" are numbers, but not names.
        if architecture.to_string() == text { Ok(architecture) } else { Err(unknown(text)) }
    }
}

/// Returns the network of torchvision called `name`, in the architecture called `text`.
fn torchvision(name: &str, text: &str) -> Result<Backbone, String> {
    let number = |text: &str| text.parse::<usize>().ok();
    let backbone = if let Some(depth) = name.strip_prefix("resnet").and_then(number) {
        Some(Backbone::ResNet { depth, stem: Stem::ImageNet }).filter(|_| RESNET_DEPTHS.contains(&depth))
    } else if let Some(depth) = name.strip_prefix("deeplabv3_resnet").and_then(number) {
        Some(Backbone::DeepLabV3 { depth }).filter(|_| [50, 101].contains(&depth))
    } else if name.starts_with("vgg") {
        vgg(name, VggHead::ImageNet)
    } else if name == "mobilenet_v3_small" {
        Some(Backbone::MobileNetV3Small)
    } else if name == "mobilenet_v2" {
        Some(Backbone::MobileNetV2 { percent: 100 })
    } else if let Some(factor) = name.strip_prefix("mobilenet_v2*").and_then(|factor| factor.parse::<f64>().ok()) {
        let percent = (100.0 * factor).round();
        (5.0..=400.0).contains(&percent).then_some(Backbone::MobileNetV2 { percent: percent as usize })
    } else {
        None
    };
    backbone.ok_or_else(|| unknown(text))
}

/// Returns the VGG network called `name`, such as `vgg11_bn`.
fn vgg(name: &str, head: VggHead) -> Option<Backbone> {
    let depth = name.strip_prefix("vgg")?.strip_suffix("_bn")?.parse().ok()?;
    VGG_DEPTHS.contains(&depth).then_some(Backbone::Vgg { depth, head })
}

/// Returns the backbone called `name`, in the architecture called `text`.
fn backbone(name: &str, text: &str) -> Result<Backbone, String> {
    let unknown = || unknown(text);
    let number = |text: &str| text.parse::<usize>().map_err(|_| unknown());
    if name == "vgg11" {
        return Ok(Backbone::Vgg11);
    }
    if let Some(name) = name.strip_prefix("torchvision/") {
        return torchvision(name, text);
    }
    if name.starts_with("vgg") {
        let network = match name.strip_suffix("-mlp") {
            Some(name) => vgg(name, VggHead::Mlp),
            None => vgg(name, VggHead::Linear),
        };
        return network.ok_or_else(unknown);
    }
    if let Some(rest) = name.strip_prefix("wrn-") {
        let (depth, width) = rest.split_once('-').ok_or_else(unknown)?;
        let (depth, width) = (number(depth)?, number(width)?);
        if !(10..=400).contains(&depth) || depth % 6 != 4 || !(1..=20).contains(&width) {
            return Err(format!(
                "there is no architecture {text:?}: a WRN's depth is 10, 16, 22, 28, 34, 40 and so on, its width 1 to 20\n\
                 hint: such as wrn-16-1 or wrn-40-2"
            ));
        }
        return Ok(Backbone::Wrn { depth, width });
    }
    let rest = name.strip_prefix("resnet").ok_or_else(unknown)?;
    if let Some(depth) = rest.strip_suffix("x4") {
        let depth = number(depth)?;
        return if WIDE_DEPTHS.contains(&depth) { Ok(Backbone::WideCifarResNet { depth }) } else { Err(unknown()) };
    }
    let (depth, shortcut) = match rest.strip_suffix("-conv") {
        Some(depth) => (number(depth)?, Shortcut::Convolution),
        None => (number(rest)?, Shortcut::Pad),
    };
    match depth {
        depth if RESNET_DEPTHS.contains(&depth) && shortcut == Shortcut::Pad => {
            Ok(Backbone::ResNet { depth, stem: Stem::Cifar })
        }
        depth if CIFAR_DEPTHS.contains(&depth) => Ok(Backbone::CifarResNet { depth, shortcut }),
        _ => Err(unknown()),
    }
}

impl fmt::Display for ZooArchitecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_pyramid = self.task == Task::Pixels && !matches!(self.backbone, Backbone::DeepLabV3 { .. });
        if is_pyramid {
            f.write_str("fpn-")?;
        }
        match self.backbone {
            Backbone::CifarResNet { depth, shortcut: Shortcut::Pad }
            | Backbone::ResNet { depth, stem: Stem::Cifar } => {
                write!(f, "resnet{depth}")
            }
            Backbone::CifarResNet { depth, shortcut: Shortcut::Convolution } => write!(f, "resnet{depth}-conv"),
            Backbone::ResNet { depth, stem: Stem::ImageNet } => write!(f, "torchvision/resnet{depth}"),
            Backbone::WideCifarResNet { depth } => write!(f, "resnet{depth}x4"),
            Backbone::Wrn { depth, width } => write!(f, "wrn-{depth}-{width}"),
            Backbone::Vgg11 => write!(f, "vgg11"),
            Backbone::Vgg { depth, head: VggHead::ImageNet } => write!(f, "torchvision/vgg{depth}_bn"),
            Backbone::Vgg { depth, head: VggHead::Linear } => write!(f, "vgg{depth}_bn"),
            Backbone::Vgg { depth, head: VggHead::Mlp } => write!(f, "vgg{depth}_bn-mlp"),
            Backbone::MobileNetV2 { percent: 100 } => write!(f, "torchvision/mobilenet_v2"),
            Backbone::MobileNetV2 { percent } => write!(f, "torchvision/mobilenet_v2*{}", percent as f64 / 100.0),
            Backbone::MobileNetV3Small => write!(f, "torchvision/mobilenet_v3_small"),
            Backbone::DeepLabV3 { depth } => write!(f, "torchvision/deeplabv3_resnet{depth}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_can_be_read_back() {
        for name in COMMON {
            assert_eq!(name.parse::<ZooArchitecture>().map(|a| a.to_string()).as_deref(), Ok(name));
        }
        for name in [
            "resnet9",
            "resnet18-conv",
            "resnet020",
            "wrn-17-1",
            "wrn-16-0",
            "wrn-16",
            "wrn-+16-1",
            "vgg16",
            "vgg12_bn",
            "torchvision/vgg11_bn-mlp",
            "torchvision/mobilenet_v2*1",
            "fpn-vgg11",
            "fpn-vgg11_bn",
            "fpn-torchvision/deeplabv3_resnet50",
            "fpn-",
            "fpn-fpn-resnet20",
            "",
        ] {
            assert!(name.parse::<ZooArchitecture>().is_err(), "{name}");
        }
    }

    #[test]
    fn a_misspelt_name_is_answered_with_the_nearest() {
        let error = |name: &str| name.parse::<ZooArchitecture>().unwrap_err();
        assert!(error("resnet-20").contains("did you mean resnet20?"), "{}", error("resnet-20"));
        assert!(error("wrn_40_2").contains("did you mean wrn-40-2?"), "{}", error("wrn_40_2"));
        assert!(!error("transformer").contains("did you mean"));
        assert!(error("transformer").contains("wrn-DEPTH-WIDTH"));
    }
}
