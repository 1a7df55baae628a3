//! Deletes, orphans and unblocks (`garbagecollector.go` `attemptToDeleteItem`, `attemptToOrphanWorker`).

use std::sync::Arc;

use client::{DeleteParams, Patch};
use futures::future::join_all;
use http::Method;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::json;
use tracing::{debug, info};

use super::graph::{Identity, Node};
use super::{Collector, FOREGROUND, ORPHAN, delete_key};
use crate::discovery::ApiResource;
use crate::error::Error;
use crate::metadata::{self, Metadata};

const FINALIZER_TRIES: usize = 5;

/// What an object's owners are.
#[derive(Default)]
struct Owners {
    solid: Vec<OwnerReference>,
    dangling: Vec<OwnerReference>,
    /// There, but waiting for their dependants to go.
    waiting: Vec<OwnerReference>,
}

enum Owner {
    Dangling,
    Waiting,
    Solid,
}

impl Collector {
    fn resource(&self, api_version: &str, kind: &str) -> Option<Arc<ApiResource>> {
        let discovered = self.shared.discovered.read();
        discovered.by_kind.get(&(api_version.to_owned(), kind.to_owned())).cloned()
    }

    fn path(&self, identity: &Identity) -> Result<String, Error> {
        let resource = self.resource(&identity.api_version, &identity.kind);
        resource.map(|r| r.path(&identity.namespace, &identity.name)).ok_or(Error::NotYet("the kind of an object"))
    }

    /// Deletes the object if no owner is left.
    pub(super) async fn consider(&self, uid: &str) -> Result<(), Error> {
        let Some(node) = self.shared.graph.lock().get(uid).cloned() else { return Ok(()) };
        if node.deleting && !node.deleting_dependents {
            return Ok(());
        }
        let path = match self.path(&node.identity) {
            Ok(path) => path,
            // An owner of a kind that does not exist: nothing can be said about it.
            Err(_) if node.is_virtual => {
                debug!(kind = node.identity.kind, name = node.identity.name, "owner of an unknown kind");
                return Err(Error::NotYet("the kind of an owner"));
            }
            Err(error) => return Err(error),
        };
        let latest = metadata::get(&self.context.client, &path).await?.filter(|m| m.uid == node.identity.uid);
        let Some(latest) = latest else {
            self.monitors.confirm_absent(&node.identity);
            return Ok(());
        };
        if node.deleting_dependents {
            return self.process_foreground(&node).await;
        }
        if latest.owner_references.is_empty() {
            return if node.is_virtual { Err(Error::NotYet("an owner to be seen")) } else { Ok(()) };
        }
        let Some(owners) = self.classify(&node, &latest.owner_references).await? else { return Ok(()) };
        if !owners.solid.is_empty() {
            if owners.dangling.is_empty() && owners.waiting.is_empty() {
                return Ok(());
            }
            // Only the owners that stay.
            return self.set_owners(&path, &latest, &owners.solid).await;
        }
        let dependents = self.shared.graph.lock().dependents(uid);
        if !owners.waiting.is_empty() && !dependents.is_empty() {
            if dependents.iter().any(|d| d.deleting_dependents) {
                // A circle: it must not block its own owners.
                let unblocked: Vec<OwnerReference> = latest
                    .owner_references
                    .iter()
                    .cloned()
                    .map(|owner| OwnerReference { block_owner_deletion: Some(false), ..owner })
                    .collect();
                self.set_owners(&path, &latest, &unblocked).await?;
                return self.delete(&node.identity, &path, &latest.uid, None, "Foreground").await;
            }
            return self.delete(&node.identity, &path, &latest.uid, Some(&latest), "Foreground").await;
        }
        let policy = if latest.has_finalizer(ORPHAN) {
            "Orphan"
        } else if latest.has_finalizer(FOREGROUND) {
            "Foreground"
        } else {
            "Background"
        };
        self.delete(&node.identity, &path, &latest.uid, Some(&latest), policy).await
    }

    /// `None` if the object is not to be touched.
    async fn classify(&self, node: &Node, references: &[OwnerReference]) -> Result<Option<Owners>, Error> {
        let mut owners = Owners::default();
        for reference in references {
            match self.look_up(node, reference).await? {
                None => return Ok(None),
                Some(Owner::Dangling) => owners.dangling.push(reference.clone()),
                Some(Owner::Waiting) => owners.waiting.push(reference.clone()),
                Some(Owner::Solid) => owners.solid.push(reference.clone()),
            }
        }
        Ok(Some(owners))
    }

