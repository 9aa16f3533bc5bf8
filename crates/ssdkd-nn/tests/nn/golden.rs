//! Forward and backward passes of every family against PyTorch, in evaluation, in inversion and in training.

use candle_core::Tensor;
use ssdkd_nn::{Architecture, Generator, Mode, Names, Network, NetworkSpec, Store};
use ssdkd_ops::{self as ops, Value};

use crate::formula::{Golden, close, fill, formula, numbers};
use crate::passes::{Case, buffer_rows, gradient_rows};
use crate::place::{device, on_cuda};

const SIZE: usize = 16;
const CLASSES: usize = 7;
const TARGETS: [u32; 4] = [3, 0, 6, 2];

/// A network of images that need no normalization, with weights of zeros.
fn classifier(architecture: &str, names: &Names, classes: usize, channels: usize) -> Network {
    let spec = NetworkSpec {
        architecture: Architecture::Zoo { architecture: architecture.parse().unwrap(), names: names.clone() },
        classes,
        input: [channels, SIZE, SIZE],
        mean: vec![0.0; channels],
        std: vec![1.0; channels],
        preprocessing: ssdkd_nn::Preprocessing::default(),
    };
    Network::create(&spec, 1, &device()).unwrap()
}

/// Rounding decides the sign of a few numbers before a ReLU, and with it whether a pixel's part is in a gradient. That the
/// direct convolution rounds as PyTorch's does makes the narrow comparison possible; noise of 3·10⁻⁶ in PyTorch's own
/// convolutions moves the gradients of the smallest network by 10⁻².
#[track_caller]
fn check(architecture: &str, names: &Names) {
    if on_cuda() {
        return check_within(architecture, names, 5e-3); // four times that, as all tolerances there
    }
    ops::with_direct_convolutions(|| check_within(architecture, names, 5e-4));
    check_within(architecture, names, 2e-2);
}

#[track_caller]
fn check_within(architecture: &str, names: &Names, of_gradients: f32) {
    let golden = Golden::load();
    let network = classifier(architecture, names, CLASSES, 3);
    fill(network.store());
    let images = formula(7, &[TARGETS.len(), SIZE, SIZE, 3], 2.0);
    let case =
        Case { golden: &golden, name: architecture, network: &network, images, targets: &TARGETS, is_short: false };
    case.check_evaluation();
    case.check_inversion();
    case.check_training(of_gradients);
}

#[test]
fn resnet_of_the_cifar_family() {
    check("resnet20", &Names::default());
}

#[test]
fn resnet_with_convolutions_as_shortcuts_and_other_names() {
    check("resnet8-conv", &Names { head: "fc".into(), shortcut: "downsample".into() });
}

#[test]
fn resnet18_with_the_cifar_stem() {
    check("resnet18", &Names::default());
}

#[test]
fn wide_resnets() {
    check("wrn-16-1", &Names::default());
    check("wrn-16-2", &Names::default());
}

#[test]
fn vgg11() {
    check("vgg11", &Names::default());
}

#[test]
fn pyramids_that_label_pixels() {
    check("fpn-resnet8", &Names::default());
    check("fpn-wrn-16-1", &Names::default());
}

#[test]
fn generator() {
    let golden = Golden::load();
    let store = Store::new(&device());
    let generator = Generator::new(16, 6, [SIZE, SIZE], 3, &store).unwrap();
    fill(&store);
    let latents = formula(8, &[5, 16], 2.0);
    let images = generator.forward(&Value::constant(latents.clone()), Mode::Eval).unwrap();
    golden.check("generator.eval.images", &numbers(images.tensor()), 1e-5);

    let images = generator.forward(&Value::leaf(&latents), Mode::Train).unwrap();
    assert_eq!(images.dims(), [5, SIZE, SIZE, 3]);
    golden.check("generator.train.images", &numbers(images.tensor()), 1e-5);
    let direction = formula(9, &[5, SIZE, SIZE, 3], 1.0);
    let direction = (direction / images.tensor().elem_count() as f64).unwrap();
    let gradients = images.backward_from(direction).unwrap();
    golden.check("generator.train.latents", &numbers(gradients.get(&latents).unwrap()), 2e-4);
    golden.check_rows("generator.train.buffers", &buffer_rows(&store), 2e-5);
    golden.check_rows("generator.train.gradients", &gradient_rows(&store, &gradients), 5e-4);
}

