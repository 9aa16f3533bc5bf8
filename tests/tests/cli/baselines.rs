//! The recipes that come with the project: all of them are valid, every baseline runs, and runs can be compared.

use std::path::{Path, PathBuf};

use crate::support::{Scratch, workspace};

fn recipes(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("the recipes are part of the repository");
    let mut recipes = entries.map(|entry| entry.expect("a readable entry").path()).collect::<Vec<_>>();
    recipes.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    recipes.sort();
    recipes
}

#[test]
fn every_recipe_is_valid() {
    let scratch = Scratch::new();
    let pipelines = workspace().join("pipelines");
    let all = [recipes(&pipelines), recipes(&pipelines.join("baselines"))].concat();
    assert!(all.len() > 20, "{all:?}");
    for recipe in all {
        // Some recipes are for a copy of a teacher that is not here, one for any teacher.
        let teacher = format!("teacher.card={}", workspace().join("data/teachers/cifar10-wrn-40-2.json").display());
        let any = ["--set", &teacher];
        let given = if recipe.ends_with("default.toml") { &any[..] } else { &[] };
        let path = recipe.to_str().expect("a UTF-8 path");
        let (plan, _) = scratch.succeed("ssdkd", &[&["plan", path][..], given].concat());
        assert!(plan.contains("distilling"), "{plan}");
    }
}

/// Changes that make a recipe a matter of a second, on the shapes and their teacher.
fn tiny(recipe: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(recipe).expect("a readable recipe");
    let strategy =
        ["persistent", "meta", "contrastive"].into_iter().find(|name| text.contains(&format!("[invert.{name}]")));
    let generator = strategy.map(|name| [format!("invert.{name}.width=4"), format!("invert.{name}.latent_size=16")]);
    let teacher = workspace().join("data/teachers/shapes-resnet20.json");
    let teacher = format!("teacher.card={}", teacher.display());
    let settings = [
        &teacher,
        "student.architecture=resnet8",
        "run.warmup_rounds=1",
        "run.rounds=2",
        "invert.batch=10",
        "invert.batches=1",
        "invert.steps=2",
        "distill.steps=2",
        "distill.batch=8",
        "evaluate.data=shapes:0",
        "evaluate.limit=20",
    ];
    let settings = settings.iter().map(ToString::to_string).chain(generator.into_iter().flatten());
    settings.flat_map(|setting| ["--set".to_string(), setting]).collect()
}

#[test]
fn the_recipe_for_any_teacher_asks_for_a_teacher() {
    let scratch = Scratch::new();
    let recipe = workspace().join("pipelines/default.toml");
    let teacher = format!("teacher.card={}", workspace().join("data/teachers/shapes-resnet20.json").display());
    let run = ["run", recipe.to_str().expect("a UTF-8 path")];
    scratch.fail("ssdkd", &run, 2, &["teacher.card is empty", "hint: add `--set teacher.card=", "ssdkd import"]);
    let no_student = [&run[..], &["--set", &teacher, "--set", "student.architecture="]].concat();
    scratch.fail("ssdkd", &no_student, 2, &["student.architecture is empty", "--set student.architecture=NAME"]);
    assert!(!scratch.path("runs").exists());
    let tiny = tiny(&recipe);
    scratch.succeed("ssdkd", &[&run[..], &tiny.iter().map(String::as_str).collect::<Vec<_>>()].concat());
}

#[test]
fn every_baseline_runs_and_all_can_be_compared() {
    let scratch = Scratch::new();
    let mut runs = Vec::new();
    for recipe in recipes(&workspace().join("pipelines/baselines")) {
        let tiny = tiny(&recipe);
        let mut arguments = vec!["run", recipe.to_str().expect("a UTF-8 path")];
        arguments.extend(tiny.iter().map(String::as_str));
        let (out, _) = scratch.succeed("ssdkd", &arguments);
        assert!(out.contains("real ones: class survives a view"), "{out}");
        let name = recipe.file_stem().and_then(|name| name.to_str()).expect("a UTF-8 name");
        runs.push(format!("runs/cifar10-resnet20-resnet20-{name}"));
    }
    let mut arguments = vec!["compare", "--out", "compared"];
    arguments.extend(runs.iter().map(String::as_str));
    let (table, _) = scratch.succeed("ssdkd", &arguments);
    for method in ["DAFL", "DFAD", "DeepInversion", "CMI", "Fast-5", "SSD-KD, paper form"] {
        assert!(table.contains(method), "{method} is not in {table}");
    }
    let rows = std::fs::read(scratch.path("compared/results.json")).unwrap();
    let rows: Vec<serde_json::Value> = serde_json::from_slice(&rows).unwrap();
    assert_eq!(rows.len(), runs.len());
    for row in rows {
        assert_eq!(row["pair"], "resnet20 → resnet8 on shapes");
        assert!(row["machine"].as_str().unwrap().contains("device: cpu"), "{row}");
        assert_eq!((&row["steps"], &row["distinct_images"]), (&4.into(), &30.into()), "{row}");
        assert!(row["last"].is_f64() && row["peak_mib"].as_u64() > Some(0), "{row}");
        assert!(row["command"].as_str().unwrap().contains("--set distill.steps=2"), "{row}");
    }
    let chart =
        std::fs::read_to_string(scratch.path("compared/resnet20-resnet8-on-shapes-over-time-on-cpu.svg")).unwrap();
    assert!(chart.contains("CMI"), "{chart}");
    assert!(scratch.path("compared/resnet20-resnet8-on-shapes-images-cmi.png").exists());
    assert!(table.contains("| CMI | ![CMI](resnet20-resnet8-on-shapes-images-cmi.png) |"), "{table}");
    // What is recorded outlives its run, and a run compared again takes its own place.
    std::fs::remove_dir_all(scratch.path(&runs[1])).unwrap();
    let (again, _) = scratch.succeed("ssdkd", &["compare", "--out", "compared", &runs[0]]);
    assert_eq!(again, table);
    for chart in ["classes.svg", "confidence.svg"] {
        assert!(scratch.path(&runs[0]).join("report").join(chart).exists());
    }
}

#[test]
fn a_run_without_a_report_is_not_compared() {
    let scratch = Scratch::new();
    scratch.fail(
        "ssdkd",
        &["compare", "runs/none"],
        3,
        &["runs/none/report/summary.json", "hint: check the path: there is no folder runs/none"],
    );
    scratch.fail("ssdkd", &["compare", "--out", "none"], 3, &["none/results.json", "name the folders of runs"]);
}
