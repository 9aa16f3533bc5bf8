//! The program as a user drives it: stopped, gone on with, run again, run differently.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use ssdkd_data::{Split, shapes};
use ssdkd_nn::TeacherCard;

/// A small data set in CIFAR-10's format.
fn write_data(folder: &Path) {
    let records = |split, start: usize, count: usize| {
        let images = shapes::generate(0, split, start + count);
        (start..start + count)
            .flat_map(|index| [vec![images.label(index) as u8], images.image(index).to_vec()].concat())
            .collect::<Vec<_>>()
    };
    std::fs::create_dir_all(folder).unwrap();
    for batch in 0..5 {
        let path = folder.join(format!("data_batch_{}.bin", batch + 1));
        std::fs::write(path, records(Split::Train, batch * 8, 8)).unwrap();
    }
    std::fs::write(folder.join("test_batch.bin"), records(Split::Test, 0, 20)).unwrap();
}

fn teach(folder: &Path, out: &str, more: &[&str]) -> Command {
    let mut command = training(folder, out, &["--epochs", "60"]);
    command.args(more);
    command
}

fn training(folder: &Path, out: &str, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ssdkd-teach"));
    command.current_dir(folder).env_remove("SSDKD_DATA").args(["--data", "data", "--out", out]);
    command.args(["--architecture", "resnet8", "--batch", "8", "--ema", "0.9"]).args(more);
    command
}

#[track_caller]
fn check(output: &Output, code: i32, parts: &[&str]) {
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{err}");
    for part in parts {
        assert!(err.contains(part), "{part:?} is not in:\n{err}");
    }
}

/// Starts a training and stops it once it has made a checkpoint; where that is.
#[cfg(unix)]
#[track_caller]
fn stop_at_checkpoint(folder: &Path, out: &str, more: &[&str]) -> PathBuf {
    // The first checkpoint is made before anything is learned; of an epoch there is a line. Another training may have left some.
    let log = || std::fs::read(folder.join(out).join("resnet8.training.jsonl")).ok();
    let before = log();
    let running = teach(folder, out, more).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let checkpoint = folder.join(out).join("resnet8.checkpoint.safetensors");
    let started = Instant::now();
    while !checkpoint.exists() || log() == before {
        assert!(started.elapsed() < Duration::from_secs(60), "no checkpoint after a minute");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(Command::new("kill").args(["-INT", &running.id().to_string()]).status().unwrap().success());
    check(&running.wait_with_output().unwrap(), 130, &["stopped by SIGINT", "hint: run the same command again"]);
    checkpoint
}

#[test]
#[cfg(unix)]
fn stopped_and_gone_on_with_gives_the_same_bytes() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path();
    write_data(&folder.join("data"));
    check(&teach(folder, "whole", &[]).output().unwrap(), 0, &["epoch 60/60", "whole/resnet8.json"]);

    let checkpoint = stop_at_checkpoint(folder, "parts", &[]);
    assert!(checkpoint.exists() && !folder.join("parts/resnet8.json").exists());

    // Other settings cannot go on from there.
    let other = teach(folder, "parts", &["--lr", "0.05"]).output().unwrap();
    check(&other, 2, &["belongs to another training", "--lr 0.1", "--force"]);
    let kept = std::fs::read(&checkpoint).unwrap();
    check(&teach(folder, "parts", &[]).output().unwrap(), 0, &["going on at epoch", "epoch 60/60"]);

    for file in ["resnet8.safetensors", "resnet8.json"] {
        let read = |out: &str| std::fs::read(folder.join(out).join(file)).unwrap();
        assert!(read("whole") == read("parts"), "{file} differs");
    }
    let log = std::fs::read_to_string(folder.join("parts/resnet8.training.jsonl")).unwrap();
    let epochs = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["epoch"].as_u64());
    assert_eq!(epochs.collect::<Vec<_>>(), (1..=60).map(Some).collect::<Vec<_>>());
    assert!(!checkpoint.exists(), "a finished training needs no checkpoint");

    // As if killed between the card and the end; a file that was in the making goes, too.
    std::fs::write(&checkpoint, &kept).unwrap();
    let unfinished = folder.join("parts/.resnet8.json.x7.tmp");
    std::fs::write(&unfinished, "half").unwrap();
    check(&teach(folder, "parts", &["--lr", "0.05"]).output().unwrap(), 2, &["is another teacher"]);
    check(&teach(folder, "parts", &[]).output().unwrap(), 0, &["nothing to do"]);
    assert!(!checkpoint.exists() && !unfinished.exists());
}

