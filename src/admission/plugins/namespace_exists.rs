//! `NamespaceExists`: nothing happens in a namespace that is not there (`plugin/pkg/admission/namespace/exists`). Off
//! unless asked for, as `NamespaceLifecycle` sees to creations.

use api::admission::{AdmissionPlugin, Attributes, Operation};
use api::{GroupResource, Gvr, Status};
use async_trait::async_trait;
use client::k8s_openapi::api::core::v1::Namespace;

use crate::cluster::Cluster;

pub(crate) struct NamespaceExists {
    cluster: Cluster,
}

impl NamespaceExists {
    pub(crate) fn new(cluster: Cluster) -> Self {
        Self { cluster }
    }
}

#[async_trait]
impl AdmissionPlugin for NamespaceExists {
    fn name(&self) -> &'static str {
        "NamespaceExists"
    }

    fn handles(&self, operation: Operation, _: &Gvr, _: &str) -> bool {
        operation != Operation::Connect
    }

    async fn validate(&self, attributes: &Attributes) -> Result<(), Status> {
        let name = &attributes.namespace;
        if name.is_empty() || (attributes.gvk.group.is_empty() && attributes.gvk.kind == "Namespace") {
            return Ok(());
        }
        match self.cluster.get::<Namespace>("", name).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(Status::not_found(&GroupResource::new("", "namespaces"), name)),
            Err(status) => Err(Status::internal(status.message)),
        }
    }
}
