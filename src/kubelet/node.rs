//! The node's own object: registration, status, heartbeat.
//!
//! Follows upstream's `kubelet_node_status.go`, `nodestatus/setters.go` and `nodelease`. The heartbeat is the Lease; the
//! node's status is sent only when something changed, or once in five minutes.

pub mod build;

use std::sync::Arc;
use std::time::Duration;

use base::Backoff;
use client::{EventType, Patch, Resource};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Node, NodeCondition, NodeStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference, Time};
use serde_json::{Map, Value, json};

use crate::context::Context;
use crate::status::seconds;

const LEASE_NAMESPACE: &str = "kube-node-lease";
/// How often the node's conditions are looked at.
const LOOK: Duration = Duration::from_secs(10);
/// How often everything else is: images, versions, resources.
const FULL_LOOK: Duration = Duration::from_secs(60);
/// How often while the node is not ready yet.
const LOOK_NOT_READY: Duration = Duration::from_millis(200);

/// Registers the node and keeps its status and lease up to date, until cancelled.
pub async fn run(ctx: &Arc<Context>) {
    ctx.events.node(EventType::Normal, "Starting", "Starting kubelet.");
    let node = register(ctx).await;
    tokio::join!(keep_status(ctx, node.clone()), keep_lease(ctx, &node));
}

/// Creates the node, or brings the one that is there up to date.
async fn register(ctx: &Context) -> Node {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(7)).with_jitter(0.1);
    loop {
        let wanted = build::node(ctx, build::conditions(ctx, None).await).await;
        match create_or_adopt(ctx, &wanted).await {
            Ok(node) => return node,
            Err(error) => {
                tracing::warn!(node = ctx.config.node_name, error = %base::chain(&error), "cannot register the node");
                tokio::time::sleep(backoff.step()).await;
            }
        }
    }
}

async fn create_or_adopt(ctx: &Context, wanted: &Node) -> Result<Node, client::Error> {
    match ctx.client.create(wanted).await {
        Err(error) if error.is_already_exists() => {}
        other => return other,
    }
    let existing: Node = ctx.client.get("", &ctx.config.node_name).await?;
    let old = existing.metadata.labels.clone().unwrap_or_default();
    let changed: Map<String, Value> = wanted
        .metadata
        .labels
        .iter()
        .flatten()
        .filter(|(k, v)| old.get(*k) != Some(*v))
        .map(|(k, v)| (k.clone(), json!(v)))
        .collect();
    if changed.is_empty() {
        return Ok(existing);
    }
    let patch = Patch::Strategic(json!({"metadata": {"labels": changed}}));
    ctx.client.patch("", &ctx.config.node_name, &patch).await
}

/// Sends the status when it changed.
async fn keep_status(ctx: &Arc<Context>, mut node: Node) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10)).with_jitter(0.1);
    let mut reported: Option<tokio::time::Instant> = None;
    let mut looked: Option<tokio::time::Instant> = None;
    let mut was_ready: Option<bool> = None;
    loop {
        let old = node.status.clone().unwrap_or_default();
        let conditions = build::conditions(ctx, Some(&old)).await;
        let due = reported.is_none_or(|at| at.elapsed() >= ctx.config.node_status_report);
        let in_use = Some(ctx.csi.in_use()).filter(|list| !list.is_empty());
        let mut wanted = NodeStatus { conditions: Some(conditions), volumes_in_use: in_use, ..old.clone() };
        if due || looked.is_none_or(|at| at.elapsed() >= FULL_LOOK) || differs(&old, &wanted) {
            wanted = build::node(ctx, wanted.conditions.unwrap_or_default()).await.status.unwrap_or_default();
            looked = Some(tokio::time::Instant::now());
        }
        let ready = is_ready(&wanted);
        if due || differs(&old, &wanted) {
            match send(ctx, &old, &wanted).await {
                Ok(updated) => {
                    node = updated;
                    reported = Some(tokio::time::Instant::now());
                    backoff.reset();
                }
                Err(error) if error.is_not_found() => {
                    tracing::warn!(node = ctx.config.node_name, "the node was deleted: registering it again");
                    node = register(ctx).await;
                    continue;
                }
                Err(error) => {
                    tracing::warn!(error = %base::chain(&error), "cannot update the node's status");
                    tokio::time::sleep(backoff.step()).await;
                    continue;
                }
            }
        }
        if was_ready != Some(ready) {
            let name = &ctx.config.node_name;
            let reason = if ready { "NodeReady" } else { "NodeNotReady" };
            ctx.events.node(EventType::Normal, reason, &format!("Node {name} status is now: {reason}"));
            was_ready = Some(ready);
        }
        tokio::select! {
            () = ctx.node_changed.notified() => {}
            () = tokio::time::sleep(if ready { LOOK } else { LOOK_NOT_READY }) => {}
        }
    }
}

