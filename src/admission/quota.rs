//! What objects count against a `ResourceQuota` (kubernetes `pkg/quota/v1`).

mod claim;
mod pod;

pub(crate) use pod::is_best_effort;

use api::admission::{Attributes, Operation};
use api::quantity::{Format, Quantity};
use api::selector::{LabelRequirement, Operator};
use api::{GroupResource, Object};
use client::k8s_openapi::api::core::v1::{ResourceQuota, ScopedResourceSelectorRequirement};
use serde_json::Value;

use crate::limits::{Amounts, amounts};

const STORAGE_CLASS_SUFFIX: &str = ".storageclass.storage.k8s.io/";
const CLAIM_RESOURCES: &[&str] = &["persistentvolumeclaims", "requests.storage"];
const SERVICE_RESOURCES: &[&str] = &["count/services", "services", "services.nodeports", "services.loadbalancers"];

/// How a resource is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Measure {
    Pod,
    Service,
    Claim,
    /// A claim for devices.
    ResourceClaim,
    /// By the number of objects alone.
    Count,
}

impl Measure {
    pub(crate) fn of(resource: &GroupResource) -> Self {
        match (resource.group.as_str(), resource.resource.as_str()) {
            ("", "pods") => Self::Pod,
            ("", "services") => Self::Service,
            ("", "persistentvolumeclaims") => Self::Claim,
            ("resource.k8s.io", "resourceclaims") => Self::ResourceClaim,
            _ => Self::Count,
        }
    }

    /// Whether the request can change what is used.
    pub(crate) fn handles(self, attributes: &Attributes) -> bool {
        let (create, update) = (attributes.operation == Operation::Create, attributes.operation == Operation::Update);
        match (self, attributes.subresource.as_str()) {
            (Self::Pod, "resize") => update,
            (Self::Pod, "") => create || (update && pod::scope_changed(attributes)),
            (Self::Claim, "status") => update && claim_status_changed(attributes),
            (Self::Service | Self::Claim | Self::ResourceClaim, "") => create || update,
            (Self::Count, "") => create,
            _ => false,
        }
    }

    /// Those of a quota's resources that these objects count against.
    pub(crate) fn matching<'a>(self, names: impl Iterator<Item = &'a str>, resource: &GroupResource) -> Vec<&'a str> {
        let matches = |name: &&str| match self {
            Self::Pod => pod::counts(name),
            Self::Service => SERVICE_RESOURCES.contains(name),
            Self::Claim => {
                let by_class = name.split_once(STORAGE_CLASS_SUFFIX).map(|(_, rest)| rest);
                *name == "count/persistentvolumeclaims"
                    || CLAIM_RESOURCES.contains(name)
                    || by_class.is_some_and(|rest| CLAIM_RESOURCES.contains(&rest))
            }
            Self::ResourceClaim => claim::counts(name),
            Self::Count => count_names(resource).iter().any(|own| own == name),
        };
        names.filter(matches).collect()
    }

    /// Whether an object falls under a quota at all: by resource and by every scope.
    pub(crate) fn falls_under(self, quota: &ResourceQuota, resource: &GroupResource, object: &Object) -> bool {
        let hard = quota.status.as_ref().and_then(|s| s.hard.as_ref()).into_iter().flatten();
        let matched = self.matching(hard.map(|(name, _)| name.as_str()), resource);
        !matched.is_empty() && scopes(quota).iter().all(|scope| self.matches_scope(scope, object))
    }

    /// Those of some scopes that an object is in (`MatchingScopes`).
    pub(crate) fn matching_scopes(self, scopes: &[Scope], object: &Object) -> Vec<Scope> {
        let knows_scopes = matches!(self, Self::Pod | Self::Claim);
        scopes.iter().filter(|scope| knows_scopes && self.matches_scope(scope, object)).cloned().collect()
    }

    fn matches_scope(self, scope: &ScopedResourceSelectorRequirement, object: &Object) -> bool {
        match self {
            Self::Pod => pod::matches_scope(scope, object),
            Self::Claim if scope.scope_name == "VolumeAttributesClass" => {
                let class = |path: &[&str]| object.str(path).filter(|name| !name.is_empty());
                let classes = [
                    class(&["spec", "volumeAttributesClassName"]),
                    class(&["status", "currentVolumeAttributesClassName"]),
                    class(&["status", "modifyVolumeStatus", "targetVolumeAttributesClassName"]),
                ];
                let mut named = classes.into_iter().flatten().peekable();
                if named.peek().is_none() {
                    return matches_values(scope, None);
                }
                named.any(|name| matches_values(scope, Some(name)))
            }
            _ => false,
        }
    }

    /// What is missing from an object that a quota on these resources wants to be told.
    pub(crate) fn constraints(self, required: &[&str], object: &Object) -> Result<(), String> {
        if self == Self::Pod { pod::constraints(required, object) } else { Ok(()) }
    }

    /// What an object uses.
    pub(crate) fn usage(self, resource: &GroupResource, object: &Object) -> Amounts {
        match self {
            Self::Pod => pod::usage(object),
            Self::Service => service_usage(object),
            Self::Claim => claim_usage(object),
            Self::ResourceClaim => claim::usage(object),
            Self::Count => count_names(resource).into_iter().map(|name| (name, number(1))).collect(),
        }
    }
}

/// A whole number of things.
fn number(value: i64) -> Quantity {
    Quantity::new(value, Format::DecimalSi)
}

