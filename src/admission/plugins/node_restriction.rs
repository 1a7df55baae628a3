//! `NodeRestriction`: a kubelet changes its own node, its own pods, and what they need, and nothing else
//! (`plugin/pkg/admission/noderestriction`).

mod certificate;
mod node;
mod pod;

use std::sync::Arc;

use api::admission::{AdmissionPlugin, Attributes, Operation};
use api::services::{AuthorizationAttributes, Authorizer};
use api::user::NODES;
use api::{GroupResource, Gvr, Object, Status, UserInfo};
use async_trait::async_trait;
use client::Resource;
use client::k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use client::k8s_openapi::api::storage::v1::CSIDriver;
use serde_json::Value;

use crate::attributes::forbidden;
use crate::cluster::Cluster;

pub(crate) use self::pod::references_secrets;

const USER_PREFIX: &str = "system:node:";

pub(crate) struct NodeRestriction {
    cluster: Cluster,
    authorizer: Arc<dyn Authorizer>,
}

/// The name of the node that the user is; `None` if the user is no node.
fn node_of(user: &UserInfo) -> Option<&str> {
    user.name.strip_prefix(USER_PREFIX).filter(|_| user.in_group(NODES))
}

impl NodeRestriction {
    pub(crate) fn new(cluster: Cluster, authorizer: Arc<dyn Authorizer>) -> Self {
        Self { cluster, authorizer }
    }

    /// What is absent is named as listers do, in the singular.
    async fn existing_pod(&self, attributes: &Attributes, name: &str) -> Result<Arc<Pod>, Status> {
        let pod = self.cluster.live::<Pod>(&attributes.namespace, name).await.map_err(|s| forbidden(attributes, s))?;
        pod.ok_or_else(|| Status::not_found(&GroupResource::new("", "pod"), name))
    }

    async fn check_pod(&self, node: &str, attributes: &Attributes) -> Result<(), Status> {
        match attributes.operation {
            Operation::Create => self.check_new_pod(node, attributes).await,
            Operation::Delete => {
                let pod = self.existing_pod(attributes, &attributes.name).await?;
                if pod.node_name() == Some(node) {
                    return Ok(());
                }
                let why = format!("node {node:?} can only delete pods with spec.nodeName set to itself");
                Err(forbidden(attributes, why))
            }
            other => {
                let why = format!(
                    "unexpected operation {:?}, node {node:?} can only create and delete mirror pods",
                    other.as_str()
                );
                Err(forbidden(attributes, why))
            }
        }
    }

    async fn check_new_pod(&self, node: &str, attributes: &Attributes) -> Result<(), Status> {
        let Some(pod) = &attributes.object else { return Ok(()) };
        let uid = pod::check_mirror_pod(node, pod).map_err(|why| forbidden(attributes, why))?;
        match self.cluster.get::<client::k8s_openapi::api::core::v1::Node>("", node).await {
            Err(status) => {
                let why = format!("error looking up node {node} to verify uid: {status}");
                return Err(forbidden(attributes, why));
            }
            Ok(None) => return Err(Status::not_found(&GroupResource::new("", "node"), node)),
            Ok(Some(existing)) if existing.uid() != uid => {
                let why = format!("node {node} UID mismatch: expected {uid} got {}", existing.uid());
                return Err(forbidden(attributes, why));
            }
            Ok(Some(_)) => {}
        }
        match pod::referenced_objects(pod) {
            Ok(None) => Ok(()),
            Ok(Some(what)) => {
                Err(forbidden(attributes, format!("node {node:?} can not create pods that reference {what}")))
            }
            Err(why) => Err(forbidden(attributes, format!("error checking mirror pod for API references: {why}"))),
        }
    }

    async fn check_eviction(&self, node: &str, attributes: &Attributes) -> Result<(), Status> {
        if attributes.operation != Operation::Create {
            return Err(forbidden(attributes, format!("unexpected operation {}", attributes.operation.as_str())));
        }
        let named = attributes.object.as_ref().map(Object::name).unwrap_or_default();
        let name = if attributes.name.is_empty() { named } else { &attributes.name };
        if name.is_empty() {
            return Err(forbidden(attributes, "could not determine pod from request data"));
        }
        let pod = self.existing_pod(attributes, name).await?;
        if pod.node_name() == Some(node) {
            return Ok(());
        }
        Err(forbidden(attributes, format!("node {node} can only evict pods with spec.nodeName set to itself")))
    }

