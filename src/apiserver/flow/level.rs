//! One priority level: its queues, and the seats that its requests take (apiserver
//! `util/flowcontrol/fairqueuing/queueset`).
//!
//! A request takes seats at once if there are some and nobody waits; else it waits in the shortest of the few queues that
//! its flow is dealt, and the queue that is furthest behind in virtual time is served next. Everything happens in short
//! sections under one lock, which is never held across an await. A [`Ticket`] that is dropped gives its seats or its
//! place back, however its request ended.

mod ticket;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::dropped::Dropped;
use super::estimate::Work;
use super::rules::Schema;
use super::share::{Demand, Seen};
use super::timing::LevelTimes;
use crate::request::RequestInfo;

pub(crate) use ticket::Ticket;

/// `estimatedServiceDuration`, in seconds.
const SERVICE_SECONDS: f64 = 0.003;
/// A hand is no larger.
const HAND_MAX: usize = 15;

/// What a level's object says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Exempt,
    /// Turned away when there are no seats.
    Reject,
    Queue {
        queues: usize,
        hand: usize,
        length_max: usize,
    },
}

impl Kind {
    /// Requests that may wait.
    pub fn waiting_max(self) -> usize {
        match self {
            Self::Queue { queues, length_max, .. } => queues.saturating_mul(length_max),
            Self::Exempt | Self::Reject => 0,
        }
    }
}

/// How many seats a level has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    pub nominal: usize,
    /// What it never lends.
    pub lower: usize,
    /// What it has with all that it may borrow.
    pub upper: usize,
    pub current: usize,
}

/// A priority level.
pub(crate) struct Level {
    pub name: Arc<str>,
    /// Seats that one request may take; 0: no limit of the level's own.
    work_max: AtomicU64,
    state: Mutex<State>,
}

struct State {
    kind: Kind,
    limits: Limits,
    /// No object stands for it any more.
    leaving: bool,
    queues: Vec<Queue>,
    /// Virtual time, in seat-seconds, and when it was brought forward last.
    virtual_now: f64,
    last: Instant,
    /// The queue that was served last.
    served: usize,
    dealt: usize,
    waiting: usize,
    seats_waiting: usize,
    /// Seats in use, and those of them that queues' requests use.
    seats: usize,
    /// Queues with a request that waits or runs.
    busy_queues: usize,
    running: BTreeMap<u64, Running>,
    next_id: u64,
    demand: Seen,
    times: LevelTimes,
    totals: Totals,
    dropped: Dropped,
}

/// Since the level began.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Totals {
    pub dispatched: u64,
    pub rejected: u64,
    pub timed_out: u64,
    pub cancelled: u64,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Work of all that wait, in seat-seconds.
    work: f64,
    seats: usize,
    running: usize,
    next_dispatch: f64,
}

impl Queue {
    fn is_busy(&self) -> bool {
        !self.waiting.is_empty() || self.running > 0
    }
}

struct Waiting {
    id: u64,
    arrived: f64,
    about: Running,
    go: oneshot::Sender<()>,
}

/// A request that waits or runs.
#[derive(Clone)]
pub(crate) struct Running {
    pub queue: Option<usize>,
    pub work: Work,
    pub schema: Arc<str>,
    pub flow: Box<str>,
    pub user: Box<str>,
    pub info: Arc<RequestInfo>,
    pub arrived: Timestamp,
    /// When it began to run.
    pub started: Option<Instant>,
}

/// Why a request is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    QueueFull,
    NoSeats,
    TimeOut,
    Cancelled,
}

impl Refusal {
    /// The metric's label.
    pub fn reason(self) -> &'static str {
        match self {
            Self::QueueFull => "queue-full",
            Self::NoSeats => "concurrency-limit",
            Self::TimeOut => "time-out",
            Self::Cancelled => "cancelled",
        }
    }
}

/// How it went with a request that asked for seats.
pub(crate) enum Asked {
    Running(Ticket),
    Waiting(Ticket, oneshot::Receiver<()>),
    Refused(Refusal),
}

impl Level {
    pub fn new(name: &str, kind: Kind) -> Arc<Self> {
        let mut state = State {
            kind,
            limits: Limits::default(),
            leaving: false,
            queues: Vec::new(),
            virtual_now: 0.0,
            last: Instant::now(),
            served: 0,
            dealt: 0,
            waiting: 0,
            seats_waiting: 0,
            seats: 0,
            busy_queues: 0,
            running: BTreeMap::new(),
            next_id: 0,
            demand: Seen::default(),
            times: LevelTimes::default(),
            totals: Totals::default(),
            dropped: Dropped::default(),
        };
        state.fit_queues();
        Arc::new(Self { name: name.into(), work_max: AtomicU64::new(0), state: Mutex::new(state) })
    }

