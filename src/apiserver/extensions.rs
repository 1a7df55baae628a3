//! Kinds that come and go: follows the objects that define them, serves what they define, and removes the objects of
//! those that are being deleted.
//!
//! One task ([`run`]) handles definitions one after the other. What a definition makes the server serve is served before
//! its status says so, so that whoever has seen the status can use it; discovery tells of it after that
//! ([`Settling`]), so that whoever has seen it there does not run into the writing of the status. Removal runs in tasks of
//! its own, because it waits for finalizers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api::definitions::{Cleanup, Definitions, Facts};
use api::kind::KindDef;
use api::{Object, Status, UserInfo};
use base::{Backoff, Shutdown, chain};
use tokio::sync::{mpsc, oneshot, watch};

use crate::cache::WatchStart;
use crate::cache::entry::Entry;
use crate::cache::stats::Sent;
use crate::cache::view::{Selection, View};
use crate::cache::watcher::{Event, EventKind, Watcher};
use crate::filters::Warnings;
use crate::local::MANAGER;
use crate::served::{Served, Stored};
use crate::server::ApiServer;
use crate::verbs::delete::Delete;
use crate::verbs::options::DeleteOptions;

/// How long one attempt waits for the last object to go (upstream's `deleteInstances`).
const REMOVAL_MAX: Duration = Duration::from_secs(60);

/// How long discovery waits for the writing of a status that tells of what discovery is about to tell.
const WRITTEN_WITHIN: Duration = Duration::from_secs(1);

/// Definitions whose kinds are served and whose status does not say so yet: upstream's discovery looks at the status
/// (`customresource_discovery_controller.go`), its handler of requests does not wait for it.
pub(crate) struct Settling(watch::Sender<Turns>);

/// Statuses that were begun to be written, and those that are written or have failed. One follows the other.
#[derive(Clone, Copy, Default)]
struct Turns {
    begun: u64,
    ended: u64,
}

/// While this lives, discovery waits.
struct Writing<'a>(&'a Settling);

impl Default for Settling {
    fn default() -> Self {
        Self(watch::Sender::new(Turns::default()))
    }
}

impl Settling {
    fn begin(&self) -> Writing<'_> {
        self.0.send_modify(|turns| turns.begun += 1);
        Writing(self)
    }

    /// Completes when the status that is being written now, if any, is written.
    pub(crate) async fn written(&self) {
        let Turns { begun, ended } = *self.0.borrow();
        if begun == ended {
            return;
        }
        let mut turns = self.0.subscribe();
        let written = turns.wait_for(|turns| turns.ended >= begun);
        // A store that does not answer keeps nobody from discovery.
        let _late = tokio::time::timeout(WRITTEN_WITHIN, written).await;
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.0.0.send_modify(|turns| turns.ended += 1);
    }
}

/// One definition as it was last seen.
struct Known {
    entry: Arc<Entry>,
    facts: Facts,
    kinds: Vec<Arc<KindDef>>,
}

struct Follower {
    server: Arc<ApiServer>,
    source: Arc<dyn Definitions>,
    known: BTreeMap<String, Known>,
    /// Definitions whose objects are being removed.
    removing: BTreeSet<String>,
    removed: mpsc::Sender<String>,
}

/// Follows definitions until shutdown. `ready` is told when those that were there at the start are served.
pub async fn run(server: Arc<ApiServer>, source: Arc<dyn Definitions>, ready: oneshot::Sender<()>, shutdown: Shutdown) {
    // A removal sends once, when it ends, and waits if the queue is full.
    let (removed, mut ended) = mpsc::channel(16);
    let mut follower = Follower { server, source, known: BTreeMap::new(), removing: BTreeSet::new(), removed };
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5)).with_jitter(0.2);
    let mut ready = Some(ready);
    loop {
        let watcher = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            watcher = follower.watch() => watcher,
        };
        match watcher {
            Ok(mut watcher) => {
                follower.begin(watcher.receiver.take_initial(usize::MAX).into()).await;
                if let Some(ready) = ready.take() {
                    // Nobody listens any more if the start was given up.
                    let _ = ready.send(());
                }
                backoff.reset();
                loop {
                    tokio::select! {
                        biased;
                        () = shutdown.cancelled() => return,
                        name = ended.recv() => if let Some(name) = name {
                            follower.removing.remove(&name);
                            follower.look_again(&name).await;
                        },
                        event = watcher.receiver.recv() => match event {
                            Some(event) => follower.step(event).await,
                            None => break,
                        },
                    }
                }
            }
            Err(status) => tracing::warn!(error = %chain(&status), "cannot follow the definitions of kinds"),
        }
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(backoff.step()) => {}
        }
    }
}

