//! Measuring a run on real data: what is kept of it, and what becomes of a run that cannot be measured.

use std::fs;
use std::path::Path;
use std::process::Command;

use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};
use ssdkd_nn::StateDict;

use crate::support::{Scratch, binary};

const STUDENTS: &str = "runs/tiny/evaluate/students.json";
const SUMMARY: &str = "runs/tiny/report/summary.json";

fn read(scratch: &Scratch, file: &str) -> Value {
    serde_json::from_slice(&fs::read(scratch.path(file)).unwrap()).unwrap()
}

#[test]
fn what_another_teacher_measured_is_measured_again_and_no_more() {
    let scratch = Scratch::new();
    scratch.succeed("ssdkd", &["run", "tiny.toml"]);
    let measured = read(&scratch, STUDENTS);
    for key in ["teacher", "teacher_digest", "views", "real"] {
        assert!(!measured[key].is_null(), "{key}: {measured}");
    }
    let wrong = json!({"agreement": 0.5, "feature_spread": 9.0, "pixel_spread": 9.0});
    let mut other = measured.clone();
    other["teacher"] = 0.125.into();
    other["real"] = wrong.clone();
    for figures in other["shards"].as_object_mut().unwrap().values_mut() {
        *figures = wrong.clone();
    }
    let mut of_other_teacher = other.clone();
    of_other_teacher["teacher_digest"] = "another".into();
    scratch.write(STUDENTS, of_other_teacher.to_string());
    scratch.succeed("ssdkd", &["report", "runs/tiny"]);
    let summary = read(&scratch, SUMMARY);
    assert!(summary["teacher_accuracy"].is_null() && summary["real_images"].is_null(), "{summary}");
    assert!(summary["student_accuracy"].is_f64(), "{summary}");
    scratch.succeed("ssdkd", &["evaluate", "runs/tiny"]);
    assert_eq!(read(&scratch, STUDENTS), measured);

    // Under other views the teacher's accuracy is what it was.
    let mut of_other_views = other.clone();
    of_other_views["views"]["flip"] = (!measured["views"]["flip"].as_bool().unwrap()).into();
    scratch.write(STUDENTS, of_other_views.to_string());
    scratch.succeed("ssdkd", &["evaluate", "runs/tiny"]);
    let mut expected = measured;
    expected["teacher"] = 0.125.into();
    assert_eq!(read(&scratch, STUDENTS), expected);
}

#[test]
fn what_is_known_is_measured_again_when_asked() {
    let scratch = Scratch::new();
    scratch.succeed("ssdkd", &["run", "tiny.toml"]);
    let measured = read(&scratch, STUDENTS);
    let mut wrong = measured.clone();
    wrong["teacher"] = 0.125.into();
    for accuracy in wrong["students"].as_object_mut().unwrap().values_mut() {
        *accuracy = 0.125.into();
    }
    scratch.write(STUDENTS, wrong.to_string());
    scratch.succeed("ssdkd", &["evaluate", "runs/tiny"]);
    assert_eq!(read(&scratch, STUDENTS), wrong);
    let elsewhere = ["evaluate", "runs/tiny", "--force", "--set", "evaluate.data=nowhere"];
    scratch.fail("ssdkd", &elsewhere, 3, &["nowhere is missing"]);
    assert_eq!(read(&scratch, STUDENTS), wrong);
    scratch.succeed("ssdkd", &["evaluate", "runs/tiny", "--force"]);
    assert_eq!(read(&scratch, STUDENTS), measured);
}

