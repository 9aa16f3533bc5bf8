//! One generator, trained for the whole run.
//!
//! ```text
//! each step:  z ~ N(0, 1), fresh;  x = g(z);  t = f_t(view(x)),  s = f_s(view(x)) after the warm-up
//!             the loss of `loss.rs` with targets argmax t;  one Adam step on g                                 [O][C: DAFL]
//! ```
//!
//! Where the settings name the classes that images should be of, x = g(z, ρ·e_{y,m}) and the class term is CE(t, y). e_{y,m} is the unit
//! vector of one of the M embeddings of class y, m is drawn with z, and ρ is the embeddings' scale \[O; C, for M = 1: conditional GANs,
//! Mirza and Osindero 2014\]. Without it z alone decides on the class, and g is continuous: between the latents of two classes lie images
//! of neither. With one embedding for a class g settles on one mode of it, which z colors. Each embedding has weights of its own in g's
//! first layer, and so a mode of its own. For 100 classes of 500 modes that would be most of the network, so with a rank r > 0
//! g gets ρ·E_{y,m} instead: E is a trained table of K·M rows of r numbers, and the first layer's weights are shared. Row (y, m)
//! starts as the direction of the teacher's weights of class y, and of a random direction if M > 1 \[O\].
//!
//! Nothing is optimized image by image, so a batch costs as many steps as the settings say, one by default, and images
//! follow the student's latest mistakes. At small budgets this improved a student far more than the meta-generator did in
//! the same time: what a small buffer lacks is not better images but newer ones \[O\].

use candle_core::{D, Device, Error, Result, Tensor, bail};
use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ssdkd_nn::random::{normal_tensor, stream};
use ssdkd_nn::views::DrawnViews;
use ssdkd_nn::{Mode, Network, Optimizer, StateDict};
use ssdkd_ops as ops;
use ssdkd_ops::Value;

use crate::inversion::batch_norm::BatchNormMomentum;
use crate::inversion::generator::{ResetSchedule, Sizes, TrainedGenerator};
use crate::inversion::loss::{Constants, Evaluated, Loss, Objective, UnreadLoss};
use crate::inversion::loss_settings::LossSettings;
use crate::inversion::synthesis::{BatchSettings, Inversion, Position, Synthesis, TargetRule};
use crate::replay::{Made, Replayed};

/// Strategy "persistent": one generator, trained for the whole run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PersistentSettings {
    /// Numbers in a latent z \[C: 256\].
    #[schemars(range(min = 1, max = 65_536))]
    pub latent_size: usize,
    /// Channels of the generator's last hidden layer; the first one has twice as many \[C: 64\].
    #[schemars(range(min = 1, max = 4096))]
    pub width: usize,
    /// Adam's learning rate for the generator \[O: 1e-3\].
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub lr: f64,
    /// Adam's first decay \[C: 0.5\].
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1.0))]
    pub beta1: f64,
    /// Adam's second decay \[C: 0.999\].
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1.0))]
    pub beta2: f64,
    /// Class embeddings of each class: modes that the generator can learn for it. Used unless targets is "predicted" \[O\].
    #[schemars(range(min = 1, max = 1000))]
    pub embeddings_per_class: usize,
    /// Length of a class embedding. A large one lets an embedding that is seldom drawn move far. Used unless targets is "predicted" \[O\].
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub embedding_scale: f64,
    /// Numbers of a class embedding, in a table that starts from the teacher's last layer. 0: each embedding has weights of its own in the
    /// generator's first layer, which takes much memory for many classes or embeddings \[O\].
    #[schemars(range(min = 0, max = 4096))]
    pub embedding_rank: usize,
    /// Re-initialize the generator's first linear layer once, at the start of this round (from 1, after the warm-up); 0: never.
    pub reset_round: u32,
    /// Re-initialize it at the start of every so many rounds after the warm-up; 0: never \[O\] \[C: NAYER, for each batch\].
    pub reset_every: u32,
}

impl Default for PersistentSettings {
    fn default() -> Self {
        Self {
            latent_size: 256,
            width: 64,
            lr: 1e-3,
            beta1: 0.5,
            beta2: 0.999,
            embeddings_per_class: 1,
            embedding_scale: 4.0,
            embedding_rank: 0,
            reset_round: 0,
            reset_every: 0,
        }
    }
}

impl PersistentSettings {
    /// The default of `[invert.loss]` for this strategy \[O\].
    pub const LOSS: LossSettings =
        LossSettings { batch_norm: 1.0, class: 0.5, balance: 10.0, adversarial: 1.0, ..LossSettings::NONE };

