//! `RuntimeClass`: a pod's overhead and where it may run come from its runtime class
//! (`plugin/pkg/admission/runtimeclass`).

use std::sync::Arc;

use api::admission::{AdmissionPlugin, Attributes, Operation};
use api::{Gvr, Object, Status};
use async_trait::async_trait;
use client::k8s_openapi::api::node::v1::RuntimeClass as Class;
use serde_json::{Map, Value};

use crate::attributes::{forbidden, is_resource};
use crate::cluster::Cluster;
use crate::limits::{amounts, amounts_of};
use crate::tolerations;

pub(crate) struct RuntimeClass {
    cluster: Cluster,
}

impl RuntimeClass {
    pub(crate) fn new(cluster: Cluster) -> Self {
        Self { cluster }
    }

    async fn class_of(&self, attributes: &Attributes, pod: &Object) -> Result<Option<Arc<Class>>, Status> {
        let Some(name) = pod.str(&["spec", "runtimeClassName"]) else { return Ok(None) };
        // Upstream's client does not ask for what is no part of a path, and nobody words its refusal again.
        if name.is_empty() {
            return Err(Status::new(500, "", "resource name may not be empty"));
        }
        let problems = api::validation::path_segment(name, false);
        if !problems.is_empty() {
            let why = format!("invalid resource name {name:?}: [{}]", problems.join(" "));
            return Err(Status::new(500, "", why));
        }
        match self.cluster.get::<Class>("", name).await? {
            Some(class) => Ok(Some(class)),
            None => Err(forbidden(attributes, format!("pod rejected: RuntimeClass {name:?} not found"))),
        }
    }
}

#[async_trait]
impl AdmissionPlugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    fn handles(&self, operation: Operation, resource: &Gvr, subresource: &str) -> bool {
        operation == Operation::Create && is_resource(resource, subresource, "", "pods")
    }

    async fn admit(&self, attributes: &mut Attributes) -> Result<(), Status> {
        let Some(mut pod) = attributes.object.take() else { return Ok(()) };
        let result = match self.class_of(attributes, &pod).await {
            Ok(Some(class)) => apply(&class, &mut pod).map_err(|why| forbidden(attributes, why)),
            Ok(None) => Ok(()),
            Err(status) => Err(status),
        };
        attributes.object = Some(pod);
        result
    }

    async fn validate(&self, attributes: &Attributes) -> Result<(), Status> {
        let Some(pod) = &attributes.object else { return Ok(()) };
        let class = self.class_of(attributes, pod).await?;
        let overhead = class.as_ref().and_then(|c| c.overhead.as_ref());
        match overhead {
            Some(overhead) if !same_overhead(pod, overhead.pod_fixed.as_ref()) => Err(forbidden(attributes, MISMATCH)),
            None if pod.get(&["spec", "overhead"]).is_some_and(Value::is_object) => Err(forbidden(
                attributes,
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
            )),
            _ => Ok(()),
        }
    }
}

const MISMATCH: &str = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";

type Fixed = std::collections::BTreeMap<String, client::k8s_openapi::apimachinery::pkg::api::resource::Quantity>;

fn same_overhead(pod: &Object, fixed: Option<&Fixed>) -> bool {
    amounts(pod.get(&["spec", "overhead"])) == amounts_of(fixed)
}

fn apply(class: &Class, pod: &mut Object) -> Result<(), String> {
    if let Some(overhead) = &class.overhead {
        let set = pod.get(&["spec", "overhead"]).and_then(Value::as_object).is_some_and(|o| !o.is_empty());
        if set && !same_overhead(pod, overhead.pod_fixed.as_ref()) {
            return Err(MISMATCH.to_owned());
        }
        let fixed = overhead.pod_fixed.iter().flatten().map(|(name, q)| (name.clone(), q.0.clone().into()));
        pod.set(&["spec", "overhead"], fixed.collect::<Map<String, Value>>());
    }
    let Some(scheduling) = &class.scheduling else { return Ok(()) };
    for (key, value) in scheduling.node_selector.iter().flatten() {
        let path = ["spec", "nodeSelector", key.as_str()];
        if let Some(own) = pod.str(&path).filter(|own| own != value) {
            return Err(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; pod.spec.nodeSelector[{key}] = {own}"
            ));
        }
        pod.set(&path, value.clone());
    }
    let mut tolerations = pod.array(&["spec", "tolerations"]).to_vec();
    for toleration in scheduling.tolerations.iter().flatten() {
        let mut value = Map::new();
        for (name, text) in [
            ("key", &toleration.key),
            ("operator", &toleration.operator),
            ("value", &toleration.value),
            ("effect", &toleration.effect),
        ] {
            if let Some(text) = text {
                value.insert(name.to_owned(), text.clone().into());
            }
        }
        if let Some(seconds) = toleration.toleration_seconds {
            value.insert("tolerationSeconds".to_owned(), seconds.into());
        }
        tolerations.push(Value::Object(value));
    }
    let merged = tolerations::merge(&tolerations);
    if !merged.is_empty() {
        pod.set(&["spec", "tolerations"], merged);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::Resource;
    use serde_json::json;

    fn class(value: Value) -> Class {
        let mut value = value;
        value["handler"] = "h".into();
        value["apiVersion"] = "node.k8s.io/v1".into();
        value["kind"] = "RuntimeClass".into();
        Class::decode(value.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn overhead_comes_from_the_class() {
        let class = class(json!({"overhead": {"podFixed": {"cpu": "100m"}}}));
        let mut pod = Object::from_value(json!({"spec": {}})).unwrap();
        apply(&class, &mut pod).unwrap();
        assert_eq!(pod.get(&["spec", "overhead"]), Some(&json!({"cpu": "100m"})));
        pod.set(&["spec", "overhead", "cpu"], "0.1");
        apply(&class, &mut pod).unwrap();
        pod.set(&["spec", "overhead", "cpu"], "1");
        assert_eq!(apply(&class, &mut pod).unwrap_err(), MISMATCH);
    }

    #[test]
    fn scheduling_is_merged() {
        let class = class(json!({"scheduling": {"nodeSelector": {"a": "b"}, "tolerations": [
            {"operator": "Exists"}, {"key": "x", "operator": "Equal", "value": "y", "effect": "NoSchedule"}]}}));
        let mut pod = Object::from_value(json!({"spec": {"nodeSelector": {"c": "d"}, "tolerations": [
            {"key": "own", "operator": "Exists", "effect": "NoExecute"}]}}))
        .unwrap();
        apply(&class, &mut pod).unwrap();
        assert_eq!(pod.get(&["spec", "nodeSelector"]), Some(&json!({"a": "b", "c": "d"})));
        assert_eq!(pod.array(&["spec", "tolerations"]), [json!({"operator": "Exists"})]);
        pod.set(&["spec", "nodeSelector", "a"], "other");
        assert!(
            apply(&class, &mut pod).unwrap_err().starts_with("conflict: runtimeClass.scheduling.nodeSelector[a] = b")
        );
    }
}
