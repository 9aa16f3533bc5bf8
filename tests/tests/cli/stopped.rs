//! Runs that are asked to stop: the exit code says so, the error says how to go on, and going on ends with the same bytes.
#![cfg(unix)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::support::Scratch;

fn send(signal: &str, child: &Child) {
    let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().expect("kill");
    assert!(sent.success(), "{signal} could not be sent");
}

fn start(scratch: &Scratch, arguments: &[&str]) -> Child {
    let mut command = scratch.command("ssdkd", arguments);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the binary starts")
}

/// Waits until a line of stderr has `part` in it; what comes after that stays in the pipe.
fn wait_for(child: &mut Child, part: &str) -> BufReader<std::process::ChildStderr> {
    let mut lines = BufReader::new(child.stderr.take().expect("a pipe"));
    let mut line = String::new();
    while !line.contains(part) {
        line.clear();
        assert_ne!(lines.read_line(&mut line).expect("lines"), 0, "it ended without {part:?}");
    }
    lines
}

fn rest(mut child: Child, lines: BufReader<std::process::ChildStderr>) -> (Option<i32>, String) {
    let said = lines.lines().map(|line| line.expect("lines") + "\n").collect::<String>();
    (child.wait().expect("a child can be waited for").code(), said)
}

#[test]
fn stopped_at_any_stage_it_says_how_to_go_on_and_ends_with_the_same_bytes() {
    let undisturbed = Scratch::new();
    undisturbed.succeed("ssdkd", &["run", "tiny.toml"]);
    let scratch = Scratch::new();
    for (signal, after, code) in [
        ("-TERM", "invert 0000: ", 143),
        ("-INT", "balance 0001: ", 130),
        ("-TERM", "invert 0002: ", 143),
        ("-INT", "sample 0003: ", 130),
    ] {
        let mut child = start(&scratch, &["run", "tiny.toml", "--threads", "1"]);
        let lines = wait_for(&mut child, after);
        send(signal, &child);
        let (found, said) = rest(child, lines);
        assert_eq!(found, Some(code), "{said}");
        assert!(said.contains("error: stopped by SIG"), "{said}");
        assert!(said.contains("hint: run the same command again to resume"), "{said}");
    }
    scratch.succeed("ssdkd", &["run", "tiny.toml"]);
    assert_eq!(scratch.artefacts("runs/tiny"), undisturbed.artefacts("runs/tiny"));
}

#[test]
fn one_ctrl_c_ends_a_long_batch_at_its_next_step_and_two_at_once() {
    let undisturbed = Scratch::new();
    undisturbed.succeed("ssdkd", &["run", "tiny.toml"]);
    let scratch = Scratch::new();
    scratch.succeed("ssdkd", &["run", "tiny.toml", "--round", "0"]);
    for presses in [1, 2] {
        // One batch of these takes far longer than anybody waits.
        let mut child = start(&scratch, &["run", "tiny.toml", "--set", "invert.steps=100000"]);
        let lines = wait_for(&mut child, "invert 0000: stale");
        std::thread::sleep(Duration::from_millis(300));
        (0..presses).for_each(|_| send("-INT", &child));
        let pressed = Instant::now();
        let (code, said) = rest(child, lines);
        assert!(pressed.elapsed() < Duration::from_secs(20), "it took {:?}", pressed.elapsed());
        assert_eq!(code, Some(130), "{said}");
    }
    // What it was about to replace is there as before.
    let Output { stdout, .. } = scratch.run("ssdkd", &["verify", "runs/tiny"]);
    assert!(String::from_utf8_lossy(&stdout).contains(" 0 damaged in "));
    scratch.succeed("ssdkd", &["run", "tiny.toml"]);
    assert_eq!(scratch.artefacts("runs/tiny"), undisturbed.artefacts("runs/tiny"));
}