impl Follower {
    fn stored(&self) -> Result<Stored, Status> {
        self.server.served(&self.source.resource())?.stored().cloned()
    }

    async fn watch(&self) -> Result<Watcher, Status> {
        let stored = self.stored()?;
        stored.cache.fresh().await?;
        stored.cache.watch(Selection::everything(Arc::clone(&stored.view), ""), &WatchStart::Existing)
    }

    /// Takes in all definitions there are; those known before that are not among them are gone.
    async fn begin(&mut self, events: Vec<Event>) {
        let names: BTreeSet<String> = events.iter().map(|e| e.entry.name().to_owned()).collect();
        self.known.retain(|name, _| names.contains(name));
        // First all that is settled, then those that want something: nobody takes another's names at a start.
        for event in &events {
            if let Ok(object) = event.entry.object() {
                self.keep(&object, &event.entry);
            }
        }
        self.publish();
        for event in events {
            self.settle(&event.entry).await;
        }
    }

    async fn step(&mut self, event: Event) {
        if event.kind == EventKind::Deleted {
            let Some(gone) = self.known.remove(event.entry.name()) else { return };
            if !gone.kinds.is_empty() {
                self.publish();
            }
            self.settle_group(&gone.facts.group, event.entry.name()).await;
            return;
        }
        self.settle(&event.entry).await;
    }

    /// Remembers a definition; whether what is served has changed.
    fn keep(&mut self, object: &Object, entry: &Arc<Entry>) -> bool {
        let facts = self.source.facts(object);
        let name = entry.name().to_owned();
        match self.known.get_mut(&name) {
            Some(known) if known.facts.served == facts.served => {
                known.entry = Arc::clone(entry);
                known.facts = facts;
                false
            }
            _ => {
                let kinds = self.source.kinds(object, entry.json());
                self.known.insert(name, Known { entry: Arc::clone(entry), facts, kinds });
                true
            }
        }
    }

    /// Serves the kinds of all definitions.
    fn publish(&self) {
        let mut kinds: Vec<Arc<KindDef>> = self.known.values().flat_map(|k| k.kinds.iter().cloned()).collect();
        kinds.sort_by(|a, b| {
            a.gvk.group.cmp(&b.gvk.group).then_with(|| api::names::compare_versions(&b.gvk.version, &a.gvk.version))
        });
        self.server.set_custom(&kinds);
    }

    /// Serves what a definition defines, gives it the status it should have, and removes its objects if it is deleted.
    async fn settle(&mut self, entry: &Arc<Entry>) {
        let name = entry.name();
        let object = match entry.object() {
            Ok(object) => object,
            Err(error) => {
                tracing::error!(name, %error, "a definition of a kind cannot be read");
                return;
            }
        };
        let group = self.source.facts(&object).group;
        let neighbours: Vec<&Facts> =
            self.known.iter().filter(|(n, k)| *n != name && k.facts.group == group).map(|(_, k)| &k.facts).collect();
        let now = self.server.clock.now();
        let settled = self.source.settle(&object, &neighbours, now);
        let names = self.known.get(name).map(|k| (k.facts.names.clone(), k.facts.kinds.clone()));
        let wanted = settled.as_ref().unwrap_or(&object);
        let server = Arc::clone(&self.server);
        let writing = settled.as_ref().map(|_| server.settling.begin());
        if self.keep(wanted, entry) {
            self.publish();
        }
        if let Some(cleanup) = self.source.cleanup(wanted) {
            self.remove(name, cleanup);
        } else if let Some(settled) = settled {
            self.write(name, &object, settled).await;
        }
        drop(writing);
        let held = self.known.get(name).map(|k| (k.facts.names.clone(), k.facts.kinds.clone()));
        if names.is_some() && names != held {
            // Names were given back: others may have waited for them.
            Box::pin(self.settle_group(&group, name)).await;
        }
    }

