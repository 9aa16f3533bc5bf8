//! `DeepLabV3` (Chen et al. 2017) on a ResNet-50 or -101, with torchvision's names: the last two groups keep their resolution and
//! dilate their convolutions, and the head looks at four distances and at the whole image.

use ssdkd_graph::op::{Activation, ResizeMethod, ResizeTo};
use ssdkd_graph::{GraphError, NodeId, Op};

use super::Blueprint;
use super::builder::{Builder, Built, Convolution, Draw};
use super::resnet::{Body, Group, blocks};
use crate::architecture::zoo::{Names, Shortcut, Stem};

/// Channels of the head.
const WIDTH: usize = 256;

/// Returns the whole network.
pub(super) fn deeplab(mut net: Builder, x: NodeId, depth: usize, classes: usize) -> Result<Blueprint, GraphError> {
    let names = Names::torchvision();
    let body = Body {
        shortcut: Shortcut::Convolution,
        bottleneck: true,
        draw: Draw::HE_OUTPUTS,
        names: &names,
        prefix: "backbone.",
    };
    let input = x;
    let x = body.stem(&mut net, x, Stem::ImageNet, 64)?;
    let group =
        |index: usize, channels, stride, dilation| Group { blocks: blocks(depth)[index], channels, stride, dilation };
    let x =
        body.groups(&mut net, x, &[group(0, 64, 1, 1), group(1, 128, 2, 1), group(2, 256, 1, 2), group(3, 512, 1, 4)])?;
    let x = pyramid(&mut net, x)?;
    let relu = Some(Activation::Relu);
    let convolution = Convolution::new(WIDTH, 3, 1, Draw::PYTORCH);
    let x = net.conv_norm(x, ("classifier.1", "classifier.2"), convolution, relu)?;
    let scores = Convolution { bias: true, ..Convolution::new(classes, 1, 1, Draw::PYTORCH) };
    let x = net.conv(x, "classifier.4", scores)?;
    let method = ResizeMethod::Bilinear { align_corners: false };
    let x = net.resize(x, "resize", ResizeTo::Like, method, Some(input))?;
    net.finish(x, None)
}

/// Returns a 1×1 convolution, 3×3 convolutions dilated by 12, 24 and 36, and the mean of the image, all concatenated and mixed.
fn pyramid(net: &mut Builder, x: NodeId) -> Built {
    let relu = || Some(Activation::Relu);
    let point = Convolution::new(WIDTH, 1, 1, Draw::PYTORCH);
    let name = |branch: usize, entry: usize| format!("classifier.0.convs.{branch}.{entry}");
    let mut branches = vec![net.conv_norm(x, (&name(0, 0), &name(0, 1)), point, relu())?];
    for (branch, dilation) in [(1, 12), (2, 24), (3, 36)] {
        let dilated = Convolution { dilation, ..Convolution::new(WIDTH, 3, 1, Draw::PYTORCH) };
        branches.push(net.conv_norm(x, (&name(branch, 0), &name(branch, 1)), dilated, relu())?);
    }
    let mean = net.mean(x, &name(4, 0))?;
    let mean = net.conv_norm(mean, (&name(4, 1), &name(4, 2)), point, relu())?;
    let method = ResizeMethod::Bilinear { align_corners: false };
    branches.push(net.resize(mean, "classifier.0.convs.4.resize", ResizeTo::Like, method, Some(x))?);
    let all = net.apply("classifier.0.concat", Op::Concat, &branches)?;
    net.conv_norm(all, ("classifier.0.project.0", "classifier.0.project.1"), point, relu())
}
