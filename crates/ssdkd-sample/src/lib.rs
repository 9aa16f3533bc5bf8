//! Stage `sample`: priorities over the buffer, and the draws of one round.
//!
//! | reads | writes |
//! |---|---|
//! | the buffer; its own priorities of the round before; the student of the round before (and the teacher, where it labels pixels), or what `distill` observed in it | priority, probability and weight of every member; the draws: which sample in which slot of which step of the first pass |

use std::collections::HashMap;

use anyhow::Result;
use serde::Serialize;
use ssdkd_context::{Cards, Inputs, Job, Output, Plan, Recipe, Stage};
use ssdkd_method::distillation::disagreement;
use ssdkd_method::priority::{Cumulative, prioritise};
use ssdkd_method::{NewSamplePriority, SampleSettings};
use ssdkd_nn::Task;
use ssdkd_nn::random::stream;
use ssdkd_shards::{BufferRow, DrawRow, ObservedRow, PriorityRow};

/// The stage.
pub const STAGE: Stage = Stage {
    name: "sample",
    warms_up: false,
    program: env!("CARGO_PKG_NAME"),
    about: env!("CARGO_PKG_DESCRIPTION"),
    plan,
};

/// Raised by hand when the same recipe gives other results.
const VERSION: u32 = 3;

/// Images in one pass of the student over the buffer.
const MEASURING_BATCH: usize = 256;

/// What decides a round's draws, besides the inputs.
#[derive(Serialize)]
struct Settings {
    sample: SampleSettings,
    balance: NewSamples,
    distill: Draws,
    #[serde(skip_serializing_if = "Option::is_none")]
    run: Option<Length>,
    #[serde(skip)]
    beta: f64,
    /// The round whose priorities and observations count.
    #[serde(skip)]
    previous: Option<u32>,
}

#[derive(Serialize)]
struct NewSamples {
    new_sample_priority: NewSamplePriority,
}

#[derive(Serialize)]
struct Draws {
    steps: usize,
    batch: usize,
    passes: usize,
}

#[derive(Serialize)]
struct Length {
    rounds: u32,
}

/// Plans the draws of a round.
fn plan(recipe: &Recipe, cards: &Cards, round: u32) -> Result<Plan> {
    let sample = recipe.sample.relevant();
    let (distill, rounds) = (&recipe.distill, recipe.run.rounds);
    let distilling_round = recipe.distilling_round_of(STAGE.name, round)?;
    let previous = (distilling_round > 0).then(|| round - 1);
    let measures = sample.needs_measuring();
    let settings = Settings {
        beta: sample.beta(distilling_round, rounds),
        run: sample.enabled.then_some(Length { rounds }),
        sample,
        balance: NewSamples { new_sample_priority: recipe.balance.new_sample_priority },
        distill: Draws { steps: distill.steps, batch: distill.batch, passes: distill.passes },
        previous,
    };
    let plan = Plan::new(STAGE.output(round), VERSION, recipe.run.seed, settings, execute)
        .reads(Output::balance(round))
        .reads(previous.map(Output::sample))
        .reads(previous.map(Output::distill));
    if !measures {
        return Ok(plan);
    }
    let plan = plan.reads_images(Output::balance(round)).reads_student(recipe);
    let labels_pixels = cards.teacher().architecture.task() == Task::Pixels;
    Ok(if labels_pixels { plan.reads_teacher() } else { plan })
}

