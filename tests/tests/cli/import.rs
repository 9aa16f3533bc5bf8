//! `ssdkd import`: what it takes of strangers' weights, and what it says.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use ssdkd_nn::{
    ChannelOrder, Interpolation, Mode, Network, NetworkSpec, Normalization, Preprocessing, Resize, StateDict,
    TeacherCard,
};

use crate::support::{Scratch, workspace};

/// Pixels of a side of the images here.
const SIDE: usize = 16;

/// More than ten: 10 comes before 2 in the order of text.
const CLASSES: usize = 12;

/// A gray image of each class.
fn pictures() -> Vec<Vec<u8>> {
    let pixel = |class: usize, place: usize| {
        let (x, y) = (place % SIDE, place / SIDE);
        ((x * (class + 1) + y * (class % 5) * 3) * 16 + class * 20) as u8
    };
    (0..CLASSES).map(|class| (0..SIDE * SIDE).map(|place| pixel(class, place)).collect()).collect()
}

/// Weights of a gray resnet8 that is right about each of the [`pictures`]: its head holds their features.
fn weights_that_know_the_pictures() -> StateDict {
    let spec = NetworkSpec {
        architecture: "resnet8".parse().unwrap(),
        classes: CLASSES,
        input: [1, SIDE, SIDE],
        mean: vec![0.5],
        std: vec![0.5],
        preprocessing: ssdkd_nn::Preprocessing::default(),
    };
    let network = Network::create(&spec, 3, &Device::Cpu).unwrap();
    let pixels = pictures().concat().into_iter().map(|pixel| f32::from(pixel) / 255.0).collect::<Vec<_>>();
    let images = Tensor::from_vec(pixels, (CLASSES, SIDE, SIDE, 1), &Device::Cpu).unwrap();
    let features = network.forward(&ssdkd_ops::Value::constant(images), Mode::Eval).unwrap().features;
    let features = features.tensor().clone(); // (K, F)
    // f·f_c − |f_c|²/2 is the largest for the nearest f_c.
    let bias = features.sqr().unwrap().sum(1).unwrap().affine(-50.0, 0.0).unwrap();
    let mut tensors = network.store().state_dict();
    tensors.insert("linear.weight".into(), features.affine(100.0, 0.0).unwrap());
    tensors.insert("linear.bias".into(), bias);
    tensors
}

/// A scratch folder with these weights in `gray.safetensors`.
fn scratch() -> Scratch {
    let scratch = Scratch::new();
    scratch.write("gray.safetensors", weights_that_know_the_pictures().to_safetensors().unwrap());
    scratch
}

/// The classes in the order of text: the order in which torchvision numbers class folders.
fn in_text_order() -> Vec<String> {
    let mut names = (0..CLASSES).map(|class| class.to_string()).collect::<Vec<_>>();
    names.sort();
    names
}

