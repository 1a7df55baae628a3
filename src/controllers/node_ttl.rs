//! Tells kubelets how long they may keep Secrets and ConfigMaps, by the size of the cluster (`pkg/controller/ttl`).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use api::names::ObjectKey;
use async_trait::async_trait;
use client::{Event, Informer, Patch, Resource, WorkQueue};
use k8s_openapi::api::core::v1::Node;
use serde_json::json;

use crate::error::Error;
use crate::harness::{Context, Parts, Reconcile, all_synced, key_of, synced};

const ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";

/// A size of cluster: the smallest and largest number of nodes, and the seconds. They overlap so that a node more or less
/// does not change every annotation.
const STEPS: [(usize, usize, u32); 5] =
    [(0, 100, 0), (90, 500, 15), (450, 1000, 30), (900, 2000, 60), (1800, usize::MAX, 300)];

pub(crate) fn start(context: Context) {
    let nodes = context.informers.informer::<Node>();
    let queue = WorkQueue::new();
    let add_all = Context::add_all(&nodes, &queue);
    let step = Arc::new(AtomicUsize::new(0));
    context.feed(&nodes, &add_all, {
        let (nodes, queue, step) = (nodes.clone(), queue.clone(), Arc::clone(&step));
        move |event| {
            let known = step.load(Ordering::Relaxed);
            step.store(next_step(known, nodes.len()), Ordering::Relaxed);
            match event {
                Event::Added(node) => queue.add(key_of(&**node)),
                Event::Updated { old, new } if old.annotation(ANNOTATION) != new.annotation(ANNOTATION) => {
                    queue.add(key_of(&**new));
                }
                _ => {}
            }
        }
    });
    let ready = all_synced(vec![synced(&nodes)]);
    let reconciler = Reconciler { nodes, step, context: context.parts() };
    context.work(Arc::new(reconciler), queue, 1, ready);
}

fn next_step(mut step: usize, count: usize) -> usize {
    while count > STEPS[step].1 {
        step += 1;
    }
    while count < STEPS[step].0 {
        step -= 1;
    }
    step
}

struct Reconciler {
    nodes: Informer<Node>,
    step: Arc<AtomicUsize>,
    context: Parts,
}

#[async_trait]
impl Reconcile for Reconciler {
    async fn reconcile(&self, key: &ObjectKey) -> Result<(), Error> {
        let Some(node) = self.nodes.get("", &key.name) else { return Ok(()) };
        let wanted = STEPS[self.step.load(Ordering::Relaxed)].2.to_string();
        if node.annotation(ANNOTATION) == Some(wanted.as_str()) {
            return Ok(());
        }
        let patch = Patch::Strategic(json!({"metadata": {"annotations": {ANNOTATION: wanted}}}));
        match self.context.client.patch::<Node>("", &key.name, &patch).await {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_step_follows_the_size_without_flapping() {
        let check = |from: usize, count: usize, expected: usize| assert_eq!(next_step(from, count), expected);
        check(0, 1, 0);
        check(0, 100, 0);
        check(0, 101, 1);
        check(1, 95, 1);
        check(1, 89, 0);
        check(0, 5000, 4);
        check(4, 1, 0);
    }
}
