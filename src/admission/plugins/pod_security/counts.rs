//! Counts of evaluations with upstream's names (`pod-security-admission/metrics`).

use std::collections::BTreeMap;
use std::fmt::Write;

use api::admission::Attributes;
use parking_lot::Mutex;

use super::policy::{Level, LevelVersion};

/// The newest version of the standards that is told by its name: v1.37.
const NEWEST: u32 = 37;

#[derive(Debug, Clone, Copy)]
pub(super) enum Mode {
    Enforce,
    Audit,
    Warn,
}

impl Mode {
    fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Audit => "audit",
            Self::Warn => "warn",
        }
    }
}

#[derive(Default)]
pub(super) struct Counts(Mutex<Series>);

/// By what prints as their labels.
struct Series {
    evaluations: BTreeMap<String, u64>,
    exemptions: BTreeMap<String, u64>,
    errors: BTreeMap<String, u64>,
}

impl Default for Series {
    /// What is nearly always counted is there from the start (`populateCache`).
    fn default() -> Self {
        let request = |operation: &str, resource: &str| {
            format!("request_operation=\"{operation}\",resource=\"{resource}\",subresource=\"\"")
        };
        let operations = ["create", "update"];
        let evaluation = |operation: &str| {
            let of = r#"decision="allow",mode="enforce",policy_level="privileged",policy_version="latest""#;
            (format!("{of},{}", request(operation, "pod")), 0)
        };
        let exemption = |operation: &str| ["controller", "pod"].map(|resource| (request(operation, resource), 0));
        Self {
            evaluations: operations.iter().map(|operation| evaluation(operation)).collect(),
            exemptions: operations.iter().flat_map(|operation| exemption(operation)).collect(),
            errors: BTreeMap::new(),
        }
    }
}

impl Counts {
    pub(super) fn evaluated(&self, is_allowed: bool, policy: LevelVersion, mode: Mode, attributes: &Attributes) {
        let decision = if is_allowed { "allow" } else { "deny" };
        let level = match policy.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        let version = match policy.version {
            Some(minor) if policy.level != Level::Privileged && minor <= NEWEST => format!("v1.{minor}"),
            Some(_) if policy.level != Level::Privileged => "future".to_owned(),
            _ => "latest".to_owned(),
        };
        let labels = format!(
            "decision=\"{decision}\",mode=\"{}\",policy_level=\"{level}\",policy_version=\"{version}\",{}",
            mode.as_str(),
            request(attributes)
        );
        *self.0.lock().evaluations.entry(labels).or_default() += 1;
    }

    pub(super) fn exempted(&self, attributes: &Attributes) {
        *self.0.lock().exemptions.entry(request(attributes)).or_default() += 1;
    }

    /// Something kept the evaluation from its normal way; `is_fatal` if it did not take place.
    pub(super) fn failed(&self, is_fatal: bool, attributes: &Attributes) {
        let labels = format!("fatal=\"{is_fatal}\",{}", request(attributes));
        *self.0.lock().errors.entry(labels).or_default() += 1;
    }

    pub(super) fn write(&self, out: &mut String) {
        let series = self.0.lock();
        let all = [
            (
                "pod_security_errors_total",
                "Number of errors preventing normal evaluation. Non-fatal errors may result in the latest restricted profile \
                 being used for evaluation.",
                &series.errors,
            ),
            (
                "pod_security_evaluations_total",
                "Number of policy evaluations that occurred, not counting ignored or exempt requests.",
                &series.evaluations,
            ),
            (
                "pod_security_exemptions_total",
                "Number of exempt requests, not counting ignored or out of scope requests.",
                &series.exemptions,
            ),
        ];
        for (name, help, series) in all.into_iter().filter(|(_, _, series)| !series.is_empty()) {
            // Writing to a string does not fail.
            let _ = writeln!(out, "# HELP {name} [ALPHA] {help}\n# TYPE {name} counter");
            for (labels, count) in series {
                let _ = writeln!(out, "{name}{{{labels}}} {count}");
            }
        }
    }
}

fn request(attributes: &Attributes) -> String {
    let resource = match (attributes.resource.group.as_str(), attributes.resource.resource.as_str()) {
        ("", "pods") => "pod",
        ("", "namespaces") => "namespace",
        _ => "controller",
    };
    let operation = attributes.operation.as_str().to_lowercase();
    let subresource = &attributes.subresource;
    format!("request_operation=\"{operation}\",resource=\"{resource}\",subresource=\"{subresource}\"")
}
