//! What the API server knows of a kind: plain data and a few traits.
//!
//! The same [`KindDef`] is made by the `kinds` room for built-in kinds and from a CRD at run time.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::Value;

use crate::custom::CustomKind;
use crate::field::ErrorList;
use crate::names::{GroupResource, Gvk, Gvr};
use crate::object::Object;
use crate::schema::{Schema, Str};
use crate::services::ActionContext;
use crate::status::Status;
use crate::user::UserInfo;

/// One served resource of one group and version.
pub struct KindDef {
    pub gvk: Gvk,
    pub list_kind: String,
    /// Plural, as in the URL.
    pub resource: String,
    pub singular: String,
    pub short_names: Vec<Str>,
    pub categories: Vec<Str>,
    pub namespaced: bool,
    pub schema: Schema,
    /// `None` for kinds that are only asked and never kept (reviews).
    pub storage: Option<StorageDef>,
    /// Verbs of the main resource, in discovery's words.
    pub verbs: &'static [&'static str],
    /// Answers `create` of a kind without storage.
    pub action: Option<Arc<dyn Action>>,
    pub strategy: Arc<dyn Strategy>,
    /// Columns after upstream's table printers; the API server adds nothing.
    pub columns: Vec<Column>,
    /// Beyond `metadata.name` and `metadata.namespace`.
    pub selectable_fields: Vec<SelectableField>,
    pub subresources: Vec<Subresource>,
    /// `metadata.generation` counts changes outside metadata and status.
    pub has_generation: bool,
    /// How long an object is kept after its last write (events).
    pub ttl: Option<Duration>,
    pub hook: Option<Arc<dyn WriteHook>>,
    /// What the status subresource leaves alone beside `spec`.
    pub status_keeps: StatusKeeps,
    /// An update is checked as a creation is, `generateName` by the kind's own rule too.
    pub rechecks_names: bool,
    /// What every request for this version is warned of (upstream's `APILifecycleDeprecated`).
    pub deprecation: Option<&'static str>,
    /// A deletion that ends the object answers with it instead of a `Status` (upstream's `ReturnDeletedObject`).
    pub returns_deleted: bool,
    /// The kind comes from a CRD: its bodies follow another way. `schema` is then of no use, see [`KindDef::schema`].
    pub custom: Option<CustomKind>,
}

impl KindDef {
    /// The schema of the kind's objects.
    pub fn schema(&self) -> &Schema {
        match &self.custom {
            Some(custom) => custom.schema(),
            None => &self.schema,
        }
    }

    pub fn gvr(&self) -> Gvr {
        Gvr::new(self.gvk.group.clone(), self.gvk.version.clone(), self.resource.clone())
    }

    pub fn group_resource(&self) -> GroupResource {
        GroupResource::new(self.gvk.group.clone(), self.resource.clone())
    }

    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    pub fn has_status(&self) -> bool {
        self.subresources.iter().any(|s| matches!(s.kind, SubresourceKind::Status))
    }
}

/// What of an object's metadata a write to its status does not change (the status strategies' `PrepareForUpdate` and
/// `GetResetFields`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StatusKeeps {
    /// Metadata changes with the status.
    #[default]
    Nothing,
    Labels,
    /// Owner references and the time of deletion.
    Owners,
    /// `metav1.ResetObjectMetaForStatus`: what users set.
    UserMetadata,
    /// All but `managedFields` (and the version, which says what the write is based on).
    Metadata,
}

impl StatusKeeps {
    /// Members of metadata that stay as they were; `None` for all but what the server keeps track of.
    pub fn members(self) -> Option<&'static [&'static str]> {
        match self {
            Self::Nothing => Some(&[]),
            Self::Labels => Some(&["labels"]),
            Self::Owners => Some(&["ownerReferences", "deletionTimestamp"]),
            Self::UserMetadata => Some(&[
                "deletionTimestamp",
                "generation",
                "selfLink",
                "labels",
                "annotations",
                "finalizers",
                "ownerReferences",
            ]),
            Self::Metadata => None,
        }
    }

    /// What nobody comes to own through the status subresource.
    pub fn reset(self) -> &'static [&'static [&'static str]] {
        match self {
            Self::Nothing => &[&["spec"]],
            Self::Labels => &[&["spec"], &["metadata", "labels"]],
            Self::Owners => &[&["spec"], &["metadata", "deletionTimestamp"], &["metadata", "ownerReferences"]],
            Self::UserMetadata | Self::Metadata => &[&["spec"], &["metadata"]],
        }
    }
}

