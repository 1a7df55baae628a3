//! The apps group.

mod deployment;
mod replica_set;

use crate::define::Extra;

/// What is special about a kind of this group.
pub(crate) fn extra(kind: &str) -> Option<Extra> {
    Some(match kind {
        "Deployment" => deployment::extra(),
        "ReplicaSet" => replica_set::extra(),
        _ => return None,
    })
}
