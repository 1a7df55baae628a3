//! Pods from files on this node (upstream `kubelet/config/file.go`, `pod/mirror_client.go`): they run without the API
//! server, which gets a mirror of each.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use client::{DeleteParams, Informer, Resource};
use k8s_openapi::api::core::v1::{Node, Pod, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use sha2::{Digest, Sha256};
use std::os::fd::AsFd;
use tokio::net::unix::pipe;

use crate::context::Context;
use crate::{names, spec, workers};

/// A full look backs up the file system's events (upstream `fileCheckFrequency` is 20 s).
const LOOK: Duration = Duration::from_secs(60);
/// Editors write in several steps.
const SETTLE: Duration = Duration::from_millis(100);

/// Static pods that run, by uid.
pub type Running = HashMap<String, Arc<Pod>>;

/// Starts the pods whose manifests are there, before the API server is asked for any.
pub async fn start(ctx: &Arc<Context>) -> Running {
    let Some(folder) = &ctx.config.static_pod_dir else { return Running::new() };
    let running = read_all(ctx, folder).await;
    for pod in running.values() {
        workers::dispatch(ctx, pod.clone());
    }
    running
}

/// Follows the folder of manifests until cancelled.
pub async fn run(ctx: &Arc<Context>, mut running: Running) {
    let Some(folder) = ctx.config.static_pod_dir.clone() else {
        return ctx.shutdown.cancelled().await;
    };
    let mut watcher = watch(&folder);
    ctx.pods.synced().await;
    loop {
        let wanted = read_all(ctx, &folder).await;
        for (uid, pod) in &wanted {
            if !running.contains_key(uid) {
                tracing::info!(pod = spec::full_name(pod), "starting a static pod");
                workers::dispatch(ctx, pod.clone());
            }
        }
        for uid in running.keys().filter(|uid| !wanted.contains_key(*uid)) {
            ctx.table.gone(uid);
        }
        running = wanted;
        mirror(ctx, &ctx.pods, &running).await;
        if watcher.is_none() {
            watcher = watch(&folder);
        }
        let changed = async {
            match &watcher {
                Some(watcher) => {
                    if watcher.readable().await.is_ok() {
                        let mut events = [0; 4096];
                        while watcher.try_read(&mut events).is_ok_and(|n| n > 0) {}
                    }
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = changed => tokio::time::sleep(SETTLE).await,
            () = ctx.mirrors_changed.notified() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

fn watch(folder: &Path) -> Option<pipe::Receiver> {
    let make = || -> std::io::Result<pipe::Receiver> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let flags = AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVE | AddWatchFlags::IN_DELETE;
        inotify.add_watch(folder, flags)?;
        pipe::Receiver::from_owned_fd_unchecked(inotify.as_fd().try_clone_to_owned()?)
    };
    make().ok()
}

/// The pods of all files, by uid; a file that cannot be read is named and left out.
async fn read_all(ctx: &Context, folder: &Path) -> HashMap<String, Arc<Pod>> {
    let mut out = HashMap::new();
    let Ok(entries) = std::fs::read_dir(folder) else { return out };
    let mut files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    files.sort();
    for file in files {
        let hidden = file.file_name().and_then(|n| n.to_str()).is_none_or(|n| n.starts_with('.'));
        if hidden || !file.is_file() {
            continue;
        }
        let text = match tokio::fs::read_to_string(&file).await {
            Ok(text) => text,
            Err(error) => {
                tracing::warn!(path = %file.display(), error = %error, "cannot read a manifest");
                continue;
            }
        };
        match read(ctx, &file, &text) {
            Ok(pod) => {
                out.insert(spec::uid(&pod).to_owned(), Arc::new(pod));
            }
            Err(why) => tracing::warn!(path = %file.display(), why, "manifest is not a pod"),
        }
    }
    out
}

/// A manifest as a pod of this node (upstream `applyDefaults`).
fn read(ctx: &Context, file: &Path, text: &str) -> Result<Pod, String> {
    let value: serde_json::Value = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
    if value["kind"] != "Pod" || value["apiVersion"] != "v1" {
        return Err("it must have kind Pod and apiVersion v1".to_owned());
    }
    let mut pod = Pod::decode(value.to_string().as_bytes()).map_err(|e| e.to_string())?;
    let name = pod.metadata.name.clone().filter(|n| !n.is_empty()).ok_or("it has no name")?;
    let node = &ctx.config.node_name;
    if pod.metadata.uid.as_ref().is_none_or(String::is_empty) {
        let mut hash = Sha256::new();
        hash.update(format!("host:{node}file:{}", file.display()));
        hash.update(text);
        let digest = hash.finalize();
        pod.metadata.uid = Some(digest.iter().take(16).map(|b| format!("{b:02x}")).collect());
    }
    pod.metadata.name = Some(format!("{name}-{node}").to_lowercase());
    pod.metadata.namespace.get_or_insert_with(|| "default".to_owned());
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let notes = pod.metadata.annotations.get_or_insert_default();
    notes.insert(names::CONFIG_SOURCE.to_owned(), "file".to_owned());
    notes.insert(names::CONFIG_HASH.to_owned(), uid);
    notes.insert(names::CONFIG_SEEN.to_owned(), ctx.clock.now().to_string());
    let s = pod.spec.get_or_insert_default();
    s.node_name = Some(node.clone());
    s.restart_policy.get_or_insert_with(|| "Always".to_owned());
    s.termination_grace_period_seconds.get_or_insert(30);
    let everything = Toleration {
        operator: Some("Exists".to_owned()),
        effect: Some("NoExecute".to_owned()),
        ..Toleration::default()
    };
    s.tolerations.get_or_insert_default().push(everything);
    Ok(pod)
}

/// Brings the mirrors in the API to the static pods.
async fn mirror(ctx: &Context, pods: &Informer<Pod>, running: &HashMap<String, Arc<Pod>>) {
    let hash = |pod: &Pod| spec::annotation(pod, names::CONFIG_HASH).unwrap_or_default().to_owned();
    for existing in pods.list().iter().filter(|p| spec::is_mirror(p)) {
        let current = running
            .values()
            .any(|p| spec::name(p) == spec::name(existing) && hash(p) == hash(existing) && !spec::is_deleted(existing));
        if current {
            continue;
        }
        let options = DeleteParams::uid(spec::uid(existing)).grace(0);
        let deleted = ctx.client.delete::<Pod>(spec::namespace(existing), spec::name(existing), &options).await;
        if let Err(error) = deleted.or_else(|e| if e.is_not_found() { Ok(()) } else { Err(e) }) {
            tracing::warn!(pod = spec::full_name(existing), error = %base::chain(&error), "cannot delete a mirror pod");
        }
    }
    for pod in running.values() {
        if pods.get(spec::namespace(pod), spec::name(pod)).is_some_and(|m| hash(&m) == hash(pod)) {
            continue;
        }
        let mut mirror = (**pod).clone();
        mirror.metadata.uid = None;
        mirror.status = None;
        let notes = mirror.metadata.annotations.get_or_insert_default();
        notes.insert(names::CONFIG_MIRROR.to_owned(), hash(pod));
        if let Ok(node) = ctx.client.get::<Node>("", &ctx.config.node_name).await {
            mirror.metadata.owner_references = Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Node".to_owned(),
                name: ctx.config.node_name.clone(),
                uid: node.metadata.uid.unwrap_or_default(),
                controller: Some(true),
                ..OwnerReference::default()
            }]);
        }
        match ctx.client.create(&mirror).await {
            Ok(_) => {}
            Err(error) if error.is_already_exists() => {}
            Err(error) => {
                tracing::warn!(pod = spec::full_name(pod), error = %base::chain(&error), "cannot create a mirror pod");
            }
        }
    }
}
