//! `PodTopologyLabels`: a pod carries the zone and region of the node that it is bound to
//! (`plugin/pkg/admission/podtopologylabels`).

use api::admission::{AdmissionPlugin, Attributes, Operation};
use api::{Gvr, Status};
use async_trait::async_trait;
use client::Resource;
use client::k8s_openapi::api::core::v1::Node;

use crate::cluster::Cluster;

const LABELS: &[&str] = &["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

pub(crate) struct PodTopologyLabels {
    cluster: Cluster,
}

impl PodTopologyLabels {
    pub(crate) fn new(cluster: Cluster) -> Self {
        Self { cluster }
    }
}

#[async_trait]
impl AdmissionPlugin for PodTopologyLabels {
    fn name(&self) -> &'static str {
        "PodTopologyLabels"
    }

    fn handles(&self, operation: Operation, resource: &Gvr, subresource: &str) -> bool {
        let is_pod = resource.group.is_empty() && resource.resource == "pods";
        operation == Operation::Create && is_pod && matches!(subresource, "" | "binding")
    }

    /// Labels of a binding become labels of the pod that it binds.
    async fn admit(&self, attributes: &mut Attributes) -> Result<(), Status> {
        let Some(object) = &mut attributes.object else { return Ok(()) };
        let node = match attributes.subresource.as_str() {
            "" => object.str(&["spec", "nodeName"]),
            _ => object.str(&["target", "name"]).filter(|_| object.str(&["target", "kind"]) == Some("Node")),
        };
        let Some(node) = node.filter(|name| !name.is_empty()) else { return Ok(()) };
        let Some(node) = self.cluster.get::<Node>("", node).await? else { return Ok(()) };
        for label in LABELS {
            if let Some(value) = node.label(label) {
                object.set(&["metadata", "labels", label], value);
            }
        }
        Ok(())
    }
}
