//! Applying one transaction within the writer's open SQLite transaction.
//!
//! What a transaction has written is undone by the writer if it fails; here it only says how far it came.

use bytes::Bytes;
use rusqlite::Connection;

use super::rows::{Row, SUB_MAX, View, last_id, row_id};
use super::schema::sql;
use super::state::Shared;
use crate::store::{
    Compare, CompareResult, CompareTarget, Event, EventKind, KeyRange, KeyValue, LeaseId, Op, OpResult, Put,
    RangeOptions, RangeResult, Revision, StoreError, Txn, TxnResult,
};

const WRITE: &str = "write keys";

/// One transaction on its way, at the revision that it gets if it writes.
pub(super) struct Apply<'a> {
    pub conn: &'a Connection,
    pub shared: &'a Shared,
    /// The revision that the transaction's writes get.
    pub revision: i64,
    /// An SQLite transaction is open.
    pub open: &'a mut bool,
    /// Take a savepoint before the first write to disk, because the transaction may fail after it.
    pub guarded: bool,
    pub outcome: Outcome,
}

/// The operations of a transaction that run, chosen by its conditions.
struct Path<'t> {
    succeeded: bool,
    ops: &'t [Op],
    /// Of the nested transactions among them, in their order.
    inner: Vec<Path<'t>>,
}

/// What a transaction did.
#[derive(Default)]
pub(super) struct Outcome {
    pub events: Vec<Event>,
    /// Leases that came to disk with the keys of this transaction.
    pub leases: Vec<LeaseId>,
    /// Something went to memory only.
    pub ephemeral: bool,
    /// Something went to disk.
    pub durable: bool,
    pub savepoint: bool,
}

