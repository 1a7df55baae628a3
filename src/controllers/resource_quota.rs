//! What resource quotas are used up to (`pkg/controller/resourcequota`).
//!
//! Admission charges what is created; this counts anew when something goes. What an object counts is
//! [`crate::QuotaUsage`]'s, the same as admission's. Pods, services and claims (for volumes and for devices) are counted from the shared informers; for
//! any other resource that a quota names, a watch of its metadata is started, and only then.

mod counter;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api::names::{GroupResource, ObjectKey};
use api::object::Object;
use api::quantity::Quantity;
use async_trait::async_trait;
use client::{Event, Informer, Resource, WorkQueue};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, ResourceQuotaStatus, Service};
use k8s_openapi::api::resource::v1::ResourceClaim;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use crate::error::Error;
use crate::harness::{AddAll, Context, Parts, Reconcile, all_synced, key_of, synced};
use crate::{QuotaUsage, pods};
use counter::Counters;

const WORKERS: usize = 5;
/// `--resource-quota-sync-period`.
const RESYNC: Duration = Duration::from_secs(300);
/// Older names of `count/` resources.
const ALIASES: [&str; 4] = ["configmaps", "resourcequotas", "replicationcontrollers", "secrets"];

/// Name and group of what is measured by more than its number.
const MEASURED: [(&str, &str); 4] =
    [("pods", ""), ("services", ""), ("persistentvolumeclaims", ""), ("resourceclaims", "resource.k8s.io")];

pub(crate) fn start(context: Context) {
    let Some(usage) = context.settings.quota_usage else { return };
    let quotas = context.informers.informer::<ResourceQuota>();
    let pods = context.informers.informer::<Pod>();
    let services = context.informers.informer::<Service>();
    let claims = context.informers.informer::<PersistentVolumeClaim>();
    let device_claims = context.informers.informer::<ResourceClaim>();
    let queue = WorkQueue::new();
    // What admission charges is only seen here once it is there: counting after every charge would take it back.
    let add_all = Context::add_all(&quotas, &queue);
    let asked = queue.clone();
    context.feed(&quotas, &add_all, move |event| match event {
        Event::Added(quota) => asked.add(key_of(&**quota)),
        Event::Updated { old, new } if old.spec != new.spec => asked.add(key_of(&**new)),
        _ => {}
    });
    context.feed(
        &pods,
        &add_all,
        replenished(&quotas, &queue, |old: &Pod, new: &Pod| {
            pods::is_terminal(old) != pods::is_terminal(new)
                || old.is_deleting() != new.is_deleting()
                || requests(old) != requests(new)
        }),
    );
    context.feed(
        &services,
        &add_all,
        replenished(&quotas, &queue, |old: &Service, new: &Service| {
            let ports = |s: &Service| s.spec.as_ref().map(|s| (s.type_.clone(), s.ports.as_ref().map(Vec::len)));
            ports(old) != ports(new)
        }),
    );
    context.feed(
        &claims,
        &add_all,
        replenished(&quotas, &queue, |old: &PersistentVolumeClaim, new: &PersistentVolumeClaim| {
            let size = |c: &PersistentVolumeClaim| c.spec.as_ref().map(|s| s.resources.clone());
            size(old) != size(new)
        }),
    );
    context.feed(
        &device_claims,
        &add_all,
        replenished(&quotas, &queue, |old: &ResourceClaim, new: &ResourceClaim| old.spec != new.spec),
    );
    let counters = Arc::new(Counters::new(&context, quotas.clone(), queue.clone()));
    follow_kinds(&context, &counters, add_all);
    let ready =
        all_synced(vec![synced(&quotas), synced(&pods), synced(&services), synced(&claims), synced(&device_claims)]);
    let reconciler = Arc::new(Reconciler {
        quotas,
        pods,
        services,
        claims,
        device_claims,
        counters,
        usage,
        queue: queue.clone(),
        context: context.parts(),
    });
    context.work(reconciler, queue, WORKERS, ready);
}

/// A quota may name a resource before it is there, and after it is gone.
fn follow_kinds(context: &Context, counters: &Arc<Counters>, add_all: AddAll) {
    let (counters, shutdown, mut kinds) = (Arc::clone(counters), context.shutdown.clone(), context.kinds.listen());
    context.tasks.spawn(async move {
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                changed = kinds.changed() => if changed.is_err() { return },
            }
            match counters.forget_gone().await {
                Ok(()) => add_all(),
                Err(error) => tracing::warn!(error = %base::chain(&error), "cannot discover what quotas count"),
            }
        }
    });
}

/// A pod's containers' resources, which may be resized in place.
fn requests(pod: &Pod) -> Option<Vec<Option<k8s_openapi::api::core::v1::ResourceRequirements>>> {
    Some(pod.spec.as_ref()?.containers.iter().map(|c| c.resources.clone()).collect())
}

/// Queues a namespace's quotas when an object goes, or changes in a way that counts.
fn replenished<K: Resource>(
    quotas: &Informer<ResourceQuota>,
    queue: &WorkQueue<ObjectKey>,
    counts: fn(&K, &K) -> bool,
) -> impl Fn(&Event<K>) + Send + 'static {
    let (quotas, queue) = (quotas.clone(), queue.clone());
    move |event| {
        let object = match event {
            Event::Deleted(object) => object,
            Event::Updated { old, new } if counts(old, new) => new,
            _ => return,
        };
        add_quotas(&quotas, &queue, object.namespace());
    }
}

