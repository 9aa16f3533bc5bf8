//! Stage `distill`: train the student on the images drawn for one round.
//!
//! | reads | writes |
//! |---|---|
//! | the draws; the images they name; student and optimizer of the round before | student, optimizer, per-step losses, the disagreement observed on each draw |

mod checkpoint;
mod views;

use std::rc::Rc;

use anyhow::Result;
use serde_json::json;
use ssdkd_context::{Context, Job, Outcome, Plan, Program, Role, STUDENT};
use ssdkd_method::{Distiller, FailedCheck};
use ssdkd_nn::Network;
use ssdkd_shards::{ObservedRow, StepRow};

use crate::views::Views;

/// The stage's name: its folder, its section of the recipe, its binary.
pub const STAGE: &str = "distill";
/// The stage's program.
pub const PROGRAM: Program =
    Program { stage: STAGE, name: env!("CARGO_PKG_NAME"), about: env!("CARGO_PKG_DESCRIPTION") };
/// Raised by hand when the same recipe gives other results.
const VERSION: u32 = 6;

const OPTIMIZER: &str = "optimizer.safetensors";
/// Where student and optimizer are kept between rounds: together, as the optimizer moves that student's weights.
const PAIR: &str = "student and optimizer";

/// Trains the student for round `round`, unless that is done already.
pub fn run(context: &mut Context, round: u32) -> Result<Outcome> {
    let settings = context.recipe().distill.relevant();
    let rounds = context.recipe().run.rounds;
    let distilling_round = context.distilling_round(STAGE, round)?;
    let parameters = json!({ "distill": settings, "run": { "rounds": rounds }, "student": context.recipe().student });
    let mut plan =
        Plan::new(STAGE, VERSION, round, parameters).reads_teacher().reads("sample", round).reads("balance", round);
    if distilling_round > 0 {
        plan = plan.reads(STAGE, round - 1);
    }
    let Some(mut job) = context.begin(plan)? else { return Ok(Outcome::Fresh) };

    let teacher = context.teacher()?;
    let total = settings.steps as u64 * u64::from(rounds);
    let Standing { student, mut distiller, mut steps, mut observed } = standing(context, &mut job, distilling_round)?;
    let progress = context.progress(STAGE, round, settings.steps as u64);
    progress.skip(steps.len() as u64);
    let mut views = Views::new(context, round)?;
    for index in steps.len()..settings.steps {
        let (labelled, drawn) = views.of_step(index, context, &distiller, &teacher)?;
        let weights = drawn.iter().map(|draw| draw.weight).collect::<Vec<_>>();
        let step = u64::from(distilling_round) * settings.steps as u64 + index as u64;
        let report = distiller.learn(&student, labelled, Some(&weights), (step, total))?;
        observed.extend(drawn.iter().zip(&report.disagreement).zip(0..).map(|((draw, &kl), slot)| ObservedRow {
            step: index as u32,
            slot,
            sample_id: draw.sample_id,
            kl,
        }));
        progress.advance(1, || {
            let features = report.feature_distillation.map(|distance| format!(" feature_distillation {distance:.3}"));
            format!("loss {:.3}{} agreement {:.2}", report.loss, features.unwrap_or_default(), report.agreement)
        });
        steps.push(StepRow {
            step: index as u32,
            lr: report.lr,
            loss: report.loss,
            feature_distillation: report.feature_distillation,
            kl: report.disagreement.iter().sum::<f32>() / report.disagreement.len() as f32,
            agreement: report.agreement,
            gradient_norm: report.gradient_norm,
        });
        let origin = job.origin();
        job.checkpoint(|| checkpoint::encode(&origin, &student, &distiller, &steps, &observed))?;
        job.check_interrupted()?;
    }
    progress.finish();

    let mean = |column: fn(&StepRow) -> f32| {
        steps.iter().map(|row| f64::from(column(row))).sum::<f64>() / steps.len().max(1) as f64
    };
    let before = match distilling_round.checked_sub(1) {
        Some(_) => context.complete(STAGE, round - 1)?.manifest.metrics.get("loss").and_then(serde_json::Value::as_f64),
        None => None,
    };
    let steps_so_far = u64::from(distilling_round) * settings.steps as u64 + steps.len() as u64;
    let (loss, agreement) = (mean(|row| row.loss), mean(|row| row.agreement));
    let prior = context.class_prior()?;
    // Most pixels are background: a guess of it is right more often than one in so many classes.
    let guess = (teacher.rows_per_image() == 1).then(|| prior.largest(teacher.classes()));
    let failed = FailedCheck::of_student(loss, before, agreement, steps_so_far, guess);
    context.report_health(STAGE, round, failed)?;
    job.metric("steps", steps.len() as f64);
    job.metric("loss", loss);
    if steps.iter().any(|row| row.feature_distillation.is_some()) {
        job.metric("feature_distillation", mean(|row| row.feature_distillation.unwrap_or_default()));
    }
    job.metric("kl", mean(|row| row.kl));
    job.metric("agreement", agreement);
    job.metric("lr", steps.last().map_or(0.0, |row| row.lr));
    job.write_table("steps.parquet", &steps)?;
    job.write_table("observed.parquet", &observed)?;
    let bytes = student.store().state_dict().to_safetensors()?;
    let student_digest = job.write(STUDENT, &bytes, None, Role::Data)?;
    let state = distiller.state_dict().to_safetensors()?;
    let state_digest = job.write(OPTIMIZER, &state, None, Role::State)?;
    context.finish(job)?;
    context.keep_student(&student_digest, student.clone());
    context.kept().put(PAIR, &(student_digest + &state_digest), (student, distiller));
    Ok(Outcome::Done)
}

