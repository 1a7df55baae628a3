//! Jobs.

use api::Object;
use api::field::{Error, ErrorList, Path};
use api::kind::{Propagation, RequestContext};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::checks::{
    immutable, immutable_as, is_selector, label_selector, non_negative, one_of_if_set, selector_matches,
};
use crate::columns::{age, container_images, container_names, field, name, selector, text, wide};
use crate::define::Extra;
use crate::duration::{human, time};
use crate::json::{Json, Members, absent, dig, existing, fill, items_mut, restore, same};
use crate::podspec::{defaults, validate, warnings};
use crate::printed::{LABEL_SELECTOR, Printed};
use crate::rules::Rules;

const UID_LABELS: [&str; 2] = ["controller-uid", "batch.kubernetes.io/controller-uid"];
const NAME_LABELS: [&str; 2] = ["job-name", "batch.kubernetes.io/job-name"];

pub(super) fn extra() -> Extra {
    let rules = Rules {
        default,
        // What is read gets its template's labels if it has none, as upstream's defaults have it.
        default_read: labels_of_template,
        create,
        status_update: |_, object, _| labels_of_template(object),
        validate: |object| {
            let mut errors = ErrorList::new();
            generated(&mut errors, object);
            spec(&mut errors, &Path::new("spec"), object.at("spec"));
            names(&mut errors, object);
            errors
        },
        validate_update: Some(validate_update),
        validate_status: super::job_status::validate,
        field_refusal: |path| {
            (path != "metadata.namespace").then(|| format!("field label {path:?} not supported for Job"))
        },
        // Jobs leave their pods by default, as they always did in batch/v1.
        propagation: Propagation::Orphan,
        deletion_warning: Some(
            "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning",
        ),
        warnings: |object, old| {
            let mut out = warnings::host_name(object, old);
            out.extend(warnings::template(object, old, &["spec", "template"]));
            out
        },
        ..Rules::GENERIC
    };
    let columns = vec![
        name(),
        text("Status", |o, _| status(o).into()),
        text("Completions", |o, _| completions(o).into()),
        text("Duration", |o, now| duration(o, now).into()),
        age(),
        wide("Containers", |o, _| container_names(dig(o, &["spec", "template", "spec"]))),
        wide("Images", |o, _| container_images(dig(o, &["spec", "template", "spec"]))),
        wide("Selector", |o, _| selector(dig(o, &["spec", "selector"]))),
    ];
    let succeeded = field("status.successful", |o| o.at("status").int("succeeded").unwrap_or_default().to_string());
    Extra::new(rules, columns).with_generation().with_fields(vec![succeeded])
}

pub(super) fn condition(object: &Object, kind: &str) -> bool {
    let conditions = object.array(&["status", "conditions"]);
    conditions.iter().find(|c| c.text("type") == kind).is_some_and(|c| c.text("status") == "True")
}

