//! Behaviour of apply and of ownership, over a small kind.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::schema::{Field, ListType, Presence, StructDef, Type, TypeId, Types};

fn field(name: &'static str, ty: Type) -> Field {
    Field { name: name.into(), ty, ..Field::default() }
}

fn map_of(ty: Type) -> Type {
    Type::Map(Box::new(ty))
}

fn list_of(ty: Type) -> Type {
    Type::List(Box::new(ty))
}

/// `Thing`: metadata; spec with scalars, an atomic list, a set, a list of `Item` by name and port, an atomic struct, a
/// free-form member, an amount, a boolean; status.
fn schema() -> Schema {
    let id = TypeId;
    let string = Type::String;
    let root = vec![
        field("apiVersion", string.clone()),
        field("kind", string.clone()),
        field("metadata", Type::Struct(id(1))),
        field("spec", Type::Struct(id(2))),
        field("status", Type::Struct(id(4))),
    ];
    let metadata = vec![
        field("name", string.clone()),
        field("namespace", string.clone()),
        field("uid", string.clone()),
        field("resourceVersion", string.clone()),
        field("labels", map_of(string.clone())),
        field("managedFields", Type::Json),
        field("annotations", map_of(string.clone())),
        Field { list: ListType::Set, ..field("finalizers", list_of(string.clone())) },
    ];
    let keys = vec!["name".into(), "port".into()];
    let spec = vec![
        field("replicas", Type::Int32),
        field("text", string.clone()),
        field("args", list_of(string.clone())),
        Field { list: ListType::Set, ..field("tags", list_of(string.clone())) },
        Field { list: ListType::Map, list_map_keys: keys, ..field("items", list_of(Type::Struct(id(3)))) },
        Field { atomic: true, pointer: true, ..field("whole", Type::Struct(id(4))) },
        field("free", Type::Json),
        Field { pointer: true, ..field("limit", Type::Quantity) },
        field("on", Type::Bool),
    ];
    let item = vec![
        field("name", string.clone()),
        Field { default: Some(json!(80)), ..field("port", Type::Int32) },
        field("value", string),
    ];
    let status = vec![field("ready", Type::Int32), field("note", Type::String)];
    let def = |name: &'static str, fields| StructDef { name: name.into(), fields, ..StructDef::default() };
    let types =
        vec![def("Thing", root), def("Meta", metadata), def("Spec", spec), def("Item", item), def("Status", status)];
    Schema { types: Arc::new(Types::new(types)), root: TypeId(0) }
}

struct World {
    schema: Schema,
    gvk: Gvk,
    seconds: i64,
    live: Option<Object>,
}

fn object(value: Value) -> Object {
    Object::from_value(value).unwrap()
}

impl World {
    fn new() -> Self {
        Self { schema: schema(), gvk: Gvk::new("x.io", "v1", "Thing"), seconds: 0, live: None }
    }

    fn thing(&self, rest: Value) -> Object {
        let mut value = json!({"apiVersion": "x.io/v1", "kind": "Thing", "metadata": {"name": "t"}});
        for (name, member) in rest.as_object().unwrap() {
            match (value.get_mut(name).and_then(Value::as_object_mut), member.as_object()) {
                (Some(into), Some(from)) => into.extend(from.clone()),
                _ => value[name] = member.clone(),
            }
        }
        object(value)
    }

    /// As a decoder leaves it.
    fn normal(&self, mut object: Object) -> Object {
        crate::codec::normalize(&self.schema, &mut object).unwrap();
        object
    }

    fn manager<'a>(&'a self, subresource: &'a str) -> FieldManager<'a> {
        FieldManager {
            schema: &self.schema,
            gvk: &self.gvk,
            subresource,
            reset: if subresource == "status" { &[&["spec"]] } else { &[&["status"]] },
            resets_versions: true,
            versions: &OneVersion,
            keeps_nulls: false,
            now: Timestamp::from_second(self.seconds).unwrap(),
        }
    }

    fn store(&mut self, mut object: Object) {
        object.set(&["metadata", "uid"], "u");
        self.live = Some(self.normal(object));
        self.seconds += 1;
    }

    fn apply(&mut self, manager: &str, rest: Value) -> Result<(), String> {
        self.apply_forced(manager, rest, false)
    }

