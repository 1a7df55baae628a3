//! Levels, versions, and the labels of namespaces that name them (`pod-security-admission/api`).

use std::collections::BTreeMap;
use std::fmt;

use api::field::{Error, ErrorList, Path};

/// From the loosest to the strictest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Privileged,
    Baseline,
    Restricted,
}

/// A minor version of Kubernetes' standards; `None` is the latest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LevelVersion {
    pub(super) level: Level,
    pub(super) version: Option<u32>,
}

impl fmt::Display for LevelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.version {
            Some(minor) => write!(f, "{level}:v1.{minor}"),
            None => write!(f, "{level}:latest"),
        }
    }
}

/// What a namespace enforces, what it notes in the audit log, and what it warns of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) enforce: LevelVersion,
    pub(super) audit: LevelVersion,
    pub(super) warn: LevelVersion,
}

impl Policy {
    /// `FullyPrivileged`: nothing is ever found.
    pub(super) fn is_open(&self) -> bool {
        [self.enforce, self.audit, self.warn].iter().all(|mode| mode.level == Level::Privileged)
    }
}

const OPEN: LevelVersion = LevelVersion { level: Level::Privileged, version: None };

fn parse_level(text: &str) -> Result<Level, &'static str> {
    match text {
        "privileged" => Ok(Level::Privileged),
        "baseline" => Ok(Level::Baseline),
        "restricted" => Ok(Level::Restricted),
        _ => Err("must be one of privileged, baseline, restricted"),
    }
}

fn parse_version(text: &str) -> Result<Option<u32>, &'static str> {
    if text == "latest" {
        return Ok(None);
    }
    let minor = text.strip_prefix("v1.").filter(|m| m.bytes().all(|b| b.is_ascii_digit()));
    let minor = minor.filter(|m| *m == "0" || !m.starts_with('0')).and_then(|m| m.parse().ok());
    minor.map(Some).ok_or("must be \"latest\" or \"v1.x\"")
}

/// A label's text, and where errors say it is.
fn label<'a>(labels: &BTreeMap<&str, &'a str>, name: &str) -> Option<(&'a str, Path)> {
    let key = format!("pod-security.kubernetes.io/{name}");
    let text = labels.get(key.as_str())?;
    Some((text, Path::new("metadata").child("labels").key(&key)))
}

/// The level that a label names, or in its place the one for labels that make no sense.
fn level(
    labels: &BTreeMap<&str, &str>,
    name: &str,
    otherwise: Level,
    errors: &mut ErrorList,
) -> Option<Result<Level, Level>> {
    let (text, path) = label(labels, name)?;
    Some(parse_level(text).map_err(|why| {
        errors.push(Error::invalid(path, text, why));
        otherwise
    }))
}

/// The version that a label names; the latest if it makes no sense.
fn version(labels: &BTreeMap<&str, &str>, name: &str, errors: &mut ErrorList) -> Option<Option<u32>> {
    let (text, path) = label(labels, name)?;
    Some(parse_version(text).unwrap_or_else(|why| {
        errors.push(Error::invalid(path, text, why));
        None
    }))
}

impl Policy {
    /// `PolicyToEvaluate`, with what is wrong with the labels. A bad level is the strictest where it is enforced and
    /// the loosest elsewhere.
    pub(super) fn of(labels: &BTreeMap<&str, &str>) -> (Self, ErrorList) {
        let mut errors = ErrorList::new();
        let mut mode = |name: &str, otherwise: Level| {
            let named = level(labels, name, otherwise, &mut errors);
            let version = version(labels, &format!("{name}-version"), &mut errors);
            let level = match named {
                Some(Ok(level) | Err(level)) => level,
                None => OPEN.level,
            };
            (named, version, LevelVersion { level, version: version.flatten() })
        };
        let (enforce_level, _, enforce) = mode("enforce", Level::Restricted);
        let (_, _, audit) = mode("audit", Level::Privileged);
        let (warn_level, warn_version, mut warn) = mode("warn", Level::Privileged);
        if warn_level.is_none() && matches!(enforce_level, Some(Ok(level)) if level > warn.level) {
            warn.level = enforce.level;
            if warn_version.is_none() {
                warn.version = enforce.version;
            }
        }
        (Self { enforce, audit, warn }, errors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_make_a_policy() {
        let check = |labels: &[(&str, &str)], enforce: &str, warn: &str, errors: usize| {
            let full: Vec<(String, &str)> =
                labels.iter().map(|(k, v)| (format!("pod-security.kubernetes.io/{k}"), *v)).collect();
            let labels = full.iter().map(|(k, v)| (k.as_str(), *v)).collect();
            let (policy, found) = Policy::of(&labels);
            assert_eq!(
                (policy.enforce.to_string(), policy.warn.to_string(), found.len()),
                (enforce.into(), warn.into(), errors)
            );
        };
        check(&[], "privileged:latest", "privileged:latest", 0);
        check(&[("enforce", "baseline")], "baseline:latest", "baseline:latest", 0);
        check(
            &[("enforce", "restricted"), ("enforce-version", "v1.24"), ("warn", "baseline")],
            "restricted:v1.24",
            "baseline:latest",
            0,
        );
        check(
            &[("enforce", "strict"), ("warn", "x"), ("warn-version", "v2")],
            "restricted:latest",
            "privileged:latest",
            3,
        );
    }
}