    /// Takes in what the object says now. Queues that are too many go when they are empty.
    pub fn configure(&self, kind: Kind) {
        let mut state = self.state.lock();
        state.advance(Instant::now());
        state.kind = kind;
        state.leaving = false;
        state.fit_queues();
    }

    /// The object is gone; whether nobody needs the level any more.
    pub fn leave(&self) -> bool {
        let mut state = self.state.lock();
        state.leaving = true;
        state.waiting == 0 && state.running.is_empty()
    }

    pub fn set_limits(&self, limits: Limits) {
        let mut state = self.state.lock();
        state.advance(Instant::now());
        state.limits = limits;
        // `finishQueueSetReconfigsLocked`: a part of the level, so that one request never has it all.
        let max = match state.kind {
            Kind::Queue { hand, .. } => {
                let share = (limits.nominal as f64 * 0.15).ceil() as u64;
                share.min((limits.nominal / hand.max(1)) as u64).max(1)
            }
            _ => 0,
        };
        self.work_max.store(max, Ordering::Relaxed);
        state.dispatch();
    }

    pub fn limits(&self) -> Limits {
        self.state.lock().limits
    }

    pub fn kind(&self) -> Kind {
        self.state.lock().kind
    }

    /// What was asked for since this was called last.
    pub fn demand(&self, into: &mut Demand) {
        let mut state = self.state.lock();
        state.advance(Instant::now());
        into.update(&state.demand.take());
    }

    /// Its use over time, until now.
    pub fn times(&self) -> LevelTimes {
        let mut state = self.state.lock();
        state.advance(Instant::now());
        state.times.clone()
    }

    pub fn virtual_now(&self) -> f64 {
        self.state.lock().virtual_now
    }

    /// Seats that one request may take, if the level has a limit of its own.
    pub fn work_max(&self) -> Option<u64> {
        Some(self.work_max.load(Ordering::Relaxed)).filter(|max| *max > 0)
    }

    /// Asks for seats.
    pub fn ask(schema: &Arc<Schema>, about: Running, hash: u64, is_watch: bool) -> Asked {
        let now = Instant::now();
        let work = about.work;
        // `nonMutatingRequestVerbs`.
        let writes = !matches!(about.info.verb.as_str(), "get" | "list" | "watch");
        let mut ticket = Ticket {
            schema: Arc::clone(schema),
            id: 0,
            work,
            began: now,
            is_watch,
            writes,
            running: false,
            timed_out: false,
        };
        let mut state = schema.level.state.lock();
        state.advance(now);
        ticket.id = state.next_id;
        state.next_id += 1;
        let Kind::Queue { queues, hand, length_max } = state.kind else {
            if !state.has_room(work.seats()) {
                state.totals.rejected += 1;
                // A ticket that was never used must not give anything back.
                drop(state);
                ticket.forget();
                return Asked::Refused(Refusal::NoSeats);
            }
            state.run(ticket.id, about, now);
            drop(state);
            ticket.count_running(None);
            return Asked::Running(ticket);
        };
        let at = state.deal(hash, queues, hand);
        if state.seats >= state.limits.current && state.queues[at].waiting.len() >= length_max {
            state.totals.rejected += 1;
            drop(state);
            ticket.forget();
            return Asked::Refused(Refusal::QueueFull);
        }
        let virtual_now = state.virtual_now;
        if !state.queues[at].is_busy() {
            state.queues[at].next_dispatch = virtual_now;
            state.busy_queues += 1;
        }
        let about = Running { queue: Some(at), ..about };
        if state.waiting == 0 && state.seats < state.limits.current && state.has_room(work.seats()) {
            // Nobody waits, so this queue is the one to be served.
            state.queues[at].next_dispatch = state.queues[at].next_dispatch.max(virtual_now) + work.total();
            state.served = at;
            state.run(ticket.id, about, now);
            drop(state);
            ticket.count_running(None);
            return Asked::Running(ticket);
        }
        let (go, gone) = oneshot::channel();
        state.waiting += 1;
        state.seats_waiting += work.seats();
        let queue = &mut state.queues[at];
        queue.work += work.total();
        queue.waiting.push_back(Waiting { id: ticket.id, arrived: virtual_now, about, go });
        bound(queue);
        state.note_demand();
        schema.counters.waits(&work, writes);
        state.dispatch();
        Asked::Waiting(ticket, gone)
    }

