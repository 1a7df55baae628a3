//! `NodeName`: `spec.nodeName` set by the pod's author names the only node.

use std::sync::Arc;

use client::Resource;
use client::k8s_openapi::api::core::v1::Pod;

use crate::cache::NodeInfo;
use crate::framework::{Change, Check, ClusterEvent, Plugin, Prepared, Rejection, World};
use crate::listers::Listers;
use crate::pod_info::{PodInfo, assigned_node};

pub(super) struct NodeName;

#[derive(Clone)]
struct Named(String);

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn prepare(&self, pod: &Arc<PodInfo>, _: World<'_>) -> Prepared {
        match assigned_node(&pod.pod) {
            Some(name) => Prepared::Check(Box::new(Named(name.to_owned()))),
            None => Prepared::Skip,
        }
    }

    fn wakes(&self, pod: &Pod, event: &ClusterEvent, _: &Listers) -> bool {
        matches!(event, ClusterEvent::Node(Change::Added(node)) if assigned_node(pod) == Some(node.name()))
    }
}

impl Check for Named {
    fn check(&self, node: &NodeInfo) -> Result<(), Rejection> {
        if self.0 == node.name() {
            Ok(())
        } else {
            Err(Rejection::unresolvable("node(s) didn't match the requested node name"))
        }
    }

    fn boxed(&self) -> Box<dyn Check> {
        Box::new(self.clone())
    }
}
