//! The table of internal types: the Go structs that errors print whole. They have no JSON tags, so that Go's encoder
//! prints every field under its Go name, in the order of the declaration.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write;
use std::rc::Rc;

use anyhow::{Context, bail};

use super::go::{Body, Decl, Member, Package};
use super::modules::Modules;

/// Internal packages, the served version whose tags say the JSON names, and the types that errors print.
const ROOTS: &[(&str, &str, &[&str])] = &[
    (
        "k8s.io/kubernetes/pkg/apis/core",
        "k8s.io/api/core/v1",
        &[
            "PodTemplateSpec",
            "HostIP",
            "PersistentVolumeClaim",
            "PodIP",
            "PersistentVolumeSource",
            "VolumeNodeAffinity",
            "ObjectReference",
            "EventSource",
            "NodeAddress",
            "ScopeSelector",
            "ServicePort",
            "Taint",
        ],
    ),
    (
        "k8s.io/kubernetes/pkg/apis/apps",
        "k8s.io/api/apps/v1",
        &["DaemonSetUpdateStrategy", "DeploymentStrategy", "StatefulSetUpdateStrategy"],
    ),
    (
        "k8s.io/kubernetes/pkg/apis/authorization",
        "k8s.io/api/authorization/v1",
        &["NonResourceAttributes", "ResourceAttributes"],
    ),
    ("k8s.io/kubernetes/pkg/apis/batch", "k8s.io/api/batch/v1", &["PodFailurePolicy", "SuccessPolicy"]),
    (
        "k8s.io/kubernetes/pkg/apis/certificates",
        "k8s.io/api/certificates/v1",
        &["PodCertificateRequestSpec", "PodCertificateRequestStatus"],
    ),
    (
        "k8s.io/kubernetes/pkg/apis/flowcontrol",
        "k8s.io/api/flowcontrol/v1",
        &["FlowSchemaSpec", "PriorityLevelConfigurationSpec"],
    ),
    ("k8s.io/kubernetes/pkg/apis/policy", "k8s.io/api/policy/v1", &["PodDisruptionBudgetSpec"]),
    ("k8s.io/kubernetes/pkg/apis/rbac", "k8s.io/api/rbac/v1", &["RoleRef"]),
    (
        "k8s.io/kubernetes/pkg/apis/resource",
        "k8s.io/api/resource/v1",
        &["AllocatedDeviceStatus", "ResourceClaimTemplateSpec", "ResourceSliceSpec"],
    ),
    ("k8s.io/kubernetes/pkg/apis/storage", "k8s.io/api/storage/v1", &["CSINodeDriver", "VolumeAttachmentSpec"]),
    (
        "k8s.io/kubernetes/pkg/apis/storagemigration",
        "k8s.io/api/storagemigration/v1beta1",
        &["StorageVersionMigrationSpec"],
    ),
    (
        "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions",
        "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1",
        &["CustomResourceDefinitionVersion", "ValidationRule"],
    ),
];

pub fn write(modules: &Modules) -> anyhow::Result<String> {
    let mut reader = Reader { modules, packages: BTreeMap::new(), queue: VecDeque::new(), seen: BTreeSet::new() };
    for (package, _, names) in ROOTS {
        for name in *names {
            reader.want(package, name);
        }
    }
    let mut tables = BTreeMap::new();
    while let Some((package, name)) = reader.queue.pop_front() {
        let text = reader.structure(&package, &name).with_context(|| format!("{package}.{name}"))?;
        tables.insert(short(&package, &name), text);
    }
    let mut out =
        String::from("# Written by `cargo run -p xtask -- schema`; see src/kinds/printed.rs for the format.\n");
    out.extend(tables.into_values());
    Ok(out)
}

/// `core.PodSpec`.
fn short(package: &str, name: &str) -> String {
    format!("{}.{name}", package.rsplit('/').next().unwrap_or_default())
}

struct Reader<'a> {
    modules: &'a Modules,
    packages: BTreeMap<String, Rc<Package>>,
    queue: VecDeque<(String, String)>,
    seen: BTreeSet<(String, String)>,
}

