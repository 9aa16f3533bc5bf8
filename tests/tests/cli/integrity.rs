//! Damage is found, named, and repaired by the command that is offered; `status` knows what is right, and why something is not.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::Scratch;

/// Changes one file of a complete run: `verify` must name it with `reason`, and its remedy must repair it.
#[track_caller]
fn check_damage(file: &str, change: impl Fn(&Path), reason: &str) {
    let scratch = Scratch::new();
    scratch.succeed("ssdkd", &["run", "tiny.toml"]);
    let before = scratch.artefacts("runs/tiny");
    change(&scratch.path("runs/tiny").join(file));
    let output = scratch.run("ssdkd", &["verify", "runs/tiny"]);
    let list = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(4), "{list}");
    let at = list.lines().position(|line| line.contains(file)).unwrap_or_else(|| panic!("{file} is not in:\n{list}"));
    let lines = list.lines().skip(at).take(2).collect::<Vec<_>>();
    assert!(lines[0].contains(reason), "{reason:?} is not in:\n{list}");
    let command = lines[1].split('`').nth(1).unwrap_or_else(|| panic!("no command in:\n{list}"));
    let words = command.split(' ').collect::<Vec<_>>();
    scratch.succeed(words[0], &words[1..]);
    let (list, _) = scratch.succeed("ssdkd", &["verify", "runs/tiny"]);
    assert!(list.contains(" 0 damaged in "), "{list}");
    assert_eq!(scratch.artefacts("runs/tiny"), before);
}

#[test]
fn a_flipped_byte_is_found_and_repaired() {
    let flip = |path: &Path| {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    check_damage("invert/0001/samples/part-00000.parquet", flip, "BLAKE3");
    check_damage("distill/0003/student.safetensors", flip, "BLAKE3");
}

#[test]
fn a_truncated_and_a_missing_file_are_found_and_repaired() {
    let truncate = |path: &Path| fs::OpenOptions::new().write(true).open(path).unwrap().set_len(100).unwrap();
    check_damage("balance/0002/buffer.parquet", truncate, "100 bytes instead of");
    check_damage("sample/0003/draws.parquet", |path| fs::remove_file(path).unwrap(), "not there");
}

#[test]
fn a_swapped_shard_and_a_foreign_manifest_are_found_and_repaired() {
    let swap = |path: &Path| {
        let other = path.ancestors().nth(3).unwrap().join("0000/samples/part-00000.parquet");
        fs::copy(other, path).unwrap();
    };
    check_damage("invert/0001/samples/part-00000.parquet", swap, "instead of");
    let foreign = |path: &Path| {
        fs::copy(path.ancestors().nth(2).unwrap().join("0000/manifest.json"), path).unwrap();
    };
    check_damage("balance/0001/manifest.json", foreign, "it is of stage balance, round 0");
}

#[test]
fn all_damage_is_repaired_at_once() {
    let scratch = Scratch::new();
    let settings = ["--set", "keep.states=1", "--set", "run.warmup_rounds=1", "--set", "run.rounds=3"];
    scratch.succeed("ssdkd", &[&["run", "tiny.toml"][..], &settings].concat());
    let before = scratch.artefacts("runs/tiny");
    let (_, err) = scratch.succeed("ssdkd", &["repair", "runs/tiny"]);
    assert!(err.contains("nothing of runs/tiny is damaged"), "{err}");
    // State of the round before is gone, that of the first distilling one is kept: the way to these begins after it.
    for file in
        ["invert/0003/samples/part-00000.parquet", "distill/0003/student.safetensors", "sample/0002/manifest.json"]
    {
        fs::write(scratch.path("runs/tiny").join(file), "spilt").unwrap();
    }
    let (_, err) = scratch.succeed("ssdkd", &["repair", "runs/tiny"]);
    assert!(err.contains("invert 0002: ") && err.contains("distill 0002: ") && !err.contains("balance 0"), "{err}");
    assert!(!err.contains("invert 0001: "), "{err}");
    assert_eq!(scratch.artefacts("runs/tiny"), before);
    scratch.fail("ssdkd", &["repair", "runs/tiny", "teach/1"], 2, &["STAGE/ROUND", "invert, balance, sample, distill"]);
}

#[test]
fn a_damaged_teacher_hides_no_other_damage() {
    let scratch = Scratch::new();
    scratch.succeed("ssdkd", &["run", "tiny.toml"]);
    fs::write(scratch.path("runs/tiny/teacher/card.json"), "{").unwrap();
    fs::write(scratch.path("runs/tiny/balance/0001/classes.parquet"), "spilt").unwrap();
    let output = scratch.run("ssdkd", &["verify", "runs/tiny"]);
    let list = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(4), "{list}");
    assert!(list.contains("teacher/card.json") && list.contains("balance/0001/classes.parquet: 5 bytes"), "{list}");
}

