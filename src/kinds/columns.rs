//! Table columns and the cells that many kinds share (`pkg/printers/internalversion`).

use api::Object;
use api::kind::{AGE_TEXT, Column, ColumnValue, FieldValue, NAME_TEXT, SelectableField};
use jiff::Timestamp;
use serde_json::Value;

use crate::duration::since;
use crate::json::{Json, dig};

type Cell = fn(&Object, Timestamp) -> Value;

/// A column that is always shown.
pub(crate) fn text(name: &'static str, value: Cell) -> Column {
    column(name, "string", "", "", 0, value)
}

/// A column of whole numbers.
pub(crate) fn integer(name: &'static str, value: Cell) -> Column {
    column(name, "integer", "", "", 0, value)
}

/// A column that `-o wide` adds.
pub(crate) fn wide(name: &'static str, value: Cell) -> Column {
    column(name, "string", "", "", 1, value)
}

pub(crate) fn column(
    name: &'static str,
    kind: &'static str,
    format: &'static str,
    description: &'static str,
    priority: i32,
    value: Cell,
) -> Column {
    Column {
        name: name.into(),
        kind: kind.into(),
        format: format.into(),
        description: description.into(),
        priority,
        value: ColumnValue::Compute(value),
    }
}

/// The object's name.
pub(crate) fn name() -> Column {
    name_as(|o, _| o.name().into())
}

/// The object's name with something added to it.
pub(crate) fn name_as(value: Cell) -> Column {
    column("Name", "string", "name", NAME_TEXT, 0, value)
}

/// Time since creation.
pub(crate) fn age() -> Column {
    column("Age", "string", "", AGE_TEXT, 0, |o, now| age_text(o, now).into())
}

pub(crate) fn age_text(object: &Object, now: Timestamp) -> String {
    since(dig(object, &["metadata", "creationTimestamp"]), now)
}

/// Time since creation as custom resources show it (`serveDefaultColumnsIfEmpty`).
pub(crate) fn created() -> Column {
    let value = ColumnValue::JsonPath(".metadata.creationTimestamp".to_owned());
    Column { value, ..column("Age", "date", "", AGE_TEXT, 0, |_, _| Value::Null) }
}

/// What upstream's default table convertor shows for kinds without a printer of their own (apiserver
/// `rest/table.go`).
pub(crate) fn generic() -> Vec<Column> {
    vec![
        name(),
        column("Created At", "date", "", AGE_TEXT, 0, |o, _| dig(o, &["metadata", "creationTimestamp"]).clone()),
    ]
}

/// Names of a template's containers, with commas.
pub(crate) fn container_names(spec: &Value) -> Value {
    joined(spec, "name")
}

/// Images of a template's containers, with commas.
pub(crate) fn container_images(spec: &Value) -> Value {
    joined(spec, "image")
}

fn joined(spec: &Value, member: &str) -> Value {
    spec.list("containers").iter().map(|c| c.text(member)).collect::<Vec<_>>().join(",").into()
}

/// `labels.FormatLabels`: `a=b,c=d`, `<none>` if empty.
pub(crate) fn labels(map: &Value) -> Value {
    let text = map
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect::<Vec<_>>()
        .join(",");
    if text.is_empty() { "<none>".into() } else { text.into() }
}

/// `labels.Selector.String()` of a `LabelSelector`; empty if it selects everything.
pub(crate) fn selector_text(selector: &Value) -> String {
    let mut terms: Vec<(&str, String)> = selector
        .entries("matchLabels")
        .map(|(key, value)| (key, format!("{key}={}", value.as_str().unwrap_or_default())))
        .collect();
    for term in selector.list("matchExpressions") {
        let key = term.text("key");
        let mut values: Vec<&str> = term.list("values").iter().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let values = values.join(",");
        let text = match term.text("operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            _ => return "<error>".to_owned(),
        };
        terms.push((key, text));
    }
    terms.sort_by(|a, b| a.0.cmp(b.0));
    terms.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(",")
}

/// `metav1.FormatLabelSelector`.
pub(crate) fn selector(value: &Value) -> Value {
    if value.is_null() {
        return "<none>".into();
    }
    let text = selector_text(value);
    if text.is_empty() { "<none>".into() } else { text.into() }
}

/// A number, absent as 0.
pub(crate) fn number(object: &Object, path: &[&str]) -> Value {
    dig(object, path).as_i64().unwrap_or_default().into()
}

/// A string, absent as empty.
pub(crate) fn string(object: &Object, path: &[&str]) -> Value {
    dig(object, path).as_str().unwrap_or_default().into()
}

/// A string, absent as `otherwise`.
pub(crate) fn string_or(object: &Object, path: &[&str], otherwise: &str) -> Value {
    match dig(object, path).as_str() {
        None | Some("") => otherwise.into(),
        Some(text) => text.into(),
    }
}

/// A field that selectors may name.
pub(crate) fn field(path: &'static str, value: fn(&Object) -> String) -> SelectableField {
    SelectableField { path: path.into(), value: FieldValue::Compute(value) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_print_as_upstream() {
        let check = |value: Value, want: &str| assert_eq!(selector(&value), want, "{value}");
        check(Value::Null, "<none>");
        check(json!({}), "<none>");
        check(json!({"matchLabels": {"b": "2", "a": "1"}}), "a=1,b=2");
        check(
            json!({"matchLabels": {"b": "2"}, "matchExpressions": [
                {"key": "a", "operator": "In", "values": ["y", "x"]}, {"key": "c", "operator": "DoesNotExist"}]}),
            "a in (x,y),b=2,!c",
        );
    }
}
