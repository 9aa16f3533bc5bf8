//! Which names of a `.pt2` stand for the same memory. Operations such as `relu_` change a tensor in place, and code that reads
//! the tensor under an older name sees the change.

use std::collections::HashMap;

use super::schema::{Argument, Model, Node};

/// The names that are views of others.
pub(super) struct Aliases {
    /// The oldest name of the same numbers in the same shape.
    whole: HashMap<String, String>,
    /// The oldest name that a name is a part or a reshaped view of.
    family: HashMap<String, String>,
    /// The members of each family that has more than one.
    members: HashMap<String, Vec<Member>>,
}

/// A view: where it is made and where it is used last.
struct Member {
    whole: String,
    made: usize,
    last_use: usize,
}

/// Most views of a tensor; one with more is not changed in place.
const MOST_VIEWS: usize = 64;

impl Aliases {
    pub fn of(model: &Model) -> Self {
        let graph = &model.graph_module.graph;
        let mut aliases = Self { whole: HashMap::new(), family: HashMap::new(), members: HashMap::new() };
        let mut last_use = HashMap::new();
        for (position, node) in graph.nodes.iter().enumerate() {
            let Some(source) = node.first_tensor().filter(|_| node.in_place() || node.is_view()) else { continue };
            let sizes = |name: &str| graph.tensor_values.get(name).map(|meta| &meta.sizes);
            for output in node.outputs.iter().flat_map(Argument::names) {
                let same = sizes(source).is_some() && sizes(source) == sizes(output) && node.keeps_order();
                if node.in_place() || same {
                    let whole = aliases.whole(source).to_string();
                    aliases.whole.insert(output.into(), whole);
                } else {
                    aliases.add_view(source, output, position);
                }
            }
        }
        let uses = graph.nodes.iter().enumerate();
        let uses = uses.flat_map(|(position, node)| {
            node.inputs.iter().flat_map(|input| input.arg.names()).map(move |name| (name, position))
        });
        let results = graph.outputs.iter().flat_map(Argument::names).map(|name| (name, graph.nodes.len()));
        for (name, position) in uses.chain(results) {
            last_use.insert(aliases.whole(name), position);
        }
        let last_use =
            last_use.into_iter().map(|(name, position)| (name.to_string(), position)).collect::<HashMap<_, _>>();
        for member in aliases.members.values_mut().flatten() {
            member.last_use = last_use.get(&member.whole).copied().unwrap_or(0);
        }
        aliases
    }

    fn add_view(&mut self, source: &str, view: &str, made: usize) {
        let (base, family) = (self.whole(source).to_string(), self.family(source).to_string());
        self.family.insert(view.into(), family.clone());
        let members = self.members.entry(family).or_insert_with(|| vec![Member { whole: base, made: 0, last_use: 0 }]);
        if members.len() <= MOST_VIEWS {
            members.push(Member { whole: view.into(), made, last_use: 0 });
        }
    }

    /// Returns the name under which the numbers of `name` are filed.
    pub fn whole<'a>(&'a self, name: &'a str) -> &'a str {
        self.whole.get(name).map_or(name, String::as_str)
    }

    fn family<'a>(&'a self, name: &'a str) -> &'a str {
        let whole = self.whole(name);
        self.family.get(whole).map_or(whole, String::as_str)
    }

    /// Refuses to change numbers in place that another view, which is there already, shows later.
    pub fn check(&self, position: usize, node: &Node) -> Result<(), String> {
        let Some(changed) = node.first_tensor().filter(|_| node.in_place()) else { return Ok(()) };
        let Some(members) = self.members.get(self.family(changed)) else { return Ok(()) };
        let whole = self.whole(changed);
        let shows = |member: &Member| member.whole != whole && member.made < position && member.last_use > position;
        if members.len() > MOST_VIEWS || members.iter().any(shows) {
            return Err("it changes numbers in place that another view shows later".into());
        }
        Ok(())
    }
}
