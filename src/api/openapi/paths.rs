//! Paths and operations of resources, as version 3 has them (apiserver `endpoints/installer.go`).

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::schemas::{gvk, reference};
use super::{Definitions, Resource, Subresource};
use crate::names::{GroupVersion, Gvk};
use crate::schema::{Type, Types};

/// Names and types of query parameters.
type Parameters = &'static [(&'static str, &'static str)];

const LIST: Parameters = &[
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];
const WRITE: Parameters = &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")];
const PATCH: Parameters =
    &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string"), ("force", "boolean")];
const DELETE: Parameters = &[
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];
const DELETE_COLLECTION: Parameters = &[
    ("continue", "string"),
    ("dryRun", "string"),
    ("fieldSelector", "string"),
    ("gracePeriodSeconds", "integer"),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
];

const MEDIA: &[&str] = &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const STREAMED: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
];
const PATCHES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

pub struct Paths<'a> {
    gv: &'a GroupVersion,
    types: &'a Arc<Types>,
    /// `/apis/apps/v1`
    base: String,
    /// `AppsV1`
    id: String,
    tag: String,
    done: Map<String, Value>,
}

/// What an operation does and to what.
struct Operation<'a> {
    method: &'static str,
    /// `x-kubernetes-action`.
    action: &'static str,
    description: String,
    id: String,
    kind: &'a Gvk,
    parameters: Parameters,
    body: Option<Value>,
    /// Codes with their schema's name.
    responses: Vec<(u16, &'static str)>,
    schema: Value,
    media: &'static [&'static str],
}

/// Where operations of one resource or subresource go.
struct Place<'a> {
    path: String,
    /// `NamespacedPodStatus`
    noun: String,
    kind: &'a Gvk,
    /// Definition of the bodies.
    schema: String,
    /// The kind of the parent, for descriptions.
    parent: &'a str,
    subresource: &'a str,
}

/// `getArticleForNoun` of apiserver's installer.
fn article(noun: &str) -> &'static str {
    if noun.ends_with('s') && !noun.ends_with("ss") {
        ""
    } else if noun.starts_with(['A', 'E', 'I', 'O', 'U']) {
        "an "
    } else {
        "a "
    }
}

fn pascal(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|c| c.to_ascii_uppercase().to_string() + chars.as_str()).unwrap_or_default()
}

impl<'a> Paths<'a> {
    pub fn new(gv: &'a GroupVersion, types: &'a Arc<Types>) -> Self {
        let (base, group) = if gv.group.is_empty() {
            (format!("/api/{}", gv.version), "core".to_owned())
        } else {
            (format!("/apis/{gv}"), gv.group.clone())
        };
        let short = group.strip_suffix(".k8s.io").unwrap_or(&group);
        let parts = short.split(['.', '-']).map(pascal).collect::<String>();
        let tag_group = short.split('.').enumerate();
        let tag_group: String = tag_group.map(|(i, p)| if i == 0 { p.to_owned() } else { pascal(p) }).collect();
        Self {
            gv,
            types,
            base,
            id: format!("{parts}{}", pascal(&gv.version)),
            tag: format!("{tag_group}_{}", gv.version),
            done: Map::new(),
        }
    }

    pub fn finish(mut self) -> Map<String, Value> {
        let path = format!("{}/", self.base);
        let operation = json!({
            "description": "get available resources",
            "operationId": format!("get{}APIResources", self.id),
            "tags": [self.tag],
            "responses": {"200": {"description": "OK"}, "401": {"description": "Unauthorized"}},
        });
        self.done.insert(path, json!({"get": operation}));
        self.done
    }

    pub fn resource(&mut self, resource: &Resource, definition: &str, definitions: &mut Definitions<'_>) {
        let scope = if resource.namespaced { "Namespaced" } else { "" };
        let kind = &resource.gvk.kind;
        let root = if resource.namespaced {
            format!("{}/namespaces/{{namespace}}/{}", self.base, resource.resource)
        } else {
            format!("{}/{}", self.base, resource.resource)
        };
        let place = |path: String, noun: String| Place {
            path,
            noun,
            kind: &resource.gvk,
            schema: definition.to_owned(),
            parent: kind,
            subresource: "",
        };
        let has = |verb: &str| resource.verbs.iter().any(|v| v == verb);
        let custom = matches!(resource.definition, super::Definition::Custom(_));
        let before = if custom { std::mem::take(&mut self.done) } else { Map::new() };
        let collection = place(root.clone(), format!("{scope}{kind}"));
        let list = match &resource.definition {
            super::Definition::Custom(custom) => custom.list_name(),
            super::Definition::Types(_) => format!("{definition}List"),
        };
        if has("list") {
            self.list(&collection, &list, &format!("list{}{}", self.id, collection.noun));
            if resource.namespaced {
                let all = place(format!("{}/{}", self.base, resource.resource), format!("{kind}ForAllNamespaces"));
                self.list(&all, &list, &format!("list{}{}", self.id, all.noun));
            }
        }
        if has("create") {
            self.write("create", &collection, definitions);
        }
        if has("deletecollection") {
            self.write("deletecollection", &collection, definitions);
        }
        let item = place(format!("{root}/{{name}}"), format!("{scope}{kind}"));
        for verb in ["get", "update", "patch", "delete"] {
            if has(verb) {
                self.write(verb, &item, definitions);
            }
        }
        for sub in &resource.subresources {
            self.subresource(resource, sub, &item.path, definition, definitions);
        }
        if custom {
            self.done.values_mut().for_each(super::custom::without_protobuf);
            self.done.extend(before);
        }
    }

