//! What is depended on: licenses, sources and doubles, against `.deny.toml`. cargo-deny (`make deny`) knows more, but has to be
//! installed; this needs nothing, and no network.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

fn texts(value: Option<&toml::Value>, key: &str) -> BTreeSet<String> {
    let items = value.and_then(|value| value.get(key)).and_then(toml::Value::as_array).into_iter().flatten();
    items.filter_map(|item| item.as_str().or_else(|| item.get("crate")?.as_str())).map(str::to_string).collect()
}

/// What `.deny.toml` says.
fn rules() -> toml::Table {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.deny.toml");
    std::fs::read_to_string(path).expect(".deny.toml").parse().expect(".deny.toml is TOML")
}

/// The packages that a build for this machine needs: for a GPU too where Cargo has fetched those, else for the CPU alone.
fn packages() -> Vec<Value> {
    let version = Command::new("rustc").arg("-vV").output().expect("rustc");
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).expect("rustc names its host");
    let metadata = |features: &[&str]| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["metadata", "--format-version", "1", "--offline", "--filter-platform", host]).args(features);
        cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("cargo")
    };
    let mut output = metadata(&["--all-features"]);
    if !output.status.success() {
        println!("note: the packages of a build for a GPU are not on this machine; `cargo fetch` brings them");
        output = metadata(&[]);
    }
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    // Packages of other platforms are listed, too, but not resolved.
    let nodes = metadata["resolve"]["nodes"].as_array().expect("nodes").iter();
    let built = nodes.map(|node| node["id"].to_string()).collect::<BTreeSet<_>>();
    let Value::Array(mut packages) = metadata["packages"].take() else { panic!("no packages") };
    packages.retain(|package| built.contains(&package["id"].to_string()) && !package["source"].is_null());
    assert!(packages.len() > 100, "only {} packages", packages.len());
    packages
}

/// Whether an SPDX expression can be met with `allowed` licenses: `OR` (or `/`) of `AND` of licenses or parentheses.
fn is_met(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ").replace(" WITH ", "+WITH+");
    let words = spaced.split_whitespace().collect::<Vec<_>>();
    let (met, rest) = any(&words, allowed);
    met && rest.is_empty()
}

fn any<'a>(words: &'a [&'a str], allowed: &BTreeSet<String>) -> (bool, &'a [&'a str]) {
    let (mut met, mut rest) = all(words, allowed);
    while let Some((&"OR", after)) = rest.split_first() {
        let (more, left) = all(after, allowed);
        (met, rest) = (met | more, left);
    }
    (met, rest)
}

fn all<'a>(words: &'a [&'a str], allowed: &BTreeSet<String>) -> (bool, &'a [&'a str]) {
    let (mut met, mut rest) = one(words, allowed);
    while let Some((&"AND", after)) = rest.split_first() {
        let (more, left) = one(after, allowed);
        (met, rest) = (met & more, left);
    }
    (met, rest)
}

fn one<'a>(words: &'a [&'a str], allowed: &BTreeSet<String>) -> (bool, &'a [&'a str]) {
    match words.split_first() {
        Some((&"(", after)) => {
            let (met, rest) = any(after, allowed);
            (met && rest.first() == Some(&")"), rest.get(1..).unwrap_or_default())
        }
        Some((licence, rest)) => (allowed.contains(&licence.replace("+WITH+", " WITH ")), rest),
        None => (false, words),
    }
}

#[test]
fn expressions_of_licences() {
    let allowed = ["MIT", "Zlib", "Apache-2.0 WITH LLVM-exception"].map(String::from).into();
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0-only", false),
        ("Apache-2.0 OR MIT", true),
        ("Unlicense/MIT", true),
        ("MIT AND GPL-3.0-only", false),
        ("(MIT OR GPL-3.0-only) AND Zlib", true),
        ("(MIT OR Zlib) AND GPL-3.0-only", false),
        ("Apache-2.0 WITH LLVM-exception", true),
        ("Apache-2.0", false),
        ("", false),
    ] {
        assert_eq!(is_met(expression, &allowed), expected, "{expression:?}");
    }
}

#[test]
fn licences_and_sources_are_allowed_and_doubles_are_known() {
    let rules = rules();
    let allowed = texts(rules.get("licenses"), "allow");
    let known = texts(rules.get("bans"), "skip");
    let (mut wrong, mut versions) = (Vec::new(), BTreeMap::<String, BTreeSet<String>>::new());
    for package in packages() {
        let text = |key: &str| package[key].as_str().unwrap_or_default().to_string();
        let (name, version, licence, source) = (text("name"), text("version"), text("license"), text("source"));
        if !is_met(&licence, &allowed) {
            wrong.push(format!("{name} {version} is under {licence:?}"));
        }
        if source != "registry+https://github.com/rust-lang/crates.io-index" {
            wrong.push(format!("{name} {version} comes from {source}"));
        }
        versions.entry(name).or_default().insert(version);
    }
    assert!(wrong.is_empty(), "not allowed by .deny.toml:\n{}", wrong.join("\n"));
    for (name, versions) in versions {
        let unknown =
            versions.iter().filter(|version| !known.contains(&format!("{name}@{version}"))).collect::<Vec<_>>();
        if unknown.len() > 1 {
            println!("warning: {name} is there more than once, which .deny.toml does not explain: {unknown:?}");
        }
    }
}
