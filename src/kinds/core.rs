//! The core group.

mod binding;
pub(crate) mod claim;
mod config_map;
mod connect;
mod eviction;
mod namespace;
mod node;
mod pod;
mod pod_columns;
mod secret;
pub(crate) mod service;
mod service_account;
mod service_alloc;
mod service_validate;

use crate::Config;
use crate::define::Extra;

/// What is special about a kind of this group.
pub(crate) fn extra(kind: &str, config: &Config) -> Option<Extra> {
    Some(match kind {
        "Binding" => Extra { action: Some(std::sync::Arc::new(binding::Binding)), ..Extra::default() },
        "ConfigMap" => config_map::extra(),
        "Namespace" => namespace::extra(),
        "Node" => node::extra(config),
        "PersistentVolumeClaim" => claim::extra(),
        "Pod" => pod::extra(config),
        "Secret" => secret::extra(),
        "Service" => service::extra(config),
        "ServiceAccount" => service_account::extra(),
        _ => return None,
    })
}
