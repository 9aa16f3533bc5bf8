//! The views of a round: labeled when a step first needs them, and kept while there are passes left that will.

use std::collections::HashMap;

use anyhow::{Context as _, Result, ensure};
use ssdkd_context::{Inputs, Output};
use ssdkd_method::passes::order;
use ssdkd_method::{Distiller, Labelled};
use ssdkd_nn::Network;
use ssdkd_nn::random::stream;
use ssdkd_shards::{BufferRow, DrawRow, ImageRef};

use crate::Settings;

/// All views of one round, in the order of its draws.
pub(crate) struct Views {
    draws: Vec<DrawRow>,
    /// Where each sample is that may be drawn.
    places: HashMap<u64, ImageRef>,
    /// Of a step.
    batch: usize,
    passes: usize,
    seed: u64,
    round: u32,
    /// What was labeled, a part for each step of the first pass, as far as it was.
    parts: Vec<Option<Labelled>>,
    /// All parts, in the passes after the first.
    all: Vec<Labelled>,
}

impl Views {
    /// Of a round's draws and the buffer that they are from; nothing is labeled yet.
    pub(crate) fn new(settings: &Settings, inputs: &Inputs<'_>) -> Result<Self> {
        let (distill, seed, round) = (&settings.distill, inputs.seed(), inputs.round());
        let draws = inputs.table::<DrawRow>(Output::sample(round))?;
        let buffer = inputs.table::<BufferRow>(Output::balance(round))?.into_iter();
        let places = buffer.map(|row| (row.sample_id, row.image())).collect();
        let (batch, passes) = (distill.batch, distill.passes);
        ensure!(
            draws.len() == distill.draws(),
            "`sample` of round {round} left {} draws where the steps of a pass take {}\nhint: rerun it with --force",
            draws.len(),
            distill.draws()
        );
        let parts = vec![None; draws.len() / batch];
        Ok(Self { draws, places, batch, passes, seed, round, parts, all: Vec::new() })
    }

    /// Returns the views of step `step` (from 0), and the draw that each came from.
    pub(crate) fn of_step(
        &mut self,
        step: usize,
        inputs: &mut Inputs<'_>,
        distiller: &mut Distiller,
        teacher: &Network,
    ) -> Result<(Labelled, Vec<DrawRow>)> {
        let (pass, at) = (step / self.steps_of_a_pass(), step % self.steps_of_a_pass());
        let rows = order(self.draws.len(), self.seed, self.round, pass)[at * self.batch..][..self.batch].to_vec();
        let labelled = if pass == 0 {
            let labelled = self.label(step, inputs, distiller, teacher)?;
            if self.passes > 1 {
                self.parts[step] = Some(labelled.clone());
            }
            labelled
        } else {
            self.label_all(inputs, distiller, teacher)?;
            let places = rows.iter().map(|&row| (row as usize / self.batch, row as usize % self.batch));
            Labelled::gather(&self.all, &places.collect::<Vec<_>>())?
        };
        Ok((labelled, rows.iter().map(|&row| self.draws[row as usize].clone()).collect()))
    }

    fn steps_of_a_pass(&self) -> usize {
        self.draws.len() / self.batch
    }

    /// All views. Where the round was interrupted, parts are missing; each is labeled as it was, in a batch of its own: then it
    /// has the same bits.
    fn label_all(&mut self, inputs: &mut Inputs<'_>, distiller: &mut Distiller, teacher: &Network) -> Result<()> {
        for (at, part) in std::mem::take(&mut self.parts).into_iter().enumerate() {
            let labelled = part.map_or_else(|| self.label(at, inputs, distiller, teacher), Ok)?;
            self.all.push(labelled);
        }
        Ok(())
    }

    /// Draws and labels the views of step `part` of the first pass.
    fn label(
        &self,
        part: usize,
        inputs: &mut Inputs<'_>,
        distiller: &mut Distiller,
        teacher: &Network,
    ) -> Result<Labelled> {
        let place = |draw: &DrawRow| {
            self.places.get(&draw.sample_id).copied().with_context(|| {
                format!(
                    "sample {} was drawn but is not in the buffer of round {}\nhint: rerun `sample` of this round with --force",
                    draw.sample_id, self.round
                )
            })
        };
        let draws = &self.draws[part * self.batch..][..self.batch];
        let images = inputs.images(self.round, &draws.iter().map(place).collect::<Result<Vec<_>>>()?)?;
        let mut views = stream(self.seed, "distillation views", &[u64::from(self.round), part as u64]);
        Ok(distiller.label(teacher, &images, &mut views)?)
    }
}
