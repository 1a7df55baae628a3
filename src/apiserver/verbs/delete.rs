//! Deletion: grace, finalizers, propagation, and collections (apiserver `registry/rest/delete.go` and
//! `registry/generic/registry/store.go` `Delete`).

use std::sync::Arc;

use api::admission::Operation;
use api::kind::Propagation;
use api::meta::{FINALIZER_FOREGROUND, FINALIZER_ORPHAN};
use api::{Gvr, Object, Status, UserInfo};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::admit::Admission;
use super::before;
use super::options::DeleteOptions;
use crate::cache::entry::Entry;
use crate::filters::Warnings;
use crate::registry::{self, Current, Swap};
use crate::served::{Served, Stored};
use crate::server::ApiServer;

/// A deletion under way.
#[derive(Clone)]
pub struct Delete<'a> {
    pub server: &'a ApiServer,
    pub served: &'a Served,
    pub stored: &'a Stored,
    pub user: &'a UserInfo,
    pub namespace: &'a str,
    pub options: &'a DeleteOptions,
    pub warnings: &'a Warnings,
    /// The server's own deletions: no admission.
    pub trusted: bool,
}

/// How it ended.
pub enum Deleted {
    /// The object stays for a while and looks like this.
    Marked(Arc<Entry>),
    /// It is gone; this is its last state.
    Gone(Arc<Entry>),
}

/// What `BeforeDelete` decides.
enum Grace {
    /// Delete at once (or mark, if finalizers stand in the way).
    None,
    /// A deletion with at most this much grace is under way already.
    Pending,
    /// The object has been given this many seconds.
    Given(i64),
}

/// Swaps lost before giving up.
const ATTEMPTS: usize = 64;

