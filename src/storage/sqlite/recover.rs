//! What a start reads back, and what an orderly stop leaves for it.

use std::path::Path;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension};

use super::apply::insert;
use super::ephemeral::Ephemeral;
use super::lease::Leases;
use super::rows::{Row, blob, decode, revision_of};
use super::schema::{damaged, meta, quick_check, set_meta, sql};
use crate::store::{KeyRange, StoreError};

const READ: &str = "read the state of the last run";
/// No store comes this far: at a million revisions a second it would take a month, and the numbers of rows end at twice it.
const REVISION_MAX: i64 = i64::MAX >> 21;

/// The state that a start begins with.
pub(super) struct Recovered {
    pub revision: i64,
    pub compacted: i64,
    /// The first row that compaction has yet to look at.
    pub cursor: i64,
    pub ephemeral: Ephemeral,
    pub leases: Leases,
    pub identity: Identity,
    /// The last run did not stop in order, and the database is too large to check it before it is used.
    pub unchecked: bool,
}

/// A database up to this size is checked before it is used; a larger one while it is used. In bytes.
const CHECKED_AT_ONCE: u64 = 64 * 1024 * 1024;

/// Random numbers that a database keeps for its life: what etcd calls the cluster and the member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    pub cluster: u64,
    pub member: u64,
}

