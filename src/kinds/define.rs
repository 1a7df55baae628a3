//! Makes a [`KindDef`] from the facts of a resource and what its own file adds.

use std::sync::Arc;
use std::time::Duration;

use api::kind::{
    Action, Column, Conversion, KindDef, ScalePaths, SelectableField, StatusKeeps, StorageDef, Strategy, Subresource,
    SubresourceKind, WriteHook,
};
use api::schema::facts::ResourceFacts;
use api::{Gvk, Object, Status};

use crate::columns;
use crate::facts;
use crate::rules::Rules;

/// What a kind has beyond its facts.
pub(crate) struct Extra {
    pub strategy: Arc<dyn Strategy>,
    pub columns: Vec<Column>,
    pub fields: Vec<SelectableField>,
    pub generation: bool,
    pub ttl: Option<Duration>,
    pub hook: Option<Arc<dyn WriteHook>>,
    /// Answers `create` of a kind that is not kept.
    pub action: Option<Arc<dyn Action>>,
    pub scale: Option<ScalePaths>,
    /// What stands behind subresources other than `status` and `scale`.
    pub subresources: Vec<(&'static str, SubresourceKind)>,
    /// Conversion between stored and served version where they differ in more than the version's name.
    pub conversion: Option<Arc<dyn Conversion>>,
}

impl Default for Extra {
    fn default() -> Self {
        Self {
            strategy: Arc::new(Rules::GENERIC),
            columns: columns::generic(),
            fields: Vec::new(),
            generation: false,
            ttl: None,
            hook: None,
            action: None,
            scale: None,
            subresources: Vec::new(),
            conversion: None,
        }
    }
}

impl Extra {
    /// Rules and columns, nothing else.
    pub fn new(rules: Rules, columns: Vec<Column>) -> Self {
        Self { strategy: Arc::new(rules), columns, ..Self::default() }
    }

    /// `metadata.generation` is kept.
    pub fn with_generation(mut self) -> Self {
        self.generation = true;
        self
    }

    pub fn with_fields(mut self, fields: Vec<SelectableField>) -> Self {
        self.fields = fields;
        self
    }

    pub fn with_scale(mut self, selector: &'static [&'static str]) -> Self {
        self.scale = Some(ScalePaths {
            spec_replicas: vec!["spec".into(), "replicas".into()],
            status_replicas: vec!["status".into(), "replicas".into()],
            selector: selector.iter().map(|s| (*s).into()).collect(),
        });
        self
    }

    pub fn with_subresource(mut self, name: &'static str, kind: SubresourceKind) -> Self {
        self.subresources.push((name, kind));
        self
    }
}

/// The definition of a resource. `None` if its type is not in the schema table.
pub(crate) fn define(facts: &'static ResourceFacts, mut extra: Extra) -> Option<KindDef> {
    let gvk = facts.gvk.clone();
    let schema = facts::schema(facts.type_name)?;
    let storage = facts.verbs.contains(&"list").then(|| storage(facts, extra.conversion.take()));
    facts::describe(&gvk.group, facts.resource, &mut extra.columns);
    let mut subresources = Vec::new();
    for sub in &facts.subresources {
        let kind = match sub.name {
            "status" => SubresourceKind::Status,
            "scale" => match extra.scale.take() {
                Some(paths) => SubresourceKind::Scale(paths),
                None => continue,
            },
            name => match extra.subresources.iter().position(|(n, _)| *n == name) {
                Some(at) => extra.subresources.swap_remove(at).1,
                None => continue,
            },
        };
        let schema = facts::schema(sub.type_name)?;
        subresources.push(Subresource { name: sub.name, kind, gvk: sub.gvk.clone(), schema, verbs: sub.verbs });
    }
    Some(KindDef {
        list_kind: facts.list_kind.clone(),
        resource: facts.resource.to_owned(),
        singular: facts.singular.to_owned(),
        short_names: facts.short_names.iter().map(|s| (*s).into()).collect(),
        categories: facts.categories.iter().map(|s| (*s).into()).collect(),
        namespaced: facts.namespaced,
        schema,
        storage,
        verbs: facts.verbs,
        action: extra.action,
        strategy: extra.strategy,
        columns: extra.columns,
        selectable_fields: extra.fields,
        subresources,
        has_generation: extra.generation,
        ttl: extra.ttl,
        hook: extra.hook,
        status_keeps: status_keeps(facts),
        rechecks_names: rechecks_names(facts),
        deprecation: match (gvk.group.as_str(), facts.resource) {
            ("", "endpoints") => Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
            ("", "componentstatuses") => Some("v1 ComponentStatus is deprecated in v1.19+"),
            _ => None,
        },
        returns_deleted: returns_deleted(facts),
        custom: None,
        gvk,
    })
}

