//! The status of a definition: accepted names and conditions (apiextensions-apiserver `controller/status`,
//! `controller/establish`, `controller/nonstructuralschema`, `controller/apiapproval`).

use std::collections::BTreeSet;

use api::Object;
use api::definitions::Facts;
use serde_json::{Value, json};

use crate::json::{Json, same};

/// A condition without its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Condition {
    pub kind: &'static str,
    pub status: &'static str,
    pub reason: String,
    pub message: String,
}

impl Condition {
    fn new(kind: &'static str, status: &'static str, reason: &str, message: impl Into<String>) -> Self {
        Self { kind, status, reason: reason.to_owned(), message: message.into() }
    }
}

pub(super) fn find<'o>(object: &'o Object, kind: &str) -> Option<&'o Value> {
    object.at("status").list("conditions").iter().find(|c| c.text("type") == kind)
}

pub(super) fn is_true(object: &Object, kind: &str) -> bool {
    find(object, kind).is_some_and(|c| c.text("status") == "True")
}

/// `SetCRDCondition`: overwrites or adds; the time changes with the status.
pub(super) fn set(object: &mut Object, new: Condition, now: &str) {
    let mut list: Vec<Value> = object.at("status").list("conditions").to_vec();
    let value = json!({
        "type": new.kind, "status": new.status, "reason": new.reason, "message": new.message,
        "lastTransitionTime": now,
    });
    match list.iter_mut().find(|c| c.text("type") == new.kind) {
        None => list.push(value),
        Some(old) => {
            let time = old.at("lastTransitionTime").clone();
            let same_status = old.text("status") == new.status && !time.is_null();
            let observed = old.at("observedGeneration").clone();
            *old = value;
            if same_status {
                old["lastTransitionTime"] = time;
            }
            if !observed.is_null() {
                old["observedGeneration"] = observed;
            }
        }
    }
    object.set(&["status", "conditions"], list);
}

fn remove(object: &mut Object, kind: &str) {
    let list = object.at("status").list("conditions");
    if list.iter().any(|c| c.text("type") == kind) {
        let rest: Vec<Value> = list.iter().filter(|c| c.text("type") != kind).cloned().collect();
        object.set(&["status", "conditions"], rest);
    }
}

/// Sets a condition if it says something new.
fn renew(object: &mut Object, new: Condition, now: &str) {
    let equal = find(object, new.kind).is_some_and(|old| {
        old.text("status") == new.status && old.text("reason") == new.reason && old.text("message") == new.message
    });
    if !equal {
        set(object, new, now);
    }
}

/// The definition with the status it should have.
pub(super) fn settle(definition: &Object, neighbours: &[&Facts], now: &str) -> Option<Object> {
    let mut object = definition.clone();
    names(&mut object, neighbours, now);
    establish(&mut object, now);
    approval(&mut object, now);
    structure(&mut object, now);
    (object != *definition).then_some(object)
}

