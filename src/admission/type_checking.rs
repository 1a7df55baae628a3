//! Checks the expressions of validating policies against the kinds that they are about, and says in the policy's status
//! what cannot be right (upstream's `validatingadmissionpolicy-status-controller` over
//! `admission/plugin/policy/validating/typechecking.go`).
//!
//! The warnings change nothing about how a policy is applied.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use api::cel::policy::{self as names, Declarations};
use api::cel::{Decl, Env, Type};
use api::services::{Kinds, ServedKind};
use api::{GroupVersion, Gvk};
use base::Shutdown;
use client::k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use client::{Client, Error, Event, Informers, Patch, Resource, WorkQueue};
use serde_json::{Value, json};

/// `maxTypesToCheck`: of one rule.
const TYPES_MAX: usize = 10;
/// Between tries to write a status.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));

/// Keeps the statuses of policies until shutdown.
pub async fn run(client: Client, informers: Informers, kinds: Arc<dyn Kinds>, shutdown: Shutdown) {
    let informer = informers.informer::<ValidatingAdmissionPolicy>();
    let queue: WorkQueue<String> = WorkQueue::with_backoff(RETRY.0, RETRY.1);
    let mut events = informer.subscribe();
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            event = events.recv() => match event {
                None => return,
                Some(Event::Added(policy) | Event::Updated { new: policy, .. }) => queue.add(policy.name().to_owned()),
                Some(Event::Deleted(policy)) => queue.forget(&policy.name().to_owned()),
                Some(Event::Resync) => informer.list().iter().for_each(|policy| queue.add(policy.name().to_owned())),
            },
            name = queue.get() => {
                let Some(name) = name else { return };
                let result = match informer.get("", &name) {
                    Some(policy) => reconcile(&client, &*kinds, &policy).await,
                    None => Ok(()),
                };
                match result {
                    Ok(()) => queue.forget(&name),
                    Err(error) if error.is_not_found() => queue.forget(&name),
                    Err(error) => {
                        tracing::debug!(policy = name, error = %base::chain(&error), "cannot write the result of type checking");
                        queue.add_rate_limited(name.clone());
                    }
                }
                queue.done(&name);
            }
        }
    }
}

async fn reconcile(client: &Client, kinds: &dyn Kinds, policy: &ValidatingAdmissionPolicy) -> Result<(), Error> {
    let generation = policy.metadata.generation.unwrap_or_default();
    let observed = policy.status.as_ref().and_then(|status| status.observed_generation);
    if observed.is_some_and(|observed| observed >= generation) {
        return Ok(());
    }
    let bytes = policy.encode().map_err(Error::Decode)?;
    let object: Value = serde_json::from_slice(&bytes).map_err(Error::Decode)?;
    let warnings = check(&object, kinds);
    let checking = if warnings.is_empty() { json!({}) } else { json!({"expressionWarnings": warnings}) };
    let status = json!({"observedGeneration": generation, "typeChecking": checking});
    let patch = Patch::Merge(json!({"status": status}));
    client.patch_status::<ValidatingAdmissionPolicy>("", policy.name(), &patch).await.map(drop)
}

fn items<'v>(value: &'v Value, pointer: &str) -> &'v [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text<'v>(value: &'v Value, member: &str) -> &'v str {
    value.get(member).and_then(Value::as_str).unwrap_or_default()
}

/// `TypeChecker.Check`: what is wrong, by field.
fn check(policy: &Value, kinds: &dyn Kinds) -> Vec<Value> {
    let served = types_to_check(policy, &kinds.kinds());
    let param_kind = policy.pointer("/spec/paramKind");
    let params = param_kind.and_then(|kind| {
        let version = GroupVersion::parse(text(kind, "apiVersion"))?;
        kinds.kind(&Gvk::new(version.group, version.version, text(kind, "kind")))
    });
    let params = params.map(|kind| Decl::from_schema(&kind.schema));
    let environments: Vec<(Gvk, Env)> = served
        .into_iter()
        .map(|kind| {
            let object = Decl::from_schema(&kind.schema);
            (kind.gvk, environment(policy, param_kind.is_some(), params.as_ref(), &object))
        })
        .collect();
    let mut warnings = Vec::new();
    for (i, validation) in items(policy, "/spec/validations").iter().enumerate() {
        for member in ["expression", "messageExpression"] {
            let source = text(validation, member);
            if source.is_empty() {
                continue;
            }
            let problems: Vec<String> = environments
                .iter()
                .filter_map(|(gvk, env)| {
                    let why = names::compile(env, source, &[]).err()?;
                    Some(format!("{gvk}: {why}\n"))
                })
                .collect();
            if !problems.is_empty() {
                let field = format!("spec.validations[{i}].{member}");
                warnings.push(json!({"fieldRef": field, "warning": problems.join("\n")}));
            }
        }
    }
    warnings
}

/// The variables with the types of the kind in question.
fn environment(policy: &Value, has_params: bool, params: Option<&Decl>, object: &Decl) -> Env {
    let declarations = Declarations { params: has_params, authorizer: true, mutations: false };
    let typed = |variables: &[(String, Type)]| {
        let env =
            names::env(declarations, variables).declare("object", object.clone()).declare("oldObject", object.clone());
        match params {
            Some(params) => env.declare("params", params.clone()),
            None => env,
        }
    };
    let mut variables = Vec::new();
    for variable in items(policy, "/spec/variables") {
        let ty = typed(&variables).compile(text(variable, "expression"), &[]);
        variables.push((text(variable, "name").to_owned(), ty.map_or(Type::Dyn, |program| program.ty().clone())));
    }
    typed(&variables)
}

/// `typesToCheck`: the kinds that rules name without wildcards, in order.
fn types_to_check(policy: &Value, kinds: &[ServedKind]) -> Vec<ServedKind> {
    let mut found: Vec<ServedKind> = Vec::new();
    for rule in items(policy, "/spec/matchConstraints/resourceRules") {
        let plain = |member: &str| -> BTreeSet<&str> {
            let all: BTreeSet<&str> =
                rule.get(member).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
            if all.contains("*") { BTreeSet::new() } else { all }
        };
        let (groups, versions, resources) = (plain("apiGroups"), plain("apiVersions"), plain("resources"));
        let matching = kinds.iter().filter(|kind| {
            groups.contains(kind.resource.group.as_str())
                && versions.contains(kind.resource.version.as_str())
                && resources.contains(kind.resource.resource.as_str())
        });
        for kind in matching.take(TYPES_MAX) {
            if found.iter().all(|known| known.gvk != kind.gvk) {
                found.push(kind.clone());
            }
        }
    }
    found.sort_by(|a, b| a.gvk.cmp(&b.gvk));
    found
}