/// Where and how objects of a kind are kept.
pub struct StorageDef {
    /// Key prefix with a slash at both ends, as etcd of a stock cluster has it: `/registry/pods/`.
    pub prefix: String,
    /// Group and version of the stored bytes.
    pub gvk: Gvk,
    /// Between the stored and the served version; `None` if they are the same.
    pub conversion: Option<Arc<dyn Conversion>>,
}

/// Converts between the stored and one served version of a kind. `apiVersion` and `kind` are the caller's business.
pub trait Conversion: Send + Sync {
    fn to_stored(&self, object: Object) -> Result<Object, Status>;
    fn from_stored(&self, object: Object) -> Result<Object, Status>;
}

/// What a strategy may know of the request.
pub struct RequestContext<'a> {
    pub user: &'a UserInfo,
    pub now: Timestamp,
    pub dry_run: bool,
    /// Empty for the main resource.
    pub subresource: &'a str,
    /// What is made had labels of its own before defaults gave it any: those of defaults may be another map's, which
    /// upstream shares.
    pub own_labels: bool,
    /// Who tells the client of what validation lets pass; `None` if nobody listens.
    pub warn: Option<&'a dyn Warn>,
}

/// Takes texts for `Warning` headers.
pub trait Warn: Send + Sync {
    fn warn(&self, text: String);
}

/// The rules of a kind that are not data. Called in the order of upstream's `BeforeCreate` and `BeforeUpdate`; every
/// method has the generic behaviour as its default.
pub trait Strategy: Send + Sync {
    /// Fills defaults that the schema does not express (upstream's `SetDefaults_*`). Runs on every decoded body and
    /// patch result, before admission. Must be idempotent.
    fn default(&self, _object: &mut Object) {}

    /// Defaults that depend on what time it is; filled in after those of `default`.
    fn default_at(&self, _object: &mut Object, _now: Timestamp) {}

    /// Generated names are `generateName` with random letters (`names.SimpleNameGenerator`), not `generateName` itself.
    fn adds_to_names(&self) -> bool {
        true
    }

    /// What `default` fills in once more when what was made is read: the rest of creation has given it reason to.
    fn default_read(&self, _object: &mut Object) {}

    /// Why upstream's conversion to the internal type refuses an object that has its defaults, in Go's words.
    fn unconvertible(&self, _object: &Object) -> Option<String> {
        None
    }

    /// Clears what clients may not set at creation. `status` of kinds with the status subresource is cleared by the
    /// caller.
    fn prepare_for_create(&self, _ctx: &RequestContext<'_>, _object: &mut Object) {}

    /// Restores what clients may not change. `status` is restored by the caller.
    fn prepare_for_update(&self, _ctx: &RequestContext<'_>, _object: &mut Object, _old: &Object) {}

    /// Called instead of `prepare_for_update` for the status subresource; all but status and metadata is restored by
    /// the caller.
    fn prepare_for_status_update(&self, _ctx: &RequestContext<'_>, _object: &mut Object, _old: &Object) {}

    /// Problems of a new object beyond its metadata (which the caller checks with [`Strategy::validate_name`]).
    fn validate(&self, _ctx: &RequestContext<'_>, _object: &Object) -> ErrorList {
        ErrorList::new()
    }

    /// Problems of a change; `validate` has not run, call it where upstream does.
    fn validate_update(&self, ctx: &RequestContext<'_>, object: &Object, _old: &Object) -> ErrorList {
        self.validate(ctx, object)
    }

    fn validate_status_update(&self, _ctx: &RequestContext<'_>, _object: &Object, _old: &Object) -> ErrorList {
        ErrorList::new()
    }

    /// Problems of `metadata.name` (or, with `prefix`, of `generateName`) as upstream words them.
    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        crate::validation::dns1123_subdomain(name, prefix)
    }

    /// `Warning` headers for a written object.
    fn warnings(&self, _object: &Object, _old: Option<&Object>) -> Vec<String> {
        Vec::new()
    }

    /// PUT or apply on a name that does not exist creates it.
    fn allow_create_on_update(&self) -> bool {
        false
    }

    /// PUT without resourceVersion is allowed.
    fn allow_unconditional_update(&self) -> bool {
        true
    }

    /// Seconds of grace for a deletion that asks for `requested` (`None`: the kind's own choice). `None` means the
    /// object goes at once; `Some` keeps it with a deletionTimestamp until somebody deletes with grace 0.
    fn graceful_delete(&self, _object: &Object, _requested: Option<i64>) -> Option<i64> {
        None
    }

    /// The refusal of a field selector, in the words of kinds whose conversion function has words of its own. It is asked
    /// about what is not selectable, and about the namespace.
    fn refuse_field(&self, _path: &str) -> Option<String> {
        None
    }

    /// Whether deletion only says since when (namespaces and definitions, whose registries do it themselves): neither grace
    /// nor generation change, and preconditions are refused in other words.
    fn deletes_itself(&self) -> bool {
        false
    }

    /// What happens to dependents when the request does not say.
    fn default_propagation(&self) -> Propagation {
        Propagation::Background
    }

    /// Annotations that upstream's internal type has as fields: what is made of that type (tables) does not show them.
    fn hidden_annotations(&self) -> &'static [&'static str] {
        &[]
    }

    /// Whether writers of the status may ask for a table (stores with a `ConvertToTable` of their own for it).
    fn status_has_table(&self) -> bool {
        true
    }

    /// What a deletion is told that says nothing of dependents.
    fn deletion_warning(&self) -> Option<&'static str> {
        None
    }

