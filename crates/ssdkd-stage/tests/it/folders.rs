//! Stage folders appear complete or not at all, whatever is interrupted.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use ssdkd_shards::Role;
use ssdkd_stage::exit::Code;
use ssdkd_stage::{RunFolder, StageError, StageFolder, State, judge, write_file};

use crate::{make, run, timing, wanted};

/// Names in the stage's folder.
fn names(run: &RunFolder) -> Vec<String> {
    let entries = fs::read_dir(run.stage("distill")).unwrap();
    let mut names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>();
    names.sort();
    names
}

fn learning_rate(run: &RunFolder) -> Value {
    run.require("distill", 7).unwrap().manifest.parameters["distill"]["lr"].clone()
}

#[test]
fn an_output_appears_with_its_manifest() {
    let (_folder, run) = run();
    assert_eq!(run.latest_complete("distill").unwrap(), None);
    let mut folder = StageFolder::begin(&run, wanted(7, 0.1)).unwrap();
    let digest = folder.write("student.safetensors", b"the student", None, Role::Data).unwrap();
    assert_eq!(names(&run), [".0007.partial"]);
    assert_eq!(judge(&run, &wanted(7, 0.1), false).unwrap(), State::Partial);
    let complete = folder.commit(Map::from_iter([("loss".to_string(), json!(0.25))]), &timing()).unwrap();

    assert_eq!(names(&run), ["0007"]);
    assert_eq!(run.require("distill", 7).unwrap(), complete);
    assert_eq!(complete.manifest.file("student.safetensors").unwrap().blake3, digest);
    assert_eq!(run.read_verified("distill", 7, "student.safetensors").unwrap(), b"the student");
    assert_eq!((run.rounds("distill").unwrap(), run.latest_complete("distill").unwrap()), (vec![7], Some(7)));
    let there = |file: &str| run.file("distill", 7, file).is_file();
    assert!(there("log.jsonl") && there("timing.json") && there("manifest.json"));
}

#[test]
fn manifests_are_a_function_of_the_results() {
    let ((_first_folder, first), (_second_folder, second)) = (run(), run());
    assert_eq!(make(&first, wanted(7, 0.1)).digest, make(&second, wanted(7, 0.1)).digest);
}

#[test]
fn the_old_output_is_there_until_the_new_one_is_complete() {
    let (_folder, run) = run();
    make(&run, wanted(7, 0.1));
    let mut folder = StageFolder::begin(&run, wanted(7, 0.2)).unwrap();
    folder.write("student.safetensors", b"another", None, Role::Data).unwrap();
    assert_eq!(run.read_verified("distill", 7, "student.safetensors").unwrap(), b"the student");
    drop(folder);
    assert_eq!(names(&run), [".0007.partial", "0007"]);
    assert_eq!(judge(&run, &wanted(7, 0.1), true).unwrap(), State::Fresh, "an attempt that failed changes nothing");
    make(&run, wanted(7, 0.2));
    assert_eq!(names(&run), ["0007"]);
    assert_eq!(learning_rate(&run), json!(0.2));
}

/// The three names that the folder of round 7 may have.
struct Places {
    complete: PathBuf,
    partial: PathBuf,
    old: PathBuf,
}

/// A run whose round 7 was being replaced (lr 0.1 by 0.2) when `interrupt` left it in some state.
#[track_caller]
fn check_recovery(interrupt: impl Fn(&Places), expected_rate: f64) {
    let (_folder, run) = run();
    let stage = run.stage("distill");
    let at = |name: &str| stage.join(name);
    let places = Places { complete: at("0007"), partial: at(".0007.partial"), old: at(".0007.old") };
    // Both outputs, complete, under the names that they have just before the swap.
    make(&run, wanted(7, 0.2));
    fs::rename(&places.complete, at("new")).unwrap();
    make(&run, wanted(7, 0.1));
    fs::rename(at("new"), &places.partial).unwrap();
    interrupt(&places);
    run.recover().unwrap();
    assert_eq!(names(&run).iter().filter(|name| *name != ".0007.partial").collect::<Vec<_>>(), ["0007"]);
    assert_eq!(learning_rate(&run), json!(expected_rate));
    assert_eq!(judge(&run, &wanted(7, expected_rate), true).unwrap(), State::Fresh);
    let before = names(&run);
    run.recover().unwrap();
    assert_eq!(names(&run), before, "a second time changes nothing");
}

