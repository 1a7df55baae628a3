//! Audit events as upstream writes them (`audit.k8s.io/v1` `Event`): the fields in the order of its Go types.

use std::collections::BTreeMap;

use api::UserInfo;
use api::services::AuthorizationAttributes;
use jiff::Timestamp;
use serde::{Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::policy::{Level, Stage};

/// One request at one stage.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    pub kind: &'static str,
    pub api_version: &'static str,
    pub level: Level,
    #[serde(rename = "auditID")]
    pub audit_id: String,
    pub stage: Stage,
    #[serde(rename = "requestURI")]
    pub request_uri: String,
    pub verb: String,
    pub user: User,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub impersonated_user: Option<User>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authentication_metadata: Option<AuthenticationMetadata>,
    #[serde(rename = "sourceIPs", skip_serializing_if = "Vec::is_empty")]
    pub source_ips: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user_agent: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object_ref: Option<ObjectReference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_status: Option<ResponseStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_object: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_object: Option<Box<RawValue>>,
    #[serde(serialize_with = "micro_time")]
    pub request_received_timestamp: Timestamp,
    #[serde(serialize_with = "micro_time")]
    pub stage_timestamp: Timestamp,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct User {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub username: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, Vec<String>>,
}

impl From<&UserInfo> for User {
    fn from(user: &UserInfo) -> Self {
        Self {
            username: user.name.clone(),
            uid: user.uid.clone(),
            groups: user.groups.clone(),
            extra: user.extra.clone(),
        }
    }
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthenticationMetadata {
    pub impersonation_constraint: String,
}

#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectReference {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub api_group: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub api_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subresource: String,
}

impl From<&AuthorizationAttributes> for ObjectReference {
    fn from(request: &AuthorizationAttributes) -> Self {
        Self {
            resource: request.resource.clone(),
            namespace: request.namespace.clone(),
            name: request.name.clone(),
            api_group: request.group.clone(),
            api_version: request.version.clone(),
            subresource: request.subresource.clone(),
            ..Self::default()
        }
    }
}

/// The bounded part of a `Status`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ResponseStatus {
    /// Always empty: upstream writes it, because it is a struct in Go.
    pub metadata: BTreeMap<(), ()>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub status: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<Value>,
    #[serde(skip_serializing_if = "is_zero")]
    pub code: u16,
}

fn is_zero(code: &u16) -> bool {
    *code == 0
}

impl ResponseStatus {
    /// The members of a `Status` document that are told (`AuditContext.LogResponseObject`).
    pub fn of(document: &Value) -> Self {
        let text = |member: &str| document.get(member).and_then(Value::as_str).unwrap_or_default().to_owned();
        Self {
            metadata: BTreeMap::new(),
            status: text("status"),
            message: text("message"),
            reason: text("reason"),
            details: document.get("details").cloned(),
            code: document.get("code").and_then(Value::as_u64).and_then(|c| u16::try_from(c).ok()).unwrap_or_default(),
        }
    }
}

/// `metav1.MicroTime`: six digits of the second, UTC.
fn micro_time<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ"))
}

impl Event {
    /// One line in the format `legacy` (`audit/format.go` `EventString`).
    pub fn legacy(&self) -> String {
        let quoted = |list: &[String]| list.iter().map(|item| format!("{item:?}")).collect::<Vec<_>>().join(",");
        let named = |name: &str| if name.is_empty() { "<none>".to_owned() } else { name.to_owned() };
        let user = named(&self.user.username);
        let groups = if self.user.username.is_empty() || self.user.groups.is_empty() {
            "<none>".to_owned()
        } else {
            quoted(&self.user.groups)
        };
        let (as_user, as_groups) = match &self.impersonated_user {
            None => ("<self>".to_owned(), "<lookup>".to_owned()),
            Some(user) if user.groups.is_empty() => (user.username.clone(), "<lookup>".to_owned()),
            Some(user) => (user.username.clone(), quoted(&user.groups)),
        };
        let namespace = named(self.object_ref.as_ref().map_or("", |object| &object.namespace));
        let response = self.response_status.as_ref().map_or("<deferred>".to_owned(), |status| status.code.to_string());
        let ip = self.source_ips.first().map_or("<unknown>", String::as_str);
        format!(
            "{} AUDIT: id={:?} stage=\"{:?}\" ip={ip:?} method={:?} user={user:?} groups={groups:?} as={as_user:?} \
             asgroups={as_groups:?} user-agent={:?} namespace={namespace:?} uri={:?} response=\"{response}\"",
            self.request_received_timestamp, self.audit_id, self.stage, self.verb, self.user_agent, self.request_uri,
        )
    }
}

/// The document without `metadata.managedFields`, its own and its items' (`copyWithoutManagedFields`).
pub fn without_managed_fields(mut document: Value) -> Value {
    let strip = |value: &mut Value| {
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
    };
    strip(&mut document);
    for (list, member) in [("items", ""), ("rows", "object")] {
        for item in document.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            match member {
                "" => strip(item),
                member => item.get_mut(member).into_iter().for_each(strip),
            }
        }
    }
    document
}
