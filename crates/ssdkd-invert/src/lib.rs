//! Stage `invert`: synthesize images by inverting the teacher.
//!
//! | reads | writes |
//! |---|---|
//! | teacher; generator of the round before; for φ the class counts of the buffer; after the warm-up, for the adversarial term, the student of the round before | one shard of images with the teacher's labels; the generator and all of its state |

use anyhow::Result;
use serde_json::{Value, json};
use ssdkd_context::{Context, Job, Outcome, Plan, Program, Recipe, Role, SHARD, images};
use ssdkd_method::inversion::start;
use ssdkd_method::{
    Diversity, FailedCheck, ImageFormat, Inversion, InvertSettings, Modulation, Objective, Position, Predictions,
    Synthesis, Term,
};
use ssdkd_shards::{ImageInfo, ImageShard, Normalisation, PixelFormat, Pixels, SampleRow};

/// The stage's name: its folder, its section of the recipe, its binary.
pub const STAGE: &str = "invert";
/// The stage's program.
pub const PROGRAM: Program =
    Program { stage: STAGE, name: env!("CARGO_PKG_NAME"), about: env!("CARGO_PKG_DESCRIPTION") };
/// Raised by hand when the same recipe gives other results.
const VERSION: u32 = 3;

/// The round whose terms are checked: the generator has left its random start, and little is lost yet.
const CHECKED_ROUND: u32 = 2;

const GENERATOR: &str = "generator.safetensors";

/// Makes round `round`'s images, unless they are there already.
pub fn run(context: &mut Context, round: u32) -> Result<Outcome> {
    let distilling_round = context.recipe().distilling_round(round);
    let settings = context.recipe().invert.relevant(distilling_round);
    let mut plan = Plan::new(STAGE, VERSION, round, parameters(&settings, context.recipe())).reads_teacher();
    if let Some(previous) = round.checked_sub(1) {
        plan = plan.reads(STAGE, previous);
        if settings.phi.diversity != Diversity::Off {
            plan = plan.reads_class_counts(previous);
        }
    }
    let looks_at_student = settings.looks_at_student(distilling_round);
    if looks_at_student {
        plan = match distilling_round {
            Some(1..) => plan.reads("distill", round - 1),
            _ => plan.with("student", json!(context.recipe().student)),
        };
    }
    let Some(mut job) = context.begin(plan)? else { return Ok(Outcome::Fresh) };

    let teacher = context.teacher()?;
    let student = looks_at_student.then(|| context.student_before(round)).transpose()?;
    let class_counts = match round.checked_sub(1) {
        Some(previous) if settings.phi.diversity != Diversity::Off => context.class_counts(previous)?,
        _ => Vec::new(),
    };
    let prior = context.class_prior()?;
    let modulation = Modulation::new(settings.phi, &class_counts).with_prior(&prior);
    let seed = context.recipe().run.seed;
    let mut inversion = generator_before(context, round)?;

    let mut batches = Vec::with_capacity(settings.batches);
    let interrupt = || job.check_interrupted().map_err(candle_core::Error::msg);
    let objective = Objective::new(settings.loss, &teacher, student.as_deref(), &modulation)
        .with_prior(&prior)
        .interruptible(&interrupt);
    let progress = context.progress(STAGE, round, settings.batches as u64);
    for batch in 0..settings.batches as u32 {
        let position = Position { seed, round, distilling_round, batch };
        let made = inversion.synthesize(&objective, position);
        // A request to stop passes through candle's error type: it is looked at here, for the right exit code.
        job.check_interrupted()?;
        let made = made?;
        progress.advance(1, || {
            let terms = made.loss.terms().iter().map(|(term, value)| format!("{} {value:.2}", term.name()));
            terms.collect::<Vec<_>>().join(" ")
        });
        batches.push(made);
    }
    progress.finish();

    let shard = shard(&batches, settings.image_format, &job, context)?;
    let confidences = shard.samples.iter().map(|row| row.teacher_confidence).collect::<Vec<_>>();
    let classes = context.teacher_card().classes;
    context.report_health(STAGE, round, FailedCheck::of_images(&shard.pixels.to_unit(), &confidences, classes))?;
    let terms = mean_terms(&batches);
    if round == CHECKED_ROUND.min(context.recipe().total_rounds() - 1) {
        let failed = FailedCheck::of_terms(&terms, &settings.loss, classes, right(&shard.samples));
        context.report_health(STAGE, round, failed)?;
    }
    job.metric("images", shard.samples.len() as f64);
    for (term, value) in terms {
        job.metric(&format!("loss_{}", term.name()), value);
    }
    job.metric("loss", mean(&batches.iter().map(|made| made.loss.total).collect::<Vec<_>>()));
    job.write(SHARD, &shard.encode()?, Some(shard.samples.len() as u64), Role::Shard)?;
    let state = inversion.state_dict().to_safetensors()?;
    let digest = job.write(GENERATOR, &state, None, Role::State)?;
    context.finish(job)?;
    context.kept().put("generator", &digest, inversion);
    Ok(Outcome::Done)
}