    /// `isDangling`. `None`: a namespaced owner of a cluster-scoped object, which is invalid.
    async fn look_up(&self, node: &Node, reference: &OwnerReference) -> Result<Option<Owner>, Error> {
        let known_absent = {
            let graph = self.shared.graph.lock();
            graph.is_absent(&Identity::of(reference, &node.identity.namespace))
                || graph.is_absent(&Identity::of(reference, ""))
        };
        if known_absent {
            return Ok(Some(Owner::Dangling));
        }
        let resource = self.resource(&reference.api_version, &reference.kind);
        let Some(resource) = resource else { return Err(Error::NotYet("the kind of an owner")) };
        if resource.namespaced && node.identity.namespace.is_empty() {
            return Ok(None);
        }
        let path = resource.path(&node.identity.namespace, &reference.name);
        match metadata::get(&self.context.client, &path).await? {
            Some(owner) if owner.uid == reference.uid => {
                let waiting = owner.is_deleting() && owner.has_finalizer(FOREGROUND);
                Ok(Some(if waiting { Owner::Waiting } else { Owner::Solid }))
            }
            _ => {
                let namespace = if resource.namespaced { node.identity.namespace.as_str() } else { "" };
                self.shared.graph.lock().note_absent(Identity::of(reference, namespace));
                Ok(Some(Owner::Dangling))
            }
        }
    }

    /// Ends a foreground deletion when nothing blocks it any more.
    async fn process_foreground(&self, node: &Node) -> Result<(), Error> {
        let dependents = self.shared.graph.lock().dependents(&node.identity.uid);
        let mut blocked = false;
        for dependent in dependents {
            let blocks = |o: &OwnerReference| o.uid == node.identity.uid && o.block_owner_deletion == Some(true);
            if dependent.owners.iter().any(blocks) {
                blocked = true;
                if !dependent.deleting_dependents {
                    self.shared.queue.add(delete_key(&dependent.identity.uid));
                }
            }
        }
        if blocked { Ok(()) } else { self.remove_finalizer(&node.identity, FOREGROUND).await }
    }

    /// Takes the owner out of its dependants, then lets it go.
    pub(super) async fn orphan_dependents(&self, uid: &str) -> Result<(), Error> {
        let (owner, dependents) = {
            let graph = self.shared.graph.lock();
            let Some(owner) = graph.get(uid) else { return Ok(()) };
            (owner.identity.clone(), graph.dependents(uid))
        };
        let tried = dependents.len();
        let results = join_all(dependents.iter().map(|dependent| self.orphan(dependent, uid))).await;
        let mut failures = results.into_iter().filter_map(Result::err);
        if let Some(first) = failures.next() {
            let first = base::chain(&first).to_string();
            return Err(Error::Several { failed: 1 + failures.count(), tried, first });
        }
        self.remove_finalizer(&owner, ORPHAN).await
    }

    async fn orphan(&self, dependent: &Node, owner: &str) -> Result<(), Error> {
        let path = self.path(&dependent.identity)?;
        let latest = metadata::get(&self.context.client, &path).await?.filter(|m| m.uid == dependent.identity.uid);
        let Some(latest) = latest else { return Ok(()) };
        let rest: Vec<OwnerReference> = latest.owner_references.iter().filter(|o| o.uid != owner).cloned().collect();
        if rest.len() == latest.owner_references.len() {
            return Ok(());
        }
        self.set_owners(&path, &latest, &rest).await
    }

    async fn set_owners(&self, path: &str, latest: &Metadata, owners: &[OwnerReference]) -> Result<(), Error> {
        // A merge patch works for every kind; the version keeps owners that came meanwhile.
        let patch = Patch::Merge(json!({"metadata": {
            "uid": latest.uid,
            "resourceVersion": latest.resource_version,
            "ownerReferences": owners,
        }}));
        match self.context.client.send_patch(path, &patch).await {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(()),
        }
    }

    async fn remove_finalizer(&self, identity: &Identity, finalizer: &str) -> Result<(), Error> {
        let path = self.path(identity)?;
        for attempt in 0.. {
            let latest = metadata::get(&self.context.client, &path).await?.filter(|m| m.uid == identity.uid);
            let Some(latest) = latest.filter(|m| m.has_finalizer(finalizer)) else { return Ok(()) };
            let rest: Vec<&String> = latest.finalizers.iter().filter(|f| *f != finalizer).collect();
            let patch = Patch::Merge(json!({"metadata": {
                "uid": latest.uid,
                "resourceVersion": latest.resource_version,
                "finalizers": rest,
            }}));
            match self.context.client.send_patch(&path, &patch).await {
                Ok(_) => return Ok(()),
                Err(error) if error.is_not_found() => return Ok(()),
                Err(error) if error.is_conflict() && attempt + 1 < FINALIZER_TRIES => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// `latest` makes the deletion depend on the version that was looked at.
    async fn delete(
        &self,
        identity: &Identity,
        path: &str,
        uid: &str,
        latest: Option<&Metadata>,
        policy: &'static str,
    ) -> Result<(), Error> {
        let options = DeleteParams {
            propagation_policy: Some(policy),
            uid: Some(uid.to_owned()),
            resource_version: latest.map(|m| m.resource_version.clone()),
            ..DeleteParams::default()
        };
        info!(
            kind = identity.kind,
            namespace = identity.namespace,
            name = identity.name,
            policy,
            "deleting an object without owners"
        );
        let body = serde_json::to_vec(&options.body())?;
        match self.context.client.raw(Method::DELETE, path, "application/json", body).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => {
                self.monitors.confirm_absent(identity);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}
