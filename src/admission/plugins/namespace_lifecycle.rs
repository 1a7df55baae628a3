//! `NamespaceLifecycle`: nothing is created in a namespace that is missing or going away, and the system's own
//! namespaces stay (apiserver `admission/plugin/namespace/lifecycle`).

use std::time::Duration;

use api::admission::{AdmissionPlugin, Attributes, Operation};
use api::status::Cause;
use api::{GroupResource, Gvr, Status};
use async_trait::async_trait;
use client::Resource;
use client::k8s_openapi::api::core::v1::Namespace;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::attributes::forbidden;
use crate::cluster::Cluster;

/// For so long after a deletion was asked for, the informer's word that a namespace is active does not count.
const FORCE_LIVE: Duration = Duration::from_secs(30);
const FORCE_LIVE_MAX: usize = 100;
const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];

pub(crate) struct NamespaceLifecycle {
    cluster: Cluster,
    /// Namespaces whose deletion was asked for, and until when they are looked up live. At most `FORCE_LIVE_MAX`;
    /// the oldest go first.
    deleted: Mutex<Vec<(String, Instant)>>,
}

impl NamespaceLifecycle {
    pub(crate) fn new(cluster: Cluster) -> Self {
        Self { cluster, deleted: Mutex::new(Vec::new()) }
    }

    fn remember_deletion(&self, name: &str) {
        let mut deleted = self.deleted.lock();
        let now = Instant::now();
        deleted.retain(|(other, until)| *until > now && other != name);
        if deleted.len() >= FORCE_LIVE_MAX {
            deleted.remove(0);
        }
        deleted.push((name.to_owned(), now + FORCE_LIVE));
    }

    fn must_look_live(&self, name: &str) -> bool {
        let deleted = self.deleted.lock();
        deleted.iter().any(|(other, until)| other == name && *until > Instant::now())
    }

    async fn namespace_is_terminating(&self, name: &str) -> Result<bool, Status> {
        // The phase follows the timestamp, if not in the same write.
        let terminating = |namespace: &Namespace| {
            namespace.is_deleting() || namespace.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Terminating")
        };
        match self.cluster.known::<Namespace>("", name) {
            Some(namespace) if terminating(&namespace) || !self.must_look_live(name) => Ok(terminating(&namespace)),
            // Not seen yet, or perhaps outdated. The server's own answer is the newest there is, so there is no need to
            // wait a moment for the informer first.
            _ => match self.cluster.live::<Namespace>("", name).await? {
                Some(namespace) => Ok(terminating(&namespace)),
                None => Err(Status::not_found(&GroupResource::new("", "namespaces"), name)),
            },
        }
    }
}

#[async_trait]
impl AdmissionPlugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    fn handles(&self, operation: Operation, resource: &Gvr, _subresource: &str) -> bool {
        let is_namespace = resource.group.is_empty() && resource.resource == "namespaces";
        match operation {
            Operation::Create => !is_namespace,
            Operation::Delete => is_namespace,
            Operation::Update | Operation::Connect => false,
        }
    }

    async fn admit(&self, attributes: &mut Attributes) -> Result<(), Status> {
        if attributes.operation == Operation::Delete {
            if IMMORTAL.contains(&attributes.name.as_str()) {
                let resource = attributes.resource.group_resource();
                return Err(Status::forbidden(&resource, &attributes.name, "this namespace may not be deleted"));
            }
            self.remember_deletion(&attributes.name);
            return Ok(());
        }
        // Whether a namespace exists is not told to those who only ask about rights in it.
        let is_review = attributes.resource.group == "authorization.k8s.io"
            && attributes.resource.resource == "localsubjectaccessreviews";
        if attributes.namespace.is_empty() || is_review {
            return Ok(());
        }
        let namespace = &attributes.namespace;
        if !self.namespace_is_terminating(namespace).await? {
            return Ok(());
        }
        let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
        let mut status = forbidden(attributes, why);
        if let Some(details) = &mut status.details {
            details.causes.push(Cause {
                reason: "NamespaceTerminating".to_owned(),
                message: format!("namespace {namespace} is being terminated"),
                field: "metadata.namespace".to_owned(),
            });
        }
        Err(status)
    }
}
