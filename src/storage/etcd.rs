//! The etcd engine: the [`Store`] contract on an external etcd cluster.
//!
//! Reads and writes go to whichever member answers. Every change comes back over one watch of the whole key space and
//! is handed out by a [`Hub`], as with the engine in process; a write is answered, and the newest revision told, only
//! when the hub has got so far. So this engine keeps the same promise as the other: what was acknowledged has been
//! handed to every watcher.
//!
//! The cluster is this program's own: keys of others would be watched, and history is compacted.

mod cluster;
mod compact;
mod convert;
mod follow;
mod shift;
mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::proto::{
    PbCompactionRequest, PbCompactionResponse, PbLeaseGrantRequest, PbLeaseGrantResponse, PbLeaseKeepAliveRequest,
    PbLeaseKeepAliveResponse, PbLeaseLeasesRequest, PbLeaseLeasesResponse, PbLeaseRevokeRequest, PbLeaseRevokeResponse,
    PbLeaseTimeToLiveRequest, PbLeaseTimeToLiveResponse, PbRangeResponse, PbResponseHeader, PbStatusRequest,
    PbStatusResponse, PbTxnResponse,
};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::task::TaskTracker;

use base::Shutdown;

pub use cluster::{EtcdCluster, EtcdHealth, EtcdMemberInfo};
pub use shift::{KEY as REVISIONS_KEY, go_on_above};
pub use wire::{EndpointError, NotConnected};

use crate::hub::{Attach, Hub};
use crate::store::{
    KeyRange, LeaseId, LeaseStatus, RangeOptions, RangeResult, Revision, Store, StoreError, Txn, TxnResult, Watch,
    WatchMessage, WatchOptions,
};
use shift::Shift;
use wire::{CallError, Effect, Members};

/// How a client shows itself to the members, and whom it trusts.
pub type EtcdTls = Arc<rustls::ClientConfig>;

/// The watch may be so far behind a write before it is taken for broken and opened at another member.
const LATE_AFTER: Duration = Duration::from_secs(2);
/// A write whose event has not come by then is answered with a timeout.
const SEEN_WITHIN: Duration = Duration::from_secs(15);
/// How often a start says that it still waits for the datastore.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// Settings of [`EtcdStore`].
#[derive(Clone)]
pub struct EtcdOptions {
    /// `https://host:port` or `http://host:port`, one or more.
    pub endpoints: Vec<String>,
    /// For `https`.
    pub tls: Option<EtcdTls>,
    /// Messages that may wait in one watch before it ends with `Lagged`.
    pub watch_queue_len: usize,
    /// How much history to keep at least. `None`: until someone calls `compact`.
    pub history: Option<Duration>,
}

impl EtcdOptions {
    pub fn new(endpoints: Vec<String>, tls: Option<EtcdTls>) -> Self {
        Self { endpoints, tls, watch_queue_len: 1024, history: Some(Duration::from_secs(300)) }
    }
}

/// A [`Store`] in an etcd cluster.
pub struct EtcdStore {
    shared: Arc<Shared>,
    tasks: TaskTracker,
    shutdown: Shutdown,
    watch_queue_len: usize,
}

struct Shared {
    members: Members,
    /// Between the cluster's revisions and ours.
    shift: Shift,
    hub: Hub,
    /// The hub's revision, for those who wait for it.
    seen: watch::Sender<i64>,
    /// The watch is behind what was written.
    late: Notify,
    /// The revision that watches with a stream of their own are to report.
    asked: watch::Sender<i64>,
    /// History before this revision is known to be gone.
    compacted: AtomicI64,
}

