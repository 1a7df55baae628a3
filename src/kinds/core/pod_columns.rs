//! Table columns of pods (`printPod`).

use api::Object;
use api::kind::Column;
use jiff::Timestamp;
use serde_json::Value;

use crate::columns::{age, name, string_or, text, wide};
use crate::duration::{human, time};
use crate::json::{Json, dig};
use crate::podspec::is_sidecar;

pub(super) fn columns() -> Vec<Column> {
    vec![
        name(),
        text("Ready", |o, _| {
            let summary = Summary::of(o);
            format!("{}/{}", summary.ready, summary.total).into()
        }),
        text("Status", |o, _| Summary::of(o).reason.into()),
        text("Restarts", |o, now| Summary::of(o).restarts_text(now).into()),
        age(),
        wide("IP", |o, _| {
            let first = o.array(&["status", "podIPs"]).first().map_or("", |ip| ip.text("ip"));
            if first.is_empty() { "<none>".into() } else { first.into() }
        }),
        wide("Node", |o, _| string_or(o, &["spec", "nodeName"], "<none>")),
        wide("Nominated Node", |o, _| string_or(o, &["status", "nominatedNodeName"], "<none>")),
        wide("Readiness Gates", |o, _| readiness_gates(o).into()),
    ]
}

fn readiness_gates(object: &Object) -> String {
    let gates = object.array(&["spec", "readinessGates"]);
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let conditions = object.array(&["status", "conditions"]);
    let met = |gate: &&Value| {
        let kind = gate.text("conditionType");
        conditions.iter().find(|c| c.text("type") == kind).is_some_and(|c| c.text("status") == "True")
    };
    format!("{}/{}", gates.iter().filter(met).count(), gates.len())
}

/// What upstream's printer makes of a pod's containers.
struct Summary {
    ready: usize,
    total: usize,
    reason: String,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

/// When a container last ended, of those that were restarted.
fn last_end(status: &Value) -> Option<Timestamp> {
    time(status.at("lastState").at("terminated").at("finishedAt"))
}

fn ended_reason(prefix: &str, terminated: &Value) -> String {
    match (terminated.text("reason"), terminated.int("signal").unwrap_or_default()) {
        ("", 0) => format!("{prefix}ExitCode:{}", terminated.int("exitCode").unwrap_or_default()),
        ("", signal) => format!("{prefix}Signal:{signal}"),
        (reason, _) => format!("{prefix}{reason}"),
    }
}

impl Summary {
    fn of(object: &Object) -> Self {
        let (spec, status) = (object.at("spec"), object.at("status"));
        let phase = status.text("phase");
        let mut reason = match status.text("reason") {
            "" => phase.to_owned(),
            reason => reason.to_owned(),
        };
        let conditions = status.list("conditions");
        if conditions.iter().any(|c| c.text("type") == "PodScheduled" && c.text("reason") == "SchedulingGated") {
            reason = "SchedulingGated".to_owned();
        }
        let init = spec.list("initContainers");
        let sidecars = init.iter().filter(|c| is_sidecar(c)).count();
        let mut summary =
            Self { ready: 0, total: spec.count("containers") + sidecars, reason, restarts: 0, last_restart: None };
        let (initializing, sidecar_restarts, sidecar_last) = summary.init(init, status.list("initContainerStatuses"));
        let is_true =
            |kind: &str| conditions.iter().find(|c| c.text("type") == kind).is_some_and(|c| c.text("status") == "True");
        if !initializing || is_true("Initialized") {
            summary.restarts = sidecar_restarts;
            summary.last_restart = sidecar_last;
            summary.run(status.list("containerStatuses"), is_true("Ready"));
        }
        if object.is_deleting() {
            if status.text("reason") == "NodeLost" {
                summary.reason = "Unknown".to_owned();
            } else if !matches!(phase, "Succeeded" | "Failed") {
                summary.reason = "Terminating".to_owned();
            }
        }
        summary
    }

