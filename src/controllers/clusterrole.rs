//! Fills aggregated ClusterRoles with the rules of those they select (`pkg/controller/clusterroleaggregation`).

use std::sync::Arc;

use api::names::ObjectKey;
use async_trait::async_trait;
use client::{Informer, Patch, Resource, WorkQueue};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use serde_json::json;

use crate::error::Error;
use crate::harness::{Context, Parts, Reconcile, all_synced, synced};
use crate::selector::Selector;

pub(crate) fn start(context: Context) {
    let roles = context.informers.informer::<ClusterRole>();
    let queue = WorkQueue::new();
    // Any role may be selected by any aggregating one.
    let add_all: crate::harness::AddAll = {
        let (roles, queue) = (roles.clone(), queue.clone());
        Arc::new(move || {
            for role in roles.list() {
                if role.aggregation_rule.is_some() {
                    queue.add(ObjectKey::new("", role.name()));
                }
            }
        })
    };
    context.feed(&roles, &add_all, {
        let add_all = Arc::clone(&add_all);
        move |_| add_all()
    });
    let reconciler = Arc::new(Reconciler { roles: roles.clone(), context: context.parts() });
    context.work(reconciler, queue, 1, all_synced(vec![synced(&roles)]));
}

struct Reconciler {
    roles: Informer<ClusterRole>,
    context: Parts,
}

#[async_trait]
impl Reconcile for Reconciler {
    async fn reconcile(&self, key: &ObjectKey) -> Result<(), Error> {
        let Some(role) = self.roles.get("", &key.name) else { return Ok(()) };
        let mut all = self.roles.list();
        all.sort_by(|a, b| a.name().cmp(b.name()));
        let Some(rules) = aggregate(&role, &all) else { return Ok(()) };
        if role.rules.as_deref().unwrap_or_default() == rules {
            return Ok(());
        }
        let patch = Patch::Apply {
            manager: "clusterrole-aggregation-controller".to_owned(),
            force: true,
            object: json!({
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRole",
                "metadata": {"name": key.name},
                "rules": rules,
            }),
        };
        self.context.client.patch::<ClusterRole>("", &key.name, &patch).await?;
        Ok(())
    }
}

/// The rules of the selected roles, each once; `None` for a role that does not aggregate.
fn aggregate(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Option<Vec<PolicyRule>> {
    let selectors = role.aggregation_rule.as_ref()?.cluster_role_selectors.as_deref().unwrap_or_default();
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in selectors.iter().filter_map(Selector::new) {
        for other in all.iter().filter(|o| o.name() != role.name() && selector.matches(o.metadata.labels.as_ref())) {
            for rule in other.rules.iter().flatten() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    Some(rules)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rules_of_selected_roles_are_united() {
        let role = |name: &str, label: &str, verb: &str| -> Arc<ClusterRole> {
            Arc::new(
                serde_json::from_value(
                    json!({"metadata": {"name": name, "labels": {label: "true"}}, "rules": [{"verbs": [verb]}]}),
                )
                .unwrap(),
            )
        };
        let sum: ClusterRole = serde_json::from_value(
            json!({"metadata": {"name": "sum"}, "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"x": "true"}}]}}),
        )
        .unwrap();
        let all = [role("a", "x", "get"), role("b", "x", "get"), role("c", "x", "list"), role("d", "y", "delete")];
        let verbs: Vec<_> = aggregate(&sum, &all).unwrap().into_iter().map(|r| r.verbs).collect();
        assert_eq!(verbs, [vec!["get"], vec!["list"]]);
        assert!(aggregate(&ClusterRole::default(), &all).is_none());
    }
}
