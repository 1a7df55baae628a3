//! Which volumes a pod's claims have, or could have on a node (upstream `binder.go`, `FindPodVolumes`; and
//! `component-helpers/storage/volume` `FindMatchingVolume`). Reads only.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use api::quantity::Quantity;
use client::k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use client::k8s_openapi::api::storage::v1::{CSIStorageCapacity, StorageClass};
use client::k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use client::{Resource, is_controlled_by};

use super::super::node_affinity::matches_selector;
use crate::cache::NodeInfo;
use crate::framework::{Code, Rejection};
use crate::labels;
use crate::listers::Listers;
use crate::pod_info::{PodInfo, claim_name};

pub(super) const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
pub(super) const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// A pod's claims by what is left to do about them.
#[derive(Debug, Default)]
pub(super) struct PodClaims {
    bound: Vec<Arc<PersistentVolumeClaim>>,
    /// Those that wait for their first consumer.
    delayed: Vec<Arc<PersistentVolumeClaim>>,
    /// Volumes of the classes of `delayed`, by class.
    candidates: BTreeMap<String, Vec<Arc<PersistentVolume>>>,
}

impl PodClaims {
    pub(super) fn is_empty(&self) -> bool {
        self.bound.is_empty() && self.delayed.is_empty()
    }
}

/// What a node would do about the claims that wait.
#[derive(Debug, Default)]
pub(super) struct PodVolumes {
    pub(super) bindings: Vec<(Arc<PersistentVolume>, Arc<PersistentVolumeClaim>)>,
    /// With the capacity that the node has access to, if the driver tells.
    pub(super) provisions: Vec<(Arc<PersistentVolumeClaim>, Option<Arc<CSIStorageCapacity>>)>,
}

/// Bytes asked for and there.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Sized {
    pub(super) requested: i64,
    pub(super) capacity: i64,
}

impl PodVolumes {
    /// By class: of the volumes found, or, if none, of those to be made.
    pub(super) fn sizes(&self) -> Vec<(String, Sized)> {
        if self.bindings.is_empty() {
            let known = self.provisions.iter().filter_map(|(claim, capacity)| Some((claim, capacity.as_ref()?)));
            return known
                .map(|(claim, capacity)| {
                    let there = capacity.capacity.as_ref().map(bytes).unwrap_or_default();
                    (class_of(claim).to_owned(), Sized { requested: asked(claim), capacity: there })
                })
                .collect();
        }
        let of = |(volume, claim): &(Arc<PersistentVolume>, Arc<PersistentVolumeClaim>)| {
            (volume_class(volume).to_owned(), Sized { requested: asked(claim), capacity: size_of(volume) })
        };
        self.bindings.iter().map(of).collect()
    }
}

/// The pod's claims (`podHasPVCs`, `GetPodVolumeClaims`).
pub(super) fn claims(pod: &PodInfo, listers: &Listers) -> Result<PodClaims, Rejection> {
    let mut sorted = PodClaims::default();
    let mut immediate = false;
    for volume in pod.volumes() {
        let Some((name, ephemeral)) = claim_name(&pod.pod, volume) else { continue };
        let claim = usable(pod, &name, ephemeral, listers).map_err(Rejection::unresolvable)?;
        let has_volume = volume_of(&claim).is_some();
        if has_volume && claim.annotation(BIND_COMPLETED).is_some() {
            sorted.bound.push(claim);
        } else if !has_volume && waits_for_consumer(&claim, listers)? {
            sorted.delayed.push(claim);
        } else {
            immediate = true;
        }
    }
    if immediate {
        return Err(Rejection::unresolvable("pod has unbound immediate PersistentVolumeClaims"));
    }
    if !sorted.delayed.is_empty() {
        for volume in listers.volumes.list() {
            let class = volume_class(&volume).to_owned();
            if sorted.delayed.iter().any(|claim| class_of(claim) == class) {
                sorted.candidates.entry(class).or_default().push(volume);
            }
        }
        sorted.delayed.sort_by_key(|claim| asked(claim));
    }
    Ok(sorted)
}

