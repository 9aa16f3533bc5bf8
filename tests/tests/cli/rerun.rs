//! Runs that are made again with other settings, longer, shorter, or in part, over what an earlier one left.

use std::collections::BTreeMap;
use std::fs;

use ssdkd_nn::TeacherCard;

use crate::support::{Scratch, workspace};

/// Five distilling rounds, of whose state one is kept: most of what a round goes on from has been collected in the end.
const LONG: [&str; 4] = ["--set", "run.rounds=5", "--set", "keep.states=1"];

fn run(scratch: &Scratch, runs: &str, changes: &[&str]) -> (String, String) {
    scratch.succeed("ssdkd", &[&["run", "tiny.toml", "--runs", runs][..], &LONG, changes].concat())
}

/// All stages as processes of their own.
fn stage_by_stage(scratch: &Scratch, changes: &[&str]) {
    let stages = ["ssdkd-invert", "ssdkd-balance", "ssdkd-sample", "ssdkd-distill"];
    for round in 0..7 {
        for stage in &stages[..if round < 2 { 2 } else { 4 }] {
            let round = round.to_string();
            scratch.succeed(stage, &[&["tiny.toml", "--round", &round][..], &LONG, changes].concat());
        }
    }
}

/// The results of `runs/tiny` are those of a run with `changes` that began from nothing.
#[track_caller]
fn check_as_from_nothing(scratch: &Scratch, changes: &[&str]) {
    let _ = fs::remove_dir_all(scratch.path("fresh"));
    run(scratch, "fresh", changes);
    let [made, expected] = ["runs/tiny", "fresh/tiny"].map(|run| {
        let mut files = scratch.artefacts(run);
        files.remove("evaluate/students.json"); // remembers the students of before, too
        files
    });
    assert_eq!(made, expected);
}

#[test]
fn a_finished_run_is_made_again_stage_by_stage() {
    let scratch = Scratch::new();
    run(&scratch, "runs", &[]);
    for change in ["distill.lr=0.05", "invert.persistent.lr=0.002"] {
        let changes = ["--set", change];
        stage_by_stage(&scratch, &changes);
        check_as_from_nothing(&scratch, &changes);
    }
}

/// A run with `settings` is made again with `change`: of which rounds which stages do anything.
#[track_caller]
fn check_made_again(settings: &[&str], change: &str, expected: &str) {
    let scratch = Scratch::new();
    let settings = [&["run.rounds=3"], settings].concat();
    let changes = settings.iter().chain([&change]).flat_map(|setting| ["--set", *setting]).collect::<Vec<_>>();
    run(&scratch, "runs", &changes[..2 * settings.len()]);
    let (_, err) = run(&scratch, "runs", &changes);
    let mut made = BTreeMap::<&str, Vec<&str>>::new();
    for line in err.lines().filter(|line| line.contains(" s; ")) {
        let (stage, round) = line.split_once(':').unwrap().0.split_once(' ').unwrap();
        made.entry(stage).or_default().push(round.trim_start_matches("000"));
    }
    let stages = ["invert", "balance", "sample", "distill"].into_iter().filter_map(|stage| {
        let rounds = made.get(stage)?;
        Some(format!("{stage} {}-{}", rounds.first()?, rounds.last()?))
    });
    assert_eq!(stages.collect::<Vec<_>>().join(", "), expected, "{settings:?}, then {change}:\n{err}");
    check_as_from_nothing(&scratch, &changes);
}

#[test]
fn a_change_makes_again_what_depends_on_it_and_nothing_else() {
    // Images that nobody has to trick the student with, in a buffer that forgets the oldest.
    let alone = ["invert.loss.adversarial=0", "balance.eviction=fifo"];
    check_made_again(&alone, "distill.lr=0.05", "sample 3-4, distill 2-4");
    check_made_again(&alone, "sample.alpha=0.5", "sample 2-4, distill 2-4");
    check_made_again(&alone, "balance.new_sample_priority=mean", "sample 2-4, distill 2-4");
    check_made_again(&alone, "invert.persistent.embedding_scale=0.5", "");
    // Whom a buffer that forgets the lowest priorities holds depends on the student; how many of each class does not.
    check_made_again(&["invert.loss.adversarial=0"], "distill.lr=0.05", "balance 4-4, sample 3-4, distill 2-4");
    // The student has no part in the warm-up's images.
    check_made_again(&[], "invert.loss.adversarial=2", "invert 2-4, balance 2-4, sample 2-4, distill 2-4");
    check_made_again(&["sample.enabled=false"], "sample.alpha=0.5", "");
    check_made_again(&["sample.enabled=false"], "distill.lr=0.05", "invert 3-4, balance 3-4, sample 3-4, distill 2-4");
}

