//! Lists of pods and container logs.

use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use client::Resource;
use futures::StreamExt;
use http::{StatusCode, header};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{flag, json_bytes, query, text};
use crate::context::Context;
use crate::logs::{self, LogOptions};
use crate::observed::{ObservedContainer, State};
use crate::spec;
use crate::table::Slot;

/// Pods of this node with the status last computed, as a `PodList`.
pub(super) fn pods(ctx: &Context) -> Response {
    list(ctx.table.all().iter().map(|slot| {
        let mut pod = (*slot.pod()).clone();
        if let Some(status) = slot.status() {
            pod.status = Some(status);
        }
        pod
    }))
}

/// Pods that have a running container.
pub(super) fn running_pods(ctx: &Context) -> Response {
    list(ctx.cache.pods().into_iter().filter_map(|found| {
        let observed = ctx.cache.pod(&found.uid);
        let mut pod = k8s_openapi::api::core::v1::Pod::default();
        pod.metadata.name = Some(found.name);
        pod.metadata.namespace = Some(found.namespace);
        pod.metadata.uid = Some(found.uid);
        let running = observed.containers.iter().filter(|c| c.is_running());
        let containers: Vec<_> = running
            .map(|c| k8s_openapi::api::core::v1::Container {
                name: c.name.clone(),
                image: Some(c.image.clone()),
                ..Default::default()
            })
            .collect();
        if containers.is_empty() {
            return None;
        }
        pod.spec = Some(k8s_openapi::api::core::v1::PodSpec { containers, ..Default::default() });
        Some(pod)
    }))
}

fn list(pods: impl Iterator<Item = k8s_openapi::api::core::v1::Pod>) -> Response {
    let mut out = br#"{"kind":"PodList","apiVersion":"v1","metadata":{},"items":["#.to_vec();
    for (i, pod) in pods.enumerate() {
        match pod.encode() {
            Ok(bytes) => {
                if i > 0 {
                    out.push(b',');
                }
                out.extend_from_slice(&bytes);
            }
            Err(error) => return text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }
    out.extend_from_slice(b"]}\n");
    json_bytes(out)
}

fn options(text: &str, now: jiff::Timestamp) -> Result<LogOptions, &'static str> {
    let first = |name: &str| query(text, name).into_iter().next().filter(|v| !v.is_empty());
    const BAD: &str = "{\"message\": \"Unable to decode query.\"}";
    let number = |name: &str| first(name).map(|v| v.parse::<u64>().map_err(|_| BAD)).transpose();
    let tail = first("tail").filter(|t| t != "all");
    let tail_lines = match tail {
        Some(tail) => Some(tail.parse().map_err(|_| BAD)?),
        None => number("tailLines")?,
    };
    let since = match (number("sinceSeconds")?, first("sinceTime")) {
        (Some(seconds), _) => {
            let seconds = i64::try_from(seconds).map_err(|_| BAD)?;
            now.checked_sub(jiff::SignedDuration::from_secs(seconds)).ok()
        }
        (None, Some(time)) => Some(time.parse().map_err(|_| BAD)?),
        (None, None) => None,
    };
    Ok(LogOptions {
        follow: flag(text, "follow"),
        timestamps: flag(text, "timestamps"),
        previous: flag(text, "previous"),
        tail_lines,
        limit_bytes: number("limitBytes")?,
        stream: first("stream").filter(|s| s != "All"),
        since,
    })
}

/// Upstream `GetKubeletContainerLogs` and `validateContainerLogStatus`.
pub(super) async fn logs(
    ctx: &Arc<Context>,
    namespace: &str,
    pod: &str,
    container: &str,
    text_query: &str,
) -> Response {
    let options = match options(text_query, ctx.clock.now()) {
        Ok(options) => options,
        Err(why) => return text(StatusCode::BAD_REQUEST, why),
    };
    let Some(slot) = ctx.table.by_name(namespace, pod) else {
        return text(StatusCode::NOT_FOUND, format!("pod {pod:?} does not exist"));
    };
    if spec::find(&slot.pod(), container).is_none() {
        return text(StatusCode::NOT_FOUND, format!("container {container:?} not found in pod {pod:?}"));
    }
    let (id, path) = match find_log(ctx, &slot, container, options.previous) {
        Ok(found) => found,
        Err(why) => return text(StatusCode::BAD_REQUEST, why),
    };
    let (sender, receiver) = mpsc::channel(16);
    let ended = {
        let (ctx, uid) = (ctx.clone(), slot.uid.clone());
        move || !ctx.cache.pod(&uid).containers.iter().any(|c| c.id == id && c.is_running())
    };
    ctx.tasks.spawn({
        let stop = ctx.shutdown.clone();
        async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                result = logs::stream(path.clone(), options, sender, ended) => {
                    if let Err(error) = result {
                        tracing::debug!(path = %path.display(), error = %error, "cannot read a log");
                    }
                }
            }
        }
    });
    let body = Body::from_stream(ReceiverStream::new(receiver).map(Ok::<_, std::convert::Infallible>));
    let mut response = Response::new(body);
    let plain = header::HeaderValue::from_static("text/plain");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

type FoundLog = (runtime::ContainerId, PathBuf);

fn find_log(ctx: &Context, slot: &Slot, container: &str, previous: bool) -> Result<FoundLog, String> {
    let pod = slot.pod();
    let name = spec::name(&pod);
    let observed = ctx.cache.pod(&slot.uid);
    let mut all = observed.containers.iter().filter(|c| c.name == container);
    let newest = all.next();
    let place = |c: &ObservedContainer| (c.id.clone(), c.log_path.clone());
    if previous {
        return all
            .next()
            .map(place)
            .ok_or_else(|| format!("previous terminated container {container:?} in pod {name:?} not found"));
    }
    if let Some(newest) = newest {
        if matches!(newest.state, State::Created) {
            return Err(format!("container {container:?} in pod {name:?} is waiting to start: ContainerCreating"));
        }
        return Ok(place(newest));
    }
    let statuses = slot.status().unwrap_or_default();
    let lists =
        [&statuses.container_statuses, &statuses.init_container_statuses, &statuses.ephemeral_container_statuses];
    let waiting = lists
        .into_iter()
        .flatten()
        .flatten()
        .find(|s| s.name == container)
        .and_then(|s| s.state.as_ref()?.waiting.as_ref());
    match waiting.and_then(|w| w.reason.as_deref()) {
        Some("ErrImagePull") => {
            Err(format!("container {container:?} in pod {name:?} is waiting to start: image can't be pulled"))
        }
        Some("ImagePullBackOff") => Err(format!(
            "container {container:?} in pod {name:?} is waiting to start: trying and failing to pull image"
        )),
        Some(reason) => Err(format!("container {container:?} in pod {name:?} is waiting to start: {reason}")),
        None => Err(format!("container {container:?} in pod {name:?} is not available")),
    }
}
