//! What may change in a pod (`ValidatePodUpdate`, `ValidatePodEphemeralContainersUpdate`, `ValidatePodResize`).

use api::Object;
use api::field::{Error, ErrorList, Path};
use serde_json::{Value, json};

use crate::json::{Json, Members, restore, same};
use crate::printed::{self, Printed};

const UPDATABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
    `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
    tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// The rules of an ordinary update of a pod's spec.
pub(crate) fn pod(errors: &mut ErrorList, path: &Path, new: &Value, old: &Value) {
    for list in ["containers", "initContainers"] {
        if new.count(list) != old.count(list) {
            errors.push(Error::forbidden(path.child(list), "pod updates may not add or remove containers"));
            return;
        }
    }
    let at = path.child("activeDeadlineSeconds");
    if let Some(seconds) = new.int("activeDeadlineSeconds").filter(|s| !(0..=i64::from(i32::MAX)).contains(s)) {
        errors.push(Error::invalid(at, seconds, "must be between 0 and 2147483647, inclusive"));
        return;
    }
    match (new.int("activeDeadlineSeconds"), old.int("activeDeadlineSeconds")) {
        (Some(new), Some(old)) if old < new => {
            errors.push(Error::invalid(at, new, "must be less than or equal to previous value"));
            return;
        }
        (None, Some(_)) => {
            errors.push(Error::invalid(at, Value::Null, "must not update from a positive integer to nil value"));
        }
        _ => {}
    }
    tolerations(errors, &path.child("tolerations"), new.list("tolerations"), old.list("tolerations"));
    for (i, gate) in new.list("schedulingGates").iter().enumerate() {
        let name = gate.text("name");
        if !old.list("schedulingGates").iter().any(|g| g.text("name") == name) {
            let text = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            errors.push(Error::forbidden(path.child("schedulingGates").index(i).child("name"), text));
        }
    }
    let Some(mut munged) = new.as_object().cloned() else { return };
    for list in ["containers", "initContainers"] {
        images(&mut munged, list, old.list(list));
    }
    for member in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        restore(&mut munged, member, old);
    }
    if old.int("terminationGracePeriodSeconds").is_some_and(|s| s < 0)
        && munged.int("terminationGracePeriodSeconds") == Some(1)
    {
        restore(&mut munged, "terminationGracePeriodSeconds", old);
    }
    if old.count("schedulingGates") > 0 {
        gated(errors, path, &mut munged, old);
    }
    let munged = Value::Object(munged);
    if !printed::equal("core.PodSpec", &munged, old) {
        let changes = printed::changes("core.PodSpec", old, &munged);
        errors.push(Error::forbidden(path.clone(), format!("{UPDATABLE}\n{changes}")));
    }
}

/// A pod that waits on scheduling gates may still be told more about where it may go.
fn gated(errors: &mut ErrorList, path: &Path, munged: &mut Members, old: &Value) {
    let selector = munged.at("nodeSelector").clone();
    for (key, value) in old.entries("nodeSelector") {
        if selector.at(key) != value {
            errors.push(Error::invalid(
                path.child("nodeSelector"),
                selector.clone(),
                "only additions to spec.nodeSelector are allowed (no mutations or deletions)",
            ));
            break;
        }
    }
    restore(munged, "nodeSelector", old);
    let new_affinity = munged.at("affinity").at("nodeAffinity").clone();
    let old_affinity = old.at("affinity").at("nodeAffinity");
    if same(&new_affinity, old_affinity) {
        return;
    }
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let (new_terms, old_terms) =
        (new_affinity.at(required).list("nodeSelectorTerms"), old_affinity.at(required).list("nodeSelectorTerms"));
    if !old_terms.is_empty() && old_terms.len() != new_terms.len() {
        let at = path.child("affinity").child("nodeAffinity").child(required).child("nodeSelectorTerms");
        let text = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        let terms = if new_terms.is_empty() { Value::Null } else { Value::from(new_terms) };
        errors.push(Error::invalid(at, terms, text).printed("[]core.NodeSelectorTerm"));
    } else {
        for (i, (old, new)) in old_terms.iter().zip(new_terms).enumerate() {
            if only_adds(old, new) {
                continue;
            }
            let at = path.child("affinity").child("nodeAffinity").child(required).child("nodeSelectorTerms").index(i);
            let text = "only additions are allowed (no mutations or deletions)";
            errors.push(Error::invalid(at, new.clone(), text).printed("core.NodeSelectorTerm"));
        }
    }
    if let Some(affinity) = munged.get_mut("affinity").and_then(Value::as_object_mut) {
        restore(affinity, "nodeAffinity", old.at("affinity"));
        if affinity.values().all(|v| same(v, &Value::Null)) {
            munged.remove("affinity");
        }
    } else {
        restore(munged, "affinity", old);
    }
}

/// `validateNodeSelectorTermHasOnlyAdditions`.
fn only_adds(old: &Value, new: &Value) -> bool {
    let count = |term: &Value| term.count("matchExpressions") + term.count("matchFields");
    if count(old) == 0 {
        return count(new) == 0;
    }
    ["matchExpressions", "matchFields"].iter().all(|list| {
        let (old, new) = (old.list(list), new.list(list));
        new.len() >= old.len() && old.iter().zip(new).all(|(old, new)| same(old, new))
    })
}

fn images(spec: &mut Members, list: &str, old: &[Value]) {
    let Some(containers) = spec.get_mut(list).and_then(Value::as_array_mut) else { return };
    for (container, old) in containers.iter_mut().zip(old) {
        if let Some(container) = container.as_object_mut() {
            restore(container, "image", old);
        }
    }
}

fn tolerations(errors: &mut ErrorList, path: &Path, new: &[Value], old: &[Value]) {
    let without_seconds = |toleration: &Value| {
        let mut map = toleration.as_object().cloned().unwrap_or_default();
        map.remove("tolerationSeconds");
        Value::Object(map)
    };
    for old in old {
        let old = without_seconds(old);
        if !new.iter().any(|new| same(&without_seconds(new), &old)) {
            let text = "existing toleration can not be modified except its tolerationSeconds";
            errors.push(Error::forbidden(path.clone(), text));
            return;
        }
    }
}

/// Ephemeral containers may be added, not changed or removed.
pub(crate) fn ephemeral(errors: &mut ErrorList, path: &Path, new: &Value, old: &Value) {
    for old in old.list("ephemeralContainers") {
        let name = old.text("name");
        match new.list("ephemeralContainers").iter().find(|c| c.text("name") == name) {
            None => {
                let text = format!("existing ephemeral containers {name:?} may not be removed\n");
                errors.push(Error::forbidden(path.clone(), text));
            }
            Some(new) if !same(new, old) => {
                let changes = printed::changes("core.EphemeralContainer", old, new);
                let text = format!("existing ephemeral containers {name:?} may not be changed\n{changes}");
                errors.push(Error::forbidden(path.clone(), text));
            }
            Some(_) => {}
        }
    }
}

/// CPU and memory of containers may change, nothing else and not the quality of service.
pub(crate) fn resize(errors: &mut ErrorList, path: &Path, new: &Object, old: &Object) {
    let known = |pod: &Object| pod.at("status").text("qosClass").to_owned();
    let before = Some(known(old)).filter(|class| !class.is_empty());
    if super::qos::class(new.at("spec")) != before.as_deref().unwrap_or_else(|| super::qos::class(old.at("spec"))) {
        let text = "Pod QOS Class may not change as a result of resizing";
        errors.push(Error::invalid(path.clone(), known(new), text));
    }
    // `isPodResizeRequestSupported`: what runs tells its resources, if its node can resize it.
    let running = old.array(&["status", "containerStatuses"]).iter().find(|c| c.at("state").has("running"));
    if running.is_some_and(|c| !c.has("resources")) {
        errors.push(Error::forbidden(path.clone(), "Pod running on node without support for resize"));
    }
    let (new, old) = (new.at("spec"), old.at("spec"));
    let strip = |spec: &Value| {
        let mut spec = spec.clone();
        for list in ["containers", "initContainers"] {
            for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                if let Some(container) = container.as_object_mut() {
                    container.remove("resizePolicy");
                    for part in ["requests", "limits"] {
                        let resources = container.get_mut("resources").and_then(Value::as_object_mut);
                        if let Some(amounts) = resources.and_then(|r| r.get_mut(part)).and_then(Value::as_object_mut) {
                            amounts.remove("cpu");
                            amounts.remove("memory");
                        }
                    }
                }
            }
        }
        if let Some(map) = spec.as_object_mut() {
            map.insert("resources".to_owned(), json!({}));
        }
        spec
    };
    if !same(&strip(new), &strip(old)) {
        errors.push(Error::forbidden(path.clone(), "only cpu and memory resources are mutable"));
    }
    for list in ["containers", "initContainers"] {
        for (i, (new, old)) in new.list(list).iter().zip(old.list(list)).enumerate() {
            for part in ["requests", "limits"] {
                for name in ["cpu", "memory"] {
                    let had = old.at("resources").at(part).has(name);
                    if had && !new.at("resources").at(part).has(name) {
                        let at = path.child(list).index(i).child("resources").child(part);
                        errors.push(Error::forbidden(at, "resource limits cannot be removed"));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(new: Value, old: Value) -> Vec<String> {
        let mut errors = ErrorList::new();
        pod(&mut errors, &Path::new("spec"), &new, &old);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn images_and_new_tolerations_may_change() {
        let old = json!({"containers": [{"name": "a", "image": "x:1"}], "tolerations": [{"key": "a"}]});
        let new = json!({"containers": [{"name": "a", "image": "x:2"}], "tolerations": [{"key": "a", "tolerationSeconds": 5}, {"key": "b"}]});
        assert!(problems(new, old).is_empty());
    }

    #[test]
    fn nothing_else_may_change() {
        let old = json!({"containers": [{"name": "a", "image": "x:1"}], "nodeName": "n"});
        let new = json!({"containers": [{"name": "a", "image": "x:1", "command": ["y"]}], "nodeName": "n"});
        let texts = problems(new, old);
        assert_eq!(texts.len(), 1);
        assert!(texts[0].starts_with(
            "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,\
             `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`"
        ));
    }
}
