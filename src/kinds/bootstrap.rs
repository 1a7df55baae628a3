//! What a new cluster has before anybody makes anything: roles, namespaces, priority classes, flow schemas.
//!
//! How the server applies them at start, after upstream's post-start hooks:
//! - An object that is missing is created.
//! - [`Reconcile::Once`]: an existing object is left as it is.
//! - [`Reconcile::Union`] (roles and bindings): where the object's annotation
//!   `rbac.authorization.kubernetes.io/autoupdate` is not `false`, missing rules, subjects, labels and annotations are
//!   added, others stay ([`reconcile`]). A binding whose `roleRef` differs is deleted and made anew.
//! - [`Reconcile::Replace`] (flow schemas, priority levels): the spec is put back while the annotation
//!   `apf.kubernetes.io/autoupdate-spec` is `true`.

mod covers;
pub(crate) mod flow;
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

/// What is to be done with an object that is already there.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// It is as it should be, or not ours to change.
    Nothing,
    /// Write this over it.
    Update(Object),
    /// Delete it and create the wanted one: its role cannot be changed.
    Recreate,
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

/// Flow schemas and priority levels among [`objects`].
pub fn flow_control() -> Vec<Object> {
    flow::objects()
}

/// How [`reconcile`] treats an object of [`objects`].
pub fn policy(wanted: &Object) -> Reconcile {
    match wanted.kind() {
        "ClusterRole" | "Role" | "ClusterRoleBinding" | "RoleBinding" => Reconcile::Union,
        "FlowSchema" | "PriorityLevelConfiguration" => Reconcile::Replace,
        _ => Reconcile::Once,
    }
}

/// What makes `existing` have what `wanted` has.
pub fn reconcile(wanted: &Object, existing: &Object) -> Step {
    let changed = match policy(wanted) {
        Reconcile::Once => None,
        Reconcile::Union if existing.annotation(RBAC_AUTO) == Some("false") => None,
        Reconcile::Union if !same(wanted.at("roleRef"), existing.at("roleRef")) => return Step::Recreate,
        Reconcile::Union => union(wanted, existing),
        Reconcile::Replace => {
            let own = existing.annotation(FLOW_AUTO) == Some("true");
            (own && !same(wanted.at("spec"), existing.at("spec"))).then(|| {
                let mut changed = existing.clone();
                changed.set(&["spec"], wanted.at("spec").clone());
                changed
            })
        }
    };
    changed.map_or(Step::Nothing, Step::Update)
}

/// `computeReconciledRole` and `computeReconciledRoleBinding`
/// (`k8s.io/component-helpers/auth/rbac/reconciliation`): an administrator's own labels, annotations, rules and subjects
/// stay.
fn union(wanted: &Object, existing: &Object) -> Option<Object> {
    let mut changed = existing.clone();
    let mut dirty = false;
    for member in ["labels", "annotations"] {
        for (key, value) in dig(wanted, &["metadata", member]).as_object().into_iter().flatten() {
            if dig(existing, &["metadata", member]).at(key).is_null() {
                changed.set(&["metadata", member, key], value.clone());
                dirty = true;
            }
        }
    }
    let missing_subjects = |have: &[Value], wanted: &[Value]| {
        wanted.iter().filter(|item| !have.iter().any(|have| same(have, item))).cloned().collect::<Vec<Value>>()
    };
    let lists: [(&[&str], &dyn Fn(&[Value], &[Value]) -> Vec<Value>); 3] = [
        (&["rules"], &covers::missing),
        (&["subjects"], &missing_subjects),
        (&["aggregationRule", "clusterRoleSelectors"], &missing_subjects),
    ];
    for (member, missing) in lists {
        let mut list = existing.array(member).to_vec();
        let lacking = missing(&list, wanted.array(member));
        if !lacking.is_empty() {
            list.extend(lacking);
            changed.set(member, list);
            dirty = true;
        }
    }
    if wanted.at("aggregationRule").is_null() && existing.at("aggregationRule").is_object() {
        changed.set(&["aggregationRule"], Value::Null);
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
            assert_eq!(reconcile(&object, &object), Step::Nothing, "{} {}", object.kind(), object.name());
        }
    }

    #[track_caller]
    fn updated(wanted: &Object, existing: &Object) -> Object {
        match reconcile(wanted, existing) {
            Step::Update(object) => object,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_an_older_version_left_gets_what_is_new_and_keeps_the_rest() {
        let wanted = find("ClusterRole", "system:node-proxier");
        let mut existing = wanted.clone();
        existing.set(&["rules"], json!([{"apiGroups": ["x"], "resources": ["y"], "verbs": ["z"]}]));
        existing.set(&["metadata", "labels"], json!({"own": "label", "kubernetes.io/bootstrapping": "other"}));
        let changed = updated(&wanted, &existing);
        assert_eq!(changed.array(&["rules"])[0], existing.array(&["rules"])[0]);
        assert_eq!(covers::missing(changed.array(&["rules"]), wanted.array(&["rules"])), Vec::<Value>::new());
        assert_eq!(
            (changed.label("own"), changed.label("kubernetes.io/bootstrapping")),
            (Some("label"), Some("other"))
        );
        assert_eq!(reconcile(&wanted, &changed), Step::Nothing);
        existing.set(&["metadata", "annotations", RBAC_AUTO], "false");
        assert_eq!(reconcile(&wanted, &existing), Step::Nothing);
    }

    #[test]
    fn a_wider_rule_of_the_administrator_is_enough() {
        let wanted = find("ClusterRole", "system:controller:pvc-protection-controller");
        let mut existing = wanted.clone();
        existing.set(&["rules"], json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]));
        assert_eq!(reconcile(&wanted, &existing), Step::Nothing);
    }

    #[test]
    fn bindings_get_missing_subjects_and_are_made_anew_for_another_role() {
        let wanted = find("ClusterRoleBinding", "system:controller:pv-protection-controller");
        let mut existing = wanted.clone();
        let own = json!({"kind": "User", "name": "own", "apiGroup": "rbac.authorization.k8s.io"});
        existing.set(&["subjects"], json!([own]));
        let changed = updated(&wanted, &existing);
        assert_eq!(changed.array(&["subjects"]), [vec![own], wanted.array(&["subjects"]).to_vec()].concat());
        existing.set(&["roleRef", "name"], "other");
        assert_eq!(reconcile(&wanted, &existing), Step::Recreate);
        existing.set(&["metadata", "annotations", RBAC_AUTO], "false");
        assert_eq!(reconcile(&wanted, &existing), Step::Nothing);
    }

    #[test]
    fn aggregation_is_as_wanted_and_more() {
        let wanted = find("ClusterRole", "admin");
        let mut existing = wanted.clone();
        let own = json!({"matchLabels": {"own": "yes"}});
        existing.set(&["aggregationRule", "clusterRoleSelectors"], json!([own]));
        let changed = updated(&wanted, &existing);
        assert_eq!(changed.array(&["aggregationRule", "clusterRoleSelectors"]).len(), 2);
        let plain = find("ClusterRole", "system:node-proxier");
        let mut aggregated = plain.clone();
        aggregated.set(&["aggregationRule"], json!({"clusterRoleSelectors": [own]}));
        assert!(updated(&plain, &aggregated).at("aggregationRule").is_null());
    }
}
