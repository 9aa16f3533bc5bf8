//! What the documentation promises: links lead somewhere, and what is generated is what the code says.

use std::collections::HashSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use ssdkd_shards::tables_markdown;

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace")
}

/// Returns all Markdown files below a folder, without hidden folders and build output.
fn pages(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let skipped = name.starts_with("target") || name == "runs" || name.starts_with('.') && name != ".github";
        if path.is_dir() && !skipped {
            pages(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
}

/// Returns the lines of a page that are not in a code block.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut in_code = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        in_code ^= fence;
        !in_code && !fence
    })
}

/// Returns the targets of a line's links and images, those in code spans aside.
fn links(line: &str) -> Vec<String> {
    let outside_code = line.split('`').step_by(2).collect::<Vec<_>>().join("code");
    let parts = outside_code.split("](").skip(1);
    parts.filter_map(|rest| rest.split_once(')').map(|(target, _)| target.to_owned())).collect()
}

/// Returns the anchor that GitHub and mdBook give a heading.
fn anchor(heading: &str) -> String {
    let title = heading.trim_start_matches('#').trim();
    let letters = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    letters.collect::<String>().to_lowercase().replace(' ', "-")
}

fn anchors(page: &Path) -> HashSet<String> {
    let text = fs::read_to_string(page).expect("a readable page");
    prose(&text).filter(|line| line.starts_with('#')).map(anchor).collect()
}

/// Resolves `..` without asking the file system.
fn resolved(path: &Path) -> PathBuf {
    let mut whole = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                whole.pop();
            }
            part => whole.push(part),
        }
    }
    whole
}

/// Returns why a link of a page is broken.
fn broken(page: &Path, target: &str) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (file, wanted) = target.split_once('#').unwrap_or((target, ""));
    let path = if file.is_empty() { page.into() } else { resolved(&page.parent()?.join(file)) };
    if !path.exists() {
        return Some("there is no such file".into());
    }
    (!wanted.is_empty() && !anchors(&path).contains(wanted)).then(|| "the page has no such heading".into())
}

#[test]
fn every_link_of_every_page_leads_somewhere() {
    let mut found = Vec::new();
    pages(workspace(), &mut found);
    assert!(found.len() > 20, "only {} pages were found", found.len());
    let mut errors = Vec::new();
    for page in &found {
        let text = fs::read_to_string(page).expect("a readable page");
        for target in prose(&text).flat_map(links) {
            if let Some(why) = broken(page, &target) {
                errors.push(format!("{}: {target}: {why}", page.strip_prefix(workspace()).expect("below").display()));
            }
        }
    }
    assert!(errors.is_empty(), "{}", errors.join("\n"));
}

#[test]
fn every_page_of_the_documentation_is_in_the_book() {
    let docs = workspace().join("docs");
    let summary = fs::read_to_string(docs.join("SUMMARY.md")).expect("docs/SUMMARY.md");
    let listed = prose(&summary).flat_map(links).map(|target| docs.join(target)).collect::<HashSet<_>>();
    let mut found = Vec::new();
    pages(&docs, &mut found);
    let missing = found.iter().filter(|page| !page.ends_with("SUMMARY.md") && !listed.contains(*page));
    let missing = missing.collect::<Vec<_>>();
    assert!(missing.is_empty(), "docs/SUMMARY.md does not list {missing:?}");
}

/// Compares a page with what the code generates, or writes it.
#[track_caller]
fn check_generated(page: &Path, generated: &str) {
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(page, generated).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
    }
    let written = fs::read_to_string(page).unwrap_or_default();
    let differs = generated.lines().zip(written.lines()).find(|(generated, written)| generated != written);
    assert!(written == generated, "{} is stale: run `make docs-tables`\nfirst difference: {differs:?}", page.display());
}

#[test]
fn the_reference_of_the_tables_is_that_of_the_code() {
    check_generated(&workspace().join("docs/tables.md"), &tables_markdown());
}

#[test]
fn the_method_shows_the_example_as_it_is() {
    let page = workspace().join("docs/method.md");
    let text = fs::read_to_string(&page).expect("docs/method.md");
    let example = fs::read_to_string(workspace().join("crates/ssdkd-method/examples/ssdkd.rs")).expect("the example");
    let (before, rest) = text.split_once("<!-- example").expect("the place of the example");
    let (_, after) = rest.split_once("<!-- end of example -->").expect("the end of the example");
    let shown = format!(
        "{before}<!-- example: made by `make docs-tables` -->\n\n```rust,ignore\n{example}```\n\n<!-- end of example -->{after}"
    );
    check_generated(&page, &shown);
}

#[test]
fn anchors_are_those_of_github() {
    assert_eq!(anchor("## 1. Save the network"), "1-save-the-network");
    assert_eq!(anchor("# ResNet-56 → ResNet-20"), "resnet-56--resnet-20");
    assert_eq!(links("see [a](b.md#c), `[x](no.md)` and ![d](e.png)"), ["b.md#c", "e.png"]);
}