    async fn settle_group(&mut self, group: &str, but: &str) {
        let waiting = |(name, known): (&String, &Known)| {
            (known.facts.wanting && known.facts.group == group && name != but).then(|| Arc::clone(&known.entry))
        };
        let waiting: Vec<Arc<Entry>> = self.known.iter().filter_map(waiting).collect();
        for entry in waiting {
            self.settle(&entry).await;
        }
    }

    async fn look_again(&mut self, name: &str) {
        if let Some(entry) = self.known.get(name).map(|k| Arc::clone(&k.entry)) {
            self.settle(&entry).await;
        }
    }

    /// Writes a status. Somebody else's write in between is an event, which settles the definition again.
    async fn write(&self, name: &str, seen: &Object, settled: Object) {
        let status = settled.get(&["status"]).cloned().unwrap_or_default();
        let version = seen.resource_version().to_owned();
        let change = move |object: &mut Object| {
            if object.resource_version() != version {
                return Err(Status::conflict(&api::GroupResource::new("", ""), object.name(), Status::MODIFIED));
            }
            object.set(&["status"], status.clone());
            Ok(())
        };
        if let Err(status) =
            self.server.update_as(MANAGER, (&self.source.resource(), "status"), "", name, &change).await
            && !status.is_conflict()
            && !status.is_not_found()
        {
            tracing::warn!(name, error = %status, "the status of a definition cannot be written");
        }
    }

    fn remove(&mut self, name: &str, cleanup: Cleanup) {
        if !self.removing.insert(name.to_owned()) {
            return;
        }
        let Some(known) = self.known.get(name) else { return };
        let removal = Removal {
            server: Arc::clone(&self.server),
            source: Arc::clone(&self.source),
            name: name.to_owned(),
            entry: Arc::clone(&known.entry),
        };
        let ended = self.removed.clone();
        self.server.tasks.spawn(async move {
            let shutdown = removal.server.shutdown.clone();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = removal.run(cleanup) => {}
            }
            // The follower is gone if nobody receives.
            let _ = ended.send(removal.name).await;
        });
    }
}

/// The removal of one definition's objects.
struct Removal {
    server: Arc<ApiServer>,
    source: Arc<dyn Definitions>,
    name: String,
    entry: Arc<Entry>,
}

