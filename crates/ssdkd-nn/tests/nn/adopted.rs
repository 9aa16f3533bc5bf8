//! Networks of other repositories: their names are known, and what they compute stays.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use ssdkd_nn::{Architecture, Network, NetworkSpec, Preprocessing, adopt, identify};

use crate::formula::{fill, formula, numbers};
use crate::place::device;

type Tensors = BTreeMap<String, Tensor>;

fn spec(architecture: Architecture) -> NetworkSpec {
    NetworkSpec {
        architecture,
        classes: 5,
        input: [3, 16, 16],
        mean: vec![0.0; 3],
        std: vec![1.0; 3],
        preprocessing: Preprocessing::default(),
    }
}

/// Tensors of a network, on the CPU.
fn tensors(architecture: &str) -> Tensors {
    let network = Network::create(&spec(architecture.parse().unwrap()), 1, &Device::Cpu).unwrap();
    fill(network.store());
    network.store().state_dict().into()
}

/// Logits of the network that the tensors are identified as, after adoption.
#[track_caller]
fn adopted_logits(tensors: Tensors, architecture: &str, notice: &str) -> Vec<f32> {
    let adopted = adopt(tensors).unwrap();
    assert!(adopted.notices.iter().any(|line| line.contains(notice)), "{:?}", adopted.notices);
    let shapes = adopted.tensors.iter().map(|(name, tensor)| (name.clone(), tensor.dims().to_vec())).collect();
    let found = identify(&shapes).unwrap();
    assert_eq!((found.architecture.to_string().as_str(), found.classes), (architecture, 5));
    let network = Network::load(&spec(found.architecture), adopted.tensors, &device()).unwrap();
    numbers(&network.logits(&images()).unwrap())
}

/// (B, H, W, C) in `[0, 1]`.
fn images() -> Tensor {
    formula(9, &[3, 16, 16, 3], 0.5).affine(1.0, 0.5).unwrap()
}

/// Checks that a network whose tensors are renamed computes the same.
#[track_caller]
fn check_renamed(architecture: &str, rename: impl Fn(&str) -> String, notice: &str) {
    let ours = tensors(architecture);
    let network = Network::load(&spec(architecture.parse().unwrap()), ours.clone(), &device()).unwrap();
    let expected = numbers(&network.logits(&images()).unwrap());
    let theirs = ours.into_iter().map(|(name, tensor)| (rename(&name), tensor)).collect();
    assert_eq!(adopted_logits(theirs, architecture, notice), expected);
}

/// `name` with the first replacement that fits its beginning.
fn replaced(name: &str, replacements: &[(&str, &str)]) -> String {
    let replace = |(from, to): &(&str, &str)| name.strip_prefix(from).map(|rest| format!("{to}{rest}"));
    replacements.iter().find_map(replace).unwrap_or_else(|| name.into())
}

/// Group, block, and the rest of a name such as `layer1.0.conv1.weight`.
fn in_block<'a>(name: &'a str, prefix: &str, between: &str) -> Option<(&'a str, usize, &'a str)> {
    let (group, rest) = name.strip_prefix(prefix)?.split_once('.')?;
    let (index, rest) = rest.strip_prefix(between)?.split_once('.')?;
    Some((group, index.parse().ok()?, rest))
}

#[test]
fn wide_networks_of_distiller() {
    let names = [("block1", "layer1"), ("block2", "layer2"), ("block3", "layer3"), ("fc", "linear")];
    check_renamed("wrn-16-2", |name| replaced(name, &names), "karanchahal/distiller");
}

#[test]
fn wide_networks_of_pytorchcv() {
    let rename = |name: &str| match in_block(name, "block", "layer.") {
        Some((group, index, rest)) => {
            let (module, tensor) = rest.rsplit_once('.').unwrap();
            let module = match module {
                "convShortcut" => "identity_conv".into(),
                _ => format!("body.conv{}.{}", &module[module.len() - 1..], &module[..module.len() - 1]),
            };
            format!("features.stage{group}.unit{}.{module}.{tensor}", index + 1)
        }
        None => {
            replaced(name, &[("conv1", "features.init_block"), ("bn1", "features.post_activ.bn"), ("fc", "output")])
        }
    };
    check_renamed("wrn-16-2", rename, "pytorchcv's wide residual networks");
}

#[test]
fn residual_networks_of_pytorchcv() {
    let rename = |name: &str| match in_block(name, "layer", "") {
        Some((group, index, rest)) => {
            let (module, tensor) = rest.rsplit_once('.').unwrap();
            let module = match module {
                "shortcut.0" => "identity_conv.conv".into(),
                "shortcut.1" => "identity_conv.bn".into(),
                _ => format!("body.conv{}.{}", &module[module.len() - 1..], &module[..module.len() - 1]),
            };
            format!("features.stage{group}.unit{}.{module}.{tensor}", index + 1)
        }
        None => replaced(
            name,
            &[("conv1", "features.init_block.conv"), ("bn1", "features.init_block.bn"), ("linear", "output")],
        ),
    };
    check_renamed("resnet14-conv", rename, "pytorchcv's residual networks");
}

