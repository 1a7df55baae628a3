//! `NodePorts`: two pods of a node cannot have the same host port on the same address.

use std::sync::Arc;

use client::k8s_openapi::api::core::v1::Pod;

use crate::cache::NodeInfo;
use crate::framework::{Change, Check, ClusterEvent, Plugin, Prepared, Rejection, World};
use crate::listers::Listers;
use crate::pod_info::PodInfo;

pub(super) struct NodePorts;

#[derive(Clone)]
struct Wanted(Arc<PodInfo>);

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn prepare(&self, pod: &Arc<PodInfo>, _: World<'_>) -> Prepared {
        if pod.ports.is_empty() { Prepared::Skip } else { Prepared::Check(Box::new(Wanted(pod.clone()))) }
    }

    fn wakes(&self, pod: &Pod, event: &ClusterEvent, _: &Listers) -> bool {
        match event {
            ClusterEvent::AssignedPod(Change::Deleted(gone)) => {
                let (waiting, gone) = (PodInfo::new(Arc::new(pod.clone())), PodInfo::new(gone.clone()));
                conflict(&waiting, &gone)
            }
            ClusterEvent::Node(Change::Added(_)) => true,
            _ => false,
        }
    }
}

impl Check for Wanted {
    fn check(&self, node: &NodeInfo) -> Result<(), Rejection> {
        if node.pods.iter().any(|other| conflict(&self.0, other)) {
            return Err(Rejection::new("node(s) didn't have free ports for the requested pod ports"));
        }
        Ok(())
    }

    fn boxed(&self) -> Box<dyn Check> {
        Box::new(self.clone())
    }
}

fn conflict(a: &PodInfo, b: &PodInfo) -> bool {
    b.ports.iter().any(|held| a.ports.iter().any(|wanted| wanted.conflicts(held)))
}
