//! What must hold for the status of a Job (upstream's `ValidateJobStatusUpdate` with the options of
//! `getStatusValidationOptions`, which look only at what changed).

use api::Object;
use api::field::{Error, ErrorList, Path};
use serde_json::Value;

use crate::checks::non_negative;
use crate::json::{Json, same};

use super::job::condition;

/// Checks a change of a status.
pub(super) fn validate(object: &Object, old: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    let (status, at) = (object.at("status"), Path::new("status"));
    for member in ["active", "succeeded", "failed", "ready", "terminating"] {
        non_negative(&mut errors, at.child(member), status.at(member));
    }
    uncounted(&mut errors, &at.child("uncountedTerminatedPods"), status.at("uncountedTerminatedPods"));
    finished(&mut errors, object, old);
    indexes(&mut errors, object, old);
    let changed = |member: &str| !same(status.at(member), old.at("status").at(member));
    let done = |o: &Object| condition(o, "Complete") || condition(o, "Failed");
    if (done(object) != done(old) || changed("terminating")) && done(object) && number(status, "terminating") > 0 {
        let text = "terminating>0 is invalid for finished job";
        errors.push(Error::invalid(at.child("terminating"), number(status, "terminating"), text));
    }
    if (changed("ready") || changed("active")) && number(status, "ready") > number(status, "active") {
        let text = "cannot set more ready pods than active";
        errors.push(Error::invalid(at.child("ready"), number(status, "ready"), text));
    }
    together(&mut errors, object);
    kept(&mut errors, object, old);
    errors
}

fn number(status: &Value, member: &str) -> i64 {
    status.int(member).unwrap_or_default()
}

fn uncounted(errors: &mut ErrorList, at: &Path, pods: &Value) {
    let mut seen: Vec<&str> = Vec::new();
    for list in ["succeeded", "failed"] {
        for (i, uid) in pods.list(list).iter().enumerate() {
            let (at, uid) = (at.child(list).index(i), uid.as_str().unwrap_or_default());
            if uid.is_empty() {
                errors.push(Error::invalid(at, uid, "must not be empty"));
            } else if seen.contains(&uid) {
                errors.push(Error::duplicate(at, uid));
            } else {
                seen.push(uid);
            }
        }
    }
}

/// An error of the conditions, whose value upstream leaves out.
fn wrong(errors: &mut ErrorList, text: &str) {
    errors.push(Error::invalid(Path::new("status").child("conditions"), Value::Null, text));
}

/// What the end of a Job needs.
fn finished(errors: &mut ErrorList, object: &Object, old: &Object) {
    let (status, at) = (object.at("status"), Path::new("status"));
    let is = |kind: &str| condition(object, kind);
    let turned = |kind: &str| condition(object, kind) != condition(old, kind);
    let changed = |member: &str| !same(status.at(member), old.at("status").at(member));
    let (complete, failed) = (is("Complete"), is("Failed"));
    let done = complete || failed;
    let turned_done = done != (condition(old, "Complete") || condition(old, "Failed"));
    if (turned("Complete") || turned("Failed")) && complete && failed {
        wrong(errors, "cannot set Complete=True and Failed=true conditions");
    }
    if (turned("Complete") || turned("FailureTarget")) && complete && is("FailureTarget") {
        wrong(errors, "cannot set Complete=True and FailureTarget=true conditions");
    }
    let completion = at.child("completionTime");
    if (turned("Complete") || changed("completionTime")) && status.has("completionTime") && !complete {
        let text = "cannot set completionTime when there is no Complete=True condition";
        errors.push(Error::invalid(completion.clone(), status.at("completionTime").clone(), text));
    }
    if (turned("Complete") || changed("completionTime")) && !status.has("completionTime") && complete {
        errors.push(Error::required(completion.clone(), "completionTime is required for Complete jobs"));
    }
    let time = |member: &str| crate::duration::time(status.at(member));
    if (changed("startTime") || changed("completionTime"))
        && let (Some(start), Some(end)) = (time("startTime"), time("completionTime"))
        && end < start
    {
        let value = status.at("completionTime").clone();
        errors.push(Error::invalid(completion, value, "must be equal to or after `startTime`"));
    }
    if (turned("Failed") || changed("failedIndexes")) && failed && !is("FailureTarget") {
        wrong(errors, "cannot set Failed=True condition without the FailureTarget=true condition");
    }
    if (turned("Complete") || turned("SuccessCriteriaMet")) && complete && !is("SuccessCriteriaMet") {
        wrong(errors, "cannot set Complete=True condition without the SuccessCriteriaMet=true condition");
    }
    if (turned_done || changed("active")) && number(status, "active") > 0 && done {
        let text = "active>0 is invalid for finished job";
        errors.push(Error::invalid(at.child("active"), number(status, "active"), text));
    }
    let idle = object.at("spec").flag("suspend") && object.at("spec").int("completions") == Some(0);
    if (turned_done || changed("startTime")) && !idle && !status.has("startTime") && done {
        errors.push(Error::required(at.child("startTime"), "startTime is required for finished job"));
    }
    let pods = status.at("uncountedTerminatedPods");
    let some = pods.count("failed") + pods.count("succeeded") > 0;
    if (turned_done || changed("uncountedTerminatedPods")) && done && some {
        let at = at.child("uncountedTerminatedPods");
        let shown = format!("{{\"Succeeded\":{},\"Failed\":{}}}", pods.at("succeeded"), pods.at("failed"));
        errors.push(Error::invalid(at, pods.clone(), "must be empty for finished job").showing(shown));
    }
}

