//! A snapshot becomes the database file.
//!
//! The new file is built beside the old one; then a mark says that it is to take its place. Only the mark decides: a
//! restore that is interrupted before it has not happened, one that is interrupted after it is completed by the next
//! [`open`](super::SqliteStore::open). The old file stays under another name.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rusqlite::Connection;

use super::options::SqliteOptions;
use super::recover;
use super::rows::{Row, last_id, row_id};
use super::schema::{self, OpenError, set_meta, sql};
use crate::snapshot::{CopyError, Record, SnapshotReader};
use crate::store::{KeyRange, KeyValue, Revision, StoreError};

const STEP: &str = "build the database";
/// Revisions that are skipped after a restore: clients may have seen ones that the snapshot does not know.
const SKIP: i64 = 1 << 20;

/// Suffix of the word, left beside a database, that a check found it damaged.
const DAMAGED: &str = "damaged";

/// Leaves word for the next start that the database is damaged.
pub(super) fn condemn(path: &Path, report: &str) -> io::Result<()> {
    fs::write(beside(path, DAMAGED), report)?;
    sync_folder(path)
}

/// The word that an earlier run left.
pub(super) fn condemned(path: &Path) -> Option<String> {
    fs::read_to_string(beside(path, DAMAGED)).ok()
}

/// What was put back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    pub keys: u64,
    /// The revision that the database goes on from.
    pub revision: Revision,
    /// Where the file before lies now, if there was one.
    pub replaced: Option<PathBuf>,
}

/// Makes the database at `path` from a snapshot, keeping what was there under a name with `tag` in it. `seen`: the
/// newest revision that clients may know, 0 if that is unknown. No process may have the database open. Blocks.
pub fn restore(
    path: &Path,
    snapshot: &Path,
    ephemeral_prefixes: &[Bytes],
    seen: Option<Revision>,
    tag: &str,
) -> Result<Restored, CopyError> {
    let store = |source| CopyError::Store { step: "restore", source };
    let lock = schema::lock(path).map_err(store)?;
    complete(path).map_err(store)?;
    let reader = SnapshotReader::open_checked(snapshot)?;
    let new = beside(path, "restored");
    remove(&new).map_err(|error| store(file(&new, error)))?;
    let (keys, revision) = build(&new, reader, ephemeral_prefixes, seen)?;
    let old = path.exists().then(|| beside(path, tag));
    let mark = beside(path, "restore");
    let tag = old.as_ref().map(|old| old.to_string_lossy().into_owned()).unwrap_or_default();
    let written = (|| -> io::Result<()> {
        File::open(&new)?.sync_all()?;
        let unfinished = beside(path, "restore.new");
        fs::write(&unfinished, tag.as_bytes())?;
        File::open(&unfinished)?.sync_all()?;
        fs::rename(&unfinished, &mark)?;
        sync_folder(path)
    })();
    written.map_err(|error| store(file(&mark, error)))?;
    complete(path).map_err(store)?;
    drop(lock);
    Ok(Restored { keys, revision, replaced: old })
}

/// Ends a restore that was interrupted after its mark was written; without a mark does nothing. The caller holds the
/// lock.
pub(super) fn complete(path: &Path) -> Result<(), StoreError> {
    let mark = beside(path, "restore");
    let old = match fs::read_to_string(&mark) {
        Ok(old) => old,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(file(&mark, error)),
    };
    let swap = || -> io::Result<()> {
        let new = beside(path, "restored");
        if new.exists() {
            // The log belongs to the old file; the new one must not find it.
            for suffix in ["-wal", "-shm"] {
                let from = appended(path, suffix);
                if from.exists() {
                    match old.as_str() {
                        "" => fs::remove_file(&from)?,
                        old => fs::rename(&from, appended(Path::new(old), suffix))?,
                    }
                }
            }
            if !old.is_empty() && path.exists() {
                fs::rename(path, &old)?;
            }
            sync_folder(path)?;
            fs::rename(&new, path)?;
            sync_folder(path)?;
        }
        remove(&beside(path, DAMAGED))?;
        fs::remove_file(&mark)?;
        sync_folder(path)
    };
    swap().map_err(|error| file(path, error))
}

