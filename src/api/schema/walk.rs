//! Generic walks over objects by schema: defaults, and which members Go's JSON encoder would print.

use serde_json::{Map, Value};

use crate::object::Object;
use crate::schema::{Field, Presence, Schema, Type, TypeId, Types};

/// Fills the defaults that the schema expresses (`+default`). As Go's generated defaulting does, it treats the zero
/// value of a field without a pointer as absent.
pub fn default(schema: &Schema, object: &mut Object) {
    default_struct(&schema.types, schema.root, &mut object.0);
}

fn default_struct(types: &Types, id: TypeId, map: &mut Map<String, Value>) {
    let def = types.def(id);
    if !types.has_defaults(id) {
        return;
    }
    for field in &def.fields {
        if let Some(default) = &field.default {
            let unset = match map.get(field.name.as_ref()) {
                None | Some(Value::Null) => true,
                Some(value) => !field.pointer && field.presence != Presence::AsGiven && is_zero_scalar(value),
            };
            // A default that is the zero value says nothing for a field that is left out when zero.
            if unset && (field.pointer || field.presence != Presence::OmitEmpty || !is_zero_scalar(default)) {
                map.insert(field.name.as_ref().to_owned(), default.clone());
            }
        }
        if let Some(value) = map.get_mut(field.name.as_ref()) {
            default_value(types, &field.ty, value);
        }
    }
}

fn default_value(types: &Types, ty: &Type, value: &mut Value) {
    match (ty, value) {
        (Type::Struct(id), Value::Object(map)) => default_struct(types, *id, map),
        (Type::List(inner), Value::Array(items)) if leads_to_defaults(types, inner) => {
            items.iter_mut().for_each(|item| default_value(types, inner, item));
        }
        (Type::Map(inner), Value::Object(map)) if leads_to_defaults(types, inner) => {
            map.values_mut().for_each(|item| default_value(types, inner, item));
        }
        _ => {}
    }
}

/// Whether defaults may be found in a value of this type.
pub(super) fn leads_to_defaults(types: &Types, ty: &Type) -> bool {
    match ty {
        Type::Struct(id) => types.has_defaults(*id),
        Type::List(inner) | Type::Map(inner) => leads_to_defaults(types, inner),
        _ => false,
    }
}

fn is_zero_scalar(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(_) | Value::Object(_) => false,
    }
}

/// Whether Go's JSON encoder leaves out this value of this field (whose own members are already as Go prints them).
pub fn is_omitted(types: &Types, field: &Field, value: &Value) -> bool {
    match field.presence {
        Presence::AsGiven | Presence::Always => false,
        Presence::OmitEmpty if field.pointer => value.is_null(),
        Presence::OmitEmpty => match (&field.ty, value) {
            (_, Value::Null) => true,
            (Type::List(_), Value::Array(items)) => items.is_empty(),
            (Type::Map(_), Value::Object(map)) => map.is_empty(),
            (Type::Bool | Type::Int32 | Type::Int64 | Type::Double | Type::String | Type::Bytes, value) => {
                is_zero_scalar(value)
            }
            _ => false,
        },
        Presence::OmitZero if field.pointer => value.is_null(),
        Presence::OmitZero => is_zero(types, &field.ty, value),
    }
}

/// Go's zero value, `reflect.Value.IsZero`, of a value as Go prints it.
fn is_zero(types: &Types, ty: &Type, value: &Value) -> bool {
    match (ty, value) {
        (_, Value::Null) => true,
        (Type::Struct(id), Value::Object(map)) => {
            let def = types.def(*id);
            map.iter().all(|(name, value)| {
                def.field(name).is_some_and(|f| if f.pointer { value.is_null() } else { is_zero(types, &f.ty, value) })
            })
        }
        (Type::Quantity, Value::String(text)) => text == "0",
        (Type::List(_), Value::Array(items)) => items.is_empty(),
        (Type::Map(_), Value::Object(map)) => map.is_empty(),
        (_, value) => is_zero_scalar(value),
    }
}

