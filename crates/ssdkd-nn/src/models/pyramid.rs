//! A head that puts each pixel into a class: a feature pyramid (Kirillov et al. 2019, "Panoptic Feature Pyramid Networks"),
//! with one branch, at the finest resolution.
//!
//! ```text
//! p_n = L_n m_n                               m_g: the last map of group g, L_g a 1×1 convolution to D channels
//! p_g = L_g m_g + up(p_{g+1})                 up: every pixel twice in both directions
//! logits = S · relu(norm(C p_1))              C a 3×3 convolution of D channels, S a 1×1 convolution to a logit for each class
//! ```
//!
//! D is twice the channels of the first group \[O\]. The paper's head has a branch of convolutions for each resolution and upsamples
//! bilinearly \[C\]; here there is one for the sum of all, as the coarsest map is a quarter or an eighth of the image and not a thirty-second.

use candle_core::{Result, bail};
use candle_nn::VarBuilder;
use ssdkd_ops as ops;
use ssdkd_ops::{Activation, Conv2dSpec, Value};

use crate::layers::{BatchNorm2d, Conv2d, Draw};
use crate::models::Group;
use crate::pass::Pass;

/// See the [module](self).
pub struct Pyramid {
    /// The L_g, from fine to coarse, and the place of each map among all.
    laterals: Vec<(usize, Conv2d)>,
    smooth: Conv2d,
    norm: BatchNorm2d,
    score: Conv2d,
}

impl Pyramid {
    /// Asks `vb` for every tensor.
    pub fn new(groups: &[Group], classes: usize, vb: &VarBuilder<'_>) -> Result<Self> {
        let Some(first) = groups.first() else { bail!("a pyramid needs maps") };
        let width = 2 * first.channels;
        let point = |inputs, outputs, name: &str| {
            Conv2d::with_bias((inputs, outputs, 1), Conv2dSpec::new(1, 0), Draw::PYTORCH.zero_bias(), vb.pp(name))
        };
        let (mut laterals, mut maps) = (Vec::new(), 0);
        for (group, &Group { maps: count, channels }) in groups.iter().enumerate() {
            maps += count;
            laterals.push((maps - 1, point(channels, width, &format!("lateral{}", group + 1))?));
        }
        let smooth = Conv2d::new((width, width, 3), Conv2dSpec::new(1, 1), Draw::HE_OUTPUTS, vb.pp("smooth").pp(0))?;
        let norm = BatchNorm2d::new(width, vb.pp("smooth").pp(1))?;
        Ok(Self { laterals, smooth, norm, score: point(width, classes, "score")? })
    }

    /// From all maps (B, H, W, C) of the backbone to a row of logits for each pixel of the first: (B·H·W, K).
    pub fn forward(&self, maps: &[Value], pass: &Pass) -> Result<Value> {
        let mut above: Option<Value> = None;
        for (map, lateral) in self.laterals.iter().rev() {
            let above_here = above.map(|above| ops::upsample_nearest(&above, 2)).transpose()?;
            above = Some(lateral.forward_residual(&maps[*map], above_here.as_ref(), pass)?);
        }
        let Some(finest) = above else { bail!("a pyramid needs maps") };
        let smooth = self.smooth.forward_normed(&finest, &self.norm, None, Activation::Relu, pass)?;
        let logits = self.score.forward(&smooth, pass)?; // (B, H, W, K)
        let [batch, height, width, classes] = *logits.dims() else { bail!("scores of pixels have four sides") };
        ops::reshape(&logits, &[batch * height * width, classes])
    }
}