fn status(object: &Object) -> &'static str {
    if condition(object, "Complete") {
        "Complete"
    } else if condition(object, "Failed") {
        "Failed"
    } else if object.is_deleting() {
        "Terminating"
    } else if condition(object, "Suspended") {
        "Suspended"
    } else if condition(object, "FailureTarget") {
        "FailureTarget"
    } else if condition(object, "SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

fn completions(object: &Object) -> String {
    let succeeded = object.at("status").int("succeeded").unwrap_or_default();
    match (object.at("spec").int("completions"), object.at("spec").int("parallelism").unwrap_or_default()) {
        (Some(wanted), _) => format!("{succeeded}/{wanted}"),
        (None, parallelism @ 2..) => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    }
}

fn duration(object: &Object, now: Timestamp) -> String {
    let status = object.at("status");
    match (time(status.at("startTime")), time(status.at("completionTime"))) {
        (None, _) => String::new(),
        (Some(start), end) => human(end.unwrap_or(now).duration_since(start)),
    }
}

fn default(object: &mut Object) {
    labels_of_template(object);
    if let Some(spec) = existing(&mut object.0, "spec") {
        spec_defaults(spec);
        fill_completions(spec);
        absent(spec, "completionMode", "NonIndexed");
        fill(spec, "suspend", false);
        let replacement = if spec.has("podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
        absent(spec, "podReplacementPolicy", replacement);
        let limit = if spec.has("backoffLimitPerIndex") { i64::from(i32::MAX) } else { 6 };
        fill(spec, "backoffLimit", limit);
        fill(spec, "manualSelector", false);
    }
}

fn labels_of_template(object: &mut Object) {
    let labels = dig(object, &["spec", "template", "metadata", "labels"]).clone();
    if object.at("metadata").count("labels") == 0 && labels.as_object().is_some_and(|l| !l.is_empty()) {
        object.set(&["metadata", "labels"], labels);
    }
}

fn fill_completions(spec: &mut Members) {
    if !spec.has("completions") && !spec.has("parallelism") {
        spec.insert("completions".to_owned(), 1.into());
    }
    fill(spec, "parallelism", 1);
}

/// Defaults that templates of CronJobs get too.
pub(super) fn spec_defaults(spec: &mut Members) {
    defaults::template(spec, "template");
    if let Some(policy) = existing(spec, "podFailurePolicy") {
        for rule in items_mut(policy, "rules") {
            for pattern in items_mut(rule, "onPodConditions") {
                fill(pattern, "status", "True");
            }
        }
    }
}

/// `generateSelector`: pods are found by the Job's own uid.
fn create(ctx: &RequestContext<'_>, object: &mut Object) {
    if dig(object, &["spec", "manualSelector"]).as_bool() == Some(true) {
        return;
    }
    let (name, uid) = (object.name().to_owned(), object.uid().to_owned());
    // Labels that defaults took from the template follow it: in upstream they are one map, as long as admission has not
    // put others in their place.
    let labels = object.at("metadata").at("labels");
    let template = dig(object, &["spec", "template", "metadata", "labels"]);
    let follow = !ctx.own_labels && !labels.is_null() && labels == template;
    for (labels, value) in [(NAME_LABELS, &name), (UID_LABELS, &uid)] {
        for label in labels {
            if !dig(object, &["spec", "template", "metadata", "labels"]).has(label) {
                object.set(&["spec", "template", "metadata", "labels", label], value.as_str());
            }
        }
    }
    if !dig(object, &["spec", "selector", "matchLabels"]).has(UID_LABELS[1]) {
        object.set(&["spec", "selector", "matchLabels", UID_LABELS[1]], uid);
    }
    if follow {
        let labels = dig(object, &["spec", "template", "metadata", "labels"]).clone();
        object.set(&["metadata", "labels"], labels);
    }
}

/// `validateGeneratedSelector`.
fn generated(errors: &mut ErrorList, object: &Object) {
    let selector = dig(object, &["spec", "selector"]);
    if dig(object, &["spec", "manualSelector"]).as_bool() == Some(true) || selector.is_null() {
        return;
    }
    let labels = dig(object, &["spec", "template", "metadata", "labels"]);
    let at = Path::new("spec").child("template").child("metadata").child("labels");
    for (names, value) in [(UID_LABELS, object.uid()), (NAME_LABELS, object.name())] {
        for name in names {
            match labels.at(name).as_str() {
                None => errors.push(Error::required(at.key(name), format!("must be '{value}'"))),
                Some(have) if have != value => {
                    errors.push(Error::invalid(at.key(name), labels.clone(), format!("must be '{value}'")));
                }
                Some(_) => {}
            }
        }
    }
    let mut own = json!({});
    for (names, value) in [(UID_LABELS, object.uid()), (NAME_LABELS, object.name())] {
        for name in names {
            own[name] = value.into();
        }
    }
    if is_selector(selector) && !selector_matches(selector, &own) {
        let at = Path::new("spec").child("selector");
        let error = Error::invalid(at, selector.clone(), "`selector` not auto-generated");
        errors.push(error.printed(LABEL_SELECTOR));
    }
}

/// The highest index must make a good host name (`validateNameAllowsCompletions`).
fn names(errors: &mut ErrorList, object: &Object) {
    let spec = object.at("spec");
    if let Some(count @ 1..) = spec.int("completions")
        && spec.text("completionMode") == "Indexed"
    {
        let host = format!("{}-{}", object.name(), count - 1);
        if !api::validation::dns1123_label(&host, false).is_empty() {
            let text = format!("will not able to create pod with invalid DNS label: {host}");
            errors.push(Error::invalid(Path::new("metadata").child("name"), object.name(), text));
        }
    }
}

/// `ValidateJobSpec`.
fn spec(errors: &mut ErrorList, at: &Path, spec: &Value) {
    template_spec(errors, at, spec);
    let selector = spec.at("selector");
    if selector.is_null() {
        errors.push(Error::required(at.child("selector"), ""));
    } else {
        label_selector(errors, &at.child("selector"), selector);
    }
    let labels = spec.at("template").at("metadata").at("labels");
    if is_selector(selector) && !selector_matches(selector, labels) {
        let at = at.child("template").child("metadata").child("labels");
        errors.push(Error::invalid(at, labels.clone(), "`selector` does not match template `labels`"));
    }
}

/// `validateJobSpec`, which templates of CronJobs pass too.
pub(super) fn template_spec(errors: &mut ErrorList, at: &Path, spec: &Value) {
    for member in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        non_negative(errors, at.child(member), spec.at(member));
    }
    if spec.has("maxFailedIndexes") && !spec.has("backoffLimitPerIndex") {
        errors.push(Error::required(at.child("backoffLimitPerIndex"), "when maxFailedIndexes is specified"));
    }
    if spec.has("managedBy") {
        errors.extend(api::validation::domain_prefixed_path(&at.child("managedBy"), spec.text("managedBy")));
        if spec.count("managedBy") > 63 {
            errors.push(Error::too_long(at.child("managedBy"), 63));
        }
    }
    one_of_if_set(errors, at.child("completionMode"), spec.at("completionMode"), &["NonIndexed", "Indexed"]);
    indexed(errors, at, spec);
    failure_policy(errors, &at.child("podFailurePolicy"), spec);
    let mode = spec.text("completionMode");
    if spec.has("successPolicy") {
        let rules = spec.at("successPolicy").list("rules");
        let at = at.child("successPolicy");
        if mode != "Indexed" {
            let error = Error::invalid(at, spec.at("successPolicy").clone(), "requires indexed completion mode");
            errors.push(error.printed("batch.SuccessPolicy"));
        } else {
            let at = at.child("rules");
            if rules.is_empty() {
                let text = "at least one rules must be specified when the successPolicy is specified";
                errors.push(Error::required(at.clone(), text));
            }
            if rules.len() > 20 {
                errors.push(Error::too_many(at.clone(), rules.len(), 20));
            }
            let completions = spec.int("completions").unwrap_or_default();
            for (i, rule) in rules.iter().enumerate() {
                success_rule(errors, &at.index(i), rule, completions);
            }
        }
    }
    let replacement = at.child("podReplacementPolicy");
    if spec.has("podFailurePolicy") {
        if spec.has("podReplacementPolicy") && spec.text("podReplacementPolicy") != "Failed" {
            errors.push(Error::not_supported(replacement, spec.text("podReplacementPolicy"), &["Failed"]));
        }
    } else {
        one_of_if_set(errors, replacement, spec.at("podReplacementPolicy"), &["Failed", "TerminatingOrFailed"]);
    }
    validate::template(errors, &at.child("template"), spec.at("template"));
    let at = at.child("template").child("spec").child("restartPolicy");
    match spec.at("template").at("spec").text("restartPolicy") {
        "" | "Always" => errors.push(Error::required(at, "valid values: \"OnFailure\", \"Never\"")),
        "Never" => {}
        "OnFailure" => {
            if spec.has("podFailurePolicy") {
                let text = "only \"Never\" is supported when podFailurePolicy is specified";
                errors.push(Error::invalid(at, "OnFailure", text));
            }
        }
        other => errors.push(Error::not_supported(at, other, &["OnFailure", "Never"])),
    }
}

fn indexed(errors: &mut ErrorList, at: &Path, spec: &Value) {
    if spec.text("completionMode") != "Indexed" {
        if spec.has("completionMode") && spec.text("completionMode") != "NonIndexed" {
            return;
        }
        for member in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if let Some(value) = spec.int(member) {
                errors.push(Error::invalid(at.child(member), value, "requires indexed completion mode"));
            }
        }
        return;
    }
    let completions = spec.int("completions");
    if completions.is_none() {
        errors.push(Error::required(at.child("completions"), "when completion mode is Indexed"));
    }
    let parallelism = spec.int("parallelism").unwrap_or_default();
    if parallelism > 100_000 {
        let text = "must be less than or equal to 100000 when completion mode is Indexed";
        errors.push(Error::invalid(at.child("parallelism"), parallelism, text));
    }
    let failed = spec.int("maxFailedIndexes");
    if let (Some(completions), Some(failed)) = (completions, failed)
        && failed > completions
    {
        errors.push(Error::invalid(at.child("maxFailedIndexes"), failed, "must be less than or equal to completions"));
    }
    if let Some(failed) = failed
        && failed > 100_000
    {
        errors.push(Error::invalid(at.child("maxFailedIndexes"), failed, "must be less than or equal to 100000"));
    }
    // Many completions with a limit for each are kept within bounds that a status can hold.
    if completions.is_some_and(|count| count > 100_000) && spec.has("backoffLimitPerIndex") {
        const TEXT: &str = "must be less than or equal to 10000 when completions are above 100000 and used with backoff \
                            limit per index";
        if failed.is_none() {
            let text = "must be specified when completions is above 100000";
            errors.push(Error::required(at.child("maxFailedIndexes"), text));
        }
        if parallelism > 10_000 {
            errors.push(Error::invalid(at.child("parallelism"), parallelism, TEXT));
        }
        if let Some(failed @ 10_001..) = failed {
            errors.push(Error::invalid(at.child("maxFailedIndexes"), failed, TEXT));
        }
    }
}

