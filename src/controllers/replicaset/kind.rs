//! What ReplicaSet and ReplicationController have in common, so that one controller serves both.

use client::Resource;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    PodTemplateSpec, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::selector::Selector;

/// A kind that keeps a number of pods.
pub(crate) trait Replicated: Resource {
    /// Whether its status counts pods that are terminating.
    const REPORTS_TERMINATING: bool;

    fn replicas(&self) -> i32;
    fn min_ready_seconds(&self) -> i32;
    /// `None` if there is none, or it cannot be read.
    fn selector(&self) -> Option<Selector>;
    fn template(&self) -> Option<&PodTemplateSpec>;
    fn observed(&self) -> Observed;
    /// The object with another status.
    fn with_observed(&self, observed: &Observed) -> Self;
}

/// The status.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Observed {
    pub replicas: i32,
    pub fully_labeled: i32,
    pub ready: i32,
    pub available: i32,
    pub terminating: Option<i32>,
    pub generation: i64,
    pub conditions: Vec<ReplicaCondition>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReplicaCondition {
    pub kind: String,
    pub status: String,
    pub reason: String,
    pub message: String,
    pub since: Option<Timestamp>,
}

// The fields are optional in one kind and required in the other: `from` and `into` fit both.
macro_rules! conditions {
    (from $conditions:expr) => {
        $conditions
            .iter()
            .flatten()
            .map(|c| ReplicaCondition {
                kind: Option::<String>::from(c.type_.clone()).unwrap_or_default(),
                status: Option::<String>::from(c.status.clone()).unwrap_or_default(),
                reason: c.reason.clone().unwrap_or_default(),
                message: c.message.clone().unwrap_or_default(),
                since: c.last_transition_time.as_ref().map(|t| t.0),
            })
            .collect()
    };
    (to $kind:ident, $conditions:expr) => {{
        let conditions: Vec<$kind> = $conditions
            .iter()
            .map(|c| $kind {
                type_: c.kind.clone().into(),
                status: c.status.clone().into(),
                reason: Some(c.reason.clone()).filter(|r| !r.is_empty()),
                message: Some(c.message.clone()).filter(|m| !m.is_empty()),
                last_transition_time: c.since.map(Time),
            })
            .collect();
        (!conditions.is_empty()).then_some(conditions)
    }};
}

impl Replicated for ReplicaSet {
    const REPORTS_TERMINATING: bool = true;

    fn replicas(&self) -> i32 {
        self.spec.replicas.unwrap_or(1)
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.min_ready_seconds.unwrap_or(0)
    }

    fn selector(&self) -> Option<Selector> {
        Selector::new(&self.spec.selector)
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.template.as_ref()
    }

    fn observed(&self) -> Observed {
        let Some(status) = &self.status else { return Observed::default() };
        Observed {
            replicas: status.replicas,
            fully_labeled: status.fully_labeled_replicas.unwrap_or(0),
            ready: status.ready_replicas.unwrap_or(0),
            available: status.available_replicas.unwrap_or(0),
            terminating: status.terminating_replicas,
            generation: status.observed_generation.unwrap_or(0),
            conditions: conditions!(from status.conditions),
        }
    }

    fn with_observed(&self, observed: &Observed) -> Self {
        let mut set = self.clone();
        set.status = Some(ReplicaSetStatus {
            replicas: observed.replicas,
            fully_labeled_replicas: Some(observed.fully_labeled),
            ready_replicas: Some(observed.ready),
            available_replicas: Some(observed.available),
            terminating_replicas: observed.terminating,
            observed_generation: Some(observed.generation),
            conditions: conditions!(to ReplicaSetCondition, observed.conditions),
        });
        set
    }
}

impl Replicated for ReplicationController {
    const REPORTS_TERMINATING: bool = false;

    fn replicas(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0)
    }

    fn selector(&self) -> Option<Selector> {
        let selector = self.spec.as_ref()?.selector.as_ref()?;
        (!selector.is_empty()).then(|| Selector::from_map(selector))
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref()?.template.as_ref()
    }

    fn observed(&self) -> Observed {
        let Some(status) = &self.status else { return Observed::default() };
        Observed {
            replicas: status.replicas,
            fully_labeled: status.fully_labeled_replicas.unwrap_or(0),
            ready: status.ready_replicas.unwrap_or(0),
            available: status.available_replicas.unwrap_or(0),
            terminating: None,
            generation: status.observed_generation.unwrap_or(0),
            conditions: conditions!(from status.conditions),
        }
    }

    fn with_observed(&self, observed: &Observed) -> Self {
        let mut set = self.clone();
        set.status = Some(ReplicationControllerStatus {
            replicas: observed.replicas,
            fully_labeled_replicas: Some(observed.fully_labeled),
            ready_replicas: Some(observed.ready),
            available_replicas: Some(observed.available),
            observed_generation: Some(observed.generation),
            conditions: conditions!(to ReplicationControllerCondition, observed.conditions),
        });
        set
    }
}
