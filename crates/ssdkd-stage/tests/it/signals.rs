//! The first signal asks, the second one ends.

use std::io::Read;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use ssdkd_stage::{StageError, signals};

use crate::child;

fn send(signal: &str, process: &Child) {
    let status = Command::new("kill").args([signal, &process.id().to_string()]).status().unwrap();
    assert!(status.success());
}

/// Waits until the first signal came, ends a loop between two steps like a stage does, and says so.
fn obedient() -> ! {
    signals::install().unwrap();
    assert!(signals::check().is_ok(), "nobody asked yet");
    println!("\nready");
    let started = Instant::now();
    while signals::interrupted().is_none() && started.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(5));
    }
    std::process::exit(match signals::check() {
        Err(error) => StageError::from(error).code().number().into(),
        Ok(()) => 1,
    })
}

/// Hears the first signal and goes on as if nothing had happened.
fn stubborn() -> ! {
    signals::install().unwrap();
    println!("\nready");
    let started = Instant::now();
    while signals::interrupted().is_none() && started.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(5));
    }
    println!("heard");
    std::thread::sleep(Duration::from_secs(60));
    std::process::exit(1)
}

#[test]
fn the_first_signal_is_noticed_between_two_steps() {
    if child::role().is_some() {
        obedient();
    }
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let (mut process, _lines) = child::spawn("signals::the_first_signal_is_noticed_between_two_steps", "obedient");
        send(signal, &process);
        assert_eq!(process.wait().unwrap().code(), Some(code));
    }
}

#[test]
fn the_second_signal_ends_the_process() {
    if child::role().is_some() {
        stubborn();
    }
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let (mut process, mut lines) = child::spawn("signals::the_second_signal_ends_the_process", "stubborn");
        send("-INT", &process);
        lines.read_exact(&mut [0; "heard".len()]).unwrap();
        send(signal, &process);
        assert_eq!(process.wait().unwrap().code(), Some(code));
    }
}
