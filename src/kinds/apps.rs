//! The apps group.

mod controller_revision;
mod daemon_set;
mod deployment;
pub(crate) mod replica_set;
mod stateful_set;

use crate::define::Extra;

/// What is special about a kind of this group.
pub(crate) fn extra(kind: &str) -> Option<Extra> {
    Some(match kind {
        "ControllerRevision" => controller_revision::extra(),
        "DaemonSet" => daemon_set::extra(),
        "Deployment" => deployment::extra(),
        "ReplicaSet" => replica_set::extra(),
        "StatefulSet" => stateful_set::extra(),
        _ => return None,
    })
}
