//! Who owns what after a change, and what an apply removes (structured-merge-diff `merge/update.go`).

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::managed::{self, Manager, Managers, Operation, Owned};
use super::place::{Kind, Place};
use super::set::FieldSet;
use super::walk::{self, Comparison};
use super::{ApplyError, Conflict, FieldManager, join, object_text};
use crate::object::Object;
use crate::status::Status;

impl FieldManager<'_> {
    /// `managedFieldsUpdater.Update` around `Updater.Update`. False, and nothing done, if the objects cannot be read.
    pub(super) fn track(&self, old: &Object, new: &Object, managers: &mut Managers, name: &str) -> bool {
        let root = Place::root(self.schema);
        let whole = walk::compare(root, &old.0, &new.0);
        if whole.unreadable || self.reconcile(old, managers).is_err() {
            return false;
        }
        let Ok(changes) = self.changes(old, new, &whole, managers, None) else { return false };
        if changes.values().flatten().any(|change| change.unreadable) {
            return false;
        }
        take(managers, None, &changes);
        // Upstream adds what changed to a manager of its own first, so removed fields leave everybody's sets.
        let changed = whole.modified.union(&whole.added).recursive_difference(&FieldSet::of_fields(self.reset));
        let changed = changed.difference(&FieldSet::of_fields(super::UNOWNED));
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
        true
    }

    /// What entries own by the schema of now; those of versions that there are no more go
    /// (`reconcileManagedFieldsWithSchemaChanges`).
    fn reconcile(&self, live: &Object, managers: &mut Managers) -> Result<(), Status> {
        let own = self.gvk.api_version();
        let mut places = BTreeMap::from([(own, Some(Place::root(self.schema)))]);
        for owned in managers.values() {
            let version = owned.api_version.as_str();
            if !places.contains_key(version) {
                let place = self.convert(live, version)?.map(|(_, place)| place);
                places.insert(version.to_owned(), place);
            }
        }
        managers.retain(|_, owned| {
            let Some(Some(place)) = places.get(&owned.api_version) else { return false };
            walk::reconcile(*place, &mut owned.set);
            true
        });
        Ok(())
    }

    /// An object of the request's version in another one, where it must be valid (`versionConverter.Convert`); `None`
    /// for versions that there are not.
    fn convert(&self, object: &Object, version: &str) -> Result<Option<(Object, Place<'_>)>, Status> {
        let Some(converted) = self.versions.convert(object, version)? else { return Ok(None) };
        let Some(schema) = self.versions.schema(version) else { return Ok(None) };
        let root = Place::root(schema);
        let problems = walk::validate(root, &Value::Object(converted.0.clone()), false);
        match problems.is_empty() {
            true => Ok(Some((converted, root))),
            false => Err(Status::new(500, "", join(&problems))),
        }
    }

    /// What changed, as each version that an entry is of sees it, without what the strategy resets; `None` for versions
    /// that there are not.
    fn changes(
        &self,
        old: &Object,
        new: &Object,
        whole: &Comparison,
        managers: &Managers,
        applier: Option<&Manager>,
    ) -> Result<BTreeMap<String, Option<Comparison>>, Status> {
        let mut versions = BTreeMap::new();
        let reset = FieldSet::of_fields(self.reset);
        versions.insert(self.gvk.api_version(), Some(whole.clone().without(&reset)));
        for owned in managers.iter().filter(|(m, _)| applier != Some(*m)).map(|(_, owned)| owned) {
            if versions.contains_key(&owned.api_version) {
                continue;
            }
            let version = owned.api_version.as_str();
            let old = self.convert(old, version).map_err(|e| about("failed to convert old object", &e))?;
            let new = self.convert(new, version).map_err(|e| about("failed to convert new object", &e))?;
            let compared = old.zip(new).map(|((old, root), (new, _))| {
                let change = walk::compare(root, &old.0, &new.0);
                if self.resets_versions { change.without(&reset) } else { change }
            });
            versions.insert(owned.api_version.clone(), compared);
        }
        Ok(versions)
    }

    /// `structuredMergeManager.Apply` with `Updater.Apply` and what wraps them.
    pub(super) fn apply_once(
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
        self.reconcile(live, &mut managers)?;
        let merged = walk::merge(root, &before, &config)
            .map_err(|e| Status::new(500, "", format!("failed to merge config: {e}")))?;
        let set = walk::field_set(root, &config).recursive_difference(&FieldSet::of_fields(self.reset));
        let manager = self.manager(name, Operation::Apply);
        let last = managers.get(&manager).cloned();
        let owned =
            Owned { set, api_version: self.gvk.api_version(), time: last.as_ref().and_then(|l| l.time.clone()) };
        managers.insert(manager.clone(), owned);
        let pruned = match &last {
            Some(last) if !last.set.is_empty() => {
                self.prune(merged, &managers, last).map_err(|e| about("failed to prune fields", &e))?
            }
            _ => merged,
        };
        let after = Object::from_value(pruned.clone()).unwrap_or_default();
        let whole = walk::compare(root, &live.0, &after.0);
        let changes = self.changes(live, &after, &whole, &managers, Some(&manager))?;
        if !force {
            let conflicts = conflicts(&managers, &manager, &changes);
            if !conflicts.is_empty() {
                return Err(ApplyError::Conflicts(conflicts));
            }
        }
        take(&mut managers, Some(&manager), &changes);
        let unchanged = crate::patch::equal(&before, &pruned);
        if let Some(owned) = managers.get_mut(&manager) {
            owned.set = owned.set.difference(&FieldSet::of_fields(super::UNOWNED));
            if !unchanged {
                owned.time = Some(managed::time_text(self.now));
            }
        }
        managers.retain(|_, owned| !owned.set.is_empty());
        let object = if unchanged {
            before
        } else if self.keeps_nulls {
            pruned
        } else {
            without_nulls(root, pruned)
        };
        let object = Object::from_value(object).unwrap_or_default();
        Ok((object, managers))
    }

    /// A value of one version in another, with that version's place; `None` for versions that there are not. The same
    /// value where the versions are the same.
    fn at<'s>(&'s self, value: &Value, from: &str, to: &str) -> Result<Option<(Value, Place<'s>)>, Status> {
        let own = to == self.gvk.api_version();
        let Some(schema) = (if own { Some(self.schema) } else { self.versions.schema(to) }) else { return Ok(None) };
        if from == to {
            return Ok(Some((value.clone(), Place::root(schema))));
        }
        let object = Object::from_value(value.clone()).unwrap_or_default();
        Ok(self.versions.convert(&object, to)?.map(|object| (object.into_value(), Place::root(schema))))
    }

    /// Removes what the applier applied last time, does not apply now, and nobody else owns (`Updater.prune`).
    fn prune(&self, merged: Value, managers: &Managers, last: &Owned) -> Result<Value, Status> {
        let own = self.gvk.api_version();
        let Some((pruned, version)) = self.pruned(&merged, managers, last)? else { return Ok(merged) };
        Ok(self.at(&pruned, &version, &own)?.map_or(merged, |(pruned, _)| pruned))
    }

    /// The pruned value, and the version that it is in. `None` where that of the last apply is no more.
    fn pruned(&self, merged: &Value, managers: &Managers, last: &Owned) -> Result<Option<(Value, String)>, Status> {
        let own = self.gvk.api_version();
        let to_last = "failed to convert merged object to last applied version";
        let Some((mut merged, root)) = self.at(merged, &own, &last.api_version).map_err(|e| about(to_last, &e))? else {
            return Ok(None);
        };
        let mut pruned = walk::remove(root, &merged, &walk::with_named_fields(Some(root), &last.set));
        let mut version = last.api_version.clone();
        let mut owned: BTreeMap<&str, FieldSet> = BTreeMap::new();
        for manager in managers.values() {
            owned.entry(&manager.api_version).or_default().add_all(&manager.set);
        }
        // Back comes what somebody owns, first in the version of the last apply, …
        let first = owned.remove(last.api_version.as_str()).map(|set| (last.api_version.as_str(), set));
        for (at, set) in first.into_iter().chain(owned) {
            let fail = |what: &str, error: &Status| {
                about(&format!("failed add back owned items: failed to convert {what} object at version {at}"), error)
            };
            let whole = self.at(&merged, &version, at).map_err(|e| fail("merged", &e))?;
            let less = self.at(&pruned, &version, at).map_err(|e| fail("pruned", &e))?;
            let Some(((whole, root), (less, _))) = whole.zip(less) else { continue };
            let named = |set: &FieldSet| walk::with_named_fields(Some(root), set);
            let kept = named(&walk::field_set(root, &less)).union(&named(&set));
            let gone = named(&walk::field_set(root, &whole)).difference(&kept);
            (pruned, merged) = (walk::remove(root, &whole, &gone), whole);
            at.clone_into(&mut version);
        }
        // … and what was not the applier's before.
        let fail = |error: Status| {
            about("failed add back dangling items: failed to convert pruned object to last applied version", &error)
        };
        let whole = self.at(&merged, &version, &last.api_version).map_err(fail)?;
        let less = self.at(&pruned, &version, &last.api_version).map_err(fail)?;
        let Some(((whole, root), (less, _))) = whole.zip(less) else { return Ok(None) };
        let named = |set: &FieldSet| walk::with_named_fields(Some(root), set);
        let gone = named(&walk::field_set(root, &whole)).difference(&named(&walk::field_set(root, &less)));
        let pruned = walk::remove(root, &whole, &gone.intersection(&named(&last.set)));
        Ok(Some((pruned, last.api_version.clone())))
    }
}

