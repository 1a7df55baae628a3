//! The documents of the built-in kinds.

use api::openapi::{Builder, Custom, Definition, Documents, Resource, Subresource, Texts};
use api::{GroupVersion, Gvk};
use kinds::facts;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

fn resources(group: &str, version: &str) -> Vec<Resource> {
    let owned = |verbs: &[&str]| verbs.iter().map(|v| (*v).to_owned()).collect();
    facts::resources()
        .iter()
        .filter(|r| r.gvk.group == group && r.gvk.version == version)
        .map(|r| Resource {
            gvk: r.gvk.clone(),
            list_kind: r.list_kind.clone(),
            resource: r.resource.to_owned(),
            namespaced: r.namespaced,
            verbs: owned(r.verbs),
            definition: Definition::Types(facts::schema(r.type_name).unwrap()),
            subresources: r
                .subresources
                .iter()
                .map(|s| Subresource {
                    name: s.name.to_owned(),
                    gvk: s.gvk.clone(),
                    schema: (s.type_name != r.type_name).then(|| facts::schema(s.type_name).unwrap()),
                    verbs: owned(s.verbs),
                })
                .collect(),
            returns_deleted: false,
        })
        .collect()
}

fn v3(group: &str, version: &str, texts: &Texts) -> Value {
    Builder { meta: facts::types(), texts }.v3(&GroupVersion::new(group, version), &resources(group, version))
}

fn groups() -> Vec<(GroupVersion, Vec<Resource>)> {
    let mut all: Vec<GroupVersion> = Vec::new();
    for r in facts::resources() {
        let gv = GroupVersion::new(r.gvk.group.clone(), r.gvk.version.clone());
        if !all.contains(&gv) {
            all.push(gv);
        }
    }
    all.into_iter().map(|gv| (gv.clone(), resources(&gv.group, &gv.version))).collect()
}

/// A kind of a CRD.
fn widget() -> Resource {
    let meta = facts::schema("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta").unwrap();
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object"}}});
    let crd = json!({"spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": schema}}]}}).to_string();
    Resource {
        gvk: Gvk::new("example.com", "v1", "Widget"),
        list_kind: "WidgetList".to_owned(),
        resource: "widgets".to_owned(),
        namespaced: true,
        verbs: ["get", "list", "create", "patch"].map(str::to_owned).to_vec(),
        definition: Definition::Custom(Custom {
            definition: Arc::new(api::custom::Definition::new("example.com", "Widget", "v1", meta, crd.into(), 1)),
            gvk: Gvk::new("example.com", "v1", "Widget"),
            list_kind: "WidgetList".to_owned(),
            plural: "widgets".to_owned(),
            selectable: Vec::new(),
        }),
        subresources: Vec::new(),
        returns_deleted: false,
    }
}

#[test]
fn schemas_carry_what_kubectl_reads() {
    let name = "io.k8s.api.apps.v1.DeploymentSpec".to_owned();
    let texts: Texts =
        [(name.clone(), ("Spec.".to_owned(), BTreeMap::from([("replicas".to_owned(), "N.".to_owned())])))]
            .into_iter()
            .collect();
    let document = v3("apps", "v1", &texts);
    let schemas = &document["components"]["schemas"];
    assert_eq!(
        schemas[&name]["properties"]["replicas"],
        json!({"type": "integer", "format": "int32", "description": "N."})
    );
    assert_eq!(
        schemas["io.k8s.api.apps.v1.Deployment"]["x-kubernetes-group-version-kind"],
        json!([{"group": "apps", "version": "v1", "kind": "Deployment"}])
    );
    assert_eq!(
        schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"],
        json!({"type": "array", "items": {"$ref": "#/components/schemas/io.k8s.api.core.v1.Container"},
               "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
               "x-kubernetes-patch-merge-key": "name", "x-kubernetes-patch-strategy": "merge"})
    );
    // kubectl looks here for server-side field validation.
    let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(patch["operationId"], "patchAppsV1NamespacedDeployment");
    assert!(patch["parameters"].as_array().unwrap().iter().any(|p| p["name"] == "fieldValidation"));
}

#[test]
fn every_reference_leads_somewhere() {
    fn references<'a>(value: &'a Value, out: &mut Vec<&'a str>) {
        match value {
            Value::Object(map) => {
                out.extend(map.get("$ref").and_then(Value::as_str));
                map.values().for_each(|v| references(v, out));
            }
            Value::Array(items) => items.iter().for_each(|v| references(v, out)),
            _ => {}
        }
    }
    for (gv, _) in groups() {
        let document = v3(&gv.group, &gv.version, &Texts::new());
        let mut found = Vec::new();
        references(&document, &mut found);
        for reference in found {
            let name = reference.trim_start_matches("#/components/schemas/");
            assert!(document["components"]["schemas"].get(name).is_some(), "{gv}: {reference}");
        }
    }
}

