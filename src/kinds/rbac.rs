//! `rbac.authorization.k8s.io`: roles and bindings.

mod escalation;

use std::sync::Arc;

use api::Object;
use api::field::{Error, ErrorList, Path};
use api::validation::path_segment;
use serde_json::Value;

use crate::checks::{IMMUTABLE, invalid_all, is_selector, label_selector};
use crate::columns::{age, generic, name, text, wide};
use crate::define::Extra;
use crate::json::{Json, existing, fill, items_mut, same};
use crate::printed::Printed;
use crate::rules::Rules;

const GROUP: &str = "rbac.authorization.k8s.io";

/// What is special about a kind of this group.
pub(crate) fn extra(kind: &str) -> Option<Extra> {
    let named = Rules { name: path_segment, create_on_update: true, deletes_unreadable: false, ..Rules::GENERIC };
    let mut extra = match kind {
        "Role" => {
            let columns = generic();
            Extra::new(Rules { validate: |object| rules(object, true), ..named }, columns)
        }
        "ClusterRole" => {
            let columns = generic();
            Extra::new(Rules { validate: cluster_role, ..named }, columns)
        }
        "RoleBinding" => {
            let rules = Rules {
                default: binding_defaults,
                validate: |object| binding(object, true),
                validate_update: Some(|object, old| binding_update(object, old, true)),
                ..named
            };
            Extra::new(rules, binding_columns())
        }
        "ClusterRoleBinding" => {
            let rules = Rules {
                default: binding_defaults,
                validate: |object| binding(object, false),
                validate_update: Some(|object, old| binding_update(object, old, false)),
                ..named
            };
            Extra::new(rules, binding_columns())
        }
        _ => return None,
    };
    let resource = match kind {
        "Role" => "roles",
        "ClusterRole" => "clusterroles",
        "RoleBinding" => "rolebindings",
        _ => "clusterrolebindings",
    };
    extra.hook = Some(Arc::new(escalation::Guard { resource }));
    Some(extra)
}

fn binding_columns() -> Vec<api::kind::Column> {
    vec![
        name(),
        text("Role", |o, _| format!("{}/{}", o.at("roleRef").text("kind"), o.at("roleRef").text("name")).into()),
        age(),
        wide("Users", |o, _| subjects(o, "User").into()),
        wide("Groups", |o, _| subjects(o, "Group").into()),
        wide("ServiceAccounts", |o, _| subjects(o, "ServiceAccount").into()),
    ]
}

fn subjects(object: &Object, kind: &str) -> String {
    object
        .list("subjects")
        .iter()
        .filter(|s| s.text("kind") == kind)
        .map(|s| match kind {
            "ServiceAccount" => format!("{}/{}", s.text("namespace"), s.text("name")),
            _ => s.text("name").to_owned(),
        })
        .collect::<Vec<_>>()
        .join(", ")
}

/// `SetDefaults_RoleBinding`, `SetDefaults_Subject`.
fn binding_defaults(object: &mut Object) {
    if let Some(reference) = existing(&mut object.0, "roleRef") {
        fill(reference, "apiGroup", GROUP);
    }
    for subject in items_mut(&mut object.0, "subjects") {
        if matches!(subject.text("kind"), "User" | "Group") {
            fill(subject, "apiGroup", GROUP);
        }
    }
}

/// `ValidatePolicyRule` of every rule.
fn rules(object: &Object, namespaced: bool) -> ErrorList {
    // What declarative validation says comes last.
    let (mut errors, mut declared) = (ErrorList::new(), ErrorList::new());
    for (i, rule) in object.list("rules").iter().enumerate() {
        let at = Path::new("rules").index(i);
        if rule.count("verbs") == 0 {
            declared.push(Error::required(at.child("verbs"), ""));
        }
        if rule.count("nonResourceURLs") > 0 {
            let (field, value) = (at.child("nonResourceURLs"), rule.at("nonResourceURLs").clone());
            if namespaced {
                let text = "namespaced rules cannot apply to non-resource URLs";
                errors.push(Error::invalid(field.clone(), value.clone(), text));
            }
            if rule.count("apiGroups") + rule.count("resources") + rule.count("resourceNames") > 0 {
                let text = "rules cannot apply to both regular resources and non-resource URLs";
                errors.push(Error::invalid(field, value, text));
            }
            continue;
        }
        if rule.count("apiGroups") == 0 {
            errors.push(Error::required(at.child("apiGroups"), "resource rules must supply at least one api group"));
        }
        if rule.count("resources") == 0 {
            errors.push(Error::required(at.child("resources"), "resource rules must supply at least one resource"));
        }
    }
    errors.extend(declared);
    errors
}

