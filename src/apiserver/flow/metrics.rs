//! `apiserver_flowcontrol_*` (apiserver `util/flowcontrol/metrics`).

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::estimate::Work;
use super::level::Refusal;
use super::timing::{Kinds, LevelTimes, Phase, Timing};

const SECONDS: [f64; 13] = [0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0];
const SEATS: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 100.0];
const WATCHERS: [f64; 6] = [0.0, 1.0, 10.0, 100.0, 1000.0, 10_000.0];

/// What is counted of one schema and level.
pub(crate) struct Counters {
    counts: Mutex<Counts>,
    kinds: Arc<Kinds>,
}

#[derive(Default, Clone)]
struct Counts {
    dispatched: u64,
    rejected: [u64; REASONS.len()],
    waiting: i64,
    waiting_seats: i64,
    running: i64,
    running_seats: i64,
    waited: Histogram<13>,
    gave_up: Histogram<13>,
    executed: Histogram<13>,
    executed_watches: Histogram<13>,
    seats: Histogram<8>,
    watchers: Histogram<6>,
}

const REASONS: [Refusal; 4] = [Refusal::QueueFull, Refusal::NoSeats, Refusal::TimeOut, Refusal::Cancelled];

#[derive(Clone)]
struct Histogram<const N: usize> {
    buckets: [u64; N],
    count: u64,
    sum: f64,
}

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Self {
        Self { buckets: [0; N], count: 0, sum: 0.0 }
    }
}

impl<const N: usize> Histogram<N> {
    fn note(&mut self, bounds: &[f64; N], value: f64) {
        self.count += 1;
        self.sum += value;
        if let Some(at) = bounds.iter().position(|bound| value <= *bound) {
            self.buckets[at] += 1;
        }
    }

    fn write(&self, out: &mut String, name: &str, labels: &str, bounds: &[f64; N]) -> std::fmt::Result {
        if self.count == 0 {
            return Ok(());
        }
        let mut total = 0;
        for (bound, count) in bounds.iter().zip(self.buckets) {
            total += count;
            writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {total}")?;
        }
        writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {}", self.count)?;
        writeln!(out, "{name}_sum{{{labels}}} {}\n{name}_count{{{labels}}} {}", self.sum, self.count)
    }
}

fn seats(work: &Work) -> i64 {
    i64::try_from(work.seats()).unwrap_or(i64::MAX)
}

impl Counters {
    /// `kinds` are the whole server's.
    pub(crate) fn new(kinds: Arc<Kinds>) -> Self {
        Self { counts: Mutex::default(), kinds }
    }

    /// A request was classified and estimated.
    pub(crate) fn estimated(&self, work: &Work, watchers: Option<usize>) {
        let mut counts = self.counts.lock();
        counts.seats.note(&SEATS, seats(work) as f64);
        if let Some(watchers) = watchers {
            counts.watchers.note(&WATCHERS, watchers as f64);
        }
    }

    pub(crate) fn waits(&self, work: &Work, writes: bool) {
        self.kinds.change(Phase::Waiting, writes, 1);
        let mut counts = self.counts.lock();
        counts.waiting += 1;
        counts.waiting_seats += seats(work);
    }

    /// A request runs now, after it waited in a queue for that long.
    pub(crate) fn runs(&self, work: &Work, waited: Option<Duration>, writes: bool) {
        if waited.is_some() {
            self.kinds.change(Phase::Waiting, writes, -1);
        }
        self.kinds.change(Phase::Executing, writes, 1);
        let mut counts = self.counts.lock();
        if let Some(waited) = waited {
            counts.waiting -= 1;
            counts.waiting_seats -= seats(work);
            counts.waited.note(&SECONDS, waited.as_secs_f64());
        } else {
            counts.waited.note(&SECONDS, 0.0);
        }
        counts.dispatched += 1;
        counts.running += 1;
        counts.running_seats += seats(work);
    }

    pub(crate) fn finished(&self, work: &Work, took: Duration, is_watch: bool, writes: bool) {
        self.kinds.change(Phase::Executing, writes, -1);
        let mut counts = self.counts.lock();
        counts.running -= 1;
        counts.running_seats -= seats(work);
        let histogram = if is_watch { &mut counts.executed_watches } else { &mut counts.executed };
        histogram.note(&SECONDS, took.as_secs_f64());
    }

