//! Scales workloads by metrics (`pkg/controller/podautoscaler`).
//!
//! Metrics have no watch: an autoscaler is looked at every 15 s, as upstream does, and only then. Its status is written
//! when it differs.

mod behavior;
mod metrics;
mod proposal;
mod replicas;
mod scale;
mod status;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api::names::ObjectKey;
use api::selector::LabelSelector;
use async_trait::async_trait;
use client::{Event, EventType, Informer, WorkQueue};
use k8s_openapi::api::autoscaling::v2::{HorizontalPodAutoscaler, HorizontalPodAutoscalerStatus, MetricStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use parking_lot::Mutex;
use tracing::info;

use crate::error::Error;
use crate::harness::{Context, Parts, Reconcile, all_synced, key_of, synced};
use crate::written::Written;
use behavior::{Bounds, History};
use metrics::MetricsClient;
use replicas::Calculator;
use scale::Scale;
use status::set_condition;

/// `--horizontal-pod-autoscaler-sync-period`.
const SYNC_PERIOD: Duration = Duration::from_secs(15);

pub(crate) fn start(context: Context) {
    let autoscalers = context.informers.informer::<HorizontalPodAutoscaler>();
    let pods = context.informers.informer::<Pod>();
    let queue = WorkQueue::new();
    let add_all = Context::add_all(&autoscalers, &queue);
    context.feed(&autoscalers, &add_all, {
        let queue = queue.clone();
        move |event| match event {
            Event::Added(object) | Event::Deleted(object) => queue.add(key_of(&**object)),
            // Its own writes change the status alone.
            Event::Updated { old, new } if old.spec != new.spec => queue.add(key_of(&**new)),
            _ => {}
        }
    });
    let ready = all_synced(vec![synced(&autoscalers), synced(&pods)]);
    let parts = context.parts_as("horizontal-pod-autoscaler");
    let reconciler = Autoscaler {
        autoscalers,
        calculator: Calculator::new(MetricsClient::new(parts.client.clone()), pods, Arc::clone(&parts.clock)),
        histories: Mutex::default(),
        selectors: Mutex::default(),
        writes: Written::default(),
        queue: queue.clone(),
        context: parts,
    };
    context.work(Arc::new(reconciler), queue, 5, ready);
}

struct Autoscaler {
    autoscalers: Informer<HorizontalPodAutoscaler>,
    calculator: Calculator,
    histories: Mutex<HashMap<ObjectKey, History>>,
    /// What each autoscaler selects: two that select the same pods would pull in two directions.
    selectors: Mutex<HashMap<ObjectKey, LabelSelector>>,
    writes: Written,
    queue: WorkQueue<ObjectKey>,
    context: Parts,
}

#[async_trait]
impl Reconcile for Autoscaler {
    async fn reconcile(&self, key: &ObjectKey) -> Result<(), Error> {
        self.writes.check(key, &self.autoscalers)?;
        let Some(autoscaler) = self.autoscalers.get(&key.namespace, &key.name) else {
            self.histories.lock().remove(key);
            self.selectors.lock().remove(key);
            return Ok(());
        };
        self.queue.add_after(key.clone(), SYNC_PERIOD);
        let mut pass = Pass::new(self, key, (*autoscaler).clone());
        // What went wrong is in the conditions and events; the next look is in 15 s either way.
        if let Err(problem) = pass.run().await {
            tracing::debug!(autoscaler = %key, error = problem, "cannot scale");
        }
        pass.write(&autoscaler).await
    }
}

/// One look at one autoscaler.
struct Pass<'a> {
    controller: &'a Autoscaler,
    key: &'a ObjectKey,
    object: HorizontalPodAutoscaler,
}

impl<'a> Pass<'a> {
    fn new(controller: &'a Autoscaler, key: &'a ObjectKey, object: HorizontalPodAutoscaler) -> Self {
        Self { controller, key, object }
    }

    fn warn(&self, reason: &str, message: &str) {
        self.controller.context.recorder.event(&self.object, EventType::Warning, reason, message);
    }

