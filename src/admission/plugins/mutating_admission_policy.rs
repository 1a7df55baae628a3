//! `MutatingAdmissionPolicy`: expressions that change objects (apiserver `admission/plugin/policy/mutating`).

use std::sync::Arc;

use api::admission::{AdmissionPlugin, Attributes, Invocations, Operation};
use api::cel::{Budget, RUNTIME_BUDGET, Value};
use api::services::Kinds;
use api::status::Cause;
use api::{Gvr, Object, Status};
use async_trait::async_trait;
use client::k8s_openapi::api::admissionregistration::v1::{
    MutatingAdmissionPolicy as PolicyObject, MutatingAdmissionPolicyBinding as BindingObject,
};
use tokio::time::Instant;

use crate::attributes::forbidden;
use crate::dynamic::expressions::{self, Answers, Asked, Evaluation, Inputs, Match};
use crate::dynamic::manifests::Manifests;
use crate::dynamic::metrics::PolicyError;
use crate::dynamic::policy::{self, Binding, Evaluator, Invocation, Mutation, Policy};
use crate::dynamic::rules::in_version;
use crate::dynamic::source::Source;
use crate::dynamic::{is_review, patches};

const NAME: &str = "MutatingAdmissionPolicy";

pub(crate) struct MutatingAdmissionPolicy {
    evaluator: Evaluator,
    policies: Source<PolicyObject, Policy>,
    bindings: Source<BindingObject, Binding>,
}

/// A policy that failed: its name, its binding's and why.
struct Failed {
    policy: String,
    binding: Option<String>,
    message: String,
    /// The request's fault, not the configuration's.
    invalid: bool,
}

impl Failed {
    fn text(&self) -> String {
        match &self.binding {
            Some(binding) => {
                format!("policy '{}' with binding '{binding}' denied request: {}", self.policy, self.message)
            }
            None => format!("policy {:?} denied request: {}", self.policy, self.message),
        }
    }
}

/// Whether a policy's match conditions hold.
enum Wanted {
    Yes,
    No,
    Failed(String),
}

impl MutatingAdmissionPolicy {
    pub(crate) fn new(evaluator: Evaluator, files: Option<Arc<Manifests>>) -> Self {
        let policies = Source::new(evaluator.cluster.clone(), files.clone(), policy::compile);
        let bindings = Source::new(evaluator.cluster.clone(), files, policy::compile_binding);
        Self { evaluator, policies, bindings }
    }

