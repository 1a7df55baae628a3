//! The cluster's root certificate in every namespace, as ConfigMap `kube-root-ca.crt`
//! (`pkg/controller/certificates/rootcacertpublisher`).

use std::collections::BTreeMap;
use std::sync::Arc;

use api::names::ObjectKey;
use async_trait::async_trait;
use client::{Informer, Resource, WorkQueue};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::error::Error;
use crate::harness::{Context, Parts, Reconcile, all_synced, current, synced};
use crate::serviceaccount::is_terminating;

const NAME: &str = "kube-root-ca.crt";
const FILE: &str = "ca.crt";
const DESCRIPTION: &str = "kubernetes.io/description";
const DESCRIPTION_TEXT: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

pub(crate) fn start(context: Context) {
    let namespaces = context.informers.informer::<Namespace>();
    // Its own watch: the ConfigMaps of users are nobody else's business and would fill the memory.
    let maps = context.informers.informer_with::<ConfigMap>("metadata.name=kube-root-ca.crt");
    let queue = WorkQueue::new();
    let add_all = context.feed_own(&namespaces, &queue);
    context.feed(&maps, &add_all, {
        let queue = queue.clone();
        move |event| {
            if let Some(map) = current(event) {
                queue.add(ObjectKey::new("", map.namespace()));
            }
        }
    });
    let ready = all_synced(vec![synced(&namespaces), synced(&maps)]);
    let reconciler = Arc::new(Reconciler { namespaces, maps, context: context.parts() });
    context.work(reconciler, queue, 1, ready);
}

struct Reconciler {
    namespaces: Informer<Namespace>,
    maps: Informer<ConfigMap>,
    context: Parts,
}

#[async_trait]
impl Reconcile for Reconciler {
    /// The key is a namespace.
    async fn reconcile(&self, key: &ObjectKey) -> Result<(), Error> {
        let Some(namespace) = self.namespaces.get("", &key.name) else { return Ok(()) };
        if is_terminating(&namespace) {
            return Ok(());
        }
        let data = BTreeMap::from([(FILE.to_owned(), self.context.settings.root_ca_pem.clone())]);
        let result = match self.maps.get(&key.name, NAME) {
            None => {
                let map = ConfigMap {
                    metadata: ObjectMeta {
                        name: Some(NAME.to_owned()),
                        namespace: Some(key.name.clone()),
                        annotations: Some(BTreeMap::from([(DESCRIPTION.to_owned(), DESCRIPTION_TEXT.to_owned())])),
                        ..Default::default()
                    },
                    data: Some(data),
                    ..Default::default()
                };
                self.context.client.create(&map).await
            }
            Some(map) if map.data.as_ref() == Some(&data) && map.annotation(DESCRIPTION).is_some() => return Ok(()),
            Some(map) => {
                let mut map = (*map).clone();
                map.data = Some(data);
                let annotations = map.metadata.annotations.get_or_insert_default();
                annotations.insert(DESCRIPTION.to_owned(), DESCRIPTION_TEXT.to_owned());
                self.context.client.update(&map).await
            }
        };
        match result {
            Ok(_) => Ok(()),
            Err(error) if error.is_already_exists() || error.is_namespace_terminating() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
