//! `ExtendedResourceToleration`: pods tolerate the taints of the nodes that are kept for the resources they ask for
//! (`plugin/pkg/admission/extendedresourcetoleration`). Off unless asked for.

use std::collections::BTreeSet;

use api::admission::{AdmissionPlugin, Attributes, Operation};
use api::validation::label_key;
use api::{Gvr, Status};
use async_trait::async_trait;
use serde_json::json;

use crate::attributes::{containers, is_resource, list_mut, text};
use crate::limits::container_amounts;

pub(crate) struct ExtendedResourceToleration;

#[async_trait]
impl AdmissionPlugin for ExtendedResourceToleration {
    fn name(&self) -> &'static str {
        "ExtendedResourceToleration"
    }

    fn handles(&self, operation: Operation, resource: &Gvr, subresource: &str) -> bool {
        matches!(operation, Operation::Create | Operation::Update) && is_resource(resource, subresource, "", "pods")
    }

    async fn admit(&self, attributes: &mut Attributes) -> Result<(), Status> {
        let Some(pod) = &mut attributes.object else { return Ok(()) };
        let all = ["containers", "initContainers"].into_iter().flat_map(|list| containers(pod, list));
        let names: BTreeSet<String> =
            all.flat_map(|c| container_amounts(c, "requests").into_keys()).filter(|name| is_extended(name)).collect();
        if names.is_empty() {
            return Ok(());
        }
        let Some(tolerations) = list_mut(pod, &["spec", "tolerations"]) else { return Ok(()) };
        for name in names {
            let wanted = json!({"key": name, "operator": "Exists", "effect": "NoSchedule"});
            // `MatchToleration` looks at nothing else.
            let same = ["key", "effect", "operator", "value"];
            match tolerations.iter_mut().find(|t| same.iter().all(|member| text(t, member) == text(&wanted, member))) {
                Some(found) => *found = wanted,
                None => tolerations.push(wanted),
            }
        }
        Ok(())
    }
}

/// `IsExtendedResourceName`: of another domain than Kubernetes', and nameable in a quota.
fn is_extended(name: &str) -> bool {
    let is_native = !name.contains('/') || name.contains("kubernetes.io/");
    !is_native && !name.starts_with("requests.") && label_key(&format!("requests.{name}")).is_empty()
}
