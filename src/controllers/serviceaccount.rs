//! The `default` service account of every namespace (`pkg/controller/serviceaccount/serviceaccounts_controller.go`).

use std::sync::Arc;

use api::names::ObjectKey;
use async_trait::async_trait;
use client::{Event, Informer, Resource, WorkQueue};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::error::Error;
use crate::harness::{Context, Parts, Reconcile, all_synced, synced};

const NAME: &str = "default";

pub(crate) fn start(context: Context) {
    let namespaces = context.informers.informer::<Namespace>();
    let accounts = context.informers.informer::<ServiceAccount>();
    let queue = WorkQueue::new();
    let add_all = context.feed_own(&namespaces, &queue);
    context.feed(&accounts, &add_all, {
        let queue = queue.clone();
        move |event| {
            if let Event::Deleted(account) = event
                && account.name() == NAME
            {
                queue.add(ObjectKey::new("", account.namespace()));
            }
        }
    });
    let ready = all_synced(vec![synced(&namespaces), synced(&accounts)]);
    let reconciler = Arc::new(Reconciler { namespaces, accounts, context: context.parts() });
    context.work(reconciler, queue, 1, ready);
}

struct Reconciler {
    namespaces: Informer<Namespace>,
    accounts: Informer<ServiceAccount>,
    context: Parts,
}

#[async_trait]
impl Reconcile for Reconciler {
    /// The key is a namespace.
    async fn reconcile(&self, key: &ObjectKey) -> Result<(), Error> {
        let Some(namespace) = self.namespaces.get("", &key.name) else { return Ok(()) };
        if is_terminating(&namespace) || self.accounts.get(&key.name, NAME).is_some() {
            return Ok(());
        }
        let account = ServiceAccount {
            metadata: ObjectMeta {
                name: Some(NAME.to_owned()),
                namespace: Some(key.name.clone()),
                ..Default::default()
            },
            ..Default::default()
        };
        match self.context.client.create(&account).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_already_exists() || error.is_namespace_terminating() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

pub(crate) fn is_terminating(namespace: &Namespace) -> bool {
    namespace.is_deleting() || namespace.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Terminating")
}