fn indexes(errors: &mut ErrorList, object: &Object, old: &Object) {
    let (spec, status, at) = (object.at("spec"), object.at("status"), Path::new("status"));
    let changed = |member: &str| !same(status.at(member), old.at("status").at(member));
    let (done, failed) = (status.text("completedIndexes"), status.at("failedIndexes").as_str());
    let (done_at, failed_at) = (at.child("completedIndexes"), at.child("failedIndexes"));
    let completions = spec.int("completions");
    let per_index = spec.has("backoffLimitPerIndex");
    if changed("completedIndexes")
        && let Some(most) = completions
        && let Err(problem) = intervals(done, most)
    {
        errors.push(Error::invalid(done_at.clone(), done, format!("error parsing completedIndexes: {problem}")));
    }
    if changed("failedIndexes")
        && per_index
        && let (Some(most), Some(text)) = (completions, failed)
        && let Err(problem) = intervals(text, most)
    {
        errors.push(Error::invalid(failed_at.clone(), text, format!("error parsing failedIndexes: {problem}")));
    }
    if changed("completedIndexes") && !done.is_empty() && spec.text("completionMode") != "Indexed" {
        let text = "cannot set non-empty completedIndexes when non-indexed completion mode";
        errors.push(Error::invalid(done_at, done, text));
    }
    let Some(failed) = failed else { return };
    if changed("failedIndexes") && !per_index {
        let text = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
        errors.push(Error::invalid(failed_at.clone(), failed, text));
    }
    if (changed("failedIndexes") || changed("completedIndexes"))
        && let Some(most) = completions
        && let Some(index) = overlap(done, failed, most)
    {
        let text = format!("failedIndexes and completedIndexes overlap at index: {index}");
        errors.push(Error::invalid(failed_at, failed, text));
    }
}

/// `1,3-5` as pairs of first and last, below `most` and growing (`validateIndexesFormat`).
pub(super) fn intervals(text: &str, most: i64) -> Result<Vec<(i64, i64)>, String> {
    let mut out: Vec<(i64, i64)> = Vec::new();
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (first, last) = interval(part, most)?;
        if let Some((_, before)) = out.last()
            && *before >= first
        {
            return Err(format!("non-increasing order, previous: {before}, current: {first}"));
        }
        out.push((first, last));
    }
    Ok(out)
}

