//! What a failed pod means for its job, when the next may be tried, and when enough have succeeded
//! (`job/pod_failure_policy.go`, `job/backoff_utils.go`, `job/success_policy.go`). Pure.

use std::sync::Arc;
use std::time::Duration;

use client::Resource;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, SuccessPolicy};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::indexes::Indexes;
use crate::pods;

/// `DefaultJobPodFailureBackOff`, `MaxJobPodFailureBackOff`.
const FIRST: SignedDuration = SignedDuration::from_secs(10);
const MAX: SignedDuration = SignedDuration::from_secs(600);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Counts against the limit.
    Count,
    Ignore,
    FailIndex,
    /// Why the job fails.
    FailJob(String),
}

/// What the first rule that matches says (`matchPodFailurePolicy`).
pub(super) fn judge(policy: Option<&PodFailurePolicy>, pod: &Pod) -> Verdict {
    for (at, rule) in policy.iter().flat_map(|p| p.rules.iter()).enumerate() {
        let text = if let Some(requirement) = &rule.on_exit_codes {
            matching_container(pod, requirement).map(|(container, code)| {
                format!(
                    "Container {container} for pod {}/{} failed with exit code {code} matching {} rule at index {at}",
                    pod.namespace(),
                    pod.name(),
                    rule.action
                )
            })
        } else {
            let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
            let patterns = rule.on_pod_conditions.as_deref().unwrap_or_default();
            let found = conditions.iter().find(|c| {
                patterns.iter().any(|p| p.type_ == c.type_ && p.status.as_deref().unwrap_or("True") == c.status)
            });
            found.map(|condition| {
                format!(
                    "Pod {}/{} has condition {} matching {} rule at index {at}",
                    pod.namespace(),
                    pod.name(),
                    condition.type_,
                    rule.action
                )
            })
        };
        let Some(text) = text else { continue };
        match rule.action.as_str() {
            "Ignore" => return Verdict::Ignore,
            "FailIndex" => return Verdict::FailIndex,
            "Count" => return Verdict::Count,
            "FailJob" => return Verdict::FailJob(text),
            // An action of a later version: as if the rule were not there.
            _ => {}
        }
    }
    Verdict::Count
}

fn matching_container(pod: &Pod, requirement: &PodFailurePolicyOnExitCodesRequirement) -> Option<(String, i32)> {
    let status = pod.status.as_ref()?;
    let statuses = status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    statuses
        .filter(|c| requirement.container_name.as_ref().is_none_or(|name| *name == c.name))
        .filter_map(|c| Some((c.name.clone(), c.state.as_ref()?.terminated.as_ref()?.exit_code)))
        .find(|(_, code)| {
            *code != 0
                && match requirement.operator.as_str() {
                    "In" => requirement.values.contains(code),
                    "NotIn" => !requirement.values.contains(code),
                    _ => false,
                }
        })
}

/// Failures since the last success.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Backoff {
    failures: u32,
    last: Option<Timestamp>,
}

impl Backoff {
    /// With pods that have ended since (`newBackoffRecord`).
    pub(super) fn with(&self, succeeded: &[Arc<Pod>], failed: &[Arc<Pod>]) -> Self {
        let mut backoff = self.clone();
        let last_success = succeeded.iter().map(|pod| finished(pod)).max();
        if last_success.is_some() {
            backoff = Self::default();
        }
        for at in failed.iter().map(|pod| finished(pod)).filter(|at| last_success.is_none_or(|s| *at > s)) {
            backoff.failures += 1;
            backoff.last = backoff.last.max(Some(at));
        }
        backoff
    }

    pub(super) fn remaining(&self, now: Timestamp) -> Option<Duration> {
        remaining(self.failures, self.last, now)
    }
}

/// How long an index whose pod failed has to wait.
pub(super) fn index_remaining(failures_before: u32, last_failed: &Pod, now: Timestamp) -> Option<Duration> {
    remaining(failures_before + 1, Some(finished(last_failed)), now)
}

fn remaining(failures: u32, last: Option<Timestamp>, now: Timestamp) -> Option<Duration> {
    let last = last.filter(|_| failures > 0)?;
    let doubled = FIRST.as_secs().checked_shl(failures - 1).filter(|s| *s > 0).map_or(MAX, SignedDuration::from_secs);
    let left = doubled.min(MAX) - now.duration_since(last);
    (left > SignedDuration::ZERO).then(|| Duration::try_from(left).unwrap_or_default())
}

