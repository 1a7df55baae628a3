//! Histograms with fixed bounds, cheap enough to be told of every request.

use std::fmt::Write;

/// One series.
#[derive(Debug, Clone)]
pub(crate) struct Histogram {
    /// Ascending, without infinity.
    bounds: &'static [f64],
    /// Observations up to each bound and above the one before.
    buckets: Box<[u64]>,
    pub count: u64,
    sum: f64,
}

impl Histogram {
    pub fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, buckets: vec![0; bounds.len()].into(), count: 0, sum: 0.0 }
    }

    pub fn observe(&mut self, value: f64) {
        self.count += 1;
        self.sum += value;
        let at = self.bounds.partition_point(|bound| *bound < value);
        if let Some(bucket) = self.buckets.get_mut(at) {
            *bucket += 1;
        }
    }

    /// Appends the series; `labels` may be empty.
    pub fn write(&self, out: &mut String, name: &str, labels: &str) -> std::fmt::Result {
        let comma = if labels.is_empty() { "" } else { "," };
        let mut total = 0;
        for (bound, count) in self.bounds.iter().zip(&self.buckets) {
            total += count;
            writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{}\"}} {total}", Number(*bound))?;
        }
        let braced = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        writeln!(out, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {}", self.count)?;
        writeln!(out, "{name}_sum{braced} {}\n{name}_count{braced} {}", Number(self.sum), self.count)
    }
}

/// Prints as Go does (`strconv.FormatFloat` with `'g'`): bounds are labels, and those are compared as texts.
pub(crate) struct Number(pub f64);

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let size = self.0.abs();
        if size == 0.0 || (1e-4..1e6).contains(&size) {
            return write!(f, "{}", self.0);
        }
        let text = format!("{:e}", self.0);
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |rest| ('-', rest));
        write!(f, "{digits}e{sign}{exponent:0>2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_print_as_go_prints_them() {
        let check = |number: f64, want: &str| assert_eq!(Number(number).to_string(), want);
        check(0.0, "0");
        check(0.005, "0.005");
        check(1.25, "1.25");
        check(131_072.0, "131072");
        check(1_000_000.0, "1e+06");
        check(1_048_576.0, "1.048576e+06");
        check(0.00001, "1e-05");
        check(1e9, "1e+09");
    }

    #[test]
    fn values_at_a_bound_are_within_it() {
        let mut histogram = Histogram::new(&[1.0, 10.0]);
        for value in [0.5, 1.0, 5.0, 10.0, 11.0] {
            histogram.observe(value);
        }
        let mut out = String::new();
        histogram.write(&mut out, "x", "").unwrap();
        assert_eq!(
            out,
            "x_bucket{le=\"1\"} 2\nx_bucket{le=\"10\"} 4\nx_bucket{le=\"+Inf\"} 5\nx_sum 27.5\nx_count 5\n"
        );
    }
}