    /// Counts a request that was turned away, and answers with the seconds after which it may come back.
    pub fn drop_request(&self, now: i64) -> i64 {
        self.state.lock().dropped.record(now)
    }

    /// What the debug pages show.
    pub fn snapshot(&self) -> Snapshot {
        let state = self.state.lock();
        let queue = |queue: &Queue| QueueSnapshot {
            waiting: queue.waiting.iter().map(|w| w.about.clone()).collect(),
            running: queue.running,
            seats: queue.seats,
            next_dispatch: queue.next_dispatch,
            work: queue.work,
        };
        Snapshot {
            leaving: state.leaving,
            waiting: state.waiting,
            totals: state.totals,
            queues: state.queues.iter().map(queue).collect(),
            running: state.running.values().cloned().collect(),
        }
    }
}

/// See [`Level::snapshot`].
pub(crate) struct Snapshot {
    pub leaving: bool,
    pub waiting: usize,
    pub totals: Totals,
    pub queues: Vec<QueueSnapshot>,
    pub running: Vec<Running>,
}

pub(crate) struct QueueSnapshot {
    pub waiting: Vec<Running>,
    pub running: usize,
    pub seats: usize,
    pub next_dispatch: f64,
    pub work: f64,
}

/// `boundNextDispatchLocked`: a queue does not gain from not having used its share.
fn bound(queue: &mut Queue) {
    if let Some(oldest) = queue.waiting.front() {
        queue.next_dispatch = queue.next_dispatch.max(oldest.arrived);
    }
}

impl State {
    fn fit_queues(&mut self) {
        if let Kind::Queue { queues, .. } = self.kind {
            while self.queues.len() < queues {
                self.queues.push(Queue::default());
            }
            while self.queues.len() > queues && self.queues.last().is_some_and(|q| !q.is_busy() && q.seats == 0) {
                self.queues.pop();
            }
        }
    }

