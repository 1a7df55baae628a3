//! Writes messages back to front, so that each length is known when it is written (as gogo's `MarshalToSizedBuffer`).

use std::sync::LazyLock;

use base64::Engine as _;
use serde_json::{Map, Value};

use super::wire;
use crate::codec::scalars::parse_time;
use crate::schema::{Field, SchemaOr, Type, TypeId, Types};

/// A buffer that is filled from its end: every method puts its bytes before what is already there.
#[derive(Default)]
pub struct Writer {
    /// In reverse.
    reversed: Vec<u8>,
}

static NOTHING: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);

impl Writer {
    pub fn finish(mut self) -> Vec<u8> {
        self.reversed.reverse();
        self.reversed
    }

    pub fn raw(&mut self, bytes: &[u8]) {
        self.reversed.extend(bytes.iter().rev());
    }

    fn varint(&mut self, value: u64) {
        let start = self.reversed.len();
        wire::push_varint(&mut self.reversed, value);
        self.reversed[start..].reverse();
    }

    fn tag(&mut self, number: u32, wire_type: u8) {
        self.varint(u64::from(number) << 3 | u64::from(wire_type));
    }

    pub fn varint_field(&mut self, number: u32, value: u64) {
        self.varint(value);
        self.tag(number, wire::VARINT);
    }

    pub fn bytes(&mut self, number: u32, bytes: &[u8]) {
        self.raw(bytes);
        self.varint(bytes.len() as u64);
        self.tag(number, wire::LEN);
    }

    pub fn message(&mut self, number: u32, write: impl FnOnce(&mut Self)) {
        let before = self.reversed.len();
        write(self);
        self.varint((self.reversed.len() - before) as u64);
        self.tag(number, wire::LEN);
    }

    /// The fields of a struct; `None` is Go's zero value.
    pub fn structure(&mut self, types: &Types, id: TypeId, map: Option<&Map<String, Value>>) {
        self.fields(types, &types.def(id).fields, 0, map.unwrap_or(&NOTHING));
    }

    /// `level` counts the wrapping messages already open.
    fn fields(&mut self, types: &Types, fields: &[Field], level: usize, map: &Map<String, Value>) {
        let mut end = fields.len();
        while let Some(field) = fields[..end].last() {
            let wrap = field.wrap.get(level).copied().unwrap_or(0);
            if wrap == 0 {
                end -= 1;
                if field.proto != 0 {
                    self.field(types, field, map.get(field.name.as_ref()));
                }
            } else {
                // Fields of one wrapping message stand together.
                let inside = |f: &&Field| f.wrap.get(level) == Some(&wrap);
                let start = end - fields[..end].iter().rev().take_while(inside).count();
                self.message(u32::from(wrap), |writer| writer.fields(types, &fields[start..end], level + 1, map));
                end = start;
            }
        }
    }

    fn field(&mut self, types: &Types, field: &Field, value: Option<&Value>) {
        let value = value.filter(|v| !v.is_null());
        let number = field.proto;
        match &field.ty {
            Type::List(inner) => {
                let Some(Value::Array(items)) = value else { return };
                if field.list_message {
                    self.message(number, |writer| writer.items(types, 1, inner, items));
                } else {
                    self.items(types, number, inner, items);
                }
            }
            Type::Map(inner) => {
                let Some(Value::Object(map)) = value else { return };
                // A map is sorted by its keys unless a build turns on insertion order for all of serde_json.
                let mut entries: Vec<_> = map.iter().collect();
                entries.sort_by(|a, b| b.0.cmp(a.0));
                for (key, value) in entries {
                    self.message(number, |writer| {
                        match (inner.as_ref(), value) {
                            // A list in a map is always a message of its own.
                            (Type::List(inner), Value::Array(items)) => {
                                writer.message(2, |writer| writer.items(types, 1, inner, items));
                            }
                            (Type::List(_), _) => {}
                            (Type::Bytes, Value::Null) => {}
                            (inner, value) => writer.element(types, 2, inner, Some(value).filter(|v| !v.is_null())),
                        }
                        writer.bytes(1, key.as_bytes());
                    });
                }
            }
            Type::Bytes if value.is_none() => {}
            ty => {
                if value.is_some() || !field.pointer {
                    self.element(types, number, ty, value);
                }
            }
        }
    }

