//! Whether a JSON value has what a pattern has.

use serde_json::Value;

/// Where `value` is not as `pattern` says, if anywhere. Of an object only the members that the pattern names count.
pub(super) fn mismatch(pattern: &Value, value: &Value) -> Option<String> {
    mismatch_at("", pattern, value)
}

fn mismatch_at(path: &str, pattern: &Value, value: &Value) -> Option<String> {
    match (pattern, value) {
        (Value::Object(pattern), Value::Object(value)) => pattern.iter().find_map(|(name, pattern)| {
            let path = format!("{path}/{name}");
            match value.get(name) {
                Some(value) => mismatch_at(&path, pattern, value),
                None => Some(format!("{path} is missing, not {pattern}")),
            }
        }),
        (Value::Array(pattern), Value::Array(value)) if pattern.len() == value.len() => {
            let mut elements = pattern.iter().zip(value).enumerate();
            elements.find_map(|(index, (pattern, value))| mismatch_at(&format!("{path}/{index}"), pattern, value))
        }
        _ if pattern == value => None,
        _ if path.is_empty() => Some(format!("it is {value}")),
        _ => Some(format!("{path} is {value}, not {pattern}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn members_that_are_not_named_do_not_count_at_any_depth() {
        let value = json!({"a": 1, "b": {"c": [1, {"d": 2, "e": 3}], "f": null}});
        for pattern in [json!({}), json!({"a": 1}), json!({"b": {"c": [1, {"d": 2}]}}), json!({"b": {"f": null}})] {
            assert_eq!(mismatch(&pattern, &value), None, "{pattern}");
        }
    }

    #[test]
    fn what_differs_is_said_with_its_place() {
        let value = json!({"a": 1, "b": {"c": [1, 2]}});
        for (pattern, text) in [
            (json!({"a": "1"}), r#"/a is 1, not "1""#),
            (json!({"b": {"d": true}}), "/b/d is missing, not true"),
            (json!({"b": {"c": [1, 3]}}), "/b/c/1 is 2, not 3"),
            (json!({"b": {"c": [1]}}), "/b/c is [1,2], not [1]"),
            (json!([]), r#"it is {"a":1,"b":{"c":[1,2]}}"#),
        ] {
            assert_eq!(mismatch(&pattern, &value).as_deref(), Some(text));
        }
    }
}
