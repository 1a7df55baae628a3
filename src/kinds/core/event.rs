//! Events, of the core group and of `events.k8s.io`: one store, two shapes.

use std::sync::Arc;
use std::time::Duration;

use api::field::{Error, ErrorList, Path};
use api::kind::{Column, Conversion, SelectableField};
use api::{Object, Status};
use jiff::Timestamp;
use serde_json::Value;

use crate::checks::{immutable_as, invalid_all, qualified_name};
use crate::columns::{field, name, string, text, wide};
use crate::define::Extra;
use crate::duration::since;
use crate::json::{Json, dig, same};
use crate::rules::Rules;

/// Upstream's `--event-ttl`.
const TTL: Duration = Duration::from_secs(3600);
/// Longest reporting instance, action and reason.
const TEXT_MAX: usize = 128;
const NOTE_MAX: usize = 1024;

/// Members that are called differently: in `events.k8s.io`, in the core group.
const NAMES: [(&str, &str); 7] = [
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
    ("reportingController", "reportingComponent"),
];

/// The core group's events.
pub(super) fn extra() -> Extra {
    let rules = Rules {
        validate: |object| {
            let mut errors = ErrorList::new();
            legacy(&mut errors, object, "reportingComponent");
            errors
        },
        create_on_update: true,
        // Only what holds for all kinds is asked of the metadata.
        name: |_, _| Vec::new(),
        any_finalizers: true,
        ..Rules::GENERIC
    };
    let mut extra = Extra::new(rules, columns()).with_fields(fields());
    extra.ttl = Some(TTL);
    extra
}

/// The events of `events.k8s.io`.
pub(crate) fn new_style() -> Extra {
    let rules = Rules {
        validate: |object| {
            let old = renamed(object.clone(), true);
            let mut errors = ErrorList::new();
            legacy(&mut errors, &old, "reportingController");
            strict(&mut errors, &old);
            errors
        },
        validate_update: Some(validate_update),
        create_on_update: true,
        ..Rules::GENERIC
    };
    let mut extra = Extra::new(rules, columns()).with_fields(new_fields());
    extra.ttl = Some(TTL);
    extra.conversion = Some(Arc::new(Rename));
    extra
}

/// Between the two shapes.
struct Rename;

impl Conversion for Rename {
    fn to_stored(&self, object: Object) -> Result<Object, Status> {
        Ok(renamed(object, true))
    }

    fn from_stored(&self, object: Object) -> Result<Object, Status> {
        Ok(renamed(object, false))
    }
}

/// The members under the core group's names, or under the newer ones.
fn renamed(mut object: Object, to_core: bool) -> Object {
    for (new, old) in NAMES {
        let (from, to) = if to_core { (new, old) } else { (old, new) };
        if let Some(value) = object.0.remove(from) {
            object.0.insert(to.to_owned(), value);
        }
    }
    // The core group prints these two even if they are empty.
    for member in ["reportingComponent", "reportingInstance"] {
        if to_core && object.at(member).is_null() {
            object.0.insert(member.to_owned(), "".into());
        }
    }
    for member in ["reportingController", "reportingInstance"] {
        if !to_core && object.at(member).as_str() == Some("") {
            object.0.remove(member);
        }
    }
    object
}

/// A member by its core name, whichever shape the event has.
fn member<'o>(object: &'o Object, core_name: &str) -> &'o Value {
    let found = object.at(core_name);
    if !found.is_null() {
        return found;
    }
    let new = NAMES.iter().find(|(_, old)| *old == core_name).map_or(core_name, |(new, _)| new);
    object.at(new)
}

fn member_text<'o>(object: &'o Object, core_name: &str) -> &'o str {
    member(object, core_name).as_str().unwrap_or_default()
}

fn first_seen(object: &Object, now: Timestamp) -> String {
    match member(object, "firstTimestamp") {
        Value::Null => since(object.at("eventTime"), now),
        time => since(time, now),
    }
}

fn last_seen(object: &Object, now: Timestamp) -> String {
    if object.has("series") {
        return since(object.at("series").at("lastObservedTime"), now);
    }
    match member(object, "lastTimestamp") {
        Value::Null => first_seen(object, now),
        time => since(time, now),
    }
}