fn cluster_role(object: &Object) -> ErrorList {
    let mut errors = rules(object, false);
    let aggregation = object.at("aggregationRule");
    if !aggregation.is_null() {
        let at = Path::new("aggregationRule").child("clusterRoleSelectors");
        if aggregation.count("clusterRoleSelectors") == 0 {
            let text = "at least one clusterRoleSelector required if aggregationRule is non-nil";
            errors.push(Error::required(at.clone(), text));
        }
        for (i, selector) in aggregation.list("clusterRoleSelectors").iter().enumerate() {
            label_selector(&mut errors, &at.index(i), selector);
            if !is_selector(selector) {
                // The value that upstream shows is the selector that was not made.
                errors.push(Error::invalid(at.index(i), serde_json::Value::Null, "invalid label selector."));
            }
        }
    }
    errors
}

fn binding(object: &Object, namespaced: bool) -> ErrorList {
    let mut errors = ErrorList::new();
    let (reference, at) = (object.at("roleRef"), Path::new("roleRef"));
    if reference.text("apiGroup") != GROUP {
        errors.push(Error::not_supported(at.child("apiGroup"), reference.text("apiGroup"), &[GROUP]));
    }
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !kinds.contains(&reference.text("kind")) {
        errors.push(Error::not_supported(at.child("kind"), reference.text("kind"), kinds));
    }
    match reference.text("name") {
        "" => errors.push(Error::required(at.child("name"), "")),
        name => invalid_all(&mut errors, &at.child("name"), name, path_segment(name, false)),
    }
    for (i, subject) in object.list("subjects").iter().enumerate() {
        self::subject(&mut errors, &Path::new("subjects").index(i), subject, namespaced);
    }
    // Declarative validation speaks last.
    for (i, subject) in object.list("subjects").iter().enumerate() {
        if subject.text("name").is_empty() {
            errors.push(Error::required(Path::new("subjects").index(i).child("name"), ""));
        }
    }
    errors
}

fn subject(errors: &mut ErrorList, at: &Path, subject: &Value, namespaced: bool) {
    let (name, group) = (subject.text("name"), subject.text("apiGroup"));
    match subject.text("kind") {
        "ServiceAccount" => {
            if !name.is_empty() {
                crate::checks::subdomain(errors, &at.child("name"), name);
            }
            if !group.is_empty() {
                errors.push(Error::not_supported(at.child("apiGroup"), group, &[""]));
            }
            if !namespaced && subject.count("namespace") == 0 {
                errors.push(Error::required(at.child("namespace"), ""));
            }
        }
        "User" | "Group" => {
            if group != GROUP {
                errors.push(Error::not_supported(at.child("apiGroup"), group, &[GROUP]));
            }
        }
        other => {
            errors.push(Error::not_supported(at.child("kind"), other, &["ServiceAccount", "User", "Group"]));
        }
    }
}

fn binding_update(object: &Object, old: &Object, namespaced: bool) -> ErrorList {
    let mut errors = binding(object, namespaced);
    if !same(object.at("roleRef"), old.at("roleRef")) {
        let value = object.at("roleRef").clone();
        errors.push(Error::invalid(Path::new("roleRef"), value, IMMUTABLE).printed("rbac.RoleRef"));
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn problems_read_as_upstream() {
        let role = Object::from_value(json!({"rules": [{"verbs": ["get"], "nonResourceURLs": ["/x"]}, {"verbs": []}]}))
            .unwrap();
        let texts: Vec<String> = rules(&role, true).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "rules[0].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to non-resource URLs",
                "rules[1].apiGroups: Required value: resource rules must supply at least one api group",
                "rules[1].resources: Required value: resource rules must supply at least one resource",
                "rules[1].verbs: Required value",
            ]
        );
    }

    #[test]
    fn a_bindings_role_stays() {
        let make = |name: &str| {
            let mut object = Object::from_value(json!({"roleRef": {"kind": "ClusterRole", "name": name},
                "subjects": [{"kind": "User", "name": "a"}, {"kind": "ServiceAccount", "name": "b", "namespace": "c"}]}))
            .unwrap();
            binding_defaults(&mut object);
            object
        };
        assert_eq!(binding(&make("a"), false), ErrorList::new());
        assert_eq!(binding_update(&make("b"), &make("a"), false).len(), 1);
        assert_eq!(subjects(&make("a"), "ServiceAccount"), "c/b");
    }
}
