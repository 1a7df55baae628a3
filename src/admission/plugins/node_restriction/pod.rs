//! What a kubelet may say about pods: it makes mirror pods of its own and reports statuses.

use api::admission::{Attributes, Operation};
use api::{Object, validation};
use serde_json::Value;

use crate::attributes::{containers, is_mirror_pod, text};

/// Volumes that name no API object.
const FREE_VOLUMES: &[&str] = &[
    "awsElasticBlockStore",
    "azureDisk",
    "cephfs",
    "cinder",
    "downwardAPI",
    "emptyDir",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "gitRepo",
    "hostPath",
    "image",
    "iscsi",
    "nfs",
    "photonPersistentDisk",
    "portworxVolume",
    "quobyte",
    "rbd",
    "scaleIO",
    "storageos",
    "vsphereVolume",
];

/// What makes a volume a reference, and how upstream names it.
const BOUND_VOLUMES: &[(&str, &str)] = &[
    ("configMap", "configmaps (via configmap volumes)"),
    ("secret", "secrets (via secret volumes)"),
    ("csi", "csidrivers (via CSI volumes)"),
    ("glusterfs", "endpoints (via glusterFS volumes)"),
    ("persistentVolumeClaim", "persistentvolumeclaims"),
    ("ephemeral", "persistentvolumeclaims (via ephemeral volumes)"),
    ("azureFile", "secrets (via azureFile volumes)"),
];

const BOUND_PROJECTIONS: &[(&str, &str)] = &[
    ("configMap", "configmaps (via projected volumes)"),
    ("secret", "secrets (via projected volumes)"),
    ("serviceAccountToken", "serviceaccounts (via projected volumes)"),
    ("clusterTrustBundle", "clustertrustbundles"),
    ("podCertificate", "podcertificates"),
];

/// A new pod of a kubelet stands for one of its own; returns the uid that it claims for the node.
pub(super) fn check_mirror_pod<'a>(node: &str, pod: &'a Object) -> Result<&'a str, String> {
    if !is_mirror_pod(pod) {
        return Err(format!(
            "pod does not have \"kubernetes.io/config.mirror\" annotation, node {node:?} can only create mirror pods"
        ));
    }
    if pod.str(&["spec", "nodeName"]) != Some(node) {
        return Err(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    let owner = match pod.array(&["metadata", "ownerReferences"]) {
        [] => return Err(format!("node {node:?} can only create pods with an owner reference set to itself")),
        [one] => one,
        _ => return Err(format!("node {node:?} can only create pods with a single owner reference set to itself")),
    };
    if text(owner, "apiVersion") != "v1" || text(owner, "kind") != "Node" || text(owner, "name") != node {
        return Err(format!("node {node:?} can only create pods with an owner reference set to itself"));
    }
    let flag = |name: &str| owner.get(name).and_then(Value::as_bool).unwrap_or_default();
    if !flag("controller") {
        return Err(format!("node {node:?} can only create pods with a controller owner reference set to itself"));
    }
    if flag("blockOwnerDeletion") {
        return Err(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
    }
    Ok(text(owner, "uid"))
}

/// The first kind of API object that a pod refers to (`HasAPIObjectReference`).
pub(super) fn referenced_objects(pod: &Object) -> Result<Option<&'static str>, String> {
    if !pod.str(&["spec", "serviceAccountName"]).unwrap_or_default().is_empty() {
        return Ok(Some("serviceaccounts"));
    }
    if references_secrets(pod) {
        return Ok(Some("secrets"));
    }
    if references_config_maps(pod) {
        return Ok(Some("configmaps"));
    }
    if !pod.array(&["spec", "resourceClaims"]).is_empty() {
        return Ok(Some("resourceclaims"));
    }
    for volume in pod.array(&["spec", "volumes"]) {
        let has = |name: &str| volume.get(name).is_some_and(|v| !v.is_null());
        if FREE_VOLUMES.iter().any(|name| has(name)) {
            continue;
        }
        if let Some((_, what)) = BOUND_VOLUMES.iter().find(|(name, _)| has(name)) {
            return Ok(Some(what));
        }
        let name = text(volume, "name");
        let Some(projected) = volume.get("projected").filter(|p| !p.is_null()) else {
            return Err(format!("unknown volume type for volume  {name:?}"));
        };
        for source in projected.get("sources").and_then(Value::as_array).into_iter().flatten() {
            let has = |name: &str| source.get(name).is_some_and(|v| !v.is_null());
            if let Some((_, what)) = BOUND_PROJECTIONS.iter().find(|(name, _)| has(name)) {
                return Ok(Some(what));
            }
            if !has("downwardAPI") {
                return Err(format!("unknown source for projected volume {name:?}"));
            }
        }
    }
    Ok(None)
}

fn all_containers(pod: &Object) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(|list| containers(pod, list))
}

