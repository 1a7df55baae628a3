//! What happens in the cluster, brought to the [`Hub`](crate::hub::Hub), and watches that begin in the past.
//!
//! One stream over the whole key space feeds the hub, so a change travels from etcd once, however many watch it. When
//! the stream breaks, or is seen to be late, it is opened anew, at another member if there is one, from the revision
//! after the last one that was published: nothing is missed and nothing told twice, and watchers notice nothing.
//!
//! A watch of the past, and one that wants previous values, has a stream of its own; the former joins the hub when it
//! has caught up.

use std::sync::Arc;
use std::time::Duration;

use base::{Backoff, Shutdown};
use etcd_client::proto::{PbWatchRequest, PbWatchRequestUnion, PbWatchResponse};
use futures::stream::{self, StreamExt};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::Shared;
use super::convert::{by_revision, everything, range_end, range_start};
use super::wire::plain;
use crate::hub::Attach;
use crate::store::{KeyRange, Revision, WatchMessage, WatchOptions};

const WATCH: &str = "/etcdserverpb.Watch/Watch";
/// How often etcd is asked how far a stream is: it does not answer while the stream has not caught up (apiserver
/// `progressRequestPeriod`).
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// A watch in progress on one member.
struct Stream {
    answers: Streaming<PbWatchResponse>,
    requests: mpsc::Sender<PbWatchRequest>,
}

impl Stream {
    /// `from`: our revision.
    async fn open(shared: &Shared, member: usize, range: &KeyRange, from: i64, prev_kv: bool) -> Result<Self, Status> {
        // Whoever asks for one that the cluster never had is refused before it comes to this.
        let from = shared.shift.theirs(Revision(from)).unwrap_or(1);
        let mut union = PbWatchRequestUnion::CreateRequest(Default::default());
        if let PbWatchRequestUnion::CreateRequest(create) = &mut union {
            create.key = range_start(range);
            create.range_end = range_end(range);
            create.start_revision = from;
            create.prev_kv = prev_kv;
        }
        let (requests, more) = mpsc::channel(4);
        let first = stream::iter([PbWatchRequest { request_union: Some(union) }]);
        let answers = shared.members.stream(member, WATCH, first.chain(ReceiverStream::new(more))).await?;
        Ok(Self { answers, requests })
    }

    /// Asks how far the stream is. A request that finds no room is one too many.
    fn ask_progress(&self) {
        let union = PbWatchRequestUnion::ProgressRequest(Default::default());
        let _sent = self.requests.try_send(PbWatchRequest { request_union: Some(union) });
    }

    async fn next(&mut self) -> Result<PbWatchResponse, Status> {
        self.answers.message().await?.ok_or_else(|| Status::unavailable("the member ended the watch"))
    }
}

/// Feeds the hub until `shutdown`.
pub(super) async fn feed(shared: Arc<Shared>, shutdown: Shutdown) {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1)).with_jitter(0.2);
    let mut member = shared.members.current();
    let mut complained = false;
    loop {
        let error = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            error = feed_from(&shared, member, || { backoff.reset(); complained = false; }) => error,
        };
        // The first try after a break is immediate and says nothing: a member may just be stopping in order.
        if let Some(error) = error {
            if complained {
                tracing::warn!(
                    endpoint = shared.members.endpoint(member),
                    error = %base::chain(&*plain(error)),
                    "lost the watch of the datastore"
                );
            }
            complained = true;
        }
        let current = shared.members.current();
        member = if current == member { (member + 1) % shared.members.len() } else { current };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(backoff.step()) => {}
        }
    }
}

/// Publishes what one member tells, until the stream ends or was told to be late.
async fn feed_from(shared: &Shared, member: usize, mut good: impl FnMut()) -> Option<Status> {
    let from = shared.hub.revision().0 + 1;
    let mut stream = match Stream::open(shared, member, &everything(), from, false).await {
        Ok(stream) => stream,
        Err(error) => return Some(error),
    };
    loop {
        let answer = tokio::select! {
            biased;
            () = shared.late.notified() => {
                return Some(Status::deadline_exceeded("the watch is behind what was written"));
            }
            answer = stream.next() => match answer {
                Ok(answer) => answer,
                Err(error) => return Some(error),
            },
        };
        if answer.canceled {
            if answer.compact_revision > 0 {
                lost(shared, shared.shift.ours(answer.compact_revision)).await;
                return None;
            }
            return Some(Status::unavailable(answer.cancel_reason));
        }
        good();
        for (revision, events) in by_revision(answer.events, shared.shift) {
            if revision <= shared.hub.revision() {
                continue;
            }
            shared.hub.publish(revision, events);
            shared.seen.send_replace(revision.0);
        }
    }
}

