//! Garbage collection by owner references (`pkg/controller/garbagecollector`).
//!
//! A graph of every object's owners is kept from metadata watches of all deletable resources. The graph only says what to
//! look at: before an object is deleted, it and its owners are read from the API server.

mod act;
mod graph;
mod monitors;

use std::sync::Arc;

use api::names::ObjectKey;
use async_trait::async_trait;
use client::WorkQueue;
use parking_lot::{Mutex, RwLock};

use crate::discovery::Discovered;
use crate::error::Error;
use crate::harness::{Context, Parts, Reconcile};
use graph::Graph;
use monitors::Monitors;

const WORKERS: usize = 20;
pub(crate) const FOREGROUND: &str = "foregroundDeletion";
pub(crate) const ORPHAN: &str = "orphan";

/// What the parts share.
pub(crate) struct Shared {
    graph: Mutex<Graph>,
    discovered: RwLock<Arc<Discovered>>,
    queue: WorkQueue<ObjectKey>,
}

/// Objects to consider for deletion, by uid.
fn delete_key(uid: &str) -> ObjectKey {
    ObjectKey::new("", uid)
}

/// Objects whose dependants are to be orphaned, by uid. The word keeps the two kinds of keys apart.
fn orphan_key(uid: &str) -> ObjectKey {
    ObjectKey::new(ORPHAN, uid)
}

pub(crate) fn start(context: Context) {
    let queue = WorkQueue::new();
    let shared = Arc::new(Shared {
        graph: Mutex::new(Graph::default()),
        discovered: RwLock::new(Arc::default()),
        queue: queue.clone(),
    });
    let monitors = Monitors::new(&context, Arc::clone(&shared));
    let ready = monitors.start(&context);
    let collector = Arc::new(Collector { shared, monitors, context: context.parts() });
    context.work(collector, queue, WORKERS, ready);
}

struct Collector {
    shared: Arc<Shared>,
    monitors: Arc<Monitors>,
    context: Parts,
}

#[async_trait]
impl Reconcile for Collector {
    async fn reconcile(&self, key: &ObjectKey) -> Result<(), Error> {
        // Dependants of a kind that is not listed yet would be forgotten.
        if !self.monitors.have_synced() {
            return Err(Error::NotYet("the graph of owners"));
        }
        if key.namespace == ORPHAN { self.orphan_dependents(&key.name).await } else { self.consider(&key.name).await }
    }
}
