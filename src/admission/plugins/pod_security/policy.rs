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

impl Default for Policy {
    /// What counts where nobody says anything.
    fn default() -> Self {
        Self { enforce: OPEN, audit: OPEN, warn: OPEN }
    }
}

pub(super) fn parse_level(text: &str) -> Result<Level, &'static str> {
    match text {
        "privileged" => Ok(Level::Privileged),
        "baseline" => Ok(Level::Baseline),
        "restricted" => Ok(Level::Restricted),
        _ => Err("must be one of privileged, baseline, restricted"),
    }
}

pub(super) fn parse_version(text: &str) -> Result<Option<u32>, &'static str> {
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
    /// `PolicyToEvaluate`, with what is wrong with the labels; `self` is what counts where they say nothing. A bad level
    /// is the strictest where it is enforced and the loosest elsewhere.
    pub(super) fn with_labels(&self, labels: &BTreeMap<&str, &str>) -> (Self, ErrorList) {
        let mut errors = ErrorList::new();
        let mut mode = |name: &str, otherwise: Level, default: LevelVersion| {
            let named = level(labels, name, otherwise, &mut errors);
            let version = version(labels, &format!("{name}-version"), &mut errors);
            let level = match named {
                Some(Ok(level) | Err(level)) => level,
                None => default.level,
            };
            (named, version, LevelVersion { level, version: version.unwrap_or(default.version) })
        };
        let (enforce_level, _, enforce) = mode("enforce", Level::Restricted, self.enforce);
        let (_, _, audit) = mode("audit", Level::Privileged, self.audit);
        let (warn_level, warn_version, mut warn) = mode("warn", Level::Privileged, self.warn);
        if warn_level.is_none() && matches!(enforce_level, Some(Ok(level)) if level > warn.level) {
            warn.level = enforce.level;
            if warn_version.is_none() {
                warn.version = enforce.version;
            }
        }
        (Self { enforce, audit, warn }, errors)
    }

    /// What of it is not open and stands in the labels (`exemptNamespaceWarning`).
    pub(super) fn set_by(&self, labels: &BTreeMap<&str, &str>) -> String {
        let modes = [("enforce", self.enforce), ("audit", self.audit), ("warn", self.warn)];
        let set = modes.into_iter().filter(|(name, mode)| {
            let is_set = |name: &str| label(labels, name).is_some();
            mode.level != Level::Privileged && (is_set(name) || is_set(&format!("{name}-version")))
        });
        set.map(|(name, mode)| format!("{name}={mode}")).collect::<Vec<_>>().join(", ")
    }

    /// `Equivalent`: the version of the loosest level says nothing.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let like =
            |a: LevelVersion, b: LevelVersion| a == b || (a.level == Level::Privileged && b.level == Level::Privileged);
        like(self.enforce, other.enforce) && like(self.audit, other.audit) && like(self.warn, other.warn)
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
            let (policy, found) = Policy::default().with_labels(&labels);
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

    #[test]
    fn labels_say_nothing_of_what_they_do_not_name() {
        let strict = LevelVersion { level: Level::Baseline, version: Some(30) };
        let default = Policy { enforce: strict, ..Policy::default() };
        let check = |labels: &[(&str, &str)], enforce: &str, warn: &str| {
            let (policy, _) = default.with_labels(&labels.iter().copied().collect());
            assert_eq!((policy.enforce.to_string(), policy.warn.to_string()), (enforce.into(), warn.into()));
        };
        check(&[], "baseline:v1.30", "privileged:latest");
        check(&[("pod-security.kubernetes.io/enforce", "restricted")], "restricted:v1.30", "restricted:v1.30");
        check(&[("pod-security.kubernetes.io/enforce-version", "latest")], "baseline:latest", "privileged:latest");
    }
}
