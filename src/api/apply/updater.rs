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
        if whole.unreadable {
            return false;
        }
        let changes = self.changes(old, new, &whole, managers, None);
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

    /// What changed, as each version that an entry is of sees it, without what the strategy resets; `None` for versions
    /// that there are not, unreadable where the objects are not valid in a version.
    fn changes(
        &self,
        old: &Object,
        new: &Object,
        whole: &Comparison,
        managers: &Managers,
        applier: Option<&Manager>,
    ) -> BTreeMap<String, Option<Comparison>> {
        let mut versions = BTreeMap::new();
        let reset = FieldSet::of_fields(self.reset);
        versions.insert(self.gvk.api_version(), Some(whole.clone().without(&reset)));
        for owned in managers.iter().filter(|(m, _)| applier != Some(*m)).map(|(_, owned)| owned) {
            if versions.contains_key(&owned.api_version) {
                continue;
            }
            let version = owned.api_version.as_str();
            let compared = || {
                let schema = self.versions.schema(version)?;
                let (old, new) = (self.versions.convert(old, version)?, self.versions.convert(new, version)?);
                let root = Place::root(schema);
                let mut change = walk::compare(root, &old.0, &new.0);
                // What is converted must be valid, without items that are there twice (`versionConverter.Convert`).
                let valid = |object: &Object| walk::validate(root, &Value::Object(object.0.clone()), false).is_empty();
                change.unreadable |= !valid(&old) || !valid(&new);
                Some(if self.resets_versions { change.without(&reset) } else { change })
            };
            versions.insert(owned.api_version.clone(), compared());
        }
        versions
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
        let merged = walk::merge(root, &before, &config)
            .map_err(|e| Status::new(500, "", format!("failed to merge config: {e}")))?;
        let set = walk::field_set(root, &config).recursive_difference(&FieldSet::of_fields(self.reset));
        let manager = self.manager(name, Operation::Apply);
        let last = managers.get(&manager).cloned();
        let owned =
            Owned { set, api_version: self.gvk.api_version(), time: last.as_ref().and_then(|l| l.time.clone()) };
        managers.insert(manager.clone(), owned);
        let pruned = match &last {
            Some(last) if !last.set.is_empty() => self.prune(merged, &managers, last),
            _ => merged,
        };
        let after = Object::from_value(pruned.clone()).unwrap_or_default();
        let whole = walk::compare(root, &live.0, &after.0);
        let changes = self.changes(live, &after, &whole, &managers, Some(&manager));
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

    /// A value of one version in another, with that version's place. The same value where the versions are the same.
    fn at<'s>(&'s self, value: &Value, from: &str, to: &str) -> Option<(Value, Place<'s>)> {
        let schema = if to == self.gvk.api_version() { self.schema } else { self.versions.schema(to)? };
        if from == to {
            return Some((value.clone(), Place::root(schema)));
        }
        let object = Object::from_value(value.clone())?;
        Some((self.versions.convert(&object, to)?.into_value(), Place::root(schema)))
    }

    /// Removes what the applier applied last time, does not apply now, and nobody else owns (`Updater.prune`).
    fn prune(&self, merged: Value, managers: &Managers, last: &Owned) -> Value {
        let own = self.gvk.api_version();
        let pruned =
            self.pruned(&merged, managers, last).and_then(|(pruned, version)| self.at(&pruned, &version, &own));
        pruned.map_or(merged, |(pruned, _)| pruned)
    }

    /// The pruned value, and the version that it is in. `None` where that of the last apply is no more.
    fn pruned(&self, merged: &Value, managers: &Managers, last: &Owned) -> Option<(Value, String)> {
        let own = self.gvk.api_version();
        let (mut merged, root) = self.at(merged, &own, &last.api_version)?;
        let mut pruned = walk::remove(root, &merged, &walk::with_named_fields(Some(root), &last.set));
        let mut version = last.api_version.clone();
        let mut owned: BTreeMap<&str, FieldSet> = BTreeMap::new();
        for manager in managers.values() {
            owned.entry(&manager.api_version).or_default().add_all(&manager.set);
        }
        // Back comes what somebody owns, first in the version of the last apply, …
        let first = owned.remove(last.api_version.as_str()).map(|set| (last.api_version.as_str(), set));
        for (at, set) in first.into_iter().chain(owned) {
            let (Some((whole, root)), Some((less, _))) =
                (self.at(&merged, &version, at), self.at(&pruned, &version, at))
            else {
                continue;
            };
            let named = |set: &FieldSet| walk::with_named_fields(Some(root), set);
            let kept = named(&walk::field_set(root, &less)).union(&named(&set));
            let gone = named(&walk::field_set(root, &whole)).difference(&kept);
            (pruned, merged) = (walk::remove(root, &whole, &gone), whole);
            at.clone_into(&mut version);
        }
        // … and what was not the applier's before.
        let (whole, root) = self.at(&merged, &version, &last.api_version)?;
        let (less, _) = self.at(&pruned, &version, &last.api_version)?;
        let named = |set: &FieldSet| walk::with_named_fields(Some(root), set);
        let gone = named(&walk::field_set(root, &whole)).difference(&named(&walk::field_set(root, &less)));
        let pruned = walk::remove(root, &whole, &gone.intersection(&named(&last.set)));
        Some((pruned, last.api_version.clone()))
    }
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