    fn apply_forced(&mut self, manager: &str, rest: Value, force: bool) -> Result<(), String> {
        let applied = self.thing(rest);
        let result = self.manager("").apply(self.live.as_ref(), &applied, manager, force).map_err(|s| s.message)?;
        self.store(result);
        Ok(())
    }

    fn update(&mut self, manager: &str, subresource: &str, change: impl FnOnce(&mut Object)) {
        let mut new = self.live.clone().unwrap_or_else(|| self.thing(json!({})));
        change(&mut new);
        let mut new = self.normal(new);
        self.manager(subresource).update(self.live.as_ref(), &mut new, manager);
        self.store(new);
    }

    fn spec(&self) -> Value {
        self.live.as_ref().unwrap().get(&["spec"]).cloned().unwrap_or_default()
    }

    fn fields(&self, manager: &str) -> Value {
        self.entry(manager)["fieldsV1"].clone()
    }

    fn entry(&self, manager: &str) -> Value {
        let entries = self.live.as_ref().unwrap().array(&["metadata", "managedFields"]);
        entries.iter().find(|e| e["manager"] == manager).cloned().unwrap_or_default()
    }
}

#[test]
fn a_created_object_belongs_to_its_creator() {
    let mut world = World::new();
    world.update("kubectl-create", "", |o| {
        o.set(&["metadata", "labels", "a"], "b");
        o.set(&["spec"], json!({"replicas": 1, "items": [{"name": "x", "port": 80}], "tags": ["q"], "args": ["z"]}));
        o.set(&["status", "ready"], 1);
    });
    assert_eq!(
        world.live.as_ref().unwrap().array(&["metadata", "managedFields"]),
        [json!({
            "manager": "kubectl-create", "operation": "Update", "apiVersion": "x.io/v1", "fieldsType": "FieldsV1",
            "time": "1970-01-01T00:00:00Z",
            "fieldsV1": {
                "f:metadata": {"f:labels": {".": {}, "f:a": {}}},
                "f:spec": {"f:args": {}, "f:replicas": {}, "f:tags": {".": {}, "v:\"q\"": {}},
                    "f:items": {".": {}, "k:{\"name\":\"x\",\"port\":80}": {".": {}, "f:name": {}, "f:port": {}}}},
            },
        })]
    );
}

#[test]
fn fields_no_longer_applied_are_removed_unless_owned_by_another() {
    let mut world = World::new();
    world
        .apply(
            "a",
            json!({"spec": {"replicas": 1, "text": "x", "tags": ["p", "q"], "items": [{"name": "i", "value": "1"}]}}),
        )
        .unwrap();
    world.apply("b", json!({"spec": {"tags": ["q"], "items": [{"name": "i"}]}})).unwrap();
    world.apply("a", json!({"spec": {"replicas": 1}})).unwrap();
    assert_eq!(world.spec(), json!({"replicas": 1, "tags": ["q"], "items": [{"name": "i"}]}));
    world.apply("b", json!({})).unwrap();
    assert_eq!(world.spec(), json!({"replicas": 1}));
    assert_eq!(world.fields("b"), Value::Null);
}

#[test]
fn conflicts_name_manager_and_field() {
    let mut world = World::new();
    world.update("kubectl-client-side-apply", "", |o| o.set(&["spec", "replicas"], 3));
    let applied = world.thing(json!({"spec": {"replicas": 5}}));
    let status = world.manager("").apply(world.live.as_ref(), &applied, "me", false).unwrap_err();
    assert_eq!((status.code, status.reason), (409, "Conflict"));
    assert_eq!(
        status.message,
        "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using x.io/v1: .spec.replicas"
    );
    let cause = &status.details.unwrap().causes[0];
    assert_eq!((cause.reason.as_str(), cause.field.as_str()), ("FieldManagerConflict", ".spec.replicas"));
    world.apply_forced("me", json!({"spec": {"replicas": 5}}), true).unwrap();
    assert_eq!(world.spec(), json!({"replicas": 5}));
    assert_eq!(world.entry("kubectl-client-side-apply"), Value::Null);
}

