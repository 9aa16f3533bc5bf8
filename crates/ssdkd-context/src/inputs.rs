//! What the execution of a plan reads: the inputs that the plan declares, and no others.

use std::rc::Rc;

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use ssdkd_nn::{Network, StateDict, TeacherCard};
use ssdkd_shards::{ImageRef, ImageShard, Role, Row};

use crate::memory::Memory;
use crate::output::Output;
use crate::reader::Reader;

/// What the execution of a plan may read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reads {
    pub(crate) teacher: bool,
    /// The student as it is before this round.
    pub(crate) student: bool,
    /// An output, and what of it besides its data.
    pub(crate) outputs: Vec<(Output, Role)>,
    /// The round after whose `balance` the class counts are read.
    pub(crate) class_counts: Option<u32>,
}

impl Reads {
    /// Returns whether files of this role are declared. Data is, with everything of an output.
    pub(crate) fn allow(&self, output: Output, role: Role) -> bool {
        self.outputs.iter().any(|&(read, of)| read == output && (role == Role::Data || role == of))
    }

    /// Returns every output that a change of these inputs comes from.
    pub(crate) fn all(&self) -> impl Iterator<Item = Output> {
        self.outputs.iter().map(|&(output, _)| output).chain(self.class_counts.map(Output::balance))
    }
}

/// The inputs that a plan declares. Any other is refused.
pub struct Inputs<'a> {
    reader: &'a mut Reader,
    output: Output,
    seed: u64,
    reads: Reads,
}

impl<'a> Inputs<'a> {
    pub(crate) fn new(reader: &'a mut Reader, output: Output, seed: u64, reads: Reads) -> Self {
        Self { reader, output, seed, reads }
    }

    /// Returns the round that is executed.
    pub fn round(&self) -> u32 {
        self.output.round
    }

