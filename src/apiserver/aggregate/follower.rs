//! The task that follows APIService objects.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api::services::Registry;
use api::{Gvr, Object, Status};
use base::{Backoff, Shutdown, chain};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::availability::{self, Verdict};
use super::fetch;
use super::local::{self, Action, Wanted};
use super::remote::{Remote, Told, condition, version_of};
use super::{Snapshot, priorities::Priority};
use crate::cache::WatchStart;
use crate::cache::entry::Entry;
use crate::cache::view::Selection;
use crate::cache::watcher::{Event, EventKind, Watcher};
use crate::local::MANAGER;
use crate::server::ApiServer;

/// Upstream's resync of remote APIServices: a server that cannot be reached is no event.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// `discoveryRefreshInterval`.
const ASK_EVERY: Duration = Duration::from_secs(60);
const RETRY_MIN: Duration = Duration::from_millis(50);

/// One APIService as it was last seen.
struct Known {
    object: Object,
    remote: Option<Watched>,
}

/// A remote one.
struct Watched {
    remote: Arc<Remote>,
    /// When it is looked at next.
    due: Instant,
    failures: u32,
    /// A check is under way; and something happened since it began.
    checking: bool,
    again: bool,
    /// When it was last asked for what it serves.
    asked: Option<Instant>,
}

/// How a check ended.
struct Checked {
    remote: Arc<Remote>,
    verdict: Verdict,
    told: Option<Told>,
}

struct Follower {
    server: Arc<ApiServer>,
    known: BTreeMap<String, Known>,
    /// APIServices that there should be for what this server serves.
    wanted: BTreeMap<String, Wanted>,
    /// Names that were put right once, and those that were there at the start.
    settled: BTreeSet<String>,
    was_there: Option<BTreeSet<String>>,
    /// Names that could not be put right, and when it is tried again.
    failed: BTreeSet<String>,
    retry_at: Option<Instant>,
    retry: Backoff,
    done: mpsc::Sender<Checked>,
}

fn resource() -> Gvr {
    Gvr::new("apiregistration.k8s.io", "v1", "apiservices")
}

/// Follows APIServices until shutdown. Begin it when the custom resources that were there at the start are served, or
/// their APIServices would be taken for left-overs.
pub async fn run(server: Arc<ApiServer>, shutdown: Shutdown) {
    // A check sends once, when it ends, and waits if the queue is full.
    let (done, mut ended) = mpsc::channel(16);
    let mut tables = server.table_changes();
    let mut follower = Follower {
        server,
        known: BTreeMap::new(),
        wanted: BTreeMap::new(),
        settled: BTreeSet::new(),
        was_there: None,
        failed: BTreeSet::new(),
        retry_at: None,
        retry: Backoff::new(RETRY_MIN, Duration::from_secs(30)).with_jitter(0.2),
        done,
    };
    let mut backoff = Backoff::new(RETRY_MIN, Duration::from_secs(5)).with_jitter(0.2);
    let resource = resource();
    loop {
        let watcher = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            watcher = follower.watch(&resource) => watcher,
        };
        match watcher {
            Ok(mut watcher) => {
                tables.mark_unchanged();
                follower.begin(watcher.receiver.take_initial(usize::MAX).into()).await;
                backoff.reset();
                let mut neighbours = Neighbours::default();
                loop {
                    if let Err(status) = neighbours.keep(&follower).await {
                        tracing::warn!(error = %chain(&status), "cannot follow the Services of API servers");
                        break;
                    }
                    let due = follower.next_due();
                    tokio::select! {
                        biased;
                        () = shutdown.cancelled() => return,
                        event = watcher.receiver.recv() => match event {
                            Some(event) => follower.step(event).await,
                            None => break,
                        },
                        Ok(()) = tables.changed() => follower.register_all().await,
                        checked = ended.recv() => if let Some(checked) = checked {
                            follower.checked(checked).await;
                        },
                        service = neighbours.next() => match service {
                            Some((namespace, name)) => follower.look_at(&namespace, &name),
                            // The watch begins anew: anything may have happened.
                            None => follower.look_at_all(),
                        },
                        () = tokio::time::sleep_until(due) => follower.due().await,
                    }
                }
            }
            Err(status) => tracing::warn!(error = %chain(&status), "cannot follow APIServices"),
        }
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(backoff.step()) => {}
        }
    }
}

