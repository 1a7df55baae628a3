//! Server-side apply and field ownership (structured-merge-diff and apimachinery `managedfields`), as generic code over
//! the schema.
//!
//! Objects are in the form that Go prints ([`crate::codec::normalize`]): structs without content are there, so they have
//! no owners. Entries of another API version are compared in that version ([`Versions`]). Ownership follows every write:
//! [`FieldManager::update`] for create, update and patch, [`FieldManager::apply`] for apply patches.

mod managed;
mod place;
pub mod scale;
mod set;
mod updater;
mod walk;

use jiff::Timestamp;
use serde_json::{Map, Value};

use self::managed::{Manager, Managers, Operation, Owned};
use self::place::Place;
use self::set::{Element, FieldSet, path_text};
use crate::names::Gvk;
use crate::object::Object;
use crate::schema::Schema;
use crate::status::{Cause, Details, Status};

/// Owner of the fields that an object had before the first apply.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The manager name whose client-side applied fields server-side apply takes over.
const KUBECTL: &str = "kubectl";

/// What nobody owns (`stripMetaManager`).
const UNOWNED: &[&[&str]] = &[
    &["apiVersion"],
    &["kind"],
    &["metadata"],
    &["metadata", "name"],
    &["metadata", "namespace"],
    &["metadata", "creationTimestamp"],
    &["metadata", "selfLink"],
    &["metadata", "uid"],
    &["metadata", "clusterName"],
    &["metadata", "generation"],
    &["metadata", "managedFields"],
    &["metadata", "resourceVersion"],
];

/// Tracks who owns which fields of objects of one kind and version.
pub struct FieldManager<'a> {
    pub schema: &'a Schema,
    /// Of the request; the objects are in this version.
    pub gvk: &'a Gvk,
    /// Empty for the main resource.
    pub subresource: &'a str,
    /// Fields that the strategy resets, which therefore nobody comes to own through this resource or subresource:
    /// `status` for the main resource of kinds with the status subresource, `spec` for that subresource.
    pub reset: &'a [&'a [&'a str]],
    /// The same is reset in all versions of the kind, not only in the request's.
    pub resets_versions: bool,
    pub versions: &'a dyn Versions,
    /// Nulls that a merge leaves stay, for the structural schema to judge (custom resources).
    pub keeps_nulls: bool,
    pub now: Timestamp,
}

/// The other versions of a kind, in which older entries may be.
pub trait Versions: Sync {
    /// The schema of a version (`apps/v1`); `None` if the kind has no such version, whose entries are dropped.
    fn schema(&self, api_version: &str) -> Option<&Schema>;

    /// An object of any version of the kind in another one; `None` if the kind has no such version.
    ///
    /// # Errors
    /// What keeps the object from being converted.
    fn convert(&self, object: &Object, api_version: &str) -> Result<Option<Object>, Status>;
}

/// A kind with one version.
pub struct OneVersion;

impl Versions for OneVersion {
    fn schema(&self, _: &str) -> Option<&Schema> {
        None
    }

    fn convert(&self, _: &Object, _: &str) -> Result<Option<Object>, Status> {
        Ok(None)
    }
}

/// Whether a request empties `managedFields` on purpose, which decoding by the schema would not let through.
pub fn resets_ownership(object: &Object) -> bool {
    managed::is_reset(object)
}

/// Says in an object that its `managedFields` are to be emptied.
pub fn reset_ownership(object: &mut Object) {
    object.set(&["metadata", "managedFields"], Value::Array(Vec::new()));
}

/// The name under which a request's changes are owned: what it asks for, or the client's name from its user agent
/// (`managerOrUserAgent`).
pub fn manager_name(field_manager: &str, user_agent: &str) -> String {
    if !field_manager.is_empty() {
        return field_manager.to_owned();
    }
    let prefix = user_agent.split('/').next().unwrap_or_default();
    let mut name = String::new();
    for c in prefix.chars() {
        // Upstream stops at 128 bytes and at what cannot be printed.
        if name.len() + c.len_utf8() > 128 || c.is_control() {
            break;
        }
        name.push(c);
    }
    name
}

