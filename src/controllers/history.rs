//! Revisions of DaemonSets and StatefulSets, kept as ControllerRevisions (`pkg/controller/history`).

use std::sync::Arc;

use client::{Client, DeleteParams, Informer, Resource, owner_ref};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::{Value, json};

use crate::claim::claim;
use crate::error::Error;
use crate::hash::{equal_ignoring_hash, safe_encode};
use crate::selector::Selector;

/// The label that names a pod's revision, and a revision's hash.
pub(crate) const REVISION_HASH: &str = "controller-revision-hash";

/// The revisions of an owner, oldest first.
pub(crate) async fn list<O: Resource>(
    client: &Client,
    informer: &Informer<ControllerRevision>,
    owner: &O,
    selector: &Selector,
) -> Result<Vec<Arc<ControllerRevision>>, Error> {
    let mut candidates = informer.by_owner(owner.uid());
    candidates.extend(informer.orphans(owner.namespace()));
    let mut revisions = claim(client, owner, selector, candidates).await?;
    revisions.sort_by(|a, b| {
        a.revision
            .cmp(&b.revision)
            .then_with(|| a.metadata.creation_timestamp.cmp(&b.metadata.creation_timestamp))
            .then_with(|| a.name().cmp(b.name()))
    });
    Ok(revisions)
}

fn number_of(revision: &ControllerRevision) -> i64 {
    revision.revision.unwrap_or(0)
}

/// The template that a revision holds.
pub(crate) fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.0.pointer("/spec/template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

/// Makes the newest revision the one of `template`: finds it, moves it up, or creates it.
pub(crate) async fn sync<O: Resource>(
    client: &Client,
    owner: &O,
    template: &PodTemplateSpec,
    revisions: &[Arc<ControllerRevision>],
    collisions: &mut i32,
) -> Result<ControllerRevision, Error> {
    let next = revisions.last().map_or(1, |newest| number_of(newest) + 1);
    let matching = |r: &&Arc<ControllerRevision>| template_of(r).is_some_and(|t| equal_ignoring_hash(&t, template));
    match revisions.iter().rev().find(matching) {
        Some(found) if number_of(found) + 1 == next => Ok((**found).clone()),
        Some(found) => {
            let mut found = (**found).clone();
            found.revision = Some(next);
            Ok(client.update(&found).await?)
        }
        None => create(client, owner, template, next, collisions).await,
    }
}

async fn create<O: Resource>(
    client: &Client,
    owner: &O,
    template: &PodTemplateSpec,
    number: i64,
    collisions: &mut i32,
) -> Result<ControllerRevision, Error> {
    let mut data = serde_json::to_value(template)?;
    if let Value::Object(members) = &mut data {
        // `kubectl rollout undo` applies this as a strategic merge patch.
        members.insert("$patch".to_owned(), "replace".into());
    }
    let data = json!({"spec": {"template": data}});
    loop {
        let hash = hash(&data, *collisions)?;
        let mut labels = template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
        labels.insert(REVISION_HASH.to_owned(), hash.clone());
        let revision = ControllerRevision {
            metadata: ObjectMeta {
                name: Some(name(owner.name(), &hash)),
                namespace: owner.metadata().namespace.clone(),
                labels: Some(labels),
                annotations: owner.metadata().annotations.clone(),
                owner_references: Some(vec![owner_ref(owner)]),
                ..Default::default()
            },
            data: RawExtension(data.clone()),
            revision: Some(number),
        };
        match client.create(&revision).await {
            Ok(made) => return Ok(made),
            Err(error) if error.is_already_exists() => {
                let found = client.get::<ControllerRevision>(revision.namespace(), revision.name()).await?;
                if found.data.0 == data {
                    return Ok(found);
                }
                *collisions += 1;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn hash(data: &Value, collisions: i32) -> Result<String, Error> {
    let mut bytes = serde_json::to_vec(data)?;
    bytes.extend_from_slice(&collisions.to_le_bytes());
    Ok(safe_encode(&base::fnv32a(&bytes).to_string()))
}

fn name(owner: &str, hash: &str) -> String {
    let mut end = owner.len().min(223);
    while !owner.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}-{hash}", &owner[..end])
}

/// Deletes the oldest of those that are not `live`, beyond `limit`.
pub(crate) async fn truncate(
    client: &Client,
    revisions: &[Arc<ControllerRevision>],
    limit: i32,
    live: impl Fn(&ControllerRevision) -> bool,
) -> Result<(), Error> {
    let dead: Vec<_> = revisions.iter().filter(|r| !live(r)).collect();
    let excess = dead.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    for revision in &dead[..excess] {
        let options = DeleteParams::default();
        match client.delete::<ControllerRevision>(revision.namespace(), revision.name(), &options).await {
            Err(error) if !error.is_not_found() => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}