    fn condition(&mut self, kind: &str, status: bool, reason: &str, message: &str) {
        let now = self.controller.context.clock.now();
        set_condition(self.object.status.get_or_insert_default(), kind, status, reason, message, now);
    }

    /// `reconcileAutoscaler`.
    async fn run(&mut self) -> Result<(), String> {
        let target = self.object.spec.scale_target_ref.clone();
        let found = scale::find(&self.controller.context.client, &self.key.namespace, &target).await;
        let (mut scale, path) = match found {
            Ok(found) => found,
            Err(problem) => {
                self.warn("FailedGetScale", &problem);
                let message = format!("the HPA controller was unable to get the target's current scale: {problem}");
                self.condition("AbleToScale", false, "FailedGetScale", &message);
                return Err(problem);
            }
        };
        let message = "the HPA controller was able to get the target's current scale";
        self.condition("AbleToScale", true, "SucceededGetScale", message);
        let current = scale.replicas;
        let now = self.controller.context.clock.now();
        let history = |key: &ObjectKey| {
            self.controller.histories.lock().entry(key.clone()).or_default().begin(current, now);
        };
        history(self.key);
        let Decision { desired, reason, statuses } = match self.decide(&scale).await {
            Ok(decision) => decision,
            Err((problem, statuses)) => {
                self.set_status(current, None, statuses, false);
                return Err(problem);
            }
        };
        let rescale = desired != current;
        if rescale {
            if let Err(problem) = self.rescale(&mut scale, &path, desired).await {
                let message = format!("New size: {desired}; reason: {reason}; error: {problem}");
                self.warn("FailedRescale", &message);
                let message = format!("the HPA controller was unable to update the target scale: {problem}");
                self.condition("AbleToScale", false, "FailedUpdateScale", &message);
                self.set_status(current, None, statuses, false);
                return Err(problem);
            }
            self.rescaled(current, desired, &reason);
        }
        self.set_status(current, Some(desired), statuses, rescale);
        Ok(())
    }

    async fn rescale(&self, scale: &mut Scale, path: &str, desired: i32) -> Result<(), String> {
        let client = &self.controller.context.client;
        let mut attempts = 5;
        loop {
            match scale.put(client, path, desired).await {
                Ok(()) => return Ok(()),
                Err(error) if error.is_conflict() && attempts > 1 => {
                    attempts -= 1;
                    *scale = Scale::get(client, path).await.map_err(|e| base::chain(&e).to_string())?;
                }
                Err(error) => return Err(base::chain(&error).to_string()),
            }
        }
    }

    fn rescaled(&mut self, current: i32, desired: i32, reason: &str) {
        let message = format!("the HPA controller was able to update the target scale to {desired}");
        self.condition("AbleToScale", true, "SucceededRescale", &message);
        let message = format!("New size: {desired}; reason: {reason}");
        self.controller.context.recorder.event(&self.object, EventType::Normal, "SuccessfulRescale", &message);
        info!(autoscaler = %self.key, from = current, to = desired, reason, "rescaled");
        let spec = self.object.spec.clone();
        if let Some(rules) = &spec.behavior {
            let now = self.controller.context.clock.now();
            let mut histories = self.controller.histories.lock();
            histories.entry(self.key.clone()).or_default().scaled(rules, current, desired, now);
        }
        let to_zero = current > 0 && desired == 0 && spec.min_replicas == Some(0) && has_outside_metrics(&self.object);
        if to_zero {
            self.condition("ScaledToZero", true, "ScaledToZero", "the HPA controller scaled the workload to zero");
        } else {
            let message = "the HPA controller did not scale the workload to zero";
            self.condition("ScaledToZero", false, "NotScaledToZero", message);
        }
    }

