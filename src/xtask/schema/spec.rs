//! The OpenAPI v3 documents: what Go's struct tags do not say.

use std::collections::BTreeMap;

use anyhow::Context;
use serde_json::Value;

use super::modules::Modules;

/// All component schemas by name.
pub struct Spec {
    schemas: BTreeMap<String, Value>,
}

impl Spec {
    pub fn read(modules: &Modules) -> anyhow::Result<Self> {
        let dir = modules.package("k8s.io/kubernetes/api/openapi-spec/v3").context("no OpenAPI documents")?;
        let mut schemas = BTreeMap::new();
        for entry in std::fs::read_dir(&dir).with_context(|| format!("list {}", dir.display()))? {
            let path = entry?.path();
            let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            let mut document: Value = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
            if let Some(Value::Object(found)) = document.pointer_mut("/components/schemas").map(Value::take) {
                schemas.extend(found);
            }
        }
        Ok(Self { schemas })
    }

    pub fn schema(&self, name: &str) -> Option<&Value> {
        self.schemas.get(name)
    }

    /// The name of the schema of a kind.
    pub fn type_of(&self, group: &str, version: &str, kind: &str) -> Option<&str> {
        // Kinds of meta/v1 are listed under many groups, so the name has to fit too.
        self.schemas.iter().find_map(|(name, schema)| {
            let fits = name.rsplit('.').next() == Some(kind)
                && schema
                    .get("x-kubernetes-group-version-kind")?
                    .as_array()?
                    .iter()
                    .any(|gvk| gvk["group"] == group && gvk["version"] == version && gvk["kind"] == kind);
            fits.then_some(name.as_str())
        })
    }
}

/// What a schema says of one property.
#[derive(Default)]
pub struct PropertyFacts {
    pub required: bool,
    pub default: Option<Value>,
    pub list_type: Option<String>,
    pub list_map_keys: Vec<String>,
    pub atomic: bool,
    /// Merged by member although the type is atomic.
    pub granular: bool,
}

impl PropertyFacts {
    pub fn of(schema: &Value, property: &str) -> Option<Self> {
        let found = schema.get("properties")?.get(property)?;
        let text = |key: &str| found.get(key).and_then(Value::as_str);
        let strings = |value: Option<&Value>| -> Vec<String> {
            value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        Some(Self {
            required: strings(schema.get("required")).iter().any(|name| name == property),
            default: found.get("default").cloned(),
            list_type: text("x-kubernetes-list-type").map(str::to_owned),
            list_map_keys: strings(found.get("x-kubernetes-list-map-keys")),
            atomic: text("x-kubernetes-map-type") == Some("atomic"),
            granular: text("x-kubernetes-map-type") == Some("granular"),
        })
    }
}
