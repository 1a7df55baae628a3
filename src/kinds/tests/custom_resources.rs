//! Custom resource definitions against a real server and a real store.

use std::sync::Arc;
use std::time::Duration;

use api::services::{AuthorizationAttributes, Authorizer, Decision};
use api::webhook::{Target, WebhookError, Webhooks};
use api::{Status, UserInfo};
use apiserver::Authenticate;
use async_trait::async_trait;
use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

#[path = "server/running.rs"]
mod running;

use running::{CRDS, Running};

const WIDGETS: &str = "/apis/example.com/v1/namespaces/ns/widgets";

struct AllowAll;

#[async_trait]
impl Authorizer for AllowAll {
    async fn authorize(&self, _: &UserInfo, _: &AuthorizationAttributes) -> Decision {
        Decision::Allow { reason: String::new() }
    }

    async fn rules(&self, _: &UserInfo, _: &str) -> (Vec<Value>, Vec<Value>, bool) {
        (Vec::new(), Vec::new(), false)
    }
}

#[async_trait]
impl Authenticate for AllowAll {
    async fn authenticate(&self, _: &http::request::Parts) -> Result<UserInfo, Status> {
        Err(Status::unauthorized(""))
    }
}

/// Converts objects whose `spec.a` of v1 is `spec.first` of v2.
struct Renames;

#[async_trait]
impl Webhooks for Renames {
    async fn post(&self, _: &Target, body: Bytes, _: Duration) -> Result<Bytes, WebhookError> {
        let review: Value = serde_json::from_slice(&body).unwrap();
        let version = &review["request"]["desiredAPIVersion"];
        let mut objects = review["request"]["objects"].clone();
        for object in objects.as_array_mut().unwrap() {
            let (from, to) = if version == "example.com/v2" { ("a", "first") } else { ("first", "a") };
            object["apiVersion"] = version.clone();
            if let Some(spec) = object["spec"].as_object_mut()
                && let Some(value) = spec.remove(from)
            {
                spec.insert(to.to_owned(), value);
            }
        }
        let response =
            json!({"uid": review["request"]["uid"], "result": {"status": "Success"}, "convertedObjects": objects});
        let review = json!({"apiVersion": review["apiVersion"], "kind": "ConversionReview", "response": response});
        Ok(Bytes::from(review.to_string()))
    }
}

struct Harness(Running);

impl Harness {
    async fn new() -> Self {
        Self(Running::start(Arc::new(AllowAll), Arc::new(AllowAll), None, Some(Arc::new(Renames))).await)
    }

    async fn call(&self, method: Method, path: &str, content_type: &str, body: Vec<u8>) -> (u16, Value) {
        self.0.call("tester", method, path, content_type, body).await
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.0.get(path).await
    }

    #[track_caller]
    fn expect(answer: (u16, Value), code: u16) -> Value {
        assert_eq!(answer.0, code, "{:#}", answer.1);
        answer.1
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.call(Method::POST, path, "application/json", body.to_string().into_bytes()).await
    }

    async fn put(&self, path: &str, body: &Value) -> (u16, Value) {
        self.call(Method::PUT, path, "application/json", body.to_string().into_bytes()).await
    }

    async fn patch(&self, path: &str, kind: &str, body: &Value) -> (u16, Value) {
        self.call(Method::PATCH, path, kind, body.to_string().into_bytes()).await
    }

    async fn until(&self, path: &str, wanted: impl Fn(u16, &Value) -> bool) -> Value {
        self.0.until(path, wanted).await
    }

    async fn define(&self, crd: &Value) {
        Self::expect(self.post(CRDS, crd).await, 201);
        self.established(crd["metadata"]["name"].as_str().unwrap()).await;
    }

    async fn established(&self, name: &str) {
        self.until(&format!("{CRDS}/{name}"), |_, crd| {
            condition(crd, "Established").is_some_and(|c| c["status"] == "True")
        })
        .await;
    }
}

fn condition<'v>(crd: &'v Value, kind: &str) -> Option<&'v Value> {
    crd["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == kind)
}

