//! Checks before a run starts: reports at once what would end badly after hours.
//!
//! Looks at the recipe and the teacher's card alone, so every program can afford it.

use std::fmt;

use ssdkd_method::ClassPrior;
use ssdkd_nn::{Architecture, NetworkSpec, Task, TeacherCard, ZooArchitecture};
use ssdkd_stage::StageError;

use crate::recipe::{Recipe, Start};

/// How serious a [`Finding`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The run works, but probably not as intended.
    Warning,
    /// The run cannot work.
    Error,
}

/// One thing that is wrong with a run before it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Whether the run may still start.
    pub severity: Severity,
    /// What is wrong, with the values.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

impl Finding {
    /// Creates a finding that lets the run start.
    pub fn warning(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, message: message.into(), hint: hint.into() }
    }

    /// Creates a finding that stops the run.
    pub fn error(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { severity: Severity::Error, message: message.into(), hint: hint.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\nhint: {}", self.message, self.hint)
    }
}

/// Logs every warning. Returns all errors as one.
pub fn enforce(findings: &[Finding]) -> Result<(), StageError> {
    let of = |severity| findings.iter().filter(move |finding| finding.severity == severity);
    for warning in of(Severity::Warning) {
        tracing::warn!("{warning}");
    }
    let errors = of(Severity::Error).map(ToString::to_string).collect::<Vec<_>>();
    if errors.is_empty() { Ok(()) } else { Err(StageError::Usage(errors.join("\n"))) }
}

/// Checks a recipe with its teacher and its student.
pub fn preflight(recipe: &Recipe, teacher: &TeacherCard, student: &Architecture) -> Vec<Finding> {
    let mut found = one_class(teacher).into_iter().collect::<Vec<_>>();
    found.extend(class_prior(recipe, teacher));
    found.extend(networks(recipe, teacher, student));
    found.extend(buffer(recipe, teacher));
    found.extend(amounts(recipe, teacher));
    found
}

/// Checks a teacher for which there is no recipe yet.
pub fn preflight_teacher(teacher: &TeacherCard) -> Vec<Finding> {
    one_class(teacher).into_iter().collect()
}

fn one_class(teacher: &TeacherCard) -> Option<Finding> {
    (teacher.classes < 2).then(|| {
        Finding::error(
            "the teacher has one class: it predicts the same for every image, and a student learns nothing from it",
            "take a teacher with two classes or more",
        )
    })
}

/// Checks whether the recipe's prior is one of the teacher's classes.
fn class_prior(recipe: &Recipe, teacher: &TeacherCard) -> Option<Finding> {
    let error = ClassPrior::new(&recipe.teacher.class_prior, teacher.classes).err()?;
    let (message, hint) = error.split_once("\nhint: ").unwrap_or((&error, "leave teacher.class_prior out"));
    Some(Finding::error(message, hint))
}

/// Checks whether teacher and student are of one kind, and the student is the smaller one.
fn networks(recipe: &Recipe, teacher: &TeacherCard, student: &Architecture) -> Vec<Finding> {
    let deeper = &teacher.architecture;
    if student.task() != deeper.task() {
        let like = student.zoo().map(|zoo| ZooArchitecture { task: deeper.task(), ..zoo });
        let like = like.filter(ZooArchitecture::exists).or_else(|| deeper.zoo());
        let example = if deeper.task() == Task::Pixels { "fpn-resnet20" } else { "resnet20" };
        let like = like.map_or_else(|| example.into(), |like| like.to_string());
        let message = format!(
            "student.architecture is {student}, and the teacher is {deeper}: one labels images and the other pixels"
        );
        return vec![Finding::error(message, format!("set student.architecture to {like}"))];
    }
    let mut found = Vec::new();
    if let Err(error) = recipe.invert.check_teacher(deeper) {
        let (message, hint) = error.split_once("\nhint: ").unwrap_or((&error, "take another teacher"));
        found.push(Finding::error(message, hint));
    }
    if recipe.student.start == Start::Teacher && !matches!(student, Architecture::Cut(_)) {
        found.push(Finding::error(
            format!("student.start is \"teacher\", but {student} is no smaller copy of the teacher ({deeper})"),
            "set student.architecture to teacher*0.5 (half of the channels) or teacher-blocks*0.5 (half of the blocks), or \
             student.start to \"random\"",
        ));
    }
    let spec = NetworkSpec { architecture: student.clone(), ..teacher.spec() };
    match spec.num_parameters() {
        Ok(parameters) if parameters > teacher.parameters => found.push(Finding::warning(
            format!(
                "the student {student} has {parameters} parameters, more than its teacher {deeper} with {}",
                teacher.parameters
            ),
            "take a smaller student.architecture, unless this is intended",
        )),
        Ok(_) => {}
        Err(error) => {
            let error = error.to_string();
            let (message, hint) = error.split_once("\nhint: ").unwrap_or((&error, "take another student.architecture"));
            found.push(Finding::error(format!("the student cannot be built: {message}"), hint));
        }
    }
    found
}