impl EtcdStore {
    /// Waits for the cluster, and starts following it on the current runtime. A certificate that does not fit is an
    /// error at once; members that do not answer are waited for until `shutdown`.
    pub async fn open(options: EtcdOptions, shutdown: Shutdown) -> Result<Arc<Self>, StoreError> {
        let EtcdOptions { endpoints, tls, watch_queue_len, history } = options;
        let members = Members::new(&endpoints, tls.as_ref())
            .map_err(|error| StoreError::Engine { step: "use the datastore's endpoints", source: Box::new(error) })?;
        let (newest, shift) = tokio::select! {
            biased;
            () = shutdown.cancelled() => return Err(StoreError::Stopped),
            found = first_revision(&members) => found?,
        };
        let shared = Arc::new(Shared {
            members,
            shift,
            hub: Hub::new(newest),
            seen: watch::Sender::new(newest.0),
            late: Notify::new(),
            asked: watch::Sender::new(0),
            compacted: AtomicI64::new(0),
        });
        tracing::info!(endpoints = endpoints.join(","), revision = newest.0, "using the datastore");
        let tasks = TaskTracker::new();
        tasks.spawn(follow::feed(shared.clone(), shutdown.clone()));
        if let Some(history) = history {
            tasks.spawn(compact::keep_history(shared.clone(), history, shutdown.clone()));
        }
        let (closing, stopping) = (shared.clone(), shutdown.clone());
        tasks.spawn(async move {
            stopping.cancelled().await;
            closing.hub.close();
        });
        tasks.close();
        Ok(Arc::new(Self { shared, tasks, shutdown, watch_queue_len }))
    }

    /// Returns when the tasks have ended, after the shutdown.
    pub async fn closed(&self) {
        self.shutdown.cancelled().await;
        self.tasks.wait().await;
    }

    /// From now on the cluster is reached at these; whether they are others than before.
    ///
    /// # Errors
    /// None is given, or one is no address of a member; then everything stays as it was.
    pub fn set_endpoints(&self, endpoints: &[String]) -> Result<bool, EndpointError> {
        self.shared.members.replace(endpoints)
    }

    /// Live watchers, for tests and metrics.
    pub fn watchers(&self) -> usize {
        self.shared.hub.watchers()
    }

    fn running(&self) -> Result<(), StoreError> {
        if self.shutdown.is_cancelled() { Err(StoreError::Stopped) } else { Ok(()) }
    }
}

