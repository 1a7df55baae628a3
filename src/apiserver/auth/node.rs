//! What a node may read: its own objects, and what the pods bound to it name
//! (upstream `plugin/pkg/auth/authorizer/node`).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use api::UserInfo;
use api::services::{AuthorizationAttributes, Authorizer, Decision};
use async_trait::async_trait;
use base::Shutdown;
use parking_lot::RwLock;
use serde_json::Value;
use storage::Store;

use super::feed::{Change, follow};
use super::rules::PolicyRule;

/// Decides for users `system:node:NAME` in the group `system:nodes`.
pub struct NodeAuthorizer {
    graph: Arc<RwLock<Graph>>,
    rules: Vec<PolicyRule>,
}

/// What pods on a node refer to.
#[derive(Default)]
struct Graph {
    /// By the pod's `namespace/name`.
    pods: HashMap<String, PodEdges>,
    /// How many pods of a node refer to an object.
    references: HashMap<Reference, u32>,
    /// Bound PersistentVolumes by name.
    volumes: HashMap<String, VolumeEdges>,
    /// The node of each VolumeAttachment, by its name.
    attachments: HashMap<String, String>,
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

const NAMESPACE_NODE_LEASE: &str = "kube-node-lease";

impl NodeAuthorizer {
    /// Indexes and follows pods in a task that ends with `shutdown`.
    pub fn start(store: &Arc<dyn Store>, shutdown: &Shutdown) -> (Arc<Self>, tokio::task::JoinSet<()>) {
        let graph = Arc::new(RwLock::new(Graph::default()));
        let mut tasks = tokio::task::JoinSet::new();
        let index = graph.clone();
        tasks.spawn(follow(
            store.clone(),
            "/registry/pods/".to_owned(),
            move |change| index.write().apply(change),
            |_| {},
            shutdown.clone(),
        ));
        let index = graph.clone();
        tasks.spawn(follow(
            store.clone(),
            "/registry/persistentvolumes/".to_owned(),
            move |change| index.write().apply_volume(change),
            |_| {},
            shutdown.clone(),
        ));
        let index = graph.clone();
        tasks.spawn(follow(
            store.clone(),
            "/registry/volumeattachments/".to_owned(),
            move |change| index.write().apply_attachment(change),
            |_| {},
            shutdown.clone(),
        ));
        (Arc::new(Self { graph, rules: node_rules() }), tasks)
    }

    fn related(&self, node: &str, resource: &'static str, attributes: &AuthorizationAttributes) -> Decision {
        if attributes.name.is_empty() {
            return no_opinion("No Object name found");
        }
        let key = format!("{}/{}", attributes.namespace, attributes.name);
        if self.graph.read().reaches(node, resource, key) {
            return Decision::Allow { reason: String::new() };
        }
        no_opinion(&format!("no relationship found between node '{node}' and this object"))
    }

