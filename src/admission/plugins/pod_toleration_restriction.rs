//! `PodTolerationRestriction`: a namespace says which taints its pods tolerate, and which they may
//! (`plugin/pkg/admission/podtolerationrestriction`). Off unless asked for.

use api::admission::{AdmissionPlugin, Attributes, Operation};
use api::{GroupResource, Gvr, Object, Status};
use async_trait::async_trait;
use client::k8s_openapi::api::core::v1::Namespace;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::attributes::is_resource;
use crate::cluster::Cluster;
use crate::configuration::{Kind, decode};
use crate::{plain_error, quota, tolerations};

const DEFAULTS: &str = "scheduler.alpha.kubernetes.io/defaultTolerations";
const ALLOWED: &str = "scheduler.alpha.kubernetes.io/tolerationsWhitelist";

/// What counts in namespaces that say nothing.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Configuration {
    default: Vec<Value>,
    whitelist: Vec<Value>,
}

impl Kind for Configuration {
    const NAMES: &'static [(&'static str, &'static str)] =
        &[("podtolerationrestriction.admission.k8s.io/v1alpha1", "Configuration")];
    const STRICT: bool = false;
    const MEMBERS: &'static [&'static str] = &["default", "whitelist"];
}

impl Configuration {
    /// Reads what the configuration file says.
    pub(crate) fn read(document: Option<&Value>) -> Result<Self, String> {
        document.map(decode).transpose().map(Option::unwrap_or_default)
    }
}

pub(crate) struct PodTolerationRestriction {
    cluster: Cluster,
    configuration: Configuration,
}

impl PodTolerationRestriction {
    pub(crate) fn new(cluster: Cluster, configuration: Configuration) -> Self {
        Self { cluster, configuration }
    }

    /// What a namespace's annotation says; `None` if it has none (`extractNSTolerations`).
    async fn of_namespace(&self, namespace: &str, annotation: &str) -> Result<Option<Vec<Value>>, Status> {
        let found = self.cluster.get::<Namespace>("", namespace).await.map_err(|e| Status::internal(e.message))?;
        let found = found.ok_or_else(|| Status::not_found(&GroupResource::new("", "namespaces"), namespace))?;
        let text = found.metadata.annotations.as_ref().and_then(|annotations| annotations.get(annotation));
        match text.map(String::as_str) {
            None => Ok(None),
            Some("") => Ok(Some(Vec::new())),
            Some(text) => serde_json::from_str(text).map(Some).map_err(plain_error),
        }
    }

    async fn check(&self, namespace: &str, pod: &Object) -> Result<(), Status> {
        let own = pod.array(&["spec", "tolerations"]);
        if own.is_empty() {
            return Ok(());
        }
        let allowed = self.of_namespace(namespace, ALLOWED).await?;
        let scope = if allowed.is_some() { "namespace" } else { "cluster" };
        if tolerations::are_allowed(own, allowed.as_deref().unwrap_or(&self.configuration.whitelist)) {
            return Ok(());
        }
        let what = "pod tolerations (possibly merged with namespace default tolerations) conflict with its";
        Err(plain_error(format!("{what} {scope} whitelist")))
    }
}

#[async_trait]
impl AdmissionPlugin for PodTolerationRestriction {
    fn name(&self) -> &'static str {
        "PodTolerationRestriction"
    }

    fn handles(&self, operation: Operation, resource: &Gvr, subresource: &str) -> bool {
        matches!(operation, Operation::Create | Operation::Update) && is_resource(resource, subresource, "", "pods")
    }

    async fn admit(&self, attributes: &mut Attributes) -> Result<(), Status> {
        let mut more = Vec::new();
        if attributes.operation == Operation::Create {
            let own = self.of_namespace(&attributes.namespace, DEFAULTS).await?;
            more = own.unwrap_or_else(|| self.configuration.default.clone());
        }
        let Some(pod) = &mut attributes.object else { return Ok(()) };
        if !quota::is_best_effort(pod) {
            more.push(
                json!({"key": "node.kubernetes.io/memory-pressure", "operator": "Exists", "effect": "NoSchedule"}),
            );
        }
        if !more.is_empty() {
            let mut all = pod.array(&["spec", "tolerations"]).to_vec();
            all.append(&mut more);
            pod.set(&["spec", "tolerations"], tolerations::merge(&all));
        }
        match &attributes.object {
            Some(pod) => self.check(&attributes.namespace, pod).await,
            None => Ok(()),
        }
    }

    async fn validate(&self, attributes: &Attributes) -> Result<(), Status> {
        match &attributes.object {
            Some(pod) => self.check(&attributes.namespace, pod).await,
            None => Ok(()),
        }
    }
}
