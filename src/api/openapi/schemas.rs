//! Struct types as OpenAPI version 3 schemas (kube-openapi `openapi-gen`'s rules).

use serde_json::{Map, Value, json};

use crate::names::Gvk;
use crate::schema::{Field, ListType, SchemaOr, Type, TypeId, Types};

/// What a schema refers to.
pub enum Reference {
    Struct(TypeId),
    /// A definition of [`scalar`].
    Scalar(&'static str),
}

const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const RAW: &str = "io.k8s.apimachinery.pkg.runtime.RawExtension";
const TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Time";
const MICRO_TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime";
const DURATION: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Duration";
const FIELDS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1";
const ANY: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON";
const OR_ARRAY: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray";
const OR_BOOL: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool";
const OR_STRINGS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray";

/// The definition of a type with a JSON form of its own.
pub fn scalar(name: &str) -> Value {
    match name {
        QUANTITY => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        INT_OR_STRING => json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
        TIME | MICRO_TIME => json!({"type": "string", "format": "date-time"}),
        DURATION => json!({"type": "string"}),
        RAW | FIELDS => json!({"type": "object"}),
        _ => json!({}),
    }
}

pub fn describe(schema: &mut Value, text: Option<&str>) {
    if let Some(text) = text.filter(|t| !t.is_empty()) {
        schema["description"] = text.into();
    }
}

pub fn gvk(gvk: &Gvk) -> Value {
    json!({"group": gvk.group, "version": gvk.version, "kind": gvk.kind})
}

pub fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

type Text = (String, std::collections::BTreeMap<String, String>);

/// The schema of a struct, and the definitions it refers to.
pub fn structure(types: &Types, id: TypeId, text: Option<&Text>) -> (Value, Vec<Reference>) {
    let def = types.def(id);
    let mut references = Vec::new();
    let mut properties = Map::new();
    let mut required = Vec::new();
    for field in &def.fields {
        let mut property = property(types, field, &mut references);
        describe(&mut property, text.and_then(|t| t.1.get(field.name.as_ref())).map(String::as_str));
        if let Some(map) = property.as_object_mut()
            && map.len() == 1
            && let Some(Value::Array(all)) = map.get_mut("allOf")
            && let Some(reference) = all.pop()
        {
            // Nothing stands beside the reference after all.
            property = reference;
        }
        properties.insert(field.name.to_string(), property);
        if field.required {
            required.push(Value::from(field.name.as_ref()));
        }
    }
    let mut schema = json!({"type": "object"});
    describe(&mut schema, text.map(|t| t.0.as_str()));
    if !properties.is_empty() {
        schema["properties"] = properties.into();
    }
    if !required.is_empty() {
        schema["required"] = required.into();
    }
    if def.atomic {
        schema["x-kubernetes-map-type"] = "atomic".into();
    }
    if def.preserve_unknown {
        schema["x-kubernetes-preserve-unknown-fields"] = true.into();
    }
    (schema, references)
}

/// Unions by type: the member that says which, and the value that stands for each other member.
const UNIONS: &[(&str, &str, &[(&str, &str)])] = &[
    ("io.k8s.api.core.v1.AppArmorProfile", "type", &[("localhostProfile", "LocalhostProfile")]),
    ("io.k8s.api.core.v1.PodSchedulingGroup", "", &[("podGroupName", "PodGroupName")]),
    ("io.k8s.api.core.v1.SeccompProfile", "type", &[("localhostProfile", "LocalhostProfile")]),
    ("io.k8s.api.flowcontrol.v1.LimitResponse", "type", &[("queuing", "Queuing")]),
    (
        "io.k8s.api.flowcontrol.v1.PriorityLevelConfigurationSpec",
        "type",
        &[("exempt", "Exempt"), ("limited", "Limited")],
    ),
    (
        "io.k8s.api.flowcontrol.v1.Subject",
        "kind",
        &[("group", "Group"), ("serviceAccount", "ServiceAccount"), ("user", "User")],
    ),
    ("io.k8s.api.scheduling.v1alpha3.WorkloadPodGroupDisruptionMode", "", &[("all", "All"), ("single", "Single")]),
    ("io.k8s.api.scheduling.v1alpha3.WorkloadPodGroupSchedulingPolicy", "", &[("basic", "Basic"), ("gang", "Gang")]),
];

/// Values of members that documents tell although validation does not go by them alone.
const VALUES: &[(&str, &str, &[&str])] = &[
    ("io.k8s.api.discovery.v1.EndpointSlice", "addressType", &["FQDN", "IPv4", "IPv6"]),
    ("io.k8s.api.networking.v1.HTTPIngressPath", "pathType", &["Exact", "ImplementationSpecific", "Prefix"]),
    ("io.k8s.api.resource.v1.DeviceSubRequest", "allocationMode", &["All", "ExactCount"]),
    ("io.k8s.api.resource.v1.ExactDeviceRequest", "allocationMode", &["All", "ExactCount"]),
];

/// What only documents say of a type (markers `+union`, `+enum`), and the order of the source for what must be there.
pub fn add_missing(name: &str, schema: &mut Value) {
    for (_, discriminator, members) in UNIONS.iter().filter(|(of, ..)| *of == name) {
        let members: Map<String, Value> = members.iter().map(|(k, v)| ((*k).to_owned(), Value::from(*v))).collect();
        let mut union = json!({"fields-to-discriminateBy": members});
        if !discriminator.is_empty() {
            union["discriminator"] = (*discriminator).into();
        }
        schema["x-kubernetes-unions"] = json!([union]);
    }
    for (_, member, values) in VALUES.iter().filter(|(of, ..)| *of == name) {
        if let Some(property) = schema.pointer_mut(&format!("/properties/{member}")) {
            property["enum"] = json!(values);
        }
    }
    if let Some(Value::Array(required)) = schema.get_mut("required") {
        // Fields stand in the order of their protobuf numbers, which here is not that of the source.
        let first: &[&str] = match name.rsplit('.').next() {
            Some("HTTPIngressPath") => &["pathType"],
            Some("APIResource") => &["name", "singularName"],
            _ => &["apiVersion"],
        };
        required.sort_by_key(|member| first.iter().position(|f| member == f).unwrap_or(first.len()));
    }
}

fn property(types: &Types, field: &Field, references: &mut Vec<Reference>) -> Value {
    let mut schema = value(types, &field.ty, field, references);
    if schema.get("$ref").is_some() {
        // Members beside a reference are ignored, so it is put one level down.
        schema = json!({"allOf": [schema]});
    }
    if let Some(default) = field.documented_default() {
        schema["default"] = default;
    }
    if field.list_declared {
        schema["x-kubernetes-list-type"] = match field.list {
            ListType::Atomic => "atomic",
            ListType::Set => "set",
            ListType::Map => "map",
        }
        .into();
    }
    if !field.list_map_keys.is_empty() {
        schema["x-kubernetes-list-map-keys"] = field.list_map_keys.iter().map(|k| Value::from(k.as_ref())).collect();
    }
    if field.atomic {
        schema["x-kubernetes-map-type"] = "atomic".into();
    }
    if field.granular {
        schema["x-kubernetes-map-type"] = "granular".into();
    }
    if field.patch.replace {
        schema["x-kubernetes-patch-strategy"] = "replace".into();
    }
    match (field.patch.merge, field.patch.retain_keys) {
        (true, true) => schema["x-kubernetes-patch-strategy"] = "merge,retainKeys".into(),
        (true, false) => schema["x-kubernetes-patch-strategy"] = "merge".into(),
        (false, true) => schema["x-kubernetes-patch-strategy"] = "retainKeys".into(),
        (false, false) => {}
    }
    if let Some(key) = &field.patch_merge_key {
        schema["x-kubernetes-patch-merge-key"] = key.as_ref().into();
    }
    schema
}

fn value(types: &Types, ty: &Type, field: &Field, references: &mut Vec<Reference>) -> Value {
    let with_enum = |mut schema: Value| {
        if let Some(extra) = &field.extra
            && !extra.enums.is_empty()
        {
            schema["enum"] = extra.enums.iter().map(|e| Value::from(e.as_ref())).collect();
        }
        schema
    };
    let mut special = |name: &'static str| {
        references.push(Reference::Scalar(name));
        reference(name)
    };
    match ty {
        Type::Bool => json!({"type": "boolean"}),
        Type::Int32 => json!({"type": "integer", "format": "int32"}),
        Type::Int64 => json!({"type": "integer", "format": "int64"}),
        Type::Double => json!({"type": "number", "format": "double"}),
        Type::String => with_enum(json!({"type": "string"})),
        Type::Bytes => json!({"type": "string", "format": "byte"}),
        Type::Quantity => special(QUANTITY),
        Type::IntOrString => special(INT_OR_STRING),
        Type::Time => special(TIME),
        Type::MicroTime => special(MICRO_TIME),
        Type::Duration => special(DURATION),
        Type::RawExtension => special(RAW),
        Type::FieldsV1 => special(FIELDS),
        Type::Json => special(ANY),
        Type::SchemaOr(SchemaOr::Array, _) => special(OR_ARRAY),
        Type::SchemaOr(SchemaOr::Bool, _) => special(OR_BOOL),
        Type::SchemaOr(SchemaOr::Strings, _) => special(OR_STRINGS),
        Type::Struct(id) => {
            references.push(Reference::Struct(*id));
            reference(&types.def(*id).name)
        }
        Type::List(inner) => {
            let items = value(types, inner, field, references);
            json!({"type": "array", "items": items})
        }
        Type::Map(inner) => {
            let items = value(types, inner, field, references);
            json!({"type": "object", "additionalProperties": items})
        }
    }
}
