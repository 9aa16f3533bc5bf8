//! The cards of a run's networks: reading them, checking that they fit, and what results depend on in them.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::Result;
use serde_json::json;
use ssdkd_method::ClassPrior;
use ssdkd_nn::{Architecture, CardError, Cut, NetworkSpec, Preprocessing, TeacherCard};
use ssdkd_shards::{canonical, digest};
use ssdkd_stage::exit::Code;
use ssdkd_stage::{StageError, quote};

use crate::recipe::{Recipe, Start};

/// The teacher and the student of a run, without weights.
#[derive(Clone)]
pub struct Cards {
    pub(crate) teacher: Rc<TeacherCard>,
    pub(crate) teacher_path: PathBuf,
    student: NetworkSpec,
    /// Of a student that is not of the zoo, with its path.
    pub(crate) student_card: Option<(TeacherCard, PathBuf)>,
    // Every fingerprint holds them, and a card may hold a large graph.
    teacher_digest: String,
    student_digest: Option<String>,
}

impl Cards {
    /// Reads the cards that `recipe` names, which are at these paths.
    pub(crate) fn load(recipe: &Recipe, teacher_path: PathBuf, student_path: Option<PathBuf>) -> Result<Self> {
        check_is_named(recipe)?;
        check_is_card("teacher.card", &recipe.teacher.card, &teacher_path)?;
        let teacher = TeacherCard::load(&teacher_path).map_err(card_error)?;
        let (student, student_card) = if let Some(path) = student_path {
            check_is_card("student.card", &recipe.student.card, &path)?;
            let card = TeacherCard::load(&path).map_err(card_error)?;
            check_student_card(&path, &card, &teacher)?;
            (NetworkSpec { input: teacher.input, classes: teacher.classes, ..card.spec() }, Some((card, path)))
        } else {
            (NetworkSpec { architecture: student_architecture(recipe, &teacher)?, ..teacher.spec() }, None)
        };
        let teacher_digest = digest_of(&teacher);
        let student_digest = student_card.as_ref().map(|(card, _)| digest_of(card));
        let teacher = Rc::new(teacher);
        Ok(Self { teacher, teacher_path, student, student_card, teacher_digest, student_digest })
    }

    /// Returns the teacher's card.
    pub fn teacher(&self) -> &Rc<TeacherCard> {
        &self.teacher
    }

    /// Returns the student, without weights.
    pub fn student(&self) -> &NetworkSpec {
        &self.student
    }

    /// Stands for everything about the teacher that results depend on.
    pub fn teacher_digest(&self) -> &str {
        &self.teacher_digest
    }

    /// Stands for everything about a student that is not of the zoo.
    pub(crate) fn student_digest(&self) -> Option<&str> {
        self.student_digest.as_deref()
    }

    /// Returns how common the recipe says that the teacher's classes are.
    pub fn class_prior(&self, recipe: &Recipe) -> Result<ClassPrior, StageError> {
        ClassPrior::new(&recipe.teacher.class_prior, self.teacher.classes).map_err(StageError::Usage)
    }
}

/// Stands for everything about a network that results depend on: not its name, not where it came from.
pub(crate) fn digest_of(card: &TeacherCard) -> String {
    let mut what = json!({
        "weights": card.digest, "architecture": card.architecture, "classes": card.classes,
        "input": card.input, "mean": card.mean, "std": card.std, "class_names": card.class_labels(),
    });
    // Runs of teachers without any keep the digest that they had before cards knew of it.
    if card.preprocessing != Preprocessing::default() {
        what["preprocessing"] = json!(card.preprocessing);
    }
    digest::of_bytes(canonical::to_string(&what).as_bytes())
}

