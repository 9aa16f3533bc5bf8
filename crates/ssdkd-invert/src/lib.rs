//! Stage `invert`: synthesize images by inverting the teacher.
//!
//! | reads | writes |
//! |---|---|
//! | teacher; generator of the round before; for φ the class counts of the buffer; after the warm-up, for the adversarial term, the student of the round before | one shard of images with the teacher's labels; the generator and all of its state |

use anyhow::Result;
use serde::{Serialize, Serializer};
use ssdkd_context::{Cards, Inputs, Job, Output, Plan, Recipe, Role, SHARD, Stage, images, signals};
use ssdkd_method::inversion::start;
use ssdkd_method::{
    ClassPrior, Diversity, FailedCheck, ImageFormat, Inversion, InvertSettings, Modulation, Objective, Position,
    Predictions, Synthesis, Term,
};
use ssdkd_nn::TeacherCard;
use ssdkd_shards::{ImageInfo, ImageShard, Normalisation, Origin, Pixels, SampleRow};

/// The stage.
pub const STAGE: Stage = Stage {
    name: "invert",
    warms_up: true,
    program: env!("CARGO_PKG_NAME"),
    about: env!("CARGO_PKG_DESCRIPTION"),
    plan,
};

/// Raised by hand when the same recipe gives other results.
const VERSION: u32 = 3;

/// The round whose terms are checked: the generator has left its random start, and little is lost yet.
const CHECKED_ROUND: u32 = 2;

const GENERATOR: &str = "generator.safetensors";

/// What decides a round's images, besides the inputs.
#[derive(Serialize)]
struct Settings {
    /// Those that change something in this round.
    #[serde(serialize_with = "fingerprint")]
    invert: InvertSettings,
    /// Empty unless it changes the images.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    class_prior: Vec<f64>,
    /// All settings: the generator outlives this round.
    #[serde(skip)]
    generator: InvertSettings,
    #[serde(skip)]
    prior: ClassPrior,
    #[serde(skip)]
    distilling_round: Option<u32>,
    #[serde(skip)]
    looks_at_student: bool,
    /// The round whose class counts φ looks at.
    #[serde(skip)]
    class_counts: Option<u32>,
    #[serde(skip)]
    checks_terms: bool,
}

fn fingerprint<S: Serializer>(settings: &InvertSettings, serializer: S) -> Result<S::Ok, S::Error> {
    settings.fingerprint().serialize(serializer)
}

/// Plans the images of a round.
fn plan(recipe: &Recipe, cards: &Cards, round: u32) -> Result<Plan> {
    let distilling_round = recipe.distilling_round(round);
    let invert = recipe.invert.relevant(distilling_round);
    let looks_at_student = invert.looks_at_student(distilling_round);
    let previous = round.checked_sub(1);
    let class_counts = previous.filter(|_| invert.phi.diversity != Diversity::Off);
    let settings = Settings {
        class_prior: if invert.looks_at_prior() { recipe.teacher.class_prior.clone() } else { Vec::new() },
        invert,
        generator: recipe.invert.clone(),
        prior: cards.class_prior(recipe)?,
        distilling_round,
        looks_at_student,
        class_counts,
        checks_terms: round == CHECKED_ROUND.min(recipe.total_rounds() - 1),
    };
    let plan = Plan::new(STAGE.output(round), VERSION, recipe.run.seed, settings, execute)
        .reads_teacher()
        .reads_state(previous.map(Output::invert))
        .reads_class_counts(class_counts);
    Ok(if looks_at_student { plan.reads_student(recipe) } else { plan })
}

