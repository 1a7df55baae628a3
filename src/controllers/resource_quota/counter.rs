//! Numbers of objects by namespace, of the resources that some quota names.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use api::names::{GroupResource, ObjectKey};
use base::Shutdown;
use client::reflect::{self, Sink, Source};
use client::{Client, Informer, WorkQueue};
use k8s_openapi::api::core::v1::ResourceQuota;
use parking_lot::Mutex;
use tokio_util::task::TaskTracker;

use super::add_quotas;
use crate::error::Error;
use crate::harness::Context;
use crate::{discovery, metadata};

pub(super) struct Counters {
    client: Client,
    quotas: Informer<ResourceQuota>,
    queue: WorkQueue<ObjectKey>,
    tasks: TaskTracker,
    shutdown: Shutdown,
    running: Mutex<HashMap<GroupResource, Arc<Counter>>>,
}

struct Counter {
    synced: AtomicBool,
    stop: Shutdown,
    /// Names by namespace.
    names: Mutex<HashMap<String, HashSet<String>>>,
}

impl Counters {
    pub(super) fn new(context: &Context, quotas: Informer<ResourceQuota>, queue: WorkQueue<ObjectKey>) -> Self {
        Self {
            client: context.client.clone(),
            quotas,
            queue,
            tasks: context.tasks.clone(),
            shutdown: context.shutdown.clone(),
            running: Mutex::new(HashMap::new()),
        }
    }

    /// How many objects of a resource a namespace has; `None` if there is no such resource. The first question starts the
    /// watch; the quota is queued again when it is ready.
    pub(super) async fn count(&self, resource: &GroupResource, namespace: &str) -> Result<Option<i64>, Error> {
        let known = self.running.lock().get(resource).cloned();
        let counter = match known {
            Some(counter) => counter,
            None => {
                let found = discovery::discover(&self.client).await?;
                let matches = |r: &&Arc<discovery::ApiResource>| {
                    r.group == resource.group && r.resource == resource.resource && r.can(&["list", "watch"])
                };
                let Some(api) = found.preferred.iter().find(matches) else { return Ok(None) };
                self.start(resource, api.path("", ""))
            }
        };
        if !counter.synced.load(Ordering::Acquire) {
            return Err(Error::NotYet("objects to be counted"));
        }
        let count = counter.names.lock().get(namespace).map_or(0, HashSet::len);
        Ok(Some(i64::try_from(count).unwrap_or(i64::MAX)))
    }

    /// Ends the watches of resources that are no longer served.
    pub(super) async fn forget_gone(&self) -> Result<(), Error> {
        if self.running.lock().is_empty() {
            return Ok(());
        }
        let found = discovery::discover(&self.client).await?;
        // What could not be discovered just now may still be there.
        if found.failures.is_empty() {
            self.running.lock().retain(|resource, counter| {
                let keep = found.preferred.iter().any(|r| r.group == resource.group && r.resource == resource.resource);
                if !keep {
                    counter.stop.cancel();
                }
                keep
            });
        }
        Ok(())
    }

    fn start(&self, resource: &GroupResource, path: String) -> Arc<Counter> {
        let mut running = self.running.lock();
        if let Some(counter) = running.get(resource) {
            return Arc::clone(counter);
        }
        let stop = self.shutdown.child_token();
        let counter = Arc::new(Counter { synced: AtomicBool::new(false), stop: stop.clone(), names: Mutex::default() });
        running.insert(resource.clone(), Arc::clone(&counter));
        let source = Source { client: self.client.clone(), path, field_selector: String::new(), metadata_only: true };
        let mut sink = CountSink {
            counter: Arc::clone(&counter),
            gathered: HashMap::new(),
            quotas: self.quotas.clone(),
            queue: self.queue.clone(),
        };
        self.tasks.spawn(async move { reflect::run(source, &mut sink, stop).await });
        counter
    }
}

struct CountSink {
    counter: Arc<Counter>,
    gathered: HashMap<String, HashSet<String>>,
    quotas: Informer<ResourceQuota>,
    queue: WorkQueue<ObjectKey>,
}

impl Sink for CountSink {
    fn initial(&mut self, object: &[u8]) -> Result<(), serde_json::Error> {
        let metadata = metadata::decode(object)?;
        self.gathered.entry(metadata.namespace).or_default().insert(metadata.name);
        Ok(())
    }

    fn replace(&mut self) {
        *self.counter.names.lock() = std::mem::take(&mut self.gathered);
        self.counter.synced.store(true, Ordering::Release);
        for quota in self.quotas.list() {
            self.queue.add(crate::harness::key_of(&*quota));
        }
    }

    fn discard(&mut self) {
        self.gathered.clear();
    }

    fn changed(&mut self, object: &[u8]) -> Result<String, serde_json::Error> {
        let metadata = metadata::decode(object)?;
        self.counter.names.lock().entry(metadata.namespace).or_default().insert(metadata.name);
        Ok(metadata.resource_version)
    }

    fn deleted(&mut self, object: &[u8]) -> Result<String, serde_json::Error> {
        let metadata = metadata::decode(object)?;
        let mut names = self.counter.names.lock();
        if let Some(of_namespace) = names.get_mut(&metadata.namespace) {
            of_namespace.remove(&metadata.name);
            if of_namespace.is_empty() {
                names.remove(&metadata.namespace);
            }
        }
        drop(names);
        add_quotas(&self.quotas, &self.queue, &metadata.namespace);
        Ok(metadata.resource_version)
    }
}