    fn subresource(
        &mut self,
        resource: &Resource,
        sub: &Subresource,
        item: &str,
        definition: &str,
        definitions: &mut Definitions<'_>,
    ) {
        let scope = if resource.namespaced { "Namespaced" } else { "" };
        let noun = format!("{scope}{}{}", resource.gvk.kind, pascal(&sub.name));
        let place = |path: String, noun: String, schema: String| Place {
            path,
            noun,
            kind: &sub.gvk,
            schema,
            parent: &resource.gvk.kind,
            subresource: &sub.name,
        };
        let path = format!("{item}/{}", sub.name);
        if sub.gvk.kind.ends_with("Options") {
            self.connect(sub, &place(path.clone(), noun.clone(), String::new()));
            if sub.name == "proxy" {
                self.connect(sub, &place(format!("{path}/{{path}}"), format!("{noun}WithPath"), String::new()));
            }
            return;
        }
        let schema = match &sub.schema {
            None => definition.to_owned(),
            Some(schema) => definitions.want_kind(&schema.types, schema.root, sub.gvk.clone()),
        };
        let place = place(path, noun, schema);
        if sub.name == "log" {
            self.log(&place);
            return;
        }
        for verb in &sub.verbs {
            self.write(verb, &place, definitions);
        }
    }

    fn list(&mut self, place: &Place<'_>, list: &str, id: &str) {
        self.add(
            place,
            Operation {
                method: "get",
                action: "list",
                description: format!("list or watch objects of kind {}", place.kind.kind),
                id: id.to_owned(),
                kind: place.kind,
                parameters: LIST,
                body: None,
                responses: vec![(200, "OK")],
                schema: reference(list),
                media: STREAMED,
            },
        );
    }