fn usable(pod: &PodInfo, name: &str, ephemeral: bool, listers: &Listers) -> Result<Arc<PersistentVolumeClaim>, String> {
    let claim = listers.claims.get(pod.namespace(), name).ok_or_else(|| {
        if ephemeral {
            format!("waiting for ephemeral volume controller to create the persistentvolumeclaim \"{name}\"")
        } else {
            format!("persistentvolumeclaim \"{name}\" not found")
        }
    })?;
    if claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Lost") {
        let volume = volume_of(&claim).unwrap_or_default();
        return Err(format!("persistentvolumeclaim \"{name}\" bound to non-existent persistentvolume \"{volume}\""));
    }
    if claim.is_deleting() {
        return Err(format!("persistentvolumeclaim \"{name}\" is being deleted"));
    }
    if ephemeral {
        check_owned(pod, &claim)?;
    }
    Ok(claim)
}

/// `ephemeral.VolumeIsForPod`.
pub(in super::super) fn check_owned(pod: &PodInfo, claim: &PersistentVolumeClaim) -> Result<(), String> {
    if is_controlled_by(&claim.metadata, &pod.uid) {
        return Ok(());
    }
    Err(format!(
        "PVC {}/{} was not created for pod {}/{} (pod is not owner)",
        claim.namespace(),
        claim.name(),
        pod.namespace(),
        pod.pod.name()
    ))
}

/// `volume.IsDelayBindingMode`.
fn waits_for_consumer(claim: &PersistentVolumeClaim, listers: &Listers) -> Result<bool, Rejection> {
    let class = class_of(claim);
    let Some(found) = listers.classes.get("", class).filter(|_| !class.is_empty()) else { return Ok(false) };
    match found.volume_binding_mode.as_deref() {
        Some(mode) => Ok(mode == "WaitForFirstConsumer"),
        None => Err(Rejection::error(format!("VolumeBindingMode not set for StorageClass \"{class}\""))),
    }
}

/// Whether the node can have all claims, and how (`FindPodVolumes`).
pub(super) fn volumes(claims: &PodClaims, info: &NodeInfo, listers: &Listers) -> Result<PodVolumes, Rejection> {
    let Some(node) = &info.node else { return Ok(PodVolumes::default()) };
    let mut reasons = Vec::new();
    for claim in &claims.bound {
        let reason = match listers.volumes.get("", volume_of(claim).unwrap_or_default()) {
            None => "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)",
            Some(volume) if !reachable(&volume, node) => "node(s) didn't match PersistentVolume's node affinity",
            Some(_) => continue,
        };
        reasons.push(reason.to_owned());
        break;
    }
    let mut found = PodVolumes::default();
    if let Err(reason) = find_delayed(claims, node, listers, &mut found)? {
        // Upstream's order: out of reach, nothing to bind, no space, gone.
        let at = usize::from(reasons.first().is_some_and(|r| r.contains("affinity")));
        reasons.insert(at, reason.to_owned());
    }
    if reasons.is_empty() { Ok(found) } else { Err(Rejection { reasons, code: Code::Unresolvable }) }
}

const NO_VOLUMES: &str = "node(s) didn't find available persistent volumes to bind";
const NO_SPACE: &str = "node(s) did not have enough free storage";

