//! StatefulSets.

use api::Object;
use api::field::{Error, ErrorList, Path};
use serde_json::{Value, json};

use crate::checks::{
    at_most_100_percent, count_or_percent, immutable_as, int_or_percent, is_selector, label_name, label_selector,
    non_negative, not_decremented, one_of_if_set, selects_everything,
};
use crate::columns::{age, container_images, container_names, name, text, wide};
use crate::core::claim;
use crate::define::Extra;
use crate::json::{Json, absent, child, dig, existing, fill, items_mut};
use crate::podspec::{defaults, validate, warnings};
use crate::printed::{LABEL_SELECTOR, Printed};
use crate::rules::Rules;

pub(super) fn extra() -> Extra {
    let rules = Rules {
        default,
        validate: |object| {
            let mut errors = ErrorList::new();
            spec(&mut errors, &Path::new("spec"), object.at("spec"), true);
            errors
        },
        validate_update: Some(|object, old| {
            let mut errors = ErrorList::new();
            let at = Path::new("spec");
            spec(&mut errors, &at, object.at("spec"), false);
            frozen(&mut errors, &at, object.at("spec"), old.at("spec"));
            errors
        }),
        name: api::validation::dns1123_label,
        validate_status: |object, old| {
            let mut errors = ErrorList::new();
            counts(&mut errors, object, old);
            errors
        },
        warnings: |object, old| {
            let mut out = warnings::template(object, old, &["spec", "template"]);
            for (i, claim) in object.array(&["spec", "volumeClaimTemplates"]).iter().enumerate() {
                let at = Path::new("spec").child("volumeClaimTemplates").index(i);
                warnings::claim(&mut out, &if old.is_some() { at.child("Spec") } else { at }, claim.at("spec"));
            }
            if object.at("spec").int("revisionHistoryLimit").is_some_and(|limit| limit < 0) {
                let text = "a negative value retains all historical revisions; a value >= 0 is recommended";
                out.push(format!("spec.revisionHistoryLimit: {text}"));
            }
            out
        },
        ..Rules::GENERIC
    };
    let columns = vec![
        name(),
        text("Ready", |o, _| {
            let count = |path: &[&str]| dig(o, path).as_i64().unwrap_or_default();
            format!("{}/{}", count(&["status", "readyReplicas"]), count(&["spec", "replicas"])).into()
        }),
        age(),
        wide("Containers", |o, _| container_names(dig(o, &["spec", "template", "spec"]))),
        wide("Images", |o, _| container_images(dig(o, &["spec", "template", "spec"]))),
    ];
    Extra::new(rules, columns).with_generation().with_scale(&["spec", "selector"])
}

/// `ValidateStatefulSetStatusUpdate`.
fn counts(errors: &mut ErrorList, object: &Object, old: &Object) {
    let (status, at) = (object.at("status"), Path::new("status"));
    let members = ["replicas", "readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"];
    for member in members.into_iter().chain(["observedGeneration", "collisionCount"]) {
        non_negative(errors, at.child(member), status.at(member));
    }
    let count = |member: &str| status.int(member).unwrap_or_default();
    let limits = members.into_iter().skip(1).map(|member| (member, "replicas"));
    for (member, than) in limits.chain([("availableReplicas", "readyReplicas")]) {
        if count(member) > count(than) {
            let text = format!("cannot be greater than status.{than}");
            errors.push(Error::invalid(at.child(member), count(member), text));
        }
    }
    not_decremented(errors, object, old);
}

/// `SetDefaults_StatefulSet`.
fn default(object: &mut Object) {
    let Some(spec) = existing(&mut object.0, "spec") else { return };
    fill(spec, "podManagementPolicy", "OrderedReady");
    if let Some(strategy) = child(spec, "updateStrategy") {
        if strategy.text("type").is_empty() {
            strategy.insert("type".to_owned(), "RollingUpdate".into());
            fill(strategy, "rollingUpdate", json!({}));
        }
        if strategy.text("type") == "RollingUpdate"
            && let Some(rolling) = existing(strategy, "rollingUpdate")
        {
            fill(rolling, "partition", 0);
            absent(rolling, "maxUnavailable", 1);
        }
    }
    if let Some(policy) = child(spec, "persistentVolumeClaimRetentionPolicy") {
        fill(policy, "whenDeleted", "Retain");
        fill(policy, "whenScaled", "Retain");
    }
    fill(spec, "replicas", 1);
    fill(spec, "revisionHistoryLimit", 10);
    defaults::template(spec, "template");
    for claim in items_mut(spec, "volumeClaimTemplates") {
        // The API prints a template as the claim that it is (the type meta is the list item's own).
        claim.insert("apiVersion".to_owned(), "v1".into());
        claim.insert("kind".to_owned(), "PersistentVolumeClaim".into());
        if let Some(spec) = existing(claim, "spec") {
            claim::spec_defaults(spec);
        }
        if let Some(status) = child(claim, "status") {
            fill(status, "phase", "Pending");
        }
    }
}

