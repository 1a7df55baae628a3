//! Nodes.

use std::sync::Arc;

use api::Object;
use api::field::{Error, ErrorList, Path};
use api::kind::SubresourceKind;
use serde_json::{Value, json};

use crate::Config;
use crate::checks::{cidr, invalid_all, label_value, one_of, qualified_name};
use crate::columns::{age, field, name, string, string_or, text, wide};
use crate::define::Extra;
use crate::json::{Json, dig, existing};
use crate::podspec::resources;
use crate::printed::Printed;
use crate::rules::Rules;

use super::connect::NodeProxy;

pub(super) fn extra(config: &Config) -> Extra {
    let rules = Rules {
        default,
        create: |_, object| {
            for path in [&["spec", "configSource"], &["spec", "podPreemptionPolicy"], &["status", "config"]] {
                object.remove(path);
            }
        },
        update: |_, object, old| {
            // What features use that are gone or off stays only where it was.
            for member in ["configSource", "podPreemptionPolicy"] {
                if !old.at("spec").has(member) {
                    object.remove(&["spec", member]);
                }
            }
        },
        status_update: |_, object, old| {
            if !old.at("status").has("config") {
                object.remove(&["status", "config"]);
            }
        },
        warnings: |object, _| warnings(object.at("spec")),
        validate,
        validate_update: Some(|object, old| {
            let mut errors = validate(object);
            errors.extend(changes(object, old));
            errors
        }),
        validate_status: changes,
        // The node agent registers with its status in one request.
        keeps_status: true,
        ..Rules::GENERIC
    };
    let columns = vec![
        name(),
        text("Status", |o, _| status(o).into()),
        text("Roles", |o, _| roles(o).into()),
        age(),
        text("Version", |o, _| string(o, &["status", "nodeInfo", "kubeletVersion"])),
        wide("Internal-IP", |o, _| address(o, "InternalIP").into()),
        wide("External-IP", |o, _| address(o, "ExternalIP").into()),
        wide("OS-Image", |o, _| string_or(o, &["status", "nodeInfo", "osImage"], "<unknown>")),
        wide("Kernel-Version", |o, _| kernel(o).into()),
        wide("Container-Runtime", |o, _| string_or(o, &["status", "nodeInfo", "containerRuntimeVersion"], "<unknown>")),
    ];
    Extra::new(rules, columns)
        .with_fields(vec![field("spec.unschedulable", |o| o.at("spec").flag("unschedulable").to_string())])
        .with_subresource("proxy", SubresourceKind::Connect(Arc::new(NodeProxy { port: config.kubelet_port })))
}

/// `SetDefaults_NodeStatus`, and the one network in step with the list (`Convert_v1_NodeSpec_To_core_NodeSpec`).
fn default(object: &mut Object) {
    if let Some(spec) = existing(&mut object.0, "spec") {
        let first = spec.list("podCIDRs").first().map_or("", |c| c.as_str().unwrap_or_default()).to_owned();
        let single = spec.text("podCIDR").to_owned();
        if single.is_empty() && !first.is_empty() {
            spec.insert("podCIDR".to_owned(), first.into());
        } else if single != first {
            spec.insert("podCIDRs".to_owned(), json!([single]));
        }
    }
    let status = object.at("status");
    if !status.has("allocatable") && status.has("capacity") {
        let capacity = status.at("capacity").clone();
        object.set(&["status", "allocatable"], capacity);
    }
}

/// `nodeWarnings`.
fn warnings(spec: &Value) -> Vec<String> {
    let mut out = Vec::new();
    if spec.has("configSource") {
        out.push("spec.configSource: the feature is removed".to_owned());
    }
    if spec.count("externalID") > 0 {
        out.push("spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned());
    }
    for (i, network) in spec.list("podCIDRs").iter().enumerate() {
        let at = Path::new("spec").child("podCIDRs").index(i);
        out.extend(api::validation::cidr_warnings(&at, network.as_str().unwrap_or_default()));
    }
    out
}

fn status(object: &Object) -> String {
    let ready = object.array(&["status", "conditions"]).iter().find(|c| c.text("type") == "Ready");
    let mut text = match ready.map(|c| c.text("status")) {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if object.at("spec").flag("unschedulable") {
        text.push_str(",SchedulingDisabled");
    }
    text
}

fn roles(object: &Object) -> String {
    let mut roles: Vec<&str> = object
        .labels()
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if key == "kubernetes.io/role" => Some(value),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() { "<none>".to_owned() } else { roles.join(",") }
}

fn address<'o>(object: &'o Object, kind: &str) -> &'o str {
    let addresses = object.array(&["status", "addresses"]);
    addresses.iter().find(|a| a.text("type") == kind).map_or("<none>", |a| a.text("address"))
}

fn kernel(object: &Object) -> String {
    let info = dig(object, &["status", "nodeInfo"]);
    let kernel = match info.text("kernelVersion") {
        "" => "<unknown>",
        version => version,
    };
    match info.text("architecture") {
        "" => kernel.to_owned(),
        arch => format!("{kernel} ({arch})"),
    }
}

