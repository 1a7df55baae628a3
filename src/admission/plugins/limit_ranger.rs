//! `LimitRanger`: defaults and bounds of resources by namespace (`plugin/pkg/admission/limitranger`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::admission::{AdmissionPlugin, Attributes, Operation};
use api::quantity::Quantity;
use api::{Gvr, Object, Status};
use async_trait::async_trait;
use client::k8s_openapi::api::core::v1::{LimitRange, LimitRangeItem};
use parking_lot::Mutex;
use serde_json::{Map, Value};
use tokio::time::Instant;

use crate::attributes::{containers, forbidden, list_mut, text};
use crate::cluster::Cluster;
use crate::limits::{Amounts, amounts, amounts_of, container_amounts, pod_amounts};

const ANNOTATION: &str = "kubernetes.io/limit-ranger";
/// How long the live answer that a namespace has no ranges is believed, where the informer says so too.
const LIVE_TTL: Duration = Duration::from_secs(30);
const LIVE_MAX: usize = 1000;
/// Beyond this, thousandths do not fit an `i64`.
const MILLI_MAX: i64 = i64::MAX / 1000;

pub(crate) struct LimitRanger {
    cluster: Cluster,
    /// Live answers by namespace. At most `LIVE_MAX`: then all are forgotten.
    live: Mutex<BTreeMap<String, (Instant, Vec<Arc<LimitRange>>)>>,
}

impl LimitRanger {
    pub(crate) fn new(cluster: Cluster) -> Self {
        Self { cluster, live: Mutex::new(BTreeMap::new()) }
    }

    /// What the informer knows. If that is nothing, a range may just have been made: the API server is asked, but not
    /// each time.
    async fn ranges(&self, attributes: &Attributes) -> Result<Vec<Arc<LimitRange>>, Status> {
        let namespace = &attributes.namespace;
        if let Some(ranges) = self.cluster.known_in_namespace::<LimitRange>(namespace)
            && !ranges.is_empty()
        {
            return Ok(ranges);
        }
        if let Some((until, ranges)) = self.live.lock().get(namespace)
            && *until > Instant::now()
        {
            return Ok(ranges.clone());
        }
        let ranges = self.cluster.live_list::<LimitRange>(namespace).await.map_err(|s| forbidden(attributes, s))?;
        let mut live = self.live.lock();
        if live.len() >= LIVE_MAX {
            live.clear();
        }
        live.insert(namespace.clone(), (Instant::now() + LIVE_TTL, ranges.clone()));
        Ok(ranges)
    }

    fn is_going(attributes: &Attributes) -> bool {
        attributes.old_object.as_ref().is_some_and(Object::is_deleting)
    }
}

#[async_trait]
impl AdmissionPlugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    fn handles(&self, operation: Operation, resource: &Gvr, subresource: &str) -> bool {
        if !resource.group.is_empty() {
            return false;
        }
        matches!(
            (operation, resource.resource.as_str(), subresource),
            (Operation::Create, "pods" | "persistentvolumeclaims", "")
                | (Operation::Update, "persistentvolumeclaims", "")
                | (Operation::Update, "pods", "resize")
        )
    }

    async fn admit(&self, attributes: &mut Attributes) -> Result<(), Status> {
        if attributes.resource.resource != "pods" || Self::is_going(attributes) {
            return Ok(());
        }
        let ranges = self.ranges(attributes).await?;
        if let Some(pod) = &mut attributes.object {
            for range in ranges {
                set_defaults(items(&range), pod);
            }
        }
        Ok(())
    }

    async fn validate(&self, attributes: &Attributes) -> Result<(), Status> {
        if Self::is_going(attributes) {
            return Ok(());
        }
        let Some(object) = &attributes.object else { return Ok(()) };
        for range in self.ranges(attributes).await? {
            let found = match attributes.resource.resource.as_str() {
                "pods" => pod_problems(items(&range), object),
                _ => claim_problems(items(&range), object),
            };
            // What several containers do wrong is said once (`utilerrors.NewAggregate`).
            let mut problems = Vec::with_capacity(found.len());
            for problem in found {
                if !problems.contains(&problem) {
                    problems.push(problem);
                }
            }
            match problems.as_slice() {
                [] => {}
                [one] => return Err(forbidden(attributes, one)),
                many => return Err(forbidden(attributes, format!("[{}]", many.join(", ")))),
            }
        }
        Ok(())
    }
}

fn items(range: &LimitRange) -> &[LimitRangeItem] {
    range.spec.as_ref().map_or(&[], |spec| spec.limits.as_slice())
}

