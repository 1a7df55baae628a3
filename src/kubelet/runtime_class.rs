//! From a pod's RuntimeClass to the handler that runs it (upstream `kubelet/runtimeclass/runtimeclass_manager.go`).
//!
//! RuntimeClasses are watched from the first pod on that names one.

use std::sync::OnceLock;
use std::time::Duration;

use client::Informer;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::node::v1::RuntimeClass;

use crate::context::Context;
use crate::spec;

/// How long the first reading of all classes may take before the pod's step fails and is tried again.
const FIRST_READ: Duration = Duration::from_secs(10);

/// The cluster's RuntimeClasses, once they are needed.
#[derive(Default)]
pub struct RuntimeClasses(OnceLock<Informer<RuntimeClass>>);

impl RuntimeClasses {
    /// The handler's name; empty for a pod without a class.
    ///
    /// # Errors
    /// Upstream's text about a class that does not exist.
    pub async fn handler(&self, ctx: &Context, pod: &Pod) -> Result<String, String> {
        let Some(name) = spec::spec(pod).runtime_class_name.as_deref().filter(|n| !n.is_empty()) else {
            return Ok(String::new());
        };
        let informer = self.0.get_or_init(|| ctx.informers.informer::<RuntimeClass>());
        if tokio::time::timeout(FIRST_READ, informer.synced()).await.is_err() {
            return Err("failed to get sandbox runtime: RuntimeClasses are not known yet".to_owned());
        }
        match informer.get("", name) {
            Some(class) => Ok(class.handler.clone()),
            None => Err(format!("failed to get sandbox runtime: runtimeclass.node.k8s.io {name:?} not found")),
        }
    }
}
