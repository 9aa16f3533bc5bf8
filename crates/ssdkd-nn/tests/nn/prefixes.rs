//! What wrappers and tools leave in the names of tensors.

use ssdkd_nn::weights::Choice;

use crate::reading::{check_refused, number_of, read, read_with};
use crate::writer::{Named, Writer, dict};

fn file_of(make: impl FnOnce(&mut Writer) -> Named) -> Vec<u8> {
    let mut file = Writer::default();
    let items = make(&mut file);
    file.zip(&dict(&items))
}

#[track_caller]
fn check_removed(prefix: &str) {
    let import = read(&file_of(|file| file.network(prefix, 1.)));
    assert_eq!((number_of(&import), import.prefix.as_str()), (1., prefix));
}

#[test]
fn prefixes_of_all_names_are_removed() {
    for prefix in ["module.", "model.", "_orig_mod.", "model._orig_mod.", "module.student.", "my_net.", "a.b.c.d."] {
        check_removed(prefix);
    }
}

#[test]
fn a_layer_is_no_prefix() {
    let bytes = file_of(|file| {
        let tensor = file.tensor(&[2, 3, 3, 3], 1.);
        vec![("conv1.weight".into(), tensor.clone()), ("conv1.bias".into(), file.tensor(&[2], 1.))]
    });
    let import = read(&bytes);
    assert_eq!(import.tensors.keys().collect::<Vec<_>>(), ["conv1.bias", "conv1.weight"]);
}

#[test]
fn the_features_of_a_vgg_are_no_prefix() {
    let bytes = file_of(|file| {
        let names = ["features.0.weight", "features.3.weight", "classifier.weight"];
        let shapes: [&[usize]; 3] = [&[2, 3, 3, 3], &[2, 2, 3, 3], &[4, 2]];
        names.iter().zip(shapes).map(|(name, shape)| ((*name).to_string(), file.tensor(shape, 1.))).collect()
    });
    let import = read(&bytes);
    assert_eq!(
        import.tensors.keys().collect::<Vec<_>>(),
        ["classifier.weight", "features.0.weight", "features.3.weight"]
    );
}

#[test]
fn a_part_of_the_network_may_be_wrapped() {
    for wrapper in ["_orig_mod", "module"] {
        let bytes = file_of(|file| {
            let mut items = file.network("", 1.);
            items[2].0 = format!("layer1.{wrapper}.0.conv1.weight");
            items
        });
        assert_eq!(number_of(&read(&bytes)), 1., "{wrapper}");
    }
}

#[test]
fn the_counts_of_tools_are_left_out() {
    let bytes = file_of(|file| {
        let mut items = file.network("module.", 1.);
        let counts = ["total_ops", "total_params", "module.layer1.total_ops", "module.layer1.__flops__", "n_averaged"];
        for name in counts {
            items.push((name.into(), file.tensor(&[1], 0.)));
        }
        items
    });
    let import = read(&bytes);
    assert_eq!(number_of(&import), 1.);
    let dropped = ["module.layer1.__flops__", "module.layer1.total_ops", "n_averaged", "total_ops", "total_params"];
    assert_eq!(import.dropped, dropped);
    assert!(import.describe().iter().any(|line| line.contains("n_averaged (1)")));
}

/// Lightning keeps the weights of a loss beside the network's.
#[test]
fn what_is_outside_of_the_wrapped_network_is_left_out_and_named() {
    let bytes = file_of(|file| {
        let mut items = file.network("model.", 1.);
        items.push(("loss.weight".into(), file.tensor(&[4], 0.)));
        items
    });
    let import = read(&bytes);
    assert_eq!((number_of(&import), import.prefix.as_str()), (1., "model."));
    assert!(import.notices[0].contains("left out the rest (1: loss.weight)"), "{:?}", import.notices);
}

/// `nn.Sequential(Normalize(mean, std), network)`
#[test]
fn a_normalization_in_front_of_the_network_is_left_out_and_named() {
    let bytes = file_of(|file| {
        let mut items = file.network("1.", 1.);
        items.push(("0.mean".into(), file.tensor(&[3], 0.5)));
        items
    });
    let import = read(&bytes);
    assert_eq!((number_of(&import), import.prefix.as_str()), (1., "1."));
    assert!(import.notices[0].contains("0.mean"), "{:?}", import.notices);
}

