//! Rows of networks at 224 pixels: graphs of torchvision's networks from `target/bench/NETWORK.pt2`, which `twins.py` exports.

use std::path::Path;

use candle_core::{Device, Result, bail};
use ssdkd_nn::{Architecture, Mode, Network, NetworkSpec, Preprocessing};
use ssdkd_ops::{self as ops, Value};

use super::kernels::BATCH;
use super::{Step, random};

const NETWORKS: [&str; 5] = ["resnet18", "resnet50", "mobilenet_v2", "efficientnet_b0", "deeplabv3_mobilenet_v3"];
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/bench");

/// What stands between a network's name and the size of its images.
const AT: char = '@';

pub fn rows() -> impl Iterator<Item = String> {
    ["forward", "train", "tapped", "invert"]
        .into_iter()
        .flat_map(|kind| NETWORKS.iter().map(move |network| format!("{kind} {network}{AT}224 {BATCH}")))
}

/// The name and the size of `NAME@SIZE`.
pub fn parse(network: &str) -> Option<(&str, usize)> {
    let (name, size) = network.split_once(AT)?;
    Some((name, size.parse().ok()?))
}

pub fn build(name: &str, size: usize, device: &Device) -> Result<Network> {
    let path = Path::new(FOLDER).join(format!("{name}.pt2"));
    let imported = match ssdkd_graph::import(&path) {
        Ok(imported) => imported,
        Err(error) => bail!("{error}\nhint: `make bench-pytorch` exports the networks from torchvision first"),
    };
    let output = imported.graph.outputs().first().map(|output| imported.graph.shape(*output).channels());
    let spec = NetworkSpec {
        architecture: Architecture::of_graph(name, imported.graph),
        classes: output.unwrap_or_default(),
        input: [3, size, size],
        mean: vec![0.5; 3],
        std: vec![0.25; 3],
        preprocessing: Preprocessing::default(),
    };
    Network::load(&spec, imported.tensors, device)
}

/// The teacher's part of an inversion step: the distance of all batch-norm statistics and the cross entropy of its own
/// classes, in evaluation mode, and the gradient of the images.
pub fn tapped(network: Network, batch: usize, size: usize, device: &Device) -> Result<Step> {
    let (network, images) = (network.frozen(), random((batch, size, size, 3), device)?);
    Ok(Box::new(move || {
        let output = network.forward(&Value::leaf(&images), Mode::Tapped)?;
        let labels = ops::argmax(output.logits.tensor())?;
        let mut terms = vec![ops::cross_entropy(&output.logits, &labels, None)?];
        for tap in &output.taps {
            terms.push(ops::l2_distance(&tap.mean, &tap.running_mean)?);
            terms.push(ops::l2_distance(&tap.variance, &tap.running_variance)?);
        }
        drop(output);
        let loss = ops::weighted_sum(&terms.iter().map(|term| (1.0, term)).collect::<Vec<_>>())?;
        drop(terms);
        loss.backward().map(|_| ())
    }))
}
