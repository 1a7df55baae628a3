//! One webhook: whether it is called, and the call (apiserver `admission/plugin/webhook/generic`, `mutating`,
//! `validating`).

use std::sync::Arc;
use std::time::Duration;

use api::admission::Attributes;
use api::services::{Authorizer, Kinds};
use api::webhook::{Asker, Target, WebhookError, Webhooks};
use api::{Object, Status};
use bytes::Bytes;
use serde_json::Value;

use super::expressions::{Answers, Condition, Inputs, Match, Variables, matches};
use super::metrics::{Labels, Metrics};
use super::review::{self, Answer};
use super::rules::{Criteria, Matched, in_version};
use crate::cluster::Cluster;

/// What `timeoutSeconds` is by default.
const TIMEOUT: u64 = 10;

/// A webhook of a configuration, compiled.
#[derive(Debug)]
pub(crate) struct Hook {
    /// Tells the webhooks of all configurations apart.
    pub id: String,
    pub configuration: String,
    pub name: String,
    criteria: Criteria,
    conditions: Vec<Condition>,
    target: Result<Target, WebhookError>,
    /// Failures to call it are ignored.
    pub fails_open: bool,
    /// It may be called by a dry run.
    dry_run: bool,
    timeout: Duration,
    versions: Vec<String>,
    pub reinvoke: bool,
}

/// The webhooks of a configuration.
pub(crate) fn compile(asker: Asker, configuration: &str, object: &Value) -> Vec<Arc<Hook>> {
    let mut seen = std::collections::HashMap::<String, usize>::new();
    let hooks = object.get("webhooks").and_then(Value::as_array).into_iter().flatten();
    hooks
        .map(|hook| {
            let text = |member: &str| hook.get(member).and_then(Value::as_str).unwrap_or_default();
            let name = text("name").to_owned();
            let nth = seen.entry(name.clone()).or_default();
            let id = format!("{configuration}/{name}/{nth}");
            *nth += 1;
            let seconds = hook.get("timeoutSeconds").and_then(Value::as_u64).unwrap_or(TIMEOUT);
            let versions = hook.get("admissionReviewVersions").and_then(Value::as_array).into_iter().flatten();
            Arc::new(Hook {
                id,
                configuration: configuration.to_owned(),
                criteria: Criteria::of_webhook(hook),
                conditions: Condition::list(hook, false, &[]),
                target: Target::from_client_config(hook.get("clientConfig").unwrap_or(&Value::Null))
                    .map(|target| Target { asker, ..target }),
                fails_open: text("failurePolicy") == "Ignore",
                dry_run: matches!(text("sideEffects"), "None" | "NoneOnDryRun"),
                timeout: Duration::from_secs(seconds),
                versions: versions.filter_map(Value::as_str).map(ToOwned::to_owned).collect(),
                reinvoke: text("reinvocationPolicy") == "IfNeeded",
                name,
            })
        })
        .collect()
}

/// Why a call did not end in consent.
#[derive(Debug)]
pub(crate) enum Failure {
    /// No usable answer: the failure policy decides. The text is what follows `failed calling webhook "…": `.
    Call { text: String, code: u16 },
    /// The webhook said no.
    Refused(Status),
    /// The answer cannot be used, whatever the failure policy.
    Server(Status),
}

/// What the plugins that call webhooks share.
#[derive(Clone)]
pub(crate) struct Caller {
    pub cluster: Cluster,
    pub kinds: Arc<dyn Kinds>,
    pub webhooks: Arc<dyn Webhooks>,
    pub authorizer: Arc<dyn Authorizer>,
    pub metrics: Metrics,
}