impl Reader<'_> {
    fn want(&mut self, package: &str, name: &str) {
        let key = (package.to_owned(), name.to_owned());
        if self.seen.insert(key.clone()) {
            self.queue.push_back(key);
        }
    }

    fn package(&mut self, path: &str) -> anyhow::Result<Rc<Package>> {
        if let Some(package) = self.packages.get(path) {
            return Ok(package.clone());
        }
        let dir = self.modules.package(path).with_context(|| format!("{path} is in no pinned module"))?;
        let package = Rc::new(Package::read(&dir)?);
        self.packages.insert(path.to_owned(), package.clone());
        Ok(package)
    }

    fn structure(&mut self, path: &str, name: &str) -> anyhow::Result<String> {
        let package = self.package(path)?;
        let decl = package.types.get(name).context("no such type")?;
        let Body::Struct(members) = &decl.body else { bail!("not a struct") };
        let served = match ROOTS.iter().find(|(internal, ..)| *internal == path) {
            Some((_, served, _)) => Some(self.package(served)?),
            None => None,
        };
        let twin = served.as_ref().and_then(|package| match &package.types.get(name)?.body {
            Body::Struct(members) => Some(members.as_slice()),
            Body::Named(_) => None,
        });
        let mut out = format!("={}\n", short(path, name));
        for member in members {
            if member.embedded {
                match member.ty.as_str() {
                    "metav1.TypeMeta" => {}
                    "metav1.ObjectMeta" => {
                        let _ = writeln!(out, "^ metadata {}", self.word(&member.ty, path, decl)?);
                    }
                    ty => {
                        let _ = writeln!(out, "^ - {}", self.word(ty, path, decl)?);
                    }
                }
                continue;
            }
            let word = self.word(&member.ty, path, decl).with_context(|| member.name.clone())?;
            let _ = writeln!(out, "{} {} {word}", member.name, json_name(member, twin.unwrap_or_default()));
        }
        Ok(out)
    }

    /// A type in the table's words.
    fn word(&mut self, ty: &str, package: &str, decl: &Decl) -> anyhow::Result<String> {
        for prefix in ["*", "[]"] {
            if ty == "[]byte" {
                return Ok("bytes".to_owned());
            }
            if let Some(inner) = ty.strip_prefix(prefix) {
                return Ok(format!("{prefix}{}", self.word(inner, package, decl)?));
            }
        }
        if let Some(rest) = ty.strip_prefix("map[") {
            let (_, inner) = rest.split_once(']').context("a map without a value type")?;
            return Ok(format!("{{}}{}", self.word(inner, package, decl)?));
        }
        match ty {
            "string" => return Ok("string".to_owned()),
            "bool" => return Ok("bool".to_owned()),
            "int" | "int32" | "int64" | "uint32" | "float64" => return Ok("number".to_owned()),
            "interface{}" | "any" => return Ok("raw".to_owned()),
            _ => {}
        }
        let (path, name) = match ty.split_once('.') {
            None => (package.to_owned(), ty),
            Some((alias, name)) => {
                (decl.imports.get(alias).with_context(|| format!("no import {alias}"))?.clone(), name)
            }
        };
        match name {
            "Quantity" => return Ok("quantity".to_owned()),
            "IntOrString" => return Ok("intorstring".to_owned()),
            // Either a schema or something else, which the served version has in its place.
            "JSONSchemaPropsOrArray" => {
                self.want(&path, "JSONSchemaProps");
                return Ok("orarray".to_owned());
            }
            "JSONSchemaPropsOrBool" => {
                self.want(&path, "JSONSchemaProps");
                return Ok("orbool".to_owned());
            }
            "JSONSchemaDependencies" => return Ok("raw".to_owned()),
            "Time" | "MicroTime" | "RawExtension" | "Unknown" | "JSON" => return Ok("raw".to_owned()),
            "Duration" => return Ok("string".to_owned()),
            _ => {}
        }
        let found = self.package(&path)?;
        let found = found.types.get(name).with_context(|| format!("no type {path}.{name}"))?;
        match &found.body {
            Body::Named(inner) if inner.starts_with("interface") => Ok("raw".to_owned()),
            Body::Named(inner) => self.word(inner, &path, found),
            // The types of apimachinery are the same inside and outside, and have tags.
            Body::Struct(_) if path.contains("/apimachinery/") => {
                Ok(format!("@io.{}.{name}", path.replacen("k8s.io", "k8s", 1).replace('/', ".")))
            }
            Body::Struct(_) => {
                self.want(&path, name);
                Ok(short(&path, name))
            }
        }
    }
}

/// The name of an internal type's member in the served version: that of the member with the same Go name.
fn json_name(member: &Member, twin: &[Member]) -> String {
    let tag = twin.iter().find(|m| m.name == member.name).and_then(|m| m.tags.get("json"));
    match tag.and_then(|tag| tag.split(',').next()) {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => {
            let mut chars = member.name.chars();
            chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
        }
    }
}
