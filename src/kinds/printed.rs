//! Values as upstream's errors print them whole: the JSON that Go makes of its internal types, which have no tags, so
//! that every field is there under its Go name and in the order of its declaration.
//!
//! The types are a table, `facts/internal.txt`: a struct is a line `=PACKAGE.NAME`, its fields follow, one a line:
//! `GO-NAME JSON-NAME TYPE`. `^` for the Go name says that the struct's fields stand among those of the struct around it,
//! and `-` for the JSON name that they do so in the served version too. A type is `string`, `bool`, `number`, `bytes`, `quantity`, `intorstring`, `raw` (any JSON),
//! `orarray` and `orbool` (a JSON schema, or a list of them, or whether anything is allowed), the name of another struct, or with `@` that of a type with tags; before it `*` for a pointer, `[]` for a list, `{}`
//! for a map. Errors are rare, so the table is searched as text and not kept parsed.

mod diff;

use api::field::Error;
use api::schema::{Type, TypeId, Types, walk};
use serde_json::Value;

use crate::facts;
use crate::json::Json;

static TABLE: &str = include_str!("facts/internal.txt");

/// A label selector, which has tags but an order of its own.
pub(crate) const LABEL_SELECTOR: &str = "*@io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector";

/// Errors whose value is printed as one of a Go type.
pub(crate) trait Printed {
    /// The value is of the type `ty`: `core.ObjectReference`, `[]core.Toleration`, `@io.k8s.api.….Type`.
    #[must_use]
    fn printed(self, ty: &str) -> Self;
}

impl Printed for Error {
    fn printed(self, ty: &str) -> Self {
        let shown = text(ty, self.value.as_ref().unwrap_or(&Value::Null));
        self.showing(shown)
    }
}

/// What `json.Marshal` makes of a value of this type.
pub(crate) fn text(ty: &str, value: &Value) -> String {
    let mut out = String::new();
    node(ty, value).compact(&mut out);
    out
}

/// `diff.Diff` of two values of one type: a unified diff of their indented JSON.
pub(crate) fn changes(ty: &str, old: &Value, new: &Value) -> String {
    let lines = |value| {
        let mut out = String::new();
        node(ty, value).indented(&mut out, 0);
        out.push('\n');
        out
    };
    diff::unified(&lines(old), &lines(new))
}

/// Whether two values of one type are the same to `apiequality.Semantic.DeepEqual`: empty lists and maps are as good as
/// none, but an empty struct is there.
pub(crate) fn equal(ty: &str, a: &Value, b: &Value) -> bool {
    a == b || node(ty, a).equals(&node(ty, b))
}

