//! `AlwaysDeny`: says no to everything (`plugin/pkg/admission/deny`). Off unless asked for, and deprecated.

use api::admission::{AdmissionPlugin, Attributes, Operation};
use api::{Gvr, Status};
use async_trait::async_trait;

use crate::attributes::forbidden;

const WHY: &str = "admission control is denying all modifications";

pub(crate) struct AlwaysDeny;

#[async_trait]
impl AdmissionPlugin for AlwaysDeny {
    fn name(&self) -> &'static str {
        "AlwaysDeny"
    }

    fn handles(&self, _: Operation, _: &Gvr, _: &str) -> bool {
        true
    }

    async fn admit(&self, attributes: &mut Attributes) -> Result<(), Status> {
        Err(forbidden(attributes, WHY))
    }

    async fn validate(&self, attributes: &Attributes) -> Result<(), Status> {
        Err(forbidden(attributes, WHY))
    }
}