#[test]
fn sizes_are_those_of_pytorch() {
    let golden = Golden::load();
    let mut checked = 0;
    for name in [
        "resnet8",
        "resnet20",
        "resnet32",
        "resnet56",
        "resnet110",
        "resnet20-conv",
        "resnet18",
        "resnet34",
        "wrn-16-1",
        "wrn-16-2",
        "wrn-40-1",
        "wrn-40-2",
        "vgg11",
        "fpn-resnet20",
        "fpn-wrn-40-2",
    ] {
        let network = classifier(name, &Names::default(), 10, 3);
        let store = network.store();
        let counts = [store.num_parameters() as i64, store.all().len() as i64];
        assert_eq!(golden.tensor(&format!("counts.{name}")).to_vec1::<i64>().unwrap(), counts, "{name}");
        checked += 1;
    }
    assert_eq!(checked, 15);
    let store = Store::new(&device());
    Generator::new(256, 64, [32, 32], 3, &store).unwrap();
    assert_eq!(golden.tensor("counts.generator").to_vec1::<i64>().unwrap(), [2_328_899, store.all().len() as i64]);
}

#[test]
fn every_architecture_is_recognised_from_its_tensors() {
    let other = Names { head: "fc".into(), shortcut: "downsample".into() };
    for (name, names) in [
        ("resnet8", Names::default()),
        ("resnet110", Names { head: "fc".into(), ..Names::default() }),
        ("resnet20-conv", Names::default()),
        ("resnet32-conv", other.clone()),
        ("resnet18", Names::default()),
        ("resnet34", other),
        ("wrn-16-1", Names { head: "fc".into(), ..Names::default() }),
        ("wrn-40-2", Names { head: "fc".into(), ..Names::default() }),
        ("vgg11", Names::default()),
        ("fpn-resnet20-conv", Names { shortcut: "downsample".into(), ..Names::default() }),
        ("fpn-resnet18", Names::default()),
        ("fpn-wrn-16-2", Names::default()),
    ] {
        let network = classifier(name, &names, 100, 1);
        let shapes = network.store().all().into_iter().map(|(name, var)| (name, var.dims().to_vec())).collect();
        let found = ssdkd_nn::identify(&shapes).unwrap();
        let architecture = network.spec().architecture.clone();
        assert_eq!(found, ssdkd_nn::Identity { architecture, classes: 100, channels: 1 });
    }
}

#[test]
fn fresh_networks_are_ready_to_learn() {
    for name in ["resnet20", "resnet18", "wrn-16-1", "vgg11", "fpn-resnet20", "fpn-wrn-16-1"] {
        let network = classifier(name, &Names::default(), 10, 3);
        let images = formula(1, &[8, SIZE, SIZE, 3], 1.7);
        let logits = network.forward(&Value::constant(images), Mode::TrainFrozen).unwrap().logits;
        let logits = numbers(logits.tensor());
        let spread = logits.iter().map(|x| x * x).sum::<f32>() / logits.len() as f32;
        assert!(spread.is_finite() && spread > 1e-4 && spread < 20.0, "{name}: {spread}");
    }
    let store = Store::seeded(&device(), 1);
    let generator = Generator::new(16, 8, [8, 8], 3, &store).unwrap();
    let images = generator.forward(&Value::constant(formula(2, &[16, 16], 1.7)), Mode::Train).unwrap();
    let images = numbers(images.tensor());
    let (low, high) = images.iter().fold((1.0_f32, 0.0_f32), |(low, high), &x| (low.min(x), high.max(x)));
    assert!(low > 0.0 && high < 1.0 && high - low > 0.1, "{low} {high}");
}

#[test]
fn a_generator_makes_images_of_any_size() {
    for size in [[30, 30], [8, 12], [7, 9], [96, 96], [100, 72], [224, 224], [60, 80]] {
        let store = Store::seeded(&device(), 1);
        let generator = Generator::new(4, 16, size, 3, &store).unwrap();
        let images = generator.forward(&Value::constant(formula(2, &[2, 4], 1.7)), Mode::TrainFrozen).unwrap();
        assert_eq!(images.dims(), [2, size[0], size[1], 3]);
    }
}

#[test]
fn a_generator_of_large_images_spends_little_on_its_first_layer() {
    let store = Store::new(&device());
    Generator::new(256, 64, [224, 224], 3, &store).unwrap();
    let first = store.parameters().into_iter().find(|(name, _)| name == "l1.0.weight").unwrap().1;
    assert_eq!(first.dims(), [7 * 7 * 128, 256]);
    assert!(store.num_parameters() < 2_500_000, "{}", store.num_parameters());
}

fn spec_of(architecture: &str, side: usize) -> ssdkd_nn::NetworkSpec {
    ssdkd_nn::NetworkSpec {
        architecture: architecture.parse().unwrap(),
        classes: 4,
        input: [3, side, side],
        mean: vec![0.4, 0.5, 0.6],
        std: vec![0.2, 0.25, 0.3],
        preprocessing: ssdkd_nn::Preprocessing::default(),
    }
}

