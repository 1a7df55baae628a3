//! `CertificateSigning`: only who may sign for a signer puts certificates into its requests
//! (`plugin/pkg/admission/certificates/signing`).

use std::sync::Arc;

use api::admission::{AdmissionPlugin, Attributes, Operation};
use api::services::Authorizer;
use api::{Gvr, Status};
use async_trait::async_trait;

use crate::attributes::forbidden;
use crate::signers;

pub(crate) struct CertificateSigning {
    authorizer: Arc<dyn Authorizer>,
}

impl CertificateSigning {
    pub(crate) fn new(authorizer: Arc<dyn Authorizer>) -> Self {
        Self { authorizer }
    }
}

#[async_trait]
impl AdmissionPlugin for CertificateSigning {
    fn name(&self) -> &'static str {
        "CertificateSigning"
    }

    fn handles(&self, operation: Operation, resource: &Gvr, subresource: &str) -> bool {
        operation == Operation::Update && subresource == "status" && signers::are_requests(resource)
    }

    async fn validate(&self, attributes: &Attributes) -> Result<(), Status> {
        let (Some(new), Some(old)) = (&attributes.object, &attributes.old_object) else { return Ok(()) };
        let same = |name: &str| api::validation::same(new.get(&["status", name]), old.get(&["status", name]));
        if same("certificate") && same("conditions") {
            return Ok(());
        }
        let signer = old.str(&["spec", "signerName"]).unwrap_or_default();
        if signers::may_act(self.authorizer.as_ref(), &attributes.user, "sign", signer).await {
            return Ok(());
        }
        Err(forbidden(attributes, format!("user not permitted to sign requests with signerName {signer:?}")))
    }
}
