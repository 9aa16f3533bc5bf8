//! The teacher and the student of a run.

use std::rc::Rc;

use anyhow::{Context as _, Result, bail};
use ssdkd_nn::{Network, StateDict, start_from_teacher};

use crate::context::{Context, card_error};
use crate::recipe::Start;

/// The student's weights within `distill`'s folder of a round.
pub const STUDENT: &str = "student.safetensors";

impl Context {
    /// The teacher.
    pub fn teacher(&mut self) -> Result<Rc<Network>> {
        let card = self.teacher_card();
        let teacher = match self.kept().take::<Rc<Network>>("teacher", &card.digest) {
            Some(teacher) => teacher,
            None => Rc::new(card.network(self.teacher_card_path(), self.device()?).map_err(card_error)?.frozen()),
        };
        self.kept().put("teacher", &card.digest, teacher.clone());
        Ok(teacher)
    }

    /// The student as it is at the start of `round`: from the round before, or fresh.
    pub fn student_before(&mut self, round: u32) -> Result<Rc<Network>> {
        match self.recipe().distilling_round(round) {
            Some(0) | None => self.fresh_student(),
            Some(_) => self.student_after(round - 1),
        }
    }

    /// As [`student_before`](Self::student_before), but no other caller gets this copy: its weights may change.
    pub fn release_student_before(&mut self, round: u32) -> Result<Rc<Network>> {
        let student = self.student_before(round)?;
        self.kept().retain(|place| place != "student");
        Ok(student)
    }

    /// The student that `distill` left in `round`.
    pub fn student_after(&mut self, round: u32) -> Result<Rc<Network>> {
        let digest = self.file_digest("distill", round, STUDENT)?;
        let student = if let Some(student) = self.kept().take::<Rc<Network>>("student", &digest) {
            student
        } else {
            let tensors = self.read_state_dict("distill", round, STUDENT)?;
            let path = self.run().file("distill", round, STUDENT);
            let student = Network::load(&self.student_spec()?, tensors, self.device()?)
                .with_context(|| format!("{} cannot be used", path.display()))?;
            Rc::new(student)
        };
        self.keep_student(&digest, student.clone());
        Ok(student)
    }

    /// Files the student in memory under the digest of the file that equals it.
    pub fn keep_student(&mut self, digest: &str, student: Rc<Network>) {
        self.kept().put("student", digest, student);
    }

    /// A student that has not learned anything: a function of the run's seed, and of the teacher if it starts from that.
    fn fresh_student(&mut self) -> Result<Rc<Network>> {
        let seed = self.recipe().run.seed;
        let student = Network::create(&self.student_spec()?, seed, self.device()?)?;
        match (self.recipe().student.start, self.student_card()) {
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

    /// Returns the tensors of a safetensors file that a stage left in a round.
    pub fn read_state_dict(&mut self, stage: &str, round: u32, file: &str) -> Result<StateDict> {
        let (bytes, path) = self.read(stage, round, file)?;
        StateDict::from_safetensors(&bytes, self.device()?).with_context(|| format!("cannot read {}", path.display()))
    }
}