impl Delete<'_> {
    pub async fn one(&self, name: &str) -> Result<Deleted, Status> {
        let key = self.served.key(self.namespace, name);
        for _ in 0..ATTEMPTS {
            self.stored.cache.fresh().await?;
            if let Some(found) = self.stored.cache.unreadable(&key) {
                return Err(found.not_readable(&format!("{}{key}", self.stored.cache.prefix)));
            }
            let Some(current) = self.server.objects.load(self.stored, &key).await? else {
                return Err(self.served.not_found(name));
            };
            self.check_preconditions(&current.object)?;
            if !self.trusted {
                self.admit(name, &current.object).await?;
            }
            if let Some(done) = self.attempt(&key, &current).await? {
                return Ok(done);
            }
        }
        Err(Status::conflict(&self.served.resource, name, Status::MODIFIED))
    }

    async fn admit(&self, name: &str, old: &Object) -> Result<(), Status> {
        let admission = Admission {
            server: self.server,
            user: self.user,
            gvk: self.served.def.gvk.clone(),
            resource: Gvr::clone(&self.served.gvr()),
            subresource: "",
            namespace: self.namespace,
            name,
            dry_run: self.options.dry_run,
            warnings: self.warnings,
        };
        admission.both(Operation::Delete, None, Some(old), &self.options.document).await
    }

    fn check_preconditions(&self, object: &Object) -> Result<(), Status> {
        if self.served.def.strategy.deletes_itself() {
            let conditions = [
                ("UID", &self.options.uid, object.uid()),
                ("ResourceVersion", &self.options.resource_version, object.resource_version()),
            ];
            for (noun, wanted, found) in conditions {
                if let Some(wanted) = wanted.as_deref().filter(|wanted| *wanted != found) {
                    let why = format!(
                        "Precondition failed: {noun} in precondition: {wanted}, {noun} in object meta: {found}"
                    );
                    return Err(Status::conflict(&self.served.resource, object.name(), why));
                }
            }
            return Ok(());
        }
        let resource = api::GroupResource::new(self.served.def.gvk.group.clone(), self.served.def.gvk.kind.clone());
        if let Some(uid) = self.options.uid.as_deref().filter(|u| *u != object.uid()) {
            let why = format!(
                "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been \
                 deleted and then recreated",
                object.uid()
            );
            return Err(Status::conflict(&resource, object.name(), why));
        }
        if let Some(version) = self.options.resource_version.as_deref().filter(|v| *v != object.resource_version()) {
            let why = format!(
                "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record ({}). \
                 The object might have been modified",
                object.resource_version()
            );
            return Err(Status::conflict(&resource, object.name(), why));
        }
        Ok(())
    }

    /// `None` if another writer interfered.
    async fn attempt(&self, key: &str, current: &Current) -> Result<Option<Deleted>, Status> {
        let strategy = &self.served.def.strategy;
        let now = self.server.clock.now();
        let mut object = current.object.clone();
        let grace = self.grace(&mut object, now);
        if matches!(grace, Grace::Pending) {
            return Ok(Some(Deleted::Marked(Arc::clone(&current.entry))));
        }
        self.set_propagation(&mut object);
        if !current.object.is_deleting() {
            add_finalizers(&mut object, strategy.deletion_finalizers());
        }
        let held = object.finalizers().next().is_some() || !strategy.extra_finalizers(&object).is_empty();
        let marked = match grace {
            Grace::Given(_) => true,
            _ if held => {
                mark_deleting(&mut object, now, strategy.deletes_itself());
                true
            }
            _ => false,
        };
        if marked && !current.object.is_deleting() {
            strategy.prepare_for_delete(&mut object);
        }
        let mut revision = current.revision;
        if marked {
            let shown = if self.options.dry_run {
                registry::unwritten(self.stored, key, object.clone(), current.revision).await?
            } else {
                match self.server.objects.swap(self.served, self.stored, key, current, object.clone()).await? {
                    Swap::Done(entry) => entry,
                    Swap::Unchanged => Arc::clone(&current.entry),
                    Swap::Conflict => return Ok(None),
                }
            };
            revision = shown.revision;
            if held || matches!(grace, Grace::Given(seconds) if seconds > 0) {
                return Ok(Some(Deleted::Marked(shown)));
            }
        }
        if marked && !self.trusted {
            // Marking was one change and this is another, which admission is asked about again (`Store.Delete`).
            let mut seen = if self.options.dry_run { current.object.clone() } else { object.clone() };
            seen.set(&["metadata", "resourceVersion"], revision.to_string());
            self.admit(object.name(), &seen).await?;
        }
        if self.options.dry_run {
            return Ok(Some(Deleted::Gone(registry::unwritten(self.stored, key, object, revision).await?)));
        }
        let mut tried = 0;
        let at = loop {
            if let Some(at) = self.server.objects.delete(self.stored, key, revision).await? {
                break at;
            }
            if !marked {
                return Ok(None);
            }
            // Others, such as the kubelet, have seen that there is no grace and end the object too. Whoever is first, it is
            // gone (`updateForGracefulDeletionAndFinalizers` ignores that it is not found).
            tried += 1;
            match self.server.objects.load(self.stored, key).await? {
                Some(found) if found.object.uid() == object.uid() && tried < ATTEMPTS => revision = found.revision,
                Some(found) if found.object.uid() == object.uid() => return Ok(None),
                _ => return Ok(Some(Deleted::Gone(registry::unwritten(self.stored, key, object, revision).await?))),
            }
        };
        if let Some(hook) = &self.served.def.hook {
            hook.deleted(&object).await;
        }
        Ok(Some(Deleted::Gone(registry::unwritten(self.stored, key, object, at).await?)))
    }

    /// `rest.BeforeDelete`.
    fn grace(&self, object: &mut Object, now: Timestamp) -> Grace {
        let set = |object: &mut Object, at: Timestamp, seconds: i64| {
            object.set(&["metadata", "deletionTimestamp"], before::time(at));
            object.set(&["metadata", "deletionGracePeriodSeconds"], seconds);
        };
        if object.is_deleting() {
            let Some(given) = object.i64(&["metadata", "deletionGracePeriodSeconds"]).filter(|s| *s != 0) else {
                return Grace::None;
            };
            let Some(mut period) = self.options.grace_period else { return Grace::Pending };
            if period >= given {
                return Grace::Pending;
            }
            let end =
                object.str(&["metadata", "deletionTimestamp"]).and_then(|t| t.parse::<Timestamp>().ok()).unwrap_or(now);
            let mut at = end.checked_add(SignedDuration::from_secs(period.saturating_sub(given))).unwrap_or(now);
            if at < now {
                at = now;
                // Grace was asked for and has run out: the least there is, so that the last delete is still somebody's.
                period = if period == 0 { 0 } else { 1 };
            }
            set(object, at, period);
            return Grace::Given(period);
        }
        let Some(seconds) = self.served.def.strategy.graceful_delete(object, self.options.grace_period) else {
            return Grace::None;
        };
        set(object, now.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(now), seconds);
        bump_generation(object);
        Grace::Given(seconds)
    }

    /// `deletionFinalizersForGarbageCollection`.
    fn set_propagation(&self, object: &mut Object) {
        let (orphan, foreground) = self.propagation(object);
        let before: Vec<String> = object.finalizers().map(ToOwned::to_owned).collect();
        let mut after: Vec<String> =
            before.iter().filter(|f| *f != FINALIZER_ORPHAN && *f != FINALIZER_FOREGROUND).cloned().collect();
        if orphan {
            after.push(FINALIZER_ORPHAN.to_owned());
        }
        if foreground {
            after.push(FINALIZER_FOREGROUND.to_owned());
        }
        let same = before.len() == after.len() && before.iter().all(|f| after.contains(f));
        if same {
            return;
        }
        if after.is_empty() {
            object.remove(&["metadata", "finalizers"]);
        } else {
            object.set(&["metadata", "finalizers"], json!(after));
        }
    }

    /// `shouldOrphanDependents` and `shouldDeleteDependentsInForeground`.
    fn propagation(&self, object: &Object) -> (bool, bool) {
        if let Some(orphan) = self.options.orphan_dependents {
            return (orphan, false);
        }
        if let Some(policy) = self.options.propagation {
            return (policy == Propagation::Orphan, policy == Propagation::Foreground);
        }
        for finalizer in object.finalizers() {
            match finalizer {
                FINALIZER_ORPHAN => return (true, false),
                FINALIZER_FOREGROUND => return (false, true),
                _ => {}
            }
        }
        (self.served.def.strategy.default_propagation() == Propagation::Orphan, false)
    }
}

