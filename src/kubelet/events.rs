//! Events about pods, containers and the node, with upstream's reasons (`kubelet/events/event.go`).

use client::{EventType, Recorder};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};

use crate::spec;

/// Records events; never blocks.
pub struct Events {
    recorder: Recorder,
    node_name: String,
}

impl Events {
    pub fn new(recorder: Recorder, node_name: String) -> Self {
        Self { recorder, node_name }
    }

    fn reference(pod: &Pod, field_path: String) -> ObjectReference {
        ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            resource_version: pod.metadata.resource_version.clone(),
            field_path: (!field_path.is_empty()).then_some(field_path),
        }
    }

    pub fn pod(&self, pod: &Pod, kind: EventType, reason: &str, message: &str) {
        self.recorder.event(&Self::reference(pod, String::new()), kind, reason, message);
    }

    /// About one container of the pod.
    pub fn container(&self, pod: &Pod, name: &str, kind: EventType, reason: &str, message: &str) {
        self.recorder.event(&Self::reference(pod, spec::field_path(pod, name)), kind, reason, message);
    }

    /// About the node itself: upstream uses the node's name as its uid.
    pub fn node(&self, kind: EventType, reason: &str, message: &str) {
        let reference = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(self.node_name.clone()),
            uid: Some(self.node_name.clone()),
            ..ObjectReference::default()
        };
        self.recorder.event(&reference, kind, reason, message);
    }
}
