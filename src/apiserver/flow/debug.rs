//! `/debug/api_priority_and_fairness/…` (apiserver `util/flowcontrol/apf_controller_debug.go`).

use std::sync::Arc;

use tokio::time::Instant;

use super::Config;
use super::level::{Level, Running, Snapshot};
use crate::query::Query;
use crate::respond::{self, Response};

/// A page by its name; `None`: there is no such page.
pub(crate) fn serve(config: &Config, page: &str, query: &Query, now: jiff::Timestamp) -> Option<Response> {
    let text = match page {
        "dump_priority_levels" => levels(config),
        "dump_queues" => queues(config),
        "dump_requests" => requests(config, !query.text("includeRequestDetails").is_empty(), now),
        _ => return None,
    };
    Some(respond::text(200, text))
}

/// Rows as Go's `tabwriter` lays them out: a column ends with a tab that is padded to the widest of a block.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| rows.iter().filter(|r| column + 1 < r.len()).map(|r| r[column].len() + 1).max();
    let widths: Vec<usize> = (0..columns).map(|c| (width(c).unwrap_or_default() + 1).max(8)).collect();
    let mut out = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            if column + 1 == row.len() {
                out += cell;
            } else {
                out += &format!("{:<width$}", format!("{cell},"), width = widths[column]);
            }
        }
        out.push('\n');
    }
    out
}

fn row(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|cell| (*cell).to_owned()).collect()
}

fn sorted(config: &Config) -> Vec<&Arc<Level>> {
    let mut levels: Vec<&Arc<Level>> = config.levels.values().map(|l| &l.level).collect();
    levels.sort_by(|a, b| a.name.cmp(&b.name));
    levels
}

fn levels(config: &Config) -> String {
    let mut rows = vec![row(&[
        "PriorityLevelName",
        "ActiveQueues",
        "IsIdle",
        "IsQuiescing",
        "WaitingRequests",
        "ExecutingRequests",
        "DispatchedRequests",
        "RejectedRequests",
        "TimedoutRequests",
        "CancelledRequests",
    ])];
    for level in sorted(config) {
        let seen: Snapshot = level.snapshot();
        let active = seen.queues.iter().filter(|q| !q.waiting.is_empty()).count();
        rows.push(vec![
            level.name.to_string(),
            active.to_string(),
            (seen.waiting == 0 && seen.running.is_empty()).to_string(),
            seen.leaving.to_string(),
            seen.waiting.to_string(),
            seen.running.len().to_string(),
            seen.totals.dispatched.to_string(),
            seen.totals.rejected.to_string(),
            seen.totals.timed_out.to_string(),
            seen.totals.cancelled.to_string(),
        ]);
    }
    table(&rows)
}

fn queues(config: &Config) -> String {
    let mut rows = vec![row(&[
        "PriorityLevelName",
        "Index",
        "PendingRequests",
        "ExecutingRequests",
        "SeatsInUse",
        "NextDispatchR",
        "InitialSeatsSum",
        "MaxSeatsSum",
        "TotalWorkSum",
    ])];
    for level in sorted(config) {
        for (index, queue) in level.snapshot().queues.iter().enumerate() {
            let sum = |of: fn(&Running) -> u64| queue.waiting.iter().map(of).sum::<u64>().to_string();
            rows.push(vec![
                level.name.to_string(),
                index.to_string(),
                queue.waiting.len().to_string(),
                queue.running.to_string(),
                queue.seats.to_string(),
                format!("{:.8}ss", queue.next_dispatch),
                sum(|r| r.work.initial),
                sum(|r| r.work.seats() as u64),
                format!("{:.8}ss", queue.work),
            ]);
        }
    }
    table(&rows)
}

fn requests(config: &Config, details: bool, now: jiff::Timestamp) -> String {
    let mut head = row(&[
        "PriorityLevelName",
        "FlowSchemaName",
        "QueueIndex",
        "RequestIndexInQueue",
        "FlowDistingsher",
        "ArriveTime",
        "InitialSeats",
        "FinalSeats",
        "AdditionalLatency",
        "StartTime",
    ]);
    if details {
        head.extend(row(&[
            "UserName",
            "Verb",
            "APIPath",
            "Namespace",
            "Name",
            "APIVersion",
            "Resource",
            "SubResource",
        ]));
    }
    let mut rows = vec![head];
    for level in sorted(config) {
        let seen = level.snapshot();
        let mut add = |queue: Option<usize>, place: Option<usize>, request: &Running| {
            let number = |n: Option<usize>| n.map_or_else(|| "-1".to_owned(), |n| n.to_string());
            let started = request.started.map_or_else(
                || "0001-01-01T00:00:00Z".to_owned(),
                |at| {
                    let ago = Instant::now().saturating_duration_since(at);
                    jiff::SignedDuration::try_from(ago).map_or(now, |ago| now - ago).to_string()
                },
            );
            let mut cells = vec![
                level.name.to_string(),
                request.schema.to_string(),
                number(queue),
                number(place),
                request.flow.to_string(),
                request.arrived.to_string(),
                request.work.initial.to_string(),
                request.work.last.to_string(),
                format!("{:?}", request.work.additional),
                started,
            ];
            if details {
                let info = &request.info;
                cells.extend([
                    request.user.to_string(),
                    info.verb.clone(),
                    info.path.clone(),
                    info.namespace.clone(),
                    info.name.clone(),
                    api::GroupVersion::new(info.group.clone(), info.version.clone()).to_string(),
                    info.resource.clone(),
                    info.subresource.clone(),
                ]);
            }
            rows.push(cells);
        };
        for (index, queue) in seen.queues.iter().enumerate() {
            for (place, request) in queue.waiting.iter().enumerate() {
                add(Some(index), Some(place), request);
            }
        }
        for request in &seen.running {
            add(request.queue, None, request);
        }
    }
    table(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = vec![row(&["PriorityLevelName", "Index"]), row(&["a", "0"])];
        assert_eq!(table(&rows), "PriorityLevelName, Index\na,                 0\n");
    }
}
