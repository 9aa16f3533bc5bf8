//! Whole runs: chained binaries, one process, second runs, changed recipes.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use ssdkd_shards::{DrawRow, ObservedRow, Row, tables};

use crate::support::Scratch;

/// The chain that `make pipeline` runs.
fn chain(scratch: &Scratch, runs: &str) {
    for round in 0..4 {
        let round_text = round.to_string();
        let arguments = ["tiny.toml", "--runs", runs, "--round", &round_text];
        for stage in ["ssdkd-invert", "ssdkd-balance"] {
            scratch.succeed(stage, &arguments);
        }
        if round >= 2 {
            for stage in ["ssdkd-sample", "ssdkd-distill"] {
                scratch.succeed(stage, &arguments);
            }
        }
    }
    scratch.succeed("ssdkd", &["evaluate", "tiny.toml", "--runs", runs]);
    scratch.succeed("ssdkd", &["report", "tiny.toml", "--runs", runs]);
}

#[test]
fn one_process_and_many_leave_the_same_bytes_at_any_thread_count() {
    let scratch = Scratch::new();
    chain(&scratch, "chained");
    scratch.succeed("ssdkd", &["run", "tiny.toml", "--runs", "whole", "--threads", "1"]);
    scratch.succeed("ssdkd", &["run", "tiny.toml", "--runs", "threaded", "--threads", "3"]);
    let chained = scratch.artefacts("chained/tiny");
    assert!(chained.keys().any(|path| path == "distill/0003/student.safetensors"), "{:?}", chained.keys());
    assert_eq!(chained, scratch.artefacts("whole/tiny"));
    assert_eq!(chained, scratch.artefacts("threaded/tiny"));
}

/// Rows of a round's table.
fn table<R: Row>(scratch: &Scratch, path: &str) -> Vec<R> {
    let path = scratch.path(path);
    tables::decode(fs::read(&path).unwrap(), &path).unwrap()
}

#[test]
fn passes_show_the_same_views_in_other_orders() {
    let scratch = Scratch::new();
    let settings = ["distill.steps=12", "distill.passes=3", "distill.feature_distillation=5.0"];
    let settings = settings.iter().flat_map(|setting| ["--set", *setting]).collect::<Vec<_>>();
    scratch.succeed("ssdkd", &[&["run", "tiny.toml"], &settings[..]].concat());
    let drawn = table::<DrawRow>(&scratch, "runs/tiny/sample/0003/draws.parquet");
    let observed = table::<ObservedRow>(&scratch, "runs/tiny/distill/0003/observed.parquet");
    assert_eq!((drawn.len(), observed.len()), (4 * 8, 12 * 8));
    let sorted = |mut ids: Vec<u64>| {
        ids.sort_unstable();
        ids
    };
    let ids = drawn.iter().map(|row| row.sample_id).collect::<Vec<_>>();
    let passes = observed.chunks(ids.len()).map(|pass| pass.iter().map(|row| row.sample_id).collect::<Vec<_>>());
    let passes = passes.collect::<Vec<_>>();
    assert_eq!(passes[0], ids);
    assert!(passes[1] != ids && passes[2] != ids && passes[1] != passes[2], "{passes:?}");
    assert!(passes.iter().all(|pass| sorted(pass.clone()) == sorted(ids.clone())), "{passes:?}");
    let places = observed.iter().map(|row| (row.step, row.slot)).collect::<Vec<_>>();
    assert_eq!(places, (0..12).flat_map(|step| (0..8).map(move |slot| (step, slot))).collect::<Vec<_>>());
    scratch.fail(
        "ssdkd",
        &["run", "tiny.toml", "--set", "distill.passes=5"],
        2,
        &["distill.passes is 5; it must be a whole number from 1 to distill.steps, 2"],
    );
}

#[test]
fn the_shell_plan_is_the_chain() {
    let scratch = Scratch::new();
    let (plan, _) = scratch.succeed("ssdkd", &["plan", "tiny.toml", "--shell", "BIN"]);
    let lines = plan.lines().filter(|line| line.contains("--round")).collect::<Vec<_>>();
    assert_eq!(lines.len(), 2 * 2 + 2 * 4, "{plan}");
    assert!(lines[0].contains("BIN/ssdkd-invert") && lines[0].contains("--round 0"), "{plan}");
    assert!(lines[11].contains("BIN/ssdkd-distill") && lines[11].contains("--round 3"), "{plan}");
    // A report is written even if nothing can be measured, and the failure is not forgotten.
    let last = plan.lines().skip_while(|line| !line.contains("evaluate")).collect::<Vec<_>>();
    assert!(last[0].ends_with(" || failed=$?") && last[1].starts_with("BIN/ssdkd report "), "{plan}");
    assert_eq!(last[2..], ["exit ${failed:-0}"]);
    let (one, _) = scratch.succeed("ssdkd", &["plan", "tiny.toml", "--shell", "BIN", "--round", "2"]);
    assert_eq!(one.lines().filter(|line| line.contains("--round 2")).count(), 4, "{one}");
    let lost = ["plan", "tiny.toml", "--shell", "BIN", "--set", "evaluate.data=nowhere"];
    scratch.fail("ssdkd", &lost, 3, &["nowhere is missing"]);
}

