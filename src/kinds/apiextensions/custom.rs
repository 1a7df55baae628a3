//! The kinds that a definition defines (apiextensions-apiserver `customresource_handler.go`
//! `getOrCreateServingInfoFor`).

use std::sync::Arc;

use api::custom::webhook::Webhook;
use api::custom::{CustomKind, Definition};
use api::kind::{
    Column, ColumnValue, FieldValue, KindDef, ScalePaths, SelectableField, StatusKeeps, StorageDef, Subresource,
    SubresourceKind,
};
use api::names::compare_versions;
use api::schema::{Schema, Str};
use api::webhook::{Target, Webhooks};
use api::{Gvk, Object};
use bytes::Bytes;
use serde_json::Value;

use super::storage_version;
use crate::columns;
use crate::facts;
use crate::json::{Json, dig};

mod strategy;

use strategy::{CustomRules, Scale};

const VERBS: &[&str] = &["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];
const SUBRESOURCE_VERBS: &[&str] = &["get", "patch", "update"];
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const SCALE: &str = "io.k8s.api.autoscaling.v1.Scale";

/// What the kinds of a definition are made of beside the parsed definition.
pub(super) struct Source {
    /// The definition as JSON.
    pub bytes: Bytes,
    /// Differs when the definition says something else.
    pub fingerprint: u64,
    pub webhooks: Option<Arc<dyn Webhooks>>,
}

/// `spec.conversion` with the strategy `Webhook`.
fn webhook(crd: &Object, webhooks: Option<Arc<dyn Webhooks>>) -> Option<Webhook> {
    let conversion = crd.at("spec").at("conversion");
    if conversion.text("strategy") != "Webhook" {
        return None;
    }
    let webhook = conversion.at("webhook");
    let target = match Target::from_client_config(webhook.at("clientConfig")) {
        Ok(target) => target,
        Err(error) => {
            tracing::warn!(name = crd.name(), %error, "the conversion webhook of a definition cannot be called");
            return None;
        }
    };
    let versions = webhook.list("conversionReviewVersions").iter().filter_map(Value::as_str);
    Some(Webhook { target, review_versions: versions.map(ToOwned::to_owned).collect(), webhooks: webhooks? })
}

/// One kind for each version that `wanted` picks, best first.
pub(super) fn kinds(crd: &Object, source: Source, wanted: impl Fn(&Value) -> bool) -> Vec<Arc<KindDef>> {
    let names = dig(crd, &["status", "acceptedNames"]);
    let group = crd.at("spec").text("group");
    let (Some(meta), Some(storage)) = (facts::schema(META), storage_version(crd)) else { return Vec::new() };
    let complete = ["plural", "singular", "kind", "listKind"].iter().all(|n| !names.text(n).is_empty());
    if !complete || group.is_empty() {
        return Vec::new();
    }
    let kind = names.text("kind");
    let mut definition = Definition::new(group, kind, storage, meta.clone(), source.bytes, source.fingerprint);
    definition.webhook = webhook(crd, source.webhooks);
    definition.preserve_all = crd.at("spec").flag("preserveUnknownFields");
    let one = Crd { crd, names, group, storage, meta, definition: Arc::new(definition) };
    let mut versions: Vec<&Value> = crd.at("spec").list("versions").iter().filter(|v| wanted(v)).collect();
    versions.sort_by(|a, b| compare_versions(b.text("name"), a.text("name")));
    versions.into_iter().map(|version| Arc::new(one.version(version))).collect()
}

struct Crd<'a> {
    crd: &'a Object,
    /// `status.acceptedNames`
    names: &'a Value,
    group: &'a str,
    storage: &'a str,
    meta: Schema,
    definition: Arc<Definition>,
}

fn owned(list: &[Value]) -> Vec<Str> {
    list.iter().filter_map(Value::as_str).map(|s| Str::Owned(s.to_owned())).collect()
}

/// The member names of a simple path such as `.spec.replicas`.
fn path_of(text: &str) -> Vec<Str> {
    text.trim_start_matches('.').split('.').filter(|p| !p.is_empty()).map(|p| Str::Owned(p.to_owned())).collect()
}