    /// How many replicas there are to be, and why.
    async fn decide(&mut self, scale: &Scale) -> Result<Decision, (String, Vec<MetricStatus>)> {
        let spec = self.object.spec.clone();
        let (min, max, current) = (spec.min_replicas.unwrap_or(1), spec.max_replicas, scale.replicas);
        let bound =
            |desired: i32, reason: &str| Ok(Decision { desired, reason: reason.to_owned(), statuses: Vec::new() });
        let to_zero = status::is_true(&self.object, "ScaledToZero");
        if current == 0 && !to_zero {
            let message = "scaling is disabled since the replica count of the target is zero";
            self.condition("ScalingActive", false, "ScalingDisabled", message);
            return bound(0, "");
        }
        if current == 0 && min == 0 && !has_outside_metrics(&self.object) {
            let message = "scaling is disabled since the replica count of the target is zero";
            self.condition("ScalingActive", false, "ScalingDisabled", message);
            return bound(0, "");
        }
        if current > max {
            return bound(max, "Current number of replicas above Spec.MaxReplicas");
        }
        if current != 0 && current < min {
            return bound(min, "Current number of replicas below Spec.MinReplicas");
        }
        let (proposed, metric, statuses) = match self.propose(scale).await {
            Ok(proposal) => proposal,
            Err((problem, statuses)) => {
                self.warn("FailedComputeMetricsReplicas", &problem);
                return Err((problem, statuses));
            }
        };
        let mut reason = match proposed.cmp(&current) {
            std::cmp::Ordering::Greater => format!("{metric} above target"),
            std::cmp::Ordering::Less => "All metrics below target".to_owned(),
            std::cmp::Ordering::Equal => String::new(),
        };
        let mut desired = self.normalize(Bounds { min, max, current, desired: proposed });
        if current == 0 && min != 0 && desired < min {
            desired = min;
            if reason.is_empty() {
                "Current number of replicas below Spec.MinReplicas".clone_into(&mut reason);
            }
        }
        Ok(Decision { desired, reason, statuses })
    }

    /// Holds the proposal against the recent ones, the limits and the rates.
    fn normalize(&mut self, bounds: Bounds) -> i32 {
        let now = self.controller.context.clock.now();
        let rules = self.object.spec.behavior.clone();
        let normalized = {
            let mut histories = self.controller.histories.lock();
            histories.entry(self.key.clone()).or_default().normalize(rules.as_ref(), bounds, now)
        };
        let (reason, message) = normalized.stabilized;
        self.condition("AbleToScale", true, reason, message);
        let (limited, reason, message) = normalized.limited;
        self.condition("ScalingLimited", limited, reason, message);
        normalized.desired
    }

    fn set_status(&mut self, current: i32, desired: Option<i32>, metrics: Vec<MetricStatus>, rescaled: bool) {
        let known = self.object.status.take().unwrap_or_default();
        self.object.status = Some(HorizontalPodAutoscalerStatus {
            current_replicas: Some(current),
            desired_replicas: desired.unwrap_or(known.desired_replicas),
            last_scale_time: if rescaled {
                Some(Time(self.controller.context.clock.now()))
            } else {
                known.last_scale_time
            },
            current_metrics: (!metrics.is_empty()).then_some(metrics),
            conditions: known.conditions,
            observed_generation: self.object.metadata.generation,
        });
    }

    async fn write(&self, before: &HorizontalPodAutoscaler) -> Result<(), Error> {
        if status::same(before.status.as_ref(), self.object.status.as_ref()) {
            return Ok(());
        }
        match self.controller.context.client.update_status(&self.object).await {
            Ok(written) => {
                self.controller.writes.note(self.key, &written);
                Ok(())
            }
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => {
                if !error.is_conflict() {
                    self.warn("FailedUpdateStatus", &base::chain(&error).to_string());
                }
                Err(error.into())
            }
        }
    }
}

struct Decision {
    desired: i32,
    reason: String,
    statuses: Vec<MetricStatus>,
}

/// Metrics that say something although no pod runs.
fn has_outside_metrics(object: &HorizontalPodAutoscaler) -> bool {
    let metrics = object.spec.metrics.as_deref().unwrap_or_default();
    metrics.iter().any(|m| matches!(m.type_.as_str(), "Object" | "External"))
}
