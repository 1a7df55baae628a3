//! `StorageObjectInUseProtection`: volumes, claims and attribute classes are kept while somebody uses them
//! (`plugin/pkg/admission/storage/storageobjectinuseprotection`).

use api::admission::{AdmissionPlugin, Attributes, Operation};
use api::{Gvr, Status};
use async_trait::async_trait;

use crate::attributes::list_mut;

pub(crate) struct StorageObjectInUseProtection;

fn finalizer(resource: &Gvr) -> Option<&'static str> {
    match (resource.group.as_str(), resource.resource.as_str()) {
        ("", "persistentvolumes") => Some("kubernetes.io/pv-protection"),
        ("", "persistentvolumeclaims") => Some("kubernetes.io/pvc-protection"),
        ("storage.k8s.io", "volumeattributesclasses") => Some("kubernetes.io/vac-protection"),
        _ => None,
    }
}

#[async_trait]
impl AdmissionPlugin for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    fn handles(&self, operation: Operation, resource: &Gvr, subresource: &str) -> bool {
        operation == Operation::Create && subresource.is_empty() && finalizer(resource).is_some()
    }

    async fn admit(&self, attributes: &mut Attributes) -> Result<(), Status> {
        let Some(finalizer) = finalizer(&attributes.resource) else { return Ok(()) };
        if let Some(object) = &mut attributes.object
            && let Some(finalizers) = list_mut(object, &["metadata", "finalizers"])
            && !finalizers.iter().any(|f| f == finalizer)
        {
            finalizers.push(finalizer.into());
        }
        Ok(())
    }
}
