//! What the sources promise and no lint checks.

use std::fs;
use std::path::{Path, PathBuf};

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace")
}

/// All Rust sources below a folder.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() && !path.ends_with("target") {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Whether a line of code has the word in it, comments and longer words such as `unsafe_code` aside.
fn has_word(line: &str, word: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|part| part == word)
}

/// The table of ARCHITECTURE.md: `unsafe` is in these files and folders of `crates/ssdkd-ops`, and nowhere else.
#[test]
fn unsafe_code_is_where_the_architecture_says() {
    let text = fs::read_to_string(workspace().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let rows = text.lines().skip_while(|line| !line.starts_with("| `unsafe` in ")).skip(2);
    let listed = rows.take_while(|line| line.starts_with("| `")).map(|line| line.split('`').nth(1).unwrap_or_default());
    let listed = listed.map(|path| workspace().join("crates/ssdkd-ops").join(path)).collect::<Vec<_>>();
    assert!(!listed.is_empty(), "ARCHITECTURE.md has no table `unsafe` in …");

    let mut files = Vec::new();
    sources(&workspace().join("crates"), &mut files);
    sources(&workspace().join("tests"), &mut files);
    // This file has the word in a text.
    files.retain(|path| !path.ends_with(Path::new(file!()).file_name().expect("a file")));
    assert!(files.len() > 100, "only {} sources were found", files.len());
    files.retain(|path| fs::read_to_string(path).expect("a source").lines().any(|line| has_word(line, "unsafe")));
    let unlisted = files.iter().filter(|path| !listed.iter().any(|listed| path.starts_with(listed)));
    let unlisted = unlisted.map(|path| path.strip_prefix(workspace()).expect("below")).collect::<Vec<_>>();
    assert!(unlisted.is_empty(), "`unsafe` is in {unlisted:?}, which the table in ARCHITECTURE.md does not have");
    for listed in &listed {
        let used = files.iter().any(|path| path.starts_with(listed));
        assert!(used, "the table in ARCHITECTURE.md has {}, which has no `unsafe`", listed.display());
    }
}

/// Only the crate that may lowers the lint that refuses `unsafe`; every other one inherits it.
#[test]
fn every_crate_refuses_unsafe_code_but_one() {
    let mut files = Vec::new();
    sources(&workspace().join("crates"), &mut files);
    sources(&workspace().join("tests"), &mut files);
    files.retain(|path| !path.ends_with(Path::new(file!()).file_name().expect("a file")));
    files.retain(|path| fs::read_to_string(path).expect("a source").contains("unsafe_code"));
    files.retain(|path| !path.starts_with(workspace().join("crates/ssdkd-ops")));
    assert!(files.is_empty(), "{files:?} change the lint unsafe_code");
    let crates =
        fs::read_dir(workspace().join("crates")).expect("crates/").map(|entry| entry.expect("an entry").path());
    for folder in crates.chain([workspace().join("tests")]) {
        let manifest = fs::read_to_string(folder.join("Cargo.toml")).expect("a crate has a Cargo.toml");
        assert!(manifest.contains("[lints]\nworkspace = true"), "{} does not inherit the lints", folder.display());
    }
    let root = fs::read_to_string(workspace().join("Cargo.toml")).expect("Cargo.toml");
    assert!(root.contains("unsafe_code = \"deny\""));
}
