//! What a run will cost, before it starts: one batch is made and one step is taken, the rest is counted.

use std::time::Instant;

use anyhow::Result;
use candle_core::Tensor;
use ssdkd_context::{Reader, Recipe};
use ssdkd_method::inversion::start;
use ssdkd_method::{Distiller, InvertSettings, Modulation, Objective, Position, Refresh};
use ssdkd_nn::Network;
use ssdkd_nn::random::stream;

use crate::footprint::{RoundState, disk, images_in_memory};

/// What a run will cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Of all `invert` stages.
    pub synthesis_s: f64,
    /// Of all `sample` and `distill` stages.
    pub distillation_s: f64,
    /// Most memory allocated at once.
    pub memory: u64,
    /// The run folder in the end.
    pub disk: u64,
}

/// Steps of a batch that are enough to know what one costs.
const STEPS: usize = 2;

/// Measures one batch and one step on this machine. Nothing is written.
pub fn estimate(reader: &mut Reader) -> Result<Estimate> {
    let recipe = reader.recipe().clone();
    let teacher = reader.teacher()?;
    let device = reader.device()?.clone();
    let student = Network::create(reader.run().cards().student(), 0, &device)?;
    let Recipe { run, invert, distill, balance, .. } = &recipe;
    let few = InvertSettings { steps: invert.steps.min(STEPS), ..invert.clone() };
    let mut inversion = start(&few, &teacher, 0, &device)?;
    let modulation = Modulation::new(invert.phi, &[]);
    ssdkd_ops::reset_peak();

    let mut state = 0;
    let mut batch = |student: Option<&Network>, distilling_round: Option<u32>| -> Result<f64> {
        let mut seconds = 0.0;
        let objective = Objective::new(few.loss, &teacher, student, &modulation);
        // The first of a kind finds caches and memory cold.
        for batch in 0..2 {
            let start = Instant::now();
            let position = Position { seed: 0, round: 0, distilling_round, batch };
            inversion.synthesize(&objective, position)?;
            seconds = start.elapsed().as_secs_f64();
        }
        state = inversion.state_dict().values().map(bytes_of).sum::<u64>();
        Ok(seconds * invert.steps as f64 / few.steps as f64)
    };
    let (early, late) = (batch(None, None)?, batch(Some(&student), Some(0))?);
    let batches = invert.batches as f64;
    let synthesis_s = batches * (early * f64::from(run.warmup_rounds) + late * f64::from(run.rounds));

    let (height, width, channels) = teacher.input_shape();
    let images = |count: usize| Tensor::rand(0f32, 1f32, (count, height, width, channels), &device);
    let mut distiller = Distiller::new(distill.clone(), &teacher, &student, 0)?;
    let batch = images(distill.batch)?;
    let (mut label, mut learn, mut labels) = (0.0, 0.0, 0);
    for index in 0..3 {
        let start = Instant::now();
        let labelled = distiller.label(&teacher, &batch, &mut stream(0, "estimate", &[index]))?;
        label = start.elapsed().as_secs_f64();
        labels = labelled.bytes();
        distiller.learn(&student, labelled, None, (index, 1_000_000))?;
        learn = start.elapsed().as_secs_f64() - label;
    }
    let all = f64::from(recipe.total_rounds());
    let a_round = batches * invert.batch as f64;
    let members = (balance.capacity as f64).min(all * a_round);
    let mut look = 0.0;
    if recipe.sample.enabled && recipe.sample.refresh == Refresh::All {
        let start = Instant::now();
        student.logits(&batch)?;
        if student.rows_per_image() > 1 {
            teacher.logits(&batch)?; // shards hold none of pixels
        }
        look = start.elapsed().as_secs_f64() * members / distill.batch as f64;
    }
    let steps_of_a_pass = distill.steps / distill.passes;
    let distillation_s = f64::from(run.rounds) * (distill.steps as f64 * learn + steps_of_a_pass as f64 * label + look);
    let labelled = if distill.passes > 1 { labels * steps_of_a_pass as u64 } else { 0 };
    let optimizer = distiller.state_dict().values().map(bytes_of).sum::<u64>();

    let student = student.store().all().iter().map(|(_, tensor)| bytes_of(tensor)).sum::<u64>();
    let state = RoundState { generator: state, student, optimizer };
    let card = reader.teacher_card();
    Ok(Estimate {
        synthesis_s,
        distillation_s,
        memory: ssdkd_ops::peak_bytes() as u64 + images_in_memory(&recipe, &card) + labelled,
        disk: disk(&recipe, &card, state),
    })
}

fn bytes_of(tensor: &Tensor) -> u64 {
    (tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64
}
