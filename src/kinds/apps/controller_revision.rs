//! ControllerRevisions.

use api::Object;
use api::field::{Error, ErrorList, Path};
use api::names::GroupVersion;

use crate::checks::{immutable, non_negative};
use crate::columns::{age, name, text};
use crate::define::Extra;
use crate::json::Json;
use crate::rules::Rules;

pub(super) fn extra() -> Extra {
    let rules = Rules {
        validate: |object| {
            let mut errors = ErrorList::new();
            non_negative(&mut errors, Path::new("revision"), object.at("revision"));
            if !object.has("data") {
                errors.push(Error::required(Path::new("data"), "data is mandatory"));
            } else if !object.at("data").is_object() {
                errors.push(Error::required(Path::new("data"), "data must be a valid JSON object"));
            }
            errors
        },
        validate_update: Some(|object, old| {
            let mut errors = ErrorList::new();
            non_negative(&mut errors, Path::new("revision"), object.at("revision"));
            immutable(&mut errors, Path::new("data"), object.at("data"), old.at("data"));
            errors
        }),
        ..Rules::GENERIC
    };
    let columns = vec![
        name(),
        text("Controller", |o, _| controller(o).into()),
        text("Revision", |o, _| o.int("revision").unwrap_or_default().into()),
        age(),
    ];
    Extra::new(rules, columns)
}

/// `kind.group/name` of the controller.
fn controller(object: &Object) -> String {
    let Some(owner) = api::meta::controller_of(object) else { return "<none>".to_owned() };
    let group = GroupVersion::parse(owner.text("apiVersion")).map(|gv| gv.group).unwrap_or_default();
    let kind = owner.text("kind").to_lowercase();
    if group.is_empty() {
        format!("{kind}/{}", owner.text("name"))
    } else {
        format!("{kind}.{group}/{}", owner.text("name"))
    }
}
