//! Annotations of pods and templates that mean something (`ValidatePodSpecificAnnotations`).

use api::Object;
use api::field::{Error, ErrorList, Path};
use serde_json::{Value, json};

use super::{all_containers, security};
use crate::json::{Json, child, dig, existing, items_mut};

const MIRROR: &str = "kubernetes.io/config.mirror";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
pub(super) const APPARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
pub(super) const APPARMOR_DEPRECATED: &str = "deprecated since v1.30; use the \"appArmorProfile\" field instead";

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

/// The AppArmor profile that an annotation stands for, if it is a valid one (`ApparmorFieldForAnnotation`).
fn profile(annotation: &str) -> Option<Value> {
    let profile = match annotation {
        "unconfined" => json!({"type": "Unconfined"}),
        "runtime/default" => json!({"type": "RuntimeDefault"}),
        other => json!({"type": "Localhost", "localhostProfile": other.strip_prefix("localhost/")?}),
    };
    let mut errors = ErrorList::new();
    security::apparmor(&mut errors, &Path::default(), &profile);
    errors.is_empty().then_some(profile)
}

/// Whether an annotation says of a container what the pod's own profile says.
pub(super) fn is_pods_profile(annotation: &str, pod: &Value) -> bool {
    !pod.is_null() && profile(annotation).as_ref() == Some(pod)
}

/// Gives the containers of a new pod the AppArmor profiles of its annotations, where they have none of their own; what is
/// to be told of the annotations (`applyAppArmorVersionSkew`).
pub(crate) fn take_profiles(object: &mut Object) -> Vec<String> {
    if dig(object, &["spec", "os"]).text("name") == "windows" {
        return Vec::new();
    }
    let annotations = dig(object, &["metadata", "annotations"]).clone();
    let pod = dig(object, &["spec", "securityContext"]).at("appArmorProfile").clone();
    let mut told = Vec::new();
    let Some(spec) = existing(&mut object.0, "spec") else { return told };
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in items_mut(spec, list) {
            let key = format!("{APPARMOR}{}", container.text("name"));
            let Some(annotation) = get(&annotations, &key) else { continue };
            if container.at("securityContext").has("appArmorProfile") || is_pods_profile(annotation, &pod) {
                continue;
            }
            if let Some(profile) = profile(annotation)
                && let Some(security) = child(container, "securityContext")
            {
                security.insert("appArmorProfile".to_owned(), profile);
            }
            let at = Path::new("metadata").child("annotations").key(&key);
            told.push(format!("{at}: {APPARMOR_DEPRECATED}"));
        }
    }
    told
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
    fn annotations_of_apparmor_become_fields() {
        let check = |annotation: &str, pod: Value, container: Value, want: Value, told: bool| {
            let mut object = Object::from_value(json!({
                "metadata": {"annotations": {format!("{APPARMOR}c"): annotation}},
                "spec": {"securityContext": pod, "containers": [{"name": "c", "securityContext": container}, {"name": "d"}]},
            }))
            .unwrap();
            let texts = take_profiles(&mut object);
            assert_eq!(object.at("spec").list("containers")[0]["securityContext"]["appArmorProfile"], want);
            assert_eq!(object.at("spec").list("containers")[1], json!({"name": "d"}));
            let text = format!("metadata.annotations[{APPARMOR}c]: {APPARMOR_DEPRECATED}");
            assert_eq!(texts, if told { vec![text] } else { Vec::new() });
        };
        let local = json!({"type": "Localhost", "localhostProfile": "x"});
        check("localhost/x", json!({}), json!({}), local.clone(), true);
        check("runtime/default", json!({}), json!({}), json!({"type": "RuntimeDefault"}), true);
        check("unconfined", json!({"appArmorProfile": {"type": "Unconfined"}}), json!({}), Value::Null, false);
        check("unconfined", json!({"appArmorProfile": local}), json!({}), json!({"type": "Unconfined"}), true);
        let own = json!({"appArmorProfile": {"type": "Unconfined"}});
        check("localhost/x", json!({}), own, json!({"type": "Unconfined"}), false);
        check("localhost/", json!({}), json!({}), Value::Null, true);
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
