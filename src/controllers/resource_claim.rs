//! Makes the device claims of pods from their templates, reserves them for pods that no scheduler placed, and frees what
//! nobody uses any more (`pkg/controller/resourceclaim`).

use std::collections::BTreeMap;
use std::sync::Arc;

use api::names::ObjectKey;
use async_trait::async_trait;
use client::{DeleteParams, Event, EventType, Informer, Patch, Resource, WorkQueue, controller_of, is_controlled_by};
use k8s_openapi::api::core::v1::{Pod, PodResourceClaim};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimConsumerReference, ResourceClaimTemplate};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::json;

use crate::error::Error;
use crate::harness::{Context, Parts, Reconcile, all_synced, current, key_of, synced};
use crate::pods;
use crate::written::Written;

/// The name, in the pod, of the claim that was made for it.
const POD_CLAIM: &str = "resource.kubernetes.io/pod-claim-name";
/// Keeps an allocated claim until its devices are free.
const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
const MANAGER: &str = "ResourceClaimController";
/// `ResourceClaimReservedForMaxSize`.
const RESERVED_MAX: usize = 256;
/// Keys of claims, told from those of pods by this; namespaces have no slash.
const CLAIM: &str = "/claim/";
/// A generated name's first part: 63 letters less a hyphen and five random ones.
const BASE_MAX: usize = 57;

pub(crate) fn start(context: Context) {
    let pods = context.informers.informer::<Pod>();
    let claims = context.informers.informer::<ResourceClaim>();
    let templates = context.informers.informer::<ResourceClaimTemplate>();
    let queue = WorkQueue::new();
    let add_all = Context::add_all(&pods, &queue);
    context.feed(&pods, &add_all, {
        let queue = queue.clone();
        move |event| on_pod(&queue, event)
    });
    context.feed(&claims, &add_all, {
        let (pods, queue) = (pods.clone(), queue.clone());
        move |event| {
            let Some(claim) = current(event) else { return };
            queue.add(claim_key(claim.namespace(), claim.name()));
            // A pod that was placed without a scheduler waits for the allocation; a generated claim is made anew.
            for pod in pods.namespace(claim.namespace()) {
                if claims_of(&pod).iter().any(|c| claim_name(&pod, c) == Some(claim.name())) {
                    queue.add(key_of(&*pod));
                }
            }
        }
    });
    context.feed(&templates, &add_all, {
        let (pods, queue) = (pods.clone(), queue.clone());
        move |event| {
            let Event::Added(template) = event else { return };
            for pod in pods.namespace(template.namespace()) {
                let names = |c: &PodResourceClaim| c.resource_claim_template_name.as_deref() == Some(template.name());
                if claims_of(&pod).iter().any(names) {
                    queue.add(key_of(&*pod));
                }
            }
        }
    });
    let ready = all_synced(vec![synced(&pods), synced(&claims), synced(&templates)]);
    let parts = context.parts_as("resource_claim");
    let reconciler = Reconciler { pods, claims, templates, writes: Written::default(), context: parts };
    context.work(Arc::new(reconciler), queue, 10, ready);
}

fn on_pod(queue: &WorkQueue<ObjectKey>, event: &Event<Pod>) {
    let Some(pod) = current(event).filter(|pod| !claims_of(pod).is_empty()) else { return };
    queue.add(key_of(&**pod));
    // Its claims may be free now.
    if matches!(event, Event::Deleted(_)) || is_done(pod) {
        for claim in claims_of(pod) {
            if let Some(name) = claim_name(pod, claim) {
                queue.add(claim_key(pod.namespace(), name));
            }
        }
    }
}

fn claim_key(namespace: &str, name: &str) -> ObjectKey {
    ObjectKey::new(format!("{CLAIM}{namespace}"), name)
}

fn claims_of(pod: &Pod) -> &[PodResourceClaim] {
    pod.spec.as_ref().and_then(|s| s.resource_claims.as_deref()).unwrap_or_default()
}

/// The claim behind a pod's entry: the one that it names, or that was made for it; `None` if there is none yet, or none
/// is needed.
fn claim_name<'p>(pod: &'p Pod, claim: &'p PodResourceClaim) -> Option<&'p str> {
    if let Some(name) = &claim.resource_claim_name {
        return Some(name);
    }
    let statuses = pod.status.as_ref().and_then(|s| s.resource_claim_statuses.as_deref()).unwrap_or_default();
    statuses.iter().find(|s| s.name == claim.name)?.resource_claim_name.as_deref()
}

/// Whether the pod will not run any more (`isPodDone`).
fn is_done(pod: &Pod) -> bool {
    pods::is_terminal(pod) || (pod.is_deleting() && pods::node(pod).is_empty())
}

struct Reconciler {
    pods: Informer<Pod>,
    claims: Informer<ResourceClaim>,
    templates: Informer<ResourceClaimTemplate>,
    writes: Written,
    context: Parts,
}

