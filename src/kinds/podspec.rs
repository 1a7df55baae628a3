//! What pods and pod templates share: defaults, validation, the rules of change, quality of service.

pub(crate) mod affinity;
pub(crate) mod annotations;
pub(crate) mod container;
pub(crate) mod defaults;
pub(crate) mod gated;
pub(crate) mod handler;
pub(crate) mod overlaps;
pub(crate) mod pod_level;
pub(crate) mod qos;
pub(crate) mod resources;
pub(crate) mod security;
pub(crate) mod update;
pub(crate) mod validate;
pub(crate) mod volume;
pub(crate) mod volume_source;
pub(crate) mod warnings;
pub(crate) mod windows;

use api::field::Path;
use serde_json::Value;

use crate::json::Json;

/// Whether an init container is a sidecar (`restartPolicy: Always`).
pub(crate) fn is_sidecar(container: &Value) -> bool {
    container.text("restartPolicy") == "Always"
}

/// Containers, init containers and ephemeral containers, in upstream's visiting order (`VisitContainers`).
pub(crate) fn all_containers(spec: &Value) -> impl Iterator<Item = &Value> {
    spec.list("initContainers").iter().chain(spec.list("containers")).chain(spec.list("ephemeralContainers"))
}

/// The same with the paths of each below that of the spec (`VisitContainersWithPath`).
pub(crate) fn containers_at<'v>(at: &Path, spec: &'v Value) -> Vec<(Path, &'v Value)> {
    let of = |list: &str| {
        let at = at.child(list);
        spec.list(list).iter().enumerate().map(move |(i, c)| (at.index(i), c)).collect::<Vec<_>>()
    };
    ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(of).collect()
}
