//! `apiextensions.k8s.io`: custom resource definitions, and the kinds that they define.

mod conditions;
mod custom;
mod definitions;
mod validate;

pub use definitions::CustomResources;

use api::Object;
use serde_json::{Value, json};

use crate::columns::{column, name};
use crate::define::Extra;
use crate::json::{Json, existing_at, fill};
use crate::rules::Rules;

/// Keeps a definition until its objects are gone.
pub(crate) const CLEANUP_FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

pub(crate) fn extra(kind: &str) -> Option<Extra> {
    if kind != "CustomResourceDefinition" {
        return None;
    }
    let rules = Rules {
        default: defaults,
        create: |_, object| {
            object.remove(&["status"]);
            add_stored_version(object);
        },
        update: |_, object, _| add_stored_version(object),
        validate: validate::create,
        validate_update: Some(validate::update),
        validate_status: validate::status,
        warnings: validate::warnings,
        unconditional_update: false,
        any_finalizers: true,
        deletion_finalizers: &[CLEANUP_FINALIZER],
        deletes_itself: true,
        deletion: |object| {
            let now = object.str(&["metadata", "deletionTimestamp"]).unwrap_or_default().to_owned();
            let condition = conditions::Condition {
                kind: "Terminating",
                status: "True",
                reason: "InstanceDeletionPending".to_owned(),
                message: "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon"
                    .to_owned(),
            };
            conditions::set(object, condition, &now);
        },
        ..Rules::GENERIC
    };
    let columns = vec![
        name(),
        column("Scope", "string", "", "Cluster/Namespaced", 0, |o, _| o.at("spec").text("scope").into()),
        column("Versions", "string", "", "Served versions", 0, |o, _| served_versions(o).into()),
        column("Created At", "date", "", api::kind::AGE_TEXT, 0, |o, _| {
            o.at("metadata").text("creationTimestamp").into()
        }),
        column("Group", "string", "", "API group", 1, |o, _| o.at("spec").text("group").into()),
        column("Kind", "string", "", "CustomResource kind", 1, |o, _| o.at("spec").at("names").text("kind").into()),
        column("ShortNames", "string", "", "Short names", 1, |o, _| {
            let names: Vec<&str> =
                o.at("spec").at("names").list("shortNames").iter().filter_map(Value::as_str).collect();
            names.join(",").into()
        }),
        column("Established", "boolean", "", "Established status", 1, |o, _| {
            conditions::is_true(o, "Established").into()
        }),
    ];
    Some(Extra::new(rules, columns).with_generation())
}

fn served_versions(object: &Object) -> String {
    let label = |version: &Value| {
        let storage = if version.flag("storage") { "(storage)" } else { "" };
        version.flag("served").then(|| format!("{}{storage}", version.text("name")))
    };
    let mut versions: Vec<String> = object.at("spec").list("versions").iter().filter_map(label).collect();
    versions.sort();
    versions.join(",")
}

/// apiextensions `v1/defaults.go`.
fn defaults(object: &mut Object) {
    if let Some(spec) = existing_at(&mut object.0, &["spec"]) {
        let kind = spec.at("names").text("kind").to_owned();
        if let Some(names) = existing_at(spec, &["names"]) {
            fill(names, "singular", kind.to_lowercase());
            if !kind.is_empty() {
                fill(names, "listKind", format!("{kind}List"));
            }
        }
        if !spec.has("conversion") {
            spec.insert("conversion".to_owned(), json!({"strategy": "None"}));
        }
        // A webhook of which nothing is said is none in the internal type.
        if let Some(conversion) = existing_at(spec, &["conversion"])
            && conversion.at("webhook").is_object()
            && !conversion.at("webhook").has("clientConfig")
            && conversion.at("webhook").count("conversionReviewVersions") == 0
        {
            conversion.remove("webhook");
        }
        if let Some(service) = existing_at(spec, &["conversion", "webhook", "clientConfig", "service"])
            && !service.has("port")
        {
            service.insert("port".to_owned(), 443.into());
        }
    }
    if object.at("status").count("storedVersions") == 0 {
        add_stored_version(object);
    }
}

/// The storage version, as the one new objects are stored in.
pub(crate) fn storage_version(object: &Object) -> Option<&str> {
    object.at("spec").list("versions").iter().find(|v| v.flag("storage")).map(|v| v.text("name"))
}

fn add_stored_version(object: &mut Object) {
    let Some(version) = storage_version(object).map(ToOwned::to_owned) else { return };
    let mut stored: Vec<Value> = object.at("status").list("storedVersions").to_vec();
    if !stored.iter().any(|v| v.as_str() == Some(&version)) {
        stored.push(version.into());
        object.set(&["status", "storedVersions"], stored);
    }
}