    fn decide(&self, node: &str, attributes: &AuthorizationAttributes) -> Decision {
        let AuthorizationAttributes { group, resource, subresource, verb, name, namespace, .. } = attributes;
        let allow = || Decision::Allow { reason: String::new() };
        let read = matches!(verb.as_str(), "get" | "list" | "watch");
        match (group.as_str(), resource.as_str()) {
            ("", "secrets" | "configmaps" | "serviceaccounts") if !read || !subresource.is_empty() => {
                if resource == "serviceaccounts" && verb == "create" && subresource == "token" && !name.is_empty() {
                    return self.related(node, "serviceaccounts", attributes);
                }
                no_opinion("can only read resources of this type")
            }
            ("", "secrets") => self.related(node, "secrets", attributes),
            ("", "configmaps") => self.related(node, "configmaps", attributes),
            ("", "serviceaccounts") if verb == "get" => self.related(node, "serviceaccounts", attributes),
            ("", "serviceaccounts") => no_opinion("can only create tokens for individual service accounts"),
            ("", "persistentvolumeclaims") => match (subresource.as_str(), verb.as_str()) {
                ("", "get") | ("status", "get" | "update" | "patch") => {
                    self.related(node, "persistentvolumeclaims", attributes)
                }
                _ => no_opinion("can only get individual resources of this type"),
            },
            ("", "persistentvolumes") => match (subresource.as_str(), verb.as_str()) {
                ("", "get") => self.related(node, "persistentvolumes", attributes),
                ("", _) => no_opinion("can only get individual resources of this type"),
                _ => no_opinion("cannot get subresource"),
            },
            ("storage.k8s.io", "volumeattachments") => match (subresource.as_str(), verb.as_str()) {
                ("", "get") => self.related(node, "volumeattachments", attributes),
                ("", _) => no_opinion("can only get individual resources of this type"),
                _ => no_opinion("cannot get subresource"),
            },
            ("certificates.k8s.io", "podcertificaterequests") => decide_certificate_request(node, attributes),
            ("coordination.k8s.io", "leases") => match verb.as_str() {
                "get" | "create" | "update" | "patch" | "delete" => {
                    if namespace != NAMESPACE_NODE_LEASE {
                        no_opinion(&format!("can only access leases in the {NAMESPACE_NODE_LEASE:?} system namespace"))
                    } else if verb != "create" && name != node {
                        no_opinion("can only access node lease with the same name as the requesting node")
                    } else {
                        allow()
                    }
                }
                _ => no_opinion("can only get, create, update, patch, or delete a node lease"),
            },
            ("storage.k8s.io", "csinodes") => match verb.as_str() {
                "get" | "create" | "update" | "patch" | "delete" if verb == "create" || name == node => allow(),
                _ => no_opinion("can only access CSINode with the same name as the requesting node"),
            },
            ("", "nodes") => match (subresource.as_str(), verb.as_str()) {
                ("", "create" | "update" | "patch") | ("status", "update" | "patch") => allow(),
                ("", _) if read && name == node => allow(),
                ("", _) if read && name.is_empty() => {
                    no_opinion(&format!("node '{node}' cannot read all nodes, only its own Node object"))
                }
                ("", _) if read => no_opinion(&format!("node '{node}' cannot read '{name}', only its own Node object")),
                _ => no_opinion(""),
            },
            ("", "pods") => self.decide_pod(node, attributes),
            _ if self.rules.iter().any(|rule| rule.allows(attributes)) => allow(),
            _ => no_opinion(""),
        }
    }

    fn decide_pod(&self, node: &str, attributes: &AuthorizationAttributes) -> Decision {
        let allow = || Decision::Allow { reason: String::new() };
        match (attributes.subresource.as_str(), attributes.verb.as_str()) {
            ("", "get") => self.related(node, "pods", attributes),
            ("", "list" | "watch") => {
                let scoped = format!("spec.nodeName={node}");
                if attributes.field_selector.split(',').any(|s| s == scoped) {
                    allow()
                } else if !attributes.name.is_empty() {
                    self.related(node, "pods", attributes)
                } else {
                    no_opinion("can only list/watch pods with spec.nodeName field selector")
                }
            }
            // The NodeRestriction plugin limits these to mirror pods and to pods of the node.
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => allow(),
            _ => no_opinion(""),
        }
    }
}

/// `node_authorizer.go` `authorizePodCertificateRequest`: the NodeRestriction plugin checks what is created.
fn decide_certificate_request(node: &str, attributes: &AuthorizationAttributes) -> Decision {
    let scoped = format!("spec.nodeName={node}");
    match (attributes.subresource.as_str(), attributes.verb.as_str()) {
        ("", "create") => Decision::Allow { reason: String::new() },
        ("", "list" | "watch") if attributes.field_selector.split(',').any(|s| s == scoped) => {
            Decision::Allow { reason: String::new() }
        }
        ("", "list" | "watch") => no_opinion("can only list/watch podcertificaterequests with nodeName field selector"),
        ("", verb) => no_opinion(&format!("nodes may not {verb} podcertificaterequests")),
        _ => no_opinion("nodes may not access the status subresource of PodCertificateRequests"),
    }
}

fn no_opinion(reason: &str) -> Decision {
    Decision::NoOpinion { reason: reason.to_owned() }
}

#[async_trait]
impl Authorizer for NodeAuthorizer {
    async fn authorize(&self, user: &UserInfo, attributes: &AuthorizationAttributes) -> Decision {
        match node_of(user) {
            Some(node) if attributes.is_resource => self.decide(node, attributes),
            _ => no_opinion(""),
        }
    }

