//! Which resources a v1.37 API server serves by default, from the recorded discovery documents.

use std::fmt::Write;

use anyhow::{Context, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::modules::Modules;
use super::spec::Spec;

/// The only default-on version that is not `v1`. Beta and alpha versions are all off by default
/// (kubernetes `pkg/controlplane/instance.go`).
const ALSO_SERVED: (&str, &str) = ("autoscaling", "v2");

/// One resource with its subresources.
pub struct Resource {
    pub group: String,
    pub version: String,
    pub entry: Entry,
    /// OpenAPI name of the kind's type.
    pub type_name: String,
    pub subresources: Vec<Subresource>,
}

pub struct Subresource {
    pub name: String,
    pub group: String,
    pub version: String,
    pub type_name: String,
    pub entry: Entry,
}

/// An entry of an `APIResourceList`.
#[derive(Deserialize, Clone)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    name: String,
    #[serde(default)]
    singular_name: String,
    namespaced: bool,
    pub kind: String,
    group: Option<String>,
    version: Option<String>,
    verbs: Vec<String>,
    #[serde(default)]
    short_names: Vec<String>,
    #[serde(default)]
    categories: Vec<String>,
}

/// Core first, then the groups in upstream's order of discovery.
pub fn read(modules: &Modules, spec: &Spec) -> anyhow::Result<Vec<Resource>> {
    let groups: Value = serde_json::from_str(&modules.kubernetes_file("api/discovery/aggregated_v2.json")?)?;
    let mut lists = vec![(String::new(), "v1".to_owned(), "api__v1".to_owned())];
    for item in groups["items"].as_array().context("aggregated_v2.json has no items")? {
        let group = item["metadata"]["name"].as_str().context("a group without a name")?;
        for version in item["versions"].as_array().into_iter().flatten() {
            let version = version["version"].as_str().context("a version without a name")?;
            if version == "v1" || (group, version) == ALSO_SERVED {
                lists.push((group.to_owned(), version.to_owned(), format!("apis__{group}__{version}")));
            }
        }
    }
    let mut resources = Vec::new();
    for (group, version, file) in lists {
        let list: Value = serde_json::from_str(&modules.kubernetes_file(&format!("api/discovery/{file}.json"))?)?;
        let entries: Vec<Entry> = serde_json::from_value(list["resources"].clone()).with_context(|| file.clone())?;
        add(&mut resources, &group, &version, &entries, spec)?;
    }
    Ok(resources)
}

fn add(
    resources: &mut Vec<Resource>,
    group: &str,
    version: &str,
    entries: &[Entry],
    spec: &Spec,
) -> anyhow::Result<()> {
    for entry in entries {
        let entry_group = entry.group.clone().unwrap_or_else(|| group.to_owned());
        let entry_version = entry.version.clone().unwrap_or_else(|| version.to_owned());
        let type_name = match spec.type_of(&entry_group, &entry_version, &entry.kind) {
            Some(name) => name.to_owned(),
            // Options of connections are in no document: they are only query parameters.
            None => format!("io.k8s.api.core.v1.{}", entry.kind),
        };
        match entry.name.split_once('/') {
            None => resources.push(Resource {
                group: group.to_owned(),
                version: version.to_owned(),
                entry: entry.clone(),
                type_name,
                subresources: Vec::new(),
            }),
            Some((parent, name)) => {
                let parent = resources
                    .iter_mut()
                    .find(|r| r.group == group && r.version == version && r.entry.name == parent)
                    .with_context(|| format!("{} comes before its parent", entry.name))?;
                parent.subresources.push(Subresource {
                    name: name.to_owned(),
                    group: entry_group,
                    version: entry_version,
                    type_name,
                    entry: entry.clone(),
                });
            }
        }
    }
    ensure!(!entries.is_empty(), "{group}/{version} has no resources");
    Ok(())
}

/// The table: one line per resource, then one indented line per subresource.
pub fn print(resources: &[Resource]) -> String {
    let mut out =
        String::from("# Written by `cargo run -p xtask -- schema`; see src/api/schema/facts.rs for the format.\n");
    for resource in resources {
        let entry = &resource.entry;
        let group = if resource.group.is_empty() { "-" } else { &resource.group };
        let scope = if entry.namespaced { "namespaced" } else { "cluster" };
        let _ = write!(
            out,
            "{group} {} {} {} {} {scope} {} {}",
            resource.version,
            entry.name,
            entry.singular_name,
            entry.kind,
            resource.type_name,
            entry.verbs.join(",")
        );
        if !entry.short_names.is_empty() {
            let _ = write!(out, " short={}", entry.short_names.join(","));
        }
        if !entry.categories.is_empty() {
            let _ = write!(out, " categories={}", entry.categories.join(","));
        }
        out.push('\n');
        for sub in &resource.subresources {
            let group = if sub.group.is_empty() { "-" } else { &sub.group };
            let _ = writeln!(
                out,
                " {} {group} {} {} {} {}",
                sub.name,
                sub.version,
                sub.entry.kind,
                sub.type_name,
                sub.entry.verbs.join(",")
            );
        }
    }
    out
}
