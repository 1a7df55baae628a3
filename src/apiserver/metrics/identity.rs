//! Who asks and what they may (apiserver `endpoints/filters/metrics.go`, `endpoints/filterlatency`): how often and how
//! long the filters in front of the handlers take.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use parking_lot::Mutex;

use super::head;
use super::histogram::Histogram;

/// From a millisecond on, each twice the one before.
const DURATIONS: &[f64] =
    &[0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384];
const FILTERS: &[f64] = &[0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 5.0, 10.0, 15.0, 30.0];
/// From now to a year.
const LIFETIMES: &[f64] = &[
    0.0,
    1800.0,
    3600.0,
    7200.0,
    21_600.0,
    43_200.0,
    86_400.0,
    172_800.0,
    345_600.0,
    604_800.0,
    2_592_000.0,
    7_776_000.0,
    15_552_000.0,
    31_104_000.0,
];

/// A step in front of the handlers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Filter {
    Audit,
    Authentication,
    Authorization,
    Impersonation,
    Flow,
}

impl Filter {
    /// The name of upstream's filter.
    fn name(self) -> &'static str {
        match self {
            Self::Audit => "audit",
            Self::Authentication => "authentication",
            Self::Authorization => "authorization",
            Self::Impersonation => "constrainedimpersonation",
            Self::Flow => "priorityandfairness",
        }
    }
}

/// What is counted in front of the handlers.
#[derive(Default)]
pub(crate) struct Identities(Mutex<State>);

#[derive(Default)]
struct State {
    filters: BTreeMap<Filter, Histogram>,
    /// By result.
    authentications: BTreeMap<&'static str, Histogram>,
    users: BTreeMap<&'static str, u64>,
    certificates: Option<Histogram>,
    /// By result.
    authorizations: BTreeMap<&'static str, Histogram>,
    /// By decision and mode.
    impersonations: BTreeMap<(&'static str, &'static str), Histogram>,
}

/// `compressUsername`: a few names that say something, and all others together.
fn compressed(user: &str) -> &'static str {
    const KNOWN: [&str; 5] = ["admin", "client", "kube_proxy", "kubelet", "system:serviceaccount:kube-system:default"];
    match KNOWN.into_iter().find(|known| *known == user) {
        Some(known) => known,
        None if user.contains('@') => "email_id",
        None => "other",
    }
}

impl Identities {
    /// A filter was passed.
    pub fn passed(&self, filter: Filter, took: Duration) {
        let mut state = self.0.lock();
        let filters = &mut state.filters;
        filters.entry(filter).or_insert_with(|| Histogram::new(FILTERS)).observe(took.as_secs_f64());
    }

    /// Who asks was found out, or not. `expires_seconds`: how long the certificate is still good that told.
    pub fn authenticated(&self, user: Option<&str>, expires_seconds: Option<i64>, took: Duration) {
        let mut state = self.0.lock();
        let result = if user.is_some() { "success" } else { "failure" };
        let took = took.as_secs_f64();
        state.authentications.entry(result).or_insert_with(|| Histogram::new(DURATIONS)).observe(took);
        if let Some(user) = user {
            *state.users.entry(compressed(user)).or_default() += 1;
        }
        if let Some(seconds) = expires_seconds {
            state.certificates.get_or_insert_with(|| Histogram::new(LIFETIMES)).observe(seconds as f64);
        }
    }

    /// The authoriser has spoken: `allowed`, `denied`, `no-opinion` or `error`.
    pub fn authorized(&self, result: &'static str, took: Duration) {
        let mut state = self.0.lock();
        let results = &mut state.authorizations;
        results.entry(result).or_insert_with(|| Histogram::new(DURATIONS)).observe(took.as_secs_f64());
    }

    /// Somebody wanted to act as somebody else.
    pub fn impersonated(&self, allowed: bool, mode: &'static str, took: Duration) {
        let decision = if allowed { "allowed" } else { "denied" };
        let mut state = self.0.lock();
        let attempts = &mut state.impersonations;
        attempts.entry((decision, mode)).or_insert_with(|| Histogram::new(DURATIONS)).observe(took.as_secs_f64());
    }

