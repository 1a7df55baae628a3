//! `/healthz`, `/livez`, `/readyz` and `/version` (apiserver `server/healthz`).

use std::fmt::Write;

use crate::filters::Call;
use crate::respond::{self, Response};
use crate::server::ApiServer;

/// What kubectl and other clients are told.
pub const GIT_VERSION: &str = concat!("v1.37.0+skiff", env!("CARGO_PKG_VERSION"));

/// The checks, in the order of upstream's answer.
const CHECKS: [&str; 3] = ["ping", "log", "etcd"];
/// Upstream's server calls itself with a certificate that ends some day; this one calls itself in memory.
const LOOPBACK: &str = "loopback-serving-certificate";
/// More of them that make a server ready.
const READY_CHECKS: [&str; 2] = ["etcd-readiness", "informer-sync"];
/// What upstream's server does once it listens, by the names of its hooks. Here it is one sequence, which is done or not; see
/// [`ApiServer::expect_start`].
const HOOKS: [&str; 31] = [
    "poststarthook/start-apiserver-admission-initializer",
    "poststarthook/generic-apiserver-start-informers",
    "poststarthook/priority-and-fairness-config-consumer",
    "poststarthook/priority-and-fairness-filter",
    "poststarthook/storage-object-count-tracker-hook",
    "poststarthook/start-apiextensions-informers",
    "poststarthook/start-apiextensions-controllers",
    "poststarthook/crd-informer-synced",
    "poststarthook/start-system-namespaces-controller",
    "poststarthook/peer-endpoint-reconciler-controller",
    "poststarthook/start-cluster-authentication-info-controller",
    "poststarthook/start-kube-apiserver-identity-lease-controller",
    "poststarthook/start-kube-apiserver-identity-lease-garbage-collector",
    "poststarthook/storage-readiness",
    "poststarthook/start-legacy-token-tracking-controller",
    "poststarthook/start-service-ip-repair-controllers",
    "poststarthook/rbac/bootstrap-roles",
    "poststarthook/scheduling/bootstrap-system-priority-classes",
    "poststarthook/priority-and-fairness-config-producer",
    "poststarthook/bootstrap-controller",
    "poststarthook/start-kubernetes-service-cidr-controller",
    "poststarthook/aggregator-reload-proxy-client-cert",
    "poststarthook/start-kube-aggregator-informers",
    "poststarthook/apiservice-status-local-available-controller",
    "poststarthook/apiservice-status-remote-available-controller",
    "poststarthook/apiservice-registration-controller",
    "poststarthook/apiservice-discovery-controller",
    "poststarthook/kube-apiserver-autoregistration",
    "autoregister-completion",
    "poststarthook/apiservice-openapi-controller",
    "poststarthook/apiservice-openapiv3-controller",
];

/// One endpoint or one check of it: `parts` is the path.
pub async fn serve(server: &ApiServer, call: &Call, parts: &[&str]) -> Response {
    let endpoint = parts[0];
    let names = names(server, endpoint);
    if parts.len() > 1 {
        let name = parts[1..].join("/");
        if !names.contains(&name.as_str()) {
            return respond::page_not_found();
        }
        return match check(server, &name).await {
            // Only the root of the checks forbids guesses at its type (`handleRootHealth`).
            Ok(()) => respond::bytes(200, "text/plain; charset=utf-8", "ok"),
            Err(why) => respond::text(500, format!("internal server error: {why}\n")),
        };
    }
    let excluded: Vec<&str> = call.query.all("exclude").collect();
    let mut report = String::new();
    let mut failed = Vec::new();
    for name in &names {
        // Writing to a string cannot fail.
        let _ = match excluded.contains(name) {
            true => writeln!(report, "[+]{name} excluded: ok"),
            false => {
                let result = check(server, name).await;
                server.metrics.health.note(endpoint, name, result.is_ok());
                match result {
                    Ok(()) => writeln!(report, "[+]{name} ok"),
                    Err(_) => {
                        failed.push(*name);
                        writeln!(report, "[-]{name} failed: reason withheld")
                    }
                }
            }
        };
    }
    let unknown: Vec<String> = excluded.iter().filter(|e| !names.contains(e)).map(|e| format!("{e:?}")).collect();
    if !unknown.is_empty() {
        let _ = writeln!(report, "warn: some health checks cannot be excluded: no matches for {}", unknown.join(", "));
    }
    if !failed.is_empty() {
        tracing::warn!(endpoint, failed = failed.join(","), "health check failed");
        return respond::text(500, format!("{report}{endpoint} check failed\n"));
    }
    if call.query.get("verbose").is_some() {
        return respond::text(200, format!("{report}{endpoint} check passed\n"));
    }
    respond::text(200, "ok")
}

/// The checks of an endpoint.
fn names<'s>(server: &'s ApiServer, endpoint: &str) -> Vec<&'s str> {
    let ready = endpoint == "readyz";
    let mut names: Vec<&str> = CHECKS.to_vec();
    if ready {
        names.extend(READY_CHECKS);
    } else {
        // After `ping` and `log`.
        names.insert(2, LOOPBACK);
    }
    // What the store needs, such as plugins that hold keys, matters everywhere (upstream's `AddHealthChecks`).
    names.extend(server.objects.store.checks());
    if server.started().is_some() {
        names.extend(HOOKS);
    }
    if ready {
        names.push("shutdown");
    }
    names
}

/// Every check by its endpoint.
pub fn checks(server: &ApiServer) -> impl Iterator<Item = (&'static str, &str)> {
    ["healthz", "livez", "readyz"]
        .into_iter()
        .flat_map(|endpoint| names(server, endpoint).into_iter().map(move |check| (endpoint, check)))
}

async fn check(server: &ApiServer, name: &str) -> Result<(), String> {
    match name {
        "etcd" | "etcd-readiness" => store(server).await,
        "shutdown" if server.stopping.is_announced() || server.shutdown.is_cancelled() => {
            Err("process is shutting down".to_owned())
        }
        name if HOOKS.contains(&name) && server.started() == Some(false) => Err("not finished".to_owned()),
        name if CHECKS.contains(&name)
            || READY_CHECKS.contains(&name)
            || HOOKS.contains(&name)
            || matches!(name, "shutdown" | LOOPBACK) =>
        {
            Ok(())
        }
        name => server.objects.store.check(name).await,
    }
}

/// Whether the store answers.
pub async fn store(server: &ApiServer) -> Result<(), String> {
    server.objects.store.revision().await.map(|_| ()).map_err(|e| e.to_string())
}

/// `/version` (`version.Info`).
pub fn version() -> Response {
    let (major, minor) = ("1", "37");
    let info = serde_json::json!({
        "major": major,
        "minor": minor,
        "emulationMajor": major,
        "emulationMinor": minor,
        "minCompatibilityMajor": major,
        "minCompatibilityMinor": "36",
        "gitVersion": GIT_VERSION,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, go_arch()),
    });
    respond::raw_json(200, &info)
}

/// The same as labels of `kubernetes_build_info`.
pub(crate) fn build_labels() -> String {
    format!(
        "build_date=\"1970-01-01T00:00:00Z\",compiler=\"rustc\",git_commit=\"\",git_tree_state=\"clean\",git_version=\"{GIT_VERSION}\",go_version=\"none\",major=\"1\",minor=\"37\",platform=\"{}/{}\"",
        std::env::consts::OS,
        go_arch()
    )
}

fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
