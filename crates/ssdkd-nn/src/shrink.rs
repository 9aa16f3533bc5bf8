//! Students that are smaller copies of their teacher, and start from its weights.

use crate::StateDict;
use candle_core::{DType, Result, Tensor, bail};

use crate::architecture::Architecture;
use crate::network::Network;

/// Gives `student`, a smaller copy of `teacher`, the teacher's weights: of each group of channels those with the largest batch-norm
/// factors and kernels, with their running statistics.
///
/// # Errors
/// If the student is no smaller copy of the teacher.
pub fn start_from_teacher(student: &Network, teacher: &Network) -> Result<()> {
    let (ours, theirs) = (student.spec(), teacher.spec());
    let Architecture::Cut(smaller) = &ours.architecture else {
        bail!("a {} is no smaller copy of a {}", ours.architecture, theirs.architecture);
    };
    if smaller.of != theirs.architecture || ours.classes != theirs.classes || ours.input != theirs.input {
        bail!("a {} is no smaller copy of this {}", ours.architecture, theirs.architecture);
    }
    let shrunk = theirs.blueprint()?.graph.shrunk(smaller.cut).map_err(candle_core::Error::wrap)?;
    let sources = teacher.store().state_dict();
    let source = |name: &str| match sources.get(name) {
        Some(source) => Ok(source),
        None => bail!("the teacher has no tensor {name}"),
    };
    let kept = shrunk.largest(|name| {
        let source = source(name)?;
        Ok::<_, candle_core::Error>((source.dims().to_vec(), source.flatten_all()?.to_dtype(DType::F32)?.to_vec1()?))
    })?;
    let mut tensors = StateDict::default();
    for (name, part) in &shrunk.tensors {
        let mut tensor = source(&part.name)?.clone();
        for (axis, channels) in part.axes.iter().enumerate() {
            if let Some(places) = shrunk.places(channels, &kept) {
                let places = places.into_iter().map(|place| u32::try_from(place).map_err(candle_core::Error::wrap));
                let places = Tensor::new(places.collect::<Result<Vec<_>>>()?, tensor.device())?;
                tensor = tensor.index_select(&places, axis)?;
            }
        }
        tensors.insert(name.clone(), tensor);
    }
    student.store().load_state_dict(tensors)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use ssdkd_graph::Cut;

    use super::*;
    use crate::architecture::Names;
    use crate::network::NetworkSpec;
    use crate::preprocessing::Preprocessing;

    fn spec(architecture: Architecture, side: usize) -> NetworkSpec {
        NetworkSpec {
            architecture,
            classes: 3,
            input: [3, side, side],
            mean: vec![0.5; 3],
            std: vec![0.25; 3],
            preprocessing: Preprocessing::default(),
        }
    }

    fn zoo(name: &str) -> Architecture {
        name.parse().unwrap()
    }

    fn create(architecture: Architecture, side: usize, seed: u64) -> Network {
        Network::create(&spec(architecture, side), seed, &Device::Cpu).unwrap()
    }

    fn cut(architecture: &Architecture, text: &str) -> Architecture {
        architecture.cut(text.parse::<Cut>().unwrap())
    }

    fn numbers(network: &Network, name: &str) -> Vec<f32> {
        network.store().state_dict()[name].flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn nine_blocks_of_a_resnet56_are_a_resnet20() {
        let teacher = zoo("resnet56");
        let (blocks, resnet20) = (spec(cut(&teacher, "teacher-blocks*0.33"), 32), spec(zoo("resnet20"), 32));
        let (ours, theirs) = (blocks.blueprint().unwrap(), resnet20.blueprint().unwrap());
        assert_eq!(ours.graph, theirs.graph);
        assert_eq!((ours.maps, ours.features, ours.apart), (theirs.maps, theirs.features, theirs.apart));
        assert_eq!(format!("{:?}", ours.fresh), format!("{:?}", theirs.fresh));
    }

    #[test]
    fn six_blocks_of_a_wrn_40_2_are_a_wrn_16_2() {
        let blocks = spec(cut(&zoo("wrn-40-2"), "teacher-blocks*0.33"), 32).blueprint().unwrap();
        let wrn = spec(zoo("wrn-16-2"), 32).blueprint().unwrap();
        assert_eq!(blocks.graph, wrn.graph);
        assert_eq!((blocks.maps, blocks.apart), (wrn.maps, wrn.apart));
    }

    #[test]
    fn blocks_that_stay_are_the_first_and_those_at_equal_distances() {
        let head = |head: &str| Names { head: head.into(), ..Names::default() };
        let resnet56 = Architecture::Zoo { architecture: zoo("resnet56").zoo().unwrap(), names: head("fc") };
        let (teacher, student) = (create(resnet56.clone(), 8, 1), create(cut(&resnet56, "teacher-blocks*0.33"), 8, 2));
        start_from_teacher(&student, &teacher).unwrap();
        for (ours, theirs) in [
            ("conv1.weight", "conv1.weight"),
            ("layer1.0.conv1.weight", "layer1.0.conv1.weight"),
            ("layer2.0.conv1.weight", "layer2.0.conv1.weight"),
            ("layer2.1.conv2.weight", "layer2.5.conv2.weight"),
            ("layer3.2.bn1.running_var", "layer3.8.bn1.running_var"),
            ("fc.weight", "fc.weight"),
        ] {
            assert_eq!(numbers(&student, ours), numbers(&teacher, theirs), "{ours}");
        }
        // The numbers are the student's own.
        let before = numbers(&teacher, "conv1.weight");
        for (_, var) in student.store().parameters() {
            var.set(&var.zeros_like().unwrap()).unwrap();
        }
        assert_eq!(numbers(&teacher, "conv1.weight"), before);
    }

    /// Sets every weight that belongs to a channel that is not kept to zero, so that those channels do nothing.
    fn silence(teacher: &Network, text: &str) {
        let shrunk = teacher.spec().blueprint().unwrap().graph.shrunk(text.parse().unwrap()).unwrap();
        let tensors = teacher.store().state_dict();
        let kept = shrunk
            .largest(|name| {
                let tensor = &tensors[name];
                Ok::<_, candle_core::Error>((tensor.dims().to_vec(), tensor.flatten_all()?.to_vec1()?))
            })
            .unwrap();
        for part in shrunk.tensors.values() {
            let tensor = &tensors[&part.name];
            if tensor.dtype() != DType::F32 || part.name.contains("running") {
                continue;
            }
            let mut mask = Tensor::ones(tensor.dims(), DType::F32, &Device::Cpu).unwrap();
            for (axis, channels) in part.axes.iter().enumerate() {
                let Some(places) = shrunk.places(channels, &kept) else { continue };
                let mut of_axis = vec![0f32; tensor.dims()[axis]];
                for place in places {
                    of_axis[place] = 1.0;
                }
                let mut shape = vec![1; tensor.dims().len()];
                shape[axis] = of_axis.len();
                mask = mask.broadcast_mul(&Tensor::from_vec(of_axis, shape, &Device::Cpu).unwrap()).unwrap();
            }
            let silenced = (tensor * mask).unwrap();
            let var = teacher.store().all().into_iter().find(|(name, _)| *name == part.name).unwrap().1;
            var.set(&silenced).unwrap();
        }
    }

    #[test]
    fn a_copy_without_silent_channels_computes_what_the_teacher_does() {
        for (name, side, text) in [
            ("torchvision/resnet18", 32, "teacher*0.5"),
            ("torchvision/resnet50", 32, "teacher*0.25"),
            ("wrn-16-2", 16, "teacher*0.5"),
            ("vgg11", 32, "teacher*0.5"),
            ("torchvision/vgg11_bn", 32, "teacher*0.125"),
            ("torchvision/mobilenet_v2", 64, "teacher*0.5"),
            ("torchvision/mobilenet_v3_small", 64, "teacher*0.75"),
            ("torchvision/deeplabv3_resnet50", 33, "teacher*0.125"),
            ("fpn-torchvision/resnet18", 64, "teacher*0.5"),
        ] {
            let architecture = zoo(name);
            let teacher = create(architecture.clone(), side, 3);
            silence(&teacher, text);
            let student = create(cut(&architecture, text), side, 4);
            start_from_teacher(&student, &teacher).unwrap();
            let (ours, theirs) = (student.spec().multiply_adds().unwrap(), teacher.spec().multiply_adds().unwrap());
            assert!(ours < theirs * 3 / 4, "{name}: {ours} of {theirs} multiply-adds");
            let images = Tensor::rand(0f32, 1.0, (2, side, side, 3), &Device::Cpu).unwrap();
            let [ours, theirs] = [&student, &teacher]
                .map(|network| network.logits(&images).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap());
            let largest = theirs.iter().fold(0f32, |most, number| most.max(number.abs()));
            for (ours, theirs) in ours.iter().zip(&theirs) {
                assert!((ours - theirs).abs() <= 1e-4 * largest, "{name}: {ours} and {theirs}");
            }
        }
    }

    #[test]
    fn any_other_pair_is_refused() {
        let teacher = create(zoo("resnet20"), 8, 1);
        for student in [zoo("resnet8"), cut(&zoo("wrn-16-2"), "teacher*0.5")] {
            let error = start_from_teacher(&create(student, 8, 2), &teacher).unwrap_err().to_string();
            assert!(error.contains("no smaller copy of") && error.contains("resnet20"), "{error}");
        }
    }

    #[test]
    fn a_network_whose_channels_cannot_be_scaled_says_where_other_copies_are_listed() {
        let error = spec(cut(&zoo("resnet20"), "teacher*0.5"), 32).blueprint().unwrap_err().to_string();
        assert!(error.contains("channels of zeros") && error.contains("ssdkd shrink CARD --list"), "{error}");
    }
}