    fn items(&mut self, types: &Types, number: u32, inner: &Type, items: &[Value]) {
        for item in items.iter().rev() {
            self.element(types, number, inner, Some(item).filter(|v| !v.is_null()));
        }
    }

    /// One value with its tag; `None` is the zero value.
    fn element(&mut self, types: &Types, number: u32, ty: &Type, value: Option<&Value>) {
        let text = value.and_then(Value::as_str);
        match ty {
            Type::Bool => self.varint_field(number, u64::from(value.and_then(Value::as_bool).unwrap_or(false))),
            Type::Int32 | Type::Int64 => {
                self.varint_field(number, value.and_then(Value::as_i64).unwrap_or(0) as u64);
            }
            Type::Double => {
                self.raw(&value.and_then(Value::as_f64).unwrap_or(0.0).to_le_bytes());
                self.tag(number, wire::FIXED64);
            }
            Type::String => self.bytes(number, text.unwrap_or_default().as_bytes()),
            Type::Bytes => {
                let bytes = base64::engine::general_purpose::STANDARD.decode(text.unwrap_or_default());
                self.bytes(number, &bytes.unwrap_or_default());
            }
            Type::Quantity => self.message(number, |w| w.bytes(1, text.unwrap_or("0").as_bytes())),
            Type::IntOrString => self.message(number, |w| {
                w.bytes(3, text.unwrap_or_default().as_bytes());
                w.varint_field(2, value.and_then(Value::as_i64).unwrap_or(0) as u64);
                w.varint_field(1, u64::from(text.is_some()));
            }),
            Type::Time | Type::MicroTime => self.message(number, |w| w.time(ty, text)),
            Type::Duration => self.message(number, |w| {
                w.varint_field(1, text.and_then(duration_nanos).unwrap_or(0) as u64);
            }),
            Type::RawExtension | Type::FieldsV1 | Type::Json => self.message(number, |w| {
                if let Some(value) = value {
                    w.bytes(1, value.to_string().as_bytes());
                }
            }),
            Type::SchemaOr(alternative, id) => self.message(number, |w| w.schema_or(types, *alternative, *id, value)),
            Type::Struct(id) => {
                self.message(number, |w| w.structure(types, *id, value.and_then(Value::as_object)));
            }
            // Protobuf has no lists of lists or maps, and no schema asks for them.
            Type::List(_) | Type::Map(_) => {}
        }
    }

    fn time(&mut self, ty: &Type, text: Option<&str>) {
        let micro = *ty == Type::MicroTime;
        if let Some(time) = text.and_then(|text| parse_time(text, micro).ok()) {
            let seconds = time.as_second() - i64::from(time.subsec_nanosecond() < 0);
            let nanos = if micro { i64::from(time.subsec_nanosecond()).rem_euclid(1_000_000_000) } else { 0 };
            self.varint_field(2, nanos as u64);
            self.varint_field(1, seconds as u64);
        }
    }

    fn schema_or(&mut self, types: &Types, alternative: SchemaOr, id: TypeId, value: Option<&Value>) {
        match (alternative, value) {
            (SchemaOr::Bool, Some(Value::Bool(allows))) => self.varint_field(1, u64::from(*allows)),
            (SchemaOr::Bool, Some(Value::Object(schema))) => {
                self.message(2, |w| w.structure(types, id, Some(schema)));
                self.varint_field(1, 1);
            }
            (SchemaOr::Bool, _) => self.varint_field(1, 0),
            (SchemaOr::Array, Some(Value::Array(items))) => self.items(types, 2, &Type::Struct(id), items),
            (SchemaOr::Strings, Some(Value::Array(items))) => self.items(types, 2, &Type::String, items),
            (_, Some(Value::Object(schema))) => self.message(1, |w| w.structure(types, id, Some(schema))),
            _ => {}
        }
    }
}

/// Go's `time.ParseDuration`, in nanoseconds.
fn duration_nanos(text: &str) -> Option<i64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut nanos = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let amount: f64 = rest[..digits].parse().ok()?;
        let unit_end = rest[digits..].find(|c: char| c.is_ascii_digit() || c == '.').map_or(rest.len(), |n| n + digits);
        let unit = match &rest[digits..unit_end] {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        nanos += amount * unit;
        rest = &rest[unit_end..];
    }
    Some((sign * nanos) as i64)
}