/// When a pod ended: its last container, or when it became unready, or was deleted (`getFinishedTime`).
pub(super) fn finished(pod: &Pod) -> Timestamp {
    let containers = pod.status.as_ref().and_then(|s| s.container_statuses.as_deref()).unwrap_or_default();
    let ended = |c: &ContainerStatus| c.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref().map(|t| t.0);
    let all: Option<Vec<Timestamp>> = containers.iter().map(ended).collect();
    if let Some(last) = all.and_then(|all| all.into_iter().max()) {
        return last;
    }
    let unready = pods::condition(pod, "Ready").filter(|c| c.status == "False");
    if let Some(at) = unready.and_then(|c| c.last_transition_time.as_ref()) {
        return at.0;
    }
    if let Some(at) = &pod.metadata.deletion_timestamp {
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
        return at.0 - SignedDuration::from_secs(grace);
    }
    pod.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0)
}

/// Which rule of the success policy is met, as the condition's message (`matchSuccessPolicy`).
pub(super) fn success(policy: Option<&SuccessPolicy>, completions: i32, succeeded: &Indexes) -> Option<String> {
    if succeeded.is_empty() {
        return None;
    }
    for (at, rule) in policy?.rules.iter().enumerate() {
        let met = match &rule.succeeded_indexes {
            Some(text) => {
                let required = Indexes::parse(text, completions);
                let there = required.common(succeeded);
                let enough = rule.succeeded_count.is_some_and(|count| there >= count);
                !required.is_empty() && (there == required.len() || enough)
            }
            None => rule.succeeded_count.is_some_and(|count| succeeded.len() >= count),
        };
        if met {
            return Some(format!("Matched rules at index {at}"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(code: i32, ended: &str) -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": "p", "namespace": "n"},
                "status": {"phase": "Failed", "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                    "state": {"terminated": {"exitCode": code, "finishedAt": ended}}}],
                    "conditions": [{"type": "DisruptionTarget", "status": "True"}]},
            }))
            .unwrap(),
        )
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let policy: PodFailurePolicy = serde_json::from_value(json!({"rules": [
            {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}},
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}]}))
        .unwrap();
        let ended = "2026-01-01T00:00:00Z";
        assert_eq!(
            judge(Some(&policy), &pod(42, ended)),
            Verdict::FailJob(
                "Container c for pod n/p failed with exit code 42 matching FailJob rule at index 0".into()
            )
        );
        assert_eq!(judge(Some(&policy), &pod(1, ended)), Verdict::Ignore);
        assert_eq!(judge(None, &pod(1, ended)), Verdict::Count);
    }

    #[test]
    fn failures_back_off_until_a_success() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let failed = [pod(1, "2026-01-01T00:00:00Z"), pod(1, "2026-01-01T00:00:10Z")];
        let backoff = Backoff::default().with(&[], &failed);
        assert_eq!(backoff.remaining(at("2026-01-01T00:00:15Z")), Some(Duration::from_secs(15)));
        assert_eq!(backoff.remaining(at("2026-01-01T00:00:30Z")), None);
        let after = backoff.with(&[pod(0, "2026-01-01T00:00:20Z")], &[]);
        assert_eq!(after, Backoff::default());
        let many = Backoff { failures: 50, last: Some(at("2026-01-01T00:00:00Z")) };
        assert_eq!(many.remaining(at("2026-01-01T00:00:00Z")), Some(Duration::from_secs(600)));
    }

    #[test]
    fn success_rules_ask_for_indexes_or_a_number() {
        let check = |rule: serde_json::Value, succeeded: &str, expected: bool| {
            let policy: SuccessPolicy = serde_json::from_value(json!({"rules": [rule]})).unwrap();
            assert_eq!(success(Some(&policy), 10, &Indexes::parse(succeeded, 10)).is_some(), expected, "{succeeded}");
        };
        check(json!({"succeededIndexes": "0-2"}), "0,1", false);
        check(json!({"succeededIndexes": "0-2"}), "0-2,5", true);
        check(json!({"succeededIndexes": "0-2", "succeededCount": 1}), "1", true);
        check(json!({"succeededCount": 3}), "4-6", true);
    }
}
