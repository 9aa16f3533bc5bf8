//! Wide residual networks WRN-d-k (Zagoruyko and Komodakis 2016): pre-activation basic blocks, (d − 4) / 6 in each of
//! three groups of 16k, 32k and 64k channels. Tensor names are those of the public code of CMI and Fast-Datafree.
//!
//! Fresh convolutions are He et al.'s normal ones by the number of outputs, as in that code.

use ssdkd_graph::NodeId;

use super::builder::{Builder, Built, Convolution, Draw};

/// Returns all but the last layer. A block returns a sum of unbounded size; its feature map is that sum as the next block sees it,
/// behind batch norm and ReLU.
pub(super) fn body(net: &mut Builder, x: NodeId, depth: usize, width: usize) -> Built {
    let mut x = net.conv(x, "conv1", convolution(16, 3, 1))?;
    // Folding a batch norm into it would be as right, but would round differently from all results so far.
    net.keep_apart(x);
    let mut is_first = true;
    for (group, channels) in [16, 32, 64].into_iter().enumerate() {
        for index in 0..(depth - 4) / 6 {
            let place = format!("block{}.layer.{index}", group + 1);
            let activated = net.norm(x, &format!("{place}.bn1"))?;
            let activated = net.relu(activated)?;
            if !is_first {
                net.mark(activated);
            }
            is_first = false;
            let stride = if group > 0 && index == 0 { 2 } else { 1 };
            x = block(net, (x, activated), &place, channels * width, stride)?;
        }
    }
    let x = net.norm(x, "bn1")?;
    let x = net.relu(x)?;
    net.mark(x);
    Ok(x)
}

/// Adds a block: `x` is a sum, `activated` the same behind batch norm and ReLU.
fn block(net: &mut Builder, (x, activated): (NodeId, NodeId), place: &str, outputs: usize, stride: usize) -> Built {
    let name = |module: &str| format!("{place}.{module}");
    let y = net.conv(activated, &name("conv1"), convolution(outputs, 3, stride))?;
    let y = net.norm(y, &name("bn2"))?;
    let y = net.relu(y)?;
    // Where the shape changes, the shortcut starts behind the activation.
    let residual = if net.channels(x) == outputs {
        x
    } else {
        net.conv(activated, &name("convShortcut"), convolution(outputs, 1, stride))?
    };
    let y = net.conv(y, &name("conv2"), convolution(outputs, 3, 1))?;
    net.add(&name("add"), y, residual)
}

fn convolution(outputs: usize, kernel: usize, stride: usize) -> Convolution {
    Convolution::new(outputs, kernel, stride, Draw::HE_OUTPUTS)
}
