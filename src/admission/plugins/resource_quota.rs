//! `ResourceQuota`: a request that would use more than a namespace may is refused, and what it uses is written down
//! before it is carried out (apiserver `admission/plugin/resourcequota`).
//!
//! Requests of one namespace are charged one after the other; the status of the quota is written with its version, so
//! that other servers and the quota controller are noticed. Usage in the status comes from the controller: a quota
//! without it refuses.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api::admission::{AdmissionPlugin, Attributes, Operation};
use api::{GroupResource, Gvr, Object, Status};
use async_trait::async_trait;
use client::Resource;
use client::k8s_openapi::api::core::v1::ResourceQuota as Quota;
use client::k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::attributes::forbidden;
use crate::cluster::Cluster;
use crate::limits::{Amounts, add, amounts_of};
use crate::quota::{Measure, scopes};

pub(crate) use self::configuration::Configuration;
use self::configuration::{Cover, Limited};

mod configuration;

/// How often a charge is tried anew when somebody else wrote the quota.
const ATTEMPTS: usize = 4;
/// How long the live answer that a namespace has no quotas is believed.
const LIVE_TTL: Duration = Duration::from_secs(30);
const NAMESPACES_MAX: usize = 1000;

pub(crate) struct ResourceQuota {
    cluster: Cluster,
    configuration: Configuration,
    /// What is known by namespace. At most `NAMESPACES_MAX`; then those in no use are forgotten.
    namespaces: Mutex<HashMap<String, Arc<Namespace>>>,
}

#[derive(Default)]
struct Namespace {
    /// Until when there are taken to be no quotas.
    none_until: Mutex<Option<Instant>>,
    /// Held while a request is charged.
    turn: tokio::sync::Mutex<()>,
}

impl ResourceQuota {
    pub(crate) fn new(cluster: Cluster, configuration: Configuration) -> Self {
        Self { cluster, configuration, namespaces: Mutex::new(HashMap::new()) }
    }

    fn namespace(&self, name: &str) -> Arc<Namespace> {
        let mut namespaces = self.namespaces.lock();
        if namespaces.len() >= NAMESPACES_MAX && !namespaces.contains_key(name) {
            namespaces.retain(|_, namespace| Arc::strong_count(namespace) > 1);
        }
        Arc::clone(namespaces.entry(name.to_owned()).or_default())
    }

    /// Whether the namespace may have quotas: what the informer says, or else the API server, now and then.
    async fn may_have_quotas(&self, name: &str, namespace: &Namespace) -> Result<bool, Status> {
        let known = self.cluster.known_in_namespace::<Quota>(name);
        if known.is_some_and(|quotas| !quotas.is_empty()) {
            return Ok(true);
        }
        if namespace.none_until.lock().is_some_and(|until| until > Instant::now()) {
            return Ok(false);
        }
        let found = !self.cluster.live_list::<Quota>(name).await?.is_empty();
        *namespace.none_until.lock() = (!found).then(|| Instant::now() + LIVE_TTL);
        Ok(found)
    }