/// Takes over the times of the old entries if nothing else changed, so that a request without effect writes nothing
/// (`IgnoreManagedFieldsTimestampsTransformer`). Call after admission with the stored and the new object.
pub fn keep_times_of_unchanged(old: &Object, new: &mut Object) {
    let path = ["metadata", "managedFields"];
    if old.get(&path) == new.get(&path) {
        return;
    }
    let without_times = |object: &Object| {
        let mut object = object.clone();
        object.remove(&["metadata", "resourceVersion"]);
        if let Some(Value::Array(entries)) = object.get_mut(&path) {
            for entry in entries.iter_mut().filter_map(Value::as_object_mut) {
                entry.remove("time");
            }
        }
        object
    };
    if without_times(old) == without_times(new)
        && let Some(entries) = old.get(&path)
    {
        new.set(&path, entries.clone());
    }
}

/// A field that somebody else owns.
struct Conflict {
    manager: Manager,
    owned: Owned,
    path: Vec<Element>,
}

enum ApplyError {
    Conflicts(Vec<Conflict>),
    Status(Status),
}

impl From<Status> for ApplyError {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl FieldManager<'_> {
    /// Brings `managedFields` of `new` up to date after create, update or patch. `live` is the stored object, `None` at
    /// creation. `new` is final but for admission (call it again after admission changed the object).
    pub fn update(&self, live: Option<&Object>, new: &mut Object, manager: &str) {
        let entries = ["metadata", "managedFields"];
        if let Some(live) = live
            && !managed::is_reset(new)
            && live.get(&entries).is_some()
            && (new.get(&entries).is_none() || new.get(&entries) == live.get(&entries))
            && same_but_entries(live, new)
        {
            // Nothing changed: ownership cannot either.
            if let Some(value) = live.get(&entries) {
                new.set(&entries, value.clone());
            }
            return;
        }
        let mut managers = managed::decode_live_or_new(live, new, self.subresource);
        managed::strip(new);
        // An object that nobody applied and whose entries were removed stays without.
        if managers.is_empty() && live.is_some_and(|live| !live.uid().is_empty()) {
            return;
        }
        let mut old = live.cloned().unwrap_or_else(|| self.empty());
        managed::strip(&mut old);
        if self.track(&old, new, &mut managers, manager) {
            managed::encode(new, managers);
        } else if let Some(before) = live.and_then(|live| live.get(&entries)) {
            // `UpdateNoErrors`: what cannot be worked out stays as it was.
            new.set(&entries, before.clone());
        }
    }

    /// Merges what a client applies into the live object (`None` creates) and returns the new object with its
    /// ownership. The result still needs defaults and decoding; nulls in it are dropped.
    ///
    /// Errors: 409 with a cause for each field that another manager owns, unless `force`; 400 for an object of another
    /// kind or with managed fields; 500 (as upstream) for one that does not fit the schema.
    pub fn apply(&self, live: Option<&Object>, applied: &Object, manager: &str, force: bool) -> Result<Object, Status> {
        let (version, kind) = (applied.api_version(), applied.kind());
        if version != self.gvk.api_version() || kind != self.gvk.kind {
            let slash = if version.contains('/') { "" } else { "/" };
            return Err(Status::bad_request(format!("invalid object type: {slash}{version}, Kind={kind}")));
        }
        if applied.get(&["metadata", "managedFields"]).is_some_and(|v| !v.is_null()) {
            return Err(Status::bad_request("metadata.managedFields must be nil"));
        }
        let mut managers = match live {
            Some(live) => managed::decode(live)
                .map_err(|e| Status::new(500, "", format!("failed to decode managed fields: {e}")))?,
            None => Managers::new(),
        };
        let mut live = live.cloned().unwrap_or_else(|| self.empty());
        managed::strip(&mut live);
        if managers.is_empty() {
            self.track(&self.empty(), &live, &mut managers, BEFORE_FIRST_APPLY);
        }
        let result = match self.apply_once(&live, applied, managers.clone(), manager, force) {
            Err(ApplyError::Conflicts(conflicts)) if manager == KUBECTL => match self.allowed_by_last_applied(&live) {
                None => Err(ApplyError::Conflicts(conflicts)),
                Some(allowed) => {
                    let rest: Vec<Conflict> = conflicts.into_iter().filter(|c| !allowed.has(&c.path)).collect();
                    if rest.is_empty() {
                        self.apply_once(&live, applied, managers, manager, true)
                    } else {
                        Err(ApplyError::Conflicts(rest))
                    }
                }
            },
            result => result,
        };
        let (mut object, managers) = result.map_err(|error| match error {
            ApplyError::Status(status) => status,
            ApplyError::Conflicts(conflicts) => conflict_status(&conflicts),
        })?;
        if manager == KUBECTL && object.annotation(LAST_APPLIED).is_some_and(|a| !a.is_empty()) {
            let mut applied = applied.clone();
            applied.remove(&["metadata", "annotations", LAST_APPLIED]);
            // Upstream's encoder ends the text with a new line.
            let text = format!("{}\n", Value::Object(applied.0));
            object.set(&["metadata", "annotations", LAST_APPLIED], text);
        }
        managed::encode(&mut object, managers);
        Ok(object)
    }