#[test]
fn many_conflicts_are_listed_by_manager() {
    let mut world = World::new();
    world.apply("a", json!({"spec": {"replicas": 1, "text": "x"}})).unwrap();
    let error = world.apply("b", json!({"spec": {"replicas": 2, "text": "y"}})).unwrap_err();
    assert_eq!(error, "Apply failed with 2 conflicts: conflicts with \"a\":\n- .spec.replicas\n- .spec.text");
}

#[test]
fn equal_values_are_shared() {
    let mut world = World::new();
    world.apply("a", json!({"spec": {"replicas": 1}})).unwrap();
    world.apply("b", json!({"spec": {"replicas": 1}})).unwrap();
    assert_eq!(world.fields("a"), json!({"f:spec": {"f:replicas": {}}}));
    assert_eq!(world.fields("b"), world.fields("a"));
    world.apply("a", json!({})).unwrap();
    assert_eq!(world.spec(), json!({"replicas": 1}));
}

#[test]
fn an_update_takes_what_it_changes_from_everybody() {
    let mut world = World::new();
    world.apply("a", json!({"spec": {"replicas": 1, "text": "x"}})).unwrap();
    world.update("controller", "", |o| o.set(&["spec", "replicas"], 2));
    assert_eq!(world.fields("a"), json!({"f:spec": {"f:text": {}}}));
    assert_eq!(world.fields("controller"), json!({"f:spec": {"f:replicas": {}}}));
    world.update("controller", "", |o| drop(o.remove(&["spec", "replicas"])));
    assert_eq!(world.entry("controller"), Value::Null);
}

#[test]
fn status_and_spec_belong_to_their_own_resources() {
    let mut world = World::new();
    world.update("creator", "", |o| o.set(&["spec", "replicas"], 1));
    world.update("kubelet", "status", |o| {
        o.set(&["status", "ready"], 1);
        o.set(&["spec", "replicas"], 1);
    });
    let entry = world.entry("kubelet");
    assert_eq!((&entry["subresource"], &entry["fieldsV1"]), (&json!("status"), &json!({"f:status": {"f:ready": {}}})));
    world.apply("a", json!({"status": {"ready": 7}})).unwrap();
    assert_eq!(world.entry("a"), Value::Null);
}

#[test]
fn nothing_changed_means_no_new_time() {
    let mut world = World::new();
    world.apply("a", json!({"spec": {"replicas": 1}})).unwrap();
    let entry = world.entry("a");
    world.apply("a", json!({"spec": {"replicas": 1}})).unwrap();
    world.update("b", "", |_| {});
    assert_eq!(world.entry("a"), entry);
    assert_eq!(world.entry("b"), Value::Null);
}

#[test]
fn atomic_values_have_one_owner() {
    let mut world = World::new();
    world.apply("a", json!({"spec": {"whole": {"ready": 1}, "args": ["x"]}})).unwrap();
    assert_eq!(world.fields("a"), json!({"f:spec": {"f:args": {}, "f:whole": {}}}));
    let error = world.apply("b", json!({"spec": {"whole": {"note": "n"}}})).unwrap_err();
    assert_eq!(error, "Apply failed with 1 conflict: conflict with \"a\": .spec.whole");
    world.apply_forced("b", json!({"spec": {"whole": {"note": "n"}}}), true).unwrap();
    assert_eq!(world.spec(), json!({"whole": {"note": "n"}, "args": ["x"]}));
}

#[test]
fn who_owned_parts_of_what_is_atomic_now_owns_all_of_it() {
    let mut world = World::new();
    let spec = world.schema.types.def(TypeId(2)).clone();
    let granular = |f: &Field| Field { atomic: false, ..f.clone() };
    let mut earlier = schema();
    let mut defs: Vec<StructDef> = (0..5).map(|id| earlier.types.def(TypeId(id)).clone()).collect();
    defs[2].fields = spec.fields.iter().map(granular).collect();
    earlier.types = Arc::new(Types::new(defs));
    let now = std::mem::replace(&mut world.schema, earlier);
    world.apply("a", json!({"spec": {"text": "t", "whole": {"ready": 1}}})).unwrap();
    world.apply("b", json!({"spec": {"whole": {"note": "n"}}})).unwrap();
    assert_eq!(world.fields("b"), json!({"f:spec": {"f:whole": {"f:note": {}}}}));
    world.schema = now;
    let error = world.apply("c", json!({"spec": {"whole": {"note": "m"}}})).unwrap_err();
    let owners = "conflicts with \"a\":\n.spec.whole\nconflicts with \"b\":\n.spec.whole";
    assert_eq!(error.replace("- ", ""), format!("Apply failed with 2 conflicts: {owners}"));
    world.update("u", "", |o| o.set(&["spec", "text"], "x"));
    assert_eq!(world.fields("a"), json!({"f:spec": {"f:whole": {}}}));
    assert_eq!(world.fields("b"), json!({"f:spec": {"f:whole": {}}}));
}

