//! Approves kubelets' requests for client certificates, if they may create them
//! (`pkg/controller/certificates/approver`).

use std::sync::Arc;

use api::names::ObjectKey;
use async_trait::async_trait;
use client::client::resource_path;
use client::{Informer, Resource};
use http::Method;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use serde_json::{Value, json};

use super::{KUBELET_CLIENT, check_kubelet_client, has_condition, is_issued, parse, queue, usages};
use crate::error::Error;
use crate::harness::{Context, Parts, Reconcile, all_synced, synced};

pub(crate) fn start(context: Context) {
    let requests = context.informers.informer::<CertificateSigningRequest>();
    let queue = queue();
    context.feed_own(&requests, &queue);
    let reconciler = Approver { requests: requests.clone(), context: context.parts() };
    context.work(Arc::new(reconciler), queue, 5, all_synced(vec![synced(&requests)]));
}

struct Approver {
    requests: Informer<CertificateSigningRequest>,
    context: Parts,
}

#[async_trait]
impl Reconcile for Approver {
    /// `sarApprover.handle`.
    async fn reconcile(&self, key: &ObjectKey) -> Result<(), Error> {
        let Some(request) = self.requests.get("", &key.name) else { return Ok(()) };
        if request.spec.signer_name != KUBELET_CLIENT
            || is_issued(&request)
            || has_condition(&request, "Approved")
            || has_condition(&request, "Denied")
        {
            return Ok(());
        }
        let (subject, _) = parse(&request)?;
        if check_kubelet_client(&subject, usages(&request)).is_err() {
            return Ok(());
        }
        let of_itself = request.spec.username.as_deref() == Some(subject.common_name.as_str());
        let own = ("selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview.");
        let any = ("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview.");
        for (permission, message) in of_itself.then_some(own).into_iter().chain([any]) {
            if self.may(&request, permission).await? {
                return self.approve((*request).clone(), message).await;
            }
        }
        // The permission may come later; upstream tries again, ever more seldom.
        Err(Error::NotYet("a permission to ask for node certificates"))
    }
}

impl Approver {
    async fn may(&self, request: &CertificateSigningRequest, permission: &str) -> Result<bool, Error> {
        let spec = &request.spec;
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": spec.username, "uid": spec.uid, "groups": spec.groups, "extra": spec.extra,
                "resourceAttributes": {
                    "group": "certificates.k8s.io", "resource": "certificatesigningrequests", "verb": "create",
                    "subresource": permission, "version": "*",
                },
            },
        });
        let path = resource_path("authorization.k8s.io", "v1", "subjectaccessreviews", "", "", "");
        let body = serde_json::to_vec(&review)?;
        let answer = self.context.client.raw(Method::POST, &path, "application/json", body).await?;
        let answer: Value = serde_json::from_slice(&answer)?;
        Ok(answer["status"]["allowed"].as_bool() == Some(true))
    }

    async fn approve(&self, mut request: CertificateSigningRequest, message: &str) -> Result<(), Error> {
        let conditions = request.status.get_or_insert_default().conditions.get_or_insert_default();
        conditions.push(CertificateSigningRequestCondition {
            type_: "Approved".to_owned(),
            status: "True".to_owned(),
            reason: Some("AutoApproved".to_owned()),
            message: Some(message.to_owned()),
            last_transition_time: None,
            last_update_time: None,
        });
        let path =
            resource_path("certificates.k8s.io", "v1", "certificatesigningrequests", "", request.name(), "approval");
        self.context.client.raw(Method::PUT, &path, "application/json", request.encode()?).await?;
        Ok(())
    }
}
