//! Reads `manifests/rbac.txt`, whose head says its form.

use api::Object;
use serde_json::{Map, Value, json};

use super::RBAC_AUTO;

const TABLE: &str = include_str!("../../../manifests/rbac.txt");
const GROUP: &str = "rbac.authorization.k8s.io";

/// Roles and bindings in the table's order.
pub(super) fn objects() -> Vec<Object> {
    let mut all: Vec<Object> = Vec::new();
    for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
        match (line.strip_prefix(' '), all.last_mut()) {
            (Some(detail), Some(object)) => add(object, detail),
            (Some(_), None) => {}
            (None, _) => all.push(start(line)),
        }
    }
    all
}

fn start(line: &str) -> Object {
    let mut words = line.split(' ');
    let mut word = || words.next().unwrap_or_default();
    let (kind, namespace, name) = (word(), word(), word());
    let mut labels = Map::new();
    labels.insert("kubernetes.io/bootstrapping".to_owned(), "rbac-defaults".into());
    for extra in words {
        if let Some(role) = extra.strip_prefix("to=") {
            labels.insert(format!("{GROUP}/aggregate-to-{role}"), "true".into());
        }
    }
    let mut object = Object::default();
    object.set(&["apiVersion"], format!("{GROUP}/v1"));
    object.set(&["kind"], kind);
    object.set(&["metadata", "name"], name);
    if namespace != "-" {
        object.set(&["metadata", "namespace"], namespace);
    }
    object.set(&["metadata", "labels"], labels);
    object.set(&["metadata", "annotations"], json!({RBAC_AUTO: "true"}));
    object
}

fn list(text: &str) -> Value {
    text.split(',').map(|item| if item == "-" { "" } else { item }).collect()
}

fn push(object: &mut Object, member: &str, value: Value) {
    if let Some(items) = object.0.entry(member).or_insert_with(|| Value::Array(Vec::new())).as_array_mut() {
        items.push(value);
    }
}

fn add(object: &mut Object, detail: &str) {
    let words: Vec<&str> = detail.split(' ').collect();
    match words.as_slice() {
        ["aggregate", label] => {
            object.set(&["aggregationRule", "clusterRoleSelectors"], json!([{"matchLabels": {*label: "true"}}]));
            // Filled by the aggregation controller.
            object.set(&["rules"], Value::Null);
        }
        ["role", reference] => {
            let (kind, name) = reference.split_once('/').unwrap_or(("ClusterRole", reference));
            object.set(&["roleRef"], json!({"apiGroup": GROUP, "kind": kind, "name": name}));
        }
        ["subject", reference] => {
            let mut parts = reference.splitn(3, '/');
            let subject = match (parts.next(), parts.next(), parts.next()) {
                (Some("ServiceAccount"), Some(namespace), Some(name)) => {
                    json!({"kind": "ServiceAccount", "name": name, "namespace": namespace})
                }
                (Some(kind), Some(name), _) => json!({"apiGroup": GROUP, "kind": kind, "name": name}),
                _ => return,
            };
            push(object, "subjects", subject);
        }
        [verbs, "url", paths] => push(object, "rules", json!({"nonResourceURLs": list(paths), "verbs": list(verbs)})),
        [verbs, groups, resources, names @ ..] => {
            let mut rule = json!({"apiGroups": list(groups), "resources": list(resources), "verbs": list(verbs)});
            if let [names] = names {
                rule["resourceNames"] = list(names);
            }
            push(object, "rules", rule);
        }
        _ => {}
    }
}
