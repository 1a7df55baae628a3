//! `policy`: disruption budgets.

use api::field::{Error, ErrorList, Path};

use crate::checks::{at_most_100_percent, int_or_percent, label_selector, non_negative, one_of_if_set};
use crate::columns::{age, integer, name, number, text};
use crate::define::Extra;
use crate::json::{Json, dig};
use crate::printed::Printed;
use crate::rules::Rules;

/// What is special about a kind of this group.
pub(crate) fn extra(kind: &str) -> Option<Extra> {
    (kind == "PodDisruptionBudget").then(disruption_budget)
}

fn disruption_budget() -> Extra {
    let rules = Rules {
        validate: |object| {
            let mut errors = ErrorList::new();
            let (spec, at) = (object.at("spec"), Path::new("spec"));
            if spec.has("minAvailable") && spec.has("maxUnavailable") {
                let text = "minAvailable and maxUnavailable cannot be both set";
                errors.push(Error::invalid(at.clone(), spec.clone(), text).printed("policy.PodDisruptionBudgetSpec"));
            }
            for member in ["minAvailable", "maxUnavailable"] {
                if spec.has(member) {
                    int_or_percent(&mut errors, at.child(member), spec.at(member));
                    at_most_100_percent(&mut errors, at.child(member), spec.at(member));
                }
            }
            label_selector(&mut errors, &at.child("selector"), spec.at("selector"));
            one_of_if_set(
                &mut errors,
                at.child("unhealthyPodEvictionPolicy"),
                spec.at("unhealthyPodEvictionPolicy"),
                &["AlwaysAllow", "IfHealthyBudget"],
            );
            errors
        },
        validate_status: |object, _| {
            let mut errors = ErrorList::new();
            for member in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
                non_negative(&mut errors, Path::new("status").child(member), object.at("status").at(member));
            }
            let (list, at) = (object.array(&["status", "conditions"]), Path::new("status").child("conditions"));
            crate::conditions::validate_in_words(&mut errors, &at, list);
            errors
        },
        // Upstream checks the spec alone, and leaves metadata to what holds for all kinds.
        name: api::validation::path_segment,
        any_finalizers: true,
        unconditional_update: false,
        ..Rules::GENERIC
    };
    let columns = vec![
        name(),
        text("Min Available", |o, _| or_none(dig(o, &["spec", "minAvailable"])).into()),
        text("Max Unavailable", |o, _| or_none(dig(o, &["spec", "maxUnavailable"])).into()),
        integer("Allowed Disruptions", |o, _| number(o, &["status", "disruptionsAllowed"])),
        age(),
    ];
    Extra::new(rules, columns).with_generation()
}

fn or_none(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Null => "N/A".to_owned(),
        serde_json::Value::String(text) => text.clone(),
        number => number.to_string(),
    }
}
