//! The entry of a checkpoint that the weights are in.

use ssdkd_nn::weights::{Choice, Entry};

use crate::reading::{check_refused, number_of, read, read_with};
use crate::writer::{Named, Writer, dict, int, text, tuple};

fn settings() -> (&'static str, Vec<u8>) {
    ("epoch", int(3))
}

/// What `torch.optim.Adam` keeps.
fn optimizer(file: &mut Writer) -> Vec<u8> {
    let moments = dict(&[("exp_avg.weight", file.tensor(&[2, 2], 0.5))]);
    dict(&[("state", dict(&[("0", moments)])), ("param_groups", dict::<&str>(&[]))])
}

#[test]
fn a_state_dict_may_be_the_whole_file() {
    let mut file = Writer::default();
    let root = dict(&file.network("", 1.));
    let import = read(&file.zip(&root));
    assert_eq!((number_of(&import), import.entry.as_deref(), import.describe().len()), (1., None, 0));
}

#[test]
fn the_only_network_is_found_whatever_its_entry_is_called() {
    for key in ["state_dict", "model_state", "ema", "student", "network", "something_else"] {
        let mut file = Writer::default();
        let root = dict(&[settings(), (key, dict(&file.network("", 1.))), ("optimizer", optimizer(&mut file))]);
        let import = read(&file.zip(&root));
        assert_eq!((number_of(&import), import.entry.as_deref()), (1., Some(key)));
        assert_eq!(import.also, []);
    }
}

#[test]
fn what_else_a_file_holds_is_named() {
    let mut file = Writer::default();
    let network = dict(&[("net", dict(&file.network("", 1.)))]);
    let root = dict(&[settings(), ("model", network), ("optimizer", optimizer(&mut file)), ("args", text("-a"))]);
    let import = read(&file.zip(&root));
    assert_eq!((import.others, import.has_optimizer), (vec!["epoch".to_string(), "args".to_string()], true));
}

#[test]
fn a_network_is_found_at_depth() {
    let mut file = Writer::default();
    let root = dict(&[("checkpoint", dict(&[settings(), ("model", dict(&file.network("", 1.)))]))]);
    assert_eq!(read(&file.zip(&root)).entry.as_deref(), Some("checkpoint.model"));
}

#[test]
fn an_entry_with_settings_is_no_network() {
    let mut file = Writer::default();
    for model in [text("resnet8"), dict(&[("depth", int(8))])] {
        let root = dict(&[("model", model), ("net", dict(&file.network("", 1.)))]);
        assert_eq!(read(&file.zip(&root)).entry.as_deref(), Some("net"));
    }
}

#[test]
fn averaged_weights_come_first_and_the_others_are_named() {
    let mut file = Writer::default();
    let root = dict(&[
        ("state_dict", dict(&file.network("", 1.))),
        ("state_dict_ema", dict(&file.network("module.", 2.))),
        ("optimizer", optimizer(&mut file)),
    ]);
    let bytes = file.zip(&root);
    let import = read(&bytes);
    assert_eq!((number_of(&import), import.entry.as_deref()), (2., Some("state_dict_ema")));
    let entry = Entry { key: "state_dict".into(), tensors: 5, parameters: 54 + 2 + 36 + 8 + 4 };
    assert_eq!(import.also, [entry]);
    assert!(import.describe().join("\n").contains("state_dict (5 tensors, 104 parameters); --key"));

    let raw = read_with(&bytes, &Choice { key: Some("state_dict"), prefix: None }).unwrap();
    assert_eq!(number_of(&raw), 1.);
}

fn student_and_teacher(file: &mut Writer) -> Vec<u8> {
    let entry = |network: Named| dict(&[("weights", dict(&network))]);
    dict(&[("student", entry(file.network("", 1.))), ("teacher", entry(file.network("", 2.)))])
}

