//! Maintenance.Snapshot: the store as a file of etcd's storage engine, then its SHA-256, as etcd sends its own.
//!
//! What `etcdctl snapshot save` writes is a snapshot like any other: `etcdutl snapshot restore` makes a member of it.

use std::pin::Pin;

use futures::{Stream, StreamExt, stream};
use sha2::{Digest, Sha256};
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tonic::Status;

use super::Service;
use super::errors::status;
use super::pb::SnapshotResponse;

pub(super) type Blobs = Pin<Box<dyn Stream<Item = Result<SnapshotResponse, Status>> + Send>>;

/// Bytes in one message (etcd `snapshotSendBufferSize`).
const BLOB_BYTES: usize = 32 * 1024;

/// What is still to be sent.
struct Rest {
    file: File,
    left: u64,
    /// Of what was sent; taken with the last message.
    hash: Option<Sha256>,
}

pub(super) async fn snapshot(service: &Service) -> Result<Blobs, Status> {
    let (file, size) = service.store.etcd_file().await.map_err(status)?;
    let rest = Rest { file: File::from_std(file), left: size, hash: Some(Sha256::new()) };
    let blobs = stream::unfold(rest, |mut rest| async move {
        let message = rest.next().await.transpose()?;
        if message.is_err() {
            rest.hash = None;
            rest.left = 0;
        }
        Some((message, rest))
    });
    Ok(blobs.take_until(service.shutdown.clone().cancelled_owned()).boxed())
}

impl Rest {
    async fn next(&mut self) -> Result<Option<SnapshotResponse>, Status> {
        let blob = if self.left > 0 {
            let mut blob = vec![0; BLOB_BYTES.min(usize::try_from(self.left).unwrap_or(BLOB_BYTES))];
            self.file.read_exact(&mut blob).await.map_err(|error| {
                tracing::error!(%error, "could not read the snapshot");
                Status::unknown(format!("etcdserver: cannot read the snapshot: {error}"))
            })?;
            if let Some(hash) = &mut self.hash {
                hash.update(&blob);
            }
            self.left -= blob.len() as u64;
            blob
        } else {
            let Some(hash) = self.hash.take() else { return Ok(None) };
            hash.finalize().to_vec()
        };
        let version = "3.6.0".to_owned();
        Ok(Some(SnapshotResponse { header: None, remaining_bytes: self.left, blob: blob.into(), version }))
    }
}
