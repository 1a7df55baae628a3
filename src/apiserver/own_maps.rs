//! ConfigMaps in `kube-system` that the API server itself keeps as they must be, whoever changes or deletes them.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use api::{Gvr, Object, Status};
use base::{Backoff, Shutdown};
use serde_json::json;

use crate::cache::WatchStart;
use crate::cache::view::Selection;
use crate::cache::watcher::Watcher;
use crate::local::MANAGER;
use crate::server::ApiServer;

const NAMESPACE: &str = "kube-system";

fn resource() -> Gvr {
    Gvr::new("", "v1", "configmaps")
}

/// Calls `settle` now and after each change of the ConfigMap, until shutdown.
pub(crate) async fn keep<F, Fut>(server: &ApiServer, name: &'static str, settle: F, shutdown: Shutdown)
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<(), Status>>,
{
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(30)).with_jitter(0.2);
    loop {
        let pass = async {
            let mut watcher = watch(server, name).await?;
            loop {
                settle().await?;
                backoff.reset();
                if watcher.receiver.recv().await.is_none() {
                    return Ok::<(), Status>(());
                }
            }
        };
        let ended = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            ended = pass => ended,
        };
        if let Err(status) = ended {
            tracing::warn!(name, error = %status, "cannot keep a ConfigMap of the API server's own");
        }
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(backoff.step()) => {}
        }
    }
}

async fn watch(server: &ApiServer, name: &str) -> Result<Watcher, Status> {
    let stored = server.served(&resource())?.stored()?.clone();
    stored.cache.fresh().await?;
    let mut selection = Selection::everything(Arc::clone(&stored.view), NAMESPACE);
    name.clone_into(&mut selection.name);
    stored.cache.watch(selection, &WatchStart::Now)
}

/// Changes the ConfigMap, or makes it.
pub(crate) async fn write(
    server: &ApiServer,
    name: &str,
    change: &(dyn for<'o> Fn(&'o mut Object) -> Result<(), Status> + Send + Sync),
) -> Result<(), Status> {
    match server.update_as(MANAGER, (&resource(), ""), NAMESPACE, name, change).await {
        Err(status) if status.is_not_found() => {}
        done => return done.map(drop),
    }
    let mut object = Object::from_value(json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": NAMESPACE, "name": name},
    }))
    .unwrap_or_default();
    change(&mut object)?;
    match server.create_as(MANAGER, &resource(), NAMESPACE, object).await {
        // Another server was first; its write is an event.
        Err(status) if status.reason == "AlreadyExists" => Ok(()),
        done => done.map(drop),
    }
}
