//! Ranges of settings: read from the settings' JSON schema, which their declarations make.
//!
//! A range stands once, as an attribute of the setting's field. What validates a recipe and what documents it read it here.

use std::fmt;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::Serialize;
use serde_json::Value;

/// The values that a number may have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Range {
    whole: bool,
    /// It or more.
    least: Option<f64>,
    /// More than it.
    above: Option<f64>,
    /// It or less.
    most: Option<f64>,
    /// Less than it.
    below: Option<f64>,
}

impl Range {
    /// Returns the range of a number with this schema; `None` for what is not a number.
    pub fn of(schema: &Value) -> Option<Self> {
        let whole = match schema["type"].as_str()? {
            "integer" => true,
            "number" => false,
            _ => return None,
        };
        let limit = |key: &str| schema[key].as_f64();
        let [least, above, most, below] = ["minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"].map(limit);
        Some(Self { whole, least, above, most, below })
    }

    fn holds(self, value: f64) -> bool {
        let fits = |limit: Option<f64>, fits: fn(f64, f64) -> bool| limit.is_none_or(|limit| fits(value, limit));
        fits(self.least, |value, limit| value >= limit)
            && fits(self.above, |value, limit| value > limit)
            && fits(self.most, |value, limit| value <= limit)
            && fits(self.below, |value, limit| value < limit)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { whole, least, above, most, below } = *self;
        let number = if whole { "a whole number" } else { "a number" };
        match (least, above, most, below) {
            (Some(least), _, Some(most), _) => write!(formatter, "{number} from {least} to {most}"),
            (Some(least), _, None, Some(below)) => write!(formatter, "{number} from {least} to just below {below}"),
            (Some(least), _, None, None) => write!(formatter, "{number}, {least} or above"),
            (None, Some(above), None, None) => write!(formatter, "{number} above {above}"),
            _ => formatter.write_str(number),
        }
    }
}

/// Returns the JSON schema of `T`, with all tables in it. Keys that may be left out are not nullable: TOML has no null.
pub fn schema_of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    without_null(&mut schema);
    schema
}

fn without_null(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if let Some(Value::Array(types)) = map.get("type") {
                let types = types.iter().filter(|kind| *kind != "null").cloned().collect::<Vec<_>>();
                if let [only] = &types[..] {
                    map.insert("type".into(), only.clone());
                }
            }
            if map.get("default").is_some_and(Value::is_null) {
                map.remove("default");
            }
            // An optional enumeration: `anyOf` it or null.
            if let Some(Value::Array(choices)) = map.remove("anyOf") {
                let choice = choices.into_iter().find(|choice| choice["type"] != "null");
                let choice =
                    choice.and_then(|choice| if let Value::Object(choice) = choice { Some(choice) } else { None });
                for (key, value) in choice.unwrap_or_default() {
                    map.entry(key).or_insert(value);
                }
            }
            map.values_mut().for_each(without_null);
        }
        Value::Array(values) => values.iter_mut().for_each(without_null),
        _ => {}
    }
}

/// Checks every number of `settings`, which are the recipe's section `section`. The error names key, value and range.
pub fn check<T: JsonSchema + Serialize>(section: &str, settings: &T) -> Result<(), String> {
    let values = serde_json::to_value(settings).map_err(|error| format!("{section}: {error}"))?;
    check_table(section, &schema_of::<T>(), &values)
}

fn check_table(section: &str, schema: &Value, values: &Value) -> Result<(), String> {
    let Value::Object(values) = values else { return Ok(()) };
    for (name, value) in values {
        let key = format!("{section}.{name}");
        let schema = &schema["properties"][name];
        check_table(&key, schema, value)?;
        let Some(range) = Range::of(schema) else { continue };
        // JSON has neither infinity nor NaN.
        let Some(number) = value.as_f64() else {
            return Err(format!("{key} is not a finite number; it must be {range}"));
        };
        if !range.holds(number) {
            return Err(format!("{key} is {number}; it must be {range}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize, JsonSchema)]
    struct Settings {
        #[schemars(range(min = 2, max = 4096))]
        batch: usize,
        #[schemars(extend("exclusiveMinimum" = 0.0))]
        lr: f64,
        #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1.0))]
        momentum: Option<f64>,
        inner: Inner,
    }

    #[derive(Serialize, JsonSchema)]
    struct Inner {
        #[schemars(range(min = 0.0))]
        factor: f64,
    }

    #[track_caller]
    fn check_refused(change: impl FnOnce(&mut Settings), message: &str) {
        let mut settings = Settings { batch: 2, lr: 0.1, momentum: Some(0.0), inner: Inner { factor: 0.0 } };
        assert_eq!(check("a", &settings), Ok(()));
        change(&mut settings);
        assert_eq!(check("a", &settings).unwrap_err(), message);
    }

    #[test]
    fn failures_name_key_value_and_range() {
        check_refused(|s| s.batch = 1, "a.batch is 1; it must be a whole number from 2 to 4096");
        check_refused(|s| s.lr = 0.0, "a.lr is 0; it must be a number above 0");
        check_refused(|s| s.lr = f64::NAN, "a.lr is not a finite number; it must be a number above 0");
        check_refused(|s| s.momentum = Some(1.0), "a.momentum is 1; it must be a number from 0 to just below 1");
        check_refused(|s| s.inner.factor = -1.0, "a.inner.factor is -1; it must be a number, 0 or above");
    }

    #[test]
    fn a_key_that_may_be_left_out_is_not_nullable() {
        let schema = schema_of::<Settings>();
        assert_eq!(schema["properties"]["momentum"]["type"], "number");
    }
}
