//! A scratch folder with a tiny recipe in it, and ways to run the binaries there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// Two warm-up rounds and two distilling rounds of two steps: every stage, in a second or two.
pub const TINY: &str = r#"
[run]
name = "tiny"
seed = 3
warmup_rounds = 2
rounds = 2

[teacher]
card = "TEACHER"

[student]
architecture = "resnet8"

[invert]
batch = 12
batches = 2
steps = 1

[invert.persistent]
latent_size = 16
width = 4

[balance]
capacity = 40

[distill]
steps = 2
batch = 8

[evaluate]
data = "shapes:0"
limit = 40
last = 2
"#;

pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace")
}

/// Where cargo puts this workspace's binaries: beside `deps/`, which holds this test.
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows where it is");
    let path = test.parent().and_then(Path::parent).expect("target/PROFILE/deps/TEST").join(name);
    assert!(path.exists(), "{} is not built\nhint: run the tests with `make test`", path.display());
    path
}

pub struct Scratch {
    pub folder: TempDir,
}

impl Scratch {
    /// A folder with `tiny.toml`, whose teacher is the one that comes with the project.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let scratch = Self { folder };
        let teacher = workspace().join("data/teachers/shapes-resnet20.json");
        scratch.write("tiny.toml", TINY.replace("TEACHER", teacher.to_str().expect("a UTF-8 path")));
        scratch
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), text).expect("the scratch folder is writable");
    }

    /// A command that runs `program` here, with its runs in `runs/`.
    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary(program));
        command.current_dir(self.folder.path()).args(arguments).env_remove("SSDKD_DATA").env_remove("SSDKD_RUNS");
        command
    }

    #[track_caller]
    pub fn run(&self, program: &str, arguments: &[&str]) -> Output {
        self.command(program, arguments).output().expect("the binary starts")
    }

    /// Runs it and expects success; returns stdout and stderr.
    #[track_caller]
    pub fn succeed(&self, program: &str, arguments: &[&str]) -> (String, String) {
        let output = self.run(program, arguments);
        let (out, err) = text(&output);
        assert!(output.status.success(), "{program} {arguments:?} failed ({}):\n{err}", output.status);
        (out, err)
    }

    /// Runs it and expects exit code `code` and every part in stderr; returns stderr.
    #[track_caller]
    pub fn fail(&self, program: &str, arguments: &[&str], code: i32, parts: &[&str]) -> String {
        let output = self.run(program, arguments);
        let (_, err) = text(&output);
        assert_eq!(output.status.code(), Some(code), "{program} {arguments:?}:\n{err}");
        for part in parts {
            assert!(err.contains(part), "{part:?} is not in:\n{err}");
        }
        assert!(!err.contains("panicked"), "{err}");
        err
    }

    /// Digest of every file of a run that results depend on, by path.
    pub fn artefacts(&self, run: &str) -> BTreeMap<String, blake3::Hash> {
        let mut files = BTreeMap::new();
        collect(&self.path(run), &self.path(run), &mut files);
        files
    }
}

fn text(output: &Output) -> (String, String) {
    (String::from_utf8_lossy(&output.stdout).into(), String::from_utf8_lossy(&output.stderr).into())
}

/// Clocks and logs are beside the artefacts, never in them.
fn collect(root: &Path, folder: &Path, files: &mut BTreeMap<String, blake3::Hash>) {
    for entry in std::fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_string();
        if path.is_dir() {
            if name != "report" {
                collect(root, &path, files);
            }
        } else if !matches!(name.as_str(), "timing.json" | "log.jsonl" | "lock") {
            let relative = path.strip_prefix(root).expect("below the root").to_string_lossy().into();
            files.insert(relative, blake3::hash(&std::fs::read(&path).expect("a readable file")));
        }
    }
}
