//! Brings the tensors of other repositories' networks into the form of this program's: their names, and biases of convolutions.

use std::collections::BTreeMap;

use candle_core::{DType, Result, Tensor, bail};

type Tensors = BTreeMap<String, Tensor>;

/// The tensors of a network under this program's names, and what was done for that.
#[derive(Debug)]
pub struct Adopted {
    /// Tensors by name.
    pub tensors: BTreeMap<String, Tensor>,
    /// What was changed, in sentences.
    pub notices: Vec<String>,
}

/// Renames the tensors of some well-known repositories' networks, and folds biases of convolutions into the batch norms behind them.
///
/// The network computes the same in evaluation mode. Tensors of other networks stay as they are.
///
/// # Errors
/// If a bias does not have the shape of its batch norm.
pub fn adopt(mut tensors: BTreeMap<String, Tensor>) -> Result<Adopted> {
    let mut notices = Vec::new();
    for layout in &LAYOUTS {
        if tensors.contains_key(layout.marker) && (layout.fits)(&tensors) {
            tensors = renamed(tensors, layout.rename);
            notices.push(format!("renamed the tensors, which have the names of {}", layout.whose));
        }
    }
    for (prefix, what) in UNUSED {
        let before = tensors.len();
        tensors.retain(|name, _| !name.starts_with(prefix));
        if tensors.len() < before {
            notices.push(format!("left out {} tensors of {prefix}, {what}", before - tensors.len()));
        }
    }
    if let Some(head) = foreign_head(&tensors) {
        let ours = if tensors.contains_key("block1.layer.0.conv1.weight") { "fc" } else { "linear" };
        let rename = |name: &str| name.strip_prefix(&head).map(|rest| format!("{ours}{rest}"));
        tensors = renamed(tensors, rename);
        notices.push(format!("renamed the last layer {head} to {ours}"));
    }
    let folded = fold_biases(&mut tensors)?;
    if folded > 0 {
        notices.push(format!(
            "folded the biases of {folded} convolutions into the batch norms behind them: the predictions stay the same"
        ));
    }
    Ok(Adopted { tensors, notices })
}

/// What predictions do not need: a second first block, which the wide residual networks of TRADES and of robustness benchmarks declare
/// and do not call, and the second head of torchvision's segmentation networks.
const UNUSED: [(&str, &str); 2] = [
    ("sub_block1.", "a block that its network never uses"),
    ("aux_classifier.", "a second head that only torchvision's training uses"),
];

/// How one repository names the tensors of a network.
struct Layout {
    whose: &'static str,
    /// A tensor that only this layout has.
    marker: &'static str,
    /// Whether the network is one whose names are known, where the marker leaves that open.
    fits: fn(&Tensors) -> bool,
    /// From its names to ours.
    rename: fn(&str) -> Option<String>,
}

const LAYOUTS: [Layout; 5] = [
    Layout {
        whose: "karanchahal/distiller",
        marker: "layer1.layer.0.conv1.weight",
        fits: |_| true,
        rename: from_distiller,
    },
    Layout {
        whose: "pytorchcv's wide residual networks",
        marker: "features.post_activ.bn.weight",
        fits: |_| true,
        rename: from_pytorchcv_wide,
    },
    Layout {
        whose: "pytorchcv's residual networks",
        marker: "features.stage1.unit1.body.conv1.conv.weight",
        fits: |_| true,
        rename: from_pytorchcv,
    },
    Layout {
        whose: "hysts' residual networks",
        marker: "stage1.block1.conv1.weight",
        fits: |_| true,
        rename: from_hysts,
    },
    Layout {
        whose: "timm's MobileNetV2",
        marker: "conv_stem.weight",
        fits: is_timm_mobilenet_v2,
        rename: from_timm_mobilenet_v2,
    },
];

/// Renames the tensors that `rename` knows, unless two would have one name.
fn renamed(tensors: Tensors, rename: impl Fn(&str) -> Option<String>) -> Tensors {
    let new_name = |name: &String| rename(name).unwrap_or_else(|| name.clone());
    let names = tensors.keys().map(new_name).collect::<std::collections::BTreeSet<_>>();
    if names.len() < tensors.len() {
        return tensors;
    }
    tensors.into_iter().map(|(name, tensor)| (new_name(&name), tensor)).collect()
}

/// Translates `layer1.layer.0.conv1` to `block1.layer.0.conv1`, `linear` to `fc`.
fn from_distiller(name: &str) -> Option<String> {
    if let Some(rest) = name.strip_prefix("linear.") {
        return Some(format!("fc.{rest}"));
    }
    let (group, rest) = name.strip_prefix("layer")?.split_once('.')?;
    rest.starts_with("layer.").then(|| format!("block{group}.{rest}"))
}

