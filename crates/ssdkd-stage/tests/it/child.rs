//! A second process: this test binary again, which runs one test in another role.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

const ROLE: &str = "SSDKD_TEST_ROLE";

/// What this process was started for, if [`spawn`] started it.
pub fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// Starts `test` in a process of its own, in which [`role`] is `role`, and waits until it says `ready`.
pub fn spawn(test: &str, role: &str) -> (Child, BufReader<ChildStdout>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.ends_with("ready\n") {
        line.clear();
        assert_ne!(lines.read_line(&mut line).unwrap(), 0, "the second process ended early");
    }
    (child, lines)
}
