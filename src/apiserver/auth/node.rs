//! What a node may read: its own objects, and what the pods bound to it name
//! (upstream `plugin/pkg/auth/authorizer/node`).

mod graph;

use std::sync::Arc;

use api::UserInfo;
use api::services::{AuthorizationAttributes, Authorizer, Decision};
use async_trait::async_trait;
use base::Shutdown;
use parking_lot::RwLock;
use serde_json::Value;
use storage::Store;

use self::graph::{Graph, OWNED};
use super::feed::follow;
use super::rules::PolicyRule;

/// Decides for users `system:node:NAME` in the group `system:nodes`.
pub struct NodeAuthorizer {
    graph: Arc<RwLock<Graph>>,
    rules: Vec<PolicyRule>,
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
        for (resource, prefix) in OWNED {
            let index = graph.clone();
            tasks.spawn(follow(
                store.clone(),
                prefix.to_owned(),
                move |change| index.write().apply_owned(resource, change),
                |_| {},
                shutdown.clone(),
            ));
        }
        (Arc::new(Self { graph, rules: node_rules() }), tasks)
    }

    fn related(&self, node: &str, resource: &'static str, attributes: &AuthorizationAttributes) -> Decision {
        if attributes.name.is_empty() {
            return no_opinion("No Object name found");
        }
        let key = format!("{}/{}", attributes.namespace, attributes.name);
        if self.graph.read().reaches(node, resource, key) {
            return allow();
        }
        no_opinion(&format!("no relationship found between node '{node}' and this object"))
    }

    fn decide(&self, node: &str, attributes: &AuthorizationAttributes) -> Decision {
        let AuthorizationAttributes { group, resource, subresource, .. } = attributes;
        match (group.as_str(), resource.as_str()) {
            ("", "secrets") => self.read("secrets", node, attributes),
            ("", "configmaps") => self.read("configmaps", node, attributes),
            ("", "serviceaccounts") => self.decide_service_account(node, attributes),
            ("", "persistentvolumeclaims") if subresource == "status" => self.update_status(node, attributes),
            ("", "persistentvolumeclaims") => self.get("persistentvolumeclaims", node, attributes),
            ("", "persistentvolumes") => self.get("persistentvolumes", node, attributes),
            ("resource.k8s.io", "resourceclaims") => self.get("resourceclaims", node, attributes),
            ("storage.k8s.io", "volumeattachments") => self.get("volumeattachments", node, attributes),
            ("coordination.k8s.io", "leases") => decide_lease(node, attributes),
            ("storage.k8s.io", "csinodes") => decide_csi_node(node, attributes),
            ("resource.k8s.io", "resourceslices") => self.decide_slice(node, attributes),
            ("", "nodes") => decide_node(node, attributes),
            ("", "pods") => self.decide_pod(node, attributes),
            ("certificates.k8s.io", "podcertificaterequests") => self.decide_certificate_request(node, attributes),
            _ if self.rules.iter().any(|rule| rule.allows(attributes)) => allow(),
            _ => no_opinion(""),
        }
    }

    /// `authorizeReadNamespacedObject`.
    fn read(&self, resource: &'static str, node: &str, attributes: &AuthorizationAttributes) -> Decision {
        if !matches!(attributes.verb.as_str(), "get" | "list" | "watch") {
            no_opinion("can only read resources of this type")
        } else if !attributes.subresource.is_empty() {
            no_opinion("cannot read subresource")
        } else if attributes.namespace.is_empty() {
            no_opinion("can only read namespaced object of this type")
        } else {
            self.related(node, resource, attributes)
        }
    }

    /// `authorizeGet`.
    fn get(&self, resource: &'static str, node: &str, attributes: &AuthorizationAttributes) -> Decision {
        if attributes.verb != "get" {
            no_opinion("can only get individual resources of this type")
        } else if !attributes.subresource.is_empty() {
            no_opinion("cannot get subresource")
        } else {
            self.related(node, resource, attributes)
        }
    }

    /// `authorizeStatusUpdate`.
    fn update_status(&self, node: &str, attributes: &AuthorizationAttributes) -> Decision {
        match attributes.verb.as_str() {
            "update" | "patch" => self.related(node, "persistentvolumeclaims", attributes),
            _ => no_opinion("can only get/update/patch this type"),
        }
    }

    /// `authorizeServiceAccount`, `authorizeCreateToken`.
    fn decide_service_account(&self, node: &str, attributes: &AuthorizationAttributes) -> Decision {
        let AuthorizationAttributes { subresource, verb, name, .. } = attributes;
        if verb == "get" && subresource.is_empty() {
            self.read("serviceaccounts", node, attributes)
        } else if verb != "create" || name.is_empty() {
            no_opinion("can only create tokens for individual service accounts")
        } else if subresource != "token" {
            no_opinion("can only create token subresource of serviceaccount")
        } else {
            self.related(node, "serviceaccounts", attributes)
        }
    }

    /// `authorizeResourceSlice`. The NodeRestriction plugin checks what is created.
    fn decide_slice(&self, node: &str, attributes: &AuthorizationAttributes) -> Decision {
        match attributes.verb.as_str() {
            _ if !attributes.subresource.is_empty() => no_opinion("cannot authorize ResourceSlice subresources"),
            "create" => allow(),
            "get" | "update" | "patch" | "delete" => self.related(node, "resourceslices", attributes),
            "watch" | "list" | "deletecollection" if selects(attributes, "spec.nodeName", node) => allow(),
            "watch" | "list" | "deletecollection" => {
                no_opinion("can only list/watch/deletecollection resourceslices with nodeName field selector")
            }
            _ => no_opinion(
                "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, \
                 delete, deletecollection",
            ),
        }
    }

    /// `authorizePodCertificateRequest`. The NodeRestriction plugin checks what is created.
    fn decide_certificate_request(&self, node: &str, attributes: &AuthorizationAttributes) -> Decision {
        match attributes.verb.as_str() {
            _ if !attributes.subresource.is_empty() => {
                no_opinion("nodes may not access the status subresource of PodCertificateRequests")
            }
            "create" => allow(),
            "get" => self.related(node, "podcertificaterequests", attributes),
            "list" | "watch" if selects(attributes, "spec.nodeName", node) => allow(),
            "list" | "watch" => no_opinion("can only list/watch podcertificaterequests with nodeName field selector"),
            verb => no_opinion(&format!("nodes may not {verb} podcertificaterequests")),
        }
    }

    /// `authorizePod`. The NodeRestriction plugin limits writes to mirror pods and to pods of the node.
    fn decide_pod(&self, node: &str, attributes: &AuthorizationAttributes) -> Decision {
        match (attributes.subresource.as_str(), attributes.verb.as_str()) {
            ("", "get") => self.get("pods", node, attributes),
            ("", "list" | "watch") => {
                if selects(attributes, "spec.nodeName", node) {
                    allow()
                } else if !attributes.name.is_empty() {
                    self.related(node, "pods", attributes)
                } else {
                    no_opinion("can only list/watch pods with spec.nodeName field selector")
                }
            }
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => allow(),
            _ => no_opinion(""),
        }
    }
}

