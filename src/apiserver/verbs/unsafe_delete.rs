//! Deletion of an object that cannot be read, with `ignoreStoreReadErrorWithClusterBreakingPotential` (apiserver
//! `endpoints/handlers/delete.go`, `registry/generic/registry/corrupt_obj_deleter.go`).
//!
//! Finalizers, preconditions, admission and what follows a deletion are left out: nobody knows what the object says.

use api::services::AuthorizationAttributes;
use api::{Status, UserInfo};
use serde_json::{Value, json};

use crate::cache::unreadable::is_readable;
use crate::filters::Warnings;
use crate::served::{Served, Stored};
use crate::server::ApiServer;

/// What a user must be allowed beside `delete`.
const VERB: &str = "unsafe-delete-ignore-read-errors";
/// Tells the audit that the deletion was asked for.
const ANNOTATION: &str = "apiserver.k8s.io/unsafe-delete-ignore-read-error";
/// Swaps lost before giving up.
const ATTEMPTS: usize = 64;

/// An unsafe deletion under way.
pub struct UnsafeDelete<'a> {
    pub server: &'a ApiServer,
    pub served: &'a Served,
    pub stored: &'a Stored,
    pub user: &'a UserInfo,
    pub namespace: &'a str,
    pub name: &'a str,
    pub dry_run: bool,
    pub warnings: &'a Warnings,
}

impl UnsafeDelete<'_> {
    /// Deletes the object; answers with the `Status` that tells of it.
    pub async fn run(&self) -> Result<Value, Status> {
        self.warnings.annotate(vec![(ANNOTATION.to_owned(), String::new())]);
        self.authorise().await?;
        let (cache, key) = (&self.stored.cache, self.served.key(self.namespace, self.name));
        for _ in 0..ATTEMPTS {
            cache.fresh().await?;
            let Some(unreadable) = cache.unreadable(&key) else {
                return Err(match cache.get(&key) {
                    Some(_) => is_readable(&self.served.resource, self.name, &format!("{}{key}", cache.prefix)),
                    None => self.served.not_found(self.name),
                });
            };
            let deleted =
                self.dry_run || self.server.objects.delete(self.stored, &key, unreadable.revision).await?.is_some();
            if deleted {
                tracing::warn!(prefix = cache.prefix, key, "deleted an object that could not be read");
                let details = json!({"name": self.name, "kind": self.served.def.gvk.kind});
                return Ok(json!({
                    "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details,
                    "code": 200,
                }));
            }
        }
        Err(Status::conflict(&self.served.resource, self.name, Status::MODIFIED))
    }

    /// `authorizeUnsafeDelete`.
    async fn authorise(&self) -> Result<(), Status> {
        let resource = self.served.gvr();
        let asked = AuthorizationAttributes {
            verb: VERB.to_owned(),
            is_resource: true,
            group: resource.group.clone(),
            version: resource.version.clone(),
            resource: resource.resource.clone(),
            namespace: self.namespace.to_owned(),
            name: self.name.to_owned(),
            ..AuthorizationAttributes::default()
        };
        let decision = self.server.authorizer.authorize(self.user, &asked).await;
        if decision.allowed() {
            return Ok(());
        }
        let why = format!("not permitted to do {VERB:?}, reason: {}", decision.reason());
        Err(Status::forbidden(&self.served.resource, self.name, why))
    }
}
