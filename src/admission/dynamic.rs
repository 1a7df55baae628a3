//! Admission that users configure: webhooks and policies, and what the two have in common.
//!
//! Configurations are read through the shared informers, and from files, and compiled once per version of the object.
//! Those of the API are never asked about configurations themselves, and nothing is asked about reviews of tokens and
//! access: a mistake can always be mended.

pub(crate) mod expressions;
pub(crate) mod manifests;
pub(crate) mod metrics;
pub(crate) mod patches;
pub(crate) mod policy;
pub(crate) mod review;
pub(crate) mod rules;
pub(crate) mod source;
pub(crate) mod webhook;

use api::Gvr;

/// `IsExemptAdmissionConfigurationResource`.
pub(crate) fn is_configuration(resource: &Gvr) -> bool {
    resource.group == "admissionregistration.k8s.io"
        && matches!(
            resource.resource.as_str(),
            "validatingwebhookconfigurations"
                | "mutatingwebhookconfigurations"
                | "validatingadmissionpolicies"
                | "validatingadmissionpolicybindings"
                | "mutatingadmissionpolicies"
                | "mutatingadmissionpolicybindings"
        )
}

/// Questions that are not kept (`kubeapiserver/admission/exclusion`).
pub(crate) fn is_review(resource: &Gvr) -> bool {
    match resource.group.as_str() {
        "authentication.k8s.io" => matches!(resource.resource.as_str(), "selfsubjectreviews" | "tokenreviews"),
        "authorization.k8s.io" => matches!(
            resource.resource.as_str(),
            "localsubjectaccessreviews"
                | "selfsubjectaccessreviews"
                | "selfsubjectrulesreviews"
                | "subjectaccessreviews"
        ),
        _ => false,
    }
}
