//! Signs approved requests of the four built-in signers with the cluster's authority
//! (`pkg/controller/certificates/signer`).

use std::sync::Arc;

use api::names::ObjectKey;
use async_trait::async_trait;
use client::{Informer, Resource};
use jiff::SignedDuration;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use pki::CertificateAuthority;
use tracing::info;

use super::{
    API_CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY, check_api_client, check_kubelet_client, check_kubelet_serving,
    has_condition, is_issued, parse, problem, queue, usages,
};
use crate::error::Error;
use crate::harness::{Context, Parts, Reconcile, all_synced, synced};

/// `--cluster-signing-duration`.
const TTL: SignedDuration = SignedDuration::from_hours(24 * 365);
/// Twice the backdating.
const TTL_MIN: SignedDuration = SignedDuration::from_mins(10);

pub(crate) fn start(context: Context) {
    let Some(authority) = context.settings.authority.clone() else { return };
    let requests = context.informers.informer::<CertificateSigningRequest>();
    let queue = queue();
    context.feed_own(&requests, &queue);
    let reconciler = Signer { requests: requests.clone(), authority, context: context.parts() };
    context.work(Arc::new(reconciler), queue, 5, all_synced(vec![synced(&requests)]));
}

struct Signer {
    requests: Informer<CertificateSigningRequest>,
    authority: Arc<CertificateAuthority>,
    context: Parts,
}

#[async_trait]
impl Reconcile for Signer {
    /// `signer.handle`.
    async fn reconcile(&self, key: &ObjectKey) -> Result<(), Error> {
        let Some(request) = self.requests.get("", &key.name) else { return Ok(()) };
        let ours = [KUBELET_SERVING, KUBELET_CLIENT, API_CLIENT, LEGACY].contains(&request.spec.signer_name.as_str());
        if !ours
            || is_issued(&request)
            || !has_condition(&request, "Approved")
            || has_condition(&request, "Denied")
            || has_condition(&request, "Failed")
        {
            return Ok(());
        }
        let (subject, pem) = parse(&request)?;
        let checked = match request.spec.signer_name.as_str() {
            KUBELET_SERVING => check_kubelet_serving(&subject, usages(&request)),
            KUBELET_CLIENT => check_kubelet_client(&subject, usages(&request)),
            API_CLIENT => check_api_client(usages(&request)),
            _ => Ok(()),
        };
        let mut changed = (*request).clone();
        let status = changed.status.get_or_insert_default();
        match checked {
            Ok(()) => {
                let clock = &*self.context.clock;
                let certificate = self
                    .authority
                    .sign_request(pem, usages(&request), ttl(request.spec.expiration_seconds), clock)
                    .map_err(|e| problem(&key.name, format!("error auto signing csr: {e}")))?;
                status.certificate = Some(ByteString(certificate.into_bytes()));
            }
            Err(message) => status.conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
                type_: "Failed".to_owned(),
                status: "True".to_owned(),
                reason: Some("SignerValidationFailure".to_owned()),
                message: Some(message),
                last_transition_time: None,
                last_update_time: Some(Time(self.context.clock.now())),
            }),
        }
        self.context.client.update_status(&changed).await?;
        info!(request = changed.name(), signer = %changed.spec.signer_name, "answered a certificate signing request");
        Ok(())
    }
}

/// How long a certificate lives (`signer.duration`).
fn ttl(asked: Option<i32>) -> SignedDuration {
    asked.map_or(TTL, |seconds| SignedDuration::from_secs(i64::from(seconds)).clamp(TTL_MIN, TTL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_lives_as_long_as_asked_within_bounds() {
        assert_eq!(ttl(None), TTL);
        assert_eq!(ttl(Some(60)), TTL_MIN);
        assert_eq!(ttl(Some(3600)), SignedDuration::from_hours(1));
        assert_eq!(ttl(Some(i32::MAX)), TTL);
    }
}
