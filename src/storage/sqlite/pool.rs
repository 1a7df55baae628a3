//! Read connections, lent to one read at a time on a blocking thread.

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::schema::{open_reader, sql};
use crate::store::StoreError;

/// At most `readers` connections; a read waits for a free one.
pub(super) struct Readers {
    path: PathBuf,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub(super) fn new(path: PathBuf, readers: usize) -> Arc<Self> {
        Arc::new(Self { path, permits: Arc::new(Semaphore::new(readers.max(1))), idle: Mutex::new(Vec::new()) })
    }

    /// Runs `read` in one snapshot of the database.
    pub(super) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| StoreError::Stopped)?;
        let readers = self.clone();
        let work = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let idle = readers.idle.lock().pop();
            let conn = match idle {
                Some(conn) => conn,
                None => open_reader(&readers.path)?,
            };
            let snapshot = conn.unchecked_transaction().map_err(sql("begin to read"))?;
            let result = read(&snapshot);
            // Nothing was written: how the transaction ends makes no difference to the data.
            let ended = snapshot.finish().map_err(sql("end a read"));
            if ended.is_ok() && !readers.permits.is_closed() {
                readers.idle.lock().push(conn);
            }
            result
        });
        work.await.map_err(|error| StoreError::Engine { step: "read", source: Box::new(error) })?
    }

    /// Ends all reads: running ones finish, new ones are refused.
    pub(super) fn close(&self) {
        self.permits.close();
        self.idle.lock().clear();
    }
}
