//! JSON merge patch (RFC 7386) as upstream's library applies it.

use serde_json::{Map, Value};

use super::go_json_type;
use crate::status::Status;

/// Applies a merge patch; the patch must be a JSON object.
pub fn merge(document: Value, patch: &Value) -> Result<Value, Status> {
    match (document, patch) {
        (Value::Object(mut document), Value::Object(patch)) => {
            merge_maps(&mut document, patch);
            Ok(Value::Object(document))
        }
        (_, Value::Null) => Err(Status::bad_request("Invalid JSON Patch")),
        (_, Value::Object(patch)) => Ok(Value::Object(patch.clone())),
        (_, other) => Err(Status::bad_request(format!(
            "error decoding patch: json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
            go_json_type(other)
        ))),
    }
}

fn merge_maps(document: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (key, value) in patch {
        match (document.get_mut(key), value) {
            (_, Value::Null) => drop(document.remove(key)),
            (Some(Value::Object(current)), Value::Object(change)) => merge_maps(current, change),
            // A list or scalar that replaces an object stays as it is; all else loses its nulls.
            (Some(Value::Object(_)), value) => drop(document.insert(key.clone(), value.clone())),
            (_, value) => drop(document.insert(key.clone(), without_nulls(value))),
        }
    }
}

/// Members of objects that are null are left out, at any depth; items of lists stay.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            map.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), without_nulls(v))).collect()
        }
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json as j;

    #[test]
    fn merges_as_the_rfc_says() {
        for (document, patch, expected) in [
            (j!({"a": "b"}), j!({"a": "c"}), j!({"a": "c"})),
            (j!({"a": "b"}), j!({"b": "c"}), j!({"a": "b", "b": "c"})),
            (j!({"a": "b"}), j!({"a": null}), j!({})),
            (j!({"a": ["b"]}), j!({"a": "c"}), j!({"a": "c"})),
            (j!({"a": {"b": "c"}}), j!({"a": {"b": "d", "c": null}}), j!({"a": {"b": "d"}})),
            (j!({"a": [{"b": "c"}]}), j!({"a": [1]}), j!({"a": [1]})),
            (j!({}), j!({"a": {"bb": {"ccc": null}}}), j!({"a": {"bb": {}}})),
            (j!({"a": 1}), j!({"a": [{"x": null, "y": 1}]}), j!({"a": [{"y": 1}]})),
        ] {
            assert_eq!(merge(document, &patch), Ok(expected), "{patch}");
        }
    }

    #[test]
    fn a_patch_is_an_object() {
        assert_eq!(merge(j!({}), &j!(null)).unwrap_err().message, "Invalid JSON Patch");
        assert_eq!(merge(j!({}), &j!([])).unwrap_err().code, 400);
    }

    proptest! {
        // A file of failures beside the crates would be taken for a workspace member.
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_patch_applied_twice_changes_nothing_more(a in tree(), b in tree()) {
            let once = merge(j!({"r": a}), &j!({"r": b})).unwrap();
            prop_assert_eq!(merge(once.clone(), &j!({"r": b})).unwrap(), once);
        }
    }

    fn tree() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from), (0..9i64).prop_map(Value::from)];
        leaf.prop_recursive(3, 16, 3, |inner| {
            prop::collection::btree_map("[a-c]", inner, 0..3).prop_map(|m| m.into_iter().collect())
        })
    }
}