    /// Tokens are for pods of the node, for audiences that the pod names.
    async fn check_token(&self, node: &str, attributes: &Attributes) -> Result<(), Status> {
        let Some(request) = attributes.object.as_ref().filter(|_| attributes.operation == Operation::Create) else {
            return Ok(());
        };
        let reference = |name: &str| request.str(&["spec", "boundObjectRef", name]).unwrap_or_default();
        if reference("apiVersion") != "v1" || reference("kind") != "Pod" || reference("name").is_empty() {
            return Err(forbidden(attributes, "node requested token not bound to a pod"));
        }
        let uid = reference("uid");
        if uid.is_empty() {
            return Err(forbidden(attributes, "node requested token with a pod binding without a uid"));
        }
        let pod = self.existing_pod(attributes, reference("name")).await?;
        if pod.uid() != uid {
            return Err(forbidden(
                attributes,
                format!(
                    "the UID in the bound object reference ({uid}) does not match the UID in record. The object might \
                     have been deleted and then recreated"
                ),
            ));
        }
        if pod.node_name() != Some(node) {
            return Err(forbidden(attributes, "node requested token bound to a pod scheduled on a different node"));
        }
        let audience = match request.array(&["spec", "audiences"]) {
            [] => "",
            [one] => one.as_str().unwrap_or_default(),
            _ => return Err(forbidden(attributes, "node may only request 0 or 1 audiences")),
        };
        let found = self
            .pod_names_audience(&pod, audience)
            .await
            .map_err(|why| forbidden(attributes, format!("error validating audience {audience:?}: {why}")))?;
        if found {
            return Ok(());
        }
        let question = AuthorizationAttributes {
            verb: "request-serviceaccounts-token-audience".to_owned(),
            is_resource: true,
            group: attributes.resource.group.clone(),
            version: attributes.resource.version.clone(),
            resource: audience.to_owned(),
            namespace: attributes.namespace.clone(),
            name: attributes.name.clone(),
            ..AuthorizationAttributes::default()
        };
        if self.authorizer.authorize(&attributes.user, &question).await.allowed() {
            return Ok(());
        }
        let user = &attributes.user.name;
        Err(forbidden(attributes, format!("{user} is not authorized to request tokens for audience {audience:?}")))
    }

    /// Whether a volume of the pod asks for tokens of this audience, itself or through its CSI driver.
    async fn pod_names_audience(&self, pod: &Pod, audience: &str) -> Result<bool, String> {
        let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_ref()).into_iter().flatten();
        let mut problems = Vec::new();
        for volume in volumes {
            let sources = volume.projected.iter().flat_map(|p| p.sources.iter().flatten());
            let mut tokens = sources.filter_map(|s| s.service_account_token.as_ref());
            if tokens.any(|t| t.audience.as_deref().unwrap_or_default() == audience) {
                return Ok(true);
            }
            match self.driver_has_audience(pod, volume, audience).await {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(status) => problems.push(status.to_string()),
            }
        }
        match problems.as_slice() {
            [] => Ok(false),
            [one] => Err(one.clone()),
            many => Err(format!("[{}]", many.join(", "))),
        }
    }

    async fn driver_has_audience(&self, pod: &Pod, volume: &Volume, audience: &str) -> Result<bool, Status> {
        let claim = match (&volume.persistent_volume_claim, &volume.ephemeral, &volume.csi) {
            (_, Some(ephemeral), _) if ephemeral.volume_claim_template.is_some() => {
                Some(format!("{}-{}", pod.name(), volume.name))
            }
            (Some(claim), ..) => Some(claim.claim_name.clone()),
            _ => None,
        };
        let driver = match (claim, &volume.csi) {
            (Some(claim), _) => self.driver_of_claim(pod.namespace(), &claim).await?,
            (None, Some(csi)) => Some(csi.driver.clone()),
            (None, None) => None,
        };
        let Some(driver) = driver else { return Ok(false) };
        let Some(driver) = self.cluster.get::<CSIDriver>("", &driver).await? else {
            return Err(Status::not_found(&GroupResource::new("storage.k8s.io", "csidriver"), &driver));
        };
        Ok(driver.spec.token_requests.iter().flatten().any(|request| request.audience == audience))
    }

    async fn driver_of_claim(&self, namespace: &str, claim: &str) -> Result<Option<String>, Status> {
        let Some(found) = self.cluster.get::<PersistentVolumeClaim>(namespace, claim).await? else {
            return Err(Status::not_found(&GroupResource::new("", "persistentvolumeclaim"), claim));
        };
        let volume = found.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default();
        let Some(found) = self.cluster.get::<PersistentVolume>("", volume).await? else {
            return Err(Status::not_found(&GroupResource::new("", "persistentvolume"), volume));
        };
        Ok(found.spec.as_ref().and_then(|s| s.csi.as_ref()).map(|csi| csi.driver.clone()))
    }
}