/// What is followed as long as there are remote APIServices.
#[derive(Default)]
struct Neighbours {
    watchers: Option<(Watcher, Watcher)>,
}

impl Neighbours {
    /// Opens the watches that are missing, and closes those that nobody needs.
    async fn keep(&mut self, follower: &Follower) -> Result<(), Status> {
        let needed = follower.known.values().any(|k| k.remote.is_some());
        if !needed {
            self.watchers = None;
        } else if self.watchers.is_none() {
            let services = follower.watch(&Gvr::new("", "v1", "services")).await?;
            let slices = follower.watch(&Gvr::new("discovery.k8s.io", "v1", "endpointslices")).await?;
            self.watchers = Some((services, slices));
        }
        Ok(())
    }

    /// Namespace and name of a Service that something happened to; `None` if the watch ended.
    async fn next(&mut self) -> Option<(String, String)> {
        let Some((services, slices)) = &mut self.watchers else { return std::future::pending().await };
        drop(services.receiver.take_initial(usize::MAX));
        drop(slices.receiver.take_initial(usize::MAX));
        loop {
            let (event, is_slice) = tokio::select! {
                event = services.receiver.recv() => (event, false),
                event = slices.receiver.recv() => (event, true),
            };
            let Some(event) = event else {
                self.watchers = None;
                return None;
            };
            let entry = &event.entry;
            let name = if is_slice { entry.label("kubernetes.io/service-name") } else { Some(entry.name()) };
            if let Some(name) = name {
                return Some((entry.namespace().to_owned(), name.to_owned()));
            }
        }
    }
}

impl Follower {
    async fn watch(&self, resource: &Gvr) -> Result<Watcher, Status> {
        let stored = self.server.served(resource)?.stored()?.clone();
        stored.cache.fresh().await?;
        stored.cache.watch(Selection::everything(Arc::clone(&stored.view), ""), &WatchStart::Existing)
    }

    /// Takes in all APIServices there are; those known before that are not among them are gone.
    async fn begin(&mut self, events: Vec<Event>) {
        let names: BTreeSet<String> = events.iter().map(|e| e.entry.name().to_owned()).collect();
        self.known.retain(|name, _| names.contains(name));
        self.was_there.get_or_insert(names);
        for event in &events {
            self.keep(&event.entry);
        }
        self.publish();
        self.register_all().await;
        for event in events {
            self.settle_local(event.entry.name()).await;
        }
    }

    async fn step(&mut self, event: Event) {
        let name = event.entry.name().to_owned();
        if event.kind == EventKind::Deleted {
            self.known.remove(&name);
        } else {
            self.keep(&event.entry);
        }
        self.publish();
        self.register(&name).await;
        self.settle_local(&name).await;
    }

    /// Remembers an APIService.
    fn keep(&mut self, entry: &Arc<Entry>) {
        let object = match entry.object() {
            Ok(object) => object,
            Err(error) => {
                tracing::error!(name = entry.name(), %error, "an APIService cannot be read");
                return;
            }
        };
        let old = self.known.remove(entry.name()).and_then(|k| k.remote);
        let remote = Remote::of(&self.server, &object, old.as_ref().map(|w| &*w.remote)).map(Arc::new);
        let remote = remote.map(|remote| match old {
            Some(old) if old.remote.reach == remote.reach && old.remote.uid == remote.uid => Watched { remote, ..old },
            _ => {
                let due = Instant::now();
                Watched { remote, due, failures: 0, checking: false, again: false, asked: None }
            }
        });
        self.known.insert(entry.name().to_owned(), Known { object, remote });
    }

    /// Makes what is known the snapshot that requests see.
    fn publish(&self) {
        let mut snapshot =
            Snapshot { generation: self.server.aggregator.snapshot.load().generation + 1, ..Snapshot::default() };
        for known in self.known.values() {
            let (group, version, priority): (String, String, Priority) = version_of(&known.object);
            if let Some(watched) = &known.remote {
                let versions = snapshot.remotes.entry(group.clone()).or_default();
                versions.insert(version.clone(), Arc::clone(&watched.remote));
            }
            snapshot.priorities.insert((group, version), priority);
        }
        self.server.aggregator.snapshot.store(Arc::new(snapshot));
    }

