//! Which resources a pod was granted on this node: those that it started with, until a resize fits (upstream
//! `kubelet/allocation/allocation_manager.go`).
//!
//! The grant is in the pod's slot, and on the disk once the pod asked for another one, so that a restarted agent does
//! not take a resize for granted that was put off.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use client::EventType;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use super::{actual, changed, record};
use crate::admit;
use crate::context::Context;
use crate::resources::Qos;
use crate::status::seconds;
use crate::table::Slot;
use crate::{resources, spec};

/// A resize that was put off is looked at again when another pod ends or shrinks, and this often (`retryDelay`).
const RETRY: Duration = Duration::from_secs(180);

/// By container; the pod's own under an empty name.
type Granted = BTreeMap<String, ResourceRequirements>;

/// One of the two conditions of a resize.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Note {
    reason: String,
    message: String,
    generation: i64,
    since: Timestamp,
}

/// What a pod was granted, and where its resize is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Allocation {
    granted: Granted,
    pending: Option<Note>,
    in_progress: Option<Note>,
    /// The pod as granted; `None`: as it is in the API.
    pod: Option<Arc<Pod>>,
}

impl Allocation {
    pub fn is_deferred(&self) -> bool {
        self.pending.is_some()
    }

    /// When an unfinished resize is to be looked at again.
    pub fn retry_after(&self) -> Option<Duration> {
        let failed = self.in_progress.as_ref().is_some_and(|note| note.reason == "Error");
        match (failed, self.is_deferred()) {
            (true, _) => Some(crate::execute::RETRY),
            (false, true) => Some(RETRY),
            (false, false) => None,
        }
    }

    pub fn pod(&self) -> Option<Arc<Pod>> {
        self.pod.clone()
    }

    /// `PodResizePending` and `PodResizeInProgress`.
    pub fn conditions(&self) -> Vec<PodCondition> {
        let one = |type_: &str, note: &Note| PodCondition {
            type_: type_.to_owned(),
            status: "True".to_owned(),
            reason: (!note.reason.is_empty()).then(|| note.reason.clone()),
            message: (!note.message.is_empty()).then(|| note.message.clone()),
            last_transition_time: Some(Time(seconds(note.since))),
            observed_generation: Some(note.generation),
            ..PodCondition::default()
        };
        let pending = self.pending.iter().map(|note| one("PodResizePending", note));
        pending.chain(self.in_progress.iter().map(|note| one("PodResizeInProgress", note))).collect()
    }
}

fn each(spec: &PodSpec) -> impl Iterator<Item = (&str, Option<&ResourceRequirements>)> {
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let own = std::iter::once(("", spec.resources.as_ref()));
    own.chain(containers.map(|c| (c.name.as_str(), c.resources.as_ref())))
}

fn granted_of(pod: &Pod) -> Granted {
    each(spec::spec(pod)).filter_map(|(name, r)| Some((name.to_owned(), r?.clone()))).collect()
}

/// Whether CPU and memory are as granted: nothing else of a pod's resources can change.
fn is_as_granted(pod: &Pod, granted: &Granted) -> bool {
    each(spec::spec(pod)).all(|(name, wanted)| record(wanted) == record(granted.get(name)))
}

/// The pod with what it was granted in the place of what it asks for.
fn with_granted(pod: &Pod, granted: &Granted) -> Pod {
    let mut pod = pod.clone();
    if let Some(spec) = &mut pod.spec {
        if spec.resources.is_some() {
            spec.resources = granted.get("").cloned();
        }
        for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
            container.resources = granted.get(&container.name).cloned();
        }
    }
    pod
}

fn file(ctx: &Context, uid: &str) -> PathBuf {
    ctx.config.pod_dir(uid).join("allocation.json")
}

/// The grant of a pod that this agent sees for the first time: as written down, or as its containers were made.
fn first(ctx: &Context, pod: &Pod) -> Granted {
    let uid = spec::uid(pod);
    let read = std::fs::read(file(ctx, uid)).ok().and_then(|text| serde_json::from_slice(&text).ok());
    if let Some(granted) = read {
        return granted;
    }
    let mut granted = granted_of(pod);
    let observed = ctx.cache.pod(uid);
    for (name, wanted) in each(spec::spec(pod)) {
        let Some(made) = observed.latest(name).and_then(|c| c.actuated.as_deref()) else { continue };
        if changed(made, wanted).is_empty() {
            continue;
        }
        let entry = granted.entry(name.to_owned()).or_default();
        for list in [&mut entry.requests, &mut entry.limits].into_iter().flatten() {
            list.retain(|resource, _| resource != "cpu" && resource != "memory");
        }
        for (resource, is_limit, number) in actual(made) {
            let list = if is_limit { &mut entry.limits } else { &mut entry.requests };
            let text = if resource == "cpu" { format!("{number}m") } else { number.to_string() };
            list.get_or_insert_default().insert(resource.to_owned(), Quantity(text));
        }
    }
    granted
}