    pub(crate) fn resets(&self) -> ResetSchedule {
        ResetSchedule { round: self.reset_round, every: self.reset_every }
    }
}

/// The generator of strategy "persistent" and its state; see the [module](self).
pub struct PersistentGenerator {
    settings: PersistentSettings,
    batch: BatchSettings,
    generator: TrainedGenerator,
    steps: Replayed<Step, Constants>,
    labels: Replayed<(Tensor, Tensor)>,
}

/// What a step makes.
struct Step {
    /// (B, H, W, C).
    images: Tensor,
    loss: UnreadLoss,
    /// Of the images, layer by layer; empty where no averages are kept.
    statistics: Vec<(Tensor, Tensor)>,
}

/// What the tensors of a step are: the optimizer's `rates` numbers and behind them φ's diversities; the targets; what was drawn for the
/// views; the inputs of the generator.
#[derive(Clone, Copy)]
struct Layout {
    rates: usize,
    /// Whether there are targets.
    targets: bool,
    /// Tensors that the views were drawn as.
    drawn: usize,
}

impl Made for Step {
    fn copied(&self) -> Result<Self> {
        let Self { images, loss, statistics } = self;
        Ok(Self { images: images.copied()?, loss: loss.copied()?, statistics: statistics.copied()? })
    }
}

impl PersistentGenerator {
    /// Returns a fresh generator, its weights a function of `seed`.
    pub fn new(
        settings: PersistentSettings,
        batch: BatchSettings,
        averages: BatchNormMomentum,
        teacher: &Network,
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        let embeddings = match batch.targets {
            TargetRule::Predicted => 0,
            TargetRule::Random | TargetRule::Balanced => teacher.classes() * settings.embeddings_per_class,
        };
        let rank = if embeddings > 0 { settings.embedding_rank } else { 0 };
        let behind = if rank > 0 { rank } else { embeddings };
        let sizes = Sizes { inputs: settings.latent_size + behind, width: settings.width };
        let betas = (settings.beta1, settings.beta2);
        let table = if rank > 0 { Some((TABLE, embedding_table(teacher, &settings, seed)?)) } else { None };
        let generator = TrainedGenerator::with_table(sizes, betas, averages, teacher, seed, device, table)?;
        Ok(Self { settings, batch, generator, steps: Replayed::default(), labels: Replayed::default() })
    }

    /// Draws what the network makes a step's images of `targets` from: fresh latents, and behind them the class embedding.
    fn inputs(&self, position: Position, step: usize, targets: Option<&[u32]>, classes: usize) -> Result<Vec<Tensor>> {
        let store = &self.generator.store;
        let latents = self.batch.latents(self.settings.latent_size, position, step, store.device())?;
        let Some(targets) = targets else { return Ok(vec![latents]) };
        self.with_embeddings(latents, &self.draw_embeddings(position, step, targets), classes)
    }

    /// Draws one of the embeddings of each image's class, M·y to M·y + M − 1 for class y.
    fn draw_embeddings(&self, position: Position, step: usize, targets: &[u32]) -> Vec<u32> {
        let embeddings = self.settings.embeddings_per_class as u32;
        // The stream keeps the name of embeddings' first days: another one would change every image.
        let mut rng = position.stream("invert/codes", step);
        targets.iter().map(|&target| target * embeddings + rng.random_range(0..embeddings)).collect()
    }

    /// Appends to `latents` (B, latent) each row's embedding: (B, latent + K·M) with ρ at its place and 0 at all others, M embeddings
    /// for each of K classes. With a table both stay apart, for [`joined`](Self::joined).
    fn with_embeddings(&self, latents: Tensor, embeddings: &[u32], classes: usize) -> Result<Vec<Tensor>> {
        let (batch, width) = (embeddings.len(), classes * self.settings.embeddings_per_class);
        let mut places = vec![0.0; batch * width];
        for (row, &embedding) in places.chunks_exact_mut(width).zip(embeddings) {
            row[embedding as usize] = self.settings.embedding_scale as f32;
        }
        let places = Tensor::from_vec(places, (batch, width), latents.device())?;
        let apart = self.generator.store.find(TABLE).is_some();
        Ok(if apart { vec![latents, places] } else { vec![Tensor::cat(&[latents, places], 1)?] })
    }

