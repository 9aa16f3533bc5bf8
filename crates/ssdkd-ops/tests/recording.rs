//! Work that is recorded once and replayed on a GPU. One thread at a time may use the GPU then, so the tests take turns.

mod common;

use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{Device, Result, Tensor};
use common::{assert_same, device, flat, numbers, on_cuda, tensor};
use ssdkd_ops::{Recording, Value, affine_channels, copy_assign, cross_entropy, linear, relu, replays};

static TURN: Mutex<()> = Mutex::new(());

/// A turn with the GPU; `None` where there is none.
fn gpu() -> Option<MutexGuard<'static, ()>> {
    if !on_cuda() {
        eprintln!("skipped: only a GPU records work");
        return None;
    }
    Some(TURN.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Work with numbers of the program's (scales, shifts, targets), a matrix product and a walk back. Returns loss and gradient.
fn work(x: &Tensor, weight: &Tensor) -> Result<[Tensor; 2]> {
    let scaled = affine_channels(&Value::constant(x.clone()), &[0.5, 2.0, -1.0], &[0.1, 0.2, 0.3])?;
    let logits = relu(&linear(&scaled, &Value::leaf(weight), None)?)?;
    let loss = cross_entropy(&logits, &[3, 1, 4, 1, 0], None)?;
    let value = loss.tensor().clone();
    let mut gradients = loss.backward()?;
    Ok([value, gradients.remove(weight).expect("the weight is a leaf")])
}

/// Asserts that replays on other inputs give what the work itself gives.
#[track_caller]
fn check_replays(recording: &Recording, made: &[Tensor; 2], x: &Tensor, weight: &Tensor) {
    for salt in 10..13 {
        copy_assign(x, &numbers((5, 3), salt)).unwrap();
        let before = replays();
        recording.replay().unwrap();
        assert_eq!(replays() - before, 1);
        let expected = work(&x.copy().unwrap(), weight).unwrap();
        assert_same("loss", &made[0], &expected[0]);
        assert_same("gradient", &made[1], &expected[1]);
    }
}

#[test]
fn a_replay_does_the_work_again_on_what_its_inputs_hold_then() {
    let Some(_turn) = gpu() else { return };
    let (x, weight) = (numbers((5, 3), 1), numbers((6, 3), 2));
    work(&x, &weight).unwrap();
    let (recording, made) = Recording::of(&device(), || work(&x, &weight)).unwrap();
    check_replays(&recording, &made, &x, &weight);
}

#[test]
fn nobody_else_gets_the_memory_of_a_recording() {
    let Some(_turn) = gpu() else { return };
    let (x, weight) = (numbers((5, 3), 1), numbers((6, 3), 2));
    work(&x, &weight).unwrap();
    let (made, kept) = {
        let (recording, made) = Recording::of(&device(), || work(&x, &weight)).unwrap();
        // Blocks of all the sizes of the work, full of numbers that it must not read, and that it must not overwrite.
        let others = (0..200).map(|salt| numbers(1 + salt * 7 % 200, salt as u64)).collect::<Vec<_>>();
        check_replays(&recording, &made, &x, &weight);
        for (salt, other) in others.iter().enumerate() {
            assert_same("another tensor", other, &numbers(1 + salt * 7 % 200, salt as u64));
        }
        let kept = made[1].copy().unwrap();
        (made, kept)
    };
    // What was made outlives the recording.
    let _others = (0..200).map(|salt| numbers(1 + salt % 200, salt as u64)).collect::<Vec<_>>();
    assert_same("a gradient", &made[1], &kept);
}

#[test]
fn numbers_cannot_be_read_while_work_is_recorded() {
    let Some(_turn) = gpu() else { return };
    let (x, weight) = (numbers((5, 3), 1), numbers((6, 3), 2));
    let before = flat(&x);
    let recorded = Recording::of(&device(), || {
        copy_assign(&x, &numbers((5, 3), 7))?;
        work(&x, &weight)?[0].to_scalar::<f32>()
    });
    assert!(recorded.is_err());
    assert_eq!(flat(&x), before, "nothing of it was done");
    // The GPU is as usable as before.
    let (recording, made) = Recording::of(&device(), || work(&x, &weight)).unwrap();
    check_replays(&recording, &made, &x, &weight);
}

#[test]
fn a_thread_records_one_thing_at_a_time() {
    let Some(_turn) = gpu() else { return };
    let x = tensor(&[1.0, 2.0], 2);
    let nested = Recording::of(&device(), || Recording::of(&device(), || x.copy()).map(drop));
    let error = nested.err().expect("it was refused").to_string();
    assert!(error.contains("a recording is under way"), "{error}");
}

#[test]
fn a_cpu_records_nothing() {
    let error = Recording::of(&Device::Cpu, || Ok(())).err().expect("it was refused").to_string();
    assert!(error.starts_with("a recording takes work on a GPU"), "{error}");
}
