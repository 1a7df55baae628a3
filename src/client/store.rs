//! The objects of one informer and its indexes, and the queues of those who subscribed.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use crate::informer::Event;
use crate::owner::controller_of;
use crate::resource::Resource;

/// Events that wait for one subscriber; more, and it is told to look at everything again.
const QUEUE_MAX: usize = 4096;

/// Objects by namespace and name, and by what reconcilers ask for.
pub(crate) struct Store<K> {
    objects: HashMap<Box<str>, HashMap<Box<str>, Arc<K>>>,
    /// By the managing controller's uid, or by [`orphans_of`] for objects without one.
    by_owner: HashMap<Box<str>, Vec<Arc<K>>>,
    by_node: HashMap<Box<str>, Vec<Arc<K>>>,
    len: usize,
}

impl<K: Resource> Store<K> {
    fn new() -> Self {
        Self { objects: HashMap::new(), by_owner: HashMap::new(), by_node: HashMap::new(), len: 0 }
    }

    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<&Arc<K>> {
        self.objects.get(namespace)?.get(name)
    }

    pub(crate) fn list(&self) -> Vec<Arc<K>> {
        let mut all = Vec::with_capacity(self.len);
        all.extend(self.objects.values().flat_map(|names| names.values().cloned()));
        all
    }

    pub(crate) fn namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        self.objects.get(namespace).map(|names| names.values().cloned().collect()).unwrap_or_default()
    }

    pub(crate) fn by_owner(&self, uid: &str) -> Vec<Arc<K>> {
        self.by_owner.get(uid).cloned().unwrap_or_default()
    }

    /// Objects of a namespace that no controller manages.
    pub(crate) fn orphans(&self, namespace: &str) -> Vec<Arc<K>> {
        self.by_owner.get(&*orphans_of(namespace)).cloned().unwrap_or_default()
    }

    pub(crate) fn by_node(&self, node: &str) -> Vec<Arc<K>> {
        self.by_node.get(node).cloned().unwrap_or_default()
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Puts an object in and returns the one it replaces.
    fn insert(&mut self, object: Arc<K>) -> Option<Arc<K>> {
        self.by_owner.entry(owner_key(&*object)).or_default().push(Arc::clone(&object));
        if let Some(node) = object.node_name() {
            self.by_node.entry(node.into()).or_default().push(Arc::clone(&object));
        }
        let names = match self.objects.get_mut(object.namespace()) {
            Some(names) => names,
            None => self.objects.entry(object.namespace().into()).or_default(),
        };
        let old = match names.get_mut(object.name()) {
            Some(slot) => Some(std::mem::replace(slot, object)),
            None => {
                names.insert(object.name().into(), object);
                self.len += 1;
                None
            }
        };
        if let Some(old) = &old {
            self.unindex(old);
        }
        old
    }

    fn remove(&mut self, namespace: &str, name: &str) -> Option<Arc<K>> {
        let names = self.objects.get_mut(namespace)?;
        let old = names.remove(name)?;
        if names.is_empty() {
            self.objects.remove(namespace);
        }
        self.len -= 1;
        self.unindex(&old);
        Some(old)
    }

    fn unindex(&mut self, object: &Arc<K>) {
        remove_from(&mut self.by_owner, &owner_key(&**object), object);
        if let Some(node) = object.node_name() {
            remove_from(&mut self.by_node, node, object);
        }
    }
}

fn owner_key<K: Resource>(object: &K) -> Box<str> {
    match controller_of(object.metadata()) {
        Some(owner) => owner.uid.as_str().into(),
        None => orphans_of(object.namespace()),
    }
}

/// No uid begins with a zero byte.
fn orphans_of(namespace: &str) -> Box<str> {
    format!("\0{namespace}").into()
}

fn remove_from<K>(index: &mut HashMap<Box<str>, Vec<Arc<K>>>, key: &str, object: &Arc<K>) {
    let Some(objects) = index.get_mut(key) else { return };
    if let Some(at) = objects.iter().position(|o| Arc::ptr_eq(o, object)) {
        objects.swap_remove(at);
    }
    if objects.is_empty() {
        index.remove(key);
    }
}

/// What one subscriber has not seen yet.
pub(crate) struct Queue<K> {
    events: Mutex<VecDeque<Event<K>>>,
    pub(crate) wake: Notify,
}

impl<K> Queue<K> {
    pub(crate) fn pop(&self) -> Option<Event<K>> {
        let mut events = self.events.lock();
        let event = events.pop_front();
        if events.is_empty() && events.capacity() > 64 {
            // A burst is over: give its memory back.
            *events = VecDeque::new();
        }
        event
    }

    fn push(&self, event: Event<K>) {
        let mut events = self.events.lock();
        if events.len() >= QUEUE_MAX {
            events.clear();
            events.push_back(Event::Resync);
        }
        events.push_back(event);
        drop(events);
        self.wake.notify_one();
    }
}

/// A store, who subscribed to it, and whether it has its first state.
///
/// Lock order: `store`, then `subscribers`, then a queue's `events`. An event is queued while the store is locked for
/// writing, so that a subscriber's first look and the events after it neither overlap nor leave a gap.
pub(crate) struct Shared<K> {
    store: RwLock<Store<K>>,
    subscribers: Mutex<Vec<Weak<Queue<K>>>>,
    pub(crate) synced: tokio::sync::watch::Sender<bool>,
    /// The newest `resourceVersion` that the store reflects, as a number.
    version: AtomicU64,
}

