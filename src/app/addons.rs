//! YAML dropped into `<data-dir>/manifests` is applied: at start and whenever a file changes.
//!
//! Objects are applied on the server side, by force, as field manager `skiff-addons`. Removing a file removes nothing.
//! Told by inotify; a file that cannot be applied yet (its CRD or namespace is not there) is tried again with back-off.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

use api::Object;
use base::{Backoff, Shutdown};
use client::client::resource_path;
use client::{Client, Error, Patch};
use http::Method;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde_json::Value;
use tokio::io::unix::AsyncFd;

use crate::sys::{self, Watcher};

/// Writes of one file come as several events; they are taken together.
const SETTLE: Duration = Duration::from_millis(200);

/// Why a file was not applied.
#[derive(Debug, thiserror::Error)]
enum AddonError {
    #[error("cannot read {0}")]
    Read(PathBuf, #[source] std::io::Error),
    #[error("{0} is not valid YAML: {1}")]
    Yaml(PathBuf, String),
    #[error("the server does not know {0} yet")]
    UnknownKind(String),
    #[error("cannot apply {0}")]
    Apply(String, #[source] Error),
}

/// Applies until `shutdown`.
pub async fn run(dir: PathBuf, client: Client, shutdown: Shutdown) {
    let watch = match watch(&dir) {
        Ok(watch) => watch,
        Err(error) => {
            tracing::error!(dir = %dir.display(), %error, "cannot watch the manifests; changes are seen at the next start");
            return;
        }
    };
    // Content that is applied already, by file.
    let mut applied: BTreeMap<PathBuf, String> = BTreeMap::new();
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(120));
    loop {
        let complete = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            complete = pass(&dir, &client, &mut applied) => complete,
        };
        let retry = if complete {
            backoff.reset();
            None
        } else {
            Some(backoff.step())
        };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            result = changed(&watch) => {
                if let Err(error) = result {
                    tracing::error!(%error, "cannot watch the manifests any longer");
                    return;
                }
                tokio::time::sleep(SETTLE).await;
            }
            () = async { match retry { Some(delay) => tokio::time::sleep(delay).await, None => std::future::pending().await } } => {}
        }
    }
}

pub(crate) fn watch(dir: &Path) -> std::io::Result<AsyncFd<Watcher>> {
    std::fs::create_dir_all(dir)?;
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    let removed = AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM;
    inotify.add_watch(dir, AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO | removed)?;
    sys::register(inotify)
}

pub(crate) async fn changed(watch: &AsyncFd<Watcher>) -> std::io::Result<()> {
    loop {
        let mut guard = watch.readable().await?;
        match guard.try_io(|inotify| inotify.get_ref().take()) {
            Ok(taken) => return taken,
            Err(_would_block) => {}
        }
    }
}

/// Applies every file that is new or changed; `false` if one must be tried again.
async fn pass(dir: &Path, client: &Client, applied: &mut BTreeMap<PathBuf, String>) -> bool {
    let mut files: Vec<PathBuf> = match std::fs::read_dir(dir) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(error) => {
            tracing::warn!(dir = %dir.display(), %error, "cannot list the manifests");
            return false;
        }
    };
    files.retain(|path| path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json"));
    files.sort();
    let mut complete = true;
    let mut resources = HashMap::new();
    for path in files {
        if path.with_extension("yaml.skip").exists() {
            continue;
        }
        let result = async {
            let text = std::fs::read_to_string(&path).map_err(|e| AddonError::Read(path.clone(), e))?;
            if applied.get(&path) == Some(&text) {
                return Ok(false);
            }
            for object in documents(&path, &text)? {
                apply(client, &object, &mut resources).await?;
            }
            applied.insert(path.clone(), text);
            Ok::<_, AddonError>(true)
        }
        .await;
        match result {
            Ok(true) => tracing::info!(file = %path.display(), "applied"),
            Ok(false) => {}
            Err(error @ AddonError::Yaml(..)) => {
                // Waits for the file to change; trying again would not help.
                tracing::warn!(file = %path.display(), error = %base::chain(&error), "manifest not applied");
            }
            Err(error) => {
                tracing::warn!(file = %path.display(), error = %base::chain(&error), "manifest not applied yet");
                complete = false;
            }
        }
    }
    complete
}

/// The objects of a file: several documents, lists taken apart, empty documents left out.
fn documents(path: &Path, text: &str) -> Result<Vec<Object>, AddonError> {
    let values: Vec<Value> =
        serde_saphyr::from_multiple(text).map_err(|e| AddonError::Yaml(path.to_owned(), e.to_string()))?;
    let mut objects = Vec::new();
    for value in values {
        let Some(object) = Object::from_value(value) else { continue };
        if object.kind() == "List" {
            objects.extend(object.array(&["items"]).iter().cloned().filter_map(Object::from_value));
        } else if !object.kind().is_empty() {
            objects.push(object);
        }
    }
    Ok(objects)
}

/// Resource name and scope of kinds seen so far.
type Resources = HashMap<(String, String), (String, bool)>;

async fn apply(client: &Client, object: &Object, resources: &mut Resources) -> Result<(), AddonError> {
    let what = format!("{} {}", object.kind(), object.key());
    let key = (object.api_version().to_owned(), object.kind().to_owned());
    let (resource, namespaced) = match resources.get(&key) {
        Some(known) => known.clone(),
        None => {
            let found = look_up(client, &key.0, &key.1)
                .await
                .map_err(|e| AddonError::Apply(what.clone(), e))?
                .ok_or_else(|| AddonError::UnknownKind(format!("{} {}", key.0, key.1)))?;
            resources.insert(key.clone(), found.clone());
            found
        }
    };
    let namespace = match (namespaced, object.namespace()) {
        (false, _) => "",
        (true, "") => "default",
        (true, namespace) => namespace,
    };
    let (group, version) = key.0.split_once('/').unwrap_or(("", &key.0));
    let path = resource_path(group, version, &resource, namespace, object.name(), "");
    let patch = Patch::Apply { manager: "skiff-addons".to_owned(), force: true, object: object.clone().into_value() };
    client.send_patch(&path, &patch).await.map_err(|e| AddonError::Apply(what, e))?;
    Ok(())
}

/// Asks discovery for the resource of a kind.
async fn look_up(client: &Client, api_version: &str, kind: &str) -> Result<Option<(String, bool)>, Error> {
    let path = if api_version.contains('/') { format!("/apis/{api_version}") } else { format!("/api/{api_version}") };
    let bytes = match client.raw(Method::GET, &path, "", Vec::new()).await {
        Ok(bytes) => bytes,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error),
    };
    let list: Value = serde_json::from_slice(&bytes).map_err(Error::Decode)?;
    let found = list["resources"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|r| r["kind"] == kind && r["name"].as_str().is_some_and(|name| !name.contains('/')));
    Ok(found.and_then(|r| Some((r["name"].as_str()?.to_owned(), r["namespaced"].as_bool()?))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_may_hold_documents_and_lists() {
        let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n---\n# nothing\n---\napiVersion: v1\nkind: List\n\
                    items:\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: b}}\n";
        let names: Vec<String> =
            documents(Path::new("x.yaml"), text).unwrap().iter().map(|o| o.name().to_owned()).collect();
        assert_eq!(names, ["a", "b"]);
        assert!(documents(Path::new("x.yaml"), "a: [").is_err());
    }
}
