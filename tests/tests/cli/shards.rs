//! Shards of a real run, opened with the tools people have.

use std::process::Command;

use crate::support::{Scratch, workspace};

#[test]
fn pyarrow_duckdb_and_polars_open_the_shards_of_a_run() {
    let python = std::env::var("SSDKD_PYTHON").unwrap_or_else(|_| "python3".into());
    let has_readers = Command::new(&python).args(["-c", "import pyarrow, duckdb, polars"]).output();
    if !has_readers.is_ok_and(|output| output.status.success()) {
        eprintln!(
            "skipped: {python} has no pyarrow, duckdb and polars\nhint: `make python`, then SSDKD_PYTHON=.venv/bin/python"
        );
        return;
    }
    let scratch = Scratch::new();
    scratch.succeed("ssdkd", &["run", "tiny.toml"]);
    let script = workspace().join("tests/golden/check_run.py");
    let output = Command::new(&python).arg(script).arg(scratch.path("runs/tiny")).output().expect("python starts");
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{err}");
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(out.contains("fixed_shape_tensor"), "{out}");
}
