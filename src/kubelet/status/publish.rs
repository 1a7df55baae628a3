//! Sending a pod's status to the API server: only what changed, only what the node agent owns.
//!
//! A strategic merge patch, as upstream's status manager sends (`status_manager.go` `syncPod`), so that conditions of
//! other writers stay.

use client::{Client, Patch, Resource};
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Map, Value, json};

use super::conditions::OWNED;
use crate::spec;

/// Fields of the status that the node agent owns, apart from the conditions.
const FIELDS: &[&str] = &[
    "phase",
    "reason",
    "message",
    "startTime",
    "hostIP",
    "podIP",
    "qosClass",
    "observedGeneration",
    "initContainerStatuses",
    "containerStatuses",
    "ephemeralContainerStatuses",
];

/// Lists merged by `ip`, which must be replaced whole.
const ADDRESS_LISTS: &[&str] = &["hostIPs", "podIPs"];

/// What the API server is known to have.
#[derive(Default)]
pub struct Published {
    /// The newest of what the informer showed and what our own patches returned.
    newest: Option<(u64, PodStatus)>,
}

fn revision(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
}

impl Published {
    /// Takes note of a version of the pod, unless a newer one is known.
    pub fn note(&mut self, pod: &Pod) {
        let revision = revision(pod);
        if self.newest.as_ref().is_none_or(|(known, _)| *known <= revision) {
            self.newest = Some((revision, pod.status.clone().unwrap_or_default()));
        }
    }

    /// Brings the API server's status to `desired`. Returns whether anything had to be sent.
    pub async fn publish(&mut self, client: &Client, pod: &Pod, desired: &PodStatus) -> Result<bool, client::Error> {
        let base = self.newest.as_ref().map(|(_, status)| status.clone()).unwrap_or_default();
        let Some(patch) = patch(spec::uid(pod), &base, desired) else { return Ok(false) };
        let updated: Pod = client.patch_status(spec::namespace(pod), spec::name(pod), &Patch::Strategic(patch)).await?;
        self.newest = Some((revision(&updated), updated.status.unwrap_or_default()));
        Ok(true)
    }
}

fn to_value(status: &PodStatus) -> Map<String, Value> {
    let pod = Pod { metadata: ObjectMeta::default(), status: Some(status.clone()), ..Pod::default() };
    // Our own encoding of a status is always an object.
    let value = pod.encode().and_then(|bytes| serde_json::from_slice::<Value>(&bytes));
    match value.map(|mut value| value["status"].take()) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

/// The patch from `base` to `desired`, or `None` when they agree.
pub fn patch(uid: &str, base: &PodStatus, desired: &PodStatus) -> Option<Value> {
    let (old, mut new) = (to_value(base), to_value(desired));
    let mut changes = Map::new();
    for field in FIELDS {
        let value = new.remove(*field);
        if old.get(*field) != value.as_ref() {
            changes.insert((*field).to_owned(), value.unwrap_or(Value::Null));
        }
    }
    for field in ADDRESS_LISTS {
        let value = new.remove(*field);
        if old.get(*field) == value.as_ref() {
            continue;
        }
        let mut list = match value {
            Some(Value::Array(list)) => list,
            _ => Vec::new(),
        };
        list.push(json!({"$patch": "replace"}));
        changes.insert((*field).to_owned(), Value::Array(list));
    }
    let conditions = condition_changes(base, desired, new.remove("conditions"));
    if !conditions.is_empty() {
        changes.insert("conditions".to_owned(), Value::Array(conditions));
    }
    (!changes.is_empty()).then(|| json!({"metadata": {"uid": uid}, "status": changes}))
}

fn condition_changes(base: &PodStatus, desired: &PodStatus, encoded: Option<Value>) -> Vec<Value> {
    let owned = |c: &PodCondition| OWNED.contains(&c.type_.as_str()) || c.type_ == "DisruptionTarget";
    let old: Vec<&PodCondition> = base.conditions.iter().flatten().filter(|c| owned(c)).collect();
    let encoded = match encoded {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    let new = desired.conditions.iter().flatten();
    let mut changes: Vec<Value> = new
        .clone()
        .zip(encoded)
        .filter(|(c, _)| owned(c) && !old.contains(c))
        .map(|(_, value)| value)
        .map(|mut value| {
            // A strategic merge keeps what is not named: what went away is named as null.
            let map = value.as_object_mut();
            if let Some(map) = map {
                for key in ["reason", "message"] {
                    map.entry(key).or_insert(Value::Null);
                }
            }
            value
        })
        .collect();
    for gone in old.iter().filter(|o| o.type_ != "DisruptionTarget" && !new.clone().any(|c| c.type_ == o.type_)) {
        changes.push(json!({"$patch": "delete", "type": gone.type_}));
    }
    changes
}
