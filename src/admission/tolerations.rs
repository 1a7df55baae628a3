//! Tolerations of pods: which cover others (kubernetes `pkg/util/tolerations`).

use serde_json::Value;

use crate::attributes::text;

/// The tolerations of `all` that no other covers. (`MergeTolerations`)
pub(crate) fn merge(all: &[Value]) -> Vec<Value> {
    let mut merged: Vec<Value> = Vec::new();
    for (i, toleration) in all.iter().enumerate() {
        let covered = merged.iter().any(|other| covers(other, toleration))
            || all[i + 1..].iter().any(|other| !same(other, toleration) && covers(other, toleration));
        if !covered {
            merged.push(toleration.clone());
        }
    }
    merged
}

/// `isSuperset`.
pub(crate) fn covers(wide: &Value, narrow: &Value) -> bool {
    if same(wide, narrow) {
        return true;
    }
    let any_key = text(wide, "key").is_empty() && text(wide, "operator") == "Exists";
    if text(wide, "key") != text(narrow, "key") && !any_key {
        return false;
    }
    let effect = text(wide, "effect");
    if effect != text(narrow, "effect") && !effect.is_empty() {
        return false;
    }
    if effect == "NoExecute"
        && let Some(limit) = seconds(wide)
        && seconds(narrow).is_none_or(|s| s > limit)
    {
        return false;
    }
    match text(wide, "operator") {
        "" | "Equal" => text(narrow, "operator") == "Equal" && text(narrow, "value") == text(wide, "value"),
        "Exists" => true,
        _ => false,
    }
}

/// `VerifyAgainstWhitelist`: whether each is covered by one that is allowed. Nothing allowed is everything.
pub(crate) fn are_allowed(all: &[Value], allowed: &[Value]) -> bool {
    allowed.is_empty() || all.iter().all(|toleration| allowed.iter().any(|other| covers(other, toleration)))
}

/// Equal, absent members being empty ones.
fn same(a: &Value, b: &Value) -> bool {
    ["key", "operator", "value", "effect"].into_iter().all(|member| text(a, member) == text(b, member))
        && seconds(a) == seconds(b)
}

fn seconds(toleration: &Value) -> Option<i64> {
    toleration.get("tolerationSeconds").and_then(Value::as_i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_another_covers_is_left_out() {
        let exists = json!({"key": "a", "operator": "Exists", "effect": "NoSchedule"});
        let equal = json!({"key": "a", "operator": "Equal", "value": "b", "effect": "NoSchedule"});
        let empty = json!({"key": "a", "operator": "Exists", "effect": "NoSchedule", "value": ""});
        let (exists, equal) = ([exists], [equal]);
        assert_eq!(merge(&[&equal[..], &exists].concat()), exists);
        assert_eq!(merge(&[&exists[..], &[empty]].concat()), exists);
        assert!(are_allowed(&equal, &[]) && are_allowed(&equal, &exists));
        assert!(!are_allowed(&exists, &equal));
    }
}
