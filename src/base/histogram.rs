//! Prometheus histograms in the text format.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::time::Duration;

/// Histograms of one name, by what prints as their labels: `a="1",b="2"`.
#[derive(Debug)]
pub struct Histograms<K = String> {
    /// Upper bounds in seconds, ascending.
    bounds: &'static [f64],
    series: BTreeMap<K, Series>,
}

#[derive(Debug, Default)]
struct Series {
    /// Observations up to each bound and above the one before.
    buckets: Vec<u64>,
    count: u64,
    sum: f64,
}

impl<K: Ord + Display> Histograms<K> {
    /// `bounds` are seconds, ascending, without infinity.
    pub fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, series: BTreeMap::new() }
    }

    /// Counts one observation.
    pub fn observe(&mut self, labels: K, took: Duration) {
        let bounds = self.bounds;
        let series = self.series.entry(labels).or_default();
        series.buckets.resize(bounds.len(), 0);
        let seconds = took.as_secs_f64();
        series.count += 1;
        series.sum += seconds;
        let bucket = bounds.iter().position(|bound| seconds <= *bound);
        if let Some(count) = bucket.and_then(|bucket| series.buckets.get_mut(bucket)) {
            *count += 1;
        }
    }

    /// The number of observations with these labels.
    pub fn count(&self, labels: &K) -> u64 {
        self.series.get(labels).map_or(0, |series| series.count)
    }

    /// Appends how often each was observed, as a counter of its own; nothing where nothing was.
    pub fn write_counts(&self, out: &mut String, name: &str, help: &str) {
        if self.series.is_empty() {
            return;
        }
        // Writing to a string does not fail.
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter");
        for (labels, series) in &self.series {
            let _ = writeln!(out, "{name}{{{labels}}} {}", series.count);
        }
    }

    /// Appends all of them; nothing where nothing was observed.
    pub fn write(&self, out: &mut String, name: &str, help: &str) {
        if self.series.is_empty() {
            return;
        }
        // Writing to a string does not fail.
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
        for (labels, series) in &self.series {
            let mut total = 0;
            for (bound, count) in self.bounds.iter().zip(&series.buckets) {
                total += count;
                let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {total}");
            }
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {}", series.count);
            let _ = writeln!(out, "{name}_sum{{{labels}}} {}", series.sum);
            let _ = writeln!(out, "{name}_count{{{labels}}} {}", series.count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_count_what_is_below_them() {
        let mut all = Histograms::new(&[0.1, 1.0]);
        let mut text = String::new();
        all.write(&mut text, "x", "h");
        assert!(text.is_empty());
        for ms in [50, 500, 5_000] {
            all.observe("a=\"1\"".to_owned(), Duration::from_millis(ms));
        }
        all.write(&mut text, "x", "h");
        for line in [
            "# TYPE x histogram",
            "x_bucket{a=\"1\",le=\"0.1\"} 1",
            "x_bucket{a=\"1\",le=\"1\"} 2",
            "x_bucket{a=\"1\",le=\"+Inf\"} 3",
            "x_sum{a=\"1\"} 5.55",
            "x_count{a=\"1\"} 3",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}: {text}");
        }
        assert_eq!((all.count(&"a=\"1\"".to_owned()), all.count(&"b".to_owned())), (3, 0));
    }
}