#[test]
fn a_kind_from_a_crd_is_described_by_its_own_schema() {
    let gv = GroupVersion::new("example.com", "v1");
    let document = Builder { meta: facts::types(), texts: &Texts::new() }.v3(&gv, &[widget()]);
    let schemas = &document["components"]["schemas"];
    assert_eq!(schemas["com.example.v1.Widget"]["properties"]["spec"], json!({"type": "object"}));
    assert_eq!(schemas["com.example.v1.WidgetList"]["required"], json!(["items"]));
    assert!(schemas.get("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta").is_some());
}

#[test]
fn version_2_has_the_same_kinds() {
    let document = Builder { meta: facts::types(), texts: &Texts::new() }.v2(&groups());
    assert_eq!(
        document["definitions"]["io.k8s.api.core.v1.Pod"]["properties"]["spec"],
        json!({"$ref": "#/definitions/io.k8s.api.core.v1.PodSpec"})
    );
    assert_eq!(document["definitions"]["io.k8s.apimachinery.pkg.api.resource.Quantity"], json!({"type": "string"}));
    let post = &document["paths"]["/api/v1/namespaces/{namespace}/pods"]["post"];
    assert_eq!(post["parameters"][0]["schema"]["$ref"], "#/definitions/io.k8s.api.core.v1.Pod");
    assert!(!document.to_string().contains("#/components/"));
}

#[test]
fn version_2_grows_by_kinds_of_crds_without_being_made_anew() {
    let documents = Documents::new(facts::types().clone(), Texts::new);
    let gv = GroupVersion::new("example.com", "v1");
    let with = || groups().into_iter().chain([(gv.clone(), vec![widget()])]).collect();
    let parsed = |document: &api::openapi::Document| serde_json::from_slice::<Value>(&document.plain()).unwrap();
    let (before, after) = (documents.v2_json(1, groups, &[]), documents.v2_json(2, with, &[]));
    assert_ne!(before.hash, after.hash);
    let (before, mut after) = (parsed(&before), parsed(&after));
    assert_eq!(before, Builder { meta: facts::types(), texts: &Texts::new() }.v2(&groups()));
    assert_eq!(after["definitions"]["com.example.v1.Widget"]["properties"]["spec"], json!({"type": "object"}));
    let path = &after["paths"]["/apis/example.com/v1/namespaces/{namespace}/widgets"]["post"];
    assert_eq!(path["parameters"][0]["schema"]["$ref"], "#/definitions/com.example.v1.Widget");
    for part in ["paths", "definitions"] {
        after[part]
            .as_object_mut()
            .unwrap()
            .retain(|name, _| !name.contains("example.com") && !name.contains("com.example"));
    }
    assert_eq!(before, after);
    assert!(documents.v2_protobuf(2, with, &[]).plain().len() > documents.v2_protobuf(1, groups, &[]).plain().len());
    if std::env::var_os("OPENAPI_TIME").is_some() {
        let many = || (0..50).map(|_| widget()).collect::<Vec<_>>();
        let begun = std::time::Instant::now();
        documents.v2_json(3, || groups().into_iter().chain([(gv.clone(), many())]).collect(), &[]);
        eprintln!("the document with 50 kinds of CRDs: {:?}", begun.elapsed());
    }
}

#[test]
fn documents_are_kept_until_the_generation_changes() {
    let documents = Documents::new(facts::types().clone(), Texts::new);
    let gv = GroupVersion::new("apps", "v1");
    let first = documents.v3(&gv, 1, false, || resources("apps", "v1"));
    let again = documents.v3(&gv, 1, false, || unreachable!());
    assert_eq!(first.hash, again.hash);
    assert!(documents.v3(&gv, 2, false, Vec::new).hash != first.hash);
    let parsed: Value = serde_json::from_slice(&first.plain()).unwrap();
    assert_eq!(parsed["openapi"], "3.0.0");
    if let Ok(dir) = std::env::var("OPENAPI_DUMP") {
        for (gv, resources) in groups() {
            let document = documents.v3(&gv, 1, false, || resources);
            std::fs::write(format!("{dir}/{}_{}.json", gv.group, gv.version), document.plain()).unwrap();
        }
        std::fs::write(format!("{dir}/v2.json"), documents.v2_json(1, groups, &[]).plain()).unwrap();
        std::fs::write(format!("{dir}/v2.pb"), documents.v2_protobuf(1, groups, &[]).plain()).unwrap();
    }
}
