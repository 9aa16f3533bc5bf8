//! `ssdkd predict` and `ssdkd inspect` on cards, students, runs and networks from files.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use flate2::Compression;
use flate2::write::ZlibEncoder;
use serde_json::Value;
use ssdkd_nn::TeacherCard;

use crate::support::{Scratch, workspace};

/// The normalization in `resnet.pt2`; `resnet.onnx` does not say it.
const NORMALIZATION: [&str; 4] = ["--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25"];

fn golden(file: &str) -> String {
    workspace().join("tests/golden/graph").join(file).to_str().expect("a UTF-8 path").into()
}

fn card(name: &str) -> PathBuf {
    workspace().join("data/teachers").join(name)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a UTF-8 path")
}

/// One number of a picture that `seed` chooses.
fn color(seed: usize, x: usize, y: usize, channel: usize) -> u8 {
    ((x * (3 + seed) + y * (5 * channel + 1) + (x * y * seed) / 7 + 40 * channel) % 256) as u8
}

/// Writes a picture as PNG.
fn write_png(scratch: &Scratch, name: &str, size: [usize; 2], seed: usize) {
    write_pixels(scratch, name, size, |x, y, channel| color(seed, x, y, channel));
}

/// Writes the picture whose pixels are `pixel(x, y, channel)` as PNG.
fn write_pixels(
    scratch: &Scratch,
    name: &str,
    [height, width]: [usize; 2],
    pixel: impl Fn(usize, usize, usize) -> u8 + Copy,
) {
    let mut lines = ZlibEncoder::new(Vec::new(), Compression::default());
    for y in 0..height {
        let pixels = (0..width).flat_map(|x| (0..3).map(move |channel| pixel(x, y, channel)));
        // The first byte of a line is its filter: none.
        lines.write_all(&[0].into_iter().chain(pixels).collect::<Vec<u8>>()).expect("memory takes it");
    }
    let [w, h] = [width, height].map(|side| (side as u32).to_be_bytes());
    let header = [&w[..], &h, &[8, 2, 0, 0, 0]].concat(); // 8 bits, RGB
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, data) in [(b"IHDR", header), (b"IDAT", lines.finish().expect("memory takes it")), (b"IEND", Vec::new())]
    {
        let body = [&kind[..], &data].concat();
        let mut crc = flate2::Crc::new();
        crc.update(&body);
        png.extend((data.len() as u32).to_be_bytes());
        png.extend(body);
        png.extend(crc.sum().to_be_bytes());
    }
    scratch.write(name, png);
}

/// Predicts with `--json` and returns the array.
#[track_caller]
fn predict(scratch: &Scratch, model: &str, arguments: &[&str]) -> Vec<Value> {
    let (out, _) = scratch.succeed("ssdkd", &[&["predict", model, "--json"], arguments].concat());
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("an array").iter().map(|number| number.as_f64().expect("a number")).collect()
}

#[track_caller]
fn assert_close(found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0_f64, |largest, number| largest.max(number.abs()));
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-4 * largest, "{found} is not {expected}");
    }
}

#[test]
fn a_card_predicts_the_logits_of_its_network() {
    let scratch = Scratch::new();
    let path = card("shapes-resnet20.json");
    let card = TeacherCard::load(&path).unwrap();
    let [channels, height, width] = card.input;
    let network = card.network(&path, &Device::Cpu).unwrap();
    write_png(&scratch, "a.png", [height, width], 1);
    write_png(&scratch, "b.png", [height, width], 2);
    let predictions = predict(&scratch, text(&path), &["a.png", "b.png", "--top", "2"]);
    assert_eq!(predictions.len(), 2);
    for ((prediction, file), seed) in predictions.iter().zip(["a.png", "b.png"]).zip([1, 2]) {
        let image = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
        let image = image.flat_map(|(x, y)| (0..channels).map(move |c| f32::from(color(seed, x, y, c)) / 255.0));
        let image = Tensor::from_vec(image.collect(), (1, height, width, channels), &Device::Cpu).unwrap();
        let expected = network.logits(&image).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let expected = expected.into_iter().map(f64::from).collect::<Vec<_>>();
        assert_eq!(prediction["file"], file);
        assert_close(&numbers(&prediction["logits"]), &expected);
        let best = (0..expected.len()).max_by(|&a, &b| expected[a].total_cmp(&expected[b])).unwrap();
        assert_eq!(prediction["classes"][0]["index"], best);
        assert_eq!(prediction["classes"][0]["name"], *card.class_labels()[best]);
        assert_eq!(prediction["classes"].as_array().unwrap().len(), 2);
        let sum = numbers(&prediction["probabilities"]).iter().sum::<f64>();
        assert!((sum - 1.0).abs() < 1e-9, "{sum}");
    }
}

