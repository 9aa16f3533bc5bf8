//! Stage `invert`: synthesise images by inverting the teacher.
//!
//! | reads | writes |
//! |---|---|
//! | teacher; generator of the round before; for φ the class counts of the buffer; after the warm-up, for the adversarial term, the student of the round before | one shard of images with the teacher's labels; the generator and all of its state |

use anyhow::Result;
use serde_json::json;
use ssdkd_context::{Context, Job, Outcome, Plan, Role, SHARD, images};
use ssdkd_method::{
    Answers, Diversity, ImageFormat, Inversion, Modulation, Objective, Position, Strategy, Synthesis, Trouble,
};
use ssdkd_nn::weights;
use ssdkd_shards::{ImageInfo, ImageShard, Normalisation, PixelFormat, Pixels, SampleRow};

/// The stage's name: its folder, its section of the recipe, its binary.
pub const STAGE: &str = "invert";
/// Raised by hand when the same recipe gives other results.
const VERSION: u32 = 2;

const GENERATOR: &str = "generator.safetensors";

/// Makes round `round`'s images, unless they are there already.
pub fn run(context: &mut Context, round: u32) -> Result<Outcome> {
    let distilling_round = context.recipe().distilling_round(round);
    let settings = context.recipe().invert.relevant(distilling_round);
    let mut plan = Plan::new(STAGE, VERSION, round, json!({ "invert": settings })).reads_teacher();
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
    let modulation = Modulation::new(settings.phi, &class_counts);
    let seed = context.recipe().run.seed;
    let mut inversion = generator_before(context, round)?;

    let mut batches = Vec::with_capacity(settings.batches);
    let heed = || job.check_interrupted().map_err(candle_core::Error::msg);
    let objective = Objective::new(&settings, &teacher, student.as_deref(), &modulation).heeding(&heed);
    let progress = context.progress(STAGE, round, settings.batches as u64);
    for batch in 0..settings.batches as u32 {
        let position = Position { seed, round, distilling_round, batch };
        let made = inversion.synthesize(&objective, position);
        // A request to stop passes through candle's error type: it is looked at here, for the right exit code.
        job.check_interrupted()?;
        let made = made?;
        progress.advance(1, || {
            let terms = &made.terms;
            format!("bn {:.2} ce {:.2} adv {:.2}", terms.batch_norm, terms.task, terms.adversarial)
        });
        batches.push(made);
    }
    progress.finish();

    let shard = shard(&batches, settings.image_format, &job, context)?;
    let confidences = shard.samples.iter().map(|row| row.teacher_confidence).collect::<Vec<_>>();
    let classes = context.teacher_card().classes;
    context.heed(STAGE, round, Trouble::of_images(&shard.pixels.to_unit(), &confidences, classes))?;
    job.metric("images", shard.samples.len() as f64);
    for (name, term) in [
        ("loss_bn", mean(&batches, |made| made.terms.batch_norm)),
        ("loss_task", mean(&batches, |made| made.terms.task)),
        ("loss_balance", mean(&batches, |made| made.terms.balance)),
        ("loss_adversarial", mean(&batches, |made| made.terms.adversarial)),
        ("loss", mean(&batches, |made| made.terms.total)),
    ] {
        job.metric(name, term);
    }
    job.write(SHARD, &shard.encode()?, Some(shard.samples.len() as u64), Role::Shard)?;
    let state = weights::to_safetensors_bytes(&inversion.state_tensors())?;
    let digest = job.write(GENERATOR, &state, None, Role::State)?;
    context.finish(job)?;
    context.kept().put("generator", &digest, inversion);
    Ok(Outcome::Done)
}

/// The generator that the round before left, or a fresh one.
fn generator_before(context: &mut Context, round: u32) -> Result<Box<dyn Inversion>> {
    let settings = context.recipe().invert.clone();
    let seed = context.recipe().run.seed;
    let (teacher, device) = (context.teacher()?, context.device()?.clone());
    let Some(previous) = round.checked_sub(1) else {
        return Ok(Strategy::start(&settings, &teacher, seed, &device)?);
    };
    let digest = context.file_digest(STAGE, previous, GENERATOR)?;
    if let Some(kept) = context.kept().take("generator", &digest) {
        return Ok(kept);
    }
    let mut inversion = Strategy::start(&settings, &teacher, seed, &device)?;
    inversion.load_state(context.read_tensors(STAGE, previous, GENERATOR)?)?;
    Ok(inversion)
}

/// One shard of all batches, in order.
fn shard(batches: &[Synthesis], format: ImageFormat, job: &Job, context: &mut Context) -> Result<ImageShard> {
    let teacher = context.teacher_card();
    let (mut samples, mut values, mut teacher_logits, mut masks) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for made in batches {
        let Answers { classes, confidences, logits, pixels } = &made.answers;
        for ((&target, &teacher_class), &teacher_confidence) in made.targets.iter().zip(classes).zip(confidences) {
            samples.push(SampleRow {
                // Unique in a run: a round makes fewer than 2³² images.
                sample_id: (u64::from(job.round()) << 32) | samples.len() as u64,
                target,
                teacher_class,
                teacher_confidence,
                loss_batch_norm: made.terms.batch_norm,
                loss_task: made.terms.task,
                loss_balance: made.terms.balance,
                loss_adversarial: made.terms.adversarial,
                loss_total: made.terms.total,
                round: job.round(),
            });
        }
        values.extend(images::to_planes(&made.images)?);
        teacher_logits.extend(logits.flatten_all()?.to_vec1::<f32>()?);
        masks.extend(pixels.iter().flatten().map(|&class| class as u8)); // no card of pixels has more classes
    }
    let format = match format {
        ImageFormat::U8 => PixelFormat::U8,
        ImageFormat::F32 => PixelFormat::F32,
    };
    let info = ImageInfo {
        origin: job.origin(),
        shape: teacher.input,
        normalisation: Normalisation { mean: teacher.mean.clone(), std: teacher.std.clone() },
        class_names: teacher.class_labels(),
    };
    let teacher_masks = (!masks.is_empty()).then_some(masks);
    Ok(ImageShard { info, samples, pixels: Pixels::from_unit(&values, format), teacher_logits, teacher_masks })
}

fn mean(batches: &[Synthesis], term: impl Fn(&Synthesis) -> f32) -> f64 {
    batches.iter().map(|made| f64::from(term(made))).sum::<f64>() / batches.len() as f64
}
