//! Creating and changing stored objects, from a decoded object to the store (apiserver
//! `registry/generic/registry/store.go` `create` and `Update`).

use std::sync::Arc;

use api::admission::Operation;
use api::codec::go_quote;
use api::field::{Error, Path};
use api::kind::{RequestContext, Strategy, Subresource};
use api::{Object, Status, UserInfo};
use async_trait::async_trait;

use super::admit::Admission;
use super::before::{self, Part};
use super::options::WriteOptions;
use crate::cache::entry::Entry;
use crate::filters::Warnings;
use crate::registry::{self, Current, Swap};
use crate::served::{Served, Stored};
use crate::server::ApiServer;

/// Tries of a generated name.
const GENERATE_ATTEMPTS: usize = 8;
/// Swaps lost to other writers before a request gives up. Each loss means that somebody else got on.
const SWAP_ATTEMPTS: usize = 64;

/// A write under way: where, by whom and how.
pub struct Write<'a> {
    pub server: &'a ApiServer,
    pub served: &'a Served,
    pub stored: &'a Stored,
    pub user: &'a UserInfo,
    pub namespace: &'a str,
    /// Empty for a creation that names its object in the body.
    pub name: &'a str,
    pub subresource: Option<&'a Subresource>,
    pub options: &'a WriteOptions,
    pub warnings: &'a Warnings,
    /// [`RequestContext::own_labels`].
    pub own_labels: bool,
    /// The server's own writes: no admission, no field ownership, no strategy checks on update.
    pub trusted: bool,
}

/// What a write left behind.
pub struct Written {
    pub entry: Arc<Entry>,
    pub created: bool,
}

/// Makes the new object from the current one; `None` where there is none yet.
#[async_trait]
pub trait Change: Sync {
    async fn apply(&self, current: Option<&Object>) -> Result<Object, Status>;

    /// Field ownership has been worked out by the change itself (server-side apply).
    fn owns_fields(&self) -> bool {
        false
    }

    /// A patch of any kind.
    fn is_patch(&self) -> bool {
        false
    }
}

/// PUT: the object as sent.
pub struct Replace(pub Object);

#[async_trait]
impl Change for Replace {
    async fn apply(&self, _: Option<&Object>) -> Result<Object, Status> {
        Ok(self.0.clone())
    }
}

/// `NewInvalidObjError` of an object whose uid is another than its writer wants.
pub(super) fn uid_conflict(
    served: &Served,
    prefix: &str,
    key: &str,
    dry_run: bool,
    (name, wanted, found): (&str, &str, &str),
) -> Status {
    // A dry run asks before the store does, which knows the prefix.
    let prefix = if dry_run { prefix.strip_prefix("/registry").unwrap_or(prefix) } else { prefix };
    let why = format!(
        "StorageError: invalid object, Code: 4, Key: {prefix}{key}, ResourceVersion: 0, AdditionalErrorMsg: Precondition \
         failed: UID in precondition: {wanted}, UID in object meta: {found}"
    );
    Status::conflict(&served.resource, name, why)
}

