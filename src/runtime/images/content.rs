//! Blobs in containerd's content store.

use std::collections::HashMap;
use std::time::Duration;

use base::Backoff;
use bytes::Bytes;
use containerd_client::services::v1 as services;
use containerd_client::services::v1::{ReadContentRequest, WriteAction, WriteContentRequest};
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::manifest::Descriptor;
use crate::containerd::connection::{CallError, Connection, is_not_found};

/// Bytes in one message.
const CHUNK_BYTES: usize = 1 << 20;

/// About half a minute in all.
const LOCKED_ATTEMPTS: usize = 20;

/// Why a blob could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    #[error("cannot {step} {digest} in containerd's content store")]
    Call {
        step: &'static str,
        digest: String,
        #[source]
        source: CallError,
    },
    #[error("{0} is larger than a manifest may be")]
    TooLarge(String),
    #[error("cannot get {digest}")]
    Source {
        digest: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("failed size validation: {digest} has {found} bytes, not {expected}")]
    Size { digest: String, expected: i64, found: i64 },
}

fn call(step: &'static str, digest: &str) -> impl Fn(Status) -> ContentError {
    move |status| ContentError::Call { step, digest: digest.into(), source: status.into() }
}

/// Whether the store has a whole blob.
pub async fn exists(connection: &Connection, digest: &str) -> Result<bool, ContentError> {
    let request = services::InfoRequest { digest: digest.into() };
    match connection.content().info(request).await {
        Ok(_) => Ok(true),
        Err(status) if is_not_found(&status) => Ok(false),
        Err(status) => Err(call("find", digest)(status)),
    }
}

/// A small blob; `None` when the store lacks it.
pub async fn read(connection: &Connection, digest: &str) -> Result<Option<Vec<u8>>, ContentError> {
    let request = ReadContentRequest { digest: digest.into(), offset: 0, size: 0 };
    let mut stream = match connection.content().read(request).await {
        Ok(stream) => stream.into_inner(),
        Err(status) if is_not_found(&status) => return Ok(None),
        Err(status) => return Err(call("read", digest)(status)),
    };
    let mut bytes = Vec::new();
    loop {
        match stream.message().await {
            Ok(Some(message)) => bytes.extend_from_slice(&message.data),
            Ok(None) => return Ok(Some(bytes)),
            Err(status) if is_not_found(&status) => return Ok(None),
            Err(status) => return Err(call("read", digest)(status)),
        }
        if bytes.len() as u64 > super::manifest::MANIFEST_BYTES_MAX {
            return Err(ContentError::TooLarge(digest.into()));
        }
    }
}

/// Sets labels of a blob that is there already, e.g. what it refers to.
pub async fn label(connection: &Connection, digest: &str, labels: HashMap<String, String>) -> Result<(), ContentError> {
    let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
    let info = services::Info { digest: digest.into(), labels, ..Default::default() };
    let request = services::UpdateRequest { info: Some(info), update_mask: Some(prost_types::FieldMask { paths }) };
    connection.content().update(request).await.map_err(call("label", digest))?;
    Ok(())
}

/// Writes a small blob.
pub async fn write_bytes(
    connection: &Connection,
    descriptor: &Descriptor,
    bytes: Vec<u8>,
    labels: HashMap<String, String>,
) -> Result<(), ContentError> {
    let mut bytes = Some(Bytes::from(bytes));
    write(connection, descriptor, labels, |offset| {
        let rest = bytes.take().map(|bytes| bytes.slice((offset as usize).min(bytes.len())..));
        async move { Ok(futures::stream::iter(rest.map(Ok::<_, std::io::Error>)).boxed()) }
    })
    .await
}

/// Writes a blob from the stream that `open` gives for an offset: what an earlier attempt wrote is not fetched again.
/// containerd checks size and digest before the blob counts. A blob that is there already only gets the labels.
pub async fn write<F, S>(
    connection: &Connection,
    descriptor: &Descriptor,
    labels: HashMap<String, String>,
    open: F,
) -> Result<(), ContentError>
where
    F: FnOnce(u64) -> S,
    S: Future<Output = Result<futures::stream::BoxStream<'static, std::io::Result<Bytes>>, ContentError>>,
{
    let digest = descriptor.digest.as_str();
    match Writer::open_patiently(connection, descriptor).await {
        Ok(mut writer) => {
            let source = open(writer.offset as u64).await?;
            match writer.copy(source, labels.clone()).await {
                Err(ContentError::Call { source: CallError { code: Code::AlreadyExists, .. }, .. }) => {}
                other => return other,
            }
        }
        Err(ContentError::Call { source: CallError { code: Code::AlreadyExists, .. }, .. }) => {}
        Err(error) => return Err(error),
    }
    if labels.is_empty() {
        return Ok(());
    }
    label(connection, digest, labels).await
}