#[test]
fn collected_state_is_made_again_where_it_is_needed() {
    let scratch = Scratch::new();
    run(&scratch, "runs", &[]);
    // The first images stay as they are; what they were made by is gone, and the second ones go on from it.
    let changes = ["--set", "balance.capacity=20"];
    let arguments = [&["tiny.toml", "--round", "0"][..], &LONG, &changes].concat();
    scratch.succeed("ssdkd-balance", &arguments);
    let second = [&["tiny.toml", "--round", "1"][..], &LONG, &changes].concat();
    scratch.fail(
        "ssdkd-invert",
        &second,
        3,
        &["the state that invert left in round 0 was collected", "`ssdkd run runs/tiny`"],
    );
    let (_, err) = run(&scratch, "runs", &changes);
    assert!(err.contains("invert 0000: its state was collected; it is needed and is rebuilt"), "{err}");
    check_as_from_nothing(&scratch, &changes);
}

#[test]
fn a_shorter_run_is_reported_and_exported_as_itself() {
    let scratch = Scratch::new();
    run(&scratch, "runs", &[]);
    let short = ["--set", "run.rounds=2"];
    run(&scratch, "runs", &short);
    run(&scratch, "fresh", &short);
    let summary = |run: &str| {
        let text = fs::read(scratch.path(run).join("report/summary.json")).unwrap();
        serde_json::from_slice::<serde_json::Value>(&text).unwrap()
    };
    let (made, expected) = (summary("runs/tiny"), summary("fresh/tiny"));
    for key in ["student_accuracy", "student_accuracy_last5", "distillation_steps", "distinct_images", "buffer", "made"]
    {
        assert_eq!(made[key], expected[key], "{key}");
    }
    assert_eq!(made["curve"].as_array().map(Vec::len), Some(2), "{made}");
    for runs in ["runs/tiny", "fresh/tiny"] {
        scratch.succeed("ssdkd", &["export", runs, "--out", &format!("{runs}-student")]);
    }
    let student = |run: &str| fs::read(scratch.path(&format!("{run}-student")).join("model.safetensors")).unwrap();
    assert!(student("runs/tiny") == student("fresh/tiny"), "the student of the longer run was exported");
}

#[test]
fn an_old_round_made_again_takes_no_shard_from_the_newest_buffer() {
    let scratch = Scratch::new();
    let thrifty = ["--set", "keep.shards=buffer", "--set", "balance.eviction=fifo"];
    run(&scratch, "runs", &thrifty);
    fs::write(scratch.path("runs/tiny/balance/0003/buffer.parquet"), "not a table").unwrap();
    scratch.succeed("ssdkd", &["repair", "runs/tiny"]);
    scratch.succeed("ssdkd", &["verify", "runs/tiny"]);
    // The first distilling round's images are there as well: other settings of distillation go on from there.
    let changes = [&thrifty[..], &["--set", "distill.lr=0.05"]].concat();
    let (_, err) = run(&scratch, "runs", &changes);
    assert!(err.contains("invert 0000 to 0002: fresh"), "{err}");
    check_as_from_nothing(&scratch, &changes);
}

#[test]
fn images_made_again_since_are_not_taken_for_those_of_the_buffer() {
    let scratch = Scratch::new();
    scratch.succeed("ssdkd", &["run", "tiny.toml"]);
    scratch.succeed("ssdkd-invert", &["tiny.toml", "--round", "3", "--set", "invert.persistent.lr=0.002"]);
    let parts = ["invert/0003 was rebuilt after runs/tiny/balance/0003 was made from it", "`ssdkd run`"];
    scratch.fail("ssdkd-distill", &["tiny.toml", "--round", "3", "--force"], 4, &parts);
    scratch.succeed("ssdkd", &["run", "tiny.toml"]);
    scratch.succeed("ssdkd", &["verify", "runs/tiny"]);
}

