//! The table of struct types: every type that a served kind reaches.
//!
//! Go's declarations say the JSON names, protobuf numbers, pointers and omission rules; the OpenAPI documents say what
//! is required, how lists merge and what defaults are. The two are compared on the way.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::go::{Body, Decl, Member, Package};
use super::modules::Modules;
use super::resources::Resource;
use super::spec::{PropertyFacts, Spec};

const META: &str = "k8s.io/apimachinery/pkg/apis/meta/v1";
const CORE: &str = "k8s.io/api/core/v1";

/// Types that no served kind reaches but that the API speaks.
const EXTRA: &[(&str, &[&str])] = &[
    (
        META,
        &[
            "Status",
            "DeleteOptions",
            "ListOptions",
            "GetOptions",
            "CreateOptions",
            "UpdateOptions",
            "PatchOptions",
            "ApplyOptions",
            "Table",
            "TableOptions",
            "PartialObjectMetadata",
            "PartialObjectMetadataList",
            "WatchEvent",
            "APIResourceList",
            "APIGroup",
            "APIGroupList",
            "APIVersions",
            "List",
            "ListMeta",
        ],
    ),
    (
        CORE,
        &[
            "PodLogOptions",
            "PodExecOptions",
            "PodAttachOptions",
            "PodPortForwardOptions",
            "PodProxyOptions",
            "NodeProxyOptions",
            "ServiceProxyOptions",
            "RangeAllocation",
            "SerializedReference",
        ],
    ),
    ("k8s.io/api/apidiscovery/v2", &["APIGroupDiscoveryList"]),
    ("k8s.io/api/admission/v1", &["AdmissionReview"]),
    ("k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1", &["ConversionReview"]),
];

/// Types with an encoding of their own, by OpenAPI name.
const SCALARS: &[(&str, &str)] = &[
    ("io.k8s.apimachinery.pkg.api.resource.Quantity", "quantity"),
    ("io.k8s.apimachinery.pkg.util.intstr.IntOrString", "intorstring"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.Time", "time"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime", "microtime"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.Duration", "duration"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1", "fieldsv1"),
    ("io.k8s.apimachinery.pkg.runtime.RawExtension", "raw"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON", "json"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray", "schemaorarray"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool", "schemaorbool"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray", "schemaorstrings"),
];

pub fn write(modules: &Modules, spec: &Spec, resources: &[Resource]) -> anyhow::Result<String> {
    let mut reader = Reader { modules, packages: BTreeMap::new(), queue: VecDeque::new(), seen: BTreeSet::new() };
    for resource in resources {
        let names = [&resource.type_name].into_iter().chain(resource.subresources.iter().map(|s| &s.type_name));
        for name in names {
            let (package, ty) = split(name)?;
            reader.want(&package, &ty);
        }
        let (package, ty) = split(&resource.type_name)?;
        if reader.package(&package)?.types.contains_key(&format!("{ty}List")) {
            reader.want(&package, &format!("{ty}List"));
        }
    }
    for (package, names) in EXTRA {
        for name in *names {
            reader.want(package, name);
        }
    }
    let mut tables = BTreeMap::new();
    while let Some((package, name)) = reader.queue.pop_front() {
        let text = reader.structure(&package, &name, spec).with_context(|| format!("{package}.{name}"))?;
        tables.insert(openapi_name(&package, &name), text);
    }
    let mut out =
        String::from("# Written by `cargo run -p xtask -- schema`; see src/api/schema/facts.rs for the format.\n");
    out.extend(tables.into_values());
    Ok(out)
}

/// `k8s.io/api/core/v1`, `Pod` to `io.k8s.api.core.v1.Pod`.
fn openapi_name(package: &str, name: &str) -> String {
    format!("io.{}.{name}", package.replacen("k8s.io", "k8s", 1).replace('/', "."))
}

/// The inverse of [`openapi_name`].
fn split(openapi: &str) -> anyhow::Result<(String, String)> {
    let rest = openapi.strip_prefix("io.k8s.").with_context(|| format!("{openapi} is not a Kubernetes type"))?;
    let (package, name) = rest.rsplit_once('.').with_context(|| openapi.to_owned())?;
    Ok((format!("k8s.io/{}", package.replace('.', "/")), name.to_owned()))
}

struct Reader<'a> {
    modules: &'a Modules,
    packages: BTreeMap<String, std::rc::Rc<Package>>,
    queue: VecDeque<(String, String)>,
    seen: BTreeSet<(String, String)>,
}

