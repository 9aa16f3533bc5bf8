//! Runs that are killed without warning, at any moment, end with the same bytes as one that nobody disturbed.
//!
//! Eight runs by default; `make kills KILLED=200` for many.

use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::support::Scratch;

/// Bytes at the beginning of a checkpoint: the digest, and what was spent until then.
const SEAL: usize = 64;
const COST: usize = 16;
const STAGES: [&str; 4] = ["invert", "balance", "sample", "distill"];

/// All stages of all rounds as commands, in order: what `make pipeline` runs.
fn single_stages() -> Vec<(String, String)> {
    let rounds = (0..4).flat_map(|round: u32| {
        let stages = if round < 2 { &STAGES[..2] } else { &STAGES[..] };
        stages.iter().map(move |stage| (format!("ssdkd-{stage}"), round.to_string()))
    });
    rounds.collect()
}

/// Kills the command after `patience` unless it has ended by then; whether it ended by itself, which must be well.
fn run_for(scratch: &Scratch, program: &str, arguments: &[&str], patience: Duration) -> bool {
    let mut command = scratch.command(program, arguments);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary starts");
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            assert!(status.success(), "{program} {arguments:?} failed by itself ({status})");
            return true;
        }
        sleep(Duration::from_micros(500));
    }
    child.kill().expect("a child can be killed"); // SIGKILL
    child.wait().expect("a child can be waited for");
    false
}

#[test]
fn a_killed_run_goes_on_to_the_same_bytes() {
    let wanted = std::env::var("SSDKD_KILLED").ok().and_then(|text| text.parse().ok()).unwrap_or(8);
    let undisturbed = Scratch::new();
    let start = Instant::now();
    undisturbed.succeed("ssdkd", &["run", "tiny.toml", "--threads", "2"]);
    let whole = start.elapsed();
    let expected = undisturbed.artefacts("runs/tiny");

    let mut rng = ChaCha8Rng::seed_from_u64(1);
    // Of twice the time that it takes: many moments in many runs, and not all of them in a few.
    let (mut killed, mut runs) = (0, 0);
    while runs < wanted {
        let scratch = Scratch::new();
        let before = killed;
        let threads = ["1", "2"][runs / 2 % 2];
        // One process for all stages, or one for each.
        if runs % 2 == 0 {
            let run = ["run", "tiny.toml", "--threads", threads];
            while !run_for(&scratch, "ssdkd", &run, whole.mul_f64(2.0 * rng.random::<f64>())) {
                killed += 1;
            }
        } else {
            for (program, round) in single_stages() {
                let arguments = ["tiny.toml", "--threads", threads, "--round", &round];
                while !run_for(&scratch, &program, &arguments, whole.mul_f64(0.4 * rng.random::<f64>())) {
                    killed += 1;
                }
            }
            scratch.succeed("ssdkd", &["evaluate", "tiny.toml"]);
        }
        runs += usize::from(killed > before); // one that was quicker than every kill is none
        let found = scratch.artefacts("runs/tiny");
        let differing = expected.iter().filter(|(path, digest)| found.get(*path) != Some(digest)).collect::<Vec<_>>();
        assert!(differing.is_empty(), "after {killed} kills, these differ: {differing:?}");
        let surplus = found.keys().filter(|path| !expected.contains_key(*path)).collect::<Vec<_>>();
        assert!(surplus.is_empty(), "after {killed} kills, these are left over: {surplus:?}");
    }
    println!(
        "{killed} kills in {runs} runs that were killed at least once, all ended with the same {} files",
        expected.len()
    );
}

/// A round of many steps does not start over: it goes on after the last step that was kept, in whichever pass over its views that was.
#[test]
fn a_round_killed_in_its_middle_goes_on_from_its_checkpoint() {
    let long = ["distill.steps=40", "distill.passes=20", "distill.feature_distillation=5.0", "keep.checkpoint=0"];
    let long = long.iter().flat_map(|setting| ["--set", *setting]).collect::<Vec<_>>();
    let run = [&["run", "tiny.toml"][..], &long].concat();
    let undisturbed = Scratch::new();
    undisturbed.succeed("ssdkd", &run);
    let scratch = Scratch::new();
    let checkpoint = scratch.path("runs/tiny/distill/.0003.partial/checkpoint");
    let mut child =
        scratch.command("ssdkd", &run).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    let deadline = Instant::now() + Duration::from_secs(120);
    while !checkpoint.exists() {
        assert!(Instant::now() < deadline && child.try_wait().expect("a child").is_none(), "no checkpoint was made");
        sleep(Duration::from_millis(1));
    }
    child.kill().expect("a child can be killed");
    child.wait().expect("a child can be waited for");

    // Of other work it is no checkpoint, and a damaged one is none.
    let kept = std::fs::read(&checkpoint).expect("a checkpoint");
    let stage = |more: &[&'static str]| [&["tiny.toml", "--round", "3"], &long[..], more].concat();
    let (out, _) = scratch.succeed("ssdkd-distill", &stage(&["--set", "distill.lr=0.05", "--dry-run"]));
    assert!(out.contains("would run"), "{out}");
    let mut damaged = kept.clone();
    damaged[kept.len() / 2] ^= 1;
    std::fs::write(&checkpoint, damaged).expect("it is writable");
    let (_, err) = scratch.succeed("ssdkd-distill", &stage(&[]));
    assert!(!err.contains("going on"), "{err}");
    let remade = scratch.artefacts("runs/tiny");

    // One that another version wrote: whole, but without the cost at its beginning. The round starts over from it.
    let manifest = std::fs::read(scratch.path("runs/tiny/distill/0003/manifest.json")).expect("a manifest");
    let manifest = serde_json::from_slice::<serde_json::Value>(&manifest).expect("JSON");
    let fingerprint = manifest["fingerprint"].as_str().expect("a fingerprint").as_bytes();
    let state = &kept[SEAL + COST..];
    let older = [blake3::hash(&[fingerprint, state].concat()).to_hex().as_bytes(), state].concat();
    for (bytes, said) in [(older, "restarts, because its checkpoint"), (kept, "resumes after step ")] {
        std::fs::remove_dir_all(scratch.path("runs/tiny/distill/0003")).expect("it is removable");
        std::fs::create_dir_all(checkpoint.parent().expect("a folder")).expect("it can be made");
        std::fs::write(&checkpoint, bytes).expect("it is writable");
        let (_, err) = scratch.succeed("ssdkd-distill", &stage(&[]));
        assert!(err.contains(&format!("distill 0003: {said}")), "{err}");
        assert_eq!(scratch.artefacts("runs/tiny"), remade);
    }
    scratch.succeed("ssdkd", &run);
    assert_eq!(scratch.artefacts("runs/tiny"), undisturbed.artefacts("runs/tiny"));
}
