//! `DenyServiceExternalIPs`: Services get no new external addresses (`plugin/pkg/admission/network/denyserviceexternalips`).
//! Off unless asked for.

use api::admission::{AdmissionPlugin, Attributes, Operation};
use api::{Gvr, Status};
use async_trait::async_trait;

use crate::attributes::{forbidden, is_resource};

pub(crate) struct DenyServiceExternalIps;

#[async_trait]
impl AdmissionPlugin for DenyServiceExternalIps {
    fn name(&self) -> &'static str {
        "DenyServiceExternalIPs"
    }

    fn handles(&self, operation: Operation, resource: &Gvr, subresource: &str) -> bool {
        matches!(operation, Operation::Create | Operation::Update) && is_resource(resource, subresource, "", "services")
    }

    async fn validate(&self, attributes: &Attributes) -> Result<(), Status> {
        let Some(service) = &attributes.object else { return Ok(()) };
        let before = attributes.old_object.as_ref().map_or(&[][..], |old| old.array(&["spec", "externalIPs"]));
        if service.array(&["spec", "externalIPs"]).iter().all(|address| before.contains(address)) {
            return Ok(());
        }
        Err(forbidden(attributes, "Use of external IPs is denied by admission control"))
    }
}
