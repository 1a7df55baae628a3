//! Opening the database: one process at a time, settings, tables, health, and sentences for what can be wrong.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::options::SqliteOptions;
use crate::store::StoreError;

/// "skif" in ASCII, so that `file` and we can tell our databases from others.
const APPLICATION_ID: i32 = 0x736b_6966;
/// Raised with every change of the tables.
const SCHEMA_VERSION: i32 = 1;
/// Bytes in a page of a new database. Every commit writes anew some eight pages that have little to do with what was
/// put: the last leaf of `rev` and the branch above it, a leaf of `live`, the page's entries in lists of free and of
/// allocated pages. So pages are small; a value that does not fit has pages of its own, which compaction can give back
/// without touching them.
const PAGE_BYTES: u32 = 1024;
/// `SQLITE_IOERR_SHMSIZE`: the shared-memory index could not grow, which on Linux means that the disk is full.
const IOERR_SHMSIZE: i32 = 10 | (19 << 8);

const TABLES: &str = "
CREATE TABLE rev (
  id INTEGER PRIMARY KEY,      -- mod_revision << 20 | number within the revision
  key BLOB NOT NULL,
  create_rev INTEGER NOT NULL,
  version INTEGER NOT NULL,    -- 0: the key was deleted
  lease INTEGER NOT NULL,
  prev INTEGER NOT NULL,       -- id of the row that this one superseded, 0: none
  value BLOB NOT NULL
) STRICT;
CREATE INDEX rev_lease ON rev(lease) WHERE lease <> 0;
CREATE TABLE live (            -- the newest row of every key that has history
  key BLOB NOT NULL PRIMARY KEY,
  id INTEGER NOT NULL,
  version INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE lease (id INTEGER PRIMARY KEY, ttl INTEGER NOT NULL) STRICT;
CREATE TABLE ephemeral (       -- filled at an orderly stop, emptied at the next start
  key BLOB NOT NULL PRIMARY KEY,
  id INTEGER NOT NULL,
  create_rev INTEGER NOT NULL,
  version INTEGER NOT NULL,
  lease INTEGER NOT NULL,
  value BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE meta (name TEXT NOT NULL PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
";

/// What can be wrong with a database file, in words for the person who has to mend it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{path} is in use by another process")]
    InUse { path: PathBuf },
    #[error("no permission to read and write {path}")]
    Permission {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot use {path}")]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is not a database of this program")]
    Foreign { path: PathBuf },
    #[error("{path} was written by a newer version of this program (tables {found}, known {known})")]
    Newer { path: PathBuf, found: i32, known: i32 },
    #[error("{path} is damaged ({report}): restore it from a backup")]
    Damaged { path: PathBuf, report: String },
    #[error("cannot open {path}")]
    Sqlite {
        path: PathBuf,
        #[source]
        source: rusqlite::Error,
    },
}

/// Turns SQLite's errors of one step into ours; a full disk keeps its own name.
pub(super) fn sql(step: &'static str) -> impl Fn(rusqlite::Error) -> StoreError {
    move |error| {
        if disk_full(&error) {
            return StoreError::DiskFull;
        }
        StoreError::Engine { step, source: Box::new(error) }
    }
}

fn disk_full(error: &rusqlite::Error) -> bool {
    match error {
        rusqlite::Error::SqliteFailure(failure, _) => {
            failure.code == ErrorCode::DiskFull || failure.extended_code == IOERR_SHMSIZE
        }
        _ => false,
    }
}

/// The write connection and the lock that keeps other processes out.
pub(super) struct Opened {
    pub conn: Connection,
    pub lock: File,
}

/// Opens or creates the database at `path`. Blocks.
pub(super) fn open(path: &Path, options: &SqliteOptions) -> Result<Opened, StoreError> {
    let lock = lock(path)?;
    super::restore::complete(path)?;
    if let Some(report) = super::restore::condemned(path) {
        return Err(failed(OpenError::Damaged { path: path.to_owned(), report }));
    }
    check_file(path)?;
    let conn = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .map_err(at(path))?;
    prepare(&conn, path, options)?;
    Ok(Opened { conn, lock })
}

/// One more connection, for reading.
pub(super) fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .map_err(sql("open a read connection"))?;
    plan_once(&conn).map_err(sql("set up a read connection"))?;
    conn.execute_batch("PRAGMA cache_size = -1024; PRAGMA query_only = 1; PRAGMA temp_store = MEMORY;")
        .map_err(sql("set up a read connection"))?;
    conn.set_prepared_statement_cache_capacity(32);
    Ok(conn)
}