/// Whether the request is limited to objects whose field has this value.
fn selects(attributes: &AuthorizationAttributes, field: &str, value: &str) -> bool {
    attributes.field_selector.split(',').any(|term| term.split_once('=') == Some((field, value)))
}

/// `authorizeLease`.
fn decide_lease(node: &str, attributes: &AuthorizationAttributes) -> Decision {
    let AuthorizationAttributes { verb, name, namespace, .. } = attributes;
    if !matches!(verb.as_str(), "get" | "create" | "update" | "patch" | "delete") {
        no_opinion("can only get, create, update, patch, or delete a node lease")
    } else if namespace != NAMESPACE_NODE_LEASE {
        no_opinion(&format!("can only access leases in the {NAMESPACE_NODE_LEASE:?} system namespace"))
    } else if verb != "create" && name != node {
        no_opinion("can only access node lease with the same name as the requesting node")
    } else {
        allow()
    }
}

/// `authorizeCSINode`, with the gate `CSIVolumeHealth` off as it is by default.
fn decide_csi_node(node: &str, attributes: &AuthorizationAttributes) -> Decision {
    let AuthorizationAttributes { verb, name, subresource, .. } = attributes;
    match subresource.as_str() {
        "" => {}
        "status" => return no_opinion("CSINode status access requires CSIVolumeHealth feature"),
        _ => return no_opinion("cannot authorize CSINode subresources"),
    }
    if !matches!(verb.as_str(), "get" | "create" | "update" | "patch" | "delete") {
        no_opinion("can only get, create, update, patch, or delete a CSINode")
    } else if verb != "create" && name != node {
        no_opinion("can only access CSINode with the same name as the requesting node")
    } else {
        allow()
    }
}