/// Whether a container's environment refers to `reference` of `env.valueFrom` or `from` of `envFrom`.
fn environment_refers(pod: &Object, reference: &str, from: &str) -> bool {
    all_containers(pod).any(|container| {
        let members = |list: &str| container.get(list).and_then(Value::as_array).into_iter().flatten();
        members("env").any(|env| env.get("valueFrom").and_then(|v| v.get(reference)).is_some())
            || members("envFrom").any(|source| source.get(from).is_some())
    })
}

/// Whether a pod names any secret (`VisitPodSecretNames`).
pub(crate) fn references_secrets(pod: &Object) -> bool {
    !pod.array(&["spec", "imagePullSecrets"]).is_empty()
        || environment_refers(pod, "secretKeyRef", "secretRef")
        || pod.array(&["spec", "volumes"]).iter().any(volume_names_secret)
}

fn volume_names_secret(volume: &Value) -> bool {
    let source = |name: &str| volume.get(name).filter(|v| !v.is_null());
    let by_reference = ["cephfs", "cinder", "flexVolume", "rbd", "scaleIO", "iscsi", "storageos"]
        .into_iter()
        .any(|name| source(name).is_some_and(|s| s.get("secretRef").is_some()));
    let projected = source("projected").and_then(|p| p.get("sources")?.as_array()).into_iter().flatten();
    by_reference
        || source("azureFile").is_some_and(|s| !text(s, "secretName").is_empty())
        || source("secret").is_some()
        || source("csi").is_some_and(|s| s.get("nodePublishSecretRef").is_some())
        || projected.into_iter().any(|s| s.get("secret").is_some())
}

fn references_config_maps(pod: &Object) -> bool {
    environment_refers(pod, "configMapKeyRef", "configMapRef")
        || pod.array(&["spec", "volumes"]).iter().any(|volume| {
            let projected = volume.get("projected").and_then(|p| p.get("sources")?.as_array()).into_iter().flatten();
            volume.get("configMap").is_some() || projected.into_iter().any(|s| s.get("configMap").is_some())
        })
}

/// Statuses of the node's own pods, without what schedulers and users say there.
pub(super) fn check_status(node: &str, attributes: &Attributes) -> Result<(), String> {
    let (Some(old), Some(new), Operation::Update) = (&attributes.old_object, &attributes.object, attributes.operation)
    else {
        return Err(format!("unexpected operation {:?}", attributes.operation.as_str()));
    };
    if old.str(&["spec", "nodeName"]) != Some(node) {
        return Err(format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself"));
    }
    let same = |path: &[&str]| validation::same(old.get(path), new.get(path));
    if !same(&["metadata", "labels"]) {
        return Err(format!("node {node:?} cannot update labels through pod status"));
    }
    if !same(&["status", "resourceClaimStatuses"]) {
        return Err(format!("node {node:?} cannot update resource claim statues"));
    }
    if !same(&["status", "extendedResourceClaimStatus"]) {
        return Err(format!("node {node:?} cannot update extended resource claim status"));
    }
    if !same(&["status", "nodeAllocatableResourceClaimStatuses"]) {
        return Err(format!("node {node:?} cannot update node allocatable resource claim statuses"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn mirror_pods_refer_to_nothing() {
        let check = |spec: Value, expected: Result<Option<&'static str>, String>| {
            let pod = Object::from_value(json!({"spec": spec})).unwrap();
            assert_eq!(referenced_objects(&pod), expected);
        };
        check(json!({"volumes": [{"name": "a", "hostPath": {"path": "/x"}}]}), Ok(None));
        check(json!({"serviceAccountName": "a"}), Ok(Some("serviceaccounts")));
        check(json!({"containers": [{"envFrom": [{"secretRef": {"name": "s"}}]}]}), Ok(Some("secrets")));
        check(json!({"volumes": [{"name": "a", "configMap": {"name": "c"}}]}), Ok(Some("configmaps")));
        check(
            json!({"volumes": [{"name": "a", "projected": {"sources": [{"serviceAccountToken": {}}]}}]}),
            Ok(Some("serviceaccounts (via projected volumes)")),
        );
        check(json!({"volumes": [{"name": "a"}]}), Err("unknown volume type for volume  \"a\"".to_owned()));
    }
}
