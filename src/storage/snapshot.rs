//! Snapshots of a whole store, the same for every engine: made online through the [`Store`] contract, as of one
//! revision, and put back into a database file or a running cluster.

mod etcd_source;
mod file;

use std::path::{Path, PathBuf};

use base::Shutdown;
use bytes::Bytes;
use tokio::sync::mpsc;

pub use file::{Record, SnapshotError, SnapshotHeader, SnapshotReader, SnapshotWriter};

use crate::etcd::{EtcdOptions, EtcdStore, REVISIONS_KEY, go_on_above};
use crate::store::{KeyRange, KeyValue, LeaseId, Op, Put, RangeOptions, Revision, Store, StoreError, Txn};

/// Keys in one read of the store.
const PAGE: usize = 500;
/// Pages that may wait for the disk.
const PAGES: usize = 4;
/// Keys and bytes in one write when a snapshot is put back; etcd takes 128 operations and 1.5 MB.
const BATCH_KEYS: usize = 100;
const BATCH_BYTES: usize = 1024 * 1024;

/// Exists in a store while a snapshot is put back into it, so that a half-filled one is not taken for whole.
pub const RESTORING: &str = "skiff/restoring";

/// Why a snapshot was not made or put back.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error(transparent)]
    File(#[from] SnapshotError),
    #[error("cannot {step} the store")]
    Store {
        step: &'static str,
        #[source]
        source: StoreError,
    },
    #[error("the work on the snapshot {path} ended early")]
    Ended { path: PathBuf },
}

/// What was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    pub revision: Revision,
    pub keys: u64,
    /// Bytes of the file.
    pub size: u64,
}

fn store_error(step: &'static str) -> impl Fn(StoreError) -> CopyError {
    move |source| CopyError::Store { step, source }
}

/// Writes everything that `store` holds now to `path`, while others go on writing. `created`: seconds since 1970.
pub async fn save(store: &dyn Store, path: &Path, engine: &str, created: i64) -> Result<Copied, CopyError> {
    let read = store_error("read");
    let mut leases = Vec::new();
    for id in store.leases().await.map_err(&read)? {
        let status = store.lease_status(id, false).await.map_err(&read)?;
        if status.granted_ttl > 0 {
            leases.push(Record::Lease(id, status.granted_ttl));
        }
    }
    // Leases first: a lease that ends meanwhile leaves no key behind that names one that the snapshot lacks.
    let revision = store.revision().await.map_err(&read)?;
    let header = SnapshotHeader { revision: revision.0, created, engine: engine.to_owned() };
    let (pages, queue) = mpsc::channel(PAGES);
    let target = path.to_owned();
    let writing = tokio::task::spawn_blocking(move || write_pages(&target, &header, leases, queue));
    let read_all = async {
        let mut range = KeyRange { start: Bytes::new(), end: Some(Bytes::new()) };
        loop {
            let options = RangeOptions { revision, limit: PAGE, ..RangeOptions::default() };
            let page = store.range(range.clone(), options).await.map_err(&read)?;
            let next = page.kvs.last().filter(|_| page.more).map(|kv| [&kv.key[..], &[0]].concat());
            // When the writer has gone it says why below.
            if pages.send(Page::Keys(page.kvs)).await.is_err() {
                return Ok(());
            }
            match next {
                Some(next) => range.start = next.into(),
                None => break,
            }
        }
        drop(pages.send(Page::End).await);
        Ok::<_, CopyError>(())
    };
    let read_result = read_all.await;
    drop(pages);
    let written = writing.await.map_err(|_| CopyError::Ended { path: path.to_owned() })?;
    read_result?;
    let (size, keys) = written?;
    Ok(Copied { revision, keys, size })
}

enum Page {
    Keys(Vec<KeyValue>),
    /// That was all; without it the snapshot is not finished.
    End,
}

fn write_pages(
    path: &Path,
    header: &SnapshotHeader,
    leases: Vec<Record>,
    mut queue: mpsc::Receiver<Page>,
) -> Result<(u64, u64), CopyError> {
    let mut writer = SnapshotWriter::create(path, header)?;
    for lease in &leases {
        writer.write(lease)?;
    }
    while let Some(page) = queue.blocking_recv() {
        match page {
            Page::Keys(kvs) => {
                for kv in kvs {
                    if !is_of_the_store(&kv.key) {
                        writer.write(&Record::Key(kv))?;
                    }
                }
            }
            Page::End => return Ok(writer.finish()?),
        }
    }
    Err(CopyError::Ended { path: path.to_owned() })
}

/// Whether a key is about the store itself and no part of what is kept: the mark of a restore, and where a cluster's
/// revisions go on.
fn is_of_the_store(key: &[u8]) -> bool {
    key == RESTORING.as_bytes() || key == REVISIONS_KEY.as_bytes()
}

