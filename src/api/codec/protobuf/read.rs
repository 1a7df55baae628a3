//! Reads messages into objects as Go would print them.

use base64::Engine as _;
use jiff::Timestamp;
use serde_json::{Map, Number, Value};

use super::wire::{self, Field as Wire};
use crate::codec::json;
use crate::codec::node::{MAX_DEPTH, MAX_STRUCTS};
use crate::codec::scalars::{print_micro_time, print_time};
use crate::schema::walk::{add_printed, is_omitted, zero};
use crate::schema::{Field, SchemaOr, Type, TypeId, Types};

type Members = Map<String, Value>;

/// Reads a message of a struct type. The error is Go's text.
pub fn message(types: &Types, id: TypeId, bytes: &[u8]) -> Result<Members, String> {
    Reader { types, depth: 0, structs: 0 }.structure(id, bytes, Members::new())
}

struct Reader<'t> {
    types: &'t Types,
    depth: usize,
    structs: usize,
}

impl<'t> Reader<'t> {
    /// Reads into what an earlier occurrence of the field left.
    fn structure(&mut self, id: TypeId, bytes: &[u8], mut map: Members) -> Result<Members, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err("proto: exceeded max depth".to_owned());
        }
        self.structs += 1;
        if self.structs > MAX_STRUCTS {
            return Err("proto: exceeded max number of objects".to_owned());
        }
        let def = self.types.def(id);
        self.fields(&def.fields, &[], bytes, &mut map)?;
        self.depth -= 1;
        let types = self.types;
        map.retain(|name, value| def.field(name).is_none_or(|field| !is_omitted(types, field, value)));
        add_printed(self.types, id, &mut map);
        Ok(map)
    }

    /// `open` are the numbers of the wrapping messages that are already open.
    fn fields(&mut self, fields: &'t [Field], open: &[u16], bytes: &[u8], map: &mut Members) -> Result<(), String> {
        for entry in wire::fields(bytes) {
            let (number, wire) = entry?;
            let level = open.len();
            let wrapped = |f: &Field| f.wrap.get(level).copied().filter(|w| *w != 0).map(u32::from);
            let found = fields.iter().find(|f| wrapped(f).unwrap_or(f.proto) == number && f.wrap[..level] == *open);
            let Some(field) = found else { continue };
            if wrapped(field).is_some() {
                let Wire::Len(inner) = wire else { return Err(wrong_wire("the inlined message")) };
                let mut deeper = open.to_vec();
                deeper.push(number as u16);
                self.fields(fields, &deeper, inner, map)?;
            } else {
                self.field(field, wire, map)?;
            }
        }
        Ok(())
    }

    fn field(&mut self, field: &'t Field, wire: Wire<'_>, map: &mut Members) -> Result<(), String> {
        let name = field.name.as_ref();
        match &field.ty {
            Type::List(inner) => {
                let mut items = match map.remove(name) {
                    Some(Value::Array(items)) => items,
                    _ => Vec::new(),
                };
                match wire {
                    Wire::Len(bytes) if field.list_message => self.items(inner, bytes, &mut items)?,
                    wire => self.item(inner, wire, &mut items, name)?,
                }
                map.insert(name.to_owned(), Value::Array(items));
            }
            Type::Map(inner) => {
                let Wire::Len(bytes) = wire else { return Err(wrong_wire(name)) };
                let (key, value) = self.entry(inner, bytes, name)?;
                if let Some(entries) = map.entry(name).or_insert_with(|| Value::Object(Map::new())).as_object_mut() {
                    entries.insert(key, value);
                }
            }
            Type::Struct(id) => {
                let Wire::Len(bytes) = wire else { return Err(wrong_wire(name)) };
                let before = match map.remove(name) {
                    Some(Value::Object(map)) => map,
                    _ => Map::new(),
                };
                let value = self.structure(*id, bytes, before)?;
                map.insert(name.to_owned(), Value::Object(value));
            }
            ty => {
                let value = self.element(ty, wire, name)?;
                map.insert(name.to_owned(), value);
            }
        }
        Ok(())
    }

    fn items(&mut self, inner: &'t Type, bytes: &[u8], items: &mut Vec<Value>) -> Result<(), String> {
        for entry in wire::fields(bytes) {
            if let (1, wire) = entry? {
                self.item(inner, wire, items, "items")?;
            }
        }
        Ok(())
    }

    fn item(&mut self, inner: &'t Type, wire: Wire<'_>, items: &mut Vec<Value>, name: &str) -> Result<(), String> {
        match (inner, wire) {
            // Packed, as newer generators write repeated integers.
            (Type::Int32 | Type::Int64 | Type::Bool, Wire::Len(mut bytes)) => {
                while !bytes.is_empty() {
                    let value = wire::varint(&mut bytes)?;
                    items.push(self.element(inner, Wire::Varint(value), name)?);
                }
            }
            (inner, wire) => items.push(self.element(inner, wire, name)?),
        }
        Ok(())
    }

    fn entry(&mut self, inner: &'t Type, bytes: &[u8], name: &str) -> Result<(String, Value), String> {
        let (mut key, mut value) = (String::new(), None);
        for entry in wire::fields(bytes) {
            match entry? {
                (1, Wire::Len(text)) => key = String::from_utf8_lossy(text).into_owned(),
                (2, wire) => {
                    value = Some(match (inner, wire) {
                        (Type::List(inner), Wire::Len(bytes)) => {
                            let mut items = Vec::new();
                            self.items(inner, bytes, &mut items)?;
                            Value::Array(items)
                        }
                        (inner, wire) => self.element(inner, wire, name)?,
                    });
                }
                _ => {}
            }
        }
        Ok((key, value.unwrap_or_else(|| zero(self.types, inner))))
    }

    fn element(&mut self, ty: &'t Type, wire: Wire<'_>, name: &str) -> Result<Value, String> {
        Ok(match (ty, wire) {
            (Type::Bool, Wire::Varint(value)) => Value::Bool(value != 0),
            (Type::Int32, Wire::Varint(value)) => Value::from(value as i32),
            (Type::Int64, Wire::Varint(value)) => Value::from(value as i64),
            (Type::Double, Wire::Fixed64(bits)) => double(f64::from_bits(bits)),
            (Type::String, Wire::Len(bytes)) => Value::from(String::from_utf8_lossy(bytes)),
            (Type::Bytes, Wire::Len(bytes)) => Value::from(base64::engine::general_purpose::STANDARD.encode(bytes)),
            (Type::Struct(id), Wire::Len(bytes)) => Value::Object(self.structure(*id, bytes, Map::new())?),
            (Type::SchemaOr(alternative, id), Wire::Len(bytes)) => self.schema_or(*alternative, *id, bytes)?,
            (_, Wire::Len(bytes)) => special(ty, bytes)?,
            _ => return Err(wrong_wire(name)),
        })
    }

    fn schema_or(&mut self, alternative: SchemaOr, id: TypeId, bytes: &[u8]) -> Result<Value, String> {
        let (mut schema, mut items, mut allows) = (None, Vec::new(), false);
        for entry in wire::fields(bytes) {
            match (alternative, entry?) {
                (SchemaOr::Bool, (1, Wire::Varint(value))) => allows = value != 0,
                (SchemaOr::Bool, (2, Wire::Len(bytes))) | (_, (1, Wire::Len(bytes))) => {
                    schema = Some(Value::Object(self.structure(id, bytes, Map::new())?));
                }
                (SchemaOr::Array, (2, Wire::Len(bytes))) => {
                    items.push(Value::Object(self.structure(id, bytes, Map::new())?));
                }
                (SchemaOr::Strings, (2, Wire::Len(bytes))) => items.push(Value::from(String::from_utf8_lossy(bytes))),
                _ => {}
            }
        }
        Ok(match (alternative, schema) {
            (SchemaOr::Array | SchemaOr::Strings, _) if !items.is_empty() => Value::Array(items),
            (_, Some(schema)) => schema,
            (SchemaOr::Bool, None) => Value::Bool(allows),
            (_, None) => Value::Null,
        })
    }
}