/// JSON whose members have an order.
enum Node {
    Plain(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
    Struct(Vec<(String, Node)>),
}

impl Node {
    fn equals(&self, other: &Self) -> bool {
        let members = |a: &[(String, Self)], b: &[(String, Self)]| {
            a.len() == b.len() && a.iter().zip(b).all(|((x, a), (y, b))| x == y && a.equals(b))
        };
        match (self, other) {
            (Self::Plain(a), Self::Plain(b)) => a == b,
            (Self::List(a), Self::List(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.equals(b)),
            (Self::Map(a), Self::Map(b)) | (Self::Struct(a), Self::Struct(b)) => members(a, b),
            (Self::Plain(null), Self::List(list)) | (Self::List(list), Self::Plain(null)) => {
                null == "null" && list.is_empty()
            }
            (Self::Plain(null), Self::Map(map)) | (Self::Map(map), Self::Plain(null)) => {
                null == "null" && map.is_empty()
            }
            _ => false,
        }
    }

    fn plain(text: &str) -> Self {
        Self::Plain(text.to_owned())
    }

    fn compact(&self, out: &mut String) {
        match self {
            Self::Plain(text) => out.push_str(text),
            Self::List(items) => {
                for (i, item) in items.iter().enumerate() {
                    out.push(if i == 0 { '[' } else { ',' });
                    item.compact(out);
                }
                out.push_str(if items.is_empty() { "[]" } else { "]" });
            }
            Self::Map(members) | Self::Struct(members) => {
                for (i, (name, member)) in members.iter().enumerate() {
                    out.push(if i == 0 { '{' } else { ',' });
                    out.push_str(&quote(name));
                    out.push(':');
                    member.compact(out);
                }
                out.push_str(if members.is_empty() { "{}" } else { "}" });
            }
        }
    }

    /// `json.MarshalIndent` with one space a level.
    fn indented(&self, out: &mut String, depth: usize) {
        let line = |out: &mut String, depth: usize| {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', depth));
        };
        match self {
            Self::List(items) if !items.is_empty() => {
                for (i, item) in items.iter().enumerate() {
                    out.push(if i == 0 { '[' } else { ',' });
                    line(out, depth + 1);
                    item.indented(out, depth + 1);
                }
                line(out, depth);
                out.push(']');
            }
            Self::Map(members) | Self::Struct(members) if !members.is_empty() => {
                for (i, (name, member)) in members.iter().enumerate() {
                    out.push(if i == 0 { '{' } else { ',' });
                    line(out, depth + 1);
                    out.push_str(&quote(name));
                    out.push_str(": ");
                    member.indented(out, depth + 1);
                }
                line(out, depth);
                out.push('}');
            }
            other => other.compact(out),
        }
    }
}

/// A JSON string as Go writes it, which is careful with what HTML would take for its own.
fn quote(text: &str) -> String {
    let quoted = Value::from(text).to_string();
    if !quoted.contains(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        return quoted;
    }
    let mut out = String::with_capacity(quoted.len() + 8);
    for c in quoted.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out
}

/// `value` as Go prints a value of type `ty`.
fn node(ty: &str, value: &Value) -> Node {
    if let Some(inner) = ty.strip_prefix('*') {
        return if value.is_null() { Node::plain("null") } else { node(inner, value) };
    }
    if let Some(inner) = ty.strip_prefix("[]") {
        return match value {
            Value::Array(items) => Node::List(items.iter().map(|item| node(inner, item)).collect()),
            _ => Node::plain("null"),
        };
    }
    if let Some(inner) = ty.strip_prefix("{}") {
        return match value {
            Value::Object(map) => Node::Map(map.iter().map(|(key, item)| (key.clone(), node(inner, item))).collect()),
            _ => Node::plain("null"),
        };
    }
    let types = facts::types();
    match (ty, value) {
        ("string", Value::Null) => Node::plain("\"\""),
        ("bool", Value::Null) => Node::plain("false"),
        ("number" | "intorstring", Value::Null) => Node::plain("0"),
        ("quantity", Value::Null) => Node::plain("\"0\""),
        ("string" | "bool" | "number" | "intorstring" | "quantity" | "bytes" | "raw", value) => any(value),
        ("orarray", value) => {
            let (one, many) = if value.is_array() { (&Value::Null, value) } else { (value, &Value::Null) };
            Node::Struct(vec![
                ("Schema".to_owned(), node("*apiextensions.JSONSchemaProps", one)),
                ("JSONSchemas".to_owned(), node("[]apiextensions.JSONSchemaProps", many)),
            ])
        }
        ("orbool", value) => {
            let schema = if value.is_object() { value } else { &Value::Null };
            Node::Struct(vec![
                ("Allows".to_owned(), any(&Value::Bool(value.as_bool().unwrap_or(true)))),
                ("Schema".to_owned(), node("*apiextensions.JSONSchemaProps", schema)),
            ])
        }
        (ty, value) => match ty.strip_prefix('@') {
            Some(name) => types.id(name).map_or_else(|| any(value), |id| tagged(types, id, value)),
            None => {
                let mut members = Vec::new();
                structure(ty, value, &mut members);
                Node::Struct(members)
            }
        },
    }
}

/// The members of a struct of the table.
fn structure(ty: &str, value: &Value, out: &mut Vec<(String, Node)>) {
    let head = format!("={ty}\n");
    let Some(start) = TABLE.find(&head) else { return };
    let fields = TABLE[start + head.len()..].lines().take_while(|line| !line.starts_with('='));
    for line in fields {
        let mut words = line.split(' ');
        let (Some(go), Some(json), Some(ty)) = (words.next(), words.next(), words.next()) else { continue };
        let inner = if json == "-" { value } else { value.at(json) };
        match (go, ty.strip_prefix('@')) {
            ("^", Some(name)) => {
                if let Some(id) = facts::types().id(name)
                    && let Node::Struct(members) = tagged(facts::types(), id, inner)
                {
                    out.extend(members);
                }
            }
            ("^", None) => structure(ty, inner, out),
            _ => out.push((go.to_owned(), node(ty, inner))),
        }
    }
}

/// A value of a type with tags, in the order of the protobuf numbers, which is that of the declarations.
fn tagged(types: &Types, id: TypeId, value: &Value) -> Node {
    let mut members = Vec::new();
    let def = types.def(id);
    // The fields stand as protobuf numbers them, which is Go's order but for this one.
    let first = if def.name.ends_with(".OwnerReference") { "apiVersion" } else { "" };
    let (leading, others): (Vec<_>, Vec<_>) = def.fields.iter().partition(|field| &*field.name == first);
    for field in leading.into_iter().chain(others) {
        let member = value.at(&field.name);
        let absent = member.is_null() && field.presence != api::schema::Presence::Always;
        if !absent && !walk::is_omitted(types, field, member) {
            members.push((field.name.to_string(), typed(types, &field.ty, field.pointer, member)));
        }
    }
    Node::Struct(members)
}

fn typed(types: &Types, ty: &Type, pointer: bool, value: &Value) -> Node {
    match (ty, value) {
        (Type::List(inner), Value::Array(items)) => {
            Node::List(items.iter().map(|item| typed(types, inner, false, item)).collect())
        }
        (Type::Map(inner), Value::Object(map)) => {
            Node::Map(map.iter().map(|(key, item)| (key.clone(), typed(types, inner, false, item))).collect())
        }
        (Type::Struct(id), Value::Object(_)) => tagged(types, *id, value),
        (Type::Struct(id), Value::Null) if !pointer => tagged(types, *id, value),
        (Type::String, Value::Null) if !pointer => Node::plain("\"\""),
        (Type::Bool, Value::Null) if !pointer => Node::plain("false"),
        (Type::Int32 | Type::Int64 | Type::Double | Type::IntOrString, Value::Null) if !pointer => Node::plain("0"),
        (Type::Quantity, Value::Null) if !pointer => Node::plain("\"0\""),
        (_, value) => any(value),
    }
}

/// JSON as it is.
fn any(value: &Value) -> Node {
    match value {
        Value::String(text) => Node::Plain(quote(text)),
        Value::Array(items) => Node::List(items.iter().map(any).collect()),
        Value::Object(map) => Node::Map(map.iter().map(|(key, item)| (key.clone(), any(item))).collect()),
        other => Node::Plain(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn structs_have_all_their_fields_under_their_go_names() {
        let check = |ty: &str, value: Value, want: &str| assert_eq!(text(ty, &value), want);
        check(
            "rbac.RoleRef",
            json!({"kind": "Role", "name": "<a>"}),
            r#"{"APIGroup":"","Kind":"Role","Name":"\u003ca\u003e"}"#,
        );
        check(
            "core.VolumeNodeAffinity",
            json!({"required": {"nodeSelectorTerms": [{"matchFields": [{"key": "a", "operator": "In", "values": ["b"]}]}]}}),
            r#"{"Required":{"NodeSelectorTerms":[{"MatchExpressions":null,"MatchFields":[{"Key":"a","Operator":"In","Values":["b"]}]}]}}"#,
        );
        check(
            "policy.PodDisruptionBudgetSpec",
            json!({"maxUnavailable": "20%", "selector": {"matchLabels": {"b": "c", "a": "b"}}}),
            r#"{"MinAvailable":null,"Selector":{"matchLabels":{"a":"b","b":"c"}},"MaxUnavailable":"20%","UnhealthyPodEvictionPolicy":null}"#,
        );
    }

    #[test]
    fn embedded_structs_stand_among_the_others() {
        let printed = text(
            "core.PodTemplateSpec",
            &json!({"metadata": {"labels": {"a": "b"}}, "spec": {"hostNetwork": true, "securityContext": {}}}),
        );
        assert!(printed.starts_with(r#"{"labels":{"a":"b"},"Spec":{"Volumes":null,"#), "{printed}");
        assert!(printed.contains(r#""HostNetwork":true,"HostPID":false,"#), "{printed}");
    }

    #[test]
    fn changes_are_a_unified_diff() {
        let old = json!({"nfs": {"server": "s", "path": "/x", "readOnly": true}});
        let new = json!({"nfs": {"server": "s", "path": "/y", "readOnly": true}});
        assert_eq!(
            changes("core.PersistentVolumeSource", &old, &new),
            "@@ -5,7 +5,7 @@\n  \"Glusterfs\": null,\n  \"NFS\": {\n   \"Server\": \"s\",\n-  \"Path\": \"/x\",\n+  \"Path\": \"/y\",\n   \
             \"ReadOnly\": true\n  },\n  \"RBD\": null,\n"
        );
    }
}
