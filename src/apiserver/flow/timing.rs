//! Ratios over time: histograms of which every nanosecond is one observation (component-base
//! `metrics/prometheusextension/timing_histogram.go`, apiserver `util/flowcontrol/metrics/timing_ratio_histogram.go`).

use std::fmt::Write;

use parking_lot::Mutex;
use tokio::time::Instant;

/// One series.
#[derive(Debug, Clone)]
pub(crate) struct Timing {
    bounds: &'static [f64],
    /// Nanoseconds at each bound and above the one before.
    buckets: Vec<u64>,
    nanoseconds: u64,
    sum: f64,
}

impl Timing {
    pub fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, buckets: vec![0; bounds.len()], nanoseconds: 0, sum: 0.0 }
    }

    /// The ratio was this for so long.
    pub fn hold(&mut self, ratio: f64, seconds: f64) {
        let nanoseconds = (seconds * 1e9) as u64;
        self.nanoseconds += nanoseconds;
        self.sum += ratio * nanoseconds as f64;
        let at = self.bounds.iter().position(|bound| ratio <= *bound);
        if let Some(bucket) = at.and_then(|at| self.buckets.get_mut(at)) {
            *bucket += nanoseconds;
        }
    }

    pub fn write(&self, out: &mut String, name: &str, labels: &str) -> std::fmt::Result {
        let mut total = 0;
        for (bound, nanoseconds) in self.bounds.iter().zip(&self.buckets) {
            total += nanoseconds;
            writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {total}")?;
        }
        writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {}", self.nanoseconds)?;
        writeln!(out, "{name}_sum{{{labels}}} {}\n{name}_count{{{labels}}} {}", self.sum, self.nanoseconds)
    }
}

const SEATS: &[f64] = &[0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0];
const REQUESTS: &[f64] = &[0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.25, 0.5, 0.75, 1.0];
const DEMAND: &[f64] = &[0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.7, 2.0, 2.8, 4.0, 6.0];
const KINDS: &[f64] = &[0.0, 0.001, 0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0];

/// A priority level's.
#[derive(Debug, Clone)]
pub(crate) struct LevelTimes {
    pub seats: Timing,
    pub executing: Timing,
    pub waiting: Timing,
    pub demand: Timing,
}

impl Default for LevelTimes {
    fn default() -> Self {
        Self {
            seats: Timing::new(SEATS),
            executing: Timing::new(REQUESTS),
            waiting: Timing::new(REQUESTS),
            demand: Timing::new(DEMAND),
        }
    }
}

/// How many requests wait and run in the whole server, by whether they write.
pub(crate) struct Kinds(Mutex<State>);

struct State {
    last: Instant,
    /// By [`Phase`] and whether they write.
    now: [[i64; 2]; 2],
    times: [[Timing; 2]; 2],
    /// What all levels together hold, by [`Phase`].
    most: [f64; 2],
}

/// Where a request is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Phase {
    Waiting,
    Executing,
}

impl Default for Kinds {
    fn default() -> Self {
        let timing = || Timing::new(KINDS);
        let times = [[timing(), timing()], [timing(), timing()]];
        Self(Mutex::new(State { last: Instant::now(), now: Default::default(), times, most: [1.0; 2] }))
    }
}

impl State {
    fn advance(&mut self) {
        let now = Instant::now();
        let seconds = now.saturating_duration_since(self.last).as_secs_f64();
        self.last = now;
        for ((counts, times), most) in self.now.iter().zip(&mut self.times).zip(self.most) {
            for (count, timing) in counts.iter().zip(times) {
                timing.hold(*count as f64 / most, seconds);
            }
        }
    }
}

impl Kinds {
    /// Requests that may wait and run.
    pub fn set_most(&self, waiting: usize, executing: usize) {
        let mut state = self.0.lock();
        state.advance();
        state.most = [waiting.max(1) as f64, executing.max(1) as f64];
    }

    pub fn change(&self, phase: Phase, writes: bool, by: i64) {
        let mut state = self.0.lock();
        state.advance();
        state.now[phase as usize][usize::from(writes)] += by;
    }

    /// `read_vs_write_current_requests`, and how many wait now.
    pub fn write(&self, out: &mut String) -> std::fmt::Result {
        let mut state = self.0.lock();
        state.advance();
        let name = "apiserver_flowcontrol_read_vs_write_current_requests";
        writeln!(
            out,
            "# HELP {name} EXPERIMENTAL: [ALPHA] Observations, at the end of every nanosecond, of the number of requests (as a fraction of the relevant limit) waiting or in regular stage of execution\n# TYPE {name} histogram"
        )?;
        for (phase, times) in ["waiting", "executing"].iter().zip(&state.times) {
            for (kind, timing) in ["readOnly", "mutating"].iter().zip(times) {
                timing.write(out, name, &format!("phase=\"{phase}\",request_kind=\"{kind}\""))?;
            }
        }
        let name = "apiserver_current_inqueue_requests";
        writeln!(
            out,
            "# HELP {name} [ALPHA] Maximal number of queued requests in this apiserver per request kind in last second.\n# TYPE {name} gauge"
        )?;
        let [reads, writes] = state.now[Phase::Waiting as usize];
        writeln!(out, "{name}{{request_kind=\"mutating\"}} {writes}\n{name}{{request_kind=\"readOnly\"}} {reads}")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_nanosecond_is_an_observation() {
        let mut timing = Timing::new(&[0.0, 0.5, 1.0]);
        timing.hold(0.0, 2.0);
        timing.hold(0.5, 1.0);
        timing.hold(3.0, 1.0);
        let mut out = String::new();
        timing.write(&mut out, "x", "a=\"b\"").unwrap();
        let want = "x_bucket{a=\"b\",le=\"0\"} 2000000000\nx_bucket{a=\"b\",le=\"0.5\"} 3000000000\n\
                    x_bucket{a=\"b\",le=\"1\"} 3000000000\nx_bucket{a=\"b\",le=\"+Inf\"} 4000000000\n\
                    x_sum{a=\"b\"} 3500000000\nx_count{a=\"b\"} 4000000000\n";
        assert_eq!(out, want);
    }

    #[tokio::test(start_paused = true)]
    async fn reads_and_writes_are_told_apart() {
        let kinds = Kinds::default();
        kinds.set_most(10, 4);
        kinds.change(Phase::Executing, true, 1);
        tokio::time::advance(Duration::from_secs(2)).await;
        kinds.change(Phase::Executing, true, -1);
        kinds.change(Phase::Waiting, false, 1);
        let mut out = String::new();
        kinds.write(&mut out).unwrap();
        for line in [
            "apiserver_flowcontrol_read_vs_write_current_requests_sum{phase=\"executing\",request_kind=\"mutating\"} 500000000",
            "apiserver_flowcontrol_read_vs_write_current_requests_sum{phase=\"executing\",request_kind=\"readOnly\"} 0",
            "apiserver_current_inqueue_requests{request_kind=\"readOnly\"} 1",
        ] {
            assert!(out.lines().any(|l| l == line), "{line}: {out}");
        }
    }
}
