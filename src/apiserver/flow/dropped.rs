//! When clients that were turned away should come back (apiserver `util/flowcontrol/dropped_requests_tracker.go`).

use std::collections::VecDeque;

/// Upstream's `maxRetryAfter`, in seconds.
const SECONDS_MAX: i64 = 32;

/// Requests of one level that were turned away.
#[derive(Debug, Default)]
pub(crate) struct Dropped {
    /// Seconds since the epoch with the requests dropped in them.
    history: VecDeque<(i64, i64)>,
    second: i64,
    count: i64,
    /// 0: as 1.
    retry_after: i64,
    raised: i64,
}

impl Dropped {
    /// Counts one at `now` (seconds since the epoch) and answers with the seconds to wait.
    pub fn record(&mut self, now: i64) -> i64 {
        self.retry_after = self.retry_after.max(1);
        if self.second == now {
            self.count += 1;
            return self.retry_after;
        }
        if self.count > 0 {
            self.history.push_back((self.second, self.count));
        }
        let kept = (2 * self.retry_after).min(SECONDS_MAX);
        while self.history.front().is_some_and(|(second, _)| now - second > kept) {
            self.history.pop_front();
        }
        (self.second, self.count) = (now, 1);
        self.adjust(now);
        self.retry_after
    }

    fn adjust(&mut self, now: i64) {
        let wait = self.retry_after;
        let recent: i64 = self.history.iter().filter(|(second, _)| now - second <= wait).map(|(_, count)| count).sum();
        if now - self.raised >= wait && recent >= 3 * wait {
            self.retry_after = (wait * 2).min(SECONDS_MAX);
            self.raised = now;
        } else if recent < wait && wait > 1 {
            self.retry_after = wait - 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_under_load_and_shrinks_after() {
        let mut dropped = Dropped::default();
        let mut got = Vec::new();
        for second in 1_000..1_004 {
            for _ in 0..20 {
                got.push(dropped.record(second));
            }
        }
        got.dedup();
        assert_eq!(got, [1, 2, 4]);
        assert_eq!(dropped.record(2_000), 3);
        assert_eq!(dropped.record(2_010), 2);
    }
}