/// Refuses a recipe for any teacher that was given none, or no student.
fn check_is_named(recipe: &Recipe) -> Result<(), StageError> {
    if recipe.teacher.card.as_os_str().is_empty() {
        return Err(StageError::Usage(
            "teacher.card is empty: this recipe is for any teacher, and needs yours\n\
             hint: add `--set teacher.card=$PWD/CARD.json`; `ssdkd import WEIGHTS --out CARD.json` makes a card"
                .into(),
        ));
    }
    let is_card = !recipe.student.card.as_os_str().is_empty();
    let problem = match (recipe.student.architecture.as_str(), is_card) {
        ("", false) => {
            "student.architecture is empty: this recipe is for any student, and needs yours\n\
             hint: add `--set student.architecture=NAME`, such as teacher*0.5 (half of the teacher's channels), resnet8 or \
             torchvision/mobilenet_v2*0.5; or `--set student.card=$PWD/CARD.json` for a network of your own"
        }
        ("", true) => return Ok(()),
        (_, true) => {
            "student.architecture and student.card are both set, and each names a student\n\
             hint: remove one, or set it to \"\""
        }
        (_, false) if recipe.student.start == Start::Card => {
            "student.start is \"card\", and there is no student.card\n\
             hint: set student.card, or set student.start to \"random\""
        }
        (_, false) => return Ok(()),
    };
    Err(StageError::Usage(problem.into()))
}

/// Refuses a student of a network that cannot learn what the teacher knows. `path` is that of the student's card.
fn check_student_card(path: &Path, student: &TeacherCard, teacher: &TeacherCard) -> Result<(), StageError> {
    let path = path.display();
    if student.classes != teacher.classes {
        return Err(StageError::Usage(format!(
            "the student of {path} has {} classes, and the teacher has {}\n\
             hint: give the student's last layer {} outputs, export it and import it again",
            student.classes, teacher.classes, teacher.classes
        )));
    }
    if student.input[0] != teacher.input[0] {
        return Err(StageError::Usage(format!(
            "the student of {path} takes images of {} channels, and the teacher takes {}\n\
             hint: take a student for {} channels",
            student.input[0], teacher.input[0], teacher.input[0]
        )));
    }
    Ok(())
}

/// Refuses a card that is not there, and a weight file given as a card. `named` is what the recipe says under `key`, `path` where that is.
fn check_is_card(key: &str, named: &Path, path: &Path) -> Result<(), StageError> {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
    let holds_weights = ending.is_some_and(|ending| WEIGHT_FILES.contains(&ending.as_str()));
    if !holds_weights && !path.exists() {
        let hint = format!(
            "check the path: a relative one starts at the recipe's folder, so use --set {key}=$PWD/CARD.json; \
             `ssdkd import FILE` or `ssdkd-teach` makes a card; recipes of the project say in comments where theirs comes from"
        );
        return Err(StageError::Missing { what: key.into(), path: path.into(), hint });
    }
    if !holds_weights {
        return Ok(());
    }
    let card = path.with_extension("json");
    let hint = if card.is_file() {
        format!("set {key} to {}", named.with_extension("json").display())
    } else {
        format!(
            "`ssdkd import {} --out {}` makes a card",
            quote(&path.to_string_lossy()),
            quote(&card.to_string_lossy())
        )
    };
    Err(StageError::Usage(format!("{key} is {}, a file of weights and not a card\nhint: {hint}", path.display())))
}

/// Endings of files that hold weights.
const WEIGHT_FILES: [&str; 7] = ["safetensors", "pth", "pt", "th", "tar", "bin", "ckpt"];

/// Returns the student's architecture: a smaller copy of the teacher, or one of the zoo by its name.
fn student_architecture(recipe: &Recipe, teacher: &TeacherCard) -> Result<Architecture, StageError> {
    let name = recipe.student.architecture.as_str();
    let architecture =
        if Cut::is_meant_by(name) { name.parse().map(|cut| teacher.architecture.cut(cut)) } else { name.parse() };
    architecture.map_err(|error| StageError::Usage(format!("student.architecture: {error}")))
}

/// Turns a card's error into one of a missing input, or of a damaged file.
pub fn card_error(error: CardError) -> StageError {
    let code = match error {
        CardError::Read { .. } => Code::MissingInput,
        CardError::NotACard { .. } => Code::Usage,
        _ => Code::Integrity,
    };
    StageError::other(code, error)
}
