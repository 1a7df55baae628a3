//! `TaintNodesByCondition`: a new node is not ready until its conditions say so (`plugin/pkg/admission/nodetaint`).

use api::admission::{AdmissionPlugin, Attributes, Operation};
use api::{Gvr, Status};
use async_trait::async_trait;
use serde_json::json;

use crate::attributes::{is_resource, list_mut, text};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const EFFECT: &str = "NoSchedule";

pub(crate) struct TaintNodesByCondition;

#[async_trait]
impl AdmissionPlugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    fn handles(&self, operation: Operation, resource: &Gvr, subresource: &str) -> bool {
        operation == Operation::Create && is_resource(resource, subresource, "", "nodes")
    }

    async fn admit(&self, attributes: &mut Attributes) -> Result<(), Status> {
        let Some(node) = &mut attributes.object else { return Ok(()) };
        if let Some(taints) = list_mut(node, &["spec", "taints"])
            && !taints.iter().any(|t| text(t, "key") == NOT_READY && text(t, "effect") == EFFECT)
        {
            taints.push(json!({"key": NOT_READY, "effect": EFFECT}));
        }
        Ok(())
    }
}
