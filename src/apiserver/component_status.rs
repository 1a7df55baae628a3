//! ComponentStatus: how the parts of the control plane are, asked when somebody wants to know; nothing of it is stored
//! (kubernetes `pkg/registry/core/componentstatus`).
//!
//! The scheduler and the controllers are part of this process. Where they were switched off, somebody else's lead: those
//! are well as long as they renew their Lease.

use std::sync::Arc;

use api::{GroupResource, Status};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::cache::entry::Entry;
use crate::health;
use crate::served::Served;
use crate::server::ApiServer;

/// Parts by the names of their status, each with the Lease of its leader.
const LED: [(&str, &str); 2] = [("controller-manager", "kube-controller-manager"), ("scheduler", "kube-scheduler")];
const STORE: &str = "etcd-0";

/// Whether the resource is this one.
pub fn serves(served: &Served) -> bool {
    served.def.custom.is_none() && served.def.gvk.group.is_empty() && served.def.resource == "componentstatuses"
}

/// The status of `name`.
pub async fn get(server: &ApiServer, served: &Served, name: &str) -> Result<Arc<Entry>, Status> {
    let found = LED.into_iter().find(|(part, _)| *part == name);
    let checked = match found {
        Some((_, lease)) => led(server, lease),
        None if name == STORE => health::store(server).await,
        // In upstream's words, which are not those of the resource.
        None => return Err(Status::not_found(&GroupResource::new("", "componentstatus"), name)),
    };
    entry(served, name, &checked)
}

/// Every part's.
pub async fn list(server: &ApiServer, served: &Served) -> Result<Vec<Arc<Entry>>, Status> {
    let mut entries = Vec::with_capacity(LED.len() + 1);
    for (name, lease) in LED {
        entries.push(entry(served, name, &led(server, lease))?);
    }
    entries.push(entry(served, STORE, &health::store(server).await)?);
    Ok(entries)
}

fn entry(served: &Served, name: &str, checked: &Result<(), String>) -> Result<Arc<Entry>, Status> {
    let condition = match checked {
        Ok(()) => json!({"type": "Healthy", "status": "True", "message": "ok"}),
        Err(why) => json!({"type": "Healthy", "status": "False", "message": why}),
    };
    let gvk = &served.def.gvk;
    let object = json!({
        "kind": gvk.kind, "apiVersion": gvk.api_version(), "metadata": {"name": name}, "conditions": [condition],
    });
    let entry = Entry::new(&served.key("", name), object.to_string().as_bytes(), 0);
    entry.map(Arc::new).ok_or_else(|| Status::internal(format_args!("cannot make the status of {name}")))
}

/// Whether a part works: here, or elsewhere under its Lease.
fn led(server: &ApiServer, lease: &str) -> Result<(), String> {
    if server.runs(lease) {
        return Ok(());
    }
    let leases = server.table.load().find("coordination.k8s.io", "v1", "leases").cloned();
    let found = leases.and_then(|leases| {
        let stored = leases.stored().ok()?;
        stored.cache.get(&leases.key("kube-system", lease))?.object().ok()
    });
    let spec = found.as_ref().map_or(&Value::Null, |lease| &lease.0["spec"]);
    match renewed_until(spec) {
        Some(until) if server.clock.now() <= until => Ok(()),
        Some(until) => Err(format!("{lease} has not renewed its Lease, which ended at {until}")),
        None => Err(format!("{lease} does not run here, and nobody holds its Lease")),
    }
}

/// When a held Lease ends.
fn renewed_until(spec: &Value) -> Option<Timestamp> {
    spec["holderIdentity"].as_str().filter(|holder| !holder.is_empty())?;
    let renewed: Timestamp = spec["renewTime"].as_str()?.parse().ok()?;
    renewed.checked_add(SignedDuration::from_secs(spec["leaseDurationSeconds"].as_i64()?)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_ends_after_its_duration() {
        let check = |spec: Value, wanted: Option<&str>| {
            assert_eq!(renewed_until(&spec).map(|until| until.to_string()).as_deref(), wanted, "{spec}");
        };
        let renewed = "2026-01-01T00:00:00.500000Z";
        check(
            json!({"holderIdentity": "a", "renewTime": renewed, "leaseDurationSeconds": 15}),
            Some("2026-01-01T00:00:15.5Z"),
        );
        check(json!({"holderIdentity": "", "renewTime": renewed, "leaseDurationSeconds": 15}), None);
        check(json!({"holderIdentity": "a", "leaseDurationSeconds": 15}), None);
        check(json!({"holderIdentity": "a", "renewTime": renewed, "leaseDurationSeconds": i64::MAX}), None);
        check(Value::Null, None);
    }
}
