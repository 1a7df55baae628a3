//! `DefaultStorageClass`: claims without a class get the default one (`plugin/pkg/admission/storage/storageclass`).

use std::cmp::Reverse;

use api::admission::{AdmissionPlugin, Attributes, Operation};
use api::{Gvr, Status};
use async_trait::async_trait;
use client::Resource;
use client::k8s_openapi::api::storage::v1::StorageClass;

use crate::attributes::{forbidden, is_resource};
use crate::cluster::Cluster;

/// Says the class of a claim in place of `spec.storageClassName`, as claims once did.
pub(crate) const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const DEFAULT_MARKS: &[&str] =
    &["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

pub(crate) struct DefaultStorageClass {
    cluster: Cluster,
}

impl DefaultStorageClass {
    pub(crate) fn new(cluster: Cluster) -> Self {
        Self { cluster }
    }
}

#[async_trait]
impl AdmissionPlugin for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    fn handles(&self, operation: Operation, resource: &Gvr, subresource: &str) -> bool {
        operation == Operation::Create && is_resource(resource, subresource, "", "persistentvolumeclaims")
    }

    async fn admit(&self, attributes: &mut Attributes) -> Result<(), Status> {
        let has_class = attributes.object.as_ref().is_none_or(|claim| {
            claim.annotation(BETA_CLASS).is_some() || claim.str(&["spec", "storageClassName"]).is_some()
        });
        if has_class {
            return Ok(());
        }
        let classes = self.cluster.list::<StorageClass>().await.map_err(|s| forbidden(attributes, s))?;
        let defaults = classes.iter().filter(|c| DEFAULT_MARKS.iter().any(|mark| c.annotation(mark) == Some("true")));
        // The newest, and among those of one age the first by name.
        let newest = defaults.min_by_key(|c| {
            let created = c.metadata.creation_timestamp.as_ref().map(|t| t.0);
            (Reverse(created), c.name().to_owned())
        });
        if let (Some(claim), Some(class)) = (&mut attributes.object, newest) {
            claim.set(&["spec", "storageClassName"], class.name());
        }
        Ok(())
    }
}