/// Grants the pod what it asks for, if that fits; returns the pod as granted.
pub fn allocate(ctx: &Context, slot: &Slot, pod: &Arc<Pod>) -> Arc<Pod> {
    let mut state = slot.allocation().unwrap_or_else(|| Allocation { granted: first(ctx, pod), ..Default::default() });
    let before = state.clone();
    let generation = pod.metadata.generation.unwrap_or(0);
    if is_as_granted(pod, &state.granted) {
        state.pending = None;
        state.pod = None;
        state.granted = granted_of(pod);
    } else {
        match fits(ctx, slot, pod, before.pending.as_ref()) {
            Ok(()) => {
                state.granted = granted_of(pod);
                (state.pending, state.pod) = (None, None);
                let since = ctx.clock.now();
                state.in_progress = Some(Note { reason: String::new(), message: String::new(), generation, since });
                write(ctx, slot, &state.granted);
                let text = message(pod, "Pod resize started", generation, "");
                ctx.events.pod(pod, EventType::Normal, "ResizeStarted", &text);
            }
            Err(why) => put_off(ctx, slot, pod, &mut state, why),
        }
    }
    let result = state.pod.clone().unwrap_or_else(|| pod.clone());
    let shrunk = before.pending != state.pending || before.granted != state.granted;
    slot.set_allocation(state);
    if shrunk {
        wake_deferred(ctx, &slot.uid);
    }
    result
}

fn put_off(ctx: &Context, slot: &Slot, pod: &Arc<Pod>, state: &mut Allocation, why: String) {
    const REASON: &str = "Deferred";
    let generation = pod.metadata.generation.unwrap_or(0);
    let is_new = state.pending.as_ref().is_none_or(|old| old.generation != generation);
    if is_new {
        write(ctx, slot, &state.granted);
        let text = message(pod, &format!("Pod resize {REASON}"), generation, &why);
        ctx.events.pod(pod, EventType::Warning, "ResizeDeferred", &text);
    }
    let since = state.pending.as_ref().map_or_else(|| ctx.clock.now(), |old| old.since);
    state.pending = Some(Note { reason: REASON.to_owned(), message: why, generation, since });
    state.pod = Some(Arc::new(with_granted(pod, &state.granted)));
}

/// Whether the pod's wish fits beside what others were granted, and no pod that comes before it waits for the same.
fn fits(ctx: &Context, slot: &Slot, pod: &Arc<Pod>, pending: Option<&Note>) -> Result<(), String> {
    let slots = ctx.table.taken();
    let fit = |uid: &str, pod: &Pod| {
        let others: Vec<Arc<Pod>> = slots.iter().filter(|s| s.uid != uid).map(|s| s.granted_pod()).collect();
        let others: Vec<&Pod> = others.iter().map(AsRef::as_ref).collect();
        let result = admit::resources_fit(&ctx.config, &ctx.machine, &others, pod);
        result.map_err(|r| r.message.trim_start_matches("Pod was rejected: ").to_owned())
    };
    fit(&slot.uid, pod)?;
    let mine = rank(pod, pending.map_or_else(|| ctx.clock.now(), |note| note.since));
    let earlier = slots.iter().filter(|s| s.uid != slot.uid).find(|other| {
        let Some(since) = other.allocation().and_then(|a| Some(a.pending?.since)) else { return false };
        rank(&other.pod(), since) < mine && fit(&other.uid, &other.pod()).is_ok()
    });
    match earlier {
        Some(other) => Err(format!("waiting for the resize of pod {}", spec::full_name(&other.pod()))),
        None => Ok(()),
    }
}

/// Who is served first: priority, then quality of service, then who has waited longer (`sortPendingResizes`).
fn rank(pod: &Pod, since: Timestamp) -> (i32, u8, Timestamp) {
    let class = match resources::qos(pod) {
        Qos::Guaranteed => 0,
        Qos::Burstable => 1,
        Qos::BestEffort => 2,
    };
    (spec::spec(pod).priority.unwrap_or(0).saturating_neg(), class, since)
}

/// Pods whose resize was put off look again: something may be free now.
pub fn wake_deferred(ctx: &Context, but: &str) {
    for slot in ctx.table.all() {
        if slot.uid != but && slot.allocation().is_some_and(|a| a.is_deferred()) {
            slot.changed.notify_one();
        }
    }
}

