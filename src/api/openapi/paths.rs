//! Paths and operations of resources, as version 3 has them (apiserver `endpoints/installer.go`).

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::schemas::{gvk, reference};
use super::{Definitions, META, Resource, Subresource, Texts, identifiers};
use crate::names::{GroupVersion, Gvk};
use crate::schema::{Type, Types};

/// Names and types of query parameters, and the options that describe them.
type Parameters = &'static [(&'static str, &'static str, &'static str)];

const LIST: Parameters = &[
    ("allowWatchBookmarks", "boolean", "ListOptions"),
    ("continue", "string", "ListOptions"),
    ("fieldSelector", "string", "ListOptions"),
    ("labelSelector", "string", "ListOptions"),
    ("limit", "integer", "ListOptions"),
    ("resourceVersion", "string", "ListOptions"),
    ("resourceVersionMatch", "string", "ListOptions"),
    ("sendInitialEvents", "boolean", "ListOptions"),
    ("shardSelector", "string", "ListOptions"),
    ("timeoutSeconds", "integer", "ListOptions"),
    ("watch", "boolean", "ListOptions"),
];
const READ: Parameters = &[("resourceVersion", "string", "ListOptions")];
const CREATE: Parameters = &[
    ("dryRun", "string", "CreateOptions"),
    ("fieldManager", "string", "CreateOptions"),
    ("fieldValidation", "string", "CreateOptions"),
];
const UPDATE: Parameters = &[
    ("dryRun", "string", "UpdateOptions"),
    ("fieldManager", "string", "UpdateOptions"),
    ("fieldValidation", "string", "UpdateOptions"),
];
const PATCH: Parameters = &[
    ("dryRun", "string", "PatchOptions"),
    ("fieldManager", "string", "PatchOptions"),
    ("fieldValidation", "string", "PatchOptions"),
    ("force", "boolean", "PatchOptions"),
];
const DELETE: Parameters = &[
    ("dryRun", "string", "DeleteOptions"),
    ("gracePeriodSeconds", "integer", "DeleteOptions"),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean", "DeleteOptions"),
    ("orphanDependents", "boolean", "DeleteOptions"),
    ("propagationPolicy", "string", "DeleteOptions"),
];
const DELETE_COLLECTION: Parameters = &[
    ("continue", "string", "ListOptions"),
    ("dryRun", "string", "DeleteOptions"),
    ("fieldSelector", "string", "ListOptions"),
    ("gracePeriodSeconds", "integer", "DeleteOptions"),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean", "DeleteOptions"),
    ("labelSelector", "string", "ListOptions"),
    ("limit", "integer", "ListOptions"),
    ("orphanDependents", "boolean", "DeleteOptions"),
    ("propagationPolicy", "string", "DeleteOptions"),
    ("resourceVersion", "string", "ListOptions"),
    ("resourceVersionMatch", "string", "ListOptions"),
    ("sendInitialEvents", "boolean", "ListOptions"),
    ("shardSelector", "string", "ListOptions"),
    ("timeoutSeconds", "integer", "ListOptions"),
];
const PRETTY: &str = "If 'true', then the output is pretty printed. Defaults to 'false' unless the user-agent indicates a \
    browser or command-line HTTP tool (curl and wget).";

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
    texts: &'a Texts,
    /// `/apis/apps/v1`
    base: String,
    /// `AppsV1`
    id: String,
    tag: String,
    /// Operations by method, by path.
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
    /// The type whose members are parameters too.
    options: Option<String>,
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
    pub fn new(gv: &'a GroupVersion, types: &'a Arc<Types>, texts: &'a Texts) -> Self {
        let (base, group) = if gv.group.is_empty() {
            (format!("/api/{}", gv.version), "core".to_owned())
        } else {
            (format!("/apis/{gv}"), gv.group.clone())
        };
        let (parts, tag_group) = identifiers::names(&group);
        Self {
            gv,
            types,
            texts,
            base,
            id: format!("{parts}{}", pascal(&gv.version)),
            tag: format!("{tag_group}_{}", gv.version),
            done: Map::new(),
        }
    }

    /// `discovery`: the version's own document is one of the paths.
    pub fn finish(mut self, definitions: &mut Definitions<'_>, discovery: bool) -> Map<String, Value> {
        if !discovery {
            self.done.values_mut().filter_map(Value::as_object_mut).for_each(hoist);
            return self.done;
        }
        let path = format!("{}/", self.base);
        let schema = reference(&definitions.meta("APIResourceList"));
        let content: Map<String, Value> =
            MEDIA.iter().map(|media| ((*media).to_owned(), json!({"schema": schema}))).collect();
        let operation = json!({
            "description": "get available resources",
            "operationId": format!("get{}APIResources", self.id),
            "tags": [self.tag],
            "responses": {
                "200": {"description": "OK", "content": content}, "401": {"description": "Unauthorized"},
            },
        });
        self.done.insert(path, json!({"get": operation}));
        self.done.values_mut().filter_map(Value::as_object_mut).for_each(hoist);
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
            let what = if has("watch") && !custom { "list or watch" } else { "list" };
            self.list(&collection, &list, &format!("list{}{}", self.id, collection.noun), what);
            if resource.namespaced {
                let all = place(format!("{}/{}", self.base, resource.resource), format!("{kind}ForAllNamespaces"));
                self.list(&all, &list, &format!("list{}{}", self.id, all.noun), what);
            }
        }
        if has("watch") && !custom {
            let below = |path: &str| format!("{}/watch{}", self.base, path.strip_prefix(&self.base).unwrap_or(path));
            let one = place(below(&format!("{root}/{{name}}")), format!("{scope}{kind}"));
            let some = place(below(&root), format!("{scope}{kind}List"));
            let all =
                place(below(&format!("{}/{}", self.base, resource.resource)), format!("{kind}ListForAllNamespaces"));
            self.watch("watch", &one, definitions);
            self.watch("watchlist", &some, definitions);
            if resource.namespaced {
                self.watch("watchlist", &all, definitions);
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
                let verb = match verb {
                    "delete" if resource.returns_deleted => "remove",
                    "get" if custom => "read",
                    verb => verb,
                };
                self.write(verb, &item, definitions);
            }
        }
        for sub in &resource.subresources {
            self.subresource(resource, sub, &item.path, definition, definitions);
        }
        if custom {
            let list = self.done.values().find_map(|item| {
                let get = item.get("get").filter(|get| get["x-kubernetes-action"] == "list")?;
                get["parameters"].as_array().cloned()
            });
            let list = list.unwrap_or_default();
            for item in self.done.values_mut().filter_map(Value::as_object_mut) {
                super::custom::adapt(item, &list);
            }
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
        let custom = matches!(resource.definition, super::Definition::Custom(_));
        let noun = format!("{scope}{}{}", resource.gvk.kind, pascal(&sub.name));
        let place = |path: String, noun: String, schema: String| Place {
            path,
            noun,
            // The builder for definitions says the parent's kind of scales too.
            kind: if custom { &resource.gvk } else { &sub.gvk },
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
            let verb = if custom && verb == "get" { "read" } else { verb.as_str() };
            self.write(verb, &place, definitions);
        }
    }

    /// The older way to watch, by path.
    fn watch(&mut self, action: &'static str, place: &Place<'_>, definitions: &mut Definitions<'_>) {
        let kind = &place.kind.kind;
        let deprecated = "deprecated: use the 'watch' parameter with a list operation instead";
        let description = if action == "watch" {
            let how = "filtered to a single item with the 'fieldSelector' parameter";
            format!("watch changes to an object of kind {kind}. {deprecated}, {how}.")
        } else {
            format!("watch individual changes to a list of {kind}. {deprecated}.")
        };
        self.add(
            place,
            Operation {
                method: "get",
                action,
                description,
                id: format!("watch{}{}", self.id, place.noun),
                kind: place.kind,
                parameters: LIST,
                options: None,
                body: None,
                responses: vec![(200, "OK")],
                schema: reference(&definitions.meta("WatchEvent")),
                media: STREAMED,
            },
        );
    }

    fn list(&mut self, place: &Place<'_>, list: &str, id: &str, what: &str) {
        self.add(
            place,
            Operation {
                method: "get",
                action: "list",
                description: format!("{what} objects of kind {}", place.kind.kind),
                id: id.to_owned(),
                kind: place.kind,
                parameters: LIST,
                options: None,
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
            "read" => ("get", "get", format!("read {specified}"), "read", READ, None, &[(200, "OK")]),
            "create" => {
                let description = if place.subresource.is_empty() {
                    format!("create {}{kind}", article(kind))
                } else {
                    format!("create {} of a {kind}", place.subresource)
                };
                let responses: &[_] = &[(200, "OK"), (201, "Created"), (202, "Accepted")];
                ("post", "post", description, "create", CREATE, any(own.clone(), true), responses)
            }
            "update" => (
                "put",
                "put",
                format!("replace {specified}"),
                "replace",
                UPDATE,
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
            "delete" | "remove" => {
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
        let schema = if method == "delete" && verb != "remove" { reference(&definitions.meta("Status")) } else { own };
        self.add(
            place,
            Operation {
                method,
                action,
                description,
                id: format!("{id_verb}{}{collection}{}", self.id, place.noun),
                kind: place.kind,
                parameters,
                options: None,
                body,
                responses: responses.to_vec(),
                schema,
                media: MEDIA,
            },
        );
    }

    fn connect(&mut self, sub: &Subresource, place: &Place<'_>) {
        let options = sub.schema.as_ref().map(|s| s.def().name.to_string());
        // `ConnectMethods` of proxies are more than discovery has words for.
        let mut methods: Vec<&'static str> = if sub.name == "proxy" { vec!["head", "options"] } else { Vec::new() };
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
                    options: options.clone(),
                    body: None,
                    responses: vec![(200, "OK")],
                    schema: json!({"type": "string"}),
                    media: &["*/*"],
                },
            );
        }
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
                options: Some("io.k8s.api.core.v1.PodLogOptions".to_owned()),
                body: None,
                responses: vec![(200, "OK")],
                schema: json!({"type": "string"}),
                media: &["text/plain", "application/json", "application/yaml", "application/vnd.kubernetes.protobuf"],
            },
        );
    }

    /// The members of an options type as query parameters.
    fn options<'n>(&'n self, type_name: &'n str) -> impl Iterator<Item = Value> + 'n {
        let fields = self.types.id(type_name).map(|id| &self.types.def(id).fields);
        // Times are no parameters (apiserver's installer `addObjectParams`).
        let fields = fields.into_iter().flatten().filter(|f| !matches!(f.ty, Type::Time));
        let fields = fields.filter(|f| !matches!(f.name.as_ref(), "apiVersion" | "kind"));
        fields.map(|field| {
            let ty = match &field.ty {
                Type::List(inner) => inner.as_ref(),
                ty => ty,
            };
            let ty = match ty {
                Type::Bool => "boolean",
                Type::Int32 | Type::Int64 => "integer",
                _ => "string",
            };
            parameter(&field.name, "query", ty, self.text(type_name, &field.name))
        })
    }

    fn text(&self, type_name: &str, property: &str) -> &str {
        self.texts.get(type_name).and_then(|(_, properties)| properties.get(property)).map_or("", String::as_str)
    }

    /// Every parameter of an operation.
    fn parameters(&self, place: &Place<'_>, operation: &Operation<'_>) -> Vec<Value> {
        let mut all = Vec::new();
        if place.path.contains("/{name}") {
            all.push(parameter("name", "path", "string", &format!("name of the {}", place.kind.kind)));
        }
        if place.path.contains("/{namespace}") {
            let text = "object name and auth scope, such as for teams and projects";
            all.push(parameter("namespace", "path", "string", text));
        }
        if place.path.ends_with("/{path}") {
            all.push(parameter("path", "path", "string", "path to the resource"));
        }
        if operation.action != "connect" {
            all.push(parameter("pretty", "query", "string", PRETTY));
        }
        for (name, ty, owner) in operation.parameters {
            all.push(parameter(name, "query", ty, self.text(&format!("{META}.{owner}"), name)));
        }
        if let Some(options) = &operation.options {
            all.extend(self.options(options));
        }
        all.sort_by_cached_key(key_of);
        all
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
        let parameters = self.parameters(place, &operation);
        if !parameters.is_empty() {
            value["parameters"] = parameters.into();
        }
        if let Some(body) = operation.body {
            value["requestBody"] = body;
        }
        let entry = self.done.entry(place.path.clone()).or_insert_with(|| json!({}));
        entry[operation.method] = value;
        debug_assert!(place.path.starts_with(&self.base), "{} is outside {}", place.path, self.gv);
    }
}