#[test]
fn a_crash_at_any_point_of_the_swap_is_mended() {
    let rename = |from: &Path, to: &Path| fs::rename(from, to).unwrap();
    // Before the manifest: the old output stays.
    check_recovery(|places| fs::remove_file(places.partial.join("manifest.json")).unwrap(), 0.1);
    // After the manifest, before the first rename.
    check_recovery(|_| {}, 0.2);
    // The same with an older leftover in the way.
    check_recovery(|places| fs::create_dir(&places.old).unwrap(), 0.2);
    // Between the renames.
    check_recovery(|places| rename(&places.complete, &places.old), 0.2);
    // After the second rename, before the old one is removed.
    check_recovery(
        |places| {
            rename(&places.complete, &places.old);
            rename(&places.partial, &places.complete);
        },
        0.2,
    );
    // The same, when half of the old one was removed already.
    check_recovery(
        |places| {
            rename(&places.complete, &places.old);
            rename(&places.partial, &places.complete);
            fs::remove_file(places.old.join("manifest.json")).unwrap();
        },
        0.2,
    );
    // Only what was moved aside is left.
    check_recovery(
        |places| {
            rename(&places.complete, &places.old);
            fs::remove_dir_all(&places.partial).unwrap();
        },
        0.1,
    );
}

#[test]
fn bad_file_names_and_numbers_are_refused() {
    let (_folder, run) = run();
    let mut folder = StageFolder::begin(&run, wanted(7, 0.1)).unwrap();
    folder.write("a", b"", None, Role::Data).unwrap();
    for name in ["a", "../a", "/a", "", "b/../../c", "manifest.json", "timing.json", "log.jsonl"] {
        let error = folder.write(name, b"", None, Role::Data).unwrap_err();
        assert!(matches!(error, StageError::BadFile { .. }), "{name}: {error}");
    }
    // NaN is no JSON number.
    let error = folder.commit(Map::from_iter([("loss".to_string(), f64::NAN.into())]), &timing()).unwrap_err();
    assert!(error.to_string().starts_with("the metric `loss` of distill, round 7, is not a finite number"), "{error}");
    assert_eq!(run.latest_complete("distill").unwrap(), None);
}

#[track_caller]
fn check_read_refused(change: impl Fn(&Path), code: Code, parts: &[&str]) {
    let (_folder, run) = run();
    make(&run, wanted(7, 0.1));
    change(&run.folder("distill", 7));
    let error = run.read_verified("distill", 7, "student.safetensors").unwrap_err();
    assert_eq!(error.code(), code, "{error}");
    for part in parts {
        assert!(error.to_string().contains(part), "{part:?} is not in {error}");
    }
}

#[test]
fn nothing_is_read_that_is_not_what_the_manifest_says() {
    let file = "student.safetensors";
    let bytes = ["student.safetensors", "3 bytes instead of 11", "ssdkd repair", "/0007"];
    check_read_refused(|folder| fs::write(folder.join(file), b"the").unwrap(), Code::Integrity, &bytes);
    let flipped = ["student.safetensors", "its BLAKE3 is"];
    check_read_refused(|folder| fs::write(folder.join(file), b"the studenu").unwrap(), Code::Integrity, &flipped);
    check_read_refused(|folder| fs::remove_file(folder.join(file)).unwrap(), Code::Integrity, &["not there"]);
    let missing = ["the output of distill, round 7,", "`ssdkd-distill "];
    check_read_refused(|folder| fs::remove_dir_all(folder).unwrap(), Code::MissingInput, &missing);
    check_read_refused(
        |folder| fs::write(folder.join("manifest.json"), b"{}").unwrap(),
        Code::Integrity,
        &["manifest.json", "no `schema_version`"],
    );
    check_read_refused(
        |folder| fs::rename(folder, folder.with_file_name("0008")).unwrap(),
        Code::MissingInput,
        &["0007"],
    );
}

#[test]
fn a_folder_under_another_name_is_noticed() {
    let (_folder, run) = run();
    make(&run, wanted(7, 0.1));
    fs::rename(run.folder("distill", 7), run.folder("distill", 8)).unwrap();
    let error = run.require("distill", 8).unwrap_err();
    assert!(error.to_string().contains("it is of stage distill, round 7"), "{error}");
}

#[test]
fn files_are_replaced_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/folder/file.json");
    write_file(&path, b"first").unwrap();
    write_file(&path, b"second").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"second");
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary file is left");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let ordinary = folder.path().join("ordinary");
        fs::write(&ordinary, b"").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&path), mode(&ordinary), "as readable as any other file");
    }
    let error = write_file(&path.join("below/a/file"), b"").unwrap_err();
    assert!(error.to_string().contains("hint: something else is at that path"), "{error}");
}

#[test]
fn a_run_that_is_not_there_is_a_missing_input() {
    let folder = tempfile::tempdir().unwrap();
    let error = RunFolder::open(folder.path().join("nothing")).unwrap_err();
    assert_eq!(error.code(), Code::MissingInput);
    assert!(error.to_string().contains("nothing/recipe.toml"), "{error}");
}