/// Reads the state of the last run and marks the database as in use.
pub(super) fn recover(conn: &Connection, path: &Path, prefixes: &[Bytes]) -> Result<Recovered, StoreError> {
    let clean = meta(conn, "clean")?;
    let large = std::fs::metadata(path).map_or(0, |meta| meta.len()) > CHECKED_AT_ONCE;
    if clean == Some(0) {
        tracing::info!("the last run did not stop in order: checking the database");
        if !large {
            quick_check(conn, path)?;
        }
    }
    let newest: Option<i64> = conn.query_row("SELECT max(id) FROM rev", [], |row| row.get(0)).map_err(sql(READ))?;
    let compacted = meta(conn, "compacted")?.unwrap_or(0);
    let cursor = meta(conn, "cursor")?.unwrap_or(0);
    // What was promised to writes in memory counts as used. An empty store is at revision 1, as etcd's.
    let revision = newest.map_or(0, revision_of).max(meta(conn, "ceiling")?.unwrap_or(0)).max(compacted).max(1);

    if revision > REVISION_MAX {
        return Err(damaged(path, format!("it says that it is at revision {revision}")));
    }

    let place = Ephemeral::new(prefixes, 0, Vec::new());
    let (mut kept, to_disk): (Vec<Row>, Vec<Row>) =
        kept_rows(conn)?.into_iter().partition(|row| place.covers(&row.kv.key));
    let to_memory = rows_below(conn, prefixes)?;
    kept.extend(to_memory.iter().cloned());
    kept.sort_by_key(|row| row.id);
    let leases = pairs(conn, "SELECT id, ttl FROM lease", |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut keys = pairs(
        conn,
        "SELECT r.lease, r.key FROM rev r INDEXED BY rev_lease CROSS JOIN live l ON l.key = r.key AND l.id = r.id
         WHERE r.lease <> 0",
        |row| Ok((row.get(0)?, blob(row, 1)?)),
    )?;
    let floor = if clean.is_some() { revision } else { 0 };
    let ephemeral = Ephemeral::new(prefixes, floor, kept);
    keys.extend(ephemeral.leased());
    keys.extend(to_disk.iter().filter(|row| row.kv.lease.0 != 0).map(|row| (row.kv.lease.0, row.kv.key.clone())));
    let number = |name| Ok(meta(conn, name)?.unwrap_or_else(|| rand::random::<i64>() & i64::MAX));
    let (cluster, member) = (number("cluster")?, number("member")?);
    let in_use = || {
        conn.execute_batch("BEGIN IMMEDIATE; DELETE FROM ephemeral;").map_err(sql("mark the database as in use"))?;
        to_memory.iter().try_for_each(|row| forget(conn, row)).map_err(sql("take keys into memory"))?;
        to_disk.iter().try_for_each(|row| insert(conn, row)).map_err(sql("write keys that were in memory"))?;
        set_meta(conn, "clean", 0)?;
        set_meta(conn, "cluster", cluster)?;
        set_meta(conn, "member", member)?;
        conn.execute_batch("COMMIT").map_err(sql("mark the database as in use"))
    };
    in_use()?;
    let identity = Identity { cluster: cluster as u64, member: member as u64 };
    Ok(Recovered {
        revision,
        compacted,
        cursor,
        ephemeral,
        leases: Leases::new(leases, keys),
        identity,
        unchecked: large && clean == Some(0),
    })
}

fn kept_rows(conn: &Connection) -> Result<Vec<Row>, StoreError> {
    let mut statement = conn
        .prepare("SELECT id, key, create_rev, version, lease, 0, value FROM ephemeral ORDER BY id")
        .map_err(sql(READ))?;
    let mut rows = statement.query([]).map_err(sql(READ))?;
    let mut kept = Vec::new();
    while let Some(row) = rows.next().map_err(sql(READ))? {
        kept.push(decode(row)?);
    }
    Ok(kept)
}

/// Keys on disk that are to be in memory from now on: the settings have changed. Deleted ones with history too.
fn rows_below(conn: &Connection, prefixes: &[Bytes]) -> Result<Vec<Row>, StoreError> {
    let mut found = Vec::new();
    // Two statements: of an end that may be missing, SQLite makes no bound, and reads every key after the prefix.
    let select = "SELECT r.id, r.key, r.create_rev, r.version, r.lease, r.prev, r.value
         FROM live l CROSS JOIN rev r ON r.id = l.id WHERE l.key >= ?1";
    for prefix in prefixes {
        let KeyRange { start, end } = KeyRange::prefix(prefix.clone());
        let bound = if end.is_some() { " AND l.key < ?2" } else { "" };
        let mut statement = conn.prepare(&format!("{select}{bound}")).map_err(sql(READ))?;
        let bounds = std::iter::once(&start[..]).chain(end.as_deref());
        let mut rows = statement.query(rusqlite::params_from_iter(bounds)).map_err(sql(READ))?;
        while let Some(row) = rows.next().map_err(sql(READ))? {
            found.push(decode(row)?);
        }
    }
    Ok(found)
}

/// Removes a key and its history from disk, within the caller's transaction.
fn forget(conn: &Connection, row: &Row) -> rusqlite::Result<()> {
    conn.prepare_cached("DELETE FROM live WHERE key = ?")?.execute([&row.kv.key[..]])?;
    let mut id = row.id;
    while id != 0 {
        // What compaction has removed is the end of the chain.
        let before =
            conn.prepare_cached("DELETE FROM rev WHERE id = ? RETURNING prev")?.query_row([id], |row| row.get(0));
        id = before.optional()?.unwrap_or(0);
    }
    Ok(())
}

fn pairs<T>(
    conn: &Connection,
    text: &str,
    read: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>, StoreError> {
    let mut statement = conn.prepare(text).map_err(sql(READ))?;
    let rows = statement.query_map([], read).map_err(sql(READ))?;
    rows.collect::<Result<_, _>>().map_err(sql(READ))
}

/// Writes keys and leases that were in memory only, within the caller's transaction.
pub(super) fn save(conn: &Connection, rows: &[Row], leases: &[(i64, i64)]) -> Result<(), StoreError> {
    let step = "write what was in memory";
    let mut statement = conn
        .prepare("INSERT INTO ephemeral(key, id, create_rev, version, lease, value) VALUES(?, ?, ?, ?, ?, ?)")
        .map_err(sql(step))?;
    for Row { id, kv, .. } in rows {
        let (key, value): (&[u8], &[u8]) = (&kv.key, &kv.value);
        statement.execute((key, id, kv.create_revision.0, kv.version, kv.lease.0, value)).map_err(sql(step))?;
    }
    let mut statement = conn.prepare("INSERT OR IGNORE INTO lease(id, ttl) VALUES(?, ?)").map_err(sql(step))?;
    for lease in leases {
        statement.execute(*lease).map_err(sql(step))?;
    }
    Ok(())
}
