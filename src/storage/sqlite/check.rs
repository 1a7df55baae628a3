//! What a transaction must look like before it is let in: etcd's `checkTxnRequest` and `checkIntervals`
//! (server/etcdserver/api/v3rpc/key.go), in its order.

use std::collections::HashSet;

use bytes::Bytes;

use super::options::SqliteOptions;
use crate::store::{CompareTarget, KeyRange, Op, Put, StoreError, Txn};

/// Refuses a transaction that cannot be applied whatever the state of the store.
pub(super) fn check_txn(txn: &Txn, options: &SqliteOptions) -> Result<(), StoreError> {
    if size(txn) > options.request_bytes_max {
        return Err(StoreError::TooLarge);
    }
    check_ops(txn, options.txn_ops_max)?;
    check_duplicates(&txn.success)?;
    check_duplicates(&txn.failure)?;
    Ok(())
}

/// Bytes of keys and values.
pub(super) fn size(txn: &Txn) -> usize {
    let compares: usize = txn
        .compare
        .iter()
        .map(|compare| {
            let value = if let CompareTarget::Value(value) = &compare.target { value.len() } else { 0 };
            compare.range.start.len() + value
        })
        .sum();
    let ops: usize = txn
        .success
        .iter()
        .chain(&txn.failure)
        .map(|op| match op {
            Op::Put(put) => put.key.len() + put.value.len(),
            Op::Delete { range, .. } | Op::Range { range, .. } => range.start.len(),
            Op::Txn(inner) => size(inner),
        })
        .sum();
    compares + ops
}

fn check_ops(txn: &Txn, ops_max: usize) -> Result<(), StoreError> {
    let longest = txn.compare.len().max(txn.success.len()).max(txn.failure.len());
    if longest > ops_max {
        return Err(StoreError::TooManyOps);
    }
    if txn.compare.iter().any(|compare| compare.range.start.is_empty()) {
        return Err(StoreError::EmptyKey);
    }
    for op in txn.success.iter().chain(&txn.failure) {
        match op {
            Op::Put(put) => check_put(put)?,
            Op::Delete { range, .. } | Op::Range { range, .. } => {
                if range.start.is_empty() && range.end.is_none() {
                    return Err(StoreError::EmptyKey);
                }
            }
            // etcd counts a nested list against what its parents left over.
            Op::Txn(inner) => check_ops(inner, ops_max - longest)?,
        }
    }
    Ok(())
}

fn check_put(put: &Put) -> Result<(), StoreError> {
    if put.key.is_empty() {
        return Err(StoreError::EmptyKey);
    }
    if put.ignore_value && !put.value.is_empty() {
        return Err(StoreError::ValueProvided);
    }
    if put.ignore_lease && put.lease.0 != 0 {
        return Err(StoreError::LeaseProvided);
    }
    Ok(())
}

/// What a list of operations writes.
#[derive(Default)]
struct Writes {
    puts: HashSet<Bytes>,
    deletes: Vec<KeyRange>,
}

impl Writes {
    fn deletes(&self, key: &[u8]) -> bool {
        self.deletes.iter().any(|range| range.contains(key))
    }
}

/// No key may be put twice, or put and deleted, in one revision; the two branches of a nested transaction exclude
/// each other and may overlap.
fn check_duplicates(ops: &[Op]) -> Result<Writes, StoreError> {
    let mut writes = Writes::default();
    for op in ops {
        if let Op::Delete { range, .. } = op {
            writes.deletes.push(range.clone());
        }
    }
    for op in ops {
        let Op::Txn(inner) = op else { continue };
        let success = check_duplicates(&inner.success)?;
        let failure = check_duplicates(&inner.failure)?;
        for key in &success.puts {
            if writes.deletes(key) || !writes.puts.insert(key.clone()) {
                return Err(StoreError::DuplicateKey);
            }
        }
        for key in &failure.puts {
            if writes.deletes(key) || (!writes.puts.insert(key.clone()) && !success.puts.contains(key)) {
                return Err(StoreError::DuplicateKey);
            }
        }
        writes.deletes.extend(success.deletes);
        writes.deletes.extend(failure.deletes);
    }
    for op in ops {
        let Op::Put(put) = op else { continue };
        if writes.deletes(&put.key) || !writes.puts.insert(put.key.clone()) {
            return Err(StoreError::DuplicateKey);
        }
    }
    Ok(writes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &'static str) -> Op {
        Op::Put(Put { key: Bytes::from_static(key.as_bytes()), ..Put::default() })
    }

    fn delete(prefix: &'static str) -> Op {
        Op::Delete { range: KeyRange::prefix(prefix), prev_kv: false }
    }

    fn nested(success: Vec<Op>, failure: Vec<Op>) -> Op {
        Op::Txn(Box::new(Txn { success, failure, ..Txn::default() }))
    }

    #[test]
    fn refuses_what_etcd_refuses() {
        let check = |ops: Vec<Op>, wanted: Option<StoreError>| {
            let text = format!("{ops:?}");
            let txn = Txn { success: ops, ..Txn::default() };
            let found = check_txn(&txn, &SqliteOptions::default()).err();
            assert_eq!(found.map(|e| e.to_string()), wanted.map(|e| e.to_string()), "{text}");
        };
        check(vec![put("a"), put("b"), delete("c")], None);
        check(vec![put("a"), put("a")], Some(StoreError::DuplicateKey));
        check(vec![put("a"), delete("a")], Some(StoreError::DuplicateKey));
        check(vec![delete("a"), delete("a")], None);
        check(vec![nested(vec![put("a")], vec![put("a")])], None);
        check(vec![nested(vec![put("a")], vec![]), put("a")], Some(StoreError::DuplicateKey));
        check(vec![nested(vec![put("a")], vec![]), nested(vec![], vec![put("a")])], Some(StoreError::DuplicateKey));
        check(vec![nested(vec![delete("a")], vec![]), put("ab")], Some(StoreError::DuplicateKey));
        check(vec![nested(vec![put("ab")], vec![]), delete("a")], Some(StoreError::DuplicateKey));
        check(vec![put("")], Some(StoreError::EmptyKey));
        check((0..129).map(|_| delete("x")).collect(), Some(StoreError::TooManyOps));
        let large = Put { key: "k".into(), value: vec![0; 1_600_000].into(), ..Put::default() };
        check(vec![Op::Put(large)], Some(StoreError::TooLarge));
        let ignored = Put { key: "k".into(), value: "v".into(), ignore_value: true, ..Put::default() };
        check(vec![Op::Put(ignored)], Some(StoreError::ValueProvided));
    }
}
