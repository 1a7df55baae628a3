//! Annotations of pods and templates that mean something (`ValidatePodSpecificAnnotations`).

use api::field::{Error, ErrorList, Path};
use serde_json::Value;

use super::all_containers;
use crate::json::Json;

const MIRROR: &str = "kubernetes.io/config.mirror";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const APPARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

fn members(map: &Value) -> impl Iterator<Item = (&str, &str)> {
    map.as_object().into_iter().flatten().map(|(key, value)| (key.as_str(), value.as_str().unwrap_or_default()))
}

fn get<'v>(map: &'v Value, key: &str) -> Option<&'v str> {
    map.get(key).and_then(Value::as_str)
}

/// Checks a pod's or a template's.
pub(crate) fn specific(errors: &mut ErrorList, path: &Path, map: &Value, spec: &Value) {
    if let Some(value) = get(map, MIRROR)
        && spec.count("nodeName") == 0
    {
        let text = "must set spec.nodeName if mirror pod annotation is set";
        errors.push(Error::invalid(path.key(MIRROR), value, text));
    }
    if let Some(value) = get(map, DELETION_COST)
        && !is_cost(value)
    {
        errors.push(Error::invalid(path.key(DELETION_COST), value, "must be a 32bit integer"));
    }
    for (key, profile) in members(map) {
        let Some(name) = key.strip_prefix(APPARMOR) else { continue };
        if all_containers(spec).all(|container| container.text("name") != name) {
            errors.push(Error::invalid(path.key(key), name, "container not found"));
        }
        if !matches!(profile, "" | "runtime/default" | "unconfined") && !profile.starts_with("localhost/") {
            let text = format!("invalid AppArmor profile name: {profile:?}");
            errors.push(Error::invalid(path.key(key), profile, text));
        }
    }
}

/// Checks those of a changed pod; some may not change (`ValidatePodSpecificAnnotationUpdates`).
pub(crate) fn changed(errors: &mut ErrorList, path: &Path, (map, old): (&Value, &Value), spec: &Value) {
    for (key, _) in members(old).filter(|(key, value)| get(map, key) != Some(*value)) {
        if key.starts_with(APPARMOR) {
            errors.push(Error::forbidden(path.key(key), "may not remove or update AppArmor annotations"));
        }
        if key == MIRROR {
            errors.push(Error::forbidden(path.key(key), "may not remove or update mirror pod annotation"));
        }
    }
    for (key, _) in members(map).filter(|(key, _)| get(old, key).is_none()) {
        if key.starts_with(APPARMOR) {
            errors.push(Error::forbidden(path.key(key), "may not add AppArmor annotations"));
        }
        if key == MIRROR {
            errors.push(Error::forbidden(path.key(key), "may not add mirror pod annotation"));
        }
    }
    // A cost that made no sense before may stay.
    let kept = get(old, DELETION_COST).is_some_and(|cost| !is_cost(cost));
    let mut found = ErrorList::new();
    specific(&mut found, path, map, spec);
    let cost = path.key(DELETION_COST).to_string();
    errors.extend(found.into_iter().filter(|error| !(kept && error.path.to_string() == cost)));
}

/// Whether it is a number of 32 bits without a plus and without leading zeros (`GetDeletionCostFromPodAnnotations`).
fn is_cost(text: &str) -> bool {
    matches!(text.as_bytes(), [b'0'] | [b'-' | b'1'..=b'9', ..]) && text.parse::<i32>().is_ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn annotations_that_mean_something_are_checked() {
        let spec = json!({"containers": [{"name": "c"}]});
        let check = |map: Value, want: &[&str]| {
            let mut errors = ErrorList::new();
            specific(&mut errors, &Path::new("annotations"), &map, &spec);
            let found: Vec<String> = errors.iter().map(|error| error.body()).collect();
            assert_eq!(found, want);
        };
        check(json!({MIRROR: "x"}), &["Invalid value: \"x\": must set spec.nodeName if mirror pod annotation is set"]);
        for cost in ["0", "-5", "17"] {
            check(json!({DELETION_COST: cost}), &[]);
        }
        for cost in ["+5", "08", "", "9999999999"] {
            check(json!({DELETION_COST: cost}), &[&format!("Invalid value: {cost:?}: must be a 32bit integer")]);
        }
        check(
            json!({format!("{APPARMOR}c"): "localhost/x", format!("{APPARMOR}d"): "runtime/default"}),
            &["Invalid value: \"d\": container not found"],
        );
        check(
            json!({format!("{APPARMOR}c"): "bad"}),
            &["Invalid value: \"bad\": invalid AppArmor profile name: \"bad\""],
        );
    }

    #[test]
    fn a_pod_does_not_become_a_mirror() {
        let check = |map: Value, old: Value, want: &[&str]| {
            let mut errors = ErrorList::new();
            changed(&mut errors, &Path::new("annotations"), (&map, &old), &json!({"nodeName": "n"}));
            let found: Vec<String> = errors.iter().map(|error| error.body()).collect();
            assert_eq!(found, want);
        };
        check(json!({MIRROR: "x"}), json!({}), &["Forbidden: may not add mirror pod annotation"]);
        check(json!({}), json!({MIRROR: "x"}), &["Forbidden: may not remove or update mirror pod annotation"]);
        check(json!({DELETION_COST: "x"}), json!({DELETION_COST: "y"}), &[]);
        check(
            json!({DELETION_COST: "x"}),
            json!({DELETION_COST: "1"}),
            &["Invalid value: \"x\": must be a 32bit integer"],
        );
    }
}
