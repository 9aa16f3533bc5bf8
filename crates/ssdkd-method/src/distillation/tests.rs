//! Steps of the student: as PyTorch's, resumed to the same bits, and worth something.

use ssdkd_nn::NetworkSpec;
use ssdkd_nn::ViewSettings;
use ssdkd_nn::random::{stream, uniform_tensor};
use ssdkd_nn::views::jitter_color;

use super::*;
use crate::fixtures::{Golden, assert_repeated, formula, network, numbers, oblong_networks, on_cuda, pixel_network};

fn images(seed: u32) -> Tensor {
    (formula(seed, &[6, 8, 8, 3], 0.5) + 0.5).unwrap()
}

#[test]
fn two_steps_are_those_of_pytorch() {
    let golden = Golden::load();
    let (teacher, student) = (network(1), network(2));
    let settings = DistillSettings { lr: 0.05, lr_min: 0.05, views: ViewSettings::OFF, ..Default::default() };
    let mut distiller = Distiller::new(settings, &teacher, &student, 0).unwrap();
    let weights = numbers(&(formula(12, &[6], 0.5) + 0.5).unwrap());
    for step in 0..2 {
        let rng = &mut stream(0, "test", &[]);
        let images = images(40 + step as u32);
        let report = distiller.step(&teacher, &student, &images, Some(&weights), (step, 2), rng).unwrap();
        golden.check(&format!("distil.{step}"), &[report.loss, report.gradient_norm, report.agreement], 1e-4);
        golden.check(&format!("distil.{step}.disagreement"), &report.disagreement, 1e-3);
    }
    let tensors = student.store().state_dict();
    for name in ["conv1.weight", "linear.weight", "bn1.running_mean", "bn1.running_var"] {
        golden.check(&format!("distil.student.{name}"), &numbers(&tensors[name]), 1e-4);
    }
}

#[test]
fn a_step_waits_for_a_gpu_once() {
    let (teacher, student) = (network(1), network(2));
    let settings = DistillSettings { feature_distillation: 1.0, ..Default::default() };
    let mut distiller = Distiller::new(settings, &teacher, &student, 0).unwrap();
    let before = ops::read_backs();
    for step in 0..2 {
        let rng = &mut stream(0, "test", &[step]);
        distiller.step(&teacher, &student, &images(40), Some(&[0.5; 6]), (step, 2), rng).unwrap();
    }
    assert_eq!(ops::read_backs() - before, if on_cuda() { 2 } else { 0 });
}

#[test]
fn the_teacher_labels_the_views_that_the_student_sees() {
    let (teacher, student) = (network(1), network(2));
    let settings =
        DistillSettings { views: ViewSettings { color_jitter: 1.0, ..ViewSettings::OFF }, ..Default::default() };
    let mut distiller = Distiller::new(settings, &teacher, &student, 0).unwrap();
    let labelled = distiller.label(&teacher, &images(40), &mut stream(0, "test", &[])).unwrap();
    let jittered = jitter_color(&images(40), 1.0, &mut stream(0, "test", &[])).unwrap();
    assert_ne!(numbers(&jittered), numbers(&images(40)));
    assert_eq!(numbers(&labelled.views), numbers(&jittered));
    assert_eq!(numbers(&labelled.logits), numbers(&teacher.logits(&jittered).unwrap()));
}

#[test]
fn a_step_on_pixels_weighs_images_and_reports_them() {
    let (teacher, student) = (pixel_network(1), pixel_network(2));
    let settings = DistillSettings { views: ViewSettings::OFF, ..Default::default() };
    let mut distiller = Distiller::new(settings.clone(), &teacher, &student, 0).unwrap();
    let rng = &mut stream(0, "test", &[]);
    let (images, weights) = (images(40), [1.0, 0.0, 2.0, 0.0, 0.5, 0.0]);
    let of = |network: &Network, mode: Mode| network.forward(&Value::constant(images.clone()), mode).unwrap().logits;
    let (t, s) = (of(&teacher, Mode::Eval), of(&student, Mode::TrainFrozen));
    assert_eq!(s.dims(), [6 * 64, 4]);
    let of_rows = numbers(&ops::kl_per_sample(t.tensor(), s.tensor(), settings.temperature).unwrap());
    let of_image = |rows: &[f32]| rows.iter().sum::<f32>() / 64.0;
    let expected = of_rows.chunks(64).zip(weights).map(|(rows, weight)| weight * of_image(rows)).sum::<f32>();
    let expected = expected / 6.0 * (settings.temperature * settings.temperature) as f32;
    let observed = numbers(&ops::kl_per_sample(t.tensor(), s.tensor(), 1.0).unwrap());
    let report = distiller.step(&teacher, &student, &images, Some(&weights), (0, 1), rng).unwrap();
    assert!((report.loss / expected - 1.0).abs() < 1e-3, "{} is not {expected}", report.loss);
    assert_eq!(report.disagreement.len(), 6);
    for (found, rows) in report.disagreement.iter().zip(observed.chunks(64)) {
        assert!((found / of_image(rows) - 1.0).abs() < 1e-3, "{found}");
    }
}

