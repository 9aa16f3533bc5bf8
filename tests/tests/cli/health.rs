//! A run that goes wrong says so when it happens, and stops if the recipe wants that.

use crate::support::Scratch;

#[test]
fn an_exploding_loss_is_said_and_ends_the_run_if_wanted() {
    let scratch = Scratch::new();
    let explode = ["run", "tiny.toml", "--set", "distill.lr=20"];
    let stop = [&explode[..], &["--set", "run.on_failed_check=stop"]].concat();
    let said = ["distill 0003: the student's loss went from", "lower distill.lr"];
    scratch.fail("ssdkd", &stop, 1, &[&said[..], &["run.on_failed_check = \"warn\" lets the run continue"]].concat());
    assert!(scratch.path("runs/tiny/distill/0002/manifest.json").exists());
    assert!(!scratch.path("runs/tiny/distill/0003").exists(), "a failed round would be taken for a good one");
    // The same recipe but for that key has done all before, and goes on.
    let (_, err) = scratch.succeed("ssdkd", &explode);
    assert!(said.iter().all(|part| err.contains(part)), "{err}");
    assert!(err.contains("invert 0000 to 0003: fresh"), "{err}");
    scratch.fail(
        "ssdkd",
        &["run", "tiny.toml", "--set", "run.on_failed_check=ignore"],
        2,
        &["on_failed_check", "`warn`", "`stop`"],
    );
}

#[test]
fn a_term_that_drowns_the_others_is_named_once_with_a_remedy() {
    let scratch = Scratch::new();
    let (_, err) = scratch.succeed("ssdkd", &["run", "tiny.toml", "--set", "invert.loss.batch_norm=1000"]);
    let said = ["invert 0002: the batch_norm term is", "invert.loss.batch_norm_form to \"relative\"", "from 1000 to"];
    for part in said {
        assert_eq!(err.matches(part).count(), 1, "{part:?} is not once in:\n{err}");
    }
    let (_, err) = scratch.succeed("ssdkd", &["run", "tiny.toml", "--set", "run.name=sound"]);
    assert!(!err.contains("term is"), "{err}");
}

#[test]
fn a_loss_that_is_no_number_ends_the_run() {
    let scratch = Scratch::new();
    let arguments = ["run", "tiny.toml", "--set", "distill.lr=1000"];
    scratch.fail(
        "ssdkd",
        &arguments,
        1,
        &["the student's logits are not finite", "hint: the student has diverged; lower distill.lr"],
    );
}