/// Whether a restore into this store began and did not end.
pub async fn is_half_restored(store: &dyn Store) -> Result<bool, StoreError> {
    let options = RangeOptions { count_only: true, ..RangeOptions::default() };
    Ok(store.range(KeyRange::key(RESTORING), options).await?.count > 0)
}

/// Makes a cluster hold what the snapshot holds and nothing else; no server may be using it. Keys get new revisions, in
/// their old order, all above the snapshot's newest; what was before is history that nobody can ask for any more, so
/// that clients of either datastore begin anew and miss nothing. If it is interrupted, run it again: until it has ended,
/// [`is_half_restored`] says so.
pub async fn restore_into(options: EtcdOptions, path: &Path, progress: impl Fn(&str)) -> Result<Copied, CopyError> {
    let write = store_error("write");
    let source = path.to_owned();
    let loaded = tokio::task::spawn_blocking(move || load(&source)).await;
    let loaded = loaded.map_err(|_| CopyError::Ended { path: path.to_owned() })??;
    let size = std::fs::metadata(path).map_or(0, |meta| meta.len());
    progress(&format!("the snapshot is whole: {} keys", loaded.kvs.len()));
    go_on_above(&options, Revision(loaded.header.revision)).await.map_err(&write)?;
    let shutdown = Shutdown::new();
    let store = EtcdStore::open(options, shutdown.clone()).await.map_err(&write)?;
    let keys = loaded.kvs.len() as u64;
    let filled = fill(&*store, loaded).await;
    shutdown.cancel();
    store.closed().await;
    Ok(Copied { revision: filled.map_err(&write)?, keys, size })
}

async fn fill(store: &dyn Store, loaded: Loaded) -> Result<Revision, StoreError> {
    let Loaded { leases, mut kvs, .. } = loaded;
    let mark = Op::Put(Put { key: RESTORING.into(), value: "1".into(), ..Put::default() });
    transact(store, vec![mark]).await?;
    clear(store).await?;
    for (id, ttl) in leases {
        match store.lease_grant(id, ttl).await {
            Ok(_) | Err(StoreError::LeaseExists) => {}
            Err(error) => return Err(error),
        }
    }
    // In the order of their last change, so that newer objects keep higher revisions than older ones.
    kvs.sort_by_key(|kv| kv.mod_revision);
    let mut batch = Vec::new();
    let mut bytes = 0;
    for kv in kvs {
        bytes += kv.key.len() + kv.value.len();
        batch.push(Op::Put(Put { key: kv.key, value: kv.value, lease: kv.lease, ..Put::default() }));
        if batch.len() >= BATCH_KEYS || bytes >= BATCH_BYTES {
            transact(store, std::mem::take(&mut batch)).await?;
            bytes = 0;
        }
    }
    if !batch.is_empty() {
        transact(store, batch).await?;
    }
    let end = Op::Delete { range: KeyRange::key(RESTORING), prev_kv: false };
    let revision = transact(store, vec![end]).await?;
    match store.compact(revision).await {
        // Another server on the cluster may have compacted further.
        Ok(()) | Err(StoreError::Compacted { .. }) => Ok(revision),
        Err(error) => Err(error),
    }
}

struct Loaded {
    header: SnapshotHeader,
    leases: Vec<(LeaseId, i64)>,
    kvs: Vec<KeyValue>,
}

fn load(path: &Path) -> Result<Loaded, CopyError> {
    let mut reader = SnapshotReader::open_checked(path)?;
    let (mut leases, mut kvs) = (Vec::new(), Vec::new());
    while let Some(record) = reader.next_record()? {
        match record {
            Record::Lease(id, ttl) => leases.push((id, ttl)),
            Record::Key(kv) => kvs.push(kv),
        }
    }
    Ok(Loaded { header: reader.header().clone(), leases, kvs })
}

async fn transact(store: &dyn Store, success: Vec<Op>) -> Result<Revision, StoreError> {
    Ok(store.txn(Txn { success, ..Txn::default() }).await?.revision)
}

/// Deletes everything but what is about the store itself, a part at a time.
async fn clear(store: &dyn Store) -> Result<(), StoreError> {
    let mut start = Bytes::new();
    loop {
        let range = KeyRange { start: start.clone(), end: Some(Bytes::new()) };
        let options = RangeOptions { limit: PAGE, keys_only: true, ..RangeOptions::default() };
        let page = store.range(range, options).await?;
        let keys: Vec<Bytes> = page.kvs.iter().map(|kv| kv.key.clone()).filter(|key| !is_of_the_store(key)).collect();
        for part in keys.chunks(BATCH_KEYS) {
            let delete = |key: &Bytes| Op::Delete { range: KeyRange::key(key.clone()), prev_kv: false };
            transact(store, part.iter().map(delete).collect()).await?;
        }
        match page.kvs.last().filter(|_| page.more) {
            Some(last) => start = [&last.key[..], &[0]].concat().into(),
            None => return Ok(()),
        }
    }
}