    /// Puts the APIServices of everything that is served right.
    async fn register_all(&mut self) {
        let wanted = local::wanted(&self.server.table.load());
        let mut names: BTreeSet<String> = wanted.keys().cloned().collect();
        names.extend(self.wanted.keys().cloned());
        if self.settled.is_empty() {
            names.extend(self.known.keys().cloned());
        } else {
            names.retain(|name| wanted.get(name) != self.wanted.get(name) || !self.settled.contains(name));
        }
        self.wanted = wanted;
        for name in names {
            self.register(&name).await;
        }
    }

    async fn register(&mut self, name: &str) {
        let current = self.known.get(name).map(|k| &k.object);
        let was_there = self.was_there.as_ref().is_some_and(|names| names.contains(name));
        let action = local::plan(self.wanted.get(name), current, self.settled.contains(name), was_there);
        match self.carry_out(name, &action).await {
            Ok(()) => {
                self.settled.insert(name.to_owned());
                self.failed.remove(name);
            }
            Err(status) => {
                tracing::warn!(name, error = %status, "an APIService of this server cannot be put right");
                self.failed.insert(name.to_owned());
                self.retry_at = Some(Instant::now() + self.retry.step());
            }
        }
    }

    /// What somebody else did in between is an event, which leads here again.
    async fn carry_out(&self, name: &str, action: &Action) -> Result<(), Status> {
        let (server, resource) = (&*self.server, resource());
        let done = match (action, self.wanted.get(name), self.known.get(name)) {
            (Action::Create, Some(wanted), _) => {
                let created = server.create_as(MANAGER, &resource, "", wanted.object()).await;
                match created {
                    Err(status) if status.reason == "AlreadyExists" => return Ok(()),
                    created => created.map(drop),
                }
            }
            (Action::Update, Some(wanted), Some(known)) => {
                let (spec, seen) = (wanted.spec(), known.object.resource_version().to_owned());
                let change = move |object: &mut Object| {
                    unchanged_since(object, &seen)?;
                    object.set(&["spec"], spec.clone());
                    Ok(())
                };
                server.update_as(MANAGER, (&resource, ""), "", name, &change).await.map(drop)
            }
            (Action::Delete, _, Some(known)) => {
                let options = Object::from_value(json!({"preconditions": {"uid": known.object.uid()}}));
                Registry::delete(server, &resource, "", name, options.unwrap_or_default()).await.map(drop)
            }
            _ => Ok(()),
        };
        match done {
            Err(status) if !status.is_not_found() && !status.is_conflict() => Err(status),
            _ => Ok(()),
        }
    }

    /// Gives an APIService that this server serves itself its condition (`local_available_controller.go`).
    async fn settle_local(&self, name: &str) {
        let Some(known) = self.known.get(name).filter(|k| k.remote.is_none()) else { return };
        self.write(&known.object, &Verdict::local()).await;
    }

    /// Writes a condition that differs from what there is; whether the object has it now.
    async fn write(&self, seen: &Object, verdict: &Verdict) -> bool {
        let now = self.server.clock.now();
        if !verdict.write(&mut seen.clone(), now) {
            return true;
        }
        let uid = seen.uid().to_owned();
        let change = |object: &mut Object| {
            if object.uid() == uid {
                verdict.write(object, now);
            }
            Ok(())
        };
        match self.server.update_as(MANAGER, (&resource(), "status"), "", seen.name(), &change).await {
            Ok(_) => true,
            Err(status) => {
                if !status.is_not_found() && !status.is_conflict() {
                    tracing::warn!(name = seen.name(), error = %status, "an APIService's status cannot be written");
                }
                false
            }
        }
    }

    /// When something is to be done without being told.
    fn next_due(&self) -> Instant {
        let remotes = self.known.values().filter_map(|k| k.remote.as_ref()).filter(|w| !w.checking).map(|w| w.due);
        // Nothing to do: as far away as a timer takes well.
        let never = Instant::now() + Duration::from_secs(24 * 60 * 60);
        remotes.chain(self.retry_at).min().unwrap_or(never)
    }