#[async_trait]
impl Reconcile for Reconciler {
    async fn reconcile(&self, key: &ObjectKey) -> Result<(), Error> {
        match key.namespace.strip_prefix(CLAIM) {
            Some(namespace) => match self.claims.get(namespace, &key.name) {
                Some(claim) => self.sync_claim((*claim).clone()).await,
                None => Ok(()),
            },
            None => match self.pods.get(&key.namespace, &key.name).filter(|pod| !pod.is_deleting()) {
                Some(pod) => self.sync_pod(key, &pod).await,
                None => Ok(()),
            },
        }
    }
}

impl Reconciler {
    async fn sync_pod(&self, key: &ObjectKey, pod: &Pod) -> Result<(), Error> {
        // A claim that was made for it shows before another is made.
        self.writes.check(key, &self.claims)?;
        let mut made = BTreeMap::new();
        for claim in claims_of(pod) {
            match self.ensure(key, pod, claim).await {
                Ok(Some(name)) => drop(made.insert(claim.name.clone(), name)),
                Ok(None) => {}
                Err(error) => {
                    let message = format!("PodResourceClaim {}: {}", claim.name, base::chain(&error));
                    self.context.recorder.event(pod, EventType::Warning, "FailedResourceClaimCreation", &message);
                    return Err(error);
                }
            }
        }
        if !made.is_empty() {
            self.write_names(pod, made).await?;
        }
        if pods::node(pod).is_empty() {
            return Ok(());
        }
        for entry in claims_of(pod) {
            let Some(claim) = claim_name(pod, entry).and_then(|name| self.claims.get(pod.namespace(), name)) else {
                continue;
            };
            self.reserve(pod, &claim).await?;
        }
        Ok(())
    }

    /// `handleClaim`: the name of a claim that the pod's status does not show yet.
    async fn ensure(&self, key: &ObjectKey, pod: &Pod, entry: &PodResourceClaim) -> Result<Option<String>, Error> {
        let Some(template) = &entry.resource_claim_template_name else { return Ok(None) };
        if let Some(name) = claim_name(pod, entry)
            && self.claims.get(pod.namespace(), name).is_some_and(|claim| is_controlled_by(&claim.metadata, pod.uid()))
        {
            return Ok(None);
        }
        let owned = self.claims.by_owner(pod.uid());
        if let Some(claim) = owned.iter().find(|claim| claim.annotation(POD_CLAIM) == Some(entry.name.as_str())) {
            return Ok(Some(claim.name().to_owned()));
        }
        let Some(template) = self.templates.get(pod.namespace(), template) else {
            return Err(Error::Object {
                kind: "resource claim template",
                key: format!("{template:?}"),
                problem: format!("resourceclaimtemplate.resource.k8s.io {template:?} not found"),
            });
        };
        let made = self.context.client.create(&from_template(pod, entry, &template)).await?;
        self.writes.note(key, &made);
        Ok(Some(made.name().to_owned()))
    }

