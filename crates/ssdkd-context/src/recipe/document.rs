//! `docs/recipe.md` and `docs/recipe.schema.json`, and what `ssdkd explain` prints.

use std::fmt::Write as _;

use ssdkd_method::StrategyName;

use super::keys::{Key, Section, keys, schema, sections};
use super::renamed::successor;

const HEAD: &str = "\
# The recipe

A recipe is a TOML file. It says everything about a run. `ssdkd run RECIPE --print-config` prints a recipe with all of its defaults,
`--set section.key=value` changes a key for one command, and `ssdkd explain section.key` prints one entry of this page.

A recipe has the table of its strategy alone: with `invert.strategy = \"persistent\"` that is `[invert.persistent]`. A key of another
strategy is an error.

Marks say where a default comes from: [P] the paper, [S] notes on the paper, [R] a recalled formula, [C] the public code or paper of the
named system, [O] our own choice.

For editors, [recipe.schema.json](recipe.schema.json) describes the same keys. The recipes in `pipelines/` name it in their first line.

This page is generated from the code. `make docs-recipe` writes it.
";

/// Returns `docs/recipe.md`.
pub fn markdown() -> String {
    let mut text = HEAD.to_string();
    for Section { path, description, keys } in sections() {
        let title = if path.is_empty() { "At the top".into() } else { format!("`[{path}]`") };
        write!(text, "\n## {title}\n\n{description}\n").expect("a string grows");
        if keys.is_empty() {
            continue;
        }
        text.push_str("\n| key | type | default | allowed | meaning |\n|---|---|---|---|---|\n");
        for key in keys {
            let name = key.path.rsplit('.').next().unwrap_or_default();
            let default = key.default.as_ref().map_or_else(|| "required".into(), |default| format!("`{default}`"));
            let allowed = allowed(&key).join("<br>");
            let mut meaning = key.description.clone();
            if !key.path.starts_with(&format!("invert.{}.", strategies(&key).unwrap_or_default()))
                && let Some(strategies) = strategies(&key)
            {
                write!(meaning, " Strategies: {strategies}.").expect("a string grows");
            }
            let row =
                [&format!("`{name}`"), key.kind, &default, &allowed, &meaning].map(|cell| cell.replace('|', "\\|"));
            writeln!(text, "| {} |", row.join(" | ")).expect("a string grows");
        }
    }
    text
}

/// Returns `docs/recipe.schema.json`.
pub fn schema_json() -> String {
    serde_json::to_string_pretty(&schema()).expect("a schema is plain data") + "\n"
}

/// Returns the entry of a key, or the entries of a section's keys. The error names the nearest key.
pub fn explain(path: &str) -> Result<String, String> {
    let all = keys();
    if let Some(key) = all.iter().find(|key| key.path == path) {
        return Ok(entry(key));
    }
    let sections = sections();
    let exists =
        |path: &str| all.iter().any(|key| key.path == path) || sections.iter().any(|section| section.path == path);
    let within = format!("{path}.");
    let found = sections.iter().filter(|section| section.path == path || section.path.starts_with(&within));
    let found = found.filter(|section| !section.path.is_empty()).map(outline).collect::<Vec<_>>();
    if !found.is_empty() {
        return Ok(found.join("\n"));
    }
    if let Some(new) = StrategyName::ALL.into_iter().filter_map(|name| successor(path, name)).find(|new| exists(new)) {
        return Err(format!("`{path}` is now `{new}`"));
    }
    let sections = sections.iter().map(|section| section.path.as_str());
    let known = all.iter().map(|key| key.path.as_str()).chain(sections);
    let near = known.filter(|known| path.len() <= 2 * known.len() && !known.is_empty());
    // The last part alone, too: `lr` is near `distill.lr`.
    let distance = |known: &str| {
        let last = known.rsplit('.').next().unwrap_or_default();
        strsim::damerau_levenshtein(path, known).min(1 + strsim::damerau_levenshtein(path, last))
    };
    let nearest = near.min_by_key(|known| distance(known));
    let hint = match nearest {
        Some(nearest) if distance(nearest) <= path.len().max(nearest.len()) / 2 => {
            format!("did you mean `{nearest}`?")
        }
        _ => "docs/recipe.md lists all keys".into(),
    };
    let shown = path.chars().take(80).collect::<String>();
    Err(format!("there is no key or section {shown:?} in a recipe\nhint: {hint}"))
}

/// Returns a section's keys, a line each.
fn outline(section: &Section) -> String {
    let mut text = format!("[{}]\n  {}\n", section.path, section.description);
    for key in &section.keys {
        let name = key.path.rsplit('.').next().unwrap_or_default();
        let default = key.default.as_deref().unwrap_or("required");
        writeln!(text, "  {name} = {default}").expect("a string grows");
    }
    text
}

/// Returns all that is known of a key.
fn entry(key: &Key) -> String {
    let mut text = format!("{}\n  {}\n", key.path, key.description);
    let mut line = |name: &str, value: &str| writeln!(text, "  {name:<9} {value}").expect("a string grows");
    line("type", key.kind);
    line("default", key.default.as_deref().unwrap_or("none: a recipe must have it"));
    for (index, allowed) in allowed(key).iter().enumerate() {
        line(if index == 0 { "allowed" } else { "" }, allowed);
    }
    if key.path.starts_with("invert.") {
        line("used by", strategies(key).as_deref().unwrap_or("every strategy"));
    }
    text
}

/// Returns the values that a key may have, a line each.
fn allowed(key: &Key) -> Vec<String> {
    let choices = key.choices.iter().map(|(value, meaning)| format!("\"{value}\": {meaning}"));
    key.range.iter().map(ToString::to_string).chain(choices).collect()
}

fn strategies(key: &Key) -> Option<String> {
    let names = key.strategies.iter().map(|name| name.as_str()).collect::<Vec<_>>();
    (!names.is_empty()).then(|| names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_explained(path: &str, parts: &[&str]) {
        let text = explain(path).unwrap_or_else(|error| error);
        for part in parts {
            assert!(text.contains(part), "{part:?} is not in:\n{text}");
        }
    }

    #[test]
    fn a_key_is_explained_with_all_that_is_known() {
        check_explained("distill.lr", &["type      number", "default   0.1", "allowed   a number above 0"]);
        check_explained("invert.loss.l2", &["used by   pixels", "0 or above"]);
        check_explained("balance.eviction", &["\"class-balanced-fifo\": The oldest of the largest class"]);
        check_explained("run.name", &["a recipe must have it"]);
    }

    #[test]
    fn a_section_lists_its_keys() {
        check_explained("invert", &["[invert]", "batch = 128", "[invert.meta]", "latent_lr = 0.01"]);
    }

    #[test]
    fn an_old_key_gives_the_new_one() {
        check_explained("distill.colour", &["`distill.colour` is now `distill.views.channel_mix`"]);
        check_explained("invert.augment.flip", &["`invert.augment.flip` is now `invert.views.flip`"]);
        check_explained("invert.lr_z", &["`invert.lr_z` is now `invert.meta.latent_lr`"]);
    }

    #[test]
    fn an_unknown_key_gives_the_nearest() {
        check_explained("distil.lr", &["there is no key", "did you mean `distill.lr`?"]);
        check_explained("channel_mix", &["did you mean `distill.views.channel_mix`?"]);
        check_explained("no such thing at all in any recipe", &["docs/recipe.md"]);
    }
}
