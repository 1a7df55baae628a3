//! `NamespaceAutoProvision`: a namespace is made when something is first created in it
//! (`plugin/pkg/admission/namespace/autoprovision`). Off unless asked for.

use api::admission::{AdmissionPlugin, Attributes, Operation};
use api::{Gvr, Status};
use async_trait::async_trait;
use client::k8s_openapi::api::core::v1::Namespace;

use crate::attributes::forbidden;
use crate::cluster::Cluster;

pub(crate) struct NamespaceAutoProvision {
    cluster: Cluster,
}

impl NamespaceAutoProvision {
    pub(crate) fn new(cluster: Cluster) -> Self {
        Self { cluster }
    }
}

#[async_trait]
impl AdmissionPlugin for NamespaceAutoProvision {
    fn name(&self) -> &'static str {
        "NamespaceAutoProvision"
    }

    fn handles(&self, operation: Operation, _: &Gvr, _: &str) -> bool {
        operation == Operation::Create
    }

    async fn admit(&self, attributes: &mut Attributes) -> Result<(), Status> {
        let name = &attributes.namespace;
        let is_namespace = attributes.gvk.group.is_empty() && attributes.gvk.kind == "Namespace";
        if attributes.dry_run || name.is_empty() || is_namespace || self.cluster.known::<Namespace>("", name).is_some()
        {
            return Ok(());
        }
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some(name.clone());
        match self.cluster.create(&namespace).await {
            Err(status) if status.reason != "AlreadyExists" => Err(forbidden(attributes, status.message)),
            _ => Ok(()),
        }
    }
}
