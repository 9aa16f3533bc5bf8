//! Weight files that are damaged, cut short, or mean harm: all end in an error that names the file.

use std::path::Path;

use rand::Rng;
use ssdkd_nn::random::stream;
use ssdkd_nn::weights::{self, Choice};

use crate::place::golden;

fn import(bytes: &[u8]) -> Result<usize, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("strange.pth");
    std::fs::write(&file, bytes).unwrap();
    weights::import(&file, &Choice::default()).map(|import| import.tensors.len()).map_err(|error| {
        let error = error.to_string();
        assert!(error.contains("strange.pth"), "{error}");
        error
    })
}

#[track_caller]
fn check_refused(bytes: &[u8], message: &str) {
    let error = import(bytes).unwrap_err();
    assert!(error.contains(message), "{error}");
}

#[test]
fn a_missing_file_is_named() {
    let error = weights::import(Path::new("nowhere/teacher.pth"), &Choice::default()).unwrap_err().to_string();
    assert!(error.contains("nowhere/teacher.pth"), "{error}");
}

#[test]
fn what_is_no_weight_file_is_told_apart() {
    check_refused(b"", "empty");
    check_refused(b"<!DOCTYPE html><html>404</html>", "web page");
    check_refused(b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git lfs pull");
    check_refused(b"\x80\x02\x99.", "pickle that PyTorch did not write");
    check_refused(b"\x1f\x8b\x08\x00\x00", "compressed");
    check_refused(b"\x80\x02}q\x00.", "no dictionary of tensors");
    check_refused(&[&[0; 257][..], b"ustar\x00", &[0; 250]].concat(), "tar archive");
    check_refused(b"hello", "no complete safetensors file");
}

#[test]
fn safetensors_with_a_hostile_header() {
    let file = |header: &str, data: &[u8]| [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat();
    check_refused(&u64::MAX.to_le_bytes(), "safetensors");
    check_refused(&[&99_000_000_u64.to_le_bytes()[..], b"{}"].concat(), "safetensors");
    check_refused(&file("{\"a\":", b""), "safetensors");
    check_refused(&file(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, b"1234"), "safetensors");
    check_refused(&file(r#"{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,8]}}"#, b"12345678"), "safetensors");
    let overlap =
        r#"{"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}"#;
    check_refused(&file(overlap, b"12345678"), "safetensors");
    let huge = r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,8]}}"#;
    check_refused(&file(huge, b"12345678"), "safetensors");
}

#[test]
fn files_cut_short() {
    for name in ["nn_zip.pth", "nn_stream.pth", "nn.safetensors"] {
        let bytes = std::fs::read(golden(name)).unwrap();
        assert!(import(&bytes).is_ok(), "{name}");
        for part in [1, 9, 14, 300, bytes.len() / 2, bytes.len() - 1] {
            assert!(import(&bytes[..part]).is_err(), "{name} of {part} bytes");
        }
    }
}

/// Whatever a flipped byte makes of a file, it is tensors or an error: never a panic, never a hang.
#[test]
fn damaged_files_do_not_panic() {
    let mut rng = stream(11, "damage", &[]);
    for name in ["nn_zip.pth", "nn_stream.pth"] {
        let bytes = std::fs::read(golden(name)).unwrap();
        for _ in 0..1500 {
            let mut damaged = bytes.clone();
            for _ in 0..rng.random_range(1..4) {
                let at = rng.random_range(0..damaged.len());
                damaged[at] = if rng.random() { rng.random() } else { damaged[at] ^ (1 << rng.random_range(0..8)) };
            }
            let _ = import(&damaged);
        }
    }
}

/// An old stream whose object pickle is `program`, without storages.
fn old_stream(program: &[u8]) -> Vec<u8> {
    let front = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.";
    [&front[..], program, b"\x80\x02]X\x01\x00\x00\x000a.", &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]].concat()
}

fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

#[test]
fn a_pickle_runs_no_code() {
    let folder = tempfile::tempdir().unwrap();
    let victim = folder.path().join("victim");
    let command = text(&format!("touch {}", victim.display()));
    let program = [b"\x80\x02cposix\nsystem\n", &command[..], b"\x85R."].concat();
    check_refused(&old_stream(&program), "a whole object (class posix.system)");
    assert!(!victim.exists());
}

