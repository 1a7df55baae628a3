//! `OwnerReferencesPermissionEnforcement`: who gives an object another owner must be allowed to delete it, and who keeps
//! the owner from going must be allowed to change the owner's finalizers (`plugin/pkg/admission/gc`). Off unless asked for.

use std::sync::Arc;

use api::admission::{AdmissionPlugin, Attributes, Operation};
use api::services::{AuthorizationAttributes, Authorizer, Decision, Kinds};
use api::{Gvk, Gvr, Object, Status};
use async_trait::async_trait;
use serde_json::Value;

use crate::attributes::{forbidden, text};

pub(crate) struct OwnerReferencesPermissionEnforcement {
    authorizer: Arc<dyn Authorizer>,
    kinds: Arc<dyn Kinds>,
}

impl OwnerReferencesPermissionEnforcement {
    pub(crate) fn new(authorizer: Arc<dyn Authorizer>, kinds: Arc<dyn Kinds>) -> Self {
        Self { authorizer, kinds }
    }

    /// `Ok` if the user may, else the authoriser's reason and error as upstream prints them.
    async fn may(&self, attributes: &Attributes, question: &AuthorizationAttributes) -> Result<(), String> {
        match self.authorizer.authorize_or_fail(&attributes.user, question).await {
            (Decision::Allow { .. }, _) => Ok(()),
            (decision, error) => Err(format!("{}, {}", decision.reason(), error.as_deref().unwrap_or("<nil>"))),
        }
    }

    /// What changing the finalizers of an owner is to the authoriser (`ownerRefToDeleteAttributeRecords`).
    fn finalizing(&self, owner: &Value, namespace: &str) -> Result<AuthorizationAttributes, String> {
        let (version, kind) = (text(owner, "apiVersion"), text(owner, "kind"));
        let (group, name) = match version.split_once('/') {
            Some((_, rest)) if rest.contains('/') => return Err(format!("unexpected GroupVersion string: {version}")),
            Some((group, name)) => (group, name),
            None => ("", version),
        };
        let gvk = Gvk::new(group, name, kind);
        let served =
            self.kinds.kind(&gvk).ok_or_else(|| format!("no matches for kind {kind:?} in version {version:?}"))?;
        Ok(AuthorizationAttributes {
            verb: "update".to_owned(),
            is_resource: true,
            group: served.resource.group,
            version: served.resource.version,
            resource: served.resource.resource,
            subresource: "finalizers".to_owned(),
            name: text(owner, "name").to_owned(),
            namespace: if served.namespaced { namespace.to_owned() } else { String::new() },
            ..AuthorizationAttributes::default()
        })
    }
}

#[async_trait]
impl AdmissionPlugin for OwnerReferencesPermissionEnforcement {
    fn name(&self) -> &'static str {
        "OwnerReferencesPermissionEnforcement"
    }

    fn handles(&self, operation: Operation, resource: &Gvr, subresource: &str) -> bool {
        // Updates of a pod's status cannot change its owners, and old kubelets spoil them.
        let is_pod_status = resource.group.is_empty() && resource.resource == "pods" && subresource == "status";
        matches!(operation, Operation::Create | Operation::Update) && !is_pod_status
    }

    async fn validate(&self, attributes: &Attributes) -> Result<(), Status> {
        let Some(new) = &attributes.object else { return Ok(()) };
        let before = attributes.old_object.as_ref().map_or(&[][..], owners);
        if api::validation::same(Some(&Value::from(owners(new))), Some(&Value::from(before))) {
            return Ok(());
        }
        let Attributes { resource, namespace, .. } = attributes;
        if attributes.operation != Operation::Create {
            let deletion = AuthorizationAttributes {
                verb: "delete".to_owned(),
                is_resource: true,
                group: resource.group.clone(),
                version: resource.version.clone(),
                resource: resource.resource.clone(),
                subresource: attributes.subresource.clone(),
                namespace: namespace.clone(),
                name: attributes.name.clone(),
                ..AuthorizationAttributes::default()
            };
            if let Err(why) = self.may(attributes, &deletion).await {
                return Err(forbidden(
                    attributes,
                    format!("cannot set an ownerRef on a resource you can't delete: {why}"),
                ));
            }
        }
        let blocking = newly_blocking(owners(new), before);
        if blocking.is_empty() {
            return Ok(());
        }
        // Asked first, so that nobody who may do everything waits for discovery.
        let anything = AuthorizationAttributes {
            verb: "update".to_owned(),
            is_resource: true,
            group: "*".to_owned(),
            version: "*".to_owned(),
            resource: "*".to_owned(),
            subresource: "finalizers".to_owned(),
            name: "*".to_owned(),
            ..AuthorizationAttributes::default()
        };
        if self.may(attributes, &anything).await.is_ok() {
            return Ok(());
        }
        for owner in blocking {
            let question = self.finalizing(owner, namespace).map_err(|why| {
                let (version, kind) = (text(owner, "apiVersion"), text(owner, "kind"));
                let what = "cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion";
                forbidden(attributes, format!("{what} {version} Kind {kind}: {why}"))
            })?;
            if let Err(why) = self.may(attributes, &question).await {
                let what = "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on";
                return Err(forbidden(attributes, format!("{what}: {why}")));
            }
        }
        Ok(())
    }
}

fn owners(object: &Object) -> &[Value] {
    object.array(&["metadata", "ownerReferences"])
}

fn blocks(owner: &Value) -> bool {
    owner.get("blockOwnerDeletion").and_then(Value::as_bool).unwrap_or_default()
}

/// Owners that the new object keeps from going and the old one did not (`newBlockingOwnerDeletionRefs`).
fn newly_blocking<'a>(new: &'a [Value], old: &[Value]) -> Vec<&'a Value> {
    let blocked_before = |owner: &Value| {
        // Of several with one UID the last counts.
        old.iter().rev().find(|other| text(other, "uid") == text(owner, "uid")).is_some_and(blocks)
    };
    new.iter().filter(|owner| blocks(owner) && !blocked_before(owner)).collect()
}
