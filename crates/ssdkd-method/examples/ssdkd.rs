//! SSD-KD as one loop. Distills the teacher of the drawn shapes into a ResNet-8, without a drawn shape:
//! `cargo run --release -p ssdkd-method --example ssdkd`, with another number of rounds behind `--`.

use std::{collections::HashMap, error::Error, path::Path};

use candle_core::{Device, Tensor};
use ssdkd_data::{Split, shapes};
use ssdkd_method::distillation::disagreement;
use ssdkd_method::inversion::{persistent::PersistentSettings, start};
use ssdkd_method::priority::{Cumulative, prioritise};
use ssdkd_method::{BalanceSettings, DistillSettings, Distiller, Eviction, InvertSettings, Member, Modulation};
use ssdkd_method::{ModulationSettings, Objective, Position, ReplayBuffer, SampleSettings, Strategy};
use ssdkd_nn::{Network, NetworkSpec, TeacherCard, ViewSettings, random::stream};

#[global_allocator] // keeps large blocks for the next step
static ALLOCATOR: ssdkd_ops::CachingAllocator = ssdkd_ops::CachingAllocator::new(4 << 30);

fn main() -> Result<(), Box<dyn Error>> {
    let (seed, warmup, device) = (0, 10, Device::Cpu);
    let rounds = std::env::args().nth(1).map_or(Ok(60), |rounds| rounds.parse::<u32>())?;

    // The settings of pipelines/shapes.toml.
    let strategy = Strategy::Persistent(PersistentSettings { width: 32, ..Default::default() });
    let phi = ModulationSettings { gamma: 1.0, ..Default::default() };
    let invert = InvertSettings { strategy, batch: 128, batches: 4, phi, ..Default::default() };
    let balance = BalanceSettings { capacity: 5120, eviction: Eviction::ClassBalancedFifo, ..Default::default() };
    let sample = SampleSettings { alpha: 0.5, ..Default::default() };
    let views = ViewSettings { channel_mix: 0.5, ..Default::default() };
    let distill = DistillSettings { steps: 20, batch: 128, views, ..Default::default() };

    // The teacher f_t, a fresh student f_s, a fresh generator, and an empty buffer.
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/teachers/shapes-resnet20.json");
    let card = TeacherCard::load(&path)?;
    let teacher = card.network(&path, &device)?.frozen();
    let student = Network::create(&NetworkSpec { architecture: "resnet8".parse()?, ..card.spec() }, seed, &device)?;
    let mut inversion = start(&invert, &teacher, seed, &device)?;
    let mut distiller = Distiller::new(distill.clone(), &teacher, &student, seed)?;
    let mut buffer = ReplayBuffer::new(balance, card.classes);
    let (mut samples, mut weights) = (HashMap::new(), HashMap::new()); // by sample_id: image and logits of f_t; w

    for round in 0..warmup + rounds {
        // invert: make images that f_t recognizes and f_s does not. φ favors rare classes and hard images.
        let distilling_round = round.checked_sub(warmup);
        let phi = Modulation::new(invert.phi, &buffer.class_counts());
        let objective = Objective::new(invert.loss, &teacher, distilling_round.map(|_| &student), &phi);
        let mut new_samples = Vec::new();
        for batch in 0..invert.batches as u32 {
            let made = inversion.synthesize(&objective, Position { seed, round, distilling_round, batch })?;
            let (classes, confidences) = (&made.predictions.classes, &made.predictions.confidences);
            for (row, (&class, &confidence)) in classes.iter().zip(confidences).enumerate() {
                let sample_id = (u64::from(round) << 32) | new_samples.len() as u64;
                let (images, logits) = (&made.images, &made.predictions.logits); // (B, H, W, C), (B, K)
                samples.insert(sample_id, (images.narrow(0, row, 1)?, logits.narrow(0, row, 1)?));
                let (factors, birth_round) = (phi.factors(class, confidence), round);
                new_samples.push(Member { sample_id, row: 0, class, confidence, factors, birth_round, priority: 1.0 });
            }
        }

        // balance: replace a part of the small buffer, and keep its classes balanced.
        for evicted in buffer.insert(new_samples)? {
            samples.remove(&evicted.sample_id);
        }
        let Some(distilling_round) = distilling_round else { continue };

        // sample: priorities δ = w · KL(f_t ‖ f_s), and with them the images of each step.
        let members = buffer.members().iter().map(|member| member.sample_id).collect::<Vec<_>>();
        let stack = |ids: &[u64]| -> Result<(Tensor, Tensor), Box<dyn Error>> {
            let (images, logits) =
                ids.iter().map(|id| (&samples[id].0, &samples[id].1)).unzip::<_, _, Vec<_>, Vec<_>>();
            Ok((Tensor::cat(&images, 0)?, Tensor::cat(&logits, 0)?))
        };
        let (images, teacher_logits) = stack(&members)?;
        let kl = disagreement(&teacher_logits, &student.logits(&images)?, 1)?;
        let before = members.iter().map(|id| (0.0, weights.get(id).copied().unwrap_or(1.0))).collect::<Vec<_>>();
        let kl = kl.into_iter().map(Some).collect::<Vec<_>>();
        let priorities = prioritise(&sample, sample.beta(distilling_round, rounds), &before, &kl)?;
        weights = members.iter().zip(&priorities).map(|(&id, member)| (id, member.weight)).collect();
        let cumulative = Cumulative::new(&priorities);

        // distill: the student learns the teacher's logits of random views.
        for step in 0..distill.steps as u64 {
            let at = [u64::from(round), step];
            let drawn = cumulative.draw(distill.batch, &mut stream(seed, "draws", &at));
            let (batch, _) = stack(&drawn.iter().map(|&index| members[index]).collect::<Vec<_>>())?;
            let w = drawn.iter().map(|&index| priorities[index].weight as f32).collect::<Vec<_>>();
            let position =
                (u64::from(distilling_round) * distill.steps as u64 + step, u64::from(rounds) * distill.steps as u64);
            let mut views = stream(seed, "views", &at);
            distiller.step(&teacher, &student, &batch, Some(&w), position, &mut views)?;
        }
    }

    // Only now: drawn shapes, to measure the student.
    let shapes = shapes::generate(0, Split::Test, 1000);
    let real = shapes.gather(&(0..shapes.len()).collect::<Vec<_>>());
    let real = Tensor::from_vec(real, (shapes.len(), 32, 32, 3), &device)?;
    let predicted = ssdkd_ops::argmax(&student.logits(&real)?)?;
    let right = predicted.iter().zip(shapes.labels()).filter(|(predicted, label)| predicted == label).count();
    println!("student: {:.1} % of 1000 drawn shapes", right as f64 / 10.0);
    Ok(())
}
