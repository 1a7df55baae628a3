//! Fields of pods that belong to features which v1.37 has switched off: they are dropped, as upstream's API server does
//! (`pkg/api/pod/util.go`, `dropDisabledFields`).

use crate::json::{Json, Members, existing, existing_at, items_mut};

/// `EvictionRequestAPI` and `GenericWorkload`.
const OF_SPEC: [&str; 2] = ["evictionResponders", "schedulingGroup"];

/// Where kinds have pods' specs.
const SPECS: [(&str, &[&str]); 9] = [
    ("Pod", &["spec"]),
    ("PodTemplate", &["template", "spec"]),
    ("ReplicationController", &["spec", "template", "spec"]),
    ("ReplicaSet", &["spec", "template", "spec"]),
    ("Deployment", &["spec", "template", "spec"]),
    ("DaemonSet", &["spec", "template", "spec"]),
    ("StatefulSet", &["spec", "template", "spec"]),
    ("Job", &["spec", "template", "spec"]),
    ("CronJob", &["spec", "jobTemplate", "spec", "template", "spec"]),
];

/// Drops it from the pod or template of an object, once ownership and mutating admission have seen what was sent.
pub(crate) fn drop_from(object: &mut api::Object) {
    let Some((_, path)) = SPECS.iter().find(|(kind, _)| *kind == object.kind()) else { return };
    let jobs: &[&str] = if object.kind() == "CronJob" { &["spec", "jobTemplate", "spec"] } else { &["spec"] };
    if matches!(object.kind(), "Job" | "CronJob") {
        // `GenericWorkload`
        object.remove(&[jobs, &["scheduling"]].concat());
    }
    if let Some(spec) = existing_at(&mut object.0, path) {
        drop_disabled(spec);
    }
}

/// Drops what features that are off would use.
pub(crate) fn drop_disabled(spec: &mut Members) {
    for member in OF_SPEC {
        spec.remove(member);
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in items_mut(spec, list) {
            self::container(container);
        }
    }
    for volume in items_mut(spec, "volumes") {
        self::volume(volume);
    }
}

/// `H2CContainerProbe`, `GRPCContainerProbeTLS`, `ContainerStopSignals` and `VolumeBindMountOptions`.
fn container(container: &mut Members) {
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(action) = existing_at(container, &[probe, "httpGet"]) {
            action.remove("protocol");
        }
        if let Some(action) = existing_at(container, &[probe, "grpc"]) {
            action.remove("mode");
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(action) = existing_at(container, &["lifecycle", hook, "httpGet"]) {
            action.remove("protocol");
        }
    }
    if let Some(lifecycle) = existing(container, "lifecycle")
        && lifecycle.remove("stopSignal").is_some()
        && lifecycle.is_empty()
    {
        container.remove("lifecycle");
    }
    for mount in items_mut(container, "volumeMounts") {
        mount.remove("bindMountOptions");
    }
}

/// `EmptyDirVolumeMode` and `AtomicWriteVolumeUserFields`.
fn volume(volume: &mut Members) {
    if let Some(empty) = existing(volume, "emptyDir") {
        empty.remove("mode");
    }
    // Upstream looks at the first of these, should there be several.
    for kind in ["secret", "configMap", "downwardAPI"] {
        if let Some(body) = existing(volume, kind) {
            body.remove("defaultUser");
            users(body);
            return;
        }
    }
    let Some(projected) = existing(volume, "projected") else { return };
    projected.remove("defaultUser");
    for source in items_mut(projected, "sources") {
        for kind in KINDS {
            if let Some(body) = existing(source, kind) {
                users(body);
                body.remove("user");
                break;
            }
        }
    }
}

/// In upstream's order.
const KINDS: [&str; 6] =
    ["secret", "downwardAPI", "configMap", "serviceAccountToken", "clusterTrustBundle", "podCertificate"];

fn users(body: &mut Members) {
    if body.has("items") {
        for item in items_mut(body, "items") {
            item.remove("user");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_off_is_dropped() {
        let mut spec = json!({
            "schedulingGroup": {"podGroupName": "g"},
            "containers": [{"name": "c", "lifecycle": {"stopSignal": "SIGTERM"}, "livenessProbe": {"httpGet": {"port": 1, "protocol": "HTTP2"}}}],
            "volumes": [{"name": "v", "emptyDir": {"mode": 1}}, {"name": "s", "secret": {"items": [{"key": "k", "path": "p", "user": 1}]}}],
        });
        drop_disabled(spec.as_object_mut().unwrap());
        assert_eq!(
            spec,
            json!({
                "containers": [{"name": "c", "livenessProbe": {"httpGet": {"port": 1}}}],
                "volumes": [{"name": "v", "emptyDir": {}}, {"name": "s", "secret": {"items": [{"key": "k", "path": "p"}]}}],
            })
        );
    }
}