/// One open write call: each message sent is answered.
struct Writer {
    descriptor: Descriptor,
    reference: String,
    offset: i64,
    requests: mpsc::Sender<WriteContentRequest>,
    responses: Streaming<services::WriteContentResponse>,
}

impl Writer {
    /// An attempt that broke off just now may still hold the blob: containerd notices its end a little later (as
    /// containerd's `core/content/helpers.go`, `OpenWriter`).
    async fn open_patiently(connection: &Connection, descriptor: &Descriptor) -> Result<Self, ContentError> {
        let mut pause = Backoff::new(Duration::from_millis(20), Duration::from_secs(2));
        for _ in 0..LOCKED_ATTEMPTS {
            match Self::open(connection, descriptor).await {
                Err(ContentError::Call { source, .. })
                    if source.code == Code::Unavailable && source.message.contains("locked for") =>
                {
                    tokio::time::sleep(pause.step()).await;
                }
                other => return other,
            }
        }
        Self::open(connection, descriptor).await
    }

    async fn open(connection: &Connection, descriptor: &Descriptor) -> Result<Self, ContentError> {
        let failed = call("write", &descriptor.digest);
        let reference = format!("skiff-{}", descriptor.digest);
        let (requests, receiver) = mpsc::channel(1);
        let first = WriteContentRequest {
            action: WriteAction::Stat.into(),
            r#ref: reference.clone(),
            total: descriptor.size,
            expected: descriptor.digest.clone(),
            ..Default::default()
        };
        // The channel has room for the first message, which has to be there before containerd answers at all.
        let sent = requests.try_send(first);
        sent.map_err(|_| failed(Status::internal("the write call ended before it began")))?;
        let mut responses =
            connection.content().write(ReceiverStream::new(receiver)).await.map_err(&failed)?.into_inner();
        let answer = responses.message().await.map_err(&failed)?;
        let answer = answer.ok_or_else(|| failed(Status::internal("the write call ended at once")))?;
        Ok(Self { descriptor: descriptor.clone(), reference, offset: answer.offset, requests, responses })
    }

    async fn copy(
        &mut self,
        mut source: impl Stream<Item = std::io::Result<Bytes>> + Unpin,
        labels: HashMap<String, String>,
    ) -> Result<(), ContentError> {
        while let Some(chunk) = source.next().await {
            let mut chunk = chunk.map_err(|error| ContentError::Source {
                digest: self.descriptor.digest.clone(),
                source: error.into(),
            })?;
            while !chunk.is_empty() {
                let part = chunk.split_to(chunk.len().min(CHUNK_BYTES));
                let length = part.len() as i64;
                let message = WriteContentRequest {
                    action: WriteAction::Write.into(),
                    offset: self.offset,
                    data: part.to_vec(),
                    ..Default::default()
                };
                self.exchange(message).await?;
                self.offset += length;
            }
        }
        if self.offset != self.descriptor.size {
            return Err(ContentError::Size {
                digest: self.descriptor.digest.clone(),
                expected: self.descriptor.size,
                found: self.offset,
            });
        }
        let commit = WriteContentRequest {
            action: WriteAction::Commit.into(),
            offset: self.offset,
            total: self.descriptor.size,
            expected: self.descriptor.digest.clone(),
            labels,
            ..Default::default()
        };
        self.exchange(commit).await
    }

    async fn exchange(&mut self, mut message: WriteContentRequest) -> Result<(), ContentError> {
        let failed = call("write", &self.descriptor.digest);
        message.r#ref = self.reference.clone();
        // A closed channel means that containerd ended the call; its reason is the next answer.
        let _ = self.requests.send(message).await;
        match self.responses.message().await.map_err(&failed)? {
            Some(_) => Ok(()),
            None => Err(failed(Status::internal("the write call ended early"))),
        }
    }
}
