//! What the system says of this process: the figures that Prometheus' process collectors tell under the same names.

use std::fs;

/// Linux reports times in ticks of which there are as many in a second on every machine.
const TICKS: f64 = 100.0;
const PAGE_BYTES: f64 = 4096.0;

/// Figures by their name; those that the system does not tell are left out.
pub fn figures() -> Vec<Figure> {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The command's name may hold spaces: fields are counted from its closing parenthesis.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let number = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok());
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next());
    let open = fs::read_dir("/proc/self/fd").ok().map(|files| files.count() as f64);
    let cpu = number(11).zip(number(12)).map(|(user, system)| (user + system) / TICKS);
    let gauge = |name, help, value: Option<f64>| value.map(|value| Figure { name, kind: "gauge", help, value });
    [
        cpu.map(|value| Figure {
            name: "process_cpu_seconds_total",
            kind: "counter",
            help: "Total user and system CPU time spent in seconds.",
            value,
        }),
        gauge("process_max_fds", "Maximum number of open file descriptors.", files.and_then(|max| max.parse().ok())),
        gauge("process_open_fds", "Number of open file descriptors.", open),
        gauge("process_resident_memory_bytes", "Resident memory size in bytes.", number(21).map(|n| n * PAGE_BYTES)),
        gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.", number(20)),
        gauge(
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds.",
            started(number(19)),
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// One of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    pub name: &'static str,
    /// `counter` or `gauge`.
    pub kind: &'static str,
    pub help: &'static str,
    pub value: f64,
}

/// `ticks` after the machine was started.
fn started(ticks: Option<f64>) -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let booted: f64 = stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(booted + ticks? / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_is_told_on_linux() {
        let found = figures();
        assert_eq!(found.len(), 6, "{found:?}");
        assert!(
            found.iter().all(|figure| figure.value > 0.0 || figure.name == "process_cpu_seconds_total"),
            "{found:?}"
        );
    }
}