impl Removal {
    async fn run(&self, cleanup: Cleanup) {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60)).with_jitter(0.2);
        let mut how = cleanup;
        loop {
            if how == Cleanup::Begun {
                if !self.note(&Cleanup::Begun).await {
                    return;
                }
                how = self.objects().await;
            }
            if !self.note(&how).await || !matches!(how, Cleanup::Failed(..)) {
                return;
            }
            tokio::time::sleep(backoff.step()).await;
            how = Cleanup::Begun;
        }
    }

    /// Writes down how it stands; whether the definition is still there.
    async fn note(&self, how: &Cleanup) -> bool {
        let now = self.server.clock.now();
        let change = |object: &mut Object| {
            self.source.note_cleanup(object, how, now);
            Ok(())
        };
        match self.server.update_as(MANAGER, (&self.source.resource(), "status"), "", &self.name, &change).await {
            Ok(_) => true,
            Err(status) if status.is_not_found() => false,
            Err(status) => {
                tracing::warn!(name = self.name, error = %status, "the state of a removal cannot be written");
                true
            }
        }
    }

    /// Deletes every object and waits until the last is gone.
    async fn objects(&self) -> Cleanup {
        let listing =
            |status: Status| Cleanup::Failed("InstanceDeletionFailed", format!("could not list instances: {status}"));
        let served = match self.served() {
            Ok(served) => served,
            Err(status) => return listing(status),
        };
        let Ok(stored) = served.stored() else { return Cleanup::Done };
        let mut watcher = match self.watch(stored).await {
            Ok(watcher) => watcher,
            Err(status) => return listing(status),
        };
        let mut problems = Vec::new();
        for event in watcher.receiver.take_initial(usize::MAX) {
            if let Err(status) = self.delete(&served, stored, &event.entry).await
                && !status.is_not_found()
            {
                problems.push(status.message);
            }
        }
        if !problems.is_empty() {
            let all = problems.join(", ");
            return Cleanup::Failed("InstanceDeletionFailed", format!("could not issue all deletes: {all}"));
        }
        match tokio::time::timeout(REMOVAL_MAX, self.wait(stored, watcher)).await {
            Ok(Ok(())) => Cleanup::Done,
            Ok(Err(status)) => {
                let text = format!("could not confirm zero CustomResources remaining: {status}");
                Cleanup::Failed("InstanceDeletionCheck", text)
            }
            Err(_) => {
                let text = "could not confirm zero CustomResources remaining: timed out waiting for the condition";
                Cleanup::Failed("InstanceDeletionCheck", text.to_owned())
            }
        }
    }

    /// The kind in its storage version, over the cache that its served versions share.
    fn served(&self) -> Result<Served, Status> {
        let object = self.entry.object()?;
        let def = self
            .source
            .stored_kind(&object, self.entry.json())
            .ok_or_else(|| Status::internal("the definition has no storage version"))?;
        let resource = def.group_resource();
        let prefix = def.storage.as_ref().map(|s| s.prefix.as_str()).unwrap_or_default();
        let table = self.server.table.load();
        let cache = table
            .all
            .iter()
            .filter_map(|s| s.stored.as_ref())
            .find(|s| s.cache.prefix == prefix)
            .map(|s| Arc::clone(&s.cache))
            .unwrap_or_else(|| self.server.new_cache(prefix));
        // Encodings of this view are made for nobody, so its index need not be its own.
        let view = Arc::new(View::new(Arc::clone(&def), usize::MAX));
        Ok(Served { def, resource, stored: Some(Stored { cache, view }), sent: Sent::default() })
    }

    async fn watch(&self, stored: &Stored) -> Result<Watcher, Status> {
        stored.cache.fresh().await?;
        stored.cache.watch(Selection::everything(Arc::clone(&stored.view), ""), &WatchStart::Existing)
    }

    async fn delete(&self, served: &Served, stored: &Stored, entry: &Entry) -> Result<(), Status> {
        let (user, options, warnings) =
            (UserInfo::new("system:apiserver", &[api::user::MASTERS]), DeleteOptions::default(), Warnings::default());
        let delete = Delete {
            server: &self.server,
            served,
            stored,
            user: &user,
            namespace: entry.namespace(),
            options: &options,
            warnings: &warnings,
            trusted: true,
        };
        delete.one(entry.name()).await.map(drop)
    }

    async fn wait(&self, stored: &Stored, mut watcher: Watcher) -> Result<(), Status> {
        loop {
            let left = {
                stored.cache.fresh().await?;
                stored.cache.list(&Selection::everything(Arc::clone(&stored.view), ""), "", 1).entries.len()
            };
            if left == 0 {
                return Ok(());
            }
            if watcher.receiver.recv().await.is_none() {
                watcher = self.watch(stored).await?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn discovery_waits_for_the_status_that_is_being_written() {
        let settling = Settling::default();
        settling.written().await;
        let writing = settling.begin();
        let mut waiting = std::pin::pin!(settling.written());
        assert!(futures::poll!(waiting.as_mut()).is_pending());
        drop(writing);
        let _next = settling.begin();
        waiting.await;
        let began = tokio::time::Instant::now();
        settling.written().await;
        assert_eq!(began.elapsed(), WRITTEN_WITHIN);
    }
}
