//! One watch per kind and process, shared by every component (client-go `tools/cache`).

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::Arc;

use base::Shutdown;
use parking_lot::Mutex;
use tokio_util::task::TaskTracker;

use crate::client::{Client, resource_path};
use crate::reflect::{self, Sink, Source, without_managed_fields};
use crate::resource::Resource;
use crate::store::{Queue, Shared};

/// A change of one object.
pub enum Event<K> {
    Added(Arc<K>),
    Updated {
        old: Arc<K>,
        new: Arc<K>,
    },
    /// With the state at the deletion, if the watch saw that, else the last one known.
    Deleted(Arc<K>),
    /// Events were lost because the subscriber was slow: everything may have changed.
    Resync,
}

impl<K> Clone for Event<K> {
    fn clone(&self) -> Self {
        match self {
            Self::Added(object) => Self::Added(Arc::clone(object)),
            Self::Updated { old, new } => Self::Updated { old: Arc::clone(old), new: Arc::clone(new) },
            Self::Deleted(object) => Self::Deleted(Arc::clone(object)),
            Self::Resync => Self::Resync,
        }
    }
}

/// The informers of a process. Clones share them.
#[derive(Clone)]
pub struct Informers {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    shutdown: Shutdown,
    /// By kind and field selector.
    started: Mutex<HashMap<(TypeId, String), Box<dyn Any + Send + Sync>>>,
    tasks: TaskTracker,
}

impl Informers {
    /// Informers that watch as `client`'s user until `shutdown`.
    pub fn new(client: Client, shutdown: Shutdown) -> Self {
        let inner = Inner { client, shutdown, started: Mutex::new(HashMap::new()), tasks: TaskTracker::new() };
        Self { inner: Arc::new(inner) }
    }

    /// The informer of a kind, of the whole cluster. The first call starts its watch; needs a tokio runtime.
    pub fn informer<K: Resource>(&self) -> Informer<K> {
        self.informer_with("")
    }

    /// The informer of the objects that a field selector picks, e.g. `spec.nodeName=n`.
    pub fn informer_with<K: Resource>(&self, field_selector: &str) -> Informer<K> {
        let mut started = self.inner.started.lock();
        let entry = started.entry((TypeId::of::<K>(), field_selector.to_owned())).or_insert_with(|| {
            let shared = Arc::new(Shared::<K>::new());
            let source = Source {
                client: self.inner.client.clone(),
                path: resource_path(K::GROUP, K::VERSION, K::RESOURCE, "", "", ""),
                field_selector: field_selector.to_owned(),
                metadata_only: false,
            };
            let mut sink = StoreSink { shared: Arc::clone(&shared), gathered: Vec::new() };
            let shutdown = self.inner.shutdown.clone();
            self.inner.tasks.spawn(async move { reflect::run(source, &mut sink, shutdown).await });
            Box::new(Informer { shared, shutdown: self.inner.shutdown.clone() })
        });
        match entry.downcast_ref::<Informer<K>>() {
            Some(informer) => informer.clone(),
            None => unreachable!("the map's key holds the type"),
        }
    }

    /// The client that the watches use.
    pub fn client(&self) -> &Client {
        &self.inner.client
    }

    /// Returns when every watch has ended after the shutdown.
    pub async fn stopped(&self) {
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }
}

struct StoreSink<K> {
    shared: Arc<Shared<K>>,
    gathered: Vec<K>,
}

impl<K: Resource> Sink for StoreSink<K> {
    fn initial(&mut self, object: &[u8]) -> Result<(), serde_json::Error> {
        self.gathered.push(K::decode(&without_managed_fields(object))?);
        Ok(())
    }

    fn replace(&mut self) {
        self.shared.replace(std::mem::take(&mut self.gathered));
    }

    fn discard(&mut self) {
        self.gathered = Vec::new();
    }

    fn changed(&mut self, object: &[u8]) -> Result<String, serde_json::Error> {
        let object = K::decode(&without_managed_fields(object))?;
        let version = object.resource_version().to_owned();
        self.shared.changed(object);
        self.shared.reached(&version);
        Ok(version)
    }

    fn deleted(&mut self, object: &[u8]) -> Result<String, serde_json::Error> {
        let object = K::decode(&without_managed_fields(object))?;
        let version = object.resource_version().to_owned();
        self.shared.deleted(object);
        self.shared.reached(&version);
        Ok(version)
    }

