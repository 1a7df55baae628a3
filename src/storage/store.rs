//! The [`Store`] contract that both engines keep.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::ReusableBoxFuture;

/// A point in the store's history. 0 means "now" in requests and "never" in key metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Revision(pub i64);

/// A lease; 0 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct LeaseId(pub i64);

/// A key with its value as of some revision (etcd `mvccpb.KeyValue`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    pub key: Bytes,
    pub value: Bytes,
    pub create_revision: Revision,
    pub mod_revision: Revision,
    /// 1 at creation, plus one for every put.
    pub version: i64,
    pub lease: LeaseId,
}

/// `[start, end)`. `end` `None`: the single key `start`; an empty `end`: to the end of the key space.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeyRange {
    pub start: Bytes,
    pub end: Option<Bytes>,
}

impl KeyRange {
    pub fn key(key: impl Into<Bytes>) -> Self {
        Self { start: key.into(), end: None }
    }

    /// Every key that begins with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start = prefix.into();
        let mut end = start.to_vec();
        while let Some(last) = end.pop() {
            if last < 0xff {
                end.push(last + 1);
                return Self { start, end: Some(end.into()) };
            }
        }
        Self { start, end: Some(Bytes::new()) }
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        match &self.end {
            None => key == self.start,
            Some(end) => key >= self.start.as_ref() && (end.is_empty() || key < end.as_ref()),
        }
    }
}

/// Options of a range read.
#[derive(Debug, Clone, Default)]
pub struct RangeOptions {
    /// 0: at the newest revision. Older than compaction is an error, newer than now too.
    pub revision: Revision,
    /// 0: no limit.
    pub limit: usize,
    pub count_only: bool,
    pub keys_only: bool,
}

/// The answer to a range read, keys ascending.
#[derive(Debug, Clone, Default)]
pub struct RangeResult {
    pub kvs: Vec<KeyValue>,
    /// Keys in the whole range, whatever the limit.
    pub count: u64,
    /// There were more than `limit`.
    pub more: bool,
    /// The store's newest revision when it answered.
    pub revision: Revision,
}

/// A condition on one key or range (etcd `Compare`); all keys of the range must hold.
#[derive(Debug, Clone)]
pub struct Compare {
    pub range: KeyRange,
    pub target: CompareTarget,
    pub result: CompareResult,
}

#[derive(Debug, Clone)]
pub enum CompareTarget {
    /// 0 for a key that does not exist; likewise for the next two.
    Version(i64),
    Create(Revision),
    Mod(Revision),
    /// A missing key never matches.
    Value(Bytes),
    Lease(LeaseId),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompareResult {
    Equal,
    Greater,
    Less,
    NotEqual,
}

/// One operation of a transaction.
#[derive(Debug, Clone)]
pub enum Op {
    Put(Put),
    Delete { range: KeyRange, prev_kv: bool },
    Range { range: KeyRange, options: RangeOptions },
    Txn(Box<Txn>),
}

#[derive(Debug, Clone, Default)]
pub struct Put {
    pub key: Bytes,
    pub value: Bytes,
    pub lease: LeaseId,
    pub prev_kv: bool,
    pub ignore_value: bool,
    pub ignore_lease: bool,
}

/// If all `compare`s hold, `success`, else `failure`; all at one revision.
#[derive(Debug, Clone, Default)]
pub struct Txn {
    pub compare: Vec<Compare>,
    pub success: Vec<Op>,
    pub failure: Vec<Op>,
}

#[derive(Debug, Clone)]
pub struct TxnResult {
    pub succeeded: bool,
    /// The revision of the transaction if it wrote, else the newest.
    pub revision: Revision,
    pub results: Vec<OpResult>,
}

#[derive(Debug, Clone)]
pub enum OpResult {
    Put { prev: Option<KeyValue> },
    Delete { deleted: u64, prev: Vec<KeyValue> },
    Range(RangeResult),
    Txn(TxnResult),
}

/// A change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub kind: EventKind,
    /// For a deletion: the key and the deletion's revision, no value.
    pub kv: KeyValue,
    /// The key before, if the watch asked for it and it existed.
    pub prev: Option<KeyValue>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    Put,
    Delete,
}

