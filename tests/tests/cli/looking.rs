//! Commands that only look leave the run as it is.

use std::fs;
use std::process::Command;

use serde_json::Value;
use ssdkd_stage::{RunFolder, RunLock};

use crate::support::{Scratch, binary};

const CHANGED: [&str; 2] = ["--set", "distill.lr=0.05"];

fn command_of(scratch: &Scratch) -> Value {
    let summary = fs::read(scratch.path("runs/tiny/report/summary.json")).unwrap();
    serde_json::from_slice::<Value>(&summary).unwrap()["command"].take()
}

#[test]
fn a_printed_recipe_makes_nothing() {
    let scratch = Scratch::new();
    let export = ["export", "tiny.toml", "--out", "student"];
    for command in [&["run", "tiny.toml"][..], &["evaluate", "tiny.toml"], &["report", "tiny.toml"], &export] {
        let (recipe, _) = scratch.succeed("ssdkd", &[command, &["--print-config"], &CHANGED].concat());
        assert!(recipe.contains("[distill]") && recipe.contains("lr = 0.05"), "{recipe}");
        let (out, err) = scratch.succeed("ssdkd", &[command, &["--dry-run"]].concat());
        assert!(out.contains("would ") && !err.contains("would "), "{command:?}: {out}{err}");
    }
    let (recipe, _) = scratch.succeed("ssdkd", &["plan", "tiny.toml", "--print-config"]);
    assert!(recipe.contains("[distill]"), "{recipe}");
    assert!(!scratch.path("runs").exists() && !scratch.path("student").exists());
    // Nor do they make the run that they are to look into.
    for command in [&["evaluate", "tiny.toml"][..], &["report", "tiny.toml"], &export] {
        scratch.fail(
            "ssdkd",
            command,
            3,
            &["runs/tiny/recipe.toml does not exist", "hint: `ssdkd run tiny.toml` starts it"],
        );
    }
    assert!(!scratch.path("runs").exists() && !scratch.path("student").exists());
}

/// What `make pipeline ARGS=--dry-run` runs.
#[test]
fn a_dry_run_of_the_whole_plan_succeeds_and_writes_nothing() {
    let scratch = Scratch::new();
    let bin = binary("ssdkd").parent().expect("a folder").to_str().expect("a UTF-8 path").to_string();
    for (flag, said) in [("--dry-run", "would write the run's report"), ("--print-config", "[distill]")] {
        let (plan, _) = scratch.succeed("ssdkd", &["plan", "tiny.toml", "--shell", &bin, flag]);
        let mut shell = Command::new("sh");
        shell.args(["-ec", &plan]).current_dir(scratch.folder.path()).env_remove("SSDKD_DATA").env_remove("SSDKD_RUNS");
        let output = shell.output().expect("sh");
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success() && text.contains(said), "{text}");
        assert!(!scratch.path("runs").exists(), "{text}");
    }
}

#[test]
fn who_only_looks_changes_neither_recipe_nor_teacher_nor_command() {
    let scratch = Scratch::new();
    scratch.succeed("ssdkd", &[&["run", "tiny.toml"][..], &CHANGED].concat());
    let kept = || {
        let mut files = scratch.artefacts("runs/tiny");
        files.retain(|path, _| path == "recipe.toml" || path.starts_with("teacher/"));
        files
    };
    let before = kept();
    assert_eq!(before.len(), 3, "{before:?}");
    let command = command_of(&scratch);
    assert_eq!(command, "ssdkd run tiny.toml --set distill.lr=0.05");

    let (_, err) = scratch.succeed("ssdkd", &["report", "runs/tiny"]);
    assert!(!err.contains("other settings"), "{err}");
    assert_eq!(command_of(&scratch), command);
    scratch.succeed("ssdkd", &["run", "runs/tiny"]);
    assert_eq!(command_of(&scratch), command);

    for looking in
        [&["evaluate", "tiny.toml"][..], &["export", "tiny.toml", "--out", "student"], &["report", "tiny.toml"]]
    {
        let (_, err) = scratch.succeed("ssdkd", looking);
        assert!(
            err.contains("runs/tiny was made with other settings") && err.contains("hint: name runs/tiny"),
            "{err}"
        );
        assert_eq!(kept(), before, "{looking:?}");
    }
    // Where and how much to measure is no setting of the run.
    let few = [&["report", "tiny.toml", "--set", "evaluate.last=1"][..], &CHANGED].concat();
    let (_, err) = scratch.succeed("ssdkd", &few);
    assert!(!err.contains("other settings"), "{err}");
    assert_eq!(kept(), before);
}

#[test]
fn who_only_looks_needs_no_lock() {
    let scratch = Scratch::new();
    scratch.succeed("ssdkd", &["run", "tiny.toml"]);
    let run = RunFolder::open(scratch.path("runs/tiny")).unwrap();
    let _lock = RunLock::acquire(&run, "a test").unwrap();
    scratch.succeed("ssdkd", &["export", "tiny.toml", "--out", "student"]);
    scratch.succeed("ssdkd", &["report", "tiny.toml"]);
    scratch.fail("ssdkd", &["evaluate", "tiny.toml"], 1, &["is in use by", "a test"]);
}

#[test]
fn a_run_that_is_gone_on_with_by_its_folder_knows_what_made_it() {
    let scratch = Scratch::new();
    // Stopped before it had a report.
    scratch.succeed("ssdkd-invert", &[&["tiny.toml", "--round", "0"][..], &CHANGED].concat());
    scratch.succeed("ssdkd", &["run", "runs/tiny"]);
    assert_eq!(command_of(&scratch), "ssdkd run tiny.toml --set distill.lr=0.05");
    scratch.succeed("ssdkd", &["run", "runs/tiny", "--set", "evaluate.last=1"]);
    assert_eq!(command_of(&scratch), "ssdkd run tiny.toml --set distill.lr=0.05 --set evaluate.last=1");
}
