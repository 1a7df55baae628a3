//! ConfigMaps and secrets that pods refer to: each is watched by name while a pod uses it, and never are all of them
//! read (upstream `util/manager/watch_based_manager.go`).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use base::Shutdown;
use client::reflect::{self, Sink, Source};
use client::{Client, Resource};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::table::PodTable;

/// How long a first read may take before the pod's step fails and is tried again.
const FIRST_READ: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// As the API server would say it.
    #[error("{kind} {name:?} not found")]
    NotFound { kind: &'static str, name: String },
    #[error("failed to sync {kind} cache: timed out waiting for the condition")]
    Unavailable { kind: &'static str },
}

enum Known<K> {
    Pending,
    Absent,
    Present(Arc<K>),
}

impl<K> Clone for Known<K> {
    fn clone(&self) -> Self {
        match self {
            Self::Pending => Self::Pending,
            Self::Absent => Self::Absent,
            Self::Present(object) => Self::Present(object.clone()),
        }
    }
}

type Key = (String, String);

struct Entry<K> {
    users: HashSet<String>,
    known: watch::Receiver<Known<K>>,
    stop: Shutdown,
}

struct Shared<K> {
    client: Client,
    table: Arc<PodTable>,
    shutdown: Shutdown,
    entries: Mutex<HashMap<Key, Entry<K>>>,
}

/// The watched objects of one kind.
pub struct Objects<K>(Arc<Shared<K>>);

impl<K: Resource> Objects<K> {
    pub fn new(client: Client, table: Arc<PodTable>, shutdown: Shutdown) -> Self {
        Self(Arc::new(Shared { client, table, shutdown, entries: Mutex::default() }))
    }

    /// The object as last seen; from now on the pod is woken when it changes.
    pub async fn get(&self, pod_uid: &str, namespace: &str, name: &str) -> Result<Arc<K>, ObjectError> {
        let mut known = self.subscribe(pod_uid, namespace, name);
        let wait = known.wait_for(|k| !matches!(k, Known::Pending));
        let state = match tokio::time::timeout(FIRST_READ, wait).await {
            Ok(Ok(state)) => (*state).clone(),
            Ok(Err(_)) | Err(_) => Known::Pending,
        };
        match state {
            Known::Present(object) => Ok(object),
            Known::Absent => Err(ObjectError::NotFound { kind: kind_name::<K>(), name: name.to_owned() }),
            Known::Pending => Err(ObjectError::Unavailable { kind: kind_name::<K>() }),
        }
    }

    /// [`Objects::get`] with absence as `None`.
    pub async fn get_opt(&self, pod_uid: &str, namespace: &str, name: &str) -> Result<Option<Arc<K>>, ObjectError> {
        match self.get(pod_uid, namespace, name).await {
            Ok(object) => Ok(Some(object)),
            Err(ObjectError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The pod is done: objects that no pod uses any more are no longer watched.
    pub fn release(&self, pod_uid: &str) {
        self.0.entries.lock().retain(|_, entry| {
            entry.users.remove(pod_uid);
            let used = !entry.users.is_empty();
            if !used {
                entry.stop.cancel();
            }
            used
        });
    }

    fn subscribe(&self, pod_uid: &str, namespace: &str, name: &str) -> watch::Receiver<Known<K>> {
        let key = (namespace.to_owned(), name.to_owned());
        let mut entries = self.0.entries.lock();
        if let Some(entry) = entries.get_mut(&key) {
            if !entry.users.contains(pod_uid) {
                entry.users.insert(pod_uid.to_owned());
            }
            return entry.known.clone();
        }
        let (sender, receiver) = watch::channel(Known::Pending);
        let stop = self.0.shutdown.child_token();
        let entry = Entry { users: HashSet::from([pod_uid.to_owned()]), known: receiver.clone(), stop: stop.clone() };
        entries.insert(key.clone(), entry);
        let shared = self.0.clone();
        // Ends by its own token: when released, or at shutdown.
        tokio::spawn(async move {
            let source = Source {
                client: shared.client.clone(),
                path: format!("/api/v1/namespaces/{}/{}", key.0, K::RESOURCE),
                field_selector: format!("metadata.name={}", key.1),
                metadata_only: false,
            };
            let mut sink = OneObject { shared: &shared, key: &key, sender: &sender, first: None };
            reflect::run(source, &mut sink, stop).await;
        });
        receiver
    }
}

fn kind_name<K: Resource>() -> &'static str {
    match K::KIND {
        "ConfigMap" => "configmap",
        "Secret" => "secret",
        other => other,
    }
}

/// Receives the one object's changes and tells the pods that use it.
struct OneObject<'a, K> {
    shared: &'a Shared<K>,
    key: &'a Key,
    sender: &'a watch::Sender<Known<K>>,
    first: Option<Arc<K>>,
}

impl<K: Resource> Sink for OneObject<'_, K> {
    fn initial(&mut self, object: &[u8]) -> Result<(), serde_json::Error> {
        self.first = Some(Arc::new(K::decode(object)?));
        Ok(())
    }

    fn replace(&mut self) {
        let state = self.first.take().map_or(Known::Absent, Known::Present);
        announce(self.shared, self.key, self.sender, state);
    }

    fn discard(&mut self) {
        self.first = None;
    }

    fn changed(&mut self, object: &[u8]) -> Result<String, serde_json::Error> {
        let object = K::decode(object)?;
        let version = object.resource_version().to_owned();
        announce(self.shared, self.key, self.sender, Known::Present(Arc::new(object)));
        Ok(version)
    }

    fn deleted(&mut self, object: &[u8]) -> Result<String, serde_json::Error> {
        let version = K::decode(object)?.resource_version().to_owned();
        announce(self.shared, self.key, self.sender, Known::Absent);
        Ok(version)
    }
}

fn announce<K: Resource>(shared: &Shared<K>, key: &Key, sender: &watch::Sender<Known<K>>, state: Known<K>) {
    let changed = sender.send_if_modified(|known| {
        let same = match (&*known, &state) {
            (Known::Present(a), Known::Present(b)) => a.resource_version() == b.resource_version(),
            (Known::Absent, Known::Absent) => true,
            _ => false,
        };
        if !same {
            *known = state;
        }
        !same
    });
    if !changed {
        return;
    }
    let users: Vec<String> = {
        let entries = shared.entries.lock();
        entries.get(key).map(|entry| entry.users.iter().cloned().collect()).unwrap_or_default()
    };
    for uid in users {
        shared.table.wake(&uid);
    }
}
