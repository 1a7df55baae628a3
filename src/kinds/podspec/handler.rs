//! Validation of probes and lifecycle hooks.

use api::field::{Error, ErrorList, Path};
use serde_json::Value;

use crate::checks::{header_name, invalid_all, non_negative, port, port_number};
use crate::json::Json;

/// `validateHandler`: exactly one action among those a probe (or hook) may have.
fn handler(errors: &mut ErrorList, path: &Path, value: &Value, grace: Option<i64>, actions: &[&str]) {
    let mut seen = 0;
    for action in actions {
        if !value.has(action) {
            continue;
        }
        let at = path.child(action);
        seen += 1;
        if seen > 1 {
            errors.push(Error::forbidden(at, "may not specify more than 1 handler type"));
            continue;
        }
        let body = value.at(action);
        match *action {
            "exec" => {
                if body.count("command") == 0 {
                    errors.push(Error::required(at.child("command"), ""));
                }
            }
            "httpGet" => http_get(errors, &at, body),
            "tcpSocket" => port(errors, &at.child("port"), body.at("port")),
            "grpc" => {
                port_number(errors, at.child("port"), body.int("port").unwrap_or_default());
                if body.has("mode") && !matches!(body.text("mode"), "Plaintext" | "TLS") {
                    errors.push(Error::not_supported(at.child("mode"), body.text("mode"), &["Plaintext", "TLS"]));
                }
            }
            _ => {
                let seconds = body.int("seconds").unwrap_or_default();
                if let Some(grace) = grace
                    && !(0..=grace).contains(&seconds)
                {
                    let text = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
                    errors.push(Error::invalid(at, seconds, text));
                }
            }
        }
    }
    if seen == 0 {
        errors.push(Error::required(path.clone(), "must specify a handler type"));
    }
}

fn http_get(errors: &mut ErrorList, path: &Path, action: &Value) {
    if action.text("path").is_empty() {
        errors.push(Error::required(path.child("path"), ""));
    }
    port(errors, &path.child("port"), action.at("port"));
    let scheme = action.text("scheme");
    if !matches!(scheme, "HTTP" | "HTTPS") {
        errors.push(Error::not_supported(path.child("scheme"), scheme, &["HTTP", "HTTPS"]));
    }
    for header in action.list("httpHeaders") {
        let name = header.text("name");
        invalid_all(errors, &path.child("httpHeaders"), name, header_name(name));
    }
    match action.text("protocol") {
        "HTTP2" if scheme != "HTTP" => {
            errors.push(Error::invalid(path.child("protocol"), "HTTP2", "is only supported with HTTP (H2C)"));
        }
        "HTTP2" if action.count("host") > 0 => {
            let text = "must be empty when `protocol` is \"HTTP2\"";
            errors.push(Error::invalid(path.child("host"), action.text("host"), text));
        }
        "" if !action.has("protocol") => {}
        "HTTP1" | "HTTP2" => {}
        other => errors.push(Error::not_supported(path.child("protocol"), other, &["HTTP1", "HTTP2"])),
    }
}

/// The three probes of a container.
pub(crate) fn probes(errors: &mut ErrorList, path: &Path, container: &Value, grace: Option<i64>) {
    for (name, once) in [("livenessProbe", true), ("readinessProbe", false), ("startupProbe", true)] {
        if !container.has(name) {
            continue;
        }
        let (path, probe) = (path.child(name), container.at(name));
        handler(errors, &path, probe, grace, &["exec", "httpGet", "tcpSocket", "grpc"]);
        for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
        {
            non_negative(errors, path.child(field), probe.at(field));
        }
        if let Some(seconds) = probe.int("terminationGracePeriodSeconds") {
            let at = path.child("terminationGracePeriodSeconds");
            if seconds <= 0 {
                errors.push(Error::invalid(at.clone(), seconds, "must be greater than 0"));
            }
            if !once {
                errors.push(Error::invalid(at, seconds, "must not be set for readinessProbes"));
            }
        }
        let threshold = probe.int("successThreshold").unwrap_or(1);
        if once && threshold != 1 {
            errors.push(Error::invalid(path.child("successThreshold"), threshold, "must be 1"));
        }
    }
}

/// `validateLifecycle`.
pub(crate) fn lifecycle(errors: &mut ErrorList, path: &Path, value: &Value, grace: Option<i64>, os: &Value) {
    for hook in ["postStart", "preStop"] {
        if value.has(hook) {
            handler(errors, &path.child(hook), value.at(hook), grace, &["exec", "httpGet", "tcpSocket", "sleep"]);
        }
    }
    if value.has("stopSignal") {
        let (at, signal) = (path.child("stopSignal"), value.text("stopSignal"));
        if os.is_null() {
            errors.push(Error::forbidden(at, "may not be set for containers with empty `spec.os.name`"));
        } else if os.text("name") == "windows" && !matches!(signal, "SIGKILL" | "SIGTERM") {
            errors.push(Error::not_supported(at, signal, &["SIGKILL", "SIGTERM"]));
        } else if os.text("name") == "linux" && !signal.starts_with("SIG") {
            errors.push(Error::not_supported(at, signal, LINUX_SIGNALS));
        }
    }
}

const LINUX_SIGNALS: &[&str] = &[
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGRTMAX",
    "SIGRTMIN",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
    "SIGXFSZ",
];