fn add_finalizers(object: &mut Object, wanted: &[&str]) {
    let mut finalizers: Vec<String> = object.finalizers().map(ToOwned::to_owned).collect();
    let before = finalizers.len();
    for finalizer in wanted {
        if !finalizers.iter().any(|f| f == finalizer) {
            finalizers.push((*finalizer).to_owned());
        }
    }
    if finalizers.len() > before {
        object.set(&["metadata", "finalizers"], json!(finalizers));
    }
}

/// `markAsDeleting`, or what the registries of namespaces and definitions do (`plain`).
fn mark_deleting(object: &mut Object, now: Timestamp, plain: bool) {
    if plain {
        if !object.is_deleting() {
            object.set(&["metadata", "deletionTimestamp"], before::time(now));
        }
        return;
    }
    if !object.is_deleting() {
        bump_generation(object);
    }
    let due = object.str(&["metadata", "deletionTimestamp"]).and_then(|t| t.parse::<Timestamp>().ok());
    if due.is_none_or(|due| due > now) {
        object.set(&["metadata", "deletionTimestamp"], before::time(now));
    }
    object.set(&["metadata", "deletionGracePeriodSeconds"], 0);
}

fn bump_generation(object: &mut Object) {
    if object.generation() > 0 {
        let next = object.generation() + 1;
        object.set(&["metadata", "generation"], next);
    }
}

/// The `Status` that a completed deletion answers with.
pub fn success(served: &Served, name: &str, uid: &str) -> Value {
    let mut details = json!({"name": name, "kind": served.def.resource, "uid": uid});
    if !served.def.gvk.group.is_empty() {
        details["group"] = served.def.gvk.group.as_str().into();
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}
