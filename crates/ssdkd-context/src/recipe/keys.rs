//! Every key of a recipe, with all that is known of it: read from the schema that the settings' declarations make.

use std::fmt::Write as _;

use serde_json::Value;
use ssdkd_method::StrategyName;
use ssdkd_method::inversion::strategies_of;
use ssdkd_method::range::{Range, schema_of};

use super::settings::Recipe;

/// One key of a recipe.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    /// Such as `invert.persistent.lr`.
    pub path: String,
    /// `number`, `whole number`, `string`, `true or false`, `list of numbers`.
    pub kind: &'static str,
    /// Its value where the recipe says nothing, as TOML; `None` if a recipe must have the key.
    pub default: Option<String>,
    /// The values that a number may have.
    pub range: Option<Range>,
    /// The values that a choice may have, each with its meaning.
    pub choices: Vec<(String, String)>,
    /// What it means.
    pub description: String,
    /// The strategies of inversion that use it; empty if all do.
    pub strategies: Vec<StrategyName>,
}

/// A table of a recipe.
#[derive(Debug, Clone, PartialEq)]
pub struct Section {
    /// Such as `invert.persistent`; empty for the top level.
    pub path: String,
    /// What it is about.
    pub description: String,
    /// Its keys, in the order of their declaration.
    pub keys: Vec<Key>,
}

/// Returns the JSON schema of a recipe, for editors.
pub fn schema() -> Value {
    let mut schema = schema_of::<Recipe>();
    tidy(&mut schema);
    schema
}

/// Removes what no editor needs: sizes of Rust's numbers, and a table's default, which its keys' say already.
fn tidy(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            map.remove("format");
            if map.contains_key("properties") {
                map.remove("default");
            }
            if let Some(Value::String(text)) = map.get_mut("description") {
                *text = plain(text);
            }
            map.values_mut().for_each(tidy);
        }
        Value::Array(values) => values.iter_mut().for_each(tidy),
        _ => {}
    }
}

/// Returns a doc comment as plain text on one line.
fn plain(text: &str) -> String {
    text.replace("\\[", "[").replace("\\]", "]").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Returns all sections of a recipe, in the order of their declaration.
pub fn sections() -> Vec<Section> {
    let schema = schema();
    let defaults = StrategyName::ALL.map(|name| (name, example(name)));
    let texts = defaults.each_ref().map(|(_, recipe)| recipe.to_toml());
    let values = defaults.map(|(name, recipe)| (name, serde_json::to_value(recipe).expect("a recipe is plain data")));
    let mut sections = vec![Section { path: String::new(), description: plain_of(&schema), keys: Vec::new() }];
    // What only a later text has stands behind what precedes it there. So the last strategy comes first here.
    for text in texts.iter().rev() {
        let (mut at, mut place) = (0, 0);
        for line in text.lines() {
            if let Some(path) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                let known = sections.iter().position(|section| section.path == path);
                (at, place) = (known.unwrap_or(at + 1), 0);
                if known.is_none() {
                    let description = plain_of(property(&schema, path));
                    sections.insert(at, Section { path: path.into(), description, keys: Vec::new() });
                }
            } else if let Some((name, _)) = line.split_once(" = ") {
                let section = &mut sections[at];
                let path = join(&section.path, name);
                let known = section.keys.iter().position(|key| key.path == path);
                if known.is_none() {
                    section.keys.insert(place, key(path, &schema, &values));
                }
                place = known.unwrap_or(place) + 1;
            }
        }
    }
    sections
}

/// Returns all keys.
pub fn keys() -> Vec<Key> {
    sections().into_iter().flat_map(|section| section.keys).collect()
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.into() } else { format!("{path}.{name}") }
}

/// Returns the least recipe of a strategy.
fn example(name: StrategyName) -> Recipe {
    let text = format!(
        "run = {{ name = 'x', warmup_rounds = 1, rounds = 1 }}\nteacher.card = 'x'\nstudent = {{}}\n\
         invert.strategy = '{}'",
        name.as_str()
    );
    Recipe::parse(&text, "example".as_ref(), &[]).expect("the least recipe of a strategy")
}

/// Returns the schema of the key or table at `path`.
fn property<'a>(schema: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(schema, |schema, name| &schema["properties"][name])
}

fn plain_of(schema: &Value) -> String {
    plain(schema["description"].as_str().unwrap_or_default())
}

