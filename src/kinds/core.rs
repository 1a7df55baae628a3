//! The core group.

mod binding;
pub(crate) mod claim;
mod config_map;
mod connect;
mod endpoints;
pub(crate) mod event;
mod eviction;
mod limit_range;
mod namespace;
mod node;
mod pod;
mod pod_columns;
mod pod_status;
mod pod_template;
mod quota;
mod replication_controller;
mod secret;
pub(crate) mod service;
mod service_account;
mod service_alloc;
pub(crate) mod service_validate;
pub(crate) mod volume;

use std::sync::Arc;

use crate::Config;
use crate::columns::{name, text};
use crate::define::Extra;
use crate::json::Json;
use crate::rules::Rules;

/// What is special about a kind of this group.
pub(crate) fn extra(kind: &str, config: &Config) -> Option<Extra> {
    Some(match kind {
        "Binding" => Extra { action: Some(Arc::new(binding::Binding)), ..Extra::default() },
        "ComponentStatus" => component_status(),
        "ConfigMap" => config_map::extra(),
        "Endpoints" => endpoints::extra(),
        "Event" => event::extra(),
        "LimitRange" => limit_range::extra(),
        "Namespace" => namespace::extra(),
        "Node" => node::extra(config),
        "PersistentVolume" => volume::extra(),
        "PersistentVolumeClaim" => claim::extra(),
        "Pod" => pod::extra(config),
        "PodTemplate" => pod_template::extra(),
        "ReplicationController" => replication_controller::extra(),
        "ResourceQuota" => quota::extra(),
        "Secret" => secret::extra(),
        "Service" => service::extra(config),
        "ServiceAccount" => service_account::extra(),
        _ => return None,
    })
}

/// Deprecated since v1.19: the list is there and empty, as nothing here runs outside of the server's own health checks.
fn component_status() -> Extra {
    fn healthy(object: &api::Object, member: &str) -> String {
        let found = object.list("conditions").iter().find(|c| c.text("type") == "Healthy");
        found.map(|c| c.text(member).to_owned()).unwrap_or_default()
    }
    let columns = vec![
        name(),
        text("Status", |o, _| match healthy(o, "status").as_str() {
            "" => "Unknown".into(),
            "True" => "Healthy".into(),
            _ => "Unhealthy".into(),
        }),
        text("Message", |o, _| healthy(o, "message").into()),
        text("Error", |o, _| healthy(o, "error").into()),
    ];
    Extra::new(Rules::GENERIC, columns)
}
