//! Options of requests.

use serde_json::{Map, Value, json};

/// What to list.
#[derive(Debug, Clone, Default)]
pub struct ListParams {
    pub label_selector: String,
    pub field_selector: String,
    /// Empty: the newest state. `"0"`: whatever the server's cache holds.
    pub resource_version: String,
}

impl ListParams {
    pub fn labels(selector: impl Into<String>) -> Self {
        Self { label_selector: selector.into(), ..Self::default() }
    }

    pub fn fields(selector: impl Into<String>) -> Self {
        Self { field_selector: selector.into(), ..Self::default() }
    }

    pub(crate) fn query(&self) -> Query {
        let mut query = Query::default();
        query.add_nonempty("labelSelector", &self.label_selector);
        query.add_nonempty("fieldSelector", &self.field_selector);
        query.add_nonempty("resourceVersion", &self.resource_version);
        query
    }
}

/// How to delete.
#[derive(Debug, Clone, Default)]
pub struct DeleteParams {
    /// Seconds; 0 deletes at once.
    pub grace_period_seconds: Option<i64>,
    /// `Orphan`, `Background` or `Foreground`.
    pub propagation_policy: Option<&'static str>,
    /// Only the object with this uid.
    pub uid: Option<String>,
    /// Only this version of the object.
    pub resource_version: Option<String>,
}

impl DeleteParams {
    pub fn uid(uid: impl Into<String>) -> Self {
        Self { uid: Some(uid.into()), ..Self::default() }
    }

    pub fn background() -> Self {
        Self { propagation_policy: Some("Background"), ..Self::default() }
    }

    pub fn grace(mut self, seconds: i64) -> Self {
        self.grace_period_seconds = Some(seconds);
        self
    }

    /// The `DeleteOptions` body.
    pub fn body(&self) -> Value {
        let mut body = Map::new();
        body.insert("apiVersion".into(), "v1".into());
        body.insert("kind".into(), "DeleteOptions".into());
        if let Some(seconds) = self.grace_period_seconds {
            body.insert("gracePeriodSeconds".into(), seconds.into());
        }
        if let Some(policy) = self.propagation_policy {
            body.insert("propagationPolicy".into(), policy.into());
        }
        if self.uid.is_some() || self.resource_version.is_some() {
            let mut preconditions = Map::new();
            if let Some(uid) = &self.uid {
                preconditions.insert("uid".into(), json!(uid));
            }
            if let Some(version) = &self.resource_version {
                preconditions.insert("resourceVersion".into(), json!(version));
            }
            body.insert("preconditions".into(), preconditions.into());
        }
        Value::Object(body)
    }
}

/// A patch and its type.
#[derive(Debug, Clone)]
pub enum Patch {
    /// RFC 6902 operations.
    Json(Value),
    /// RFC 7386.
    Merge(Value),
    /// Strategic merge: lists merge by their keys. Built-in kinds only.
    Strategic(Value),
    /// Server-side apply.
    Apply { manager: String, force: bool, object: Value },
}

impl Patch {
    pub(crate) fn content_type(&self) -> &'static str {
        match self {
            Self::Json(_) => "application/json-patch+json",
            Self::Merge(_) => "application/merge-patch+json",
            Self::Strategic(_) => "application/strategic-merge-patch+json",
            // JSON is YAML.
            Self::Apply { .. } => "application/apply-patch+yaml",
        }
    }

    pub(crate) fn body(&self) -> &Value {
        match self {
            Self::Json(value) | Self::Merge(value) | Self::Strategic(value) => value,
            Self::Apply { object, .. } => object,
        }
    }

    pub(crate) fn query(&self) -> Query {
        let mut query = Query::default();
        if let Self::Apply { manager, force, .. } = self {
            query.add("fieldManager", manager);
            query.add("force", if *force { "true" } else { "false" });
        }
        query
    }
}

/// A query string under construction.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query(String);

impl Query {
    pub(crate) fn add(&mut self, name: &str, value: &str) {
        self.0.push(if self.0.is_empty() { '?' } else { '&' });
        self.0.push_str(name);
        self.0.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~,/:!".contains(&byte) {
                self.0.push(char::from(byte));
            } else {
                self.0.push_str(&format!("%{byte:02X}"));
            }
        }
    }

    pub(crate) fn add_nonempty(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.add(name, value);
        }
    }

    /// With the leading `?`, or empty.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_escape_what_urls_reserve() {
        let mut query = Query::default();
        query.add("labelSelector", "app in (a,b),x!=y");
        query.add_nonempty("fieldSelector", "");
        query.add("fieldSelector", "spec.nodeName=n");
        assert_eq!(query.as_str(), "?labelSelector=app%20in%20%28a,b%29,x!%3Dy&fieldSelector=spec.nodeName%3Dn");
    }

    #[test]
    fn delete_options_carry_only_what_was_asked() {
        assert_eq!(DeleteParams::default().body(), json!({"apiVersion": "v1", "kind": "DeleteOptions"}));
        let body = DeleteParams::uid("u").grace(0).body();
        assert_eq!(body["preconditions"], json!({"uid": "u"}));
        assert_eq!(body["gracePeriodSeconds"], json!(0));
    }
}
