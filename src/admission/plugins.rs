//! The plugins, one file each.

mod certificate_approval;
mod certificate_signing;
mod certificate_subject_restriction;
mod default_ingress_class;
mod default_storage_class;
mod default_toleration_seconds;
mod limit_ranger;
mod namespace_lifecycle;
mod node_restriction;
mod persistent_volume_claim_resize;
mod pod_security;
mod pod_topology_labels;
mod priority;
mod resource_quota;
mod runtime_class;
mod service_account;
mod storage_object_in_use_protection;
mod taint_nodes_by_condition;

pub(crate) use certificate_approval::CertificateApproval;
pub(crate) use certificate_signing::CertificateSigning;
pub(crate) use certificate_subject_restriction::CertificateSubjectRestriction;
pub(crate) use default_ingress_class::DefaultIngressClass;
pub(crate) use default_storage_class::{BETA_CLASS, DefaultStorageClass};
pub(crate) use default_toleration_seconds::DefaultTolerationSeconds;
pub(crate) use limit_ranger::LimitRanger;
pub(crate) use namespace_lifecycle::NamespaceLifecycle;
pub(crate) use node_restriction::NodeRestriction;
pub(crate) use persistent_volume_claim_resize::PersistentVolumeClaimResize;
pub(crate) use pod_security::PodSecurity;
pub(crate) use pod_topology_labels::PodTopologyLabels;
pub(crate) use priority::Priority;
pub(crate) use resource_quota::ResourceQuota;
pub(crate) use runtime_class::RuntimeClass;
pub(crate) use service_account::ServiceAccount;
pub(crate) use storage_object_in_use_protection::StorageObjectInUseProtection;
pub(crate) use taint_nodes_by_condition::TaintNodesByCondition;
