//! CronJobs.

use api::Object;
use api::field::{Error, ErrorList, Path};
use serde_json::Value;

use crate::checks::{non_negative, one_of};
use crate::columns::{age, column, container_images, container_names, name, selector, string, string_or, text, wide};
use crate::define::Extra;
use crate::duration::since;
use crate::json::{Json, dig, existing, existing_at, fill};
use crate::podspec::warnings;
use crate::printed::{LABEL_SELECTOR, Printed};
use crate::rules::Rules;

use super::job;

pub(super) fn extra() -> Extra {
    let rules = Rules {
        default,
        validate: |object| {
            let mut errors = ErrorList::new();
            spec(&mut errors, &Path::new("spec"), object.at("spec"));
            // The controller adds 11 characters to make a Job's name of at most 63.
            if object.name().len() > 52 {
                let at = Path::new("metadata").child("name");
                errors.push(Error::invalid(at, object.name(), "must be no more than 52 characters"));
            }
            errors
        },
        validate_update: Some(|object, _| {
            let mut errors = ErrorList::new();
            spec(&mut errors, &Path::new("spec"), object.at("spec"));
            errors
        }),
        warnings: |object, old| {
            let mut out = warnings::host_name(object, old);
            out.extend(warnings::template(object, old, &["spec", "jobTemplate", "spec", "template"]));
            if old.is_some() && object.at("spec").text("schedule").contains("TZ") {
                out.push(
                    "cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see https://kubernetes.io/docs/\
                     concepts/workloads/controllers/cron-jobs/ for more details"
                        .to_owned(),
                );
            }
            out
        },
        ..Rules::GENERIC
    };
    const POD: [&str; 5] = ["spec", "jobTemplate", "spec", "template", "spec"];
    let columns = vec![
        name(),
        text("Schedule", |o, _| string(o, &["spec", "schedule"])),
        text("Timezone", |o, _| string_or(o, &["spec", "timeZone"], "<none>")),
        column("Suspend", "boolean", "", "", 0, |o, _| match dig(o, &["spec", "suspend"]).as_bool() {
            None => "<unset>".into(),
            Some(true) => "True".into(),
            Some(false) => "False".into(),
        }),
        column("Active", "integer", "", "", 0, |o, _| o.at("status").count("active").into()),
        text("Last Schedule", |o, now| match dig(o, &["status", "lastScheduleTime"]) {
            Value::Null => "<none>".into(),
            time => since(time, now).into(),
        }),
        age(),
        wide("Containers", |o, _| container_names(dig(o, &POD))),
        wide("Images", |o, _| container_images(dig(o, &POD))),
        wide("Selector", |o, _| selector(dig(o, &["spec", "jobTemplate", "spec", "selector"]))),
    ];
    Extra::new(rules, columns).with_generation()
}

/// `SetDefaults_CronJob`.
fn default(object: &mut Object) {
    let Some(spec) = existing(&mut object.0, "spec") else { return };
    fill(spec, "concurrencyPolicy", "Allow");
    fill(spec, "suspend", false);
    fill(spec, "successfulJobsHistoryLimit", 3);
    fill(spec, "failedJobsHistoryLimit", 1);
    if let Some(spec) = existing_at(spec, &["jobTemplate", "spec"]) {
        job::spec_defaults(spec);
    }
}

/// `validateCronJobSpec`.
fn spec(errors: &mut ErrorList, at: &Path, spec: &Value) {
    let schedule = spec.text("schedule");
    let field = at.child("schedule");
    // Of none declarative validation speaks, last.
    let missing = schedule.is_empty().then(|| Error::required(field.clone(), ""));
    if schedule.contains("TZ") {
        let text = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
        errors.push(Error::invalid(field, schedule, text));
    } else if let Err(text) = cron(schedule)
        && missing.is_none()
    {
        errors.push(Error::invalid(field, schedule, text));
    }
    non_negative(errors, at.child("startingDeadlineSeconds"), spec.at("startingDeadlineSeconds"));
    if spec.has("timeZone") {
        time_zone(errors, &at.child("timeZone"), spec.text("timeZone"));
    }
    one_of(errors, at.child("concurrencyPolicy"), spec.text("concurrencyPolicy"), &["Allow", "Forbid", "Replace"]);
    job_template(errors, &at.child("jobTemplate").child("spec"), spec.at("jobTemplate").at("spec"));
    for member in ["successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        non_negative(errors, at.child(member), spec.at(member));
    }
    errors.extend(missing);
}

