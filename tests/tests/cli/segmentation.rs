//! A run whose networks label pixels.

use std::fs;

use serde_json::Value;

use crate::support::{Scratch, TINY, workspace};

/// A folder with `tiny.toml` for the teacher of the shapes' pixels.
fn scratch() -> Scratch {
    let scratch = Scratch::new();
    let teacher = workspace().join("data/teachers/shapes-masks-fpn-resnet20.json");
    let recipe = TINY.replace("TEACHER", teacher.to_str().expect("a UTF-8 path"));
    let recipe = recipe.replace("resnet8", "fpn-resnet8").replace("shapes:0", "shapes-masks:0");
    scratch.write("tiny.toml", recipe + "\n[invert.phi]\ndiversity = \"off\"\n");
    scratch
}

#[test]
fn a_run_of_pixels_is_measured_drawn_and_exported() {
    let scratch = scratch();
    let (_, said) = scratch.succeed("ssdkd", &["run", "tiny.toml", "--threads", "1"]);
    assert!(!said.contains("error"), "{said}");
    let summary: Value =
        serde_json::from_slice(&fs::read(scratch.path("runs/tiny/report/summary.json")).unwrap()).unwrap();
    let share = |key: &str| summary[key].as_f64().unwrap();
    assert!(share("teacher_accuracy") > 0.85 && share("student_accuracy") < 0.5, "{summary}");
    let (report, _) = scratch.succeed("ssdkd", &["report", "runs/tiny"]);
    assert!(report.contains("fpn-resnet20 with 282395 parameters: mean IoU"), "{report}");
    // A row of masks under each row of images.
    let height = |file: &str| {
        let png = fs::read(scratch.path(file)).unwrap();
        u32::from_be_bytes(png[20..24].try_into().unwrap())
    };
    assert_eq!(height("runs/tiny/report/buffer.png"), 2 + 22 * (2 * 32 + 2));
    assert_eq!(height("runs/tiny/report/strip.png"), 2 + 2 * (2 * 32 + 2));

    scratch.succeed("ssdkd", &["export", "runs/tiny", "--out", "student"]);
    let card = fs::read_dir(scratch.path("student")).unwrap().map(|entry| entry.unwrap().path());
    let card = card.filter(|path| path.extension().is_some_and(|ending| ending == "json")).collect::<Vec<_>>();
    let measure = |data: &str| {
        vec![card[0].to_str().unwrap().to_owned(), "--data".into(), data.into(), "--limit".into(), "40".into()]
    };
    let arguments = measure("shapes-masks:0");
    let arguments = arguments.iter().map(String::as_str).chain(["--json"]).collect::<Vec<_>>();
    let (json, _) = scratch.succeed("ssdkd-evaluate", &arguments);
    let measured: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(measured["mean_iou"], summary["student_accuracy"]);
    assert_eq!(measured["architecture"], "fpn-resnet8");
    let arguments = measure("shapes:0");
    let arguments = arguments.iter().map(String::as_str).collect::<Vec<_>>();
    scratch.fail("ssdkd-evaluate", &arguments, 1, &["labels pixels", "no masks", "hint:"]);
}

#[test]
fn one_process_and_many_leave_the_same_bytes() {
    let scratch = scratch();
    // With a pass of the student over the buffer, and views that are seen twice.
    let settings =
        ["--set", "sample.refresh=all", "--set", "distill.passes=2", "--set", "distill.feature_distillation=3.0"];
    scratch.succeed("ssdkd", &[&["run", "tiny.toml", "--runs", "whole", "--threads", "1"], &settings[..]].concat());
    for round in ["0", "1", "2", "3"] {
        let stages = ["ssdkd-invert", "ssdkd-balance", "ssdkd-sample", "ssdkd-distill"];
        for stage in &stages[..if round < "2" { 2 } else { 4 }] {
            scratch.succeed(stage, &[&["tiny.toml", "--runs", "chained", "--round", round], &settings[..]].concat());
        }
    }
    for command in ["evaluate", "report"] {
        scratch.succeed("ssdkd", &[&[command, "tiny.toml", "--runs", "chained"], &settings[..]].concat());
    }
    assert_eq!(scratch.artefacts("chained/tiny"), scratch.artefacts("whole/tiny"));
}

#[test]
fn images_and_pixels_do_not_mix() {
    let scratch = scratch();
    let run = |setting: &str, parts: &[&str]| scratch.fail("ssdkd", &["run", "tiny.toml", "--set", setting], 2, parts);
    run(
        "student.architecture=resnet8",
        &["one labels images and the other pixels", "set student.architecture to fpn-resnet8"],
    );
    run("student.architecture=vgg11", &["set student.architecture to fpn-resnet20"]);
    run("invert.phi.diversity=share", &["invert.phi.diversity must be \"off\"", "the buffer counts images", "hint:"]);
    run(
        "evaluate.data=shapes:0",
        &["shapes:0 is not for this teacher: fpn-resnet20 labels pixels", "no masks", "such as shapes-masks"],
    );
    run("invert.targets=balanced", &["invert.targets must be \"predicted\"", "hint:"]);
    let teach = ["--data", "shapes:0", "--out", "teacher", "--architecture", "fpn-resnet8"];
    let of_images = workspace().join("data/teachers/shapes-resnet20.json");
    let of_pixels = workspace().join("data/teachers/shapes-masks-fpn-resnet20.json");
    let [of_images, of_pixels] = [&of_images, &of_pixels].map(|path| path.to_str().expect("a UTF-8 path"));
    let beside = [of_pixels, "--teacher", of_images, "--data", "shapes-masks:0"];
    scratch.fail("ssdkd-evaluate", &beside, 2, &["knows 10 classes"]);
    scratch.fail("ssdkd-teach", &teach, 2, &["shapes:0", "no masks", "such as shapes-masks"]);
}
