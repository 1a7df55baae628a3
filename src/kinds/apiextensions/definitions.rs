//! [`Definitions`] of custom resource definitions.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use api::definitions::{Cleanup, Definitions, Facts};
use api::kind::KindDef;
use api::webhook::Webhooks;
use api::{Gvr, Object};
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::conditions::{self, Condition};
use super::{CLEANUP_FINALIZER, custom};
use crate::json::Json;

/// What the API server asks about CRDs.
pub struct CustomResources {
    /// Calls conversion webhooks; without it their versions are not converted, which reading them says.
    pub webhooks: Option<Arc<dyn Webhooks>>,
}

/// Resources that the API server keeps itself under the same place (`OverlappingBuiltInResources`).
fn overlaps(object: &Object) -> bool {
    let (group, plural) = (object.at("spec").text("group"), object.at("spec").at("names").text("plural"));
    matches!(
        (group, plural),
        ("apiextensions.k8s.io", "customresourcedefinitions") | ("apiregistration.k8s.io", "apiservices")
    )
}

impl CustomResources {
    fn source(&self, definition: &Object, bytes: &Bytes) -> custom::Source {
        custom::Source {
            bytes: bytes.clone(),
            fingerprint: self.facts(definition).served,
            webhooks: self.webhooks.clone(),
        }
    }
}

fn is_served(object: &Object) -> bool {
    conditions::is_true(object, "NamesAccepted") || conditions::is_true(object, "Established")
}

impl Definitions for CustomResources {
    fn resource(&self) -> Gvr {
        Gvr::new("apiextensions.k8s.io", "v1", "customresourcedefinitions")
    }

    fn facts(&self, definition: &Object) -> Facts {
        let accepted = definition.at("status").at("acceptedNames");
        let texts = |members: &[&str]| -> Vec<String> {
            members.iter().map(|m| accepted.text(m)).filter(|n| !n.is_empty()).map(ToOwned::to_owned).collect()
        };
        let mut names = texts(&["plural", "singular"]);
        names.extend(accepted.list("shortNames").iter().filter_map(Value::as_str).map(ToOwned::to_owned));
        let mut hash = DefaultHasher::new();
        definition.uid().hash(&mut hash);
        definition.at("spec").to_string().hash(&mut hash);
        accepted.to_string().hash(&mut hash);
        (is_served(definition), definition.is_deleting()).hash(&mut hash);
        Facts {
            group: definition.at("spec").text("group").to_owned(),
            names,
            kinds: texts(&["kind", "listKind"]),
            wanting: !conditions::is_true(definition, "NamesAccepted"),
            served: hash.finish(),
        }
    }

    fn kinds(&self, definition: &Object, bytes: &Bytes) -> Vec<Arc<KindDef>> {
        if !is_served(definition) {
            return Vec::new();
        }
        let source = self.source(definition, bytes);
        custom::kinds(definition, source, |version| version.flag("served"))
    }

    fn stored_kind(&self, definition: &Object, bytes: &Bytes) -> Option<Arc<KindDef>> {
        let wanted = |version: &Value| version.flag("storage");
        custom::kinds(definition, self.source(definition, bytes), wanted).into_iter().next()
    }

    fn settle(&self, definition: &Object, neighbours: &[&Facts], now: Timestamp) -> Option<Object> {
        conditions::settle(definition, neighbours, &crate::timestamp(now))
    }

    fn cleanup(&self, definition: &Object) -> Option<Cleanup> {
        if !definition.is_deleting() || !definition.finalizers().any(|f| f == CLEANUP_FINALIZER) {
            return None;
        }
        Some(if overlaps(definition) {
            let text = "instances overlap with built-in resources in storage";
            Cleanup::Needless("OverlappingBuiltInResource", text)
        } else if !conditions::is_true(definition, "Established") {
            Cleanup::Needless("NeverEstablished", "resource was never established")
        } else {
            Cleanup::Begun
        })
    }

    fn note_cleanup(&self, definition: &mut Object, how: &Cleanup, now: Timestamp) {
        let (status, reason, message, done) = match how {
            Cleanup::Begun => {
                let text = "CustomResource deletion is in progress".to_owned();
                ("True", (*"InstanceDeletionInProgress").to_owned(), text, false)
            }
            Cleanup::Needless(reason, text) => ("False", (*reason).to_owned(), (*text).to_owned(), true),
            Cleanup::Failed(reason, text) => ("True", (*reason).to_owned(), text.clone(), false),
            Cleanup::Done => {
                ("False", "InstanceDeletionCompleted".to_owned(), "removed all instances".to_owned(), true)
            }
        };
        let condition = Condition { kind: "Terminating", status, reason, message };
        conditions::set(definition, condition, &crate::timestamp(now));
        if done {
            let rest: Vec<&str> = definition.finalizers().filter(|f| *f != CLEANUP_FINALIZER).collect();
            if rest.is_empty() {
                definition.remove(&["metadata", "finalizers"]);
            } else {
                let rest = json!(rest);
                definition.set(&["metadata", "finalizers"], rest);
            }
        }
    }
}