/// A resolved Go type.
struct Resolved {
    /// In the table's words.
    text: String,
    pointer: bool,
    shape: Shape,
    /// Go's name of the innermost scalar if it has one (`v1.PullPolicy`).
    go_name: Option<String>,
    enums: Vec<String>,
    /// A named list that protobuf wraps in a message of its own.
    wrapped: bool,
}

#[derive(PartialEq, Clone, Copy, Debug)]
enum Shape {
    Scalar,
    Struct,
    List,
    Map,
    Other,
}

/// Where a field sits: the struct it is declared in, and the numbers of the inlined messages around it.
#[derive(Clone)]
struct Place {
    package: String,
    wrap: Vec<u32>,
    /// Inlined in JSON only, as `TypeMeta` is: protobuf does not have these fields.
    json_only: bool,
}

impl Reader<'_> {
    fn want(&mut self, package: &str, name: &str) {
        let key = (package.to_owned(), name.to_owned());
        if self.seen.insert(key.clone()) {
            self.queue.push_back(key);
        }
    }

    fn package(&mut self, path: &str) -> anyhow::Result<std::rc::Rc<Package>> {
        if let Some(package) = self.packages.get(path) {
            return Ok(package.clone());
        }
        let dir = self.modules.package(path).with_context(|| format!("{path} is in no pinned module"))?;
        let package = std::rc::Rc::new(Package::read(&dir)?);
        self.packages.insert(path.to_owned(), package.clone());
        Ok(package)
    }

    fn structure(&mut self, path: &str, name: &str, spec: &Spec) -> anyhow::Result<String> {
        let package = self.package(path)?;
        let decl = package.types.get(name).context("no such type")?;
        let full = openapi_name(path, name);
        let schema = spec.schema(&full);
        let mut fields = Vec::new();
        let place = Place { package: path.to_owned(), wrap: Vec::new(), json_only: false };
        self.fields(decl, &place, schema, &full, &mut fields)?;
        if let Some(message) = package.messages.get(name) {
            let found: BTreeSet<u32> = fields.iter().filter_map(|(key, _)| key.first().copied()).collect();
            let want: BTreeSet<u32> = message.iter().map(|(number, _)| *number).collect();
            let missing: Vec<_> = want.difference(&found).collect();
            ensure!(missing.is_empty(), "generated.proto has numbers {missing:?} that the struct tags have not");
        }
        if let Some(properties) = schema.and_then(|s| s.get("properties")).and_then(Value::as_object) {
            ensure!(properties.len() == fields.len(), "{} properties, {} fields", properties.len(), fields.len());
        }
        fields.sort_by(|a, b| a.0.cmp(&b.0));
        let atomic = decl.markers.iter().any(|m| m == "structType=atomic" || m == "mapType=atomic")
            || schema.and_then(|s| s.get("x-kubernetes-map-type")) == Some(&Value::from("atomic"));
        let mut out = format!("={full}{}\n", if atomic { " atomic" } else { "" });
        for (_, line) in fields {
            out.push_str(&line);
            out.push('\n');
        }
        Ok(out)
    }

    fn fields(
        &mut self,
        decl: &Decl,
        place: &Place,
        schema: Option<&Value>,
        owner: &str,
        out: &mut Vec<(Vec<u32>, String)>,
    ) -> anyhow::Result<()> {
        let Body::Struct(members) = &decl.body else { bail!("not a struct") };
        for member in members {
            let json = member.tags.get("json").map(String::as_str).unwrap_or_default();
            let json_name = json.split(',').next().unwrap_or_default();
            if json_name == "-" {
                continue;
            }
            if member.embedded && json_name.is_empty() {
                self.inline(member, decl, place, schema, owner, out)?;
            } else if !json_name.is_empty() {
                let field = self.field(member, decl, place, schema, owner).with_context(|| json_name.to_owned())?;
                out.push(field);
            }
        }
        Ok(())
    }

    fn inline(
        &mut self,
        member: &Member,
        decl: &Decl,
        place: &Place,
        schema: Option<&Value>,
        owner: &str,
        out: &mut Vec<(Vec<u32>, String)>,
    ) -> anyhow::Result<()> {
        ensure!(!member.ty.starts_with('*'), "an inlined pointer: {}", member.ty);
        let (path, name) = self.locate(&member.ty, &place.package, decl)?;
        let package = self.package(&path)?;
        let inner = package.types.get(&name).with_context(|| format!("{path}.{name}"))?;
        let mut wrap = place.wrap.clone();
        wrap.extend(number(member));
        ensure!(wrap.len() <= 2, "inlined more than twice");
        let json_only = place.json_only || number(member).is_none();
        self.fields(inner, &Place { package: path, wrap, json_only }, schema, owner, out)
    }

    fn field(
        &mut self,
        member: &Member,
        decl: &Decl,
        place: &Place,
        schema: Option<&Value>,
        owner: &str,
    ) -> anyhow::Result<(Vec<u32>, String)> {
        let json = member.tags.get("json").map(String::as_str).unwrap_or_default();
        let (name, options) = json.split_once(',').unwrap_or((json, ""));
        let omit_empty = options.split(',').any(|o| o == "omitempty");
        let omit_zero = options.split(',').any(|o| o == "omitzero");
        let resolved = self.resolve(&member.ty, &place.package, decl, owner)?;
        let proto = if place.json_only { None } else { number(member) };
        let mut key = place.wrap.clone();
        key.push(proto.unwrap_or(0));
        let numbers: Vec<String> = key.iter().map(u32::to_string).collect();
        let mut line = format!("{name} {} {}", resolved.text, numbers.join("."));
        if resolved.pointer {
            line.push_str(" *");
        }
        match (omit_empty, omit_zero) {
            (_, true) => line.push_str(" zero"),
            (true, false) => {}
            (false, false) => line.push_str(" always"),
        }
        let facts = match schema {
            Some(schema) => {
                let mut facts =
                    PropertyFacts::of(schema, name).with_context(|| format!("the OpenAPI document has no {name}"))?;
                let marked = member.markers.iter().any(|m| m.starts_with("default="));
                if !marked {
                    // What is left are zero values that Go's OpenAPI generator adds by rule.
                    facts.default = None;
                }
                facts
            }
            None => from_markers(member, omit_empty || omit_zero)?,
        };
        self.print_facts(&mut line, member, &resolved, &facts);
        Ok((key, line))
    }

    fn print_facts(&self, line: &mut String, member: &Member, resolved: &Resolved, facts: &PropertyFacts) {
        if facts.required {
            line.push_str(" required");
        }
        if resolved.wrapped {
            line.push_str(" message");
        }
        match facts.list_type.as_deref() {
            Some("map") => {
                let _ = write!(line, " list=map:{}", facts.list_map_keys.join(","));
            }
            Some(kind) => {
                let _ = write!(line, " list={kind}");
            }
            None => {}
        }
        if facts.atomic {
            line.push_str(" atomic");
        }
        if facts.granular {
            line.push_str(" granular");
        }
        if let Some(strategy) = member.tags.get("patchStrategy") {
            let _ = write!(line, " patch={strategy}");
        }
        if let Some(key) = member.tags.get("patchMergeKey") {
            let _ = write!(line, " key={key}");
        }
        if let Some(go_name) = &resolved.go_name {
            let _ = write!(line, " go={go_name}");
        }
        if !resolved.enums.is_empty() {
            let _ = write!(line, " enum={}", resolved.enums.join("|").replace(' ', "~"));
        }
        // Last, because it may hold anything but a line break.
        if let Some(default) = &facts.default {
            let _ = write!(line, " default={default}");
        }
    }

    /// Package and name of a named type as written in a file of `package`.
    fn locate(&self, ty: &str, package: &str, decl: &Decl) -> anyhow::Result<(String, String)> {
        match ty.split_once('.') {
            None => Ok((package.to_owned(), ty.to_owned())),
            Some((alias, name)) => {
                let path = decl.imports.get(alias).with_context(|| format!("no import {alias}"))?;
                Ok((path.clone(), name.to_owned()))
            }
        }
    }

    fn resolve(&mut self, ty: &str, package: &str, decl: &Decl, owner: &str) -> anyhow::Result<Resolved> {
        let plain = |text: &str, shape| Resolved {
            text: text.to_owned(),
            pointer: false,
            shape,
            go_name: None,
            enums: Vec::new(),
            wrapped: false,
        };
        if let Some(inner) = ty.strip_prefix('*') {
            let resolved = self.resolve(inner, package, decl, owner)?;
            ensure!(!resolved.pointer, "a pointer to a pointer");
            return Ok(Resolved { pointer: true, ..resolved });
        }
        if ty == "[]byte" {
            return Ok(plain("bytes", Shape::Other));
        }
        if let Some(inner) = ty.strip_prefix("[]") {
            let resolved = self.resolve(inner, package, decl, owner)?;
            return Ok(Resolved {
                text: format!("[]{}", resolved.text),
                shape: Shape::List,
                wrapped: false,
                ..resolved
            });
        }
        if let Some(rest) = ty.strip_prefix("map[") {
            let (_, inner) = rest.split_once(']').context("a map without a value type")?;
            let resolved = self.resolve(inner, package, decl, owner)?;
            return Ok(Resolved {
                text: format!("{{}}{}", resolved.text),
                shape: Shape::Map,
                wrapped: false,
                ..resolved
            });
        }
        match ty {
            "string" => return Ok(plain("string", Shape::Scalar)),
            "bool" => return Ok(plain("bool", Shape::Scalar)),
            "int32" => return Ok(plain("int32", Shape::Scalar)),
            "int64" => return Ok(plain("int64", Shape::Scalar)),
            "float64" => return Ok(plain("double", Shape::Scalar)),
            "interface{}" | "any" => return Ok(plain("json", Shape::Other)),
            _ => {}
        }
        self.resolve_named(ty, package, decl, owner)
    }

    fn resolve_named(&mut self, ty: &str, package: &str, decl: &Decl, owner: &str) -> anyhow::Result<Resolved> {
        let (path, name) = self.locate(ty, package, decl)?;
        let full = openapi_name(&path, &name);
        let other = |text: &str, shape| Resolved {
            text: text.to_owned(),
            pointer: false,
            shape,
            go_name: None,
            enums: Vec::new(),
            wrapped: false,
        };
        if let Some((_, word)) = SCALARS.iter().find(|(scalar, _)| *scalar == full) {
            if word.starts_with("schemaor") {
                self.want(&path, "JSONSchemaProps");
            }
            return Ok(other(word, Shape::Other));
        }
        let package = self.package(&path)?;
        let found = package.types.get(&name).with_context(|| format!("no type {path}.{name}"))?;
        match &found.body {
            Body::Struct(_) => {
                self.want(&path, &name);
                let (own, _) = owner.rsplit_once('.').unwrap_or_default();
                let text = match full.strip_prefix(own).and_then(|rest| rest.strip_prefix('.')) {
                    Some(rest) if !rest.contains('.') => format!(".{rest}"),
                    _ => full,
                };
                Ok(other(&text, Shape::Struct))
            }
            Body::Named(inner) => {
                let resolved = self.resolve(inner, &path, found, owner)?;
                let wrapped = resolved.shape == Shape::List && package.messages.contains_key(&name);
                let last = path.rsplit('/').next().unwrap_or_default();
                let (mut go_name, mut enums) = (resolved.go_name.clone(), resolved.enums.clone());
                if resolved.shape == Shape::Scalar {
                    go_name = Some(format!("{last}.{name}"));
                    if found.markers.iter().any(|m| m == "enum" || m == "k8s:enum") {
                        let values = package.constants.iter().filter(|(ty, ..)| *ty == name);
                        enums =
                            values.map(|(_, _, value)| value.clone()).collect::<BTreeSet<_>>().into_iter().collect();
                    }
                }
                Ok(Resolved { go_name, enums, wrapped, ..resolved })
            }
        }
    }
}

/// The protobuf number of a member.
fn number(member: &Member) -> Option<u32> {
    member.tags.get("protobuf")?.split(',').nth(1)?.parse().ok()
}

/// For types outside the OpenAPI documents: what the comments say.
fn from_markers(member: &Member, may_be_absent: bool) -> anyhow::Result<PropertyFacts> {
    let value = |name: &str| member.markers.iter().find_map(|m| m.strip_prefix(name)?.strip_prefix('='));
    let default = value("default").map(serde_json::from_str).transpose().context("default")?;
    Ok(PropertyFacts {
        required: !may_be_absent && !member.markers.iter().any(|m| m == "optional"),
        default,
        list_type: value("listType").map(str::to_owned),
        list_map_keys: member.markers.iter().filter_map(|m| m.strip_prefix("listMapKey=")).map(str::to_owned).collect(),
        granular: value("mapType") == Some("granular"),
        atomic: value("mapType") == Some("atomic") || value("structType") == Some("atomic"),
    })
}