/// Translates `features.stage1.unit1.body.conv1.bn` to `layer1.0.bn1`, and so on.
fn from_pytorchcv(name: &str) -> Option<String> {
    let rest = name.strip_prefix("features.").or(Some(name).filter(|name| name.starts_with("output.")))?;
    let parts = rest.split('.').collect::<Vec<_>>();
    Some(match parts[..] {
        ["init_block", "conv", part, tensor] | ["init_block", part @ ("conv" | "bn"), tensor] => {
            format!("{part}1.{tensor}")
        }
        [stage, unit, "body", conv, part, tensor] => {
            format!(
                "layer{}.{}.{part}{}.{tensor}",
                stage.strip_prefix("stage")?,
                place(unit, "unit")?,
                conv.strip_prefix("conv")?
            )
        }
        [stage, unit, "identity_conv", part, tensor] => {
            let entry = u8::from(part != "conv"); // the convolution, then the batch norm
            format!("layer{}.{}.shortcut.{entry}.{tensor}", stage.strip_prefix("stage")?, place(unit, "unit")?)
        }
        ["output", tensor] => format!("linear.{tensor}"),
        _ => return None,
    })
}

/// Translates `features.stage1.unit1.body.conv1.bn` to `block1.layer.0.bn1`, and so on.
fn from_pytorchcv_wide(name: &str) -> Option<String> {
    let rest = name.strip_prefix("features.").or(Some(name).filter(|name| name.starts_with("output.")))?;
    let parts = rest.split('.').collect::<Vec<_>>();
    Some(match parts[..] {
        ["init_block", tensor] => format!("conv1.{tensor}"),
        ["post_activ", "bn", tensor] => format!("bn1.{tensor}"),
        [stage, unit, "body", conv, part, tensor] => format!(
            "block{}.layer.{}.{part}{}.{tensor}",
            stage.strip_prefix("stage")?,
            place(unit, "unit")?,
            conv.strip_prefix("conv")?
        ),
        [stage, unit, "identity_conv", tensor] => {
            format!("block{}.layer.{}.convShortcut.{tensor}", stage.strip_prefix("stage")?, place(unit, "unit")?)
        }
        ["output", tensor] => format!("fc.{tensor}"),
        _ => return None,
    })
}

/// Translates `stage1.block1.conv1` to `layer1.0.conv1`, and so on.
fn from_hysts(name: &str) -> Option<String> {
    let parts = name.split('.').collect::<Vec<_>>();
    Some(match parts[..] {
        [part @ ("conv" | "bn"), tensor] => format!("{part}1.{tensor}"),
        [stage, block, "shortcut", part, tensor] => {
            let entry = u8::from(part != "conv"); // the convolution, then the batch norm
            format!("layer{}.{}.shortcut.{entry}.{tensor}", stage.strip_prefix("stage")?, place(block, "block")?)
        }
        [stage, block, module, tensor] => {
            format!("layer{}.{}.{module}.{tensor}", stage.strip_prefix("stage")?, place(block, "block")?)
        }
        _ => return None,
    })
}

/// Blocks of each stage of `MobileNetV2`.
const MOBILENET_V2: [usize; 7] = [1, 2, 3, 4, 3, 3, 1];

/// timm has many networks with these names: this one has so many blocks, and 3×3 depthwise convolutions without squeeze-excite.
fn is_timm_mobilenet_v2(tensors: &Tensors) -> bool {
    let depthwise = |stage: usize, index: usize| tensors.get(&format!("blocks.{stage}.{index}.conv_dw.weight"));
    let is_small = |weight: &Tensor| weight.dims().ends_with(&[1, 3, 3]);
    let stages = MOBILENET_V2.iter().enumerate();
    let mut blocks = stages.clone().flat_map(|(stage, &count)| (0..count).map(move |index| (stage, index)));
    blocks.all(|(stage, index)| depthwise(stage, index).is_some_and(is_small))
        && stages.clone().all(|(stage, &count)| depthwise(stage, count).is_none())
        && tensors.keys().all(|name| from_timm_mobilenet_v2(name).is_some())
}

/// Translates `blocks.1.0.conv_pw` to `features.2.conv.0.0`, and so on.
fn from_timm_mobilenet_v2(name: &str) -> Option<String> {
    let parts = name.split('.').collect::<Vec<_>>();
    Some(match parts[..] {
        ["conv_stem", tensor] => format!("features.0.0.{tensor}"),
        ["bn1", tensor] => format!("features.0.1.{tensor}"),
        ["conv_head", tensor] => format!("features.18.0.{tensor}"),
        ["bn2", tensor] => format!("features.18.1.{tensor}"),
        ["classifier", tensor] => format!("classifier.1.{tensor}"),
        ["blocks", stage, index, module, tensor] => {
            let (stage, index) = (stage.parse::<usize>().ok()?, index.parse::<usize>().ok()?);
            // The first block has no convolution that widens.
            let entries: &[_] = if stage == 0 {
                &[("conv_dw", "0.0"), ("bn1", "0.1"), ("conv_pw", "1"), ("bn2", "2")]
            } else {
                &[
                    ("conv_pw", "0.0"),
                    ("bn1", "0.1"),
                    ("conv_dw", "1.0"),
                    ("bn2", "1.1"),
                    ("conv_pwl", "2"),
                    ("bn3", "3"),
                ]
            };
            let entry = entries.iter().find(|(theirs, _)| *theirs == module)?.1;
            let place = 1 + MOBILENET_V2.get(..stage)?.iter().sum::<usize>() + index;
            format!("features.{place}.conv.{entry}.{tensor}")
        }
        _ => return None,
    })
}

