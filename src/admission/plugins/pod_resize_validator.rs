//! `PodResizeValidator`: a running pod asks for no more than its node has (`plugin/pkg/admission/podresize`).

use api::admission::{AdmissionPlugin, Attributes, Operation};
use api::quantity::Quantity;
use api::status::Cause;
use api::{Gvr, Object, Status};
use async_trait::async_trait;
use client::k8s_openapi::api::core::v1::Node;

use crate::attributes::forbidden;
use crate::cluster::Cluster;
use crate::limits::{add, amounts, amounts_of, pod_amounts};

pub(crate) struct PodResizeValidator {
    cluster: Cluster,
}

impl PodResizeValidator {
    pub(crate) fn new(cluster: Cluster) -> Self {
        Self { cluster }
    }
}

#[async_trait]
impl AdmissionPlugin for PodResizeValidator {
    fn name(&self) -> &'static str {
        "PodResizeValidator"
    }

    fn handles(&self, operation: Operation, resource: &Gvr, subresource: &str) -> bool {
        operation == Operation::Update
            && subresource == "resize"
            && resource.group.is_empty()
            && resource.resource == "pods"
    }

    async fn validate(&self, attributes: &Attributes) -> Result<(), Status> {
        let (Some(pod), Some(old)) = (&attributes.object, &attributes.old_object) else { return Ok(()) };
        let name = pod.str(&["spec", "nodeName"]).unwrap_or_default();
        // The generation grows with the spec.
        if name.is_empty() || pod.generation() == old.generation() {
            return Ok(());
        }
        let found = self.cluster.get::<Node>("", name).await;
        let node = match found {
            Ok(Some(node)) => node,
            Ok(None) => return Err(forbidden(attributes, format!("node {name:?} not found"))),
            Err(status) => {
                return Err(forbidden(attributes, format!("failed to get node {name:?}: {}", status.message)));
            }
        };
        let system = node.metadata.labels.as_ref().and_then(|labels| labels.get("kubernetes.io/os"));
        if let Some(system) = system.filter(|system| *system != "linux") {
            let why = format!("pod resize is only supported on linux nodes, node {name:?} is {system:?}");
            return Err(with_cause(forbidden(attributes, why), "UnsupportedPlatform"));
        }
        match too_much(pod, &node) {
            None => Ok(()),
            Some(why) => Err(with_cause(forbidden(attributes, why), "NodeCapacity")),
        }
    }
}

/// `validateRequestsWithinAllocatable`.
fn too_much(pod: &Object, node: &Node) -> Option<String> {
    let allocatable = amounts_of(node.status.as_ref().and_then(|status| status.allocatable.as_ref()));
    let mut requests = pod_amounts(pod, "requests");
    add(&mut requests, &amounts(pod.get(&["spec", "overhead"])));
    let of = |name: &str, print: fn(&Quantity) -> i64| {
        let has = allocatable.get(name).cloned().unwrap_or_default();
        let wants = requests.get(name).filter(|wants| **wants > has)?;
        Some(format!("{name}, requested: {}, allocatable: {}", print(wants), print(&has)))
    };
    let over: Vec<String> =
        [of("cpu", Quantity::milli_value), of("memory", Quantity::value)].into_iter().flatten().collect();
    (!over.is_empty()).then(|| format!("node didn't have enough allocatable resources: {}", over.join("; ")))
}

fn with_cause(mut status: Status, reason: &str) -> Status {
    if let Some(details) = &mut status.details {
        details.causes.push(Cause { reason: reason.to_owned(), message: String::new(), field: String::new() });
    }
    status
}