/// What a watch delivers. Events of one revision are never split over two batches; a batch of history may hold several
/// revisions, in order.
#[derive(Debug, Clone)]
pub enum WatchMessage {
    /// Everything up to `revision` has then been delivered. Shared by all watchers that got the same events.
    Events { revision: Revision, events: Arc<[Event]> },
    /// Everything up to this revision has been delivered.
    Progress(Revision),
    /// The start revision has been compacted away; the watch is over.
    Compacted(Revision),
    /// The watcher was too slow for its bounded queue; the watch is over. Begin again from the last revision seen.
    Lagged,
}

#[derive(Debug, Clone, Default)]
pub struct WatchOptions {
    /// First revision to deliver; 0: from now on.
    pub start: Revision,
    pub prev_kv: bool,
}

/// Changes messages on their way to the receiver.
type Decode = Arc<dyn Fn(WatchMessage) -> Decoded + Send + Sync>;

/// A message that was changed, at once or with the help of others.
pub(crate) enum Decoded {
    Now(WatchMessage),
    Later(ReusableBoxFuture<'static, WatchMessage>),
}

/// The messages of one watch, in a bounded queue.
pub struct Messages {
    queue: mpsc::Receiver<WatchMessage>,
    decode: Option<Decode>,
    /// The message that was taken last, while it is being changed.
    later: Option<ReusableBoxFuture<'static, WatchMessage>>,
}

impl From<mpsc::Receiver<WatchMessage>> for Messages {
    fn from(queue: mpsc::Receiver<WatchMessage>) -> Self {
        Self { queue, decode: None, later: None }
    }
}

impl Messages {
    /// The same messages, each changed by `decode` when it is taken: what waits in the queue waits unchanged, so that
    /// nothing stands between the store and the receiver.
    pub(crate) fn decoded(self, decode: impl Fn(WatchMessage) -> Decoded + Send + Sync + 'static) -> Self {
        Self { queue: self.queue, decode: Some(Arc::new(decode)), later: None }
    }

    /// The next message; `None` when the watch is over. Cancel-safe.
    pub async fn recv(&mut self) -> Option<WatchMessage> {
        std::future::poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// The next message if one waits.
    pub fn try_recv(&mut self) -> Result<WatchMessage, mpsc::error::TryRecvError> {
        if self.later.is_none() {
            let message = self.queue.try_recv()?;
            if let Some(message) = self.start(message) {
                return Ok(message);
            }
        }
        match self.poll_later(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(message) => Ok(message),
            Poll::Pending => Err(mpsc::error::TryRecvError::Empty),
        }
    }

    /// As [`Self::recv`], for hand-written futures.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<WatchMessage>> {
        if self.later.is_none() {
            let Some(message) = ready!(self.queue.poll_recv(cx)) else { return Poll::Ready(None) };
            if let Some(message) = self.start(message) {
                return Poll::Ready(Some(message));
            }
        }
        self.poll_later(cx).map(Some)
    }

    /// Changes a message; `None` if that takes longer.
    fn start(&mut self, message: WatchMessage) -> Option<WatchMessage> {
        let Some(decode) = &self.decode else { return Some(message) };
        match decode(message) {
            Decoded::Now(message) => Some(message),
            Decoded::Later(later) => {
                self.later = Some(later);
                None
            }
        }
    }