/// Returns the place from 0 of a module that is counted from 1.
fn place(part: &str, word: &str) -> Option<usize> {
    part.strip_prefix(word)?.parse::<usize>().ok()?.checked_sub(1)
}

/// Returns the last layer of a residual network, where it is called neither `linear` nor `fc`.
fn foreign_head(tensors: &Tensors) -> Option<String> {
    let residual =
        ["layer1.0.conv1.weight", "block1.layer.0.conv1.weight"].iter().any(|name| tensors.contains_key(*name));
    let mut matrices = tensors.iter().filter(|(_, tensor)| tensor.rank() == 2).map(|(name, _)| name);
    let (only, None) = (matrices.next()?, matrices.next()) else { return None };
    let head = only.strip_suffix(".weight")?;
    let wide = tensors.contains_key("block1.layer.0.conv1.weight");
    let known = head == "fc" || head == "linear" && !wide;
    (residual && !known && tensors.contains_key(&format!("{head}.bias"))).then(|| head.into())
}

/// Takes the biases of convolutions out of a residual network and returns how many there were.
///
/// A batch norm subtracts its running mean: to subtract the bias from that mean is the same as to add the bias before.
fn fold_biases(tensors: &mut Tensors) -> Result<usize> {
    let before = tensors.len();
    if tensors.contains_key("block1.layer.0.conv1.weight") {
        fold_wide(tensors)?;
    } else if tensors.contains_key("layer1.0.conv1.weight") {
        fold_post_activation(tensors)?;
    }
    Ok(before - tensors.len())
}

/// The batch norm comes right behind each convolution.
fn fold_post_activation(tensors: &mut Tensors) -> Result<()> {
    let biased = tensors.keys().filter_map(|name| name.strip_suffix(".bias"));
    let of_convolution = |conv: &&str| tensors.get(&format!("{conv}.weight")).is_some_and(|weight| weight.rank() == 4);
    let pairs = biased.filter(of_convolution).filter_map(|conv| Some((conv.to_string(), norm_behind(conv)?)));
    let pairs = pairs.collect::<Vec<_>>();
    let dims = |name: String| tensors.get(&name).map(Tensor::dims);
    let fit = |(conv, norm): &(String, String)| dims(format!("{conv}.bias")) == dims(format!("{norm}.running_mean"));
    if !pairs.iter().all(fit) {
        return Ok(()); // batch norm comes before convolution: another network
    }
    for (conv, norm) in pairs {
        if let Some(bias) = tensors.remove(&format!("{conv}.bias")) {
            subtract(tensors, &norm, &bias)?;
        }
    }
    Ok(())
}

/// Returns the batch norm behind a convolution: `bn1` behind `conv1`, and `1` behind the `0` of a shortcut.
fn norm_behind(conv: &str) -> Option<String> {
    let (block, module) = conv.rsplit_once('.').map_or(("", conv), |(block, module)| (block, module));
    let norm = if module == "0" { "1".into() } else { format!("bn{}", module.strip_prefix("conv")?) };
    Some(if block.is_empty() { norm } else { format!("{block}.{norm}") })
}

/// The batch norm comes before each convolution, so a bias stays in the sum that blocks hand on, up to the next change of shape.
fn fold_wide(tensors: &mut Tensors) -> Result<()> {
    let mut sum = tensors.remove("conv1.bias");
    for group in 1..=3 {
        for index in 0.. {
            let block = format!("block{group}.layer.{index}");
            if !tensors.contains_key(&format!("{block}.conv1.weight")) {
                break;
            }
            if let Some(sum) = &sum {
                subtract(tensors, &format!("{block}.bn1"), sum)?;
            }
            if let Some(bias) = tensors.remove(&format!("{block}.conv1.bias")) {
                subtract(tensors, &format!("{block}.bn2"), &bias)?;
            }
            if tensors.contains_key(&format!("{block}.convShortcut.weight")) {
                // The shortcut starts behind the batch norm, which took the sum so far.
                sum = tensors.remove(&format!("{block}.convShortcut.bias"));
            }
            let added = tensors.remove(&format!("{block}.conv2.bias"));
            sum = match (sum, added) {
                (Some(sum), Some(added)) => Some((sum.to_dtype(DType::F32)? + added.to_dtype(DType::F32)?)?),
                (sum, added) => sum.or(added),
            };
        }
    }
    sum.map_or(Ok(()), |sum| subtract(tensors, "bn1", &sum))
}

/// Subtracts a bias from a batch norm's running mean.
fn subtract(tensors: &mut Tensors, norm: &str, bias: &Tensor) -> Result<()> {
    if let Some(mean) = tensors.get_mut(&format!("{norm}.running_mean")) {
        if mean.dims() != bias.dims() {
            bail!(
                "a convolution has a bias of shape {:?}, and its batch norm {norm} has {:?}",
                bias.dims(),
                mean.dims()
            );
        }
        *mean = (mean.to_dtype(DType::F32)? - bias.to_dtype(DType::F32)?)?;
    }
    Ok(())
}