    /// Returns the run's seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    fn check(&self, is_declared: bool, what: &str) -> Result<()> {
        ensure!(is_declared, "{} reads {what}, which its plan does not declare", self.output);
        Ok(())
    }

    fn check_output(&self, input: Output, role: Role) -> Result<()> {
        self.check(self.reads.allow(input, role), &format!("{role:?} of {input}"))
    }

    /// Returns where to compute.
    pub fn device(&self) -> Result<Device> {
        Ok(self.reader.device()?.clone())
    }

    /// Returns the networks and images in memory. What is there is found by the digest of a declared file.
    pub fn memory(&mut self) -> &mut Memory {
        &mut self.reader.memory
    }

    /// Returns the teacher.
    pub fn teacher(&mut self) -> Result<Rc<Network>> {
        self.check(self.reads.teacher, "the teacher")?;
        self.reader.teacher()
    }

    /// Returns the teacher's card.
    pub fn teacher_card(&self) -> Result<Rc<TeacherCard>> {
        self.check(self.reads.teacher, "the teacher")?;
        Ok(self.reader.teacher_card())
    }

    /// Returns the student as it is before this round.
    pub fn student(&mut self) -> Result<Rc<Network>> {
        self.check(self.reads.student, "the student")?;
        self.reader.student_before(self.output.round)
    }

    /// Returns the digest of a file of an output.
    pub fn digest(&mut self, input: Output, file: &str) -> Result<String> {
        self.check_output(input, Role::Data)?;
        let entry = self.reader.outputs.entry(input, file)?;
        self.check_output(input, entry.role)?;
        Ok(entry.blake3)
    }

    /// Returns the tensors of a safetensors file of an output.
    pub fn state_dict(&mut self, input: Output, file: &str) -> Result<StateDict> {
        self.digest(input, file)?;
        self.reader.state_dict(input, file)
    }

    /// Returns a number of an output's manifest.
    pub fn metric(&mut self, input: Output, name: &str) -> Result<Option<f64>> {
        self.check_output(input, Role::Data)?;
        self.reader.outputs.metric(input, name)
    }

    /// Returns a table of an output.
    pub fn table<R: Row>(&self, input: Output) -> Result<Vec<R>> {
        self.check_output(input, Role::Data)?;
        self.reader.outputs.table(input)
    }

    /// Returns how many members of the buffer are of each class after `balance` of `round`.
    pub fn class_counts(&self, round: u32) -> Result<Vec<u64>> {
        self.check(self.reads.class_counts == Some(round), &format!("class counts of {round:04}"))?;
        self.reader.outputs.class_counts(round)
    }

    /// Returns the images that `invert` made in `round`.
    pub fn shard(&mut self, round: u32) -> Result<Rc<ImageShard>> {
        self.check_output(Output::invert(round), Role::Shard)?;
        self.reader.shard(round)
    }

    /// Returns images of the buffer after `balance` of `buffer`, as a tensor (B, H, W, C) in `[0, 1]`.
    pub fn images(&mut self, buffer: u32, places: &[ImageRef]) -> Result<Tensor> {
        self.check_output(Output::balance(buffer), Role::Shard)?;
        self.reader.images(buffer, places)
    }

    /// Returns the teacher's logits (B, K) on the clean images of the buffer after `balance` of `buffer`.
    pub fn teacher_logits(&mut self, buffer: u32, places: &[ImageRef]) -> Result<Tensor> {
        self.check_output(Output::balance(buffer), Role::Shard)?;
        self.reader.teacher_logits(buffer, places)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use ssdkd_shards::DrawRow;
    use ssdkd_stage::{DeviceChoice, RunArgs};

    use super::*;
    use crate::run::Run;

    const FIRST: ImageRef = ImageRef { round: 0, row: 0 };

    fn reads() -> Reads {
        let outputs = vec![(Output::sample(2), Role::Data), (Output::balance(3), Role::Shard)];
        Reads { outputs, class_counts: Some(1), ..Reads::default() }
    }

    #[test]
    fn only_what_is_declared_is_allowed() {
        let reads = reads();
        assert!(reads.allow(Output::sample(2), Role::Data) && !reads.allow(Output::sample(2), Role::State));
        assert!(reads.allow(Output::balance(3), Role::Shard) && reads.allow(Output::balance(3), Role::Data));
        assert!(!reads.allow(Output::sample(1), Role::Data) && !reads.allow(Output::balance(1), Role::Data));
    }

    #[track_caller]
    fn check<T>(read: Result<T>, expected: &str) {
        let error = read.err().expect("nothing is there to read").to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn inputs_that_a_plan_does_not_declare_are_refused() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let runs = tempfile::tempdir().unwrap();
        let recipe = root.join("pipelines/shapes.toml");
        let run = Run::open(&RunArgs { recipe, runs: runs.path().into(), ..RunArgs::default() }).unwrap();
        let mut reader = Reader::new(run, DeviceChoice::Cpu);
        let mut inputs = Inputs::new(&mut reader, Output::sample(3), 0, reads());
        let refused = "which its plan does not declare";
        check(inputs.teacher(), "sample 0003 reads the teacher, which its plan does not declare");
        check(inputs.student(), refused);
        check(inputs.table::<DrawRow>(Output::sample(3)), refused);
        check(inputs.class_counts(3), refused);
        check(inputs.images(2, &[FIRST]), refused);
        check(inputs.shard(3), refused);
        check(inputs.state_dict(Output::invert(2), "generator.safetensors"), refused);
        // What is declared is read.
        check(inputs.images(3, &[FIRST]), "the output of balance, round 3, is missing");
        check(inputs.class_counts(1), "the output of balance, round 1, is missing");
    }

    #[test]
    fn class_counts_come_from_an_output_too() {
        assert_eq!(
            reads().all().map(Output::path).collect::<Vec<_>>(),
            ["sample/0002", "balance/0003", "balance/0001"]
        );
    }
}