#[test]
fn a_run_of_an_older_program_is_refused_and_left_alone() {
    let scratch = Scratch::new();
    scratch.succeed("ssdkd", &["run", "tiny.toml", "--round", "0"]);
    let path = scratch.path("runs/tiny/recipe.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("version = 1\n", "")).unwrap();
    let before = scratch.artefacts("runs/tiny");
    let parts = ["runs/tiny/recipe.toml", "the last program that reads it is that of commit 172d8de", "hint:"];
    for arguments in
        [&["run", "tiny.toml"][..], &["run", "runs/tiny"], &["status", "tiny.toml"], &["verify", "runs/tiny"]]
    {
        scratch.fail("ssdkd", arguments, 2, &parts);
    }
    assert_eq!(scratch.artefacts("runs/tiny"), before);
}

#[test]
fn a_newer_run_is_left_alone() {
    let scratch = Scratch::new();
    scratch.succeed("ssdkd", &["run", "tiny.toml"]);
    let path = scratch.path("runs/tiny/invert/0001/manifest.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    manifest["schema_version"] = 99.into();
    fs::write(&path, manifest.to_string()).unwrap();
    let output = scratch.run("ssdkd", &["verify", "runs/tiny"]);
    let list = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(4));
    assert!(list.contains("schema version 99, this program knows") && list.contains("a newer one"), "{list}");
}

#[test]
fn status_knows_what_is_right_and_why_something_is_not() {
    let scratch = Scratch::new();
    let (none, _) = scratch.succeed("ssdkd", &["status", "tiny.toml", "--runs", "mine"]);
    assert_eq!(none, "mine/tiny does not exist yet; `ssdkd run tiny.toml --runs mine` starts it\n");
    let (json, _) = scratch.succeed("ssdkd", &["status", "tiny.toml", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["fresh"], 0);
    scratch.succeed("ssdkd", &["run", "tiny.toml"]);
    let (all, _) = scratch.succeed("ssdkd", &["status", "tiny.toml"]);
    assert!(all.contains("12 of 12 stages are fresh") && !all.contains("missing"), "{all}");
    let (quiet, _) = scratch.succeed("ssdkd", &["status", "runs/tiny", "--quiet"]);
    assert_eq!(quiet, "12 of 12 stages are fresh in runs/tiny\n");

    let (json, _) = scratch.succeed("ssdkd", &["status", "tiny.toml", "--json", "--set", "distill.lr=0.05"]);
    let status: Value = serde_json::from_str(&json).unwrap();
    let of = |stage: &str, round: u64| {
        let stages = status["stages"].as_array().unwrap();
        stages.iter().find(|line| line["stage"] == stage && line["round"] == round).unwrap()
    };
    assert_eq!(status["fresh"], 12 - 5, "{json}"); // not distill 0002, nor the four stages after it
    assert_eq!((&of("invert", 2)["state"], &of("invert", 2)["rows"]), (&"fresh".into(), &24.into()));
    assert!(of("invert", 2)["bytes"].as_u64() > Some(24 * 3 * 32 * 32 / 2));
    assert_eq!(of("distill", 2)["state"], "stale");
    assert_eq!(of("distill", 2)["why"][0], "distill.lr 0.1 → 0.05");
    assert_eq!(of("invert", 3)["why"][0], "distill 0002, which it reads, would run");

    fs::create_dir_all(scratch.path("runs/tiny/sample/.0003.partial")).unwrap();
    fs::remove_dir_all(scratch.path("runs/tiny/sample/0003")).unwrap();
    fs::write(scratch.path("runs/tiny/balance/0001/buffer.parquet"), "no table").unwrap();
    let (text, _) = scratch.succeed("ssdkd", &["status", "tiny.toml"]);
    assert!(text.contains("sample   partial"), "{text}");
    assert!(text.contains("balance  corrupt") && text.contains("buffer.parquet: 8 bytes instead of"), "{text}");
}

#[test]
fn what_nothing_needs_is_listed_then_removed() {
    let scratch = Scratch::new();
    scratch.succeed("ssdkd", &["run", "tiny.toml", "--set", "balance.eviction=fifo", "--set", "run.rounds=4"]);
    let run = scratch.path("runs/tiny");
    let before = scratch.artefacts("runs/tiny");
    fs::write(run.join(".abc123.tmp"), "half a file").unwrap();
    fs::create_dir_all(run.join("distill/.0009.partial")).unwrap();
    fs::write(run.join("distill/.0009.partial/student.safetensors"), "half a student").unwrap();
    fs::create_dir_all(run.join("distill/.0008.partial")).unwrap();
    fs::write(run.join("distill/.0008.partial/checkpoint"), "what a run goes on from").unwrap();
    let (list, _) = scratch.succeed("ssdkd", &["gc", "runs/tiny"]);
    for part in [".abc123.tmp", ".0009.partial", "2 files and folders are not needed, 25 B; --yes"] {
        assert!(list.contains(part), "{part:?} is not in:\n{list}");
    }
    assert!(run.join(".abc123.tmp").exists(), "it was to be listed only");
    // The buffer holds 40 images, and a round makes 24: of six, the last two are in it. With other settings a run goes on from the
    // second and from the third, whose buffers hold images of the first three.
    let (list, _) = scratch.succeed("ssdkd", &["gc", "runs/tiny", "--shards", "--yes"]);
    assert!(list.contains("invert/0003/samples/part-00000.parquet") && list.contains(" removed, "), "{list}");
    assert!(!run.join(".abc123.tmp").exists() && !run.join("distill/.0009.partial").exists());
    assert!(run.join("distill/.0008.partial/checkpoint").exists(), "a checkpoint was removed");
    fs::remove_dir_all(run.join("distill/.0008.partial")).unwrap();
    let (status, _) = scratch.succeed("ssdkd", &["status", "runs/tiny", "--quiet"]);
    assert!(status.starts_with("20 of 20 stages are fresh"), "{status}");
    scratch.succeed("ssdkd", &["verify", "runs/tiny"]);
    scratch.succeed("ssdkd", &["run", "runs/tiny"]);
    // What was removed can be made again.
    scratch.succeed("ssdkd", &["repair", "runs/tiny", "invert/0003"]);
    assert_eq!(scratch.artefacts("runs/tiny"), before);
}

#[test]
fn shards_outside_the_buffer_are_not_kept_if_that_is_wanted() {
    let scratch = Scratch::new();
    let fifo = ["run", "tiny.toml", "--set", "balance.eviction=fifo", "--set", "run.rounds=4"];
    let thrifty = [&fifo[..], &["--set", "keep.shards=buffer"]].concat();
    scratch.succeed("ssdkd", &thrifty);
    let shard = |round: u32| scratch.path(&format!("runs/tiny/invert/{round:04}/samples/part-00000.parquet"));
    assert_eq!([0, 1, 2, 3, 4, 5].map(|round| shard(round).exists()), [true, true, true, false, true, true]);
    let (out, err) = scratch.succeed("ssdkd", &thrifty);
    assert!(err.contains("nothing to do") && out.contains("images     144 distinct"), "{err}{out}");
    // The same run, but for that.
    let thrifty = scratch.artefacts("runs/tiny");
    let whole = Scratch::new();
    whole.succeed("ssdkd", &fifo);
    let mut expected = whole.artefacts("runs/tiny");
    expected.retain(|path, _| thrifty.contains_key(path));
    let differing = expected.iter().filter(|(path, digest)| thrifty[*path] != **digest).map(|(path, _)| path);
    assert_eq!(differing.collect::<Vec<_>>(), ["recipe.toml"]);

    // One that the buffer needs is missed.
    fs::remove_file(shard(4)).unwrap();
    let output = scratch.run("ssdkd", &["verify", "runs/tiny"]);
    let list = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.code() == Some(4) && list.contains("it holds images of the buffer"), "{list}");
    scratch.succeed("ssdkd", &["repair", "runs/tiny"]);
    assert!(shard(4).exists());
    scratch.succeed("ssdkd", &["verify", "runs/tiny"]);
}
