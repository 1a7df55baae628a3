//! The figures in protobuf (`io.prometheus.client.MetricFamily`, each after its length), for clients that ask for it
//! (prometheus `expfmt` `Negotiate`, `protodelim`): made from the text, so that both say the same.

use std::collections::BTreeMap;

use http::HeaderMap;
use http::header::ACCEPT;

pub(super) const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";
pub(super) const PROTOBUF: &str = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited; escaping=underscores";

const COUNTER: u64 = 0;
const GAUGE: u64 = 1;
const UNTYPED: u64 = 3;
const HISTOGRAM: u64 = 4;

/// Whether a client takes protobuf before the text.
pub(super) fn wants_protobuf(headers: &HeaderMap) -> bool {
    let accept = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect::<Vec<_>>().join(",");
    let mut clauses: Vec<(u32, &str)> = accept.split(',').map(|c| (crate::negotiate::quality(c), c)).collect();
    // Stable: what is named first counts among equals.
    clauses.sort_by_key(|(quality, _)| std::cmp::Reverse(*quality));
    for (_, clause) in clauses {
        let is = |name: &str, value: &str| crate::negotiate::parameters(clause).any(|p| p == (name, value));
        match clause.split(';').next().unwrap_or_default().trim() {
            "application/vnd.google.protobuf" if is("proto", "io.prometheus.client.MetricFamily") => {
                if is("encoding", "delimited") {
                    return true;
                }
            }
            "text/plain" if crate::negotiate::parameters(clause).all(|(name, v)| name != "version" || v == "0.0.4") => {
                return false;
            }
            _ => {}
        }
    }
    false
}

/// A family of figures while it is read.
#[derive(Default)]
struct Family {
    name: String,
    help: String,
    kind: u64,
    metrics: Vec<Metric>,
    /// Where the histogram with these labels stands.
    places: BTreeMap<String, usize>,
}

#[derive(Default)]
struct Metric {
    labels: Vec<(String, String)>,
    value: f64,
    /// Of a histogram, with the bounds.
    buckets: Vec<(f64, u64)>,
    sum: f64,
    count: u64,
}

/// The text in protobuf. Lines that make no sense are left out.
pub(super) fn protobuf(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut family = Family::default();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap_or((rest, ""));
            family.write(&mut out);
            family = Family { name: name.to_owned(), help: unescape(help), kind: UNTYPED, ..Family::default() };
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, ""));
            if name != family.name {
                family.write(&mut out);
                family = Family { name: name.to_owned(), ..Family::default() };
            }
            family.kind = match kind {
                "counter" => COUNTER,
                "gauge" => GAUGE,
                "histogram" => HISTOGRAM,
                _ => UNTYPED,
            };
        } else if let Some((name, labels, value)) = sample(line) {
            family.add(name, labels, value);
        }
    }
    family.write(&mut out);
    out
}

impl Family {
    fn add(&mut self, name: &str, mut labels: Vec<(String, String)>, value: f64) {
        if self.kind != HISTOGRAM {
            labels.sort();
            self.metrics.push(Metric { labels, value, ..Metric::default() });
            return;
        }
        let bound = labels.iter().position(|(name, _)| name == "le").map(|at| labels.remove(at).1);
        labels.sort();
        let place = *self.places.entry(format!("{labels:?}")).or_insert_with(|| {
            self.metrics.push(Metric { labels, ..Metric::default() });
            self.metrics.len() - 1
        });
        let metric = &mut self.metrics[place];
        match (name.strip_prefix(self.name.as_str()), bound) {
            (Some("_bucket"), Some(bound)) if bound != "+Inf" => {
                if let Ok(bound) = bound.parse() {
                    metric.buckets.push((bound, value as u64));
                }
            }
            (Some("_sum"), _) => metric.sum = value,
            (Some("_count"), _) => metric.count = value as u64,
            // The last bucket is the count.
            _ => {}
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        if self.metrics.is_empty() {
            return;
        }
        let mut message = Vec::new();
        bytes(&mut message, 1, self.name.as_bytes());
        if !self.help.is_empty() {
            bytes(&mut message, 2, self.help.as_bytes());
        }
        number(&mut message, 3, self.kind);
        let mut inner = Vec::new();
        for metric in &self.metrics {
            inner.clear();
            metric.write(&mut inner, self.kind);
            bytes(&mut message, 4, &inner);
        }
        varint(out, message.len() as u64);
        out.extend_from_slice(&message);
    }
}

impl Metric {
    fn write(&self, out: &mut Vec<u8>, kind: u64) {
        let mut inner = Vec::new();
        for (name, value) in &self.labels {
            inner.clear();
            bytes(&mut inner, 1, name.as_bytes());
            bytes(&mut inner, 2, value.as_bytes());
            bytes(out, 1, &inner);
        }
        inner.clear();
        let field = match kind {
            HISTOGRAM => {
                number(&mut inner, 1, self.count);
                double(&mut inner, 2, self.sum);
                let mut bucket = Vec::new();
                for (bound, count) in &self.buckets {
                    bucket.clear();
                    number(&mut bucket, 1, *count);
                    double(&mut bucket, 2, *bound);
                    bytes(&mut inner, 3, &bucket);
                }
                7
            }
            other => {
                double(&mut inner, 1, self.value);
                match other {
                    COUNTER => 3,
                    GAUGE => 2,
                    _ => 5,
                }
            }
        };
        bytes(out, field, &inner);
    }
}

/// The parts of a line `name{label="value"} 1`.
fn sample(line: &str) -> Option<(&str, Vec<(String, String)>, f64)> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = Vec::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (label, after) = rest.split_once("=\"")?;
            let close = closing_quote(after)?;
            labels.push((label.trim_start_matches(',').to_owned(), unescape(&after[..close])));
            rest = &after[close + 1..];
        }
    }
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some((name, labels, value))
}