fn add_quotas(quotas: &Informer<ResourceQuota>, queue: &WorkQueue<ObjectKey>, namespace: &str) {
    for quota in quotas.namespace(namespace) {
        queue.add(key_of(&*quota));
    }
}

struct Reconciler {
    quotas: Informer<ResourceQuota>,
    pods: Informer<Pod>,
    services: Informer<Service>,
    claims: Informer<PersistentVolumeClaim>,
    device_claims: Informer<ResourceClaim>,
    counters: Arc<Counters>,
    usage: QuotaUsage,
    queue: WorkQueue<ObjectKey>,
    context: Parts,
}

#[async_trait]
impl Reconcile for Reconciler {
    /// `syncResourceQuota`.
    async fn reconcile(&self, key: &ObjectKey) -> Result<(), Error> {
        let Some(quota) = self.quotas.get(&key.namespace, &key.name) else { return Ok(()) };
        let hard = quota.spec.as_ref().and_then(|s| s.hard.clone()).unwrap_or_default();
        let mut measured = (*quota).clone();
        // What counts is measured against what is asked for, not against what was last seen.
        measured.status.get_or_insert_default().hard = Some(hard.clone());
        let mut used: BTreeMap<String, Quantity> =
            hard.keys().map(|name| (name.clone(), Quantity::default())).collect();
        self.add_all(&measured, ("", "pods"), &self.pods, &mut used)?;
        self.add_all(&measured, ("", "services"), &self.services, &mut used)?;
        self.add_all(&measured, ("", "persistentvolumeclaims"), &self.claims, &mut used)?;
        self.add_all(&measured, ("resource.k8s.io", "resourceclaims"), &self.device_claims, &mut used)?;
        for resource in counted(hard.keys()) {
            let Some(count) = self.counters.count(&resource, &key.namespace).await? else { continue };
            for name in [format!("count/{resource}"), resource.resource.clone()] {
                if let Some(amount) = used.get_mut(&name) {
                    *amount = Quantity::new(count, api::quantity::Format::DecimalSi);
                }
            }
        }
        self.queue.add_after(key.clone(), RESYNC);
        let before = quota.status.clone().unwrap_or_default();
        if same(before.hard.as_ref(), &hard) && same_amounts(before.used.as_ref(), &used) {
            return Ok(());
        }
        let mut updated = (*quota).clone();
        let used = used.into_iter().map(|(name, amount)| (name, Text(amount.to_string()))).collect();
        updated.status = Some(ResourceQuotaStatus { hard: Some(hard), used: Some(used) });
        match self.context.client.update_status(&updated).await {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(()),
        }
    }
}

impl Reconciler {
    /// Adds what every object of a namespace uses.
    fn add_all<K: Resource>(
        &self,
        quota: &ResourceQuota,
        (group, resource): (&str, &str),
        informer: &Informer<K>,
        used: &mut BTreeMap<String, Quantity>,
    ) -> Result<(), Error> {
        let resource = GroupResource::new(group, resource);
        for object in informer.namespace(quota.namespace()) {
            let Some(object) = Object::from_value(serde_json::from_slice(&object.encode()?)?) else { continue };
            let Some(usage) = (self.usage)(quota, &resource, &object) else { continue };
            for (name, amount) in usage {
                if let Some(sum) = used.get_mut(&name) {
                    sum.add(&amount);
                }
            }
        }
        Ok(())
    }
}

/// The resources that are counted by number alone.
fn counted<'n>(names: impl Iterator<Item = &'n String>) -> BTreeSet<GroupResource> {
    let mut resources = BTreeSet::new();
    for name in names {
        let named = match name.strip_prefix("count/") {
            Some(rest) => rest.split_once('.').unwrap_or((rest, "")),
            None if ALIASES.contains(&name.as_str()) => (name.as_str(), ""),
            None => continue,
        };
        if !MEASURED.contains(&named) {
            resources.insert(GroupResource::new(named.1, named.0));
        }
    }
    resources
}

fn same(before: Option<&BTreeMap<String, Text>>, now: &BTreeMap<String, Text>) -> bool {
    let now = now.iter().filter_map(|(name, q)| Some((name.clone(), Quantity::parse(&q.0).ok()?))).collect();
    same_amounts(before, &now)
}

fn same_amounts(before: Option<&BTreeMap<String, Text>>, now: &BTreeMap<String, Quantity>) -> bool {
    let Some(before) = before else { return now.is_empty() };
    before.len() == now.len()
        && now.iter().all(|(name, amount)| {
            before.get(name).and_then(|q| Quantity::parse(&q.0).ok()).is_some_and(|known| known == *amount)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_counted_by_number_are_found_by_both_names() {
        let names = ["pods", "count/pods", "secrets", "count/secrets", "count/deployments.apps", "requests.cpu"];
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let found: Vec<String> = counted(names.iter()).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["secrets", "deployments.apps"]);
    }

    #[test]
    fn amounts_compare_by_value() {
        let text = |t: &str| BTreeMap::from([("cpu".to_owned(), Text(t.to_owned()))]);
        assert!(same(Some(&text("1")), &text("1000m")));
        assert!(!same(Some(&text("1")), &text("2")));
        assert!(!same(None, &text("0")));
    }
}
