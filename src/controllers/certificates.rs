//! Certificate signing requests: who approves them, who signs them, and who throws the old ones away
//! (`pkg/controller/certificates`).

mod approver;
mod cleaner;
mod signer;

pub(crate) use approver::start as start_approver;
pub(crate) use cleaner::{start as start_cleaner, start_pod_requests as start_pod_cleaner};
pub(crate) use signer::start as start_signer;

use std::collections::BTreeSet;
use std::time::Duration;

use api::names::ObjectKey;
use client::WorkQueue;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use pki::request::RequestSubject;

use crate::error::Error;

pub(crate) const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
const API_CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const LEGACY: &str = "kubernetes.io/legacy-unknown";

/// Upstream's limiter of the certificate controllers.
fn queue() -> WorkQueue<ObjectKey> {
    WorkQueue::with_backoff(Duration::from_millis(200), Duration::from_secs(1000))
}

fn has_condition(request: &CertificateSigningRequest, kind: &str) -> bool {
    let conditions = request.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == kind && c.status != "False")
}

fn is_issued(request: &CertificateSigningRequest) -> bool {
    request.status.as_ref().and_then(|s| s.certificate.as_ref()).is_some_and(|c| !c.0.is_empty())
}

fn problem(name: &str, problem: String) -> Error {
    Error::Object { kind: "CertificateSigningRequest", key: name.to_owned(), problem }
}

/// What a request asks for, and its PEM text.
fn parse(request: &CertificateSigningRequest) -> Result<(RequestSubject, &str), Error> {
    let name = request.metadata.name.as_deref().unwrap_or_default();
    let pem = std::str::from_utf8(&request.spec.request.0).map_err(|e| problem(name, e.to_string()))?;
    let subject = pki::request::parse(pem).map_err(|e| problem(name, format!("unable to parse csr: {e}")))?;
    Ok((subject, pem))
}

fn usages(request: &CertificateSigningRequest) -> &[String] {
    request.spec.usages.as_deref().unwrap_or_default()
}

fn usages_are(usages: &[String], auth: &'static str) -> Result<(), String> {
    let given: BTreeSet<&str> = usages.iter().map(String::as_str).collect();
    let mut full = BTreeSet::from([auth, "digital signature", "key encipherment"]);
    let fits = given == full || {
        full.remove("key encipherment");
        given == full
    };
    if fits { Ok(()) } else { Err(format!("usages did not match [{auth} digital signature key encipherment]")) }
}

/// `ValidateKubeletServingCSR`.
fn check_kubelet_serving(subject: &RequestSubject, usages: &[String]) -> Result<(), String> {
    let refused = |text: &str| Err(text.to_owned());
    if subject.organizations != ["system:nodes"] {
        return refused("subject organization is not system:nodes");
    }
    if subject.dns_names.is_empty() && subject.ip_addresses.is_empty() {
        return refused("DNS or IP subjectAltName is required");
    }
    if subject.emails {
        return refused("Email subjectAltNames are not allowed");
    }
    if subject.uris {
        return refused("URI subjectAltNames are not allowed");
    }
    match usages_are(usages, "server auth") {
        // Upstream lists them sorted.
        Err(_) => refused("usages did not match [digital signature key encipherment server auth]"),
        Ok(()) if !subject.common_name.starts_with("system:node:") => {
            refused("subject common name does not begin with system:node:")
        }
        Ok(()) => Ok(()),
    }
}

/// `ValidateKubeletClientCSR`.
fn check_kubelet_client(subject: &RequestSubject, usages: &[String]) -> Result<(), String> {
    let refused = |text: &str| Err(text.to_owned());
    if subject.organizations != ["system:nodes"] {
        return refused("subject organization is not system:nodes");
    }
    if !subject.dns_names.is_empty() {
        return refused("DNS subjectAltNames are not allowed");
    }
    if subject.emails {
        return refused("Email subjectAltNames are not allowed");
    }
    if !subject.ip_addresses.is_empty() {
        return refused("IP subjectAltNames are not allowed");
    }
    if subject.uris {
        return refused("URI subjectAltNames are not allowed");
    }
    if !subject.common_name.starts_with("system:node:") {
        return refused("subject common name does not begin with system:node:");
    }
    usages_are(usages, "client auth")
}

/// `validAPIServerClientUsages`.
fn check_api_client(usages: &[String]) -> Result<(), String> {
    for usage in usages {
        if !matches!(usage.as_str(), "digital signature" | "key encipherment" | "client auth") {
            return Err(format!("invalid usage for client certificate: {usage}"));
        }
    }
    if usages.iter().any(|u| u == "client auth") {
        Ok(())
    } else {
        Err("missing required usage for client certificate: client auth".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> RequestSubject {
        RequestSubject {
            common_name: "system:node:n".to_owned(),
            organizations: vec!["system:nodes".to_owned()],
            ..RequestSubject::default()
        }
    }

    fn list(usages: &[&str]) -> Vec<String> {
        usages.iter().map(|u| (*u).to_owned()).collect()
    }

    #[test]
    fn kubelets_get_only_what_their_signers_allow() {
        let check = |change: fn(&mut RequestSubject), usages: &[&str], expected: Result<(), &str>| {
            let mut subject = node();
            change(&mut subject);
            assert_eq!(check_kubelet_client(&subject, &list(usages)), expected.map_err(str::to_owned));
        };
        let usual = &["digital signature", "client auth"][..];
        check(|_| {}, usual, Ok(()));
        check(|_| {}, &["digital signature", "key encipherment", "client auth"], Ok(()));
        check(|_| {}, &["client auth"], Err("usages did not match [client auth digital signature key encipherment]"));
        check(|s| s.common_name.clear(), usual, Err("subject common name does not begin with system:node:"));
        check(|s| s.organizations.clear(), usual, Err("subject organization is not system:nodes"));
        check(|s| s.dns_names.push("x".to_owned()), usual, Err("DNS subjectAltNames are not allowed"));
        let serving = list(&["digital signature", "server auth"]);
        assert!(check_kubelet_serving(&node(), &serving).unwrap_err().contains("subjectAltName is required"));
        let mut named = node();
        named.dns_names.push("n".to_owned());
        assert_eq!(check_kubelet_serving(&named, &serving), Ok(()));
    }

    #[test]
    fn clients_of_the_api_ask_for_client_usages() {
        assert_eq!(check_api_client(&list(&["client auth", "digital signature"])), Ok(()));
        assert!(check_api_client(&list(&["digital signature"])).unwrap_err().contains("missing required usage"));
        assert!(check_api_client(&list(&["client auth", "server auth"])).unwrap_err().contains("server auth"));
    }
}