    async fn write_names(&self, pod: &Pod, mut names: BTreeMap<String, String>) -> Result<(), Error> {
        for status in pod.status.iter().flat_map(|s| s.resource_claim_statuses.iter().flatten()) {
            if let Some(name) = &status.resource_claim_name {
                names.entry(status.name.clone()).or_insert_with(|| name.clone());
            }
        }
        let statuses: Vec<_> =
            names.iter().map(|(name, claim)| json!({"name": name, "resourceClaimName": claim})).collect();
        let object = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": pod.name(), "namespace": pod.namespace(), "uid": pod.uid()},
            "status": {"resourceClaimStatuses": statuses},
        });
        let patch = Patch::Apply { manager: MANAGER.to_owned(), force: true, object };
        match self.context.client.patch_status::<Pod>(pod.namespace(), pod.name(), &patch).await {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// A pod with a node but without a scheduler still needs its devices.
    async fn reserve(&self, pod: &Pod, claim: &ResourceClaim) -> Result<(), Error> {
        let Some(status) = claim.status.as_ref().filter(|s| s.allocation.is_some()) else { return Ok(()) };
        let reserved = status.reserved_for.as_deref().unwrap_or_default();
        if reserved.iter().any(|r| r.uid == pod.uid()) || reserved.len() >= RESERVED_MAX {
            return Ok(());
        }
        let mut changed = claim.clone();
        changed.status.get_or_insert_default().reserved_for.get_or_insert_default().push(
            ResourceClaimConsumerReference {
                api_group: None,
                resource: "pods".to_owned(),
                name: pod.name().to_owned(),
                uid: pod.uid().to_owned(),
            },
        );
        self.context.client.update_status(&changed).await?;
        Ok(())
    }

    async fn sync_claim(&self, mut claim: ResourceClaim) -> Result<(), Error> {
        let status = claim.status.clone().unwrap_or_default();
        let reserved = status.reserved_for.unwrap_or_default();
        let mut remaining = Vec::with_capacity(reserved.len());
        for consumer in &reserved {
            let group = consumer.api_group.as_deref().unwrap_or_default();
            let is_pod = group.is_empty() && consumer.resource == "pods";
            if !is_pod || self.uses(claim.namespace(), consumer).await? {
                remaining.push(consumer.clone());
            }
        }
        let ours = claim.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER);
        let unused = remaining.is_empty();
        if remaining.len() < reserved.len() {
            let status = claim.status.get_or_insert_default();
            status.reserved_for = (!unused).then_some(remaining);
            if unused && ours {
                status.allocation = None;
            }
            claim = self.context.client.update_status(&claim).await?;
            if ours && claim.status.as_ref().is_none_or(|s| s.allocation.is_none()) {
                claim = self.without_finalizer(claim).await?;
            }
        } else if ours && claim.is_deleting() && unused {
            if status.allocation.is_some() {
                claim.status.get_or_insert_default().allocation = None;
                claim = self.context.client.update_status(&claim).await?;
            }
            claim = self.without_finalizer(claim).await?;
        }
        if unused { self.delete_generated(&claim).await } else { Ok(()) }
    }

    /// Whether a pod that a claim is reserved for will still run. It is never freed because a cache is behind.
    async fn uses(&self, namespace: &str, consumer: &ResourceClaimConsumerReference) -> Result<bool, Error> {
        if let Some(pod) = self.pods.get(namespace, &consumer.name) {
            return Ok(pod.uid() == consumer.uid && !is_done(&pod));
        }
        let live = self.context.client.get_opt::<Pod>(namespace, &consumer.name).await?;
        Ok(live.is_some_and(|pod| pod.uid() == consumer.uid))
    }

    async fn without_finalizer(&self, mut claim: ResourceClaim) -> Result<ResourceClaim, Error> {
        claim.metadata.finalizers.get_or_insert_default().retain(|f| f != FINALIZER);
        Ok(self.context.client.update(&claim).await?)
    }

    /// A claim that was made for a pod goes as soon as the pod is done; the garbage collector does the rest.
    async fn delete_generated(&self, claim: &ResourceClaim) -> Result<(), Error> {
        let Some(owner) = controller_of(&claim.metadata).filter(|o| o.kind == "Pod" && o.api_version == "v1") else {
            return Ok(());
        };
        let Some(pod) = self.pods.get(claim.namespace(), &owner.name) else { return Ok(()) };
        if claim.is_deleting() || (pod.uid() == owner.uid && !is_done(&pod)) {
            return Ok(());
        }
        let options = DeleteParams::uid(claim.uid());
        match self.context.client.delete::<ResourceClaim>(claim.namespace(), claim.name(), &options).await {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(()),
        }
    }
}

fn from_template(pod: &Pod, entry: &PodResourceClaim, template: &ResourceClaimTemplate) -> ResourceClaim {
    let wanted = template.spec.clone().unwrap_or_default();
    let metadata = wanted.metadata.unwrap_or_default();
    let mut annotations = metadata.annotations.unwrap_or_default();
    annotations.insert(POD_CLAIM.to_owned(), entry.name.clone());
    ResourceClaim {
        metadata: ObjectMeta {
            generate_name: Some(generate_name(pod.name(), &entry.name)),
            namespace: pod.metadata.namespace.clone(),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Pod".to_owned(),
                name: pod.name().to_owned(),
                uid: pod.uid().to_owned(),
                controller: Some(true),
                block_owner_deletion: None,
            }]),
            annotations: Some(annotations),
            labels: metadata.labels,
            ..ObjectMeta::default()
        },
        spec: wanted.spec,
        status: None,
    }
}

/// Both names, each shortened in proportion if they are too long together. Names are ASCII.
fn generate_name(pod: &str, claim: &str) -> String {
    let whole = format!("{pod}-{claim}-");
    if whole.len() <= BASE_MAX {
        return whole;
    }
    let part = |text: &str| text.get(..text.len() * BASE_MAX / whole.len()).unwrap_or(text).to_owned();
    format!("{}-{}", part(pod), part(claim))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_have_room_for_five_letters() {
        assert_eq!(generate_name("web-0", "gpu"), "web-0-gpu-");
        let long = generate_name(&"p".repeat(63), &"c".repeat(20));
        assert!(long.len() <= 58 && long.contains("p-c"), "{long}");
    }

    #[test]
    fn a_pod_names_its_claim_itself_or_by_its_status() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p"},
            "spec": {"containers": [], "resourceClaims": [
                {"name": "a", "resourceClaimName": "mine"},
                {"name": "b", "resourceClaimTemplateName": "t"},
                {"name": "c", "resourceClaimTemplateName": "t"}]},
            "status": {"resourceClaimStatuses": [{"name": "b", "resourceClaimName": "p-b-x1"}]}}))
        .unwrap();
        let names: Vec<_> = claims_of(&pod).iter().map(|claim| claim_name(&pod, claim)).collect();
        assert_eq!(names, [Some("mine"), Some("p-b-x1"), None]);
    }
}