/// Steps `range` of one training, on images and views that depend on the step alone.
fn train(
    distiller: &mut Distiller,
    teacher: &Network,
    student: &Network,
    range: std::ops::Range<u64>,
) -> Vec<StepReport> {
    let step = |step| {
        let mut rng = stream(1, "test", &[step]);
        let images = uniform_tensor(&mut rng, (0.0, 1.0), (16, 8, 8, 3), student.store().device()).unwrap();
        distiller.step(teacher, student, &images, None, (step, 30), &mut rng).unwrap()
    };
    range.map(step).collect()
}

/// Returns all numbers of all reports.
fn figures(reports: &[StepReport]) -> Vec<f32> {
    let of = |report: &StepReport| {
        let StepReport { loss, feature_distillation, disagreement, agreement, gradient_norm, lr } = report;
        let features = feature_distillation.unwrap_or_default();
        [&[*loss, features, *agreement, *gradient_norm, *lr as f32], &disagreement[..]].concat()
    };
    reports.iter().flat_map(of).collect()
}

#[track_caller]
fn check_resumes(settings: &DistillSettings) {
    let teacher = network(1);
    let student = network(2);
    let mut distiller = Distiller::new(settings.clone(), &teacher, &student, 0).unwrap();
    train(&mut distiller, &teacher, &student, 0..3);
    let copies = |tensors: StateDict| {
        tensors.into_iter().map(|(name, tensor)| (name, tensor.copy().unwrap())).collect::<StateDict>()
    };
    let (weights, state) = (copies(student.store().state_dict()), copies(distiller.state_dict()));
    let expected = train(&mut distiller, &teacher, &student, 3..6);

    let resumed = network(7);
    let mut distiller_again = Distiller::new(settings.clone(), &teacher, &resumed, 0).unwrap();
    resumed.store().load_state_dict(weights).unwrap();
    distiller_again.load_state_dict(state).unwrap();
    let again = train(&mut distiller_again, &teacher, &resumed, 3..6);
    assert_repeated("reports", &figures(&again), &figures(&expected));
}

#[test]
fn a_restored_state_goes_on_to_the_same_bits() {
    check_resumes(&DistillSettings::default());
    check_resumes(&DistillSettings { nesterov: true, ..Default::default() });
    check_resumes(&DistillSettings { optimizer: OptimizerKind::Adam, lr: 1e-3, ..Default::default() });
    check_resumes(&DistillSettings { feature_distillation: 2.0, ..Default::default() });
}

#[test]
fn a_state_of_other_settings_is_refused() {
    let (teacher, student) = (network(1), network(2));
    let with_maps = DistillSettings { feature_distillation: 2.0, ..Default::default() };
    // Of other width, so that projections stand between.
    let spec = NetworkSpec { architecture: "wrn-16-2".parse().unwrap(), ..teacher.spec().clone() };
    let wide = Network::create(&spec, 5, teacher.store().device()).unwrap();
    let with_maps = Distiller::new(with_maps, &teacher, &wide, 0).unwrap();
    let mut plain = Distiller::new(DistillSettings::default(), &teacher, &wide, 0).unwrap();
    let mut state = with_maps.state_dict();
    state.retain(|name, _| !name.starts_with("optimizer."));
    state.extend(plain.state_dict().into_iter().map(|(name, tensor)| (name, tensor.copy().unwrap())));
    let error = plain.load_state_dict(state).unwrap_err().to_string();
    assert!(error.contains("distill.feature_distillation"), "{error}");
    let mut plain = Distiller::new(DistillSettings::default(), &teacher, &student, 0).unwrap();
    let unknown = StateDict::from_iter([("velocity".to_owned(), images(1))]);
    assert!(plain.load_state_dict(unknown).unwrap_err().to_string().contains("velocity"));
}