/// SQLite may plan a statement anew for each value that is bound to it, because of the conditions on an index. Then the
/// planning takes longer than the rest of a read or a write, and every plan here is the same for all values.
fn plan_once(conn: &Connection) -> rusqlite::Result<()> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(drop)
}

/// That the database is damaged, as `report` says.
pub(super) fn damaged(path: &Path, report: String) -> StoreError {
    failed(OpenError::Damaged { path: path.to_owned(), report })
}

fn failed(error: OpenError) -> StoreError {
    StoreError::Engine { step: "open the database", source: Box::new(error) }
}

fn at(path: &Path) -> impl Fn(rusqlite::Error) -> StoreError + '_ {
    move |source| {
        let path = path.to_owned();
        match &source {
            error if disk_full(error) => StoreError::DiskFull,
            rusqlite::Error::SqliteFailure(failure, text) => match failure.code {
                ErrorCode::NotADatabase => failed(OpenError::Foreign { path }),
                ErrorCode::DatabaseCorrupt => {
                    failed(OpenError::Damaged { path, report: text.clone().unwrap_or_else(|| "malformed".to_owned()) })
                }
                ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => failed(OpenError::InUse { path }),
                _ => failed(OpenError::Sqlite { path, source }),
            },
            _ => failed(OpenError::Sqlite { path, source }),
        }
    }
}

fn io_error(path: &Path, source: io::Error) -> StoreError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::StorageFull => StoreError::DiskFull,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            failed(OpenError::Permission { path, source })
        }
        _ => failed(OpenError::File { path, source }),
    }
}

pub(super) fn lock(path: &Path) -> Result<File, StoreError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let lock_path = PathBuf::from(name);
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(|error| io_error(parent, error))?;
    }
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&lock_path)
        .map_err(|error| io_error(&lock_path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(failed(OpenError::InUse { path: path.to_owned() })),
        Err(TryLockError::Error(error)) => Err(io_error(&lock_path, error)),
    }
}

/// Makes an empty file that nobody but the owner reads.
pub(super) fn create_private(path: &Path) -> Result<(), StoreError> {
    check_file(path)
}

/// SQLite answers "unable to open database file" to everything; the file system says why.
fn check_file(path: &Path) -> Result<(), StoreError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|error| io_error(path, error))?;
    restrict(&file).map_err(|error| io_error(path, error))
}

/// The database holds every Secret of the cluster: nobody but the owner reads it.
fn restrict(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mut permissions = file.metadata()?.permissions();
    if permissions.mode() & 0o077 != 0 {
        permissions.set_mode(0o600);
        file.set_permissions(permissions)?;
    }
    Ok(())
}

pub(super) fn prepare(conn: &Connection, path: &Path, options: &SqliteOptions) -> Result<(), StoreError> {
    plan_once(conn).map_err(at(path))?;
    let number = |pragma: &str| conn.pragma_query_value(None, pragma, |row| row.get::<_, i32>(0)).map_err(at(path));
    let application = number("application_id")?;
    let version = number("user_version")?;
    let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(at(path))?;
    let fresh = application == 0 && version == 0 && tables == 0;
    if !fresh && application != APPLICATION_ID {
        return Err(failed(OpenError::Foreign { path: path.to_owned() }));
    }
    if version > SCHEMA_VERSION {
        return Err(failed(OpenError::Newer { path: path.to_owned(), found: version, known: SCHEMA_VERSION }));
    }
    if fresh {
        conn.execute_batch(&format!("PRAGMA page_size = {PAGE_BYTES}; PRAGMA auto_vacuum = INCREMENTAL;"))
            .map_err(at(path))?;
    }
    conn.execute_batch(
        "PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         PRAGMA temp_store = MEMORY;
         PRAGMA cache_size = -4096;
         PRAGMA wal_autocheckpoint = 0;",
    )
    .map_err(at(path))?;
    if let Some(bytes) = options.bytes_max {
        let page: u64 = number("page_size")?.unsigned_abs().into();
        // Answers with the limit in force, which is never below the present size.
        conn.query_row(&format!("PRAGMA max_page_count = {}", (bytes / page).max(1)), [], |_| Ok(()))
            .map_err(at(path))?;
    }
    conn.set_prepared_statement_cache_capacity(64);
    if fresh {
        conn.execute_batch(&format!(
            "BEGIN IMMEDIATE; {TABLES} PRAGMA application_id = {APPLICATION_ID};
             PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
        ))
        .map_err(at(path))?;
    }
    Ok(())
}