impl Apply<'_> {
    pub(super) fn txn(&mut self, txn: &Txn) -> Result<TxnResult, StoreError> {
        let path = self.choose(txn)?;
        self.check(&path)?;
        self.execute_ops(&path)
    }

    /// Which operations will run. Every condition, nested ones too, is about the state before the transaction (etcd
    /// `compareToPath`).
    fn choose<'t>(&self, txn: &'t Txn) -> Result<Path<'t>, StoreError> {
        let mut succeeded = true;
        for compare in &txn.compare {
            if !self.holds(compare)? {
                succeeded = false;
                break;
            }
        }
        let ops = if succeeded { &txn.success } else { &txn.failure };
        let mut inner = Vec::new();
        for op in ops {
            if let Op::Txn(txn) = op {
                inner.push(self.choose(txn)?);
            }
        }
        Ok(Path { succeeded, ops, inner })
    }

    /// Refuses operations that the state before the transaction does not allow (etcd `checkTxn`).
    fn check(&self, path: &Path<'_>) -> Result<(), StoreError> {
        let mut inner = path.inner.iter();
        for op in path.ops {
            match op {
                Op::Put(put) => {
                    if (put.ignore_value || put.ignore_lease)
                        && self.view().newest(&put.key)?.and_then(Row::alive).is_none()
                    {
                        return Err(StoreError::KeyNotFound);
                    }
                    if put.lease.0 != 0 && !self.shared.leases.exists(put.lease) {
                        return Err(StoreError::LeaseNotFound);
                    }
                }
                Op::Range { range, options } if options.revision.0 != 0 => {
                    let lost = self.shared.touches_lost(range);
                    self.shared.check_revision(options.revision, self.revision - 1, lost)?;
                }
                Op::Range { .. } | Op::Delete { .. } => {}
                Op::Txn(_) => {
                    if let Some(path) = inner.next() {
                        self.check(path)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn execute_ops(&mut self, path: &Path<'_>) -> Result<TxnResult, StoreError> {
        let mut inner = path.inner.iter();
        let mut results = Vec::with_capacity(path.ops.len());
        for op in path.ops {
            results.push(match op {
                Op::Put(put) => OpResult::Put { prev: self.put(put)? },
                Op::Delete { range, prev_kv } => {
                    let (deleted, prev) = self.delete(range, *prev_kv)?;
                    OpResult::Delete { deleted, prev }
                }
                Op::Range { range, options } => OpResult::Range(self.range(range, options)?),
                Op::Txn(_) => match inner.next() {
                    Some(path) => OpResult::Txn(self.execute_ops(path)?),
                    None => continue,
                },
            });
        }
        Ok(TxnResult { succeeded: path.succeeded, revision: Revision(self.newest()), results })
    }

    /// Deletes these keys, for a lease that has ended.
    pub(super) fn delete_keys(&mut self, keys: &[Bytes]) -> Result<(), StoreError> {
        for key in keys {
            self.delete(&KeyRange::key(key.clone()), false)?;
        }
        Ok(())
    }

    /// Begins the SQLite transaction that a write to disk needs.
    pub(super) fn begin(&mut self) -> Result<(), StoreError> {
        if !*self.open {
            self.execute("BEGIN IMMEDIATE")?;
            *self.open = true;
        }
        if self.guarded && !self.outcome.savepoint {
            self.execute("SAVEPOINT one")?;
            self.outcome.savepoint = true;
        }
        self.outcome.durable = true;
        Ok(())
    }

    fn execute(&self, text: &str) -> Result<(), StoreError> {
        self.conn.prepare_cached(text).and_then(|mut statement| statement.execute([])).map_err(sql(WRITE))?;
        Ok(())
    }

    /// The newest revision as seen from within the transaction.
    fn newest(&self) -> i64 {
        if self.outcome.events.is_empty() { self.revision - 1 } else { self.revision }
    }

    fn view(&self) -> View<'_> {
        View { conn: self.conn, ephemeral: &self.shared.ephemeral, bound: i64::MAX }
    }

    fn holds(&self, compare: &Compare) -> Result<bool, StoreError> {
        let (kvs, _) = self.view().range(&compare.range, 0, !matches!(compare.target, CompareTarget::Value(_)))?;
        if kvs.is_empty() {
            // etcd `applyCompares`: a missing key has no value to compare; its numbers are 0.
            return Ok(!matches!(compare.target, CompareTarget::Value(_)) && test(compare, None));
        }
        Ok(kvs.iter().all(|kv| test(compare, Some(kv))))
    }

    fn range(&self, range: &KeyRange, options: &RangeOptions) -> Result<RangeResult, StoreError> {
        let newest = self.newest();
        let bound = if options.revision.0 > 0 {
            self.shared.check_revision(options.revision, newest, self.shared.touches_lost(range))?;
            last_id(options.revision.0)
        } else {
            i64::MAX
        };
        let view = View { bound, ..self.view() };
        read_range(&view, range, options, Revision(newest), None)
    }

    fn put(&mut self, put: &Put) -> Result<Option<KeyValue>, StoreError> {
        let before = self.view().newest(&put.key)?;
        let prev_id = before.as_ref().map_or(0, |row| row.id);
        let prev = before.and_then(Row::alive);
        if (put.ignore_value || put.ignore_lease) && prev.is_none() {
            return Err(StoreError::KeyNotFound);
        }
        let (mut value, mut lease) = (&put.value, put.lease);
        if let Some(prev) = &prev {
            if put.ignore_value {
                value = &prev.value;
            }
            if put.ignore_lease {
                lease = prev.lease;
            }
        }
        if lease.0 != 0 && !self.shared.leases.exists(lease) {
            return Err(StoreError::LeaseNotFound);
        }
        let kv = KeyValue {
            key: put.key.clone(),
            value: value.clone(),
            create_revision: prev.as_ref().map_or(Revision(self.revision), |prev| prev.create_revision),
            mod_revision: Revision(self.revision),
            version: prev.as_ref().map_or(1, |prev| prev.version + 1),
            lease,
        };
        self.write(Row { id: self.next_id()?, kv: kv.clone(), prev: prev_id })?;
        let answer = if put.prev_kv { prev.clone() } else { None };
        self.outcome.events.push(Event { kind: EventKind::Put, kv, prev });
        Ok(answer)
    }

    fn delete(&mut self, range: &KeyRange, prev_kv: bool) -> Result<(u64, Vec<KeyValue>), StoreError> {
        let (kvs, _) = self.view().range(range, 0, false)?;
        let deleted = kvs.len() as u64;
        // Checked before the first write, so that a refused deletion leaves nothing behind.
        if self.outcome.events.len() as i64 + deleted as i64 > SUB_MAX {
            return Err(StoreError::TooManyOps);
        }
        for prev in &kvs {
            let gone = KeyValue {
                key: prev.key.clone(),
                value: Bytes::new(),
                create_revision: Revision(0),
                mod_revision: Revision(self.revision),
                version: 0,
                lease: LeaseId(0),
            };
            let before = self.view().newest(&prev.key)?.map_or(0, |row| row.id);
            self.write(Row { id: self.next_id()?, kv: gone.clone(), prev: before })?;
            self.outcome.events.push(Event { kind: EventKind::Delete, kv: gone, prev: Some(prev.clone()) });
        }
        Ok((deleted, if prev_kv { kvs } else { Vec::new() }))
    }

    fn next_id(&self) -> Result<i64, StoreError> {
        let sub = self.outcome.events.len() as i64;
        if sub > SUB_MAX {
            return Err(StoreError::TooManyOps);
        }
        Ok(row_id(self.revision, sub))
    }

    fn write(&mut self, row: Row) -> Result<(), StoreError> {
        if self.shared.ephemeral.covers(&row.kv.key) {
            self.shared.ephemeral.push(row);
            self.outcome.ephemeral = true;
            return Ok(());
        }
        self.begin()?;
        if row.kv.lease.0 != 0
            && let Some(ttl) = self.shared.leases.unpersisted_ttl(row.kv.lease)
        {
            insert_lease(self.conn, row.kv.lease, ttl)?;
            self.outcome.leases.push(row.kv.lease);
        }
        insert(self.conn, &row).map_err(sql(WRITE))
    }
}

/// Writes a lease, within the caller's transaction.
pub(super) fn insert_lease(conn: &Connection, id: LeaseId, ttl: i64) -> Result<(), StoreError> {
    conn.prepare_cached("INSERT OR IGNORE INTO lease(id, ttl) VALUES(?, ?)")
        .and_then(|mut statement| statement.execute((id.0, ttl)))
        .map_err(sql(WRITE))?;
    Ok(())
}

/// Writes a row, the newest of its key, within the caller's transaction.
pub(super) fn insert(conn: &Connection, row: &Row) -> rusqlite::Result<()> {
    let (key, value): (&[u8], &[u8]) = (&row.kv.key, &row.kv.value);
    conn.prepare_cached(
        "INSERT INTO rev(id, key, create_rev, version, lease, prev, value) VALUES(?, ?, ?, ?, ?, ?, ?)",
    )?
    .execute((row.id, key, row.kv.create_revision.0, row.kv.version, row.kv.lease.0, row.prev, value))?;
    conn.prepare_cached(
        "INSERT INTO live(key, id, version) VALUES(?, ?, ?)
         ON CONFLICT(key) DO UPDATE SET id = excluded.id, version = excluded.version",
    )?
    .execute((key, row.id, row.kv.version))?;
    Ok(())
}

fn test(compare: &Compare, kv: Option<&KeyValue>) -> bool {
    let order = match &compare.target {
        CompareTarget::Version(version) => kv.map_or(0, |kv| kv.version).cmp(version),
        CompareTarget::Create(revision) => kv.map_or(Revision(0), |kv| kv.create_revision).cmp(revision),
        CompareTarget::Mod(revision) => kv.map_or(Revision(0), |kv| kv.mod_revision).cmp(revision),
        CompareTarget::Lease(lease) => kv.map_or(LeaseId(0), |kv| kv.lease).cmp(lease),
        CompareTarget::Value(value) => kv.map_or(&[][..], |kv| &kv.value[..]).cmp(&value[..]),
    };
    match compare.result {
        CompareResult::Equal => order.is_eq(),
        CompareResult::NotEqual => order.is_ne(),
        CompareResult::Greater => order.is_gt(),
        CompareResult::Less => order.is_lt(),
    }
}

/// A range read of a view. `known`: the count of the range, if it need not be counted.
pub(super) fn read_range(
    view: &View<'_>,
    range: &KeyRange,
    options: &RangeOptions,
    revision: Revision,
    known: Option<u64>,
) -> Result<RangeResult, StoreError> {
    let count = || known.map_or_else(|| view.count(range), Ok);
    if options.count_only {
        return Ok(RangeResult { kvs: Vec::new(), count: count()?, more: false, revision });
    }
    let (kvs, more) = view.range(range, options.limit, options.keys_only)?;
    let count = if more { count()? } else { kvs.len() as u64 };
    Ok(RangeResult { kvs, count, more, revision })
}
