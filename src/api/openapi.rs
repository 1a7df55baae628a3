//! OpenAPI documents of the served kinds: version 3 for each group and version, version 2 for all of them.
//!
//! They are made from schemas and the facts of resources when somebody asks, and kept compressed, so that a server that
//! is never asked holds nothing. Facts are of upstream's form (kubectl reads them); descriptions are added from outside.

mod custom;
mod documents;
mod gnostic;
mod gnostic3;
mod identifiers;
mod merge;
mod paths;
mod plain;
mod schemas;
mod v2;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use serde_json::{Map, Value, json};

pub use self::custom::Custom;
pub use self::documents::{Document, Documents};
pub use self::gnostic::encode as encode_v2;
pub use self::gnostic3::encode as encode_v3;
pub use self::merge::{merge, part_of, to_v3};
pub use self::plain::Plain;
use crate::kind::KindDef;
use crate::names::{GroupVersion, Gvk};
use crate::schema::{Schema, TypeId, Types};

/// Descriptions by definition name: of the type itself, and of its properties by JSON name.
pub type Texts = BTreeMap<String, (String, BTreeMap<String, String>)>;

/// A served resource, as documents describe it.
#[derive(Debug, Clone)]
pub struct Resource {
    pub gvk: Gvk,
    pub list_kind: String,
    pub resource: String,
    pub namespaced: bool,
    pub verbs: Vec<String>,
    pub definition: Definition,
    pub subresources: Vec<Subresource>,
    /// Deletions answer with the object.
    pub returns_deleted: bool,
}

/// Where the schema of a kind comes from.
#[derive(Debug, Clone)]
pub enum Definition {
    Types(Schema),
    /// A version of a CRD.
    Custom(Custom),
}

#[derive(Debug, Clone)]
pub struct Subresource {
    pub name: String,
    /// What its bodies are.
    pub gvk: Gvk,
    /// `None` for the parent's own definition.
    pub schema: Option<Schema>,
    pub verbs: Vec<String>,
}

impl From<&KindDef> for Resource {
    fn from(def: &KindDef) -> Self {
        let owned = |verbs: &[&str]| verbs.iter().map(|v| (*v).to_owned()).collect();
        Self {
            gvk: def.gvk.clone(),
            list_kind: def.list_kind.clone(),
            resource: def.resource.clone(),
            namespaced: def.namespaced,
            verbs: owned(def.verbs),
            returns_deleted: def.returns_deleted,
            definition: match &def.custom {
                None => Definition::Types(def.schema.clone()),
                Some(custom) => Definition::Custom(Custom {
                    definition: custom.definition.clone(),
                    gvk: def.gvk.clone(),
                    list_kind: def.list_kind.clone(),
                    plural: def.resource.clone(),
                    selectable: def.selectable_fields.iter().map(|f| f.path.to_string()).collect(),
                }),
            },
            subresources: def
                .subresources
                .iter()
                .map(|sub| Subresource {
                    name: sub.name.to_owned(),
                    gvk: sub.gvk.clone(),
                    schema: (sub.gvk != def.gvk).then(|| sub.schema.clone()),
                    verbs: owned(sub.verbs),
                })
                .collect(),
        }
    }
}

/// Names of the types that every document uses.
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
/// The body of a patch: a definition without a struct.
const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";

/// Makes documents.
pub struct Builder<'a> {
    /// The table with the types of meta/v1, for kinds from CRDs.
    pub meta: &'a Arc<Types>,
    pub texts: &'a Texts,
}

