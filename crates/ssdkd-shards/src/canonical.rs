//! JSON with one spelling for each value, so that equal values have equal digests.
//!
//! Keys are sorted by their bytes, numbers are in their shortest form that reads back to the same number, and there is
//! no white space. This does not lean on the order of serde_json's map, which a feature flag of any crate can change.

use serde_json::Value;

/// Returns the one spelling of `value`.
pub fn to_string(value: &Value) -> String {
    let mut text = String::new();
    write(value, None, &mut text);
    text
}

/// Returns the same with line breaks and two spaces of indentation, for files that people read; ends with a line break.
pub fn to_string_pretty(value: &Value) -> String {
    let mut text = String::new();
    write(value, Some(0), &mut text);
    text.push('\n');
    text
}

/// `indent`: the depth of nesting, or `None` for one line.
fn write(value: &Value, indent: Option<usize>, text: &mut String) {
    let deeper = indent.map(|depth| depth + 1);
    match value {
        Value::Array(items) => {
            let write_item = |item: &Value, text: &mut String| write(item, deeper, text);
            write_list('[', items.iter(), ']', indent, text, write_item);
        }
        Value::Object(map) => {
            let mut entries = map.iter().collect::<Vec<_>>();
            entries.sort_by_key(|(key, _)| *key);
            let write_entry = |(key, item): (&String, &Value), text: &mut String| {
                text.push_str(&Value::from(key.as_str()).to_string());
                text.push_str(if indent.is_some() { ": " } else { ":" });
                write(item, deeper, text);
            };
            write_list('{', entries.into_iter(), '}', indent, text, write_entry);
        }
        scalar => text.push_str(&scalar.to_string()),
    }
}

fn write_list<T>(
    open: char,
    items: impl ExactSizeIterator<Item = T>,
    close: char,
    indent: Option<usize>,
    text: &mut String,
    write_item: impl Fn(T, &mut String),
) {
    let empty = items.len() == 0;
    let line_break = |depth: usize, text: &mut String| {
        text.push('\n');
        text.extend(std::iter::repeat_n("  ", depth));
    };
    text.push(open);
    for (index, item) in items.enumerate() {
        if index > 0 {
            text.push(',');
        }
        if let Some(depth) = indent {
            line_break(depth + 1, text);
        }
        write_item(item, text);
    }
    if let Some(depth) = indent.filter(|_| !empty) {
        line_break(depth, text);
    }
    text.push(close);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn there_is_one_spelling() {
        let value = json!({"b": [1, 0.1, -2.5e-8, null], "a": {"z": true, "y": "q\"\n"}, "c": {}, "d": []});
        let text = r#"{"a":{"y":"q\"\n","z":true},"b":[1,0.1,-2.5e-8,null],"c":{},"d":[]}"#;
        assert_eq!(to_string(&value), text);
        let reversed: Value =
            serde_json::from_str(r#"{"d":[],"c":{},"b":[1,0.1,-2.5e-8,null],"a":{"z":true,"y":"q\"\n"}}"#).unwrap();
        assert_eq!(to_string(&reversed), text);
    }

    #[test]
    fn the_pretty_form_is_the_same_value() {
        let value = json!({"b": [1, {"k": 2}], "a": {}});
        let pretty = to_string_pretty(&value);
        assert_eq!(pretty, "{\n  \"a\": {},\n  \"b\": [\n    1,\n    {\n      \"k\": 2\n    }\n  ]\n}\n");
        assert_eq!(serde_json::from_str::<Value>(&pretty).unwrap(), value);
    }

    #[test]
    fn floats_read_back_to_the_same_bits() {
        for float in [0.1, 1.0 / 3.0, f64::MIN_POSITIVE, 1e300, 5e-324, 0.2_f32.into()] {
            let back: f64 = to_string(&json!(float)).parse().unwrap();
            assert_eq!(back.to_bits(), float.to_bits());
        }
    }
}