    async fn due(&mut self) {
        let now = Instant::now();
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            for name in std::mem::take(&mut self.failed) {
                self.register(&name).await;
            }
            if self.failed.is_empty() {
                self.retry.reset();
            }
        }
        for watched in self.known.values_mut().filter_map(|k| k.remote.as_mut()) {
            if !watched.checking && watched.due <= now {
                begin_check(&self.server, &self.done, watched, now);
            }
        }
    }

    /// Something happened to a Service.
    fn look_at(&mut self, namespace: &str, name: &str) {
        self.look_where(|w| w.remote.reach.service.namespace == namespace && w.remote.reach.service.name == name);
    }

    fn look_at_all(&mut self) {
        self.look_where(|_| true);
    }

    fn look_where(&mut self, which: impl Fn(&Watched) -> bool) {
        let now = Instant::now();
        for watched in self.known.values_mut().filter_map(|k| k.remote.as_mut()).filter(|w| which(w)) {
            watched.due = now;
            watched.again |= watched.checking;
        }
    }

    async fn checked(&mut self, checked: Checked) {
        let Checked { remote, verdict, told } = checked;
        let name = remote.name.clone();
        let Some(known) = self.known.get_mut(&name) else { return };
        let same = |w: &&mut Watched| w.remote.uid == remote.uid && w.remote.reach == remote.reach;
        let Some(watched) = known.remote.as_mut().filter(same) else { return };
        watched.checking = false;
        let now = Instant::now();
        let mut after = LOOK_EVERY;
        if verdict.is_available() {
            watched.failures = 0;
        } else {
            watched.failures = (watched.failures + 1).min(16);
            // Services and endpoints are told; only what is not must be tried again soon.
            if verdict.reason == "FailedDiscoveryCheck" {
                after = LOOK_EVERY.min(RETRY_MIN * (1 << watched.failures));
            }
        }
        watched.due = if std::mem::take(&mut watched.again) { now } else { now + after };
        let lost = condition(&known.object).and_then(|c| c.get("status")).and_then(|s| s.as_str()) == Some("True");
        if lost && !verdict.is_available() {
            let key = (name.clone(), verdict.reason.to_owned());
            *self.server.aggregator.lost.lock().entry(key).or_default() += 1;
        }
        let told = match told {
            Some(told) => Some(told),
            // What it told before is not to be relied on.
            None if !verdict.is_available() && watched.remote.told.as_ref().is_none_or(|t| t.current) => {
                let before = watched.remote.told.as_deref();
                Some(Told {
                    resources: json!([]),
                    openapi: before.and_then(|t| t.openapi.clone()),
                    openapi_v2: before.and_then(|t| t.openapi_v2.clone()),
                    openapi_v2_etag: before.map(|t| t.openapi_v2_etag.clone()).unwrap_or_default(),
                    ..Told::default()
                })
            }
            None => None,
        };
        if let Some(told) = told {
            if !told.current {
                watched.asked = None;
            }
            let changed = watched.remote.told.as_ref().is_none_or(|before| **before != told);
            if changed {
                watched.remote = Arc::new(watched.remote.having(Arc::new(told)));
                self.publish();
            }
        }
        let Some(known) = self.known.get(&name) else { return };
        let written = self.write(&known.object, &verdict).await;
        if !written && let Some(watched) = self.known.get_mut(&name).and_then(|k| k.remote.as_mut()) {
            watched.due = Instant::now() + RETRY_MIN;
        }
    }
}

fn unchanged_since(object: &Object, version: &str) -> Result<(), Status> {
    if object.resource_version() == version {
        return Ok(());
    }
    Err(Status::conflict(&api::GroupResource::new("", ""), object.name(), Status::MODIFIED))
}

/// Looks at a remote APIService in a task of its own, which waits for others' answers.
fn begin_check(server: &Arc<ApiServer>, done: &mpsc::Sender<Checked>, watched: &mut Watched, now: Instant) {
    watched.checking = true;
    watched.again = false;
    let ask = watched.asked.is_none_or(|asked| now.duration_since(asked) >= ASK_EVERY);
    if ask {
        watched.asked = Some(now);
    }
    let (server, done, remote) = (Arc::clone(server), done.clone(), Arc::clone(&watched.remote));
    let shutdown = server.shutdown.clone();
    let tasks = server.tasks.clone();
    tasks.spawn(async move {
        let check = async {
            let verdict = availability::check(&server, &remote).await;
            let told = match ask && verdict.is_available() {
                true => Some(fetch::tell(&server, &remote).await),
                false => None,
            };
            Checked { remote, verdict, told }
        };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => {}
            checked = check => {
                // The follower is gone if nobody receives.
                let _ = done.send(checked).await;
            }
        }
    });
}
