//! Deletion of namespaces: first what is in them, then they themselves (`pkg/controller/namespace`).

mod conditions;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::names::ObjectKey;
use async_trait::async_trait;
use client::{DeleteParams, Event, Informer, Resource, WorkQueue};
use http::Method;
use k8s_openapi::api::core::v1::{Namespace, Pod};

use crate::discovery::{self, ApiResource};
use crate::error::Error;
use crate::harness::{Context, Parts, Reconcile, all_synced, current, key_of, synced};
use crate::{metadata, pods};
use conditions::Conditions;

const FINALIZER: &str = "kubernetes";
const WORKERS: usize = 10;
/// Requests that were admitted before the namespace began to terminate have landed by then. Upstream waits for 5 s, for
/// API servers whose caches are behind.
const SETTLE: Duration = Duration::from_secs(2);
/// What content with finalizers is given before the next look (`finalizerEstimateSeconds`).
const FINALIZER_ESTIMATE_SECONDS: i64 = 15;

pub(crate) fn start(context: Context) {
    let namespaces = context.informers.informer::<Namespace>();
    let pods = context.informers.informer::<Pod>();
    // Upstream's limiter for this controller: 5 ms up to 60 s.
    let queue = WorkQueue::with_backoff(Duration::from_millis(5), Duration::from_secs(60));
    let add_all = Context::add_all(&namespaces, &queue);
    context.feed(&namespaces, &add_all, {
        let queue = queue.clone();
        move |event| {
            let Some(namespace) = current(event) else { return };
            // Its own writes come back as updates: only what was not terminating before is news.
            let known = matches!(event, Event::Updated { old, .. } if old.is_deleting());
            if namespace.is_deleting() && !known && !matches!(event, Event::Deleted(_)) {
                queue.add_after(key_of(&**namespace), SETTLE);
            }
        }
    });
    // The last pod's end is what a terminating namespace usually waits for.
    context.feed(&pods, &add_all, {
        let (namespaces, pods, queue) = (namespaces.clone(), pods.clone(), queue.clone());
        move |event| {
            if let Event::Deleted(pod) = event
                && namespaces.get("", pod.namespace()).is_some_and(|n| n.is_deleting())
                && pods.namespace(pod.namespace()).is_empty()
            {
                queue.add(ObjectKey::new("", pod.namespace()));
            }
        }
    });
    let ready = all_synced(vec![synced(&namespaces), synced(&pods)]);
    let reconciler = Arc::new(Reconciler { namespaces, pods, queue: queue.clone(), context: context.parts() });
    context.work(reconciler, queue, WORKERS, ready);
}

struct Reconciler {
    namespaces: Informer<Namespace>,
    pods: Informer<Pod>,
    queue: WorkQueue<ObjectKey>,
    context: Parts,
}

/// What is left of one resource.
#[derive(Default)]
struct Left {
    count: usize,
    finalizers: BTreeMap<String, usize>,
    estimate_seconds: i64,
}

#[async_trait]
impl Reconcile for Reconciler {
    /// `namespacedResourcesDeleter.Delete`.
    async fn reconcile(&self, key: &ObjectKey) -> Result<(), Error> {
        if self.namespaces.get("", &key.name).is_none_or(|n| !n.is_deleting()) {
            return Ok(());
        }
        let Some(mut namespace) = self.context.client.get_opt::<Namespace>("", &key.name).await? else { return Ok(()) };
        if !namespace.is_deleting() {
            return Ok(());
        }
        let status = namespace.status.get_or_insert_default();
        if status.phase.as_deref() != Some("Terminating") {
            status.phase = Some("Terminating".to_owned());
            namespace = self.context.client.update_status(&namespace).await?;
        }
        if namespace.spec.as_ref().and_then(|s| s.finalizers.as_ref()).is_none_or(Vec::is_empty) {
            return Ok(());
        }
        let (estimate, failure) = self.delete_content(&mut namespace).await?;
        if estimate > 0 {
            let seconds = u64::try_from(estimate / 2 + 1).unwrap_or(1);
            self.queue.add_after(key.clone(), Duration::from_secs(seconds));
            return Ok(());
        }
        if let Some(error) = failure {
            return Err(error);
        }
        self.finalize(namespace).await
    }
}

