//! `docs/recipe.md` and `docs/recipe.schema.json` are what the code says. `make docs-recipe` writes them.

use std::path::Path;

use ssdkd_context::recipe::{markdown, schema_json};

#[track_caller]
fn check_document(name: &str, generated: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, generated).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = generated.lines().zip(written.lines()).find(|(generated, written)| generated != written);
    assert!(written == generated, "docs/{name} is stale: run `make docs-recipe`\nfirst difference: {differs:?}");
}

#[test]
fn the_reference_of_the_recipe_is_that_of_the_code() {
    check_document("recipe.md", &markdown());
}

#[test]
fn the_schema_for_editors_is_that_of_the_code() {
    check_document("recipe.schema.json", &schema_json());
}
