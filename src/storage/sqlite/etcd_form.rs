//! A row as etcd keeps it: the key of its bucket `key`, and the value there (server/storage/mvcc/revision.go,
//! api/mvccpb/kv.proto).

use bytes::{BufMut, Bytes, BytesMut};

use super::rows::{Row, SUB_MAX, revision_of};

/// etcd's bucket of all versions of all keys.
pub(super) const BUCKET: &[u8] = b"key";

/// Appends a revision: its number and the change's number within it.
pub(super) fn put_revision(buffer: &mut BytesMut, revision: i64, sub: i64) {
    buffer.put_i64(revision);
    buffer.put_u8(b'_');
    buffer.put_i64(sub);
}

/// Appends the key of a row, which marks deletions.
pub(super) fn put_key(buffer: &mut BytesMut, row: &Row) {
    put_revision(buffer, revision_of(row.id), row.id & SUB_MAX);
    if row.kv.version == 0 {
        buffer.put_u8(b't');
    }
}

/// Appends the message `mvccpb.KeyValue` of a row; of a deletion it has the key only.
pub(super) fn put_value(buffer: &mut BytesMut, row: &Row) {
    let kv = &row.kv;
    put_bytes(buffer, 1, &kv.key);
    if kv.version > 0 {
        put_number(buffer, 2, kv.create_revision.0);
        put_number(buffer, 3, kv.mod_revision.0);
        put_number(buffer, 4, kv.version);
        put_bytes(buffer, 5, &kv.value);
        put_number(buffer, 6, kv.lease.0);
    }
}

/// Appends a field of protobuf's; what is zero or empty is left out.
pub(super) fn put_number(buffer: &mut BytesMut, field: u8, number: i64) {
    if number != 0 {
        buffer.put_u8(field << 3);
        varint(buffer, number as u64);
    }
}

fn put_bytes(buffer: &mut BytesMut, field: u8, bytes: &Bytes) {
    if !bytes.is_empty() {
        buffer.put_u8(field << 3 | 2);
        varint(buffer, bytes.len() as u64);
        buffer.put_slice(bytes);
    }
}

fn varint(buffer: &mut BytesMut, mut number: u64) {
    while number >= 0x80 {
        buffer.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    buffer.put_u8(number as u8);
}
