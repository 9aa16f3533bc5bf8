//! Comparing a model with its teacher on images without labels.

use std::fs;

use serde_json::Value;

use crate::support::{Scratch, workspace};

const IMAGES: usize = 24;
const SIDE: usize = 32;

/// A scratch folder with `photos`: drawn images at two depths, and a file that is no image.
fn scratch() -> Scratch {
    let scratch = Scratch::new();
    fs::create_dir_all(scratch.path("photos/deep/er")).unwrap();
    for index in 0..IMAGES {
        let folder = if index % 2 == 0 { "photos" } else { "photos/deep/er" };
        scratch.write(&format!("{folder}/{index:02}.ppm"), figure(index));
    }
    scratch.write("photos/notes.txt", "no image");
    scratch
}

/// A disc, a square, a cross or stripes on a dark ground, as a PPM file.
fn figure(index: usize) -> Vec<u8> {
    let radius = 5 + index / 4;
    let ink = [[230, 60, 40], [50, 200, 80], [240, 220, 60]][index % 3];
    let mut file = format!("P6\n{SIDE} {SIDE}\n255\n").into_bytes();
    for (y, x) in (0..SIDE).flat_map(|y| (0..SIDE).map(move |x| (y, x))) {
        let (down, right) = (y.abs_diff(SIDE / 2), x.abs_diff(SIDE / 2));
        let inside = down.max(right) <= radius;
        let drawn = match index % 4 {
            0 => down * down + right * right <= radius * radius,
            1 => inside,
            2 => inside && down.min(right) <= 2,
            _ => y / 3 % 2 == 0,
        };
        file.extend(if drawn { ink } else { [30, 30, 60] });
    }
    file
}

fn teacher(name: &str) -> String {
    workspace().join("data/teachers").join(name).to_str().expect("a UTF-8 path").into()
}

/// The JSON of a comparison on `photos`, and what was said on stderr.
#[track_caller]
fn compare(scratch: &Scratch, model: &str, teacher: &str) -> (Value, String) {
    let arguments = [model, "--teacher", teacher, "--unlabelled", "photos", "--json"];
    let (out, err) = scratch.succeed("ssdkd-evaluate", &arguments);
    (serde_json::from_str(&out).unwrap(), err)
}

fn counted(found: &Value) -> u64 {
    found["teacher_counts"].as_array().unwrap().iter().map(|count| count.as_u64().unwrap()).sum()
}

#[test]
fn a_teacher_agrees_with_itself() {
    let (scratch, card) = (scratch(), teacher("shapes-resnet20.json"));
    let (found, said) = compare(&scratch, &card, &card);
    assert_eq!((&found["agreement"], &found["kl_divergence"]), (&1.0.into(), &0.0.into()), "{found}");
    assert_eq!((&found["images"], counted(&found)), (&IMAGES.into(), IMAGES as u64));
    assert!(found["top1"].is_null() && found["class_names"][0].is_string(), "{found}");
    assert!(said.contains("1 file ignored: .txt (1)"), "{said}");

    // An environment for other commands does not exclude the flag.
    let arguments = [&*card, "--teacher", &card, "--unlabelled", "photos", "--limit", "5", "--batch", "2"];
    let output = scratch.command("ssdkd-evaluate", &arguments).env("SSDKD_DATA", "nowhere").output().unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    for part in ["photos (no labels)", "agrees with the teacher    100.00 %", "KL(teacher ‖ student)", "by the teacher"]
    {
        assert!(table.contains(part), "{part:?} is not in\n{table}");
    }
    assert!(!table.contains("accuracy"), "{table}");
}

#[test]
fn a_network_of_pixels_is_compared_by_its_pixels() {
    let (scratch, card) = (scratch(), teacher("shapes-masks-fpn-resnet20.json"));
    let (found, _) = compare(&scratch, &card, &card);
    assert_eq!((&found["agreement"], &found["images"]), (&1.0.into(), &IMAGES.into()), "{found}");
    assert_eq!(counted(&found), (IMAGES * SIDE * SIDE) as u64);
}

#[test]
fn a_student_of_other_weights_agrees_less() {
    let scratch = scratch();
    scratch.succeed("ssdkd", &["run", "tiny.toml"]);
    scratch.succeed("ssdkd", &["export", "runs/tiny", "--out", "student"]);
    let mut files = fs::read_dir(scratch.path("student")).unwrap().map(|entry| entry.unwrap().path());
    let student = files.find(|path| path.extension().is_some_and(|ending| ending == "json")).unwrap();
    let card = teacher("shapes-resnet20.json");
    let (found, _) = compare(&scratch, student.to_str().unwrap(), &card);
    assert!(found["agreement"].as_f64().unwrap() < 1.0 && found["kl_divergence"].as_f64().unwrap() > 0.1, "{found}");
    // The counts are the teacher's, whoever the student is.
    assert_eq!(found["teacher_counts"], compare(&scratch, &card, &card).0["teacher_counts"]);
}

#[test]
fn what_cannot_be_compared_is_refused_with_a_remedy() {
    let (scratch, card) = (scratch(), teacher("shapes-resnet20.json"));
    let fail = |more: &[&str], code, parts: &[&str]| {
        scratch.fail("ssdkd-evaluate", &[&[card.as_str()][..], more].concat(), code, parts);
    };
    fail(&["--unlabelled", "photos"], 2, &["--teacher is missing", "hint: add --teacher CARD"]);
    fail(&[], 2, &["no data to measure on", "hint: add --data DATA"]);
    let compare = ["--teacher", &card, "--unlabelled"];
    fail(&[&compare[..], &["photos", "--data", "shapes:0"]].concat(), 2, &["cannot be used with", "--data"]);
    fail(&[&compare[..], &["photos", "--split", "train"]].concat(), 2, &["cannot be used with", "--split"]);
    fail(&[&compare[..], &["nowhere"]].concat(), 3, &["nowhere is missing", "hint:"]);
    let of_pixels = teacher("shapes-masks-fpn-resnet20.json");
    fail(&["--teacher", &of_pixels, "--unlabelled", "photos"], 2, &["knows 11 classes", "hint: give the card"]);
    scratch.write("photos/deep/damaged.png", b"\x89PNG but no more");
    fail(&[&compare[..], &["photos"]].concat(), 4, &["photos/deep/damaged.png", "is not a readable image"]);
}