/// The newest revision at the start, and how it comes from the cluster's. Waits until a member answers.
async fn first_revision(members: &Members) -> Result<(Revision, Shift), StoreError> {
    let mut complain = tokio::time::Instant::now() + COMPLAIN_EVERY;
    let mut untrusted = 0;
    loop {
        let error = match shift::read(members).await {
            Ok((newest, shift)) => return Ok((shift.ours(newest), shift)),
            Err(CallError::Refused(status)) => {
                return Err(StoreError::Engine { step: "read the datastore", source: wire::plain(status) });
            }
            Err(CallError::NoAnswer(status)) => status,
        };
        // rustls' complaints come as invalid data; a member whose certificate does not fit will not fit later.
        if let Some(failed) = wire::not_connected(&error)
            && failed.source.kind() == std::io::ErrorKind::InvalidData
        {
            untrusted += 1;
            if untrusted >= members.len() {
                return Err(StoreError::Engine { step: "reach the datastore", source: wire::plain(error) });
            }
        }
        if tokio::time::Instant::now() >= complain || untrusted > 0 {
            tracing::warn!(error = %base::chain(&*wire::plain(error)), "waiting for the datastore");
            complain = tokio::time::Instant::now() + COMPLAIN_EVERY;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// The cluster's own revision of an answer.
fn revision(header: Option<&PbResponseHeader>) -> i64 {
    header.map_or(0, |header| header.revision)
}

impl Shared {
    /// The newest revision that the cluster has agreed upon.
    async fn newest(&self) -> Result<Revision, StoreError> {
        let options = RangeOptions { count_only: true, ..RangeOptions::default() };
        // Any key will do; a single one costs least.
        let request = convert::range_request(&KeyRange::key("compact_rev_key"), &options, 0);
        let call = self.members.call("/etcdserverpb.KV/Range", Effect::Reads, request);
        let answer: PbRangeResponse = call.await.map_err(|error| self.error("read the newest revision", error))?;
        Ok(self.at(answer.header.as_ref()))
    }

    /// Our revision of an answer.
    fn at(&self, header: Option<&PbResponseHeader>) -> Revision {
        self.shift.ours(revision(header))
    }

    fn error(&self, step: &'static str, error: CallError) -> StoreError {
        convert::error(step, error, Revision(self.compacted.load(Ordering::Relaxed)))
    }

    /// Remembers that history before `revision` is gone.
    fn compacted(&self, revision: Revision) {
        self.compacted.fetch_max(revision.0, Ordering::Relaxed);
    }

    /// Returns when every watcher has been handed everything up to `revision`.
    async fn wait_seen(&self, revision: Revision) -> Result<(), StoreError> {
        if self.hub.revision() >= revision {
            return Ok(());
        }
        let mut seen = self.seen.subscribe();
        let arrived = async |within: Duration, seen: &mut watch::Receiver<i64>| {
            let wait = seen.wait_for(|seen| *seen >= revision.0);
            matches!(tokio::time::timeout(within, wait).await, Ok(Ok(_)))
        };
        if arrived(LATE_AFTER, &mut seen).await {
            return Ok(());
        }
        self.late.notify_one();
        if arrived(SEEN_WITHIN, &mut seen).await { Ok(()) } else { Err(StoreError::Timeout) }
    }

    async fn txn(&self, txn: &Txn) -> Result<TxnResult, StoreError> {
        // Without conditions and without writes a transaction is a read.
        let request = convert::txn_request(txn, self.shift)?;
        let answer: PbTxnResponse = self
            .members
            .call("/etcdserverpb.KV/Txn", Effect::Writes, request)
            .await
            .map_err(|error| self.error("write", error))?;
        let at = self.at(answer.header.as_ref());
        let result = convert::txn_result(answer, at, self.shift);
        if convert::writes(&result) {
            self.wait_seen(at).await?;
        }
        Ok(result)
    }

    async fn compact(&self, target: Revision) -> Result<(), StoreError> {
        let request = PbCompactionRequest { revision: self.shift.theirs(target)?, physical: false };
        let call = self.members.call("/etcdserverpb.KV/Compact", Effect::Reads, request);
        let answer: Result<PbCompactionResponse, _> = call.await;
        match answer {
            Ok(_) => {
                self.compacted(target);
                Ok(())
            }
            Err(error) => Err(match self.error("compact", error) {
                StoreError::Compacted { .. } => {
                    self.compacted(target);
                    StoreError::Compacted { compact_revision: Revision(self.compacted.load(Ordering::Relaxed)) }
                }
                other => other,
            }),
        }
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn range(&self, range: KeyRange, options: RangeOptions) -> Result<RangeResult, StoreError> {
        self.running()?;
        let request = convert::range_request(&range, &options, self.shared.shift.theirs(options.revision)?);
        let answer: PbRangeResponse =
            self.shared.members.call("/etcdserverpb.KV/Range", Effect::Reads, request).await.map_err(|error| {
                match self.shared.error("read", error) {
                    // What is known may be older than what another server has compacted since.
                    StoreError::Compacted { compact_revision } => StoreError::Compacted {
                        compact_revision: compact_revision.max(Revision(options.revision.0 + 1)),
                    },
                    other => other,
                }
            })?;
        let at = self.shared.at(answer.header.as_ref());
        Ok(convert::range_result(answer, at, self.shared.shift))
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        self.running()?;
        self.shared.txn(&txn).await
    }

    async fn watch(&self, range: KeyRange, mut options: WatchOptions) -> Result<Watch, StoreError> {
        self.running()?;
        let (sender, messages) = mpsc::channel::<WatchMessage>(self.watch_queue_len.max(1) + 1);
        let now = self.shared.hub.revision();
        if let Err(StoreError::Compacted { compact_revision }) = self.shared.shift.theirs(options.start) {
            // The receiver is still here, and the queue empty.
            drop(sender.try_send(WatchMessage::Compacted(compact_revision)));
            return Ok(Watch { messages: messages.into(), revision: now });
        }
        if options.prev_kv {
            // The hub's events have no previous values.
            if options.start.0 <= 0 {
                options.start = Revision(now.0 + 1);
            }
            let (shared, shutdown) = (self.shared.clone(), self.shutdown.clone());
            self.tasks.spawn(follow::catch_up(shared, range, options, sender, shutdown));
            return Ok(Watch { messages: messages.into(), revision: now });
        }
        let seen = (options.start.0 > 0).then_some(Revision(options.start.0 - 1));
        match self.shared.hub.attach(&range, false, options.start, seen, sender) {
            Attach::Done(revision) => Ok(Watch { messages: messages.into(), revision }),
            Attach::Behind(revision, sender) => {
                let (shared, shutdown) = (self.shared.clone(), self.shutdown.clone());
                self.tasks.spawn(follow::catch_up(shared, range, options, sender, shutdown));
                Ok(Watch { messages: messages.into(), revision })
            }
        }
    }

    async fn request_progress(&self) -> Result<(), StoreError> {
        let newest = self.revision().await?;
        self.shared.asked.send_if_modified(|asked| {
            let more = *asked < newest.0;
            *asked = newest.0.max(*asked);
            more
        });
        self.shared.hub.progress();
        Ok(())
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.running()?;
        let newest = self.shared.newest().await?;
        self.shared.wait_seen(newest).await?;
        Ok(newest)
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.running()?;
        self.shared.compact(revision).await
    }

    async fn lease_grant(&self, id: LeaseId, ttl: i64) -> Result<LeaseStatus, StoreError> {
        let request = PbLeaseGrantRequest { ttl, id: id.0 };
        let call = self.shared.members.call("/etcdserverpb.Lease/LeaseGrant", Effect::Writes, request);
        let answer: PbLeaseGrantResponse = call.await.map_err(|error| self.shared.error("grant a lease", error))?;
        Ok(LeaseStatus { id: LeaseId(answer.id), granted_ttl: answer.ttl, ttl: answer.ttl, keys: Vec::new() })
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<(), StoreError> {
        let request = PbLeaseRevokeRequest { id: id.0 };
        let call = self.shared.members.call("/etcdserverpb.Lease/LeaseRevoke", Effect::Writes, request);
        let answer: PbLeaseRevokeResponse = call.await.map_err(|error| self.shared.error("revoke a lease", error))?;
        self.shared.wait_seen(self.shared.at(answer.header.as_ref())).await
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<i64, StoreError> {
        let request = PbLeaseKeepAliveRequest { id: id.0 };
        let members = &self.shared.members;
        let step = "keep a lease alive";
        let asked = async {
            let requests = futures::stream::iter([request]);
            let mut answers = members.stream(members.current(), "/etcdserverpb.Lease/LeaseKeepAlive", requests).await?;
            answers.message().await?.ok_or_else(|| tonic::Status::unavailable("the member ended the stream"))
        };
        let answer: PbLeaseKeepAliveResponse = asked.await.map_err(|status| {
            members.leave(members.current());
            self.shared.error(step, CallError::NoAnswer(status))
        })?;
        if answer.ttl <= 0 { Err(StoreError::LeaseNotFound) } else { Ok(answer.ttl) }
    }

    async fn lease_status(&self, id: LeaseId, keys: bool) -> Result<LeaseStatus, StoreError> {
        let request = PbLeaseTimeToLiveRequest { id: id.0, keys };
        let call = self.shared.members.call("/etcdserverpb.Lease/LeaseTimeToLive", Effect::Reads, request);
        let answer: PbLeaseTimeToLiveResponse = call.await.map_err(|error| self.shared.error("read a lease", error))?;
        Ok(LeaseStatus {
            id,
            granted_ttl: answer.granted_ttl,
            ttl: answer.ttl,
            keys: answer.keys.into_iter().map(bytes::Bytes::from).collect(),
        })
    }

    async fn leases(&self) -> Result<Vec<LeaseId>, StoreError> {
        let call =
            self.shared.members.call("/etcdserverpb.Lease/LeaseLeases", Effect::Reads, PbLeaseLeasesRequest::default());
        let answer: PbLeaseLeasesResponse = call.await.map_err(|error| self.shared.error("list leases", error))?;
        Ok(answer.leases.into_iter().map(|lease| LeaseId(lease.id)).collect())
    }

    async fn size(&self) -> Result<(u64, u64), StoreError> {
        let call =
            self.shared.members.call("/etcdserverpb.Maintenance/Status", Effect::Reads, PbStatusRequest::default());
        let answer: PbStatusResponse = call.await.map_err(|error| self.shared.error("read the size", error))?;
        let bytes = |number: i64| u64::try_from(number).unwrap_or(0);
        Ok((bytes(answer.db_size), bytes(answer.db_size_in_use)))
    }
}
