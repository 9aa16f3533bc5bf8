//! Networks of images that are wider than they are high.

use std::fs;

use serde_json::Value;
use ssdkd_nn::TeacherCard;

use crate::support::{Scratch, TINY, workspace};

/// Height and width of the images.
const SIZE: [usize; 2] = [24, 40];

/// A folder with a network of the shapes as `teacher.json`, at [`SIZE`].
fn scratch(teacher: &str) -> Scratch {
    let scratch = Scratch::new();
    let teachers = workspace().join("data/teachers");
    let mut card = TeacherCard::load(&teachers.join(teacher)).unwrap();
    fs::copy(teachers.join(&card.weights), scratch.path(&card.weights)).unwrap();
    card.input = [3, SIZE[0], SIZE[1]];
    scratch.write("teacher.json", card.to_json());
    scratch
}

/// Height and width of a PNG.
fn png_size(scratch: &Scratch, file: &str) -> [usize; 2] {
    let png = fs::read(scratch.path(file)).unwrap();
    [20, 16].map(|at| u32::from_be_bytes(png[at..at + 4].try_into().unwrap()) as usize)
}

#[test]
fn a_run_of_oblong_images_is_planned_made_measured_and_drawn() {
    let scratch = scratch("shapes-resnet20.json");
    let recipe = TINY.replace("TEACHER", "teacher.json").replace("[invert]", "[invert]\nstrategy = \"pixels\"");
    let (before, after) = recipe.split_once("[invert.persistent]").unwrap();
    scratch.write("tiny.toml", before.to_string() + &after[after.find("[balance]").unwrap()..]);
    let (plan, _) = scratch.succeed("ssdkd", &["plan", "tiny.toml", "--threads", "1"]);
    assert!(plan.contains("time       about") && plan.contains("disk       about"), "{plan}");
    let settings = ["--set", "sample.refresh=all", "--set", "distill.feature_distillation=3.0"];
    scratch.succeed("ssdkd", &[&["run", "tiny.toml", "--threads", "1"], &settings[..]].concat());
    let summary: Value =
        serde_json::from_slice(&fs::read(scratch.path("runs/tiny/report/summary.json")).unwrap()).unwrap();
    assert!(summary["student_accuracy"].is_number() && summary["teacher_accuracy"].as_f64() > Some(0.5), "{summary}");
    // Images are drawn twice as large, in one row.
    let [height, width] = png_size(&scratch, "runs/tiny/report/strip.png");
    assert_eq!(height, 2 + (2 * SIZE[0] + 2));
    assert_eq!((width - 2) % (2 * SIZE[1] + 2), 0);
}

#[test]
fn masks_of_oblong_networks_are_oblong() {
    let scratch = scratch("shapes-masks-fpn-resnet20.json");
    let picture = workspace().join("tests/golden/resize/source.png");
    scratch.succeed("ssdkd", &["predict", "teacher.json", picture.to_str().unwrap(), "--out", "masks"]);
    assert_eq!(png_size(&scratch, "masks/source.png"), SIZE);
}

#[test]
fn evaluation_resizes_masks_with_their_oblong_images() {
    let scratch = scratch("shapes-masks-fpn-resnet20.json");
    let arguments = ["teacher.json", "--data", "shapes-masks:0", "--limit", "60", "--json"];
    let (json, _) = scratch.succeed("ssdkd-evaluate", &arguments);
    let measured: Value = serde_json::from_str(&json).unwrap();
    // Transposed masks would have little in common with what the network sees.
    assert!(measured["mean_iou"].as_f64() > Some(0.3), "{measured}");
}