    fn write(&mut self, verb: &str, place: &Place<'_>, definitions: &mut Definitions<'_>) {
        let kind = place.parent;
        let what = if place.subresource.is_empty() {
            kind.to_owned()
        } else {
            format!("{} of the specified {kind}", place.subresource)
        };
        let specified = if place.subresource.is_empty() { format!("the specified {what}") } else { what.clone() };
        let own = reference(&place.schema);
        let any = |schema: Value, required: bool| {
            let mut body = json!({"content": {"*/*": {"schema": schema}}});
            if required {
                body["required"] = true.into();
            }
            Some(body)
        };
        let (method, action, description, id_verb, parameters, body, responses): (
            _,
            _,
            _,
            _,
            Parameters,
            Option<Value>,
            &[(u16, &'static str)],
        ) = match verb {
            "get" => ("get", "get", format!("read {specified}"), "read", &[], None, &[(200, "OK")]),
            "create" => {
                let description = if place.subresource.is_empty() {
                    format!("create {}{kind}", article(kind))
                } else {
                    format!("create {} of a {kind}", place.subresource)
                };
                let responses: &[_] = &[(200, "OK"), (201, "Created"), (202, "Accepted")];
                ("post", "post", description, "create", WRITE, any(own.clone(), true), responses)
            }
            "update" => (
                "put",
                "put",
                format!("replace {specified}"),
                "replace",
                WRITE,
                any(own.clone(), true),
                &[(200, "OK"), (201, "Created")],
            ),
            "patch" => {
                let schema = reference(&definitions.patch());
                let content: Map<String, Value> =
                    PATCHES.iter().map(|m| ((*m).to_owned(), json!({"schema": schema}))).collect();
                let body = Some(json!({"content": content, "required": true}));
                let responses: &[_] = &[(200, "OK"), (201, "Created")];
                ("patch", "patch", format!("partially update {specified}"), "patch", PATCH, body, responses)
            }
            "delete" => {
                let body = any(reference(&definitions.meta("DeleteOptions")), false);
                let responses: &[_] = &[(200, "OK"), (202, "Accepted")];
                ("delete", "delete", format!("delete {}{kind}", article(kind)), "delete", DELETE, body, responses)
            }
            "deletecollection" => {
                let body = any(reference(&definitions.meta("DeleteOptions")), false);
                let description = format!("delete collection of {kind}");
                ("delete", "deletecollection", description, "delete", DELETE_COLLECTION, body, &[(200, "OK")])
            }
            _ => return,
        };
        let collection = if verb == "deletecollection" { "Collection" } else { "" };
        let schema = if method == "delete" { reference(&definitions.meta("Status")) } else { own };
        self.add(
            place,
            Operation {
                method,
                action,
                description,
                id: format!("{id_verb}{}{collection}{}", self.id, place.noun),
                kind: place.kind,
                parameters,
                body,
                responses: responses.to_vec(),
                schema,
                media: MEDIA,
            },
        );
    }

    fn connect(&mut self, sub: &Subresource, place: &Place<'_>) {
        let mut methods: Vec<&'static str> = Vec::new();
        for verb in &sub.verbs {
            match verb.as_str() {
                "get" => methods.push("get"),
                "create" => methods.push("post"),
                "update" => methods.push("put"),
                "patch" => methods.push("patch"),
                "delete" => methods.push("delete"),
                _ => {}
            }
        }
        for method in methods {
            let upper = method.to_ascii_uppercase();
            self.add(
                place,
                Operation {
                    method,
                    action: "connect",
                    description: format!("connect {upper} requests to {} of {}", sub.name, place.parent),
                    id: format!("connect{}{}{}", self.id, pascal(method), place.noun),
                    kind: place.kind,
                    parameters: &[],
                    body: None,
                    responses: vec![(200, "OK")],
                    schema: json!({"type": "string"}),
                    media: &["*/*"],
                },
            );
        }
        let options = sub.schema.as_ref().map(|s| s.def().name.to_string());
        self.options(place, options.as_deref());
    }

    fn log(&mut self, place: &Place<'_>) {
        self.add(
            place,
            Operation {
                method: "get",
                action: "get",
                description: format!("read log of the specified {}", place.parent),
                id: format!("read{}{}", self.id, place.noun),
                kind: place.kind,
                parameters: &[],
                body: None,
                responses: vec![(200, "OK")],
                schema: json!({"type": "string"}),
                media: &["text/plain", "application/json", "application/yaml"],
            },
        );
        self.options(place, Some("io.k8s.api.core.v1.PodLogOptions"));
    }

    /// The members of an options type as query parameters.
    fn options(&mut self, place: &Place<'_>, type_name: Option<&str>) {
        let Some(id) = type_name.and_then(|name| self.types.id(name)) else { return };
        let Some(list) = self.done.get_mut(&place.path).and_then(|p| p["parameters"].as_array_mut()) else { return };
        for field in &self.types.def(id).fields {
            let ty = match field.ty {
                Type::Bool => "boolean",
                Type::Int32 | Type::Int64 => "integer",
                _ => "string",
            };
            if !matches!(field.name.as_ref(), "apiVersion" | "kind") {
                list.push(parameter(&field.name, "query", ty));
            }
        }
    }

    fn add(&mut self, place: &Place<'_>, operation: Operation<'_>) {
        let mut responses: Map<String, Value> = operation
            .responses
            .iter()
            .map(|(code, text)| {
                let content: Map<String, Value> =
                    operation.media.iter().map(|m| ((*m).to_owned(), json!({"schema": operation.schema}))).collect();
                (code.to_string(), json!({"description": text, "content": content}))
            })
            .collect();
        responses.insert("401".to_owned(), json!({"description": "Unauthorized"}));
        let mut value = json!({
            "description": operation.description,
            "operationId": operation.id,
            "tags": [self.tag],
            "responses": responses,
            "x-kubernetes-action": operation.action,
            "x-kubernetes-group-version-kind": gvk(operation.kind),
        });
        if !operation.parameters.is_empty() {
            value["parameters"] = operation.parameters.iter().map(|(name, ty)| parameter(name, "query", ty)).collect();
        }
        if let Some(body) = operation.body {
            value["requestBody"] = body;
        }
        let connects = operation.action == "connect";
        let entry = self.done.entry(place.path.clone()).or_insert_with(|| common(place, connects));
        entry[operation.method] = value;
        debug_assert!(place.path.starts_with(&self.base), "{} is outside {}", place.path, self.gv);
    }
}

fn parameter(name: &str, place: &str, ty: &str) -> Value {
    let mut parameter = json!({"name": name, "in": place, "schema": {"type": ty, "uniqueItems": true}});
    if place == "path" {
        parameter["required"] = true.into();
    }
    parameter
}

/// A path item with the parameters that all its operations have.
fn common(place: &Place<'_>, connects: bool) -> Value {
    let mut parameters = Vec::new();
    if place.path.contains("/{name}") {
        let mut name = parameter("name", "path", "string");
        name["description"] = format!("name of the {}", place.kind.kind).into();
        parameters.push(name);
    }
    if place.path.contains("/{namespace}") {
        parameters.push(parameter("namespace", "path", "string"));
    }
    if place.path.ends_with("/{path}") {
        parameters.push(parameter("path", "path", "string"));
    }
    if !connects {
        parameters.push(parameter("pretty", "query", "string"));
    }
    json!({"parameters": parameters})
}
