//! Our codecs against Go's: objects of every kind, filled by `e2e/judge` and encoded by Go.

use api::codec::{FieldValidation, MediaType, decode, decode_options, protobuf};
use api::schema::Schema;
use api::{Gvk, Object};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Vector {
    #[serde(rename = "type")]
    type_name: String,
    group: String,
    version: String,
    kind: String,
    json: Value,
    #[serde(default)]
    protobuf: String,
    #[serde(default)]
    envelope: String,
}

/// Types that Go has registered and no served API speaks.
const NOT_SERVED: &[&str] = &["io.k8s.api.core.v1.List", "io.k8s.api.core.v1.PodStatusResult"];

fn vectors() -> Vec<(String, Schema, Vector)> {
    let text = zstd::decode_all(&include_bytes!("vectors.zst")[..]).unwrap();
    let (mut out, mut missing) = (Vec::new(), Vec::new());
    for line in text.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
        let vector: Vector = serde_json::from_slice(line).unwrap();
        let path = vector.type_name.strip_prefix("k8s.io/").unwrap();
        let name = format!("io.k8s.{}", path.replace('/', "."));
        match kinds::facts::schema(&name) {
            // Not an object: it has neither `apiVersion` nor `kind`, and is never decoded as one.
            Some(_) if vector.kind == "WatchEvent" => {}
            Some(schema) => out.push((name, schema, vector)),
            None if NOT_SERVED.contains(&name.as_str()) => {}
            None => missing.push(name),
        }
    }
    assert!(missing.is_empty(), "no types {missing:?}");
    assert!(out.len() > 450, "{} vectors", out.len());
    out
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

/// The first place where two values differ.
fn difference(path: &str, a: &Value, b: &Value) -> Option<String> {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            let keys: std::collections::BTreeSet<&String> = x.keys().chain(y.keys()).collect();
            keys.into_iter().find_map(|key| match (x.get(key), y.get(key)) {
                (Some(a), Some(b)) => difference(&format!("{path}.{key}"), a, b),
                (a, b) => Some(format!("{path}.{key}: {a:?} / {b:?}")),
            })
        }
        (Value::Array(x), Value::Array(y)) if x.len() == y.len() => {
            x.iter().zip(y).enumerate().find_map(|(i, (a, b))| difference(&format!("{path}[{i}]"), a, b))
        }
        _ => (a != b).then(|| format!("{path}: {a} / {b}")),
    }
}

fn report(failures: Vec<String>) {
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn json_from_go_decodes_to_itself() {
    let mut failures = Vec::new();
    for (name, schema, vector) in vectors() {
        let gvk = Gvk::new(vector.group, vector.version, vector.kind);
        let body = vector.json.to_string();
        match decode(body.as_bytes(), MediaType::Json, &schema, &gvk, FieldValidation::Strict) {
            Err(e) => failures.push(format!("{name}: {e}")),
            Ok(decoded) => {
                let got = decoded.object.into_value();
                failures.extend(difference("", &got, &vector.json).map(|d| format!("{name}{d}")));
            }
        }
    }
    report(failures);
}

#[test]
fn protobuf_is_gos_byte_for_byte() {
    let mut failures = Vec::new();
    for (name, schema, vector) in vectors() {
        if vector.protobuf.is_empty() && vector.json.as_object().is_some_and(|o| o.len() > 2) {
            continue;
        }
        let object = Object::from_value(vector.json).unwrap();
        let got = protobuf::encode(&schema, &object);
        let want = hex(&vector.protobuf);
        if got != want {
            let at = got.iter().zip(&want).take_while(|(a, b)| a == b).count();
            failures.push(format!("{name}: {} bytes, want {}, differ at {at}", got.len(), want.len()));
        }
        if !vector.envelope.is_empty() {
            let gvk = Gvk::new(vector.group, vector.version, vector.kind);
            assert_eq!(protobuf::envelope(&gvk, &got), hex(&vector.envelope), "{name}");
        }
    }
    report(failures);
}

#[test]
fn protobuf_from_go_decodes_to_gos_json() {
    let mut failures = Vec::new();
    for (name, schema, vector) in vectors() {
        if vector.protobuf.is_empty() {
            continue;
        }
        let gvk = Gvk::new(vector.group, vector.version, vector.kind.clone());
        let body = protobuf::envelope(&gvk, &hex(&vector.protobuf));
        let decoded = if vector.kind.ends_with("Options") {
            decode_options(&body, MediaType::Protobuf, &schema, &vector.kind).map(|mut object| {
                object.set_gvk(&gvk);
                object
            })
        } else {
            decode(&body, MediaType::Protobuf, &schema, &gvk, FieldValidation::Strict).map(|d| d.object)
        };
        match decoded {
            Err(e) => failures.push(format!("{name}: {e}")),
            Ok(object) => {
                failures.extend(difference("", &object.into_value(), &vector.json).map(|d| format!("{name}{d}")))
            }
        }
    }
    report(failures);
}