impl Builder<'_> {
    /// The version 3 document of one group and version.
    pub fn v3(&self, gv: &GroupVersion, resources: &[Resource]) -> Value {
        let mut definitions = Definitions::new(self, gv);
        let mut paths = paths::Paths::new(gv, self.meta, self.texts);
        for resource in resources {
            let name = definitions.resource(resource);
            paths.resource(resource, &name, &mut definitions);
        }
        let custom = !resources.is_empty() && resources.iter().all(|r| matches!(r.definition, Definition::Custom(_)));
        let paths = paths.finish(&mut definitions, !custom);
        let mut document = document(paths, definitions.finish());
        if custom {
            document["info"] = json!({"title": "Kubernetes CRD Swagger", "version": "v0.1.0"});
            document["components"].as_object_mut().map(|components| components.remove("securitySchemes"));
        }
        document
    }

    /// The version 3 document of what is served beside resources.
    pub fn v3_plain(&self, place: &Plain) -> Value {
        let gv = GroupVersion::new("", "v1");
        let mut definitions = Definitions::new(self, &gv);
        let paths = plain::paths(place, &mut definitions);
        document(paths, definitions.finish())
    }

    /// Descriptions of what every object says of its type, from one of those that do.
    fn type_meta(&self) -> custom::TypeMeta<'_> {
        let texts = self.texts.get(&format!("{META}.Status")).map(|(_, properties)| properties);
        let text = |name: &str| texts.and_then(|t| t.get(name)).map_or("", String::as_str);
        custom::TypeMeta { api_version: text("apiVersion"), kind: text("kind") }
    }

    /// What kinds of CRDs add to the version 2 document: paths and definitions. What they share with built-in kinds is
    /// theirs.
    pub fn v2_custom(&self, groups: &[(GroupVersion, Vec<Resource>)]) -> (Map<String, Value>, Map<String, Value>) {
        let mut document = v2::Merger::default();
        let mut own = BTreeSet::new();
        for (gv, resources) in groups {
            document.add(self.v3(gv, resources));
            for resource in resources {
                if let Definition::Custom(custom) = &resource.definition {
                    document.replace(custom.name(), custom.schema(&self.type_meta(), true));
                    own.extend([custom.name(), custom.list_name()]);
                }
            }
        }
        document.into_parts(&own)
    }

    /// The version 2 document of everything that is served.
    pub fn v2(&self, groups: &[(GroupVersion, Vec<Resource>)]) -> Value {
        let mut document = v2::Merger::default();
        for place in Plain::all(groups) {
            document.add(self.v3_plain(&place));
        }
        for (gv, resources) in groups {
            document.add(self.v3(gv, resources));
            for resource in resources {
                if let Definition::Custom(custom) = &resource.definition {
                    document.replace(custom.name(), custom.schema(&self.type_meta(), true));
                }
            }
        }
        document.finish()
    }
}

fn document(paths: Map<String, Value>, schemas: Map<String, Value>) -> Value {
    let mut components = json!({
        "securitySchemes": {"BearerToken": {
            "type": "apiKey", "description": "Bearer Token authentication",
            "name": "authorization", "in": "header"
        }},
    });
    if !schemas.is_empty() {
        components["schemas"] = schemas.into();
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": documents::VERSION},
        "paths": paths,
        "components": components,
    })
}

/// The definitions of one document, each made once.
struct Definitions<'a> {
    builder: &'a Builder<'a>,
    gv: &'a GroupVersion,
    done: Map<String, Value>,
    /// Kinds by definition name, for `x-kubernetes-group-version-kind`.
    kinds: BTreeMap<String, BTreeSet<Gvk>>,
    queue: VecDeque<(Arc<Types>, TypeId)>,
    wanted: BTreeSet<String>,
}

impl<'a> Definitions<'a> {
    fn new(builder: &'a Builder<'a>, gv: &'a GroupVersion) -> Self {
        Self { builder, gv, done: Map::new(), kinds: BTreeMap::new(), queue: VecDeque::new(), wanted: BTreeSet::new() }
    }

    /// Takes in a type and returns its definition's name.
    fn want(&mut self, types: &Arc<Types>, id: TypeId) -> String {
        let name = types.def(id).name.to_string();
        if self.wanted.insert(name.clone()) {
            self.queue.push_back((types.clone(), id));
        }
        name
    }