fn is_ready(status: &NodeStatus) -> bool {
    status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Whether anything but heartbeat times differs.
fn differs(old: &NodeStatus, new: &NodeStatus) -> bool {
    let strip = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        // Others write these.
        status.volumes_attached = None;
        status.phase = None;
        status.config = None;
        let mut conditions = status.conditions.take().unwrap_or_default();
        conditions.retain(|c| build::OWNED.contains(&c.type_.as_str()));
        conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
        (status, conditions)
    };
    strip(old) != strip(new)
}

async fn send(ctx: &Context, old: &NodeStatus, new: &NodeStatus) -> Result<Node, client::Error> {
    let (old, new) = (encode(old), encode(new));
    let mut changes = Map::new();
    let new_has_volumes = new.contains_key("volumesInUse");
    for (key, value) in new {
        if old.get(&key) == Some(&value) {
            continue;
        }
        let value = match (key.as_str(), value) {
            // Merged by type: addresses that are gone must go.
            ("addresses", Value::Array(mut list)) => {
                list.push(json!({"$patch": "replace"}));
                Value::Array(list)
            }
            (_, value) => value,
        };
        changes.insert(key, value);
    }
    if old.contains_key("volumesInUse") && !new_has_volumes {
        changes.insert("volumesInUse".to_owned(), Value::Null);
    }
    let patch = Patch::Strategic(json!({"status": changes}));
    ctx.client.patch_status("", &ctx.config.node_name, &patch).await
}

fn encode(status: &NodeStatus) -> Map<String, Value> {
    let node = Node { status: Some(status.clone()), ..Node::default() };
    let value = node.encode().and_then(|bytes| serde_json::from_slice::<Value>(&bytes));
    match value.map(|mut value| value["status"].take()) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

/// Renews the node's lease every quarter of its life.
async fn keep_lease(ctx: &Context, node: &Node) {
    let period = ctx.config.lease_duration / 4;
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(7)).with_jitter(0.1);
    let mut known: Option<Lease> = None;
    loop {
        match renew(ctx, node, known.take()).await {
            Ok(lease) => {
                known = Some(lease);
                backoff.reset();
                // A little jitter, so that many nodes do not write at once (upstream wait.JitterUntil 0.04).
                tokio::time::sleep(period.mul_f64(1.0 + 0.04 * rand::random::<f64>())).await;
            }
            Err(error) => {
                if !error.is_conflict() && !error.is_not_found() {
                    tracing::warn!(error = %base::chain(&error), "cannot renew the node's lease");
                }
                tokio::time::sleep(backoff.step()).await;
            }
        }
    }
}

async fn renew(ctx: &Context, node: &Node, known: Option<Lease>) -> Result<Lease, client::Error> {
    let name = &ctx.config.node_name;
    let now = MicroTime(ctx.clock.now());
    let mut lease = match known {
        Some(lease) => lease,
        None => match ctx.client.get_opt::<Lease>(LEASE_NAMESPACE, name).await? {
            Some(lease) => lease,
            None => return ctx.client.create(&new_lease(ctx, node, now)).await,
        },
    };
    lease.spec.get_or_insert_default().renew_time = Some(now);
    ctx.client.update(&lease).await
}

fn new_lease(ctx: &Context, node: &Node, now: MicroTime) -> Lease {
    let name = &ctx.config.node_name;
    let mut lease = Lease::default();
    lease.metadata.name = Some(name.clone());
    lease.metadata.namespace = Some(LEASE_NAMESPACE.to_owned());
    lease.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: name.clone(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        ..OwnerReference::default()
    }]);
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(name.clone()),
        lease_duration_seconds: i32::try_from(ctx.config.lease_duration.as_secs()).ok(),
        renew_time: Some(now),
        ..LeaseSpec::default()
    });
    lease
}

/// A condition, with the time of its last change kept.
pub(crate) fn condition(
    ctx: &Context,
    old: Option<&NodeStatus>,
    type_: &str,
    status: bool,
    (reason, message): (&str, String),
) -> NodeCondition {
    let now = Time(seconds(ctx.clock.now()));
    let status = if status { "True" } else { "False" };
    let before = old.and_then(|o| o.conditions.iter().flatten().find(|c| c.type_ == type_));
    let since = before.filter(|c| c.status == status).and_then(|c| c.last_transition_time.clone());
    NodeCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_heartbeat_time: Some(now.clone()),
        last_transition_time: since.or(Some(now)),
    }
}