/// Kinds whose validation of updates calls that of creations, metadata and all (`pkg/apis/*/validation`).
fn rechecks_names(facts: &ResourceFacts) -> bool {
    match facts.gvk.group.as_str() {
        "" => matches!(
            facts.resource,
            "configmaps"
                | "endpoints"
                | "limitranges"
                | "namespaces"
                | "nodes"
                | "persistentvolumeclaims"
                | "persistentvolumes"
                | "pods"
                | "secrets"
                | "serviceaccounts"
        ),
        "apps" => facts.resource == "controllerrevisions",
        "networking.k8s.io" => matches!(facts.resource, "ingresses" | "ingressclasses" | "ipaddresses"),
        "resource.k8s.io" => matches!(facts.resource, "resourceclaims" | "resourceclaimtemplates"),
        "storage.k8s.io" => facts.resource != "csidrivers",
        "admissionregistration.k8s.io"
        | "apiregistration.k8s.io"
        | "discovery.k8s.io"
        | "flowcontrol.apiserver.k8s.io"
        | "node.k8s.io"
        | "storagemigration.k8s.io" => true,
        _ => false,
    }
}

/// What a write to the status leaves alone: the status strategies below `pkg/registry`.
fn status_keeps(facts: &ResourceFacts) -> StatusKeeps {
    match (facts.gvk.group.as_str(), facts.resource) {
        ("apps", "deployments") => StatusKeeps::Labels,
        ("", "pods") => StatusKeeps::Owners,
        ("certificates.k8s.io", "podcertificaterequests")
        | ("scheduling.k8s.io", "podgroups")
        | ("networking.k8s.io", "servicecidrs")
        | ("resource.k8s.io", "resourceclaims" | "devicetaintrules" | "resourcepoolstatusrequests")
        | ("internal.apiserver.k8s.io", "storageversions")
        | ("storage.k8s.io", "volumeattachments" | "csinodes")
        | ("storagemigration.k8s.io", "storageversionmigrations")
        | ("lifecycle.k8s.io", _)
        | ("admissionregistration.k8s.io", "validatingadmissionpolicies")
        | ("apiregistration.k8s.io", "apiservices") => StatusKeeps::UserMetadata,
        ("flowcontrol.apiserver.k8s.io", _) | ("apiextensions.k8s.io", "customresourcedefinitions") => {
            StatusKeeps::Metadata
        }
        _ => StatusKeeps::Nothing,
    }
}

/// The stores below `pkg/registry` with `ReturnDeletedObject`.
fn returns_deleted(facts: &ResourceFacts) -> bool {
    matches!(
        (facts.gvk.group.as_str(), facts.resource),
        (
            "",
            "persistentvolumeclaims"
                | "persistentvolumes"
                | "pods"
                | "podtemplates"
                | "resourcequotas"
                | "serviceaccounts"
                | "services"
        ) | ("resource.k8s.io", "deviceclasses" | "resourceclaims" | "resourceclaimtemplates" | "resourceslices")
            | (
                "storage.k8s.io",
                "csidrivers" | "csinodes" | "storageclasses" | "volumeattachments" | "volumeattributesclasses"
            )
    )
}

/// Where a stock cluster keeps a resource: `pkg/kubeapiserver/default_storage_factory_builder.go`.
fn storage(facts: &ResourceFacts, conversion: Option<Arc<dyn Conversion>>) -> StorageDef {
    let (own_group, own_version) = (facts.gvk.group.as_str(), facts.gvk.version.as_str());
    let place = match (own_group, facts.resource) {
        ("", "replicationcontrollers") => "controllers",
        ("", "endpoints") => "services/endpoints",
        ("", "nodes") => "minions",
        ("", "services") => "services/specs",
        ("networking.k8s.io", "ingresses") => "ingress",
        ("apiextensions.k8s.io", _) => "apiextensions.k8s.io/customresourcedefinitions",
        ("apiregistration.k8s.io", _) => "apiregistration.k8s.io/apiservices",
        (_, plural) => plural,
    };
    let (group, version) = match (own_group, facts.resource) {
        ("events.k8s.io", "events") => ("", "v1"),
        ("autoscaling", "horizontalpodautoscalers") => ("autoscaling", "v2"),
        ("certificates.k8s.io", "clustertrustbundles" | "podcertificaterequests")
        | ("storagemigration.k8s.io", "storageversionmigrations") => (own_group, "v1beta1"),
        ("resource.k8s.io", "devicetaintrules") => (own_group, "v1beta2"),
        (group, _) => (group, own_version),
    };
    let conversion = (group != own_group || version != own_version)
        .then(|| conversion.unwrap_or_else(|| Arc::new(SameFields) as Arc<dyn Conversion>));
    StorageDef { prefix: format!("/registry/{place}/"), gvk: Gvk::new(group, version, &facts.gvk.kind), conversion }
}

/// Versions that differ in nothing but their name.
struct SameFields;

impl Conversion for SameFields {
    fn to_stored(&self, object: Object) -> Result<Object, Status> {
        Ok(object)
    }

    fn from_stored(&self, object: Object) -> Result<Object, Status> {
        Ok(object)
    }
}