    /// Init containers up to the one that is not done. Says whether there is one, and the sidecars' restarts.
    fn init(&mut self, specs: &[Value], statuses: &[Value]) -> (bool, i64, Option<Timestamp>) {
        let (mut sidecar_restarts, mut sidecar_last) = (0, None);
        for (i, status) in statuses.iter().enumerate() {
            let count = status.int("restartCount").unwrap_or_default();
            self.restarts += count;
            self.last_restart = self.last_restart.max(last_end(status));
            let sidecar = specs.iter().any(|c| c.text("name") == status.text("name") && is_sidecar(c));
            if sidecar {
                sidecar_restarts += count;
                sidecar_last = sidecar_last.max(last_end(status));
            }
            let state = status.at("state");
            let (terminated, waiting) = (state.at("terminated"), state.at("waiting"));
            if !terminated.is_null() && terminated.int("exitCode").unwrap_or_default() == 0 {
                continue;
            }
            if sidecar && status.flag("started") {
                self.ready += usize::from(status.flag("ready"));
                continue;
            }
            self.reason = if !terminated.is_null() {
                ended_reason("Init:", terminated)
            } else if !matches!(waiting.text("reason"), "" | "PodInitializing") {
                format!("Init:{}", waiting.text("reason"))
            } else {
                format!("Init:{i}/{}", specs.len())
            };
            return (true, sidecar_restarts, sidecar_last);
        }
        (false, sidecar_restarts, sidecar_last)
    }

    fn run(&mut self, statuses: &[Value], pod_ready: bool) {
        let mut has_running = false;
        let mut error_reason = String::new();
        for status in statuses.iter().rev() {
            self.restarts += status.int("restartCount").unwrap_or_default();
            self.last_restart = self.last_restart.max(last_end(status));
            let state = status.at("state");
            let (terminated, waiting) = (state.at("terminated"), state.at("waiting"));
            if !waiting.text("reason").is_empty() {
                self.reason = waiting.text("reason").to_owned();
            } else if !terminated.is_null() {
                self.reason = ended_reason("", terminated);
                if terminated.int("exitCode").unwrap_or_default() != 0 {
                    error_reason.clone_from(&self.reason);
                }
            } else if status.flag("ready") && state.has("running") {
                has_running = true;
                self.ready += 1;
            }
        }
        if self.reason == "Completed" {
            if has_running && pod_ready {
                self.reason = "Running".to_owned();
            } else if !error_reason.is_empty() {
                self.reason = error_reason;
            } else if has_running {
                self.reason = "NotReady".to_owned();
            }
        }
    }

    fn restarts_text(&self, now: Timestamp) -> String {
        match self.last_restart {
            Some(last) if self.restarts != 0 => {
                format!("{} ({} ago)", self.restarts, human(now.duration_since(last)))
            }
            _ => self.restarts.to_string(),
        }
    }
}

/// The phase, for field selectors and others.
pub(super) fn phase(object: &Object) -> &str {
    dig(object, &["status", "phase"]).as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(pod: Value, want: (&str, &str, &str)) {
        let pod = Object::from_value(pod).unwrap();
        let summary = Summary::of(&pod);
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        let ready = format!("{}/{}", summary.ready, summary.total);
        assert_eq!((ready.as_str(), summary.reason.as_str(), summary.restarts_text(now).as_str()), want);
    }

    #[test]
    fn pods_are_summed_up_as_upstream_does() {
        let spec = json!({"containers": [{"name": "a"}, {"name": "b"}]});
        check(json!({"spec": spec, "status": {"phase": "Pending"}}), ("0/2", "Pending", "0"));
        check(
            json!({"spec": spec, "status": {"phase": "Running", "containerStatuses": [
                {"name": "a", "ready": true, "restartCount": 1, "state": {"running": {}},
                    "lastState": {"terminated": {"finishedAt": "2026-01-01T00:00:55Z"}}},
                {"name": "b", "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}}),
            ("1/2", "CrashLoopBackOff", "3 (5s ago)"),
        );
        check(
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": spec, "status": {"phase": "Running"}}),
            ("0/2", "Terminating", "0"),
        );
        check(
            json!({"spec": {"initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{"name": "a"}]},
                "status": {"phase": "Pending", "initContainerStatuses": [
                    {"name": "i", "state": {"terminated": {"exitCode": 0}}}, {"name": "j", "state": {"running": {}}}]}}),
            ("0/1", "Init:1/2", "0"),
        );
        check(
            json!({"spec": {"initContainers": [{"name": "i"}], "containers": [{"name": "a"}]},
                "status": {"phase": "Pending", "initContainerStatuses": [
                    {"name": "i", "restartCount": 1, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}}),
            ("0/1", "Init:CrashLoopBackOff", "1"),
        );
        check(
            json!({"spec": {"containers": [{"name": "a"}]}, "status": {"phase": "Succeeded", "containerStatuses": [
                {"name": "a", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]}}),
            ("0/1", "Completed", "0"),
        );
        check(
            json!({"spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "s", "restartPolicy": "Always"}]},
                "status": {"phase": "Running", "initContainerStatuses": [
                    {"name": "s", "started": true, "ready": true, "state": {"running": {}}}],
                    "containerStatuses": [{"name": "a", "ready": true, "state": {"running": {}}}]}}),
            ("2/2", "Running", "0"),
        );
    }
}
