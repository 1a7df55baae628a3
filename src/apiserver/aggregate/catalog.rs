//! Which groups and versions there are, ours and others', in discovery's order.

use std::cmp::Reverse;
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
    /// The highest of its versions.
    priority: i64,
}

impl Group {
    /// The name of its first APIService: of those with the highest priority, as names compare.
    fn service(&self) -> String {
        let highest = self.versions.iter().filter(|v| v.priority.group == self.priority);
        highest.map(|v| format!("{}.{}", v.name, self.name)).min().unwrap_or_default()
    }
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
        let mut groups: Vec<Group> = found
            .into_iter()
            .map(|(name, versions)| {
                let mut versions: Vec<Version> = versions.into_values().collect();
                versions.sort_by(|a, b| {
                    let by_priority = b.priority.version.cmp(&a.priority.version);
                    by_priority.then_with(|| compare_versions(&b.name, &a.name))
                });
                let priority = versions.iter().map(|v| v.priority.group).max().unwrap_or_default();
                Group { name: name.to_owned(), versions, priority }
            })
            .collect();
        groups.sort_by(|a, b| rank(a).cmp(&rank(b)).then_with(|| a.name.cmp(&b.name)));
        Self { groups }
    }

    /// Every named group in the order of the list that is not aggregated: by their highest priority, then by the names of
    /// their APIServices, which begin with the version (kube-aggregator `SortedByGroupAndVersion`).
    pub fn listed(&self) -> Vec<&Group> {
        let mut groups: Vec<&Group> = self.groups.iter().filter(|g| !g.name.is_empty()).collect();
        groups.sort_by_cached_key(|group| (rank(group), group.service()));
        groups
    }

    pub fn group(&self, name: &str) -> Option<&Group> {
        self.groups.iter().find(|g| g.name == name)
    }
}

/// Groups with a lower one come first.
fn rank(group: &Group) -> (bool, Reverse<i64>) {
    (group.name != priorities::FIRST, Reverse(group.priority))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plain_list_is_in_the_order_of_the_names_of_services() {
        let version =
            |name: &str| Version { name: name.to_owned(), source: Source::Local, priority: priorities::CUSTOM };
        let group = |name: &str, versions: &[&str], priority| Group {
            name: name.to_owned(),
            versions: versions.iter().map(|v| version(v)).collect(),
            priority,
        };
        let catalog = Catalog {
            groups: vec![
                group("", &["v1"], 18000),
                group("argoproj.io", &["v1alpha1"], 1000),
                group("cert-manager.io", &["v1"], 1000),
                group("kyverno.io", &["v2", "v1"], 1000),
                group("late.io", &["v1"], 100),
                group(priorities::FIRST, &["v1"], 18000),
            ],
        };
        let names: Vec<&str> = catalog.listed().iter().map(|g| g.name.as_str()).collect();
        assert_eq!(names, [priorities::FIRST, "cert-manager.io", "kyverno.io", "argoproj.io", "late.io"]);
    }
}
