//! Which objects lead to which node: by the pods bound to it, their claims' volumes, and objects that name a node
//! (upstream `plugin/pkg/auth/authorizer/node/{graph,graph_populator}.go`).

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use crate::auth::feed::Change;

/// Resources whose objects name their node in `spec.nodeName`, and the store's prefix of each.
pub(super) const OWNED: [(&str, &str); 3] = [
    ("volumeattachments", "/registry/volumeattachments/"),
    ("resourceslices", "/registry/resourceslices/"),
    ("podcertificaterequests", "/registry/podcertificaterequests/"),
];

/// What pods on a node refer to.
#[derive(Default)]
pub(super) struct Graph {
    /// By the pod's `namespace/name`.
    pods: HashMap<String, PodEdges>,
    /// How many pods of a node refer to an object.
    references: HashMap<Reference, u32>,
    /// Bound PersistentVolumes by name.
    volumes: HashMap<String, VolumeEdges>,
    /// The node of each object that has one of its own, by resource and by its key: see [`OWNED`].
    owned: HashMap<&'static str, HashMap<String, String>>,
}

/// What a bound PersistentVolume connects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct VolumeEdges {
    /// The claim's `namespace/name`.
    claim: String,
    /// Secrets that mounting it needs, as `namespace/name`.
    secrets: HashSet<String>,
}

struct PodEdges {
    node: String,
    references: HashSet<(&'static str, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Reference {
    node: String,
    resource: &'static str,
    /// `namespace/name`.
    key: String,
}

impl Graph {
    /// Whether a pod of the node leads to the object: by itself, or through its claim's volume. The key of what has no
    /// namespace begins with a slash.
    pub fn reaches(&self, node: &str, resource: &'static str, key: String) -> bool {
        let refers = |resource, key: &str| {
            let reference = Reference { node: node.to_owned(), resource, key: key.to_owned() };
            self.references.contains_key(&reference)
        };
        match resource {
            "persistentvolumes" => {
                let volume = self.volumes.get(key.trim_start_matches('/'));
                volume.is_some_and(|volume| refers("persistentvolumeclaims", &volume.claim))
            }
            owned if OWNED.iter().any(|(resource, _)| *resource == owned) => {
                let found = self.owned.get(owned).and_then(|nodes| nodes.get(key.trim_start_matches('/')));
                found.is_some_and(|found| found == node)
            }
            "secrets" if !refers("secrets", &key) => {
                let holders = self.volumes.values().filter(|volume| volume.secrets.contains(&key));
                holders.into_iter().any(|volume| refers("persistentvolumeclaims", &volume.claim))
            }
            _ => refers(resource, &key),
        }
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.references.is_empty()
    }

    pub fn apply_volume(&mut self, change: Change<'_>) {
        match change {
            Change::Reset => self.volumes.clear(),
            Change::Delete { key } => drop(self.volumes.remove(key)),
            Change::Put { key, value } => {
                let edges = serde_json::from_slice::<Value>(value).ok().and_then(|volume| volume_edges(&volume));
                match edges {
                    Some(edges) => drop(self.volumes.insert(key.to_owned(), edges)),
                    None => drop(self.volumes.remove(key)),
                }
            }
        }
    }

    /// Takes over a change of one of [`OWNED`].
    pub fn apply_owned(&mut self, resource: &'static str, change: Change<'_>) {
        let nodes = self.owned.entry(resource).or_default();
        match change {
            Change::Reset => nodes.clear(),
            Change::Delete { key } => drop(nodes.remove(key)),
            Change::Put { key, value } => {
                let object = serde_json::from_slice::<Value>(value).unwrap_or_default();
                match object["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) {
                    Some(node) => drop(nodes.insert(key.to_owned(), node.to_owned())),
                    None => drop(nodes.remove(key)),
                }
            }
        }
    }

    pub fn apply(&mut self, change: Change<'_>) {
        match change {
            Change::Reset => {
                self.pods.clear();
                self.references.clear();
            }
            Change::Delete { key } => self.remove(key),
            Change::Put { key, value } => {
                let Ok(pod) = serde_json::from_slice::<Value>(value) else { return self.remove(key) };
                let Some(node) = pod["spec"]["nodeName"].as_str().filter(|n| !n.is_empty()) else {
                    return self.remove(key);
                };
                // A pod's references never change once it is bound, but for its ephemeral containers and claims.
                let edges = PodEdges { node: node.to_owned(), references: references(key, &pod) };
                if self.pods.get(key).is_some_and(|old| old.node == edges.node && old.references == edges.references) {
                    return;
                }
                self.remove(key);
                for (resource, target) in &edges.references {
                    let reference = Reference { node: edges.node.clone(), resource, key: target.clone() };
                    *self.references.entry(reference).or_default() += 1;
                }
                self.pods.insert(key.to_owned(), edges);
            }
        }
    }