#[async_trait]
impl AdmissionPlugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn handles(&self, operation: Operation, resource: &Gvr, subresource: &str) -> bool {
        operation != Operation::Connect
            && match (resource.group.as_str(), resource.resource.as_str()) {
                ("", "pods" | "nodes" | "persistentvolumeclaims") => true,
                ("", "serviceaccounts") => subresource == "token",
                ("coordination.k8s.io", "leases") | ("storage.k8s.io", "csinodes") => true,
                ("resource.k8s.io", "resourceslices") => true,
                ("certificates.k8s.io", "certificatesigningrequests" | "podcertificaterequests") => true,
                _ => false,
            }
    }

    async fn admit(&self, attributes: &mut Attributes) -> Result<(), Status> {
        let attributes = &*attributes;
        let Some(node) = node_of(&attributes.user) else { return Ok(()) };
        if node.is_empty() {
            let user = &attributes.user.name;
            return Err(forbidden(attributes, format!("could not determine node from user {user:?}")));
        }
        let checked = match (attributes.resource.resource.as_str(), attributes.subresource.as_str()) {
            ("pods", "") => return self.check_pod(node, attributes).await,
            ("pods", "eviction") => return self.check_eviction(node, attributes).await,
            ("serviceaccounts", _) => return self.check_token(node, attributes).await,
            ("podcertificaterequests", _) => return self.check_certificate(node, attributes).await,
            ("pods", "status") => pod::check_status(node, attributes),
            ("pods", other) => {
                Err(format!("unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"))
            }
            ("nodes", _) => node::check_node(node, attributes),
            ("persistentvolumeclaims", "status") => check_claim_status(node, attributes),
            ("persistentvolumeclaims", _) => Err("may only update PVC status".to_owned()),
            ("leases", _) => node::check_lease(node, attributes),
            ("csinodes", _) => node::check_csi_node(node, attributes),
            ("resourceslices", _) => node::check_resource_slice(node, attributes),
            ("certificatesigningrequests", _) => node::check_signing_request(node, attributes),
            _ => Ok(()),
        };
        checked.map_err(|why| forbidden(attributes, why))
    }
}

/// Sizes and conditions of claims may be reported, nothing else.
fn check_claim_status(node: &str, attributes: &Attributes) -> Result<(), String> {
    if attributes.operation != Operation::Update {
        return Err(format!("unexpected operation {:?}", attributes.operation.as_str()));
    }
    let rest = |object: &Option<Object>| {
        let mut object = object.clone().unwrap_or_default();
        object.remove(&["metadata", "resourceVersion"]);
        object.remove(&["metadata", "managedFields"]);
        for name in ["capacity", "conditions", "allocatedResourceStatuses", "allocatedResources"] {
            object.remove(&["status", name]);
        }
        Value::Object(object.0)
    };
    let (old, new) = (rest(&attributes.old_object), rest(&attributes.object));
    if api::validation::same(Some(&old), Some(&new)) {
        return Ok(());
    }
    Err(format!("node {node:?} is not allowed to update fields other than status.quantity and status.conditions"))
}
