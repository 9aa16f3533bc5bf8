//! Published teachers, where they are at hand: both of their files give the same tensors, and the accuracy is theirs.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::PathBuf;

use candle_core::Tensor;
use ssdkd_nn::weights::{self, Choice};
use ssdkd_nn::{Network, NetworkSpec, identify};

use crate::formula::numbers;
use crate::place::device;

/// Beside the workspace; neither the teachers nor CIFAR-10 may be part of it.
fn data() -> Option<PathBuf> {
    let folder = [env!("CARGO_MANIFEST_DIR"), "..", "..", "..", "shared", "data"].iter().collect::<PathBuf>();
    if folder.is_dir() {
        Some(folder)
    } else {
        eprintln!("skipped: there are no teachers in {}", folder.display());
        None
    }
}

#[test]
fn checkpoints_and_safetensors_hold_the_same_tensors() {
    let Some(data) = data() else { return };
    for (name, other, architecture) in [
        ("c10_resnet20_akamaster.safetensors", "c10_resnet20_akamaster.th", "resnet20"),
        ("c10_resnet32_akamaster.safetensors", "c10_resnet32_akamaster.th", "resnet32"),
        ("c10_resnet56_akamaster.safetensors", "c10_resnet56_akamaster.th", "resnet56"),
        ("c10_resnet20_distiller.safetensors", "c10_resnet20_distiller.pth.tar", "resnet20-conv"),
    ] {
        let read = |name| weights::import(&data.join("teachers").join(name), &Choice::default()).unwrap().tensors;
        let (tensors, same) = (read(name), read(other));
        let floats = |tensors: &BTreeMap<String, Tensor>| {
            let kept = tensors.iter().filter(|(name, _)| !name.ends_with("num_batches_tracked"));
            kept.map(|(name, tensor)| (name.clone(), numbers(tensor))).collect::<Vec<_>>()
        };
        assert!(floats(&tensors) == floats(&same), "{name}");

        // In and out of a network, nothing changes but for the counts that old files lack.
        let network = network(&tensors, [0.5; 3], [0.5; 3]);
        assert_eq!(network.spec().architecture.to_string(), architecture);
        assert!(floats(&network.store().state_dict()) == floats(&tensors), "{name}");
    }
}

fn network(tensors: &BTreeMap<String, Tensor>, mean: [f32; 3], std: [f32; 3]) -> Network {
    let found =
        identify(&tensors.iter().map(|(name, tensor)| (name.clone(), tensor.dims().to_vec())).collect()).unwrap();
    let spec = NetworkSpec {
        architecture: found.architecture,
        classes: found.classes,
        input: [found.channels, 32, 32],
        mean: mean.into(),
        std: std.into(),
        preprocessing: ssdkd_nn::Preprocessing::default(),
    };
    Network::load(&spec, tensors.clone(), &device()).unwrap()
}

const IMAGES: usize = 256;

/// The first test images of CIFAR-10, (B, H, W, C) in [0, 1], and their labels.
fn test_images(data: &std::path::Path) -> (Tensor, Vec<u32>) {
    let file = std::fs::File::open(data.join("cifar10/test_batch.bin.xz")).unwrap();
    let mut records = vec![0; IMAGES * 3073];
    liblzma::read::XzDecoder::new(file).read_exact(&mut records).unwrap();
    let labels = records.chunks_exact(3073).map(|record| u32::from(record[0])).collect();
    let pixels =
        records.chunks_exact(3073).flat_map(|record| record[1..].iter().map(|&pixel| f32::from(pixel) / 255.0));
    let images = Tensor::from_vec(pixels.collect::<Vec<_>>(), (IMAGES, 3, 32, 32), &device()).unwrap();
    (images.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap(), labels)
}

#[test]
fn accuracy_is_the_published_one() {
    let Some(data) = data() else { return };
    let (images, labels) = test_images(&data);
    let imagenet = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
    for (name, (mean, std)) in [
        ("c10_resnet20_akamaster.th", imagenet),
        ("c10_resnet56_akamaster.safetensors", imagenet),
        ("c10_resnet20_distiller.pth.tar", ([0.5; 3], [0.5; 3])),
    ] {
        let teacher = network(
            &weights::import(&data.join("teachers").join(name), &Choice::default()).unwrap().tensors,
            mean,
            std,
        );
        let classes = ssdkd_ops::argmax(&teacher.logits(&images).unwrap()).unwrap();
        let right = classes.iter().zip(&labels).filter(|(class, label)| class == label).count();
        let accuracy = right as f64 / IMAGES as f64;
        assert!(accuracy > 0.88, "{name}: {right} of {IMAGES}");
        eprintln!("{name}: {right} of the first {IMAGES} test images");
    }
}
