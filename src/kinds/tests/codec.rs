//! The generic codecs over the tables of built-in kinds: upstream's texts and Go's JSON form.

use api::codec::{FieldValidation, MediaType, decode, protobuf};
use api::schema::Schema;
use api::{Gvk, Object};
use proptest::prelude::*;
use serde_json::{Value, json};

fn deployment() -> (Schema, Gvk) {
    (kinds::facts::schema("io.k8s.api.apps.v1.Deployment").unwrap(), Gvk::new("apps", "v1", "Deployment"))
}

fn pod() -> (Schema, Gvk) {
    (kinds::facts::schema("io.k8s.api.core.v1.Pod").unwrap(), Gvk::new("", "v1", "Pod"))
}

fn refused((schema, gvk): (Schema, Gvk), body: &str, want: &str) {
    let error = decode(body.as_bytes(), MediaType::Json, &schema, &gvk, FieldValidation::Strict).unwrap_err();
    assert_eq!((error.code, error.reason, error.message.as_str()), (400, "BadRequest", want));
}

#[test]
fn wrong_bodies_get_upstreams_texts() {
    refused(
        deployment(),
        r#"{"spec":{"unknownField":"foo","replicas":2,"replicas":3}}"#,
        "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: \
         unknown field \"spec.unknownField\", duplicate field \"spec.replicas\"",
    );
    refused(
        deployment(),
        r#"{"spec":{"replicas":"three"}}"#,
        "Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot unmarshal string into Go struct \
         field DeploymentSpec.spec.replicas of type int32",
    );
    refused(
        pod(),
        r#"{"spec":{"containers":[{"image":7,"imagePullPolicy":true}]}}"#,
        "Pod in version \"v1\" cannot be handled as a Pod: json: cannot unmarshal number into Go struct field \
         Container.spec.containers.image of type string",
    );
    refused(
        pod(),
        r#"{"spec":{"containers":[{"imagePullPolicy":true}]}}"#,
        "Pod in version \"v1\" cannot be handled as a Pod: json: cannot unmarshal bool into Go struct field \
         Container.spec.containers.imagePullPolicy of type v1.PullPolicy",
    );
    refused(
        pod(),
        r#"{"spec":{"containers":{}}}"#,
        "Pod in version \"v1\" cannot be handled as a Pod: json: cannot unmarshal object into Go struct field \
         PodSpec.spec.containers of type []v1.Container",
    );
    refused(
        pod(),
        r#"{"spec":{"containers":[{"resources":{"limits":{"cpu":"x"}}}]}}"#,
        "Pod in version \"v1\" cannot be handled as a Pod: quantities must match the regular expression \
         '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
    );
    refused(
        pod(),
        r#"{"apiVersion":"v2","kind":"Pod"}"#,
        "Pod in version \"v2\" cannot be handled as a Pod: no kind \"Pod\" is registered for version \"v2\" in scheme \"pkg/api/legacyscheme/scheme.go:30\"",
    );
    refused(
        pod(),
        "{\"spec\"",
        "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: \
         unexpected end of JSON input ({\"spec\")",
    );
    refused(
        pod(),
        "",
        "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: \
         unexpected end of JSON input (<empty>)",
    );
}

#[test]
fn unknown_fields_are_warned_of_and_dropped() {
    let (schema, gvk) = pod();
    let body = br#"{"metadata":{"name":"a","unknownMeta":1},"Spec":{},"spec":{"containers":[{"name":"c","foo":{}}]}}"#;
    let decoded = decode(body, MediaType::Json, &schema, &gvk, FieldValidation::Warn).unwrap();
    assert_eq!(
        decoded.warnings,
        [
            "unknown field \"metadata.unknownMeta\"",
            "unknown field \"Spec\"",
            "unknown field \"spec.containers[0].foo\""
        ]
    );
    assert_eq!(
        decoded.object.into_value(),
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
               "spec": {"containers": [{"name": "c", "resources": {}}]}, "status": {}})
    );
}