/// SQLite's own look at its pages. Takes time in proportion to the database.
pub(super) fn quick_check(conn: &Connection, path: &Path) -> Result<(), StoreError> {
    let report: String = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(at(path))?;
    if report == "ok" {
        return Ok(());
    }
    Err(damaged(path, report))
}

/// An error while a database was opened: if SQLite stumbled over its contents, that the database is damaged.
pub(super) fn while_opening(error: StoreError, path: &Path) -> StoreError {
    let StoreError::Engine { source, .. } = &error else { return error };
    match source.downcast_ref() {
        Some(rusqlite::Error::SqliteFailure(failure, text)) if failure.code == ErrorCode::DatabaseCorrupt => {
            let report = text.clone().unwrap_or_else(|| "malformed".to_owned());
            failed(OpenError::Damaged { path: path.to_owned(), report })
        }
        _ => error,
    }
}

impl OpenError {
    /// The error behind `error`, if opening a database failed with it.
    pub fn of(error: &StoreError) -> Option<&Self> {
        match error {
            StoreError::Engine { source, .. } => source.downcast_ref(),
            _ => None,
        }
    }
}

/// A number in `meta`.
pub(super) fn meta(conn: &Connection, name: &str) -> Result<Option<i64>, StoreError> {
    let mut statement =
        conn.prepare_cached("SELECT value FROM meta WHERE name = ?").map_err(sql("read the settings"))?;
    let mut rows = statement.query([name]).map_err(sql("read the settings"))?;
    match rows.next().map_err(sql("read the settings"))? {
        Some(row) => Ok(Some(row.get(0).map_err(sql("read the settings"))?)),
        None => Ok(None),
    }
}

/// Sets a number in `meta`, within the caller's transaction.
pub(super) fn set_meta(conn: &Connection, name: &str, value: i64) -> Result<(), StoreError> {
    conn.prepare_cached(
        "INSERT INTO meta(name, value) VALUES(?, ?) ON CONFLICT(name) DO UPDATE SET value = excluded.value",
    )
    .and_then(|mut statement| statement.execute((name, value)))
    .map_err(sql("write the settings"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::SqliteStore;
    use crate::store::{KeyRange, Op, Put, RangeOptions, Store, Txn};
    use base::Shutdown;

    #[tokio::test]
    async fn a_database_with_larger_pages_keeps_them_and_is_folded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let page_bytes = || -> i64 {
            let conn = Connection::open(&path).unwrap();
            conn.pragma_query_value(None, "page_size", |row| row.get(0)).unwrap()
        };
        Connection::open(&path)
            .unwrap()
            .execute_batch(&format!(
                "PRAGMA page_size = 4096; PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL;
                 {TABLES} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION};"
            ))
            .unwrap();
        let options = SqliteOptions { wal_bytes: 64 * 1024, ..SqliteOptions::default() };
        for round in 0..2_u8 {
            let shutdown = Shutdown::new();
            let store = SqliteStore::open(&path, options.clone(), shutdown.clone()).await.unwrap();
            for number in 0..300 {
                let (key, value) = (format!("/a/{number}"), vec![round; 1024]);
                let put = Put { key: key.into(), value: value.into(), ..Put::default() };
                store.txn(Txn { success: vec![Op::Put(put)], ..Txn::default() }).await.unwrap();
            }
            let found = store.range(KeyRange::prefix("/a/"), RangeOptions::default()).await.unwrap();
            assert_eq!(found.count, 300);
            assert!(found.kvs.iter().all(|kv| kv.value[..] == [round; 1024]));
            shutdown.cancel();
            store.closed().await;
        }
        assert_eq!(page_bytes(), 4096);
    }

    #[tokio::test]
    async fn a_statement_is_not_planned_anew_for_each_value() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let Opened { conn, lock } = open(&path, &SqliteOptions::default()).unwrap();
        let join = "SELECT r.id FROM live l CROSS JOIN rev r ON r.id = l.id WHERE l.key = ?";
        let mut statement = conn.prepare(join).unwrap();
        for key in [b"a", b"b", b"c"] {
            assert!(!statement.exists([&key[..]]).unwrap());
        }
        assert_eq!(statement.get_status(rusqlite::StatementStatus::RePrepare), 0);
        drop(lock);
    }
}
