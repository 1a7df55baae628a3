//! Counts of webhook and policy calls with upstream's names (apiserver `admission/metrics/metrics.go`,
//! `admission/plugin/policy/*/metrics`).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use base::Histograms;
use parking_lot::Mutex;

use super::manifests::{self, Manifests};

const BUCKETS: &[f64] = &[0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 25.0];
/// Of single expressions.
const POLICY_BUCKETS: &[f64] = &[0.000_000_5, 0.001, 0.01, 0.1, 1.0];
/// Codes above are counted as this one.
const CODE_MAX: u16 = 600;

/// What went wrong where a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rejection {
    CallingWebhook,
    ApiServer,
    /// The webhook said no.
    None,
}

impl Rejection {
    fn as_str(self) -> &'static str {
        match self {
            Self::CallingWebhook => "calling_webhook_error",
            Self::ApiServer => "apiserver_internal_error",
            Self::None => "no_error",
        }
    }
}

struct Counts {
    latencies: Histograms,
    requests: BTreeMap<String, u64>,
    rejections: BTreeMap<String, u64>,
    fail_open: BTreeMap<String, u64>,
    exclusions: BTreeMap<String, u64>,
    condition_errors: BTreeMap<String, u64>,
    /// Of validating policies, then of mutating ones.
    policies: [Histograms; 2],
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            latencies: Histograms::new(BUCKETS),
            requests: BTreeMap::new(),
            rejections: BTreeMap::new(),
            fail_open: BTreeMap::new(),
            exclusions: BTreeMap::new(),
            condition_errors: BTreeMap::new(),
            policies: [Histograms::new(POLICY_BUCKETS), Histograms::new(POLICY_BUCKETS)],
        }
    }
}

/// How the expression of a policy ended (`ValidationErrorType`, `MutationErrorType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PolicyError {
    None,
    Invalid,
    OutOfBudget,
}

impl PolicyError {
    fn as_str(self) -> &'static str {
        match self {
            Self::None => "no_error",
            Self::Invalid => "invalid_error",
            Self::OutOfBudget => "out_of_budget",
        }
    }

    /// By the text of a decision, as upstream tells them apart.
    pub(crate) fn of_message(message: &str) -> Self {
        if message.contains(super::expressions::OUT_OF_BUDGET) { Self::OutOfBudget } else { Self::Invalid }
    }
}

/// Shared by the plugins that call webhooks; one of them prints it, and what is told of the folders.
#[derive(Clone, Default)]
pub(crate) struct Metrics(Arc<Mutex<Counts>>, Arc<[Arc<Manifests>]>);

/// What the series of one webhook are labelled with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Labels<'a> {
    pub name: &'a str,
    /// `admit` or `validating`, as upstream has it.
    pub step: &'static str,
    pub operation: &'static str,
}

impl Labels<'_> {
    fn text(&self) -> String {
        format!("name={:?},operation=\"{}\",type=\"{}\"", self.name, self.operation, self.step)
    }
}

fn bump(map: &mut BTreeMap<String, u64>, key: String) {
    *map.entry(key).or_default() += 1;
}

impl Metrics {
    pub(crate) fn new(folders: Vec<Arc<Manifests>>) -> Self {
        Self(Arc::default(), folders.into())
    }

    /// A webhook was called.
    pub(crate) fn called(&self, labels: &Labels<'_>, took: Duration, rejected: bool, code: u16) {
        let mut counts = self.0.lock();
        let text = labels.text();
        bump(&mut counts.requests, format!("code=\"{}\",{text},rejected=\"{rejected}\"", code.min(CODE_MAX)));
        counts.latencies.observe(format!("{text},rejected=\"{rejected}\""), took);
    }

    /// An expression of a validating policy decided something; `action` is `allow`, `deny`, `audit` or `warn`.
    pub(crate) fn validated(&self, by: (&str, &str), action: &str, error: PolicyError, took: Duration) {
        let (policy, binding) = by;
        let labels = format!(
            "enforcement_action=\"{action}\",error_type=\"{}\",policy={policy:?},policy_binding={binding:?}",
            error.as_str()
        );
        self.policy(0, labels, took);
    }

    /// A mutating policy changed, or failed to change, an object.
    pub(crate) fn mutated(&self, by: (&str, &str), error: PolicyError, took: Duration) {
        let (policy, binding) = by;
        let labels = format!("error_type=\"{}\",policy={policy:?},policy_binding={binding:?}", error.as_str());
        self.policy(1, labels, took);
    }