fn validate(object: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    let spec = Path::new("spec");
    taints(&mut errors, &Path::new("metadata").child("taints"), object.array(&["spec", "taints"]));
    capacity(&mut errors, object);
    let cidrs = object.array(&["spec", "podCIDRs"]);
    for (i, network) in cidrs.iter().enumerate() {
        cidr(&mut errors, spec.child("podCIDRs").index(i), network.as_str().unwrap_or_default());
    }
    let family = |network: &Value| network.as_str().unwrap_or_default().contains(':');
    if cidrs.len() > 2 || matches!(cidrs, [a, b] if family(a) == family(b)) {
        let value = Value::from(cidrs);
        let text = "may specify no more than one CIDR for each IP family";
        errors.push(Error::invalid(spec.child("podCIDRs"), value, text));
    }
    errors
}

fn capacity(errors: &mut ErrorList, object: &Object) {
    for list in ["capacity", "allocatable"] {
        for (name, value) in object.at("status").entries(list) {
            let at = Path::new("status").child(list).child(name);
            resources::quantity(errors, &at, name, value);
        }
    }
}

fn taints(errors: &mut ErrorList, path: &Path, list: &[Value]) {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (i, taint) in list.iter().enumerate() {
        let at = path.index(i);
        let (key, value, effect) = (taint.text("key"), taint.text("value"), taint.text("effect"));
        invalid_all(errors, &at.child("key"), key, qualified_name(key));
        let problems = label_value(value);
        if !problems.is_empty() {
            errors.push(Error::invalid(at.child("value"), value, problems.join(";")));
        }
        one_of(errors, at.child("effect"), effect, &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
        if seen.contains(&(key, effect)) {
            let mut error = Error::duplicate(at, taint.clone()).printed("core.Taint");
            error.detail = "taints must be unique by key and effect pair".to_owned();
            errors.push(error);
        } else {
            seen.push((key, effect));
        }
    }
}

/// `ValidateNodeUpdate`, of the status too: pod networks and the provider's id are given once.
fn changes(object: &Object, old: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    let at = Path::new("spec");
    let (spec, before) = (object.at("spec"), old.at("spec"));
    capacity(&mut errors, object);
    features(&mut errors, &Path::new("status").child("declaredFeatures"), object.at("status"));
    let addresses = object.array(&["status", "addresses"]);
    for (i, address) in addresses.iter().enumerate().filter(|(i, address)| addresses[..*i].contains(address)) {
        let at = Path::new("status").child("addresses").index(i);
        errors.push(Error::duplicate(at, address.clone()).printed("core.NodeAddress"));
    }
    let (networks, old_networks) = (spec.list("podCIDRs"), before.list("podCIDRs"));
    if !old_networks.is_empty() && networks != old_networks {
        let text = "node updates may not change podCIDR except from \"\" to valid";
        errors.push(Error::forbidden(at.child("podCIDRs"), text));
    }
    let (id, old_id) = (spec.text("providerID"), before.text("providerID"));
    if !old_id.is_empty() && id != old_id {
        let what = if id.is_empty() { "field cannot be cleared once set" } else { "field cannot be modified once set" };
        errors.push(Error::invalid(at.child("providerID"), Value::Null, what));
    }
    taints(&mut errors, &Path::new("metadata").child("taints"), spec.list("taints"));
    if spec.text("externalID") != before.text("externalID") {
        errors.push(Error::forbidden(at.child("externalID"), "may not be updated"));
    }
    errors
}

/// `validateNodeDeclaredFeatures`: well-formed, each once, in order.
fn features(errors: &mut ErrorList, at: &Path, status: &Value) {
    let list: Vec<&str> =
        status.list("declaredFeatures").iter().map(|feature| feature.as_str().unwrap_or_default()).collect();
    for (i, feature) in list.iter().enumerate() {
        if feature.len() > 253 || !is_feature(feature) {
            let why = match feature.len() {
                254.. => "must be no more than 253 characters",
                _ => {
                    "must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature \
                     or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes"
                }
            };
            let text = format!("invalid feature name {feature:?}: {why}");
            errors.push(Error::invalid(at.index(i), *feature, text));
        }
        let Some(next) = list.get(i + 1) else { continue };
        if feature == next {
            errors.push(Error::duplicate(at.index(i + 1), *next));
        } else if feature > next {
            errors.push(Error::invalid(at.index(i + 1), *next, "list must be sorted alphabetically"));
        }
    }
}

/// `^([A-Z][a-zA-Z0-9]*)(/[a-zA-Z0-9]+)*$`, as `validateNodeDeclaredFeatureName` has it.
fn is_feature(name: &str) -> bool {
    let plain = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric());
    name.split('/').all(plain) && name.starts_with(|c: char| c.is_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_read_as_upstream() {
        let node = Object::from_value(json!({
            "metadata": {"labels": {"node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/control-plane": ""}},
            "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "Unknown"}],
                "nodeInfo": {"kernelVersion": "6.18", "architecture": "amd64"}},
        }))
        .unwrap();
        assert_eq!(status(&node), "NotReady,SchedulingDisabled");
        assert_eq!(roles(&node), "control-plane,worker");
        assert_eq!(kernel(&node), "6.18 (amd64)");
        assert_eq!(address(&node, "InternalIP"), "<none>");
    }
}
