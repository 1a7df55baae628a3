//! Certificates that kubelets ask for on behalf of pods (`admitPodCertificateRequest`).

use api::admission::{Attributes, Operation};
use api::services::AuthorizationAttributes;
use api::{GroupResource, Object, Status};
use client::Resource;
use client::k8s_openapi::api::core::v1::{Node, Pod, ServiceAccount};

use super::NodeRestriction;
use crate::attributes::forbidden;

const MIRROR: &str = "kubernetes.io/config.mirror";

/// What may be so because a cache lags behind: the kubelet asks again.
fn inconsistent(why: String) -> Status {
    Status::new(500, "", why)
}

/// Whether a volume of the pod is for certificates of the signer.
fn names_signer(pod: &Pod, signer: &str) -> bool {
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_ref()).into_iter().flatten();
    let mut sources = volumes.filter_map(|v| v.projected.as_ref()?.sources.as_ref()).flatten();
    sources.any(|source| source.pod_certificate.as_ref().is_some_and(|c| c.signer_name == signer))
}

impl NodeRestriction {
    /// A node asks for pods that it runs, for the account that they have, of signers that they name.
    pub(super) async fn check_certificate(&self, node: &str, attributes: &Attributes) -> Result<(), Status> {
        if attributes.operation != Operation::Create {
            return Err(forbidden(attributes, format!("unexpected operation {}", attributes.operation.as_str())));
        }
        if !attributes.subresource.is_empty() {
            return Err(forbidden(attributes, format!("unexpected subresource {}", attributes.subresource)));
        }
        let Some(request) = &attributes.object else { return Ok(()) };
        let spec = |member: &str| request.str(&["spec", member]).unwrap_or_default();
        let namespace = attributes.namespace.as_str();
        let (node_name, pod_name, account) = (spec("nodeName"), spec("podName"), spec("serviceAccountName"));
        if node_name != node {
            let why =
                format!("PodCertificateRequest.Spec.NodeName={node_name:?}, which is not the requesting node {node:?}");
            return Err(forbidden(attributes, why));
        }
        let pod_id = format!("{namespace}/{pod_name}");
        let own: std::sync::Arc<Node> = self.named(attributes, "", node_name, node_name, "node", "node").await?;
        if own.uid() != spec("nodeUID") {
            return Err(inconsistent(format!(
                "PodCertificateRequest for pod {pod_id:?} names node UID {:?}, inconsistent with the running node ({:?})",
                spec("nodeUID"),
                own.uid()
            )));
        }
        let pod: std::sync::Arc<Pod> = self.named(attributes, namespace, pod_name, &pod_id, "pod", "pod").await?;
        if pod.uid() != spec("podUID") {
            return Err(inconsistent(format!(
                "PodCertificateRequest for pod {pod_id:?} contains pod UID ({:?}) which differs from running pod {:?}",
                spec("podUID"),
                pod.uid()
            )));
        }
        if pod.node_name() != Some(node_name) {
            let why = format!("pod {pod_id:?} is not running on node {node_name:?} named in the PodCertificateRequest");
            return Err(forbidden(attributes, why));
        }
        if pod.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(MIRROR)) {
            return Err(forbidden(attributes, format!("pod {pod_id:?} is a mirror pod")));
        }
        let own_account = pod.spec.as_ref().and_then(|s| s.service_account_name.as_deref()).unwrap_or_default();
        if account != own_account {
            let why = format!(
                "PodCertificateRequest for pod {pod_id:?} contains serviceAccountName ({account:?}) that differs from \
                 running pod ({own_account:?})"
            );
            return Err(forbidden(attributes, why));
        }
        let id = format!("{namespace}/{account}");
        let found: std::sync::Arc<ServiceAccount> =
            self.named(attributes, namespace, account, &id, "service account", "serviceaccount").await?;
        if found.uid() != spec("serviceAccountUID") {
            return Err(inconsistent(format!(
                "PodCertificateRequest for pod {pod_id:?} names service account UID {:?}, which differs from the \
                 running service account ({:?})",
                spec("serviceAccountUID"),
                found.uid()
            )));
        }
        self.check_signer(&pod, request, attributes).await
    }

    /// The pod names the signer in a volume, or the node may ask for it nevertheless (`validateNodePodCertificateSigner`).
    async fn check_signer(&self, pod: &Pod, request: &Object, attributes: &Attributes) -> Result<(), Status> {
        let signer = request.str(&["spec", "signerName"]).unwrap_or_default();
        if names_signer(pod, signer) {
            return Ok(());
        }
        // Slashes cannot be in the names of resources: they are written as in the names of trust bundles.
        let question = AuthorizationAttributes {
            verb: "request-serviceaccounts-podcertificate-signer".to_owned(),
            is_resource: true,
            group: attributes.resource.group.clone(),
            version: attributes.resource.version.clone(),
            resource: signer.replace('/', ":"),
            namespace: attributes.namespace.clone(),
            name: request.str(&["spec", "serviceAccountName"]).unwrap_or_default().to_owned(),
            ..AuthorizationAttributes::default()
        };
        let (decision, error) = self.authorizer.authorize_or_fail(&attributes.user, &question).await;
        if decision.allowed() {
            return Ok(());
        }
        let why = match error {
            Some(error) => format!(
                "error authorizing {} to request podcertificaterequests for signer {signer:?}: {error}",
                attributes.user.name
            ),
            None => {
                let pod = format!("{}/{}", attributes.namespace, request.str(&["spec", "podName"]).unwrap_or_default());
                format!("pod {pod:?} does not mount a podCertificate projected volume for signer {signer:?}")
            }
        };
        Err(forbidden(attributes, why))
    }

    /// An object that the request names; `shown` and `what` are as texts call it, `resource` as listers do.
    async fn named<K: Resource>(
        &self,
        attributes: &Attributes,
        namespace: &str,
        name: &str,
        shown: &str,
        what: &str,
        resource: &str,
    ) -> Result<std::sync::Arc<K>, Status> {
        let place = format!("while retrieving {what} {shown:?} named in the PodCertificateRequest");
        let found = if name.is_empty() { Ok(None) } else { self.cluster.live::<K>(namespace, name).await };
        match found {
            Ok(Some(found)) => Ok(found),
            Ok(None) => {
                let missing = Status::not_found(&GroupResource::new("", resource), name);
                Err(inconsistent(format!("{place}: {}", missing.message)))
            }
            Err(status) => Err(forbidden(attributes, format!("{place}: {}", status.message))),
        }
    }
}
