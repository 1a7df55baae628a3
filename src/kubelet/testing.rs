//! Helpers of this crate's unit tests.

use client::Resource;
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

/// A pod from JSON; panics on what is no pod.
pub fn pod_from(mut value: Value) -> Pod {
    value["apiVersion"] = "v1".into();
    value["kind"] = "Pod".into();
    if value["metadata"]["namespace"].is_null() {
        value["metadata"]["namespace"] = "default".into();
    }
    if value["metadata"]["uid"].is_null() {
        value["metadata"]["uid"] = "uid-1".into();
    }
    Pod::decode(value.to_string().as_bytes()).expect("a pod")
}
