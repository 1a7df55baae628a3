//! Reads the keys and leases of etcd's own snapshots: those of a real etcd, and those that are taken through the etcd
//! interface of ours.
//!
//! Only what is there now is read, not the history before it. Users and roles of etcd's are left out: nothing here has
//! any.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message;

use super::file::{Record, SnapshotError, SnapshotHeader, damaged};
use super::{RESTORING, is_of_the_store};
use crate::bolt::{BoltError, Bucket, Cursor, Reader};
use crate::etcd::REVISIONS_KEY;
use crate::store::{KeyValue, LeaseId, Revision};

/// Bytes of the hash at the end, which the length of the pages before it tells (etcdutl `hasChecksum`).
const HASH_LEN: u64 = 32;
const SECTOR: u64 = 512;

/// etcd's bytes for a revision, and one more for a deletion (server/storage/mvcc/revision.go).
const REVISION_LEN: usize = 17;

/// What etcd keeps of a key (api/mvccpb/kv.proto).
#[derive(Clone, PartialEq, Message)]
struct StoredKey {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(int64, tag = "2")]
    create_revision: i64,
    #[prost(int64, tag = "3")]
    mod_revision: i64,
    #[prost(int64, tag = "4")]
    version: i64,
    #[prost(bytes = "bytes", tag = "5")]
    value: Bytes,
    #[prost(int64, tag = "6")]
    lease: i64,
}

/// What etcd keeps of a lease (server/lease/leasepb/lease.proto).
#[derive(Clone, PartialEq, Message)]
struct StoredLease {
    #[prost(int64, tag = "1")]
    id: i64,
    #[prost(int64, tag = "2")]
    ttl: i64,
}

/// An open snapshot of etcd's.
pub(super) struct EtcdSource {
    path: PathBuf,
    reader: Reader,
    header: SnapshotHeader,
    keys: Bucket,
    /// The version of each key that is the present one, by revision and number within it. Known after [`Self::look`].
    newest: HashMap<Bytes, (i64, i64)>,
    /// Added to every revision: where the cluster's own go on from those of a datastore before it.
    shift: i64,
    leases: Option<Cursor>,
    cursor: Cursor,
}

/// Whether a file of this length ends with a hash.
pub(super) fn has_hash(length: u64) -> bool {
    length % SECTOR == HASH_LEN
}

impl EtcdSource {
    /// Opens a snapshot, reading no more than its end; `None` if the file is something else.
    pub(super) fn open(path: &Path, file: File, length: u64, created: i64) -> Result<Option<Self>, SnapshotError> {
        let content = if has_hash(length) { length - HASH_LEN } else { length };
        let failed = |source| failed(path, source);
        let reader = match Reader::open(file, content) {
            Err(BoltError::Foreign) => return Ok(None),
            reader => reader.map_err(failed)?,
        };
        let Some(keys) = reader.bucket(b"key").map_err(failed)? else { return Ok(None) };
        let mut revision = match reader.last(&keys).map_err(failed)? {
            Some((key, _)) => stored_revision(&key).ok_or_else(|| damaged(path, "a revision cannot be read"))?.0,
            None => 1,
        };
        if let Some(meta) = reader.bucket(b"meta").map_err(failed)? {
            let mut cursor = reader.cursor(&meta);
            while let Some((name, value)) = cursor.next_entry().map_err(failed)? {
                // When everything since was deleted and compacted, only this is left of the newest revision.
                if matches!(&name[..], b"finishedCompactRev" | b"scheduledCompactRev") {
                    let compacted = stored_revision(&value);
                    revision = revision.max(compacted.ok_or_else(|| damaged(path, "a revision cannot be read"))?.0);
                }
            }
        }
        let leases = reader.bucket(b"lease").map_err(failed)?.map(|leases| reader.cursor(&leases));
        Ok(Some(Self {
            path: path.to_owned(),
            cursor: reader.cursor(&keys),
            header: SnapshotHeader { revision, created, engine: "etcd".to_owned() },
            reader,
            keys,
            newest: HashMap::new(),
            shift: 0,
            leases,
        }))
    }