    fn remove(&mut self, key: &str) {
        let Some(edges) = self.pods.remove(key) else { return };
        for (resource, target) in edges.references {
            let reference = Reference { node: edges.node.clone(), resource, key: target };
            if let Some(count) = self.references.get_mut(&reference) {
                *count -= 1;
                if *count == 0 {
                    self.references.remove(&reference);
                }
            }
        }
    }
}

/// The claim of a bound volume and the secrets that it names (upstream `graph.go` `AddPV`,
/// `pkg/api/v1/persistentvolume/util.go` `VisitPVSecretNames`).
fn volume_edges(volume: &Value) -> Option<VolumeEdges> {
    let spec = &volume["spec"];
    let claim = &spec["claimRef"];
    let namespace = claim["namespace"].as_str()?;
    let mut secrets = HashSet::new();
    let mut add = |reference: &Value, fallback: &str| {
        if let Some(name) = reference["name"].as_str().filter(|n| !n.is_empty()) {
            let namespace = reference["namespace"].as_str().filter(|n| !n.is_empty()).unwrap_or(fallback);
            secrets.insert(format!("{namespace}/{name}"));
        }
    };
    for reference in ["nodePublishSecretRef", "nodeStageSecretRef", "nodeExpandSecretRef"] {
        add(&spec["csi"][reference], namespace);
    }
    for driver in ["cephfs", "flexVolume", "rbd", "scaleIO", "iscsi", "storageos"] {
        add(&spec[driver]["secretRef"], namespace);
    }
    let azure = &spec["azureFile"];
    add(&serde_json::json!({"name": azure["secretName"], "namespace": azure["secretNamespace"]}), namespace);
    Some(VolumeEdges { claim: format!("{namespace}/{}", claim["name"].as_str()?), secrets })
}

/// Everything that a pod names (upstream `pkg/api/v1/pod` visitors), and the pod itself.
fn references(pod_key: &str, pod: &Value) -> HashSet<(&'static str, String)> {
    let namespace = pod_key.split('/').next().unwrap_or_default();
    let mut found = HashSet::from([("pods", pod_key.to_owned())]);
    // A node makes its mirror pods itself: they must not lead anywhere (`Graph.AddPod`).
    if pod["metadata"]["annotations"].get("kubernetes.io/config.mirror").is_some() {
        return found;
    }
    let mut add = |resource: &'static str, name: &Value| {
        if let Some(name) = name.as_str().filter(|n| !n.is_empty()) {
            found.insert((resource, format!("{namespace}/{name}")));
        }
    };
    let spec = &pod["spec"];
    let items = |value: &Value| value.as_array().cloned().unwrap_or_default();
    add("serviceaccounts", &spec["serviceAccountName"]);
    for secret in items(&spec["imagePullSecrets"]) {
        add("secrets", &secret["name"]);
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in items(&spec[list]) {
            for env in items(&container["env"]) {
                add("secrets", &env["valueFrom"]["secretKeyRef"]["name"]);
                add("configmaps", &env["valueFrom"]["configMapKeyRef"]["name"]);
            }
            for env in items(&container["envFrom"]) {
                add("secrets", &env["secretRef"]["name"]);
                add("configmaps", &env["configMapRef"]["name"]);
            }
        }
    }
    let made = items(&pod["status"]["resourceClaimStatuses"]);
    for claim in items(&spec["resourceClaims"]) {
        add("resourceclaims", &claim["resourceClaimName"]);
        // The claim of a template has its name in the status as soon as there is one (`resourceclaim.Name`).
        if claim["resourceClaimName"].is_null()
            && let Some(made) = made.iter().find(|made| made["name"] == claim["name"])
        {
            add("resourceclaims", &made["resourceClaimName"]);
        }
    }
    add("resourceclaims", &pod["status"]["extendedResourceClaimStatus"]["resourceClaimName"]);
    for volume in items(&spec["volumes"]) {
        add("secrets", &volume["secret"]["secretName"]);
        add("configmaps", &volume["configMap"]["name"]);
        add("persistentvolumeclaims", &volume["persistentVolumeClaim"]["claimName"]);
        if volume.get("ephemeral").is_some()
            && let (Some(pod), Some(volume)) = (pod["metadata"]["name"].as_str(), volume["name"].as_str())
        {
            add("persistentvolumeclaims", &Value::from(format!("{pod}-{volume}")));
        }
        for source in items(&volume["projected"]["sources"]) {
            add("secrets", &source["secret"]["name"]);
            add("configmaps", &source["configMap"]["name"]);
        }
        for driver in ["csi", "flexVolume", "rbd", "cephfs", "iscsi", "scaleIO", "storageos"] {
            add("secrets", &volume[driver]["secretRef"]["name"]);
            add("secrets", &volume[driver]["nodePublishSecretRef"]["name"]);
        }
        add("secrets", &volume["azureFile"]["secretName"]);
    }
    found
}