#[test]
fn values_without_structure_are_owned_member_by_member() {
    let mut world = World::new();
    world.apply("a", json!({"spec": {"free": {"x": 1, "y": {"z": [1]}}}})).unwrap();
    world.apply("b", json!({"spec": {"free": {"w": true}}})).unwrap();
    assert_eq!(world.fields("a"), json!({"f:spec": {"f:free": {"f:x": {}, "f:y": {".": {}, "f:z": {}}}}}));
    world.apply("a", json!({"spec": {"free": {"x": 1}}})).unwrap();
    assert_eq!(world.spec(), json!({"free": {"w": true, "x": 1}}));
}

#[test]
fn items_are_ordered_as_applied_with_others_where_they_were() {
    let mut world = World::new();
    let items = |names: &[&str]| -> Value { names.iter().map(|n| json!({"name": n})).collect() };
    world.apply("a", json!({"spec": {"items": items(&["a", "b", "c"])}})).unwrap();
    world.apply("b", json!({"spec": {"items": items(&["c", "x", "a"])}})).unwrap();
    let names: Vec<String> =
        world.spec()["items"].as_array().unwrap().iter().map(|i| i["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names, ["b", "c", "x", "a"]);
}

#[test]
fn an_object_that_was_never_applied_keeps_its_fields_under_a_name_of_their_own() {
    let mut world = World::new();
    let mut live = world.thing(json!({"spec": {"replicas": 1, "text": "x"}}));
    live.set(&["metadata", "uid"], "u");
    world.live = Some(live);
    world.update("b", "", |o| o.set(&["spec", "replicas"], 2));
    assert_eq!(world.entry("b"), Value::Null);
    world.apply("a", json!({"spec": {"tags": ["t"]}})).unwrap();
    assert_eq!(world.fields("before-first-apply"), json!({"f:spec": {"f:replicas": {}, "f:text": {}}}));
    assert_eq!(world.entry("before-first-apply")["operation"], "Update");
}

#[test]
fn kubectl_takes_over_what_it_applied_client_side() {
    let mut world = World::new();
    let last = world.thing(json!({"spec": {"replicas": 1, "text": "x"}}));
    world.update("kubectl-client-side-apply", "", |o| {
        o.set(&["metadata", "annotations", LAST_APPLIED], Value::Object(last.0.clone()).to_string());
        o.set(&["spec"], json!({"replicas": 1, "text": "x"}));
    });
    world.apply("other", json!({"spec": {"replicas": 2}})).unwrap_err();
    world.apply("kubectl", json!({"spec": {"replicas": 2, "text": "x"}})).unwrap();
    assert_eq!(world.spec(), json!({"replicas": 2, "text": "x"}));
    let annotation = world.live.as_ref().unwrap().annotation(LAST_APPLIED).unwrap();
    assert!(annotation.contains("\"replicas\":2"), "{annotation}");
}

#[test]
fn users_may_reset_the_entries() {
    for reset in [json!([]), json!([{}])] {
        let mut world = World::new();
        world.apply("a", json!({"spec": {"replicas": 1}})).unwrap();
        world.update("b", "", |o| o.set(&["metadata", "managedFields"], reset));
        assert_eq!(world.live.as_ref().unwrap().get(&["metadata", "managedFields"]), None);
    }
    let mut world = World::new();
    world.apply("a", json!({"spec": {"replicas": 1}})).unwrap();
    world.update("b", "", |o| drop(o.remove(&["metadata", "managedFields"])));
    assert_eq!(world.fields("a"), json!({"f:spec": {"f:replicas": {}}}));
}

#[test]
fn old_updaters_are_merged() {
    let mut world = World::new();
    for i in 0..15 {
        world.update(&format!("m{i}"), "", |o| o.set(&["metadata", "labels", &format!("l{i}")], "x"));
    }
    let entries = world.live.as_ref().unwrap().array(&["metadata", "managedFields"]).len();
    assert_eq!(entries, 10);
    let ancient = world.fields("ancient-changes");
    assert_eq!(ancient["f:metadata"]["f:labels"].as_object().unwrap().len(), 7, "{ancient}");
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut world = World::new();
    let error = world.apply("a", json!({"spec": {"nope": 1}})).unwrap_err();
    assert_eq!(
        error,
        "failed to create typed patch object (/t; x.io/v1, Kind=Thing): .spec.nope: field not declared in schema"
    );
    let error = world.apply("a", json!({"spec": {"tags": ["a", "a"]}})).unwrap_err();
    assert!(error.ends_with(".spec.tags: duplicate entries for key [=\"a\"]"), "{error}");
    let mut refused = |spec: Value, expected: &str| {
        let error = world.apply("a", json!({"spec": spec})).unwrap_err();
        assert_eq!(error, format!("failed to create typed patch object (/t; x.io/v1, Kind=Thing): {expected}"));
    };
    // What has one owner as a whole is looked through as well.
    refused(json!({"whole": {"nope": 1}}), ".spec.whole.nope: field not declared in schema");
    refused(
        json!({"args": ["a", {"k": ["b"]}]}),
        concat!(
            ".spec.args[1]: expected string, got ",
            r#"&value.valueUnstructured{Value:map[string]interface {}{"k":[]interface {}{"b"}}}"#
        ),
    );
    refused(json!({"limit": {"a": 1}}), ".spec.limit: expected any scalar, got &{map[a:1]}");
    refused(json!({"on": "a"}), ".spec.on: expected boolean, got &{a}");
    assert_eq!(world.apply("a", json!({"kind": "Other"})).unwrap_err(), "invalid object type: x.io/v1, Kind=Other");
    assert_eq!(
        world.apply("a", json!({"metadata": {"managedFields": []}})).unwrap_err(),
        "metadata.managedFields must be nil"
    );
}

#[test]
fn keys_that_are_always_printed_have_their_zero_value() {
    let always = |name: &'static str, ty: Type| Field { presence: Presence::Always, ..field(name, ty) };
    let keys = || vec!["name".into(), "port".into()];
    let list = Field { list: ListType::Map, list_map_keys: keys(), ..field("items", list_of(Type::Struct(TypeId(1)))) };
    let root = vec![field("apiVersion", Type::String), field("kind", Type::String), list];
    let item = vec![always("name", Type::String), always("port", Type::Int32), field("value", Type::String)];
    let def = |name: &'static str, fields| StructDef { name: name.into(), fields, ..StructDef::default() };
    let types = Arc::new(Types::new(vec![def("Thing", root), def("Item", item)]));
    let world = World { schema: Schema { types, root: TypeId(0) }, ..World::new() };
    let check = |items: Value, want: Result<Value, &str>| {
        let applied = object(json!({"apiVersion": "x.io/v1", "kind": "Thing", "items": items}));
        let result = world.manager("").apply(None, &applied, "a", false);
        let owned = |object: Object| object.array(&["metadata", "managedFields"])[0]["fieldsV1"]["f:items"].clone();
        assert_eq!(result.map(owned).map_err(|s| s.message), want.map_err(ToOwned::to_owned));
    };
    check(json!([{"value": "x"}]), Ok(json!({r#"k:{"name":"","port":0}"#: {".": {}, "f:value": {}}})));
    check(
        json!([{"value": "x"}, {"name": ""}]),
        Err("failed to create typed patch object (/; x.io/v1, Kind=Thing): .items: duplicate entries for key \
             [name=\"\",port=0]"),
    );
}

/// A kind of which one version was taken away.
struct Lost;

impl Versions for Lost {
    fn schema(&self, _: &str) -> Option<&Schema> {
        None
    }

    fn convert(&self, _: &Object, api_version: &str) -> Result<Option<Object>, Status> {
        match api_version {
            "x.io/v0" => Err(Status::new(500, "", "no x.io/v0")),
            _ => Ok(None),
        }
    }
}

#[test]
fn entries_of_a_version_that_is_refused_freeze_all() {
    let mut world = World::new();
    world.update("one", "", |o| o.set(&["spec"], json!({"text": "a"})));
    let change = |world: &World, entries: &[&str]| {
        let mut live = world.live.clone().unwrap();
        if let Some(Value::Array(held)) = live.get_mut(&["metadata", "managedFields"]) {
            for (at, version) in entries.iter().enumerate() {
                let fields = json!({"f:spec": {"f:replicas": {}}});
                held.push(json!({"manager": format!("m{at}"), "operation": "Update", "apiVersion": version,
                    "fieldsType": "FieldsV1", "fieldsV1": fields}));
            }
        }
        let mut new = live.clone();
        new.set(&["spec", "text"], "b");
        let manager = FieldManager { versions: &Lost, ..world.manager("") };
        manager.update(Some(&live), &mut new, "two");
        let applied = manager.apply(Some(&live), &world.thing(json!({"spec": {"text": "c"}})), "three", true);
        let entries = |o: &Object| o.array(&["metadata", "managedFields"]).to_vec();
        (entries(&live) == entries(&new), applied.map_err(|status| (status.code, status.message)).err())
    };
    assert_eq!(change(&world, &[]), (false, None));
    // One that there is not is dropped.
    assert_eq!(change(&world, &["x.io/v9"]), (false, None));
    assert_eq!(change(&world, &["x.io/v9", "x.io/v0"]), (true, Some((500, "no x.io/v0".to_owned()))));
}

#[test]
fn names_come_from_the_user_agent() {
    assert_eq!(manager_name("", "kubectl/v1.37.0 (linux/amd64)"), "kubectl");
    assert_eq!(manager_name("me", "kubectl/v1"), "me");
}

proptest! {
    // A file of failures beside the crates would be taken for a workspace member.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Two appliers and an updater in any order: the last applied values are there, and applying nothing removes all.
    #[test]
    fn appliers_get_what_they_apply(steps in prop::collection::vec((0..3usize, specs()), 1..8)) {
        let mut world = World::new();
        for (who, spec) in steps {
            match who {
                2 => world.update("u", "", |o| o.set(&["spec", "text"], "u")),
                _ => world.apply_forced(["a", "b"][who], json!({"spec": spec.clone()}), true).unwrap(),
            }
            if who < 2 {
                let now = world.spec();
                for (name, value) in spec.as_object().unwrap() {
                    match value.as_array() {
                        Some(items) => {
                            for item in items {
                                prop_assert!(now[name].as_array().unwrap().contains(item), "{now} misses {item}");
                            }
                        }
                        None => prop_assert_eq!(&now[name], value),
                    }
                }
            }
        }
        world.apply_forced("a", json!({}), true).unwrap();
        world.apply_forced("b", json!({}), true).unwrap();
        let left = world.spec();
        let owned = world.fields("u");
        prop_assert_eq!(left.get("text").is_some(), owned["f:spec"]["f:text"].is_object());
        prop_assert!(left.get("replicas").is_none() && left.get("tags").is_none() && left.get("items").is_none());
    }
}

fn specs() -> impl Strategy<Value = Value> {
    let replicas = prop::option::of(1..4i32);
    let text = prop::option::of("[xy]");
    let tags = prop::collection::btree_set("[p-s]", 0..3);
    let items = prop::collection::btree_map("[i-k]", Just(()), 0..3);
    (replicas, text, tags, items).prop_map(|(replicas, text, tags, items)| {
        let mut spec = json!({});
        if let Some(replicas) = replicas {
            spec["replicas"] = replicas.into();
        }
        if let Some(text) = text {
            spec["text"] = text.into();
        }
        if !tags.is_empty() {
            spec["tags"] = tags.into_iter().collect::<Vec<_>>().into();
        }
        if !items.is_empty() {
            spec["items"] = items.into_keys().map(|name| json!({"name": name})).collect();
        }
        spec
    })
}