#[test]
fn a_second_run_does_nothing_and_says_so() {
    let scratch = Scratch::new();
    scratch.succeed("ssdkd", &["run", "tiny.toml"]);
    let before = scratch.artefacts("runs/tiny");
    let modified = |path: &str| fs::metadata(scratch.path(path)).and_then(|data| data.modified()).unwrap();
    let manifest = "runs/tiny/distill/0003/manifest.json";
    let made = modified(manifest);
    let (_, err) = scratch.succeed("ssdkd", &["run", "tiny.toml"]);
    assert!(err.contains("nothing to do"), "{err}");
    assert_eq!(modified(manifest), made);
    assert_eq!(before, scratch.artefacts("runs/tiny"));
    let (_, err) = scratch.succeed("ssdkd-balance", &["tiny.toml", "--round", "1"]);
    assert!(err.contains("fresh"), "{err}");
}

#[test]
fn a_student_may_be_a_smaller_copy_of_its_teacher() {
    let scratch = Scratch::new();
    let student = "runs/tiny/distill/0002/student.safetensors";
    scratch.succeed("ssdkd", &["run", "tiny.toml"]);
    let random = fs::read(scratch.path(student)).unwrap();
    let copy = ["run", "tiny.toml", "--set", "student.architecture=teacher-blocks*0.33"];
    let (_, err) = scratch.succeed("ssdkd", &copy);
    let started = fs::read(scratch.path(student)).unwrap();
    assert_ne!(started, random);
    // The warm-up knows no student.
    assert!(
        err.contains("balance 0000 to 0001: fresh") && err.contains("invert 0002: stale: student.architecture"),
        "{err}"
    );
    scratch.succeed("ssdkd", &[&copy[..], &["--set", "student.start=random"]].concat());
    assert_ne!(fs::read(scratch.path(student)).unwrap(), started);
    let other = ["run", "tiny.toml", "--set", "student.start=teacher"];
    scratch.fail(
        "ssdkd",
        &other,
        2,
        &["is no smaller copy of the teacher", "hint: set student.architecture to teacher*0.5"],
    );
    let narrow = ["run", "tiny.toml", "--set", "student.architecture=teacher*0.5"];
    scratch.fail("ssdkd", &narrow, 2, &["layer2.0.shortcut", "channels of zeros", "ssdkd shrink CARD --list"]);
}

/// Gives every other file below `folder` the one time, and the rest the other.
fn jump(folder: &Path, times: [SystemTime; 2], count: &mut usize) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            jump(&path, times, count);
        } else {
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(times[*count % 2]).unwrap();
            *count += 1;
        }
    }
}

#[test]
fn a_clock_that_jumps_changes_nothing() {
    let scratch = Scratch::new();
    scratch.succeed("ssdkd", &["run", "tiny.toml"]);
    let before = scratch.artefacts("runs/tiny");
    let (past, future) = (SystemTime::UNIX_EPOCH, SystemTime::now() + Duration::from_secs(50 * 365 * 24 * 3600));
    let mut files = 0;
    jump(&scratch.path("runs/tiny"), [past, future], &mut files);
    assert!(files > before.len(), "{files}");
    let (_, err) = scratch.succeed("ssdkd", &["run", "tiny.toml"]);
    assert!(err.contains("nothing to do"), "{err}");
    fs::remove_dir_all(scratch.path("runs/tiny/sample/0003")).unwrap();
    jump(&scratch.path("runs/tiny"), [future, past], &mut files);
    scratch.succeed("ssdkd", &["run", "tiny.toml"]);
    assert_eq!(before, scratch.artefacts("runs/tiny"));
}

#[test]
fn a_changed_key_reruns_what_depends_on_it_and_says_why() {
    let scratch = Scratch::new();
    scratch.succeed("ssdkd", &["run", "tiny.toml"]);
    let before = scratch.artefacts("runs/tiny");
    let (_, err) = scratch.succeed("ssdkd-distill", &["tiny.toml", "--round", "2", "--set", "distill.lr=0.05"]);
    assert!(err.contains("distill.lr 0.1 → 0.05"), "{err}");
    let after = scratch.artefacts("runs/tiny");
    let changed = before.keys().filter(|path| before.get(*path) != after.get(*path)).collect::<Vec<_>>();
    assert!(changed.iter().all(|path| path.starts_with("distill/0002/") || *path == "recipe.toml"), "{changed:?}");
    // Back to the recipe as it was: the same bytes again.
    scratch.succeed("ssdkd", &["run", "tiny.toml"]);
    assert_eq!(before, scratch.artefacts("runs/tiny"));
}