/// A failure with what failed before its text.
fn about(what: &str, error: &Status) -> Status {
    Status::new(500, "", format!("{what}: {}", error.message))
}

/// What changed leaves the sets of all managers but `applier`; managers with nothing left go, and those whose version
/// there is no more.
fn take(managers: &mut Managers, applier: Option<&Manager>, changes: &BTreeMap<String, Option<Comparison>>) {
    managers.retain(|manager, owned| {
        if applier != Some(manager) {
            let Some(Some(change)) = changes.get(&owned.api_version) else { return false };
            owned.set = owned.set.difference(&change.modified.union(&change.added)).difference(&change.removed);
        }
        !owned.set.is_empty()
    });
}

fn conflicts(managers: &Managers, applier: &Manager, changes: &BTreeMap<String, Option<Comparison>>) -> Vec<Conflict> {
    let mut conflicts = Vec::new();
    let mut others: Vec<(&Manager, &Owned)> = managers.iter().filter(|(m, _)| *m != applier).collect();
    // Upstream sorts by the JSON text of the entry, in which a subresource comes before the end.
    others.sort_by_key(|(m, _)| (&m.name, m.operation, &m.api_version, m.subresource.is_empty(), &m.subresource));
    for (manager, owned) in others {
        let Some(Some(change)) = changes.get(&owned.api_version) else { continue };
        for path in owned.set.intersection(&change.modified.union(&change.added)).paths() {
            conflicts.push(Conflict { manager: manager.clone(), owned: owned.clone(), path });
        }
    }
    conflicts
}

/// Members that are null go, where the schema says what they are.
fn without_nulls(at: Place<'_>, value: Value) -> Value {
    match (at.kind, value) {
        (Kind::Struct(_) | Kind::Map(_), Value::Object(members)) => {
            // In a map, a member that is null is there: decoding makes it the empty value of its type.
            let map = matches!(at.kind, Kind::Map(_));
            let kept = members.into_iter().filter(|(_, v)| map || !v.is_null()).map(|(name, child)| {
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