#[test]
fn objects_take_the_form_that_go_prints() {
    let (schema, gvk) = pod();
    let body = json!({
        "metadata": {"labels": {}, "creationTimestamp": null, "deletionTimestamp": "2024-01-02T03:04:05+01:00"},
        "spec": {"hostNetwork": false, "containers": [{
            "name": "c", "args": [], "tty": false,
            "resources": {"limits": {"cpu": "1000m", "memory": 1024}, "requests": {"memory": "1024Mi"}},
            "ports": [{"containerPort": 80, "hostPort": 0}],
            "livenessProbe": {"httpGet": {"port": "http"}, "periodSeconds": 0},
            "env": [{"name": "a", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}],
        }]},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    });
    let decoded = decode(body.to_string().as_bytes(), MediaType::Json, &schema, &gvk, FieldValidation::Strict).unwrap();
    let want = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"deletionTimestamp": "2024-01-02T02:04:05Z"},
        "spec": {"containers": [{
            "name": "c",
            "resources": {"limits": {"cpu": "1", "memory": "1024"}, "requests": {"memory": "1Gi"}},
            "ports": [{"containerPort": 80}],
            "livenessProbe": {"httpGet": {"port": "http"}},
            "env": [{"name": "a", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "0"}}}],
        }]},
        "status": {"conditions": [
            {"type": "Ready", "status": "True", "lastProbeTime": null, "lastTransitionTime": null}]},
    });
    assert_eq!(decoded.object.clone().into_value(), want);
    // The same through protobuf.
    let body = protobuf::envelope(&gvk, &protobuf::encode(&schema, &decoded.object));
    let again = decode(&body, MediaType::Protobuf, &schema, &gvk, FieldValidation::Strict).unwrap();
    assert_eq!(again.object.into_value(), want);
}

