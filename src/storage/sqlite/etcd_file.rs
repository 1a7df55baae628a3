//! The whole store as a file of etcd's storage engine, made while it runs: what etcd calls a snapshot.
//!
//! It has every version of every key that is kept, with deletions, the leases and the revision before which history is
//! gone, in etcd's layout (server/storage/schema). What is about a cluster of etcd's (members, votes, users) is as in a
//! new one: `etcdutl snapshot restore` sets it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use base::Shutdown;
use bytes::{BufMut, BytesMut};
use rusqlite::Connection;

use super::SqliteStore;
use super::etcd_form::{BUCKET, put_key, put_number, put_revision, put_value};
use super::rows::{Row, decode, last_id, revision_of, row_id};
use super::schema::{self, meta, sql};
use super::state::Shared;
use crate::bolt::{BoltError, Writer};
use crate::store::{KeyRange, KeyValue, LeaseId, Revision, StoreError};

const STEP: &str = "make a snapshot";
/// The layout of etcd 3.6, which is that of its clusters since 3.5 and this mark of it.
const STORAGE_VERSION: &str = "3.6.0";
/// etcd's term after its first election.
const TERM: u64 = 2;
/// Rows between two looks at whether the store stops.
const LOOK_ROWS: u64 = 1000;
/// The key that is deleted, without ever having been there, at a revision that nothing else is left of: etcd goes on
/// from the newest revision that it finds.
const MARK: &str = "skiff/mark";

/// Tells files that are made at the same time apart.
static FILES: AtomicU64 = AtomicU64::new(0);

impl SqliteStore {
    /// Everything as of now, in a file without a name that goes when it is closed; and its size in bytes. Writers do
    /// not wait meanwhile.
    pub async fn etcd_file(&self) -> Result<(File, u64), StoreError> {
        let (shared, path, shutdown) = (self.shared.clone(), self.path.clone(), self.shutdown.clone());
        let work = move || {
            let target = nameless(&path).map_err(|source| bolt(BoltError::File { step: "create", source }))?;
            write(&shared, &schema::open_reader(&path)?, target, &shutdown)
        };
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|error| StoreError::Engine { step: STEP, source: Box::new(error) })?
    }
}

/// A new file in the database's folder that only its owner reads, without a name.
fn nameless(path: &Path) -> io::Result<File> {
    let number = FILES.fetch_add(1, Ordering::Relaxed);
    let mut name = path.as_os_str().to_owned();
    // One that a crash leaves is removed with other stale copies.
    name.push(format!(".copy-{}-snapshot-{number}", std::process::id()));
    let name = PathBuf::from(name);
    let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&name)?;
    std::fs::remove_file(&name)?;
    Ok(file)
}

fn bolt(error: BoltError) -> StoreError {
    match error {
        BoltError::File { source, .. } if source.kind() == io::ErrorKind::StorageFull => StoreError::DiskFull,
        error => StoreError::Engine { step: STEP, source: Box::new(error) },
    }
}

/// What a snapshot is made from.
struct Moment {
    /// The newest revision in it.
    revision: i64,
    /// History before this revision is gone, or must not be asked for.
    oldest: i64,
    /// Nothing of that history is left.
    compacted: bool,
    /// Versions of keys in memory.
    memory: Vec<Row>,
    /// Id and TTL. Ordered as their keys are.
    leases: BTreeMap<u64, i64>,
}

/// `conn` has just begun a transaction. `None` if the store was compacted beyond the moment meanwhile.
fn moment(shared: &Shared, conn: &Connection, mut leases: BTreeMap<u64, i64>) -> Result<Option<Moment>, StoreError> {
    let revision = shared.current();
    let number = |name| Ok::<_, StoreError>(meta(conn, name)?.unwrap_or(0));
    // The first read fixes what the transaction sees: everything up to `revision`, and what was compacted on disk.
    let (on_disk, cursor) = (number("compacted")?, number("cursor")?);
    let memory = shared.ephemeral.versions(last_id(revision));
    // Looked at after the reads: rows go only after this number has been raised.
    if shared.compacted() > revision {
        return Ok(None);
    }
    let oldest = shared.oldest_events(shared.touches_lost(&KeyRange::prefix(""))).min(revision);
    let mut statement = conn.prepare("SELECT id, ttl FROM lease").map_err(sql(STEP))?;
    let mut rows = statement.query([]).map_err(sql(STEP))?;
    while let Some(row) = rows.next().map_err(sql(STEP))? {
        let (id, ttl): (i64, i64) = (row.get(0).map_err(sql(STEP))?, row.get(1).map_err(sql(STEP))?);
        leases.insert(id as u64, ttl);
    }
    leases.extend(granted(shared));
    let compacted = oldest == on_disk && cursor >= row_id(oldest, 0);
    Ok(Some(Moment { revision, oldest, compacted, memory, leases }))
}

fn granted(shared: &Shared) -> impl Iterator<Item = (u64, i64)> {
    shared.leases.granted().into_iter().map(|(id, ttl)| (id as u64, ttl))
}

