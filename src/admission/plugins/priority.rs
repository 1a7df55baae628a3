//! `Priority`: a pod's priority comes from its class, and only one class is the default
//! (`plugin/pkg/admission/priority`).

use std::sync::Arc;

use api::admission::{AdmissionPlugin, Attributes, Operation};
use api::{Gvr, Object, Status};
use async_trait::async_trait;
use client::Resource;
use client::k8s_openapi::api::scheduling::v1::PriorityClass;
use serde_json::Value;

use crate::attributes::{forbidden, is_resource};
use crate::cluster::Cluster;

/// `SystemPriorityClasses`.
const SYSTEM: [&str; 2] = ["system-node-critical", "system-cluster-critical"];

pub(crate) struct Priority {
    cluster: Cluster,
}

/// What a class says; without any class, zero and preemption of lower priorities.
struct Resolved {
    name: String,
    value: i32,
    policy: Option<String>,
}

impl Priority {
    pub(crate) fn new(cluster: Cluster) -> Self {
        Self { cluster }
    }

    /// The class marked as default; the one of lowest value if several are.
    async fn default_class(&self) -> Result<Option<Arc<PriorityClass>>, Status> {
        let classes = self.cluster.list::<PriorityClass>().await?;
        let defaults = classes.into_iter().filter(|class| class.global_default.unwrap_or_default());
        Ok(defaults.min_by_key(|class| class.value))
    }

    async fn resolve(&self, attributes: &Attributes, name: &str) -> Result<Resolved, Status> {
        let class = if name.is_empty() {
            self.default_class().await?
        } else {
            let class = self.cluster.get::<PriorityClass>("", name).await?;
            let missing = || forbidden(attributes, format!("no PriorityClass with name {name} was found"));
            Some(class.ok_or_else(missing)?)
        };
        Ok(match class {
            Some(class) => Resolved {
                name: class.name().to_owned(),
                value: class.value.unwrap_or_default(),
                policy: class.preemption_policy.clone(),
            },
            None => Resolved { name: String::new(), value: 0, policy: Some("PreemptLowerPriority".to_owned()) },
        })
    }

    async fn admit_new(&self, attributes: &Attributes, pod: &mut Object) -> Result<(), Status> {
        let name = pod.str(&["spec", "priorityClassName"]).unwrap_or_default();
        let class = self.resolve(attributes, name).await?;
        if !class.name.is_empty() {
            pod.set(&["spec", "priorityClassName"], class.name);
        }
        if let Some(given) = pod.i64(&["spec", "priority"]).filter(|given| *given != i64::from(class.value)) {
            return Err(forbidden(
                attributes,
                format!(
                    "the integer value of priority ({given}) must not be provided in pod spec; priority admission \
                     controller computed {} from the given PriorityClass name",
                    class.value
                ),
            ));
        }
        pod.set(&["spec", "priority"], class.value);
        let Some(policy) = class.policy else { return Ok(()) };
        if let Some(given) = pod.str(&["spec", "preemptionPolicy"]).filter(|given| *given != policy) {
            return Err(forbidden(
                attributes,
                format!(
                    "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority \
                     admission controller computed {policy} from the given PriorityClass name"
                ),
            ));
        }
        pod.set(&["spec", "preemptionPolicy"], policy);
        Ok(())
    }
}

#[async_trait]
impl AdmissionPlugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn handles(&self, operation: Operation, resource: &Gvr, subresource: &str) -> bool {
        let classes = is_resource(resource, subresource, "scheduling.k8s.io", "priorityclasses");
        match operation {
            Operation::Create | Operation::Update => classes || is_resource(resource, subresource, "", "pods"),
            Operation::Delete => classes,
            Operation::Connect => false,
        }
    }

    async fn admit(&self, attributes: &mut Attributes) -> Result<(), Status> {
        if attributes.resource.resource != "pods" {
            return Ok(());
        }
        let Some(mut pod) = attributes.object.take() else { return Ok(()) };
        let result = match (&attributes.old_object, attributes.operation) {
            (Some(old), Operation::Update) => {
                keep(&mut pod, old);
                Ok(())
            }
            _ => self.admit_new(attributes, &mut pod).await,
        };
        attributes.object = Some(pod);
        result
    }

    async fn validate(&self, attributes: &Attributes) -> Result<(), Status> {
        // Upstream's store refuses it (`registry/scheduling/priorityclass/storage` `Delete`).
        if attributes.operation == Operation::Delete && SYSTEM.contains(&attributes.name.as_str()) {
            return Err(forbidden(attributes, "this is a system priority class and cannot be deleted"));
        }
        let Some(class) = &attributes.object else { return Ok(()) };
        if attributes.resource.resource != "priorityclasses" || !class.bool(&["globalDefault"]).unwrap_or_default() {
            return Ok(());
        }
        match self.default_class().await? {
            Some(default) if attributes.operation == Operation::Create || default.name() != class.name() => {
                let name = default.name();
                let why = format!("PriorityClass {name} is already marked as default. Only one default can exist");
                Err(forbidden(attributes, why))
            }
            _ => Ok(()),
        }
    }
}

/// A client that does not know these fields must not lose them.
fn keep(pod: &mut Object, old: &Object) {
    for name in ["priority", "preemptionPolicy"] {
        if pod.get(&["spec", name]).is_none_or(Value::is_null)
            && let Some(value) = old.get(&["spec", name])
        {
            pod.set(&["spec", name], value.clone());
        }
    }
}