    async fn charge(&self, measure: Measure, attributes: &Attributes) -> Result<(), Status> {
        let Some(object) = &attributes.object else { return Ok(()) };
        let namespace = self.namespace(&attributes.namespace);
        let has_quotas = self.may_have_quotas(&attributes.namespace, &namespace).await?;
        // What is limited for everybody needs a quota.
        if !has_quotas && self.configuration.limited.is_empty() {
            return Ok(());
        }
        let _turn = namespace.turn.lock().await;
        let mut open: Option<Vec<String>> = None;
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let quotas = self.cluster.live_list::<Quota>(&attributes.namespace).await?;
            // A second try is about the quotas that somebody else wrote meanwhile.
            let quotas =
                quotas.iter().filter(|q| open.as_ref().is_none_or(|names| names.iter().any(|n| n == q.name())));
            let limited = &self.configuration.limited;
            let charged = charges(quotas.map(Arc::as_ref), limited, measure, attributes, object)?;
            if attributes.dry_run {
                return Ok(());
            }
            let mut failed = Vec::new();
            for quota in charged {
                if let Err(status) = self.cluster.update_status(&quota).await {
                    if !status.is_conflict() && !status.is_not_found() {
                        return Err(status);
                    }
                    failed.push(quota.name().to_owned());
                    last = Some(status);
                }
            }
            if failed.is_empty() {
                return Ok(());
            }
            open = Some(failed);
        }
        match last {
            Some(status) => Err(status),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl AdmissionPlugin for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    fn handles(&self, operation: Operation, resource: &Gvr, subresource: &str) -> bool {
        // Events come and go by themselves and are not counted; reviews are not kept.
        if matches!(resource.resource.as_str(), "events" | "bindings" | "localsubjectaccessreviews" | "namespaces") {
            return false;
        }
        match operation {
            Operation::Create => subresource.is_empty(),
            Operation::Update => match (resource.group.as_str(), resource.resource.as_str()) {
                ("", "pods") => matches!(subresource, "" | "resize"),
                ("", "persistentvolumeclaims") => matches!(subresource, "" | "status"),
                ("", "services") => subresource.is_empty(),
                _ => false,
            },
            Operation::Delete | Operation::Connect => false,
        }
    }

    async fn validate(&self, attributes: &Attributes) -> Result<(), Status> {
        let measure = Measure::of(&attributes.resource.group_resource());
        if attributes.namespace.is_empty() || !measure.handles(attributes) {
            return Ok(());
        }
        self.charge(measure, attributes).await
    }
}

/// `CheckRequest`: the quotas that change, with their new usage.
fn charges<'q>(
    quotas: impl Iterator<Item = &'q Quota>,
    limited: &[Limited],
    measure: Measure,
    attributes: &Attributes,
    object: &Object,
) -> Result<Vec<Quota>, Status> {
    let resource = attributes.resource.group_resource();
    let usage = measure.usage(&resource, object);
    let mut relevant = Vec::new();
    let mut cover = Cover::new(limited, measure, &resource, object, &usage);
    for quota in quotas {
        cover.add_scopes(measure.matching_scopes(&scopes(quota), object));
        if !measure.falls_under(quota, &resource, object) {
            continue;
        }
        let status = quota.status.as_ref();
        let (hard, used) =
            (amounts_of(status.and_then(|s| s.hard.as_ref())), amounts_of(status.and_then(|s| s.used.as_ref())));
        let restricted = measure.matching(hard.keys().map(String::as_str), &resource);
        measure
            .constraints(&restricted, object)
            .map_err(|why| forbidden(attributes, format!("failed quota: {}: {why}", quota.name())))?;
        if restricted.iter().any(|name| !used.contains_key(*name)) {
            let names = restricted.join(",");
            let why = format!("status unknown for quota: {}, resources: {names}", quota.name());
            return Err(forbidden(attributes, why));
        }
        cover.add_resources(&restricted);
        relevant.push((quota, hard, used));
    }
    let negative: Vec<&str> = usage.iter().filter(|(_, v)| v.sign() < 0).map(|(k, _)| k.as_str()).collect();
    if !negative.is_empty() {
        let why = format!("quota usage is negative for resource(s): {}", negative.join(","));
        return Err(forbidden(attributes, why));
    }
    let deltas: Vec<Amounts> =
        relevant.iter().map(|(quota, ..)| delta(Some(quota), measure, attributes, &resource, &usage)).collect();
    let adds_any = |delta: &Amounts| delta.values().any(|amount| !amount.is_zero());
    let is_charged = match deltas.as_slice() {
        [] => adds_any(&delta(None, measure, attributes, &resource, &usage)),
        deltas => deltas.iter().any(adds_any),
    };
    if is_charged {
        cover.check(attributes)?;
    }
    let mut changed = Vec::new();
    for ((quota, hard, used), delta) in relevant.into_iter().zip(deltas) {
        let requested: Amounts = delta.into_iter().filter(|(k, v)| !v.is_zero() && hard.contains_key(k)).collect();
        let mut total = used.clone();
        add(&mut total, &requested);
        let over: Vec<&String> = requested.keys().filter(|name| total.get(*name) > hard.get(*name)).collect();
        if !over.is_empty() && attributes.subresource != "status" {
            let shown = |amounts: &Amounts| {
                let parts = over.iter().filter_map(|name| Some(format!("{name}={}", amounts.get(*name)?)));
                parts.collect::<Vec<_>>().join(",")
            };
            return Err(forbidden(
                attributes,
                format!(
                    "exceeded quota: {}, requested: {}, used: {}, limited: {}",
                    quota.name(),
                    shown(&requested),
                    shown(&used),
                    shown(&hard)
                ),
            ));
        }
        if !requested.is_empty() {
            let mut quota = quota.clone();
            let status = quota.status.get_or_insert_default();
            status.used = Some(total.into_iter().map(|(name, amount)| (name, Text(amount.to_string()))).collect());
            changed.push(quota);
        }
    }
    Ok(changed)
}

