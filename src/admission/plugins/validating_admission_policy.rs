//! `ValidatingAdmissionPolicy`: expressions that may refuse (apiserver `admission/plugin/policy/validating`).

use api::admission::{AdmissionPlugin, Attributes, Operation};
use api::cel::{Budget, RUNTIME_BUDGET, Value};
use api::status::Cause;
use api::{Gvr, Status};
use async_trait::async_trait;
use client::k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy as PolicyObject, ValidatingAdmissionPolicyBinding as BindingObject,
};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use crate::attributes::forbidden;
use crate::dynamic::expressions::{self, Answers, Asked, Evaluation, Failure, Inputs, Match};
use crate::dynamic::manifests::Manifests;
use crate::dynamic::metrics::{Metrics, PolicyError};
use crate::dynamic::policy::{self, Binding, Evaluator, Invocation, Policy};
use crate::dynamic::rules::in_version;
use crate::dynamic::source::Source;
use crate::dynamic::{is_review, review};

/// `celconfig.MaxEvaluatedMessageExpressionSizeBytes`.
const MESSAGE_MAX: usize = 5 * 1024;
/// `maxAuditAnnotationValueLength`.
const ANNOTATION_MAX: usize = 10 * 1024;
/// `maxValidationFailures`.
const FAILURES_MAX: usize = 50;

pub(crate) struct ValidatingAdmissionPolicy {
    evaluator: Evaluator,
    policies: Source<PolicyObject, Policy>,
    bindings: Source<BindingObject, Binding>,
}

/// A refusal, before anybody has decided what it means.
#[derive(Clone)]
struct Denial {
    message: String,
    /// As given; empty for `Invalid`.
    reason: String,
    error: PolicyError,
    took: Duration,
}

impl Denial {
    fn failed(message: String, took: Duration) -> Self {
        let error = PolicyError::of_message(&message);
        Self { message, reason: String::new(), error, took }
    }
}

/// What one policy says with one parameter.
#[derive(Default)]
struct Outcome {
    /// By the validation's index.
    denials: Vec<(usize, Denial)>,
    /// Expressions that failed and were let pass.
    ignored: Vec<Denial>,
    /// Keys and values of audit annotations.
    annotations: Vec<(String, String)>,
    /// Annotations that could not be computed.
    annotation_errors: Vec<String>,
}

impl ValidatingAdmissionPolicy {
    pub(crate) fn new(evaluator: Evaluator, files: Option<Arc<Manifests>>) -> Self {
        let policies = Source::new(evaluator.cluster.clone(), files.clone(), policy::compile);
        let bindings = Source::new(evaluator.cluster.clone(), files, policy::compile_binding);
        Self { evaluator, policies, bindings }
    }
}

/// `validator.Validate`.
fn evaluate(policy: &Policy, inputs: &Inputs, asked: &Asked<'_>) -> Outcome {
    let mut outcome = Outcome::default();
    let begun = Instant::now();
    let failed = |index: usize, message: String, outcome: &mut Outcome| {
        let denial = Denial::failed(message, begun.elapsed());
        if policy.fails_open {
            outcome.ignored.push(denial);
        } else {
            outcome.denials.push((index, denial));
        }
    };
    match expressions::matches(&policy.conditions, inputs, &policy.variables, asked, policy.fails_open) {
        Match::Yes => {}
        Match::No => return outcome,
        Match::Failed(message) => {
            failed(0, message, &mut outcome);
            return outcome;
        }
    }
    let evaluation = Evaluation::new(inputs, &policy.variables, asked);
    let mut budget = Budget::new(RUNTIME_BUDGET);
    let mut refused = Vec::new();
    for (index, validation) in policy.validations.iter().enumerate() {
        match evaluation.run(&validation.expression, &mut budget) {
            Ok(Value::Bool(true)) => {}
            Ok(_) => refused.push(index),
            Err(Failure::Expression(message)) => failed(index, message, &mut outcome),
            Err(Failure::Budget) => {
                // Nothing else counts then.
                outcome = Outcome::default();
                failed(index, expressions::OUT_OF_BUDGET.to_owned(), &mut outcome);
                return outcome;
            }
        }
    }
    for index in refused {
        let Some(validation) = policy.validations.get(index) else { continue };
        let message = validation.message_expression.as_ref().map(|message| evaluation.run(message, &mut budget));
        let message = match message {
            Some(Err(Failure::Budget)) => {
                let text = format!("failed messageExpression: {}", expressions::OUT_OF_BUDGET);
                failed(index, text, &mut outcome);
                continue;
            }
            Some(Ok(Value::String(text))) => usable(&text),
            _ => None,
        };
        let message = message.unwrap_or_else(|| {
            if validation.message.is_empty() {
                format!("failed expression: {}", validation.expression.source.trim())
            } else {
                validation.message.clone()
            }
        });
        let (reason, took) = (validation.reason.clone(), begun.elapsed());
        outcome.denials.push((index, Denial { message, reason, error: PolicyError::None, took }));
    }
    outcome.denials.sort_by_key(|(index, _)| *index);
    annotate(policy, &evaluation, &mut outcome);
    outcome
}

