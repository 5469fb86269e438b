use serde::Serialize;
use serde_json::Value;

/// The canonical JSON of a value: keys sorted by their bytes, no white space, one spelling for each value.
/// Two equal values give equal bytes on every machine, so the digest of these bytes names the value.
///
/// Follows RFC 8785 in the subset this project writes: strings, booleans, null, integers, arrays, objects.
///
/// # Panics
/// When the value holds what the subset lacks (a float, a map whose keys are not strings): a mistake in a
/// type of this project, not in its data.
pub fn to_canonical_json<T: Serialize + ?Sized>(value: &T) -> String {
    let value = serde_json::to_value(value).expect("plan types serialise to JSON");
    let mut out = String::new();
    write(&value, &mut out);
    out
}

fn write(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            // Sorted here and not left to the map: a dependency that turns on serde_json's `preserve_order`
            // would silently change every digest.
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
            out.push('{');
            for (index, (key, value)) in entries.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                write(value, out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write(item, out);
            }
            out.push(']');
        }
        Value::Number(number) => {
            assert!(!number.is_f64(), "floats have no canonical form here");
            out.push_str(&number.to_string());
        }
        Value::String(_) | Value::Bool(_) | Value::Null => out.push_str(&value.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sorts_keys_at_every_depth() {
        let value = serde_json::json!({"b": {"z": 1, "a": [true, null]}, "a": "x\n\"\u{7f}é"});
        assert_eq!(
            to_canonical_json(&value),
            "{\"a\":\"x\\n\\\"\u{7f}é\",\"b\":{\"a\":[true,null],\"z\":1}}"
        );
    }

    proptest! {
        #[test]
        fn is_json_of_the_same_value_whatever_the_order(map: HashMap<String, u64>) {
            let canonical = to_canonical_json(&map);
            let back: HashMap<String, u64> = serde_json::from_str(&canonical).unwrap();
            prop_assert_eq!(&back, &map);
            prop_assert_eq!(to_canonical_json(&back), canonical);
        }
    }
}
