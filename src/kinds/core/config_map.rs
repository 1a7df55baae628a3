//! ConfigMaps.

use api::Object;
use api::field::{Error, ErrorList, Path};

use crate::checks::{config_key, invalid_all};
use crate::columns::{age, name, text};
use crate::define::Extra;
use crate::json::{Json, same};
use crate::rules::Rules;

/// Keys and values together.
pub(super) const MAX_SIZE: usize = 1024 * 1024;

pub(super) fn extra() -> Extra {
    let rules = Rules { validate, validate_update: Some(validate_update), ..Rules::GENERIC };
    let count = text("Data", |o, _| (o.count("data") + o.count("binaryData")).into());
    Extra::new(rules, vec![name(), count, age()])
}

fn validate(object: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut size = 0;
    for (key, value) in object.entries("data") {
        invalid_all(&mut errors, &Path::new("data").key(key), key, config_key(key));
        if object.at("binaryData").has(key) {
            let text = "duplicate of key present in binaryData";
            errors.push(Error::invalid(Path::new("data").key(key), key, text));
        }
        size += value.as_str().unwrap_or_default().len();
    }
    for (key, value) in object.entries("binaryData") {
        invalid_all(&mut errors, &Path::new("binaryData").key(key), key, config_key(key));
        size += decoded_size(value.as_str().unwrap_or_default());
    }
    if size > MAX_SIZE {
        errors.push(Error::too_long(Path::new("[]"), MAX_SIZE));
    }
    errors
}

/// Bytes that base64 text stands for.
pub(super) fn decoded_size(text: &str) -> usize {
    let padding = text.bytes().rev().take_while(|b| *b == b'=').count();
    (text.len() / 4 * 3).saturating_sub(padding)
}

fn validate_update(object: &Object, old: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    frozen(&mut errors, object, old, &["data", "binaryData"]);
    errors.extend(validate(object));
    errors
}

/// What `immutable: true` forbids.
pub(super) fn frozen(errors: &mut ErrorList, object: &Object, old: &Object, members: &[&str]) {
    if !old.flag("immutable") {
        return;
    }
    const TEXT: &str = "field is immutable when `immutable` is set";
    if !object.flag("immutable") {
        errors.push(Error::forbidden(Path::new("immutable"), TEXT));
    }
    for member in members {
        if !same(object.at(member), old.at(member)) {
            errors.push(Error::forbidden(Path::new(member), TEXT));
        }
    }
}
