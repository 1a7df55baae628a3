//! PodTemplates.

use api::field::{ErrorList, Path};

use crate::columns::{container_images, container_names, labels, name, text};
use crate::define::Extra;
use crate::json::{Json, dig};
use crate::podspec::{defaults, validate, warnings};
use crate::rules::Rules;

pub(super) fn extra() -> Extra {
    let rules = Rules {
        default: |object| defaults::template(&mut object.0, "template"),
        validate: |object| {
            let mut errors = ErrorList::new();
            validate::template(&mut errors, &Path::new("template"), object.at("template"));
            errors
        },
        warnings: |object, old| warnings::template(object, old, &["template"]),
        ..Rules::GENERIC
    };
    let columns = vec![
        name(),
        text("Containers", |o, _| container_names(dig(o, &["template", "spec"]))),
        text("Images", |o, _| container_images(dig(o, &["template", "spec"]))),
        text("Pod Labels", |o, _| labels(dig(o, &["template", "metadata", "labels"]))),
    ];
    Extra::new(rules, columns).with_generation()
}
