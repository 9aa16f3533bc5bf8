//! `ssdkd export`: the files of a student or a teacher, and what it does not overwrite.

use std::fs;
use std::path::Path;

use candle_core::Tensor;
use ssdkd_nn::TeacherCard;

use crate::support::{Scratch, workspace};

const FILES: [&str; 4] = ["card.json", "model.onnx", "model.py", "model.safetensors"];

fn teacher(name: &str) -> String {
    workspace().join("data/teachers").join(name).to_str().expect("a UTF-8 path").into()
}

fn golden(file: &str) -> String {
    workspace().join("tests/golden/graph").join(file).to_str().expect("a UTF-8 path").into()
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names = entries.collect::<Vec<_>>();
    names.sort();
    names
}

/// A picture of 40 by 32 pixels, as PPM has it.
fn picture(scratch: &Scratch, name: &str) {
    let mut bytes = b"P6 40 32 255\n".to_vec();
    bytes.extend((0..40 * 32 * 3).map(|at: usize| (at * 37 % 251) as u8));
    scratch.write(name, bytes);
}

/// The logits of the picture.
#[track_caller]
fn predicted(scratch: &Scratch, model: &str) -> Vec<f64> {
    let (out, _) = scratch.succeed("ssdkd", &["predict", model, "photo.ppm", "--json"]);
    let json = serde_json::from_str::<serde_json::Value>(&out).unwrap();
    json[0]["logits"].as_array().unwrap().iter().map(|logit| logit.as_f64().unwrap()).collect()
}

#[track_caller]
fn assert_close(found: &[f64], wanted: &[f64]) {
    assert_eq!(found.len(), wanted.len());
    for (found, wanted) in found.iter().zip(wanted) {
        assert!((found - wanted).abs() < 1e-3, "{found} instead of {wanted}");
    }
}

#[test]
fn a_teacher_is_exported_and_predicts_the_same_from_every_file() {
    let scratch = Scratch::new();
    picture(&scratch, "photo.ppm");
    let card = teacher("shapes-resnet20.json");
    let wanted = predicted(&scratch, &card);
    for (out, flags) in [
        ("kept", &[][..]),
        ("folded", &["--fold"]),
        ("normalized", &["--normalize"]),
        ("both", &["--fold", "--normalize"]),
    ] {
        let (printed, _) = scratch.succeed("ssdkd", &[&["export", &card, "--out", out], flags].concat());
        assert!(printed.contains(&format!("ssdkd predict {out} IMAGE")), "{printed}");
        assert_eq!(names_in(&scratch.path(out)), FILES, "{out}");
        assert_close(&predicted(&scratch, out), &wanted);
        assert_close(&predicted(&scratch, &format!("{out}/card.json")), &wanted);
        assert_close(&predicted(&scratch, &format!("{out}/model.onnx")), &wanted);
    }
}

#[test]
fn an_exported_card_is_the_given_one_with_other_file_names() {
    let scratch = Scratch::new();
    let card = teacher("shapes-resnet20.json");
    scratch.succeed("ssdkd", &["export", &card, "--out", "teacher"]);
    let (before, after) = (TeacherCard::load(Path::new(&card)), TeacherCard::load(&scratch.path("teacher/card.json")));
    let (before, after) = (before.unwrap(), after.unwrap());
    assert_eq!(after.weights, "model.safetensors");
    let same = TeacherCard {
        weights: before.weights.clone(),
        digest: before.digest.clone(),
        card_version: before.card_version,
        ..after.clone()
    };
    assert_eq!(same, before);
    // From the folder of an exported model too.
    scratch.succeed("ssdkd", &["export", "teacher", "--out", "again"]);
    for file in FILES {
        let bytes = |folder: &str| fs::read(scratch.path(folder).join(file)).unwrap();
        assert!(bytes("teacher") == bytes("again"), "{file} differs");
    }
}

#[test]
fn a_network_from_a_file_keeps_its_tensor_names() {
    let scratch = Scratch::new();
    scratch.succeed("ssdkd", &["import", &golden("resnet.pt2"), "--out", "teacher.json"]);
    scratch.succeed("ssdkd", &["export", "teacher.json", "--out", "teacher"]);
    let tensors = candle_core::safetensors::load(scratch.path("teacher/model.safetensors"), &candle_core::Device::Cpu);
    let tensors = tensors.unwrap();
    let shape = |name: &str| tensors.get(name).map(Tensor::dims);
    assert_eq!(shape("layer2.0.downsample.1.running_var"), Some(&[12][..]), "{:?}", tensors.keys());
    let code = fs::read_to_string(scratch.path("teacher/model.py")).unwrap();
    assert!(code.contains("RENAMED = {}\n") && code.contains("place(self, \"layer1.0.conv1\", nn.Conv2d("), "{code}");
}

