//! How much disk and memory a run takes, counted from its recipe.

use ssdkd_context::{KeepShards, Recipe};
use ssdkd_method::{ImageFormat, OptimizerKind};
use ssdkd_nn::{Task, TeacherCard};

/// Bytes of a row of the buffer's table and of its priorities, of a draw, and of what was observed in a step: as runs left them.
const BUFFER_ROW: f64 = 34.0;
const PRIORITY_ROW: f64 = 29.0;
const DRAWN: f64 = 6.0;
const OBSERVED: f64 = 10.0;
/// Bytes of an `f32` pixel after zstd, of four.
const PACKED_PIXEL: f64 = 3.2;
/// Images in the kept shards for each member of the buffer: a shard stays as long as one of its images is a member. As a run with
/// level classes left it (22 rounds' shards for a buffer of ten rounds' size).
const SPREAD: f64 = 2.2;

/// Bytes of the tensors that a round leaves.
#[derive(Debug, Clone, Copy, Default)]
pub struct RoundState {
    /// The generator with its optimizer.
    pub generator: u64,
    /// The student.
    pub student: u64,
    /// The student's optimizer.
    pub optimizer: u64,
}

impl RoundState {
    /// Counts what can be counted without building a generator, so that the whole is an underestimate.
    pub fn of_student(recipe: &Recipe, parameters: usize) -> Self {
        let student = 4 * parameters as u64;
        let copies = if recipe.distill.optimizer == OptimizerKind::Adam { 2 } else { 1 };
        Self { generator: 0, student, optimizer: copies * student }
    }
}

/// Images that a round makes, and images in the buffer in the end.
fn images(recipe: &Recipe) -> (f64, f64) {
    let a_round = (recipe.invert.batches * recipe.invert.batch) as f64;
    (a_round, (recipe.balance.capacity as f64).min(f64::from(recipe.total_rounds()) * a_round))
}

/// Returns the bytes of one image's mask of classes; 0 where the teacher labels images.
fn mask(teacher: &TeacherCard) -> f64 {
    let [_, height, width] = teacher.input;
    if teacher.architecture.task() == Task::Pixels { (height * width) as f64 } else { 0.0 }
}

/// Returns the bytes of the run folder in the end.
pub fn disk(recipe: &Recipe, teacher: &TeacherCard, state: RoundState) -> u64 {
    let (distill, keep) = (&recipe.distill, &recipe.keep);
    let (rounds, all) = (f64::from(recipe.run.rounds), f64::from(recipe.total_rounds()));
    let (a_round, members) = images(recipe);
    let pixels = teacher.input.iter().product::<usize>() as f64;
    let image = match recipe.invert.image_format {
        ImageFormat::U8 => pixels,
        ImageFormat::F32 => PACKED_PIXEL * pixels,
    } + 4.0 * teacher.classes as f64
        + mask(teacher);
    let made = all * a_round;
    let kept = match keep.shards {
        KeepShards::All => made,
        KeepShards::Buffer => (SPREAD * members + a_round).min(made),
    };
    let states = if keep.states == 0 { all } else { ((keep.states + recipe.starting_points().len()) as f64).min(all) };
    let bytes = kept * image
        + all * BUFFER_ROW * members
        + rounds
            * (PRIORITY_ROW * members
                + DRAWN * distill.draws() as f64
                + OBSERVED * (distill.steps * distill.batch) as f64
                + state.student as f64)
        + states * (state.generator + state.optimizer) as f64;
    bytes as u64
}

/// Returns the bytes of the images that stay in memory between rounds.
pub fn images_in_memory(recipe: &Recipe, teacher: &TeacherCard) -> u64 {
    let (a_round, members) = images(recipe);
    let value = if recipe.invert.image_format == ImageFormat::U8 { 1.0 } else { 4.0 };
    let image = value * teacher.input.iter().product::<usize>() as f64 + mask(teacher);
    let kept = (SPREAD * members).min(f64::from(recipe.total_rounds()) * a_round) + a_round;
    (kept * image) as u64
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn recipe(set: &[&str]) -> Recipe {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let set = set.iter().map(ToString::to_string).collect::<Vec<_>>();
        Recipe::load(&root.join("pipelines/shapes.toml"), &set).unwrap()
    }

    fn teacher() -> TeacherCard {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        TeacherCard::load(&root.join("data/teachers/shapes-resnet20.json")).unwrap()
    }

    #[test]
    fn images_are_most_of_a_run_unless_only_the_buffers_are_kept() {
        let pixels = 70 * 512 * 3072;
        let all = disk(&recipe(&[]), &teacher(), RoundState::default());
        let few = disk(&recipe(&["keep.shards=buffer"]), &teacher(), RoundState::default());
        assert!(all > pixels && all < 2 * pixels, "{all}");
        assert!(few < all / 2 + all / 10, "{few} of {all}");
    }

    #[test]
    fn memory_grows_with_the_buffer_up_to_all_images() {
        let bytes = |capacity: usize| images_in_memory(&recipe(&[&format!("balance.capacity={capacity}")]), &teacher());
        assert!(bytes(1000) < bytes(2000));
        assert_eq!(bytes(1_000_000), (70 * 512 + 512) * 3072);
    }

    #[test]
    fn adam_keeps_two_numbers_for_each_weight() {
        let state = RoundState::of_student(&recipe(&["distill.optimizer=adam"]), 1000);
        assert_eq!((state.student, state.optimizer), (4000, 8000));
    }
}