/// `ValidateStatefulSetSpec`. What may never change is checked when it is `new` and tolerated after that.
fn spec(errors: &mut ErrorList, at: &Path, spec: &Value, new: bool) {
    match spec.text("podManagementPolicy") {
        "" => errors.push(Error::required(at.child("podManagementPolicy"), "")),
        "OrderedReady" | "Parallel" => {}
        other => {
            let text = "must be 'OrderedReady' or 'Parallel'";
            errors.push(Error::invalid(at.child("podManagementPolicy"), other, text));
        }
    }
    strategy(errors, &at.child("updateStrategy"), spec.at("updateStrategy"));
    let policy = spec.at("persistentVolumeClaimRetentionPolicy");
    for member in ["whenDeleted", "whenScaled"] {
        let at = at.child("persistentVolumeClaimRetentionPolicy").child(member);
        one_of_if_set(errors, at, policy.at(member), &["Retain", "Delete"]);
    }
    for (i, template) in spec.list("volumeClaimTemplates").iter().enumerate().filter(|_| new) {
        claim::spec(errors, &at.child("volumeClaimTemplates").index(i).child("spec"), template.at("spec"));
    }
    non_negative(errors, at.child("replicas"), spec.at("replicas"));
    non_negative(errors, at.child("minReadySeconds"), spec.at("minReadySeconds"));
    non_negative(errors, at.child("ordinals.start"), spec.at("ordinals").at("start"));
    let service = spec.text("serviceName");
    if new && !service.is_empty() {
        label_name(errors, &at.child("serviceName"), service);
    }
    let selector = spec.at("selector");
    if selector.is_null() {
        errors.push(Error::required(at.child("selector"), ""));
    } else {
        label_selector(errors, &at.child("selector"), selector);
        if selects_everything(selector) {
            let text = "empty selector is invalid for statefulset";
            errors.push(Error::invalid(at.child("selector"), selector.clone(), text).printed(LABEL_SELECTOR));
        }
    }
    if is_selector(selector) {
        template(errors, &at.child("template"), spec);
    } else {
        errors.push(Error::invalid(at.child("selector"), selector.clone(), "").printed(LABEL_SELECTOR));
    }
}

/// The template as the controller will use it: with the volumes of the claims, without what it overwrites.
fn template(errors: &mut ErrorList, at: &Path, spec: &Value) {
    let mut template = spec.at("template").clone();
    let (selector, labels) = (spec.at("selector"), spec.at("template").at("metadata").at("labels"));
    validate::selected(errors, at, selector, labels);
    if let Some(pod) = template.get_mut("spec").and_then(Value::as_object_mut) {
        pod.remove("subdomain");
        pod.remove("hostname");
        let mut claims: Vec<&str> = Vec::new();
        for name in spec.list("volumeClaimTemplates").iter().map(|c| c.at("metadata").text("name")) {
            // Upstream keeps the claims by their names.
            if !claims.contains(&name) {
                claims.push(name);
            }
        }
        if !claims.is_empty() {
            let mut volumes: Vec<Value> =
                claims.iter().map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}})).collect();
            volumes.extend(pod.list("volumes").iter().filter(|v| !claims.contains(&v.text("name"))).cloned());
            pod.insert("volumes".to_owned(), volumes.into());
        }
    }
    validate::template(errors, at, &template);
    validate::runs_for_ever(errors, at, &template, "StatefulSet");
}

fn strategy(errors: &mut ErrorList, at: &Path, strategy: &Value) {
    let rolling = strategy.at("rollingUpdate");
    let at_rolling = at.child("rollingUpdate");
    match strategy.text("type") {
        "" => errors.push(Error::required(at.clone(), "")),
        "OnDelete" => {
            if !rolling.is_null() {
                let text = "only allowed for updateStrategy 'RollingUpdate'";
                errors.push(
                    Error::invalid(at_rolling, rolling.clone(), text).printed("apps.RollingUpdateStatefulSetStrategy"),
                );
            }
        }
        "RollingUpdate" => {
            non_negative(errors, at_rolling.child("partition"), rolling.at("partition"));
            let unavailable = rolling.at("maxUnavailable");
            if !unavailable.is_null() {
                let at = at_rolling.child("maxUnavailable");
                int_or_percent(errors, at.clone(), unavailable);
                if count_or_percent(unavailable) == 0 {
                    errors.push(Error::invalid(at.clone(), unavailable.clone(), "cannot be 0"));
                }
                at_most_100_percent(errors, at, unavailable);
            }
        }
        _ => {
            let text = "must be 'RollingUpdate' or 'OnDelete'";
            errors.push(Error::invalid(at.clone(), strategy.clone(), text).printed("apps.StatefulSetUpdateStrategy"));
        }
    }
}

/// What an update may not change (`ValidateStatefulSetUpdate`).
fn frozen(errors: &mut ErrorList, at: &Path, new: &Value, old: &Value) {
    let member = |name: &str| (at.child(name), new.at(name), old.at(name));
    let (path, value, before) = member("selector");
    immutable_as(errors, path, LABEL_SELECTOR, value, before);
    let (path, value, before) = member("volumeClaimTemplates");
    immutable_as(errors, path, "[]core.PersistentVolumeClaim", value, before);
    for name in ["serviceName", "podManagementPolicy"] {
        let (path, value, before) = member(name);
        immutable_as(errors, path, "string", value, before);
    }
}
