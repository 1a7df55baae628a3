//! Nobody gives out more than they have (`pkg/registry/rbac/*/policybased`, `rbac/validation.ConfirmNoEscalation`).
//!
//! A role may only be written by somebody who holds all of its rules or may `escalate`; a binding by somebody who holds
//! the rules of its role or may `bind` it. Superusers (`system:masters`) may do both.

use std::collections::{BTreeMap, BTreeSet};

use api::kind::{Pending, WriteHook};
use api::services::{ActionContext, AuthorizationAttributes};
use api::user::MASTERS;
use api::{GroupResource, Gvr, Object, Status};
use async_trait::async_trait;
use serde_json::{Value, json};

use crate::json::{Json, same};

use super::GROUP;

/// The hook of one of the four kinds.
pub(super) struct Guard {
    /// Plural.
    pub resource: &'static str,
}

#[async_trait]
impl WriteHook for Guard {
    async fn begin(
        &self,
        ctx: &ActionContext<'_>,
        object: &mut Object,
        old: Option<&Object>,
    ) -> Result<Box<dyn Pending>, Status> {
        if ctx.user.in_group(MASTERS) || old.is_some_and(|old| only_collected(object, old)) {
            return Ok(Box::new(()));
        }
        if matches!(self.resource, "roles" | "clusterroles") {
            self.role(ctx, object, old).await?;
        } else {
            self.binding(ctx, object).await?;
        }
        Ok(Box::new(()))
    }

    async fn deleted(&self, _: &Object) {}
}

/// `IsOnlyMutatingGCFields`: owners and finalizers may change without any right to the rules.
fn only_collected(object: &Object, old: &Object) -> bool {
    let strip = |object: &Object| {
        let mut object = object.clone();
        for field in ["ownerReferences", "finalizers", "managedFields", "resourceVersion", "generation"] {
            object.remove(&["metadata", field]);
        }
        object.into_value()
    };
    same(&strip(object), &strip(old))
}

impl Guard {
    fn forbidden(&self, name: &str, why: &str) -> Status {
        Status::forbidden(&GroupResource::new(GROUP, self.resource), name, why)
    }

    async fn role(&self, ctx: &ActionContext<'_>, object: &Object, old: Option<&Object>) -> Result<(), Status> {
        let (name, namespace) = (object.name(), object.namespace());
        if may(ctx, "escalate", self.resource, namespace, if old.is_some() { name } else { "" }).await {
            return Ok(());
        }
        let held = held(ctx, namespace).await;
        refuse(ctx, &held, object.list("rules")).map_err(|why| self.forbidden(name, &why))?;
        let aggregates = |o: &Object| o.at("aggregationRule").count("clusterRoleSelectors") > 0;
        if aggregates(object) || old.is_some_and(aggregates) {
            // It could gather anything.
            let all = [
                json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}),
                json!({"verbs": ["*"], "nonResourceURLs": ["*"]}),
            ];
            refuse(ctx, &held, &all)
                .map_err(|_| self.forbidden(name, "must have cluster-admin privileges to use the aggregationRule"))?;
        }
        Ok(())
    }

    async fn binding(&self, ctx: &ActionContext<'_>, object: &Object) -> Result<(), Status> {
        let namespace = object.namespace();
        let reference = object.at("roleRef");
        let (resource, scope) = match reference.text("kind") {
            "Role" => ("roles", namespace),
            "ClusterRole" => ("clusterroles", ""),
            other => return Err(Status::new(500, "", format!("unsupported role reference kind: {other:?}"))),
        };
        let role = reference.text("name");
        if may(ctx, "bind", resource, namespace, role).await {
            return Ok(());
        }
        // Upstream names the binding's resource with the role's name.
        let missing = |status: Status| {
            let own = || Status::not_found(&GroupResource::new(GROUP, self.resource), role);
            if status.is_not_found() { own() } else { status }
        };
        let found = ctx.registry.get(&Gvr::new(GROUP, "v1", resource), scope, role).await.map_err(missing)?;
        let held = held(ctx, namespace).await;
        refuse(ctx, &held, found.list("rules")).map_err(|why| self.forbidden(object.name(), &why))
    }
}

async fn may(ctx: &ActionContext<'_>, verb: &str, resource: &str, namespace: &str, name: &str) -> bool {
    let attributes = AuthorizationAttributes {
        verb: verb.to_owned(),
        is_resource: true,
        group: GROUP.to_owned(),
        version: "*".to_owned(),
        resource: resource.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        ..AuthorizationAttributes::default()
    };
    ctx.authorizer.authorize(ctx.user, &attributes).await.allowed()
}

/// Every rule that the user has there.
async fn held(ctx: &ActionContext<'_>, namespace: &str) -> Vec<Value> {
    let (mut rules, paths, _) = ctx.authorizer.rules(ctx.user, namespace).await;
    rules.extend(paths);
    rules
}