#[test]
fn other_settings_of_distillation_go_on_from_the_warm_up() {
    let scratch = Scratch::new();
    let run = |runs: &str, lr| {
        let shape = ["--set", "run.rounds=3", "--set", "keep.states=1", "--set", lr];
        scratch.succeed("ssdkd", &[&["run", "tiny.toml", "--runs", runs][..], &shape].concat()).1
    };
    run("runs", "distill.lr=0.1");
    let err = run("runs", "distill.lr=0.05");
    assert!(err.contains("invert 0000 to 0002: fresh") && err.contains("distill.lr 0.1 → 0.05"), "{err}");
    run("fresh", "distill.lr=0.05");
    let made = ["runs/tiny", "fresh/tiny"].map(|run| {
        let mut files = scratch.artefacts(run);
        files.remove("evaluate/students.json"); // remembers the students of before, too
        files
    });
    assert_eq!(made[0], made[1]);
}

#[test]
fn the_summary_holds_the_promised_numbers() {
    let scratch = Scratch::new();
    let (out, _) = scratch.succeed("ssdkd", &["run", "tiny.toml"]);
    assert!(out.contains("teacher") && out.contains("student"), "{out}");
    let text = fs::read(scratch.path("runs/tiny/report/summary.json")).unwrap();
    let summary: serde_json::Value = serde_json::from_slice(&text).unwrap();
    for key in ["teacher_accuracy", "student_accuracy"] {
        assert!((0.0..=1.0).contains(&summary[key].as_f64().unwrap()), "{summary}");
    }
    assert!(summary["student_accuracy_last5"]["mean"].is_f64() && summary["student_accuracy_last5"]["std"].is_f64());
    assert_eq!(summary["distinct_images"], 4 * 24);
    assert_eq!(summary["distillation_steps"], 4);
    assert_eq!(summary["seed"], 3);
    assert!(summary["student_parameters"].as_u64() < summary["teacher_parameters"].as_u64());
    let seconds = |key: &str| summary["seconds"][key].as_f64().unwrap();
    let parts = ["invert", "balance", "sample", "distill"].map(seconds);
    assert!((parts.iter().sum::<f64>() - seconds("total")).abs() < 1e-6 && parts.iter().all(|&part| part > 0.0));
    let picture = fs::read(scratch.path("runs/tiny/report/buffer.png")).unwrap();
    assert!(picture.starts_with(b"\x89PNG"));
}

#[test]
fn a_dry_run_writes_nothing() {
    let scratch = Scratch::new();
    let (out, _) = scratch.succeed("ssdkd-invert", &["tiny.toml", "--round", "0", "--dry-run"]);
    assert!(out.contains("missing"), "{out}");
    let (out, _) = scratch.succeed("ssdkd", &["run", "tiny.toml", "--dry-run"]);
    let lines =
        ["invert 0000", "balance 0000 to 0003", "invert 0001 to 0003", "sample 0002 to 0003", "distill 0002 to 0003"];
    assert_eq!(out.matches("would run (").count(), lines.len(), "{out}");
    assert!(lines.iter().all(|line| out.contains(&format!("{line}: would run ("))), "{out}");
    assert!(!scratch.path("runs/tiny/invert").exists());
}

#[test]
fn a_dry_run_of_one_stage_names_the_input_that_is_missing() {
    let scratch = Scratch::new();
    let (out, _) = scratch.succeed("ssdkd-distill", &["tiny.toml", "--round", "3", "--dry-run"]);
    let expected = "distill 0003: would run (not known yet: the output of sample, round 3, is missing: ";
    assert!(out.contains(expected), "{out}");
}

#[test]
fn a_dry_run_follows_what_would_change() {
    let scratch = Scratch::new();
    scratch.succeed("ssdkd", &["run", "tiny.toml"]);
    let (out, _) = scratch.succeed("ssdkd", &["run", "tiny.toml", "--dry-run", "--set", "distill.lr=0.05"]);
    assert!(out.contains("distill 0002: would run (stale: distill.lr 0.1 → 0.05)"), "{out}");
    // The next round's images are made against that student; the rounds before it stay.
    assert!(out.contains("invert 0003: would run (distill 0002, which it reads, would run)"), "{out}");
    assert!(!out.contains("sample 0002: would run"), "{out}");
}

#[test]
fn a_plan_says_what_the_run_will_cost() {
    let scratch = Scratch::new();
    let (plan, _) = scratch.succeed("ssdkd", &["plan", "tiny.toml"]);
    for part in ["2 warm-up + 2 distilling", "96 synthesized, 40 in the buffer", "4 of 8 images", "time       about "] {
        assert!(plan.contains(part), "{part:?} is not in:\n{plan}");
    }
    assert!(!scratch.path("runs").exists(), "a plan made something");
    let missing = fs::read_to_string(scratch.path("tiny.toml")).unwrap().replace("shapes-resnet20", "nobody");
    scratch.write("missing.toml", missing);
    let (plan, _) = scratch.succeed("ssdkd", &["plan", "missing.toml"]);
    assert!(plan.contains("cost       not known: ") && plan.contains("nobody.json"), "{plan}");
}
