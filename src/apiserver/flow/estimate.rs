//! How many seats a request takes, and for how long (apiserver `util/flowcontrol/request`).

use std::time::Duration;

use crate::query::Query;
use crate::request::RequestInfo;
use crate::server::ApiServer;

/// A seat stands for so many bytes of objects in memory.
const BYTES_PER_SEAT: u64 = 100_000;
/// What a list holds in memory at once, as it is made while it is sent.
const STREAMED_MAX: u64 = 1_000_000;
const LIST_SEATS_MAX: u64 = 100;
const WRITE_SEATS_MAX: u64 = 10;
const WATCHES_PER_SEAT: usize = 10;
/// What telling watchers takes, for each seat.
const EVENT_TIME: Duration = Duration::from_millis(5);

/// An estimate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Work {
    /// Seats until the answer.
    pub initial: u64,
    /// Seats after it …
    pub last: u64,
    /// … for so long.
    pub additional: Duration,
}

impl Work {
    const ONE: Self = Self::of(1);

    const fn of(initial: u64) -> Self {
        Self { initial, last: 0, additional: Duration::ZERO }
    }

    /// What is taken all the time.
    pub fn seats(&self) -> usize {
        usize::try_from(self.initial.max(self.last)).unwrap_or(usize::MAX)
    }
}

/// Estimates a request. `seats_max` is the level's own limit. The second answer is the number of watchers that a write
/// concerns.
pub(crate) fn estimate(
    server: &ApiServer,
    info: &RequestInfo,
    query: &Query,
    seats_max: Option<u64>,
) -> (Work, Option<usize>) {
    let of_list = matches!(info.verb.as_str(), "list" | "watch");
    let of_write = matches!(info.verb.as_str(), "create" | "update" | "patch" | "delete");
    if !info.is_resource || !(of_list || of_write) {
        return (Work::ONE, None);
    }
    let table = server.table.load();
    let found = table.find(&info.group, &info.version, &info.resource);
    let Some(cache) = found.and_then(|served| served.stored.as_ref()).map(|stored| &stored.cache) else {
        // Unknown, or another server's: little work here.
        return (Work::ONE, None);
    };
    if of_list {
        let version = query.text("resourceVersion");
        let only_changes = info.verb == "watch"
            && query.optional_flag("sendInitialEvents") != Some(true)
            && !matches!(version, "" | "0");
        if only_changes {
            return (Work::ONE, None);
        }
        let (count, bytes) = cache.size();
        let limit = query.text("limit").parse::<usize>().ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        let objects = if info.name.is_empty() { count.min(limit) } else { 1.min(count) };
        let held = (bytes as u64).checked_div(count as u64).unwrap_or_default() * objects as u64;
        let max = seats_max.unwrap_or(LIST_SEATS_MAX).min(LIST_SEATS_MAX);
        return (Work::of(list_seats(held, max)), None);
    }
    if info.resource == "serviceaccounts" && info.subresource == "token" {
        return (Work::ONE, None);
    }
    let watchers = cache.watchers();
    let max = seats_max.unwrap_or(WRITE_SEATS_MAX).min(WRITE_SEATS_MAX);
    (write_work(watchers, max), Some(watchers))
}

/// `seatsBasedOnObjectSize` of what comes from the cache.
fn list_seats(bytes: u64, max: u64) -> u64 {
    bytes.min(STREAMED_MAX).div_ceil(BYTES_PER_SEAT).clamp(1, max.max(1))
}

/// `mutatingWorkEstimator.estimate`.
fn write_work(watchers: usize, max: u64) -> Work {
    if watchers < WATCHES_PER_SEAT {
        return Work::ONE;
    }
    let wanted = watchers.div_ceil(WATCHES_PER_SEAT) as u64;
    let last = wanted.min(max.max(1));
    Work { initial: 1, last, additional: EVENT_TIME.mul_f64(wanted as f64 / last as f64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_take_seats_by_their_size() {
        let check = |bytes, max, want| assert_eq!(list_seats(bytes, max), want);
        check(0, 100, 1);
        check(100_001, 100, 2);
        check(u64::MAX, 100, 10);
        check(u64::MAX, 3, 3);
    }

    #[test]
    fn writes_take_seats_for_their_watchers() {
        assert_eq!(write_work(9, 10), Work::ONE);
        assert_eq!(write_work(25, 10), Work { initial: 1, last: 3, additional: EVENT_TIME });
        assert_eq!(write_work(200, 10), Work { initial: 1, last: 10, additional: EVENT_TIME * 2 });
    }
}
