//! The teacher and the student of a run.

use std::rc::Rc;

use anyhow::{Context as _, Result, bail};
use ssdkd_nn::{Network, StateDict, start_from_teacher};
use ssdkd_shards::digest;

use crate::cards::card_error;
use crate::output::Output;
use crate::reader::Reader;
use crate::recipe::Start;

/// The student's weights within `distill`'s folder of a round.
pub const STUDENT: &str = "student.safetensors";

impl Reader {
    /// Returns the teacher.
    pub fn teacher(&mut self) -> Result<Rc<Network>> {
        let cards = self.run.cards();
        let digest = &cards.teacher().digest;
        if let Some(teacher) = self.memory.teacher.get(digest) {
            return Ok(teacher.clone());
        }
        let teacher = cards.teacher().network(&cards.teacher_path, self.device.get()?).map_err(card_error)?;
        let teacher = Rc::new(teacher.frozen());
        self.memory.teacher.put(digest, teacher.clone());
        Ok(teacher)
    }

    /// Returns the student as it is before `round`: as the round before left it, or as the recipe starts it.
    pub(crate) fn student_before(&mut self, round: u32) -> Result<Rc<Network>> {
        match self.recipe().distilling_round(round) {
            Some(0) | None => self.fresh_student(),
            Some(_) => self.student_after(round - 1),
        }
    }

    /// Returns the student that `distill` left in `round`.
    pub(crate) fn student_after(&mut self, round: u32) -> Result<Rc<Network>> {
        let output = Output::distill(round);
        let digest = self.outputs.digest(output, STUDENT)?;
        if let Some(student) = self.memory.student.get(&digest) {
            return Ok(student.clone());
        }
        let tensors = self.state_dict(output, STUDENT)?;
        let student = Network::load(self.run.cards().student(), tensors, self.device()?)
            .with_context(|| format!("{} cannot be used", self.outputs.path(output, STUDENT).display()))?;
        let student = Rc::new(student);
        self.memory.student.put(&digest, student.clone());
        Ok(student)
    }

    /// Returns the result of the run as it stands after `round`: the mean of the students of the [last rounds](crate::Recipe::averaged_rounds),
    /// weights and running statistics alike.
    pub fn result_after(&mut self, round: u32) -> Result<Rc<Network>> {
        let rounds = self.recipe().averaged_rounds(round);
        if rounds.clone().count() == 1 {
            return self.student_after(round);
        }
        let students = rounds.map(|round| self.state_dict(Output::distill(round), STUDENT));
        let mean = StateDict::mean(students)?;
        Ok(Rc::new(Network::load(self.run.cards().student(), mean, self.device()?)?))
    }

    /// Returns what [`result_after`](Self::result_after) is, as texts say it.
    pub fn describe_result(&self, round: u32) -> String {
        let rounds = self.recipe().averaged_rounds(round);
        match *rounds.start() {
            first if first == round => format!("the student of round {round}"),
            first => format!("the mean of the students of rounds {first} to {round}"),
        }
    }

    /// Returns what names these numbers: the digest of the file for one student, of their digests for several.
    pub fn result_digest(&mut self, round: u32) -> Result<String> {
        let rounds = self.recipe().averaged_rounds(round);
        let digests = rounds.map(|round| self.outputs.digest(Output::distill(round), STUDENT));
        let digests = digests.collect::<Result<Vec<_>>>()?;
        Ok(match digests.as_slice() {
            [digest] => digest.clone(),
            digests => digest::of_bytes(digests.concat().as_bytes()),
        })
    }

    /// Returns a student that has not learned anything: a function of the run's seed, and of the network it starts from.
    fn fresh_student(&mut self) -> Result<Rc<Network>> {
        let recipe = self.recipe();
        let start = recipe.student.start;
        let student = Network::create(self.run.cards().student(), recipe.run.seed, self.device()?)?;
        match (start, &self.run.cards().student_card) {
            (Start::Random | Start::Auto, _) => {}
            (Start::Teacher, _) => start_from_teacher(&student, &*self.teacher()?)?,
            (Start::Card, Some((card, path))) => {
                let bytes = card.read_weights(path).map_err(card_error)?;
                student.store().load_state_dict(StateDict::from_safetensors(&bytes, self.device()?)?)?;
            }
            (Start::Card, None) => bail!("student.start is \"card\", and there is no student.card"),
        }
        Ok(Rc::new(student))
    }

    /// Returns the tensors of a safetensors file.
    pub(crate) fn state_dict(&self, output: Output, file: &str) -> Result<StateDict> {
        let (bytes, path) = self.outputs.read(output, file)?;
        StateDict::from_safetensors(&bytes, self.device()?).with_context(|| format!("cannot read {}", path.display()))
    }
}
