//! `/metrics/slis`: what health checks said (component-base `metrics/prometheus/slis`).

use std::collections::BTreeMap;
use std::fmt::Write;

use parking_lot::Mutex;

/// The results of checks that were asked for together, by endpoint and name. There are as many as there are checks.
#[derive(Default)]
pub(crate) struct Checked(Mutex<BTreeMap<String, BTreeMap<String, Results>>>);

#[derive(Default)]
struct Results {
    last: bool,
    good: u64,
    bad: u64,
}

impl Checked {
    /// Notes the result of a check of an endpoint.
    pub(crate) fn note(&self, endpoint: &str, name: &str, good: bool) {
        let mut all = self.0.lock();
        let checks = match all.get_mut(endpoint) {
            Some(checks) => checks,
            None => all.entry(endpoint.to_owned()).or_default(),
        };
        let results = match checks.get_mut(name) {
            Some(results) => results,
            None => checks.entry(name.to_owned()).or_default(),
        };
        results.last = good;
        *(if good { &mut results.good } else { &mut results.bad }) += 1;
    }

    pub(crate) fn write(&self, out: &mut String) {
        let all = self.0.lock();
        if all.is_empty() {
            return;
        }
        let (mut results, mut totals) = (String::new(), String::new());
        for (endpoint, checks) in all.iter() {
            for (name, seen) in checks {
                // Writing to a string cannot fail.
                let _ = writeln!(
                    results,
                    "kubernetes_healthcheck{{name=\"{name}\",type=\"{endpoint}\"}} {}",
                    u8::from(seen.last)
                );
                for (status, count) in [("error", seen.bad), ("success", seen.good)] {
                    if count > 0 {
                        let _ = writeln!(
                            totals,
                            "kubernetes_healthchecks_total{{name=\"{name}\",status=\"{status}\",type=\"{endpoint}\"}} {count}"
                        );
                    }
                }
            }
        }
        out.push_str(
            "# HELP kubernetes_healthcheck [STABLE] This metric records the result of a single healthcheck.\n",
        );
        out.push_str("# TYPE kubernetes_healthcheck gauge\n");
        out.push_str(&results);
        out.push_str(
            "# HELP kubernetes_healthchecks_total [STABLE] This metric records the results of all healthcheck.\n",
        );
        out.push_str("# TYPE kubernetes_healthchecks_total counter\n");
        out.push_str(&totals);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_counted_by_check_and_endpoint() {
        let checked = Checked::default();
        for good in [true, true, false] {
            checked.note("readyz", "etcd", good);
        }
        let mut text = String::new();
        checked.write(&mut text);
        assert!(text.contains("kubernetes_healthcheck{name=\"etcd\",type=\"readyz\"} 0\n"), "{text}");
        assert!(text.contains("_total{name=\"etcd\",status=\"success\",type=\"readyz\"} 2\n"), "{text}");
        assert!(text.contains("_total{name=\"etcd\",status=\"error\",type=\"readyz\"} 1\n"), "{text}");
    }
}