    /// A request was not even queued.
    pub(crate) fn refused(&self, refusal: Refusal) {
        let mut counts = self.counts.lock();
        counts.rejected[index(refusal)] += 1;
    }

    /// A request left its queue without being served.
    pub(crate) fn gave_up(&self, refusal: Refusal, work: &Work, waited: Duration, writes: bool) {
        self.kinds.change(Phase::Waiting, writes, -1);
        let mut counts = self.counts.lock();
        counts.rejected[index(refusal)] += 1;
        counts.waiting -= 1;
        counts.waiting_seats -= seats(work);
        counts.gave_up.note(&SECONDS, waited.as_secs_f64());
    }
}

fn index(refusal: Refusal) -> usize {
    REASONS.iter().position(|known| *known == refusal).unwrap_or_default()
}

/// Figures of one level.
pub(crate) struct LevelFigures {
    pub name: String,
    pub figures: Vec<(&'static str, f64)>,
    pub times: LevelTimes,
}

/// Names and meanings of [`LevelFigures`], in their order.
const GAUGES: [(&str, &str); 10] = [
    ("nominal_limit_seats", "[BETA] Nominal number of execution seats configured for each priority level"),
    (
        "lower_limit_seats",
        "[ALPHA] Configured lower bound on number of execution seats available to each priority level",
    ),
    (
        "upper_limit_seats",
        "[ALPHA] Configured upper bound on number of execution seats available to each priority level",
    ),
    ("current_limit_seats", "[ALPHA] current derived number of execution seats available to each priority level"),
    ("demand_seats_high_watermark", "[ALPHA] High watermark, over last adjustment period, of demand_seats"),
    ("demand_seats_average", "[ALPHA] Time-weighted average, over last adjustment period, of demand_seats"),
    ("demand_seats_stdev", "[ALPHA] Time-weighted standard deviation, over last adjustment period, of demand_seats"),
    ("demand_seats_smoothed", "[ALPHA] Smoothed seat demands"),
    ("target_seats", "[ALPHA] Seat allocation targets"),
    ("current_r", "[ALPHA] R(time of last change)"),
];

fn head(out: &mut String, name: &str, kind: &str, help: &str) -> std::fmt::Result {
    writeln!(out, "# HELP apiserver_flowcontrol_{name} {help}\n# TYPE apiserver_flowcontrol_{name} {kind}")
}

/// The exposition text of everything. `all` is by schema and level.
pub(crate) fn write(
    out: &mut String,
    levels: &[LevelFigures],
    fair: f64,
    all: &[(String, String, std::sync::Arc<Counters>)],
) -> std::fmt::Result {
    for (name, help) in GAUGES {
        head(out, name, "gauge", help)?;
        for level in levels {
            if let Some((_, value)) = level.figures.iter().find(|(figure, _)| *figure == name) {
                writeln!(out, "apiserver_flowcontrol_{name}{{priority_level=\"{}\"}} {value}", level.name)?;
            }
        }
    }
    times(out, levels)?;
    let help = "[ALPHA] Fair fraction of server's concurrency to allocate to each priority level that can use it";
    head(out, "seat_fair_frac", "gauge", help)?;
    writeln!(out, "apiserver_flowcontrol_seat_fair_frac {fair}")?;
    let all: Vec<(String, Counts)> = all
        .iter()
        .map(|(schema, level, counters)| {
            (format!("flow_schema=\"{schema}\",priority_level=\"{level}\""), counters.counts.lock().clone())
        })
        .collect();
    let name = "rejected_requests_total";
    head(out, name, "counter", "[BETA] Number of requests rejected by API Priority and Fairness subsystem")?;
    for (labels, counts) in &all {
        for (reason, count) in REASONS.iter().zip(counts.rejected).filter(|(_, count)| *count > 0) {
            writeln!(out, "apiserver_flowcontrol_{name}{{{labels},reason=\"{}\"}} {count}", reason.reason())?;
        }
    }
    let name = "dispatched_requests_total";
    head(out, name, "counter", "[BETA] Number of requests executed by API Priority and Fairness subsystem")?;
    for (labels, counts) in &all {
        writeln!(out, "apiserver_flowcontrol_{name}{{{labels}}} {}", counts.dispatched)?;
    }
    type Gauge = (&'static str, &'static str, fn(&Counts) -> i64);
    let gauges: [Gauge; 4] = [
        (
            "current_inqueue_requests",
            "[BETA] Number of requests currently pending in queues of the API Priority and Fairness subsystem",
            |c| c.waiting,
        ),
        (
            "current_inqueue_seats",
            "[ALPHA] Number of seats currently pending in queues of the API Priority and Fairness subsystem",
            |c| c.waiting_seats,
        ),
        (
            "current_executing_requests",
            "[BETA] Number of requests in initial (for a WATCH) or any (for a non-WATCH) execution stage in the API Priority and Fairness subsystem",
            |c| c.running,
        ),
        (
            "current_executing_seats",
            "[BETA] Concurrency (number of seats) occupied by the currently executing (initial stage for a WATCH, any stage otherwise) requests in the API Priority and Fairness subsystem",
            |c| c.running_seats,
        ),
    ];
    for (name, help, value) in gauges {
        head(out, name, "gauge", help)?;
        for (labels, counts) in &all {
            writeln!(out, "apiserver_flowcontrol_{name}{{{labels}}} {}", value(counts))?;
        }
    }
    histograms(out, &all)
}

/// What is observed at every nanosecond.
fn times(out: &mut String, levels: &[LevelFigures]) -> std::fmt::Result {
    type Series = (&'static str, fn(&LevelTimes) -> &Timing);
    const HELP: &str = "EXPERIMENTAL: [ALPHA] Observations, at the end of every nanosecond, of";
    let all: [(&str, &str, &[Series]); 3] = [
        (
            "demand_seats",
            "(the number of seats each priority level could use) / (nominal number of seats for that level)",
            &[("", |times| &times.demand)],
        ),
        (
            "priority_level_request_utilization",
            "number of requests (as a fraction of the relevant limit) waiting or in any stage of execution (but only initial stage for WATCHes)",
            &[("phase=\"executing\",", |times| &times.executing), ("phase=\"waiting\",", |times| &times.waiting)],
        ),
        (
            "priority_level_seat_utilization",
            "utilization of seats for any stage of execution (but only initial stage for WATCHes)",
            &[("phase=\"executing\",", |times| &times.seats)],
        ),
    ];
    for (name, help, series) in all {
        head(out, name, "histogram", &format!("{HELP} {help}"))?;
        let name = format!("apiserver_flowcontrol_{name}");
        for (labels, of) in series {
            for level in levels {
                of(&level.times).write(out, &name, &format!("{labels}priority_level=\"{}\"", level.name))?;
            }
        }
    }
    Ok(())
}

fn histograms(out: &mut String, all: &[(String, Counts)]) -> std::fmt::Result {
    let name = "request_wait_duration_seconds";
    head(out, name, "histogram", "[BETA] Length of time a request spent waiting in its queue")?;
    let full = format!("apiserver_flowcontrol_{name}");
    for (labels, counts) in all {
        counts.waited.write(out, &full, &format!("execute=\"true\",{labels}"), &SECONDS)?;
        counts.gave_up.write(out, &full, &format!("execute=\"false\",{labels}"), &SECONDS)?;
    }
    let name = "request_execution_seconds";
    let help = "[ALPHA] Duration of initial stage (for a WATCH) or any (for a non-WATCH) stage of request execution in the API Priority and Fairness subsystem";
    head(out, name, "histogram", help)?;
    let full = format!("apiserver_flowcontrol_{name}");
    for (labels, counts) in all {
        counts.executed.write(out, &full, &format!("{labels},type=\"regular\""), &SECONDS)?;
        counts.executed_watches.write(out, &full, &format!("{labels},type=\"watch\""), &SECONDS)?;
    }
    let name = "work_estimated_seats";
    let help = "[ALPHA] Number of estimated seats (maximum of initial and final seats) associated with requests in API Priority and Fairness";
    head(out, name, "histogram", help)?;
    for (labels, counts) in all {
        counts.seats.write(out, &format!("apiserver_flowcontrol_{name}"), labels, &SEATS)?;
    }
    let name = "watch_count_samples";
    let help = "[ALPHA] count of watchers for mutating requests in API Priority and Fairness";
    head(out, name, "histogram", help)?;
    for (labels, counts) in all {
        counts.watchers.write(out, &format!("apiserver_flowcontrol_{name}"), labels, &WATCHERS)?;
    }
    Ok(())
}
