//! `CertificateApproval`: only who may approve for a signer approves its requests
//! (`plugin/pkg/admission/certificates/approval`).

use std::sync::Arc;

use api::admission::{AdmissionPlugin, Attributes, Operation};
use api::services::Authorizer;
use api::{Gvr, Status};
use async_trait::async_trait;

use crate::attributes::forbidden;
use crate::signers;

pub(crate) struct CertificateApproval {
    authorizer: Arc<dyn Authorizer>,
}

impl CertificateApproval {
    pub(crate) fn new(authorizer: Arc<dyn Authorizer>) -> Self {
        Self { authorizer }
    }
}

#[async_trait]
impl AdmissionPlugin for CertificateApproval {
    fn name(&self) -> &'static str {
        "CertificateApproval"
    }

    fn handles(&self, operation: Operation, resource: &Gvr, subresource: &str) -> bool {
        operation == Operation::Update && subresource == "approval" && signers::are_requests(resource)
    }

    async fn validate(&self, attributes: &Attributes) -> Result<(), Status> {
        // The old object's signer counts: the new one is what the user says.
        let signer = attributes.old_object.as_ref().and_then(|o| o.str(&["spec", "signerName"])).unwrap_or_default();
        if signers::may_act(self.authorizer.as_ref(), &attributes.user, "approve", signer).await {
            return Ok(());
        }
        Err(forbidden(attributes, format!("user not permitted to approve requests with signerName {signer:?}")))
    }
}
