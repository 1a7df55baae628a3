//! What a kubelet may say about its own node, lease, CSI node, resource slices and certificates.

use std::collections::BTreeMap;

use api::admission::{Attributes, Operation};
use api::{Object, validation};

use crate::signers;

const LEASE_NAMESPACE: &str = "kube-node-lease";
const RESTRICTED: &str = "node-restriction.kubernetes.io";
/// Labels that a kubelet may set (`kubeletapis.KubeletLabels`).
const KUBELET_LABELS: &[&str] = &[
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];
const KUBELET_LABEL_DOMAINS: &[&str] = &["kubelet.kubernetes.io", "node.kubernetes.io"];

/// The name that a request is about: creations carry it in the object only.
fn named(attributes: &Attributes) -> &str {
    match (&attributes.object, attributes.operation) {
        (Some(object), Operation::Create) if attributes.name.is_empty() => object.name(),
        _ => &attributes.name,
    }
}

pub(super) fn check_node(node: &str, attributes: &Attributes) -> Result<(), String> {
    let requested = named(attributes);
    if requested != node {
        return Err(format!("node {node:?} is not allowed to modify node {requested:?}"));
    }
    let Some(new) = &attributes.object else { return Ok(()) };
    let config = new.get(&["spec", "configSource"]).filter(|c| !c.is_null());
    match (&attributes.old_object, attributes.operation) {
        (_, Operation::Create) => {
            if config.is_some() {
                return Err(format!("node {node:?} is not allowed to create pods with a non-nil configSource"));
            }
            match forbidden_labels(new, None).as_slice() {
                [] => Ok(()),
                bad => Err(format!("node {node:?} is not allowed to set the following labels: {}", bad.join(", "))),
            }
        }
        (Some(old), Operation::Update) => {
            let same = |path: &[&str]| validation::same(new.get(path), old.get(path));
            if config.is_some() && !same(&["spec", "configSource"]) {
                return Err(format!(
                    "node {node:?} is not allowed to update configSource to a new non-nil configSource"
                ));
            }
            if !same(&["spec", "taints"]) {
                return Err(format!("node {node:?} is not allowed to modify taints"));
            }
            if !same(&["metadata", "ownerReferences"]) {
                return Err(format!("node {node:?} is not allowed to modify ownerReferences"));
            }
            match forbidden_labels(new, Some(old)).as_slice() {
                [] => Ok(()),
                bad => Err(format!("is not allowed to modify labels: {}", bad.join(", "))),
            }
        }
        _ => Ok(()),
    }
}

/// Labels that changed and that a kubelet may not change, in order.
fn forbidden_labels(new: &Object, old: Option<&Object>) -> Vec<String> {
    let new: BTreeMap<&str, &str> = new.labels().collect();
    let old: BTreeMap<&str, &str> = old.into_iter().flat_map(Object::labels).collect();
    let mut changed: Vec<&str> =
        new.keys().chain(old.keys()).copied().filter(|key| new.get(key) != old.get(key)).collect();
    changed.sort_unstable();
    changed.dedup();
    changed.into_iter().filter(|key| !is_allowed(key)).map(str::to_owned).collect()
}

fn is_allowed(key: &str) -> bool {
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    let within = |parent: &str| domain.strip_suffix(parent).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    if within(RESTRICTED) {
        return false;
    }
    let system = within("kubernetes.io") || within("k8s.io");
    !system || KUBELET_LABELS.contains(&key) || KUBELET_LABEL_DOMAINS.iter().any(|domain| within(domain))
}

pub(super) fn check_lease(node: &str, attributes: &Attributes) -> Result<(), String> {
    if attributes.namespace != LEASE_NAMESPACE {
        return Err(format!("can only access leases in the {LEASE_NAMESPACE:?} system namespace"));
    }
    if named(attributes) != node {
        return Err("can only access node lease with the same name as the requesting node".to_owned());
    }
    Ok(())
}

pub(super) fn check_csi_node(node: &str, attributes: &Attributes) -> Result<(), String> {
    if named(attributes) != node {
        return Err("can only access CSINode with the same name as the requesting node".to_owned());
    }
    if attributes.subresource == "status" {
        return Err("CSIVolumeHealth feature gate is disabled".to_owned());
    }
    Ok(())
}

pub(super) fn check_resource_slice(node: &str, attributes: &Attributes) -> Result<(), String> {
    let (object, word) = match attributes.operation {
        Operation::Create => (&attributes.object, "create"),
        Operation::Delete => (&attributes.old_object, "delete"),
        Operation::Update | Operation::Connect => return Ok(()),
    };
    let owner = object.as_ref().and_then(|slice| slice.str(&["spec", "nodeName"]));
    if owner == Some(node) {
        return Ok(());
    }
    Err(format!("can only {word} ResourceSlice with the same NodeName as the requesting node"))
}

pub(super) fn check_signing_request(node: &str, attributes: &Attributes) -> Result<(), String> {
    let Some(request) = attributes.object.as_ref().filter(|_| attributes.operation == Operation::Create) else {
        return Ok(());
    };
    let signer = request.str(&["spec", "signerName"]).unwrap_or_default();
    if !matches!(signer, "kubernetes.io/kubelet-serving" | "kubernetes.io/kube-apiserver-client-kubelet") {
        return Ok(());
    }
    let text = request.str(&["spec", "request"]).unwrap_or_default();
    let subject = signers::subject(text).map_err(|why| format!("unable to parse csr: {why}"))?;
    if subject.common_name != format!("system:node:{node}") {
        return Err(format!("can only create a node CSR with CN=system:node:{node}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubelets_may_set_only_some_system_labels() {
        for (key, allowed) in [
            ("kubernetes.io/hostname", true),
            ("node.kubernetes.io/anything", true),
            ("x.node.kubernetes.io/anything", true),
            ("example.com/x", true),
            ("plain", true),
            ("node-restriction.kubernetes.io/x", false),
            ("a.node-restriction.kubernetes.io/x", false),
            ("node-role.kubernetes.io/control-plane", false),
            ("xkubernetes.io/x", true),
            ("k8s.io/x", false),
        ] {
            assert_eq!(is_allowed(key), allowed, "{key}");
        }
    }
}