    /// Returns what the network takes of these [inputs](Self::inputs). With a table that is (B, 1, 1, latent + r).
    fn joined(&self, inputs: &[Tensor]) -> Result<Value> {
        match (inputs, self.generator.store.find(TABLE)) {
            ([latents, places], Some(table)) => {
                let embeddings = ops::linear(&Value::constant(places.clone()), &Value::leaf(&table), None)?; // (B, r)
                let as_map = |rows: &Value| ops::reshape(rows, (places.dim(0)?, 1, 1, ()));
                ops::concat_channels(&[&as_map(&Value::constant(latents.clone()))?, &as_map(&embeddings)?])
            }
            ([inputs], _) => Ok(Value::constant(inputs.clone())),
            _ => bail!("{} tensors are no inputs of the generator", inputs.len()),
        }
    }

    /// Takes one Adam step on fresh inputs of the generator. A GPU may replay it.
    fn step(
        &mut self,
        objective: &Objective<'_>,
        inputs: Vec<Tensor>,
        targets: Option<&[u32]>,
        position: Position,
        step: usize,
    ) -> Result<Step> {
        objective.check_interrupt()?;
        let mut numbers = self.generator.optimizer.next_rates(self.settings.lr);
        let rates = numbers.len();
        numbers.extend(objective.modulation.diversities(objective.teacher.classes()));
        let batch = inputs.first().map_or(Ok(0), |inputs| inputs.dim(0))?;
        let (_, _, channels) = objective.teacher.input_shape(); // (H, W, C)
        let views = self.batch.views.draw(batch, channels, &mut position.stream("invert/views", step))?;

        let device = self.generator.store.device();
        let mut tensors = vec![Tensor::new(numbers, device)?];
        tensors.extend(targets.map(|targets| Tensor::new(targets, device)).transpose()?);
        let drawn = views.tensors(device)?;
        let layout = Layout { rates, targets: targets.is_some(), drawn: drawn.len() };
        tensors.extend(drawn.into_iter().chain(inputs));

        let networks = [Some(objective.teacher), objective.student].into_iter().flatten();
        let stores = networks.map(Network::store).chain([&self.generator.store]).collect::<Vec<_>>();
        let mut replayed = std::mem::take(&mut self.steps);
        let order = |tensors| self.order(objective, layout, &views, tensors);
        let done = if self.generator.averages.keeps_averages() {
            order(tensors) // averages are other tensors after each batch
        } else {
            replayed.step(objective.constants(), tensors, &stores, order)
        };
        self.steps = replayed;
        done
    }

    /// Orders the work of a step on `tensors`, which lie as `layout` says.
    fn order(
        &self,
        objective: &Objective<'_>,
        layout: Layout,
        views: &DrawnViews,
        tensors: Vec<Tensor>,
    ) -> Result<Step> {
        let TrainedGenerator { network, optimizer, averages, .. } = &self.generator;
        let mut tensors = tensors.into_iter();
        let mut next = || tensors.next().ok_or_else(|| Error::msg("a step of the generator lacks a tensor"));
        let numbers = next()?;
        let targets = if layout.targets { Some(next()?) } else { None };
        let drawn = (0..layout.drawn).map(|_| next()).collect::<Result<Vec<_>>>()?;
        let diversities = numbers.narrow(0, layout.rates, numbers.elem_count() - layout.rates)?;
        let rates = numbers.narrow(0, 0, layout.rates)?;

        let images = network.forward(&self.joined(&tensors.collect::<Vec<_>>())?, Mode::Train)?; // (B, H, W, C)
        let views = views.of(&images, &drawn)?;
        let Evaluated { terms, statistics, .. } =
            objective.evaluate_at(&views, targets.as_ref(), &diversities, averages)?;
        let (total, loss) = terms.total()?;
        let made = images.tensor().clone();
        drop((images, views));
        optimizer.step_at(&total.backward()?, &rates)?;
        let statistics = if averages.keeps_averages() { statistics } else { Vec::new() };
        Ok(Step { images: made, loss, statistics })
    }
}

impl Inversion for PersistentGenerator {
    fn synthesize(&mut self, objective: &Objective<'_>, position: Position) -> Result<Synthesis> {
        self.generator.reset_if_due(self.settings.resets(), position)?;
        let classes = objective.teacher.classes();
        let targets = self.batch.targets(position, classes, objective.prior);
        if !objective.loss.any(objective.student.is_some()) {
            // A generator that only follows the student has nothing to learn in the warm-up.
            let inputs = self.inputs(position, 0, targets.as_deref(), classes)?;
            let images = self.generator.network.forward(&self.joined(&inputs)?, Mode::TrainFrozen)?;
            return self.batch.finish(objective.teacher, images.tensor(), targets, Loss::default());
        }
        let mut last = None;
        for step in 0..self.batch.steps {
            let inputs = self.inputs(position, step, targets.as_deref(), classes)?;
            let done = self.step(objective, inputs, targets.as_deref(), position, step)?;
            if let Some(before) = last.replace(done) {
                before.loss.read()?; // whether it is finite; that of the last step is read with the labels
            }
        }
        let Some(Step { images, loss, statistics }) = last else {
            bail!("invert.steps is 0; a batch needs at least one generator step")
        };
        self.generator.averages.update(statistics)?;
        let label = |images: Vec<Tensor>| self.batch.label(objective.teacher, &images[0]);
        let labeled = self.labels.step((), vec![images], &[objective.teacher.store()], label)?;
        BatchSettings::finish_and_read(objective.teacher, labeled, targets, loss)
    }

