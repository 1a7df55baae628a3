//! What a user may set about the SQLite engine.

use std::time::Duration;

use bytes::Bytes;

/// Settings of [`SqliteStore`](super::SqliteStore). The defaults are etcd's where etcd has the setting.
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// Keys with these prefixes live in memory only: they share the sequence of revisions, are written to disk at an
    /// orderly stop and are lost in a crash.
    pub ephemeral_prefixes: Vec<Bytes>,
    /// Leases are on disk when they are granted, as etcd's; otherwise with the first key on disk that carries them.
    pub leases_on_disk: bool,
    /// Largest sum of keys and values in one transaction, in bytes (etcd `--max-request-bytes`).
    pub request_bytes_max: usize,
    /// Most operations in one list of a transaction (etcd `--max-txn-ops`).
    pub txn_ops_max: usize,
    /// Writes that may wait for the writer; more callers wait in turn.
    pub queue_len: usize,
    /// Bytes of keys and values that may wait for the writer; more callers wait in turn.
    pub queue_bytes: usize,
    /// Messages that may wait in one watch before it ends with `Lagged`.
    pub watch_queue_len: usize,
    /// Read connections, opened when first needed.
    pub readers: usize,
    /// How much history to keep. `None`: until someone calls `compact`.
    pub history: Option<Duration>,
    /// How many revisions of history to keep at most, of those written since the start. `None`: as `history` says.
    pub history_revisions: Option<i64>,
    /// The write-ahead log is folded into the database when it has grown by this size, in bytes, or by three times the
    /// size of the database if that is more, but at most by eight times this size; one twice as large is cut back
    /// afterwards.
    pub wal_bytes: u64,
    /// Largest size of the database file, in bytes; writes that need more are told that the disk is full until
    /// compaction or deletions have made room (etcd `--quota-backend-bytes`). `None`: as the disk allows.
    pub bytes_max: Option<u64>,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self {
            ephemeral_prefixes: Vec::new(),
            leases_on_disk: false,
            request_bytes_max: 3 * 512 * 1024,
            txn_ops_max: 128,
            queue_len: 1024,
            queue_bytes: 64 * 1024 * 1024,
            watch_queue_len: 1024,
            readers: 4,
            history: Some(Duration::from_secs(300)),
            history_revisions: Some(1_000_000),
            wal_bytes: 16 * 1024 * 1024,
            bytes_max: None,
        }
    }
}