    /// Takes in a type that is a kind.
    fn want_kind(&mut self, types: &Arc<Types>, id: TypeId, gvk: Gvk) -> String {
        let name = self.want(types, id);
        self.kinds.entry(name.clone()).or_default().insert(gvk);
        name
    }

    /// A type of meta/v1 that is a kind in every group (`Status`, `DeleteOptions` …).
    fn meta(&mut self, kind: &str) -> String {
        let full = format!("{META}.{kind}");
        let Some(id) = self.builder.meta.id(&full) else { return full };
        if matches!(kind, "DeleteOptions" | "WatchEvent") {
            let gvk = Gvk::new(self.gv.group.clone(), self.gv.version.clone(), kind);
            self.want_kind(self.builder.meta, id, gvk);
        }
        self.want_kind(self.builder.meta, id, Gvk::new("", "v1", kind))
    }

    fn patch(&mut self) -> String {
        if !self.done.contains_key(PATCH) {
            let mut schema = json!({"type": "object"});
            schemas::describe(&mut schema, self.builder.texts.get(PATCH).map(|t| t.0.as_str()));
            self.done.insert(PATCH.to_owned(), schema);
        }
        PATCH.to_owned()
    }

    /// Takes in a resource's kind and its list, and returns the name of the kind's definition.
    fn resource(&mut self, resource: &Resource) -> String {
        let list_gvk = Gvk { kind: resource.list_kind.clone(), ..resource.gvk.clone() };
        let has_list = resource.verbs.iter().any(|v| v == "list");
        match &resource.definition {
            Definition::Types(schema) => {
                let name = self.want_kind(&schema.types, schema.root, resource.gvk.clone());
                if has_list && let Some(id) = schema.types.id(&format!("{name}List")) {
                    self.want_kind(&schema.types, id, list_gvk);
                }
                name
            }
            Definition::Custom(custom) => {
                let texts = self.builder.type_meta();
                self.done.insert(custom.name(), custom.schema(&texts, false));
                self.done.insert(custom.list_name(), custom.list_schema(&texts));
                for kind in ["ObjectMeta", "ListMeta"] {
                    if let Some(id) = self.builder.meta.id(&format!("{META}.{kind}")) {
                        self.want(self.builder.meta, id);
                    }
                }
                custom.name()
            }
        }
    }

    fn finish(mut self) -> Map<String, Value> {
        while let Some((types, id)) = self.queue.pop_front() {
            let name = types.def(id).name.to_string();
            let text = self.builder.texts.get(&name);
            let (mut schema, references) = schemas::structure(&types, id, text);
            schemas::add_missing(&name, &mut schema);
            if let Some(kinds) = self.kinds.get(&name) {
                schema["x-kubernetes-group-version-kind"] = kinds.iter().map(schemas::gvk).collect();
            } else if let Some(kind) = name.strip_prefix("io.k8s.api.core.v1.").filter(|_| is_kind(&types, id)) {
                // A kind within others (claims of stateful sets).
                schema["x-kubernetes-group-version-kind"] = json!([schemas::gvk(&Gvk::new("", "v1", kind))]);
            }
            self.done.insert(name, schema);
            for reference in references {
                match reference {
                    schemas::Reference::Struct(id) => {
                        self.want(&types, id);
                    }
                    schemas::Reference::Scalar(name) => {
                        if !self.done.contains_key(name) {
                            let mut schema = schemas::scalar(name);
                            schemas::describe(&mut schema, self.builder.texts.get(name).map(|t| t.0.as_str()));
                            self.done.insert(name.to_owned(), schema);
                        }
                    }
                }
            }
        }
        self.done
    }
}

/// Whether a type is an object of its own.
fn is_kind(types: &Types, id: TypeId) -> bool {
    let def = types.def(id);
    ["apiVersion", "kind", "metadata"].iter().all(|name| def.field(name).is_some())
}
