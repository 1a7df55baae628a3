//! `NodeUnschedulable`: cordoned nodes take no pods but those that tolerate it.

use std::sync::Arc;

use client::k8s_openapi::api::core::v1::{Node, Pod, Taint};

use super::taint_toleration::tolerates;
use crate::cache::NodeInfo;
use crate::framework::{Check, ClusterEvent, Plugin, Prepared, Rejection, World};
use crate::listers::Listers;
use crate::pod_info::PodInfo;

pub(super) struct NodeUnschedulable;

#[derive(Clone)]
struct NotCordoned;

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn prepare(&self, pod: &Arc<PodInfo>, _: World<'_>) -> Prepared {
        if tolerates_cordon(&pod.pod) { Prepared::Skip } else { Prepared::Check(Box::new(NotCordoned)) }
    }

    fn wakes(&self, pod: &Pod, event: &ClusterEvent, _: &Listers) -> bool {
        match event {
            ClusterEvent::Node(change) => {
                change.now().is_some_and(|new| !cordoned(new)) && change.old().is_none_or(|old| cordoned(old))
            }
            ClusterEvent::TargetPod { .. } => tolerates_cordon(pod),
            _ => false,
        }
    }
}

impl Check for NotCordoned {
    fn check(&self, node: &NodeInfo) -> Result<(), Rejection> {
        if node.node.as_deref().is_some_and(cordoned) {
            return Err(Rejection::unresolvable("node(s) were unschedulable"));
        }
        Ok(())
    }

    fn boxed(&self) -> Box<dyn Check> {
        Box::new(self.clone())
    }
}

fn cordoned(node: &Node) -> bool {
    node.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or_default()
}

fn tolerates_cordon(pod: &Pod) -> bool {
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    tolerates(pod, &taint)
}
