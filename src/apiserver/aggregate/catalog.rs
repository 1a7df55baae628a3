//! Which groups and versions there are, ours and others', in discovery's order.

use std::collections::HashMap;

use api::names::compare_versions;

use super::Snapshot;
use super::priorities::{self, Priority};
use crate::served::KindTable;

/// Who serves a version.
pub(crate) enum Source {
    Local,
    Remote,
}

pub(crate) struct Version {
    pub name: String,
    pub source: Source,
    priority: Priority,
}

pub(crate) struct Group {
    pub name: String,
    /// The preferred one first.
    pub versions: Vec<Version>,
}

/// Every group.
pub(crate) struct Catalog {
    pub groups: Vec<Group>,
}

impl Catalog {
    /// Groups by their highest priority, then by name; versions by priority, then as versions compare
    /// (apiserver `endpoints/discovery/aggregated/handler.go` `calculateAPIGroupsLocked`).
    pub fn new(table: &KindTable, snapshot: &Snapshot) -> Self {
        let mut found: HashMap<&str, HashMap<&str, Version>> = HashMap::new();
        for served in &table.all {
            let gvk = &served.def.gvk;
            found.entry(&gvk.group).or_default().entry(&gvk.version).or_insert_with(|| {
                let registered = snapshot.priorities.get(&(gvk.group.clone(), gvk.version.clone())).copied();
                let priority =
                    registered.or_else(|| priorities::built_in(&gvk.group, &gvk.version)).unwrap_or(priorities::CUSTOM);
                Version { name: gvk.version.clone(), source: Source::Local, priority }
            });
        }
        for remote in snapshot.all() {
            let version = Version { name: remote.version.clone(), source: Source::Remote, priority: remote.priority };
            found.entry(&remote.group).or_default().insert(&remote.version, version);
        }
        let mut groups: Vec<(i64, Group)> = found
            .into_iter()
            .map(|(name, versions)| {
                let mut versions: Vec<Version> = versions.into_values().collect();
                versions.sort_by(|a, b| {
                    let by_priority = b.priority.version.cmp(&a.priority.version);
                    by_priority.then_with(|| compare_versions(&b.name, &a.name))
                });
                let highest = versions.iter().map(|v| v.priority.group).max().unwrap_or_default();
                (highest, Group { name: name.to_owned(), versions })
            })
            .collect();
        groups.sort_by(|(a_priority, a), (b_priority, b)| {
            let first = (b.name == priorities::FIRST).cmp(&(a.name == priorities::FIRST));
            first.then_with(|| b_priority.cmp(a_priority)).then_with(|| a.name.cmp(&b.name))
        });
        Self { groups: groups.into_iter().map(|(_, group)| group).collect() }
    }

    pub fn group(&self, name: &str) -> Option<&Group> {
        self.groups.iter().find(|g| g.name == name)
    }
}
