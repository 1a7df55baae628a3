//! Watches over nodes (`pkg/controller/nodelifecycle`): a node whose kubelet is silent becomes unknown, conditions become
//! taints, and NoExecute taints are given at a rate that depends on how many nodes of a zone are ill.
//!
//! Nothing polls: a node is looked at when it changes and when its grace period would be over.

mod plan;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api::names::ObjectKey;
use async_trait::async_trait;
use client::{Event, EventType, Informer, Patch, Recorder, Resource, WorkQueue};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, ObjectReference, Pod};
use parking_lot::Mutex;
use serde_json::json;

use crate::error::Error;
use crate::harness::{Context, Parts, Reconcile, all_synced, current, key_of, synced};
use crate::pods;
use plan::{Rate, ZoneState};

const LEASES: &str = "kube-node-lease";
/// `--node-monitor-grace-period`.
const GRACE: SignedDuration = SignedDuration::from_secs(50);
/// `--node-startup-grace-period`.
const STARTUP_GRACE: SignedDuration = SignedDuration::from_secs(60);
const WORKERS: usize = 8;

pub(crate) fn start(context: Context) {
    let nodes = context.informers.informer::<Node>();
    let leases = context.informers.informer::<Lease>();
    let pods = context.informers.informer::<Pod>();
    let queue = WorkQueue::new();
    let health = Arc::new(Mutex::new(Health::default()));

    let add_all = Context::add_all(&nodes, &queue);
    context.feed(&nodes, &add_all, {
        let (nodes, queue, health) = (nodes.clone(), queue.clone(), Arc::clone(&health));
        let (recorder, clock) = (context.recorder.clone(), Arc::clone(&context.clock));
        move |event| {
            let Some(node) = current(event) else { return };
            match event {
                Event::Added(_) => {
                    let message = format!("Node {0} event: Registered Node {0} in Controller", node.name());
                    if health.lock().observe(node, clock.now()) {
                        node_event(&recorder, node, EventType::Normal, "RegisteredNode", &message);
                    }
                }
                Event::Updated { .. } => {
                    health.lock().observe(node, clock.now());
                }
                Event::Deleted(_) => {
                    health.lock().nodes.remove(node.name());
                    let message = format!("Node {0} event: Removing Node {0} from Controller", node.name());
                    node_event(&recorder, node, EventType::Normal, "RemovingNode", &message);
                }
                Event::Resync => {}
            }
            queue.add(key_of(&**node));
            // Whether the others may be tainted depends on how many are ready.
            if !matches!(event, Event::Updated { old, new } if is_ready(old) == is_ready(new)) {
                for other in nodes.list() {
                    queue.add(key_of(&*other));
                }
            }
        }
    });
    context.feed(&leases, &add_all, {
        let (health, clock) = (Arc::clone(&health), Arc::clone(&context.clock));
        move |event| {
            if let Event::Added(lease) | Event::Updated { new: lease, .. } = event
                && lease.namespace() == LEASES
            {
                health.lock().renew(lease, clock.now());
            }
        }
    });

    let ready = all_synced(vec![synced(&nodes), synced(&leases), synced(&pods)]);
    let reconciler = Arc::new(Reconciler {
        nodes,
        pods,
        queue: queue.clone(),
        health,
        rates: Mutex::new(HashMap::new()),
        context: context.parts(),
    });
    context.work(reconciler, queue, WORKERS, ready);
}

/// The node's Ready condition.
pub(crate) fn ready_condition(node: &Node) -> Option<&NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == "Ready")
}

pub(crate) fn is_ready(node: &Node) -> bool {
    ready_condition(node).is_some_and(|c| c.status == "True")
}

/// An event about a node, as upstream refers to nodes.
pub(crate) fn node_event(recorder: &Recorder, node: &Node, kind: EventType, reason: &str, message: &str) {
    let reference = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Node".to_owned()),
        name: node.metadata.name.clone(),
        uid: node.metadata.uid.clone(),
        ..Default::default()
    };
    recorder.event(&reference, kind, reason, message);
}

/// When each node was last heard of, by our own clock.
#[derive(Default)]
struct Health {
    nodes: HashMap<String, NodeHealth>,
    /// No node is ready: the fault may be ours, and nothing is evicted.
    all_disrupted: bool,
}

struct NodeHealth {
    heard: Timestamp,
    heartbeat: Option<Timestamp>,
    renewed: Option<Timestamp>,
    /// Its pods still have to be marked as not ready.
    pods_pending: bool,
}

impl Health {
    fn entry(&mut self, name: &str, now: Timestamp) -> &mut NodeHealth {
        self.nodes.entry(name.to_owned()).or_insert(NodeHealth {
            heard: now,
            heartbeat: None,
            renewed: None,
            pods_pending: false,
        })
    }

    /// True if the node was not known.
    fn observe(&mut self, node: &Node, now: Timestamp) -> bool {
        let is_new = !self.nodes.contains_key(node.name());
        let heartbeat = ready_condition(node).and_then(|c| c.last_heartbeat_time.as_ref()).map(|t| t.0);
        let health = self.entry(node.name(), now);
        if heartbeat.is_some() && heartbeat != health.heartbeat {
            health.heartbeat = heartbeat;
            health.heard = now;
        }
        is_new
    }

    fn renew(&mut self, lease: &Lease, now: Timestamp) {
        let renewed = lease.spec.as_ref().and_then(|s| s.renew_time.as_ref()).map(|t| t.0);
        // A lease without its node is of no interest.
        if let Some(health) = self.nodes.get_mut(lease.name())
            && renewed > health.renewed
        {
            health.renewed = renewed;
            health.heard = now;
        }
    }
}