fn write(shared: &Shared, conn: &Connection, target: File, shutdown: &Shutdown) -> Result<(File, u64), StoreError> {
    let (snapshot, moment) = loop {
        // Those that end meanwhile are in it too: a lease without keys does no harm, a key without its lease never ends.
        let leases = granted(shared).collect();
        let snapshot = conn.unchecked_transaction().map_err(sql(STEP))?;
        if let Some(moment) = moment(shared, &snapshot, leases)? {
            break (snapshot, moment);
        }
    };
    let mut writer = Writer::new(target).map_err(bolt)?;
    write_keys(&mut writer, &snapshot, &moment, shutdown)?;
    // Nothing was written: how the transaction ends makes no difference to the data.
    drop(snapshot);
    write_leases(&mut writer, &moment).map_err(bolt)?;
    write_meta(&mut writer, &moment, shared.identity.member).map_err(bolt)?;
    write_cluster(&mut writer).map_err(bolt)?;
    writer.finish().map_err(bolt)
}

/// Rows in the order of writing, from disk and from memory.
fn write_keys(writer: &mut Writer, conn: &Connection, moment: &Moment, shutdown: &Shutdown) -> Result<(), StoreError> {
    let (mut key, mut value) = (BytesMut::new(), BytesMut::new());
    let mut put = |row: &Row| -> Result<i64, StoreError> {
        key.clear();
        value.clear();
        put_key(&mut key, row);
        put_value(&mut value, row);
        writer.put(&key, &value).map_err(bolt)?;
        Ok(revision_of(row.id))
    };
    let mut last = moment.oldest;
    let mut memory = moment.memory.iter().peekable();
    let mut statement = conn
        .prepare("SELECT id, key, create_rev, version, lease, prev, value FROM rev WHERE id <= ? ORDER BY id")
        .map_err(sql(STEP))?;
    let mut rows = statement.query([last_id(moment.revision)]).map_err(sql(STEP))?;
    let mut seen = 0_u64;
    while let Some(row) = rows.next().map_err(sql(STEP))? {
        let row = decode(row)?;
        while let Some(earlier) = memory.next_if(|earlier| earlier.id < row.id) {
            last = last.max(put(earlier)?);
        }
        last = last.max(put(&row)?);
        seen += 1;
        if seen.is_multiple_of(LOOK_ROWS) && shutdown.is_cancelled() {
            return Err(StoreError::Stopped);
        }
    }
    for row in memory {
        last = last.max(put(row)?);
    }
    if last < moment.revision {
        put(&mark(moment.revision))?;
    }
    writer.end_bucket(BUCKET).map_err(bolt)
}

fn mark(revision: i64) -> Row {
    let kv = KeyValue {
        key: MARK.into(),
        value: Default::default(),
        create_revision: Revision(0),
        mod_revision: Revision(revision),
        version: 0,
        lease: LeaseId(0),
    };
    Row { id: row_id(revision, 0), kv, prev: 0 }
}

/// etcd's `leasepb.Lease`s (server/lease/leasepb/lease.proto).
fn write_leases(writer: &mut Writer, moment: &Moment) -> Result<(), BoltError> {
    let mut value = BytesMut::new();
    for (id, ttl) in &moment.leases {
        value.clear();
        put_number(&mut value, 1, *id as i64);
        put_number(&mut value, 2, *ttl);
        writer.put(&id.to_be_bytes(), &value)?;
    }
    writer.end_bucket(b"lease")
}

fn write_meta(writer: &mut Writer, moment: &Moment, member: u64) -> Result<(), BoltError> {
    let mut oldest = BytesMut::new();
    put_revision(&mut oldest, moment.oldest, 0);
    let was_compacted = moment.oldest > 0;
    writer.put(b"confState", format!(r#"{{"voters":[{member}],"auto_leave":false}}"#).as_bytes())?;
    let mut index = BytesMut::new();
    index.put_i64(moment.revision);
    writer.put(b"consistent_index", &index)?;
    if was_compacted && moment.compacted {
        writer.put(b"finishedCompactRev", &oldest)?;
    }
    if was_compacted {
        // Without the other one etcd takes away what is left when it starts.
        writer.put(b"scheduledCompactRev", &oldest)?;
    }
    writer.put(b"storageVersion", STORAGE_VERSION.as_bytes())?;
    writer.put(b"term", &TERM.to_be_bytes())?;
    writer.end_bucket(b"meta")
}

fn write_cluster(writer: &mut Writer) -> Result<(), BoltError> {
    writer.put(b"clusterVersion", STORAGE_VERSION.as_bytes())?;
    writer.put(b"downgrade", br#"{"target-version":"","enabled":false}"#)?;
    writer.end_bucket(b"cluster")?;
    for empty in ["alarm", "auth", "authRoles", "authUsers", "members", "members_removed"] {
        writer.end_bucket(empty.as_bytes())?;
    }
    Ok(())
}