    pub(super) fn header(&self) -> &SnapshotHeader {
        &self.header
    }

    /// Reads everything once, to know which version of each key is the present one.
    pub(super) fn look(&mut self) -> Result<(), SnapshotError> {
        let mut cursor = self.reader.cursor(&self.keys);
        let mut shift = 0;
        while let Some((at, value)) = cursor.next_entry().map_err(|source| failed(&self.path, source))? {
            let (revision, kv) = self.entry(&at, &value)?;
            if kv.key.is_empty() {
                // Only raises the revision (etcdutl `unsafeBumpBucketsRevision`).
            } else if at.len() > REVISION_LEN {
                self.newest.remove(&kv.key);
            } else {
                if kv.key == REVISIONS_KEY.as_bytes() {
                    let number = std::str::from_utf8(&kv.value).ok().and_then(|text| text.parse().ok());
                    shift =
                        number.ok_or_else(|| damaged(&self.path, "the number that is added to revisions is none"))?;
                }
                // Copied: the key is part of a whole page.
                self.newest.insert(Bytes::copy_from_slice(&kv.key), revision);
            }
        }
        if self.newest.contains_key(RESTORING.as_bytes()) {
            return Err(damaged(&self.path, "it was taken while a restore into its cluster had not ended"));
        }
        if self.newest.contains_key(REVISIONS_KEY.as_bytes()) {
            self.shift = shift;
            self.header.revision += shift;
        }
        Ok(())
    }

    /// The next lease or present key; keys in the order of their last change.
    pub(super) fn next_record(&mut self) -> Result<Option<Record>, SnapshotError> {
        if let Some(leases) = &mut self.leases {
            if let Some((_, value)) = leases.next_entry().map_err(|source| failed(&self.path, source))? {
                let lease = StoredLease::decode(value).map_err(|_| damaged(&self.path, "a lease cannot be read"))?;
                return Ok(Some(Record::Lease(LeaseId(lease.id), lease.ttl)));
            }
            self.leases = None;
        }
        while let Some((at, value)) = self.cursor.next_entry().map_err(|source| failed(&self.path, source))? {
            let (revision, kv) = self.entry(&at, &value)?;
            let is_present = at.len() == REVISION_LEN && self.newest.get(&kv.key) == Some(&revision);
            if is_present && !is_of_the_store(&kv.key) {
                return Ok(Some(Record::Key(KeyValue {
                    create_revision: Revision(kv.create_revision + self.shift),
                    mod_revision: Revision(kv.mod_revision + self.shift),
                    version: kv.version,
                    lease: LeaseId(kv.lease),
                    // Copied: small ones would keep whole pages.
                    key: Bytes::copy_from_slice(&kv.key),
                    value: Bytes::copy_from_slice(&kv.value),
                })));
            }
        }
        Ok(None)
    }

    fn entry(&self, at: &Bytes, value: &Bytes) -> Result<((i64, i64), StoredKey), SnapshotError> {
        let revision = stored_revision(at).ok_or_else(|| damaged(&self.path, "a revision cannot be read"))?;
        let kv = StoredKey::decode(value.clone()).map_err(|_| damaged(&self.path, "a key cannot be read"))?;
        Ok((revision, kv))
    }
}

/// The revision and the number within it.
fn stored_revision(bytes: &[u8]) -> Option<(i64, i64)> {
    let number = |at: usize| Some(i64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let (main, sub) = (number(0)?, number(9)?);
    (main >= 0 && sub >= 0 && bytes[8] == b'_' && bytes.len() <= REVISION_LEN + 1).then_some((main, sub))
}

fn failed(path: &Path, source: BoltError) -> SnapshotError {
    SnapshotError::Etcd { path: path.to_owned(), source }
}
