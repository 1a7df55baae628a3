//! Reading rows as of a revision.
//!
//! `rev` holds every version of every key, numbered in order of writing; `live` points at each key's newest one, and
//! each row at the one that it superseded. So a read of the newest state is one walk over `live`, and a read of an
//! older state is the same walk with a step back for the few keys that changed since.

use bytes::Bytes;
use rusqlite::types::ToSql;
use rusqlite::{CachedStatement, Connection, Row as SqlRow, Rows};

use super::ephemeral::Ephemeral;
use super::schema::sql;
use crate::store::{KeyRange, KeyValue, LeaseId, Revision, StoreError};

const SUB_BITS: u32 = 20;
/// Changes in one revision.
pub(super) const SUB_MAX: i64 = (1 << SUB_BITS) - 1;

/// The number of a row: its revision, then its place within the revision.
pub(super) fn row_id(revision: i64, sub: i64) -> i64 {
    (revision << SUB_BITS) | sub
}

/// The highest number that belongs to `revision`.
pub(super) fn last_id(revision: i64) -> i64 {
    row_id(revision, SUB_MAX)
}

/// The revision of a row.
pub(super) fn revision_of(id: i64) -> i64 {
    id >> SUB_BITS
}

/// One version of a key; `kv.version` 0 is a deletion.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub id: i64,
    pub kv: KeyValue,
    /// The row before, 0: none.
    pub prev: i64,
}

impl Row {
    /// The key's value, unless the row says that it was deleted.
    pub(super) fn alive(self) -> Option<KeyValue> {
        (self.kv.version > 0).then_some(self.kv)
    }
}

/// The state as of a row number: everything numbered `bound` or lower.
pub(super) struct View<'a> {
    pub conn: &'a Connection,
    pub ephemeral: &'a Ephemeral,
    pub bound: i64,
}

const READ: &str = "read keys";

/// A row that nothing here has written.
#[derive(Debug, thiserror::Error)]
#[error("row {id} says that it superseded row {prev}, which is not older: the database is damaged")]
struct Disorder {
    id: i64,
    prev: i64,
}

