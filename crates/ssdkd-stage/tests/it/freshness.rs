//! What is fresh, what is stale and why, what may be collected.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use ssdkd_stage::exit::Code;
use ssdkd_stage::{FingerprintInput, StageError, State, collect_state, judge};

use crate::{make, run, wanted};

fn stale(reason: &str) -> State {
    State::Stale { reasons: vec![reason.into()] }
}

fn corrupt(reason: &str) -> State {
    State::Corrupt { reasons: vec![reason.into()] }
}

/// `change` is made to what is wanted after round 7 was made with lr 0.2.
#[track_caller]
fn check_wanted(change: impl Fn(&mut FingerprintInput), expected: &State) {
    let (_folder, run) = run();
    make(&run, wanted(7, 0.2));
    let mut wanted = wanted(7, 0.2);
    change(&mut wanted);
    assert_eq!(judge(&run, &wanted, true).unwrap(), *expected);
}

#[test]
fn staleness_is_explained() {
    check_wanted(|_| {}, &State::Fresh);
    check_wanted(|wanted| wanted.parameters["distill"]["lr"] = json!(0.1), &stale("distill.lr 0.2 → 0.1"));
    check_wanted(|wanted| wanted.seed = 3, &stale("seed 0 → 3"));
    let teacher = |wanted: &mut FingerprintInput| drop(wanted.inputs.insert("teacher".into(), "b".repeat(64)));
    check_wanted(teacher, &stale("teacher changed (aaaaaaaa → bbbbbbbb)"));
    let balance = |wanted: &mut FingerprintInput| drop(wanted.inputs.insert("balance/0007".into(), "b".repeat(64)));
    check_wanted(balance, &stale("balance/0007 is newly read"));
    check_wanted(|wanted| wanted.round = 8, &State::Missing);
    assert_eq!(stale("distill.lr 0.2 → 0.1").describe(), "stale: distill.lr 0.2 → 0.1");
}

/// `change` is made to the folder of round 7, which otherwise is fresh.
#[track_caller]
fn check_damage(change: impl Fn(&Path), verify: bool, expected: &State) {
    let (_folder, run) = run();
    make(&run, wanted(7, 0.2));
    change(&run.folder("distill", 7));
    assert_eq!(judge(&run, &wanted(7, 0.2), verify).unwrap(), *expected);
}

#[test]
fn damage_is_found() {
    let table = "tables/steps.parquet";
    let missing = corrupt("tables/steps.parquet: not there");
    check_damage(|folder| fs::remove_file(folder.join(table)).unwrap(), false, &missing);
    let longer = corrupt("tables/steps.parquet: 5 bytes instead of 4");
    check_damage(|folder| fs::write(folder.join(table), b"PAR1!").unwrap(), false, &longer);
    // Of the right size: seen only when digests are compared.
    check_damage(|folder| fs::write(folder.join(table), b"PAR2").unwrap(), false, &State::Fresh);
    let (found, listed) = (ssdkd_shards::digest::of_bytes(b"PAR2"), ssdkd_shards::digest::of_bytes(b"PAR1"));
    let other = corrupt(&format!("tables/steps.parquet: BLAKE3 {found} instead of {listed}"));
    check_damage(|folder| fs::write(folder.join(table), b"PAR2").unwrap(), true, &other);
    // State is needed as long as nothing later is there.
    let state = corrupt("optimizer.safetensors: not there");
    check_damage(|folder| fs::remove_file(folder.join("optimizer.safetensors")).unwrap(), false, &state);
}

fn edit_manifest(folder: &Path, change: impl Fn(&mut Value)) {
    let path = folder.join("manifest.json");
    let mut manifest = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut manifest);
    fs::write(path, manifest.to_string()).unwrap();
}

#[test]
fn a_manifest_that_was_tampered_with_is_not_believed() {
    let edited = corrupt("manifest.json: the fingerprint does not belong to the parameters and inputs");
    let change = |manifest: &mut Value| manifest["parameters"]["distill"]["lr"] = json!(0.1);
    check_damage(|folder| edit_manifest(folder, change), false, &edited);
    let (_folder, run) = run();
    make(&run, wanted(7, 0.2));
    fs::write(run.file("distill", 7, "manifest.json"), b"{\"schema_version\":").unwrap();
    let state = judge(&run, &wanted(7, 0.2), false).unwrap();
    assert!(state.describe().starts_with("damaged: manifest.json: EOF"), "{state:?}");
}

#[test]
fn what_a_newer_program_made_is_not_overwritten() {
    let (_folder, run) = run();
    make(&run, wanted(7, 0.2));
    edit_manifest(&run.folder("distill", 7), |manifest| manifest["schema_version"] = json!(99));
    let error = judge(&run, &wanted(7, 0.2), false).unwrap_err();
    assert_eq!(error.code(), Code::Integrity);
    assert!(error.to_string().contains("schema version 99"), "{error}");
}

#[test]
fn old_state_is_collected_and_nothing_else() {
    let (_folder, run) = run();
    for round in 3..8 {
        make(&run, wanted(round, 0.2));
    }
    assert_eq!(collect_state(&run, "distill", 0, &[3], 7).unwrap(), 0, "0 keeps all");
    assert_eq!(collect_state(&run, "distill", 2, &[3], 4).unwrap(), 0, "later rounds do not take the place of 3 and 4");
    assert_eq!(collect_state(&run, "distill", 2, &[3], 7).unwrap(), 2 * 10);
    assert_eq!(collect_state(&run, "distill", 2, &[3], 7).unwrap(), 0, "they are gone already");
    assert_eq!(collect_state(&run, "distill", 100, &[3], 7).unwrap(), 0);
    for round in 3..8 {
        let state = run.file("distill", round, "optimizer.safetensors");
        assert_eq!(state.exists(), round == 3 || round >= 6, "round {round}");
        assert_eq!(run.read_verified("distill", round, "student.safetensors").unwrap(), b"the student");
        assert_eq!(judge(&run, &wanted(round, 0.2), true).unwrap(), State::Fresh, "round {round}");
    }
    let error = run.read_verified("distill", 4, "optimizer.safetensors").unwrap_err();
    assert!(
        matches!(error, StageError::Collected { round: 4, .. }) && error.to_string().contains("keep.states"),
        "{error}"
    );
}