/// Returns the settings that determine a round's images, besides its inputs. A prior is there only if it changes them.
fn parameters(settings: &InvertSettings, recipe: &Recipe) -> Value {
    let mut parameters = json!({ "invert": settings.fingerprint() });
    if !recipe.teacher.class_prior.is_empty() && settings.looks_at_prior() {
        parameters["class_prior"] = json!(recipe.teacher.class_prior);
    }
    parameters
}

/// Returns the mean of every term that was computed, before its factor.
fn mean_terms(batches: &[Synthesis]) -> Vec<(Term, f64)> {
    let of = |term| {
        let values = batches.iter().filter_map(|made| made.loss.term(term)).collect::<Vec<_>>();
        (!values.is_empty()).then(|| (term, mean(&values)))
    };
    Term::ALL.into_iter().filter_map(of).collect()
}

/// Returns the teacher's mean confidence in the target class; 0 where it names another.
fn right(samples: &[SampleRow]) -> f64 {
    let right = |row: &SampleRow| if row.teacher_class == row.target { row.teacher_confidence } else { 0.0 };
    mean(&samples.iter().map(right).collect::<Vec<_>>())
}

/// Returns the generator that the round before left, or a fresh one.
fn generator_before(context: &mut Context, round: u32) -> Result<Box<dyn Inversion>> {
    let settings = context.recipe().invert.clone();
    let seed = context.recipe().run.seed;
    let (teacher, device) = (context.teacher()?, context.device()?.clone());
    let Some(previous) = round.checked_sub(1) else {
        return Ok(start(&settings, &teacher, seed, &device)?);
    };
    let digest = context.file_digest(STAGE, previous, GENERATOR)?;
    if let Some(kept) = context.kept().take("generator", &digest) {
        return Ok(kept);
    }
    let mut inversion = start(&settings, &teacher, seed, &device)?;
    inversion.load_state_dict(context.read_state_dict(STAGE, previous, GENERATOR)?)?;
    Ok(inversion)
}

/// One shard of all batches, in order.
fn shard(batches: &[Synthesis], format: ImageFormat, job: &Job, context: &mut Context) -> Result<ImageShard> {
    let teacher = context.teacher_card();
    let (mut samples, mut values, mut teacher_logits, mut masks) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for made in batches {
        let Predictions { classes, confidences, logits, pixels } = &made.predictions;
        for ((&target, &teacher_class), &teacher_confidence) in made.targets.iter().zip(classes).zip(confidences) {
            let mut row = SampleRow {
                // Unique in a run: a round makes fewer than 2³² images.
                sample_id: (u64::from(job.round()) << 32) | samples.len() as u64,
                target,
                teacher_class,
                teacher_confidence,
                loss_batch_norm: None,
                loss_class: None,
                loss_balance: None,
                loss_activation: None,
                loss_adversarial: None,
                loss_total_variation: None,
                loss_l2: None,
                loss_contrastive: None,
                loss_total: made.loss.total,
                round: job.round(),
            };
            for &(term, value) in made.loss.terms() {
                *column(&mut row, term) = Some(value);
            }
            samples.push(row);
        }
        values.extend(images::to_planes(&made.images)?);
        teacher_logits.extend(logits.flatten_all()?.to_vec1::<f32>()?);
        masks.extend(pixels.iter().flatten().map(|&class| class as u8)); // no card of pixels has more classes
    }
    let format = match format {
        ImageFormat::U8 => PixelFormat::U8,
        ImageFormat::F32 => PixelFormat::F32,
    };
    let (mean, std) = teacher.preprocessing.normalization_of_rgb(&teacher.mean, &teacher.std);
    let info = ImageInfo {
        origin: job.origin(),
        shape: teacher.input,
        normalisation: Normalisation { mean, std },
        class_names: teacher.class_labels(),
    };
    let teacher_masks = (!masks.is_empty()).then_some(masks);
    Ok(ImageShard { info, samples, pixels: Pixels::from_unit(&values, format), teacher_logits, teacher_masks })
}

/// Returns the column of a term: each has one.
fn column(row: &mut SampleRow, term: Term) -> &mut Option<f32> {
    match term {
        Term::BatchNorm => &mut row.loss_batch_norm,
        Term::Class => &mut row.loss_class,
        Term::Balance => &mut row.loss_balance,
        Term::Activation => &mut row.loss_activation,
        Term::Adversarial => &mut row.loss_adversarial,
        Term::TotalVariation => &mut row.loss_total_variation,
        Term::L2 => &mut row.loss_l2,
        Term::Contrastive => &mut row.loss_contrastive,
    }
}

fn mean(values: &[f32]) -> f64 {
    values.iter().map(|&value| f64::from(value)).sum::<f64>() / values.len() as f64
}