#[test]
fn the_same_network_as_onnx_and_pt2_predicts_the_same_logits() {
    let scratch = Scratch::new();
    write_png(&scratch, "a.png", [24, 32], 1);
    let pt2 = predict(&scratch, &golden("resnet.pt2"), &["a.png"]);
    let onnx = predict(&scratch, &golden("resnet.onnx"), &[&["a.png"][..], &NORMALIZATION].concat());
    let expected = numbers(&pt2[0]["logits"]);
    assert_eq!(expected.len(), 5);
    assert_close(&numbers(&onnx[0]["logits"]), &expected);
    // A flag counts more than the file.
    let other = predict(&scratch, &golden("resnet.pt2"), &["a.png", "--normalization", "none"]);
    assert_ne!(numbers(&other[0]["logits"]), expected);
}

#[test]
fn a_network_of_bgr_images_gets_blue_first() {
    let scratch = Scratch::new();
    write_png(&scratch, "rgb.png", [24, 32], 1);
    write_pixels(&scratch, "bgr.png", [24, 32], |x, y, channel| color(1, x, y, 2 - channel));
    let with = |more: &[&str]| predict(&scratch, &golden("resnet.onnx"), &[more, &NORMALIZATION].concat());
    let (given, swapped) = (with(&["bgr.png"]), with(&["rgb.png", "--channel-order", "bgr"]));
    assert_eq!(swapped[0]["logits"], given[0]["logits"]);
    assert_ne!(swapped[0]["logits"], with(&["rgb.png"])[0]["logits"]);
}

#[test]
fn a_network_of_images_to_255_has_a_mean_of_that_scale() {
    let scratch = Scratch::new();
    write_png(&scratch, "a.png", [24, 32], 1);
    let bytes = ["a.png", "--range", "0,255", "--mean", "127.5,127.5,127.5", "--std", "63.75,63.75,63.75"];
    let expected = predict(&scratch, &golden("resnet.onnx"), &[&["a.png"][..], &NORMALIZATION].concat());
    let found = predict(&scratch, &golden("resnet.onnx"), &bytes);
    assert_close(&numbers(&found[0]["logits"]), &numbers(&expected[0]["logits"]));
}

#[test]
fn the_crop_of_a_flag_or_a_card_is_the_middle_of_an_image() {
    let scratch = Scratch::new();
    write_png(&scratch, "whole.png", [40, 42], 1);
    write_pixels(&scratch, "middle.png", [24, 32], |x, y, channel| color(1, x + 5, y + 8, channel));
    let with = |more: &[&str]| predict(&scratch, &golden("resnet.onnx"), &[more, &NORMALIZATION].concat());
    assert_eq!(with(&["whole.png", "--crop", "24x32"])[0]["logits"], with(&["middle.png"])[0]["logits"]);

    let mut card = TeacherCard::load(&card("shapes-resnet20.json")).unwrap();
    fs::copy(workspace().join("data/teachers").join(&card.weights), scratch.path(&card.weights)).unwrap();
    card.input = [3, 24, 32];
    scratch.write("plain.json", card.to_json());
    card.preprocessing.crop = Some([24, 32]);
    scratch.write("crop.json", card.to_json());
    let [cropped, middle] = [("crop.json", "whole.png"), ("plain.json", "middle.png")]
        .map(|(card, image)| predict(&scratch, card, &[image]));
    assert_eq!(cropped[0]["logits"], middle[0]["logits"]);
}

#[test]
fn a_run_and_its_exported_student_predict_the_same() {
    let scratch = Scratch::new();
    scratch.succeed("ssdkd", &["run", "tiny.toml"]);
    scratch.succeed("ssdkd", &["export", "runs/tiny", "--out", "student"]);
    write_png(&scratch, "a.png", [40, 30], 3);
    assert_eq!(predict(&scratch, "runs/tiny", &["a.png"]), predict(&scratch, "student", &["a.png"]));
}

#[test]
fn a_segmentation_network_writes_a_mask_of_each_image() {
    let scratch = Scratch::new();
    let path = card("shapes-masks-fpn-resnet20.json");
    write_png(&scratch, "a.png", [32, 32], 1);
    scratch.fail("ssdkd", &["predict", text(&path), "a.png"], 2, &["segmentation network", "hint: add --out DIR"]);
    let written = predict(&scratch, text(&path), &["a.png", "--out", "masks"]);
    assert_eq!(written[0]["mask"], "masks/a.png");
    let mask = fs::read(scratch.path("masks/a.png")).unwrap();
    assert!(mask.starts_with(b"\x89PNG"));
    let [_, height, width] = TeacherCard::load(&path).unwrap().input.map(|side| side as u32);
    assert_eq!(mask[16..24], [width.to_be_bytes(), height.to_be_bytes()].concat());
    assert_eq!(mask[25], 0, "a mask is gray");
    let over = ["predict", text(&path), "a.png", "--out", "."];
    scratch.fail("ssdkd", &over, 2, &["would replace an image", "hint:"]);
}

