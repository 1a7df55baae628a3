//! `scheduling.k8s.io`: priority classes.

use api::Object;
use api::field::{Error, ErrorList, Path};

use crate::checks::{immutable, one_of};
use crate::columns::{age, column, integer, name, number, text};
use crate::define::Extra;
use crate::json::Json;
use crate::rules::Rules;

/// The highest value of a class that is not the system's.
const HIGHEST: i64 = 1_000_000_000;
const SYSTEM: [(&str, i64); 2] = [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

/// What is special about a kind of this group.
pub(crate) fn extra(kind: &str) -> Option<Extra> {
    (kind == "PriorityClass").then(priority_class)
}

fn priority_class() -> Extra {
    let rules = Rules {
        default: |object| {
            // An empty text is no nil pointer.
            if !object.has("preemptionPolicy") {
                object.0.insert("preemptionPolicy".to_owned(), "PreemptLowerPriority".into());
            }
        },
        create: |_, object| {
            object.set(&["metadata", "generation"], 1);
        },
        validate,
        validate_update: Some(|object, old| {
            let mut errors = ErrorList::new();
            if object.int("value") != old.int("value") {
                errors.push(Error::forbidden(Path::new("value"), "may not be changed in an update."));
            }
            let at = Path::new("preemptionPolicy");
            immutable(&mut errors, at, object.at("preemptionPolicy"), old.at("preemptionPolicy"));
            errors
        }),
        ..Rules::GENERIC
    };
    let columns = vec![
        name(),
        integer("Value", |o, _| number(o, &["value"])),
        column("Global-Default", "boolean", "", "", 0, |o, _| o.flag("globalDefault").into()),
        age(),
        text("PreemptionPolicy", |o, _| o.text("preemptionPolicy").into()),
    ];
    Extra::new(rules, columns)
}

/// `ValidatePriorityClass`.
fn validate(object: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    let (name, value) = (object.name(), object.int("value").unwrap_or_default());
    if name.starts_with("system-") {
        let problem = match SYSTEM.iter().find(|(known, _)| *known == name) {
            None => Some(format!("{name} is not a known system priority class")),
            Some((_, known)) if *known != value => Some(format!("value of {name} PriorityClass must be {known}")),
            Some(_) if object.flag("globalDefault") => {
                Some(format!("globalDefault of {name} PriorityClass must be false"))
            }
            Some(_) => None,
        };
        if let Some(problem) = problem {
            let text = format!(
                "priority class names with 'system-' prefix are reserved for system use only. error: {problem}"
            );
            errors.push(Error::forbidden(Path::new("metadata").child("name"), text));
        }
    } else if value > HIGHEST {
        let text = format!("maximum allowed value of a user defined priority is {HIGHEST}");
        errors.push(Error::forbidden(Path::new("value"), text));
    }
    if object.has("preemptionPolicy") {
        let supported = &["PreemptLowerPriority", "Never"];
        one_of(&mut errors, Path::new("preemptionPolicy"), object.text("preemptionPolicy"), supported);
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn system_names_are_reserved() {
        let check = |name: &str, value: i64, good: bool| {
            let object = Object::from_value(json!({"metadata": {"name": name}, "value": value})).unwrap();
            assert_eq!(validate(&object).is_empty(), good, "{name} {value}");
        };
        check("system-node-critical", 2_000_001_000, true);
        check("system-node-critical", 1, false);
        check("system-other", 1, false);
        check("high", HIGHEST, true);
        check("high", HIGHEST + 1, false);
    }
}
