//! Whole steps on the device under test beside the same steps by plain sums on the CPU: from the same weights and images to
//! the same losses, gradients and statistics. Where that device is the CPU, its own convolutions are what is compared.

#[path = "../../ssdkd-ops/tests/common/place.rs"]
mod place;

use std::collections::BTreeMap;

use candle_core::{DType, Device, Result, Tensor};
use ssdkd_method::inversion::persistent::PersistentSettings;
use ssdkd_method::inversion::start;
use ssdkd_method::{
    DistillSettings, Distiller, ImageFormat, InvertSettings, LossSettings, Modulation, ModulationSettings, Objective,
    Position, Strategy, Term,
};
use ssdkd_nn::random::{stream, uniform_tensor};
use ssdkd_nn::{Mode, Network, NetworkSpec, Optimizer, Sgd, ViewSettings};
use ssdkd_ops::{self as ops, Value};

/// How far numbers may be apart: the Euclidean norm of their difference over their own. All that no gradient has gone into.
const FORWARD: f64 = 1e-4;
/// Rounding decides the sign of a few numbers before a ReLU, and with it whether a pixel's part is in a gradient.
const BACKWARD: f64 = 2e-2;

/// Named numbers, and how far each may be off.
type Figures = BTreeMap<String, (f64, Vec<f32>)>;

fn numbers(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1()
}

fn network(architecture: &str, seed: u64, device: &Device) -> Result<Network> {
    let spec = NetworkSpec {
        architecture: architecture.parse().map_err(candle_core::Error::msg)?,
        classes: 10,
        input: [3, 32, 32],
        mean: vec![0.4, 0.5, 0.6],
        std: vec![0.2, 0.25, 0.3],
        preprocessing: ssdkd_nn::Preprocessing::default(),
    };
    Network::create(&spec, seed, device)
}

fn images(device: &Device) -> Result<Tensor> {
    uniform_tensor(&mut stream(3, "images", &[]), (0.0, 1.0), (32, 32, 32, 3), device)
}

fn statistics(network: &Network, figures: &mut Figures) -> Result<()> {
    for (name, var) in network.store().buffers().into_iter().filter(|(_, var)| var.dtype() == DType::F32) {
        figures.insert(name, (FORWARD, numbers(&var)?));
    }
    Ok(())
}

/// Losses of two steps, the gradients of the first, and the running statistics afterwards.
fn training(architecture: &str, device: &Device) -> Result<Figures> {
    let (network, images) = (network(architecture, 5, device)?, Value::constant(images(device)?));
    let labels = (0..32).map(|index| index % 10).collect::<Vec<u32>>();
    let mut sgd = Sgd::new(network.store().parameters(), 0.9, 5e-4, true)?;
    let mut figures = Figures::new();
    for step in 0..2 {
        let logits = network.forward(&images, Mode::Train)?.logits;
        let loss = ops::cross_entropy(&logits, &labels, None)?;
        let within = if step == 0 { FORWARD } else { BACKWARD };
        figures.insert(format!("logits {step}"), (within, numbers(logits.tensor())?));
        figures.insert(format!("loss {step}"), (within, vec![loss.scalar()?]));
        let gradients = loss.backward()?;
        if step == 0 {
            statistics(&network, &mut figures)?;
            for (name, parameter) in network.store().parameters() {
                let gradient = gradients.get(&parameter).expect("every parameter has a gradient");
                figures.insert(format!("gradient of {name}"), (BACKWARD, numbers(gradient)?));
            }
        }
        sgd.step(&gradients, 0.05)?;
    }
    figures.insert("evaluation".into(), (BACKWARD, numbers(&network.logits(images.tensor())?)?));
    Ok(figures)
}

/// Two batches of a persistent generator: images, labels and terms of each, and what the optimizer remembers of the first's gradients.
fn inversion(device: &Device) -> Result<Figures> {
    let (teacher, student) = (network("resnet20", 1, device)?, network("wrn-16-1", 2, device)?);
    let settings = InvertSettings {
        strategy: Strategy::Persistent(PersistentSettings { width: 16, ..Default::default() }),
        batch: 16,
        loss: LossSettings { batch_norm_momentum: 0.9, ..PersistentSettings::LOSS },
        image_format: ImageFormat::F32,
        ..InvertSettings::default()
    };
    let mut inversion = start(&settings, &teacher, 7, device)?;
    let modulation = Modulation::new(ModulationSettings::default(), &[5, 0, 12, 3, 1, 1, 9, 4, 4, 2]);
    let objective = Objective::new(settings.loss, &teacher, Some(&student), &modulation);
    let mut figures = Figures::new();
    for batch in 0..2 {
        let position = Position { seed: 7, round: 0, distilling_round: Some(0), batch };
        let made = inversion.synthesize(&objective, position)?;
        let terms = [Term::BatchNorm, Term::Class, Term::Balance, Term::Adversarial];
        let terms = terms.into_iter().filter_map(|term| made.loss.term(term)).chain([made.loss.total]);
        let within = if batch == 0 { FORWARD } else { BACKWARD };
        figures.insert(format!("images {batch}"), (within, numbers(&made.images)?));
        figures.insert(format!("logits {batch}"), (within, numbers(&made.predictions.logits)?));
        figures.insert(format!("terms {batch}"), (within, terms.collect()));
        let moments = inversion.state_dict().into_iter().filter(|(name, _)| batch == 0 && name.contains(".first"));
        for (name, moment) in moments {
            figures.insert(name, (BACKWARD, numbers(&moment)?));
        }
    }
    Ok(figures)
}