    fn poll_later(&mut self, cx: &mut Context<'_>) -> Poll<WatchMessage> {
        let Some(later) = &mut self.later else { return Poll::Pending };
        let message = ready!(later.poll(cx));
        self.later = None;
        Poll::Ready(message)
    }
}

impl futures::Stream for Messages {
    type Item = WatchMessage;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<WatchMessage>> {
        self.get_mut().poll_recv(cx)
    }
}

/// A running watch; dropping it ends it.
pub struct Watch {
    pub messages: Messages,
    /// The store's revision when the watch was registered.
    pub revision: Revision,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseStatus {
    pub id: LeaseId,
    /// Seconds granted and seconds left (-1: no such lease).
    pub granted_ttl: i64,
    pub ttl: i64,
    pub keys: Vec<Bytes>,
}

/// A key whose value is there and cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    pub key: Bytes,
    /// In the words that upstream's transformers have where they have any.
    pub why: String,
}

/// Why a store did not do what it was asked. `retryable` says whether the same call may succeed later.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("required revision has been compacted")]
    Compacted { compact_revision: Revision },
    #[error("required revision is a future revision")]
    FutureRevision,
    #[error("requested lease not found")]
    LeaseNotFound,
    #[error("lease already exists")]
    LeaseExists,
    #[error("key is not provided")]
    EmptyKey,
    #[error("key not found")]
    KeyNotFound,
    #[error("duplicate key given in txn request")]
    DuplicateKey,
    #[error("value is provided")]
    ValueProvided,
    #[error("lease is provided")]
    LeaseProvided,
    #[error("too many operations in txn request")]
    TooManyOps,
    #[error("request is too large")]
    TooLarge,
    #[error("the disk is full: free some space; nothing was lost")]
    DiskFull,
    #[error("the store is stopping")]
    Stopped,
    #[error("the store did not answer in time")]
    Timeout,
    #[error("cannot {step} in the store")]
    Engine {
        step: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl StoreError {
    pub fn retryable(&self) -> bool {
        match self {
            Self::DiskFull | Self::Timeout | Self::Stopped => true,
            Self::Compacted { .. }
            | Self::FutureRevision
            | Self::LeaseNotFound
            | Self::LeaseExists
            | Self::EmptyKey
            | Self::KeyNotFound
            | Self::DuplicateKey
            | Self::ValueProvided
            | Self::LeaseProvided
            | Self::TooManyOps
            | Self::TooLarge
            | Self::Engine { .. } => false,
        }
    }
}

/// An MVCC key-value store. A reply to a write means that it is durable (or, for ephemeral prefixes, that it would be
/// after an orderly stop) and that every watcher will see it; reads after the reply see it.
#[async_trait]
pub trait Store: Send + Sync {
    async fn range(&self, range: KeyRange, options: RangeOptions) -> Result<RangeResult, StoreError>;

    /// As [`Self::range`], but values that cannot be read are named and come as they are stored, so that those beside
    /// them are still read.
    async fn range_readable(
        &self,
        range: KeyRange,
        options: RangeOptions,
    ) -> Result<(RangeResult, Vec<Unreadable>), StoreError> {
        Ok((self.range(range, options).await?, Vec::new()))
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError>;

    /// Watches a range. Events come in the order of their revisions, without gaps.
    async fn watch(&self, range: KeyRange, options: WatchOptions) -> Result<Watch, StoreError>;

    /// Asks every running watch to deliver `Progress` with the newest revision, unless its last message had that
    /// revision already. A watch that is still reading history delivers none.
    async fn request_progress(&self) -> Result<(), StoreError>;

    /// The newest revision.
    async fn revision(&self) -> Result<Revision, StoreError>;

    /// Forgets history before `revision`.
    async fn compact(&self, revision: Revision) -> Result<(), StoreError>;

    /// `id` 0 lets the store choose. `ttl` in seconds.
    async fn lease_grant(&self, id: LeaseId, ttl: i64) -> Result<LeaseStatus, StoreError>;
    /// Deletes the lease's keys at one revision.
    async fn lease_revoke(&self, id: LeaseId) -> Result<(), StoreError>;
    async fn lease_keep_alive(&self, id: LeaseId) -> Result<i64, StoreError>;
    async fn lease_status(&self, id: LeaseId, keys: bool) -> Result<LeaseStatus, StoreError>;
    async fn leases(&self) -> Result<Vec<LeaseId>, StoreError>;

    /// Bytes of the database on disk, in use.
    async fn size(&self) -> Result<(u64, u64), StoreError>;

    /// Appends the engine's numbers to a page in the text format of Prometheus.
    async fn metrics(&self, page: &mut String) -> Result<(), StoreError> {
        let _unused = page;
        Ok(())
    }

    /// Names of what this store needs besides itself, each to be asked about with [`Self::check`].
    fn checks(&self) -> Vec<&'static str> {
        Vec::new()
    }

    /// Whether what the store needs under this name works; if not, why.
    async fn check(&self, name: &str) -> Result<(), String> {
        Err(format!("there is no check {name:?}"))
    }
}
