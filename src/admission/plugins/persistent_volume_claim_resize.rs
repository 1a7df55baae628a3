//! `PersistentVolumeClaimResize`: only bound claims of a class that allows it may grow
//! (`plugin/pkg/admission/storage/persistentvolume/resize`).

use api::admission::{AdmissionPlugin, Attributes, Operation};
use api::{Gvr, Object, Status};
use async_trait::async_trait;
use client::k8s_openapi::api::storage::v1::StorageClass;

use crate::attributes::{forbidden, is_resource};
use crate::cluster::Cluster;
use crate::limits::amounts;
use crate::plugins::BETA_CLASS;

pub(crate) struct PersistentVolumeClaimResize {
    cluster: Cluster,
}

impl PersistentVolumeClaimResize {
    pub(crate) fn new(cluster: Cluster) -> Self {
        Self { cluster }
    }

    async fn class_allows(&self, claim: &Object, old: &Object) -> Result<bool, Status> {
        let class = class_of(claim);
        if class.is_empty() || class != class_of(old) {
            return Ok(false);
        }
        let class = self.cluster.get::<StorageClass>("", class).await?;
        Ok(class.and_then(|c| c.allow_volume_expansion).unwrap_or_default())
    }
}

fn class_of(claim: &Object) -> &str {
    claim.annotation(BETA_CLASS).or_else(|| claim.str(&["spec", "storageClassName"])).unwrap_or_default()
}

#[async_trait]
impl AdmissionPlugin for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    fn handles(&self, operation: Operation, resource: &Gvr, subresource: &str) -> bool {
        operation == Operation::Update && is_resource(resource, subresource, "", "persistentvolumeclaims")
    }

    async fn validate(&self, attributes: &Attributes) -> Result<(), Status> {
        let (Some(claim), Some(old)) = (&attributes.object, &attributes.old_object) else { return Ok(()) };
        let size = |claim: &Object| {
            amounts(claim.get(&["spec", "resources", "requests"])).remove("storage").unwrap_or_default()
        };
        if size(claim) <= size(old) {
            return Ok(());
        }
        if old.str(&["status", "phase"]) != Some("Bound") {
            return Err(forbidden(attributes, "Only bound persistent volume claims can be expanded"));
        }
        if !self.class_allows(claim, old).await? {
            return Err(forbidden(
                attributes,
                "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must \
                 support resize",
            ));
        }
        Ok(())
    }
}