    /// Brings virtual time forward.
    fn advance(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.last).as_secs_f64();
        self.last = now;
        if self.busy_queues > 0 {
            let wanted = (self.seats + self.seats_waiting).min(self.limits.current);
            self.virtual_now += wanted as f64 / self.busy_queues as f64 * seconds;
        }
        self.demand.set(seconds, (self.seats + self.seats_waiting) as f64);
        // Denominators as in `queueset.go` `setConfiguration`.
        let nominal = self.limits.nominal.max(1) as f64;
        self.times.seats.hold(self.seats as f64 / nominal, seconds);
        self.times.executing.hold(self.running.len() as f64 / nominal, seconds);
        self.times.waiting.hold(self.waiting as f64 / self.kind.waiting_max().max(1) as f64, seconds);
        self.times.demand.hold((self.seats + self.seats_waiting) as f64 / nominal, seconds);
    }

    fn note_demand(&mut self) {
        self.demand.set(0.0, (self.seats + self.seats_waiting) as f64);
    }

    /// `canAccommodateSeatsLocked`.
    fn has_room(&self, seats: usize) -> bool {
        match self.kind {
            Kind::Exempt => true,
            // Larger than all there is: alone, it may run.
            _ if seats > self.limits.current => self.running.is_empty(),
            _ => self.seats + seats <= self.limits.current,
        }
    }

    /// The queue with the least work of those that the flow is dealt (`shuffleShardLocked`).
    fn deal(&mut self, hash: u64, queues: usize, hand: usize) -> usize {
        let mut cards = [0usize; HAND_MAX];
        let size = deal(hash, queues, hand.min(HAND_MAX), &mut cards);
        let offset = self.dealt % size;
        self.dealt = self.dealt.wrapping_add(1);
        let hand = (0..size).map(|i| cards[(offset + i) % size]);
        hand.min_by(|a, b| self.queues[*a].work.total_cmp(&self.queues[*b].work)).unwrap_or_default()
    }

    fn run(&mut self, id: u64, mut about: Running, now: Instant) {
        about.started = Some(now);
        let seats = about.work.seats();
        self.seats += seats;
        if let Some(queue) = about.queue.and_then(|at| self.queues.get_mut(at)) {
            queue.running += 1;
            queue.seats += seats;
        }
        self.totals.dispatched += 1;
        self.running.insert(id, about);
        self.note_demand();
    }

    /// Lets as many run as there are seats for (`dispatchAsMuchAsPossibleLocked`).
    fn dispatch(&mut self) {
        while self.waiting > 0 && self.seats < self.limits.current {
            let Some(at) = self.next_queue() else { return };
            let seats = self.queues[at].waiting.front().map(|w| w.about.work.seats());
            if !seats.is_some_and(|seats| self.has_room(seats)) {
                return;
            }
            self.served = at;
            let queue = &mut self.queues[at];
            let Some(next) = queue.waiting.pop_front() else { return };
            queue.work = if queue.waiting.is_empty() { 0.0 } else { queue.work - next.about.work.total() };
            self.waiting -= 1;
            self.seats_waiting -= next.about.work.seats();
            let total = next.about.work.total();
            if next.go.send(()).is_ok() {
                self.run(next.id, next.about, self.last);
                self.queues[at].next_dispatch += total;
            } else if !self.queues[at].is_busy() {
                self.busy_queues -= 1;
            }
            bound(&mut self.queues[at]);
            self.note_demand();
        }
    }

    /// The queue whose oldest request would be done first in virtual time, from the one after the last on.
    fn next_queue(&self) -> Option<usize> {
        let count = self.queues.len();
        let mut best: Option<(f64, usize)> = None;
        for step in 1..=count {
            let at = (self.served + step) % count;
            let queue = &self.queues[at];
            let Some(oldest) = queue.waiting.front() else { continue };
            let finish = queue.next_dispatch + oldest.about.work.total();
            if best.is_none_or(|(least, _)| finish < least) {
                best = Some((finish, at));
            }
        }
        best.map(|(_, at)| at)
    }

    /// Takes a waiting request out; `None` if it does not wait.
    fn withdraw(&mut self, id: u64) -> Option<()> {
        for queue in &mut self.queues {
            let Some(at) = queue.waiting.iter().position(|w| w.id == id) else { continue };
            let gone = queue.waiting.remove(at)?;
            queue.work = if queue.waiting.is_empty() { 0.0 } else { queue.work - gone.about.work.total() };
            bound(queue);
            if !queue.is_busy() {
                self.busy_queues -= 1;
            }
            self.waiting -= 1;
            self.seats_waiting -= gone.about.work.seats();
            return Some(());
        }
        None
    }

    /// A request ended; its seats stay taken if it has work left (`finishRequestLocked`).
    fn finish(&mut self, id: u64, now: Instant) -> Option<Running> {
        let about = self.running.remove(&id)?;
        if let Some(queue) = about.queue.and_then(|at| self.queues.get_mut(at)) {
            let took = about.started.map_or(0.0, |s| now.saturating_duration_since(s).as_secs_f64());
            queue.next_dispatch -= about.work.initial as f64 * (SERVICE_SECONDS - took);
            bound(queue);
            queue.running -= 1;
            if !queue.is_busy() {
                self.busy_queues -= 1;
            }
        }
        Some(about)
    }

    fn release(&mut self, about: &Running) {
        let seats = about.work.seats();
        self.seats -= seats;
        if let Some(queue) = about.queue.and_then(|at| self.queues.get_mut(at)) {
            queue.seats = queue.seats.saturating_sub(seats);
        }
        self.note_demand();
        self.fit_queues();
        self.dispatch();
    }
}

/// Deals a hand of different cards; how many (`shufflesharding.Dealer`).
fn deal(mut hash: u64, deck: usize, hand: usize, cards: &mut [usize; HAND_MAX]) -> usize {
    let size = hand.clamp(1, deck.max(1));
    let mut remainders = [0usize; HAND_MAX];
    for (i, remainder) in remainders.iter_mut().enumerate().take(size) {
        let left = (deck.max(1) - i) as u64;
        *remainder = (hash % left) as usize;
        hash /= left;
    }
    for i in 0..size {
        let mut card = remainders[i];
        for j in (0..i).rev() {
            if card >= remainders[j] {
                card += 1;
            }
        }
        cards[i] = card;
    }
    size
}

impl Work {
    /// In seat-seconds.
    fn total(&self) -> f64 {
        self.initial as f64 * SERVICE_SECONDS + self.last as f64 * self.additional.as_secs_f64()
    }
}