    /// Whether an object that cannot be read may be deleted (stores with upstream's `CorruptObjectDeleterProvider`).
    fn deletes_unreadable(&self) -> bool {
        true
    }

    /// Whether `metadata.generation` counts lists and maps that become empty or absent, which the store takes for the same
    /// (strategies that compare by `reflect.DeepEqual`).
    fn counts_empty(&self) -> bool {
        false
    }

    /// Whether a new object keeps the status that it comes with (nodes register with theirs).
    fn keeps_status_on_create(&self) -> bool {
        false
    }

    /// Finalizers that a deletion puts on an object first.
    fn deletion_finalizers(&self) -> &'static [&'static str] {
        &[]
    }

    /// Called when a deletion is first marked on an object that stays for a while (`status.phase` of namespaces).
    fn prepare_for_delete(&self, _object: &mut Object) {}

    /// Finalizers outside metadata keep the object too (`spec.finalizers` of namespaces).
    fn extra_finalizers<'a>(&self, _object: &'a Object) -> Vec<&'a str> {
        Vec::new()
    }
}

/// `DeleteOptions.propagationPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    Orphan,
    Background,
    Foreground,
}

/// The generic rules and nothing else.
pub struct NoStrategy;

impl Strategy for NoStrategy {}

/// Work beside a write that must be undone if the write fails: Service addresses and ports.
#[async_trait]
pub trait WriteHook: Send + Sync {
    /// Before the write, after defaults and mutating admission; may fill the object. `old` is `None` at creation.
    async fn begin(
        &self,
        ctx: &ActionContext<'_>,
        object: &mut Object,
        old: Option<&Object>,
    ) -> Result<Box<dyn Pending>, Status>;

    /// Before a changed status is validated. `verb` is the request's: `update` or `patch`.
    ///
    /// # Errors
    /// What is wrong with it that only the API server's other services know.
    async fn begin_status(
        &self,
        _: &ActionContext<'_>,
        _verb: &str,
        _new: &Object,
        _old: &Object,
    ) -> Result<(), Status> {
        Ok(())
    }

    /// After an object is gone.
    async fn deleted(&self, object: &Object);
}

/// The open end of [`WriteHook::begin`]; dropped without `commit` means revert.
pub trait Pending: Send {
    fn commit(self: Box<Self>);
}

/// Nothing to revert.
impl Pending for () {
    fn commit(self: Box<Self>) {}
}

/// What tables say of the column of names.
pub const NAME_TEXT: &str = "Name must be unique within a namespace. Is required when creating resources, although some \
    resources may allow a client to request the generation of an appropriate name automatically. Name is primarily \
    intended for creation idempotence and configuration definition. Cannot be updated. More info: \
    https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names";
/// What tables say of the column of ages.
pub const AGE_TEXT: &str = "CreationTimestamp is a timestamp representing the server time when this object was created. It \
    is not guaranteed to be set in happens-before order across separate operations. Clients may not set this value. It \
    is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for lists. More info: \
    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

/// A table column.
pub struct Column {
    pub name: Str,
    /// OpenAPI type: `string`, `integer`, `date` …
    pub kind: Str,
    pub format: Str,
    pub description: Str,
    /// 0 is always shown, others only with `-o wide`.
    pub priority: i32,
    pub value: ColumnValue,
}