    async fn rules(&self, user: &UserInfo, _namespace: &str) -> (Vec<Value>, Vec<Value>, bool) {
        (Vec::new(), Vec::new(), node_of(user).is_some())
    }

    fn rules_error(&self, user: &UserInfo) -> Option<String> {
        node_of(user).map(|_| "node authorizer does not support user rule resolution".to_owned())
    }
}

/// The node behind a user, if it is one.
pub fn node_of(user: &UserInfo) -> Option<&str> {
    let node = user.name.strip_prefix("system:node:")?;
    (user.in_group(api::user::NODES) && !node.is_empty()).then_some(node)
}

impl Graph {
    /// Whether a pod of the node leads to the object: by itself, or through its claim's volume. The key of what has no
    /// namespace begins with a slash.
    fn reaches(&self, node: &str, resource: &'static str, key: String) -> bool {
        let refers = |resource, key: &str| {
            let reference = Reference { node: node.to_owned(), resource, key: key.to_owned() };
            self.references.contains_key(&reference)
        };
        match resource {
            "persistentvolumes" => {
                let volume = self.volumes.get(key.trim_start_matches('/'));
                volume.is_some_and(|volume| refers("persistentvolumeclaims", &volume.claim))
            }
            "volumeattachments" => self.attachments.get(key.trim_start_matches('/')).is_some_and(|n| n == node),
            "secrets" if !refers("secrets", &key) => {
                let holders = self.volumes.values().filter(|volume| volume.secrets.contains(&key));
                holders.into_iter().any(|volume| refers("persistentvolumeclaims", &volume.claim))
            }
            _ => refers(resource, &key),
        }
    }

