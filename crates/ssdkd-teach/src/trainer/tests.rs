//! Training: epochs, resuming to the same bytes, and learning.

use candle_core::DType;
use ssdkd_data::{Split, shapes};

use super::*;

fn settings() -> TeachSettings {
    TeachSettings {
        architecture: "resnet8".parse().unwrap(),
        epochs: 2,
        batch: 8,
        lr: 0.1,
        schedule: crate::Schedule::OneCycle,
        momentum: 0.9,
        nesterov: true,
        weight_decay: 5e-4,
        label_smoothing: 0.1,
        ema: 0.5,
        crop_padding: 4,
        no_flip: false,
        no_augment: false,
        seed: 1,
        mean: None,
        std: None,
    }
}

fn bytes(network: &Network) -> Vec<u8> {
    network.store().state_dict().to_safetensors().unwrap()
}

#[test]
fn an_epoch_reports_and_leaves_out_what_is_left_over() -> Result<()> {
    let data = shapes::generate(0, Split::Train, 30);
    let mut trainer = Trainer::new(&settings(), &data, &Device::Cpu)?;
    assert_eq!((trainer.steps_per_epoch(), trainer.total_steps()), (3, 6));
    assert_eq!((trainer.step()?, trainer.step()?), (None, None));
    let report = trainer.step()?.expect("the third step ends the epoch");
    assert_eq!((report.epoch, report.steps), (1, 3));
    assert!(report.loss > 0.0 && (0.0..=1.0).contains(&report.accuracy), "{report:?}");
    assert_eq!(trainer.position(), Position { epoch: 1, ..Position::default() });
    Ok(())
}

#[test]
fn going_on_from_any_step_gives_the_same_bytes() -> Result<()> {
    let data = shapes::generate(0, Split::Train, 24);
    let mut whole = Trainer::new(&settings(), &data, &Device::Cpu)?;
    let mut parts = Trainer::new(&settings(), &data, &Device::Cpu)?;
    while !whole.is_done() {
        whole.step()?;
        let state = parts.state_dict().to_safetensors()?;
        let position = parts.position();
        parts = Trainer::new(&settings(), &data, &Device::Cpu)?;
        parts.load_state_dict(position, StateDict::from_safetensors(&state, &Device::Cpu)?)?;
        parts.step()?;
    }
    assert!(parts.is_done());
    assert_eq!(bytes(whole.result()), bytes(parts.result()));
    assert_ne!(bytes(whole.result()), bytes(&whole.network), "the result is the running average");
    Ok(())
}

#[test]
fn images_and_pixels_are_not_taken_for_each_other() {
    let masked = shapes::generate_masked(0, Split::Train, 24);
    let plain = shapes::generate(0, Split::Train, 24);
    for (architecture, data, message) in [("fpn-resnet8", &plain, "no masks"), ("resnet8", &masked, "fpn-resnet8")] {
        let settings = TeachSettings { architecture: architecture.parse().unwrap(), ..settings() };
        let error = Trainer::new(&settings, data, &Device::Cpu).err().unwrap().to_string();
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn a_state_that_does_not_fit_is_refused() -> Result<()> {
    let data = shapes::generate(0, Split::Train, 24);
    let mut trainer = Trainer::new(&settings(), &data, &Device::Cpu)?;
    let refused = |trainer: &mut Trainer<'_>, position, change: &dyn Fn(&mut StateDict)| {
        let mut state = trainer.state_dict();
        for tensor in state.values_mut() {
            *tensor = tensor.copy().unwrap();
        }
        change(&mut state);
        trainer.load_state_dict(position, state).unwrap_err().to_string()
    };
    let late = Position { epoch: 3, ..Position::default() };
    assert!(refused(&mut trainer, late, &|_| ()).contains("epoch 3"));
    let start = Position::default();
    let message = refused(&mut trainer, start, &|state| state.retain(|name, _| !name.starts_with(OPTIMIZER)));
    assert!(message.contains("optimizer's state lacks"), "{message}");
    let odd = Tensor::zeros(1, DType::F32, &Device::Cpu)?;
    let message = refused(&mut trainer, start, &|state| drop(state.insert("odd".into(), odd.clone())));
    assert!(message.contains("unknown tensor, odd"), "{message}");
    Ok(())
}

#[test]
fn a_few_steps_learn_what_they_see_again_and_again() -> Result<()> {
    let of = |name: &str, epochs: u32, data: &Dataset| {
        let architecture = name.parse().unwrap();
        let settings = TeachSettings { architecture, epochs, ema: 0.0, label_smoothing: 0.0, ..settings() };
        let settings = TeachSettings { no_augment: true, batch: 16, ..settings };
        let mut trainer = Trainer::new(&settings, data, &Device::Cpu)?;
        let first = trainer.step()?.unwrap();
        let mut last = first;
        while !trainer.is_done() {
            last = trainer.step()?.unwrap();
        }
        assert!(last.loss < first.loss / 4.0 && last.accuracy > 0.9, "{name}: {first:?} {last:?}");
        Ok(())
    };
    of("resnet8", 30, &shapes::generate(0, Split::Train, 16))?;
    of("fpn-resnet8", 90, &shapes::generate_masked(0, Split::Train, 16))
}