    fn policy(&self, which: usize, labels: String, took: Duration) {
        if let Some(histograms) = self.0.lock().policies.get_mut(which) {
            histograms.observe(labels, took);
        }
    }

    /// A request was refused because of a webhook.
    pub(crate) fn rejected(&self, labels: &Labels<'_>, why: Rejection, code: u16) {
        let key =
            format!("error_type=\"{}\",{},rejection_code=\"{}\"", why.as_str(), labels.text(), code.min(CODE_MAX));
        bump(&mut self.0.lock().rejections, key);
    }

    /// A failure was ignored, as the webhook's failure policy says.
    pub(crate) fn failed_open(&self, labels: &Labels<'_>) {
        bump(&mut self.0.lock().fail_open, format!("name={:?},type=\"{}\"", labels.name, labels.step));
    }

    /// A match condition was false. `kind` is `webhook` or `policy`.
    pub(crate) fn excluded(&self, labels: &Labels<'_>, kind: &str) {
        bump(&mut self.0.lock().exclusions, format!("kind=\"{kind}\",{}", labels.text()));
    }

    /// A match condition failed.
    pub(crate) fn condition_failed(&self, labels: &Labels<'_>, kind: &str) {
        bump(&mut self.0.lock().condition_errors, format!("kind=\"{kind}\",{}", labels.text()));
    }

    /// The text format.
    pub(crate) fn write(&self, out: &mut String) {
        // Writing to a string cannot fail.
        let _ = self.try_write(out).and_then(|()| manifests::write_metrics(&self.1, out));
    }

    fn try_write(&self, out: &mut String) -> std::fmt::Result {
        let counts = self.0.lock();
        let prefix = "apiserver_admission_";
        counts.latencies.write(
            out,
            &format!("{prefix}webhook_admission_duration_seconds"),
            "[STABLE] Admission webhook latency histogram in seconds, identified by name and broken out for each operation and API resource and type (validate or admit).",
        );
        let policies = [
            (
                "apiserver_validating_admission_policy_check",
                "[BETA] Validation admission policy check total, labeled by policy and further identified by binding and enforcement action taken.",
                "[BETA] Validation admission latency for individual validation expressions in seconds, labeled by policy and further including binding and enforcement action taken.",
            ),
            (
                "apiserver_mutating_admission_policy_check",
                "[ALPHA] Mutation admission policy check total, labeled by policy and further identified by binding.",
                "[ALPHA] Mutation admission latency for individual mutation expressions in seconds, labeled by policy and binding.",
            ),
        ];
        for ((name, total, duration), histograms) in policies.into_iter().zip(&counts.policies) {
            histograms.write_counts(out, &format!("{name}_total"), total);
            histograms.write(out, &format!("{name}_duration_seconds"), duration);
        }
        let counters = [
            (
                "webhook_request_total",
                "Admission webhook request total, identified by name and broken out for each admission type (validating or admit) and operation.",
                &counts.requests,
            ),
            (
                "webhook_rejection_count",
                "Admission webhook rejection count, identified by name and broken out for each admission type (validating or admit) and operation.",
                &counts.rejections,
            ),
            (
                "webhook_fail_open_count",
                "Admission webhook fail open count, identified by name and broken out for each admission type (validating or admit).",
                &counts.fail_open,
            ),
            (
                "match_condition_exclusions_total",
                "Admission match condition evaluation exclusions count, identified by name of resource containing the match condition and broken out for each kind containing matchConditions (webhook or policy), operation and admission type (validate or admit).",
                &counts.exclusions,
            ),
            (
                "match_condition_evaluation_errors_total",
                "Admission match condition evaluation errors count, identified by name of resource containing the match condition and broken out for each kind containing matchConditions (webhook or policy), operation and admission type (validate or admit).",
                &counts.condition_errors,
            ),
        ];
        for (name, help, series) in counters {
            if series.is_empty() {
                continue;
            }
            writeln!(out, "# HELP {prefix}{name} [ALPHA] {help}\n# TYPE {prefix}{name} counter")?;
            for (labels, count) in series {
                writeln!(out, "{prefix}{name}{{{labels}}} {count}")?;
            }
        }
        Ok(())
    }
}