#[test]
fn lists_and_maps_with_names_are_called_by_them() {
    let of = |name: &str, gvk: Gvk| (kinds::facts::schema(name).unwrap(), gvk);
    let definition = |schema: &str, want: &str| {
        let gvk = Gvk::new("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
        refused(
            of("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition", gvk),
            &format!(r#"{{"spec":{{"versions":[{{"schema":{{"openAPIV3Schema":{schema}}}}}]}}}}"#),
            &format!(
                "CustomResourceDefinition in version \"v1\" cannot be handled as a CustomResourceDefinition: json: cannot \
                 unmarshal {want}"
            ),
        );
    };
    let field = "Go struct field JSONSchemaProps.spec.versions.schema.openAPIV3Schema";
    let rules = r#"{"properties":{"a":{"x-kubernetes-validations":{}}}}"#;
    definition(rules, &format!("object into {field}.properties.x-kubernetes-validations of type v1.ValidationRules"));
    definition(r#"{"definitions":"a"}"#, &format!("string into {field}.definitions of type v1.JSONSchemaDefinitions"));
    definition(r#"{"dependencies":[]}"#, &format!("array into {field}.dependencies of type v1.JSONSchemaDependencies"));
    let secret = || of("io.k8s.api.core.v1.Secret", Gvk::new("", "v1", "Secret"));
    refused(
        secret(),
        r#"{"data":{"a":[1,"b"]}}"#,
        "Secret in version \"v1\" cannot be handled as a Secret: json: cannot unmarshal string into Go struct field \
         Secret.data of type uint8",
    );
}

#[test]
fn bytes_that_are_null_in_a_map_are_empty_where_they_are_stored() {
    let schema = kinds::facts::schema("io.k8s.api.core.v1.Secret").unwrap();
    let (body, gvk) = (br#"{"data":{"a":null,"b":[104,105]}}"#, Gvk::new("", "v1", "Secret"));
    let mut object = decode(body, MediaType::Json, &schema, &gvk, FieldValidation::Strict).unwrap().object;
    assert_eq!(object.get(&["data"]), Some(&json!({"a": null, "b": "aGk="})));
    api::schema::walk::empty_as_nil(&schema, &mut object);
    assert_eq!(object.get(&["data"]), Some(&json!({"a": "", "b": "aGk="})));
}

#[test]
fn the_converter_from_maps_has_words_of_its_own() {
    let check = |spec: Value, want: Result<Value, &str>| {
        let mut object = Object::from_value(json!({"spec": spec})).unwrap();
        let result = api::codec::fit(&deployment().0, &mut object).map(|()| object.into_value()["spec"].clone());
        assert_eq!(result, want.map_err(ToOwned::to_owned), "{spec}");
    };
    check(json!({"replicas": 3.0}), Ok(json!({"replicas": 3})));
    check(json!({"replicas": 4_294_967_297_i64}), Ok(json!({"replicas": 1})));
    check(json!({"replicas": "3"}), Err("unrecognized type: int32"));
    check(json!({"replicas": 1.5}), Err("cannot convert float64 to int32"));
    check(json!({"paused": 1}), Err("unrecognized type: bool"));
    check(json!({"strategy": {"type": 5}}), Err("cannot convert int64 to v1.DeploymentStrategyType"));
    check(json!({"strategy": {"type": true}}), Err("unrecognized type: string"));
    check(json!({"strategy": 5}), Err("cannot restore struct from: int64"));
    check(json!({"selector": {"matchLabels": []}}), Err("cannot restore map from slice"));
    check(json!({"template": {"spec": {"containers": {}}}}), Err("cannot restore slice from map"));
    let surge = |surge: Value| json!({"strategy": {"rollingUpdate": {"maxSurge": surge}}});
    check(surge(json!("50%")), Ok(surge(json!("50%"))));
    check(surge(json!(true)), Err("json: cannot unmarshal bool into Go value of type int32"));
    check(surge(json!(1.5)), Err("json: cannot unmarshal number 1.5 into Go value of type int32"));
}

#[test]
fn the_slash_of_the_core_group_may_be_written() {
    let (schema, gvk) = pod();
    for version in ["/v1", "/", ""] {
        let body = format!(r#"{{"apiVersion":"{version}","kind":"Pod"}}"#);
        let decoded = decode(body.as_bytes(), MediaType::Json, &schema, &gvk, FieldValidation::Strict).unwrap();
        assert_eq!(decoded.object.api_version(), "v1");
    }
}

#[test]
fn yaml_is_decoded_as_the_json_it_stands_for() {
    let (schema, gvk) = deployment();
    let body = b"kind: Deployment\nspec:\n  replicas: 1\n  replicas: 2\n  paused: yes\n";
    let decoded = decode(body, MediaType::Yaml, &schema, &gvk, FieldValidation::Warn).unwrap();
    assert_eq!(decoded.warnings, ["yaml: unmarshal errors:\n  line 4: key \"replicas\" already set in map"]);
    assert_eq!(decoded.object.get(&["spec", "replicas"]), Some(&Value::from(2)));
    assert_eq!(decoded.object.get(&["spec", "paused"]), Some(&Value::from(true)));
    assert_eq!(decoded.object.get(&["spec", "selector"]), Some(&Value::Null));
}

#[test]
fn schema_defaults_fill_what_is_absent() {
    let (schema, _) = pod();
    let mut object = Object::from_value(json!({"spec": {
        "containers": [{"ports": [{"containerPort": 1}, {"containerPort": 2, "protocol": "UDP"}]}],
        "volumes": [{"iscsi": {"lun": 1}}],
    }}))
    .unwrap();
    api::schema::walk::default(&schema, &mut object);
    let ports = object.get(&["spec", "containers"]).unwrap()[0]["ports"].clone();
    assert_eq!(ports, json!([{"containerPort": 1, "protocol": "TCP"}, {"containerPort": 2, "protocol": "UDP"}]));
    assert_eq!(object.get(&["spec", "volumes"]).unwrap()[0]["iscsi"]["iscsiInterface"], "default");
}

#[test]
fn a_body_of_very_many_objects_is_refused() {
    let containers = vec!["{}"; 200_000].join(",");
    let body = format!("{{\"spec\":{{\"containers\":[{containers}]}}}}");
    refused(pod(), &body, "Pod in version \"v1\" cannot be handled as a Pod: exceeded max number of objects");
}

/// A body with some of a pod's member names and values of any type.
fn podlike() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-2i64..70_000).prop_map(Value::from),
        "[a-z0-9.]{0,6}".prop_map(Value::from),
        Just(Value::from("2024-01-02T03:04:05Z")),
        Just(Value::from("100m")),
    ];
    let name = prop::sample::select(vec![
        "metadata",
        "spec",
        "status",
        "name",
        "labels",
        "containers",
        "env",
        "valueFrom",
        "ports",
        "containerPort",
        "resources",
        "limits",
        "cpu",
        "livenessProbe",
        "httpGet",
        "port",
        "volumes",
        "secret",
        "items",
        "conditions",
        "lastTransitionTime",
        "other",
        "managedFields",
        "fieldsV1",
        "creationTimestamp",
    ]);
    leaf.prop_recursive(6, 60, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map(name.clone().prop_map(str::to_owned), inner, 0..6)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

/// Protobuf has no word for a list without entries: upstream reads none there, too.
fn without_empty_lists(object: Object) -> Value {
    fn empty(value: &mut Value) {
        match value {
            Value::Array(entries) if entries.is_empty() => *value = Value::Null,
            Value::Array(entries) => entries.iter_mut().for_each(empty),
            Value::Object(fields) => fields.values_mut().for_each(empty),
            _ => {}
        }
    }
    let mut value = object.into_value();
    empty(&mut value);
    value
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn decoding_settles_at_once_and_survives_protobuf(value in podlike()) {
        let (schema, gvk) = pod();
        let body = value.to_string();
        if let Ok(first) = decode(body.as_bytes(), MediaType::Json, &schema, &gvk, FieldValidation::Warn) {
            let body = first.object.clone().into_value().to_string();
            let again = decode(body.as_bytes(), MediaType::Json, &schema, &gvk, FieldValidation::Strict).unwrap();
            prop_assert_eq!(&again.object, &first.object);
            let body = protobuf::envelope(&gvk, &protobuf::encode(&schema, &first.object));
            let wired = decode(&body, MediaType::Protobuf, &schema, &gvk, FieldValidation::Strict).unwrap();
            prop_assert_eq!(without_empty_lists(wired.object), without_empty_lists(first.object));
        }
    }

    #[test]
    fn damaged_protobuf_never_panics(value in podlike(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let (schema, gvk) = pod();
        let mut object = Object::from_value(json!({"spec": {"containers": [{"name": "c", "image": "i"}]}})).unwrap();
        if let Value::Object(map) = value {
            object.0.extend(map);
        }
        let mut body = protobuf::envelope(&gvk, &protobuf::encode(&schema, &object));
        let at = at.index(body.len());
        body[at] = byte;
        let _ = decode(&body, MediaType::Protobuf, &schema, &gvk, FieldValidation::Strict);
        body.truncate(at);
        let _ = decode(&body, MediaType::Protobuf, &schema, &gvk, FieldValidation::Strict);
    }

    #[test]
    fn random_protobuf_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        let (schema, gvk) = pod();
        let body = protobuf::envelope(&gvk, &bytes);
        let _ = decode(&body, MediaType::Protobuf, &schema, &gvk, FieldValidation::Strict);
        let _ = decode(&bytes, MediaType::Protobuf, &schema, &gvk, FieldValidation::Strict);
    }
}

/// Patches with a pod's member names, every directive of strategic merge, and pointers to what may be there.
fn patchlike() -> impl Strategy<Value = Value> {
    let directive = prop_oneof![
        Just(json!({"$patch": "delete"})),
        Just(json!({"$patch": "replace", "name": "a"})),
        Just(json!({"$patch": 7})),
        Just(json!({"$retainKeys": ["name", 1]})),
        Just(json!({"$setElementOrder/containers": [{"name": "a"}, {}, null]})),
        Just(json!({"$deleteFromPrimitiveList/finalizers": ["a", null]})),
        Just(json!({"spec": {"containers": [{"name": "a", "$patch": "delete"}, {"name": "b", "env": null}]}})),
    ];
    (podlike(), directive, any::<bool>()).prop_map(|(value, directive, inside)| match (value, directive) {
        (Value::Object(mut map), Value::Object(more)) => {
            if inside {
                map.insert("spec".to_owned(), Value::Object(more));
            } else {
                map.extend(more);
            }
            Value::Object(map)
        }
        (value, _) => value,
    })
}

/// Operations of JSON patches, most of them on something.
fn operations() -> impl Strategy<Value = Value> {
    let op = prop::sample::select(vec!["add", "remove", "replace", "move", "copy", "test", "other", ""]);
    let path = "(/(spec|metadata|containers|name|env|0|1|-|~0|~2|~|labels|a)){0,5}";
    let operation = (op, path, path, podlike(), any::<u8>()).prop_map(|(op, path, from, value, without)| {
        let mut map = json!({"op": op, "path": path, "from": from, "value": value});
        if without % 5 == 0 {
            map.as_object_mut().unwrap().remove(["op", "path", "from", "value"][usize::from(without / 64)]);
        }
        map
    });
    prop_oneof![prop::collection::vec(operation, 0..5).prop_map(Value::from), podlike()]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_patch_panics(value in podlike(), patch in patchlike(), operations in operations()) {
        let (schema, gvk) = pod();
        let mut object = json!({"metadata": {"name": "p", "finalizers": ["a"]}, "spec": {"containers": [
            {"name": "a", "env": [{"name": "x", "value": "1"}], "ports": [{"containerPort": 1}]}, {"name": "b"}]}});
        if let (Value::Object(map), Value::Object(more)) = (&mut object, value) {
            map.extend(more);
        }
        let _ = api::patch::json(object.clone(), &operations);
        let _ = api::patch::merge(object.clone(), &patch);
        let object = Object::from_value(object).unwrap();
        if let Some(patch) = Object::from_value(patch.clone()) {
            let _ = api::patch::strategic(&schema, object.clone(), patch);
        }
        let _ = decode(patch.to_string().as_bytes(), MediaType::Yaml, &schema, &gvk, FieldValidation::Warn);
    }

    #[test]
    fn no_apply_panics(live in podlike(), applied in patchlike(), force in any::<bool>()) {
        let (schema, gvk) = pod();
        let manager = api::apply::FieldManager {
            schema: &schema,
            gvk: &gvk,
            subresource: "",
            reset: &[&["status"]],
            resets_versions: true,
            versions: &api::apply::OneVersion,
            keeps_nulls: false,
            now: jiff::Timestamp::UNIX_EPOCH,
        };
        let typed = |value: Value| {
            let mut object = Object::from_value(value).unwrap_or_default();
            object.set_gvk(&gvk);
            object
        };
        let mut live = typed(live);
        if api::codec::normalize(&schema, &mut live).is_ok() {
            live.set(&["metadata", "uid"], "u");
            let mut updated = live.clone();
            manager.update(None, &mut updated, "first");
            let _ = manager.apply(Some(&updated), &typed(applied.clone()), "second", force);
            let _ = manager.apply(None, &typed(applied), "second", force);
        }
    }
}