fn find_delayed(
    claims: &PodClaims,
    node: &Node,
    listers: &Listers,
    found: &mut PodVolumes,
) -> Result<Result<(), &'static str>, Rejection> {
    let mut to_provision = Vec::new();
    let mut chosen = HashSet::new();
    for claim in &claims.delayed {
        match claim.annotation(SELECTED_NODE) {
            Some(selected) if selected != node.name() => return Ok(Err(NO_VOLUMES)),
            Some(_) => to_provision.push(claim),
            None => {
                let candidates = claims.candidates.get(class_of(claim)).map(Vec::as_slice).unwrap_or_default();
                match matching(claim, candidates, node, &chosen) {
                    Some(volume) => {
                        chosen.insert(volume.name().to_owned());
                        found.bindings.push((volume.clone(), claim.clone()));
                    }
                    None => to_provision.push(claim),
                }
            }
        }
    }
    for claim in to_provision {
        match provision(claim, node, listers)? {
            Ok(capacity) => found.provisions.push((claim.clone(), capacity)),
            Err(reason) => return Ok(Err(reason)),
        }
    }
    Ok(Ok(()))
}

/// Whether the claim's class can make a volume that the node reaches (`checkVolumeProvisions`).
fn provision(
    claim: &PersistentVolumeClaim,
    node: &Node,
    listers: &Listers,
) -> Result<Result<Option<Arc<CSIStorageCapacity>>, &'static str>, Rejection> {
    let name = class_of(claim);
    if name.is_empty() {
        return Err(Rejection::error(format!("no class for claim \"{}/{}\"", claim.namespace(), claim.name())));
    }
    let Some(class) = listers.classes.get("", name) else {
        return Err(Rejection::error(format!("failed to find storage class \"{name}\"")));
    };
    if class.provisioner.is_empty() || class.provisioner == NO_PROVISIONER || !allows(&class, node) {
        return Ok(Err(NO_VOLUMES));
    }
    let tracks = listers.csi_drivers.get("", &class.provisioner);
    if !tracks.is_some_and(|driver| driver.spec.storage_capacity.unwrap_or_default()) || !asks(claim) {
        return Ok(Ok(None));
    }
    let wanted = asked(claim);
    let enough = |capacity: &&Arc<CSIStorageCapacity>| {
        capacity.storage_class_name == name
            && limit(capacity).is_some_and(|limit| limit >= wanted)
            && capacity.node_topology.is_some()
            && labels::matches(&labels::selector(capacity.node_topology.as_ref()), node.metadata.labels.as_ref())
    };
    match listers.capacities.list().iter().find(enough) {
        Some(capacity) => Ok(Ok(Some(capacity.clone()))),
        None => Ok(Err(NO_SPACE)),
    }
}

/// Bytes of the largest volume that can be made.
pub(super) fn limit(capacity: &CSIStorageCapacity) -> Option<i64> {
    capacity.maximum_volume_size.as_ref().or(capacity.capacity.as_ref()).map(bytes)
}

/// `v1helper.MatchTopologySelectorTerms` over the class's allowed topologies.
fn allows(class: &StorageClass, node: &Node) -> bool {
    let terms = class.allowed_topologies.as_deref().unwrap_or_default();
    terms.is_empty()
        || terms.iter().any(|term| {
            let expressions = term.match_label_expressions.as_deref().unwrap_or_default();
            !expressions.is_empty()
                && expressions.iter().all(|e| node.label(&e.key).is_some_and(|v| e.values.iter().any(|w| w == v)))
        })
}