fn job_template(errors: &mut ErrorList, at: &Path, spec: &Value) {
    job::template_spec(errors, at, spec);
    // A Job's selector is made for each Job.
    if spec.has("selector") {
        let value = spec.at("selector").clone();
        let error = Error::invalid(at.child("selector"), value, "`selector` will be auto-generated");
        errors.push(error.printed(LABEL_SELECTOR));
    }
    if spec.flag("manualSelector") {
        errors.push(Error::not_supported(at.child("manualSelector"), true, &["nil", "false"]));
    }
}

fn time_zone(errors: &mut ErrorList, at: &Path, zone: &str) {
    if zone.is_empty() {
        errors.push(Error::invalid(at.clone(), zone, "timeZone must be nil or non-empty string"));
    } else if zone.eq_ignore_ascii_case("local") {
        errors.push(Error::invalid(
            at.clone(),
            zone,
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
        ));
    } else if jiff::tz::TimeZone::get(zone).is_err() {
        errors.push(Error::invalid(at.clone(), zone, format!("unknown time zone {zone}")));
    }
}

/// Whether a schedule is one, with the texts of upstream's parser (robfig/cron `ParseStandard`).
fn cron(schedule: &str) -> Result<(), String> {
    if let Some(descriptor) = schedule.strip_prefix('@') {
        return match descriptor {
            "yearly" | "annually" | "monthly" | "weekly" | "daily" | "midnight" | "hourly" => Ok(()),
            _ if descriptor.starts_with("every ") && descriptor.len() > 7 => Ok(()),
            _ => Err(format!("unrecognized descriptor: {schedule}")),
        };
    }
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    if fields.len() != 5 {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
    let bounds: [(u32, u32, &[&str]); 5] = [(0, 59, &[]), (0, 23, &[]), (1, 31, &[]), (1, 12, MONTHS), (0, 6, DAYS)];
    for (field, (low, high, names)) in fields.iter().zip(bounds) {
        for part in field.split(',') {
            range(part, low, high, names)?;
        }
    }
    Ok(())
}

fn range(part: &str, low: u32, high: u32, names: &[&str]) -> Result<(), String> {
    let (span, step) = match part.split_once('/') {
        None => (part, None),
        Some((span, step)) => (span, Some(step)),
    };
    let number = |text: &str| -> Result<u32, String> {
        let name = names.iter().position(|n| n.eq_ignore_ascii_case(text));
        if let Some(at) = name.and_then(|at| u32::try_from(at).ok()) {
            return Ok(at + low);
        }
        text.parse()
            .map_err(|_| format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax"))
    };
    if let Some(step) = step
        && number(step)? == 0
    {
        return Err(format!("step of range should be a positive number: {part}"));
    }
    if matches!(span, "*" | "?") {
        return Ok(());
    }
    let (start, end) = match span.split_once('-') {
        None => (number(span)?, number(span)?),
        Some((start, end)) => (number(start)?, number(end)?),
    };
    if start < low {
        return Err(format!("beginning of range ({start}) below minimum ({low}): {part}"));
    }
    if end > high {
        return Err(format!("end of range ({end}) above maximum ({high}): {part}"));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {part}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_checked() {
        for good in ["* * * * *", "*/5 0-3 1,15 jan-mar mon", "@hourly", "@every 1h", "0 0 ? * 5"] {
            assert_eq!(cron(good), Ok(()), "{good}");
        }
        assert_eq!(cron("* * * *").unwrap_err(), "expected exactly 5 fields, found 4: [* * * *]");
        assert_eq!(cron("60 * * * *").unwrap_err(), "end of range (60) above maximum (59): 60");
        for bad in ["@never", "x * * * *", "*/0 * * * *", "5-3 * * * *"] {
            assert!(cron(bad).is_err(), "{bad}");
        }
    }
}
