//! What every controller runs in: feeds from informers into a queue of keys, and workers that reconcile keys.
//!
//! One task per feed and one per controller; a controller's workers share its task. A reconcile that panics is one failed
//! reconcile. Nothing here writes to the API.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use api::names::ObjectKey;
use async_trait::async_trait;
use base::{SharedClock, Shutdown};
use client::{Client, Event, Informer, Informers, Recorder, Resource, WorkQueue};
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio_util::task::TaskTracker;
use tracing::{debug, error, warn};

use crate::Settings;
use crate::discovery::KindsChanged;
use crate::error::Error;

/// Brings one object to where it should be. Reads the state anew, writes only differences, does not retry inside.
#[async_trait]
pub(crate) trait Reconcile: Send + Sync + 'static {
    async fn reconcile(&self, key: &ObjectKey) -> Result<(), Error>;
}

/// Counts of one controller since the start.
#[derive(Debug, Default)]
pub struct Metrics {
    pub reconciles: AtomicU64,
    pub errors: AtomicU64,
    pub panics: AtomicU64,
}

/// What a controller gets to work with.
pub(crate) struct Context {
    pub name: &'static str,
    pub client: Client,
    pub informers: Informers,
    pub recorder: Recorder,
    pub clock: SharedClock,
    pub settings: Arc<Settings>,
    pub tasks: TaskTracker,
    pub shutdown: Shutdown,
    pub metrics: Arc<Metrics>,
    pub kinds: KindsChanged,
}

/// What a reconciler keeps of its context.
#[derive(Clone)]
pub(crate) struct Parts {
    pub client: Client,
    pub recorder: Recorder,
    pub clock: SharedClock,
    pub settings: Arc<Settings>,
}

/// Adds every object of the controller's primary kind to its queue.
pub(crate) type AddAll = Arc<dyn Fn() + Send + Sync>;

impl Context {
    pub(crate) fn parts(&self) -> Parts {
        Parts {
            client: self.client.clone(),
            recorder: self.recorder.clone(),
            clock: Arc::clone(&self.clock),
            settings: Arc::clone(&self.settings),
        }
    }

    /// [`Context::parts`] for a controller whose events come from a source that is not called as its account is.
    pub(crate) fn parts_as(&self, source: &str) -> Parts {
        let recorder = Recorder::new(self.client.clone(), source, "", Arc::clone(&self.clock));
        Parts { recorder, ..self.parts() }
    }

    /// Queues every object of `informer` when called.
    pub(crate) fn add_all<K: Resource>(informer: &Informer<K>, queue: &WorkQueue<ObjectKey>) -> AddAll {
        let (informer, queue) = (informer.clone(), queue.clone());
        Arc::new(move || {
            for object in informer.list() {
                queue.add(key_of(&*object));
            }
        })
    }

    /// Runs `handle` for every change. If changes were lost, every object is handled as added, and `add_all` covers
    /// objects whose dependants are gone.
    pub(crate) fn feed<K: Resource>(
        &self,
        informer: &Informer<K>,
        add_all: &AddAll,
        handle: impl Fn(&Event<K>) + Send + 'static,
    ) {
        let (informer, add_all, shutdown) = (informer.clone(), Arc::clone(add_all), self.shutdown.clone());
        self.tasks.spawn(async move {
            let mut changes = informer.subscribe();
            loop {
                let event = tokio::select! {
                    biased;
                    () = shutdown.cancelled() => return,
                    event = changes.recv() => event,
                };
                match event {
                    None => return,
                    Some(Event::Resync) => {
                        for object in informer.list() {
                            handle(&Event::Added(object));
                        }
                        add_all();
                    }
                    Some(event) => handle(&event),
                }
                // A long burst must not keep the runtime's thread.
                tokio::task::consume_budget().await;
            }
        });
    }

    /// Queues the key of every object that changes.
    pub(crate) fn feed_own<K: Resource>(&self, informer: &Informer<K>, queue: &WorkQueue<ObjectKey>) -> AddAll {
        let add_all = Self::add_all(informer, queue);
        let queue = queue.clone();
        self.feed(informer, &add_all, move |event| {
            if let Some(object) = current(event) {
                queue.add(key_of(&**object));
            }
        });
        add_all
    }

    /// Starts `workers` workers once `synced` is done.
    pub(crate) fn work<R: Reconcile>(
        &self,
        reconciler: Arc<R>,
        queue: WorkQueue<ObjectKey>,
        workers: usize,
        synced: BoxFuture<'static, ()>,
    ) {
        let (name, shutdown, metrics) = (self.name, self.shutdown.clone(), Arc::clone(&self.metrics));
        self.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = synced => {}
            }
            debug!(controller = name, "controller has its caches");
            let mut running = FuturesUnordered::new();
            loop {
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => {
                        queue.shutdown();
                        return;
                    }
                    Some(()) = running.next(), if !running.is_empty() => {}
                    key = queue.get(), if running.len() < workers => {
                        let Some(key) = key else { return };
                        let (reconciler, queue, metrics) = (Arc::clone(&reconciler), queue.clone(), Arc::clone(&metrics));
                        running.push(Box::pin(async move { work_one(name, &*reconciler, &queue, &metrics, key).await }));
                    }
                }
            }
        });
    }
}

async fn work_one<R: Reconcile>(
    name: &'static str,
    reconciler: &R,
    queue: &WorkQueue<ObjectKey>,
    metrics: &Metrics,
    key: ObjectKey,
) {
    metrics.reconciles.fetch_add(1, Ordering::Relaxed);
    match AssertUnwindSafe(reconciler.reconcile(&key)).catch_unwind().await {
        Ok(Ok(())) => queue.forget(&key),
        Ok(Err(failure)) => {
            metrics.errors.fetch_add(1, Ordering::Relaxed);
            if failure.is_expected() {
                debug!(controller = name, %key, error = %base::chain(&failure), "reconcile again");
            } else {
                warn!(controller = name, %key, error = %base::chain(&failure), "reconcile failed");
            }
            queue.add_rate_limited(key.clone());
        }
        Err(panic) => {
            metrics.panics.fetch_add(1, Ordering::Relaxed);
            let text = panic
                .downcast_ref::<&str>()
                .map(|s| (*s).to_owned())
                .or_else(|| panic.downcast_ref::<String>().cloned())
                .unwrap_or_default();
            error!(controller = name, %key, panic = text, "reconcile panicked");
            queue.add_rate_limited(key.clone());
        }
    }
    queue.done(&key);
}

pub(crate) fn key_of<K: Resource>(object: &K) -> ObjectKey {
    ObjectKey::new(object.namespace(), object.name())
}

/// The object of an event as it is now (or was at its deletion).
pub(crate) fn current<K>(event: &Event<K>) -> Option<&Arc<K>> {
    match event {
        Event::Added(object) | Event::Updated { new: object, .. } | Event::Deleted(object) => Some(object),
        Event::Resync => None,
    }
}

/// One informer's wait for its first list, for [`all_synced`].
pub(crate) fn synced<K: Resource>(informer: &Informer<K>) -> BoxFuture<'static, ()> {
    let informer = informer.clone();
    Box::pin(async move { informer.synced().await })
}

/// Done when all of them are.
pub(crate) fn all_synced(waits: Vec<BoxFuture<'static, ()>>) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        for wait in waits {
            wait.await;
        }
    })
}
