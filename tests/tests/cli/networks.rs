//! Networks from `.pt2` and ONNX files as teachers and as students.

use std::fs;

use ssdkd_nn::TeacherCard;

use crate::support::{Scratch, TINY, workspace};

/// A scratch folder whose recipe `tiny.toml` takes `teacher.json` and measures nothing.
fn scratch() -> Scratch {
    let scratch = Scratch::new();
    scratch.write("tiny.toml", TINY.replace("TEACHER", "teacher.json").replace("shapes:0", ""));
    scratch
}

/// Imports a network of `tests/golden/graph` as `card` with the given flags; returns what is printed.
#[track_caller]
fn import(scratch: &Scratch, file: &str, card: &str, flags: &[&str]) -> String {
    let file = workspace().join("tests/golden/graph").join(file);
    let arguments = ["import", file.to_str().unwrap(), "--out", card, "--normalization", "half"];
    scratch.succeed("ssdkd", &[&arguments, flags].concat()).0
}

/// The bytes of the student that a run left in its last round.
fn student(scratch: &Scratch, run: &str) -> Vec<u8> {
    fs::read(scratch.path(run).join("distill/0003/student.safetensors")).unwrap()
}

#[test]
fn a_network_from_a_file_is_distilled_at_another_size() {
    for (file, flags) in
        [("same.pt2", &["--size", "40x56"][..]), ("inverted.onnx", &["--size", "72"]), ("shuffle.pt2", &[])]
    {
        let scratch = scratch();
        let printed = import(&scratch, file, "teacher.json", flags);
        assert!(printed.contains("batch norms") && printed.contains("multiply-adds"), "{printed}");
        let settings = ["--set", "distill.feature_distillation=1.0"];
        scratch.succeed("ssdkd", &[&["run", "tiny.toml", "--threads", "1"], &settings[..]].concat());
        scratch.succeed("ssdkd", &[&["export", "tiny.toml", "--out", "student"], &settings[..]].concat());
        let (teacher, student) =
            (TeacherCard::load(&scratch.path("teacher.json")), TeacherCard::load(&scratch.path("student/card.json")));
        let (teacher, student) = (teacher.unwrap(), student.unwrap());
        assert_eq!((student.input, student.classes), (teacher.input, teacher.classes), "{file}");
    }
}

#[test]
fn a_segmentation_network_from_a_file_is_distilled() {
    let scratch = scratch();
    import(&scratch, "unet.pt2", "teacher.json", &[]);
    let settings = ["student.architecture=fpn-resnet8", "invert.targets=predicted", "invert.phi.diversity=off"];
    let settings = settings.iter().flat_map(|setting| ["--set", setting]).collect::<Vec<_>>();
    scratch.succeed("ssdkd", &[&["run", "tiny.toml", "--threads", "1"], &settings[..]].concat());
}

#[test]
fn plan_says_what_both_networks_cost_and_which_maps_are_compared() {
    let scratch = scratch();
    import(&scratch, "same.pt2", "teacher.json", &[]);
    let (plan, _) = scratch.succeed("ssdkd", &["plan", "tiny.toml", "-v", "--set", "distill.feature_distillation=1.0"]);
    assert!(plan.contains("teacher    same: 1982 parameters"), "{plan}");
    assert!(plan.contains("student    resnet8:") && plan.contains("learns from the teacher's"), "{plan}");
}

#[test]
fn a_student_of_ones_own_starts_from_fresh_weights_or_from_its_own() {
    let scratch = scratch();
    import(&scratch, "resnet.pt2", "teacher.json", &[]);
    import(&scratch, "resnet.onnx", "student.json", &[]);
    let run = |name: &str, start: &str| {
        let settings = ["student.architecture=", "student.card=student.json", start, name];
        let settings = settings.iter().flat_map(|setting| ["--set", setting]).collect::<Vec<_>>();
        scratch.succeed("ssdkd", &[&["run", "tiny.toml", "--threads", "1"], &settings[..]].concat()).1
    };
    run("run.name=fresh", "student.start=random");
    run("run.name=own", "student.start=card");
    assert_ne!(student(&scratch, "runs/fresh"), student(&scratch, "runs/own"));
    // The run carries its student, so it goes on without the card.
    fs::remove_file(scratch.path("student.json")).unwrap();
    fs::remove_file(scratch.path("teacher.json")).unwrap();
    let before = student(&scratch, "runs/own");
    scratch.succeed("ssdkd", &["run", "runs/own", "--threads", "1"]);
    assert_eq!(student(&scratch, "runs/own"), before);
}

#[test]
fn a_student_that_does_not_fit_is_refused() {
    let scratch = scratch();
    import(&scratch, "resnet.pt2", "teacher.json", &[]);
    import(&scratch, "shuffle.pt2", "other.json", &[]);
    let set = |settings: &[&'static str]| {
        let settings = settings.iter().flat_map(|setting| ["--set", setting]).collect::<Vec<_>>();
        [&["plan", "tiny.toml"], &settings[..]].concat()
    };
    let classes = ["has 3 classes, and the teacher has 5", "hint:"];
    scratch.fail("ssdkd", &set(&["student.architecture=", "student.card=other.json"]), 2, &classes);
    scratch.fail("ssdkd", &set(&["student.card=other.json"]), 2, &["both set", "hint:"]);
    scratch.fail("ssdkd", &set(&["student.start=card"]), 2, &["there is no student.card", "hint:"]);
}

#[test]
fn a_network_whose_batch_norms_were_folded_is_no_teacher() {
    let folded = workspace().join("tests/golden/graph/folded.onnx");
    let arguments = ["import", folded.to_str().unwrap(), "--out", "teacher.json", "--normalization", "half"];
    let parts = ["batch norms", "torch.export.save"];
    let scratch = scratch();
    scratch.fail("ssdkd", &arguments, 2, &parts);
    assert!(!scratch.path("teacher.json").exists());
}

#[test]
fn flags_of_weights_are_refused_for_a_network_and_the_other_way_round() {
    let scratch = scratch();
    let network = workspace().join("tests/golden/graph/resnet.pt2");
    let network = network.to_str().unwrap();
    let parts = ["--key is for weights", "hint: leave --key out"];
    scratch.fail("ssdkd", &["import", network, "--out", "t.json", "--key", "model"], 2, &parts);
    let weights = workspace().join("data/teachers/shapes-resnet20.safetensors");
    let parts = ["--output is for networks", "hint: leave --output out"];
    scratch.fail("ssdkd", &["import", weights.to_str().unwrap(), "--out", "t.json", "--output", "1"], 2, &parts);
}
