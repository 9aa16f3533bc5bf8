//! Stage `balance`: keep a small replay buffer, updated partially.
//!
//! | reads | writes |
//! |---|---|
//! | the new shard; the buffer of the round before; where the lowest priorities go, the priorities of the round before | the buffer's members, as a table of ids; the class counts |
//!
//! Images stay where `invert` put them: the buffer is a table that points to shard and row.

use std::collections::HashMap;

use anyhow::Result;
use serde::Serialize;
use ssdkd_context::{Cards, Inputs, Job, Output, Plan, Recipe, Stage};
use ssdkd_method::{
    BalanceSettings, ClassPrior, Diversity, Factors, FailedCheck, Member, Modulation, ModulationSettings, ReplayBuffer,
};
use ssdkd_nn::Task;
use ssdkd_shards::{BufferRow, ClassRow, ImageShard, PriorityRow};

/// The stage.
pub const STAGE: Stage = Stage {
    name: "balance",
    warms_up: true,
    program: env!("CARGO_PKG_NAME"),
    about: env!("CARGO_PKG_DESCRIPTION"),
    plan,
};

/// Raised by hand when the same recipe gives other results.
const VERSION: u32 = 3;

/// What decides the buffer's members, besides the inputs.
#[derive(Serialize)]
struct Settings {
    balance: BalanceSettings,
    invert: Phi,
    /// Empty unless it changes something.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    class_prior: Vec<f64>,
    #[serde(skip)]
    prior: ClassPrior,
    /// The round whose priorities decide which images leave.
    #[serde(skip)]
    priorities: Option<u32>,
    #[serde(skip)]
    class_names: Vec<String>,
    /// All images that the run has made, where the class counts are checked.
    #[serde(skip)]
    checked_with: Option<u64>,
}

#[derive(Serialize)]
struct Phi {
    phi: ModulationSettings,
}

/// Plans the buffer of a round.
fn plan(recipe: &Recipe, cards: &Cards, round: u32) -> Result<Plan> {
    let (balance, phi) = (recipe.balance.relevant(), recipe.invert.phi);
    let previous = round.checked_sub(1);
    // A buffer that does without priorities does not change with the student.
    let looks_at_priorities = balance.eviction.looks_at_priorities();
    let priorities = previous.filter(|&round| looks_at_priorities && recipe.distilling_round(round).is_some());
    let prior_matters = balance.eviction.looks_at_classes() || phi.diversity != Diversity::Off;
    // Of pixels, a class may be in every image and the most of none. Before the student trains, a class may still come.
    let checks = cards.teacher().architecture.task() == Task::Images && recipe.distilling_round(round).is_some();
    let made = (recipe.invert.batch * recipe.invert.batches) as u64 * u64::from(round + 1);
    let settings = Settings {
        balance,
        invert: Phi { phi },
        class_prior: if prior_matters { recipe.teacher.class_prior.clone() } else { Vec::new() },
        prior: cards.class_prior(recipe)?,
        priorities,
        class_names: cards.teacher().class_labels(),
        checked_with: checks.then_some(made),
    };
    Ok(Plan::new(STAGE.output(round), VERSION, recipe.run.seed, settings, execute)
        .reads_images(Output::invert(round))
        .reads(previous.map(Output::balance))
        .reads(priorities.map(Output::sample)))
}

/// Takes in a round's images and evicts as many.
fn execute(settings: &Settings, inputs: &mut Inputs<'_>, job: &mut Job) -> Result<()> {
    let Settings { balance, invert: Phi { phi }, prior, class_names, .. } = settings;
    let round = inputs.round();
    let held = members_before(settings, inputs)?;
    let mut buffer = ReplayBuffer::from_members(balance.clone(), class_names.len(), held)?.with_prior(prior.clone());
    let modulation = Modulation::new(*phi, &buffer.class_counts()).with_prior(prior);
    let new_samples = new_samples(&*inputs.shard(round)?, &modulation, round);
    let added = new_samples.len();
    let evicted = buffer.insert(new_samples)?.len();

    let members = buffer.members().iter().map(to_row).collect::<Vec<_>>();
    let classes = class_rows(&buffer, class_names);
    job.metric("members", buffer.len() as f64);
    job.metric("new_samples", added as f64);
    job.metric("evicted", evicted as f64);
    let counts = buffer.class_counts();
    if let Some(made) = settings.checked_with {
        job.report_health(FailedCheck::of_buffer(&counts, made, prior))?;
    }
    job.metric("smallest_class", counts.iter().min().map_or(0.0, |&count| count as f64));
    job.metric("largest_class", counts.iter().max().map_or(0.0, |&count| count as f64));
    let confidence = buffer.members().iter().map(|member| f64::from(member.confidence)).sum::<f64>();
    job.metric("mean_confidence", confidence / buffer.len().max(1) as f64);
    job.write_table(&members)?;
    job.write_table(&classes)?;
    inputs.memory().retain_shards(&members.iter().map(|row| row.birth_round).collect());
    Ok(())
}

/// Returns the buffer of the round before; where they matter, with the priorities that `sample` gave its members since.
fn members_before(settings: &Settings, inputs: &Inputs<'_>) -> Result<Vec<Member>> {
    let Some(previous) = inputs.round().checked_sub(1) else { return Ok(Vec::new()) };
    let table = inputs.table::<BufferRow>(Output::balance(previous))?;
    let mut priorities = HashMap::new();
    if let Some(round) = settings.priorities {
        priorities.extend(
            inputs.table::<PriorityRow>(Output::sample(round))?.iter().map(|row| (row.sample_id, row.priority)),
        );
    }
    let members = table.iter().map(|row| Member {
        sample_id: row.sample_id,
        row: row.row,
        class: row.teacher_class,
        confidence: row.teacher_confidence,
        factors: Factors { diversity: row.diversity, difficulty: row.difficulty },
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