/// What a request adds: for changes of an object that the quota (or whoever looks without one) counted before, only the
/// difference, never less than nothing.
fn delta(
    quota: Option<&Quota>,
    measure: Measure,
    attributes: &Attributes,
    resource: &GroupResource,
    usage: &Amounts,
) -> Amounts {
    let counted = attributes
        .old_object
        .as_ref()
        .filter(|old| attributes.operation == Operation::Update && !old.resource_version().is_empty())
        .filter(|old| quota.is_none_or(|quota| measure.falls_under(quota, resource, old)));
    let Some(old) = counted else { return usage.clone() };
    let before = measure.usage(resource, old);
    let more = usage.iter().map(|(name, amount)| {
        let mut amount = amount.clone();
        if let Some(before) = before.get(name) {
            amount.sub(before);
        }
        (name.clone(), amount)
    });
    more.filter(|(_, amount)| amount.sign() > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::{Gvk, UserInfo};
    use serde_json::{Value, json};

    fn quota(spec: Value, hard: Value, used: Value) -> Quota {
        let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": spec,
            "status": {"hard": hard, "used": used}});
        Quota::decode(quota.to_string().as_bytes()).unwrap()
    }

    fn run(quota: &Quota, operation: Operation, new: Value, old: Option<Value>) -> Result<Option<String>, String> {
        let object = |v: Value| Object::from_value(v).unwrap();
        let attributes = Attributes {
            operation,
            gvk: Gvk::new("", "v1", "Pod"),
            resource: Gvr::new("", "v1", "pods"),
            subresource: if operation == Operation::Update { "resize" } else { "" }.to_owned(),
            namespace: "ns".to_owned(),
            name: "p".to_owned(),
            object: Some(object(new)),
            old_object: old.map(object),
            options: None,
            user: UserInfo::default(),
            dry_run: false,
            warnings: Vec::new(),
            notes: Default::default(),
            reinvocation: Default::default(),
        };
        let new = attributes.object.clone().unwrap();
        let changed = charges([quota].into_iter(), &[], Measure::Pod, &attributes, &new).map_err(|s| s.message)?;
        Ok(changed.first().map(|q| json!(q.status.as_ref().unwrap().used).to_string()))
    }

    fn pod(cpu: &str) -> Value {
        json!({"metadata": {"name": "p", "resourceVersion": "1"},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
    }

    #[test]
    fn a_request_is_charged_or_refused() {
        let quota = quota(json!({}), json!({"pods": "2", "cpu": "1"}), json!({"pods": "1", "cpu": "400m"}));
        assert_eq!(
            run(&quota, Operation::Create, pod("500m"), None),
            Ok(Some("{\"cpu\":\"900m\",\"pods\":\"2\"}".to_owned()))
        );
        assert_eq!(
            run(&quota, Operation::Create, pod("700m"), None).unwrap_err(),
            "pods \"p\" is forbidden: exceeded quota: q, requested: cpu=700m, used: cpu=400m, limited: cpu=1"
        );
        assert_eq!(
            run(&quota, Operation::Update, pod("700m"), Some(pod("500m"))),
            Ok(Some("{\"cpu\":\"600m\",\"pods\":\"1\"}".to_owned()))
        );
        assert_eq!(run(&quota, Operation::Update, pod("300m"), Some(pod("500m"))), Ok(None));
    }

    #[test]
    fn what_is_counted_must_be_said_and_known() {
        let known = quota(json!({}), json!({"cpu": "1"}), json!({"cpu": "0"}));
        let silent = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}});
        assert_eq!(
            run(&known, Operation::Create, silent, None).unwrap_err(),
            "pods \"p\" is forbidden: failed quota: q: must specify cpu for: c"
        );
        let unknown = quota(json!({}), json!({"cpu": "1"}), json!({}));
        assert_eq!(
            run(&unknown, Operation::Create, pod("1"), None).unwrap_err(),
            "pods \"p\" is forbidden: status unknown for quota: q, resources: cpu"
        );
    }

    #[test]
    fn scopes_leave_others_alone() {
        let scoped = quota(json!({"scopes": ["BestEffort"]}), json!({"pods": "0"}), json!({"pods": "0"}));
        assert_eq!(run(&scoped, Operation::Create, pod("1"), None), Ok(None));
        let silent = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}});
        assert!(
            run(&scoped, Operation::Create, silent, None).unwrap_err().contains("exceeded quota: q, requested: pods=1")
        );
    }
}
