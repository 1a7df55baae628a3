//! `clusterTrustBundle` projections: the certificates of one bundle or of all that a signer and labels pick (upstream
//! `kubelet/clustertrustbundle/clustertrustbundle_manager.go`).
//!
//! Bundles are watched from the first pod on that uses one; a node without such pods watches nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::OnceLock;

use api::selector::LabelSelector;
use client::{Event, Informer};
use k8s_openapi::api::certificates::v1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::{ClusterTrustBundleProjection, Pod};
use pki::proof::{pem_blocks, pem_text};

use super::VolumeError;
use crate::context::Context;
use crate::spec;

/// How long the first reading of all bundles may take before the pod's step fails and is tried again.
const FIRST_READ: std::time::Duration = std::time::Duration::from_secs(10);

/// The cluster's trust bundles, once they are needed.
#[derive(Default)]
pub struct Trust {
    informer: OnceLock<Informer<ClusterTrustBundle>>,
    /// Makes the order of certificates differ between restarts, so that nobody comes to rely on it.
    salt: OnceLock<u64>,
}

impl Trust {
    /// The projection's file: PEM without duplicates. Empty when nothing matches and that is allowed.
    pub async fn get(&self, ctx: &Context, source: &ClusterTrustBundleProjection) -> Result<Vec<u8>, VolumeError> {
        let informer = self.informer(ctx);
        if tokio::time::timeout(FIRST_READ, informer.synced()).await.is_err() {
            return Err(failed("ClusterTrustBundle informer has not yet synced"));
        }
        let optional = source.optional == Some(true);
        let bundles = match (&source.name, &source.signer_name) {
            (Some(name), _) => match informer.get("", name) {
                Some(bundle) => vec![bundle],
                None if optional => Vec::new(),
                None => {
                    return Err(failed(&format!(
                        "while getting ClusterTrustBundle: clustertrustbundle.certificates.k8s.io {name:?} not found"
                    )));
                }
            },
            (None, Some(signer)) => {
                let selector = serde_json::to_value(&source.label_selector).unwrap_or_default();
                let selector = LabelSelector::from_object(&selector)
                    .map_err(|e| failed(&format!("while parsing label selector: {e}")))?;
                let found = select(&informer.list(), signer, &selector);
                if found.is_empty() && !optional {
                    return Err(failed("combination of signerName and labelSelector matched zero ClusterTrustBundles"));
                }
                found
            }
            (None, None) => {
                return Err(failed("ClusterTrustBundle projection requires either name or signerName to be set"));
            }
        };
        let texts = bundles.iter().map(|bundle| bundle.spec.trust_bundle.as_str());
        Ok(normalize(texts, *self.salt.get_or_init(rand::random)).into_bytes())
    }

    /// Starts the watch at the first call, and wakes the pods that project bundles when one changes.
    fn informer(&self, ctx: &Context) -> Informer<ClusterTrustBundle> {
        self.informer
            .get_or_init(|| {
                let informer = ctx.informers.informer::<ClusterTrustBundle>();
                let mut changes = informer.subscribe();
                let (table, shutdown) = (ctx.table.clone(), ctx.shutdown.clone());
                ctx.tasks.spawn(async move {
                    loop {
                        let event: Option<Event<ClusterTrustBundle>> = tokio::select! {
                            biased;
                            () = shutdown.cancelled() => return,
                            event = changes.recv() => event,
                        };
                        if event.is_none() {
                            return;
                        }
                        for slot in table.all().into_iter().filter(|slot| projects_bundles(&slot.pod())) {
                            slot.changed.notify_one();
                        }
                    }
                });
                informer
            })
            .clone()
    }
}

fn failed(why: &str) -> VolumeError {
    VolumeError::Projection(why.to_owned())
}

fn projects_bundles(pod: &Pod) -> bool {
    let volumes = spec::spec(pod).volumes.iter().flatten().filter_map(|v| v.projected.as_ref());
    volumes.flat_map(|p| p.sources.iter().flatten()).any(|s| s.cluster_trust_bundle.is_some())
}

fn select(all: &[Arc<ClusterTrustBundle>], signer: &str, selector: &LabelSelector) -> Vec<Arc<ClusterTrustBundle>> {
    let mut found: Vec<Arc<ClusterTrustBundle>> = all
        .iter()
        .filter(|bundle| bundle.spec.signer_name.as_deref() == Some(signer))
        .filter(|bundle| {
            let labels = bundle.metadata.labels.as_ref();
            selector.matches(|key| labels.and_then(|l| l.get(key)).map(String::as_str))
        })
        .cloned()
        .collect();
    found.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    found
}

/// Every certificate once, in an order that is the same for the same salt.
fn normalize<'a>(texts: impl Iterator<Item = &'a str>, salt: u64) -> String {
    let unique: BTreeSet<Vec<u8>> = texts.flat_map(pem_blocks).collect();
    let mut ordered: Vec<Vec<u8>> = unique.into_iter().collect();
    ordered.sort_by_cached_key(|der| base::fnv64a(der) ^ salt);
    ordered.iter().map(|der| pem_text("CERTIFICATE", der)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::Resource;
    use serde_json::json;

    fn bundle(name: &str, signer: &str, label: &str) -> Arc<ClusterTrustBundle> {
        let value = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "ClusterTrustBundle",
            "metadata": {"name": name, "labels": {"tier": label}},
            "spec": {"signerName": signer, "trustBundle": pem_text("CERTIFICATE", name.as_bytes())}});
        Arc::new(ClusterTrustBundle::decode(value.to_string().as_bytes()).unwrap())
    }

    #[test]
    fn bundles_are_picked_by_signer_and_labels() {
        let all = [bundle("a", "s", "live"), bundle("b", "s", "dead"), bundle("c", "other", "live")];
        let check = |selector: serde_json::Value, expected: &[&str]| {
            let found = select(&all, "s", &LabelSelector::from_object(&selector).unwrap());
            let names: Vec<&str> = found.iter().map(|b| b.name()).collect();
            assert_eq!(names, expected, "{selector}");
        };
        check(json!(null), &[]);
        check(json!({}), &["a", "b"]);
        check(json!({"matchLabels": {"tier": "live"}}), &["a"]);
    }

    #[test]
    fn certificates_appear_once_whatever_the_order() {
        let (a, b) = (pem_text("CERTIFICATE", b"a"), pem_text("CERTIFICATE", b"b"));
        let text = normalize([a.as_str(), b.as_str(), a.as_str()].into_iter(), 7);
        assert_eq!(pem_blocks(&text).len(), 2);
        assert_eq!(text, normalize([b.as_str(), a.as_str()].into_iter(), 7));
    }
}