impl Crd<'_> {
    fn version(&self, version: &Value) -> KindDef {
        let name = version.text("name");
        let gvk = Gvk::new(self.group, name, self.names.text("kind"));
        let plural = self.names.text("plural");
        let (subresources, scale) = self.subresources(version, &gvk);
        let has_status = subresources.iter().any(|s| matches!(s.kind, SubresourceKind::Status));
        let strategy = CustomRules::new(gvk.clone(), Arc::clone(&self.definition), has_status, scale);
        KindDef {
            list_kind: self.names.text("listKind").to_owned(),
            resource: plural.to_owned(),
            singular: self.names.text("singular").to_owned(),
            short_names: owned(self.names.list("shortNames")),
            categories: owned(self.names.list("categories")),
            namespaced: self.crd.at("spec").text("scope") == "Namespaced",
            // What the machinery asks of a kind's table (metadata as protobuf) is found beside `ObjectMeta`.
            schema: self.meta.clone(),
            storage: Some(StorageDef {
                prefix: format!("/registry/{}/{plural}/", self.group),
                gvk: Gvk::new(self.group, self.storage, &gvk.kind),
                conversion: None,
            }),
            verbs: VERBS,
            action: None,
            strategy: Arc::new(strategy),
            columns: table(version),
            selectable_fields: selectable(version),
            subresources,
            has_generation: true,
            ttl: None,
            hook: None,
            status_keeps: StatusKeeps::Metadata,
            rechecks_names: false,
            deprecation: None,
            returns_deleted: false,
            custom: Some(CustomKind {
                definition: Arc::clone(&self.definition),
                warnings: self.warning(version).into_iter().collect(),
                terminating: self.crd.is_deleting(),
                gvk: gvk.clone(),
            }),
            gvk,
        }
    }

    fn subresources(&self, version: &Value, gvk: &Gvk) -> (Vec<Subresource>, Option<Scale>) {
        let wanted = version.at("subresources");
        let mut subresources = Vec::new();
        if wanted.has("status") {
            subresources.push(Subresource {
                name: "status",
                kind: SubresourceKind::Status,
                gvk: gvk.clone(),
                schema: self.meta.clone(),
                verbs: SUBRESOURCE_VERBS,
            });
        }
        let scale = wanted.at("scale");
        let Some(schema) = facts::schema(SCALE).filter(|_| !scale.is_null()) else { return (subresources, None) };
        let paths = ScalePaths {
            spec_replicas: path_of(scale.text("specReplicasPath")),
            status_replicas: path_of(scale.text("statusReplicasPath")),
            selector: path_of(scale.text("labelSelectorPath")),
        };
        subresources.push(Subresource {
            name: "scale",
            kind: SubresourceKind::Scale(paths),
            gvk: Gvk::new("autoscaling", "v1", "Scale"),
            schema,
            verbs: SUBRESOURCE_VERBS,
        });
        let scale = Scale {
            spec_replicas: scale.text("specReplicasPath").to_owned(),
            status_replicas: scale.text("statusReplicasPath").to_owned(),
            selector: scale.text("labelSelectorPath").to_owned(),
        };
        (subresources, Some(scale))
    }

    /// `defaultDeprecationWarning`, or the author's.
    fn warning(&self, version: &Value) -> Option<String> {
        if !version.flag("deprecated") {
            return None;
        }
        if let Some(own) = version.at("deprecationWarning").as_str() {
            return Some(own.to_owned());
        }
        let (group, name) = (self.group, version.text("name"));
        let kind = self.crd.at("spec").at("names").text("kind");
        let better = self
            .crd
            .at("spec")
            .list("versions")
            .iter()
            .filter(|v| v.flag("served") && !v.flag("deprecated"))
            .map(|v| v.text("name"))
            .filter(|v| compare_versions(name, v).is_lt())
            .max_by(|a, b| compare_versions(a, b));
        Some(match better {
            None => format!("{group}/{name} {kind} is deprecated"),
            Some(better) => format!("{group}/{name} {kind} is deprecated; use {group}/{better} {kind}"),
        })
    }
}

fn selectable(version: &Value) -> Vec<SelectableField> {
    let field = |field: &Value| {
        let path = field.text("jsonPath").trim_start_matches('.').to_owned();
        let names = path.split('.').map(ToOwned::to_owned).collect();
        SelectableField { path: Str::Owned(path), value: FieldValue::Path(names) }
    };
    version.list("selectableFields").iter().map(field).collect()
}

/// `tableconvertor.New`: the name, and the columns of the CRD or else the age.
fn table(version: &Value) -> Vec<Column> {
    let mut all = vec![columns::name()];
    let wanted = version.list("additionalPrinterColumns");
    if wanted.is_empty() {
        all.push(columns::created());
    }
    all.extend(wanted.iter().map(|column| {
        let path = column.text("jsonPath");
        let description = match column.text("description") {
            "" => format!("Custom resource definition column (in JSONPath format): {path}"),
            text => text.to_owned(),
        };
        Column {
            name: Str::Owned(column.text("name").to_owned()),
            kind: Str::Owned(column.text("type").to_owned()),
            format: Str::Owned(column.text("format").to_owned()),
            description: Str::Owned(description),
            priority: column.int("priority").and_then(|p| i32::try_from(p).ok()).unwrap_or_default(),
            value: ColumnValue::JsonPath(path.to_owned()),
        }
    }));
    all
}