#[test]
fn a_damaged_image_is_an_error_that_names_it() {
    let scratch = Scratch::new();
    write_png(&scratch, "a.png", [32, 32], 1);
    let whole = fs::read(scratch.path("a.png")).unwrap();
    scratch.write("cut.png", &whole[..whole.len() / 2]);
    let path = card("shapes-resnet20.json");
    let output = scratch.run("ssdkd", &["predict", text(&path), "a.png", "cut.png"]);
    assert!(output.stdout.is_empty());
    scratch.fail("ssdkd", &["predict", text(&path), "a.png", "cut.png"], 4, &["cut.png is not a readable image"]);
    scratch.fail("ssdkd", &["predict", text(&path), "none.png"], 3, &["cannot read none.png"]);
}

#[test]
fn a_file_without_a_normalization_needs_a_flag_and_a_card_refuses_one() {
    let scratch = Scratch::new();
    write_png(&scratch, "a.png", [24, 32], 1);
    let said = ["does not say how images are normalized", "hint: add --normalization"];
    scratch.fail("ssdkd", &["predict", &golden("resnet.onnx"), "a.png"], 2, &said);
    let path = card("shapes-resnet20.json");
    let flags = ["predict", text(&path), "a.png", "--normalization", "half"];
    scratch.fail("ssdkd", &flags, 2, &["has a card, which says how images are preprocessed", "hint: leave out"]);
}

#[test]
fn a_table_names_files_and_classes() {
    let scratch = Scratch::new();
    write_png(&scratch, "a.png", [24, 32], 1);
    let (out, _) = scratch.succeed("ssdkd", &["predict", &golden("resnet.pt2"), "a.png", "--top", "3"]);
    let lines = out.lines().collect::<Vec<_>>();
    assert_eq!(lines.len(), 4, "{out}");
    assert!(lines[0].starts_with("file ") && lines[1].starts_with("a.png "), "{out}");
}

#[test]
fn inspect_describes_a_network_whatever_its_file_is_called() {
    let scratch = Scratch::new();
    for (file, format) in [("resnet.pt2", "PyTorch .pt2"), ("resnet.onnx", "ONNX")] {
        fs::copy(golden(file), scratch.path("network.bin")).unwrap();
        let (out, _) = scratch.succeed("ssdkd", &["inspect", "network.bin"]);
        for said in
            [&format!("format   {format}\n")[..], "input    [batch, 3, 24, 32]\n", "[batch, 5]\n", "op       conv2d "]
        {
            assert!(out.contains(said), "{said:?} is not in:\n{out}");
        }
        assert!(out.contains("multiply-adds for an image of 24×32\n") && out.contains("batch norms"), "{out}");
    }
    let (out, _) = scratch.succeed("ssdkd", &["inspect", &golden("resnet.pt2")]);
    assert!(out.contains("text     preprocessing.json = {\"mean\": [0.5, 0.5, 0.5]"), "{out}");
}

#[test]
fn inspect_says_that_batch_norms_were_folded_away() {
    let (out, _) = Scratch::new().succeed("ssdkd", &["inspect", &golden("folded.onnx")]);
    assert!(out.contains("norms    0 batch norms; others were folded away: "), "{out}");
}

#[test]
fn inspect_lists_an_operation_that_cannot_run() {
    let scratch = Scratch::new();
    let mut bytes = fs::read(golden("resnet.onnx")).unwrap();
    let at = bytes.windows(6).position(|window| window == b"\x22\x04Relu").expect("an activation");
    bytes[at + 5] = b'x';
    scratch.write("strange.onnx", bytes);
    let (out, _) = scratch.succeed("ssdkd", &["inspect", "strange.onnx"]);
    assert!(out.contains("network  not supported: ") && out.contains("\nmissing  Relx at node_relu: "), "{out}");
}

#[test]
fn inspect_refuses_a_damaged_network() {
    let scratch = Scratch::new();
    let bytes = fs::read(golden("resnet.pt2")).unwrap();
    scratch.write("cut.pt2", &bytes[..bytes.len() / 2]);
    scratch.fail("ssdkd", &["inspect", "cut.pt2"], 4, &["cut.pt2 holds no network that can be read"]);
}
