//! The conditions that say why a namespace is still there (`namespace/deletion/status_condition_utils.go`). Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::discovery::ApiResource;
use crate::error::Error;

const TYPES: [(&str, &str, &str); 5] = [
    ("NamespaceDeletionDiscoveryFailure", "ResourcesDiscovered", "All resources successfully discovered"),
    ("NamespaceDeletionGroupVersionParsingFailure", "ParsedGroupVersions", "All legacy kube types successfully parsed"),
    (
        "NamespaceDeletionContentFailure",
        "ContentDeleted",
        "All content successfully deleted, may be waiting on finalization",
    ),
    ("NamespaceContentRemaining", "ContentRemoved", "All content successfully removed"),
    ("NamespaceFinalizersRemaining", "ContentHasNoFinalizers", "All content-preserving finalizers finished"),
];

/// Conditions that are true; the others are false.
#[derive(Default)]
pub(super) struct Conditions(BTreeMap<&'static str, (&'static str, String)>);

impl Conditions {
    pub(super) fn discovery_failed(&mut self, failures: &[String]) {
        if !failures.is_empty() {
            let message =
                format!("Discovery failed for some groups, {} failing: {}", failures.len(), failures.join(", "));
            self.0.insert(TYPES[0].0, ("DiscoveryFailed", message));
        }
    }

    pub(super) fn content_failed(&mut self, failures: &[Error]) {
        if !failures.is_empty() {
            let mut texts: Vec<String> = failures.iter().map(|e| base::chain(e).to_string()).collect();
            texts.sort();
            let message =
                format!("Failed to delete all resource types, {} remaining: {}", texts.len(), texts.join(", "));
            self.0.insert(TYPES[2].0, ("ContentDeletionFailed", message));
        }
    }

    /// What is left: resource, count, and how many have which finalizer.
    pub(super) fn remaining(&mut self, rest: &[(&ApiResource, usize, &BTreeMap<String, usize>)]) {
        let mut resources: Vec<String> = rest
            .iter()
            .map(|(r, count, _)| format!("{}.{} has {count} resource instances", r.resource, r.group))
            .collect();
        if resources.is_empty() {
            return;
        }
        resources.sort();
        let message = format!("Some resources are remaining: {}", resources.join(", "));
        self.0.insert(TYPES[3].0, ("SomeResourcesRemain", message));
        let mut finalizers: BTreeMap<&str, usize> = BTreeMap::new();
        for (name, count) in rest.iter().flat_map(|(_, _, f)| f.iter()) {
            *finalizers.entry(name).or_insert(0) += count;
        }
        if !finalizers.is_empty() {
            let list: Vec<String> =
                finalizers.iter().map(|(name, count)| format!("{name} in {count} resource instances")).collect();
            let message = format!("Some content in the namespace has finalizers remaining: {}", list.join(", "));
            self.0.insert(TYPES[4].0, ("SomeFinalizersRemain", message));
        }
    }

    /// Puts them into the namespace; true if something changed.
    pub(super) fn apply(&self, namespace: &mut Namespace, now: Timestamp) -> bool {
        let conditions = namespace.status.get_or_insert_default().conditions.get_or_insert_default();
        let mut changed = false;
        for (kind, ok_reason, ok_message) in TYPES {
            let (status, reason, message) = match self.0.get(kind) {
                Some((reason, message)) => ("True", *reason, message.as_str()),
                None => ("False", ok_reason, ok_message),
            };
            let wanted = NamespaceCondition {
                type_: kind.to_owned(),
                status: status.to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message.to_owned()),
                last_transition_time: Some(Time(now)),
            };
            match conditions.iter_mut().find(|c| c.type_ == kind) {
                None => {
                    conditions.push(wanted);
                    changed = true;
                }
                Some(c) if c.status != wanted.status || c.reason != wanted.reason || c.message != wanted.message => {
                    let since = if c.status == wanted.status { c.last_transition_time.clone() } else { None };
                    *c = wanted;
                    if since.is_some() {
                        c.last_transition_time = since;
                    }
                    changed = true;
                }
                Some(_) => {}
            }
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_say_what_remains_and_settle() {
        let resource = ApiResource {
            group: "apps".into(),
            version: "v1".into(),
            resource: "deployments".into(),
            kind: "Deployment".into(),
            namespaced: true,
            verbs: Vec::new(),
        };
        let finalizers = BTreeMap::from([("x/y".to_owned(), 2)]);
        let mut conditions = Conditions::default();
        conditions.remaining(&[(&resource, 3, &finalizers)]);
        let mut namespace = Namespace::default();
        assert!(conditions.apply(&mut namespace, Timestamp::UNIX_EPOCH));
        assert!(!conditions.apply(&mut namespace, Timestamp::MAX), "the same again is no change");
        let find = |namespace: &Namespace, kind: &str| {
            let conditions = namespace.status.as_ref().unwrap().conditions.as_ref().unwrap();
            conditions.iter().find(|c| c.type_ == kind).cloned().unwrap()
        };
        let message = find(&namespace, "NamespaceContentRemaining").message.unwrap();
        assert_eq!(message, "Some resources are remaining: deployments.apps has 3 resource instances");
        assert_eq!(
            find(&namespace, "NamespaceFinalizersRemaining").message.unwrap(),
            "Some content in the namespace has finalizers remaining: x/y in 2 resource instances"
        );
        assert!(Conditions::default().apply(&mut namespace, Timestamp::UNIX_EPOCH));
        assert_eq!(find(&namespace, "NamespaceContentRemaining").status, "False");
    }
}
