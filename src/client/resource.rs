//! The kinds that components handle as typed structs.
//!
//! One line a kind; everything else about it is in k8s-openapi. Decoding is a non-generic function here so that no
//! other crate instantiates serde's code for these (large) types.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// A kind that the client can read and write. `GROUP`, `VERSION` and `KIND` are the supertrait's.
pub trait Resource: Clone + Send + Sync + 'static + k8s_openapi::Metadata<Ty = ObjectMeta> {
    /// Plural name, as in URLs.
    const RESOURCE: &'static str;
    const NAMESPACED: bool;

    /// Reads JSON.
    ///
    /// # Errors
    /// The bytes are not this kind. Unknown fields are dropped.
    fn decode(bytes: &[u8]) -> Result<Self, serde_json::Error>;

    /// Reads the JSON of a list of this kind.
    ///
    /// # Errors
    /// The bytes are not a list of this kind.
    fn decode_list(bytes: &[u8]) -> Result<Vec<Self>, serde_json::Error>;

    /// Writes JSON, with `apiVersion` and `kind`.
    ///
    /// # Errors
    /// A timestamp outside of what RFC 3339 can say.
    fn encode(&self) -> Result<Vec<u8>, serde_json::Error>;

    /// `spec.nodeName` of pods; `None` for everything else.
    fn node_name(&self) -> Option<&str> {
        None
    }

    /// `metadata.name`, empty if unset.
    fn name(&self) -> &str {
        self.metadata().name.as_deref().unwrap_or_default()
    }

    /// `metadata.namespace`, empty if unset.
    fn namespace(&self) -> &str {
        self.metadata().namespace.as_deref().unwrap_or_default()
    }

    /// `metadata.uid`, empty if unset.
    fn uid(&self) -> &str {
        self.metadata().uid.as_deref().unwrap_or_default()
    }

    /// `metadata.resourceVersion`, empty if unset.
    fn resource_version(&self) -> &str {
        self.metadata().resource_version.as_deref().unwrap_or_default()
    }

    /// A label's value.
    fn label(&self, key: &str) -> Option<&str> {
        self.metadata().labels.as_ref()?.get(key).map(String::as_str)
    }

    /// An annotation's value.
    fn annotation(&self, key: &str) -> Option<&str> {
        self.metadata().annotations.as_ref()?.get(key).map(String::as_str)
    }

    /// Whether `metadata.deletionTimestamp` is set.
    fn is_deleting(&self) -> bool {
        self.metadata().deletion_timestamp.is_some()
    }

    /// `apiVersion` as a reference says it.
    fn api_version() -> String {
        Self::API_VERSION.to_owned()
    }
}

#[derive(serde::Deserialize)]
struct RawList<'a> {
    #[serde(borrow, default = "no_items")]
    items: Option<Vec<&'a serde_json::value::RawValue>>,
}

fn no_items<'a>() -> Option<Vec<&'a serde_json::value::RawValue>> {
    None
}

/// The items of a list, undecoded.
pub(crate) fn raw_items(bytes: &[u8]) -> Result<Vec<&serde_json::value::RawValue>, serde_json::Error> {
    Ok(serde_json::from_slice::<RawList<'_>>(bytes)?.items.unwrap_or_default())
}

macro_rules! scope {
    (namespaced) => {
        true
    };
    (cluster) => {
        false
    };
}

macro_rules! resources {
    ($($module:path { $($scope:ident $kind:ident $(, node_name $node:expr)?;)* })*) => {$(
        const _: () = {
            use $module as module;
            $(impl Resource for module::$kind {
                const RESOURCE: &'static str = <Self as k8s_openapi::Resource>::URL_PATH_SEGMENT;
                const NAMESPACED: bool = scope!($scope);

                fn decode(bytes: &[u8]) -> Result<Self, serde_json::Error> {
                    serde_json::from_slice(bytes)
                }

                fn decode_list(bytes: &[u8]) -> Result<Vec<Self>, serde_json::Error> {
                    // Items of a list may lack `apiVersion` and `kind`, which k8s-openapi then does not ask for.
                    raw_items(bytes)?.into_iter().map(|item| serde_json::from_str(item.get())).collect()
                }

                fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
                    serde_json::to_vec(self)
                }

                $(fn node_name(&self) -> Option<&str> {
                    let node: fn(&Self) -> Option<&str> = $node;
                    node(self)
                })?
            })*
        };
    )*};
}

