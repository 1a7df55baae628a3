//! Read connections, lent to one read at a time on a blocking thread.

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

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
        let permit = self.permit().await?;
        let readers = self.clone();
        let work = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            readers.lend(|conn| snapshot(conn, read))
        });
        work.await.map_err(|error| StoreError::Engine { step: "read", source: Box::new(error) })?
    }

    /// The right to [`Self::lend`]; waits for it.
    pub(super) async fn permit(&self) -> Result<OwnedSemaphorePermit, StoreError> {
        self.permits.clone().acquire_owned().await.map_err(|_| StoreError::Stopped)
    }

    /// As [`Self::permit`], if there is no need to wait for it.
    pub(super) fn permit_at_once(&self) -> Option<OwnedSemaphorePermit> {
        self.permits.clone().try_acquire_owned().ok()
    }

    /// Lends a connection to the holder of a permit. Blocks.
    pub(super) fn lend<T>(&self, work: impl FnOnce(&Connection) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let idle = self.idle.lock().pop();
        let conn = match idle {
            Some(conn) => conn,
            None => open_reader(&self.path)?,
        };
        let result = work(&conn);
        // One whose transaction did not end is of no more use.
        if conn.is_autocommit() && !self.closed() {
            self.idle.lock().push(conn);
        }
        result
    }

    /// Whether [`Self::close`] has been called.
    pub(super) fn closed(&self) -> bool {
        self.permits.is_closed()
    }

    /// Ends all reads: running ones finish, new ones are refused.
    pub(super) fn close(&self) {
        self.permits.close();
        self.idle.lock().clear();
    }
}

/// Runs `read` in one snapshot of the database, on a connection that was lent.
pub(super) fn snapshot<T>(
    conn: &Connection,
    read: impl FnOnce(&Connection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let execute = |text| conn.prepare_cached(text).and_then(|mut statement| statement.execute([]));
    execute("BEGIN").map_err(sql("begin to read"))?;
    let result = read(conn);
    // Nothing was written: how the transaction ends makes no difference to the data.
    if let Err(error) = execute("ROLLBACK") {
        tracing::debug!(%error, "could not end a read");
    }
    result
}