fn wrong_wire(name: &str) -> String {
    format!("proto: wrong wireType for field {name}")
}

/// Whole floats print without a fraction in Go.
fn double(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        return Value::from(value as i64);
    }
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

/// Messages that JSON shows as a scalar or as any value.
fn special(ty: &Type, bytes: &[u8]) -> Result<Value, String> {
    let (mut varints, mut first, mut third) = ([0u64; 3], None, None);
    for entry in wire::fields(bytes) {
        match entry? {
            (number @ 1..=2, Wire::Varint(value)) => varints[number as usize] = value,
            (1, Wire::Len(bytes)) => first = Some(bytes),
            (3, Wire::Len(bytes)) => third = Some(bytes),
            _ => {}
        }
    }
    let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
    Ok(match ty {
        Type::Quantity => {
            let text = text(first);
            let text = if text.is_empty() { "0" } else { &text };
            Value::from(crate::quantity::canonicalise(text).map_err(|e| e.to_string())?)
        }
        Type::IntOrString if varints[1] == 1 => Value::from(text(third)),
        Type::IntOrString => Value::from(varints[2] as i32),
        Type::Time | Type::MicroTime => {
            let (seconds, nanos) = (varints[1] as i64, varints[2] as i32);
            if seconds == 0 && nanos == 0 {
                return Ok(Value::Null);
            }
            let nanos = if *ty == Type::Time { 0 } else { nanos };
            let time = Timestamp::new(seconds, nanos).map_err(|_| "proto: timestamp out of range".to_owned())?;
            Value::from(if *ty == Type::Time { print_time(time) } else { print_micro_time(time) })
        }
        Type::Duration => Value::from(format!("{}ns", varints[1] as i64)),
        Type::RawExtension | Type::FieldsV1 | Type::Json => match first {
            None | Some([]) => Value::Null,
            Some(bytes) => json::parse(bytes)?.into_value(),
        },
        _ => return Err("proto: wrong wireType for a scalar".to_owned()),
    })
}