resources! {
    k8s_openapi::api::core::v1 {
        namespaced ConfigMap;
        namespaced Endpoints;
        namespaced Event;
        namespaced LimitRange;
        cluster Namespace;
        cluster Node;
        cluster PersistentVolume;
        namespaced PersistentVolumeClaim;
        namespaced Pod, node_name |pod| pod.spec.as_ref()?.node_name.as_deref();
        namespaced PodTemplate;
        namespaced ReplicationController;
        namespaced ResourceQuota;
        namespaced Secret;
        namespaced Service;
        namespaced ServiceAccount;
    }
    k8s_openapi::api::apps::v1 {
        namespaced ControllerRevision;
        namespaced DaemonSet;
        namespaced Deployment;
        namespaced ReplicaSet;
        namespaced StatefulSet;
    }
    k8s_openapi::api::batch::v1 {
        namespaced CronJob;
        namespaced Job;
    }
    k8s_openapi::api::discovery::v1 {
        namespaced EndpointSlice;
    }
    k8s_openapi::api::coordination::v1 {
        namespaced Lease;
    }
    k8s_openapi::api::rbac::v1 {
        cluster ClusterRole;
        cluster ClusterRoleBinding;
        namespaced Role;
        namespaced RoleBinding;
    }
    k8s_openapi::api::policy::v1 {
        namespaced PodDisruptionBudget;
    }
    k8s_openapi::api::storage::v1 {
        cluster CSIDriver;
        cluster CSINode;
        namespaced CSIStorageCapacity;
        cluster StorageClass;
        cluster VolumeAttachment;
        cluster VolumeAttributesClass;
    }
    k8s_openapi::api::scheduling::v1 {
        cluster PriorityClass;
    }
    k8s_openapi::api::networking::v1 {
        cluster IPAddress;
        namespaced Ingress;
        cluster IngressClass;
        namespaced NetworkPolicy;
        cluster ServiceCIDR;
    }
    k8s_openapi::api::autoscaling::v2 {
        namespaced HorizontalPodAutoscaler;
    }
    k8s_openapi::api::events::v1 {
        namespaced Event;
    }
    k8s_openapi::api::certificates::v1 {
        cluster CertificateSigningRequest;
        cluster ClusterTrustBundle;
        namespaced PodCertificateRequest;
    }
    k8s_openapi::api::node::v1 {
        cluster RuntimeClass;
    }
    k8s_openapi::api::admissionregistration::v1 {
        cluster MutatingAdmissionPolicy;
        cluster MutatingAdmissionPolicyBinding;
        cluster MutatingWebhookConfiguration;
        cluster ValidatingAdmissionPolicy;
        cluster ValidatingAdmissionPolicyBinding;
        cluster ValidatingWebhookConfiguration;
    }
    k8s_openapi::api::storagemigration::v1 {
        cluster StorageVersionMigration;
    }
    k8s_openapi::api::flowcontrol::v1 {
        cluster FlowSchema;
        cluster PriorityLevelConfiguration;
    }
    k8s_openapi::api::resource::v1 {
        cluster DeviceClass;
        namespaced ResourceClaim;
        namespaced ResourceClaimTemplate;
        cluster ResourceSlice;
    }
    k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1 {
        cluster APIService;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{Node, Pod};

    #[test]
    fn kinds_know_their_names_and_scope() {
        assert_eq!((Pod::RESOURCE, Pod::NAMESPACED, Pod::api_version().as_str()), ("pods", true, "v1"));
        const { assert!(!Node::NAMESPACED) };
        assert_eq!(k8s_openapi::api::apps::v1::Deployment::api_version(), "apps/v1");
    }

    #[test]
    fn lists_decode_without_the_items_type_and_without_items() {
        let list = br#"{"kind":"PodList","apiVersion":"v1","metadata":{},"items":[
            {"metadata":{"name":"a","namespace":"n"},"spec":{"nodeName":"x","containers":[]}}]}"#;
        let pods = Pod::decode_list(list).unwrap();
        assert_eq!((pods[0].name(), pods[0].namespace(), pods[0].node_name()), ("a", "n", Some("x")));
        assert!(Pod::decode_list(br#"{"items":null}"#).unwrap().is_empty());
    }

    #[test]
    fn encoding_says_version_and_kind() {
        let bytes = Pod::default().encode().unwrap();
        let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!((value["apiVersion"].as_str(), value["kind"].as_str()), (Some("v1"), Some("Pod")));
    }
}
