//! Deletes pods that nobody else will (`pkg/controller/podgc`): of nodes that are gone, terminating without a node, on
//! nodes out of service, and terminated ones beyond a number.

use std::sync::Arc;
use std::time::Duration;

use api::names::ObjectKey;
use async_trait::async_trait;
use client::{DeleteParams, Event, Informer, Resource, WorkQueue};
use k8s_openapi::api::core::v1::{Node, Pod, PodCondition};
use tracing::info;

use crate::error::Error;
use crate::harness::{Context, Parts, Reconcile, all_synced, current, key_of, synced};
use crate::{node_lifecycle, pods, taints};

/// A node that is gone may come back under the same name (`quarantineTime`).
const QUARANTINE: Duration = Duration::from_secs(40);
/// Upstream's period; here the delay after a change.
const PERIOD: Duration = Duration::from_secs(20);
/// `--terminated-pod-gc-threshold`.
const TERMINATED_MAX: usize = 12500;
/// Keys: a pod; a node, with this as namespace (no namespace is called so); all terminated pods.
const NODE: &str = "/node";
const TERMINATED: &str = "/terminated";

pub(crate) fn start(context: Context) {
    let pods = context.informers.informer::<Pod>();
    let nodes = context.informers.informer::<Node>();
    let queue = WorkQueue::new();
    let add_all = Context::add_all(&pods, &queue);
    context.feed(&pods, &add_all, {
        let (nodes, queue) = (nodes.clone(), queue.clone());
        move |event| on_pod(&nodes, &queue, event)
    });
    context.feed(&nodes, &add_all, {
        let (pods, queue) = (pods.clone(), queue.clone());
        move |event| {
            let Some(node) = current(event) else { return };
            if matches!(event, Event::Deleted(_)) {
                queue.add_after(ObjectKey::new(NODE, node.name()), QUARANTINE);
            } else if is_out_of_service(node) {
                for pod in pods.by_node(node.name()) {
                    queue.add(key_of(&*pod));
                }
            }
        }
    });
    let ready = all_synced(vec![synced(&pods), synced(&nodes)]);
    let reconciler = Arc::new(Collector { pods, nodes, context: context.parts() });
    context.work(reconciler, queue, 2, ready);
}

fn on_pod(nodes: &Informer<Node>, queue: &WorkQueue<ObjectKey>, event: &Event<Pod>) {
    let pod = match event {
        Event::Added(pod) | Event::Updated { new: pod, .. } => pod,
        Event::Deleted(_) | Event::Resync => return,
    };
    let node = pods::node(pod);
    let is_new_there = !matches!(event, Event::Updated { old, .. } if pods::node(old) == node);
    if !node.is_empty() && is_new_there && nodes.get("", node).is_none() {
        queue.add_after(ObjectKey::new(NODE, node), QUARANTINE);
    }
    if pod.is_deleting() {
        if node.is_empty() {
            queue.add_after(key_of(&**pod), PERIOD);
        } else if nodes.get("", node).is_some_and(|n| is_out_of_service(&n)) {
            queue.add(key_of(&**pod));
        }
    }
    let was_terminal = matches!(event, Event::Updated { old, .. } if pods::is_terminal(old));
    if pods::is_terminal(pod) && !was_terminal {
        queue.add_after(ObjectKey::new(TERMINATED, ""), PERIOD);
    }
}

fn is_out_of_service(node: &Node) -> bool {
    !node_lifecycle::is_ready(node) && taints::of(node).iter().any(|t| t.key == taints::OUT_OF_SERVICE)
}

struct Collector {
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    context: Parts,
}

#[async_trait]
impl Reconcile for Collector {
    async fn reconcile(&self, key: &ObjectKey) -> Result<(), Error> {
        match key.namespace.as_str() {
            NODE => self.collect_orphaned(&key.name).await,
            TERMINATED => self.collect_terminated().await,
            _ => {
                let Some(pod) = self.pods.get(&key.namespace, &key.name).filter(|p| p.is_deleting()) else {
                    return Ok(());
                };
                let node = pods::node(&pod);
                if node.is_empty() || self.nodes.get("", node).is_some_and(|n| is_out_of_service(&n)) {
                    self.fail_and_delete(&pod, None).await?;
                }
                Ok(())
            }
        }
    }
}

impl Collector {
    async fn collect_orphaned(&self, node: &str) -> Result<(), Error> {
        if self.nodes.get("", node).is_some() || self.context.client.get_opt::<Node>("", node).await?.is_some() {
            return Ok(());
        }
        for pod in self.pods.by_node(node) {
            let now = self.context.clock.now();
            let condition = pods::disruption_target(&pod, "DeletionByPodGC", "PodGC: node no longer exists", now);
            self.fail_and_delete(&pod, Some(condition)).await?;
        }
        Ok(())
    }

    /// Evicted ones first, then the oldest.
    async fn collect_terminated(&self) -> Result<(), Error> {
        let mut terminated = self.pods.list();
        terminated.retain(|pod| pods::is_terminal(pod) && !pod.is_deleting());
        let excess = terminated.len().saturating_sub(TERMINATED_MAX);
        if excess == 0 {
            return Ok(());
        }
        let evicted = |pod: &Pod| pod.status.as_ref().and_then(|s| s.reason.as_deref()) == Some("Evicted");
        terminated.sort_by(|a, b| {
            evicted(b)
                .cmp(&evicted(a))
                .then_with(|| a.metadata.creation_timestamp.cmp(&b.metadata.creation_timestamp))
                .then_with(|| a.name().cmp(b.name()))
        });
        for pod in &terminated[..excess] {
            self.fail_and_delete(pod, None).await?;
        }
        Ok(())
    }

    async fn fail_and_delete(&self, pod: &Pod, condition: Option<PodCondition>) -> Result<(), Error> {
        info!(namespace = pod.namespace(), name = pod.name(), "force-deleting a pod");
        let client = &self.context.client;
        if !pods::is_terminal(pod) {
            match pods::patch_status(client, pod, Some("Failed"), condition).await {
                Err(error) if !error.is_not_found() => return Err(error.into()),
                _ => {}
            }
        }
        match client.delete::<Pod>(pod.namespace(), pod.name(), &DeleteParams::uid(pod.uid()).grace(0)).await {
            Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error.into()),
            _ => Ok(()),
        }
    }
}
