//! LimitRanges.

use std::collections::BTreeSet;

use api::Object;
use api::field::{Error, ErrorList, Path};
use serde_json::Value;

use crate::columns::generic;
use crate::define::Extra;
use crate::json::{Json, Members, amount, child, existing, items_mut};
use crate::podspec::resources::{quantity, resource_name};
use crate::rules::Rules;

pub(super) fn extra() -> Extra {
    let rules = Rules {
        default: |object| {
            if let Some(spec) = existing(&mut object.0, "spec") {
                for item in items_mut(spec, "limits") {
                    default(item);
                }
            }
        },
        validate,
        create_on_update: true,
        ..Rules::GENERIC
    };
    Extra::new(rules, generic())
}

/// `SetDefaults_LimitRangeItem`: a container's defaults follow its limits.
fn default(item: &mut Members) {
    if item.text("type") != "Container" {
        return;
    }
    for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
        let known = item.at(from).as_object().cloned().unwrap_or_default();
        if known.is_empty() {
            continue;
        }
        if let Some(map) = child(item, to) {
            for (name, value) in known {
                map.entry(name).or_insert(value);
            }
        }
    }
}

/// `ValidateLimitRange`.
fn validate(object: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut seen = BTreeSet::new();
    for (i, item) in object.array(&["spec", "limits"]).iter().enumerate() {
        let at = Path::new("spec").child("limits").index(i);
        let kind = item.text("type");
        if !matches!(kind, "Pod" | "Container" | "PersistentVolumeClaim") && !kind.contains('/') {
            errors.push(Error::invalid(at.child("type"), kind, "must be a standard limit type or fully qualified"));
        }
        if !seen.insert(kind) {
            errors.push(Error::duplicate(at.child("type"), kind));
        }
        limits(&mut errors, &at, item);
    }
    errors
}

fn limits(errors: &mut ErrorList, at: &Path, item: &Value) {
    let mut names = BTreeSet::new();
    for list in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
        for (name, value) in item.entries(list) {
            let at = at.child(list).key(name);
            resource_name(errors, &at, name);
            quantity(errors, &at, name, value);
            names.insert(name);
        }
        if item.text("type") == "Pod" && matches!(list, "default" | "defaultRequest") && item.count(list) > 0 {
            errors.push(Error::forbidden(at.child(list), "may not be specified when `type` is 'Pod'"));
        }
    }
    let claim = item.text("type") == "PersistentVolumeClaim";
    if claim && !item.at("min").has("storage") && !item.at("max").has("storage") {
        let text = "either minimum or maximum storage value is required, but neither was provided";
        errors.push(Error::required(at.child("limits"), text));
    }
    for name in names {
        let value = |list: &str| item.at(list).as_object().and_then(|m| m.get(name));
        // What is compared, the field that is blamed and whose value it is said to have.
        for (low, high, blamed, shown) in [
            ("min", "max", "min", "min"),
            ("min", "defaultRequest", "defaultRequest", "defaultRequest"),
            ("defaultRequest", "max", "defaultRequest", "defaultRequest"),
            ("defaultRequest", "default", "defaultRequest", "defaultRequest"),
            ("min", "default", "default", "min"),
            ("default", "max", "default", "max"),
        ] {
            let (Some(a), Some(b)) = (value(low), value(high)) else { continue };
            if amount(a) > amount(b) {
                let than = if (low, high) == ("defaultRequest", "default") { "default limit" } else { noun(high) };
                let text = format!("{} value {} is greater than {than} value {}", noun(low), plain(a), plain(b));
                let value = plain(if shown == low { a } else { b });
                errors.push(Error::invalid(at.child(blamed).key(name), value, text));
            }
        }
        if let Some(ratio) = value("maxLimitRequestRatio")
            && amount(ratio) < amount(&Value::from(1))
        {
            let text = format!("ratio {} is less than 1", plain(ratio));
            errors.push(Error::invalid(at.child("maxLimitRequestRatio").key(name), plain(ratio), text));
        }
    }
}

fn noun(list: &str) -> &'static str {
    match list {
        "min" => "min",
        "max" => "max",
        "default" => "default",
        _ => "default request",
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_follow_limits() {
        let mut item = json!({"type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1Mi"}});
        default(item.as_object_mut().unwrap());
        assert_eq!(
            item,
            json!({"type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1Mi"}, "default": {"cpu": "2"},
                "defaultRequest": {"cpu": "2", "memory": "1Mi"}})
        );
    }
}