/// `count/NAME.GROUP`, and the older names of some resources.
fn count_names(resource: &GroupResource) -> Vec<String> {
    let mut names = vec![format!("count/{resource}")];
    let aliased = ["configmaps", "resourcequotas", "replicationcontrollers", "secrets"];
    if resource.group.is_empty() && aliased.contains(&resource.resource.as_str()) {
        names.push(resource.resource.clone());
    }
    names
}

/// A scope of a quota, or one that is limited for everybody.
pub(crate) type Scope = ScopedResourceSelectorRequirement;

/// The scopes of a quota, old form and new.
pub(crate) fn scopes(quota: &ResourceQuota) -> Vec<ScopedResourceSelectorRequirement> {
    let Some(spec) = &quota.spec else { return Vec::new() };
    let plain = spec.scopes.iter().flatten().map(|name| ScopedResourceSelectorRequirement {
        scope_name: name.clone(),
        operator: "Exists".to_owned(),
        values: None,
    });
    let selected = spec.scope_selector.iter().flat_map(|s| s.match_expressions.iter().flatten().cloned());
    plain.chain(selected).collect()
}

/// Whether a scope's expression holds for a name (`None`: the object has none).
fn matches_values(scope: &ScopedResourceSelectorRequirement, name: Option<&str>) -> bool {
    let operator = match scope.operator.as_str() {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        _ => return false,
    };
    LabelRequirement::new(&scope.scope_name, operator, scope.values.clone().unwrap_or_default())
        .is_ok_and(|requirement| requirement.matches(name))
}

fn service_usage(service: &Object) -> Amounts {
    let ports = service.array(&["spec", "ports"]);
    let given = ports.iter().filter(|p| p.get("nodePort").and_then(Value::as_i64).is_some_and(|n| n != 0)).count();
    let (node_ports, balancers) = match service.str(&["spec", "type"]) {
        Some("NodePort") => (ports.len(), 0),
        Some("LoadBalancer") if service.bool(&["spec", "allocateLoadBalancerNodePorts"]) == Some(false) => (given, 1),
        Some("LoadBalancer") => (ports.len(), 1),
        _ => (0, 0),
    };
    let node_ports = i64::try_from(node_ports).unwrap_or(i64::MAX);
    [("count/services", 1), ("services", 1), ("services.nodeports", node_ports), ("services.loadbalancers", balancers)]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), number(value)))
        .collect()
}

fn claim_usage(claim: &Object) -> Amounts {
    let mut usage = Amounts::new();
    let class = claim
        .annotation(crate::plugins::BETA_CLASS)
        .or_else(|| claim.str(&["spec", "storageClassName"]))
        .filter(|class| !class.is_empty());
    let mut charge = |name: &str, amount: Quantity| {
        if let Some(class) = class {
            usage.insert(format!("{class}{STORAGE_CLASS_SUFFIX}{name}"), amount.clone());
        }
        usage.insert(name.to_owned(), amount);
    };
    charge("persistentvolumeclaims", number(1));
    let storage = |path: &[&str]| amounts(claim.get(path)).remove("storage");
    if let Some(requested) = storage(&["spec", "resources", "requests"]) {
        let allocated = storage(&["status", "allocatedResources"]).filter(|allocated| *allocated > requested);
        let amount = allocated.unwrap_or(requested);
        // Whole bytes are counted.
        let whole = if amount.as_i64().is_some() { amount } else { Quantity::new(amount.value(), amount.format()) };
        charge("requests.storage", whole);
    }
    usage.insert("count/persistentvolumeclaims".to_owned(), number(1));
    usage
}

fn claim_status_changed(attributes: &Attributes) -> bool {
    let (Some(new), Some(old)) = (&attributes.object, &attributes.old_object) else { return false };
    let paths: [&[&str]; 4] = [
        &["status", "allocatedResources"],
        &["spec", "volumeAttributesClassName"],
        &["status", "currentVolumeAttributesClassName"],
        &["status", "modifyVolumeStatus", "targetVolumeAttributesClassName"],
    ];
    paths.into_iter().any(|path| !api::validation::same(new.get(path), old.get(path)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(resource: &str, object: Value, expected: &[(&str, &str)]) {
        let resource = GroupResource::new("", resource);
        let object = Object::from_value(object).unwrap();
        let usage = Measure::of(&resource).usage(&resource, &object);
        let found: Vec<(String, String)> = usage.into_iter().map(|(k, v)| (k, v.to_string())).collect();
        let found: Vec<(&str, &str)> = found.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn objects_are_measured() {
        check("secrets", json!({}), &[("count/secrets", "1"), ("secrets", "1")]);
        check(
            "services",
            json!({"spec": {"type": "NodePort", "ports": [{"port": 1}, {"port": 2}]}}),
            &[("count/services", "1"), ("services", "1"), ("services.loadbalancers", "0"), ("services.nodeports", "2")],
        );
        check(
            "persistentvolumeclaims",
            json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "1Gi"}}}}),
            &[
                ("count/persistentvolumeclaims", "1"),
                ("gold.storageclass.storage.k8s.io/persistentvolumeclaims", "1"),
                ("gold.storageclass.storage.k8s.io/requests.storage", "1Gi"),
                ("persistentvolumeclaims", "1"),
                ("requests.storage", "1Gi"),
            ],
        );
        check(
            "pods",
            json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1", "x.io/gpu": "2"},
                "limits": {"memory": "1Gi"}}}]}}),
            &[
                ("count/pods", "1"),
                ("cpu", "1"),
                ("limits.memory", "1Gi"),
                ("pods", "1"),
                ("requests.cpu", "1"),
                ("requests.x.io/gpu", "2"),
            ],
        );
        check("pods", json!({"status": {"phase": "Failed"}}), &[("count/pods", "1")]);
    }
}
