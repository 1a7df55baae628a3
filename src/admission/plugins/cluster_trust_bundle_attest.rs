//! `ClusterTrustBundleAttest`: only who may attest for a signer writes its trust bundles
//! (`plugin/pkg/admission/certificates/ctbattest`).

use std::sync::Arc;

use api::admission::{AdmissionPlugin, Attributes, Operation};
use api::services::Authorizer;
use api::{Gvr, Object, Status};
use async_trait::async_trait;

use crate::attributes::{forbidden, is_resource};
use crate::signers;

pub(crate) struct ClusterTrustBundleAttest {
    authorizer: Arc<dyn Authorizer>,
}

impl ClusterTrustBundleAttest {
    pub(crate) fn new(authorizer: Arc<dyn Authorizer>) -> Self {
        Self { authorizer }
    }
}

#[async_trait]
impl AdmissionPlugin for ClusterTrustBundleAttest {
    fn name(&self) -> &'static str {
        "ClusterTrustBundleAttest"
    }

    fn handles(&self, operation: Operation, resource: &Gvr, subresource: &str) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
            && is_resource(resource, subresource, "certificates.k8s.io", "clustertrustbundles")
    }

    async fn validate(&self, attributes: &Attributes) -> Result<(), Status> {
        let Some(bundle) = &attributes.object else { return Ok(()) };
        // The new object's signer counts: validation refuses changes of it.
        let signer = bundle.str(&["spec", "signerName"]).unwrap_or_default();
        if signer.is_empty() {
            return Ok(());
        }
        if let (Operation::Update, Some(old)) = (attributes.operation, &attributes.old_object)
            && changes_only_who_owns_it(bundle, old)
        {
            return Ok(());
        }
        if signers::may_act(self.authorizer.as_ref(), &attributes.user, "attest", signer).await {
            return Ok(());
        }
        Err(forbidden(attributes, format!("user not permitted to attest for signerName {signer:?}")))
    }
}

/// Storage migration and garbage collection need no leave of the signer (`rbac.IsOnlyMutatingGCFields`).
fn changes_only_who_owns_it(new: &Object, old: &Object) -> bool {
    let bare = |object: &Object| {
        let mut object = object.clone();
        for member in ["ownerReferences", "finalizers", "managedFields"] {
            object.remove(&["metadata", member]);
        }
        object
    };
    bare(new) == bare(old)
}