/// A computed message, if it can be shown.
fn usable(text: &str) -> Option<String> {
    let text = text.trim();
    (!text.is_empty() && text.len() <= MESSAGE_MAX && !text.contains('\n')).then(|| text.to_owned())
}

fn annotate(policy: &Policy, evaluation: &Evaluation<'_>, outcome: &mut Outcome) {
    let mut budget = Budget::new(RUNTIME_BUDGET);
    for (key, expression) in &policy.audit_annotations {
        match evaluation.run(expression, &mut budget) {
            Ok(Value::String(text)) if !text.trim().is_empty() => {
                let mut text = text.trim().to_owned();
                let end = (0..=ANNOTATION_MAX.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
                text.truncate(end.unwrap_or(0));
                outcome.annotations.push((key.clone(), text));
            }
            Ok(Value::String(_) | Value::Null) => {}
            Ok(other) => {
                let text = format!(
                    "valueExpression '{}' resulted in unsupported return type: {}. Return type must be either string or null.",
                    expression.source,
                    other.type_name()
                );
                outcome.annotation_errors.push(text);
            }
            Err(failure) => outcome.annotation_errors.push(failure.to_string()),
        }
    }
    if policy.fails_open {
        outcome.annotation_errors.clear();
    }
}

/// What the plugin collects over all policies.
#[derive(Default)]
struct Verdict {
    /// The first refusal: policy, binding, and what it says.
    denied: Option<(String, Option<String>, Denial)>,
    /// For the audit event.
    failures: Vec<serde_json::Value>,
    /// By policy and key; values of several bindings are joined.
    annotations: Vec<(String, Vec<String>)>,
}

impl Verdict {
    fn deny(&mut self, policy: &Policy, binding: Option<&Binding>, denial: Denial) {
        self.denied.get_or_insert_with(|| (policy.name.clone(), binding.map(|b| b.name.clone()), denial));
    }

    fn add(&mut self, invocation: &Invocation<'_>, outcome: Outcome, attributes: &Attributes, metrics: &Metrics) {
        let (policy, binding) = (invocation.policy, invocation.binding);
        let count = |action: &str, denial: &Denial| {
            metrics.validated((&policy.name, &binding.name), action, denial.error, denial.took);
        };
        outcome.ignored.iter().for_each(|denial| count("allow", denial));
        for (index, denial) in outcome.denials {
            for action in &binding.actions {
                count(&action.to_ascii_lowercase(), &denial);
                match action.as_str() {
                    "Deny" => {
                        self.deny(policy, Some(binding), denial.clone());
                    }
                    "Audit" => self.failures.push(json!({
                        "message": denial.message,
                        "policy": binding.policy,
                        "binding": binding.name,
                        "expressionIndex": index,
                        "validationActions": binding.actions,
                    })),
                    "Warn" => attributes.notes.warn(format!(
                        "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {}",
                        policy.name, binding.name, denial.message
                    )),
                    _ => {}
                }
            }
        }
        for (key, value) in outcome.annotations {
            let key = format!("{}/{key}", policy.name);
            match self.annotations.iter_mut().find(|(known, _)| *known == key) {
                Some((_, values)) if !values.contains(&value) => values.push(value),
                Some(_) => {}
                None => self.annotations.push((key, vec![value])),
            }
        }
        for message in outcome.annotation_errors {
            let denial = Denial::failed(message, Duration::ZERO);
            count("deny", &denial);
            self.deny(policy, Some(binding), denial);
        }
    }

    fn publish(mut self, attributes: &Attributes) -> Result<(), Status> {
        for (key, values) in self.annotations {
            attributes.notes.annotate(key, values.join(", "));
        }
        if !self.failures.is_empty() {
            self.failures.truncate(FAILURES_MAX);
            let value = serde_json::Value::Array(self.failures).to_string();
            attributes.notes.annotate("validation.policy.admission.k8s.io/validation_failure", value);
        }
        let Some((policy, binding, denial)) = self.denied else { return Ok(()) };
        let by = binding.map(|binding| format!(" with binding '{binding}'")).unwrap_or_default();
        let message = format!("ValidatingAdmissionPolicy '{policy}'{by} denied request: {}", denial.message);
        let mut status = forbidden(attributes, &message);
        let reason = if denial.reason.is_empty() { "Invalid" } else { denial.reason.as_str() };
        status.reason = review::reason(reason);
        status.code = match reason {
            "Unauthorized" => 401,
            "Forbidden" => 403,
            "RequestEntityTooLarge" => 413,
            _ => 422,
        };
        if let Some(details) = &mut status.details {
            details.causes.push(Cause { reason: String::new(), message, field: String::new() });
        }
        Err(status)
    }
}

#[async_trait]
impl AdmissionPlugin for ValidatingAdmissionPolicy {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionPolicy"
    }

    fn handles(&self, _: Operation, resource: &Gvr, _: &str) -> bool {
        !is_review(resource) && self.policies.may_concern(resource) && self.bindings.may_concern(resource)
    }

    async fn validate(&self, attributes: &Attributes) -> Result<(), Status> {
        let resource = &attributes.resource;
        let (policies, bindings) =
            (self.policies.concerning(resource).await?, self.bindings.concerning(resource).await?);
        let (invocations, mut errors) = self.evaluator.select(&policies, &bindings, attributes).await;
        if invocations.is_empty() && errors.is_empty() {
            return Ok(());
        }
        let mut verdict = Verdict::default();
        errors.retain(|error| !error.policy.fails_open);
        let mut errors = errors.into_iter().peekable();
        let namespace = if invocations.is_empty() { None } else { self.evaluator.namespace(attributes).await? };
        let kinds = &*self.evaluator.kinds;
        let mut answers = Answers::default();
        for (index, invocation) in invocations.iter().enumerate() {
            // In the order of the policies and bindings, because the first refusal is the one that is told.
            while let Some(error) = errors.next_if(|error| error.before <= index) {
                verdict.deny(error.policy, error.binding, Denial::failed(error.message, Duration::ZERO));
            }
            let object = in_version(kinds, attributes.object.as_ref(), attributes, &invocation.matched).await;
            let old = in_version(kinds, attributes.old_object.as_ref(), attributes, &invocation.matched).await;
            let (object, old) = match (object, old) {
                (Ok(object), Ok(old)) => (object, old),
                (Err(status), _) | (_, Err(status)) => {
                    if !invocation.policy.fails_open {
                        let message =
                            format!("failed to configure binding: failed to convert object version: {status}");
                        let denial = Denial::failed(message, Duration::ZERO);
                        verdict.deny(invocation.policy, Some(invocation.binding), denial);
                    }
                    continue;
                }
            };
            let mut inputs = Inputs::new(attributes, &invocation.matched, object.as_ref(), old.as_ref())
                .with_namespace(namespace.as_ref());
            inputs.set_params(invocation.params.as_ref());
            let authorizer = &*self.evaluator.authorizer;
            let outcome = answers.complete(authorizer, |asked| evaluate(invocation.policy, &inputs, asked)).await;
            verdict.add(invocation, outcome, attributes, &self.evaluator.metrics);
        }
        for error in errors {
            verdict.deny(error.policy, error.binding, Denial::failed(error.message, Duration::ZERO));
        }
        verdict.publish(attributes)
    }
}
