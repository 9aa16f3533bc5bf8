//! Stage `sample`: priorities over the buffer, and the draws of one round.
//!
//! | reads | writes |
//! |---|---|
//! | the buffer; its own priorities of the round before; the student of the round before (and the teacher, where it labels pixels), or what `distill` observed in it | priority, probability and weight of every member; the draws: which sample in which slot of which step of the first pass |

use std::collections::HashMap;

use anyhow::Result;
use serde_json::json;
use ssdkd_context::{Context, Outcome, Plan, Program};
use ssdkd_method::distillation::disagreement;
use ssdkd_method::priority::{Cumulative, prioritise};
use ssdkd_method::{DistillSettings, NewSamplePriority};
use ssdkd_nn::Task;
use ssdkd_nn::random::stream;
use ssdkd_shards::{BufferRow, DrawRow, PriorityRow};

/// The stage's name: its folder, its section of the recipe, its binary.
pub const STAGE: &str = "sample";
/// The stage's program.
pub const PROGRAM: Program =
    Program { stage: STAGE, name: env!("CARGO_PKG_NAME"), about: env!("CARGO_PKG_DESCRIPTION") };
/// Raised by hand when the same recipe gives other results.
const VERSION: u32 = 3;

/// Images in one pass of the student over the buffer.
const MEASURING_BATCH: usize = 256;

/// Draws what the student will see in round `round`, unless that is done already.
pub fn run(context: &mut Context, round: u32) -> Result<Outcome> {
    let settings = context.recipe().sample.relevant();
    let DistillSettings { steps, batch, passes, .. } = context.recipe().distill;
    let (rounds, new_sample_priority) = (context.recipe().run.rounds, context.recipe().balance.new_sample_priority);
    let distilling_round = context.distilling_round(STAGE, round)?;
    let parameters = json!({
        "sample": settings,
        "balance": { "new_sample_priority": new_sample_priority },
        "distill": { "steps": steps, "batch": batch, "passes": passes },
    });
    let mut plan = Plan::new(STAGE, VERSION, round, parameters).reads("balance", round);
    if settings.enabled {
        plan = plan.with("run", json!({ "rounds": rounds })); // β
    }
    if distilling_round > 0 {
        plan = plan.reads(STAGE, round - 1).reads("distill", round - 1);
    } else if settings.needs_measuring() {
        plan = plan.with("student", json!(context.recipe().student));
    }
    if settings.needs_measuring() && context.teacher_card().architecture.task() == Task::Pixels {
        plan = plan.reads_teacher();
    }
    let Some(mut job) = context.begin(plan)? else { return Ok(Outcome::Fresh) };

    let table = context.buffer(round)?;
    let disagreements = if settings.needs_measuring() {
        measure(context, &table, round)?.into_iter().map(Some).collect()
    } else if distilling_round > 0 {
        observed(context, &table, round - 1)?
    } else {
        vec![None; table.len()]
    };
    let before = if distilling_round > 0 { context.priorities(round - 1)? } else { Vec::new() };
    let previous = previous(&table, &before, new_sample_priority);
    let members = prioritise(&settings, settings.beta(distilling_round, rounds), &previous, &disagreements)?;

    let seed = context.recipe().run.seed;
    let cumulative = Cumulative::new(&members);
    let mut draws = Vec::with_capacity(context.recipe().distill.draws());
    for step in 0..steps / passes {
        let drawn = cumulative.draw(batch, &mut stream(seed, "draws", &[u64::from(round), step as u64]));
        draws.extend(drawn.into_iter().enumerate().map(|(slot, member)| DrawRow {
            step: step as u32,
            slot: slot as u32,
            sample_id: table[member].sample_id,
            weight: if settings.weight_loss { members[member].weight as f32 } else { 1.0 },
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
    job.write_table("priorities.parquet", &priorities)?;
    job.write_table("draws.parquet", &draws)?;
    context.finish(job)?;
    Ok(Outcome::Done)
}

/// Priority and weight of every member so far: what the round `before` gave it, or those of a new sample.
fn previous(members: &[BufferRow], before: &[PriorityRow], of_new: NewSamplePriority) -> Vec<(f64, f64)> {
    let new = (of_new.priority(before.iter().map(|row| row.priority)), 1.0);
    let known = before.iter().map(|row| (row.sample_id, (row.priority, row.weight))).collect::<HashMap<_, _>>();
    members.iter().map(|row| known.get(&row.sample_id).copied().unwrap_or(new)).collect()
}

/// KL(f_t ‖ f_s) of every member's clean image, in nats; the teacher's logits come from the shards, but for those of pixels, which
/// are too many to be kept there.
fn measure(context: &mut Context, members: &[BufferRow], round: u32) -> Result<Vec<f32>> {
    let student = context.student_before(round)?;
    let progress = context.progress(STAGE, round, members.len() as u64);
    let mut disagreements = Vec::with_capacity(members.len());
    for batch in members.chunks(MEASURING_BATCH) {
        let places = batch.iter().map(|row| (row.birth_round, row.row)).collect::<Vec<_>>();
        let images = context.images(round, &places)?;
        let teacher_logits = match student.rows_per_image() {
            1 => context.teacher_logits(round, &places)?,
            _ => context.teacher()?.logits(&images)?,
        };
        disagreements.extend(disagreement(&teacher_logits, &student.logits(&images)?, student.rows_per_image())?);
        progress.advance(batch.len() as u64, String::new);
    }
    progress.finish();
    Ok(disagreements)
}

/// Returns the mean KL that training observed for each member in `round`; `None` for those that were not drawn.
fn observed(context: &mut Context, members: &[BufferRow], round: u32) -> Result<Vec<Option<f32>>> {
    let mut sums = HashMap::<u64, (f64, u32)>::new();
    for row in context.observed(round)? {
        let (sum, count) = sums.entry(row.sample_id).or_default();
        *sum += f64::from(row.kl);
        *count += 1;
    }
    let mean = |id| sums.get(id).map(|(sum, count)| (sum / f64::from(*count)) as f32);
    Ok(members.iter().map(|row| mean(&row.sample_id)).collect())
}
