//! The kinds that are served, by URL. Replaced as a whole when kinds come or go.

use std::collections::HashMap;
use std::sync::Arc;

use api::kind::KindDef;
use api::{GroupResource, Gvr, Object, Status};
use base::Shutdown;
use storage::Store;
use tokio_util::task::TaskTracker;

use crate::cache::Cache;
use crate::cache::stats::Sent;
use crate::cache::view::View;

/// One served resource with its cache.
pub struct Served {
    pub def: Arc<KindDef>,
    pub resource: GroupResource,
    /// `None` for kinds that are not stored.
    pub stored: Option<Stored>,
    /// What its watchers were told.
    pub(crate) sent: Sent,
}

/// The stored side of a served resource.
#[derive(Clone)]
pub struct Stored {
    pub cache: Arc<Cache>,
    pub view: Arc<View>,
}

impl Served {
    pub fn gvr(&self) -> Gvr {
        self.def.gvr()
    }

    /// The cache and view; kinds without storage answer as unknown methods do.
    pub fn stored(&self) -> Result<&Stored, Status> {
        self.stored.as_ref().ok_or_else(method_not_allowed)
    }

    /// Key without the prefix.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        if self.def.namespaced { format!("{namespace}/{name}") } else { name.to_owned() }
    }

    pub fn not_found(&self, name: &str) -> Status {
        Status::not_found(&self.resource, name)
    }

    /// [`Status::invalid`] for this kind.
    pub fn invalid(&self, object: &Object, errors: &[api::field::Error]) -> Status {
        Status::invalid(&self.def.gvk.group, &self.def.gvk.kind, object.name(), errors)
    }
}

/// `errors.NewMethodNotSupported` as the installer's fallback words it.
pub fn method_not_allowed() -> Status {
    Status::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
        .with_details(api::status::Details::default())
}

/// Every served kind.
#[derive(Default)]
pub struct KindTable {
    by_gvr: HashMap<Gvr, Arc<Served>>,
    /// In the order they were given, which is discovery's order within a version.
    pub all: Vec<Arc<Served>>,
    /// Grows with every table.
    pub(crate) generation: u64,
}

impl KindTable {
    /// Builds the table. Of what `old` knows, resources with the same definition and caches of the same prefix are kept,
    /// so that what they have made already serves on.
    pub fn new(
        kinds: &[Arc<KindDef>],
        old: &Self,
        store: &Arc<dyn Store>,
        tasks: &TaskTracker,
        shutdown: &Shutdown,
    ) -> Self {
        let mut caches: HashMap<String, (Arc<Cache>, usize)> = HashMap::new();
        for stored in old.all.iter().filter_map(|s| s.stored.as_ref()) {
            let after = stored.view.index + 1;
            caches
                .entry(stored.cache.prefix.clone())
                .and_modify(|(_, next)| *next = after.max(*next))
                .or_insert_with(|| (Arc::clone(&stored.cache), after));
        }
        let mut table = Self { generation: old.generation + 1, ..Self::default() };
        for def in kinds {
            let gvr = def.gvr();
            if let Some(same) = old.by_gvr.get(&gvr).filter(|s| Arc::ptr_eq(&s.def, def)) {
                table.by_gvr.insert(gvr, Arc::clone(same));
                table.all.push(Arc::clone(same));
                continue;
            }
            let stored = def.storage.as_ref().map(|storage| {
                let (cache, next) = caches.entry(storage.prefix.clone()).or_insert_with(|| {
                    (Cache::new(&storage.prefix, Arc::clone(store), tasks.clone(), shutdown.child_token()), 0)
                });
                let index = *next;
                *next += 1;
                Stored { cache: Arc::clone(cache), view: Arc::new(View::new(Arc::clone(def), index)) }
            });
            let resource = def.group_resource();
            let served = Arc::new(Served { def: Arc::clone(def), resource, stored, sent: Sent::default() });
            table.by_gvr.insert(gvr, Arc::clone(&served));
            table.all.push(served);
        }
        table
    }

    /// Ends what nobody can ask for any more after this table gave way to `next`: caches of resources that are gone, and
    /// watches through definitions that have changed (their clients begin again and see the new ones).
    pub fn retire(&self, next: &Self) {
        for served in &self.all {
            let Some(stored) = &served.stored else { continue };
            if next.get(&served.gvr()).is_some_and(|n| Arc::ptr_eq(n, served)) {
                continue;
            }
            let prefix = &stored.cache.prefix;
            let kept = next.all.iter().any(|n| n.stored.as_ref().is_some_and(|s| s.cache.prefix == *prefix));
            if kept {
                stored.cache.begin_anew();
            } else {
                stored.cache.close();
            }
        }
    }

    pub fn get(&self, gvr: &Gvr) -> Option<&Arc<Served>> {
        self.by_gvr.get(gvr)
    }

    /// Looks a resource up by its parts, as a URL gives them.
    pub fn find(&self, group: &str, version: &str, resource: &str) -> Option<&Arc<Served>> {
        self.by_gvr.get(&Gvr::new(group, version, resource))
    }
}
