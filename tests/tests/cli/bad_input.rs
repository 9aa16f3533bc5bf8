//! What users get wrong: one clear error each, the documented exit code, nothing half-written.

use crate::support::{Scratch, TINY, workspace};

fn teacher_weights() -> Vec<u8> {
    std::fs::read(workspace().join("data/teachers/shapes-resnet20.safetensors")).expect("the shipped teacher")
}

#[test]
fn recipes() {
    let scratch = Scratch::new();
    scratch.fail("ssdkd", &["run", "none.toml"], 2, &["none.toml", "hint:"]);
    scratch.write("typo.toml", TINY.replace("[distill]", "[distil]"));
    scratch.fail("ssdkd", &["run", "typo.toml"], 2, &["typo.toml", "distil", "did you mean `distill`"]);
    scratch.fail("ssdkd-invert", &["tiny.toml", "--round", "0", "--set", "distill.lrr=1"], 2, &["did you mean `lr`"]);
    scratch.fail("ssdkd", &["run", "tiny.toml", "--set", "distill.lr=-1"], 2, &["distill.lr is -1"]);
    scratch.fail("ssdkd", &["run", "tiny.toml", "--set", "student.architecture=resnet9"], 2, &["resnet9", "resnet8"]);
    scratch.fail("ssdkd", &["run", "tiny.toml", "--sett", "a=b"], 2, &["--sett"]);
    assert!(!scratch.path("runs").join("tiny/invert").exists());
}

#[test]
fn rounds_in_the_wrong_order() {
    let scratch = Scratch::new();
    scratch.fail("ssdkd-balance", &["tiny.toml", "--round", "0"], 3, &["invert", "hint:", "ssdkd-invert"]);
    scratch.fail("ssdkd-distill", &["tiny.toml", "--round", "1"], 2, &["warm-up"]);
    scratch.fail("ssdkd-invert", &["tiny.toml", "--round", "4"], 2, &["round 4", "0 to 3"]);
    for round in ["4", "4294967295"] {
        let refused = format!("round {round} is not one of this run's rounds, 0 to 3");
        scratch.fail("ssdkd", &["run", "tiny.toml", "--round", round], 2, &[&refused]);
    }
    scratch.succeed("ssdkd", &["run", "tiny.toml", "--round", "0"]);
    let (_, err) = scratch.succeed("ssdkd", &["run", "tiny.toml", "--round", "0"]);
    assert!(err.contains("round 0 is fresh: nothing to do") && !err.contains("all "), "{err}");
}

#[test]
fn what_is_there_is_not_called_missing() {
    let scratch = Scratch::new();
    std::fs::create_dir_all(scratch.path("runs/tiny/report/summary.json")).unwrap();
    let err = scratch.fail("ssdkd", &["inspect", "runs/tiny"], 2, &["runs/tiny is a folder", "ssdkd status runs/tiny"]);
    assert!(!err.contains("does not exist"), "{err}");
    let err = scratch.fail("ssdkd", &["compare", "runs/tiny"], 1, &["cannot read runs/tiny/report/summary.json"]);
    assert!(!err.contains("does not exist"), "{err}");
    scratch.fail("ssdkd", &["inspect", "runs/none.parquet"], 3, &["runs/none.parquet does not exist", "hint: check"]);
    scratch.fail("ssdkd", &["inspect", "tiny.toml/file"], 1, &["cannot read tiny.toml/file"]);
}

#[test]
fn teachers() {
    let scratch = Scratch::new();
    scratch.write("lost.toml", TINY.replace("TEACHER", "nowhere.json"));
    scratch.fail(
        "ssdkd",
        &["run", "lost.toml"],
        3,
        &["teacher.card is missing", "nowhere.json", "--set teacher.card=$PWD/"],
    );

    let weights = teacher_weights();
    scratch.write("cut.safetensors", &weights[..weights.len() / 2]);
    scratch.fail("ssdkd", &["import", "cut.safetensors", "--out", "cut.json"], 4, &["cut.safetensors"]);
    assert!(!scratch.path("cut.json").exists());
    scratch.fail("ssdkd", &["import", "none.pth", "--out", "none.json"], 3, &["none.pth"]);
    scratch.write("text.pth", "not a checkpoint");
    scratch.fail("ssdkd", &["import", "text.pth", "--out", "text.json"], 4, &["text.pth"]);

    scratch.write("whole.safetensors", &weights);
    let wrong = ["import", "whole.safetensors", "--out", "wrong.json", "--architecture", "resnet32"];
    let err = scratch.fail("ssdkd", &wrong, 4, &["resnet32", "layer1.3"]);
    assert!(err.contains("whole.safetensors"), "{err}");
    assert!(!scratch.path("wrong.json").exists());

    // Nothing that is there already is replaced by something else without a word.
    scratch.fail(
        "ssdkd",
        &["import", "whole.safetensors", "--out", "whole.json", "--mean", "0.5", "--std", "0.5"],
        2,
        &["--mean has 1"],
    );
    let (_, err) = scratch.succeed("ssdkd", &["import", "whole.safetensors", "--out", "teacher.json"]);
    assert!(!err.contains("error"), "{err}");
    scratch.succeed("ssdkd", &["import", "whole.safetensors", "--out", "teacher.json"]);
    let other = ["import", "whole.safetensors", "--out", "teacher.json", "--normalization", "half"];
    scratch.fail("ssdkd", &other, 2, &["teacher.json exists and holds something else", "--force"]);
    scratch.succeed("ssdkd", &[&other[..], &["--force"]].concat());
    assert!(std::fs::read_to_string(scratch.path("teacher.json")).unwrap().contains("0.5"));
}

#[test]
fn damaged_shards_are_never_read() {
    let scratch = Scratch::new();
    scratch.succeed("ssdkd-invert", &["tiny.toml", "--round", "0"]);
    let shard = scratch.path("runs/tiny/invert/0000/samples/part-00000.parquet");
    let mut bytes = std::fs::read(&shard).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&shard, &bytes).unwrap();
    let parts = ["part-00000.parquet", "hint:"];
    scratch.fail("ssdkd-balance", &["tiny.toml", "--round", "0"], 4, &parts);
    std::fs::write(&shard, &bytes[..middle]).unwrap();
    scratch.fail("ssdkd-balance", &["tiny.toml", "--round", "0"], 4, &parts);
    assert!(!scratch.path("runs/tiny/balance/0000").exists());
}

#[test]
fn folders_that_cannot_be_written() {
    let scratch = Scratch::new();
    scratch.write("file", "in the way");
    scratch.fail("ssdkd", &["run", "tiny.toml", "--runs", "file/below"], 1, &["file/below"]);
}

#[test]
fn data_sets() {
    let scratch = Scratch::new();
    let card = workspace().join("data/teachers/shapes-resnet20.json");
    let card = card.to_str().unwrap();
    scratch.fail("ssdkd-evaluate", &[card, "--data", "nowhere"], 3, &["nowhere"]);
    let folder = scratch.path("images/test/cat");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("broken.png"), b"\x89PNG but no more").unwrap();
    scratch.fail("ssdkd-evaluate", &[card, "--data", "images"], 4, &["broken.png"]);
}