fn count(object: &Object) -> i64 {
    if object.has("series") {
        return object.at("series").int("count").unwrap_or_default();
    }
    match member(object, "count").as_i64().unwrap_or_default() {
        // Single events of the newer group have none.
        0 => 1,
        count => count,
    }
}

fn target(object: &Object) -> String {
    let involved = member(object, "involvedObject");
    let kind = involved.text("kind").to_lowercase();
    match involved.text("name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    }
}

fn source(object: &Object) -> String {
    let source = member(object, "source");
    let first = |a: &str, b: &str| if a.is_empty() { b.to_owned() } else { a.to_owned() };
    let component = first(source.text("component"), member_text(object, "reportingComponent"));
    let instance = first(source.text("host"), object.text("reportingInstance"));
    if instance.is_empty() { component } else { format!("{component}, {instance}") }
}

fn columns() -> Vec<Column> {
    vec![
        text("Last Seen", |o, now| last_seen(o, now).into()),
        text("Type", |o, _| string(o, &["type"])),
        text("Reason", |o, _| string(o, &["reason"])),
        text("Object", |o, _| target(o).into()),
        wide("Subobject", |o, _| member(o, "involvedObject").text("fieldPath").into()),
        wide("Source", |o, _| source(o).into()),
        text("Message", |o, _| member_text(o, "message").trim().into()),
        wide("First Seen", |o, now| first_seen(o, now).into()),
        wide("Count", |o, _| count(o).into()),
        Column { priority: 1, ..name() },
    ]
}

fn involved(object: &Object, name: &str) -> String {
    member(object, "involvedObject").text(name).to_owned()
}

fn fields() -> Vec<SelectableField> {
    vec![
        field("involvedObject.kind", |o| involved(o, "kind")),
        field("involvedObject.namespace", |o| involved(o, "namespace")),
        field("involvedObject.name", |o| involved(o, "name")),
        field("involvedObject.uid", |o| involved(o, "uid")),
        field("involvedObject.apiVersion", |o| involved(o, "apiVersion")),
        field("involvedObject.resourceVersion", |o| involved(o, "resourceVersion")),
        field("involvedObject.fieldPath", |o| involved(o, "fieldPath")),
        field("reason", |o| o.text("reason").to_owned()),
        field("reportingComponent", |o| member_text(o, "reportingComponent").to_owned()),
        field("source", |o| match dig(member(o, "source"), &["component"]).as_str() {
            None | Some("") => member_text(o, "reportingComponent").to_owned(),
            Some(component) => component.to_owned(),
        }),
        field("type", |o| o.text("type").to_owned()),
    ]
}

fn new_fields() -> Vec<SelectableField> {
    vec![
        field("regarding.kind", |o| involved(o, "kind")),
        field("regarding.namespace", |o| involved(o, "namespace")),
        field("regarding.name", |o| involved(o, "name")),
        field("regarding.uid", |o| involved(o, "uid")),
        field("regarding.apiVersion", |o| involved(o, "apiVersion")),
        field("regarding.resourceVersion", |o| involved(o, "resourceVersion")),
        field("regarding.fieldPath", |o| involved(o, "fieldPath")),
        field("reason", |o| o.text("reason").to_owned()),
        field("reportingController", |o| member_text(o, "reportingComponent").to_owned()),
        field("type", |o| o.text("type").to_owned()),
    ]
}

/// `legacyValidateEvent`, of an event in the core shape.
fn legacy(errors: &mut ErrorList, object: &Object, controller: &str) {
    let involved = dig(object, &["involvedObject", "namespace"]).as_str().unwrap_or_default();
    let own = object.namespace();
    let at = Path::new("involvedObject").child("namespace");
    let mismatch = "does not match event.namespace";
    if !object.has("eventTime") {
        let good = if involved.is_empty() { matches!(own, "" | "default") } else { own == involved };
        if !good {
            errors.push(Error::invalid(at, involved, mismatch));
        }
        return;
    }
    if involved.is_empty() && !matches!(own, "default" | "kube-system") {
        errors.push(Error::invalid(at, involved, mismatch));
    }
    let reporter = object.text("reportingComponent");
    if reporter.is_empty() {
        errors.push(Error::required(Path::new(controller), ""));
    }
    invalid_all(errors, &Path::new(controller), reporter, qualified_name(reporter));
    for name in ["reportingInstance", "action", "reason"] {
        if object.count(name) == 0 {
            errors.push(Error::required(Path::new(name), ""));
        } else if object.count(name) > TEXT_MAX {
            errors.push(Error::invalid(Path::new(name), "", format!("can have at most {TEXT_MAX} characters")));
        }
    }
    if object.count("message") > NOTE_MAX {
        errors.push(Error::invalid(Path::new("message"), "", format!("can have at most {NOTE_MAX} characters")));
    }
}

/// What the newer API asks beyond that, of an event in the core shape.
fn strict(errors: &mut ErrorList, object: &Object) {
    series(errors, object);
    if !object.has("eventTime") {
        errors.push(Error::required(Path::new("eventTime"), ""));
    }
    let kind = object.text("type");
    if !matches!(kind, "Normal" | "Warning") {
        errors.push(Error::invalid(Path::new("type"), "", format!("has invalid value: {kind}")));
    }
    for name in ["firstTimestamp", "lastTimestamp", "count", "source"] {
        if !same(object.at(name), &Value::Null) && object.int(name) != Some(0) {
            errors.push(Error::invalid(Path::new(name), "", "needs to be unset"));
        }
    }
}

fn series(errors: &mut ErrorList, object: &Object) {
    let series = object.at("series");
    if series.is_null() {
        return;
    }
    if series.int("count").unwrap_or_default() < 2 {
        errors.push(Error::invalid(Path::new("series.count"), "", "should be at least 2"));
    }
    if !series.has("lastObservedTime") {
        errors.push(Error::required(Path::new("series.lastObservedTime"), ""));
    }
}

fn validate_update(object: &Object, old: &Object) -> ErrorList {
    let (new, old) = (renamed(object.clone(), true), renamed(old.clone(), true));
    let mut errors = ErrorList::new();
    legacy(&mut errors, &new, "reportingController");
    if !same(new.at("series"), old.at("series")) {
        series(&mut errors, &new);
    }
    for name in [
        "involvedObject",
        "reason",
        "message",
        "source",
        "firstTimestamp",
        "lastTimestamp",
        "count",
        "type",
        "eventTime",
        "action",
        "related",
    ] {
        let ty = match name {
            "involvedObject" => "core.ObjectReference",
            "related" => "*core.ObjectReference",
            "source" => "core.EventSource",
            "count" => "number",
            "firstTimestamp" | "lastTimestamp" | "eventTime" => "raw",
            _ => "string",
        };
        immutable_as(&mut errors, Path::new(name), ty, new.at(name), old.at(name));
    }
    let reporter = Path::new("reportingController");
    immutable_as(&mut errors, reporter, "string", new.at("reportingComponent"), old.at("reportingComponent"));
    let instance = Path::new("reportingInstance");
    immutable_as(&mut errors, instance, "string", new.at("reportingInstance"), old.at("reportingInstance"));
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_two_shapes_are_one_event() {
        let new = Object::from_value(
            json!({"regarding": {"kind": "Pod", "name": "p"}, "note": "n", "reportingController": "c"}),
        )
        .unwrap();
        let stored = Rename.to_stored(new.clone()).unwrap();
        assert_eq!(stored.str(&["involvedObject", "name"]), Some("p"));
        assert_eq!(stored.str(&["message"]), Some("n"));
        assert_eq!(target(&new), target(&stored));
        assert_eq!(Rename.from_stored(stored).unwrap(), new);
    }

    #[test]
    fn a_series_says_how_often() {
        let check = |event: Value, want: i64| assert_eq!(count(&Object::from_value(event).unwrap()), want);
        check(json!({}), 1);
        check(json!({"count": 3}), 3);
        check(json!({"count": 3, "series": {"count": 5}}), 5);
        check(json!({"count": 3, "series": {}}), 0);
    }

    #[test]
    fn namespaces_must_agree() {
        let check = |involved: &str, own: &str, good: bool| {
            let object =
                Object::from_value(json!({"metadata": {"namespace": own}, "involvedObject": {"namespace": involved}}))
                    .unwrap();
            let mut errors = ErrorList::new();
            legacy(&mut errors, &object, "reportingComponent");
            assert_eq!(errors.is_empty(), good, "{involved} {own}");
        };
        check("a", "a", true);
        check("a", "b", false);
        check("", "default", true);
        check("", "b", false);
    }
}