/// `authorizeNode`. The NodeRestriction plugin limits writes to the node's own object.
fn decide_node(node: &str, attributes: &AuthorizationAttributes) -> Decision {
    match (attributes.subresource.as_str(), attributes.verb.as_str()) {
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => allow(),
        ("", "get" | "list" | "watch") => match attributes.name.as_str() {
            name if name == node => allow(),
            "" => no_opinion(&format!("node '{node}' cannot read all nodes, only its own Node object")),
            name => no_opinion(&format!("node '{node}' cannot read '{name}', only its own Node object")),
        },
        _ => no_opinion(""),
    }
}

fn allow() -> Decision {
    Decision::Allow { reason: String::new() }
}

fn no_opinion(reason: &str) -> Decision {
    Decision::NoOpinion { reason: reason.to_owned() }
}

#[async_trait]
impl Authorizer for NodeAuthorizer {
    async fn authorize(&self, user: &UserInfo, attributes: &AuthorizationAttributes) -> Decision {
        match node_of(user) {
            Some(node) if attributes.is_resource => self.decide(node, attributes),
            None if is_nameless(user) => no_opinion(&format!("unknown node for user {:?}", user.name)),
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

/// A node's user name without the node (`defaultNodeIdentifier.NodeIdentity`).
fn is_nameless(user: &UserInfo) -> bool {
    user.name == "system:node:" && user.in_group(api::user::NODES)
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
    use crate::auth::feed::Change;

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
        assert!(authorizer.graph.read().is_empty());
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
            for (resource, _) in OWNED {
                graph.apply_owned(resource, Change::Put { key: "csi-1", value: &bytes(&attachment) });
            }
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
            let slices = cluster("resource.k8s.io", "resourceslices", "csi-1");
            assert_eq!(authorizer.decide(node, &slices).allowed(), allowed);
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

    #[test]
    fn a_mirror_pod_leads_nowhere_and_claims_lead_to_their_pods_node() {
        let authorizer = authorizer();
        let pod = |mirror: bool| {
            let mut pod = json!({"metadata": {"name": "db", "annotations": {}}, "spec": {"nodeName": "a",
                "resourceClaims": [{"name": "own", "resourceClaimName": "mine"},
                    {"name": "gpu", "resourceClaimTemplateName": "t"}],
                "volumes": [{"name": "v", "secret": {"secretName": "key"}}]},
                "status": {"resourceClaimStatuses": [{"name": "gpu", "resourceClaimName": "db-gpu-x"}]}});
            if mirror {
                pod["metadata"]["annotations"]["kubernetes.io/config.mirror"] = "x".into();
            }
            serde_json::to_vec(&pod).unwrap()
        };
        for mirror in [false, true] {
            authorizer.graph.write().apply(Change::Put { key: "shop/db", value: &pod(mirror) });
            for claim in ["mine", "db-gpu-x"] {
                let claim = AuthorizationAttributes { group: "resource.k8s.io".into(), ..get("resourceclaims", claim) };
                assert_eq!(authorizer.decide("a", &claim).allowed(), !mirror);
            }
            assert_eq!(authorizer.decide("a", &get("secrets", "key")).allowed(), !mirror);
            assert!(authorizer.decide("a", &get("pods", "db")).allowed());
        }
    }

    #[test]
    fn refusals_have_upstreams_reasons() {
        let authorizer = authorizer();
        let check = |change: &dyn Fn(&mut AuthorizationAttributes), want: &str| {
            let mut attributes = get("secrets", "cert");
            change(&mut attributes);
            assert_eq!(authorizer.decide("b", &attributes).reason(), want);
        };
        check(&|a| a.verb = "delete".into(), "can only read resources of this type");
        check(&|a| a.subresource = "x".into(), "cannot read subresource");
        check(&|a| a.namespace = String::new(), "can only read namespaced object of this type");
        check(&|a| a.name = String::new(), "No Object name found");
        check(&|_| {}, "no relationship found between node 'b' and this object");
        let nameless = UserInfo::new("system:node:", &[api::user::NODES]);
        assert!(node_of(&nameless).is_none() && is_nameless(&nameless));
    }
}
