//! Adoption and release of dependants (`pkg/controller/controller_ref_manager.go`).

use std::sync::Arc;

use client::{Client, Patch, Resource, controller_of, owner_ref};
use serde_json::json;

use crate::error::Error;
use crate::selector::Selector;

/// Keeps those of `candidates` that `owner` controls: releases those that it no longer selects, adopts orphans that it
/// does. Whether it may adopt is asked of the server once, because the cached owner may be about to go.
pub(crate) async fn claim<O: Resource, K: Resource>(
    client: &Client,
    owner: &O,
    selector: &Selector,
    candidates: Vec<Arc<K>>,
) -> Result<Vec<Arc<K>>, Error> {
    let mut claimed = Vec::with_capacity(candidates.len());
    let mut may_adopt = None;
    let mut failure = None;
    for candidate in candidates {
        let matches = selector.matches(candidate.metadata().labels.as_ref());
        match controller_of(candidate.metadata()) {
            Some(controller) if controller.uid != owner.uid() => {}
            Some(_) if matches => claimed.push(candidate),
            Some(_) => {
                if !owner.is_deleting() {
                    match release(client, owner, &*candidate).await {
                        Ok(()) => {}
                        Err(error) => failure = Some(error),
                    }
                }
            }
            None => {
                if owner.is_deleting() || !matches || candidate.is_deleting() {
                    continue;
                }
                let allowed = match may_adopt {
                    Some(allowed) => allowed,
                    None => {
                        let fresh = client.get_opt::<O>(owner.namespace(), owner.name()).await?;
                        let allowed = fresh.is_some_and(|fresh| fresh.uid() == owner.uid() && !fresh.is_deleting());
                        may_adopt = Some(allowed);
                        allowed
                    }
                };
                if !allowed {
                    continue;
                }
                match adopt(client, owner, &*candidate).await {
                    Ok(()) => claimed.push(candidate),
                    Err(error) if error.is_not_found() => {}
                    Err(error) => failure = Some(error),
                }
            }
        }
    }
    match failure {
        Some(error) => Err(error.into()),
        None => Ok(claimed),
    }
}

async fn adopt<O: Resource, K: Resource>(client: &Client, owner: &O, object: &K) -> Result<(), client::Error> {
    let patch = Patch::Strategic(json!({"metadata": {"uid": object.uid(), "ownerReferences": [owner_ref(owner)]}}));
    client.patch::<K>(object.namespace(), object.name(), &patch).await.map(drop)
}

async fn release<O: Resource, K: Resource>(client: &Client, owner: &O, object: &K) -> Result<(), client::Error> {
    let patch = Patch::Strategic(json!({"metadata": {
        "uid": object.uid(),
        "ownerReferences": [{"$patch": "delete", "uid": owner.uid()}],
    }}));
    match client.patch::<K>(object.namespace(), object.name(), &patch).await {
        Ok(_) => Ok(()),
        // Gone, or no longer ours (the uid in the patch does not fit).
        Err(error) if error.is_not_found() || error.is_invalid() => Ok(()),
        Err(error) => Err(error),
    }
}
