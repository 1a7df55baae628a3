//! `LimitPodHardAntiAffinityTopology`: pods may keep others off a node, but off nothing larger
//! (`plugin/pkg/admission/antiaffinity`). Off unless asked for.

use api::admission::{AdmissionPlugin, Attributes, Operation};
use api::{Gvr, Status};
use async_trait::async_trait;

use crate::attributes::{is_resource, text};

const HOST_NAME: &str = "kubernetes.io/hostname";
const TERMS: &[&str] = &["spec", "affinity", "podAntiAffinity", "requiredDuringSchedulingIgnoredDuringExecution"];

pub(crate) struct LimitPodHardAntiAffinityTopology;

#[async_trait]
impl AdmissionPlugin for LimitPodHardAntiAffinityTopology {
    fn name(&self) -> &'static str {
        "LimitPodHardAntiAffinityTopology"
    }

    fn handles(&self, operation: Operation, resource: &Gvr, subresource: &str) -> bool {
        matches!(operation, Operation::Create | Operation::Update) && is_resource(resource, subresource, "", "pods")
    }

    async fn validate(&self, attributes: &Attributes) -> Result<(), Status> {
        let Some(pod) = &attributes.object else { return Ok(()) };
        let keys = pod.array(TERMS).iter().map(|term| text(term, "topologyKey"));
        match keys.into_iter().find(|key| *key != HOST_NAME) {
            None => Ok(()),
            Some(key) => {
                let why = format!(
                    "affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey {key} but only key {HOST_NAME} is \
                     allowed"
                );
                Err(Status::forbidden(&attributes.resource.group_resource(), pod.name(), why))
            }
        }
    }
}
