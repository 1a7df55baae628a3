//! Deletes pods that do not tolerate a NoExecute taint of their node (`pkg/controller/tainteviction`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api::names::ObjectKey;
use async_trait::async_trait;
use client::{DeleteParams, Event, EventType, Informer, Resource, WorkQueue};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Taint};
use parking_lot::Mutex;

use crate::error::Error;
use crate::harness::{Context, Parts, Reconcile, all_synced, current, key_of, synced};
use crate::pods;
use crate::taints::{self, NO_EXECUTE, Stay};

const WORKERS: usize = 8;
const REASON: &str = "TaintManagerEviction";

pub(crate) fn start(context: Context) {
    let pods = context.informers.informer::<Pod>();
    let nodes = context.informers.informer::<Node>();
    let queue = WorkQueue::new();
    let add_all = Context::add_all(&pods, &queue);
    context.feed(&pods, &add_all, {
        let queue = queue.clone();
        move |event| {
            let concerns = match event {
                Event::Updated { old, new } => {
                    pods::node(old) != pods::node(new) || tolerations(old) != tolerations(new)
                }
                Event::Added(pod) => !pods::node(pod).is_empty(),
                Event::Deleted(_) => true,
                Event::Resync => false,
            };
            if concerns && let Some(pod) = current(event) {
                queue.add(key_of(&**pod));
            }
        }
    });
    context.feed(&nodes, &add_all, {
        let (pods, queue) = (pods.clone(), queue.clone());
        move |event| {
            let Some(node) = current(event) else { return };
            let changed = match event {
                Event::Updated { old, new } => no_execute(old) != no_execute(new),
                _ => !no_execute(node).is_empty(),
            };
            if changed {
                for pod in pods.by_node(node.name()) {
                    queue.add(key_of(&*pod));
                }
            }
        }
    });
    let ready = all_synced(vec![synced(&pods), synced(&nodes)]);
    let scheduled = Mutex::new(HashMap::new());
    let reconciler = Arc::new(Reconciler { pods, nodes, queue: queue.clone(), scheduled, context: context.parts() });
    context.work(reconciler, queue, WORKERS, ready);
}

fn tolerations(pod: &Pod) -> &[k8s_openapi::api::core::v1::Toleration] {
    pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default()
}

fn no_execute(node: &Node) -> Vec<Taint> {
    taints::of(node).iter().filter(|t| t.effect == NO_EXECUTE).cloned().collect()
}

struct Reconciler {
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    queue: WorkQueue<ObjectKey>,
    /// When the taints of pods that are to be deleted later were first seen.
    scheduled: Mutex<HashMap<ObjectKey, Timestamp>>,
    context: Parts,
}

#[async_trait]
impl Reconcile for Reconciler {
    async fn reconcile(&self, key: &ObjectKey) -> Result<(), Error> {
        let pod = self.pods.get(&key.namespace, &key.name).filter(|pod| !pod.is_deleting());
        let Some(pod) = pod else {
            self.scheduled.lock().remove(key);
            return Ok(());
        };
        let taints = match self.nodes.get("", pods::node(&pod)) {
            Some(node) => no_execute(&node),
            None => Vec::new(),
        };
        let now = self.context.clock.now();
        let seconds = match taints::stay(&taints, tolerations(&pod)) {
            Stay::Forever => {
                if self.scheduled.lock().remove(key).is_some() {
                    self.event(key, &format!("Cancelling deletion of Pod {key}"));
                }
                return Ok(());
            }
            Stay::For(seconds) => seconds,
        };
        let since = *self.scheduled.lock().entry(key.clone()).or_insert(now);
        let left = SignedDuration::from_secs(seconds) - now.duration_since(since);
        if left > SignedDuration::ZERO {
            self.queue.add_after(key.clone(), Duration::try_from(left).unwrap_or_default());
            return Ok(());
        }
        self.event(key, &format!("Marking for deletion Pod {key}"));
        self.evict(&pod).await?;
        self.scheduled.lock().remove(key);
        Ok(())
    }
}

impl Reconciler {
    fn event(&self, key: &ObjectKey, message: &str) {
        let pod = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(key.namespace.clone()),
            name: Some(key.name.clone()),
            ..Default::default()
        };
        self.context.recorder.event(&pod, EventType::Normal, REASON, message);
    }

    /// `addConditionAndDeletePod`.
    async fn evict(&self, pod: &Pod) -> Result<(), Error> {
        let client = &self.context.client;
        let condition = pods::disruption_target(
            pod,
            "DeletionByTaintManager",
            "Taint manager: deleting due to NoExecute taint",
            self.context.clock.now(),
        );
        match pods::patch_status(client, pod, None, Some(condition)).await {
            Err(error) if !error.is_not_found() => return Err(error.into()),
            _ => {}
        }
        match client.delete::<Pod>(pod.namespace(), pod.name(), &DeleteParams::uid(pod.uid())).await {
            Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error.into()),
            _ => Ok(()),
        }
    }
}
