//! Upstream's cases of pruning, defaults and nulls (apiextensions-apiserver `schema/pruning/algorithm_test.go`,
//! `schema/defaulting/algorithm_test.go`).

use serde_json::{Value, json};

use super::{Structural, defaults, embedded, lists, prune};

#[track_caller]
fn pruned(schema: Value, mut value: Value, want: Value, unknown: &[&str]) {
    let schema = Structural::parse(&schema);
    let found = prune::prune(&mut value, Some(&schema));
    assert_eq!(value, want);
    assert_eq!(found, unknown);
}

#[test]
fn what_is_not_specified_goes() {
    let object = |properties: Value| json!({"type": "object", "properties": properties});
    pruned(object(json!({"a": {"type": "string"}})), json!({"a": 1, "b": 2}), json!({"a": 1}), &["b"]);
    pruned(
        json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"spec": {"type": "object"}}}),
        json!({"spec": {"x": 1}, "other": {"y": 1}}),
        json!({"spec": {}, "other": {"y": 1}}),
        &["spec.x"],
    );
    pruned(
        object(json!({"m": {"type": "object", "additionalProperties": {"type": "object", "properties": {"a": {}}}}})),
        json!({"m": {"k": {"a": 1, "b": 2}}}),
        json!({"m": {"k": {"a": 1}}}),
        &["m.k.b"],
    );
    pruned(
        object(json!({"l": {"type": "array", "items": {"type": "object", "properties": {"a": {}}}}})),
        json!({"l": [{"a": 1}, {"b": 1}]}),
        json!({"l": [{"a": 1}, {}]}),
        &["l[1].b"],
    );
    pruned(object(json!({"n": {}})), json!({"n": {"a": [{"b": 1}]}}), json!({"n": {}}), &["n.a"]);
    pruned(
        object(json!({"open": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
            "properties": {"closed": {"type": "object", "properties": {"a": {}}}}}})),
        json!({"open": {"x": {"y": 1}, "closed": {"a": 1, "b": 1}}}),
        json!({"open": {"x": {"y": 1}, "closed": {"a": 1}}}),
        &["open.closed.b"],
    );
    // At the root and in embedded objects the type and metadata stay; elsewhere they are members like others.
    let meta = json!({"apiVersion": "v1", "kind": "K", "metadata": {"name": "a", "x": 1}, "spec": 1});
    let kept = json!({"apiVersion": "v1", "kind": "K", "metadata": {"name": "a", "x": 1}});
    pruned(object(json!({})), meta.clone(), kept.clone(), &["spec"]);
    pruned(
        object(json!({"e": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {}}})),
        json!({"e": meta}),
        json!({"e": kept}),
        &["e.spec"],
    );
    pruned(
        object(json!({"o": {"type": "object", "properties": {"a": {}}}})),
        json!({"o": {"metadata": {"a": 1}, "kind": "x"}}),
        json!({"o": {}}),
        &["o.kind", "o.metadata"],
    );
}

#[track_caller]
fn filled(schema: Value, mut value: Value, want: Value) {
    let schema = Structural::parse(&schema);
    defaults::drop_nulls(&mut value, Some(&schema));
    defaults::fill(&mut value, Some(&schema));
    assert_eq!(value, want);
}

#[test]
fn defaults_fill_what_is_absent_and_nulls_that_may_not_be() {
    let object = |properties: Value| json!({"type": "object", "properties": properties});
    filled(object(json!({"a": {"type": "string", "default": "A"}})), json!({}), json!({"a": "A"}));
    filled(object(json!({"a": {"type": "string", "default": "A"}})), json!({"a": "x"}), json!({"a": "x"}));
    filled(object(json!({"a": {"type": "string", "default": "A"}})), json!({"a": null}), json!({"a": "A"}));
    filled(
        object(json!({"a": {"type": "string", "default": "A", "nullable": true}})),
        json!({"a": null}),
        json!({"a": null}),
    );
    filled(object(json!({"a": {"type": "string"}})), json!({"a": null}), json!({}));
    filled(object(json!({"a": {"type": "string", "nullable": true}})), json!({"a": null}), json!({"a": null}));
    filled(
        object(json!({"o": {"type": "object", "default": {}, "properties": {"b": {"type": "integer", "default": 3}}}})),
        json!({}),
        json!({"o": {"b": 3}}),
    );
    filled(
        object(json!({"l": {"type": "array", "items": {"type": "object", "default": {"x": 1},
            "properties": {"x": {"type": "integer"}, "y": {"type": "integer", "default": 2}}}}})),
        json!({"l": [null, {"x": 5}]}),
        json!({"l": [{"x": 1, "y": 2}, {"x": 5, "y": 2}]}),
    );
    filled(
        object(json!({"m": {"type": "object", "additionalProperties": {"type": "string", "default": "D"}}})),
        json!({"m": {"k": null, "n": "x"}}),
        json!({"m": {"k": "D", "n": "x"}}),
    );
}

#[test]
fn defaults_hold_nothing_that_the_schema_does_not_know() {
    let mut schema = Structural::parse(&json!({"type": "object", "properties": {
        "o": {"type": "object", "default": {"a": 1, "b": 2}, "properties": {"a": {"type": "integer"}}}}}));
    defaults::prune_defaults(&mut schema);
    let default = schema.property("o").and_then(|o| o.default.as_deref());
    assert_eq!(default, Some(&json!({"a": 1})));
}

#[test]
fn repeated_items_are_told_once() {
    let schema = Structural::parse(&json!({"type": "object", "properties": {
        "s": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "m": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a", "b"],
            "items": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}}}}}));
    let value = json!({"s": ["x", "y", "x", "x"], "m": [{"a": "1"}, {"a": "1", "b": "2"}, {"a": "1"}]});
    let found: Vec<String> = lists::validate(&value, &schema).iter().map(ToString::to_string).collect();
    assert_eq!(found, ["m[2]: Duplicate value: {\"a\":\"1\"}", "s[2]: Duplicate value: \"x\""]);
}

#[test]
fn embedded_objects_need_a_kind_and_good_metadata() {
    let field = |name: &'static str, ty| crate::schema::Field { name: name.into(), ty, ..Default::default() };
    let types = crate::schema::Types::new(vec![crate::schema::StructDef {
        name: "ObjectMeta".into(),
        fields: vec![field("name", crate::schema::Type::String), field("namespace", crate::schema::Type::String)],
        ..Default::default()
    }]);
    let meta = crate::schema::Schema { types: std::sync::Arc::new(types), root: crate::schema::TypeId(0) };
    let schema = Structural::parse(&json!({"type": "object", "properties": {"t": {
        "type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}}}));
    let mut value = json!({"t": {"kind": "A_b", "metadata": {"name": "x", "odd": 1}}});
    let unknown = embedded::coerce(&mut value, Some(&schema), &meta, false).unwrap();
    assert_eq!((unknown, &value["t"]["metadata"]), (vec!["t.metadata.odd".to_owned()], &json!({"name": "x"})));
    let found = embedded::validate(&value, Some(&schema), &meta);
    let paths: Vec<String> = found.iter().map(|e| e.path.to_string()).collect();
    assert_eq!(paths, ["t.apiVersion", "t.kind"]);
    let mut bad = json!({"t": {"apiVersion": "v1", "kind": "A", "metadata": {"name": 3}}});
    let error = embedded::coerce(&mut bad.clone(), Some(&schema), &meta, false).unwrap_err();
    assert_eq!(error.path.to_string(), "t.metadata");
    embedded::coerce(&mut bad, Some(&schema), &meta, true).unwrap();
    assert_eq!(bad["t"]["metadata"], json!({}));
}
