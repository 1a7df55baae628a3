//! `MutatingAdmissionWebhook`: webhooks that may change objects, one after the other in the order of their
//! configurations' names (apiserver `admission/plugin/webhook/mutating`).

use std::sync::Arc;

use api::admission::{AdmissionPlugin, Attributes, Invocations, Operation};
use api::webhook::Asker;
use api::{Gvr, Object, Status};
use async_trait::async_trait;
use client::k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::dynamic::is_review;
use crate::dynamic::manifests::Manifests;
use crate::dynamic::metrics::Labels;
use crate::dynamic::review::{self, Answer};
use crate::dynamic::rules::{Matched, in_version};
use crate::dynamic::source::Source;
use crate::dynamic::webhook::{self, Caller, Failure, Hook};

const NAME: &str = "MutatingAdmissionWebhook";

pub(crate) struct MutatingAdmissionWebhook {
    caller: Caller,
    source: Source<MutatingWebhookConfiguration, Vec<Arc<Hook>>>,
}

impl MutatingAdmissionWebhook {
    pub(crate) fn new(caller: Caller, files: Option<Arc<Manifests>>) -> Self {
        let source = Source::new(caller.cluster.clone(), files, |name, object| {
            webhook::compile(Asker::MutatingAdmission, name, object)
        });
        Self { caller, source }
    }

    async fn dispatch(
        &self,
        hooks: &[Arc<Hook>],
        attributes: &mut Attributes,
        invocations: &mut Invocations,
    ) -> Result<(), Status> {
        let is_reinvoke = attributes.reinvocation.is_reinvoke;
        for (index, hook) in hooks.iter().enumerate() {
            let Some(matched) = self.caller.matches(hook, attributes, "admit").await? else { continue };
            // A webhook that was not called in the first round is not called in the second.
            if is_reinvoke && !invocations.should_reinvoke(&hook.id) {
                continue;
            }
            let began = Instant::now();
            let result = self.call(hook, attributes, &matched, index).await;
            let operation = attributes.operation.as_str();
            let labels = Labels { name: &hook.name, step: "admit", operation };
            self.caller.count(hook, &labels, began.elapsed(), result.as_ref().err());
            if matches!(result, Ok(true)) {
                invocations.require_reinvoking();
                attributes.reinvocation.should_reinvoke = true;
            }
            if hook.reinvoke {
                invocations.add_invoked(&hook.id);
            }
            match result {
                Ok(_) => {}
                Err(Failure::Call { text, .. }) if hook.fails_open => {
                    tracing::warn!(webhook = hook.name, error = text, "failed calling webhook, failing open");
                    self.caller.metrics.failed_open(&labels);
                    let key = annotation("failed-open.mutation", is_reinvoke, index);
                    attributes.notes.annotate(key, &hook.name);
                }
                Err(failure) => return Err(webhook::failing_closed(hook, failure)),
            }
        }
        Ok(())
    }

    /// Calls one webhook and applies its patch. Returns whether the object changed.
    async fn call(
        &self,
        hook: &Hook,
        attributes: &mut Attributes,
        matched: &Matched,
        index: usize,
    ) -> Result<bool, Failure> {
        let kinds = &*self.caller.kinds;
        let object = in_version(kinds, attributes.object.as_ref(), attributes, matched).await;
        let object = object.map_err(Failure::Server)?;
        let old = in_version(kinds, attributes.old_object.as_ref(), attributes, matched).await;
        let old = old.map_err(Failure::Server)?;
        let answer = self.caller.call(hook, attributes, matched, object.as_ref(), old.as_ref(), true).await;
        let changed = match answer {
            Ok(answer) => self.apply(hook, attributes, matched, object, &answer, index).await,
            Err(failure) => Err(failure),
        };
        let value = json!({
            "configuration": hook.configuration,
            "webhook": hook.name,
            "mutated": matches!(changed, Ok(true)),
        });
        let key = annotation("mutation", attributes.reinvocation.is_reinvoke, index);
        attributes.notes.annotate(key, value.to_string());
        changed
    }