#[test]
fn a_frozen_network_gives_the_same_numbers_and_gradients() {
    let targets = |logits: &Value| (0..logits.dims()[0] as u32).map(|row| row % 4).collect::<Vec<_>>();
    for architecture in ["resnet8", "wrn-10-1", "vgg11", "fpn-resnet8"] {
        let make = || {
            let network = ssdkd_nn::Network::create(&spec_of(architecture, 32), 3, &device()).unwrap();
            fill(network.store());
            network
        };
        let (plain, frozen) = (make(), make().frozen());
        let images = formula(4, &[3, 32, 32, 3], 1.0).affine(0.5, 0.5).unwrap();
        // Twice: the second time from what the first one left.
        for mode in [Mode::Eval, Mode::Tapped, Mode::TrainFrozen, Mode::Eval, Mode::Tapped] {
            let of = |network: &ssdkd_nn::Network| {
                let logits = network.forward(&Value::leaf(&images), mode).unwrap().logits;
                let found = numbers(logits.tensor());
                let gradients = ops::cross_entropy(&logits, &targets(&logits), None).unwrap().backward().unwrap();
                [found, numbers(gradients.get(&images).unwrap())]
            };
            let (found, expected) = (of(&frozen), of(&plain));
            if on_cuda() {
                close("logits", &found[0], &expected[0], 1e-5);
                close("gradients", &found[1], &expected[1], 1e-4);
            } else {
                assert_eq!(found, expected, "{architecture}");
            }
        }
        // Training is as it was: its weights are parameters.
        let output = frozen.forward(&Value::constant(images.clone()), Mode::Train).unwrap();
        let targets = targets(&output.logits);
        let gradients = ops::cross_entropy(&output.logits, &targets, None).unwrap().backward().unwrap();
        assert_eq!(gradients.len(), frozen.store().parameters().len(), "{architecture}");
    }
}

#[test]
fn a_network_that_labels_pixels_has_a_row_for_each() {
    let network = ssdkd_nn::Network::create(&spec_of("fpn-resnet8", 8), 3, &device()).unwrap();
    assert_eq!(network.rows_per_image(), 64);
    let images = formula(4, &[2, 8, 8, 3], 1.0).affine(0.5, 0.5).unwrap();
    assert_eq!(network.logits(&images).unwrap().dims(), [128, 4]);
    assert_eq!(network.features().unwrap(), 64);
    for (architecture, multiple) in [("fpn-resnet8", 4), ("fpn-wrn-10-1", 4), ("fpn-resnet18", 8)] {
        let error = ssdkd_nn::Network::create(&spec_of(architecture, 18), 3, &device()).err().unwrap().to_string();
        assert!(error.contains(&format!("multiples of {multiple}, not 18 by 18")), "{error}");
    }
}

#[test]
fn logits_do_not_depend_on_the_rest_of_the_batch() {
    let spec = spec_of("resnet8", 8);
    let network = ssdkd_nn::Network::create(&spec, 3, &device()).unwrap();
    fill(network.store());
    let images = formula(4, &[300, 8, 8, 3], 1.0).affine(0.5, 0.5).unwrap();
    let all = network.logits(&images).unwrap();
    assert_eq!(all.dims(), [300, 4]);
    let one = network.logits(&images.narrow(0, 270, 1).unwrap()).unwrap();
    let among = numbers(&all.get(270).unwrap());
    if on_cuda() {
        close("logits of one image", &numbers(&one), &among, 0.0); // its library chooses by the batch, too
    } else {
        assert_eq!(numbers(&one), among);
    }
    assert_eq!(network.logits(&images.narrow(0, 0, 0).unwrap()).unwrap().dims(), [0, 4]);

    // The normalization is that of the card.
    let (mean, std) = (&spec.mean, &spec.std);
    let channel = |channel: usize| {
        images.narrow(3, channel, 1)?.affine(1.0 / f64::from(std[channel]), f64::from(-mean[channel] / std[channel]))
    };
    let normalised = Tensor::cat(&[channel(0).unwrap(), channel(1).unwrap(), channel(2).unwrap()], 3).unwrap();
    let bare =
        Network::create(&NetworkSpec { mean: vec![0.0; 3], std: vec![1.0; 3], ..spec.clone() }, 3, &device()).unwrap();
    fill(bare.store());
    let expected = bare.forward(&Value::constant(normalised), Mode::Eval).unwrap().logits;
    let difference = (expected.tensor() - &all).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    assert!(difference < 1e-4, "{difference}");

    let error = network.logits(&formula(4, &[2, 9, 8, 3], 1.0)).unwrap_err().to_string();
    assert!(error.contains("resnet8") && error.contains("[2, 9, 8, 3]"), "{error}");
}
