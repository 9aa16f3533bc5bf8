//! One writer for each run folder, in one process and in two.

use std::io::Read;

use ssdkd_stage::exit::Code;
use ssdkd_stage::{RunFolder, RunLock};

use crate::{child, make, run, wanted};

#[test]
fn the_second_writer_is_told_about_the_first() {
    let (_folder, run) = run();
    let lock = RunLock::acquire(&run, "ssdkd-invert").unwrap();
    let error = RunLock::acquire(&run, "ssdkd run").unwrap_err();
    assert_eq!(error.code(), Code::Failed);
    let holder = format!("is in use by process {} (ssdkd-invert) on ", std::process::id());
    assert!(error.to_string().contains(&holder) && error.to_string().contains(", since 20"), "{error}");
    drop(lock);
    drop(RunLock::acquire(&run, "ssdkd run").unwrap());
}

#[test]
fn readers_need_no_lock() {
    let (_folder, run) = run();
    let _lock = RunLock::acquire(&run, "ssdkd-distill").unwrap();
    make(&run, wanted(7, 0.1));
    assert_eq!(run.read_verified("distill", 7, "student.safetensors").unwrap(), b"the student");
}

#[test]
fn whoever_takes_the_lock_finishes_what_a_crash_interrupted() {
    let (_folder, run) = run();
    make(&run, wanted(7, 0.1));
    std::fs::rename(run.folder("distill", 7), run.stage("distill").join(".0007.old")).unwrap();
    assert_eq!(run.latest_complete("distill").unwrap(), None);
    let _lock = RunLock::acquire(&run, "ssdkd status").unwrap();
    assert_eq!(run.latest_complete("distill").unwrap(), Some(7));
}

#[test]
fn a_lock_ends_with_its_process() {
    if let Some(root) = child::role() {
        let _lock = RunLock::acquire(&RunFolder::open(root).unwrap(), "the first process").unwrap();
        println!("\nready");
        // Until the other process kills this one; if that one dies first, the pipe ends.
        let _ = std::io::stdin().read(&mut [0]);
        return;
    }
    let (_folder, run) = run();
    let (mut first, _lines) = child::spawn("locks::a_lock_ends_with_its_process", run.root().to_str().unwrap());
    let error = RunLock::acquire(&run, "the second process").unwrap_err().to_string();
    assert!(error.contains(&format!("process {} (the first process)", first.id())), "{error}");
    first.kill().unwrap();
    first.wait().unwrap();
    drop(RunLock::acquire(&run, "the second process").unwrap());
}