    /// Appends all of it.
    pub fn write(&self, out: &mut String) -> std::fmt::Result {
        let state = self.0.lock();
        let name = "apiserver_request_filter_duration_seconds";
        head(out, name, "histogram", "[ALPHA] Request filter latency distribution in seconds, for each filter type")?;
        for (filter, took) in &state.filters {
            took.write(out, name, &format!("filter=\"{}\"", filter.name()))?;
        }
        let name = "authenticated_user_requests";
        head(out, name, "counter", "[ALPHA] Counter of authenticated requests broken out by username.")?;
        for (user, count) in &state.users {
            writeln!(out, "{name}{{username=\"{user}\"}} {count}")?;
        }
        let all = [
            (
                "authentication_attempts",
                "authentication_duration_seconds",
                "authenticated attempts.",
                &state.authentications,
            ),
            (
                "authorization_attempts_total",
                "authorization_duration_seconds",
                "authorization attempts broken down by result. It can be either 'allowed', 'denied', 'no-opinion' or 'error'.",
                &state.authorizations,
            ),
        ];
        for (counter, histogram, what, results) in all {
            head(out, counter, "counter", &format!("[ALPHA] Counter of {what}"))?;
            for (result, took) in results {
                writeln!(out, "{counter}{{result=\"{result}\"}} {}", took.count)?;
            }
            let (step, _) = histogram.split_once('_').unwrap_or_default();
            let step = if step == "authentication" { "Authentication" } else { "Authorization" };
            head(out, histogram, "histogram", &format!("[ALPHA] {step} duration in seconds broken out by result."))?;
            for (result, took) in results {
                took.write(out, histogram, &format!("result=\"{result}\""))?;
            }
        }
        let name = "apiserver_client_certificate_expiration_seconds";
        let help = "[ALPHA] Distribution of the remaining lifetime on the certificate used to authenticate a request.";
        head(out, name, "histogram", help)?;
        match &state.certificates {
            Some(seen) => seen.write(out, name, "")?,
            None => Histogram::new(LIFETIMES).write(out, name, "")?,
        }
        let name = "apiserver_impersonation_attempts_total";
        head(out, name, "counter", "[ALPHA] Total number of impersonation attempts split by mode and decision.")?;
        let labels = |(decision, mode): &(&str, &str)| format!("decision=\"{decision}\",mode=\"{mode}\"");
        for (key, took) in &state.impersonations {
            writeln!(out, "{name}{{{}}} {}", labels(key), took.count)?;
        }
        let name = "apiserver_impersonation_attempts_duration_seconds";
        let help = "[ALPHA] Latency of impersonation attempts in seconds split by mode and decision.";
        head(out, name, "histogram", help)?;
        for (key, took) in &state.impersonations {
            took.write(out, name, &labels(key))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_users_make_few_series() {
        let check = |user: &str, want: &str| assert_eq!(compressed(user), want);
        check("admin", "admin");
        check("system:serviceaccount:kube-system:default", "system:serviceaccount:kube-system:default");
        check("jane@example.com", "email_id");
        check("system:anonymous", "other");
    }

    #[test]
    fn results_are_told_apart() {
        let identities = Identities::default();
        identities.authenticated(Some("jane"), Some(90_000), Duration::from_millis(3));
        identities.authenticated(None, None, Duration::from_millis(1));
        identities.authorized("allowed", Duration::from_micros(20));
        identities.impersonated(true, "user-info", Duration::ZERO);
        identities.passed(Filter::Flow, Duration::ZERO);
        let mut out = String::new();
        identities.write(&mut out).unwrap();
        for line in [
            "authentication_attempts{result=\"failure\"} 1",
            "authentication_duration_seconds_bucket{result=\"success\",le=\"0.004\"} 1",
            "authenticated_user_requests{username=\"other\"} 1",
            "authorization_attempts_total{result=\"allowed\"} 1",
            "apiserver_client_certificate_expiration_seconds_bucket{le=\"86400\"} 0",
            "apiserver_client_certificate_expiration_seconds_count 1",
            "apiserver_impersonation_attempts_total{decision=\"allowed\",mode=\"user-info\"} 1",
            "apiserver_request_filter_duration_seconds_count{filter=\"priorityandfairness\"} 1",
        ] {
            assert!(out.lines().any(|l| l == line), "{line}: {out}");
        }
    }
}