/// Checks whether the buffer is large enough for the draws.
fn buffer(recipe: &Recipe, teacher: &TeacherCard) -> Vec<Finding> {
    let (capacity, batch, classes) = (recipe.balance.capacity, recipe.distill.batch, teacher.classes);
    let mut found = Vec::new();
    if capacity < batch {
        found.push(Finding::error(
            format!("balance.capacity is {capacity}, fewer images than one step of the student takes: distill.batch is {batch}"),
            format!("set balance.capacity to {batch} or more, or lower distill.batch"),
        ));
    }
    // An image whose pixels are labeled shows many classes.
    if capacity < classes && teacher.architecture.task() == Task::Images {
        found.push(Finding::warning(
            format!("balance.capacity is {capacity}, and the teacher has {classes} classes: some never have an image in the buffer"),
            "raise balance.capacity to several images for each class",
        ));
    }
    found
}

/// Checks whether the run makes and draws enough images.
fn amounts(recipe: &Recipe, teacher: &TeacherCard) -> Vec<Finding> {
    let (batch, classes) = (recipe.distill.batch, teacher.classes);
    let a_round = recipe.invert.batch * recipe.invert.batches;
    let all = a_round * recipe.total_rounds() as usize;
    // The first distilling round makes its own images before the student starts.
    let at_first = a_round * (recipe.run.warmup_rounds as usize + 1);
    let drawn = recipe.distill.steps * batch * recipe.run.rounds as usize;
    let mut found = Vec::new();
    if at_first < batch {
        found.push(Finding::warning(
            format!(
                "the student starts with {at_first} images, fewer than one of its steps takes: distill.batch is {batch}, \
                 so images repeat within a step"
            ),
            "raise run.warmup_rounds or invert.batches, or lower distill.batch",
        ));
    }
    if teacher.architecture.task() == Task::Images {
        if all < classes {
            found.push(Finding::warning(
                format!("the whole run makes {all} images for {classes} classes: some classes never get one"),
                "raise invert.batches or run.rounds",
            ));
        } else if drawn < classes {
            found.push(Finding::warning(
                format!("the student sees {drawn} images in the whole run, and there are {classes} classes: it never sees some of them"),
                "raise distill.steps, distill.batch or run.rounds",
            ));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// A recipe that nothing is wrong with, for [`teacher`].
    const RECIPE: &str = r#"
        [run]
        name = "t"
        warmup_rounds = 2
        rounds = 3
        [teacher]
        card = "teacher.json"
        [student]
        architecture = "resnet8"
        [invert]
        batch = 16
        batches = 2
        [balance]
        capacity = 64
        [distill]
        batch = 16
    "#;

    fn teacher() -> TeacherCard {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/teachers/shapes-resnet20.json");
        TeacherCard::load(&path).unwrap()
    }

    fn check(set: &[&str], teacher: &TeacherCard) -> Vec<Finding> {
        let set = set.iter().map(ToString::to_string).collect::<Vec<_>>();
        let recipe = Recipe::parse(RECIPE, Path::new("r.toml"), &set).unwrap();
        let student = recipe.student.architecture.parse().unwrap();
        preflight(&recipe, teacher, &student)
    }

    /// Expects one finding, of `severity`, with every part in its text.
    #[track_caller]
    fn check_one(set: &[&str], teacher: &TeacherCard, severity: Severity, parts: &[&str]) {
        let found = check(set, teacher);
        assert_eq!(found.len(), 1, "{found:#?}");
        assert_eq!(found[0].severity, severity, "{found:#?}");
        let text = found[0].to_string();
        for part in parts {
            assert!(text.contains(part), "{part:?} is not in {text:?}");
        }
    }

    fn with_classes(classes: usize) -> TeacherCard {
        let class_names = (0..classes).map(|class| class.to_string()).collect();
        TeacherCard { classes, class_names, ..teacher() }
    }

    #[test]
    fn a_sound_recipe_has_no_findings() {
        assert_eq!(check(&[], &teacher()), []);
        assert_eq!(preflight_teacher(&teacher()), []);
    }

    #[test]
    fn a_teacher_with_one_class_is_an_error() {
        check_one(&[], &with_classes(1), Severity::Error, &["one class", "two classes or more"]);
        assert_eq!(preflight_teacher(&with_classes(1)).len(), 1);
    }

    #[test]
    fn a_prior_of_other_classes_is_an_error() {
        let parts = ["teacher.class_prior has 2 numbers", "10 classes", "in the order of the card's class_names"];
        check_one(&["teacher.class_prior=[1, 2.5]"], &teacher(), Severity::Error, &parts);
        assert_eq!(check(&["teacher.class_prior=[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]"], &teacher()), []);
    }

    #[test]
    fn images_of_any_size_and_shape_are_fine() {
        assert_eq!(check(&[], &TeacherCard { input: [3, 30, 50], ..teacher() }), []);
    }

    #[test]
    fn a_buffer_smaller_than_a_batch_is_an_error() {
        let parts = ["balance.capacity is 15", "distill.batch is 16", "to 16 or more"];
        check_one(&["balance.capacity=15"], &teacher(), Severity::Error, &parts);
    }

    #[test]
    fn a_buffer_smaller_than_the_number_of_classes_is_a_warning() {
        check_one(&[], &with_classes(65), Severity::Warning, &["capacity is 64", "65 classes"]);
    }

    #[test]
    fn a_student_larger_than_its_teacher_is_a_warning_with_both_numbers() {
        let parts = ["resnet56 has ", "resnet20 with 269722", "smaller student.architecture"];
        check_one(&["student.architecture=resnet56"], &teacher(), Severity::Warning, &parts);
        assert_eq!(check(&["student.architecture=resnet20"], &teacher()), []);
    }

    #[test]
    fn networks_of_two_kinds_are_an_error() {
        let parts = ["fpn-resnet8", "one labels images", "to resnet8"];
        check_one(&["student.architecture=fpn-resnet8"], &teacher(), Severity::Error, &parts);
    }

    #[test]
    fn a_student_that_is_no_copy_of_its_teacher_cannot_start_from_it() {
        let set = ["student.start=teacher", "student.architecture=wrn-16-1"];
        check_one(&set, &teacher(), Severity::Error, &["wrn-16-1 is no smaller copy", "(resnet20)", "\"random\""]);
    }

    #[test]
    fn a_step_larger_than_the_first_images_is_a_warning() {
        let set = ["invert.batch=4", "distill.batch=32", "balance.capacity=40"];
        check_one(&set, &teacher(), Severity::Warning, &["starts with 24 images", "distill.batch is 32"]);
    }

    #[test]
    fn fewer_images_than_classes_are_a_warning() {
        let found = check(&[], &with_classes(161));
        assert!(found.iter().any(|finding| finding.message.contains("160 images for 161 classes")), "{found:#?}");
        let few = ["distill.steps=1", "run.rounds=1", "distill.batch=9", "run.warmup_rounds=4"];
        check_one(&few, &teacher(), Severity::Warning, &["sees 9 images", "10 classes"]);
    }

    #[test]
    fn all_errors_are_reported_as_one() {
        let found = check(&["balance.capacity=15", "student.architecture=fpn-resnet8"], &teacher());
        let error = enforce(&found).unwrap_err().to_string();
        assert!(error.contains("fpn-resnet8") && error.contains("balance.capacity is 15"), "{error}");
        assert!(enforce(&check(&["student.architecture=resnet56"], &teacher())).is_ok());
    }
}
