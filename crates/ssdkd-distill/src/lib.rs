//! Stage `distill`: train the student on the images drawn for one round.
//!
//! | reads | writes |
//! |---|---|
//! | the draws; the images they name; student and optimizer of the round before | student, optimizer, per-step losses, the disagreement observed on each draw |

mod checkpoint;
mod views;

use std::rc::Rc;

use anyhow::Result;
use serde::Serialize;
use serde_json::json;
use ssdkd_context::{Cards, Inputs, Job, Output, Plan, Recipe, Role, STUDENT, Stage, signals};
use ssdkd_method::{ClassPrior, DistillSettings, Distiller, FailedCheck};
use ssdkd_nn::Network;
use ssdkd_shards::{ObservedRow, StepRow};

use crate::views::Views;

/// The stage.
pub const STAGE: Stage = Stage {
    name: "distill",
    warms_up: false,
    program: env!("CARGO_PKG_NAME"),
    about: env!("CARGO_PKG_DESCRIPTION"),
    plan,
};

/// Raised by hand when the same recipe gives other results.
const VERSION: u32 = 6;

const OPTIMIZER: &str = "optimizer.safetensors";

/// What decides a round's training, besides the inputs.
#[derive(Serialize)]
struct Settings {
    distill: DistillSettings,
    run: Length,
    student: serde_json::Value,
    /// What training continues from.
    #[serde(skip)]
    previous: Option<Output>,
    /// The student's steps in all rounds before.
    #[serde(skip)]
    steps_before: u64,
    /// For the health check alone.
    #[serde(skip)]
    prior: ClassPrior,
}

#[derive(Serialize)]
struct Length {
    rounds: u32,
}

/// Plans the training of a round.
fn plan(recipe: &Recipe, cards: &Cards, round: u32) -> Result<Plan> {
    let distilling_round = recipe.distilling_round_of(STAGE.name, round)?;
    let previous = (distilling_round > 0).then(|| STAGE.output(round - 1));
    let settings = Settings {
        distill: recipe.distill.relevant(),
        run: Length { rounds: recipe.run.rounds },
        student: json!(recipe.student.of_training()),
        previous,
        steps_before: u64::from(distilling_round) * recipe.distill.steps as u64,
        prior: cards.class_prior(recipe)?,
    };
    Ok(Plan::new(STAGE.output(round), VERSION, recipe.run.seed, settings, execute)
        .reads_teacher()
        .reads(Output::sample(round))
        .reads_images(Output::balance(round))
        .reads_student(recipe)
        .reads_state(previous))
}

/// Trains the student on the images drawn for a round.
fn execute(settings: &Settings, inputs: &mut Inputs<'_>, job: &mut Job) -> Result<()> {
    let teacher = inputs.teacher()?;
    let total = settings.distill.steps as u64 * u64::from(settings.run.rounds);
    let Standing { student, mut distiller, mut steps, mut observed } = standing(settings, inputs, job)?;
    let progress = job.progress(settings.distill.steps as u64);
    progress.skip(steps.len() as u64);
    let mut views = Views::new(settings, inputs)?;
    for index in steps.len()..settings.distill.steps {
        let (labelled, drawn) = views.of_step(index, inputs, &mut distiller, &teacher)?;
        let weights = drawn.iter().map(|draw| draw.weight).collect::<Vec<_>>();
        let step = settings.steps_before + index as u64;
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
        signals::check()?;
    }
    progress.finish();

    let mean = |column: fn(&StepRow) -> f32| {
        steps.iter().map(|row| f64::from(column(row))).sum::<f64>() / steps.len().max(1) as f64
    };
    let before = settings.previous.map_or(Ok(None), |previous| inputs.metric(previous, "loss"))?;
    let steps_so_far = settings.steps_before + steps.len() as u64;
    let (loss, agreement) = (mean(|row| row.loss), mean(|row| row.agreement));
    // Most pixels are background: a guess of it is right more often than one in so many classes.
    let guess = (teacher.rows_per_image() == 1).then(|| settings.prior.largest(teacher.classes()));
    job.report_health(FailedCheck::of_student(loss, before, agreement, steps_so_far, guess))?;
    job.metric("steps", steps.len() as f64);
    job.metric("loss", loss);
    if steps.iter().any(|row| row.feature_distillation.is_some()) {
        job.metric("feature_distillation", mean(|row| row.feature_distillation.unwrap_or_default()));
    }
    job.metric("kl", mean(|row| row.kl));
    job.metric("agreement", agreement);
    job.metric("lr", steps.last().map_or(0.0, |row| row.lr));
    job.write_table(&steps)?;
    job.write_table(&observed)?;
    let bytes = student.store().state_dict().to_safetensors()?;
    let student_digest = job.write(STUDENT, &bytes, None, Role::Data)?;
    let state = distiller.state_dict().to_safetensors()?;
    let state_digest = job.write(OPTIMIZER, &state, None, Role::State)?;
    let memory = inputs.memory();
    memory.student.put(&student_digest, student.clone());
    memory.training.put(&(student_digest + &state_digest), (student, distiller));
    Ok(())
}

/// How far the training of a round has come.
struct Standing {
    student: Rc<Network>,
    distiller: Distiller,
    steps: Vec<StepRow>,
    observed: Vec<ObservedRow>,
}

/// Returns where an interrupted process left the round, or else its start.
fn standing(settings: &Settings, inputs: &mut Inputs<'_>, job: &mut Job) -> Result<Standing> {
    let round = inputs.round();
    let kept = job.kept()?;
    let (student, mut distiller) = student_and_optimizer(settings, inputs)?;
    let Some(kept) = kept else { return Ok(Standing { student, distiller, steps: vec![], observed: vec![] }) };
    match checkpoint::take_up(&kept, &student, &mut distiller) {
        Ok((steps, observed)) => {
            let all = settings.distill.steps;
            tracing::info!("{} {round:04}: resumes after step {} of {all}", STAGE.name, steps.len());
            Ok(Standing { student, distiller, steps, observed })
        }
        // It is whole and belongs to this work, but has the form of another version.
        Err(error) => {
            tracing::warn!("{} {round:04}: restarts, because its checkpoint cannot be used: {error:#}", STAGE.name);
            job.start_over()?;
            // Some of it may have been restored.
            let (student, distiller) = student_and_optimizer(settings, inputs)?;
            Ok(Standing { student, distiller, steps: vec![], observed: vec![] })
        }
    }
}

/// Returns the student as it is before the round, with its optimizer.
fn student_and_optimizer(settings: &Settings, inputs: &mut Inputs<'_>) -> Result<(Rc<Network>, Distiller)> {
    let mut kept = None;
    if let Some(previous) = settings.previous {
        let digest = inputs.digest(previous, STUDENT)? + &inputs.digest(previous, OPTIMIZER)?;
        kept = inputs.memory().training.take(&digest);
    }
    let training = if let Some(training) = kept {
        training
    } else {
        let student = inputs.student()?;
        let mut distiller = Distiller::new(settings.distill.clone(), &*inputs.teacher()?, &student, inputs.seed())?;
        if let Some(previous) = settings.previous {
            distiller.load_state_dict(inputs.state_dict(previous, OPTIMIZER)?)?;
        }
        (student, distiller)
    };
    // Training changes the weights in place: they must not be kept under the digest of before.
    inputs.memory().student.clear();
    Ok(training)
}