/// How far the training of a round has come.
struct Standing {
    student: Rc<Network>,
    distiller: Distiller,
    steps: Vec<StepRow>,
    observed: Vec<ObservedRow>,
}

/// Returns where an interrupted process left the round, or else its start.
fn standing(context: &mut Context, job: &mut Job, distilling_round: u32) -> Result<Standing> {
    let round = job.round();
    let kept = job.kept()?;
    let (student, mut distiller) = student_and_optimizer(context, round, distilling_round)?;
    let Some(kept) = kept else { return Ok(Standing { student, distiller, steps: vec![], observed: vec![] }) };
    match checkpoint::take_up(&kept, &student, &mut distiller) {
        Ok((steps, observed)) => {
            tracing::info!(
                "{STAGE} {round:04}: resumes after step {} of {}",
                steps.len(),
                context.recipe().distill.steps
            );
            Ok(Standing { student, distiller, steps, observed })
        }
        // It is whole and belongs to this work, but has the form of another version.
        Err(error) => {
            tracing::warn!("{STAGE} {round:04}: restarts, because its checkpoint cannot be used: {error:#}");
            job.start_over()?;
            // Some of it may have been restored.
            let (student, distiller) = student_and_optimizer(context, round, distilling_round)?;
            Ok(Standing { student, distiller, steps: vec![], observed: vec![] })
        }
    }
}

/// Returns the student as the round before left it, or fresh, with its optimizer.
///
/// Training changes the student's weights in place, so the cache must not hold it under its old digest.
fn student_and_optimizer(context: &mut Context, round: u32, distilling_round: u32) -> Result<(Rc<Network>, Distiller)> {
    let (settings, seed) = (context.recipe().distill.clone(), context.recipe().run.seed);
    let teacher = context.teacher()?;
    if distilling_round == 0 {
        let student = context.release_student_before(round)?;
        let distiller = Distiller::new(settings, &teacher, &student, seed)?;
        return Ok((student, distiller));
    }
    let student_digest = context.file_digest(STAGE, round - 1, STUDENT)?;
    let state_digest = context.file_digest(STAGE, round - 1, OPTIMIZER)?;
    if let Some(pair) = context.kept().take(PAIR, &(student_digest + &state_digest)) {
        context.release_student_before(round)?;
        return Ok(pair);
    }
    let student = context.release_student_before(round)?;
    let mut distiller = Distiller::new(settings, &teacher, &student, seed)?;
    distiller.load_state_dict(context.read_state_dict(STAGE, round - 1, OPTIMIZER)?)?;
    Ok((student, distiller))
}