/// `db` and `x` make `db.x`.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    appended(path, &format!(".{suffix}"))
}

fn appended(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

fn file(path: &Path, source: io::Error) -> StoreError {
    if source.kind() == io::ErrorKind::StorageFull {
        return StoreError::DiskFull;
    }
    StoreError::Engine { step: "restore", source: Box::new(OpenError::File { path: path.to_owned(), source }) }
}

fn build(
    path: &Path,
    mut reader: SnapshotReader,
    ephemeral_prefixes: &[Bytes],
    seen: Option<Revision>,
) -> Result<(u64, Revision), CopyError> {
    let store = |source| CopyError::Store { step: "restore", source };
    let snapshot = reader.header().revision;
    let newest = match seen {
        Some(seen) => snapshot.max(seen.0),
        None => snapshot + SKIP,
    };
    schema::create_private(path).map_err(store)?;
    let conn = Connection::open(path).map_err(sql(STEP)).map_err(store)?;
    schema::prepare(&conn, path, &SqliteOptions::default()).map_err(store)?;
    // Nobody else has the file, and an interrupted one is thrown away: no log is needed.
    conn.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; BEGIN")
        .map_err(sql(STEP))
        .map_err(store)?;
    let prefixes: Vec<KeyRange> = ephemeral_prefixes.iter().cloned().map(KeyRange::prefix).collect();
    let mut ephemeral: BTreeMap<i64, Row> = BTreeMap::new();
    let mut keys = 0;
    while let Some(record) = reader.next_record()? {
        match record {
            Record::Lease(id, ttl) => {
                conn.prepare_cached("INSERT OR REPLACE INTO lease(id, ttl) VALUES(?, ?)")
                    .and_then(|mut statement| statement.execute((id.0, ttl)))
                    .map_err(sql(STEP))
                    .map_err(store)?;
            }
            Record::Key(kv) => {
                keys += 1;
                let mut id = next_id(&conn, kv.mod_revision.0).map_err(sql(STEP)).map_err(store)?;
                while ephemeral.contains_key(&id) {
                    id += 1;
                }
                if prefixes.iter().any(|prefix| prefix.contains(&kv.key)) {
                    ephemeral.insert(id, Row { id, kv, prev: 0 });
                } else {
                    insert(&conn, id, &kv).map_err(sql(STEP)).map_err(store)?;
                }
            }
        }
    }
    let finish = move || -> Result<Connection, StoreError> {
        recover::save(&conn, &ephemeral.into_values().collect::<Vec<_>>(), &[])?;
        // History before the snapshot is not there: whoever asks for it must begin anew.
        for (name, value) in [("compacted", newest), ("cursor", row_id(newest, 0)), ("ceiling", newest), ("clean", 1)] {
            set_meta(&conn, name, value)?;
        }
        conn.execute_batch("COMMIT; PRAGMA journal_mode = DELETE;").map_err(sql(STEP))?;
        Ok(conn)
    };
    let conn = finish().map_err(store)?;
    conn.close().map_err(|(_, error)| store(sql(STEP)(error)))?;
    Ok((keys, Revision(newest)))
}

/// Keys that were written at one revision are numbered as they come.
fn next_id(conn: &Connection, revision: i64) -> rusqlite::Result<i64> {
    let highest: Option<i64> = conn
        .prepare_cached("SELECT max(id) FROM rev WHERE id >= ? AND id <= ?")?
        .query_row((row_id(revision, 0), last_id(revision)), |row| row.get(0))?;
    Ok(highest.map_or(row_id(revision, 0), |id| id + 1))
}

fn insert(conn: &Connection, id: i64, kv: &KeyValue) -> rusqlite::Result<()> {
    let (key, value): (&[u8], &[u8]) = (&kv.key, &kv.value);
    conn.prepare_cached(
        "INSERT INTO rev(id, key, create_rev, version, lease, prev, value) VALUES(?, ?, ?, ?, ?, 0, ?)",
    )?
    .execute((id, key, kv.create_revision.0, kv.version, kv.lease.0, value))?;
    conn.prepare_cached("INSERT INTO live(key, id, version) VALUES(?, ?, ?)")?.execute((key, id, kv.version))?;
    Ok(())
}