/// `parseIndexInterval`.
fn interval(part: &str, most: i64) -> Result<(i64, i64), String> {
    let limits: Vec<&str> = part.split('-').collect();
    let one = |text: &str| match text.parse::<i64>() {
        Err(_) => Err(format!("cannot convert string to integer for index: {text:?}")),
        Ok(index) if index >= most => Err(format!("too large index: {text:?}")),
        Ok(index) => Ok(index),
    };
    match limits.as_slice() {
        [first] => one(first).map(|index| (index, index)),
        [first, last] => match (one(first)?, one(last)?) {
            (a, b) if a >= b => Err(format!("non-increasing order, previous: {a}, current: {b}")),
            pair => Ok(pair),
        },
        _ => Err(format!(
            "the fragment {part:?} violates the requirement that an index interval can have at most two parts separated by \
             '-'"
        )),
    }
}

/// The first index that is in both texts; what cannot be read is left out.
fn overlap(a: &str, b: &str, most: i64) -> Option<i64> {
    let read = |text: &str| text.split(',').filter_map(|part| interval(part, most).ok()).collect::<Vec<_>>();
    let (a, b) = (read(a), read(b));
    a.iter().find_map(|(x, y)| b.iter().find(|(u, v)| x <= v && u <= y).map(|(u, _)| *x.max(u)))
}

/// Conditions that exclude or need each other, changed or not.
fn together(errors: &mut ErrorList, object: &Object) {
    let is = |kind: &str| condition(object, kind);
    if is("SuccessCriteriaMet") && is("Failed") {
        wrong(errors, "cannot set SuccessCriteriaMet=True and Failed=true conditions");
    }
    if is("SuccessCriteriaMet") && is("FailureTarget") {
        wrong(errors, "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions");
    }
    if object.at("spec").has("successPolicy") && !is("SuccessCriteriaMet") && is("Complete") {
        wrong(errors, "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True");
    }
}

/// What may not go back.
fn kept(errors: &mut ErrorList, object: &Object, old: &Object) {
    let (spec, status, before, at) = (object.at("spec"), object.at("status"), old.at("status"), Path::new("status"));
    for kind in ["Failed", "Complete", "FailureTarget"] {
        if condition(old, kind) && !condition(object, kind) {
            wrong(errors, &format!("cannot disable the terminal {kind}=True condition"));
        }
    }
    let shrinks = spec.text("completionMode") == "Indexed" && spec.int("completions") == spec.int("parallelism");
    for (member, may) in [("failed", false), ("succeeded", shrinks)] {
        if !may && number(status, member) < number(before, member) {
            let text = format!("cannot decrease the {member} counter");
            errors.push(Error::invalid(at.child(member), number(status, member), text));
        }
    }
    let changed = |member: &str| before.has(member) && !same(status.at(member), before.at(member));
    if status.has("completionTime") && changed("completionTime") {
        let value = status.at("completionTime").clone();
        errors.push(Error::invalid(at.child("completionTime"), value, crate::checks::IMMUTABLE));
    }
    let resumes = condition(old, "Suspended")
        && status.list("conditions").iter().any(|c| c.text("type") == "Suspended" && c.text("status") == "False");
    if changed("startTime") && !spec.flag("suspend") && !resumes {
        let text = "field is immutable for unsuspended job once set";
        errors.push(Error::invalid(at.child("startTime"), status.at("startTime").clone(), text));
    }
    if condition(old, "SuccessCriteriaMet") && !condition(object, "SuccessCriteriaMet") {
        wrong(errors, "cannot disable the SuccessCriteriaMet=True condition");
    }
    if condition(old, "Complete") && !condition(old, "SuccessCriteriaMet") && condition(object, "SuccessCriteriaMet") {
        wrong(errors, "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_read_as_upstream_reads_them() {
        assert_eq!(intervals("0,2-3", 5), Ok(vec![(0, 0), (2, 3)]));
        assert_eq!(intervals("", 5), Ok(Vec::new()));
        assert_eq!(intervals("3,2", 5), Err("non-increasing order, previous: 3, current: 2".to_owned()));
        assert_eq!(intervals("7", 5), Err("too large index: \"7\"".to_owned()));
        assert_eq!(overlap("0-2,4", "3-4", 5), Some(4));
        assert_eq!(overlap("0", "1", 5), None);
    }
}