/// Whoever has said --force once need not say it again, and may.
#[test]
#[cfg(unix)]
fn a_training_over_another_teacher_is_gone_on_with() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path();
    write_data(&folder.join("data"));
    check(&teach(folder, "whole", &[]).output().unwrap(), 0, &["epoch 60/60"]);
    for (out, force) in [("silent", &[][..]), ("forced", &["--force"][..])] {
        check(&training(folder, out, &["--epochs", "1"]).output().unwrap(), 0, &["epoch 1/1"]);
        check(&teach(folder, out, &[]).output().unwrap(), 2, &["is another teacher", "--force"]);
        let checkpoint = stop_at_checkpoint(folder, out, &["--force"]);
        // A third training is neither of them.
        check(&teach(folder, out, &["--lr", "0.05"]).output().unwrap(), 2, &["is another teacher"]);
        check(&teach(folder, out, force).output().unwrap(), 0, &["going on at epoch", "epoch 60/60"]);
        assert!(!checkpoint.exists());
        assert!(bytes_of(&folder.join(out)) == bytes_of(&folder.join("whole")), "{out}: bytes differ");
        let log = std::fs::read_to_string(folder.join(out).join("resnet8.training.jsonl")).unwrap();
        assert_eq!(log.lines().count(), 60, "of this training alone:\n{log}");
    }

    // From a checkpoint of something else, or of nothing, --force starts over.
    for (out, damage) in [("other", false), ("damaged", true)] {
        let checkpoint = stop_at_checkpoint(folder, out, if damage { &[] } else { &["--lr", "0.05"] });
        if damage {
            std::fs::write(&checkpoint, "no checkpoint").unwrap();
            check(&teach(folder, out, &[]).output().unwrap(), 4, &["cannot resume from the checkpoint", "--force"]);
        }
        let again = teach(folder, out, &["--force"]).output().unwrap();
        check(&again, 0, &["epoch 60/60"]);
        assert!(!String::from_utf8_lossy(&again.stderr).contains("going on"));
        assert!(bytes_of(&folder.join(out)) == bytes_of(&folder.join("whole")), "{out}: bytes differ");
    }
}

/// The files in a folder, but for the log, which has clocks in it.
fn bytes_of(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let files = entries.map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()));
    files.filter(|(name, _)| name != "resnet8.training.jsonl").collect()
}

/// Two trainings by default; `make kills KILLED=200` for many.
#[test]
fn killed_at_any_moment_it_goes_on_to_the_same_bytes() {
    let wanted = std::env::var("SSDKD_KILLED").ok().and_then(|text| text.parse().ok()).unwrap_or(2);
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path();
    write_data(&folder.join("data"));
    let short = ["--epochs", "12", "--quiet"];
    let started = Instant::now();
    check(&training(folder, "whole", &short).output().unwrap(), 0, &[]);
    let whole = started.elapsed();
    let expected = bytes_of(&folder.join("whole"));

    let (mut killed, mut tries, mut runs) = (0, 0_u32, 0);
    while runs < wanted {
        let (out, before) = (format!("parts-{tries}"), killed);
        let threads = ["1", "2"][runs % 2];
        loop {
            let mut command = training(folder, &out, &short);
            let mut process = command.args(["--threads", threads]).stderr(std::process::Stdio::null()).spawn().unwrap();
            // Spread evenly over the time that the training takes, by the golden ratio: of tries and not of kills, or one that
            // is done before its time would come again and again.
            tries += 1;
            std::thread::sleep(whole.mul_f64((f64::from(tries) * 0.618).fract()));
            if let Some(status) = process.try_wait().unwrap() {
                assert!(status.success(), "{status}");
                break;
            }
            process.kill().unwrap();
            process.wait().unwrap();
            killed += 1;
        }
        runs += usize::from(killed > before); // one that was quicker than every kill is none
        let found = bytes_of(&folder.join(&out));
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "after {killed} kills");
        assert!(found == expected, "after {killed} kills, bytes differ");
    }
    println!("{killed} kills in {runs} trainings that were killed at least once, all ended with the same bytes");
}