    async fn dispatch(
        &self,
        invocations: &[Invocation<'_>],
        attributes: &mut Attributes,
        reinvoked: &mut Invocations,
        failures: &mut Vec<Failed>,
    ) -> Result<(), Status> {
        let namespace = self.evaluator.namespace(attributes).await?;
        let mut answers = Answers::default();
        for invocation in invocations {
            let policy = invocation.policy;
            let id = key(invocation);
            let kinds = &*self.evaluator.kinds;
            let object = in_version(kinds, attributes.object.as_ref(), attributes, &invocation.matched).await?;
            let old = in_version(kinds, attributes.old_object.as_ref(), attributes, &invocation.matched).await?;
            let mut inputs = Inputs::new(attributes, &invocation.matched, object.as_ref(), old.as_ref())
                .with_namespace(namespace.as_ref());
            inputs.set_params(invocation.params.as_ref());
            let authorizer = &*self.evaluator.authorizer;
            let fail = |message: String, failures: &mut Vec<Failed>| {
                if !policy.fails_open {
                    failures.push(Failed {
                        policy: policy.name.clone(),
                        binding: Some(invocation.binding.name.clone()),
                        message,
                        invalid: true,
                    });
                }
            };
            let wanted = answers.complete(authorizer, |asked| wanted(policy, &inputs, asked)).await;
            match wanted {
                Wanted::Yes => {}
                Wanted::No => continue,
                Wanted::Failed(message) => {
                    fail(message, failures);
                    continue;
                }
            }
            if attributes.reinvocation.is_reinvoke && !reinvoked.should_reinvoke(&id) {
                continue;
            }
            let Some(mut object) = object else { continue };
            let before = object.clone();
            let begun = Instant::now();
            let by = (policy.name.as_str(), invocation.binding.name.as_str());
            let mut error = PolicyError::None;
            for mutation in &policy.mutations {
                inputs.set_object(Some(&object));
                let result = answers
                    .complete(authorizer, |asked| mutate(policy, mutation, &inputs, &object, kinds, asked))
                    .await;
                match result {
                    Ok(changed) => {
                        if matches!(mutation, Mutation::JsonPatch(_)) {
                            // Whatever the failure policy, as with every error that is a Status.
                            kinds.check_members(&changed).map_err(Status::internal)?;
                        }
                        object = kinds.complete(changed)?;
                    }
                    Err(message) => {
                        error = PolicyError::of_message(&message);
                        fail(message, failures);
                    }
                }
            }
            self.evaluator.metrics.mutated(by, error, begun.elapsed());
            if object != before {
                attributes.object = Some(if invocation.matched.kind == attributes.gvk {
                    object
                } else {
                    kinds.convert(object, &attributes.gvk).await?
                });
                reinvoked.require_reinvoking();
                attributes.reinvocation.should_reinvoke = true;
            }
            if policy.reinvoke {
                reinvoked.add_invoked(&id);
            }
        }
        Ok(())
    }
}

/// Tells invocations apart.
fn key(invocation: &Invocation<'_>) -> String {
    let params = invocation.params.as_ref().map(|params| params.key().to_string()).unwrap_or_default();
    format!("{}\n{}\n{params}", invocation.policy.name, invocation.binding.name)
}

fn wanted(policy: &Policy, inputs: &Inputs, asked: &Asked<'_>) -> Wanted {
    match expressions::matches(&policy.conditions, inputs, &policy.variables, asked, policy.fails_open) {
        Match::Yes => Wanted::Yes,
        Match::No => Wanted::No,
        Match::Failed(message) => Wanted::Failed(message),
    }
}

/// The object as a mutation makes it.
fn mutate(
    policy: &Policy,
    mutation: &Mutation,
    inputs: &Inputs,
    object: &Object,
    kinds: &dyn Kinds,
    asked: &Asked<'_>,
) -> Result<Object, String> {
    let evaluation = Evaluation::new(inputs, &policy.variables, asked);
    let mut budget = Budget::new(RUNTIME_BUDGET);
    match mutation {
        Mutation::Apply(expression) => {
            let value = evaluation.run(expression, &mut budget).map_err(|failure| failure.to_string())?;
            patches::apply(&value, object, kinds)
        }
        Mutation::JsonPatch(expression) => {
            let value = evaluation.run(expression, &mut budget).map_err(|failure| failure.to_string())?;
            let Value::List(operations) = value else {
                return Err("type mismatch: JSONPatchType.expression should evaluate to array".to_owned());
            };
            patches::json(&operations, object)
        }
    }
}

/// The answer to a request that policies did not let pass.
fn refusal(attributes: &Attributes, failures: &[Failed]) -> Result<(), Status> {
    let Some(first) = failures.first() else { return Ok(()) };
    let mut status = forbidden(attributes, "admission request denied by policy");
    status.message = first.text();
    if first.invalid {
        status.reason = "Invalid";
    }
    if let Some(details) = &mut status.details {
        details.causes.extend(failures.iter().map(|failed| Cause {
            reason: String::new(),
            message: failed.text(),
            field: String::new(),
        }));
    }
    Err(status)
}

#[async_trait]
impl AdmissionPlugin for MutatingAdmissionPolicy {
    fn name(&self) -> &'static str {
        NAME
    }

    fn handles(&self, operation: Operation, resource: &Gvr, _: &str) -> bool {
        matches!(operation, Operation::Create | Operation::Update | Operation::Connect)
            && !is_review(resource)
            && self.policies.may_concern(resource)
            && self.bindings.may_concern(resource)
    }

    async fn admit(&self, attributes: &mut Attributes) -> Result<(), Status> {
        let resource = &attributes.resource;
        let (policies, bindings) =
            (self.policies.concerning(resource).await?, self.bindings.concerning(resource).await?);
        let (invocations, errors) = self.evaluator.select(&policies, &bindings, attributes).await;
        let mut failures: Vec<Failed> = errors
            .into_iter()
            .filter(|error| !error.policy.fails_open)
            .map(|error| Failed {
                policy: error.policy.name.clone(),
                binding: error.binding.map(|binding| binding.name.clone()),
                message: error.message,
                invalid: false,
            })
            .collect();
        if !invocations.is_empty() {
            let mut reinvoked = attributes.reinvocation.plugins.remove(NAME).unwrap_or_default();
            if attributes.reinvocation.is_reinvoke && reinvoked.changed_since(attributes.object.as_ref()) {
                reinvoked.require_reinvoking();
            }
            let result = self.dispatch(&invocations, attributes, &mut reinvoked, &mut failures).await;
            reinvoked.set_output(attributes.object.as_ref());
            attributes.reinvocation.plugins.insert(NAME, reinvoked);
            result?;
        }
        refusal(attributes, &failures)
    }
}
