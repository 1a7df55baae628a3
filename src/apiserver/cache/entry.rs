//! One stored object as the cache keeps it: its bytes, and what selectors ask of it, parsed at most once.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use api::{Object, Status};
use bytes::Bytes;
use parking_lot::Mutex;
use serde::Deserialize;

use super::splice::{Spliced, TypeMembers};
use super::view::View;

/// An object at one revision. Shared by the map, the ring of recent changes and every reply that is being sent.
pub struct Entry {
    /// Storage key without the resource's prefix: `namespace/name` or `name`.
    pub key: Box<str>,
    pub revision: i64,
    json: Spliced,
    facts: OnceLock<Facts>,
    /// Values of the kind's selectable fields, in their order; made when the first field selector asks.
    fields: OnceLock<Box<[Box<str>]>>,
    other: Mutex<Vec<(Encoding, Bytes)>>,
}

/// Names another form of the same object: which, and of which served kind (by its index among those of one storage).
pub type Encoding = (&'static str, usize);

#[derive(Default)]
struct Facts {
    labels: Box<[(Box<str>, Box<str>)]>,
}

impl Entry {
    /// `stored` is what the store holds; `None` if it is no JSON object with metadata.
    pub fn new(key: &str, stored: &[u8], revision: i64) -> Option<Self> {
        let json = Spliced::new(stored, revision)?;
        Some(Self::with(key, json, revision))
    }

    fn with(key: &str, json: Spliced, revision: i64) -> Self {
        Self {
            key: key.into(),
            revision,
            json,
            facts: OnceLock::new(),
            fields: OnceLock::new(),
            other: Mutex::new(Vec::new()),
        }
    }

    /// The same object, said at another revision: how a deletion shows the last state.
    pub fn at(&self, revision: i64) -> Self {
        Self::with(&self.key, self.json.at(revision), revision)
    }

    /// The stored JSON with `metadata.resourceVersion`.
    pub fn json(&self) -> &Bytes {
        &self.json.bytes
    }

    /// Where [`Entry::json`] says its type.
    pub fn type_members(&self) -> TypeMembers {
        self.json.type_members
    }

    /// Bytes held, for limits.
    pub fn size(&self) -> usize {
        self.json.bytes.len()
    }

    pub fn object(&self) -> Result<Object, Status> {
        serde_json::from_slice(&self.json.bytes)
            .map_err(|e| Status::internal(format_args!("cannot decode stored object {}: {e}", self.key)))
    }

    pub fn name(&self) -> &str {
        self.key.rsplit_once('/').map_or(&*self.key, |(_, name)| name)
    }

    pub fn namespace(&self) -> &str {
        self.key.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        let labels = &self.facts.get_or_init(|| self.parse_facts()).labels;
        labels.iter().find(|(k, _)| **k == *key).map(|(_, v)| &**v)
    }

    /// Values of the view's selectable fields, in their order. Kept for the storage version; a converted version is
    /// asked so seldom (`events.k8s.io`) that it is made each time.
    pub fn with_fields<R>(&self, view: &View, then: impl FnOnce(&[Box<str>]) -> R) -> R {
        let make = || -> Box<[Box<str>]> {
            // An undecodable object has no field values; reading it reports the error.
            let object = view.object(self).unwrap_or_default();
            view.def.selectable_fields.iter().map(|f| f.of(&object).into_boxed_str()).collect()
        };
        if view.direct { then(self.fields.get_or_init(make)) } else { then(&make()) }
    }

    /// Another encoding, made by `make` on first use and kept.
    pub fn encoded(&self, which: Encoding, make: impl FnOnce() -> Result<Bytes, Status>) -> Result<Bytes, Status> {
        if let Some((_, bytes)) = self.other.lock().iter().find(|(e, _)| *e == which) {
            return Ok(bytes.clone());
        }
        let bytes = make()?;
        let mut other = self.other.lock();
        if !other.iter().any(|(e, _)| *e == which) {
            other.push((which, bytes.clone()));
        }
        Ok(bytes)
    }

    /// Whether an encoding has been made.
    pub fn has_encoded(&self, which: Encoding) -> bool {
        self.other.lock().iter().any(|(e, _)| *e == which)
    }

    /// Drops the encodings that [`Entry::encoded`] keeps.
    pub fn forget_encodings(&self) {
        self.other.lock().clear();
    }

    fn parse_facts(&self) -> Facts {
        #[derive(Deserialize)]
        struct Meta {
            #[serde(default)]
            labels: Option<BTreeMap<Box<str>, Box<str>>>,
        }
        #[derive(Deserialize)]
        struct Outer {
            metadata: Meta,
        }
        let labels = serde_json::from_slice::<Outer>(&self.json.bytes).ok().and_then(|o| o.metadata.labels);
        Facts { labels: labels.unwrap_or_default().into_iter().collect() }
    }
}

/// A change as watchers see it.
pub struct Change {
    pub revision: i64,
    /// The object after the change; for a deletion its last state at the deletion's revision.
    pub entry: Arc<Entry>,
    pub previous: Option<Arc<Entry>>,
    pub deleted: bool,
}
