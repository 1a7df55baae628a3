//! LimitRanges.

use std::collections::BTreeSet;

use api::Object;
use api::field::{Error, ErrorList, Path};
use serde_json::Value;

use crate::checks::{invalid_all, qualified_name};
use crate::columns::generic;
use crate::define::Extra;
use crate::json::{Json, Members, amount, child, existing, items_mut};
use crate::podspec::resources::{container_resource_name, overcommits, resource_name};
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
        create: |_, object| {
            // A name for who gives none.
            if object.name().is_empty() {
                let uid = object.uid().to_owned();
                object.set(&["metadata", "name"], uid);
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
        let problems = qualified_name(kind);
        if !problems.is_empty() {
            invalid_all(&mut errors, &at.child("type"), kind, problems);
        } else if !matches!(kind, "Pod" | "Container" | "PersistentVolumeClaim") && !kind.contains('/') {
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
    let kind = item.text("type");
    for list in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
        if kind == "Pod" && matches!(list, "default" | "defaultRequest") {
            if item.count(list) > 0 {
                errors.push(Error::forbidden(at.child(list), "may not be specified when `type` is 'Pod'"));
            }
            continue;
        }
        for (name, _) in item.entries(list) {
            let at = at.child(list).key(name);
            if matches!(kind, "Pod" | "Container") {
                container_resource_name(errors, &at, name);
            } else {
                resource_name(errors, &at, name);
            }
            names.insert(name);
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
        if let (Some(ratio), Some(low), Some(high)) = (value("maxLimitRequestRatio"), value("min"), value("max")) {
            let milli = |value: &Value| amount(value).milli_value() as f64;
            let most = milli(high) / milli(low);
            if milli(ratio) / 1000.0 > most {
                let text = format!("ratio {} is greater than max/min = {most:.6}", plain(ratio));
                errors.push(Error::invalid(at.child("maxLimitRequestRatio").key(name), plain(ratio), text));
            }
        }
        if let (Some(default), Some(request)) = (value("default"), value("defaultRequest"))
            && !overcommits(name)
            && amount(default) != amount(request)
        {
            let text = format!(
                "default value {} must equal to defaultRequest value {} in {name}",
                plain(default),
                plain(request)
            );
            errors.push(Error::invalid(at.child("defaultRequest").key(name), plain(request), text));
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
