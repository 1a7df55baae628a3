//! What a new cluster has before anybody makes anything: roles, namespaces, priority classes, flow schemas.
//!
//! How the server applies them at start, after upstream's post-start hooks:
//! - An object that is missing is created.
//! - [`Reconcile::Once`]: an existing object is left as it is.
//! - [`Reconcile::Union`] (roles and bindings): where the object's annotation
//!   `rbac.authorization.kubernetes.io/autoupdate` is not `false`, missing rules and subjects are added, others stay
//!   ([`reconcile`]). A binding whose `roleRef` differs is deleted and made anew.
//! - [`Reconcile::Replace`] (flow schemas, priority levels): the spec is put back while the annotation
//!   `apf.kubernetes.io/autoupdate-spec` is `true`.

mod flow;
mod rbac;

use api::Object;
use serde_json::{Value, json};

use crate::json::{Json, dig, same};

/// How an object is treated that is already there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reconcile {
    Once,
    Union,
    Replace,
}

const RBAC_AUTO: &str = "rbac.authorization.kubernetes.io/autoupdate";
const FLOW_AUTO: &str = "apf.kubernetes.io/autoupdate-spec";

/// Every object, namespaces first.
pub fn objects() -> Vec<Object> {
    let mut all = Vec::new();
    for name in ["kube-system", "kube-public", "kube-node-lease", "default"] {
        all.push(object(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})));
    }
    for (name, value, text) in [
        (
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
        (
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
    ] {
        all.push(object(json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
            "value": value, "globalDefault": false, "description": text, "preemptionPolicy": "PreemptLowerPriority",
        })));
    }
    all.extend(rbac::objects());
    all.extend(flow::objects());
    all
}

/// How [`reconcile`] treats an object of [`objects`].
pub fn policy(wanted: &Object) -> Reconcile {
    match wanted.kind() {
        "ClusterRole" | "Role" | "ClusterRoleBinding" | "RoleBinding" => Reconcile::Union,
        "FlowSchema" | "PriorityLevelConfiguration" => Reconcile::Replace,
        _ => Reconcile::Once,
    }
}

/// What is to be written over `existing` so that it has what `wanted` has; `None` if nothing.
pub fn reconcile(wanted: &Object, existing: &Object) -> Option<Object> {
    match policy(wanted) {
        Reconcile::Once => None,
        Reconcile::Union if existing.annotation(RBAC_AUTO) == Some("false") => None,
        Reconcile::Union => union(wanted, existing),
        Reconcile::Replace => {
            let own = existing.annotation(FLOW_AUTO) == Some("true");
            (own && !same(wanted.at("spec"), existing.at("spec"))).then(|| {
                let mut changed = existing.clone();
                changed.set(&["spec"], wanted.at("spec").clone());
                changed
            })
        }
    }
}

fn union(wanted: &Object, existing: &Object) -> Option<Object> {
    let mut changed = existing.clone();
    let mut dirty = false;
    for member in ["labels", "annotations"] {
        for (key, value) in dig(wanted, &["metadata", member]).as_object().into_iter().flatten() {
            if dig(existing, &["metadata", member]).at(key) != value {
                changed.set(&["metadata", member, key], value.clone());
                dirty = true;
            }
        }
    }
    // The rules of an aggregated role are the sum of others and not ours to write.
    let members: &[&str] = if wanted.at("aggregationRule").is_null() { &["rules", "subjects"] } else { &[] };
    for member in members {
        let mut list = existing.array(&[member]).to_vec();
        let missing: Vec<Value> =
            wanted.array(&[member]).iter().filter(|item| !list.iter().any(|have| same(have, item))).cloned().collect();
        if !missing.is_empty() {
            list.extend(missing);
            changed.set(&[member], list);
            dirty = true;
        }
    }
    if wanted.at("aggregationRule").is_object() && !same(wanted.at("aggregationRule"), existing.at("aggregationRule")) {
        changed.set(&["aggregationRule"], wanted.at("aggregationRule").clone());
        dirty = true;
    }
    dirty.then_some(changed)
}

fn object(value: Value) -> Object {
    Object::from_value(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(kind: &str, name: &str) -> Object {
        objects().into_iter().find(|o| o.kind() == kind && o.name() == name).unwrap()
    }

    #[test]
    fn the_whole_of_upstreams_rbac_is_there() {
        let all = objects();
        let count = |kind: &str| all.iter().filter(|o| o.kind() == kind).count();
        assert_eq!((count("ClusterRole"), count("ClusterRoleBinding")), (73, 54));
        assert_eq!((count("Role"), count("RoleBinding")), (7, 7));
        assert_eq!((count("FlowSchema"), count("PriorityLevelConfiguration")), (11, 8));
        let admin = find("ClusterRole", "cluster-admin");
        assert_eq!(
            *admin.at("rules"),
            json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}, {"nonResourceURLs": ["*"], "verbs": ["*"]}])
        );
        assert_eq!(find("ClusterRole", "edit").label("rbac.authorization.k8s.io/aggregate-to-admin"), Some("true"));
    }

    #[test]
    fn what_is_there_needs_nothing() {
        for object in objects() {
            assert_eq!(reconcile(&object, &object), None, "{} {}", object.kind(), object.name());
        }
    }

    #[test]
    fn missing_rules_are_added_and_others_stay() {
        let wanted = find("ClusterRole", "system:node-proxier");
        let mut existing = wanted.clone();
        existing.set(&["rules"], json!([{"apiGroups": ["x"], "resources": ["y"], "verbs": ["z"]}]));
        let changed = reconcile(&wanted, &existing).unwrap();
        assert_eq!(changed.array(&["rules"]).len(), wanted.array(&["rules"]).len() + 1);
        existing.set(&["metadata", "annotations", RBAC_AUTO], "false");
        assert_eq!(reconcile(&wanted, &existing), None);
    }
}
