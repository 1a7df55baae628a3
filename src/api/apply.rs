//! Server-side apply and field ownership (structured-merge-diff and apimachinery `managedfields`), as generic code over
//! the schema.
//!
//! Objects are in the form that Go prints ([`crate::codec::normalize`]): structs without content are there, so they have
//! no owners. Entries of another API version are taken to have the same field names as the request's version: there is no
//! conversion here. Ownership follows every write: [`FieldManager::update`] for create, update and patch,
//! [`FieldManager::apply`] for apply patches.

mod managed;
mod place;
mod set;
mod walk;

use jiff::Timestamp;
use serde_json::{Map, Value};

use self::managed::{Manager, Managers, Operation, Owned};
use self::place::Place;
use self::set::{Element, FieldSet, path_text};
use self::walk::Comparison;
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
    /// `status` for the main resource of kinds with the status subresource, `spec` for that subresource (see
    /// [`reset_fields`]).
    pub reset: &'a [&'a [&'a str]],
    pub now: Timestamp,
}

/// The usual fields that are reset: `status` on the main resource if it has the subresource, `spec` on `status`.
pub fn reset_fields(subresource: &str, has_status: bool) -> &'static [&'static [&'static str]] {
    match subresource {
        "" if has_status => &[&["status"]],
        "status" => &[&["spec"]],
        _ => &[],
    }
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
        self.track(&old, new, &mut managers, manager);
        managed::encode(new, managers);
    }

    /// Merges what a client applies into the live object (`None` creates) and returns the new object with its
    /// ownership. The result still needs defaults and decoding; nulls in it are dropped.
    ///
    /// Errors: 409 with a cause for each field that another manager owns, unless `force`; 400 for an object of another
    /// kind or with managed fields; 500 (as upstream) for one that does not fit the schema.
    pub fn apply(&self, live: Option<&Object>, applied: &Object, manager: &str, force: bool) -> Result<Object, Status> {
        let (version, kind) = (applied.api_version(), applied.kind());
        if version != self.gvk.api_version() || kind != self.gvk.kind {
            return Err(Status::bad_request(format!("invalid object type: {version}, Kind={kind}")));
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

    fn compare(&self, old: &Object, new: &Object) -> Comparison {
        walk::compare(Place::root(self.schema), &old.0, &new.0)
    }

    /// `managedFieldsUpdater.Update` around `Updater.Update`.
    fn track(&self, old: &Object, new: &Object, managers: &mut Managers, name: &str) {
        let comparison = self.compare(old, new);
        let reset = FieldSet::of_fields(self.reset);
        let filtered = comparison.clone().without(&reset);
        take_from_others(managers, None, &filtered);
        // Upstream adds what changed to a manager of its own first, so removed fields leave everybody's sets.
        let changed = comparison.modified.union(&comparison.added).recursive_difference(&reset);
        let changed = changed.difference(&FieldSet::of_fields(UNOWNED));
        if !changed.is_empty() {
            let api_version = self.gvk.api_version();
            let owned = managers.entry(self.manager(name, Operation::Update)).or_insert_with(|| Owned {
                set: FieldSet::default(),
                api_version,
                time: None,
            });
            owned.set.add_all(&changed);
            owned.time = Some(managed::time_text(self.now));
        }
        managed::cap(managers);
    }

    /// `structuredMergeManager.Apply` with `Updater.Apply` and what wraps them.
    fn apply_once(
        &self,
        live: &Object,
        applied: &Object,
        mut managers: Managers,
        name: &str,
        force: bool,
    ) -> Result<(Object, Managers), ApplyError> {
        let root = Place::root(self.schema);
        let config = Value::Object(applied.0.clone());
        let problems = walk::validate(root, &config, false);
        if !problems.is_empty() {
            let about = object_text(applied);
            let text = format!("failed to create typed patch object ({about}): {}", join(&problems));
            return Err(Status::new(500, "", text).into());
        }
        let before = Value::Object(live.0.clone());
        let problems = walk::validate(root, &before, true);
        if !problems.is_empty() {
            let about = object_text(live);
            let text = format!("failed to create typed live object ({about}): {}", join(&problems));
            return Err(Status::new(500, "", text).into());
        }
        let merged = walk::merge(root, &before, &config)
            .map_err(|e| Status::new(500, "", format!("failed to merge config: {e}")))?;
        let reset = FieldSet::of_fields(self.reset);
        let set = walk::field_set(root, &config).recursive_difference(&reset);
        let manager = self.manager(name, Operation::Apply);
        let last = managers.get(&manager).cloned();
        let owned =
            Owned { set, api_version: self.gvk.api_version(), time: last.as_ref().and_then(|l| l.time.clone()) };
        managers.insert(manager.clone(), owned);
        let pruned = match &last {
            Some(last) if !last.set.is_empty() => prune(root, merged, &managers, &last.set),
            _ => merged,
        };
        let after = pruned.as_object().cloned().unwrap_or_default();
        let comparison = walk::compare(root, &live.0, &after).without(&reset);
        if !force {
            let conflicts = conflicts(&managers, &manager, &comparison);
            if !conflicts.is_empty() {
                return Err(ApplyError::Conflicts(conflicts));
            }
        }
        take_from_others(&mut managers, Some(&manager), &comparison);
        let unchanged = crate::patch::equal(&before, &pruned);
        if let Some(owned) = managers.get_mut(&manager) {
            owned.set = owned.set.difference(&FieldSet::of_fields(UNOWNED));
            if !unchanged {
                owned.time = Some(managed::time_text(self.now));
            }
        }
        managers.retain(|_, owned| !owned.set.is_empty());
        let object = if unchanged { before } else { without_nulls(root, pruned) };
        let object = Object::from_value(object).unwrap_or_default();
        Ok((object, managers))
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
        let changed = self.compare(&last, live);
        let set = walk::field_set(root, &value);
        Some(set.difference(&changed.modified).difference(&changed.added).difference(&changed.removed))
    }
}

/// What changed leaves the sets of all managers but `applier`; managers with nothing left go.
fn take_from_others(managers: &mut Managers, applier: Option<&Manager>, comparison: &Comparison) {
    let changed = comparison.modified.union(&comparison.added).union(&comparison.removed);
    managers.retain(|manager, owned| {
        if applier != Some(manager) {
            owned.set = owned.set.difference(&changed);
        }
        !owned.set.is_empty()
    });
}

fn conflicts(managers: &Managers, applier: &Manager, comparison: &Comparison) -> Vec<Conflict> {
    let changed = comparison.modified.union(&comparison.added);
    let mut conflicts = Vec::new();
    let mut others: Vec<(&Manager, &Owned)> = managers.iter().filter(|(m, _)| *m != applier).collect();
    // Upstream sorts by the JSON text of the entry, in which a subresource comes before the end.
    others.sort_by_key(|(m, _)| (&m.name, m.operation, &m.api_version, m.subresource.is_empty(), &m.subresource));
    for (manager, owned) in others {
        for path in owned.set.intersection(&changed).paths() {
            conflicts.push(Conflict { manager: manager.clone(), owned: owned.clone(), path });
        }
    }
    conflicts
}

/// Removes what the applier applied last time, does not apply now, and nobody else owns (`Updater.prune`).
fn prune(root: Place<'_>, merged: Value, managers: &Managers, last: &FieldSet) -> Value {
    let named = |set: &FieldSet| walk::with_named_fields(Some(root), set);
    let last = named(last);
    let merged_set = named(&walk::field_set(root, &merged));
    let pruned = walk::remove(root, &merged, &last);
    // Back comes what somebody owns, …
    let mut all_owned = FieldSet::default();
    for owned in managers.values() {
        all_owned.add_all(&owned.set);
    }
    let kept = named(&walk::field_set(root, &pruned)).union(&named(&all_owned));
    let pruned = walk::remove(root, &merged, &merged_set.difference(&kept));
    // … and what was not the applier's before.
    let pruned_set = named(&walk::field_set(root, &pruned));
    walk::remove(root, &merged, &merged_set.difference(&pruned_set).intersection(&last))
}

/// Members that are null go, where the schema says what they are.
fn without_nulls(at: Place<'_>, value: Value) -> Value {
    use self::place::Kind;
    match (at.kind, value) {
        (Kind::Struct(_) | Kind::Map(_), Value::Object(members)) => {
            let kept = members.into_iter().filter(|(_, v)| !v.is_null()).map(|(name, child)| {
                let child = match at.member(&name) {
                    Some(place) => without_nulls(place, child),
                    None => child,
                };
                (name, child)
            });
            Value::Object(kept.collect::<Map<_, _>>())
        }
        (Kind::Keyed(_, item), Value::Array(items)) => {
            items.into_iter().map(|child| without_nulls(at.item(item), child)).collect()
        }
        (_, value) => value,
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

fn object_text(object: &Object) -> String {
    format!("{}/{}; {}, Kind={}", object.namespace(), object.name(), object.api_version(), object.kind())
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