/// `PodMutateLimitFunc`.
fn set_defaults(items: &[LimitRangeItem], pod: &mut Object) {
    let (mut requests, mut limits) = (BTreeMap::new(), BTreeMap::new());
    for item in items.iter().filter(|i| i.type_ == "Container") {
        requests.extend(item.default_request.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone())));
        limits.extend(item.default.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone())));
    }
    let mut notes = Vec::new();
    for (list, word) in [("containers", "container"), ("initContainers", "init container")] {
        if containers(pod, list).is_empty() {
            continue;
        }
        for container in list_mut(pod, &["spec", list]).into_iter().flatten() {
            let name = text(container, "name").to_owned();
            for (which, defaults, kind) in [("requests", &requests, "request"), ("limits", &limits, "limit")] {
                let set = fill(container, which, defaults);
                if !set.is_empty() {
                    notes.push(format!("{} {kind} for {word} {name}", set.join(", ")));
                }
            }
        }
    }
    if !notes.is_empty() {
        let note = format!("LimitRanger plugin set: {}", notes.join("; "));
        pod.set(&["metadata", "annotations", ANNOTATION], note);
    }
}

/// Adds what is missing to a container's requests or limits and returns the names, in order.
fn fill(container: &mut Value, which: &str, defaults: &BTreeMap<String, String>) -> Vec<String> {
    let mut set = Vec::new();
    let Some(container) = container.as_object_mut() else { return set };
    for (name, amount) in defaults {
        let resources = container.entry("resources").or_insert_with(|| Value::Object(Map::new()));
        let Some(resources) = resources.as_object_mut() else { return set };
        let amounts = resources.entry(which).or_insert_with(|| Value::Object(Map::new()));
        let Some(amounts) = amounts.as_object_mut() else { return set };
        if !amounts.contains_key(name) {
            amounts.insert(name.clone(), amount.clone().into());
            set.push(name.clone());
        }
    }
    set
}

/// `PodValidateLimitFunc`.
fn pod_problems(items: &[LimitRangeItem], pod: &Object) -> Vec<String> {
    let mut problems = Vec::new();
    for item in items {
        match item.type_.as_str() {
            "Container" => {
                for container in containers(pod, "containers").iter().chain(containers(pod, "initContainers")) {
                    let (requests, limits) =
                        (container_amounts(container, "requests"), container_amounts(container, "limits"));
                    check_item(item, &requests, &limits, &mut problems);
                }
            }
            "Pod" => {
                check_item(item, &pod_amounts(pod, "requests"), &pod_amounts(pod, "limits"), &mut problems);
            }
            _ => {}
        }
    }
    problems
}

fn check_item(item: &LimitRangeItem, requests: &Amounts, limits: &Amounts, problems: &mut Vec<String>) {
    let kind = item.type_.as_str();
    for (name, bound) in amounts_of(item.min.as_ref()) {
        problems.extend(below_minimum(kind, &name, &bound, requests, limits));
    }
    for (name, bound) in amounts_of(item.max.as_ref()) {
        problems.extend(above_maximum(kind, &name, &bound, requests, limits));
    }
    for (name, bound) in amounts_of(item.max_limit_request_ratio.as_ref()) {
        problems.extend(above_ratio(kind, &name, &bound, requests, limits));
    }
}

/// `PersistentVolumeClaimValidateLimitFunc`.
fn claim_problems(items: &[LimitRangeItem], claim: &Object) -> Vec<String> {
    let requests = amounts(claim.get(&["spec", "resources", "requests"]));
    let mut problems = Vec::new();
    for item in items.iter().filter(|i| i.type_ == "PersistentVolumeClaim") {
        let kind = item.type_.as_str();
        for (name, bound) in amounts_of(item.min.as_ref()) {
            problems.extend(below_minimum(kind, &name, &bound, &requests, &Amounts::new()));
        }
        for (name, bound) in amounts_of(item.max.as_ref()) {
            let text = format!("maximum {name} usage per {kind} is {bound}");
            match requests.get(&name) {
                None => problems.push(format!("{text}.  No request is specified")),
                Some(request) => {
                    let [request_value, enforced] = comparable([request, &bound]);
                    if request_value > enforced {
                        problems.push(format!("{text}, but request is {request}"));
                    }
                }
            }
        }
    }
    problems
}

/// Values in thousandths, or whole units if one is too large for that.
fn comparable<const N: usize>(quantities: [&Quantity; N]) -> [i64; N] {
    let values = quantities.map(Quantity::value);
    if values.iter().all(|v| *v <= MILLI_MAX) { quantities.map(Quantity::milli_value) } else { values }
}

fn below_minimum(kind: &str, name: &str, bound: &Quantity, requests: &Amounts, limits: &Amounts) -> Option<String> {
    let zero = Quantity::default();
    let (request, limit) = (requests.get(name), limits.get(name));
    let [request_value, limit_value, enforced] = comparable([request.unwrap_or(&zero), limit.unwrap_or(&zero), bound]);
    let text = format!("minimum {name} usage per {kind} is {bound}");
    match (request, limit) {
        (None, _) => Some(format!("{text}.  No request is specified")),
        (Some(request), _) if request_value < enforced => Some(format!("{text}, but request is {request}")),
        (_, Some(limit)) if limit_value < enforced => Some(format!("{text}, but limit is {limit}")),
        _ => None,
    }
}