#[test]
fn residual_networks_of_hysts() {
    let rename = |name: &str| match in_block(name, "layer", "") {
        Some((group, index, rest)) => {
            let rest = replaced(rest, &[("shortcut.0", "shortcut.conv"), ("shortcut.1", "shortcut.bn")]);
            format!("stage{group}.block{}.{rest}", index + 1)
        }
        None => replaced(name, &[("conv1", "conv"), ("bn1", "bn"), ("linear", "fc")]),
    };
    check_renamed("resnet14-conv", rename, "hysts");
}

/// timm's name of a tensor of torchvision's `MobileNetV2`.
fn in_timm(name: &str) -> String {
    let stages = [1, 2, 3, 4, 3, 3, 1];
    let Some((place, rest)) = name.strip_prefix("features.").and_then(|rest| rest.split_once(".conv.")) else {
        let names = [
            ("features.0.0", "conv_stem"),
            ("features.0.1", "bn1"),
            ("features.18.0", "conv_head"),
            ("features.18.1", "bn2"),
            ("classifier.1", "classifier"),
        ];
        return replaced(name, &names);
    };
    let (mut stage, mut index) = (0, place.parse::<usize>().unwrap() - 1);
    while index >= stages[stage] {
        index -= stages[stage];
        stage += 1;
    }
    let (module, tensor) = rest.rsplit_once('.').unwrap();
    let modules = if stage == 0 {
        &["conv_dw", "bn1", "conv_pw", "bn2"][..]
    } else {
        &["conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3"]
    };
    let entry = match module.split_once('.') {
        Some((conv, part)) => 2 * conv.parse::<usize>().unwrap() + part.parse::<usize>().unwrap(),
        None if stage == 0 => module.parse::<usize>().unwrap() + 1,
        None => module.parse::<usize>().unwrap() + 2,
    };
    format!("blocks.{stage}.{index}.{}.{tensor}", modules[entry])
}

#[test]
fn mobilenet_v2_of_timm() {
    let ours = tensors("torchvision/mobilenet_v2");
    let theirs = ours.iter().map(|(name, tensor)| (in_timm(name), tensor.clone())).collect::<Tensors>();
    for name in ["blocks.0.0.conv_pw.weight", "blocks.3.3.conv_pwl.weight", "blocks.6.0.bn3.bias", "conv_head.weight"] {
        assert!(theirs.contains_key(name), "{name}");
    }
    let adopted = adopt(theirs.clone()).unwrap();
    assert!(adopted.notices[0].contains("timm's MobileNetV2"), "{:?}", adopted.notices);
    assert!(adopted.tensors.keys().eq(ours.keys()));
    let floats = ours.iter().filter(|(_, tensor)| tensor.dtype() == DType::F32);
    assert!(floats.into_iter().all(|(name, tensor)| numbers(tensor) == numbers(&adopted.tensors[name])));

    // EfficientNet-Lite has the same names, and larger kernels.
    let mut lite = theirs;
    lite.insert("blocks.2.0.conv_dw.weight".into(), Tensor::zeros((144, 1, 5, 5), DType::F32, &Device::Cpu).unwrap());
    assert_eq!(adopt(lite).unwrap().notices.len(), 0);
}

#[test]
fn the_second_head_of_a_segmentation_network_is_left_out() {
    let mut theirs = tensors("torchvision/deeplabv3_resnet50");
    let names = theirs.keys().cloned().collect::<Vec<_>>();
    theirs.insert("aux_classifier.0.weight".into(), formula(1, &[256, 1024, 3, 3], 1.0));
    theirs.insert("aux_classifier.4.bias".into(), formula(1, &[5], 1.0));
    let adopted = adopt(theirs).unwrap();
    assert_eq!(
        adopted.notices,
        ["left out 2 tensors of aux_classifier., a second head that only torchvision's training uses"]
    );
    assert!(adopted.tensors.keys().eq(&names));
}

#[test]
fn a_head_of_another_name() {
    check_renamed("resnet8", |name| replaced(name, &[("linear", "head.classifier")]), "head.classifier to linear");
    check_renamed("wrn-16-1", |name| replaced(name, &[("fc", "linear")]), "linear to fc");
}

#[test]
fn a_block_that_is_never_called_is_left_out() {
    let mut theirs = tensors("wrn-16-2");
    let network = Network::load(&spec("wrn-16-2".parse().unwrap()), theirs.clone(), &device()).unwrap();
    let expected = numbers(&network.logits(&images()).unwrap());
    theirs.insert("sub_block1.layer.0.conv1.weight".into(), formula(1, &[32, 16, 3, 3], 1.0));
    assert_eq!(adopted_logits(theirs, "wrn-16-2", "sub_block1."), expected);
}

/// A convolution with a bias, if it has one, on channels-first activations.
fn convolve(x: &Tensor, tensors: &Tensors, name: &str, stride: usize) -> Tensor {
    let weight = &tensors[&format!("{name}.weight")];
    let y = x.conv2d(weight, weight.dims()[2] / 2, stride, 1, 1).unwrap();
    match tensors.get(&format!("{name}.bias")) {
        Some(bias) => y.broadcast_add(&bias.reshape((1, (), 1, 1)).unwrap()).unwrap(),
        None => y,
    }
}