#[test]
fn nor_are_images_that_another_buffer_took() {
    let scratch = Scratch::new();
    scratch.succeed("ssdkd", &["run", "tiny.toml", "--set", "keep.states=0"]);
    let before = scratch.artefacts("runs/tiny");
    for stage in ["ssdkd-invert", "ssdkd-balance"] {
        scratch.succeed(stage, &["tiny.toml", "--round", "1", "--set", "invert.persistent.lr=0.002"]);
    }
    // The buffer of the second round names rows of the first, which are others now.
    let parts = ["balance/0001 was rebuilt after runs/tiny/balance/0002 was made from it", "`ssdkd run`"];
    scratch.fail("ssdkd-distill", &["tiny.toml", "--round", "2", "--force"], 4, &parts);
    scratch.succeed("ssdkd", &["run", "tiny.toml", "--set", "keep.states=0"]);
    assert_eq!(scratch.artefacts("runs/tiny"), before);
}

#[test]
fn what_other_settings_made_does_not_count() {
    let scratch = Scratch::new();
    scratch.succeed("ssdkd", &["run", "tiny.toml"]);
    // Begun again with another seed, and not finished: all later rounds are those of before.
    let (_, err) = scratch.succeed("ssdkd", &["run", "tiny.toml", "--set", "run.seed=4", "--round", "0"]);
    assert!(err.contains("other settings than its recipe has now, and do not count"), "{err}");
    let summary = fs::read(scratch.path("runs/tiny/report/summary.json")).unwrap();
    let summary = serde_json::from_slice::<serde_json::Value>(&summary).unwrap();
    assert_eq!((&summary["seed"], &summary["distillation_steps"]), (&4.into(), &0.into()), "{summary}");
    assert_eq!((&summary["student_accuracy"], &summary["distinct_images"]), (&serde_json::Value::Null, &24.into()));
    scratch.fail("ssdkd", &["export", "runs/tiny", "--out", "student"], 1, &["the run has no student yet"]);
    let parts = ["the run has no student of round 3", "`ssdkd run runs/tiny` makes it"];
    scratch.fail("ssdkd", &["export", "runs/tiny", "--out", "student", "--round", "3"], 1, &parts);
    assert!(!scratch.path("student").exists());
    // A round of images of another size, which the buffer of before does not fit.
    scratch.succeed("ssdkd-invert", &["tiny.toml", "--round", "3", "--set", "invert.batches=1"]);
    let (out, err) = scratch.succeed("ssdkd", &["report", "runs/tiny"]);
    assert!(err.contains("the report has no pictures: the run has no buffer yet"), "{err}");
    assert!(out.contains("not measured (last round)"), "{out}");
}

#[test]
fn who_cannot_be_served_leaves_the_run_as_it_is() {
    let scratch = Scratch::new();
    scratch.succeed("ssdkd", &["run", "tiny.toml"]);
    let before = scratch.artefacts("runs/tiny");
    let other = ["--set", "run.seed=9"];
    for (stage, round, part) in [
        ("ssdkd-distill", "1", "round 1 is a warm-up round, in which distill has no part"),
        ("ssdkd-sample", "0", "its first round is 2"),
        ("ssdkd-invert", "4", "round 4 is not one of this run's rounds, 0 to 3"),
    ] {
        scratch.fail(stage, &[&["tiny.toml", "--round", round][..], &other].concat(), 2, &[part]);
    }
    scratch.fail(
        "ssdkd-invert",
        &[&["tiny.toml", "--force"][..], &other].concat(),
        2,
        &["name the round with --round N"],
    );
    // What a command has no use for it refuses.
    for (command, flag) in
        [("report", "--round=2"), ("evaluate", "--resume"), ("export", "--resume"), ("status", "--dry-run")]
    {
        scratch.fail(
            "ssdkd",
            &[command, "tiny.toml", flag],
            2,
            &["unexpected argument", flag.split('=').next().unwrap()],
        );
    }
    assert_eq!(scratch.artefacts("runs/tiny"), before);
    // The state of the round before is gone.
    let collected = ["tiny.toml", "--set", "keep.states=1", "--set", "run.rounds=6"];
    scratch.succeed("ssdkd", &[&["run"][..], &collected].concat());
    let before = scratch.artefacts("runs/tiny");
    let other = ["--round", "5", "--set", "invert.persistent.lr=0.002"];
    scratch.fail("ssdkd-invert", &[&collected[..], &other].concat(), 3, &["keep.states"]);
    assert_eq!(scratch.artefacts("runs/tiny"), before);
    scratch.fail("ssdkd", &["run", "tiny.toml", "--set", "run.name=new", "--resume"], 2, &["nothing to resume"]);
    assert!(!scratch.path("runs/new").exists());
}