#[test]
fn settings_are_irrelevant_exactly_where_they_change_nothing() {
    type Change = (&'static str, fn(&mut DistillSettings));
    let changes: [Change; 4] = [
        ("temperature", |s| s.temperature = 1.5),
        ("momentum", |s| s.momentum = 0.1),
        ("nesterov", |s| s.nesterov = true),
        ("weight_decay", |s| s.weight_decay = 0.1),
    ];
    let trained = |settings: &DistillSettings| {
        let (teacher, student) = (network(1), network(2));
        let mut distiller = Distiller::new(settings.clone(), &teacher, &student, 0).unwrap();
        figures(&train(&mut distiller, &teacher, &student, 0..4))
    };
    for (loss, optimizer, irrelevant) in [
        (Discrepancy::Kl, OptimizerKind::Sgd, ""),
        (Discrepancy::L1, OptimizerKind::Sgd, "temperature"),
        (Discrepancy::Kl, OptimizerKind::Adam, "momentum nesterov"),
    ] {
        let settings = DistillSettings { loss, optimizer, lr: 1e-3, ..Default::default() };
        let expected = trained(&settings);
        let same = changes.iter().filter(|(name, change)| {
            let mut changed = settings.clone();
            change(&mut changed);
            let relevant = changed.relevant() != settings.relevant();
            assert_eq!(trained(&changed) != expected, relevant, "{name} of {loss:?}, {optimizer:?}");
            !relevant
        });
        assert_eq!(same.map(|(name, _)| *name).collect::<Vec<_>>().join(" "), irrelevant);
    }
}

#[test]
fn the_student_learns() {
    // An answer for each of 64 pixels takes longer to learn than one.
    for (teacher, student, most) in [(network(1), network(2), 0.5), (pixel_network(1), pixel_network(2), 0.7)] {
        let settings = DistillSettings { lr: 0.05, ..Default::default() };
        let mut distiller = Distiller::new(settings, &teacher, &student, 0).unwrap();
        let reports = train(&mut distiller, &teacher, &student, 0..30);
        let mean = |reports: &[StepReport]| reports.iter().map(|report| report.loss).sum::<f32>() / 5.0;
        let (first, last) = (mean(&reports[..5]), mean(&reports[25..]));
        assert!(last < most * first, "{first} fell only to {last}");
    }
}

#[test]
fn oblong_images_are_labeled_and_learned() {
    let views = ViewSettings { channel_mix: 0.5, mixup: 0.5, color_jitter: 1.0, ..ViewSettings::default() };
    let settings = DistillSettings { feature_distillation: 2.0, lr: 0.05, views, ..Default::default() };
    for (teacher, student) in oblong_networks(1).into_iter().zip(oblong_networks(2)) {
        let mut distiller = Distiller::new(settings.clone(), &teacher, &student, 0).unwrap();
        let images = (formula(8, &[4, 24, 40, 3], 0.5) + 0.5).unwrap();
        let mut step = |step| {
            let rng = &mut stream(1, "test", &[]);
            distiller.step(&teacher, &student, &images, None, (step, 30), rng).unwrap()
        };
        let (first, last) = (step(0), (1..12).map(&mut step).last().unwrap());
        assert_eq!(last.disagreement.len(), 4);
        assert!(last.loss < first.loss, "{first:?} became {last:?}");
    }
}

#[test]
fn features_are_learnt_too() {
    // As many channels as the teacher, and more, where projectors stand between: a convolution for each of three blocks.
    for student in ["resnet8", "wrn-16-2"] {
        let teacher = network(1);
        let spec = NetworkSpec { architecture: student.parse().unwrap(), ..teacher.spec().clone() };
        let student = Network::create(&spec, 5, teacher.store().device()).unwrap();
        let settings = DistillSettings { feature_distillation: 20.0, lr: 0.02, ..Default::default() };
        let mut distiller = Distiller::new(settings, &teacher, &student, 0).unwrap();
        let distance = |distiller: &Distiller| {
            let views = Value::constant(images(9));
            let of = |network: &Network| network.forward(&views, Mode::TrainFrozen).unwrap().maps;
            let features = distiller.features.as_ref().unwrap();
            let teacher = teacher.forward(&views, Mode::Eval).unwrap().maps;
            features.loss(&of(&student), &features.targets(&teacher).unwrap()).unwrap().scalar().unwrap()
        };
        let before = distance(&distiller);
        train(&mut distiller, &teacher, &student, 0..30);
        let after = distance(&distiller);
        assert!(after < 0.9 * before, "{before} fell only to {after}");
        let projectors = distiller.state_dict().keys().filter(|name| name.starts_with("projector.")).count();
        assert_eq!(projectors, if student.features().unwrap() == 64 { 0 } else { 12 });
    }
}