struct Reconciler {
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    queue: WorkQueue<ObjectKey>,
    health: Arc<Mutex<Health>>,
    /// How fast nodes of a zone may be tainted.
    rates: Mutex<HashMap<String, Rate>>,
    context: Parts,
}

#[async_trait]
impl Reconcile for Reconciler {
    async fn reconcile(&self, key: &ObjectKey) -> Result<(), Error> {
        let Some(node) = self.nodes.get("", &key.name) else { return Ok(()) };
        let node = match self.check_heartbeat(&node).await? {
            Some(updated) => Arc::new(updated),
            None => node,
        };
        self.mark_pods(&node).await?;
        self.reconcile_labels(&node).await?;
        self.reconcile_taints(key, &node).await
    }
}

impl Reconciler {
    /// Sets the conditions of a silent node to unknown; returns the node if that was done (`tryUpdateNodeHealth`).
    async fn check_heartbeat(&self, node: &Node) -> Result<Option<Node>, Error> {
        let now = self.context.clock.now();
        let grace = if ready_condition(node).is_some() { GRACE } else { STARTUP_GRACE };
        let heard = self.health.lock().entry(node.name(), now).heard;
        let left = grace - now.duration_since(heard);
        if left >= SignedDuration::ZERO {
            // One more millisecond, so that it is over then.
            let delay = Duration::try_from(left).unwrap_or_default() + Duration::from_millis(1);
            self.queue.add_after(key_of(node), delay);
            return Ok(None);
        }
        let mut updated = node.clone();
        if !plan::set_unknown(&mut updated, now) {
            return Ok(None);
        }
        // Perhaps only our watch is behind: the lease itself decides.
        if let Some(lease) = self.context.client.get_opt::<Lease>(LEASES, node.name()).await? {
            let mut health = self.health.lock();
            let before = health.entry(node.name(), now).heard;
            health.renew(&lease, now);
            if health.entry(node.name(), now).heard != before {
                return Err(Error::NotYet("the cache to show a node's lease"));
            }
        }
        let was_ready = is_ready(node);
        let updated = self.context.client.update_status(&updated).await?;
        if was_ready {
            let message = format!("Node {} status is now: NodeNotReady", node.name());
            node_event(&self.context.recorder, node, EventType::Normal, "NodeNotReady", &message);
            self.health.lock().entry(node.name(), now).pods_pending = true;
        }
        Ok(Some(updated))
    }

    /// `MarkPodsNotReady`, once after the node fell silent.
    async fn mark_pods(&self, node: &Node) -> Result<(), Error> {
        let now = self.context.clock.now();
        if !self.health.lock().entry(node.name(), now).pods_pending {
            return Ok(());
        }
        if !is_ready(node) {
            for pod in self.pods.by_node(node.name()) {
                let Some(condition) = pods::condition(&pod, "Ready").filter(|c| c.status == "True") else { continue };
                let mut condition = condition.clone();
                condition.status = "False".to_owned();
                condition.last_transition_time = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now));
                match pods::patch_status(&self.context.client, &pod, None, Some(condition)).await {
                    Ok(()) => {
                        let recorder = &self.context.recorder;
                        recorder.event(&*pod, EventType::Warning, "NodeNotReady", "Node is not ready");
                    }
                    Err(error) if error.is_not_found() || error.is_conflict() => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        self.health.lock().entry(node.name(), now).pods_pending = false;
        Ok(())
    }

    /// The beta labels of operating system and architecture follow the stable ones (`reconcileNodeLabels`).
    async fn reconcile_labels(&self, node: &Node) -> Result<(), Error> {
        let wanted = plan::missing_labels(node);
        if wanted.is_empty() {
            return Ok(());
        }
        let patch = Patch::Merge(json!({"metadata": {"labels": wanted}}));
        self.context.client.patch::<Node>("", node.name(), &patch).await?;
        Ok(())
    }

    async fn reconcile_taints(&self, key: &ObjectKey, node: &Node) -> Result<(), Error> {
        let now = self.context.clock.now();
        let all = self.nodes.list();
        let states = plan::zone_states(&all);
        let all_disrupted = !states.is_empty() && states.values().all(|(state, _)| *state == ZoneState::Full);
        self.note_disruption(all_disrupted, now);
        let mut execute = if all_disrupted { None } else { plan::no_execute_taint(node) };
        if let Some(taint) = execute
            && !plan::has_no_execute(node)
        {
            let zone = plan::zone(node);
            let (state, size) = states.get(&zone).copied().unwrap_or((ZoneState::Normal, 1));
            let wait = self.rates.lock().entry(zone).or_default().take(state, size, now);
            if let Some(wait) = wait {
                self.queue.add_after(key.clone(), wait);
                execute = None;
            } else {
                tracing::info!(node = %key.name, taint, "tainting a node");
            }
        }
        let Some(taints) = plan::taints(node, execute, now) else { return Ok(()) };
        let patch = Patch::Merge(json!({
            "metadata": {"resourceVersion": node.resource_version()},
            "spec": {"taints": taints},
        }));
        self.context.client.patch::<Node>("", node.name(), &patch).await?;
        Ok(())
    }

    /// When some node is ready again after none was, all get a new grace period (`handleDisruption`).
    fn note_disruption(&self, all_disrupted: bool, now: Timestamp) {
        let mut health = self.health.lock();
        if health.all_disrupted == all_disrupted {
            return;
        }
        health.all_disrupted = all_disrupted;
        if all_disrupted {
            tracing::warn!("no node is ready: nothing is evicted");
        } else {
            tracing::info!("some node is ready again");
            for node in health.nodes.values_mut() {
                node.heard = now;
            }
        }
    }
}