/// Where a cell comes from.
pub enum ColumnValue {
    /// Computed; `now` is for ages.
    Compute(fn(object: &Object, now: Timestamp) -> Value),
    /// A JSONPath of a CRD's `additionalPrinterColumns`.
    JsonPath(String),
}

/// A field that field selectors may name.
pub struct SelectableField {
    pub path: Str,
    pub value: FieldValue,
}

/// Where the value of a selectable field comes from.
pub enum FieldValue {
    Compute(fn(&Object) -> String),
    /// Member names, of a CRD's `selectableFields`.
    Path(Vec<String>),
}

impl SelectableField {
    /// The value in an object, empty if there is none.
    pub fn of(&self, object: &Object) -> String {
        match &self.value {
            FieldValue::Compute(compute) => compute(object),
            FieldValue::Path(path) => {
                let path: Vec<&str> = path.iter().map(String::as_str).collect();
                match object.get(&path) {
                    None | Some(Value::Null) => String::new(),
                    Some(Value::String(text)) => text.clone(),
                    Some(other) => other.to_string(),
                }
            }
        }
    }
}

/// What stands behind `…/NAME/SUBRESOURCE`.
pub struct Subresource {
    pub name: &'static str,
    pub kind: SubresourceKind,
    /// What bodies are; the parent's unless it differs (`Scale`, `Eviction`, `PodExecOptions` …).
    pub gvk: Gvk,
    pub schema: Schema,
    pub verbs: &'static [&'static str],
}

pub enum SubresourceKind {
    /// Get, update and patch of `status` alone.
    Status,
    /// Get, update and patch as `autoscaling/v1` `Scale`.
    Scale(ScalePaths),
    /// Another view of the same object with rules of its own (`finalize`, `ephemeralcontainers`, `resize`, `approval`).
    View(Arc<dyn Strategy>),
    /// Create only (`binding`, `eviction`, `token`).
    Action(Arc<dyn Action>),
    /// A stream or proxied request (`exec`, `log`, `proxy` …).
    Connect(Arc<dyn Connect>),
}

/// Field paths of the `Scale` view, e.g. `["spec", "replicas"]`.
pub struct ScalePaths {
    pub spec_replicas: Vec<Str>,
    pub status_replicas: Vec<Str>,
    /// A `metav1.LabelSelector`, a plain map of labels, or the text of a selector. Empty for none.
    pub selector: Vec<Str>,
}

/// A request that is answered by code rather than kept. `name` and `namespace` are the parent's for a subresource.
#[async_trait]
pub trait Action: Send + Sync {
    /// Fills in what the request left out, before anybody sees it.
    fn default(&self, _: &mut Object) {}

    /// Older versions of the kind that bodies may still be of (`rest.GroupVersionAcceptor`).
    fn accepts(&self) -> &'static [&'static str] {
        &[]
    }

    async fn run(&self, ctx: &ActionContext<'_>, namespace: &str, name: &str, body: Object) -> Result<Object, Status>;
}

/// Says where a connection goes; the API server carries it.
#[async_trait]
pub trait Connect: Send + Sync {
    /// The parent's own name in a URL's name segment: proxies also take `name:port` and `scheme:name:port` there.
    fn parent_name<'s>(&self, segment: &'s str) -> &'s str {
        segment
    }

    /// `object` is the parent as stored.
    async fn target(
        &self,
        ctx: &ActionContext<'_>,
        object: &Object,
        request: &ConnectRequest<'_>,
    ) -> Result<ConnectTarget, Status>;
}

/// What a connection's URL says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectRequest<'r> {
    /// The name segment, of which [`Connect::parent_name`] is the parent's name.
    pub segment: &'r str,
    /// What follows the subresource's name, with its leading slash; empty if nothing does.
    pub path: &'r str,
    /// The raw query, without `?`.
    pub query: &'r str,
}

/// The other end of a proxied request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectTarget {
    pub tls: Tls,
    pub host: String,
    pub port: u16,
    /// Path and query to ask for.
    pub path_and_query: String,
    /// Whether redirects' and responses' locations are rewritten under the proxy's URL.
    pub rewrite_locations: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    Plain,
    /// With the API server's kubelet client certificate, verified against the cluster CA.
    Kubelet,
    /// Unverified, without a client certificate (`https:` services and pods, as upstream).
    Insecure,
}
