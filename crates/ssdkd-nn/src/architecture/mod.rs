//! What a network looks like: an architecture of the zoo by its name, or a graph that came from a file. Identifying one from the
//! tensors of a `state_dict`.

mod adopt;
mod describe;
mod identify;
pub(crate) mod zoo;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use ssdkd_graph::{Cut, Graph, GraphError};

pub use adopt::{Adopted, adopt};
pub use identify::{Identity, identify, identify_as};
pub use zoo::{Backbone, KNOWN, Names, Shortcut, Stem, Task, VggHead, ZooArchitecture};

use crate::zoo::Blueprint;

/// What a network looks like, but for its weights. In a card a name, with the names of tensors where they differ from the usual ones, or
/// a graph.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "serde_json::Value", into = "Written")]
pub enum Architecture {
    /// A network of the zoo.
    Zoo {
        /// Which.
        architecture: ZooArchitecture,
        /// How its tensors are named.
        names: Names,
    },
    /// A network that came as a graph.
    Graph(Arc<NamedGraph>),
    /// A smaller copy of another network.
    Cut(Arc<SmallerCopy>),
}

/// A smaller copy of a network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SmallerCopy {
    /// The network that it is a copy of.
    pub of: Architecture,
    /// How much of that it keeps.
    pub cut: Cut,
}

/// A graph with a name for messages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedGraph {
    /// What people call the network.
    pub name: String,
    /// What it computes.
    pub graph: Graph,
}

impl Architecture {
    /// Returns a network that came as a graph.
    pub fn of_graph(name: impl Into<String>, graph: Graph) -> Self {
        Self::Graph(Arc::new(NamedGraph { name: name.into(), graph }))
    }

    /// Returns a smaller copy of it.
    #[must_use]
    pub fn cut(&self, cut: Cut) -> Self {
        Self::Cut(Arc::new(SmallerCopy { of: self.clone(), cut }))
    }

    /// Returns the network that it is a copy of, or itself.
    pub fn original(&self) -> &Self {
        match self {
            Self::Cut(smaller) => smaller.of.original(),
            other => other,
        }
    }

    /// Returns what it puts into classes.
    pub fn task(&self) -> Task {
        match self.original() {
            Self::Zoo { architecture, .. } => architecture.task,
            Self::Graph(named) => {
                let output = named.graph.outputs().first().map(|output| named.graph.shape(*output).size());
                if output.is_some_and(|[height, width]| height * width > 1) { Task::Pixels } else { Task::Images }
            }
            Self::Cut(_) => Task::Images,
        }
    }

    /// Returns the architecture of the zoo; `None` for a graph or a smaller copy.
    pub fn zoo(&self) -> Option<ZooArchitecture> {
        match self {
            Self::Zoo { architecture, .. } => Some(*architecture),
            Self::Graph(_) | Self::Cut(_) => None,
        }
    }

    /// Returns the graph that it, or the network that it is a copy of, came as; `None` for a network of the zoo.
    pub fn graph(&self) -> Option<&Graph> {
        match self.original() {
            Self::Graph(named) => Some(&named.graph),
            _ => None,
        }
    }

    /// Returns how the tensors of a network of the zoo are named.
    pub fn names(&self) -> Names {
        match self.original() {
            Self::Zoo { names, .. } => names.clone(),
            _ => Names::default(),
        }
    }

    /// Returns the network for so many classes and images of `input` (channels, height, width).
    ///
    /// # Errors
    /// If it cannot work on images of that size.
    pub fn blueprint(&self, classes: usize, input: [usize; 3]) -> Result<Blueprint, GraphError> {
        match self {
            Self::Zoo { architecture, names } => Blueprint::of_zoo(*architecture, names, classes, input),
            Self::Graph(named) => {
                let [channels, height, width] = input;
                let wanted = named.graph.input()[0];
                if channels != wanted {
                    return Err(GraphError::Graph(format!("it takes images of {wanted} channels, not of {channels}")));
                }
                Blueprint::of_graph(named.graph.resized(height, width)?)
            }
            Self::Cut(smaller) => smaller.of.blueprint(classes, input)?.shrunk(smaller.cut),
        }
    }
}

impl From<ZooArchitecture> for Architecture {
    fn from(architecture: ZooArchitecture) -> Self {
        let names = match architecture.backbone {
            Backbone::ResNet { stem: Stem::ImageNet, .. } | Backbone::WideCifarResNet { .. } => Names::torchvision(),
            _ => Names::default(),
        };
        Self::Zoo { architecture, names }
    }
}

impl FromStr for Architecture {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse::<ZooArchitecture>().map(Self::from)
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zoo { architecture, .. } => architecture.fmt(f),
            Self::Graph(named) => f.write_str(&named.name),
            Self::Cut(smaller) => write!(f, "{} of {}", smaller.cut, smaller.of),
        }
    }
}

/// How an [`Architecture`] is written.
#[derive(Serialize)]
#[serde(untagged)]
enum Written {
    Zoo(String),
    Renamed(Renamed),
    Graph(NamedGraph),
    Cut(SmallerCopy),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Renamed {
    zoo: String,
    names: Names,
}

impl TryFrom<serde_json::Value> for Architecture {
    type Error = String;

    fn try_from(written: serde_json::Value) -> Result<Self, String> {
        let unusable = |error: serde_json::Error| format!("the architecture cannot be read: {error}");
        match written {
            serde_json::Value::String(name) => name.parse(),
            renamed if renamed.get("zoo").is_some() => {
                let Renamed { zoo, names } = serde_json::from_value(renamed).map_err(unusable)?;
                Ok(Self::Zoo { architecture: zoo.parse()?, names })
            }
            smaller if smaller.get("cut").is_some() => {
                let smaller = serde_json::from_value::<SmallerCopy>(smaller).map_err(unusable)?;
                smaller.cut.check()?;
                Ok(Self::Cut(Arc::new(smaller)))
            }
            graph => serde_json::from_value(graph).map(|named| Self::Graph(Arc::new(named))).map_err(unusable),
        }
    }
}

impl From<Architecture> for Written {
    fn from(architecture: Architecture) -> Self {
        match architecture {
            Architecture::Zoo { architecture, names } => {
                let zoo = architecture.to_string();
                if names == Architecture::from(architecture).names() {
                    Self::Zoo(zoo)
                } else {
                    Self::Renamed(Renamed { zoo, names })
                }
            }
            Architecture::Graph(named) => Self::Graph((*named).clone()),
            Architecture::Cut(smaller) => Self::Cut((*smaller).clone()),
        }
    }
}
