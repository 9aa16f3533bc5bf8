//! Files of one crate import each other one way: whoever reads a file need not read those that use it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Modules by their path in the crate, such as `read::onnx`, each with the modules that it imports by `crate::` or `super::`.
type Imports = BTreeMap<String, BTreeSet<String>>;

/// Adds the code of each module below a folder, without its tests.
fn read(folder: &Path, parent: &str, code: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let module = if parent.is_empty() { name.clone() } else { format!("{parent}::{name}") };
        if path.is_dir() {
            read(&path, &module, code);
        } else if path.extension().is_some_and(|ending| ending == "rs") && !["lib", "main", "tests"].contains(&&*name) {
            let text = fs::read_to_string(&path).expect("a source");
            let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
            let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
            let module = if name == "mod" { parent.into() } else { module };
            code.insert(module, lines.collect::<Vec<_>>().join("\n"));
        }
    }
}

/// Splits `a::{b, c::{d, e}}` and what follows it into `a::b`, `a::c::d` and `a::c::e`.
fn paths(text: &str) -> Vec<String> {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').unwrap_or(text.len());
    let (start, rest) = text.split_at(end);
    let Some(inside) = start.ends_with("::").then(|| rest.strip_prefix('{')).flatten() else {
        return vec![start.into()];
    };
    let (mut depth, mut at, mut parts) = (0, 0, Vec::new());
    for (place, c) in inside.char_indices() {
        match c {
            '{' => depth += 1,
            ',' if depth == 0 => {
                parts.push(&inside[at..place]);
                at = place + 1;
            }
            '}' if depth == 0 => {
                parts.push(&inside[at..place]);
                break;
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    let of = |part: &&str| paths(part.trim()).into_iter().map(|path| format!("{start}{path}")).collect::<Vec<_>>();
    parts.iter().flat_map(of).collect()
}

/// Returns what each module imports.
fn imports(code: &BTreeMap<String, String>) -> Imports {
    let of = |(module, text): (&String, &String)| {
        let parent = module.rsplit_once("::").map_or("", |(parent, _)| parent);
        let mut found = BTreeSet::new();
        for (root, base) in [("crate::", ""), ("super::", parent)] {
            for (place, _) in text.match_indices(root) {
                if text[..place].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
                    continue;
                }
                for path in paths(&text[place + root.len()..]) {
                    let full = if base.is_empty() { path } else { format!("{base}::{path}") };
                    let prefixes = full.match_indices("::").map(|(end, _)| &full[..end]).chain([full.as_str()]);
                    found.extend(prefixes.filter(|prefix| code.contains_key(*prefix)).last().map(String::from));
                }
            }
        }
        found.remove(module);
        (module.clone(), found)
    };
    code.iter().map(of).collect()
}

/// Returns modules that import each other, directly or by others: what is left when those that import nothing that is left are
/// removed, and those that nothing left imports.
fn circles(mut imports: Imports) -> Imports {
    loop {
        let modules = imports.keys().cloned().collect::<BTreeSet<_>>();
        let imported = imports.values().flatten().cloned().collect::<BTreeSet<_>>();
        imports.retain(|module, of| imported.contains(module) && of.iter().any(|other| modules.contains(other)));
        let left = imports.keys().cloned().collect::<BTreeSet<_>>();
        for of in imports.values_mut() {
            of.retain(|other| left.contains(other));
        }
        if left.len() == modules.len() {
            return imports;
        }
    }
}

#[test]
fn files_of_a_crate_import_each_other_one_way() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
    let mut checked = 0;
    for folder in fs::read_dir(crates).expect("crates/").map(|entry| entry.expect("an entry").path().join("src")) {
        let mut code = BTreeMap::new();
        read(&folder, "", &mut code);
        checked += code.len();
        let found = circles(imports(&code));
        assert!(found.is_empty(), "{}: modules import each other: {found:#?}", folder.display());
    }
    assert!(checked > 150, "only {checked} modules were found");
}

#[test]
fn a_circle_is_found_with_what_is_between() {
    let code = [("a", "use crate::b::{X, c::Y};"), ("b", ""), ("b::c", "use super::d::Z;"), ("b::d", "crate::a::f();")];
    let mut code: BTreeMap<_, _> = code.map(|(module, text)| (module.to_string(), text.to_string())).into();
    let found = circles(imports(&code));
    assert_eq!(found.keys().collect::<Vec<_>>(), ["a", "b::c", "b::d"]);
    code.insert("b::d".into(), "use crate::b; // not crate::a::f()".split("//").next().unwrap().into());
    assert!(circles(imports(&code)).is_empty());
}
