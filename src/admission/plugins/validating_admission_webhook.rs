//! `ValidatingAdmissionWebhook`: webhooks that may refuse, all called at the same time (apiserver
//! `admission/plugin/webhook/validating`).

use std::sync::Arc;

use api::admission::{AdmissionPlugin, Attributes, Operation};
use api::webhook::Asker;
use api::{Gvr, Object, Status};
use async_trait::async_trait;
use client::k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use futures::future::join_all;
use tokio::time::Instant;

use crate::dynamic::is_review;
use crate::dynamic::manifests::Manifests;
use crate::dynamic::metrics::Labels;
use crate::dynamic::rules::{Matched, in_version};
use crate::dynamic::source::Source;
use crate::dynamic::webhook::{self, Caller, Failure, Hook};

pub(crate) struct ValidatingAdmissionWebhook {
    caller: Caller,
    source: Source<ValidatingWebhookConfiguration, Vec<Arc<Hook>>>,
}

/// A call to make, with what it shows.
struct Call {
    hook: Arc<Hook>,
    matched: Matched,
    object: Option<Object>,
    old: Option<Object>,
}

impl ValidatingAdmissionWebhook {
    pub(crate) fn new(caller: Caller, files: Option<Arc<Manifests>>) -> Self {
        let source = Source::new(caller.cluster.clone(), files, |name, object| {
            webhook::compile(Asker::ValidatingAdmission, name, object)
        });
        Self { caller, source }
    }

    async fn run(&self, call: &Call, attributes: &Attributes, index: usize) -> Result<(), Status> {
        let hook = &*call.hook;
        let began = Instant::now();
        let (object, old) = (call.object.as_ref(), call.old.as_ref());
        let result = self.caller.call(hook, attributes, &call.matched, object, old, false).await;
        let labels = Labels { name: &hook.name, step: "validating", operation: attributes.operation.as_str() };
        self.caller.count(hook, &labels, began.elapsed(), result.as_ref().err());
        match result {
            Ok(_) => Ok(()),
            Err(Failure::Call { text, .. }) if hook.fails_open => {
                tracing::warn!(webhook = hook.name, error = text, "failed calling webhook, failing open");
                self.caller.metrics.failed_open(&labels);
                let key = format!("failed-open.validating.webhook.admission.k8s.io/round_0_index_{index}");
                attributes.notes.annotate(key, &hook.name);
                Ok(())
            }
            Err(failure) => Err(webhook::failing_closed(hook, failure)),
        }
    }
}

#[async_trait]
impl AdmissionPlugin for ValidatingAdmissionWebhook {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionWebhook"
    }

    fn handles(&self, _: Operation, resource: &Gvr, _: &str) -> bool {
        !is_review(resource) && self.source.may_concern(resource)
    }

    async fn validate(&self, attributes: &Attributes) -> Result<(), Status> {
        let kinds = &*self.caller.kinds;
        let mut calls = Vec::new();
        for hook in self.source.concerning(&attributes.resource).await?.iter().flatten().flat_map(|hooks| hooks.iter())
        {
            let Some(matched) = self.caller.matches(hook, attributes, "validating").await? else { continue };
            let object = in_version(kinds, attributes.object.as_ref(), attributes, &matched).await?;
            let old = in_version(kinds, attributes.old_object.as_ref(), attributes, &matched).await?;
            calls.push(Call { hook: Arc::clone(hook), matched, object, old });
        }
        if calls.is_empty() {
            return Ok(());
        }
        let results = join_all(calls.iter().enumerate().map(|(i, call)| self.run(call, attributes, i))).await;
        results.into_iter().collect()
    }

    fn metrics(&self, out: &mut String) {
        // Of both webhook plugins: they share the counts.
        self.caller.metrics.write(out);
    }
}
