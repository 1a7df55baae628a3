//! The folder in which plugins announce themselves, and what the API is told about them: the CSINode object, labels and
//! an annotation of the node (upstream `kubelet/pluginmanager`, `volume/csi/nodeinfomanager`).

use std::collections::{BTreeMap, HashMap};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base::Backoff;
use client::{Patch, Resource};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::{CSINode, CSINodeDriver, CSINodeSpec, VolumeNodeResources};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde_json::{Value, json};
use tokio::net::unix::pipe;

use super::proto::{Empty, NodeGetInfoResponse, PluginInfo, RegistrationStatus};
use super::{Driver, call};
use crate::context::Context;

/// A plugin binds its socket before it listens: the first tries may fail.
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// A full look backs up the kernel's notices.
const LOOK: Duration = Duration::from_secs(300);
const NODE_ID_ANNOTATION: &str = "csi.volume.kubernetes.io/nodeid";
/// How often a write that lost against another writer is repeated.
const CONFLICTS: usize = 10;

#[derive(Debug, thiserror::Error)]
enum PluginError {
    #[error("{step}: {source}")]
    Call { step: &'static str, source: crate::grpc::GrpcError },
    #[error("cannot tell the API about the driver")]
    Api(#[from] client::Error),
    #[error("{0}")]
    Refused(String),
}

/// Follows the folder until cancelled.
pub async fn run(ctx: &Arc<Context>) {
    let folder = ctx.config.root_dir.join("plugins_registry");
    if let Err(error) = std::fs::create_dir_all(&folder) {
        tracing::warn!(path = %folder.display(), %error, "cannot make the folder of plugins: none can register");
        return;
    }
    let watcher = match watch(&folder) {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            tracing::warn!(path = %folder.display(), %error, "cannot watch the folder of plugins");
            None
        }
    };
    let mut known: HashMap<PathBuf, Driver> = HashMap::new();
    let mut backoff = Backoff::new(FIRST_RETRY, LAST_RETRY);
    loop {
        let sockets = sockets(&folder);
        let gone: Vec<PathBuf> = known.keys().filter(|path| !sockets.contains(path)).cloned().collect();
        for path in gone {
            if let Some(driver) = known.remove(&path)
                && ctx.csi.remove(&driver)
            {
                deregister(ctx, &driver).await;
            }
        }
        let mut failed = false;
        for path in sockets {
            if known.contains_key(&path) {
                continue;
            }
            match register(ctx, &path).await {
                Ok(driver) => {
                    tracing::info!(driver = driver.name, socket = %path.display(), "storage plugin registered");
                    known.insert(path, driver);
                }
                Err(error) => {
                    failed = true;
                    tracing::warn!(socket = %path.display(), error = %base::chain(&error), "cannot register a plugin");
                }
            }
        }
        let pause = if failed { backoff.step() } else { LOOK };
        if !failed {
            backoff.reset();
        }
        tokio::select! {
            biased;
            () = changed(watcher.as_ref()) => backoff.reset(),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

fn watch(folder: &Path) -> std::io::Result<pipe::Receiver> {
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    let flags = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVE | AddWatchFlags::IN_DELETE;
    inotify.add_watch(folder, flags)?;
    pipe::Receiver::from_owned_fd_unchecked(inotify.as_fd().try_clone_to_owned()?)
}

async fn changed(watcher: Option<&pipe::Receiver>) {
    match watcher {
        Some(watcher) => {
            if watcher.readable().await.is_ok() {
                let mut events = [0; 4096];
                while watcher.try_read(&mut events).is_ok_and(|n| n > 0) {}
            }
        }
        None => std::future::pending().await,
    }
}

fn sockets(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries
        .filter(|e| !e.file_name().to_string_lossy().starts_with('.'))
        .filter(|e| e.file_type().is_ok_and(|t| t.is_socket()))
        .map(|e| e.path())
        .collect();
    found.sort();
    found
}

async fn register(ctx: &Context, socket: &Path) -> Result<Driver, PluginError> {
    let at = |step| move |source| PluginError::Call { step, source };
    let info: PluginInfo = call(socket, "/pluginregistration.Registration/GetInfo", &Empty {})
        .await
        .map_err(at("failed to get plugin info using RPC GetInfo"))?;
    let result = accept(ctx, &info).await;
    let error = result.as_ref().err().map(|e| base::chain(e).to_string()).unwrap_or_default();
    let status = RegistrationStatus { plugin_registered: result.is_ok(), error };
    let told: Result<Empty, _> =
        call(socket, "/pluginregistration.Registration/NotifyRegistrationStatus", &status).await;
    let driver = result?;
    if let Err(source) = told {
        ctx.csi.remove(&driver);
        return Err(at("failed to send plugin registration status")(source));
    }
    Ok(driver)
}

async fn accept(ctx: &Context, info: &PluginInfo) -> Result<Driver, PluginError> {
    if info.kind != "CSIPlugin" {
        return Err(PluginError::Refused(format!(
            "no handler registered for plugin type: {} at socket {}",
            info.kind, info.endpoint
        )));
    }
    let supported = info.supported_versions.iter().any(|v| v.trim_start_matches('v').starts_with("1."));
    if !supported {
        return Err(PluginError::Refused(format!(
            "validation failed for CSI Driver {} at endpoint {}: none of the CSI versions reported by this driver are \
             supported",
            info.name, info.endpoint
        )));
    }
    let endpoint = PathBuf::from(&info.endpoint);
    let node: NodeGetInfoResponse = call(&endpoint, "/csi.v1.Node/NodeGetInfo", &Empty {})
        .await
        .map_err(|source| PluginError::Call { step: "error calling CSI NodeGetInfo()", source })?;
    if node.node_id.is_empty() {
        return Err(PluginError::Refused("node ID cannot be empty".to_owned()));
    }
    announce(ctx, &info.name, &node).await?;
    let driver = Driver { name: info.name.clone(), endpoint, node_id: node.node_id };
    ctx.csi.insert(driver.clone());
    Ok(driver)
}

/// Writes the driver into the node's annotation and labels, and into the CSINode object.
async fn announce(ctx: &Context, name: &str, info: &NodeGetInfoResponse) -> Result<(), PluginError> {
    let topology: BTreeMap<String, String> = info.accessible_topology.iter().flat_map(|t| t.segments.clone()).collect();
    let node: Node = ctx.client.get("", &ctx.config.node_name).await?;
    for (key, value) in &topology {
        if node.label(key).is_some_and(|old| old != value) {
            return Err(PluginError::Refused(format!(
                "detected topology value collision: driver reported {key:?}:{value:?} but existing label is {key:?}:{:?}",
                node.label(key).unwrap_or_default()
            )));
        }
    }
    let ids = node_ids(&node, |ids| {
        ids.insert(name.to_owned(), info.node_id.clone());
    });
    let patch = json!({"metadata": {"annotations": {NODE_ID_ANNOTATION: ids}, "labels": topology}});
    let _node: Node = ctx.client.patch("", &ctx.config.node_name, &Patch::Strategic(patch)).await?;
    let entry = CSINodeDriver {
        name: name.to_owned(),
        node_id: info.node_id.clone(),
        topology_keys: (!topology.is_empty()).then(|| topology.into_keys().collect()),
        allocatable: (info.max_volumes_per_node > 0)
            .then(|| VolumeNodeResources { count: Some(i32::try_from(info.max_volumes_per_node).unwrap_or(i32::MAX)) }),
    };
    update_csi_node(ctx, &node, |drivers| {
        drivers.retain(|driver| driver.name != entry.name);
        drivers.push(entry.clone());
    })
    .await
}

async fn deregister(ctx: &Context, driver: &Driver) {
    tracing::info!(driver = driver.name, "storage plugin went away");
    let work = async {
        let node: Node = ctx.client.get("", &ctx.config.node_name).await?;
        let ids = node_ids(&node, |ids| {
            ids.remove(&driver.name);
        });
        let ids = if ids == "{}" { Value::Null } else { ids.into() };
        let patch = json!({"metadata": {"annotations": {NODE_ID_ANNOTATION: ids}}});
        let _node: Node = ctx.client.patch("", &ctx.config.node_name, &Patch::Strategic(patch)).await?;
        update_csi_node(ctx, &node, |drivers| drivers.retain(|d| d.name != driver.name)).await
    };
    if let Err(error) = work.await {
        let error: PluginError = error;
        tracing::warn!(driver = driver.name, error = %base::chain(&error), "cannot take a plugin out of the API");
    }
}

/// The annotation's JSON after a change.
fn node_ids(node: &Node, change: impl FnOnce(&mut BTreeMap<String, String>)) -> String {
    let text = node.annotation(NODE_ID_ANNOTATION).unwrap_or("{}");
    let mut ids: BTreeMap<String, String> = serde_json::from_str(text).unwrap_or_default();
    change(&mut ids);
    serde_json::to_string(&ids).unwrap_or_default()
}

/// Changes the CSINode object, which is made when it is not there.
async fn update_csi_node(
    ctx: &Context,
    node: &Node,
    change: impl Fn(&mut Vec<CSINodeDriver>),
) -> Result<(), PluginError> {
    let name = &ctx.config.node_name;
    for _ in 0..CONFLICTS {
        let found: Option<CSINode> = ctx.client.get_opt("", name).await?;
        let is_new = found.is_none();
        let mut object = found.unwrap_or_else(|| new_csi_node(node));
        let before = object.spec.drivers.clone();
        change(&mut object.spec.drivers);
        if !is_new && before == object.spec.drivers {
            return Ok(());
        }
        let written = match is_new {
            true => ctx.client.create(&object).await,
            false => ctx.client.update(&object).await,
        };
        match written {
            Ok(_) => return Ok(()),
            Err(error) if error.is_conflict() || error.is_already_exists() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(PluginError::Refused(format!("CSINode {name} was changed by others {CONFLICTS} times in a row")))
}

fn new_csi_node(node: &Node) -> CSINode {
    let mut object = CSINode::default();
    object.metadata.name = node.metadata.name.clone();
    object.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node.name().to_owned(),
        uid: node.uid().to_owned(),
        ..OwnerReference::default()
    }]);
    object.spec = CSINodeSpec { drivers: Vec::new() };
    object
}
