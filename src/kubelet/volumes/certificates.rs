//! `podCertificate` projections: keys made here, certified through PodCertificateRequests, renewed in time (upstream
//! `kubelet/podcertificate/podcertificatemanager.go`).
//!
//! Keys are in memory and in the pod's tmpfs only: after a restart of the node agent new ones are made.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::time::Duration;

use client::{Event, EventType, Informer, Resource};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{PodCertificateRequest, PodCertificateRequestSpec};
use k8s_openapi::api::core::v1::{Node, Pod, PodCertificateProjection, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use parking_lot::Mutex;
use pki::proof::{self, KeyAndProof, pem_blocks, pem_text};

use super::VolumeError;
use crate::context::Context;
use crate::spec;

/// A request of ours that is not to be seen for this long was deleted (upstream `assumeDeletedThreshold`).
const ASSUME_DELETED: SignedDuration = SignedDuration::from_mins(10);
/// A certificate that long past its time of renewal is overdue (upstream `refreshOverdueDuration`).
const OVERDUE: SignedDuration = SignedDuration::from_mins(10);
/// How long a pod's step waits for its first certificate before it fails and is tried again.
const FIRST_ISSUE: Duration = Duration::from_secs(10);

/// A projection: pod, volume, place in the volume's sources.
type Key = (String, String, usize);

/// What the pod gets to see.
#[derive(Clone)]
pub struct Bundle {
    /// PKCS #8, PEM.
    pub key: String,
    /// PEM, the leaf first.
    pub chain: String,
    pub refresh_after: Duration,
}

#[derive(Clone)]
struct Issued {
    key: String,
    chain: String,
    refresh_at: Timestamp,
    not_after: Timestamp,
    said_overdue: bool,
    said_expired: bool,
}

#[derive(Clone)]
struct Pending {
    key: String,
    request: String,
    abandon_at: Timestamp,
}

/// Upstream's state machine: initial, wait, fresh, wait for a renewal; denied and failed are final.
#[derive(Clone, Default)]
struct Record {
    issued: Option<Issued>,
    pending: Option<Pending>,
    refused: Option<String>,
}

/// The credentials of this node's pods.
#[derive(Default)]
pub struct Certificates {
    records: Mutex<HashMap<Key, Record>>,
    informer: OnceLock<Informer<PodCertificateRequest>>,
}

fn failed(why: impl Into<String>) -> VolumeError {
    VolumeError::Projection(why.into())
}

impl Certificates {
    /// The projection's credentials. The first time this asks for them and waits a while; a renewal is not waited for.
    pub async fn get(
        &self,
        ctx: &Context,
        pod: &Pod,
        (volume, index): (&str, usize),
        source: &PodCertificateProjection,
    ) -> Result<Bundle, VolumeError> {
        let key: Key = (spec::uid(pod).to_owned(), volume.to_owned(), index);
        let informer = self.informer(ctx);
        let mut record = self.records.lock().get(&key).cloned().unwrap_or_default();
        let due = record.issued.as_ref().is_none_or(|issued| issued.refresh_at <= ctx.clock.now());
        if record.refused.is_none() && record.pending.is_none() && due {
            let pending = ask(ctx, pod, source).await?;
            record.pending = Some(pending);
            self.records.lock().insert(key.clone(), record.clone());
        }
        if let Some(pending) = record.pending.clone() {
            let mut changes = informer.subscribe();
            let first = record.issued.is_none();
            let deadline = tokio::time::Instant::now() + FIRST_ISSUE;
            loop {
                let request = informer.get(spec::namespace(pod), &pending.request);
                if self.settle(ctx, pod, &mut record, &pending, request.as_deref()) || !first {
                    break;
                }
                match tokio::time::timeout_at(deadline, changes.recv()).await {
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => break,
                }
            }
        }
        warn_if_late(ctx, pod, &mut record);
        self.records.lock().insert(key, record.clone());
        if let Some(why) = record.refused {
            return Err(failed(why));
        }
        let issued = record.issued.ok_or_else(|| failed("credential bundle is not issued yet"))?;
        let left = issued.refresh_at.duration_since(ctx.clock.now());
        // A renewal under way is looked at again when the request changes, and once a minute.
        let refresh_after = Duration::try_from(left).unwrap_or_default().max(Duration::from_secs(60));
        Ok(Bundle { key: issued.key, chain: issued.chain, refresh_after })
    }

    /// Forgets the pod's keys.
    pub fn release(&self, pod_uid: &str) {
        self.records.lock().retain(|(uid, _, _), _| uid != pod_uid);
    }

    /// Takes note of where the request is. Returns whether it is decided or gone.
    fn settle(
        &self,
        ctx: &Context,
        pod: &Pod,
        record: &mut Record,
        pending: &Pending,
        request: Option<&PodCertificateRequest>,
    ) -> bool {
        let Some(request) = request else {
            // Not seen yet, or deleted by somebody: only time tells.
            let gone = ctx.clock.now() > pending.abandon_at;
            if gone {
                record.pending = None;
            }
            return gone;
        };
        let status = request.status.clone().unwrap_or_default();
        for condition in status.conditions.iter().flatten() {
            let verb = match condition.type_.as_str() {
                "Denied" => "denied",
                "Failed" => "failed",
                "Issued" => {
                    let time = |t: Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>| {
                        t.map_or_else(|| ctx.clock.now(), |t| t.0)
                    };
                    let chain = pem_blocks(status.certificate_chain.as_deref().unwrap_or_default());
                    record.issued = Some(Issued {
                        key: pending.key.clone(),
                        chain: chain.iter().map(|der| pem_text("CERTIFICATE", der)).collect(),
                        refresh_at: time(status.begin_refresh_at.as_ref()) + jitter(),
                        not_after: time(status.not_after.as_ref()),
                        said_overdue: false,
                        said_expired: false,
                    });
                    record.pending = None;
                    return true;
                }
                _ => continue,
            };
            let (reason, message) = (&condition.reason, &condition.message);
            let name = format!("{}/{}", request.namespace(), request.name());
            let was = if verb == "denied" { "was denied" } else { "failed" };
            let text = format!("PodCertificateRequest {name} {was}, reason={reason:?}, message={message:?}");
            ctx.events.pod(pod, EventType::Warning, &condition.type_, &text);
            record.refused =
                Some(format!("PodCertificateRequest was permanently {verb}: reason={reason:?} message={message:?}"));
            record.pending = None;
            return true;
        }
        false
    }

    /// Watches the requests of this node from the first use on, and wakes the pods that they are for.
    fn informer(&self, ctx: &Context) -> Informer<PodCertificateRequest> {
        self.informer
            .get_or_init(|| {
                let selector = format!("spec.nodeName={}", ctx.config.node_name);
                let informer = ctx.informers.informer_with::<PodCertificateRequest>(&selector);
                let mut changes = informer.subscribe();
                let (table, shutdown) = (ctx.table.clone(), ctx.shutdown.clone());
                ctx.tasks.spawn(async move {
                    loop {
                        let event = tokio::select! {
                            biased;
                            () = shutdown.cancelled() => return,
                            event = changes.recv() => event,
                        };
                        match event {
                            Some(Event::Added(r) | Event::Updated { new: r, .. } | Event::Deleted(r)) => {
                                table.wake(&r.spec.pod_uid);
                            }
                            Some(Event::Resync) => {}
                            None => return,
                        }
                    }
                });
                informer
            })
            .clone()
    }
}

/// Up to five minutes, so that pods started together do not renew together.
fn jitter() -> SignedDuration {
    SignedDuration::from_millis(i64::from(rand::random::<u32>() % 300_000))
}

fn warn_if_late(ctx: &Context, pod: &Pod, record: &mut Record) {
    let now = ctx.clock.now();
    let Some(issued) = &mut record.issued else { return };
    if now > issued.refresh_at + OVERDUE && !std::mem::replace(&mut issued.said_overdue, true) {
        ctx.events.pod(pod, EventType::Warning, "CertificateOverdueForRefresh", "PodCertificate refresh overdue");
    }
    if now > issued.not_after && !std::mem::replace(&mut issued.said_expired, true) {
        ctx.events.pod(pod, EventType::Warning, "CertificateExpired", "PodCertificate expired");
    }
}

/// Makes a key and posts the request for its certificate.
async fn ask(ctx: &Context, pod: &Pod, source: &PodCertificateProjection) -> Result<Pending, VolumeError> {
    let namespace = spec::namespace(pod);
    let account = spec::spec(pod).service_account_name.clone().unwrap_or_default();
    let shown = |what: &str, e: &client::Error| failed(format!("{what}: {}", base::chain(e)));
    let found: ServiceAccount =
        ctx.client.get(namespace, &account).await.map_err(|e| shown("while fetching service account", &e))?;
    let node: Node =
        ctx.client.get("", &ctx.config.node_name).await.map_err(|e| shown("while getting node object", &e))?;
    let key_type = source.key_type.clone();
    let made = tokio::task::spawn_blocking(move || proof::generate(&key_type)).await;
    let KeyAndProof { key_pem, request_der } = made
        .map_err(|e| failed(e.to_string()))?
        .map_err(|e| failed(format!("while generating keypair: {}", base::chain(&e))))?;
    let mut request = PodCertificateRequest::default();
    request.metadata.namespace = Some(namespace.to_owned());
    request.metadata.generate_name = Some("req-".to_owned());
    request.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: spec::name(pod).to_owned(),
        uid: spec::uid(pod).to_owned(),
        ..OwnerReference::default()
    }]);
    request.spec = PodCertificateRequestSpec {
        signer_name: source.signer_name.clone(),
        pod_name: spec::name(pod).to_owned(),
        pod_uid: spec::uid(pod).to_owned(),
        service_account_name: account,
        service_account_uid: found.uid().to_owned(),
        node_name: ctx.config.node_name.clone(),
        node_uid: node.uid().to_owned(),
        max_expiration_seconds: source.max_expiration_seconds,
        stub_pkc_s10_request: ByteString(request_der),
        unverified_user_annotations: source.user_annotations.clone(),
    };
    let created = ctx.client.create(&request).await.map_err(|e| shown("while creating on API", &e))?;
    Ok(Pending {
        key: key_pem,
        request: created.name().to_owned(),
        abandon_at: ctx.clock.now() + ASSUME_DELETED + jitter(),
    })
}