/// Makes the images of a round.
fn execute(settings: &Settings, inputs: &mut Inputs<'_>, job: &mut Job) -> Result<()> {
    let &Settings { ref invert, ref prior, distilling_round, .. } = settings;
    let (seed, round) = (inputs.seed(), inputs.round());
    let (teacher, card) = (inputs.teacher()?, inputs.teacher_card()?);
    let student = settings.looks_at_student.then(|| inputs.student()).transpose()?;
    let class_counts = settings.class_counts.map_or(Ok(Vec::new()), |round| inputs.class_counts(round))?;
    let modulation = Modulation::new(invert.phi, &class_counts).with_prior(prior);
    let mut inversion = generator_before(settings, inputs)?;

    let mut batches = Vec::with_capacity(invert.batches);
    let interrupt = || signals::check().map_err(candle_core::Error::msg);
    let objective = Objective::new(invert.loss, &teacher, student.as_deref(), &modulation)
        .with_prior(prior)
        .interruptible(&interrupt);
    let progress = job.progress(invert.batches as u64);
    for batch in 0..invert.batches as u32 {
        let made = inversion.synthesize(&objective, Position { seed, round, distilling_round, batch });
        // A request to stop passes through candle's error type: it is looked at here, for the right exit code.
        signals::check()?;
        let made = made?;
        progress.advance(1, || {
            let terms = made.loss.terms().iter().map(|(term, value)| format!("{} {value:.2}", term.name()));
            terms.collect::<Vec<_>>().join(" ")
        });
        batches.push(made);
    }
    progress.finish();

    let shard = shard(&batches, invert.image_format, round, job.origin(), &card)?;
    let confidences = shard.samples.iter().map(|row| row.teacher_confidence).collect::<Vec<_>>();
    job.report_health(FailedCheck::of_images(&shard.pixels.to_unit(), &confidences, card.classes))?;
    let terms = mean_terms(&batches);
    if settings.checks_terms {
        job.report_health(FailedCheck::of_terms(&terms, &invert.loss, card.classes, right(&shard.samples)))?;
    }
    job.metric("images", shard.samples.len() as f64);
    for (term, value) in terms {
        job.metric(&format!("loss_{}", term.name()), value);
    }
    job.metric("loss", mean(&batches.iter().map(|made| made.loss.total).collect::<Vec<_>>()));
    let digest = job.write(SHARD, &shard.encode()?, Some(shard.samples.len() as u64), Role::Shard)?;
    inputs.memory().keep_made(round, &digest, shard);
    let state = inversion.state_dict().to_safetensors()?;
    let digest = job.write(GENERATOR, &state, None, Role::State)?;
    inputs.memory().generator.put(&digest, inversion);
    Ok(())
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
fn generator_before(settings: &Settings, inputs: &mut Inputs<'_>) -> Result<Box<dyn Inversion>> {
    let (teacher, seed, device) = (inputs.teacher()?, inputs.seed(), inputs.device()?);
    let start = || start(&settings.generator, &teacher, seed, &device);
    let Some(previous) = inputs.round().checked_sub(1) else { return Ok(start()?) };
    let previous = Output::invert(previous);
    let digest = inputs.digest(previous, GENERATOR)?;
    if let Some(kept) = inputs.memory().generator.take(&digest) {
        return Ok(kept);
    }
    let mut inversion = start()?;
    inversion.load_state_dict(inputs.state_dict(previous, GENERATOR)?)?;
    Ok(inversion)
}

/// One shard of all batches, in order.
fn shard(
    batches: &[Synthesis],
    format: ImageFormat,
    round: u32,
    origin: Origin,
    teacher: &TeacherCard,
) -> Result<ImageShard> {
    let (mut samples, mut values, mut teacher_logits, mut masks) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for made in batches {
        let Predictions { classes, confidences, logits, pixels } = &made.predictions;
        for ((&target, &teacher_class), &teacher_confidence) in made.targets.iter().zip(classes).zip(confidences) {
            let mut row = SampleRow {
                // Unique in a run: a round makes fewer than 2³² images.
                sample_id: (u64::from(round) << 32) | samples.len() as u64,
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
                round,
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
    let pixels = match format {
        ImageFormat::U8 => Pixels::rounded(&values),
        ImageFormat::F32 => Pixels::F32(values),
    };
    let (mean, std) = teacher.preprocessing.normalization_of_rgb(&teacher.mean, &teacher.std);
    let info = ImageInfo {
        origin,
        shape: teacher.input,
        normalisation: Normalisation { mean, std },
        class_names: teacher.class_labels(),
    };
    let teacher_masks = (!masks.is_empty()).then_some(masks);
    Ok(ImageShard { info, samples, pixels, teacher_logits, teacher_masks })
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
