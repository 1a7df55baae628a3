//! How many pods a second the scheduler decides about, with 1,000 nodes and 5,000 pods in memory: queue, cache, snapshot
//! and decision, without the API. Prints the figure; fails only if a pod finds no node, or nodes fill unevenly.

use std::sync::Arc;
use std::time::Instant;

use scheduler::cache::{Cache, Snapshot};
use scheduler::cycle::{Decision, Input, decide};
use scheduler::framework::World;
use scheduler::listers::Listers;
use scheduler::nominator::Nominator;
use scheduler::plugins::ALL;
use scheduler::pod_info::PodInfo;
use scheduler::queue::Queue;
use serde_json::{Value, json};

const NODES: usize = 1000;
const PODS: usize = 5000;

fn pod(at: usize, more: &Value) -> Arc<PodInfo> {
    let name = format!("p{at}");
    let mut spec = json!({"containers": [{
        "name": "c", "image": "app:1", "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
    }]});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let metadata = json!({"name": name, "namespace": "n", "uid": name, "labels": {"app": "web"}});
    Arc::new(PodInfo::new(Arc::new(serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap())))
}

/// Schedules all pods; returns how many ended up on the fullest node.
fn schedule(what: &str, pods: usize, more: &Value) -> usize {
    let (mut cache, mut snapshot, mut queue) = (Cache::default(), Snapshot::default(), Queue::default());
    let listers = Arc::new(Listers::fake());
    for at in 0..NODES {
        let name = format!("n{at}");
        let labels = json!({"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": format!("z{}", at % 3)});
        let status = json!({"allocatable": {"cpu": "4", "memory": "16Gi", "pods": "110"}});
        let node = json!({"metadata": {"name": name, "labels": labels}, "status": status});
        cache.set_node(&Arc::new(serde_json::from_value(node).unwrap()));
    }
    let now = tokio::time::Instant::now();
    for at in 0..pods {
        queue.update(pod(at, more), now, &listers);
    }
    let (nominator, mut start, mut decisions, began) = (Nominator::default(), 0, 0, Instant::now());
    while let Some(pod) = queue.pop(now) {
        cache.update(&mut snapshot);
        let world = World { snapshot: &snapshot, listers: &listers };
        let input = Input { pod: &pod, world, nominator: &nominator, plugins: ALL, start, tie: decisions };
        match decide(&input) {
            Decision::Node { name, evaluated } => {
                assert!(queue.decided(&pod.uid));
                cache.assume(&name, pod.clone());
                queue.remove(&pod.uid);
                start = (start + evaluated) % NODES;
            }
            other => panic!("{other:?}"),
        }
        decisions += 1;
    }
    let seconds = began.elapsed().as_secs_f64();
    println!("{what}: {pods} pods on {NODES} nodes in {seconds:.2} s, {:.0} pods/s", pods as f64 / seconds);
    assert_eq!(decisions, pods);
    cache.update(&mut snapshot);
    snapshot.nodes().iter().map(|node| node.pods.len()).max().unwrap_or_default()
}

#[test]
fn pods_a_second() {
    assert!(schedule("plain", PODS, &json!({})) <= 8);
    let spread = json!({"topologySpreadConstraints": [{
        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "web"}},
    }]});
    assert_eq!(schedule("spread over hosts", 1000, &spread), 1);
    let apart = json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}},
    ]}}});
    assert_eq!(schedule("one a host", 1000, &apart), 1);
}
