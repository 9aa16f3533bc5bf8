//! Stage `balance`: keep a small replay buffer, updated partially.
//!
//! | reads | writes |
//! |---|---|
//! | the new shard; the buffer of the round before; where the lowest priorities go, the priorities of the round before | the buffer's members, as a table of ids; the class counts |
//!
//! Images stay where `invert` put them: the buffer is a table that points to shard and row.

use std::collections::HashMap;

use anyhow::Result;
use serde_json::json;
use ssdkd_context::{Context, Outcome, Plan, Program};
use ssdkd_method::{Diversity, FailedCheck, Member, Modulation, ReplayBuffer};
use ssdkd_nn::Task;
use ssdkd_shards::{BufferRow, ClassRow, ImageShard};

/// The stage's name: its folder, its section of the recipe, its binary.
pub const STAGE: &str = "balance";
/// The stage's program.
pub const PROGRAM: Program =
    Program { stage: STAGE, name: env!("CARGO_PKG_NAME"), about: env!("CARGO_PKG_DESCRIPTION") };
/// Raised by hand when the same recipe gives other results.
const VERSION: u32 = 3;

/// Takes in round `round`'s images and evicts as many, unless that is done already.
pub fn run(context: &mut Context, round: u32) -> Result<Outcome> {
    let settings = context.recipe().balance.relevant();
    let phi = context.recipe().invert.phi;
    let mut parameters = json!({ "balance": settings, "invert": { "phi": phi } });
    let prior = &context.recipe().teacher.class_prior;
    if !prior.is_empty() && (settings.eviction.looks_at_classes() || phi.diversity != Diversity::Off) {
        parameters["class_prior"] = json!(prior);
    }
    let mut plan = Plan::new(STAGE, VERSION, round, parameters).reads("invert", round);
    if let Some(previous) = round.checked_sub(1) {
        plan = plan.reads(STAGE, previous);
        if reads_priorities(context, previous) {
            plan = plan.reads("sample", previous);
        }
    }
    let Some(mut job) = context.begin(plan)? else { return Ok(Outcome::Fresh) };

    let classes = context.teacher_card().classes;
    let held = match round.checked_sub(1) {
        Some(previous) => members_of(context, previous)?,
        None => Vec::new(),
    };
    let prior = context.class_prior()?;
    let mut buffer = ReplayBuffer::from_members(settings, classes, held)?.with_prior(prior.clone());
    let modulation = Modulation::new(phi, &buffer.class_counts()).with_prior(&prior);
    let new_samples = new_samples(&*context.shard(round)?, &modulation, round);
    let added = new_samples.len();
    let evicted = buffer.insert(new_samples)?.len();

    let members = buffer.members().iter().map(to_row).collect::<Vec<_>>();
    let classes = class_rows(&buffer, &context.teacher_card().class_labels());
    job.metric("members", buffer.len() as f64);
    job.metric("new_samples", added as f64);
    job.metric("evicted", evicted as f64);
    let counts = buffer.class_counts();
    // Of pixels, a class may be in every image and the most of none. Before the student trains, a class may still come.
    if context.teacher_card().architecture.task() == Task::Images && context.recipe().distilling_round(round).is_some()
    {
        let invert = &context.recipe().invert;
        let made = (invert.batch * invert.batches) as u64 * u64::from(round + 1);
        context.report_health(STAGE, round, FailedCheck::of_buffer(&counts, made, &prior))?;
    }
    job.metric("smallest_class", counts.iter().min().map_or(0.0, |&count| count as f64));
    job.metric("largest_class", counts.iter().max().map_or(0.0, |&count| count as f64));
    let confidence = buffer.members().iter().map(|member| f64::from(member.confidence)).sum::<f64>();
    job.metric("mean_confidence", confidence / buffer.len().max(1) as f64);
    job.write_table("buffer.parquet", &members)?;
    job.write_table("classes.parquet", &classes)?;
    context.finish(job)?;
    context.forget_shards_outside(&members);
    context.collect_shards(round)?;
    Ok(Outcome::Done)
}

/// Returns whether the priorities that `sample` left in `round` decide which images leave: a buffer that does without them does not change with
/// the student.
fn reads_priorities(context: &Context, round: u32) -> bool {
    context.recipe().balance.eviction.looks_at_priorities() && context.recipe().distilling_round(round).is_some()
}

/// Returns the buffer of a round; where they matter, with the priorities that `sample` gave its members since.
fn members_of(context: &mut Context, round: u32) -> Result<Vec<Member>> {
    let table = context.buffer(round)?;
    let mut priorities = HashMap::new();
    if reads_priorities(context, round) {
        priorities.extend(context.priorities(round)?.iter().map(|row| (row.sample_id, row.priority)));
    }
    let members = table.iter().map(|row| Member {
        sample_id: row.sample_id,
        row: row.row,
        class: row.teacher_class,
        confidence: row.teacher_confidence,
        factors: ssdkd_method::Factors { diversity: row.diversity, difficulty: row.difficulty },
        birth_round: row.birth_round,
        priority: priorities.get(&row.sample_id).copied().unwrap_or(1.0),
    });
    Ok(members.collect())
}

/// Returns the new shard's images as members; `insert` gives them their priority.
fn new_samples(shard: &ImageShard, modulation: &Modulation, round: u32) -> Vec<Member> {
    let members = shard.samples.iter().enumerate().map(|(row, sample)| Member {
        sample_id: sample.sample_id,
        row: row as u32,
        class: sample.teacher_class,
        confidence: sample.teacher_confidence,
        factors: modulation.factors(sample.teacher_class, sample.teacher_confidence),
        birth_round: round,
        priority: 1.0,
    });
    members.collect()
}

fn to_row(member: &Member) -> BufferRow {
    BufferRow {
        sample_id: member.sample_id,
        shard: ssdkd_context::shard_path(member.birth_round),
        row: member.row,
        teacher_class: member.class,
        teacher_confidence: member.confidence,
        diversity: member.factors.diversity,
        difficulty: member.factors.difficulty,
        phi: member.factors.phi(),
        birth_round: member.birth_round,
    }
}

fn class_rows(buffer: &ReplayBuffer, names: &[String]) -> Vec<ClassRow> {
    let rows = buffer.class_counts().into_iter().zip(names).enumerate().map(|(class, (count, name))| {
        let of_class = buffer.members().iter().filter(|member| member.class as usize == class);
        let confidence = of_class.map(|member| f64::from(member.confidence)).sum::<f64>();
        ClassRow {
            class: class as u32,
            name: name.clone(),
            count,
            mean_confidence: (count > 0).then(|| (confidence / count as f64) as f32),
        }
    });
    rows.collect()
}
