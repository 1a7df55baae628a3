//! What apimachinery's converter from maps makes of a document (`runtime.DefaultUnstructuredConverter`): it, and not the
//! JSON decoder, reads what strategic merge patches and applied objects come to. It words wrong types in its own way and
//! takes some numbers that the decoder refuses.

use serde_json::{Map, Value};

use super::conform::go_type;
use super::node::Node;
use super::scalars::decode_base64;
use crate::schema::{Field, Schema, Type, TypeId, Types};

/// Makes the numbers of a document what the converter makes of them, so that the decoder takes them.
///
/// # Errors
/// The converter's text for the first value that it does not take, in the order of the schema's fields. What types with
/// readers of their own say of a text is left to the decoder, which says the same.
pub fn fit(schema: &Schema, members: &mut Map<String, Value>) -> Result<(), String> {
    structure(&schema.types, schema.root, members)
}

fn structure(types: &Types, id: TypeId, members: &mut Map<String, Value>) -> Result<(), String> {
    for field in &types.def(id).fields {
        if let Some(value) = members.get_mut(field.name.as_ref()) {
            place(types, &field.ty, field, value)?;
        }
    }
    Ok(())
}

/// `fromUnstructured`
fn place(types: &Types, ty: &Type, field: &Field, value: &mut Value) -> Result<(), String> {
    if value.is_null() {
        return Ok(());
    }
    match (ty, &mut *value) {
        (Type::Struct(id), Value::Object(members)) => structure(types, *id, members),
        (Type::Struct(_), other) => Err(format!("cannot restore struct from: {}", kind(other))),
        (Type::List(inner), Value::Array(items)) => {
            items.iter_mut().try_for_each(|item| place(types, inner, field, item))
        }
        (Type::Map(inner), Value::Object(members)) => {
            members.values_mut().try_for_each(|item| place(types, inner, field, item))
        }
        (Type::Map(_), other) => Err(format!("cannot restore map from {}", kind(other))),
        (Type::Bytes, Value::String(text)) => {
            decode_base64(text).map(drop).map_err(|why| format!("error decoding from json: {why}"))
        }
        (Type::Bytes, Value::Array(items)) => items.iter_mut().try_for_each(|item| integer(item, "uint8", "uint8")),
        (Type::List(_) | Type::Bytes, other) => Err(format!("cannot restore slice from {}", kind(other))),
        (Type::String, Value::String(_)) | (Type::Bool, Value::Bool(_)) | (Type::Double, Value::Number(_)) => Ok(()),
        (Type::String, other) if kind(other) == "int64" => {
            Err(format!("cannot convert int64 to {}", go_type(types, ty, field)))
        }
        (Type::String, _) => Err("unrecognized type: string".to_owned()),
        (Type::Bool, _) => Err("unrecognized type: bool".to_owned()),
        (Type::Double, _) => Err("unrecognized type: float64".to_owned()),
        (Type::Int32, _) => integer(value, "int32", &go_type(types, ty, field)),
        (Type::Int64, _) => integer(value, "int64", &go_type(types, ty, field)),
        (Type::IntOrString, other) => int_or_string(other),
        (Type::Time | Type::MicroTime | Type::Duration, Value::String(_)) => Ok(()),
        (Type::Time | Type::MicroTime | Type::Duration, other) => Err(unmarshal(other, "string")),
        (Type::Quantity | Type::Json | Type::RawExtension | Type::FieldsV1 | Type::SchemaOr(..), _) => Ok(()),
    }
}

/// A value of Go's kind `go`, whose type is called `name`: it wraps around.
fn integer(value: &mut Value, go: &str, name: &str) -> Result<(), String> {
    let Value::Number(number) = &*value else { return Err(format!("unrecognized type: {go}")) };
    let whole = match (number.as_i64(), number.as_f64()) {
        (Some(whole), _) => whole,
        (None, Some(float)) if float.fract() == 0.0 => float as i64,
        _ => return Err(format!("cannot convert float64 to {name}")),
    };
    *value = match go {
        "uint8" => Value::from(whole as u8),
        "int32" => Value::from(whole as i32),
        _ => Value::from(whole),
    };
    Ok(())
}

/// `IntOrString.UnmarshalJSON`, of the value as Go prints it.
fn int_or_string(value: &mut Value) -> Result<(), String> {
    let number = match &*value {
        Value::String(_) => return Ok(()),
        Value::Number(number) => number.clone(),
        other => return Err(unmarshal(other, "int32")),
    };
    let whole = number.as_i64().or_else(|| number.as_f64().filter(|f| f.fract() == 0.0).map(|f| f as i64));
    let Some(whole) = whole.and_then(|whole| i32::try_from(whole).ok()) else {
        return Err(format!("json: cannot unmarshal number {number} into Go value of type int32"));
    };
    *value = Value::from(whole);
    Ok(())
}

fn unmarshal(value: &Value, go: &str) -> String {
    format!("json: cannot unmarshal {} into Go value of type {go}", Node::from_value(value).go_word())
}

/// `reflect.Kind` of what Go holds a value of a document in.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "invalid",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_i64() => "int64",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "slice",
        Value::Object(_) => "map",
    }
}