    async fn apply(
        &self,
        hook: &Hook,
        attributes: &mut Attributes,
        matched: &Matched,
        object: Option<Object>,
        answer: &Answer,
        index: usize,
    ) -> Result<bool, Failure> {
        if answer.patch.is_empty() {
            return Ok(false);
        }
        let undecodable = |why: String| Failure::Call {
            text: format!("received undecodable patch in webhook response: {why}"),
            code: 503,
        };
        let patch = api::codec::json_value(&answer.patch).map_err(undecodable)?;
        let operations = match &patch {
            Value::Array(operations) if operations.is_empty() => return Ok(false),
            Value::Array(operations) => operations.as_slice(),
            other => {
                let ty = api::codec::go_word(other);
                let why = format!("json: cannot unmarshal {ty} into Go value of type jsonpatch.Patch");
                return Err(undecodable(why));
            }
        };
        let Some(object) = object.filter(|_| review::can_patch(attributes)) else {
            return Err(Failure::Server(Status::internal(format_args!(
                "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
                hook.name
            ))));
        };
        if answer.patch_type != "JSONPatch" {
            let text = format!("unsupported patch type {:?}", answer.patch_type);
            return Err(Failure::Call { text, code: 400 });
        }
        let server = |error: &dyn std::fmt::Display| Failure::Server(Status::internal(error));
        let patched = api::patch::apply_operations(Value::Object(object.0.clone()), operations);
        let patched = patched.map_err(|why| server(&why))?;
        let patched = Object::from_value(patched).ok_or_else(|| server(&"the patched document is no object"))?;
        let named = !patched.kind().is_empty() && !patched.api_version().is_empty();
        if named && (patched.kind() != object.kind() || patched.api_version() != object.api_version()) {
            return Err(Failure::Server(unknown_conversion(&patched, &object)));
        }
        let kinds = &*self.caller.kinds;
        let patched = kinds.complete(patched).map_err(Failure::Server)?;
        let changed = patched != object;
        let value = json!({
            "configuration": hook.configuration,
            "webhook": hook.name,
            "patch": patch,
            "patchType": answer.patch_type,
        });
        let key = annotation("patch", attributes.reinvocation.is_reinvoke, index);
        attributes.notes.annotate(key, value.to_string());
        if changed {
            let own = if matched.kind == attributes.gvk {
                patched
            } else {
                kinds.convert(patched, &attributes.gvk).await.map_err(Failure::Server)?
            };
            attributes.object = Some(own);
        }
        Ok(changed)
    }
}

/// What upstream's scheme says of a patch that made another kind of the object.
fn unknown_conversion(patched: &Object, object: &Object) -> Status {
    let package = |api_version: &str| match api_version.split_once('/') {
        Some((group, version)) => (group.split('.').next().unwrap_or_default().to_owned(), version.to_owned()),
        None => ("core".to_owned(), api_version.to_owned()),
    };
    let (internal, _) = package(object.api_version());
    let (_, version) = package(patched.api_version());
    let (from, to) = (patched.kind(), object.kind());
    Status::new(500, "", format!("converting ({version}.{from}) to ({internal}.{to}): unknown conversion"))
}

/// The key of an audit annotation of one call.
fn annotation(prefix: &str, second_round: bool, index: usize) -> String {
    format!("{prefix}.webhook.admission.k8s.io/round_{}_index_{index}", u8::from(second_round))
}

#[async_trait]
impl AdmissionPlugin for MutatingAdmissionWebhook {
    fn name(&self) -> &'static str {
        NAME
    }

    fn handles(&self, _: Operation, resource: &Gvr, _: &str) -> bool {
        !is_review(resource) && self.source.may_concern(resource)
    }

    async fn admit(&self, attributes: &mut Attributes) -> Result<(), Status> {
        let sources = self.source.concerning(&attributes.resource).await?;
        let hooks: Vec<Arc<Hook>> = sources.iter().flatten().flat_map(|hooks| hooks.iter().cloned()).collect();
        if hooks.is_empty() {
            return Ok(());
        }
        let mut invocations = attributes.reinvocation.plugins.remove(NAME).unwrap_or_default();
        if attributes.reinvocation.is_reinvoke && invocations.changed_since(attributes.object.as_ref()) {
            // A plugin of ours has changed the object in the second round.
            invocations.require_reinvoking();
        }
        let result = self.dispatch(&hooks, attributes, &mut invocations).await;
        invocations.set_output(attributes.object.as_ref());
        attributes.reinvocation.plugins.insert(NAME, invocations);
        result
    }
}
