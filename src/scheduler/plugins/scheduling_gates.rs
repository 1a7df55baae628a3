//! `SchedulingGates`: a pod with `spec.schedulingGates` waits until the last one is removed.

use client::k8s_openapi::api::core::v1::Pod;

/// Whether the pod may not be looked at yet.
pub fn is_gated(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.scheduling_gates.as_ref()).is_some_and(|gates| !gates.is_empty())
}