    fn state_dict(&self) -> StateDict {
        self.generator.state_dict()
    }

    fn load_state_dict(&mut self, state: StateDict) -> Result<()> {
        self.generator.load_state_dict(state)
    }
}

/// The name of the table of class embeddings among the generator's tensors.
const TABLE: &str = "embeddings.weight";

/// Returns a fresh table of class embeddings (r, K·M), each column of length 1; see the [module](self).
fn embedding_table(teacher: &Network, settings: &PersistentSettings, seed: u64) -> Result<Tensor> {
    let (classes, modes, rank) = (teacher.classes(), settings.embeddings_per_class, settings.embedding_rank);
    let mut rng = stream(seed, "invert/embeddings", &[]);
    let unit = |rows: &Tensor| rows.broadcast_div(&(rows.sqr()?.sum_keepdim(D::Minus1)?.sqrt()? + 1e-12)?);
    let weights = teacher.class_weights()?;
    let features = weights.as_ref().map_or(Ok(1), |weights| weights.dim(1))?;
    let projection = normal_tensor(&mut rng, (features, rank), &Device::Cpu)?;
    let noise = unit(&normal_tensor(&mut rng, (classes, modes, rank), &Device::Cpu)?)?;
    let Some(weights) = weights else { return noise.reshape((classes * modes, rank))?.t()?.contiguous() };
    // Directions keep their angles, about, in a random projection \[C: Johnson and Lindenstrauss 1984\].
    let weights = weights.to_device(&Device::Cpu)?; // (K, F)
    let weights = weights.broadcast_sub(&weights.mean_keepdim(0)?)?;
    let of_class = unit(&weights.matmul(&projection)?)?.reshape((classes, 1, rank))?;
    let rows = if modes > 1 { unit(&of_class.broadcast_add(&noise)?)? } else { of_class };
    rows.reshape((classes * modes, rank))?.t()?.contiguous()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{Golden, check_parameters, device, fill, formula, network, numbers};
    use crate::inversion::loss::Term;
    use crate::inversion::synthesis::ImageFormat;
    use crate::modulation::{Modulation, ModulationSettings};
    use ssdkd_nn::DifferentiableViewSettings;

    fn generator(settings: PersistentSettings, targets: TargetRule, batch: usize) -> PersistentGenerator {
        let settings = PersistentSettings { latent_size: 8, width: 4, ..settings };
        let (image_format, views) = (ImageFormat::U8, DifferentiableViewSettings::OFF);
        let batch = BatchSettings { batch, steps: 1, targets, image_format, views };
        let averages = BatchNormMomentum::of(&PersistentSettings::LOSS);
        PersistentGenerator::new(settings, batch, averages, &network(1), 0, &device()).unwrap()
    }

    #[track_caller]
    fn check_steps(name: &str, targets: Option<[u32; 5]>) {
        let golden = Golden::load();
        let (teacher, student) = (network(1), network(2));
        let rule = if targets.is_some() { TargetRule::Random } else { TargetRule::Predicted };
        let settings = PersistentSettings { embedding_scale: 1.5, ..Default::default() };
        let modulation = Modulation::new(ModulationSettings::OFF, &[]);
        let objective = Objective::new(PersistentSettings::LOSS, &teacher, Some(&student), &modulation);
        let mut persistent = generator(settings, rule, 5);
        fill(&persistent.generator.store, 3);
        let position = Position { seed: 0, round: 0, distilling_round: Some(0), batch: 0 };
        let targets = targets.as_ref().map(|targets| &targets[..]);
        for step in 0..3 {
            let latents = formula(30 + step, &[5, 8], 2.0);
            let inputs = match targets {
                Some(embeddings) => persistent.with_embeddings(latents, embeddings, 4).unwrap(),
                None => vec![latents],
            };
            let made = persistent.step(&objective, inputs, targets, position, step as usize).unwrap();
            let loss = made.loss.read().unwrap();
            let terms = [Term::BatchNorm, Term::Class, Term::Balance, Term::Adversarial];
            let terms = terms.map(|term| loss.term(term).unwrap());
            golden.check(&format!("{name}.losses.{step}"), &[&terms[..], &[loss.total]].concat(), 1e-4);
            if step == 2 {
                golden.check(&format!("{name}.images"), &numbers(&made.images), 1e-3);
            }
        }
        check_parameters(&golden, &format!("{name}.generator"), &persistent.generator.store, 1e-3);
    }

    #[test]
    fn three_steps_are_those_of_pytorch() {
        check_steps("persistent", None);
        check_steps("conditional", Some([2, 0, 3, 3, 1]));
    }

    #[test]
    fn embeddings_are_of_the_image_s_class_and_uniform() {
        let settings = PersistentSettings { embeddings_per_class: 3, ..Default::default() };
        let persistent = generator(settings, TargetRule::Random, 6);
        let position = Position { seed: 9, round: 1, distilling_round: None, batch: 0 };
        let targets = [2, 0, 1].repeat(1000);
        let mut counts = [0_u32; 9];
        for (embedding, target) in persistent.draw_embeddings(position, 0, &targets).into_iter().zip(&targets) {
            assert_eq!(embedding / 3, *target);
            counts[embedding as usize] += 1;
        }
        assert!(counts.iter().all(|&count| (270..400).contains(&count)), "{counts:?}");
        // Another embedding makes another image of the same latents.
        let latents = formula(30, &[6, 8], 2.0);
        let inputs = |embedding| persistent.with_embeddings(latents.clone(), &[embedding; 6], 4).unwrap();
        assert_eq!(inputs(5)[0].dims(), [6, 8 + 4 * 3]);
        let images = |embedding| {
            let inputs = persistent.joined(&inputs(embedding)).unwrap();
            numbers(persistent.generator.network.forward(&inputs, Mode::TrainFrozen).unwrap().tensor())
        };
        assert_ne!(images(5), images(4));
    }
    /// Class embeddings of rank 3: M for each of four classes.
    fn with_table(embeddings_per_class: usize) -> PersistentGenerator {
        let settings = PersistentSettings { embeddings_per_class, embedding_rank: 3, ..Default::default() };
        generator(settings, TargetRule::Random, 6)
    }

    #[test]
    fn a_table_of_embeddings_starts_from_the_last_layer_of_the_teacher() {
        let rows = |persistent: &PersistentGenerator| {
            persistent.generator.store.find(TABLE).unwrap().t().unwrap().to_vec2::<f32>().unwrap()
        };
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let (one, five) = (rows(&with_table(1)), rows(&with_table(5)));
        assert_eq!((one.len(), five.len()), (4, 20));
        assert!(one.iter().chain(&five).all(|row| (dot(row, row) - 1.0).abs() < 1e-5), "{one:?}");
        // The embeddings of a class are around its direction, each in another place.
        let of_class = |class: usize| five[5 * class..][..5].iter().map(|row| dot(row, &one[class])).sum::<f32>() / 5.0;
        assert!((0..4).all(|class| of_class(class) > 0.3), "{five:?}");
        assert!(five.iter().enumerate().all(|(at, row)| !five[..at].contains(row)));
    }

    #[test]
    fn a_table_of_embeddings_is_trained_and_part_of_the_state() {
        let teacher = network(1);
        let modulation = Modulation::new(ModulationSettings::OFF, &[]);
        let objective = Objective::new(PersistentSettings::LOSS, &teacher, None, &modulation);
        let position = Position { seed: 9, round: 0, distilling_round: None, batch: 0 };
        let mut trained = with_table(2);
        let before = numbers(&trained.generator.store.find(TABLE).unwrap());
        trained.synthesize(&objective, position).unwrap();
        let after = trained.generator.store.deep_clone().unwrap().find(TABLE).unwrap();
        assert_ne!(numbers(&after), before);
        // The first layer is as wide for any number of embeddings.
        let inputs =
            |persistent: &PersistentGenerator| persistent.generator.store.find("l1.0.weight").unwrap().dims()[1];
        assert_eq!((inputs(&trained), inputs(&with_table(50))), (8 + 3, 8 + 3));
        let mut restored = with_table(2);
        restored.load_state_dict(trained.state_dict()).unwrap();
        assert_eq!(numbers(&restored.generator.store.find(TABLE).unwrap()), numbers(&after));
    }
}