/// What two steps of the student report; of the first, what its optimizer remembers, and the running statistics.
fn distillation(device: &Device) -> Result<Figures> {
    let (teacher, student) = (network("resnet20", 1, device)?, network("wrn-16-1", 2, device)?);
    let views = ViewSettings { channel_mix: 0.3, mixup: 0.3, color_jitter: 0.5, ..ViewSettings::default() };
    let settings = DistillSettings { feature_distillation: 1.0, lr: 0.02, views, ..DistillSettings::default() };
    let mut distiller = Distiller::new(settings, &teacher, &student, 0)?;
    let (images, weights) = (images(device)?, vec![1.5; 32]);
    let mut figures = Figures::new();
    for step in 0..2 {
        let views = &mut stream(4, "views", &[step]);
        let report = distiller.step(&teacher, &student, &images, Some(&weights), (step, 2), views)?;
        let within = if step == 0 { FORWARD } else { BACKWARD };
        figures.insert(format!("loss {step}"), (within, vec![report.loss]));
        figures.insert(format!("disagreement {step}"), (within, report.disagreement));
        figures.insert(format!("gradient norm {step}"), (BACKWARD, vec![report.gradient_norm]));
        if step == 0 {
            statistics(&student, &mut figures)?;
            for (name, velocity) in distiller.state_dict() {
                figures.insert(name, (BACKWARD, numbers(&velocity)?));
            }
        }
    }
    Ok(figures)
}

/// Norm of the difference over the norm of what is expected.
fn distance(found: &[f32], expected: &[f32]) -> f64 {
    let norm = |numbers: &mut dyn Iterator<Item = f64>| numbers.map(|number| number * number).sum::<f64>().sqrt();
    let differences = &mut found.iter().zip(expected).map(|(found, expected)| f64::from(found - expected));
    norm(differences) / norm(&mut expected.iter().map(|&number| f64::from(number))).max(1e-6)
}

#[track_caller]
fn check(what: &str, figures: impl Fn(&Device) -> Result<Figures>) {
    let expected = ops::with_direct_convolutions(|| figures(&Device::Cpu)).unwrap();
    let found = figures(&place::device()).unwrap();
    let mut worst = BTreeMap::new();
    let mut wrong = Vec::new();
    for (name, (within, expected)) in &expected {
        let found = &found[name].1;
        assert_eq!(found.len(), expected.len(), "{what}: {name}");
        let apart = distance(found, expected);
        let so_far = worst.entry(within.to_string()).or_insert(0.0_f64);
        *so_far = so_far.max(apart);
        // Not a number is not near.
        if !apart.le(within) {
            wrong.push(format!("{name}: {apart:.1e}, of {within:.0e} allowed"));
        }
    }
    eprintln!("{what}: {} figures; farthest, by what is allowed: {worst:?}", expected.len());
    assert!(wrong.is_empty(), "{what}: {} of {} figures are off\n{}", wrong.len(), expected.len(), wrong.join("\n"));
}

#[test]
fn training_of_a_resnet20() {
    check("resnet20", |device| training("resnet20", device));
}

#[test]
fn training_of_a_wide_resnet() {
    check("wrn-16-1", |device| training("wrn-16-1", device));
}

#[test]
fn inversion_by_a_persistent_generator() {
    check("persistent", inversion);
}

#[test]
fn distillation_of_a_student() {
    check("distillation", distillation);
}

/// What a GPU promises where it is told to use no algorithm that adds in the order of its threads.
#[test]
fn a_second_time_gives_the_same_bytes() {
    if place::takes_the_fastest_algorithms() {
        eprintln!("skipped: SSDKD_TEST_ALGORITHMS=fastest promises nothing of the kind");
        return;
    }
    let bits = |figures: Figures| {
        let bits = |numbers: Vec<f32>| numbers.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        figures.into_iter().map(|(name, (_, numbers))| (name, bits(numbers))).collect::<BTreeMap<_, _>>()
    };
    let device = place::device();
    let steps: [fn(&str, &Device) -> Result<Figures>; 3] =
        [training, |_, device| inversion(device), |_, device| distillation(device)];
    for figures in steps {
        let [first, second] = [(), ()].map(|()| bits(figures("resnet20", &device).unwrap()));
        let changed = first.iter().filter(|(name, bits)| second[*name] != **bits).map(|(name, _)| name);
        let changed = changed.collect::<Vec<_>>();
        assert!(changed.is_empty(), "{} of {} figures: {changed:?}", changed.len(), first.len());
    }
}
