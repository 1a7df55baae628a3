//! Takes the descriptions of Kubernetes' types out of k8s-openapi's schemas and writes them compressed.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use k8s_openapi::schemars::SchemaGenerator;
use serde_json::Value;

macro_rules! definitions {
    ($($path:path),* $(,)?) => {{
        let mut generator = SchemaGenerator::default();
        $(generator.subschema_for::<$path>();)*
        generator.take_definitions(false)
    }};
}

fn main() -> Result<(), Box<dyn Error>> {
    use k8s_openapi::{api, apiextensions_apiserver, apimachinery, kube_aggregator};
    let definitions = definitions![
        api::core::v1::Binding,
        api::core::v1::ComponentStatus,
        api::core::v1::ConfigMap,
        api::core::v1::Endpoints,
        api::core::v1::Event,
        api::core::v1::LimitRange,
        api::core::v1::Namespace,
        api::core::v1::Node,
        api::core::v1::PersistentVolumeClaim,
        api::core::v1::PersistentVolume,
        api::core::v1::Pod,
        api::policy::v1::Eviction,
        api::core::v1::PodTemplate,
        api::core::v1::ReplicationController,
        api::autoscaling::v1::Scale,
        api::core::v1::ResourceQuota,
        api::core::v1::Secret,
        api::core::v1::ServiceAccount,
        api::authentication::v1::TokenRequest,
        api::core::v1::Service,
        kube_aggregator::pkg::apis::apiregistration::v1::APIService,
        api::apps::v1::ControllerRevision,
        api::apps::v1::DaemonSet,
        api::apps::v1::Deployment,
        api::apps::v1::ReplicaSet,
        api::apps::v1::StatefulSet,
        api::events::v1::Event,
        api::authentication::v1::SelfSubjectReview,
        api::authentication::v1::TokenReview,
        api::authorization::v1::LocalSubjectAccessReview,
        api::authorization::v1::SelfSubjectAccessReview,
        api::authorization::v1::SelfSubjectRulesReview,
        api::authorization::v1::SubjectAccessReview,
        api::autoscaling::v2::HorizontalPodAutoscaler,
        api::autoscaling::v1::HorizontalPodAutoscaler,
        api::batch::v1::CronJob,
        api::batch::v1::Job,
        api::certificates::v1::CertificateSigningRequest,
        api::certificates::v1::ClusterTrustBundle,
        api::certificates::v1::PodCertificateRequest,
        api::networking::v1::IngressClass,
        api::networking::v1::Ingress,
        api::networking::v1::IPAddress,
        api::networking::v1::NetworkPolicy,
        api::networking::v1::ServiceCIDR,
        api::policy::v1::PodDisruptionBudget,
        api::rbac::v1::ClusterRoleBinding,
        api::rbac::v1::ClusterRole,
        api::rbac::v1::RoleBinding,
        api::rbac::v1::Role,
        api::storage::v1::CSIDriver,
        api::storage::v1::CSINode,
        api::storage::v1::CSIStorageCapacity,
        api::storage::v1::StorageClass,
        api::storage::v1::VolumeAttachment,
        api::storage::v1::VolumeAttributesClass,
        api::admissionregistration::v1::MutatingAdmissionPolicy,
        api::admissionregistration::v1::MutatingAdmissionPolicyBinding,
        api::admissionregistration::v1::MutatingWebhookConfiguration,
        api::admissionregistration::v1::ValidatingAdmissionPolicy,
        api::admissionregistration::v1::ValidatingAdmissionPolicyBinding,
        api::admissionregistration::v1::ValidatingWebhookConfiguration,
        apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
        api::scheduling::v1::PriorityClass,
        api::coordination::v1::Lease,
        api::node::v1::RuntimeClass,
        api::discovery::v1::EndpointSlice,
        api::resource::v1::DeviceClass,
        api::resource::v1::DeviceTaintRule,
        api::resource::v1::ResourceClaim,
        api::resource::v1::ResourceClaimTemplate,
        api::resource::v1::ResourceSlice,
        api::flowcontrol::v1::FlowSchema,
        api::flowcontrol::v1::PriorityLevelConfiguration,
        api::storagemigration::v1::StorageVersionMigration,
        apimachinery::pkg::apis::meta::v1::DeleteOptions,
        apimachinery::pkg::apis::meta::v1::Status,
        apimachinery::pkg::apis::meta::v1::ListMeta,
        apimachinery::pkg::apis::meta::v1::Patch,
    ];
    let mut texts: BTreeMap<String, (String, BTreeMap<String, String>)> = BTreeMap::new();
    for (name, schema) in definitions {
        let properties = schema.get("properties").and_then(Value::as_object);
        let properties = properties.into_iter().flatten().map(|(name, schema)| (name.clone(), description(schema)));
        texts.insert(name, (description(&schema), properties.filter(|(_, text)| !text.is_empty()).collect()));
    }
    more(&mut texts)?;
    // Names of groups and kinds alone would mean that the schemas have changed their form.
    if texts.len() < 400 || texts.values().all(|t| t.0.is_empty()) {
        return Err(format!("k8s-openapi gave {} definitions", texts.len()).into());
    }
    let json = serde_json::to_vec(&texts)?;
    let out = std::env::var_os("OUT_DIR").ok_or("no OUT_DIR")?;
    std::fs::write(Path::new(&out).join("descriptions.zst"), zstd::encode_all(json.as_slice(), 19)?)?;
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=more.txt");
    Ok(())
}

/// Adds what upstream says and k8s-openapi leaves out: `more.txt`, whose form `e2e/judge/descriptions.py` tells.
fn more(texts: &mut BTreeMap<String, (String, BTreeMap<String, String>)>) -> Result<(), Box<dyn Error>> {
    let known = texts.get("io.k8s.apimachinery.pkg.apis.meta.v1.Status").map(|(_, known)| known.clone());
    let type_meta = known.into_iter().flatten().filter(|(name, _)| matches!(name.as_str(), "apiVersion" | "kind"));
    let type_meta: Vec<(String, String)> = type_meta.collect();
    let mut name = "";
    let file = std::fs::read_to_string("more.txt")?;
    for line in file.lines().filter(|line| !line.starts_with('#')) {
        if let Some(definition) = line.strip_prefix('=') {
            name = definition;
            let (_, properties) = texts.entry(name.to_owned()).or_default();
            for (property, text) in &type_meta {
                properties.entry(property.clone()).or_insert_with(|| text.clone());
            }
            continue;
        }
        let (property, text) = line.split_once('\t').ok_or_else(|| format!("more.txt: {line}"))?;
        let (own, properties) = texts.entry(name.to_owned()).or_default();
        let place = if property.is_empty() { own } else { properties.entry(property.to_owned()).or_default() };
        let text = text.replace("\\n", "\n");
        match text.strip_prefix('+') {
            Some(rest) => place.push_str(rest),
            None => *place = text,
        }
    }
    Ok(())
}

fn description(schema: &Value) -> String {
    schema.get("description").and_then(Value::as_str).unwrap_or_default().to_owned()
}
