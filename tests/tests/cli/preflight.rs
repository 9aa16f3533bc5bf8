//! What would end a run badly after hours is said before its first stage.

use std::fs;

use serde_json::Value;

use crate::support::{Scratch, TINY, workspace};

/// Expects `run`, `plan` and the first stage to refuse a setting, with every part in the error; nothing is made.
#[track_caller]
fn check_refused(settings: &[&str], parts: &[&str]) {
    let scratch = Scratch::new();
    let settings = settings.iter().flat_map(|setting| ["--set", setting]).collect::<Vec<_>>();
    for (program, words) in [
        ("ssdkd", &["run", "tiny.toml"][..]),
        ("ssdkd", &["run", "tiny.toml", "--dry-run"]),
        ("ssdkd", &["plan", "tiny.toml"]),
        ("ssdkd", &["plan", "tiny.toml", "--shell", "bin"]),
        ("ssdkd-invert", &["tiny.toml", "--round", "0"]),
    ] {
        scratch.fail(program, &[words, &settings].concat(), 2, parts);
    }
    assert!(!scratch.path("runs").exists());
}

/// Expects `plan` and the first stage to warn of a setting once each, with every part in the warning.
#[track_caller]
fn check_warned(settings: &[&str], parts: &[&str]) {
    let scratch = Scratch::new();
    let settings = settings.iter().flat_map(|setting| ["--set", setting]).collect::<Vec<_>>();
    for (program, words) in [("ssdkd", &["plan", "tiny.toml"][..]), ("ssdkd-invert", &["tiny.toml", "--round", "0"])] {
        let (_, err) = scratch.succeed(program, &[words, &settings].concat());
        assert_eq!(err.matches("warning: ").count(), 1, "{err}");
        for part in parts {
            assert!(err.contains(part), "{part:?} is not in:\n{err}");
        }
    }
    // The run was begun with it: it is not said again.
    let (_, err) = scratch.succeed("ssdkd-balance", &[&["tiny.toml", "--round", "0"], &settings[..]].concat());
    assert!(!err.contains("warning: "), "{err}");
}

/// Writes `changed.json`, the shipped teacher's card with changes, and `tiny.toml` with it as its teacher.
fn with_card(scratch: &Scratch, change: impl Fn(&mut Value)) {
    let teachers = workspace().join("data/teachers");
    let mut card = serde_json::from_slice(&fs::read(teachers.join("shapes-resnet20.json")).unwrap()).unwrap();
    change(&mut card);
    scratch.write("changed.json", card.to_string());
    fs::copy(teachers.join("shapes-resnet20.safetensors"), scratch.path("shapes-resnet20.safetensors")).unwrap();
    scratch.write("tiny.toml", TINY.replace("TEACHER", "changed.json"));
}

#[test]
fn a_buffer_smaller_than_a_batch_is_refused() {
    check_refused(
        &["balance.capacity=7"],
        &["balance.capacity is 7", "distill.batch is 8", "hint: set balance.capacity"],
    );
}

#[test]
fn a_student_of_another_kind_is_refused() {
    let parts = ["one labels images and the other pixels", "hint: set student.architecture to resnet8"];
    check_refused(&["student.architecture=fpn-resnet8"], &parts);
}

#[test]
fn a_student_larger_than_its_teacher_is_warned_of() {
    check_warned(
        &["student.architecture=resnet32"],
        &["resnet32 has 4", "resnet20 with 269722", "hint: take a smaller"],
    );
}

#[test]
fn a_step_larger_than_the_first_images_is_warned_of() {
    let parts = ["the student starts with 12 images", "distill.batch is 16"];
    check_warned(&["invert.batch=4", "invert.batches=1", "balance.capacity=16", "distill.batch=16"], &parts);
}

#[test]
fn a_teacher_with_one_class_is_refused() {
    let scratch = Scratch::new();
    with_card(&scratch, |card| (card["classes"], card["class_names"]) = (1.into(), vec!["all"].into()));
    scratch.fail("ssdkd", &["run", "tiny.toml"], 2, &["the teacher has one class", "hint: take a teacher with two"]);
    assert!(!scratch.path("runs").exists());
}

#[test]
fn images_of_any_size_are_planned() {
    let scratch = Scratch::new();
    with_card(&scratch, |card| card["input"] = vec![3, 30, 34].into());
    let (plan, _) = scratch.succeed("ssdkd", &["plan", "tiny.toml"]);
    assert!(plan.contains("for an image of 30×34"), "{plan}");
}

