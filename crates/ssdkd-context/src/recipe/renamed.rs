//! Keys and values of recipes before version 1, and what they are called now. An old one is an error that gives the new one.

use serde_json::Value;
use ssdkd_method::StrategyName;
use ssdkd_method::inversion::strategies_of;
use ssdkd_method::range::schema_of;

use super::settings::Recipe;

/// Old key, new key. `STRATEGY` is a placeholder for the table of the recipe's strategy.
const KEYS: [(&str, &str); 31] = [
    ("run.trouble", "run.on_failed_check"),
    ("invert.latent", "invert.STRATEGY.latent_size"),
    ("invert.width", "invert.STRATEGY.width"),
    ("invert.lr_g", "invert.STRATEGY.lr"),
    ("invert.lr_z", "invert.STRATEGY.latent_lr"),
    ("invert.beta1", "invert.STRATEGY.beta1"),
    ("invert.beta2", "invert.STRATEGY.beta2"),
    ("invert.reset_round", "invert.STRATEGY.reset_round"),
    ("invert.reset_every", "invert.STRATEGY.reset_every"),
    ("invert.class_code", "invert.persistent.embedding_scale"),
    ("invert.codes_per_class", "invert.persistent.embeddings_per_class"),
    ("invert.bn", "invert.loss.batch_norm"),
    ("invert.oh", "invert.loss.class"),
    ("invert.bal", "invert.loss.balance"),
    ("invert.act", "invert.loss.activation"),
    ("invert.adv", "invert.loss.adversarial"),
    ("invert.discrepancy", "invert.loss.discrepancy"),
    ("invert.adv_mask", "invert.loss.adversarial_mask"),
    ("invert.bn_momentum", "invert.loss.batch_norm_momentum"),
    ("invert.tv", "invert.loss.total_variation"),
    ("invert.l2", "invert.loss.l2"),
    ("invert.cr", "invert.loss.contrastive"),
    ("invert.cr_temperature", "invert.contrastive.temperature"),
    ("invert.cr_bank", "invert.contrastive.memory_size"),
    ("invert.augment", "invert.views"),
    ("balance.arrivals", "balance.new_sample_priority"),
    ("distill.augment", "distill.views"),
    ("distill.features", "distill.feature_distillation"),
    ("distill.colour", "distill.views.channel_mix"),
    ("distill.mixup", "distill.views.mixup"),
    ("distill.light", "distill.views.color_jitter"),
];

/// Key, its old value, its new value.
const VALUES: [(&str, &str, &str); 2] =
    [("balance.eviction", "crowded", "class-balanced"), ("balance.eviction", "crowded-fifo", "class-balanced-fifo")];

/// Checks a recipe for old keys and values. The error names each with its successor.
pub(super) fn check(recipe: &toml::Table) -> Result<(), String> {
    let strategy = get(recipe, "invert.strategy").and_then(|value| value.as_str());
    let strategy = StrategyName::ALL.into_iter().find(|name| Some(name.as_str()) == strategy).unwrap_or_default();
    let mut schema: Option<Value> = None;
    let mut lines = Vec::new();
    for (old, new) in KEYS {
        if get(recipe, old).is_none() {
            continue;
        }
        let new = new_key(old, new, strategy);
        let schema = schema.get_or_insert_with(schema_of::<Recipe>);
        lines.push(if exists(schema, &new, strategy) {
            format!("`{old}` is now `{new}`")
        } else {
            format!("`{old}` is gone: strategy \"{}\" does not use it", strategy.as_str())
        });
    }
    for (key, old, new) in VALUES {
        if get(recipe, key).and_then(|value| value.as_str()) == Some(old) {
            lines.push(format!("`{key} = \"{old}\"` is now `{key} = \"{new}\"`"));
        }
    }
    if lines.is_empty() { Ok(()) } else { Err(lines.join("\n")) }
}

/// Returns what an old key is called now, for a recipe with `strategy`.
pub(super) fn successor(key: &str, strategy: StrategyName) -> Option<String> {
    let renamed = KEYS.iter().find_map(|(old, new)| {
        let rest = key.strip_prefix(old).filter(|rest| rest.is_empty() || rest.starts_with('.'))?;
        Some(new_key(old, new, strategy) + rest)
    });
    renamed.filter(|new| !new.is_empty())
}

fn new_key(old: &str, new: &str, strategy: StrategyName) -> String {
    // `lr_z` was the learning rate of the pixels, which have no generator.
    if old == "invert.lr_z" && strategy == StrategyName::Pixels {
        return "invert.pixels.lr".into();
    }
    if old == "invert.lr_g" && strategy == StrategyName::Pixels {
        return String::new();
    }
    new.replace("STRATEGY", strategy.as_str())
}

/// Returns whether a recipe with `strategy` may have this key or table.
fn exists(schema: &Value, path: &str, strategy: StrategyName) -> bool {
    let found = path.split('.').try_fold(schema, |schema, name| schema["properties"].get(name));
    found.is_some() && path.strip_prefix("invert.").is_none_or(|key| strategies_of(key).contains(&strategy))
}

/// Returns the value or table at `path`.
fn get<'a>(table: &'a toml::Table, path: &str) -> Option<&'a toml::Value> {
    match path.split_once('.') {
        None => table.get(path),
        Some((first, rest)) => get(table.get(first)?.as_table()?, rest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_renamed(recipe: &str, expected: &str) {
        assert_eq!(check(&recipe.parse().unwrap()).unwrap_err(), expected);
    }

    #[test]
    fn an_old_key_is_an_error_that_gives_the_new_one() {
        check_renamed("distill.colour = 0.5", "`distill.colour` is now `distill.views.channel_mix`");
        check_renamed("distill.augment.flip = false", "`distill.augment` is now `distill.views`");
        let two = "`invert.lr_g` is now `invert.persistent.lr`\n`invert.oh` is now `invert.loss.class`";
        check_renamed("[invert]\nlr_g = 0.1\noh = 1.0", two);
    }

    #[test]
    fn a_key_that_moved_to_the_strategies_names_the_recipe_s() {
        check_renamed("[invert]\nstrategy = 'meta'\nlr_z = 0.1", "`invert.lr_z` is now `invert.meta.latent_lr`");
        check_renamed("[invert]\nstrategy = 'pixels'\nlr_z = 0.1", "`invert.lr_z` is now `invert.pixels.lr`");
        check_renamed("invert.lr_z = 0.1", "`invert.lr_z` is gone: strategy \"persistent\" does not use it");
        let gone = "`invert.lr_g` is gone: strategy \"pixels\" does not use it";
        check_renamed("[invert]\nstrategy = 'pixels'\nlr_g = 0.1", gone);
    }

    #[test]
    fn an_old_value_is_an_error_that_gives_the_new_one() {
        let expected = "`balance.eviction = \"crowded-fifo\"` is now `balance.eviction = \"class-balanced-fifo\"`";
        check_renamed("balance.eviction = 'crowded-fifo'", expected);
    }

    #[test]
    fn every_new_key_exists_and_no_old_one() {
        let schema = schema_of::<Recipe>();
        for (old, new) in KEYS {
            let exists = |key: &str, name| exists(&schema, key, name);
            assert!(!StrategyName::ALL.into_iter().any(|name| exists(old, name)), "{old}");
            assert!(StrategyName::ALL.into_iter().any(|name| exists(&new_key(old, new, name), name)), "{new}");
        }
    }
}