#[test]
fn the_result_is_a_teacher_and_is_not_replaced_by_accident() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path();
    write_data(&folder.join("data"));
    let flags = ["--epochs", "1", "--name", "small", "--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25"];
    let one = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ssdkd-teach"));
        command.current_dir(folder).env_remove("SSDKD_DATA").args(["--data", "data", "--out", "out"]);
        command.args(["--architecture", "resnet8", "--batch", "8"]).args(flags).args(more).output().unwrap()
    };
    check(&one(&[]), 0, &["small.json"]);
    let path = folder.join("out/small.json");
    let card = TeacherCard::load(&path).unwrap();
    assert_eq!((card.classes, card.input, card.class_names[3].as_str()), (10, [3, 32, 32], "cat"));
    assert_eq!((card.mean.as_slice(), card.std.as_slice()), (&[0.5; 3][..], &[0.25; 3][..]));
    assert!(
        card.source.contains("--epochs 1 --batch 8") && card.source.contains("of 20 test images"),
        "{}",
        card.source
    );
    card.network(&path, &candle_core::Device::Cpu).unwrap();

    check(&one(&[]), 0, &["nothing to do"]);
    check(&one(&["--seed", "1"]), 2, &["is another teacher", "--seed 0", "--force"]);
    assert_eq!(TeacherCard::load(&path).unwrap(), card);
    check(&one(&["--seed", "1", "--force"]), 0, &["small.json"]);
    assert_ne!(TeacherCard::load(&path).unwrap().digest, card.digest);
}

#[test]
fn mistakes_have_their_exit_codes() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path();
    check(&teach(folder, "out", &[]).output().unwrap(), 3, &["data is missing", "hint:"]);
    write_data(&folder.join("data"));
    check(&teach(folder, "out", &["--input", "3,32"]).output().unwrap(), 2, &["--input must be"]);
    check(&teach(folder, "out", &["--name", "../up"]).output().unwrap(), 2, &["--name"]);
    check(&teach(folder, "out", &["--mean", "0.5"]).output().unwrap(), 2, &["cannot train a resnet8", "mean"]);
    std::fs::create_dir(folder.join("mine")).unwrap();
    std::fs::write(folder.join("mine/resnet8.safetensors"), b"mine").unwrap();
    check(&teach(folder, "mine", &[]).output().unwrap(), 2, &["mine/resnet8.safetensors is there", "--force"]);
    assert_eq!(std::fs::read(folder.join("mine/resnet8.safetensors")).unwrap(), b"mine");
    check(&teach(folder, "out", &["--device", "cuda"]).output().unwrap(), 2, &["--device cpu"]);
    check(&teach(folder, "data/test_batch.bin", &[]).output().unwrap(), 1, &["test_batch.bin"]);
    std::fs::write(folder.join("data/data_batch_3.bin"), b"short").unwrap();
    check(&teach(folder, "out", &[]).output().unwrap(), 4, &["data_batch_3.bin", "truncated"]);
    assert!(!folder.join("out").exists());
}

/// Writes an image folder: each file's name and the gray value of its 8×8 pixels.
fn write_images(folder: &Path, files: &[(&str, u8)]) {
    for (name, value) in files {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, [b"P5 8 8 255\n".as_slice(), &[*value; 64]].concat()).unwrap();
    }
}