impl<K: Resource> Shared<K> {
    pub(crate) fn new() -> Self {
        Self {
            store: RwLock::new(Store::new()),
            subscribers: Mutex::new(Vec::new()),
            synced: tokio::sync::watch::Sender::new(false),
            version: AtomicU64::new(0),
        }
    }

    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub(crate) fn reached(&self, version: &str) {
        if let Ok(version) = version.parse() {
            self.version.fetch_max(version, Ordering::AcqRel);
        }
    }

    pub(crate) fn read<R>(&self, look: impl FnOnce(&Store<K>) -> R) -> R {
        look(&self.store.read())
    }

    /// The objects that are there now, and the queue of every event after them.
    pub(crate) fn subscribe(&self) -> (Vec<Arc<K>>, Arc<Queue<K>>) {
        let queue = Arc::new(Queue { events: Mutex::new(VecDeque::new()), wake: Notify::new() });
        let store = self.store.read();
        self.subscribers.lock().push(Arc::downgrade(&queue));
        (store.list(), queue)
    }

    pub(crate) fn changed(&self, object: K) {
        let object = Arc::new(object);
        let mut store = self.store.write();
        let event = match store.insert(Arc::clone(&object)) {
            Some(old) if old.resource_version() == object.resource_version() => return,
            Some(old) if old.uid() != object.uid() => {
                // A deletion that the watch did not see: another object has taken the name.
                self.publish(&Event::Deleted(old));
                Event::Added(object)
            }
            Some(old) => Event::Updated { old, new: object },
            None => Event::Added(object),
        };
        self.publish(&event);
    }

    pub(crate) fn deleted(&self, object: K) {
        let mut store = self.store.write();
        if store.remove(object.namespace(), object.name()).is_some() {
            // The state at the deletion, not the one known before.
            self.publish(&Event::Deleted(Arc::new(object)));
        }
    }

    /// Makes `objects` the whole state and publishes how it differs from the one before.
    pub(crate) fn replace(&self, objects: Vec<K>) {
        let mut store = self.store.write();
        let mut old = std::mem::replace(&mut *store, Store::new());
        for object in objects {
            let before = old.remove(object.namespace(), object.name());
            match before {
                Some(before) if before.resource_version() == object.resource_version() => {
                    store.insert(before);
                }
                Some(before) if before.uid() == object.uid() => {
                    let object = Arc::new(object);
                    store.insert(Arc::clone(&object));
                    self.publish(&Event::Updated { old: before, new: object });
                }
                before => {
                    if let Some(before) = before {
                        self.publish(&Event::Deleted(before));
                    }
                    let object = Arc::new(object);
                    store.insert(Arc::clone(&object));
                    self.publish(&Event::Added(object));
                }
            }
        }
        for gone in old.list() {
            self.publish(&Event::Deleted(gone));
        }
        drop(store);
        self.synced.send_replace(true);
    }

    fn publish(&self, event: &Event<K>) {
        self.subscribers.lock().retain(|subscriber| match subscriber.upgrade() {
            Some(queue) => {
                queue.push(event.clone());
                true
            }
            None => false,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    fn pod(name: &str, version: u32, owner: &str, node: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "n", "uid": format!("u-{name}"), "resourceVersion": version.to_string(),
                "ownerReferences": [{"apiVersion": "v1", "kind": "X", "name": "x", "uid": owner, "controller": true}]},
            "spec": {"nodeName": node, "containers": []}
        }))
        .unwrap()
    }

    fn names(pods: &[Arc<Pod>]) -> Vec<String> {
        let mut names: Vec<_> = pods.iter().map(|p| p.name().to_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn indexes_follow_every_change() {
        let shared = Shared::new();
        shared.replace(vec![pod("a", 1, "o1", "n1"), pod("b", 1, "o1", "n2")]);
        shared.changed(pod("a", 2, "o2", "n2"));
        shared.read(|s| {
            assert_eq!(names(&s.by_owner("o1")), ["b"]);
            assert_eq!(names(&s.by_owner("o2")), ["a"]);
            assert_eq!(names(&s.by_node("n2")), ["a", "b"]);
            assert!(s.by_node("n1").is_empty());
            assert_eq!((s.len(), names(&s.namespace("n"))), (2, vec!["a".to_owned(), "b".to_owned()]));
        });
        shared.deleted(pod("a", 3, "o2", "n2"));
        shared.read(|s| {
            assert!(s.get("n", "a").is_none() && s.by_owner("o2").is_empty());
            assert_eq!(names(&s.by_node("n2")), ["b"]);
        });
    }

    #[test]
    fn replacing_publishes_only_differences() {
        let shared = Shared::new();
        shared.replace(vec![pod("same", 1, "o", "n"), pod("changed", 1, "o", "n"), pod("gone", 1, "o", "n")]);
        let (first, queue) = shared.subscribe();
        assert_eq!(first.len(), 3);
        shared.replace(vec![pod("same", 1, "o", "n"), pod("changed", 2, "o", "n"), pod("new", 3, "o", "n")]);
        let mut seen = Vec::new();
        while let Some(event) = queue.pop() {
            seen.push(match event {
                Event::Added(o) => format!("+{}", o.name()),
                Event::Updated { new, .. } => format!("~{}", new.name()),
                Event::Deleted(o) => format!("-{}", o.name()),
                Event::Resync => "resync".into(),
            });
        }
        assert_eq!(seen, ["~changed", "+new", "-gone"]);
    }

    #[test]
    fn a_subscriber_that_falls_behind_is_told_to_look_again() {
        let shared = Shared::new();
        let (_, queue) = shared.subscribe();
        for version in 0..=QUEUE_MAX {
            shared.changed(pod("a", u32::try_from(version).unwrap(), "o", "n"));
        }
        assert!(matches!(queue.pop(), Some(Event::Resync)));
        assert!(matches!(queue.pop(), Some(Event::Updated { .. })));
        assert!(queue.pop().is_none());
    }
}
