//! Lifecycle hooks: exec, http, sleep (upstream `kubelet/lifecycle/handlers.go`).

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};
use runtime::ContainerId;

use crate::context::Context;
use crate::downward::go_quote;
use crate::probes::{exec, http};
use crate::spec;

/// Longest time that a `postStart` http hook may take; others are bounded by the grace period.
const HTTP_TIMEOUT: Duration = Duration::from_secs(60);

/// Runs a hook.
///
/// # Errors
/// The message for the container's status.
pub async fn run(
    ctx: &Context,
    pod: &Pod,
    container: &Container,
    id: &ContainerId,
    hook: &LifecycleHandler,
    what: &str,
) -> Result<(), String> {
    if let Some(action) = &hook.exec {
        let command = action.command.clone().unwrap_or_default();
        let shown = format!("[{}]", command.join(" "));
        let text = |error: &str, output: &str| {
            format!(
                "Exec lifecycle hook ({shown}) for Container {:?} in Pod {:?} failed - error: {error}, message: {}",
                container.name,
                spec::full_name(pod),
                go_quote(output)
            )
        };
        return match exec::run(ctx, id, command.clone()).await {
            Ok(output) if output.code == 0 => Ok(()),
            Ok(output) => {
                let error = format!("command '{}' exited with {}: {}", command.join(" "), output.code, output.text());
                Err(text(&error, &output.text()))
            }
            Err(error) => Err(text(&error, "")),
        };
    }
    if let Some(action) = &hook.http_get {
        let target = http::Target::new(ctx, pod, container, action).map_err(|e| {
            format!(
                "HTTP lifecycle hook for Container {:?} in Pod {:?} failed - error: {e}",
                container.name,
                spec::full_name(pod)
            )
        })?;
        let answer = tokio::time::timeout(HTTP_TIMEOUT, http::get(&target, "kube-lifecycle/1.37")).await;
        let error = match answer {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => error,
            Err(_) => "timed out".to_owned(),
        };
        return Err(format!(
            "HTTP lifecycle hook ({}) for Container {:?} in Pod {:?} failed - error: {error}, message: \"\"",
            target.path,
            container.name,
            spec::full_name(pod)
        ));
    }
    if let Some(action) = &hook.sleep {
        let seconds = u64::try_from(action.seconds).unwrap_or(0);
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(seconds)) => {}
            // A container that has ended needs no more time.
            () = ended(ctx, pod, id) => {}
        }
        return Ok(());
    }
    Err(format!("Invalid {what} handler of container {:?}: no handler specified", container.name))
}

async fn ended(ctx: &Context, pod: &Pod, id: &ContainerId) {
    let running = || ctx.cache.pod(spec::uid(pod)).containers.iter().any(|c| c.id == *id && c.is_running());
    while running() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