/// `validateSuccessPolicyRule`.
fn success_rule(errors: &mut ErrorList, at: &Path, rule: &Value, completions: i64) {
    const MOST: usize = 64 * 1024;
    let (count, indexes) = (rule.int("succeededCount"), rule.at("succeededIndexes").as_str());
    if count.is_none() && indexes.is_none() {
        let text = "at least one of succeededCount or succeededIndexes must be specified";
        errors.push(Error::required(at.clone(), text));
    }
    let mut total = 0;
    if let Some(indexes) = indexes {
        let at = at.child("succeededIndexes");
        if indexes.len() > MOST {
            errors.push(Error::too_long(at.clone(), MOST));
        }
        match super::job_status::intervals(indexes, completions) {
            Ok(found) => total = found.iter().map(|(first, last)| last - first + 1).sum(),
            Err(error) => {
                errors.push(Error::invalid(at, indexes, format!("error parsing succeededIndexes: {error}")));
            }
        }
    }
    let Some(count) = count else { return };
    let at = at.child("succeededCount");
    non_negative(errors, at.clone(), rule.at("succeededCount"));
    if count > completions {
        let text = format!("must be less than or equal to {completions} (the number of specified completions)");
        errors.push(Error::invalid(at.clone(), count, text));
    }
    if indexes.is_some() && count > total {
        let text = format!(
            "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
        );
        errors.push(Error::invalid(at, count, text));
    }
}

