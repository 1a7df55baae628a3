//! What the runtime has of each pod, kept up to date by events: nothing asks the runtime for everything on a timer.
//!
//! Invariant: [`Observed`] of a pod is rebuilt from the runtime's labels alone, so a restart of the agent sees the same.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use runtime::{Container, ContainerId, ContainerStatus, Runtime, RuntimeError, Sandbox};

use crate::names;
use crate::termination;

/// How a container ended, as its status says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    pub code: i32,
    pub signal: i32,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`.
    pub reason: String,
    /// From the termination log or the container's log.
    pub message: String,
    pub started: Option<Timestamp>,
    pub finished: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    Created,
    Running { started: Timestamp },
    Exited(Exit),
    Unknown,
}

/// One container as the runtime has it.
#[derive(Debug, Clone, PartialEq)]
pub struct ObservedContainer {
    pub id: ContainerId,
    pub name: String,
    pub restart_count: u32,
    pub hash: String,
    pub created: Timestamp,
    pub state: State,
    pub image: String,
    pub image_id: String,
    pub log_path: PathBuf,
    pub user: Option<(i64, i64, Vec<i64>)>,
    pub pid: Option<u32>,
    /// JSON of the resources the container was last given.
    pub actuated: Option<String>,
    pub termination_grace_period: Option<i64>,
}

impl ObservedContainer {
    pub fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    /// Whether the runtime says the same of it as is known.
    fn agrees_with(&self, status: &ContainerStatus) -> bool {
        matches!(
            (&self.state, status),
            (State::Created, ContainerStatus::Created)
                | (State::Running { .. }, ContainerStatus::Running { .. })
                // A process that could not be started leaves its container as created.
                | (State::Exited(_), ContainerStatus::Exited { .. } | ContainerStatus::Created)
                | (State::Unknown, ContainerStatus::Unknown)
        )
    }
}

/// The pod's namespaces.
#[derive(Debug, Clone, PartialEq)]
pub struct SandboxInfo {
    pub created: Timestamp,
    pub attempt: u32,
    pub host_network: bool,
    pub netns: Option<PathBuf>,
    /// Connected to the network, or on the host's.
    pub ready: bool,
}

/// Everything the runtime has of one pod; containers newest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observed {
    pub sandbox: Option<SandboxInfo>,
    pub ips: Vec<IpAddr>,
    pub containers: Vec<ObservedContainer>,
}

impl Observed {
    /// The newest container of this name (upstream `FindContainerStatusByName`).
    pub fn latest(&self, name: &str) -> Option<&ObservedContainer> {
        self.containers.iter().find(|c| c.name == name)
    }

    /// The newest container of this name in the present sandbox (upstream `FindActiveContainerStatusByName`).
    pub fn active(&self, name: &str) -> Option<&ObservedContainer> {
        let since = self.sandbox.as_ref()?.created;
        self.containers.iter().find(|c| c.name == name && c.created >= since)
    }

    pub fn running(&self) -> impl Iterator<Item = &ObservedContainer> {
        self.containers.iter().filter(|c| !matches!(c.state, State::Exited(_)))
    }
}

/// Which pod a container or sandbox belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodRef {
    pub uid: String,
    pub namespace: String,
    pub name: String,
}

#[derive(Default)]
struct PodEntry {
    namespace: String,
    name: String,
    sandbox: Option<Sandbox>,
    network_ready: bool,
    ips: Vec<IpAddr>,
    containers: Vec<ObservedContainer>,
}

/// The node's containers by pod. Cheap to share.
pub struct Cache {
    runtime: Arc<dyn Runtime>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    pods: HashMap<String, PodEntry>,
    owner: HashMap<ContainerId, String>,
    /// Containers whose process could not be started: the runtime does not remember why.
    start_errors: HashMap<ContainerId, Exit>,
    /// Resources given to a running container since it was created.
    actuated: HashMap<ContainerId, String>,
}

impl Cache {
    pub fn new(runtime: Arc<dyn Runtime>) -> Self {
        Self { runtime, inner: Mutex::default() }
    }

    /// Reads everything again: at start, and when events were missed. Returns the pods that the runtime has.
    ///
    /// The runtime's list may be older than what tasks did meanwhile: where it disagrees with what is known, the
    /// container itself is asked.
    pub async fn resync(&self) -> Result<Vec<PodRef>, RuntimeError> {
        let sandboxes = self.runtime.sandboxes().await?;
        let containers = self.runtime.containers().await?;
        let mut doubtful: Vec<ContainerId> = {
            let listed: HashSet<&ContainerId> = containers.iter().map(|c| &c.id).collect();
            self.inner.lock().owner.keys().filter(|id| !listed.contains(id)).cloned().collect()
        };
        let is_first = self.inner.lock().owner.is_empty();
        for container in containers {
            let agrees = self.inner.lock().find(&container.id).map(|known| known.agrees_with(&container.status));
            match agrees {
                Some(true) => {}
                None if is_first => {
                    if let Some((pod, observed)) = self.convert(container).await {
                        self.inner.lock().insert(pod, observed);
                    }
                }
                Some(false) | None => doubtful.push(container.id),
            }
        }
        for id in doubtful {
            self.refresh(&id).await?;
        }
        let mut inner = self.inner.lock();
        for sandbox in sandboxes {
            let label = |key: &str| sandbox.spec.labels.get(key).cloned().unwrap_or_default();
            let entry = inner.pods.entry(sandbox.id.0.clone()).or_default();
            (entry.namespace, entry.name) = (label(names::POD_NAMESPACE), label(names::POD_NAME));
            entry.network_ready |= sandbox.spec.host_network;
            entry.sandbox.get_or_insert(sandbox);
        }
        Ok(inner.pods.iter().map(|(uid, entry)| entry.pod_ref(uid)).collect())
    }

    /// Reads one container again. Returns its pod's uid when it is (or was) one of ours.
    pub async fn refresh(&self, id: &ContainerId) -> Result<Option<String>, RuntimeError> {
        let found = self.runtime.container(id).await?;
        let converted = match found {
            Some(container) => self.convert(container).await,
            None => None,
        };
        let mut inner = self.inner.lock();
        Ok(match converted {
            Some((pod, container)) => {
                let uid = pod.uid.clone();
                inner.insert(pod, container);
                Some(uid)
            }
            None => inner.forget(id),
        })
    }

    /// Remembers that the container's process could not be started, as containerd's CRI plugin would show it.
    pub fn start_failed(&self, id: &ContainerId, message: String, now: Timestamp) {
        let exit = Exit { code: 128, signal: 0, reason: "StartError".into(), message, started: None, finished: now };
        let mut inner = self.inner.lock();
        inner.start_errors.insert(id.clone(), exit.clone());
        if let Some(container) = inner.find_mut(id) {
            container.state = State::Exited(exit);
        }
    }

    pub fn removed(&self, id: &ContainerId) {
        self.inner.lock().forget(id);
    }

    pub fn set_actuated(&self, id: &ContainerId, resources: String) {
        let mut inner = self.inner.lock();
        if let Some(container) = inner.find_mut(id) {
            container.actuated = Some(resources.clone());
        }
        inner.actuated.insert(id.clone(), resources);
    }

    pub fn set_sandbox(&self, pod: PodRef, sandbox: Sandbox) {
        let mut inner = self.inner.lock();
        let entry = inner.pods.entry(pod.uid).or_default();
        (entry.namespace, entry.name) = (pod.namespace, pod.name);
        entry.network_ready = sandbox.spec.host_network;
        entry.ips.clear();
        entry.sandbox = Some(sandbox);
    }

    /// The pod was connected to the network, or (with no addresses) disconnected from it.
    pub fn set_network(&self, uid: &str, ready: bool, ips: Vec<IpAddr>) {
        if let Some(entry) = self.inner.lock().pods.get_mut(uid) {
            entry.network_ready = ready;
            entry.ips = ips;
        }
    }

    pub fn sandbox_removed(&self, uid: &str) {
        let mut inner = self.inner.lock();
        if let Some(entry) = inner.pods.get_mut(uid) {
            entry.sandbox = None;
            entry.network_ready = false;
            entry.ips.clear();
            if entry.containers.is_empty() {
                inner.pods.remove(uid);
            }
        }
    }

    pub fn pod(&self, uid: &str) -> Observed {
        let inner = self.inner.lock();
        let Some(entry) = inner.pods.get(uid) else { return Observed::default() };
        let sandbox = entry.sandbox.as_ref().map(|s| SandboxInfo {
            created: s.created,
            attempt: s.spec.labels.get(names::SANDBOX_ATTEMPT).and_then(|a| a.parse().ok()).unwrap_or(0),
            host_network: s.spec.host_network,
            netns: s.netns.clone(),
            ready: entry.network_ready,
        });
        Observed { sandbox, ips: entry.ips.clone(), containers: entry.containers.clone() }
    }

    /// Every pod that the runtime has something of.
    pub fn pods(&self) -> Vec<PodRef> {
        self.inner.lock().pods.iter().map(|(uid, entry)| entry.pod_ref(uid)).collect()
    }

    /// Ids of the images that containers use.
    pub fn images_in_use(&self) -> std::collections::HashSet<String> {
        let inner = self.inner.lock();
        let all = inner.pods.values().flat_map(|entry| &entry.containers);
        all.flat_map(|c| [c.image.clone(), c.image_id.clone()]).collect()
    }

    async fn convert(&self, container: Container) -> Option<(PodRef, ObservedContainer)> {
        let label = |key: &str| container.labels.get(key).cloned();
        let pod = PodRef {
            uid: label(names::POD_UID)?,
            namespace: label(names::POD_NAMESPACE).unwrap_or_default(),
            name: label(names::POD_NAME).unwrap_or_default(),
        };
        let name = label(names::CONTAINER_NAME)?;
        let known = {
            let inner = self.inner.lock();
            inner.start_errors.get(&container.id).cloned().or_else(|| match inner.find(&container.id)?.state {
                State::Exited(ref exit) => Some(exit.clone()),
                _ => None,
            })
        };
        let mut pid = None;
        let state = match &container.status {
            ContainerStatus::Created => known.map_or(State::Created, State::Exited),
            ContainerStatus::Running { pid: p, started } => {
                pid = Some(*p);
                State::Running { started: *started }
            }
            ContainerStatus::Unknown => State::Unknown,
            ContainerStatus::Exited { code, signal, oom_killed, started, finished } => match known {
                Some(exit) => State::Exited(exit),
                None => {
                    let reason = match (oom_killed, code) {
                        (true, _) => "OOMKilled",
                        (false, 0) => "Completed",
                        _ => "Error",
                    };
                    State::Exited(Exit {
                        code: *code,
                        signal: *signal,
                        reason: reason.to_owned(),
                        message: termination::message(&container, *code, reason).await,
                        started: *started,
                        finished: *finished,
                    })
                }
            },
        };
        let note = |key: &str| container.annotations.get(key);
        let actuated = self.inner.lock().actuated.get(&container.id).cloned();
        let observed = ObservedContainer {
            name,
            restart_count: note(names::CONTAINER_RESTART_COUNT).and_then(|n| n.parse().ok()).unwrap_or(0),
            hash: note(names::CONTAINER_HASH).cloned().unwrap_or_default(),
            actuated: actuated.or_else(|| note(names::ACTUATED_RESOURCES).cloned()),
            termination_grace_period: note(names::POD_TERMINATION_GRACE_PERIOD).and_then(|n| n.parse().ok()),
            created: container.created,
            state,
            image: container.image,
            image_id: container.image_id,
            log_path: container.log_path,
            user: container.user,
            pid,
            id: container.id,
        };
        Some((pod, observed))
    }
}

impl PodEntry {
    fn pod_ref(&self, uid: &str) -> PodRef {
        PodRef { uid: uid.to_owned(), namespace: self.namespace.clone(), name: self.name.clone() }
    }
}

impl Inner {
    fn find(&self, id: &ContainerId) -> Option<&ObservedContainer> {
        let entry = self.pods.get(self.owner.get(id)?)?;
        entry.containers.iter().find(|c| c.id == *id)
    }

    fn find_mut(&mut self, id: &ContainerId) -> Option<&mut ObservedContainer> {
        let entry = self.pods.get_mut(self.owner.get(id)?)?;
        entry.containers.iter_mut().find(|c| c.id == *id)
    }

    fn insert(&mut self, pod: PodRef, container: ObservedContainer) {
        self.owner.insert(container.id.clone(), pod.uid.clone());
        let entry = self.pods.entry(pod.uid).or_default();
        (entry.namespace, entry.name) = (pod.namespace, pod.name);
        match entry.containers.iter_mut().find(|c| c.id == container.id) {
            Some(slot) => *slot = container,
            None => entry.containers.push(container),
        }
        entry.containers.sort_by_key(|c| std::cmp::Reverse((c.created, c.restart_count)));
    }

    fn forget(&mut self, id: &ContainerId) -> Option<String> {
        let uid = self.owner.remove(id)?;
        self.start_errors.remove(id);
        self.actuated.remove(id);
        if let Some(entry) = self.pods.get_mut(&uid) {
            entry.containers.retain(|c| c.id != *id);
            if entry.containers.is_empty() && entry.sandbox.is_none() {
                self.pods.remove(&uid);
            }
        }
        Some(uid)
    }
}
