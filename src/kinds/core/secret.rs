//! Secrets.

use api::Object;
use api::field::{Error, ErrorList, Path};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::checks::{config_key, immutable, invalid_all};
use crate::columns::{age, field, name, string, text};
use crate::define::Extra;
use crate::json::{Json, child, dig, fill};
use crate::rules::Rules;

use super::config_map::{MAX_SIZE, decoded_size, frozen};

pub(super) fn extra() -> Extra {
    let rules = Rules {
        default,
        update: |_, object, old| {
            // A body without a type keeps the old one, as upstream's PrepareForUpdate has it.
            if object.text("type").is_empty() {
                object.set(&["type"], old.text("type"));
            }
        },
        validate,
        validate_update: Some(validate_update),
        warnings: |object, _| key_pair(object),
        ..Rules::GENERIC
    };
    let columns =
        vec![name(), text("Type", |o, _| string(o, &["type"])), text("Data", |o, _| o.count("data").into()), age()];
    Extra::new(rules, columns).with_fields(vec![field("type", |o| o.text("type").to_owned())])
}

/// `SetDefaults_Secret`, and `stringData` into `data` as the conversion from v1 does.
fn default(object: &mut Object) {
    fill(&mut object.0, "type", "Opaque");
    if let Some(Value::Object(texts)) = object.0.remove("stringData")
        && let Some(data) = child(&mut object.0, "data")
    {
        for (key, text) in texts {
            data.insert(key, STANDARD.encode(text.as_str().unwrap_or_default()).into());
        }
    }
}

fn validate(object: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut size = 0;
    let data = Path::new("data");
    for (key, value) in object.entries("data") {
        invalid_all(&mut errors, &data.key(key), key, config_key(key));
        size += decoded_size(value.as_str().unwrap_or_default());
    }
    if size > MAX_SIZE {
        errors.push(Error::too_long(data.clone(), MAX_SIZE));
    }
    let mut need = |key: &str| {
        if !has_key(object, key) {
            errors.push(Error::required(data.key(key), ""));
        }
    };
    match object.text("type") {
        "kubernetes.io/service-account-token" => {
            if dig(object, &["metadata", "annotations"]).text("kubernetes.io/service-account.name").is_empty() {
                let at = Path::new("metadata").child("annotations").key("kubernetes.io/service-account.name");
                errors.push(Error::required(at, ""));
            }
        }
        "kubernetes.io/dockercfg" => {
            need(".dockercfg");
            json_document(&mut errors, object, ".dockercfg");
        }
        "kubernetes.io/dockerconfigjson" => {
            need(".dockerconfigjson");
            json_document(&mut errors, object, ".dockerconfigjson");
        }
        "kubernetes.io/basic-auth" => {
            if !has_key(object, "username") && !has_key(object, "password") {
                errors.push(Error::required(data.key("username"), ""));
                errors.push(Error::required(data.key("password"), ""));
            }
        }
        "kubernetes.io/ssh-auth" => {
            if object.at("data").text("ssh-privatekey").is_empty() {
                errors.push(Error::required(data.key("ssh-privatekey"), ""));
            }
        }
        "kubernetes.io/tls" => {
            need("tls.crt");
            need("tls.key");
        }
        _ => {}
    }
    errors
}

/// What Go's `tls.X509KeyPair` says of a TLS secret whose members are no PEM at all.
fn key_pair(object: &Object) -> Vec<String> {
    if object.text("type") != "kubernetes.io/tls" {
        return Vec::new();
    }
    for (member, noun, label) in [("tls.crt", "certificate", "CERTIFICATE"), ("tls.key", "key", "PRIVATE KEY")] {
        let bytes = STANDARD.decode(object.at("data").text(member)).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        if !text.contains("-----BEGIN ") {
            return vec![format!("tls: failed to find any PEM data in {noun} input")];
        }
        if !text.contains(&format!("{label}-----")) {
            return vec![format!("tls: failed to find PEM block with type ending in {label:?} in {noun} input")];
        }
    }
    Vec::new()
}

/// A key without bytes is there, too.
fn has_key(object: &Object, key: &str) -> bool {
    object.at("data").as_object().is_some_and(|data| data.contains_key(key))
}

fn json_document(errors: &mut ErrorList, object: &Object, key: &str) {
    if !has_key(object, key) {
        return;
    }
    let bytes = STANDARD.decode(object.at("data").text(key)).unwrap_or_default();
    if let Some(problem) = document_problem(&bytes) {
        errors.push(Error::invalid(Path::new("data").key(key), "<secret contents redacted>", problem));
    }
}

/// Why bytes are no JSON object, in the words of Go's `encoding/json` where they are simple.
fn document_problem(bytes: &[u8]) -> Option<String> {
    if bytes.is_empty() {
        return Some("unexpected end of JSON input".to_owned());
    }
    let error = match serde_json::from_slice::<Value>(bytes) {
        Ok(Value::Object(_) | Value::Null) => return None,
        Ok(other) => {
            let noun = match other {
                Value::String(_) => "string",
                Value::Array(_) => "array",
                Value::Bool(_) => "bool",
                _ => "number",
            };
            return Some(format!("json: cannot unmarshal {noun} into Go value of type map[string]interface {{}}"));
        }
        Err(error) => error,
    };
    let first = bytes.iter().copied().find(|b| !b.is_ascii_whitespace());
    Some(match first {
        None => "unexpected end of JSON input".to_owned(),
        Some(b'{' | b'[' | b'"' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n') => error.to_string(),
        Some(other) => format!("invalid character '{}' looking for beginning of value", char::from(other)),
    })
}

fn validate_update(object: &Object, old: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    immutable(&mut errors, Path::new("type"), object.at("type"), old.at("type"));
    frozen(&mut errors, object, old, &["data"]);
    errors.extend(validate(object));
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Object {
        Object::from_value(value).unwrap()
    }

    #[test]
    fn string_data_becomes_data() {
        let mut secret = object(json!({"data": {"a": "eA=="}, "stringData": {"b": "y"}}));
        default(&mut secret);
        assert_eq!(secret.into_value(), json!({"data": {"a": "eA==", "b": "eQ=="}, "type": "Opaque"}));
    }

    #[test]
    fn types_need_their_keys() {
        let check = |value: Value, want: &[&str]| {
            let texts: Vec<String> = validate(&object(value)).iter().map(ToString::to_string).collect();
            assert_eq!(texts, want);
        };
        check(json!({"type": "kubernetes.io/tls", "data": {"tls.crt": "eA=="}}), &["data[tls.key]: Required value"]);
        check(json!({"type": "Opaque", "data": {"a": "eA=="}}), &[]);
        let config = "kubernetes.io/dockerconfigjson";
        check(json!({"type": config, "data": {".dockerconfigjson": "e30="}}), &[]);
        check(json!({"type": config}), &["data[.dockerconfigjson]: Required value"]);
        let empty =
            "data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\": unexpected end of JSON input";
        check(json!({"type": config, "data": {".dockerconfigjson": ""}}), &[empty]);
        check(json!({"type": "kubernetes.io/basic-auth", "data": {"username": null}}), &[]);
    }

    #[test]
    fn immutable_secrets_stay() {
        let old = object(json!({"type": "Opaque", "immutable": true, "data": {"a": "eA=="}}));
        let new = object(json!({"type": "Opaque", "immutable": true, "data": {"a": "eQ=="}}));
        let texts: Vec<String> = validate_update(&new, &old).iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["data: Forbidden: field is immutable when `immutable` is set"]);
    }
}
