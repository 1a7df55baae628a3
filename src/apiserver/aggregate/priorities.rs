//! The order of groups and versions in discovery (`pkg/controlplane/apiserver/aggregator.go`
//! `DefaultGenericAPIServicePriorities`, `cmd/kube-apiserver/app/aggregator.go`).

/// Where a version stands: its group among groups, and itself within the group. Higher comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Priority {
    pub group: i64,
    pub version: i64,
}

/// What versions of custom resources get.
pub const CUSTOM: Priority = Priority { group: 1000, version: 100 };

/// The group that is always first.
pub const FIRST: &str = "apiregistration.k8s.io";

/// Group, its priority, and the priority of each of its versions.
const BUILT_IN: [(&str, i64, &[(&str, i64)]); 23] = [
    ("", 18_000, &[("v1", 1)]),
    (FIRST, 20_001, &[("v1", 0)]),
    ("events.k8s.io", 17_750, &[("v1", 15), ("v1beta1", 5)]),
    ("authentication.k8s.io", 17_700, &[("v1", 15), ("v1beta1", 9), ("v1alpha1", 1)]),
    ("authorization.k8s.io", 17_600, &[("v1", 15)]),
    ("certificates.k8s.io", 17_300, &[("v1", 15), ("v1beta1", 9), ("v1alpha1", 1)]),
    ("rbac.authorization.k8s.io", 17_000, &[("v1", 15)]),
    ("apiextensions.k8s.io", 16_700, &[("v1", 15)]),
    ("admissionregistration.k8s.io", 16_700, &[("v1", 15), ("v1beta1", 12), ("v1alpha1", 9)]),
    ("coordination.k8s.io", 16_500, &[("v1", 15), ("v1beta1", 13), ("v1alpha2", 12)]),
    ("discovery.k8s.io", 16_200, &[("v1", 15), ("v1beta1", 12)]),
    ("flowcontrol.apiserver.k8s.io", 16_100, &[("v1", 21), ("v1beta3", 18)]),
    ("internal.apiserver.k8s.io", 16_000, &[("v1alpha1", 9)]),
    ("storagemigration.k8s.io", 15_800, &[("v1", 15), ("v1beta1", 9)]),
    ("apps", 17_800, &[("v1", 15)]),
    ("autoscaling", 17_500, &[("v1", 15), ("v2", 30)]),
    ("batch", 17_400, &[("v1", 15)]),
    ("networking.k8s.io", 17_200, &[("v1", 15), ("v1beta1", 9)]),
    ("policy", 17_100, &[("v1", 15)]),
    ("storage.k8s.io", 16_800, &[("v1", 15), ("v1beta1", 9), ("v1alpha1", 1)]),
    ("scheduling.k8s.io", 16_600, &[("v1", 15), ("v1beta1", 9), ("v1alpha3", 3)]),
    ("node.k8s.io", 16_300, &[("v1", 15)]),
    ("resource.k8s.io", 16_200, &[("v1", 21), ("v1beta2", 15), ("v1beta1", 9), ("v1alpha3", 1)]),
];

/// The priority of a built-in version; `None` for one that upstream does not know.
pub fn built_in(group: &str, version: &str) -> Option<Priority> {
    let (_, group, versions) = BUILT_IN.iter().find(|(name, ..)| *name == group)?;
    let (_, version) = versions.iter().find(|(name, _)| *name == version)?;
    Some(Priority { group: *group, version: *version })
}