fn parameter(name: &str, place: &str, ty: &str, text: &str) -> Value {
    let mut parameter = json!({"name": name, "in": place, "schema": {"type": ty, "uniqueItems": true}});
    if place == "path" {
        parameter["required"] = true.into();
    }
    if !text.is_empty() {
        parameter["description"] = text.into();
    }
    parameter
}

/// What tells a parameter from others: its name and where it stands.
fn key_of(parameter: &Value) -> (String, String) {
    let text = |member: &str| parameter[member].as_str().unwrap_or_default().to_owned();
    (text("name"), text("in"))
}

/// Moves the parameters that all operations of a path have to the path (kube-openapi `findCommonParameters`).
fn hoist(item: &mut Map<String, Value>) {
    let lists = || item.values().map(|o| o["parameters"].as_array().map(Vec::as_slice).unwrap_or_default());
    let Some(first) = lists().next() else { return };
    let has = |list: &[Value], key: &(String, String)| list.iter().any(|p| key_of(p) == *key);
    let common: Vec<Value> = first.iter().filter(|p| lists().all(|list| has(list, &key_of(p)))).cloned().collect();
    let keys: Vec<(String, String)> = common.iter().map(key_of).collect();
    for operation in item.values_mut().filter_map(Value::as_object_mut) {
        let Some(Value::Array(list)) = operation.get_mut("parameters") else { continue };
        list.retain(|p| !keys.contains(&key_of(p)));
        if list.is_empty() {
            operation.remove("parameters");
        }
    }
    if !common.is_empty() {
        item.insert("parameters".to_owned(), common.into());
    }
}