#[test]
fn a_model_that_is_no_state_dict_is_explained() {
    check_refused(&old_stream(b"\x80\x02c__main__\nNet\n)\x81}b."), "a whole object (class __main__.Net)");
    check_refused(&old_stream(&[b"\x80\x02}", &text("epoch")[..], b"K\x03s."].concat()), "save model.state_dict()");
}

/// One float in storage "0", as a call of `_rebuild_tensor_v2` with shape (1,).
fn one_float() -> Vec<u8> {
    let storage =
        [b"(", &text("storage")[..], b"ctorch\nFloatStorage\n", &text("0"), &text("cpu"), b"K\x01tQ"].concat();
    [b"ctorch._utils\n_rebuild_tensor_v2\n(", &storage[..], b"K\x00K\x01\x85K\x01\x85\x89}tR"].concat()
}

#[test]
fn a_tensor_that_wraps_itself_deeply_does_not_overflow_the_stack() {
    let mut value = one_float();
    for _ in 0..200_000 {
        // The inner value is on the stack already: swap it behind the function by way of the memo.
        value.extend_from_slice(b"q\x050ctorch._utils\n_rebuild_parameter\n(h\x05\x88}tR");
    }
    let program = [b"\x80\x02}", &text("w")[..], &value, b"s."].concat();
    check_refused(&old_stream(&program), "parameter within");
}

/// A description that many entries share costs each of them what it says, so it may not say much.
#[test]
fn a_description_is_not_multiplied() {
    let storage =
        [b"(", &text("storage")[..], b"ctorch\nFloatStorage\n", &text("0"), &text("cpu"), b"K\x01tQ"].concat();
    let sides = [b"(", &b"K\x01".repeat(20_000)[..], b"tq\x05"].concat();
    let tensor =
        [b"ctorch._utils\n_rebuild_tensor_v2\n(", &storage[..], b"K\x00", &sides, b"h\x05\x89}tRq\x07"].concat();
    let mut program = [b"\x80\x02}(", &text("first")[..], &tensor].concat();
    for _ in 0..20_000 {
        program.extend_from_slice(b"X\x01\x00\x00\x00ah\x07");
    }
    program.extend_from_slice(b"u.");
    check_refused(&old_stream(&program), "20000 dimensions");
}

/// The header's length may look like the start of a pickle.
#[test]
fn a_safetensors_file_is_one_whatever_its_header_is_as_long_as() {
    for length in [384, 640] {
        let header = format!("{:length$}", r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#);
        assert_eq!(import(&[&(length as u64).to_le_bytes(), header.as_bytes(), &[0; 8]].concat()), Ok(1));
    }
}

#[test]
fn a_storage_is_not_multiplied() {
    let mut program = [b"\x80\x02}(", &text("first")[..], &one_float(), b"q\x07"].concat();
    for copy in 0..2000 {
        program.extend(text(&copy.to_string()));
        program.extend_from_slice(b"h\x07");
    }
    program.extend_from_slice(b"u.");
    assert_eq!(import(&old_stream(&program)), Ok(2001), "small tensors may be shared");

    // A storage as large as the rest of the file, shared by as many tensors.
    let numbers = 4000_u32;
    let storage =
        [b"(", &text("storage")[..], b"ctorch\nFloatStorage\n", &text("0"), &text("cpu"), b"K\x01tQ"].concat();
    let shape = [b"J", &numbers.to_le_bytes()[..], b"\x85K\x01\x85"].concat();
    let tensor = [b"ctorch._utils\n_rebuild_tensor_v2\n(", &storage[..], b"K\x00", &shape, b"\x89}tR"].concat();
    let mut program = [b"\x80\x02}(", &text("first")[..], &tensor, b"q\x07"].concat();
    for copy in 0..2000 {
        program.extend(text(&copy.to_string()));
        program.extend_from_slice(b"h\x07");
    }
    program.extend_from_slice(b"u.");
    let front = old_stream(&program);
    let front = &front[..front.len() - 12];
    let file = [front, &u64::from(numbers).to_le_bytes(), &vec![0; 4 * numbers as usize]].concat();
    check_refused(&file, "times as large as the file");
}
