//! What pods and pod templates share: defaults, validation, the rules of change, quality of service.

pub(crate) mod affinity;
pub(crate) mod annotations;
pub(crate) mod container;
pub(crate) mod defaults;
pub(crate) mod gated;
pub(crate) mod handler;
pub(crate) mod pod_level;
pub(crate) mod qos;
pub(crate) mod resources;
pub(crate) mod security;
pub(crate) mod update;
pub(crate) mod validate;
pub(crate) mod volume;
pub(crate) mod volume_source;
pub(crate) mod warnings;

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
