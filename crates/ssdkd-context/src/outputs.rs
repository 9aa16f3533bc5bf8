//! What stages left in the run folder. Every file is checked against its digest before it is used.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::rc::Rc;

use anyhow::{Context as _, Result};
use ssdkd_shards::{BufferRow, ClassRow, FileEntry, Role, Row, tables};
use ssdkd_stage::{Complete, RunFolder, StageError, exit::Code};

use crate::output::Output;
use crate::recipe::Recipe;

/// The image shard's path within its stage folder.
pub const SHARD: &str = "samples/part-00000.parquet";

/// Returns the image shard of a round, relative to the run folder: what the buffer's `shard` column says.
pub fn shard_path(round: u32) -> String {
    format!("invert/{round:04}/{SHARD}")
}

/// Returns the file of a table within its stage folder.
pub(crate) fn table_file<R: Row>() -> String {
    format!("{}.parquet", R::TABLE)
}

/// The finished outputs in a run folder. Each manifest is read once.
pub struct Outputs {
    folder: RunFolder,
    complete: HashMap<Output, Rc<Complete>>,
    /// What is known of where the buffer at hand came from.
    line: Option<Line>,
}

/// The buffers of the rounds `from` to `to`, each known to continue the one before; `digest` is that of the last.
struct Line {
    from: u32,
    to: u32,
    digest: String,
}

impl Outputs {
    pub(crate) fn new(folder: RunFolder) -> Self {
        Self { folder, complete: HashMap::new(), line: None }
    }

    /// Returns an output, which must be complete.
    pub fn complete(&mut self, output: Output) -> Result<Rc<Complete>> {
        if let Some(complete) = self.complete.get(&output) {
            return Ok(complete.clone());
        }
        let complete = Rc::new(self.folder.require(output.stage, output.round)?);
        self.complete.insert(output, complete.clone());
        Ok(complete)
    }

    /// Replaces an older output.
    pub(crate) fn replace(&mut self, output: Output, complete: Complete) {
        self.forget(output);
        self.complete.insert(output, Rc::new(complete));
    }

    /// Forgets an output that is about to be replaced.
    pub(crate) fn forget(&mut self, output: Output) {
        if self.complete.remove(&output).is_some() {
            self.line = None;
        }
    }

    /// Returns what an output's manifest says of one of its files.
    pub(crate) fn entry(&mut self, output: Output, file: &str) -> Result<FileEntry> {
        let complete = self.complete(output)?;
        let entry = complete.manifest.file(file).cloned();
        entry.with_context(|| format!("{} is not in its manifest", self.path(output, file).display()))
    }

    /// Returns the digest of a file.
    pub fn digest(&mut self, output: Output, file: &str) -> Result<String> {
        Ok(self.entry(output, file)?.blake3)
    }

    /// Returns a number of an output's manifest.
    pub fn metric(&mut self, output: Output, name: &str) -> Result<Option<f64>> {
        Ok(self.complete(output)?.manifest.metrics.get(name).and_then(serde_json::Value::as_f64))
    }

    /// Returns where a file is.
    pub fn path(&self, output: Output, file: &str) -> PathBuf {
        self.folder.file(output.stage, output.round, file)
    }

    /// Returns a file, and its path for messages.
    pub(crate) fn read(&self, output: Output, file: &str) -> Result<(Vec<u8>, PathBuf)> {
        Ok((self.folder.read_verified(output.stage, output.round, file)?, self.path(output, file)))
    }

    /// Returns a table of an output.
    pub fn table<R: Row>(&self, output: Output) -> Result<Vec<R>> {
        let (bytes, path) = self.read(output, &table_file::<R>())?;
        Ok(tables::decode(bytes, &path)?)
    }

    /// Returns the buffer's members after `balance` of `round`.
    pub fn buffer(&self, round: u32) -> Result<Vec<BufferRow>> {
        self.table(Output::balance(round))
    }

    /// Returns how many members of the buffer are of each class after `balance` of `round`.
    pub(crate) fn class_counts(&self, round: u32) -> Result<Vec<u64>> {
        Ok(self.table::<ClassRow>(Output::balance(round))?.into_iter().map(|row| row.count).collect())
    }

    /// Returns whether the shard of a round is still there: old ones may have been collected.
    pub fn has_shard(&self, round: u32) -> bool {
        self.path(Output::invert(round), SHARD).exists()
    }

    /// Returns the rounds whose shard has an image in the buffer after `balance` of `round`, or in those that a run with other settings
    /// resumes from.
    pub fn wanted_shards(&self, recipe: &Recipe, round: u32) -> Result<HashSet<u32>> {
        let mut wanted = HashSet::new();
        for round in recipe.starting_points().into_iter().chain([round]) {
            if self.folder.complete("balance", round)?.is_some() {
                wanted.extend(self.buffer(round)?.iter().map(|row| row.birth_round));
            }
        }
        Ok(wanted)
    }

    /// Returns the outputs that `output` was declared with for files of this role, and whose files were collected.
    pub(crate) fn collected(&mut self, output: Output, role: Role) -> Result<Vec<Output>> {
        let sources = match (output.stage, role) {
            (_, Role::Data) => return Ok(Vec::new()),
            ("balance", Role::Shard) => {
                let rounds = self.buffer(output.round)?.iter().map(|row| row.birth_round).collect::<BTreeSet<_>>();
                rounds.into_iter().map(Output::invert).collect()
            }
            _ => vec![output],
        };
        let mut found = Vec::new();
        for source in sources {
            for entry in self.complete(source)?.manifest.files.iter().filter(|entry| entry.role == role) {
                if self.folder.is_collected(source.stage, source.round, entry)? {
                    found.push(source);
                }
            }
        }
        Ok(found)
    }

    /// Checks that the images of round `birth` are those that the buffer of `buffer` took, and not rebuilt with other settings
    /// since: it knows them by round and row alone. Each `balance` says which images it took, and which buffer it went on from.
    pub(crate) fn check_taken(&mut self, birth: u32, buffer: u32) -> Result<()> {
        let digest = self.complete(Output::balance(buffer))?.digest.clone();
        let known = self.line.take().filter(|line| (line.to, &line.digest) == (buffer, &digest));
        let mut line = known.unwrap_or(Line { from: buffer, to: buffer, digest });
        while line.from > birth {
            self.check_read(Output::balance(line.from), Output::balance(line.from - 1))?;
            line.from -= 1;
        }
        self.line = Some(line);
        self.check_read(Output::balance(birth), Output::invert(birth))
    }

    /// Checks that what `reader` was made from is what is there.
    fn check_read(&mut self, reader: Output, input: Output) -> Result<()> {
        let there = self.complete(input)?.digest.clone();
        if self.complete(reader)?.manifest.inputs.get(&input.path()) != Some(&there) {
            let [made, reader] = [input, reader].map(|output| self.folder.folder(output.stage, output.round));
            let message = format!(
                "{} was rebuilt after {} was made from it\nhint: `ssdkd run` rebuilds what depends on it",
                made.display(),
                reader.display()
            );
            return Err(StageError::other(Code::Integrity, message).into());
        }
        Ok(())
    }
}