#[test]
fn a_segmentation_network_gives_the_same_masks_from_its_onnx_file() {
    let scratch = Scratch::new();
    picture(&scratch, "photo.ppm");
    scratch.succeed("ssdkd", &["import", &golden("unet.pt2"), "--out", "teacher.json"]);
    scratch.succeed("ssdkd", &["export", "teacher.json", "--out", "teacher"]);
    for (model, out) in [("teacher.json", "a"), ("teacher", "b"), ("teacher/model.onnx", "c")] {
        scratch.succeed("ssdkd", &["predict", model, "photo.ppm", "--out", out]);
        let mask = |folder: &str| {
            let folder = scratch.path(folder);
            fs::read(folder.join(&names_in(&folder)[0])).unwrap()
        };
        assert!(mask("a") == mask(out), "{model}");
    }
}

#[test]
fn another_model_is_not_overwritten_without_force() {
    let scratch = Scratch::new();
    let (first, second) = (teacher("shapes-resnet20.json"), teacher("shapes-masks-fpn-resnet20.json"));
    scratch.succeed("ssdkd", &["export", &first, "--out", "model"]);
    let before = scratch.artefacts("model");
    let parts = ["belongs to another model", "hint: give another --out, or replace it with --force"];
    scratch.fail("ssdkd", &["export", &second, "--out", "model"], 2, &parts);
    assert_eq!(scratch.artefacts("model"), before);
    // The same model again is no other one.
    scratch.succeed("ssdkd", &["export", &first, "--out", "model"]);
    assert_eq!(scratch.artefacts("model"), before);
    scratch.succeed("ssdkd", &["export", &second, "--out", "model", "--force"]);
    let card = TeacherCard::load(&scratch.path("model/card.json")).unwrap();
    assert_eq!(card.architecture.to_string(), "fpn-resnet20");
    card.network(&scratch.path("model/card.json"), &candle_core::Device::Cpu).unwrap();
}

#[test]
fn what_has_no_use_is_refused_with_what_to_do() {
    let scratch = Scratch::new();
    let card = teacher("shapes-resnet20.json");
    for flags in [&["--round", "3"][..], &["--set", "run.seed=1"], &["--print-config"]] {
        let arguments = [&["export", &card, "--out", "model"], flags].concat();
        scratch.fail("ssdkd", &arguments, 2, &[flags[0], "is for runs", "hint: leave"]);
    }
    let file = golden("resnet.pt2");
    scratch.fail("ssdkd", &["export", &file, "--out", "model"], 2, &["has no card", "hint: `ssdkd import "]);
    scratch.fail("ssdkd", &["export", "missing.json", "--out", "model"], 3, &["cannot read missing.json"]);
    scratch.write("model.txt", "a file");
    scratch.fail("ssdkd", &["export", &card, "--out", "model.txt"], 2, &["is a file", "hint: give another --out"]);
    let (out, err) = scratch.succeed("ssdkd", &["export", &card, "--out", "model", "--dry-run"]);
    assert!(out.starts_with("would write the network of ") && err.is_empty(), "{out}{err}");
    assert!(!scratch.path("model").exists());
}

#[test]
fn a_card_with_hostile_texts_steers_nothing() {
    let scratch = Scratch::new();
    let hostile = "\u{1b}[31m\"); import os#\n`touch x` $(touch x) <script>";
    let card = fs::read_to_string(teacher("shapes-resnet20.json")).unwrap();
    let mut json = serde_json::from_str::<serde_json::Value>(&card).unwrap();
    json["source"] = hostile.into();
    json["license"] = hostile.into();
    for name in json["class_names"].as_array_mut().unwrap() {
        *name = format!("{hostile}{}", name.as_str().unwrap()).into();
    }
    let weights = json["weights"].as_str().unwrap();
    fs::copy(workspace().join("data/teachers").join(weights), scratch.path(weights)).unwrap();
    scratch.write("card $(touch x).json", json.to_string());
    picture(&scratch, "photo.ppm");
    let (out, err) = scratch.succeed("ssdkd", &["export", "card $(touch x).json", "--out", "a `touch x` b"]);
    assert!(out.contains("ssdkd predict 'a `touch x` b' IMAGE"), "{out}");
    assert!(!out.contains('\u{1b}') && !err.contains('\u{1b}'), "{out}{err}");
    let code = fs::read_to_string(scratch.path("a `touch x` b/model.py")).unwrap();
    let source = code.lines().find(|line| line.starts_with("SOURCE = ")).unwrap();
    assert_eq!(source, r#"SOURCE = "\x1b[31m\"); import os#\n`touch x` $(touch x) <script>""#);
    for model in ["a `touch x` b", "a `touch x` b/model.onnx"] {
        let (out, _) = scratch.succeed("ssdkd", &["predict", model, "photo.ppm"]);
        assert!(out.contains("import os") && !out.contains('\u{1b}'), "{out}");
    }
}
