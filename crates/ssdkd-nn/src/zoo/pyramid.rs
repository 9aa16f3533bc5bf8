//! A head that puts each pixel into a class: a feature pyramid (Kirillov et al. 2019, "Panoptic Feature Pyramid Networks"),
//! with one branch, at the finest resolution.
//!
//! ```text
//! p_n = L_n m_n                               m_g: the last map of resolution g, L_g a 1×1 convolution to D channels
//! p_g = L_g m_g + up(p_{g+1})                 up: every pixel twice in both directions
//! logits = S · relu(norm(C p_1))              C a 3×3 convolution of D channels, S a 1×1 convolution to a logit for each class
//! ```
//!
//! D is twice the channels of the first map \[O\]. The paper's head has a branch of convolutions for each resolution and upsamples
//! bilinearly \[C\]; here there is one for the sum of all, as the coarsest map is often a quarter or an eighth of the image.

use ssdkd_graph::op::{Activation, ResizeMethod, ResizeTo};
use ssdkd_graph::{GraphError, NodeId};

use super::builder::{Builder, Built, Convolution, Draw};

/// Returns the logits at the size of the first map, from the feature maps so far.
pub(super) fn head(net: &mut Builder, classes: usize) -> Built {
    let maps = last_of_each_resolution(net);
    let Some(&first) = maps.first() else { return Err(GraphError::Graph("a pyramid needs maps".into())) };
    let width = 2 * net.channels(first);
    let point = |outputs| Convolution { bias: true, ..Convolution::new(outputs, 1, 1, Draw::PYTORCH.zero_bias()) };
    let mut above: Option<NodeId> = None;
    for (index, &map) in maps.iter().enumerate().rev() {
        let name = format!("lateral{}", index + 1);
        let coarser = match above {
            Some(above) => Some(double(net, above, map, &format!("{name}.above"))?),
            None => None,
        };
        let lateral = net.conv(map, &name, point(width))?;
        above = Some(match coarser {
            Some(coarser) => net.add(&format!("{name}.add"), lateral, coarser)?,
            None => lateral,
        });
    }
    let Some(finest) = above else { return Err(GraphError::Graph("a pyramid needs maps".into())) };
    let convolution = Convolution::new(width, 3, 1, Draw::HE_OUTPUTS);
    let smooth = net.conv_norm(finest, ("smooth.0", "smooth.1"), convolution, Some(Activation::Relu))?;
    net.conv(smooth, "score", point(classes))
}

/// Returns a map with every pixel twice in both directions, or where that does not fit at the size of `like`.
fn double(net: &mut Builder, x: NodeId, like: NodeId, name: &str) -> Built {
    let ([height, width], size) = (net.size(x), net.size(like));
    if [2 * height, 2 * width] == size {
        net.resize(x, name, ResizeTo::Factor([2.0; 2]), ResizeMethod::Nearest, None)
    } else {
        net.resize(x, name, ResizeTo::Like, ResizeMethod::Nearest, Some(like))
    }
}

fn last_of_each_resolution(net: &Builder) -> Vec<NodeId> {
    let maps = net.maps();
    let is_last = |index: &usize| maps.get(index + 1).is_none_or(|next| net.size(*next) != net.size(maps[*index]));
    (0..maps.len()).filter(is_last).map(|index| maps[index]).collect()
}
