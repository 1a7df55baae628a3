//! `DefaultTolerationSeconds`: pods stay a while (five minutes) on a node that is not ready or unreachable
//! (`plugin/pkg/admission/defaulttolerationseconds`).

use api::admission::{AdmissionPlugin, Attributes, Operation};
use api::{Gvr, Status};
use async_trait::async_trait;
use serde_json::json;

use crate::attributes::{is_resource, list_mut, text};

pub(crate) struct DefaultTolerationSeconds {
    not_ready: i64,
    unreachable: i64,
}

impl DefaultTolerationSeconds {
    /// With the seconds on a node that is not ready, and on one that nobody reaches.
    pub(crate) fn new((not_ready, unreachable): (i64, i64)) -> Self {
        Self { not_ready, unreachable }
    }
}

#[async_trait]
impl AdmissionPlugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn handles(&self, operation: Operation, resource: &Gvr, subresource: &str) -> bool {
        matches!(operation, Operation::Create | Operation::Update) && is_resource(resource, subresource, "", "pods")
    }

    async fn admit(&self, attributes: &mut Attributes) -> Result<(), Status> {
        let Some(pod) = &mut attributes.object else { return Ok(()) };
        let taints =
            [("node.kubernetes.io/not-ready", self.not_ready), ("node.kubernetes.io/unreachable", self.unreachable)];
        for (taint, seconds) in taints {
            let tolerated = pod.array(&["spec", "tolerations"]).iter().any(|t| {
                matches!(text(t, "effect"), "" | "NoExecute") && (text(t, "key") == taint || text(t, "key").is_empty())
            });
            if !tolerated && let Some(tolerations) = list_mut(pod, &["spec", "tolerations"]) {
                tolerations.push(json!({
                    "key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds,
                }));
            }
        }
        Ok(())
    }
}
