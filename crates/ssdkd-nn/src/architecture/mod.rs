//! Architectures by name, and identifying one from the tensors of a `state_dict`.

mod adopt;
mod describe;
mod identify;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use adopt::{Adopted, adopt};
pub use identify::{Identity, identify, identify_as};

/// What a network looks like, but for the number of classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Architecture {
    /// What makes the feature maps.
    pub backbone: Backbone,
    /// What it says about them.
    pub task: Task,
}

/// What a network puts into classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Each image: a linear head on the pooled features.
    Images,
    /// Each pixel of an image: a [feature pyramid](crate::models), `fpn-` before the backbone's name.
    Pixels,
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
    /// `resnet18`, `resnet34`, with the CIFAR stem.
    ResNet {
        /// 18 or 34.
        depth: usize,
    },
    /// `wrn-16-2`: depth and width.
    Wrn {
        /// 6n + 4.
        depth: usize,
        /// Times 16, 32 and 64 channels.
        width: usize,
    },
    /// `vgg11`, with batch normalisation.
    Vgg11,
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

const CIFAR_DEPTHS: [usize; 7] = [8, 14, 20, 32, 44, 56, 110];

/// What there is, for messages.
pub const KNOWN: &str = "resnet8, resnet14, resnet20, resnet32, resnet44, resnet56, resnet110 (each also with -conv), \
                         resnet18, resnet34, wrn-DEPTH-WIDTH (such as wrn-40-2), vgg11; to label pixels each but vgg11 with \
                         fpn- before it (fpn-resnet20)";

/// Those that a misspelt name is compared with.
const COMMON: [&str; 20] = [
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
    "wrn-16-1",
    "wrn-16-2",
    "wrn-40-1",
    "wrn-40-2",
    "vgg11",
    "fpn-resnet20",
    "fpn-resnet56",
    "fpn-wrn-16-1",
    "fpn-wrn-40-2",
];

fn unknown(text: &str) -> String {
    let distance = |name: &&str| strsim::damerau_levenshtein(name, text);
    // A long text is none of them, and to compare it would take time and memory in proportion.
    let near = COMMON.into_iter().filter(|name| text.len() <= name.len() + 3);
    let nearest = near.min_by_key(distance).filter(|name| distance(name) <= 3);
    let question = nearest.map(|name| format!("did you mean {name}? ")).unwrap_or_default();
    format!("there is no architecture {text:?}\nhint: {question}There are {KNOWN}")
}

impl Architecture {
    /// Whether it has a name, and can be built.
    pub fn exists(&self) -> bool {
        self.to_string().parse::<Self>().is_ok()
    }

    /// Whether it is `deeper` with fewer blocks in its groups, and nothing else.
    pub fn is_shallower_than(&self, deeper: &Self) -> bool {
        use Backbone::{CifarResNet, ResNet, Wrn};
        let fewer = match (self.backbone, deeper.backbone) {
            (CifarResNet { depth, shortcut }, CifarResNet { depth: more, shortcut: same }) => {
                depth < more && shortcut == same
            }
            (ResNet { depth }, ResNet { depth: more }) => depth < more,
            (Wrn { depth, width }, Wrn { depth: more, width: same }) => depth < more && width == same,
            _ => false,
        };
        fewer && self.task == deeper.task
    }
}

impl FromStr for Architecture {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (task, name) = match text.strip_prefix("fpn-") {
            Some(rest) => (Task::Pixels, rest),
            None => (Task::Images, text),
        };
        let backbone = backbone(name, text)?;
        if backbone == Backbone::Vgg11 && task == Task::Pixels {
            return Err(unknown(text));
        }
        let architecture = Self { backbone, task };
        // One spelling for each: "resnet020" and "wrn-+16-1" are numbers, but not names.
        if architecture.to_string() == text { Ok(architecture) } else { Err(unknown(text)) }
    }
}

/// The backbone called `name`, in the architecture called `text`.
fn backbone(name: &str, text: &str) -> Result<Backbone, String> {
    let unknown = || unknown(text);
    let number = |text: &str| text.parse::<usize>().map_err(|_| unknown());
    if name == "vgg11" {
        return Ok(Backbone::Vgg11);
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
    let (depth, shortcut) = match rest.strip_suffix("-conv") {
        Some(depth) => (number(depth)?, Shortcut::Convolution),
        None => (number(rest)?, Shortcut::Pad),
    };
    match depth {
        18 | 34 if shortcut == Shortcut::Pad => Ok(Backbone::ResNet { depth }),
        depth if CIFAR_DEPTHS.contains(&depth) => Ok(Backbone::CifarResNet { depth, shortcut }),
        _ => Err(unknown()),
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.task == Task::Pixels {
            f.write_str("fpn-")?;
        }
        match self.backbone {
            Backbone::CifarResNet { depth, shortcut: Shortcut::Pad } | Backbone::ResNet { depth } => {
                write!(f, "resnet{depth}")
            }
            Backbone::CifarResNet { depth, shortcut: Shortcut::Convolution } => write!(f, "resnet{depth}-conv"),
            Backbone::Wrn { depth, width } => write!(f, "wrn-{depth}-{width}"),
            Backbone::Vgg11 => write!(f, "vgg11"),
        }
    }
}

impl TryFrom<String> for Architecture {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Architecture> for String {
    fn from(architecture: Architecture) -> Self {
        architecture.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_can_be_read_back() {
        for name in COMMON {
            assert_eq!(name.parse::<Architecture>().map(|a| a.to_string()).as_deref(), Ok(name));
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
            "fpn-vgg11",
            "fpn-",
            "fpn-fpn-resnet20",
            "",
        ] {
            assert!(name.parse::<Architecture>().is_err(), "{name}");
        }
    }

    #[test]
    fn a_misspelt_name_is_answered_with_the_nearest() {
        let error = |name: &str| name.parse::<Architecture>().unwrap_err();
        assert!(error("resnet-20").contains("did you mean resnet20?"), "{}", error("resnet-20"));
        assert!(error("wrn_40_2").contains("did you mean wrn-40-2?"), "{}", error("wrn_40_2"));
        assert!(!error("transformer").contains("did you mean"));
        assert!(error("transformer").contains("wrn-DEPTH-WIDTH"));
    }
}