/// Writes an image as BMP: rows from the bottom, three equal bytes a pixel.
fn write_bmp(path: &Path, gray: &[u8]) {
    let size = 54 + 3 * gray.len() as u32;
    let mut bytes = b"BM".to_vec();
    for number in [size, 0, 54, 40, SIDE as u32, SIDE as u32, 1 | 24 << 16, 0, 3 * gray.len() as u32, 2835, 2835, 0, 0]
    {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(gray.chunks(SIDE).rev().flatten().flat_map(|&pixel| [pixel; 3]));
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// Class folders named `names`, in the order of the model's outputs.
fn write_folders(scratch: &Scratch, names: &[String]) {
    for (name, picture) in names.iter().zip(pictures()) {
        write_bmp(&scratch.path("data").join("test").join(name).join("image.bmp"), &picture);
    }
}

/// The same as labels without names, in the format of MNIST.
fn write_idx(scratch: &Scratch) {
    std::fs::create_dir_all(scratch.path("idx")).unwrap();
    let head = |kind: u8, sides: &[usize]| {
        let sides = sides.iter().flat_map(|&side| (side as u32).to_be_bytes());
        [0, 0, 8, kind].into_iter().chain(sides).collect::<Vec<u8>>()
    };
    let images = [head(3, &[CLASSES, SIDE, SIDE]), pictures().concat()].concat();
    scratch.write("idx/t10k-images-idx3-ubyte", images);
    let labels = [head(1, &[CLASSES]), (0..CLASSES as u8).collect()].concat();
    scratch.write("idx/t10k-labels-idx1-ubyte", labels);
}

const IMPORT: [&str; 7] = ["import", "gray.safetensors", "--out", "gray.json", "--size", "16", "--normalization=half"];

#[track_caller]
fn accuracy(scratch: &Scratch, data: &str) -> f64 {
    let (out, _) = scratch.succeed("ssdkd-evaluate", &["gray.json", "--data", data, "--json"]);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    report["top1"].as_f64().unwrap()
}

fn card(scratch: &Scratch, name: &str) -> TeacherCard {
    TeacherCard::load(&scratch.path(name)).unwrap()
}

#[test]
fn classes_without_names_are_compared_by_index() {
    let scratch = scratch();
    let (out, _) = scratch.succeed("ssdkd", &IMPORT);
    assert!(out.contains("class names    none: the classes are 0 to 11"), "{out}");
    assert!(card(&scratch, "gray.json").class_names.is_empty());
    write_folders(&scratch, &in_text_order());
    assert!((accuracy(&scratch, "data") - 1.0).abs() < 1e-9);
}

#[test]
fn labels_without_names_are_indices_whatever_the_classes_are_called() {
    let scratch = scratch();
    write_idx(&scratch);
    scratch.succeed("ssdkd", &[&IMPORT[..], &["--class-names", &in_text_order().join(",")]].concat());
    assert_eq!(card(&scratch, "gray.json").class_names, in_text_order());
    assert!((accuracy(&scratch, "idx") - 1.0).abs() < 1e-9);
}

#[test]
fn class_names_may_be_a_file() {
    let scratch = scratch();
    scratch.write("names.txt", in_text_order().join("\n"));
    scratch.succeed("ssdkd", &[&IMPORT[..], &["--class-names", "names.txt"]].concat());
    assert_eq!(card(&scratch, "gray.json").class_names, in_text_order());
    write_folders(&scratch, &in_text_order());
    assert!((accuracy(&scratch, "data") - 1.0).abs() < 1e-9);
}

#[test]
fn numbers_in_two_orders_are_refused() {
    let scratch = scratch();
    scratch.succeed("ssdkd", &[&IMPORT[..], &["--class-names", "0,1,2,3,4,5,6,7,8,9,10,11"]].concat());
    write_folders(&scratch, &in_text_order());
    let parts = ["(0, 1, 10, 11, …)", "(0, 1, 2, 3, …)", "names or indices?", "hint:"];
    scratch.fail("ssdkd-evaluate", &["gray.json", "--data", "data"], 2, &parts);
}

#[test]
fn numbers_with_gaps_are_names_in_any_order() {
    let scratch = scratch();
    let angles = (0..CLASSES).map(|class| (class * 30).to_string()).collect::<Vec<_>>();
    scratch.succeed("ssdkd", &[&IMPORT[..], &["--class-names", &angles.join(",")]].concat());
    write_folders(&scratch, &angles);
    assert!((accuracy(&scratch, "data") - 1.0).abs() < 1e-9);
}

#[test]
fn an_assumed_normalization_is_said_until_somebody_gives_one() {
    let scratch = scratch();
    let (out, err) = scratch.succeed("ssdkd", &IMPORT[..6]);
    assert!(err.contains("is assumed") && out.contains("normalization  assumed"), "{out}{err}");
    assert_eq!(card(&scratch, "gray.json").normalization, Normalization::Assumed);
    write_idx(&scratch);
    let evaluate = ["gray.json", "--data", "idx"];
    let (_, err) = scratch.succeed("ssdkd-evaluate", &evaluate);
    assert_eq!(err.matches("the normalization of gray.json is assumed").count(), 1, "{err}");

    scratch.succeed("ssdkd", &[&IMPORT[..], &["--force"]].concat());
    let (_, err) = scratch.succeed("ssdkd-evaluate", &evaluate);
    assert!(!err.contains("assumed"), "{err}");
}

#[test]
fn a_run_warns_of_an_assumed_teacher_once() {
    let scratch = Scratch::new();
    let weights = std::fs::read(workspace().join("data/teachers/shapes-resnet20.safetensors")).unwrap();
    scratch.write("whole.safetensors", weights);
    scratch.succeed("ssdkd", &["import", "whole.safetensors", "--out", "teacher.json"]);
    for command in ["plan", "run", "status"] {
        let arguments = [command, "tiny.toml", "--set", "teacher.card=teacher.json"];
        let arguments = if command == "status" { &["status", "runs/tiny"][..] } else { &arguments };
        let (_, err) = scratch.succeed("ssdkd", arguments);
        assert_eq!(err.matches("is assumed").count(), 1, "{command}: {err}");
    }
}

#[test]
fn numbers_for_0_to_255_are_refused() {
    let scratch = Scratch::new();
    let weights = std::fs::read(workspace().join("data/teachers/shapes-resnet20.safetensors")).unwrap();
    scratch.write("whole.safetensors", weights);
    let import =
        ["import", "whole.safetensors", "--out", "t.json", "--mean", "114.75,107.1,127.5", "--std", "71.4,51,63.75"];
    scratch.fail(
        "ssdkd",
        &import,
        2,
        &["a mean of 114.75 is on the scale 0–255", "--mean 0.45,0.42,0.5 --std 0.28,0.2,0.25"],
    );
    assert!(!scratch.path("t.json").exists());
}

#[test]
fn a_size_need_not_be_a_multiple_of_four() {
    let scratch = scratch();
    let import = ["import", "gray.safetensors", "--out", "gray.json", "--size", "63x50"];
    let (out, _) = scratch.succeed("ssdkd", &import);
    assert!(out.contains("1 channel, 63 × 50 pixels"), "{out}");
}

#[test]
fn flags_put_the_preprocessing_into_the_card() {
    let scratch = Scratch::new();
    let weights = std::fs::read(workspace().join("data/teachers/shapes-resnet20.safetensors")).unwrap();
    scratch.write("whole.safetensors", weights);
    let flags = ["--channel-order", "bgr", "--range", "0,255", "--resize", "37", "--crop", "32", "--interpolation"];
    let numbers = ["bicubic", "--mean", "103.5,116.3,123.7", "--std", "57.4,57.1,58.4"];
    let import = ["import", "whole.safetensors", "--out", "t.json"];
    let (out, _) = scratch.succeed("ssdkd", &[&import[..], &flags, &numbers].concat());
    let said = "preprocessing  BGR, values 0 to 255, resized to a short side of 37, then cropped to 32×32 (height × width), bicubic";
    assert!(out.contains(said), "{out}");
    let expected = Preprocessing {
        channels: ChannelOrder::Bgr,
        range: [0.0, 255.0],
        resize: Some(Resize::ShortSide(37)),
        interpolation: Interpolation::Bicubic,
        crop: Some([32, 32]),
    };
    assert_eq!(card(&scratch, "t.json").preprocessing, expected);
    assert_eq!(card(&scratch, "t.json").mean, [103.5, 116.3, 123.7]);
}

#[test]
fn the_crop_is_the_size_where_no_other_is_given() {
    let scratch = scratch();
    let size = |more: &[&str]| {
        let import = ["import", "gray.safetensors", "--out", "gray.json", "--normalization=half", "--force"];
        scratch.succeed("ssdkd", &[&import[..], more].concat());
        card(&scratch, "gray.json").input
    };
    assert_eq!(size(&["--crop", "64"]), [1, 64, 64]);
    assert_eq!(size(&["--crop", "64", "--size", "48"]), [1, 48, 48]);
}

#[test]
fn data_shows_which_normalization_is_the_best() {
    let scratch = Scratch::new();
    let weights = std::fs::read(workspace().join("data/teachers/shapes-resnet20.safetensors")).unwrap();
    scratch.write("whole.safetensors", weights);
    let import = ["import", "whole.safetensors", "--out", "teacher.json", "--data", "shapes:0"];
    let (out, _) = scratch.succeed("ssdkd", &import);
    for preset in ["imagenet", "cifar10", "cifar100", "half", "none"] {
        assert!(out.contains(&format!(" %  --normalization {preset}\n")), "{out}");
    }
    let best = out.lines().find(|line| line.starts_with("best ")).unwrap();
    let taken = card(&scratch, "teacher.json").normalization;
    assert_eq!(best.contains("the card has it"), taken == Normalization::Measured("shapes:0".into()), "{out}");

    let given = [&import[..], &["--normalization", "none", "--force"]].concat();
    let (out, _) = scratch.succeed("ssdkd", &given);
    assert!(out.contains("the card has what was given"), "{out}");
    assert_eq!(card(&scratch, "teacher.json").mean, [0.0; 3]);
}

#[test]
fn an_exported_model_comes_back_with_its_card() {
    let scratch = Scratch::new();
    for name in ["shapes-resnet20.json", "shapes-resnet20.safetensors"] {
        scratch.write(name, std::fs::read(workspace().join("data/teachers").join(name)).unwrap());
    }
    let (out, err) = scratch.succeed("ssdkd", &["import", "shapes-resnet20.safetensors", "--out", "again.json"]);
    assert!(out.contains("from shapes-resnet20.json") && !err.contains("assumed"), "{out}{err}");
    let (before, after) = (card(&scratch, "shapes-resnet20.json"), card(&scratch, "again.json"));
    assert_eq!((&before.mean, &before.std, &before.class_names), (&after.mean, &after.std, &after.class_names));
    assert_eq!((before.architecture, before.input, &before.source), (after.architecture, after.input, &after.source));

    // Flags go first.
    let other = ["import", "shapes-resnet20.safetensors", "--out", "half.json", "--normalization", "half"];
    scratch.succeed("ssdkd", &other);
    assert_eq!(card(&scratch, "half.json").mean, [0.5; 3]);

    // The card of other weights says nothing about these.
    scratch.write("gray.safetensors", weights_that_know_the_pictures().to_safetensors().unwrap());
    let text = std::fs::read_to_string(scratch.path("again.json")).unwrap();
    scratch.write("gray.json", text.replace("again.safetensors", "gray.safetensors"));
    let (out, _) = scratch.succeed("ssdkd", &["import", "gray.safetensors", "--out", "new.json", "--size", "16"]);
    assert!(out.contains("gray.json is not used: it is the card of other weights"), "{out}");
}

#[test]
fn a_network_that_is_not_supported_is_described() {
    let scratch = Scratch::new();
    let mut tensors = StateDict::default();
    let mut insert = |name: String, shape: &[usize]| {
        tensors.insert(name, Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap());
    };
    insert("conv1.weight".into(), &[64, 3, 7, 7]);
    for (group, count) in [3, 4, 6, 3].into_iter().enumerate() {
        for index in 0..count {
            for (conv, kernel) in [(1, 1), (2, 3), (3, 1)] {
                insert(format!("layer{}.{index}.conv{conv}.weight", group + 1), &[4, 4, kernel, kernel]);
            }
        }
    }
    insert("fc.weight".into(), &[10, 4]);
    scratch.write("deep.safetensors", tensors.to_safetensors().unwrap());
    let err = scratch.fail(
        "ssdkd",
        &["import", "deep.safetensors", "--out", "deep.json"],
        4,
        &[
            "bottleneck residual network",
            "3, 4, 6, 3 blocks (ResNet-50)",
            "ImageNet stem (7×7)",
            "cannot build it from its tensors alone",
            "hint:",
        ],
    );
    assert!(!err.contains("a resnet34"), "{err}");
}

#[test]
fn weights_where_a_card_is_wanted_are_refused_with_the_way_to_one() {
    let scratch = scratch();
    let make = ["gray.safetensors is a weight file, not a card", "ssdkd import gray.safetensors --out"];
    scratch.fail("ssdkd-evaluate", &["gray.safetensors", "--data", "shapes"], 2, &make);
    let in_a_recipe = ["teacher.card is gray.safetensors, a file of weights", "ssdkd import gray.safetensors --out"];
    scratch.fail("ssdkd", &["run", "tiny.toml", "--set", "teacher.card=gray.safetensors"], 2, &in_a_recipe);
    scratch.succeed("ssdkd", &IMPORT);
    let there = ["its card is gray.json", "--teacher CARD"];
    scratch.fail("ssdkd-evaluate", &["gray.safetensors", "--data", "shapes"], 2, &there);
}
