//! Objects in the store: reads through the cache, writes that compare and swap.
//!
//! Nothing here knows requests: verbs above decide, this carries out.

use std::sync::Arc;

use api::{Object, Status};
use bytes::Bytes;
use serde_json::Value;
use storage::{Compare, CompareResult, CompareTarget, KeyRange, LeaseId, Op, Put, Revision, Store, Txn};

use crate::cache::entry::Entry;
use crate::errors;
use crate::served::{Served, Stored};

pub mod leases;

/// An object as it is now.
pub struct Current {
    /// In the served version, with its resourceVersion.
    pub object: Object,
    pub revision: i64,
    pub entry: Arc<Entry>,
}

/// How a swap ended.
pub enum Swap {
    Done(Arc<Entry>),
    /// The stored bytes would not change; nothing was written.
    Unchanged,
    /// Somebody wrote since.
    Conflict,
}

/// Writes and reads of one server's store.
pub struct Objects {
    pub store: Arc<dyn Store>,
    leases: leases::Leases,
}

impl Objects {
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { leases: leases::Leases::new(Arc::clone(&store)), store }
    }

    /// The object at a key after every write acknowledged before this call.
    pub async fn load(&self, stored: &Stored, key: &str) -> Result<Option<Current>, Status> {
        stored.cache.fresh().await?;
        let Some(entry) = stored.cache.get(key) else {
            return stored.cache.unreadable(key).map_or(Ok(None), |found| Err(found.not_writable()));
        };
        stored.view.prepare(std::slice::from_ref(&entry)).await?;
        let object = stored.view.object(&entry)?;
        Ok(Some(Current { object, revision: entry.revision, entry }))
    }

    /// Writes a new key; `None` if it exists.
    pub async fn create(
        &self,
        served: &Served,
        stored: &Stored,
        key: &str,
        object: Object,
    ) -> Result<Option<Arc<Entry>>, Status> {
        // A watch from the answer's revision must find everything after it in the cache.
        stored.cache.ready().await?;
        let bytes = encode(stored, object).await?;
        let lease = self.lease(served).await?;
        let full = full_key(stored, key);
        let txn = Txn {
            compare: vec![exists_at(&full, Revision(0))],
            success: vec![put(&full, &bytes, lease)],
            failure: Vec::new(),
        };
        let result = self.store.txn(txn).await.map_err(errors::store)?;
        if !result.succeeded {
            return Ok(None);
        }
        entry(key, &bytes, result.revision).map(Some)
    }

    /// Replaces what `current` shows with `object`.
    pub async fn swap(
        &self,
        served: &Served,
        stored: &Stored,
        key: &str,
        current: &Current,
        object: Object,
    ) -> Result<Swap, Status> {
        let object = stored.view.to_stored(object).await?;
        let unchanged = if stored.view.direct {
            same_but_version(&current.object, &object)
        } else {
            same_but_version(&current.entry.object()?, &object)
        };
        if unchanged {
            return Ok(Swap::Unchanged);
        }
        let bytes = to_bytes(&object)?;
        let lease = self.lease(served).await?;
        let full = full_key(stored, key);
        let txn = Txn {
            compare: vec![exists_at(&full, Revision(current.revision))],
            success: vec![put(&full, &bytes, lease)],
            failure: Vec::new(),
        };
        let result = self.store.txn(txn).await.map_err(errors::store)?;
        if !result.succeeded {
            return Ok(Swap::Conflict);
        }
        entry(key, &bytes, result.revision).map(Swap::Done)
    }

    /// Deletes what `current` shows; the deletion's revision, or `None` if somebody wrote since.
    pub async fn delete(&self, stored: &Stored, key: &str, revision: i64) -> Result<Option<i64>, Status> {
        let full = full_key(stored, key);
        let txn = Txn {
            compare: vec![exists_at(&full, Revision(revision))],
            success: vec![Op::Delete { range: KeyRange::key(full), prev_kv: false }],
            failure: Vec::new(),
        };
        let result = self.store.txn(txn).await.map_err(errors::store)?;
        Ok(result.succeeded.then_some(result.revision.0))
    }

    async fn lease(&self, served: &Served) -> Result<LeaseId, Status> {
        match served.def.ttl {
            Some(ttl) => self.leases.lease(ttl).await.map_err(errors::store),
            None => Ok(LeaseId(0)),
        }
    }
}

/// Whether two objects differ in nothing but `metadata.resourceVersion`, which only the first has.
fn same_but_version(shown: &Object, stored: &Object) -> bool {
    shown.0.len() == stored.0.len()
        && shown.0.iter().all(|(name, value)| match (name.as_str(), value, stored.0.get(name)) {
            ("metadata", Value::Object(a), Some(Value::Object(b))) => {
                let version = usize::from(a.contains_key("resourceVersion"));
                a.len() - version == b.len() && a.iter().all(|(k, v)| k == "resourceVersion" || b.get(k) == Some(v))
            }
            (_, value, other) => other == Some(value),
        })
}

/// The entry of an object that was not written (dry run), at a revision of the caller's choice. Only what is written
/// loses its `selfLink` (etcd3 `PrepareObjectForStorage`).
pub async fn unwritten(stored: &Stored, key: &str, object: Object, revision: i64) -> Result<Arc<Entry>, Status> {
    let said = |member: &str| object.str(&["metadata", member]).map(ToOwned::to_owned);
    let link = said("selfLink");
    // A version that is none stays as well, whatever it says.
    let version = said("resourceVersion").filter(|text| revision == 0 && !text.is_empty());
    let mut object = stored.view.to_stored(object).await?;
    for (member, value) in [("selfLink", link), ("resourceVersion", version)] {
        if let Some(value) = value {
            object.set(&["metadata", member], value);
        }
    }
    entry(key, &to_bytes(&object)?, Revision(revision))
}

async fn encode(stored: &Stored, object: Object) -> Result<Bytes, Status> {
    to_bytes(&stored.view.to_stored(object).await?)
}

fn to_bytes(object: &Object) -> Result<Bytes, Status> {
    serde_json::to_vec(object).map(Bytes::from).map_err(Status::internal)
}

fn entry(key: &str, stored: &[u8], revision: Revision) -> Result<Arc<Entry>, Status> {
    Entry::new(key, stored, revision.0)
        .map(Arc::new)
        .ok_or_else(|| Status::internal(format_args!("object {key} has no metadata")))
}

fn full_key(stored: &Stored, key: &str) -> Bytes {
    format!("{}{key}", stored.cache.prefix).into()
}

fn exists_at(key: &Bytes, revision: Revision) -> Compare {
    Compare { range: KeyRange::key(key.clone()), target: CompareTarget::Mod(revision), result: CompareResult::Equal }
}

fn put(key: &Bytes, value: &Bytes, lease: LeaseId) -> Op {
    Op::Put(Put { key: key.clone(), value: value.clone(), lease, ..Put::default() })
}
