//! `CertificateSubjectRestriction`: nobody asks for a client certificate of the group that may do everything
//! (`plugin/pkg/admission/certificates/subjectrestriction`).

use api::admission::{AdmissionPlugin, Attributes, Operation};
use api::user::MASTERS;
use api::{Gvr, Status};
use async_trait::async_trait;

use crate::attributes::forbidden;
use crate::signers;

const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

pub(crate) struct CertificateSubjectRestriction;

#[async_trait]
impl AdmissionPlugin for CertificateSubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    fn handles(&self, operation: Operation, resource: &Gvr, subresource: &str) -> bool {
        operation == Operation::Create && subresource.is_empty() && signers::are_requests(resource)
    }

    async fn validate(&self, attributes: &Attributes) -> Result<(), Status> {
        let Some(request) = &attributes.object else { return Ok(()) };
        if request.str(&["spec", "signerName"]) != Some(CLIENT_SIGNER) {
            return Ok(());
        }
        let subject = signers::subject(request.str(&["spec", "request"]).unwrap_or_default())
            .map_err(|why| forbidden(attributes, format!("failed to parse CSR: {why}")))?;
        if subject.organizations.iter().any(|group| group == MASTERS) {
            let why = format!("use of {CLIENT_SIGNER} signer with {MASTERS} group is not allowed");
            return Err(forbidden(attributes, why));
        }
        Ok(())
    }
}