    /// An object of the kind with nothing in it but what Go prints of its zero value.
    fn empty(&self) -> Object {
        let mut object = Object::default();
        crate::schema::walk::add_printed(&self.schema.types, self.schema.root, &mut object.0);
        object.set_gvk(self.gvk);
        object
    }

    fn manager(&self, name: &str, operation: Operation) -> Manager {
        Manager {
            name: if name.is_empty() { "unknown" } else { name }.to_owned(),
            operation,
            api_version: if operation == Operation::Apply { String::new() } else { self.gvk.api_version() },
            subresource: self.subresource.to_owned(),
        }
    }

    /// Fields that client-side apply last set and that still are as it set them (`allowedConflictsFromLastApplied`).
    fn allowed_by_last_applied(&self, live: &Object) -> Option<FieldSet> {
        let text = live.annotation(LAST_APPLIED).filter(|a| !a.is_empty())?;
        let last = serde_json::from_str::<Value>(text).ok().and_then(Object::from_value)?;
        if last.api_version() != self.gvk.api_version() {
            return None;
        }
        let root = Place::root(self.schema);
        let value = Value::Object(last.0.clone());
        if !walk::validate(root, &value, false).is_empty() {
            return None;
        }
        let changed = walk::compare(root, &last.0, &live.0);
        let set = walk::field_set(root, &value);
        Some(set.difference(&changed.modified).difference(&changed.added).difference(&changed.removed))
    }
}

fn same_but_entries(a: &Object, b: &Object) -> bool {
    let rest = |object: &Object| object.0.len();
    rest(a) == rest(b)
        && a.0.iter().all(|(name, value)| {
            let other = b.0.get(name);
            match (name.as_str(), value, other) {
                ("metadata", Value::Object(a), Some(Value::Object(b))) => {
                    let members = |m: &Map<String, Value>| m.len() - usize::from(m.contains_key("managedFields"));
                    members(a) == members(b) && a.iter().all(|(k, v)| k == "managedFields" || b.get(k) == Some(v))
                }
                _ => other == Some(value),
            }
        })
}

/// How errors of apply name an object (`objectGVKNN`).
pub fn object_text(object: &Object) -> String {
    // Go prints the empty name of the core group too.
    let core = if object.api_version().contains('/') { "" } else { "/" };
    format!("{}/{}; {core}{}, Kind={}", object.namespace(), object.name(), object.api_version(), object.kind())
}

fn join(problems: &[String]) -> String {
    match problems {
        [one] => one.clone(),
        many => format!("errors:\n{}", many.iter().map(|p| format!("  {p}")).collect::<Vec<_>>().join("\n")),
    }
}

/// How a conflict names a manager (`printManager`).
fn manager_text(manager: &Manager, owned: &Owned) -> String {
    let mut text = format!("{:?}", manager.name);
    if !manager.subresource.is_empty() {
        text.push_str(&format!(" with subresource {:?}", manager.subresource));
    }
    if manager.operation == Operation::Update {
        text.push_str(&format!(" using {}", owned.api_version));
    }
    text
}

/// `NewConflictError`.
fn conflict_status(conflicts: &[Conflict]) -> Status {
    let name = |c: &Conflict| manager_text(&c.manager, &c.owned);
    let causes = conflicts
        .iter()
        .map(|c| Cause {
            reason: "FieldManagerConflict".to_owned(),
            message: format!("conflict with {}", name(c)),
            field: path_text(&c.path),
        })
        .collect();
    let message = match conflicts {
        [one] => format!("Apply failed with 1 conflict: conflict with {}: {}", name(one), path_text(&one.path)),
        many => {
            let mut lines = Vec::new();
            let mut current = None;
            for conflict in many {
                if current != Some(&conflict.manager) {
                    lines.push(format!("conflicts with {}:", name(conflict)));
                    current = Some(&conflict.manager);
                }
                lines.push(format!("- {}", path_text(&conflict.path)));
            }
            format!("Apply failed with {} conflicts: {}", many.len(), lines.join("\n"))
        }
    };
    Status::new(409, "Conflict", message).with_details(Details { causes, ..Details::default() })
}

#[cfg(test)]
mod tests;