fn failure_policy(errors: &mut ErrorList, at: &Path, spec: &Value) {
    let rules = spec.at("podFailurePolicy").list("rules");
    let at = at.child("rules");
    if rules.len() > 20 {
        errors.push(Error::too_many(at.clone(), rules.len(), 20));
    }
    let template = spec.at("template").at("spec");
    for (i, rule) in rules.iter().enumerate() {
        let at = at.index(i);
        let supported = &["Count", "FailIndex", "FailJob", "Ignore"];
        match rule.text("action") {
            "" => {
                let text = "valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]";
                errors.push(Error::required(at.child("action"), text));
            }
            "FailIndex" if !spec.has("backoffLimitPerIndex") => {
                errors.push(Error::invalid(
                    at.child("action"),
                    "FailIndex",
                    "requires the backoffLimitPerIndex to be set",
                ));
            }
            action if !supported.contains(&action) => {
                errors.push(Error::not_supported(at.child("action"), action, supported));
            }
            _ => {}
        }
        let (codes, conditions) = (rule.at("onExitCodes"), rule.list("onPodConditions"));
        if !codes.is_null() {
            exit_codes(errors, &at.child("onExitCodes"), codes, template);
        }
        if conditions.len() > 20 {
            errors.push(Error::too_many(at.child("onPodConditions"), conditions.len(), 20));
        }
        for (j, pattern) in conditions.iter().enumerate() {
            let at = at.child("onPodConditions").index(j);
            let kind = pattern.text("type");
            crate::checks::invalid_all(errors, &at.child("type"), kind, crate::checks::qualified_name(kind));
            crate::checks::one_of(errors, at.child("status"), pattern.text("status"), &["False", "True", "Unknown"]);
        }
        if !codes.is_null() && !conditions.is_empty() {
            let text = "specifying both OnExitCodes and OnPodConditions is not supported";
            errors.push(Error::invalid(at, "", text).hidden());
        } else if codes.is_null() && conditions.is_empty() {
            let text = "specifying one of OnExitCodes and OnPodConditions is required";
            errors.push(Error::invalid(at, "", text).hidden());
        }
    }
}