/// Batch norm in evaluation mode.
fn normalize(x: &Tensor, tensors: &Tensors, name: &str) -> Tensor {
    let of = |part: &str| tensors[&format!("{name}.{part}")].reshape((1, (), 1, 1)).unwrap();
    let scale = of("weight").div(&of("running_var").affine(1.0, 1e-5).unwrap().sqrt().unwrap()).unwrap();
    let centered = x.broadcast_sub(&of("running_mean")).unwrap();
    centered.broadcast_mul(&scale).unwrap().broadcast_add(&of("bias")).unwrap()
}

/// Global average pooling and the head.
fn classify(x: &Tensor, tensors: &Tensors, head: &str) -> Vec<f32> {
    let features = x.mean((2, 3)).unwrap();
    let logits = features.matmul(&tensors[&format!("{head}.weight")].t().unwrap()).unwrap();
    numbers(&logits.broadcast_add(&tensors[&format!("{head}.bias")]).unwrap())
}

/// Adds a bias to every convolution.
fn with_biases(mut tensors: Tensors) -> Tensors {
    let names =
        tensors.iter().filter(|(_, tensor)| tensor.rank() == 4).map(|(name, _)| name.clone()).collect::<Vec<_>>();
    for (seed, name) in names.into_iter().enumerate() {
        let bias = formula(seed as u32, &[tensors[&name].dims()[0]], 0.5).to_device(&Device::Cpu).unwrap();
        tensors.insert(name.replace(".weight", ".bias"), bias);
    }
    tensors
}

#[track_caller]
fn check_close(found: &[f32], expected: &[f32]) {
    let scale = expected.iter().fold(0.0_f32, |scale, x| scale.max(x.abs()));
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= 1e-4 * scale, "{found} is not {expected}");
    }
}

fn channels_first() -> Tensor {
    let images = images().to_device(&Device::Cpu).unwrap().to_dtype(DType::F32).unwrap();
    images.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap()
}

#[test]
fn biases_of_a_residual_network_fold_into_its_batch_norms() {
    let theirs = with_biases(tensors("resnet8-conv"));
    let mut x = normalize(&convolve(&channels_first(), &theirs, "conv1", 1), &theirs, "bn1").relu().unwrap();
    for group in 1..=3 {
        let block = format!("layer{group}.0");
        let stride = if group > 1 { 2 } else { 1 };
        let norm = |x: &Tensor, conv: &str, stride, bn: &str| {
            normalize(&convolve(x, &theirs, &format!("{block}.{conv}"), stride), &theirs, &format!("{block}.{bn}"))
        };
        let y = norm(&norm(&x, "conv1", stride, "bn1").relu().unwrap(), "conv2", 1, "bn2");
        let shortcut = if group > 1 { norm(&x, "shortcut.0", stride, "shortcut.1") } else { x.clone() };
        x = (y + shortcut).unwrap().relu().unwrap();
    }
    let expected = classify(&x, &theirs, "linear");
    check_close(&adopted_logits(theirs, "resnet8-conv", "folded the biases of 9 convolutions"), &expected);
}

#[test]
fn biases_of_a_wide_network_fold_though_they_stay_in_the_sums() {
    let theirs = with_biases(tensors("wrn-16-2"));
    let mut x = convolve(&channels_first(), &theirs, "conv1", 1);
    for group in 1..=3 {
        for index in 0..2 {
            let block = format!("block{group}.layer.{index}");
            let stride = if group > 1 && index == 0 { 2 } else { 1 };
            let name = |module: &str| format!("{block}.{module}");
            let activated = normalize(&x, &theirs, &name("bn1")).relu().unwrap();
            let y = convolve(&activated, &theirs, &name("conv1"), stride);
            let y = convolve(&normalize(&y, &theirs, &name("bn2")).relu().unwrap(), &theirs, &name("conv2"), 1);
            let shortcut =
                if index == 0 { convolve(&activated, &theirs, &name("convShortcut"), stride) } else { x.clone() };
            x = (y + shortcut).unwrap();
        }
    }
    let expected = classify(&normalize(&x, &theirs, "bn1").relu().unwrap(), &theirs, "fc");
    check_close(&adopted_logits(theirs, "wrn-16-2", "folded the biases of 16 convolutions"), &expected);
}

#[test]
fn biases_behind_a_batch_norm_stay_for_the_description() {
    let tensor = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let theirs = BTreeMap::from([
        ("layer1.0.conv1.weight".to_string(), tensor(&[160, 16, 3, 3])),
        ("layer1.0.conv1.bias".to_string(), tensor(&[160])),
        ("layer1.0.bn1.running_mean".to_string(), tensor(&[16])),
    ]);
    let adopted = adopt(theirs).unwrap();
    assert_eq!((adopted.tensors.len(), adopted.notices.len()), (3, 0));
}
