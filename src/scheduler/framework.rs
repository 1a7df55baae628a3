//! The contract of scheduler plugins (upstream `pkg/scheduler/framework`).
//!
//! A plugin looks at a pod once ([`Plugin::prepare`], upstream's `PreFilter`) and leaves behind a [`Check`] that is then
//! asked about each node. Scores work the same way ([`Plugin::scorer`], upstream's `PreScore`). Plugins themselves hold
//! no state between pods.

use std::collections::BTreeSet;
use std::sync::Arc;

use client::k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use client::k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment};

use crate::cache::{NodeInfo, Snapshot};
use crate::listers::Listers;
use crate::pod_info::PodInfo;

/// The best score that a plugin gives.
pub const MAX_SCORE: i64 = 100;

/// How final a rejection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// Evicting other pods may help.
    Unschedulable,
    /// Evicting other pods would not help.
    Unresolvable,
    /// The question could not be answered: the whole attempt fails and is repeated.
    Error,
}

/// Why a node does not do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// As `FailedScheduling` counts them, e.g. `Insufficient cpu`.
    pub reasons: Vec<String>,
    pub code: Code,
}

impl Rejection {
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reasons: vec![reason.into()], code: Code::Unschedulable }
    }

    pub fn unresolvable(reason: impl Into<String>) -> Self {
        Self { reasons: vec![reason.into()], code: Code::Unresolvable }
    }

    pub fn error(reason: impl Into<String>) -> Self {
        Self { reasons: vec![reason.into()], code: Code::Error }
    }
}

/// What happened to an object.
#[derive(Debug)]
pub enum Change<K> {
    Added(Arc<K>),
    Updated { old: Arc<K>, new: Arc<K> },
    Deleted(Arc<K>),
}

impl<K> Clone for Change<K> {
    fn clone(&self) -> Self {
        match self {
            Self::Added(object) => Self::Added(object.clone()),
            Self::Updated { old, new } => Self::Updated { old: old.clone(), new: new.clone() },
            Self::Deleted(object) => Self::Deleted(object.clone()),
        }
    }
}

impl<K> Change<K> {
    /// As it was before; `None` if it was not there.
    pub fn old(&self) -> Option<&Arc<K>> {
        match self {
            Self::Added(_) => None,
            Self::Updated { old, .. } | Self::Deleted(old) => Some(old),
        }
    }

    /// As it is now; `None` if it is gone.
    pub fn now(&self) -> Option<&Arc<K>> {
        match self {
            Self::Added(new) | Self::Updated { new, .. } => Some(new),
            Self::Deleted(_) => None,
        }
    }
}

/// What may make a rejected pod fit after all.
#[derive(Debug, Clone)]
pub enum ClusterEvent {
    /// A pod that has a node.
    AssignedPod(Change<Pod>),
    /// The waiting pod itself.
    TargetPod {
        old: Arc<Pod>,
        new: Arc<Pod>,
    },
    Node(Change<Node>),
    Claim(Change<PersistentVolumeClaim>),
    Volume(Change<PersistentVolume>),
    StorageClass(Change<StorageClass>),
    CsiNode(Change<CSINode>),
    CsiDriver(Change<CSIDriver>),
    CsiStorageCapacity(Change<CSIStorageCapacity>),
    VolumeAttachment(Change<VolumeAttachment>),
}

/// What a decision looks at.
#[derive(Clone, Copy)]
pub struct World<'a> {
    pub snapshot: &'a Snapshot,
    pub listers: &'a Arc<Listers>,
}

/// What a plugin says to a pod before it sees nodes.
pub enum Prepared {
    /// Nothing to say about this pod on any node.
    Skip,
    Check(Box<dyn Check>),
    /// As `Check`, and no node but these can do.
    Only(BTreeSet<String>, Box<dyn Check>),
    /// No node does.
    Rejected(Rejection),
}

/// A plugin's question about each node, for one pod.
pub trait Check: Send {
    /// Whether the pod can run on the node.
    ///
    /// # Errors
    /// Why it cannot.
    fn check(&self, node: &NodeInfo) -> Result<(), Rejection>;

    /// Counts a pod as if it ran on the node (`PreFilterExtensions.AddPod`).
    fn add_pod(&mut self, _pod: &PodInfo, _node: &NodeInfo) {}

    /// Counts a pod that runs on the node as if it were gone.
    fn remove_pod(&mut self, _pod: &PodInfo, _node: &NodeInfo) {}

    fn boxed(&self) -> Box<dyn Check>;
}

/// A plugin's scores, for one pod.
pub trait Scorer {
    /// How good the node is, from 0 to [`MAX_SCORE`] after [`Scorer::normalize`].
    fn score(&self, node: &NodeInfo) -> i64;

    /// Brings raw scores, one a node, into 0 to [`MAX_SCORE`].
    fn normalize(&self, _nodes: &[Arc<NodeInfo>], _scores: &mut [i64]) {}
}

/// One plugin. Phases that a plugin has nothing to say in keep their defaults.
pub trait Plugin: Send + Sync {
    /// Upstream's plugin name.
    fn name(&self) -> &'static str;

    /// Looks at the pod before any node.
    fn prepare(&self, _pod: &Arc<PodInfo>, _world: World<'_>) -> Prepared {
        Prepared::Skip
    }

    /// Scores among the nodes that passed; `None` if all are equal.
    fn scorer(&self, _pod: &Arc<PodInfo>, _nodes: &[Arc<NodeInfo>], _world: World<'_>) -> Option<Box<dyn Scorer>> {
        None
    }

    /// Weight of the score; 0 for plugins that only filter.
    fn weight(&self) -> i64 {
        0
    }

    /// Whether a pod that this plugin rejected is worth another try after `event` (upstream's queueing hints).
    fn wakes(&self, pod: &Pod, event: &ClusterEvent, listers: &Listers) -> bool;
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