/// The smallest volume that the claim can have on the node (`FindMatchingVolume`).
fn matching<'a>(
    claim: &PersistentVolumeClaim,
    candidates: &'a [Arc<PersistentVolume>],
    node: &Node,
    taken: &HashSet<String>,
) -> Option<&'a Arc<PersistentVolume>> {
    let spec = claim.spec.as_ref()?;
    let selector = spec.selector.as_ref().map(|selector| labels::selector(Some(selector)));
    let wanted = asked(claim);
    let mut best: Option<&Arc<PersistentVolume>> = None;
    for volume in candidates {
        let Some(of) = volume.spec.as_ref().filter(|_| !taken.contains(volume.name())) else { continue };
        let promised = promised(volume, claim);
        let mode = |mode: &Option<String>| mode.clone().unwrap_or_else(|| "Filesystem".to_owned());
        let attributes = |class: &Option<String>| class.clone().unwrap_or_default();
        if of.claim_ref.is_some() && !promised
            || size_of(volume) < wanted
            || mode(&spec.volume_mode) != mode(&of.volume_mode)
            || attributes(&spec.volume_attributes_class_name) != attributes(&of.volume_attributes_class_name)
            || volume.is_deleting()
        {
            continue;
        }
        if promised {
            return reachable(volume, node).then_some(volume);
        }
        let modes = of.access_modes.as_deref().unwrap_or_default();
        let fits = volume.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Available")
            && selector.as_ref().is_none_or(|s| labels::matches(s, volume.metadata.labels.as_ref()))
            && volume_class(volume) == class_of(claim)
            && reachable(volume, node)
            && spec.access_modes.iter().flatten().all(|mode| modes.contains(mode));
        if fits && best.is_none_or(|best| size_of(volume) < size_of(best)) {
            best = Some(volume);
        }
    }
    best
}

/// Whether the volume names the claim (`IsVolumeBoundToClaim`).
pub(super) fn promised(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let Some(reference) = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref()) else { return false };
    reference.name.as_deref() == Some(claim.name())
        && reference.namespace.as_deref() == Some(claim.namespace())
        && reference.uid.as_deref().is_none_or(|uid| uid.is_empty() || uid == claim.uid())
}

/// `CheckNodeAffinity`.
pub(super) fn reachable(volume: &PersistentVolume, node: &Node) -> bool {
    let affinity = volume.spec.as_ref().and_then(|s| s.node_affinity.as_ref());
    affinity.and_then(|a| a.required.as_ref()).is_none_or(|required| matches_selector(required, node))
}

/// `spec.volumeName`, if any.
pub(super) fn volume_of(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.spec.as_ref()?.volume_name.as_deref().filter(|name| !name.is_empty())
}

/// The storage class that a claim names; empty for none (`GetPersistentVolumeClaimClass`).
pub(in super::super) fn class_of(claim: &PersistentVolumeClaim) -> &str {
    let named = claim.spec.as_ref().and_then(|s| s.storage_class_name.as_deref());
    claim.annotation(BETA_CLASS).or(named).unwrap_or_default()
}

fn volume_class(volume: &PersistentVolume) -> &str {
    let named = volume.spec.as_ref().and_then(|s| s.storage_class_name.as_deref());
    volume.annotation(BETA_CLASS).or(named).unwrap_or_default()
}

fn bytes(text: &Text) -> i64 {
    Quantity::parse(&text.0).map_or(0, |quantity| quantity.value())
}

fn storage_request(claim: &PersistentVolumeClaim) -> Option<&Text> {
    claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?.get("storage")
}

fn asks(claim: &PersistentVolumeClaim) -> bool {
    storage_request(claim).is_some()
}

fn asked(claim: &PersistentVolumeClaim) -> i64 {
    storage_request(claim).map_or(0, bytes)
}

