//! `certificates.k8s.io`.

mod issued;
mod pod_request;
mod signing;

use api::Object;
use api::field::Path;

use crate::checks::immutable_as;
use crate::columns::{field, name, string_or, text};
use crate::define::Extra;
use crate::json::Json;
use crate::rules::Rules;
use crate::signers;

/// What is special about a kind of this group.
pub(crate) fn extra(kind: &str) -> Option<Extra> {
    Some(match kind {
        "CertificateSigningRequest" => signing::extra(),
        "ClusterTrustBundle" => {
            let rules = Rules {
                // The signer decides about the name: it is checked with the rest.
                name: |_, _| Vec::new(),
                validate: |object| signers::bundle(object, true),
                validate_update: Some(|object, old| {
                    let text = |o: &Object| o.at("spec").text("trustBundle").to_owned();
                    let mut errors = signers::bundle(object, text(object) != text(old));
                    let (at, new, old) = (Path::new("spec").child("signerName"), object.at("spec"), old.at("spec"));
                    immutable_as(&mut errors, at, "string", new.at("signerName"), old.at("signerName"));
                    errors
                }),
                unconditional_update: false,
                ..Rules::GENERIC
            };
            let columns = vec![name(), text("SignerName", |o, _| string_or(o, &["spec", "signerName"], "<none>"))];
            Extra::new(rules, columns)
                .with_fields(vec![field("spec.signerName", |o| o.at("spec").text("signerName").to_owned())])
        }
        "PodCertificateRequest" => pod_request::extra(),
        _ => return None,
    })
}