fn exit_codes(errors: &mut ErrorList, at: &Path, codes: &Value, template: &Value) {
    match codes.text("operator") {
        "In" | "NotIn" => {}
        "" => errors.push(Error::required(at.child("operator"), "valid values: [\"In\" \"NotIn\"]")),
        other => errors.push(Error::not_supported(at.child("operator"), other, &["In", "NotIn"])),
    }
    let container = codes.text("containerName");
    let known =
        ["containers", "initContainers"].iter().flat_map(|l| template.list(l)).any(|c| c.text("name") == container);
    if codes.has("containerName") && !known {
        let text = "must be one of the container or initContainer names in the pod template";
        errors.push(Error::invalid(at.child("containerName"), container, text));
    }
    let values = codes.list("values");
    let at = at.child("values");
    if values.is_empty() {
        errors.push(Error::invalid(at, codes.at("values").clone(), "at least one value is required"));
        return;
    }
    if values.len() > 255 {
        errors.push(Error::too_many(at.clone(), values.len(), 255));
    }
    for (i, value) in values.iter().enumerate() {
        if value.as_i64() == Some(0) && codes.text("operator") == "In" {
            errors.push(Error::invalid(at.index(i), 0, "must not be 0 for the In operator"));
        }
        if values[..i].contains(value) {
            errors.push(Error::duplicate(at.index(i), value.clone()));
        }
    }
    if !values.iter().map(|value| value.as_i64().unwrap_or_default()).is_sorted() {
        errors.push(Error::invalid(at, codes.at("values").clone(), "must be ordered"));
    }
}

/// `ValidateJobSpecUpdate`.
fn validate_update(object: &Object, old: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    let (new, before, at) = (object.at("spec"), old.at("spec"), Path::new("spec"));
    spec(&mut errors, &at, new);
    let indexed = new.text("completionMode") == "Indexed";
    // That an indexed Job has none was said already.
    let missing = indexed && !new.has("completions");
    if !missing && !same(new.at("completions"), before.at("completions")) {
        // An indexed Job may grow or shrink with its parallelism.
        let elastic = new.text("completionMode") == "Indexed" && new.int("completions") == new.int("parallelism");
        if !elastic {
            let field = at.child("completions");
            if new.text("completionMode") == "Indexed" {
                let text = "can only be modified in tandem with spec.parallelism";
                errors.push(Error::invalid(field, new.at("completions").clone(), text));
            } else {
                immutable(&mut errors, field, new.at("completions"), before.at("completions"));
            }
        }
    }
    immutable_as(&mut errors, at.child("selector"), LABEL_SELECTOR, new.at("selector"), before.at("selector"));
    template_update(&mut errors, &at, old, new.at("template"), before.at("template"));
    for (member, ty) in [
        ("completionMode", "raw"),
        ("podFailurePolicy", "*batch.PodFailurePolicy"),
        ("backoffLimitPerIndex", "raw"),
        ("managedBy", "raw"),
        ("successPolicy", "*batch.SuccessPolicy"),
    ] {
        immutable_as(&mut errors, at.child(member), ty, new.at(member), before.at(member));
    }
    names(&mut errors, object);
    errors
}