fn crd(plural: &str, kind: &str, versions: Value) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.example.com")},
        "spec": {"group": "example.com", "scope": "Namespaced", "versions": versions,
            "names": {"plural": plural, "kind": kind, "shortNames": [format!("{}w", &plural[..1])]}},
    })
}

fn version(name: &str, storage: bool, spec: Value) -> Value {
    json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": {
        "type": "object", "properties": {"spec": spec, "status": {"type": "object",
            "x-kubernetes-preserve-unknown-fields": true}}}}})
}

fn widgets() -> Value {
    let spec = json!({"type": "object", "required": ["size"], "properties": {
        "size": {"type": "integer", "minimum": 1}, "color": {"type": "string", "default": "red"},
        "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
            "items": {"type": "object", "required": ["name"], "properties": {
                "name": {"type": "string"}, "port": {"type": "integer"}}}},
    }});
    let mut version = version("v1", true, spec);
    version["subresources"] = json!({"status": {}, "scale": {
        "specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size"}});
    version["additionalPrinterColumns"] = json!([{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}]);
    version["selectableFields"] = json!([{"jsonPath": ".spec.color"}]);
    crd("widgets", "Widget", json!([version]))
}

fn widget(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_is_served_as_soon_as_it_says_so() {
    let server = Harness::new().await;
    assert_eq!(server.get(WIDGETS).await.0, 404);
    server.define(&widgets()).await;
    let made = Harness::expect(server.post(WIDGETS, &widget("a", json!({"size": 1, "unknown": 2}))).await, 201);
    assert_eq!(made["spec"], json!({"size": 1, "color": "red"}));
    assert_eq!(made["metadata"]["generation"], 1);
    let list = Harness::expect(server.get(WIDGETS).await, 200);
    assert_eq!((&list["kind"], list["items"].as_array().unwrap().len()), (&json!("WidgetList"), 1));
    let resources = Harness::expect(server.get("/apis/example.com/v1").await, 200);
    let names: Vec<&str> =
        resources["resources"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["widgets", "widgets/status", "widgets/scale"]);
    let crd = Harness::expect(server.get(&format!("{CRDS}/widgets.example.com")).await, 200);
    assert_eq!(crd["status"]["acceptedNames"]["listKind"], "WidgetList");
    assert_eq!(crd["status"]["storedVersions"], json!(["v1"]));
    let document = Harness::expect(server.get("/openapi/v3/apis/example.com/v1").await, 200);
    let schema = &document["components"]["schemas"]["com.example.v1.Widget"];
    assert_eq!(schema["properties"]["spec"]["properties"]["color"], json!({"type": "string", "default": "red"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn problems_are_told_in_upstreams_words() {
    let server = Harness::new().await;
    server.define(&widgets()).await;
    let bad = Harness::expect(server.post(WIDGETS, &widget("a", json!({"size": 0, "color": 1}))).await, 422);
    let want = "Widget.example.com \"a\" is invalid: [spec.color: Invalid value: \"integer\": spec.color in body must be \
                of type string: \"integer\", spec.size: Invalid value: 0: spec.size in body should be greater than or \
                equal to 1]";
    assert_eq!(bad["message"], want);
    let strict = format!("{WIDGETS}?fieldValidation=Strict");
    let bad = Harness::expect(server.post(&strict, &widget("a", json!({"size": 1, "x": 1}))).await, 400);
    let want =
        "Widget in version \"v1\" cannot be handled as a Widget: strict decoding error: unknown field \"spec.x\"";
    assert_eq!(bad["message"], want);
    let strategic = server
        .patch(&format!("{WIDGETS}/a"), "application/strategic-merge-patch+json", &json!({"spec": {"size": 2}}))
        .await;
    Harness::expect(strategic, 415);
    let mut bad = widgets();
    bad["metadata"]["name"] = "x.example.com".into();
    bad["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["size"] =
        json!({"minimum": 1});
    let refused = Harness::expect(server.post(CRDS, &bad).await, 422);
    let fields: Vec<&str> =
        refused["details"]["causes"].as_array().unwrap().iter().map(|c| c["field"].as_str().unwrap()).collect();
    assert_eq!(fields, ["metadata.name", "spec.validation.openAPIV3Schema.properties[spec].properties[size].type",]);
}

#[tokio::test(flavor = "multi_thread")]
async fn subresources_and_apply_work_as_for_built_in_kinds() {
    let server = Harness::new().await;
    server.define(&widgets()).await;
    let path = format!("{WIDGETS}/a");
    let apply = format!("{path}?fieldManager=one");
    let config = widget("a", json!({"size": 2, "ports": [{"name": "http", "port": 80}]}));
    let made = Harness::expect(server.patch(&apply, "application/apply-patch+yaml", &config).await, 201);
    let owned = &made["metadata"]["managedFields"][0]["fieldsV1"]["f:spec"]["f:ports"]["k:{\"name\":\"http\"}"];
    assert!(owned.is_object(), "{made:#}");
    let other = widget("a", json!({"ports": [{"name": "https", "port": 443}]}));
    let both = Harness::expect(
        server.patch(&format!("{path}?fieldManager=two"), "application/apply-patch+yaml", &other).await,
        200,
    );
    assert_eq!(both["spec"]["ports"].as_array().unwrap().len(), 2);
    let bigger = widget("a", json!({"size": 3}));
    let conflict = server.patch(&format!("{path}?fieldManager=two"), "application/apply-patch+yaml", &bigger).await;
    Harness::expect(conflict, 409);
    let scaled =
        server.patch(&format!("{path}/scale"), "application/merge-patch+json", &json!({"spec": {"replicas": 5}})).await;
    assert_eq!(Harness::expect(scaled, 200)["spec"]["replicas"], 5);
    let mut object = Harness::expect(server.get(&path).await, 200);
    assert_eq!((&object["spec"]["size"], &object["metadata"]["generation"]), (&json!(5), &json!(3)));
    object["status"] = json!({"size": 5});
    object["spec"]["size"] = 9.into();
    let put = Harness::expect(server.put(&format!("{path}/status"), &object).await, 200);
    assert_eq!((&put["spec"]["size"], &put["status"]["size"]), (&json!(5), &json!(5)));
    let red = Harness::expect(server.get(&format!("{WIDGETS}?fieldSelector=spec.color=red")).await, 200);
    assert_eq!(red["items"].as_array().unwrap().len(), 1);
    let blue = Harness::expect(server.get(&format!("{WIDGETS}?fieldSelector=spec.color=blue")).await, 200);
    assert_eq!(blue["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_share_their_objects_and_new_schemas_show_old_ones() {
    let server = Harness::new().await;
    let spec = |properties: Value| json!({"type": "object", "properties": properties});
    let old = version("v1", true, spec(json!({"a": {"type": "string"}})));
    let new = version("v2", false, spec(json!({"a": {"type": "string"}, "b": {"type": "string"}})));
    let mut definition = crd("gadgets", "Gadget", json!([old, new]));
    server.define(&definition).await;
    let v1 = "/apis/example.com/v1/namespaces/ns/gadgets";
    let v2 = "/apis/example.com/v2/namespaces/ns/gadgets";
    let body = json!({"apiVersion": "example.com/v2", "kind": "Gadget", "metadata": {"name": "a"}, "spec": {"a": "x", "b": "y"}});
    Harness::expect(server.post(v2, &body).await, 201);
    let read = Harness::expect(server.get(&format!("{v1}/a")).await, 200);
    assert_eq!((&read["apiVersion"], &read["spec"]), (&json!("example.com/v1"), &json!({"a": "x"})));
    let group = Harness::expect(server.get("/apis/example.com").await, 200);
    assert_eq!(group["preferredVersion"]["version"], "v2");
    let name = format!("{CRDS}/gadgets.example.com");
    let stored = Harness::expect(server.get(&name).await, 200);
    definition["metadata"]["resourceVersion"] = stored["metadata"]["resourceVersion"].clone();
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["c"] =
        json!({"type": "string", "default": "z"});
    definition["spec"]["versions"][0]["storage"] = false.into();
    definition["spec"]["versions"][1]["storage"] = true.into();
    let put = Harness::expect(server.put(&name, &definition).await, 200);
    assert_eq!(put["status"]["storedVersions"], json!(["v1", "v2"]));
    server.until(&format!("{v1}/a"), |_, object| object["spec"] == json!({"a": "x", "c": "z"})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_are_told_apart_across_versions_that_a_webhook_converts() {
    let server = Harness::new().await;
    let spec =
        |name: &str| json!({"type": "object", "properties": {name: {"type": "string"}, "n": {"type": "integer"}}});
    let versions = json!([version("v1", true, spec("a")), version("v2", false, spec("first"))]);
    let mut definition = crd("doors", "Door", versions);
    definition["spec"]["conversion"] = json!({"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"],
        "clientConfig": {"url": "https://hooks.example.com/convert"}}});
    server.define(&definition).await;
    let apply = async |manager: &str, version: &str, spec: Value, force: bool| {
        let path = format!("/apis/example.com/{version}/namespaces/ns/doors/d?fieldManager={manager}&force={force}");
        let body = json!({"apiVersion": format!("example.com/{version}"), "kind": "Door", "metadata": {"name": "d"}, "spec": spec});
        server.patch(&path, "application/apply-patch+yaml", &body).await
    };
    let owned = |object: &Value| -> Vec<Value> {
        let entries = object["metadata"]["managedFields"].as_array().unwrap();
        entries.iter().map(|e| json!([e["manager"], e["apiVersion"], e["fieldsV1"]["f:spec"]])).collect()
    };
    Harness::expect(apply("one", "v1", json!({"a": "x", "n": 1}), false).await, 201);
    let refused = Harness::expect(apply("two", "v2", json!({"first": "y"}), false).await, 409);
    assert_eq!(refused["details"]["causes"][0]["field"], ".spec.a");
    let taken = Harness::expect(apply("two", "v2", json!({"first": "y"}), true).await, 200);
    assert_eq!(taken["spec"], json!({"first": "y", "n": 1}));
    assert_eq!(
        owned(&taken),
        [json!(["one", "example.com/v1", {"f:n": {}}]), json!(["two", "example.com/v2", {"f:first": {}}])]
    );
    let path = "/apis/example.com/v1/namespaces/ns/doors/d?fieldManager=three";
    let patch = json!({"spec": {"a": "z"}});
    let patched = Harness::expect(server.patch(path, "application/merge-patch+json", &patch).await, 200);
    assert_eq!(
        owned(&patched),
        [json!(["one", "example.com/v1", {"f:n": {}}]), json!(["three", "example.com/v1", {"f:a": {}}])]
    );
    // What the last apply of another version had, and nobody owns, goes.
    let left = Harness::expect(apply("one", "v2", json!({}), false).await, 200);
    assert_eq!(left["spec"], json!({"first": "z"}));
    assert_eq!(owned(&left), [json!(["one", "example.com/v2", {}]), json!(["three", "example.com/v1", {"f:a": {}}])]);
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_in_a_version_that_was_taken_away_keep_what_they_have() {
    let server = Harness::new().await;
    let spec = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let (v1, mut v2) = (version("v1", true, spec.clone()), version("v2", false, spec));
    server.define(&crd("gadgets", "Gadget", json!([v1, v2]))).await;
    let at = |version: &str| format!("/apis/example.com/{version}/namespaces/ns/gadgets");
    let gadget = |version: &str, spec: Value| json!({"apiVersion": format!("example.com/{version}"), "kind": "Gadget", "metadata": {"name": "a"}, "spec": spec});
    let path = format!("{}/a", at("v1"));
    let entries = |object: &Value| {
        let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
        let of = |e: &Value| format!("{} {}", e["manager"].as_str().unwrap(), e["apiVersion"].as_str().unwrap());
        entries.iter().map(of).collect::<Vec<_>>()
    };
    let merge = "application/merge-patch+json";
    let apply = async |version: &str| {
        let body = gadget(version, json!({"c": 1}));
        let url = format!("{}/a?fieldManager=three", at(version));
        server.patch(&url, "application/apply-patch+yaml", &body).await
    };
    Harness::expect(server.post(&format!("{}?fieldManager=one", at("v2")), &gadget("v2", json!({"a": 1}))).await, 201);
    let name = format!("{CRDS}/gadgets.example.com");
    let change = async |versions: Value| {
        let mut crd = Harness::expect(server.get(&name).await, 200);
        crd["spec"]["versions"] = versions;
        Harness::expect(server.put(&name, &crd).await, 200);
        server.until(&at("v2"), |code, _| code == 404).await;
    };
    // One that is no longer served is still one.
    v2["served"] = false.into();
    let mut v1 = Harness::expect(server.get(&name).await, 200)["spec"]["versions"][0].clone();
    change(json!([v1, v2])).await;
    let patched = server.patch(&format!("{path}?fieldManager=two"), merge, &json!({"spec": {"b": 1}})).await;
    let both = ["one example.com/v2", "two example.com/v1"];
    assert_eq!(entries(&Harness::expect(patched, 200)), both);
    // Without it nothing can be worked out.
    v1["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"] =
        json!({"z": {"type": "string", "default": "z"}});
    change(json!([v1])).await;
    server.until(&path, |_, object| object["spec"]["z"] == "z").await;
    let refused = Harness::expect(apply("v1").await, 500);
    assert_eq!(refused["message"], "request to convert CR to an invalid group/version: example.com/v2");
    let patched = server.patch(&format!("{path}?fieldManager=four"), merge, &json!({"spec": {"d": 1}})).await;
    assert_eq!(entries(&Harness::expect(patched, 200)), both);
    let emptied = server.patch(&path, merge, &json!({"metadata": {"managedFields": [{}]}})).await;
    Harness::expect(emptied, 200);
    Harness::expect(apply("v1").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_in_use_wait_until_they_are_given_back() {
    let server = Harness::new().await;
    server.define(&widgets()).await;
    let mut other = crd("others", "Widget", json!([version("v1", true, json!({"type": "object"}))]));
    other["spec"]["names"]["shortNames"] = json!([]);
    Harness::expect(server.post(CRDS, &other).await, 201);
    let path = format!("{CRDS}/others.example.com");
    let refused = server.until(&path, |_, crd| condition(crd, "NamesAccepted").is_some()).await;
    let accepted = condition(&refused, "NamesAccepted").unwrap();
    assert_eq!(accepted["reason"], "ListKindConflict");
    assert_eq!(accepted["message"], "\"WidgetList\" is already in use");
    assert_eq!(server.get("/apis/example.com/v1/namespaces/ns/others").await.0, 404);
    let gone = server.call(Method::DELETE, &format!("{CRDS}/widgets.example.com"), "", Vec::new()).await;
    Harness::expect(gone, 200);
    server.established("others.example.com").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_goes_after_its_objects() {
    let server = Harness::new().await;
    server.define(&widgets()).await;
    Harness::expect(server.post(WIDGETS, &widget("a", json!({"size": 1}))).await, 201);
    let mut held = widget("held", json!({"size": 1}));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    Harness::expect(server.post(WIDGETS, &held).await, 201);
    let path = format!("{CRDS}/widgets.example.com");
    let marked = Harness::expect(server.call(Method::DELETE, &path, "", Vec::new()).await, 200);
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    server.until(&format!("{WIDGETS}/a"), |code, _| code == 404).await;
    let refused = server.post(WIDGETS, &widget("b", json!({"size": 1}))).await;
    let text =
        "widgets.example.com \"b\" is forbidden: create not allowed while custom resource definition is terminating";
    assert_eq!(Harness::expect(refused, 403)["message"], text);
    let free = json!([{"op": "remove", "path": "/metadata/finalizers"}]);
    Harness::expect(server.patch(&format!("{WIDGETS}/held"), "application/json-patch+json", &free).await, 200);
    server.until(&path, |code, _| code == 404).await;
    server.until(WIDGETS, |code, _| code == 404).await;
    server.define(&widgets()).await;
    let list = Harness::expect(server.get(WIDGETS).await, 200);
    assert_eq!(list["items"], json!([]));
}