/// Draws what the student will see in a round.
fn execute(settings: &Settings, inputs: &mut Inputs<'_>, job: &mut Job) -> Result<()> {
    let &Settings { ref sample, distill: Draws { steps, batch, passes }, beta, previous, .. } = settings;
    let (seed, round) = (inputs.seed(), inputs.round());
    let table = inputs.table::<BufferRow>(Output::balance(round))?;
    let disagreements = if sample.needs_measuring() {
        measure(&table, inputs, job)?.into_iter().map(Some).collect()
    } else if let Some(previous) = previous {
        observed(Output::distill(previous), &table, inputs)?
    } else {
        vec![None; table.len()]
    };
    let before = previous.map_or(Ok(Vec::new()), |round| inputs.table(Output::sample(round)))?;
    let before = priorities_before(&table, &before, settings.balance.new_sample_priority);
    let members = prioritise(sample, beta, &before, &disagreements)?;

    let cumulative = Cumulative::new(&members);
    let mut draws = Vec::with_capacity(steps / passes * batch);
    for step in 0..steps / passes {
        let drawn = cumulative.draw(batch, &mut stream(seed, "draws", &[u64::from(round), step as u64]));
        draws.extend(drawn.into_iter().enumerate().map(|(slot, member)| DrawRow {
            step: step as u32,
            slot: slot as u32,
            sample_id: table[member].sample_id,
            weight: if sample.weight_loss { members[member].weight as f32 } else { 1.0 },
        }));
    }

    let rows = table.iter().zip(&members).zip(&disagreements).map(|((row, member), disagreement)| PriorityRow {
        sample_id: row.sample_id,
        kl: *disagreement,
        priority: member.priority,
        probability: member.probability,
        weight: member.weight,
    });
    let priorities = rows.collect::<Vec<_>>();
    let measured = disagreements.iter().flatten().map(|&kl| f64::from(kl)).collect::<Vec<_>>();
    job.metric("measured", measured.len() as f64);
    if !measured.is_empty() {
        job.metric("mean_kl", measured.iter().sum::<f64>() / measured.len() as f64);
    }
    job.metric("effective_samples", 1.0 / members.iter().map(|member| member.probability.powi(2)).sum::<f64>());
    job.write_table(&priorities)?;
    job.write_table(&draws)?;
    Ok(())
}

/// Priority and weight of every member so far: what the round `before` gave it, or those of a new sample.
fn priorities_before(members: &[BufferRow], before: &[PriorityRow], of_new: NewSamplePriority) -> Vec<(f64, f64)> {
    let new = (of_new.priority(before.iter().map(|row| row.priority)), 1.0);
    let known = before.iter().map(|row| (row.sample_id, (row.priority, row.weight))).collect::<HashMap<_, _>>();
    members.iter().map(|row| known.get(&row.sample_id).copied().unwrap_or(new)).collect()
}

/// KL(f_t ‖ f_s) of every member's clean image, in nats; the teacher's logits come from the shards, but for those of pixels, which
/// are too many to be kept there.
fn measure(members: &[BufferRow], inputs: &mut Inputs<'_>, job: &Job) -> Result<Vec<f32>> {
    let (round, student) = (inputs.round(), inputs.student()?);
    let progress = job.progress(members.len() as u64);
    let mut disagreements = Vec::with_capacity(members.len());
    for batch in members.chunks(MEASURING_BATCH) {
        let places = batch.iter().map(BufferRow::image).collect::<Vec<_>>();
        let images = inputs.images(round, &places)?;
        let teacher_logits = match student.rows_per_image() {
            1 => inputs.teacher_logits(round, &places)?,
            _ => inputs.teacher()?.logits(&images)?,
        };
        disagreements.extend(disagreement(&teacher_logits, &student.logits(&images)?, student.rows_per_image())?);
        progress.advance(batch.len() as u64, String::new);
    }
    progress.finish();
    Ok(disagreements)
}

/// Returns the mean KL that training observed for each member; `None` for those that were not drawn.
fn observed(training: Output, members: &[BufferRow], inputs: &Inputs<'_>) -> Result<Vec<Option<f32>>> {
    let mut sums = HashMap::<u64, (f64, u32)>::new();
    for row in inputs.table::<ObservedRow>(training)? {
        let (sum, count) = sums.entry(row.sample_id).or_default();
        *sum += f64::from(row.kl);
        *count += 1;
    }
    let mean = |id| sums.get(id).map(|(sum, count)| (sum / f64::from(*count)) as f32);
    Ok(members.iter().map(|row| mean(&row.sample_id)).collect())
}