/// `validatePodTemplateUpdate`: a Job that waits may be told where its pods go and what they get.
fn template_update(errors: &mut ErrorList, at: &Path, old: &Object, new: &Value, before: &Value) {
    let status = old.at("status");
    let suspended = old.at("spec").flag("suspend");
    // `shouldAllowMutablePodTemplate`
    let idle = suspended
        && (!status.has("startTime") || condition(old, "Suspended"))
        && status.int("active").unwrap_or_default() == 0;
    let mut before = before.clone();
    if idle && let Some(map) = before.as_object_mut() {
        directives(map, new);
    }
    if !idle {
        immutable_as(errors, at.child("template"), "core.PodTemplateSpec", new, &before);
        return;
    }
    let mut pod = before.at("spec").clone();
    if let Some(spec) = pod.as_object_mut() {
        for list in ["containers", "initContainers"] {
            let containers = new.at("spec").list(list);
            if spec.count(list) != containers.len() {
                continue;
            }
            for (container, new) in items_mut(spec, list).zip(containers) {
                if container.text("name") == new.text("name") {
                    restore(container, "resources", new);
                }
            }
        }
    }
    immutable_as(errors, at.child("template.spec"), "core.PodSpec", new.at("spec"), &pod);
}

/// The scheduling directives of the new template, which may differ, go into the old one.
fn directives(before: &mut Members, new: &Value) {
    if let Some(metadata) = before.entry("metadata").or_insert_with(|| json!({})).as_object_mut() {
        restore(metadata, "annotations", new.at("metadata"));
        restore(metadata, "labels", new.at("metadata"));
    }
    let Some(spec) = existing(before, "spec") else { return };
    let new = new.at("spec");
    for member in ["nodeSelector", "tolerations", "schedulingGates"] {
        restore(spec, member, new);
    }
    match (new.has("affinity"), spec.has("affinity")) {
        (false, true) => {
            if let Some(affinity) = existing(spec, "affinity") {
                affinity.remove("nodeAffinity");
            }
            if spec.at("affinity").as_object().is_some_and(|a| a.values().all(Value::is_null)) {
                spec.remove("affinity");
            }
        }
        (true, _) => {
            let affinity = spec.entry("affinity").or_insert_with(|| json!({}));
            if let Some(affinity) = affinity.as_object_mut() {
                restore(affinity, "nodeAffinity", new.at("affinity"));
            }
        }
        (false, false) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(mut object: Object, own_labels: bool) -> Object {
        default(&mut object);
        let user = api::UserInfo::default();
        let now = Timestamp::UNIX_EPOCH;
        let ctx = RequestContext { user: &user, now, dry_run: false, subresource: "", own_labels, warn: None };
        create(&ctx, &mut object);
        object
    }

    #[test]
    fn labels_of_the_template_are_the_jobs_own_only_if_it_has_none() {
        let check = |own: Value, template: Value, at_creation: Value, when_read: Value| {
            let mut object = Object::from_value(json!({"metadata": {"name": "j", "uid": "u", "labels": own},
                "spec": {"template": {"metadata": {"labels": template}}}}))
            .unwrap();
            let own_labels = object.at("metadata").count("labels") != 0;
            object = make(object, own_labels);
            let found = |object: &Object| object.at("metadata").at("labels").as_object().map(serde_json::Map::len);
            assert_eq!(json!(found(&object)), at_creation, "at creation: {own} {template}");
            labels_of_template(&mut object);
            assert_eq!(json!(found(&object)), when_read, "when read: {own} {template}");
        };
        check(json!(null), json!(null), json!(null), json!(4));
        check(json!(null), json!({"a": "b"}), json!(5), json!(5));
        check(json!({"a": "b"}), json!({"a": "b"}), json!(1), json!(1));
        check(json!({"c": "d"}), json!(null), json!(1), json!(1));
    }

    #[test]
    fn a_job_gets_its_selector_and_is_valid() {
        let object = Object::from_value(json!({"metadata": {"name": "j", "uid": "u"},
            "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}}))
        .unwrap();
        let object = make(object, false);
        assert_eq!(
            *dig(&object, &["spec", "selector"]),
            json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u"}})
        );
        let mut errors = ErrorList::new();
        generated(&mut errors, &object);
        spec(&mut errors, &Path::new("spec"), object.at("spec"));
        assert_eq!(errors, ErrorList::new());
        assert_eq!(completions(&object), "0/1");
        assert_eq!(status(&object), "Running");
    }
}
