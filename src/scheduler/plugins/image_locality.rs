//! `ImageLocality`: prefers nodes that hold the pod's images already.

use std::sync::Arc;

use client::k8s_openapi::api::core::v1::Pod;

use crate::cache::NodeInfo;
use crate::framework::{ClusterEvent, MAX_SCORE, Plugin, Scorer, World};
use crate::listers::Listers;
use crate::pod_info::PodInfo;

pub(super) struct ImageLocality;

/// Bounds of the sum of image sizes, in bytes, between which the score rises (upstream's thresholds).
const LEAST: i64 = 23 * 1024 * 1024;
const MOST_PER_CONTAINER: i64 = 1000 * 1024 * 1024;

struct Images {
    /// Images that some node holds, with how many nodes do.
    held: Vec<(String, i64)>,
    nodes: i64,
    containers: i64,
}

impl Plugin for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }

    fn scorer(&self, pod: &Arc<PodInfo>, _: &[Arc<NodeInfo>], world: World<'_>) -> Option<Box<dyn Scorer>> {
        let spec = pod.pod.spec.as_ref()?;
        let containers: Vec<_> = spec.init_containers.iter().flatten().chain(&spec.containers).collect();
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let images = containers.iter().filter_map(|c| c.image.as_deref()).map(normalized);
        let held: Vec<(String, i64)> = images
            .map(|image| (count(world.snapshot.nodes_with_image(&image)), image))
            .filter(|(nodes, _)| *nodes > 0)
            .map(|(nodes, image)| (image, nodes))
            .collect();
        if held.is_empty() {
            return None;
        }
        Some(Box::new(Images {
            held,
            nodes: count(world.snapshot.len()).max(1),
            containers: count(containers.len()).max(1),
        }))
    }

    fn weight(&self) -> i64 {
        1
    }

    fn wakes(&self, _: &Pod, _: &ClusterEvent, _: &Listers) -> bool {
        false
    }
}

impl Scorer for Images {
    fn score(&self, node: &NodeInfo) -> i64 {
        // An image that is everywhere says more than one that a single node happens to hold.
        let scaled = |(image, holders): &(String, i64)| {
            node.images.get(image).map_or(0, |size| size.saturating_mul(*holders) / self.nodes)
        };
        let sum: i64 = self.held.iter().map(scaled).sum();
        let most = MOST_PER_CONTAINER * self.containers;
        MAX_SCORE * (sum.clamp(LEAST, most) - LEAST) / (most - LEAST)
    }
}

/// With the tag that is meant when none is given (`normalizedImageName`).
fn normalized(image: &str) -> String {
    if image.rsplit('/').next().is_some_and(|last| last.contains(':') || last.contains('@')) {
        image.to_owned()
    } else {
        format!("{image}:latest")
    }
}