/// What happened while nothing could be heard has been compacted away: every watch ends, and begins anew with the
/// answer that its start is gone.
async fn lost(shared: &Shared, compacted: Revision) {
    tracing::warn!(compacted = compacted.0, "the datastore forgot what was not heard yet: watches begin anew");
    shared.compacted(compacted);
    if let Ok(newest) = shared.newest().await {
        shared.hub.reset(newest);
        shared.seen.send_replace(newest.0);
    }
}

/// Serves one watch from a stream of its own, until it has joined the hub or its receiver has gone.
pub(super) async fn catch_up(
    shared: Arc<Shared>,
    range: KeyRange,
    options: WatchOptions,
    mut sender: mpsc::Sender<WatchMessage>,
    shutdown: Shutdown,
) {
    let mut next = options.start.0;
    let mut told = 0;
    let mut member = shared.members.current();
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1)).with_jitter(0.2);
    loop {
        let serving = Serving { shared: &shared, range: &range, prev_kv: options.prev_kv };
        let ended = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            ended = serving.run(member, &mut next, &mut told, sender) => ended,
        };
        match ended {
            Ended::Over => return,
            Ended::Broken(back, error) => {
                sender = back;
                tracing::debug!(error = %base::chain(&error), "a watch of the datastore broke");
            }
        }
        let current = shared.members.current();
        member = if current == member { (member + 1) % shared.members.len() } else { current };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = sender.closed() => return,
            () = tokio::time::sleep(backoff.step()) => {}
        }
    }
}

struct Serving<'a> {
    shared: &'a Shared,
    range: &'a KeyRange,
    prev_kv: bool,
}

enum Ended {
    /// The watch is over here.
    Over,
    /// The stream broke; go on with another.
    Broken(mpsc::Sender<WatchMessage>, Status),
}

impl Serving<'_> {
    /// `next`: the first revision that has not been delivered; `told`: the revision of the last message.
    async fn run(
        &self,
        member: usize,
        next: &mut i64,
        told: &mut i64,
        mut sender: mpsc::Sender<WatchMessage>,
    ) -> Ended {
        let mut stream = match Stream::open(self.shared, member, self.range, *next, self.prev_kv).await {
            Ok(stream) => stream,
            Err(error) => return Ended::Broken(sender, error),
        };
        let mut asked = self.shared.asked.subscribe();
        asked.mark_unchanged();
        let mut wanted = *asked.borrow();
        let mut ask_at = Instant::now();
        loop {
            let asking = !self.prev_kv || wanted > (*told).max(*next - 1);
            let answer = tokio::select! {
                biased;
                () = sender.closed() => return Ended::Over,
                answer = stream.next() => match answer {
                    Ok(answer) => answer,
                    Err(error) => return Ended::Broken(sender, error),
                },
                changed = asked.changed(), if self.prev_kv => {
                    // The sender lives as long as `shared`.
                    if changed.is_ok() {
                        wanted = *asked.borrow_and_update();
                    }
                    continue;
                }
                () = tokio::time::sleep_until(ask_at), if asking => {
                    stream.ask_progress();
                    ask_at = Instant::now() + PROGRESS_EVERY;
                    continue;
                }
            };
            if answer.canceled {
                if answer.compact_revision > 0 {
                    let compacted = self.shared.shift.ours(answer.compact_revision);
                    self.shared.compacted(compacted);
                    // A receiver that has gone does not want to know.
                    drop(sender.send(WatchMessage::Compacted(compacted)).await);
                    return Ended::Over;
                }
                return Ended::Broken(sender, Status::unavailable(answer.cancel_reason));
            }
            let at = self.shared.shift.ours(answer.header.map_or(0, |header| header.revision)).0;
            let is_progress = answer.events.is_empty() && !answer.created;
            for (revision, events) in by_revision(answer.events, self.shared.shift) {
                if revision.0 < *next {
                    continue;
                }
                let message = WatchMessage::Events { revision, events: events.into() };
                if sender.send(message).await.is_err() {
                    return Ended::Over;
                }
                *next = revision.0 + 1;
                *told = revision.0;
            }
            if !is_progress {
                continue;
            }
            *next = (*next).max(at + 1);
            if self.prev_kv {
                if wanted > *told && *next > wanted {
                    *told = at;
                    if sender.send(WatchMessage::Progress(Revision(at))).await.is_err() {
                        return Ended::Over;
                    }
                }
                continue;
            }
            match self.shared.hub.attach(self.range, false, Revision(*next), Some(Revision(*next - 1)), sender) {
                Attach::Done(_) => return Ended::Over,
                Attach::Behind(_, back) => sender = back,
            }
        }
    }
}