impl<'a> Write<'a> {
    fn admission(&self) -> Admission<'a> {
        Admission {
            server: self.server,
            user: self.user,
            gvk: self.subresource.map_or_else(|| self.served.def.gvk.clone(), |s| s.gvk.clone()),
            resource: self.served.gvr(),
            subresource: self.subresource_name(),
            namespace: self.namespace,
            name: self.name,
            dry_run: self.options.dry_run,
            warnings: self.warnings,
        }
    }

    fn subresource_name(&self) -> &'a str {
        self.subresource.map_or("", |s| s.name)
    }

    fn context(&self) -> RequestContext<'a> {
        RequestContext {
            user: self.user,
            now: self.server.clock.now(),
            dry_run: self.options.dry_run,
            subresource: self.subresource_name(),
            own_labels: self.own_labels,
            warn: Some(self.warnings),
        }
    }

    /// Creates a decoded object.
    pub async fn create(&self, mut object: Object) -> Result<Arc<Entry>, Status> {
        if !self.trusted {
            before::wipe_system_fields(&mut object);
        }
        before::ensure_namespace(&self.served.def, self.namespace, &mut object)?;
        dedup_owners(self.warnings, &mut object, false);
        if self.has_owner() {
            object = super::ownership::on_create(self, object).await;
        }
        if !self.trusted {
            object = self.admission().mutate(Operation::Create, object, None, &self.options.document).await?;
            dedup_owners(self.warnings, &mut object, true);
        }
        self.create_admitted(object, &self.options.document).await
    }

    async fn create_admitted(&self, object: Object, options: &Object) -> Result<Arc<Entry>, Status> {
        if self.served.def.custom.as_ref().is_some_and(|c| c.terminating) {
            let why = "create not allowed while custom resource definition is terminating";
            return Err(Status::forbidden(&self.served.resource, object.name(), why));
        }
        let generated =
            object.name().is_empty() && object.str(&["metadata", "generateName"]).is_some_and(|g| !g.is_empty());
        if !generated {
            return self.create_once(object, options, false).await;
        }
        let mut last = None;
        for _ in 0..GENERATE_ATTEMPTS {
            match self.create_once(object.clone(), options, true).await {
                Err(status) if status.reason == "AlreadyExists" => last = Some(status),
                done => return done,
            }
        }
        Err(last.unwrap_or_else(|| Status::internal("no name was generated")))
    }

    async fn create_once(&self, mut object: Object, options: &Object, generated: bool) -> Result<Arc<Entry>, Status> {
        let now = self.server.clock.now();
        before::fill_system_fields(&self.served.def, &mut object, now);
        let pending = match &self.served.def.hook {
            Some(hook) => {
                let ctx = self.server.action_context(self.user, self.options.dry_run);
                Some(hook.begin(&ctx, &mut object, None).await?)
            }
            None => None,
        };
        // What gets a generated name is copied first, for another try: its maps are its own then
        // (`createWithGenerateNameRetry`).
        let ctx = RequestContext { own_labels: self.own_labels || generated, ..self.context() };
        let warnings = before::before_create(&self.served.def, &ctx, &mut object)?;
        self.warnings.extend(warnings);
        if !self.trusted {
            self.admission().validate(Operation::Create, Some(&object), None, options).await?;
        }
        self.served.def.strategy.default_read(&mut object);
        // Etcd's store asks it, which a dry run does not come to.
        if !self.options.dry_run && object.resource_version().parse::<u64>().is_ok_and(|version| version != 0) {
            return Err(Status::new(500, "", "resourceVersion should not be set on objects to be created"));
        }
        let name = object.name().to_owned();
        // `CheckGeneratedNameError` looks at the base alone.
        let generated = generated || object.str(&["metadata", "generateName"]).is_some_and(|base| !base.is_empty());
        let key = self.served.key(self.namespace, &name);
        if self.options.dry_run {
            return match self.server.objects.load(self.stored, &key).await? {
                Some(current) => Err(self.already_exists(&name, Some(&current), generated)),
                None => {
                    // What would be refused stays in sight (`DryRunnableStorage.Create` copies).
                    let said = object.resource_version();
                    let version = said.parse().ok().filter(|v: &i64| *v > 0 && v.to_string() == said).unwrap_or(0);
                    registry::unwritten(self.stored, &key, object, version).await
                }
            };
        }
        match self.server.objects.create(self.served, self.stored, &key, object).await? {
            Some(entry) => {
                if let Some(pending) = pending {
                    pending.commit();
                }
                Ok(entry)
            }
            None => {
                // One that cannot be read exists all the same (apiserver `registry/generic/registry/store.go` `Create`).
                let current = self.server.objects.load(self.stored, &key).await.ok().flatten();
                Err(self.already_exists(&name, current.as_ref(), generated))
            }
        }
    }

    fn already_exists(&self, name: &str, current: Option<&Current>, generated: bool) -> Status {
        let mut resource = self.served.resource.clone();
        if generated
            && let Some(storage) = self.served.def.storage.as_ref().filter(|_| self.served.def.custom.is_none())
        {
            // `CheckGeneratedNameError` says the group of what is stored.
            resource.group.clone_from(&storage.gvk.group);
        }
        let resource = &resource;
        let mut status = Status::already_exists(resource, name);
        if generated {
            status.message = format!(
                "{resource} {name:?} already exists, the server was not able to generate a unique name for the object"
            );
            if let Some(details) = &mut status.details {
                details.retry_after_seconds = 1;
            }
        }
        if current.is_some_and(|c| c.object.is_deleting()) {
            status.message = format!("object is being deleted: {}", status.message);
        }
        status
    }

    /// Whether somebody comes to own what is written: of the server's own writes those that name a manager.
    fn has_owner(&self) -> bool {
        !self.trusted || !self.options.manager.is_empty()
    }

    /// Changes an object, or creates it where that is allowed (`create`: apply).
    pub async fn update(&self, change: &dyn Change, create: bool) -> Result<Written, Status> {
        let part = match self.subresource {
            None => Part::Main,
            Some(subresource) => Part::of(&subresource.kind).unwrap_or(Part::Main),
        };
        let create = create || (self.subresource.is_none() && self.served.def.strategy.allow_create_on_update());
        let key = self.served.key(self.namespace, self.name);
        for _ in 0..SWAP_ATTEMPTS {
            let Some(current) = self.server.objects.load(self.stored, &key).await? else {
                if !create {
                    return Err(self.served.not_found(self.name));
                }
                match self.create_on_update(change).await {
                    // Somebody else was faster: now there is something to change.
                    Err(status) if status.reason == "AlreadyExists" && change.is_patch() => continue,
                    done => return done.map(|entry| Written { entry, created: true }),
                }
            };
            if let Some(entry) = self.update_once(&part, &key, &current, change).await? {
                return Ok(Written { entry, created: false });
            }
        }
        Err(Status::conflict(&self.served.resource, self.name, Status::MODIFIED))
    }

    async fn create_on_update(&self, change: &dyn Change) -> Result<Arc<Entry>, Status> {
        let mut object = change.apply(None).await?;
        if !object.uid().is_empty() && !self.trusted {
            if change.is_patch() {
                let why = format!(
                    "uid mismatch: the provided object specified uid {}, and no existing object was found",
                    object.uid()
                );
                return Err(Status::conflict(&self.served.resource, self.name, why));
            }
            return Err(self.uid_conflict(object.uid(), ""));
        }
        if !change.owns_fields() {
            object = super::ownership::on_create(self, object).await;
        }
        let options = self.options.document_as("CreateOptions");
        let info = crate::request::RequestInfo {
            is_resource: true,
            verb: "create".to_owned(),
            group: self.served.def.gvk.group.clone(),
            version: self.served.def.gvk.version.clone(),
            namespace: self.namespace.to_owned(),
            resource: self.served.def.resource.clone(),
            name: self.name.to_owned(),
            ..crate::request::RequestInfo::default()
        };
        let object = self.admission().mutate(Operation::Create, object, None, &options).await?;
        crate::filters::authorise(self.server, self.user, &info).await?;
        let mut object = object;
        before::wipe_system_fields(&mut object);
        object.remove(&["metadata", "resourceVersion"]);
        self.create_admitted(object, &options).await
    }

    /// One attempt; `None` if another writer interfered and the change may be tried again.
    async fn update_once(
        &self,
        part: &Part<'_>,
        key: &str,
        current: &Current,
        change: &dyn Change,
    ) -> Result<Option<Arc<Entry>>, Status> {
        let def = &self.served.def;
        let old = &current.object;
        let mut object = change.apply(Some(old)).await?;
        let named = object.kind().to_owned();
        object.set_gvk(&def.gvk);
        // What a patch makes of the uid is no precondition: validation looks at it.
        let is_precondition = !change.is_patch() || change.owns_fields();
        if is_precondition && !object.uid().is_empty() && object.uid() != old.uid() {
            return Err(self.uid_conflict(object.uid(), old.uid()));
        }
        if !change.is_patch() {
            dedup_owners(self.warnings, &mut object, false);
        }
        if self.has_owner() && !change.owns_fields() {
            object = super::ownership::on_update(self, object, old).await;
        }
        if !self.trusted {
            object = self.mutate_update(object, old).await?;
            dedup_owners(self.warnings, &mut object, true);
        }
        let stated = self.check_version(&mut object, old)?;
        // A custom resource stays what it is (apiextensions `customResourceValidator.ValidateUpdate`). Patches have said so.
        if def.custom.is_some() && matches!(part, Part::Main) && !self.trusted && named != def.gvk.kind {
            let why = format!("must be {}", def.gvk.kind);
            let error = api::field::Error::invalid(api::field::Path::new("kind"), named.as_str(), why);
            return Err(Status::invalid(&def.gvk.group, &named, object.name(), &[error]));
        }
        let pending = match (&def.hook, part, self.trusted) {
            (Some(hook), Part::Main, false) => {
                let ctx = self.server.action_context(self.user, self.options.dry_run);
                Some(hook.begin(&ctx, &mut object, Some(old)).await?)
            }
            (Some(hook), Part::Status, false) => {
                let ctx = self.server.action_context(self.user, self.options.dry_run);
                let verb = if change.is_patch() { "patch" } else { "update" };
                hook.begin_status(&ctx, verb, &object, old).await?;
                None
            }
            _ => None,
        };
        if self.trusted {
            // `ensure_namespace` and the like are the caller's promise.
            if object.is_deleting() && !old.is_deleting() {
                def.strategy.prepare_for_delete(&mut object);
            }
        } else {
            before::ensure_namespace(def, self.namespace, &mut object)?;
            let warnings = before::before_update(def, part, &self.context(), &mut object, old)?;
            self.warnings.extend(warnings);
            api::apply::keep_times_of_unchanged(old, &mut object);
            self.validate_update(&object, old).await?;
        }
        if should_delete(&*def.strategy, &object, old) {
            return self.delete_finalized(key, current, object).await;
        }
        if self.options.dry_run {
            return registry::unwritten(self.stored, key, object, current.revision).await.map(Some);
        }
        match self.server.objects.swap(self.served, self.stored, key, current, object).await? {
            Swap::Done(entry) => {
                if let Some(pending) = pending {
                    pending.commit();
                }
                Ok(Some(entry))
            }
            Swap::Unchanged => {
                if let Some(pending) = pending {
                    pending.commit();
                }
                Ok(Some(Arc::clone(&current.entry)))
            }
            Swap::Conflict if stated => Err(Status::conflict(&self.served.resource, self.name, Status::MODIFIED)),
            Swap::Conflict => Ok(None),
        }
    }

    /// The mutating phase of an update. A scale is admitted as what it is, not as its parent.
    async fn mutate_update(&self, mut object: Object, old: &Object) -> Result<Object, Status> {
        let options = &self.options.document;
        let Some((subresource, paths)) = self.scale() else {
            return self.admission().mutate(Operation::Update, object, Some(old), options).await;
        };
        let (new, before) =
            (super::scale::of(&object, subresource, paths)?, super::scale::of(old, subresource, paths)?);
        let admitted = self.admission().mutate(Operation::Update, new, Some(&before), options).await?;
        object.set(&super::scale::names(&paths.spec_replicas), admitted.i64(&["spec", "replicas"]).unwrap_or_default());
        Ok(object)
    }

    async fn validate_update(&self, object: &Object, old: &Object) -> Result<(), Status> {
        let options = &self.options.document;
        let Some((subresource, paths)) = self.scale() else {
            return self.admission().validate(Operation::Update, Some(object), Some(old), options).await;
        };
        let (new, before) = (super::scale::of(object, subresource, paths)?, super::scale::of(old, subresource, paths)?);
        self.admission().validate(Operation::Update, Some(&new), Some(&before), options).await
    }

    fn scale(&self) -> Option<(&'a Subresource, &'a api::kind::ScalePaths)> {
        let subresource = self.subresource?;
        match &subresource.kind {
            api::kind::SubresourceKind::Scale(paths) => Some((subresource, paths)),
            _ => None,
        }
    }

    /// Optimistic concurrency. Returns whether the client stated a version; fills it in if not.
    fn check_version(&self, object: &mut Object, old: &Object) -> Result<bool, Status> {
        let stated = !matches!(object.resource_version(), "" | "0");
        if !stated {
            if !self.trusted && !self.served.def.strategy.allow_unconditional_update() {
                let path = Path::new("metadata").child("resourceVersion");
                let error = Error::invalid(path, 0, "must be specified for an update");
                let resource = &self.served.resource;
                return Err(Status::invalid(&resource.group, &resource.resource, self.name, &[error]));
            }
            object.set(&["metadata", "resourceVersion"], old.resource_version());
        } else if object.resource_version().parse::<u64>().is_err() {
            let text = go_quote(object.resource_version());
            return Err(Status::new(500, "", format!("strconv.ParseUint: parsing {text}: invalid syntax")));
        } else if object.resource_version() != old.resource_version() {
            return Err(Status::conflict(&self.served.resource, self.name, Status::MODIFIED));
        }
        // A patch carries the version of the object it was applied to: nobody stated that.
        Ok(false)
    }

    fn uid_conflict(&self, wanted: &str, found: &str) -> Status {
        let key = self.served.key(self.namespace, self.name);
        uid_conflict(self.served, &self.stored.cache.prefix, &key, self.options.dry_run, (self.name, wanted, found))
    }

    /// The last finalizer is gone: the update becomes the deletion (`deleteWithoutFinalizers`).
    async fn delete_finalized(
        &self,
        key: &str,
        current: &Current,
        object: Object,
    ) -> Result<Option<Arc<Entry>>, Status> {
        let shown = registry::unwritten(self.stored, key, object.clone(), current.revision).await?;
        if self.options.dry_run {
            return Ok(Some(shown));
        }
        if self.server.objects.delete(self.stored, key, current.revision).await?.is_none() {
            return Ok(None);
        }
        if let Some(hook) = &self.served.def.hook {
            hook.deleted(&object).await;
        }
        Ok(Some(shown))
    }
}

/// `ShouldDeleteDuringUpdate`.
fn should_delete(strategy: &dyn Strategy, object: &Object, old: &Object) -> bool {
    object.finalizers().next().is_none()
        && strategy.extra_finalizers(object).is_empty()
        && old.is_deleting()
        && old.i64(&["metadata", "deletionGracePeriodSeconds"]).unwrap_or_default() == 0
}

/// `dedupOwnerReferencesAndAddWarning`.
pub(super) fn dedup_owners(warnings: &Warnings, object: &mut Object, after_admission: bool) {
    let repeated = api::meta::dedup_owner_references(object);
    if !repeated.is_empty() {
        let when = if after_admission { " after mutating admission happens" } else { "" };
        warnings.add(format!(
            ".metadata.ownerReferences contains duplicate entries{when}; API server dedups owner references in \
             1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) \
             observed: {}",
            repeated.join(", ")
        ));
    }
}