    fn reached(&mut self, version: &str) {
        self.shared.reached(version);
    }
}

/// A view of the objects of one kind, kept up to date by a watch. Clones share it.
pub struct Informer<K> {
    shared: Arc<Shared<K>>,
    shutdown: Shutdown,
}

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), shutdown: self.shutdown.clone() }
    }
}

impl<K: Resource> Informer<K> {
    /// `namespace` is empty for cluster-scoped kinds.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.shared.read(|store| store.get(namespace, name).cloned())
    }

    /// Every object, in no order.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.shared.read(|store| store.list())
    }

    /// The objects of a namespace, in no order.
    pub fn namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        self.shared.read(|store| store.namespace(namespace))
    }

    /// The objects whose managing controller has this uid.
    pub fn by_owner(&self, uid: &str) -> Vec<Arc<K>> {
        self.shared.read(|store| store.by_owner(uid))
    }

    /// The objects of a namespace that no controller manages.
    pub fn orphans(&self, namespace: &str) -> Vec<Arc<K>> {
        self.shared.read(|store| store.orphans(namespace))
    }

    /// The pods bound to a node; empty for every other kind.
    pub fn by_node(&self, node: &str) -> Vec<Arc<K>> {
        self.shared.read(|store| store.by_node(node))
    }

    /// Number of objects.
    pub fn len(&self) -> usize {
        self.shared.read(|store| store.len())
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns when the first list is in, or at shutdown.
    pub async fn synced(&self) {
        let mut synced = self.shared.synced.subscribe();
        tokio::select! {
            biased;
            () = self.shutdown.cancelled() => {}
            // An error means that the sender is gone, which `self` prevents.
            _ = synced.wait_for(|synced| *synced) => {}
        }
    }

    /// The newest `resourceVersion` that this view reflects; 0 if the server's versions are not numbers. Whoever wrote
    /// version `v` sees its own write once this is `v` or more.
    pub fn version(&self) -> u64 {
        self.shared.version()
    }

    pub fn has_synced(&self) -> bool {
        *self.shared.synced.borrow()
    }

    /// Every change from now on; first, one [`Event::Added`] for each object already there.
    pub fn subscribe(&self) -> Subscription<K> {
        let (first, queue) = self.shared.subscribe();
        Subscription { first: first.into_iter(), queue, shutdown: self.shutdown.clone() }
    }

    /// An informer that no watch feeds, for tests: see [`Informer::put`] and [`Informer::take`].
    pub fn fake(objects: Vec<K>) -> Self {
        let shared = Arc::new(Shared::new());
        shared.replace(objects);
        Self { shared, shutdown: Shutdown::new() }
    }

    /// Adds or changes an object of a fake, as its watch would.
    pub fn put(&self, object: K) {
        self.shared.changed(object);
    }

    /// Deletes an object of a fake, as its watch would.
    pub fn take(&self, object: K) {
        self.shared.deleted(object);
    }
}

/// The changes that one component sees.
pub struct Subscription<K> {
    first: std::vec::IntoIter<Arc<K>>,
    queue: Arc<Queue<K>>,
    shutdown: Shutdown,
}