/// Adds what Go prints although it was not given: zero values of fields without `omitempty`, and of structs.
pub fn add_printed(types: &Types, id: TypeId, map: &mut Map<String, Value>) {
    let def = types.def(id);
    for index in &def.printed {
        let Some(field) = def.fields.get(usize::from(*index)) else { continue };
        if !map.contains_key(field.name.as_ref()) {
            let value = if field.pointer { Value::Null } else { zero(types, &field.ty) };
            map.insert(field.name.as_ref().to_owned(), value);
        }
    }
}

/// Makes empty lists and maps null where Go prints both, and bytes of lists and maps that are null empty: protobuf, in
/// which upstream stores, cannot tell them apart.
pub fn empty_as_nil(schema: &Schema, object: &mut Object) {
    nil_struct(&schema.types, schema.root, &mut object.0);
}

fn nil_struct(types: &Types, id: TypeId, map: &mut Map<String, Value>) {
    for field in &types.def(id).fields {
        let Some(value) = map.get_mut(field.name.as_ref()) else { continue };
        let empty = match (&field.ty, &*value) {
            (Type::List(_), Value::Array(items)) => items.is_empty(),
            (Type::Map(_), Value::Object(members)) => members.is_empty(),
            _ => false,
        };
        if empty && field.presence == Presence::Always {
            *value = Value::Null;
        } else {
            nil_value(types, &field.ty, value);
        }
    }
}

fn nil_value(types: &Types, ty: &Type, value: &mut Value) {
    match (ty, value) {
        (Type::Struct(id), Value::Object(map)) => nil_struct(types, *id, map),
        (Type::List(inner), Value::Array(items)) if **inner == Type::Bytes => items.iter_mut().for_each(no_nil_bytes),
        (Type::Map(inner), Value::Object(map)) if **inner == Type::Bytes => map.values_mut().for_each(no_nil_bytes),
        (Type::List(inner), Value::Array(items)) if has_structs(inner) => {
            items.iter_mut().for_each(|item| nil_value(types, inner, item));
        }
        (Type::Map(inner), Value::Object(map)) if has_structs(inner) => {
            map.values_mut().for_each(|item| nil_value(types, inner, item));
        }
        _ => {}
    }
}

fn no_nil_bytes(value: &mut Value) {
    if value.is_null() {
        *value = Value::from("");
    }
}

fn has_structs(ty: &Type) -> bool {
    matches!(ty, Type::Struct(_) | Type::List(_) | Type::Map(_))
}

/// What Go prints for the zero value of a type.
pub fn zero(types: &Types, ty: &Type) -> Value {
    match ty {
        Type::Bool => Value::Bool(false),
        Type::Int32 | Type::Int64 | Type::Double | Type::IntOrString => Value::from(0),
        Type::String => Value::from(""),
        Type::Quantity => Value::from("0"),
        Type::Duration => Value::from("0s"),
        Type::Struct(id) => {
            let mut map = Map::new();
            add_printed(types, *id, &mut map);
            Value::Object(map)
        }
        Type::FieldsV1 => Value::Object(Map::new()),
        Type::Bytes
        | Type::Time
        | Type::MicroTime
        | Type::RawExtension
        | Type::Json
        | Type::SchemaOr(..)
        | Type::List(_)
        | Type::Map(_) => Value::Null,
    }
}

/// Whether Go prints this field's zero value.
pub(super) fn is_printed(field: &Field) -> bool {
    match field.presence {
        Presence::Always => true,
        Presence::AsGiven | Presence::OmitZero => false,
        // `omitempty` does nothing for structs.
        Presence::OmitEmpty => {
            !field.pointer
                && matches!(
                    field.ty,
                    Type::Struct(_)
                        | Type::Quantity
                        | Type::IntOrString
                        | Type::Time
                        | Type::MicroTime
                        | Type::Duration
                        | Type::RawExtension
                )
        }
    }
}