/// `NamingConditionController`.
fn names(object: &mut Object, neighbours: &[&Facts], now: &str) {
    let wanted = object.at("spec").at("names").clone();
    let accepted = object.at("status").at("acceptedNames").clone();
    if same(&wanted, &accepted) && find(object, "NamesAccepted").is_some() {
        return;
    }
    let used: BTreeSet<&str> = neighbours.iter().flat_map(|f| f.names.iter().map(String::as_str)).collect();
    let used_kinds: BTreeSet<&str> = neighbours.iter().flat_map(|f| f.kinds.iter().map(String::as_str)).collect();
    let mut new = accepted.as_object().cloned().unwrap_or_default();
    let mut problem: Option<(&str, String)> = None;
    let in_use = |name: &str| format!("{name:?} is already in use");
    let members = [("plural", &used, "PluralConflict"), ("singular", &used, "SingularConflict")];
    let kinds = [("kind", &used_kinds, "KindConflict"), ("listKind", &used_kinds, "ListKindConflict")];
    let mut one = |(member, used, reason): (&'static str, &BTreeSet<&str>, &'static str)| {
        let name = wanted.text(member);
        if name != accepted.text(member) && used.contains(name) {
            problem = Some((reason, in_use(name)));
        } else {
            new.insert(member.to_owned(), name.into());
        }
    };
    members.into_iter().for_each(&mut one);
    let short = wanted.list("shortNames");
    let mut short_problem = None;
    if short != accepted.list("shortNames") {
        let held: Vec<&str> = accepted.list("shortNames").iter().filter_map(Value::as_str).collect();
        let mut conflicts: Vec<String> = Vec::new();
        for name in short.iter().filter_map(Value::as_str).filter(|n| !held.contains(n) && used.contains(n)) {
            let text = in_use(name);
            if !conflicts.contains(&text) {
                conflicts.push(text);
            }
        }
        match conflicts.as_slice() {
            [] => {}
            [one] => short_problem = Some(one.clone()),
            many => short_problem = Some(format!("[{}]", many.join(", "))),
        }
    }
    kinds.into_iter().for_each(&mut one);
    let kind_problem = problem.as_ref().is_some_and(|(reason, _)| reason.ends_with("KindConflict"));
    match short_problem {
        // A later problem of the kinds overwrites this one.
        Some(text) if !kind_problem => problem = Some(("ShortNamesConflict", text)),
        Some(_) => {}
        None if short.is_empty() => drop(new.remove("shortNames")),
        None => drop(new.insert("shortNames".to_owned(), short.to_vec().into())),
    }
    match wanted.list("categories") {
        [] => drop(new.remove("categories")),
        categories => drop(new.insert("categories".to_owned(), categories.to_vec().into())),
    }
    object.set(&["status", "acceptedNames"], Value::Object(new));
    let condition = match problem {
        Some((reason, text)) => Condition::new("NamesAccepted", "False", reason, text),
        None => Condition::new("NamesAccepted", "True", "NoConflicts", "no conflicts found"),
    };
    renew(object, condition, now);
    if find(object, "Established").is_none() {
        set(object, Condition::new("Established", "False", "NotAccepted", "not all names are accepted"), now);
    }
}

/// `EstablishingController`. The API server serves the kinds before this is written.
fn establish(object: &mut Object, now: &str) {
    if !is_true(object, "NamesAccepted") || is_true(object, "Established") {
        return;
    }
    let bundle = object.at("spec").at("conversion").at("webhook").at("clientConfig");
    let condition = if !bundle.is_null() && !super::validate::ca_bundle_is_good(bundle.text("caBundle")) {
        let text = "The conversion webhook CABundle is invalid";
        Condition::new("Established", "False", "InvalidCABundle", text)
    } else {
        Condition::new("Established", "True", "InitialNamesAccepted", "the initial names have been accepted")
    };
    renew(object, condition, now);
}

/// `KubernetesAPIApprovalPolicyConformantConditionController`.
fn approval(object: &mut Object, now: &str) {
    let group = object.at("spec").text("group");
    if !super::validate::is_protected_group(group) {
        return;
    }
    let value = object.annotation(super::validate::APPROVED).unwrap_or_default();
    let (state, text) = super::validate::approval(value);
    use super::validate::Approval;
    let (status, reason) = match state {
        Approval::Invalid => ("False", "InvalidAnnotation"),
        Approval::Missing => ("False", "MissingAnnotation"),
        Approval::Approved => ("True", "ApprovedAnnotation"),
        Approval::Bypassed => ("False", "UnapprovedAnnotation"),
    };
    renew(object, Condition::new("KubernetesAPIApprovalPolicyConformant", status, reason, text), now);
}

/// `nonstructuralschema.ConditionController`.
fn structure(object: &mut Object, now: &str) {
    let problems = super::validate::structural_problems(object);
    match problems.as_slice() {
        [] => remove(object, "NonStructuralSchema"),
        [one] => renew(object, Condition::new("NonStructuralSchema", "True", "Violations", one.as_str()), now),
        many => {
            let text = format!("[{}]", many.join(", "));
            renew(object, Condition::new("NonStructuralSchema", "True", "Violations", text), now);
        }
    }
}
