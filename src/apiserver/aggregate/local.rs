//! The APIServices of what this server serves itself (kube-aggregator `pkg/controllers/autoregister`,
//! `pkg/controlplane/controller/crdregistration`).

use std::collections::BTreeMap;

use api::Object;
use serde_json::{Value, json};

use super::priorities::{self, Priority};
use crate::served::KindTable;

/// How an APIService wants to be kept.
const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
const ON_START: &str = "onstart";
const ALWAYS: &str = "true";

/// An APIService that there should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    group: String,
    version: String,
    priority: Priority,
    /// Of a custom resource: kept as it is at all times, not only from the start.
    always: bool,
}

/// What is to be done for one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    Nothing,
    Create,
    Update,
    Delete,
}

impl Wanted {
    pub fn name(&self) -> String {
        format!("{}.{}", self.version, self.group)
    }

    pub fn spec(&self) -> Value {
        let mut spec = json!({
            "version": self.version, "groupPriorityMinimum": self.priority.group,
            "versionPriority": self.priority.version,
        });
        if !self.group.is_empty() {
            spec["group"] = self.group.as_str().into();
        }
        spec
    }

    pub fn object(&self) -> Object {
        let managed = if self.always { ALWAYS } else { ON_START };
        Object::from_value(json!({
            "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
            "metadata": {"name": self.name(), "labels": {MANAGED: managed}}, "spec": self.spec(),
        }))
        .unwrap_or_default()
    }
}

/// The APIServices of everything in the table. Versions that upstream gives no priority have none.
pub(super) fn wanted(table: &KindTable) -> BTreeMap<String, Wanted> {
    let mut all = BTreeMap::new();
    for served in &table.all {
        let gvk = &served.def.gvk;
        let always = served.def.custom.is_some();
        let priority = match priorities::built_in(&gvk.group, &gvk.version) {
            _ if gvk.group == priorities::FIRST => None,
            _ if always => Some(priorities::CUSTOM),
            priority => priority,
        };
        let Some(priority) = priority else { continue };
        let entry = Wanted { group: gvk.group.clone(), version: gvk.version.clone(), priority, always };
        all.insert(entry.name(), entry);
    }
    all
}

/// `checkAPIService`. `settled`: this name was put right before; `was_there`: it existed when the server started.
pub(super) fn plan(wanted: Option<&Wanted>, current: Option<&Object>, settled: bool, was_there: bool) -> Action {
    let once = |wanted: &Wanted| !wanted.always && settled;
    let Some(current) = current else {
        return match wanted {
            Some(wanted) if !once(wanted) => Action::Create,
            _ => Action::Nothing,
        };
    };
    if wanted.is_some_and(once) {
        return Action::Nothing;
    }
    match current.label(MANAGED) {
        Some(ON_START) if !was_there || settled => return Action::Nothing,
        Some(ON_START | ALWAYS) => {}
        _ => return Action::Nothing,
    }
    match wanted {
        None => Action::Delete,
        Some(wanted) if current.get(&["spec"]) == Some(&wanted.spec()) => Action::Nothing,
        Some(_) => Action::Update,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(always: bool) -> Wanted {
        Wanted { group: "a.io".to_owned(), version: "v1".to_owned(), priority: priorities::CUSTOM, always }
    }

    /// Columns of upstream's table: not wanted, wanted on start, wanted always.
    fn check(current: Option<&Object>, settled: bool, was_there: bool, want: [Action; 3]) {
        let (start, always) = (entry(false), entry(true));
        let got = [None, Some(&start), Some(&always)].map(|wanted| plan(wanted, current, settled, was_there));
        assert_eq!(got, want);
    }

    #[test]
    fn the_plan_follows_upstreams_table() {
        use Action::{Create, Delete, Nothing, Update};
        let object = |managed: Option<&str>| {
            let mut object = entry(true).object();
            object.set(&["spec", "versionPriority"], 7);
            match managed {
                Some(value) => object.set(&["metadata", "labels", MANAGED], value),
                None => drop(object.remove(&["metadata", "labels"])),
            }
            object
        };
        check(None, false, false, [Nothing, Create, Create]);
        check(None, true, false, [Nothing, Nothing, Create]);
        check(Some(&object(None)), false, true, [Nothing, Nothing, Nothing]);
        check(Some(&object(Some(ON_START))), false, false, [Nothing, Nothing, Nothing]);
        check(Some(&object(Some(ON_START))), false, true, [Delete, Update, Update]);
        check(Some(&object(Some(ON_START))), true, true, [Nothing, Nothing, Nothing]);
        check(Some(&object(Some(ALWAYS))), false, true, [Delete, Update, Update]);
        check(Some(&object(Some(ALWAYS))), true, true, [Delete, Nothing, Update]);
    }
}
