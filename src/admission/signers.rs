//! Signers of certificates: who may act for one, and what a request asks to have certified.

use api::services::{AuthorizationAttributes, Authorizer};
use api::{Gvr, UserInfo};
use base64::Engine;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

/// `certificatesigningrequests`.
pub(crate) fn are_requests(resource: &Gvr) -> bool {
    resource.group == "certificates.k8s.io" && resource.resource == "certificatesigningrequests"
}

/// Whether a user may do `verb` for a signer, by its name or for all of its domain (`IsAuthorizedForSignerName`).
pub(crate) async fn may_act(authorizer: &dyn Authorizer, user: &UserInfo, verb: &str, signer: &str) -> bool {
    let domain = signer.split('/').next().unwrap_or_default();
    for name in [signer.to_owned(), format!("{domain}/*")] {
        let question = AuthorizationAttributes {
            verb: verb.to_owned(),
            is_resource: true,
            group: "certificates.k8s.io".to_owned(),
            version: "*".to_owned(),
            resource: "signers".to_owned(),
            name,
            ..AuthorizationAttributes::default()
        };
        if authorizer.authorize(user, &question).await.allowed() {
            return true;
        }
    }
    false
}

/// Who a certificate request says it is.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Subject {
    pub(crate) common_name: String,
    pub(crate) organizations: Vec<String>,
}

/// Reads a base64 PEM certificate request.
pub(crate) fn subject(request: &str) -> Result<Subject, String> {
    let wrong_type = || "PEM block type must be CERTIFICATE REQUEST".to_owned();
    let pem = base64::engine::general_purpose::STANDARD.decode(request).map_err(|e| e.to_string())?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).map_err(|_| wrong_type())?;
    if pem.label != "CERTIFICATE REQUEST" {
        return Err(wrong_type());
    }
    let (_, csr) = X509CertificationRequest::from_der(&pem.contents).map_err(|e| e.to_string())?;
    let subject = &csr.certification_request_info.subject;
    // Go takes the last common name, should there be several.
    let common_name = subject.iter_common_name().last().and_then(|n| n.as_str().ok()).unwrap_or_default().to_owned();
    let organizations = subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect();
    Ok(Subject { common_name, organizations })
}
