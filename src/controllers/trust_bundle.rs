//! Publishes the API server's serving authority as a ClusterTrustBundle
//! (`pkg/controller/certificates/clustertrustbundlepublisher`).

use std::sync::Arc;

use api::names::ObjectKey;
use async_trait::async_trait;
use client::{DeleteParams, Informer, Resource, WorkQueue};
use k8s_openapi::api::certificates::v1::{ClusterTrustBundle, ClusterTrustBundleSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::harness::{Context, Parts, Reconcile, all_synced, synced};

const SIGNER: &str = "kubernetes.io/kube-apiserver-serving";

pub(crate) fn start(context: Context) {
    if context.settings.root_ca_pem.is_empty() {
        return;
    }
    let bundles = context.informers.informer_with::<ClusterTrustBundle>(&format!("spec.signerName={SIGNER}"));
    let queue = WorkQueue::new();
    queue.add(ObjectKey::new("", ""));
    let poke: crate::harness::AddAll = {
        let queue = queue.clone();
        Arc::new(move || queue.add(ObjectKey::new("", "")))
    };
    context.feed(&bundles, &poke, {
        let poke = Arc::clone(&poke);
        move |_| poke()
    });
    let ready = all_synced(vec![synced(&bundles)]);
    let publisher = Publisher { bundles, context: context.parts() };
    context.work(Arc::new(publisher), queue, 1, ready);
}

/// `constructBundleName`: the signer, and the first letters of the contents' hash.
fn bundle_name(bundle: &str) -> String {
    let hash: String = Sha256::digest(bundle.as_bytes()).iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    format!("{}:{hash}", SIGNER.replace('/', ":"))
}

struct Publisher {
    bundles: Informer<ClusterTrustBundle>,
    context: Parts,
}

#[async_trait]
impl Reconcile for Publisher {
    /// `syncClusterTrustBundle`.
    async fn reconcile(&self, _: &ObjectKey) -> Result<(), Error> {
        let wanted = &self.context.settings.root_ca_pem;
        let name = bundle_name(wanted);
        let client = &self.context.client;
        match self.bundles.get("", &name) {
            Some(bundle) if bundle.spec.trust_bundle == *wanted => {}
            Some(bundle) => {
                let mut changed = (*bundle).clone();
                changed.spec.trust_bundle.clone_from(wanted);
                client.update(&changed).await?;
            }
            None => {
                let bundle = ClusterTrustBundle {
                    metadata: ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() },
                    spec: ClusterTrustBundleSpec { signer_name: Some(SIGNER.to_owned()), trust_bundle: wanted.clone() },
                };
                match client.create(&bundle).await {
                    Err(error) if !error.is_already_exists() => return Err(error.into()),
                    _ => {}
                }
            }
        }
        // Those of earlier authorities.
        for bundle in self.bundles.list() {
            if bundle.name() == name {
                continue;
            }
            match client.delete::<ClusterTrustBundle>("", bundle.name(), &DeleteParams::default()).await {
                Err(error) if !error.is_not_found() => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_says_signer_and_contents() {
        let name = bundle_name("x");
        assert_eq!(name, "kubernetes.io:kube-apiserver-serving:2d711642b726b04401627ca9");
        assert_ne!(name, bundle_name("y"));
    }
}