#[test]
fn the_result_may_be_the_mean_of_the_last_students() {
    let scratch = Scratch::new();
    let run = |average| scratch.succeed("ssdkd", &["run", "tiny.toml", "--set", average]);
    run("student.average=0");
    let last = read(&scratch, STUDENTS);
    let (out, err) = run("student.average=0.75"); // of two rounds
    assert!(out.contains("(mean of the students of the last 2 rounds)"), "{out}");
    assert!(!err.contains(" s; "), "a stage did something:\n{err}");
    // The first distilling round has one student.
    let both = read(&scratch, STUDENTS);
    assert_eq!(both["students"].as_object().unwrap().len(), last["students"].as_object().unwrap().len() + 1);

    let students = [2, 3].map(|round| tensors(&scratch, &format!("runs/tiny/distill/000{round}/student.safetensors")));
    let mean = StateDict::mean(students.into_iter().map(candle_core::Result::Ok)).unwrap();
    scratch.succeed("ssdkd", &["export", "runs/tiny", "--out", "exported", "--set", "student.average=0.75"]);
    let exported = tensors(&scratch, "exported/model.safetensors");
    for (name, expected) in mean.iter().filter(|(_, tensor)| tensor.dtype() == DType::F32) {
        let numbers = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(numbers(&exported[name]), numbers(expected), "{name}");
    }
    let card = read(&scratch, "exported/card.json");
    assert!(card["source"].as_str().unwrap().ends_with("the mean of the students of rounds 2 to 3"), "{card}");
}

fn tensors(scratch: &Scratch, file: &str) -> StateDict {
    StateDict::from_safetensors(&fs::read(scratch.path(file)).unwrap(), &Device::Cpu).unwrap()
}

#[test]
fn measurements_that_cannot_be_read_are_not_replaced() {
    let scratch = Scratch::new();
    scratch.succeed("ssdkd", &["run", "tiny.toml"]);
    fs::remove_file(scratch.path(STUDENTS)).unwrap();
    fs::create_dir(scratch.path(STUDENTS)).unwrap();
    for command in ["evaluate", "report"] {
        scratch.fail("ssdkd", &[command, "runs/tiny"], 1, &["cannot read runs/tiny/evaluate/students.json"]);
    }
    assert!(scratch.path(STUDENTS).is_dir());
}

#[test]
fn data_that_is_not_there_is_missed_before_the_first_stage() {
    let scratch = Scratch::new();
    scratch.fail("ssdkd", &["run", "tiny.toml", "--set", "evaluate.data=nowhere"], 3, &["nowhere is missing", "hint:"]);
    let mut command = scratch.command("ssdkd", &["run", "tiny.toml", "--set", "evaluate.data="]);
    let output = command.env("SSDKD_DATA", "nowhere").output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    scratch.fail("ssdkd", &["run", "tiny.toml", "--set", "evaluate.data=shapes:x"], 2, &["shapes:x", "whole number"]);
    assert!(!scratch.path("runs").exists());
    // It is looked for where it is needed alone.
    scratch.succeed("ssdkd", &["run", "tiny.toml", "--set", "evaluate.data=nowhere", "--dry-run"]);
}

#[test]
fn a_run_that_cannot_be_measured_is_reported_all_the_same() {
    let scratch = Scratch::new();
    fs::create_dir_all(scratch.path("images/test/cat")).unwrap();
    let sheet = scratch.path("images/test/cat/one.png");
    scratch.succeed("ssdkd", &["run", "tiny.toml"]);
    fs::copy(scratch.path("runs/tiny/report/buffer.png"), &sheet).unwrap();
    let other = ["--set", "evaluate.data=images"];
    let (plan, _) =
        scratch.succeed("ssdkd", &[&["plan", "tiny.toml", "--shell", &bin(), "--force"][..], &other].concat());
    // Whole before the first stage, and damaged before the last.
    fs::write(&sheet, b"\x89PNG but no more").unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-ec", &plan]).current_dir(scratch.folder.path()).env_remove("SSDKD_DATA").env_remove("SSDKD_RUNS");
    let output = shell.output().expect("sh");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(4) && said.contains("one.png") && said.contains("hint:"), "{said}");
    assert_eq!(read(&scratch, SUMMARY)["distillation_steps"], 4);
    fs::rename(scratch.path("images"), scratch.path("moved")).unwrap();
    scratch.fail("ssdkd", &["evaluate", "runs/tiny", "--set", "evaluate.data=images"], 3, &["images is missing"]);
    scratch.succeed("ssdkd", &["evaluate", "runs/tiny", "--set", "evaluate.data=shapes:0"]);
}

/// The folder of the programs.
fn bin() -> String {
    binary("ssdkd").parent().and_then(Path::to_str).expect("a UTF-8 path").into()
}
