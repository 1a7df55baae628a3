//! `ImageLocality`: prefers nodes that hold the pod's images already.

use client::k8s_openapi::api::core::v1::Pod;

use crate::cache::NodeInfo;
use crate::framework::{ClusterEvent, MAX_SCORE, Plugin, Snapshot};

pub(super) struct ImageLocality;

/// Bounds of the sum of image sizes, in bytes, between which the score rises (upstream's thresholds).
const LEAST: i64 = 23 * 1024 * 1024;
const MOST_PER_CONTAINER: i64 = 1000 * 1024 * 1024;

impl Plugin for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }

    fn score(&self, pod: &Pod, node: &NodeInfo, snapshot: &Snapshot) -> i64 {
        let Some(spec) = &pod.spec else { return 0 };
        let containers: Vec<_> = spec.init_containers.iter().flatten().chain(&spec.containers).collect();
        let nodes = i64::try_from(snapshot.len()).unwrap_or(1).max(1);
        let sum: i64 = containers
            .iter()
            .filter_map(|container| {
                let image = container.image.as_deref()?;
                let size = size_on(node, image)?;
                // An image that is everywhere says more than one that a single node happens to hold.
                let holders = snapshot.iter().filter(|other| size_on(other, image).is_some()).count();
                Some(size.saturating_mul(i64::try_from(holders).unwrap_or(1)) / nodes)
            })
            .sum();
        let most = MOST_PER_CONTAINER * i64::try_from(containers.len()).unwrap_or(1).max(1);
        MAX_SCORE * (sum.clamp(LEAST, most) - LEAST) / (most - LEAST)
    }

    fn weight(&self) -> i64 {
        1
    }

    fn wakes_on(&self, _: ClusterEvent) -> bool {
        false
    }
}

fn size_on(node: &NodeInfo, image: &str) -> Option<i64> {
    let images = node.node.as_ref()?.status.as_ref()?.images.as_ref()?;
    let tagged = if image.rsplit('/').next().is_some_and(|last| last.contains(':') || last.contains('@')) {
        image.to_owned()
    } else {
        format!("{image}:latest")
    };
    let held = images.iter().find(|held| held.names.iter().flatten().any(|name| *name == tagged))?;
    Some(held.size_bytes.unwrap_or_default())
}