#[test]
fn what_an_interrupted_rerun_needs_is_not_cleaned_away() {
    let scratch = Scratch::new();
    run(&scratch, "runs", &[]);
    let changes = [&LONG[..], &["--set", "distill.lr=0.05"]].concat();
    for (round, stages) in [("2", &["sample", "distill"][..]), ("3", &["invert", "balance", "sample", "distill"])] {
        for stage in stages {
            scratch.succeed(&format!("ssdkd-{stage}"), &[&["tiny.toml", "--round", round][..], &changes].concat());
        }
    }
    let state = scratch.path("runs/tiny/distill/0003/optimizer.safetensors");
    assert!(state.exists());
    scratch.succeed("ssdkd", &["gc", "runs/tiny", "--yes"]);
    assert!(state.exists(), "the state that the next round goes on from was removed");
    let (_, err) = scratch.succeed("ssdkd", &["run", "runs/tiny"]);
    assert!(!err.contains("was collected"), "{err}");
    check_as_from_nothing(&scratch, &["--set", "distill.lr=0.05"]);
}

#[test]
fn without_a_round_the_first_that_is_not_fresh_is_made() {
    let scratch = Scratch::new();
    for stage in ["ssdkd-invert", "ssdkd-balance"] {
        scratch.succeed(stage, &["tiny.toml", "--round", "0"]);
    }
    let (out, _) = scratch.succeed("ssdkd-invert", &["tiny.toml", "--dry-run"]);
    assert!(out.contains("invert 0001: would run") && !out.contains("invert 0002"), "{out}");
    let (_, err) = scratch.succeed("ssdkd-invert", &["tiny.toml"]);
    assert!(
        err.contains("invert 0000: fresh") && err.contains("invert 0001: ") && !err.contains("invert 0002"),
        "{err}"
    );
}

#[test]
fn a_run_of_another_teacher_is_replaced_only_by_force() {
    let scratch = Scratch::new();
    scratch.succeed("ssdkd", &["run", "tiny.toml"]);
    let teachers = workspace().join("data/teachers");
    let mut card = TeacherCard::load(&teachers.join("shapes-resnet20.json")).unwrap();
    fs::copy(teachers.join(&card.weights), scratch.path(&card.weights)).unwrap();
    card.mean[0] += 0.125;
    scratch.write("other.json", card.to_json());
    let before = scratch.artefacts("runs/tiny");
    let other = ["tiny.toml", "--set", "teacher.card=other.json"];
    let parts = ["runs/tiny was made from another teacher than other.json", "hint: give", "--set run.name=", "--force"];
    scratch.fail("ssdkd", &[&["run"], &other[..]].concat(), 2, &parts);
    scratch.fail("ssdkd", &[&["run"], &other[..], &["--dry-run"]].concat(), 2, &parts);
    scratch.fail("ssdkd-invert", &[&other[..], &["--round", "0"]].concat(), 2, &parts);
    assert_eq!(scratch.artefacts("runs/tiny"), before);
    scratch.succeed("ssdkd", &[&["run"], &other[..], &["--set", "run.name=other"]].concat());
    scratch.succeed("ssdkd", &[&["run"], &other[..], &["--force"]].concat());
    assert_ne!(scratch.artefacts("runs/tiny"), before);
}