#[test]
fn fewer_places_in_the_buffer_than_classes_are_warned_of() {
    let scratch = Scratch::new();
    let names = (0..41).map(|class| class.to_string()).collect::<Vec<_>>();
    with_card(&scratch, |card| (card["classes"], card["class_names"]) = (41.into(), names.clone().into()));
    // The weights are of ten classes, so the run ends after its warnings.
    scratch.fail("ssdkd", &["run", "tiny.toml"], 4, &["balance.capacity is 40, and the teacher has 41 classes"]);
}

#[test]
fn weights_in_the_place_of_a_card_are_named_with_their_card() {
    let scratch = Scratch::new();
    with_card(&scratch, |_| ());
    scratch.write("alone.pth", "weights");
    let card = |name: &str, parts: &[&str]| {
        scratch.fail("ssdkd", &["run", "tiny.toml", "--set", &format!("teacher.card={name}")], 2, parts);
    };
    card(
        "alone.pth",
        &["alone.pth, a file of weights", "hint: `ssdkd import alone.pth --out alone.json` makes a card"],
    );
    fs::copy(scratch.path("changed.json"), scratch.path("shapes-resnet20.json")).unwrap();
    card("shapes-resnet20.safetensors", &["a file of weights", "hint: set teacher.card to shapes-resnet20.json"]);
}

#[test]
fn a_run_that_will_not_be_measured_is_told_how_to_do_it_later() {
    let scratch = Scratch::new();
    let (out, err) = scratch.succeed("ssdkd", &["run", "tiny.toml", "--set", "evaluate.data="]);
    assert!(err.starts_with("warning: there is no data to measure on"), "{err}");
    assert_eq!(err.matches("no data to measure on").count(), 1, "{err}");
    assert!(out.contains("not measured"), "{out}");
    let hint = err.lines().find(|line| line.starts_with("hint: ")).expect("a hint");
    let command = hint.split('`').nth(1).expect("a command").replace("FOLDER", "shapes:0");
    let words = command.split(' ').collect::<Vec<_>>();
    scratch.succeed(words[0], &words[1..]);
    let (out, _) = scratch.succeed("ssdkd", &["report", "runs/tiny"]);
    assert!(!out.contains("not measured"), "{out}");
}

#[test]
fn data_that_cannot_be_read_is_refused_before_the_first_stage() {
    let scratch = Scratch::new();
    fs::create_dir_all(scratch.path("images/test/cat")).unwrap();
    scratch.write("images/test/cat/broken.png", b"\x89PNG but no more");
    scratch.fail("ssdkd", &["run", "tiny.toml", "--set", "evaluate.data=images"], 4, &["broken.png", "hint:"]);
    assert!(!scratch.path("runs").exists());
    // A plan says so, and estimates all the same.
    let (plan, err) = scratch.succeed("ssdkd", &["plan", "tiny.toml", "--set", "evaluate.data=nowhere"]);
    assert!(err.contains("warning: nowhere is missing") && plan.contains("time  "), "{err}{plan}");
}

#[test]
fn data_of_more_classes_than_the_teacher_knows_is_refused_before_the_first_stage() {
    let scratch = Scratch::new();
    scratch.succeed("ssdkd", &["run", "tiny.toml", "--runs", "other"]);
    for class in 0..11 {
        fs::create_dir_all(scratch.path(&format!("images/test/c{class}"))).unwrap();
        let image = scratch.path(&format!("images/test/c{class}/one.png"));
        fs::copy(scratch.path("other/tiny/report/strip.png"), image).unwrap();
    }
    let arguments = ["run", "tiny.toml", "--set", "evaluate.data=images"];
    scratch.fail("ssdkd", &arguments, 2, &["images is not for this teacher", "11 classes", "only 10", "hint:"]);
    assert!(!scratch.path("runs").exists());
    fs::remove_dir_all(scratch.path("images/test/c10")).unwrap();
    fs::remove_dir_all(scratch.path("images/test/c9")).unwrap();
    let (_, err) = scratch.succeed("ssdkd", &arguments);
    assert!(err.contains("images has 9 classes, and the teacher 10"), "{err}");
    assert_eq!(err.matches("are not called as the model's are").count(), 1, "{err}");
}