impl View<'_> {
    /// The newest version of a key, deletions included.
    pub(super) fn newest(&self, key: &[u8]) -> Result<Option<Row>, StoreError> {
        self.newest_row(key, false)
    }

    /// As [`Self::newest`]; with `key_only` the value may be left out.
    pub(super) fn newest_row(&self, key: &[u8], key_only: bool) -> Result<Option<Row>, StoreError> {
        if self.ephemeral.covers(key) {
            return Ok(self.ephemeral.newest(key, self.bound));
        }
        let mut statement = self.prepare(if key_only {
            "SELECT r.id, r.key, r.create_rev, r.version, r.lease, r.prev, x''
             FROM live l CROSS JOIN rev r ON r.id = l.id WHERE l.key = ?"
        } else {
            "SELECT r.id, r.key, r.create_rev, r.version, r.lease, r.prev, r.value
             FROM live l CROSS JOIN rev r ON r.id = l.id WHERE l.key = ?"
        })?;
        let mut rows = statement.query([key]).map_err(sql(READ))?;
        let Some(row) = rows.next().map_err(sql(READ))? else { return Ok(None) };
        let id: i64 = row.get(0).map_err(sql(READ))?;
        if id <= self.bound {
            return decode(row).map(Some);
        }
        self.row_as_of(row.get(5).map_err(sql(READ))?, key_only)
    }

    /// Keys of the range in order, at most `limit` (0: all); also whether there were more.
    pub(super) fn range(
        &self,
        range: &KeyRange,
        limit: usize,
        keys_only: bool,
    ) -> Result<(Vec<KeyValue>, bool), StoreError> {
        if range.end.is_none() {
            let newest = self.newest_row(&range.start, keys_only)?;
            let mut kvs: Vec<KeyValue> = newest.and_then(Row::alive).into_iter().collect();
            if keys_only {
                kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
            }
            return Ok((kvs, false));
        }
        let wanted = if limit == 0 { usize::MAX } else { limit + 1 };
        let mut kvs = Vec::new();
        if !self.ephemeral.covers_all(range) {
            self.durable_range(range, wanted, keys_only, &mut kvs)?;
        }
        if self.ephemeral.overlaps(range) {
            let mut more = self.ephemeral.range(range, wanted, keys_only, self.bound);
            if !more.is_empty() {
                kvs.append(&mut more);
                kvs.sort_by(|a, b| a.key.cmp(&b.key));
            }
        }
        let more = limit != 0 && kvs.len() > limit;
        if more {
            kvs.truncate(limit);
        }
        Ok((kvs, more))
    }

    fn durable_range(
        &self,
        range: &KeyRange,
        wanted: usize,
        keys_only: bool,
        kvs: &mut Vec<KeyValue>,
    ) -> Result<(), StoreError> {
        let columns = if keys_only {
            "r.id, r.key, r.create_rev, r.version, r.lease, r.prev, x''"
        } else {
            "r.id, r.key, r.create_rev, r.version, r.lease, r.prev, r.value"
        };
        let (condition, bounded) = condition(range);
        let mut statement = self.prepare(&format!(
            "SELECT {columns} FROM live l CROSS JOIN rev r ON r.id = l.id
             WHERE {condition} AND (l.version > 0 OR l.id > ?2) ORDER BY l.key"
        ))?;
        let mut rows = query(&mut statement, range, self.bound, bounded)?;
        while kvs.len() < wanted {
            let Some(sql_row) = rows.next().map_err(sql(READ))? else { break };
            let id: i64 = sql_row.get(0).map_err(sql(READ))?;
            if id <= self.bound {
                kvs.push(decode(sql_row)?.kv);
            } else {
                let prev = sql_row.get(5).map_err(sql(READ))?;
                kvs.extend(self.row_as_of(prev, keys_only)?.and_then(Row::alive));
            }
        }
        Ok(())
    }

    /// How many keys the range holds.
    pub(super) fn count(&self, range: &KeyRange) -> Result<u64, StoreError> {
        if range.end.is_none() {
            return Ok(self.newest_row(&range.start, true)?.and_then(Row::alive).is_some() as u64);
        }
        let mut count = self.ephemeral.count(range, self.bound);
        if self.ephemeral.covers_all(range) {
            return Ok(count);
        }
        let (condition, bounded) = condition(range);
        let mut statement = self.prepare(&format!(
            "SELECT coalesce(sum(l.version > 0 AND l.id <= ?2), 0), coalesce(sum(l.id > ?2), 0) FROM live l
             WHERE {condition}"
        ))?;
        let mut rows = query(&mut statement, range, self.bound, bounded)?;
        let mut newer: i64 = 0;
        if let Some(row) = rows.next().map_err(sql(READ))? {
            let here: i64 = row.get(0).map_err(sql(READ))?;
            count += here as u64;
            newer = row.get(1).map_err(sql(READ))?;
        }
        drop(rows);
        if newer > 0 {
            let mut statement = self.prepare(&format!("SELECT l.id FROM live l WHERE {condition} AND l.id > ?2"))?;
            let mut rows = query(&mut statement, range, self.bound, bounded)?;
            while let Some(row) = rows.next().map_err(sql(READ))? {
                let id: i64 = row.get(0).map_err(sql(READ))?;
                count += self.row_as_of(id, true)?.and_then(Row::alive).is_some() as u64;
            }
        }
        Ok(count)
    }

    /// The first row at or before the bound, from row `id` back. A row that compaction took away means that the key
    /// did not exist.
    fn row_as_of(&self, mut id: i64, keys_only: bool) -> Result<Option<Row>, StoreError> {
        while id > self.bound {
            let mut statement = self.prepare("SELECT prev FROM rev WHERE id = ?")?;
            let mut rows = statement.query([id]).map_err(sql(READ))?;
            let Some(row) = rows.next().map_err(sql(READ))? else { return Ok(None) };
            let prev = row.get(0).map_err(sql(READ))?;
            if prev >= id {
                return Err(StoreError::Engine { step: READ, source: Box::new(Disorder { id, prev }) });
            }
            id = prev;
        }
        self.row(id, keys_only)
    }

    /// The row with this number.
    pub(super) fn row(&self, id: i64, keys_only: bool) -> Result<Option<Row>, StoreError> {
        if id == 0 {
            return Ok(None);
        }
        let mut statement = self.prepare(if keys_only {
            "SELECT id, key, create_rev, version, lease, prev, x'' FROM rev WHERE id = ?"
        } else {
            "SELECT id, key, create_rev, version, lease, prev, value FROM rev WHERE id = ?"
        })?;
        let mut rows = statement.query([id]).map_err(sql(READ))?;
        rows.next().map_err(sql(READ))?.map(decode).transpose()
    }

    fn prepare(&self, text: &str) -> Result<CachedStatement<'_>, StoreError> {
        self.conn.prepare_cached(text).map_err(sql(READ))
    }
}

/// The condition on `l.key` with the range's start as `?1`, a row number as `?2` and the end as `?3` if there is one.
fn condition(range: &KeyRange) -> (&'static str, bool) {
    match &range.end {
        Some(end) if !end.is_empty() => ("l.key >= ?1 AND l.key < ?3", true),
        _ => ("l.key >= ?1", false),
    }
}

fn query<'s>(
    statement: &'s mut CachedStatement<'_>,
    range: &KeyRange,
    bound: i64,
    bounded: bool,
) -> Result<Rows<'s>, StoreError> {
    let start: &[u8] = &range.start;
    let end: &[u8] = range.end.as_deref().unwrap_or_default();
    let all: [&dyn ToSql; 3] = [&start, &bound, &end];
    let parameters = if bounded { &all[..] } else { &all[..2] };
    statement.query(parameters).map_err(sql(READ))
}

/// A row of `rev` in the order id, key, create_rev, version, lease, prev, value.
pub(super) fn decode(row: &SqlRow<'_>) -> Result<Row, StoreError> {
    let read = || -> rusqlite::Result<Row> {
        let id: i64 = row.get(0)?;
        Ok(Row {
            id,
            kv: KeyValue {
                key: blob(row, 1)?,
                value: blob(row, 6)?,
                create_revision: Revision(row.get(2)?),
                mod_revision: Revision(revision_of(id)),
                version: row.get(3)?,
                lease: LeaseId(row.get(4)?),
            },
            prev: row.get(5)?,
        })
    };
    read().map_err(sql(READ))
}

/// Copies a blob out of SQLite's page.
pub(super) fn blob(row: &SqlRow<'_>, column: usize) -> rusqlite::Result<Bytes> {
    Ok(Bytes::copy_from_slice(row.get_ref(column)?.as_blob()?))
}