/// The first quote without a backslash before it.
fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })
}

fn unescape(text: &str) -> String {
    if !text.contains('\\') {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (letter, letter == '\\') {
            (_, true) => match letters.next() {
                Some('n') => out.push('\n'),
                Some(other) => out.push(other),
                None => {}
            },
            (plain, false) => out.push(plain),
        }
    }
    out
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn number(out: &mut Vec<u8>, field: u64, value: u64) {
    varint(out, field << 3);
    varint(out, value);
}

fn double(out: &mut Vec<u8>, field: u64, value: f64) {
    varint(out, field << 3 | 1);
    out.extend_from_slice(&value.to_le_bytes());
}

fn bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    varint(out, field << 3 | 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn clients_say_what_they_take() {
        let check = |accept: &'static str, want: bool| {
            let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]);
            assert_eq!(wants_protobuf(&headers), want, "{accept}");
        };
        const PROTO: &str =
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
        check(PROTO, true);
        check("", false);
        check("*/*", false);
        check("application/vnd.google.protobuf", false);
        // Prometheus 3 with and without native histograms.
        check(
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,\
             application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4,*/*;q=0.3",
            true,
        );
        check("application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.3", false);
    }

    #[test]
    fn text_becomes_families() {
        let text = "# HELP a_total Of \\\\ things.\n# TYPE a_total counter\na_total{x=\"1\",w=\"q\\\"u\"} 3\n\
                    # HELP h Of times.\n# TYPE h histogram\nh_bucket{c=\"d\",le=\"0.5\"} 1\nh_bucket{c=\"d\",le=\"+Inf\"} 2\n\
                    h_sum{c=\"d\"} 1.5\nh_count{c=\"d\"} 2\n# HELP nothing Here.\n# TYPE nothing gauge\n";
        let mut want = Vec::new();
        let label = |name: &str, value: &str| {
            let mut pair = Vec::new();
            bytes(&mut pair, 1, name.as_bytes());
            bytes(&mut pair, 2, value.as_bytes());
            pair
        };
        let (mut counter, mut value) = (Vec::new(), Vec::new());
        double(&mut value, 1, 3.0);
        bytes(&mut counter, 1, &label("w", "q\"u"));
        bytes(&mut counter, 1, &label("x", "1"));
        bytes(&mut counter, 3, &value);
        let (mut histogram, mut value, mut bucket) = (Vec::new(), Vec::new(), Vec::new());
        number(&mut bucket, 1, 1);
        double(&mut bucket, 2, 0.5);
        number(&mut value, 1, 2);
        double(&mut value, 2, 1.5);
        bytes(&mut value, 3, &bucket);
        bytes(&mut histogram, 1, &label("c", "d"));
        bytes(&mut histogram, 7, &value);
        for (name, help, kind, metric) in
            [("a_total", "Of \\ things.", COUNTER, counter), ("h", "Of times.", HISTOGRAM, histogram)]
        {
            let mut family = Vec::new();
            bytes(&mut family, 1, name.as_bytes());
            bytes(&mut family, 2, help.as_bytes());
            number(&mut family, 3, kind);
            bytes(&mut family, 4, &metric);
            varint(&mut want, family.len() as u64);
            want.extend(family);
        }
        assert_eq!(protobuf(text), want);
    }
}
