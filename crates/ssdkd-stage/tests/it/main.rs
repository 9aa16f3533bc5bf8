//! Run folders as a user leaves them: interrupted, changed, damaged, shared by two processes.

mod child;
mod folders;
mod freshness;
mod locks;
#[cfg(unix)]
mod signals;

use serde_json::{Map, json};
use ssdkd_shards::{Role, Timing};
use ssdkd_stage::{Complete, FingerprintInput, RunFolder, StageFolder};
use tempfile::TempDir;

/// A run folder with a recipe in it; it is gone when the first value is dropped.
fn run() -> (TempDir, RunFolder) {
    let folder = tempfile::tempdir().unwrap();
    let run = RunFolder::create(folder.path().join("runs/test")).unwrap();
    ssdkd_stage::write_file(&run.recipe(), b"[run]\n").unwrap();
    (folder, run)
}

/// What `distill` depends on in these tests.
fn wanted(round: u32, lr: f64) -> FingerprintInput {
    let parameters = json!({"distill": {"lr": lr, "steps": 40}});
    let mut wanted = FingerprintInput::new("distill", 1, round, 0, parameters);
    wanted.inputs.insert("teacher".into(), "a".repeat(64));
    wanted
}

fn timing() -> Timing {
    Timing {
        started_at: "2024-01-01T00:00:00Z".into(),
        seconds: 1.5,
        threads: 2,
        device: "cpu".into(),
        machine: String::new(),
        peak_bytes: 0,
    }
}

/// A finished output: a student, an optimizer's state and a table in a folder.
fn make(run: &RunFolder, wanted: FingerprintInput) -> Complete {
    let mut folder = StageFolder::begin(run, wanted).unwrap();
    folder.write("student.safetensors", b"the student", None, Role::Data).unwrap();
    folder.write("optimizer.safetensors", b"velocities", None, Role::State).unwrap();
    folder.write("tables/steps.parquet", b"PAR1", Some(40), Role::Data).unwrap();
    folder.commit(Map::from_iter([("loss".to_string(), json!(0.25))]), &timing()).unwrap()
}