#[test]
fn a_normalization_beside_the_network_is_left_out_with_its_values() {
    for (prefix, shape) in [("normalize.", &[1, 3, 1, 1][..]), ("", &[3])] {
        let bytes = file_of(|file| {
            let mut items = file.network("", 1.);
            items.push((format!("{prefix}mean"), file.tensor_of(shape, &[0.5, 0.25, 0.125])));
            items.push((format!("{prefix}std"), file.tensor_of(shape, &[1., 0.75, 0.5])));
            items
        });
        let import = read(&bytes);
        assert_eq!(number_of(&import), 1.);
        assert!(import.notices[0].contains("mean 0.5,0.25,0.125 and std 1,0.75,0.5"), "{:?}", import.notices);
    }
}

/// OpenMMLab's classifiers, and a last layer outside of the backbone.
#[test]
fn a_backbone_and_its_head_are_one_network() {
    for head in ["head.", ""] {
        let bytes = file_of(|file| {
            let renamed = |(name, tensor): (String, _)| {
                let group = if name.starts_with("linear") { head } else { "backbone." };
                (format!("{group}{name}"), tensor)
            };
            file.network("", 1.).into_iter().map(renamed).collect()
        });
        assert_eq!(number_of(&read(&bytes)), 1., "{head}");
    }
}

fn two_networks(file: &mut Writer) -> Named {
    let mut items = file.network("encoder_q.", 1.);
    items.extend(file.network("encoder_k.", 2.));
    items.push(("queue".into(), file.tensor(&[4, 4], 0.)));
    items
}

#[test]
fn several_networks_in_one_state_dict_are_listed() {
    let bytes = file_of(two_networks);
    check_refused(&bytes, "encoder_k. (5 tensors, 104 parameters), encoder_q. (5 tensors, 104 parameters)");
}

#[test]
fn a_prefix_chooses_with_and_without_its_dot() {
    let bytes = file_of(two_networks);
    for prefix in ["encoder_k.", "encoder_k"] {
        let import = read_with(&bytes, &Choice { key: None, prefix: Some(prefix) }).unwrap();
        assert_eq!((number_of(&import), import.prefix.as_str()), (2., "encoder_k."));
    }
}

#[test]
fn a_prefix_may_be_within_others() {
    let bytes = file_of(|file| {
        let mut items = file.network("module.student.", 1.);
        items.extend(file.network("module.teacher.", 2.));
        items
    });
    let import = read_with(&bytes, &Choice { key: None, prefix: Some("teacher.") }).unwrap();
    assert_eq!((number_of(&import), import.prefix.as_str()), (2., "module.teacher."));
}

#[test]
fn an_averaged_network_in_one_state_dict_comes_first() {
    let bytes = file_of(|file| {
        let mut items = file.network("net.", 1.);
        items.extend(file.network("net_ema.", 2.));
        items
    });
    assert_eq!(number_of(&read(&bytes)), 2.);
}

/// `AveragedModel`, `DataParallel` and ema-pytorch put another wrapper into the average's names.
#[test]
fn an_averaged_network_may_have_wrappers_of_its_own() {
    for (raw, averaged, other) in [
        ("model.", "ema.module.", None),
        ("net.", "swa_model.module.", None),
        ("model.", "ema.ema_model.", Some("ema.online_model.")),
        ("ema.online_model.", "ema.ema_model.module.", None),
    ] {
        let bytes = file_of(|file| {
            let mut items = [file.network(raw, 1.), file.network(averaged, 2.)].concat();
            items.extend(other.map(|other| file.network(other, 3.)).unwrap_or_default());
            items
        });
        let import = read(&bytes);
        assert_eq!((number_of(&import), import.prefix.as_str()), (2., averaged));
    }
}

#[test]
fn a_prefix_that_is_not_there_lists_those_that_are() {
    let bytes = file_of(two_networks);
    let error = read_with(&bytes, &Choice { key: None, prefix: Some("student.") }).unwrap_err().to_string();
    assert!(error.contains("begins with student.") && error.contains("--prefix with one of encoder_k."), "{error}");
}

#[test]
fn an_empty_prefix_keeps_the_names() {
    let bytes = file_of(|file| file.network("module.", 1.));
    let import = read_with(&bytes, &Choice { key: None, prefix: Some("") }).unwrap();
    assert!(import.tensors.contains_key("module.conv1.weight"));
}