    fn apply_volume(&mut self, change: Change<'_>) {
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

    fn apply_attachment(&mut self, change: Change<'_>) {
        match change {
            Change::Reset => self.attachments.clear(),
            Change::Delete { key } => drop(self.attachments.remove(key)),
            Change::Put { key, value } => {
                let node = serde_json::from_slice::<Value>(value).ok();
                let node = node.and_then(|a| a["spec"]["nodeName"].as_str().map(str::to_owned));
                self.attachments.insert(key.to_owned(), node.unwrap_or_default());
            }
        }
    }

    fn apply(&mut self, change: Change<'_>) {
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
                // A pod's references never change once it is bound, but for its ephemeral containers.
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

/// What every node may do with resources that are not subdivided (upstream `bootstrappolicy.NodeRules`).
fn node_rules() -> Vec<PolicyRule> {
    let rule = |verbs: &[&str], groups: &[&str], resources: &[&str]| {
        let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        PolicyRule {
            verbs: owned(verbs),
            api_groups: owned(groups),
            resources: owned(resources),
            ..PolicyRule::default()
        }
    };
    let read = ["get", "list", "watch"];
    vec![
        rule(&["create"], &["authentication.k8s.io"], &["tokenreviews"]),
        rule(&["create"], &["authorization.k8s.io"], &["subjectaccessreviews", "localsubjectaccessreviews"]),
        rule(&read, &[""], &["services"]),
        rule(&["create", "update", "patch"], &["", "events.k8s.io"], &["events"]),
        rule(&["get"], &[""], &["endpoints"]),
        rule(&["create", "get", "list", "watch"], &["certificates.k8s.io"], &["certificatesigningrequests"]),
        rule(&read, &["storage.k8s.io"], &["csidrivers"]),
        rule(&read, &["node.k8s.io"], &["runtimeclasses"]),
        rule(&read, &["certificates.k8s.io"], &["clustertrustbundles"]),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn authorizer() -> NodeAuthorizer {
        let mut graph = Graph::default();
        let pod = json!({"metadata": {"name": "web"}, "spec": {"nodeName": "a", "volumes": [
            {"name": "v", "secret": {"secretName": "cert"}},
            {"name": "t", "projected": {"sources": [{"configMap": {"name": "kube-root-ca.crt"}}]}},
        ]}});
        graph.apply(Change::Put { key: "shop/web", value: &serde_json::to_vec(&pod).unwrap() });
        NodeAuthorizer { graph: Arc::new(RwLock::new(graph)), rules: node_rules() }
    }

    fn get(resource: &str, name: &str) -> AuthorizationAttributes {
        AuthorizationAttributes {
            verb: "get".into(),
            is_resource: true,
            resource: resource.into(),
            namespace: "shop".into(),
            name: name.into(),
            ..AuthorizationAttributes::default()
        }
    }

    #[test]
    fn a_node_reads_what_its_pods_name_and_nothing_else() {
        let authorizer = authorizer();
        assert!(authorizer.decide("a", &get("secrets", "cert")).allowed());
        assert!(authorizer.decide("a", &get("configmaps", "kube-root-ca.crt")).allowed());
        assert!(!authorizer.decide("a", &get("secrets", "other")).allowed());
        assert!(!authorizer.decide("b", &get("secrets", "cert")).allowed());
        authorizer.graph.write().apply(Change::Delete { key: "shop/web" });
        assert!(!authorizer.decide("a", &get("secrets", "cert")).allowed());
        assert!(authorizer.graph.read().references.is_empty());
    }

    #[test]
    fn a_node_reads_the_volumes_of_its_pods_claims_and_their_secrets() {
        let authorizer = authorizer();
        let pod = json!({"metadata": {"name": "db"}, "spec": {"nodeName": "a", "volumes": [
            {"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}});
        let volume = json!({"spec": {"claimRef": {"namespace": "shop", "name": "data"},
            "csi": {"nodePublishSecretRef": {"namespace": "vault", "name": "key"}}}});
        let attachment = json!({"spec": {"nodeName": "a"}});
        let bytes = |value: &Value| serde_json::to_vec(value).unwrap();
        {
            let mut graph = authorizer.graph.write();
            graph.apply(Change::Put { key: "shop/db", value: &bytes(&pod) });
            graph.apply_volume(Change::Put { key: "pv-1", value: &bytes(&volume) });
            graph.apply_attachment(Change::Put { key: "csi-1", value: &bytes(&attachment) });
        }
        let cluster = |group: &str, resource: &str, name: &str| AuthorizationAttributes {
            group: group.into(),
            namespace: String::new(),
            ..get(resource, name)
        };
        let secret = AuthorizationAttributes { namespace: "vault".into(), ..get("secrets", "key") };
        for (node, allowed) in [("a", true), ("b", false)] {
            assert_eq!(authorizer.decide(node, &cluster("", "persistentvolumes", "pv-1")).allowed(), allowed);
            let attachments = cluster("storage.k8s.io", "volumeattachments", "csi-1");
            assert_eq!(authorizer.decide(node, &attachments).allowed(), allowed);
            assert_eq!(authorizer.decide(node, &secret).allowed(), allowed);
        }
        authorizer.graph.write().apply_volume(Change::Delete { key: "pv-1" });
        assert!(!authorizer.decide("a", &secret).allowed());
    }

    #[test]
    fn a_node_lists_only_its_own_pods() {
        let authorizer = authorizer();
        let mut list = AuthorizationAttributes { verb: "list".into(), name: String::new(), ..get("pods", "") };
        assert!(!authorizer.decide("a", &list).allowed());
        list.field_selector = "spec.nodeName=a".into();
        assert!(authorizer.decide("a", &list).allowed());
        assert!(!authorizer.decide("b", &list).allowed());
    }
}