/// After the actions of a step: whether the running containers have what was granted.
pub fn note_progress(ctx: &Context, slot: &Slot, granted: &Pod) {
    let Some(mut state) = slot.allocation() else { return };
    let observed = ctx.cache.pod(&slot.uid);
    let resizable =
        spec::containers(granted).iter().chain(spec::init_containers(granted).iter().filter(|c| spec::is_sidecar(c)));
    let under_way = resizable.filter_map(|c| Some((c, observed.latest(&c.name).filter(|o| o.is_running())?))).any(
        |(container, running)| {
            running.actuated.as_deref().is_some_and(|made| !changed(made, container.resources.as_ref()).is_empty())
        },
    );
    let generation = granted.metadata.generation.unwrap_or(0);
    let before = state.in_progress.clone();
    if under_way {
        let since = ctx.clock.now();
        state.in_progress.get_or_insert(Note { reason: String::new(), message: String::new(), generation, since });
    } else if let Some(done) = state.in_progress.take() {
        let text = message(granted, "Pod resize completed", done.generation, "");
        ctx.events.pod(granted, EventType::Normal, "ResizeCompleted", &text);
    }
    if before != state.in_progress {
        slot.set_allocation(state);
    }
}

/// A running container could not be given what was granted.
pub fn note_error(ctx: &Context, pod: &Pod, why: &str) {
    let Some(slot) = ctx.table.get(spec::uid(pod)) else { return };
    let Some(mut state) = slot.allocation() else { return };
    let old = state.in_progress.take();
    let generation = old.as_ref().map_or_else(|| pod.metadata.generation.unwrap_or(0), |note| note.generation);
    let again = old.as_ref().is_some_and(|note| note.reason == "Error" && note.message == why);
    let since = old.filter(|note| note.reason == "Error").map_or_else(|| ctx.clock.now(), |note| note.since);
    state.in_progress = Some(Note { reason: "Error".to_owned(), message: why.to_owned(), generation, since });
    slot.set_allocation(state);
    if !again {
        let text = message(pod, "Pod resize error", generation, why);
        ctx.events.pod(pod, EventType::Warning, "ResizeError", &text);
    }
}

/// The event's text with a summary as upstream's `events/resize.go` makes it.
fn message(pod: &Pod, prefix: &str, generation: i64, error: &str) -> String {
    let list = |containers: &[k8s_openapi::api::core::v1::Container]| -> String {
        let one = |c: &k8s_openapi::api::core::v1::Container| {
            let resources = c.resources.as_ref().map_or_else(|| json!({}), |r| json!(r));
            format!("{{\"name\":{},\"resources\":{resources}}}", json!(c.name))
        };
        containers.iter().map(one).collect::<Vec<_>>().join(",")
    };
    let mut parts = Vec::new();
    if !spec::init_containers(pod).is_empty() {
        parts.push(format!("\"initContainers\":[{}]", list(spec::init_containers(pod))));
    }
    parts.push(format!("\"containers\":[{}]", list(spec::containers(pod))));
    parts.push(format!("\"generation\":{generation}"));
    if !error.is_empty() {
        parts.push(format!("\"error\":{}", json!(error)));
    }
    format!("{prefix}: {{{}}}", parts.join(","))
}

fn write(ctx: &Context, slot: &Slot, granted: &Granted) {
    let path = file(ctx, &slot.uid);
    let made = serde_json::to_vec(granted).map_err(std::io::Error::other).and_then(|text| {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(&path, text)
    });
    if let Err(error) = made {
        // A restarted agent would then go by what the containers were made with.
        tracing::warn!(path = %path.display(), %error, "cannot write down what a pod was granted");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod_from;

    fn pod(cpu: &str) -> Pod {
        pod_from(json!({"metadata": {"name": "p", "generation": 2}, "spec": {"containers": [
            {"name": "c", "resources": {"requests": {"cpu": cpu, "example.com/x": "1"}}}]}}))
    }

    #[test]
    fn equal_amounts_are_no_resize() {
        let granted = granted_of(&pod("1"));
        assert!(is_as_granted(&pod("1000m"), &granted));
        assert!(!is_as_granted(&pod("2"), &granted));
        let back = with_granted(&pod("2"), &granted);
        assert!(is_as_granted(&back, &granted));
    }

    #[test]
    fn the_important_and_the_patient_come_first() {
        let at = |s: i64| Timestamp::from_second(s).unwrap();
        let mut important = pod("1");
        important.spec.as_mut().unwrap().priority = Some(10);
        assert!(rank(&important, at(5)) < rank(&pod("1"), at(1)));
        assert!(rank(&pod("1"), at(1)) < rank(&pod("1"), at(2)));
    }

    #[test]
    fn events_say_what_is_wanted_as_upstreams_do() {
        assert_eq!(
            message(&pod("1"), "Pod resize started", 2, ""),
            "Pod resize started: {\"containers\":[{\"name\":\"c\",\"resources\":{\"requests\":{\"cpu\":\"1\",\
             \"example.com/x\":\"1\"}}}],\"generation\":2}"
        );
    }
}