fn key(path: String, schema: &Value, values: &[(StrategyName, Value)]) -> Key {
    let own = property(schema, &path);
    let (table, name) = path.rsplit_once('.').unwrap_or(("", &path));
    let table = if table.is_empty() { schema } else { property(schema, table) };
    let required = table["required"].as_array().is_some_and(|required| required.iter().any(|key| key == name));
    let choices = own["oneOf"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|choice| Some((choice["const"].as_str()?.to_string(), plain_of(choice))));
    let choices = choices.collect::<Vec<_>>();
    let kind = match own["type"].as_str() {
        Some("integer") => "whole number",
        Some("number") => "number",
        Some("boolean") => "true or false",
        Some("array") => "list of numbers",
        _ => "string",
    };
    let strategies = path.strip_prefix("invert.").map(strategies_of).unwrap_or_default();
    let strategies = if strategies.len() == StrategyName::ALL.len() { Vec::new() } else { strategies };
    Key {
        kind,
        default: (!required).then(|| default(&path, values)),
        range: Range::of(own),
        choices,
        description: plain_of(own),
        strategies,
        path,
    }
}

/// Returns a key's default as TOML: one, or one for each strategy where they differ.
fn default(path: &str, values: &[(StrategyName, Value)]) -> String {
    if path == "invert.strategy" {
        return toml_of(&Value::String(StrategyName::default().as_str().into()));
    }
    let mut groups = Vec::<(String, Vec<StrategyName>)>::new();
    for (name, values) in values {
        let value = path.split('.').try_fold(values, |value, name| value.get(name));
        let Some(value) = value.map(toml_of) else { continue };
        match groups.iter_mut().find(|(of, _)| *of == value) {
            Some((_, names)) => names.push(*name),
            None => groups.push((value, vec![*name])),
        }
    }
    if let [(value, _)] = &groups[..] {
        return value.clone();
    }
    let mut text = String::new();
    for (value, names) in groups {
        let names = names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
        let separator = if text.is_empty() { "" } else { "; " };
        write!(text, "{separator}{names}: {value}").expect("a string grows");
    }
    text
}

fn toml_of(value: &Value) -> String {
    toml::Value::try_from(value).map(|value| value.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(path: &str) -> Key {
        keys().into_iter().find(|key| key.path == path).unwrap_or_else(|| panic!("there is no {path}"))
    }

    #[test]
    fn a_key_has_type_default_range_and_meaning() {
        let lr = key("distill.lr");
        assert_eq!((lr.kind, lr.default.as_deref()), ("number", Some("0.1")));
        assert_eq!(lr.range.unwrap().to_string(), "a number above 0");
        assert!(lr.description.starts_with("Highest learning rate") && lr.strategies.is_empty());
        assert_eq!(key("run.name").default, None);
        let eviction = key("balance.eviction");
        assert!(eviction.choices.iter().any(|(value, _)| value == "class-balanced-fifo"), "{:?}", eviction.choices);
    }

    #[test]
    fn a_key_of_a_strategy_says_so() {
        assert_eq!(key("invert.meta.latent_lr").strategies, [StrategyName::Meta]);
        assert_eq!(key("invert.loss.l2").strategies, [StrategyName::Pixels]);
        assert!(key("invert.batch").strategies.is_empty());
        assert_eq!(key("invert.steps").default.unwrap(), "persistent: 1; meta: 5; pixels, contrastive: 200");
    }

    #[test]
    fn sections_and_keys_are_in_the_order_of_their_declaration() {
        let sections = sections();
        let paths = sections.iter().map(|section| section.path.as_str()).collect::<Vec<_>>();
        let of_invert =
            ["invert", "invert.persistent", "invert.meta", "invert.pixels", "invert.contrastive", "invert.loss"];
        let at = paths.iter().position(|path| *path == "invert").unwrap();
        assert_eq!(paths[at..at + 6], of_invert);
        let keys = sections[at + 5].keys.iter().map(|key| key.path.rsplit('.').next().unwrap()).collect::<Vec<_>>();
        assert_eq!(keys[7..], ["adversarial_mask", "batch_norm_momentum", "total_variation", "l2", "contrastive"]);
    }

    #[test]
    fn every_key_has_a_meaning() {
        for section in sections() {
            assert!(!section.description.is_empty(), "[{}] has no description", section.path);
            for key in section.keys {
                assert!(!key.description.is_empty(), "{} has no description", key.path);
                assert!(key.choices.iter().all(|(_, meaning)| !meaning.is_empty()), "{:?}", key.choices);
            }
        }
    }
}
