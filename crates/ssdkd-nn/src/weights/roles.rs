//! Chooses among several networks by their names alone, where these leave no doubt.
//!
//! `state_dict` and `state_dict_ema` are one network twice: of those the averaged one is taken, as timm does. A `teacher`
//! and a `student` are two, and only a person knows which is wanted.

/// Words that say nothing of a network's role.
const GENERIC: [&str; 27] = [
    "state",
    "dict",
    "statedict",
    "sd",
    "model",
    "net",
    "network",
    "weights",
    "weight",
    "params",
    "parameters",
    "module",
    "checkpoint",
    "ckpt",
    "shadow",
    "averaged",
    "average",
    "avg",
    "swa",
    "ema",
    "data",
    "root",
    "backbone",
    "orig",
    "mod",
    "main",
    "classifier",
];

/// Entries that people use for the network, the most usual first.
const USUAL: [&str; 9] =
    ["state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params", "module"];

/// Returns the index of the network that is meant; `None` where the names leave doubt.
///
/// `same` says of two whether their tensors have the same names and shapes.
pub(super) fn pick(names: &[&str], same: impl Fn(usize, usize) -> bool) -> Option<usize> {
    if names.len() < 2 {
        return names.len().checked_sub(1);
    }
    let roles = names.iter().map(|name| role(name)).collect::<Vec<_>>();
    let wanted = if roles.iter().any(String::is_empty) { "" } else { &roles[0] };
    if !wanted.is_empty() && roles.iter().any(|role| role != wanted) {
        return None;
    }
    let mut group = (0..names.len()).filter(|&index| roles[index] == wanted).collect::<Vec<_>>();
    group.sort_by_key(|&index| (rank(names[index]), index));
    let raw = group.iter().copied().find(|&index| !is_averaged(names[index]));
    // An average of some of the parameters is no network.
    let averaged = |&index: &usize| is_averaged(names[index]) && raw.is_none_or(|raw| same(index, raw));
    group.iter().copied().find(averaged).or(raw)
}

/// Returns whether the name is that of a moving average of the weights.
pub(super) fn is_averaged(name: &str) -> bool {
    words(name).any(|word| ["ema", "swa", "averaged", "shadow"].contains(&word.as_str()) || word.ends_with("ema"))
}

/// Returns what the name says beyond that it is a network: `student` of `student.state_dict`.
fn role(name: &str) -> String {
    let is_generic =
        |word: &String| GENERIC.contains(&word.as_str()) || ["emamodel", "modelema"].contains(&word.as_str());
    words(name).filter(|word| !is_generic(word)).collect::<Vec<_>>().join(" ")
}

fn words(name: &str) -> impl Iterator<Item = String> {
    let parts = name.split(|letter: char| !letter.is_alphanumeric());
    parts.filter(|part| !part.is_empty()).map(str::to_lowercase)
}

/// Returns how usual a name is: by its last word, then by its depth.
fn rank(name: &str) -> (usize, usize) {
    let usual = |name: &str| USUAL.iter().position(|usual| *usual == name).unwrap_or(USUAL.len());
    let best = name.split('.').map(usual).min().unwrap_or(USUAL.len());
    (if name.is_empty() { 0 } else { best }, name.split('.').count())
}

#[cfg(test)]
mod tests {
    use super::pick;

    #[track_caller]
    fn check(names: &[&str], picked: Option<&str>) {
        assert_eq!(pick(names, |_, _| true).map(|index| names[index]), picked, "{names:?}");
    }

    #[test]
    fn the_averaged_weights_of_a_network_are_taken() {
        check(&["state_dict", "state_dict_ema"], Some("state_dict_ema"));
        check(&["model", "model_ema.module"], Some("model_ema.module"));
        check(&["student", "student_ema"], Some("student_ema"));
        check(&["ema.shadow", "net"], Some("ema.shadow"));
        check(&["model", "swa_model"], Some("swa_model"));
    }

    #[test]
    fn an_average_of_other_tensors_is_not_taken() {
        assert_eq!(pick(&["ema", "model"], |_, _| false), Some(1));
    }

    #[test]
    fn the_usual_names_come_first() {
        check(&["net", "state_dict"], Some("state_dict"));
        check(&["discriminator", "model"], Some("model"));
        check(&["checkpoint.net", "network"], Some("checkpoint.net"));
    }

    #[test]
    fn networks_of_several_roles_leave_doubt() {
        check(&["student", "teacher"], None);
        check(&["teacher_ema", "student"], None);
        check(&["encoder_q", "encoder_k"], None);
    }

    #[test]
    fn a_single_network_is_it() {
        check(&["discriminator"], Some("discriminator"));
        check(&[], None);
    }
}