impl Reconciler {
    /// Returns an estimate of the seconds until the rest is gone, and what went wrong.
    async fn delete_content(&self, namespace: &mut Namespace) -> Result<(i64, Option<Error>), Error> {
        let found = discovery::discover(&self.context.client).await?;
        let mut conditions = Conditions::default();
        conditions.discovery_failed(&found.failures);
        let deletable = found.preferred.iter().filter(|r| r.namespaced && r.can(&["delete"]));
        let (pods, others): (Vec<_>, Vec<_>) =
            deletable.cloned().partition(|r| r.group.is_empty() && r.resource == "pods");
        let mut estimate = 0;
        let mut failures = Vec::new();
        let mut rest: Vec<(Arc<ApiResource>, Left)> = Vec::new();
        // Pods first: what they use must outlive them.
        for resource in pods.iter().chain(&others) {
            let is_pods = resource.group.is_empty() && resource.resource == "pods";
            match self.delete_resource(resource, namespace, is_pods).await {
                Ok(left) => {
                    estimate = estimate.max(left.estimate_seconds);
                    if left.count > 0 {
                        if left.estimate_seconds == 0 {
                            failures.push(Error::Remaining {
                                namespace: namespace.name().to_owned(),
                                group: resource.group.clone(),
                                version: resource.version.clone(),
                                resource: resource.resource.clone(),
                            });
                        }
                        rest.push((Arc::clone(resource), left));
                        if is_pods {
                            break;
                        }
                    }
                }
                Err(error) => failures.push(error.into()),
            }
        }
        conditions.content_failed(&failures);
        conditions.remaining(&rest.iter().map(|(r, left)| (&**r, left.count, &left.finalizers)).collect::<Vec<_>>());
        if conditions.apply(namespace, self.context.clock.now()) {
            *namespace = self.context.client.update_status(namespace).await?;
        }
        if failures.is_empty() && !found.failures.is_empty() {
            failures.push(Error::NotYet("an API group to be discovered"));
        }
        Ok((estimate, failures.into_iter().next()))
    }

    async fn delete_resource(
        &self,
        resource: &ApiResource,
        namespace: &Namespace,
        is_pods: bool,
    ) -> Result<Left, client::Error> {
        let client = &self.context.client;
        let path = resource.path(namespace.name(), "");
        if !resource.can(&["list"]) {
            self.delete_collection(resource, &path).await?;
            return Ok(Left::default());
        }
        let items = match metadata::list(client, &path).await {
            Ok(items) => items,
            Err(error) if error.is_not_found() || error.is_method_not_supported() => return Ok(Left::default()),
            Err(error) => return Err(error),
        };
        if items.is_empty() {
            return Ok(Left::default());
        }
        let graceful = if is_pods { self.pods_estimate(namespace) } else { 0 };
        if !self.delete_collection(resource, &path).await? {
            let body = serde_json::to_vec(&DeleteParams::background().body()).map_err(client::Error::Decode)?;
            for item in &items {
                let path = resource.path(namespace.name(), &item.name);
                match client.raw(Method::DELETE, &path, "application/json", body.clone()).await {
                    Err(error) if !error.is_not_found() && !error.is_method_not_supported() => return Err(error),
                    _ => {}
                }
            }
        }
        let items = metadata::list(client, &path).await?;
        let mut left = Left { count: items.len(), ..Left::default() };
        for finalizer in items.iter().flat_map(|item| &item.finalizers) {
            *left.finalizers.entry(finalizer.clone()).or_insert(0) += 1;
        }
        left.estimate_seconds = match (items.is_empty(), graceful, left.finalizers.is_empty()) {
            (true, ..) => 0,
            (false, 0, true) => 0,
            (false, 0, false) => FINALIZER_ESTIMATE_SECONDS,
            (false, graceful, _) => graceful,
        };
        Ok(left)
    }

    /// False if the resource does not support it.
    async fn delete_collection(&self, resource: &ApiResource, path: &str) -> Result<bool, client::Error> {
        if !resource.can(&["deletecollection"]) {
            return Ok(false);
        }
        let body = serde_json::to_vec(&DeleteParams::background().body()).map_err(client::Error::Decode)?;
        match self.context.client.raw(Method::DELETE, path, "application/json", body).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() || error.is_method_not_supported() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The longest grace period of the pods, unless it is over already (`estimateGracefulTermination`).
    fn pods_estimate(&self, namespace: &Namespace) -> i64 {
        let running = self.pods.namespace(namespace.name());
        let longest = running
            .iter()
            .filter(|pod| !pods::is_terminal(pod))
            .filter_map(|pod| pod.spec.as_ref()?.termination_grace_period_seconds)
            .max()
            .unwrap_or(0);
        let since = namespace.metadata.deletion_timestamp.as_ref();
        let elapsed = since.map_or(0, |t| self.context.clock.now().duration_since(t.0).as_secs());
        if elapsed >= longest { 0 } else { longest }
    }

    async fn finalize(&self, mut namespace: Namespace) -> Result<(), Error> {
        if let Some(finalizers) = namespace.spec.as_mut().and_then(|s| s.finalizers.as_mut()) {
            finalizers.retain(|f| f != FINALIZER);
        }
        let path = client::client::resource_path("", "v1", "namespaces", "", namespace.name(), "finalize");
        let body = namespace.encode()?;
        match self.context.client.raw(Method::PUT, &path, "application/json", body).await {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(()),
        }
    }
}