fn above_maximum(kind: &str, name: &str, bound: &Quantity, requests: &Amounts, limits: &Amounts) -> Option<String> {
    let zero = Quantity::default();
    let (request, limit) = (requests.get(name), limits.get(name));
    let [request_value, limit_value, enforced] = comparable([request.unwrap_or(&zero), limit.unwrap_or(&zero), bound]);
    let text = format!("maximum {name} usage per {kind} is {bound}");
    match (request, limit) {
        (_, None) => Some(format!("{text}.  No limit is specified")),
        (_, Some(limit)) if limit_value > enforced => Some(format!("{text}, but limit is {limit}")),
        (Some(request), _) if request_value > enforced => Some(format!("{text}, but request is {request}")),
        _ => None,
    }
}

fn above_ratio(kind: &str, name: &str, bound: &Quantity, requests: &Amounts, limits: &Amounts) -> Option<String> {
    let zero = Quantity::default();
    let (request, limit) = (requests.get(name).unwrap_or(&zero), limits.get(name).unwrap_or(&zero));
    let [request_value, limit_value, _] = comparable([request, limit, bound]);
    let text = format!("{name} max limit to request ratio per {kind} is {bound}");
    if request_value == 0 {
        return Some(format!("{text}, but no request is specified or request is 0"));
    }
    if limit_value == 0 {
        return Some(format!("{text}, but no limit is specified or limit is 0"));
    }
    let ratio = limit_value as f64 / request_value as f64;
    let (observed, enforced) = if bound.value() <= MILLI_MAX {
        (ratio * 1000.0, bound.milli_value() as f64)
    } else {
        (ratio, bound.value() as f64)
    };
    (observed > enforced).then(|| format!("{text}, but provided ratio is {ratio:.6}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::Resource;
    use serde_json::json;

    fn range(item: Value) -> LimitRange {
        let bytes = json!({"apiVersion": "v1", "kind": "LimitRange", "spec": {"limits": [item]}}).to_string();
        LimitRange::decode(bytes.as_bytes()).unwrap()
    }

    fn pod(resources: Value) -> Object {
        Object::from_value(json!({"spec": {"containers": [{"name": "c", "resources": resources}]}})).unwrap()
    }

    #[test]
    fn defaults_fill_what_is_missing() {
        let range = range(json!({"type": "Container", "default": {"cpu": "2", "memory": "1Gi"},
            "defaultRequest": {"cpu": "1"}}));
        let mut pod = pod(json!({"limits": {"memory": "2Gi"}}));
        set_defaults(items(&range), &mut pod);
        assert_eq!(
            pod.array(&["spec", "containers"])[0]["resources"],
            json!({"limits": {"memory": "2Gi", "cpu": "2"}, "requests": {"cpu": "1"}})
        );
        assert_eq!(
            pod.annotation(ANNOTATION),
            Some("LimitRanger plugin set: cpu request for container c; cpu limit for container c")
        );
    }

    #[test]
    fn bounds_have_upstreams_texts() {
        let check = |item: Value, resources: Value, expected: &[&str]| {
            assert_eq!(pod_problems(items(&range(item)), &pod(resources)), expected);
        };
        let min = json!({"type": "Container", "min": {"cpu": "100m"}});
        check(
            min.clone(),
            json!({"requests": {"cpu": "50m"}}),
            &["minimum cpu usage per Container is 100m, but request is 50m"],
        );
        check(min.clone(), json!({}), &["minimum cpu usage per Container is 100m.  No request is specified"]);
        check(min, json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "1"}}), &[]);
        let max = json!({"type": "Pod", "max": {"memory": "1Gi"}});
        check(
            max.clone(),
            json!({"limits": {"memory": "2Gi"}}),
            &["maximum memory usage per Pod is 1Gi, but limit is 2Gi"],
        );
        check(max, json!({}), &["maximum memory usage per Pod is 1Gi.  No limit is specified"]);
        let ratio = json!({"type": "Container", "maxLimitRequestRatio": {"cpu": "2"}});
        check(
            ratio,
            json!({"requests": {"cpu": "1"}, "limits": {"cpu": "3"}}),
            &["cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000"],
        );
    }

    #[test]
    fn claims_are_bounded_by_their_requests() {
        let claim = Object::from_value(json!({"spec": {"resources": {"requests": {"storage": "5Gi"}}}})).unwrap();
        let range = range(json!({"type": "PersistentVolumeClaim", "max": {"storage": "2Gi"}}));
        assert_eq!(
            claim_problems(items(&range), &claim),
            ["maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 5Gi"]
        );
    }
}
