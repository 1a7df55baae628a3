//! `PodNodeSelector`: a namespace says on which nodes its pods run (`plugin/pkg/admission/podnodeselector`). Off unless
//! asked for.

use std::collections::BTreeMap;

use api::admission::{AdmissionPlugin, Attributes, Operation};
use api::field::{Error, Path};
use api::validation::{label_key, label_value};
use api::{Gvr, Object, Status};
use async_trait::async_trait;
use client::k8s_openapi::api::core::v1::Namespace;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::attributes::is_resource;
use crate::cluster::Cluster;
use crate::plain_error;

const ANNOTATION: &str = "scheduler.alpha.kubernetes.io/node-selector";
const CLUSTER_DEFAULT: &str = "clusterDefaultNodeSelector";

type Labels = BTreeMap<String, String>;

/// Selectors that pods get and labels that they may ask for, by namespace; the cluster's default under
/// `clusterDefaultNodeSelector`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Configuration {
    #[serde(rename = "podNodeSelectorPluginConfig")]
    selectors: BTreeMap<String, String>,
}

impl Configuration {
    /// Reads what the configuration file says; it has no version.
    pub(crate) fn read(document: Option<&Value>) -> Result<Self, String> {
        let read = document.map(|document| serde_json::from_value(document.clone())).transpose();
        read.map(Option::unwrap_or_default).map_err(|error| error.to_string())
    }

    fn selector(&self, name: &str) -> Result<Labels, Status> {
        labels(self.selectors.get(name).map(String::as_str).unwrap_or_default())
    }
}

pub(crate) struct PodNodeSelector {
    cluster: Cluster,
    configuration: Configuration,
}

impl PodNodeSelector {
    pub(crate) fn new(cluster: Cluster, configuration: Configuration) -> Self {
        Self { cluster, configuration }
    }

    /// `getNamespaceNodeSelectorMap`.
    async fn selector(&self, namespace: &str) -> Result<Labels, Status> {
        let found = self.cluster.get::<Namespace>("", namespace).await.ok().flatten();
        let Some(found) = found else {
            return Err(Status::internal(format!("namespace {namespace} does not exist")));
        };
        match found.metadata.annotations.as_ref().and_then(|annotations| annotations.get(ANNOTATION)) {
            Some(text) => labels(text),
            None => self.configuration.selector(CLUSTER_DEFAULT),
        }
    }

    fn check(&self, attributes: &Attributes, pod: &Object, selector: &Labels) -> Result<(), Status> {
        let own = own_labels(pod);
        let refuse = |why: &str| Status::forbidden(&attributes.resource.group_resource(), pod.name(), why);
        if selector.iter().any(|(key, value)| own.get(key).is_some_and(|other| other != value)) {
            return Err(refuse("pod node label selector conflicts with its namespace node label selector"));
        }
        let allowed = self.configuration.selector(&attributes.namespace)?;
        if !allowed.is_empty() && own.iter().any(|(key, value)| allowed.get(key) != Some(value)) {
            return Err(refuse("pod node label selector labels conflict with its namespace whitelist"));
        }
        Ok(())
    }
}

#[async_trait]
impl AdmissionPlugin for PodNodeSelector {
    fn name(&self) -> &'static str {
        "PodNodeSelector"
    }

    fn handles(&self, operation: Operation, resource: &Gvr, subresource: &str) -> bool {
        operation == Operation::Create && is_resource(resource, subresource, "", "pods")
    }

    async fn admit(&self, attributes: &mut Attributes) -> Result<(), Status> {
        let selector = self.selector(&attributes.namespace).await?;
        let Some(mut pod) = attributes.object.take() else { return Ok(()) };
        let merged = own_labels(&pod);
        let conflicts = selector.iter().any(|(key, value)| merged.get(key).is_some_and(|own| own != value));
        if !conflicts && !selector.is_empty() {
            let all = selector.iter().chain(&merged).map(|(key, value)| (key.clone(), value.as_str().into()));
            pod.set(&["spec", "nodeSelector"], all.collect::<Map<String, Value>>());
        }
        let checked = self.check(attributes, &pod, &selector);
        attributes.object = Some(pod);
        checked
    }

    async fn validate(&self, attributes: &Attributes) -> Result<(), Status> {
        let selector = self.selector(&attributes.namespace).await?;
        attributes.object.as_ref().map_or(Ok(()), |pod| self.check(attributes, pod, &selector))
    }
}

fn own_labels(pod: &Object) -> Labels {
    let members = pod.get(&["spec", "nodeSelector"]).and_then(Value::as_object).into_iter().flatten();
    members.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

/// `labels.ConvertSelectorToLabelsMap`: `a=b,c=d`.
fn labels(text: &str) -> Result<Labels, Status> {
    let mut labels = Labels::new();
    if text.is_empty() {
        return Ok(labels);
    }
    for one in text.split(',') {
        let parts: Vec<&str> = one.split('=').collect();
        let [key, value] = parts.as_slice() else {
            return Err(plain_error(format!("invalid selector: [{}]", parts.join(" "))));
        };
        let (key, value) = (key.trim(), value.trim());
        let wrong = label_key(key);
        if !wrong.is_empty() {
            return Err(plain_error(Error::invalid(Path::new("<nil>"), key, wrong.join("; "))));
        }
        let wrong = label_value(value);
        if !wrong.is_empty() {
            return Err(plain_error(Error::invalid(Path::new("").key(key), value, wrong.join("; "))));
        }
        labels.insert(key.to_owned(), value.to_owned());
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_pairs() {
        let check = |text: &str, want: Result<&[(&str, &str)], &str>| {
            let want = want.map(|pairs| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect());
            assert_eq!(labels(text).map_err(|status| status.message), want.map_err(str::to_owned), "{text}");
        };
        check("", Ok(&[]));
        check("a=b, c = d", Ok(&[("a", "b"), ("c", "d")]));
        check("a", Err("invalid selector: [a]"));
        check("a==b", Err("invalid selector: [a  b]"));
        assert!(labels("a=-").unwrap_err().message.contains("Invalid value: \"-\""));
    }
}