fn size_of(volume: &PersistentVolume) -> i64 {
    volume.spec.as_ref().and_then(|s| s.capacity.as_ref()).and_then(|c| c.get("storage")).map_or(0, bytes)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod() -> PodInfo {
        let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]);
        let metadata = json!({"name": "p", "namespace": "n", "uid": "u"});
        let pod = json!({"metadata": metadata, "spec": {"containers": [], "volumes": volumes}});
        PodInfo::new(Arc::new(serde_json::from_value(pod).unwrap()))
    }

    fn node(name: &str) -> NodeInfo {
        let node = json!({"metadata": {"name": name, "labels": {"host": name}}});
        NodeInfo::new(Arc::new(serde_json::from_value(node).unwrap()))
    }

    fn listers(mode: &str, provisioner: &str) -> Listers {
        let listers = Listers::fake();
        let class = json!({"metadata": {"name": "s"}, "provisioner": provisioner, "volumeBindingMode": mode});
        listers.classes.put(serde_json::from_value(class).unwrap());
        listers
    }

    fn claim(annotations: Value, volume: &str) -> PersistentVolumeClaim {
        let spec = json!({
            "storageClassName": "s", "volumeName": volume, "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
        });
        let metadata = json!({"name": "c", "namespace": "n", "uid": "cu", "annotations": annotations});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
    }

    fn volume(name: &str, size: &str, host: &str) -> PersistentVolume {
        let expression = json!({"key": "host", "operator": "In", "values": [host]});
        let spec = json!({
            "storageClassName": "s", "capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"],
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}},
        });
        let status = json!({"phase": "Available"});
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec, "status": status})).unwrap()
    }

    fn reasons<T>(result: Result<T, Rejection>) -> Vec<String> {
        result.err().map(|rejection| rejection.reasons).unwrap_or_default()
    }

    #[test]
    fn a_claim_must_exist_and_be_bound_or_wait_for_its_consumer() {
        let none = listers("Immediate", "x");
        assert_eq!(reasons(claims(&pod(), &none)), ["persistentvolumeclaim \"c\" not found"]);
        none.claims.informer.put(claim(json!({}), ""));
        assert_eq!(reasons(claims(&pod(), &none)), ["pod has unbound immediate PersistentVolumeClaims"]);
        let delayed = listers("WaitForFirstConsumer", "x");
        delayed.claims.informer.put(claim(json!({}), ""));
        assert_eq!(claims(&pod(), &delayed).unwrap().delayed.len(), 1);
    }

    #[test]
    fn the_smallest_volume_that_the_node_reaches_is_taken() {
        let listers = listers("WaitForFirstConsumer", NO_PROVISIONER);
        listers.claims.informer.put(claim(json!({}), ""));
        for (name, size, host) in
            [("big", "5Gi", "a"), ("small", "2Gi", "a"), ("tiny", "1Mi", "a"), ("far", "1Gi", "b")]
        {
            listers.volumes.informer.put(volume(name, size, host));
        }
        let claims = claims(&pod(), &listers).unwrap();
        let found = volumes(&claims, &node("a"), &listers).unwrap();
        assert_eq!(found.bindings[0].0.name(), "small");
        assert_eq!(reasons(volumes(&claims, &node("c"), &listers)), [NO_VOLUMES]);
    }

    #[test]
    fn what_no_volume_matches_is_provisioned_if_the_class_can() {
        let listers = listers("WaitForFirstConsumer", "csi.example.com");
        listers.claims.informer.put(claim(json!({}), ""));
        let claims = claims(&pod(), &listers).unwrap();
        assert_eq!(volumes(&claims, &node("a"), &listers).unwrap().provisions.len(), 1);
        let driver = json!({"metadata": {"name": "csi.example.com"}, "spec": {"storageCapacity": true}});
        listers.csi_drivers.put(serde_json::from_value(driver).unwrap());
        assert_eq!(reasons(volumes(&claims, &node("a"), &listers)), [NO_SPACE]);
    }

    #[test]
    fn a_bound_claim_keeps_its_pod_on_nodes_that_reach_the_volume() {
        let listers = listers("WaitForFirstConsumer", "x");
        listers.claims.informer.put(claim(json!({BIND_COMPLETED: "yes"}), "v"));
        let claims = claims(&pod(), &listers).unwrap();
        let missing = ["node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"];
        assert_eq!(reasons(volumes(&claims, &node("a"), &listers)), missing);
        listers.volumes.informer.put(volume("v", "1Gi", "a"));
        assert!(volumes(&claims, &node("a"), &listers).is_ok());
        let far = ["node(s) didn't match PersistentVolume's node affinity"];
        assert_eq!(reasons(volumes(&claims, &node("b"), &listers)), far);
    }
}
