//! Hashes that name generated objects, and comparison of pod templates.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::Value;

/// The label that tells the pods of one ReplicaSet of a Deployment from another's.
pub(crate) const POD_TEMPLATE_HASH: &str = "pod-template-hash";

/// A stable hash of a template. Upstream hashes Go's printed form, which nothing depends on across versions either:
/// existing ReplicaSets are found by comparing templates, never by hash.
pub(crate) fn template_hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    let mut bytes = serde_json::to_vec(template).unwrap_or_default();
    if let Some(collisions) = collisions {
        bytes.extend_from_slice(&collisions.to_le_bytes());
    }
    safe_encode(&base::fnv32a(&bytes).to_string())
}

/// Letters and digits that form no words (apimachinery `rand.SafeEncodeString`).
pub(crate) fn safe_encode(text: &str) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    text.bytes().map(|byte| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()])).collect()
}

/// Whether two templates are the same but for the hash label (`deployment_util.go` `EqualIgnoreHash`).
pub(crate) fn equal_ignoring_hash(one: &PodTemplateSpec, other: &PodTemplateSpec) -> bool {
    if one == other {
        return true;
    }
    normal(one) == normal(other)
}

/// JSON without the hash label and without what Go's `omitempty` leaves out.
fn normal(template: &PodTemplateSpec) -> Value {
    let mut value = serde_json::to_value(template).unwrap_or_default();
    if let Some(labels) = value.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.remove(POD_TEMPLATE_HASH);
    }
    prune(&mut value);
    value
}

/// Maps (not structs) that Go leaves out when empty.
const MAPS: &[&str] = &["labels", "annotations", "nodeSelector", "limits", "requests", "metadata", "resources"];

fn prune(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.values_mut().for_each(prune);
            members.retain(|name, member| match member {
                Value::Null => false,
                Value::Array(items) => !items.is_empty(),
                Value::Object(inner) => !inner.is_empty() || !MAPS.contains(&name.as_str()),
                Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
            });
        }
        Value::Array(items) => items.iter_mut().for_each(prune),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn template(value: Value) -> PodTemplateSpec {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_hash_label_and_empty_lists_do_not_count() {
        let one =
            template(json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "args": []}]}}));
        let other = template(
            json!({"metadata": {"labels": {"a": "b", "pod-template-hash": "x"}}, "spec": {"containers": [{"name": "c"}]}}),
        );
        assert!(equal_ignoring_hash(&one, &other));
        let third = template(json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "d"}]}}));
        assert!(!equal_ignoring_hash(&one, &third));
        assert_ne!(template_hash(&one, None), template_hash(&third, None));
        assert_ne!(template_hash(&one, None), template_hash(&one, Some(1)));
    }
}