impl Caller {
    /// `ShouldCallHook`: the version in which the webhook wants to see the request; `None` if it does not.
    pub(crate) async fn matches(
        &self,
        hook: &Hook,
        attributes: &Attributes,
        step: &'static str,
    ) -> Result<Option<Matched>, Status> {
        let kinds = &*self.kinds;
        let Some(matched) = hook.criteria.matches(&self.cluster, kinds, attributes).await? else { return Ok(None) };
        if hook.conditions.is_empty() {
            return Ok(Some(matched));
        }
        let object = in_version(kinds, attributes.object.as_ref(), attributes, &matched).await?;
        let old = in_version(kinds, attributes.old_object.as_ref(), attributes, &matched).await?;
        let inputs = Inputs::new(attributes, &matched, object.as_ref(), old.as_ref());
        let labels = Labels { name: &hook.name, step, operation: attributes.operation.as_str() };
        let none = Variables::default();
        let mut answers = Answers::default();
        let outcome = answers
            .complete(&*self.authorizer, |asked| matches(&hook.conditions, &inputs, &none, asked, hook.fails_open))
            .await;
        match outcome {
            Match::Yes => Ok(Some(matched)),
            Match::No => {
                self.metrics.excluded(&labels, "webhook");
                Ok(None)
            }
            Match::Failed(why) => {
                self.metrics.condition_failed(&labels, "webhook");
                tracing::warn!(webhook = hook.name, error = why, "match conditions failed, failing closed");
                Err(Status::forbidden(&attributes.resource.group_resource(), &attributes.name, why))
            }
        }
    }

    /// Asks the webhook; an answer means consent.
    pub(crate) async fn call(
        &self,
        hook: &Hook,
        attributes: &Attributes,
        matched: &Matched,
        object: Option<&Object>,
        old: Option<&Object>,
        mutating: bool,
    ) -> Result<Answer, Failure> {
        if attributes.dry_run && !hook.dry_run {
            let text = format!("admission webhook {:?} does not support dry run", hook.name);
            return Err(Failure::Server(Status::bad_request(text)));
        }
        let Some(version) = hook.versions.iter().find(|v| matches!(v.as_str(), "v1" | "v1beta1")) else {
            let text = "could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)";
            return Err(Failure::Call { text: text.to_owned(), code: 400 });
        };
        let target = hook.target.as_ref().map_err(|error| Failure::Call {
            text: format!("could not get REST client: {error}"),
            code: error.code(),
        })?;
        let uid = uuid::Uuid::new_v4().to_string();
        let document = review::review(version, &uid, attributes, matched, object, old);
        let body = serde_json::to_vec(&document).map_err(|e| Failure::Server(Status::internal(e)))?;
        let failed = |error: &dyn std::fmt::Display, code| Failure::Call {
            text: format!("failed to call webhook: {error}"),
            code,
        };
        let answer = self
            .webhooks
            .post(target, Bytes::from(body), hook.timeout)
            .await
            .map_err(|error| failed(&error, error.code()))?;
        let document = review::decode(version, &answer).map_err(|why| failed(&why, 503))?;
        let answer = review::answer(version, &uid, mutating, &document)
            .map_err(|why| Failure::Call { text: format!("received invalid webhook response: {why}"), code: 503 })?;
        for (key, value) in &answer.annotations {
            attributes.notes.annotate(format!("{}/{key}", hook.name), value);
        }
        answer.warnings.iter().for_each(|warning| attributes.notes.warn(warning));
        if answer.allowed { Ok(answer) } else { Err(Failure::Refused(review::refusal(&hook.name, &answer.result))) }
    }

    /// Counts a call. Returns whether the request fails with it.
    pub(crate) fn count(&self, hook: &Hook, labels: &Labels<'_>, took: Duration, result: Option<&Failure>) -> bool {
        use super::metrics::Rejection;
        let (rejected, code) = match result {
            None => (false, 200),
            Some(Failure::Call { code, .. }) => {
                if !hook.fails_open {
                    self.metrics.rejected(labels, Rejection::CallingWebhook, *code);
                }
                (!hook.fails_open, *code)
            }
            Some(Failure::Refused(status)) => {
                self.metrics.rejected(labels, Rejection::None, status.code);
                (true, status.code)
            }
            Some(Failure::Server(_)) => {
                self.metrics.rejected(labels, Rejection::ApiServer, 0);
                (true, 0)
            }
        };
        self.metrics.called(labels, took, rejected, code);
        rejected
    }
}

/// The answer to the client for a failed call that is not ignored.
pub(crate) fn failing_closed(hook: &Hook, failure: Failure) -> Status {
    match failure {
        Failure::Call { text, .. } => {
            tracing::warn!(webhook = hook.name, error = text, "failed calling webhook, failing closed");
            Status::internal(format_args!("failed calling webhook {:?}: {text}", hook.name))
        }
        Failure::Refused(status) | Failure::Server(status) => status,
    }
}