impl<K> Subscription<K> {
    /// The next change; `None` at shutdown. Cancel-safe.
    pub async fn recv(&mut self) -> Option<Event<K>> {
        if let Some(object) = self.first.next() {
            return Some(Event::Added(object));
        }
        loop {
            if let Some(event) = self.queue.pop() {
                return Some(event);
            }
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return None,
                // One consumer: a permit stored between the pop and here is not lost.
                () = self.queue.wake.notified() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::tests::fake;
    use bytes::Bytes;
    use k8s_openapi::api::core::v1::ConfigMap;

    fn line(kind: &str, name: &str, version: u32, end: bool) -> Bytes {
        let annotations = if end { r#","annotations":{"k8s.io/initial-events-end":"true"}"# } else { "" };
        Bytes::from(format!(
            r#"{{"type":"{kind}","object":{{"kind":"ConfigMap","apiVersion":"v1","metadata":{{"name":"{name}","namespace":"n","uid":"u-{name}","resourceVersion":"{version}","managedFields":[{{"manager":"m"}}]{annotations}}}}}}}
"#
        ))
    }

    async fn next(subscription: &mut Subscription<ConfigMap>) -> String {
        match subscription.recv().await {
            Some(Event::Added(o)) => format!("+{}@{}", o.name(), o.resource_version()),
            Some(Event::Updated { new, .. }) => format!("~{}@{}", new.name(), new.resource_version()),
            Some(Event::Deleted(o)) => format!("-{}@{}", o.name(), o.resource_version()),
            Some(Event::Resync) => "resync".to_owned(),
            None => "end".to_owned(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn follows_a_stream_through_a_disconnect_and_an_expired_version() {
        let (client, seen) = fake(move |request| {
            let url = request.url.as_str();
            match () {
                () if url.contains("sendInitialEvents") && url.contains("resourceVersion=") => unreachable!("{url}"),
                () if url.contains("resourceVersion=4") => {
                    // The rest of an event that is cut in two, then the end.
                    let whole = line("MODIFIED", "b", 5, false);
                    (200, vec![whole.slice(..20), whole.slice(20..)], false)
                }
                () if url.contains("resourceVersion=5") => {
                    (410, vec![Bytes::from_static(b"{\"reason\":\"Expired\"}")], false)
                }
                () if url.contains("sendInitialEvents") => {
                    let mut all = line("ADDED", "a", 1, false).to_vec();
                    all.extend_from_slice(&line("ADDED", "b", 2, false));
                    let lines = vec![Bytes::from(all), line("BOOKMARK", "", 3, true), line("DELETED", "a", 4, false)];
                    (200, lines, false)
                }
                () => unreachable!("{url}"),
            }
        });
        let shutdown = Shutdown::new();
        let informers = Informers::new(client, shutdown.clone());
        let informer = informers.informer::<ConfigMap>();
        let mut subscription = informer.subscribe();
        informer.synced().await;
        let mut first = vec![next(&mut subscription).await, next(&mut subscription).await];
        first.sort();
        assert_eq!(first, ["+a@1", "+b@2"]);
        assert_eq!(next(&mut subscription).await, "-a@4");
        assert_eq!(next(&mut subscription).await, "~b@5");
        // After the 410 the state comes anew: `a` is there again, `b` as it was at first.
        let mut again = vec![next(&mut subscription).await, next(&mut subscription).await];
        again.sort();
        assert_eq!(again, ["+a@1", "~b@2"]);
        assert!(informer.get("n", "b").unwrap().metadata.managed_fields.is_none());
        assert!(seen.lock().iter().all(|r| r.url.starts_with("/api/v1/configmaps?")));
        shutdown.cancel();
        informers.stopped().await;
        while subscription.recv().await.is_some() {}
    }

    #[tokio::test(start_paused = true)]
    async fn falls_back_to_pages() {
        let (client, _) = fake(|request| {
            let url = request.url.as_str();
            let page = |next: &str, name: &str| {
                Bytes::from(format!(
                    r#"{{"metadata":{{"resourceVersion":"9","continue":"{next}"}},"items":[{{"metadata":{{"name":"{name}","namespace":"n","resourceVersion":"1"}}}},{{"metadata":7}}]}}"#
                ))
            };
            match () {
                () if url.contains("sendInitialEvents") => (422, vec![Bytes::from_static(b"{}")], false),
                () if url.contains("watch=true") => (200, Vec::new(), true),
                () if url.contains("continue=c") => (200, vec![page("", "b")], false),
                () => (200, vec![page("c", "a")], false),
            }
        });
        let shutdown = Shutdown::new();
        let informers = Informers::new(client, shutdown.clone());
        let informer = informers.informer::<ConfigMap>();
        informer.synced().await;
        assert_eq!(informer.len(), 2, "what cannot be decoded is left out");
        assert!(informer.get("n", "a").is_some() && informer.get("n", "b").is_some());
        shutdown.cancel();
    }

    #[tokio::test]
    async fn one_watch_per_kind_and_selector() {
        let (client, seen) = fake(|_| (200, vec![line("BOOKMARK", "", 3, true)], true));
        let shutdown = Shutdown::new();
        let informers = Informers::new(client, shutdown.clone());
        let one = informers.informer::<ConfigMap>();
        let two = informers.informer::<ConfigMap>();
        let other = informers.informer_with::<ConfigMap>("metadata.name=x");
        one.synced().await;
        two.synced().await;
        other.synced().await;
        assert_eq!(seen.lock().len(), 2);
        shutdown.cancel();
    }
}