#[test]
fn networks_with_other_roles_are_listed() {
    let mut file = Writer::default();
    let root = student_and_teacher(&mut file);
    let bytes = file.zip(&root);
    check_refused(&bytes, "student.weights (5 tensors, 104 parameters), teacher.weights (5 tensors, 104 parameters)");
    check_refused(&bytes, "--key student.weights");
}

#[test]
fn a_key_may_name_what_the_network_is_in() {
    let mut file = Writer::default();
    let root = student_and_teacher(&mut file);
    for key in ["teacher.weights", "teacher"] {
        let import = read_with(&file.zip(&root), &Choice { key: Some(key), prefix: None }).unwrap();
        assert_eq!((number_of(&import), import.entry.as_deref()), (2., Some("teacher.weights")));
    }
}

#[test]
fn a_key_that_is_not_there_lists_those_that_are() {
    let mut file = Writer::default();
    let root = student_and_teacher(&mut file);
    let error = read_with(&file.zip(&root), &Choice { key: Some("net"), prefix: None }).unwrap_err().to_string();
    assert!(error.contains("under the key net") && error.contains("--key with one of student.weights"), "{error}");
}

/// `{"model": weights, "best": weights}`, the same object.
#[test]
fn two_keys_may_name_one_network() {
    let mut file = Writer::default();
    let network = [dict(&file.network("", 1.)), b"q\x07".to_vec()].concat();
    let root = dict(&[("model", network), ("best", b"h\x07".to_vec())]);
    let import = read_with(&file.zip(&root), &Choice { key: Some("best"), prefix: None }).unwrap();
    assert_eq!((number_of(&import), import.also.len()), (1., 0));
}

#[test]
fn an_optimizer_is_no_network() {
    let mut file = Writer::default();
    let root = dict(&[("optimizer", optimizer(&mut file)), settings()]);
    check_refused(&file.zip(&root), "state of an optimizer");
    let root = optimizer(&mut file);
    check_refused(&file.zip(&root), "state of an optimizer");
}

#[test]
fn a_network_may_have_a_name_like_an_optimizers() {
    for key in ["optimal_model", "model_optim", "opt_net"] {
        let mut file = Writer::default();
        let root = dict(&[("optimizer", optimizer(&mut file)), (key, dict(&file.network("", 1.)))]);
        assert_eq!(read(&file.zip(&root)).entry.as_deref(), Some(key));
    }
}

/// `{1: state_dict, 2: state_dict}`, whole and under a key.
#[test]
fn networks_under_integer_keys_are_found() {
    let mut file = Writer::default();
    let folds = (1..3_u8).flat_map(|fold| [int(fold.into()), dict(&file.network("", fold.into()))]).collect::<Vec<_>>();
    let folds = [b"}(", &folds.concat()[..], b"u"].concat();
    for (root, key) in [(folds.clone(), "2"), (dict(&[("folds", folds)]), "folds.2")] {
        let bytes = file.zip(&root);
        check_refused(&bytes, "several networks");
        assert_eq!(number_of(&read_with(&bytes, &Choice { key: Some(key), prefix: None }).unwrap()), 2.);
    }
}

#[test]
fn networks_in_a_long_list_are_found() {
    let mut file = Writer::default();
    let networks = (0..20).map(|_| dict(&file.network("", 1.))).collect::<Vec<_>>();
    check_refused(&file.zip(&tuple(&networks)), "12 more");
}

#[test]
fn a_file_of_settings_says_what_its_entries_are() {
    let root = dict(&[settings(), ("arch", text("resnet8"))]);
    check_refused(&Writer::default().zip(&root), "its entries are epoch, arch");
}

/// A chain of dictionaries, each within the next, and a dictionary within itself.
#[test]
fn the_search_ends() {
    let file = Writer::default();
    let chain = [b"}".to_vec(), b"q\x010}X\x01\x00\x00\x00ah\x01s".repeat(100_000)].concat();
    check_refused(&file.zip(&chain), "no dictionary of tensors");
    check_refused(&file.zip(b"}q\x01X\x01\x00\x00\x00ah\x01s"), "no dictionary of tensors");
}
