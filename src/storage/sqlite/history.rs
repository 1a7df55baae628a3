//! Watches that begin in the past: their events come from the table until they have caught up with the hub.

use std::sync::Arc;

use bytes::Bytes;
use rusqlite::Connection;
use tokio::sync::mpsc;

use base::Shutdown;

use super::pool::Readers;
use super::rows::{Row, View, decode, last_id, revision_of, row_id};
use super::schema::sql;
use super::state::Shared;
use crate::hub::Attach;
use crate::store::{Event, EventKind, KeyRange, KeyValue, Revision, StoreError, WatchMessage, WatchOptions};

/// Rows of the table looked at in one read.
const CHUNK_ROWS: usize = 2000;
/// Bytes of values in one read, but for a single larger revision.
const CHUNK_BYTES: usize = 2 * 1024 * 1024;
const READ: &str = "read history";

/// Events from the past, whole revisions.
struct Chunk {
    events: Arc<[Event]>,
    /// Everything up to here is in `events`.
    through: i64,
}

/// Brings a watcher up to date and attaches it to the hub. Waits for a slow receiver.
pub(super) async fn catch_up(
    shared: Arc<Shared>,
    readers: Arc<Readers>,
    range: KeyRange,
    options: WatchOptions,
    mut sender: mpsc::Sender<WatchMessage>,
    shutdown: Shutdown,
) {
    let mut next = options.start.0;
    let _behind = shared.metrics.watch_behind();
    loop {
        let current = shared.current();
        let read = {
            let (shared, range, prev_kv) = (shared.clone(), range.clone(), options.prev_kv);
            readers.read(move |conn| read_chunk(conn, &shared, &range, prev_kv, next, current))
        };
        let chunk = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = sender.closed() => return,
            chunk = read => chunk,
        };
        let events = match chunk {
            Ok(chunk) => {
                next = chunk.through + 1;
                chunk.events
            }
            Err(StoreError::Compacted { compact_revision }) => {
                // A receiver that has gone does not want to know.
                drop(sender.send(WatchMessage::Compacted(compact_revision)).await);
                return;
            }
            Err(error) => {
                tracing::warn!(error = %base::chain(&error), "a watch could not read its history");
                return;
            }
        };
        if !events.is_empty() {
            let count = events.len();
            let message = WatchMessage::Events { revision: Revision(next - 1), events };
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                sent = sender.send(message) => if sent.is_err() { return },
            }
            shared.hub.handed_over(count);
        }
        match shared.hub.attach(&range, options.prev_kv, Revision(next), Some(Revision(next - 1)), sender) {
            Attach::Done(_) => return,
            Attach::Behind(_, back) => sender = back,
        }
    }
}

fn read_chunk(
    conn: &Connection,
    shared: &Shared,
    range: &KeyRange,
    prev_kv: bool,
    next: i64,
    current: i64,
) -> Result<Chunk, StoreError> {
    let view = View { conn, ephemeral: &shared.ephemeral, bound: i64::MAX };
    let (mut found, through) = durable(&view, range, prev_kv, next, current)?;
    if shared.ephemeral.overlaps(range) {
        let more = shared.ephemeral.history(range, row_id(next, 0), last_id(through));
        if !more.is_empty() {
            found.extend(more.into_iter().map(|(row, prev)| (row.id, event(row, if prev_kv { prev } else { None }))));
            found.sort_by_key(|(id, _)| *id);
        }
    }
    // Looked at after the read: rows are deleted only after this number has been raised.
    let oldest = shared.oldest_events(shared.touches_lost(range));
    if next < oldest {
        return Err(StoreError::Compacted { compact_revision: Revision(oldest) });
    }
    Ok(Chunk { events: found.into_iter().map(|(_, event)| event).collect(), through })
}

type Numbered = Vec<(i64, Event)>;

/// Events on disk from revision `next` on, and the last revision that is complete.
fn durable(
    view: &View<'_>,
    range: &KeyRange,
    prev_kv: bool,
    next: i64,
    current: i64,
) -> Result<(Numbered, i64), StoreError> {
    let mut statement = view
        .conn
        .prepare_cached(
            "SELECT id, key, create_rev, version, lease, prev, value FROM rev
             WHERE id >= ? AND id <= ? ORDER BY id",
        )
        .map_err(sql(READ))?;
    let mut rows = statement.query((row_id(next, 0), last_id(current))).map_err(sql(READ))?;
    let mut found = Vec::new();
    let (mut seen, mut bytes, mut last) = (0, 0, 0);
    while let Some(row) = rows.next().map_err(sql(READ))? {
        let id: i64 = row.get(0).map_err(sql(READ))?;
        if (seen >= CHUNK_ROWS || bytes >= CHUNK_BYTES) && revision_of(id) > last {
            return Ok((found, last));
        }
        seen += 1;
        last = revision_of(id);
        let matches = row.get_ref(1).map_err(sql(READ))?.as_blob().is_ok_and(|key| range.contains(key));
        if matches {
            let row = decode(row)?;
            bytes += row.kv.value.len();
            let prev = if prev_kv { view.row(row.prev, false)?.and_then(Row::alive) } else { None };
            found.push((id, event(row, prev)));
        }
    }
    Ok((found, current))
}

fn event(row: Row, prev: Option<KeyValue>) -> Event {
    if row.kv.version > 0 {
        return Event { kind: EventKind::Put, kv: row.kv, prev };
    }
    Event { kind: EventKind::Delete, kv: KeyValue { value: Bytes::new(), ..row.kv }, prev }
}