/// Trains on an image folder.
fn teach_small(folder: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ssdkd-teach"));
    command.current_dir(folder).env_remove("SSDKD_DATA").args(["--data", "data", "--out", "out", "--epochs", "1"]);
    command.args(["--batch", "2"]).args(more).output().unwrap()
}

#[test]
fn test_images_that_were_trained_on_are_counted() {
    let scratch = tempfile::tempdir().unwrap();
    let train = [("train/a/1.pgm", 10), ("train/a/2.pgm", 20), ("train/b/1.pgm", 200), ("train/b/2.pgm", 210)];
    write_images(&scratch.path().join("data"), &train);
    write_images(&scratch.path().join("data"), &[("test/a/1.pgm", 10), ("test/b/1.pgm", 220)]);
    let trained = teach_small(scratch.path(), &["--architecture", "resnet8"]);
    check(&trained, 0, &["1 of 2 test images (50.0 %) are training images too"]);
}

#[test]
fn images_of_several_sizes_get_the_flag_that_brings_them_into_one() {
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path().join("data");
    write_images(&data, &[("train/a/1.pgm", 10), ("train/b/1.pgm", 200), ("test/a/1.pgm", 20), ("test/b/1.pgm", 210)]);
    std::fs::write(data.join("train/b/2.pgm"), b"P5 2 1 255\n\x01\x02").unwrap();
    let refused = teach_small(scratch.path(), &["--architecture", "resnet8"]);
    check(&refused, 4, &["2.pgm", "shape [1, 1, 2]", "ssdkd-teach --input 1,8,8"]);
    let trained = teach_small(scratch.path(), &["--architecture", "resnet8", "--input", "1,8,8"]);
    check(&trained, 0, &["1 of 3 images are resized to 8×8"]);
}

/// Every network would be right of all of its images.
#[test]
fn data_of_one_class_is_refused() {
    let scratch = tempfile::tempdir().unwrap();
    write_images(&scratch.path().join("data"), &[("train/cat/1.pgm", 10), ("test/cat/1.pgm", 20)]);
    let refused = teach_small(scratch.path(), &["--architecture", "resnet8"]);
    check(&refused, 4, &["data: the data has one class, cat", "hint: a teacher needs at least two classes"]);
}

/// A network that knows only the background would be perfect on such masks.
#[test]
fn masks_of_0_and_255_are_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path().join("data");
    let images = ["train/images/1.pgm", "train/images/2.pgm", "test/images/1.pgm"];
    write_images(&data, &[(images[0], 50), (images[1], 150), (images[2], 99)]);
    std::fs::write(data.join("classes.txt"), "background\ndisc\n").unwrap();
    let write_masks = |of_disc: u8| {
        for image in images {
            let path = data.join(image.replace("images", "masks")).with_extension("png");
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let mut encoder = png::Encoder::new(std::fs::File::create(path).unwrap(), 8, 8);
            encoder.set_color(png::ColorType::Grayscale);
            let pixels = (0..64).map(|at| if at % 8 < 2 { of_disc } else { 0 }).collect::<Vec<_>>();
            encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
        }
    };
    write_masks(255);
    let flags = ["--architecture", "fpn-resnet8"];
    let refused = teach_small(scratch.path(), &flags);
    check(&refused, 4, &["no pixel of the training masks is of class disc", "25.0 %", "write 1 instead of 255"]);
    write_masks(1);
    check(&teach_small(scratch.path(), &flags), 0, &["mean IoU"]);
}

#[test]
fn a_teacher_of_oblong_images_is_trained() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path();
    write_data(&folder.join("data"));
    let trained = training(folder, "oblong", &["--epochs", "1", "--input", "3,24,40"]).output().unwrap();
    check(&trained, 0, &["all images of 32×32 are resized to 24×40"]);
    assert_eq!(TeacherCard::load(&folder.join("oblong/resnet8.json")).unwrap().input, [3, 24, 40]);
}
