//! The contract of scheduler plugins (upstream `pkg/scheduler/framework`).

use std::sync::Arc;

use client::k8s_openapi::api::core::v1::Pod;

use crate::cache::NodeInfo;

/// The best score that a plugin gives.
pub const MAX_SCORE: i64 = 100;

/// Why a node does not do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// As `FailedScheduling` counts them, e.g. `Insufficient cpu`.
    pub reasons: Vec<String>,
    /// Evicting other pods would not help.
    pub unresolvable: bool,
}

impl Rejection {
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reasons: vec![reason.into()], unresolvable: false }
    }

    pub fn unresolvable(reason: impl Into<String>) -> Self {
        Self { reasons: vec![reason.into()], unresolvable: true }
    }
}

/// What may make a rejected pod fit after all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClusterEvent {
    NodeAdded,
    NodeChanged,
    PodRemoved,
    /// A pod was bound, or its labels changed.
    PodPlaced,
}

/// All nodes, for plugins that look beyond one.
pub type Snapshot = [Arc<NodeInfo>];

/// One plugin. Phases that a plugin has nothing to say in keep their defaults. Plugins hold no state between pods.
pub trait Plugin: Send + Sync {
    /// Upstream's plugin name.
    fn name(&self) -> &'static str;

    /// Whether the pod can run on the node.
    fn filter(&self, _pod: &Pod, _node: &NodeInfo, _snapshot: &Snapshot) -> Result<(), Rejection> {
        Ok(())
    }

    /// How good the node is, from 0 to [`MAX_SCORE`] after [`Plugin::normalize`].
    fn score(&self, _pod: &Pod, _node: &NodeInfo, _snapshot: &Snapshot) -> i64 {
        0
    }

    /// Brings raw scores into 0 to [`MAX_SCORE`].
    fn normalize(&self, _scores: &mut [i64]) {}

    /// Weight of the score; 0 for plugins that only filter.
    fn weight(&self) -> i64 {
        0
    }

    /// Whether a pod that this plugin rejected is worth another try after `event`.
    fn wakes_on(&self, event: ClusterEvent) -> bool;
}

/// Scales so that the largest becomes [`MAX_SCORE`]; with `reverse`, the largest becomes 0
/// (upstream `helper.DefaultNormalizeScore`).
pub fn scale(scores: &mut [i64], reverse: bool) {
    let largest = scores.iter().copied().max().unwrap_or_default();
    for score in scores {
        let scaled = if largest == 0 { 0 } else { *score * MAX_SCORE / largest };
        *score = if reverse { MAX_SCORE - scaled } else { scaled };
    }
}
