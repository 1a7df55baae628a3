//! `NodeDeclaredFeatureValidator`: a bound pod is changed only in ways that its node says it can follow
//! (`plugin/pkg/admission/nodedeclaredfeatures`, component-helpers `nodedeclaredfeatures/features`).

use api::admission::{AdmissionPlugin, Attributes, Operation};
use api::quantity::Quantity;
use api::{Gvr, Object, Status};
use async_trait::async_trait;
use client::k8s_openapi::api::core::v1::Node;
use serde_json::Value;

use crate::attributes::{containers, forbidden, text};
use crate::cluster::Cluster;

pub(crate) struct NodeDeclaredFeatureValidator {
    cluster: Cluster,
}

impl NodeDeclaredFeatureValidator {
    pub(crate) fn new(cluster: Cluster) -> Self {
        Self { cluster }
    }
}

#[async_trait]
impl AdmissionPlugin for NodeDeclaredFeatureValidator {
    fn name(&self) -> &'static str {
        "NodeDeclaredFeatureValidator"
    }

    fn handles(&self, operation: Operation, resource: &Gvr, subresource: &str) -> bool {
        operation == Operation::Update
            && resource.group.is_empty()
            && resource.resource == "pods"
            && matches!(subresource, "" | "resize")
    }

    async fn validate(&self, attributes: &Attributes) -> Result<(), Status> {
        let (Some(pod), Some(old)) = (&attributes.object, &attributes.old_object) else { return Ok(()) };
        let name = pod.str(&["spec", "nodeName"]).unwrap_or_default();
        // The generation grows with the spec.
        if name.is_empty() || pod.generation() == old.generation() {
            return Ok(());
        }
        let needed = features_of_update(pod, old);
        if needed.is_empty() {
            return Ok(());
        }
        let node = match self.cluster.get::<Node>("", name).await {
            Ok(Some(node)) => node,
            Ok(None) => return Err(forbidden(attributes, format!("node {name:?} not found"))),
            Err(status) => {
                return Err(forbidden(attributes, format!("failed to get node {name:?}: {}", status.message)));
            }
        };
        let declared = node.status.as_ref().and_then(|status| status.declared_features.as_deref()).unwrap_or_default();
        let missing: Vec<&str> = needed.into_iter().filter(|need| declared.iter().all(|has| has != need)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let why =
            format!("pod update requires features {} which are not available on node {name:?}", missing.join(", "));
        Err(forbidden(attributes, why))
    }
}

/// What a node must be able to do for a change, in order of names (`InferForUpdate`).
fn features_of_update(pod: &Object, old: &Object) -> Vec<&'static str> {
    let resources = &["spec", "resources"][..];
    let all = [
        ("InPlacePodLevelResourcesVerticalScaling", !api::validation::same(pod.get(resources), old.get(resources))),
        ("InPlacePodVerticalScalingInitContainers", resizes_init_container(pod, old)),
        ("InPlacePodVerticalScalingMemoryBackedVolumes", resizes_memory_volume(pod, old)),
    ];
    all.into_iter().filter_map(|(name, is_needed)| is_needed.then_some(name)).collect()
}

/// Init containers that end; those that go on beside the others do not count.
fn resizes_init_container(pod: &Object, old: &Object) -> bool {
    let new = containers(pod, "initContainers");
    containers(old, "initContainers").iter().zip(new).any(|(before, after)| {
        text(before, "restartPolicy") != "Always"
            && !api::validation::same(before.get("resources"), after.get("resources"))
    })
}

fn resizes_memory_volume(pod: &Object, old: &Object) -> bool {
    let (new, old) = (pod.array(&["spec", "volumes"]), old.array(&["spec", "volumes"]));
    let limit = |volume: &Value| {
        let limit = volume.get("emptyDir").and_then(|directory| directory.get("sizeLimit"))?;
        Quantity::from_json(limit).and_then(Result::ok)
    };
    new.len() == old.len()
        && new.iter().zip(old).any(|(after, before)| {
            let is_memory = after.get("emptyDir").is_some_and(|directory| text(directory, "medium") == "Memory");
            let limits = limit(after).zip(limit(before));
            text(after, "name") == text(before, "name") && is_memory && limits.is_some_and(|(a, b)| a != b)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn changes_need_features() {
        let check = |old: Value, new: Value, want: &[&str]| {
            let pod = |spec: Value| Object::from_value(json!({"spec": spec})).unwrap();
            assert_eq!(features_of_update(&pod(new), &pod(old)), want);
        };
        let cpu = |cpu: &str| json!({"requests": {"cpu": cpu}});
        let init = |policy: Value, amount: &str| {
            let mut container = json!({"name": "i", "resources": cpu(amount)});
            if policy.is_string() {
                container["restartPolicy"] = policy;
            }
            json!({"initContainers": [container]})
        };
        check(json!({"containers": [cpu("1")]}), json!({"containers": [cpu("2")]}), &[]);
        check(
            json!({"resources": cpu("1")}),
            json!({"resources": cpu("2")}),
            &["InPlacePodLevelResourcesVerticalScaling"],
        );
        check(init(Value::Null, "1"), init(Value::Null, "2"), &["InPlacePodVerticalScalingInitContainers"]);
        check(init("Always".into(), "1"), init("Always".into(), "2"), &[]);
        let volume =
            |limit: &str| json!({"volumes": [{"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": limit}}]});
        check(volume("1Gi"), volume("1024Mi"), &[]);
        check(volume("1Gi"), volume("2Gi"), &["InPlacePodVerticalScalingMemoryBackedVolumes"]);
    }
}