fn refuse(ctx: &ActionContext<'_>, held: &[Value], wanted: &[Value]) -> Result<(), String> {
    let missing = uncovered(held, wanted);
    if missing.is_empty() {
        return Ok(());
    }
    let groups: Vec<String> = ctx.user.groups.iter().map(|g| format!("{g:?}")).collect();
    Err(format!(
        "user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
        ctx.user.name,
        groups.join(" "),
        missing.into_iter().collect::<Vec<_>>().join("\n")
    ))
}

/// One verb on one thing.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Grant<'r> {
    Resource { group: &'r str, resource: &'r str, name: Option<&'r str> },
    Path(&'r str),
}

fn strings<'r>(rule: &'r Value, member: &str) -> Vec<&'r str> {
    rule.list(member).iter().filter_map(Value::as_str).collect()
}

/// `BreakdownRule`.
fn grants(rule: &Value) -> Vec<Grant<'_>> {
    let mut all: Vec<Grant<'_>> = strings(rule, "nonResourceURLs").into_iter().map(Grant::Path).collect();
    let names: Vec<Option<&str>> = match strings(rule, "resourceNames") {
        names if names.is_empty() => vec![None],
        names => names.into_iter().map(Some).collect(),
    };
    for group in strings(rule, "apiGroups") {
        for resource in strings(rule, "resources") {
            all.extend(names.iter().map(|name| Grant::Resource { group, resource, name: *name }));
        }
    }
    all
}

/// `ruleCovers` of a single grant.
fn covers(rule: &Value, grant: &Grant<'_>, verb: &str) -> bool {
    let verbs = strings(rule, "verbs");
    if !verbs.contains(&"*") && !verbs.contains(&verb) {
        return false;
    }
    match grant {
        Grant::Path(path) => strings(rule, "nonResourceURLs").iter().any(|have| {
            have == path || have.strip_suffix('*').is_some_and(|prefix| path.trim_end_matches('*').starts_with(prefix))
        }),
        Grant::Resource { group, resource, name } => {
            let groups = strings(rule, "apiGroups");
            let resources = strings(rule, "resources");
            let any_sub = resource.split_once('/').map(|(_, sub)| format!("*/{sub}"));
            let names = strings(rule, "resourceNames");
            (groups.contains(&"*") || groups.contains(group))
                && resources.iter().any(|have| *have == "*" || have == resource || Some(*have) == any_sub.as_deref())
                && (names.is_empty() || name.is_some_and(|name| names.contains(&name)))
        }
    }
}

/// What of `wanted` is not in `held`, in upstream's words.
fn uncovered(held: &[Value], wanted: &[Value]) -> BTreeSet<String> {
    let mut missing: BTreeMap<Grant<'_>, Vec<&str>> = BTreeMap::new();
    for rule in wanted {
        for grant in grants(rule) {
            for verb in strings(rule, "verbs") {
                if !held.iter().any(|have| covers(have, &grant, verb)) {
                    let verbs = missing.entry(clone(&grant)).or_default();
                    if !verbs.contains(&verb) {
                        verbs.push(verb);
                    }
                }
            }
        }
    }
    missing.iter().map(|(grant, verbs)| describe(grant, verbs)).collect()
}

fn clone<'r>(grant: &Grant<'r>) -> Grant<'r> {
    match grant {
        Grant::Path(path) => Grant::Path(path),
        Grant::Resource { group, resource, name } => Grant::Resource { group, resource, name: *name },
    }
}

/// `CompactString`.
fn describe(grant: &Grant<'_>, verbs: &[&str]) -> String {
    let verbs: Vec<String> = verbs.iter().map(|v| format!("{v:?}")).collect();
    let verbs = verbs.join(" ");
    match grant {
        Grant::Path(path) => format!("{{NonResourceURLs:[{path:?}], Verbs:[{verbs}]}}"),
        Grant::Resource { group, resource, name: None } => {
            format!("{{APIGroups:[{group:?}], Resources:[{resource:?}], Verbs:[{verbs}]}}")
        }
        Grant::Resource { group, resource, name: Some(name) } => {
            format!("{{APIGroups:[{group:?}], Resources:[{resource:?}], ResourceNames:[{name:?}], Verbs:[{verbs}]}}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_held_is_named() {
        let held = [json!({"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "*/scale"]})];
        let check = |wanted: Value, want: &[&str]| {
            assert_eq!(uncovered(&held, &[wanted]).into_iter().collect::<Vec<_>>(), want);
        };
        check(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["a"]}), &[]);
        check(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["x/scale"]}), &[]);
        check(
            json!({"verbs": ["get", "delete"], "apiGroups": [""], "resources": ["pods", "secrets"]}),
            &[
                "{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\"]}",
                "{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"delete\"]}",
            ],
        );
        check(json!({"verbs": ["get"], "nonResourceURLs": ["/x"]}), &["{NonResourceURLs:[\"/x\"], Verbs:[\"get\"]}"]);
    }

    #[test]
    fn everything_covers_everything() {
        let all = [
            json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}),
            json!({"verbs": ["*"], "nonResourceURLs": ["*"]}),
        ];
        assert!(uncovered(&all, &all).is_empty());
    }
}
