//! What counts in namespaces without labels, and who is let off (`pod-security-admission/admission/api`).

use api::field::{Error, ErrorList, Path};
use api::validation::{dns1123_label, dns1123_subdomain};
use serde::Deserialize;
use serde_json::Value;

use super::policy::{Level, LevelVersion, Policy, parse_level, parse_version};
use crate::configuration::{Kind, decode, go_list};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct File {
    defaults: Defaults,
    exemptions: Exemptions,
}

impl Kind for File {
    const NAMES: &'static [(&'static str, &'static str)] = &[
        ("pod-security.admission.config.k8s.io/v1", "PodSecurityConfiguration"),
        ("pod-security.admission.config.k8s.io/v1beta1", "PodSecurityConfiguration"),
        ("pod-security.admission.config.k8s.io/v1alpha1", "PodSecurityConfiguration"),
    ];
    const STRICT: bool = true;
    const MEMBERS: &'static [&'static str] = &["defaults", "exemptions"];
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Defaults {
    enforce: String,
    enforce_version: String,
    audit: String,
    audit_version: String,
    warn: String,
    warn_version: String,
}

/// Whose pods are not looked at.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Exemptions {
    pub(super) usernames: Vec<String>,
    pub(super) namespaces: Vec<String>,
    pub(super) runtime_classes: Vec<String>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Configuration {
    pub(super) defaults: Policy,
    pub(super) exemptions: Exemptions,
}

impl Configuration {
    /// Reads what the configuration file says.
    pub(crate) fn read(document: Option<&Value>) -> Result<Self, String> {
        let Some(document) = document else { return Ok(Self::default()) };
        let file: File = decode(document)?;
        let mut errors = ErrorList::new();
        let said = &file.defaults;
        let defaults = Policy {
            enforce: mode("enforce", &said.enforce, &said.enforce_version, &mut errors),
            warn: mode("warn", &said.warn, &said.warn_version, &mut errors),
            audit: mode("audit", &said.audit, &said.audit_version, &mut errors),
        };
        let Exemptions { usernames, namespaces, runtime_classes } = &file.exemptions;
        unique("namespaces", namespaces, |name| dns1123_label(name, false), &mut errors);
        unique("runtimeClasses", runtime_classes, |name| dns1123_subdomain(name, false), &mut errors);
        let named = |name: &str| match name {
            "" => vec!["username must not be empty".to_owned()],
            _ => Vec::new(),
        };
        unique("usernames", usernames, named, &mut errors);
        if errors.is_empty() { Ok(Self { defaults, exemptions: file.exemptions }) } else { Err(go_list(&errors)) }
    }
}

fn mode(name: &str, level: &str, version: &str, errors: &mut ErrorList) -> LevelVersion {
    let path = |name: &str| Path::new("defaults").child(name);
    let level = match level {
        "" => Level::Privileged,
        text => parse_level(text).unwrap_or_else(|why| {
            errors.push(Error::invalid(path(name), text, why));
            Level::Restricted
        }),
    };
    let version = match version {
        "" => None,
        text => parse_version(text).unwrap_or_else(|why| {
            errors.push(Error::invalid(path(&format!("{name}-version")), text, why));
            None
        }),
    };
    LevelVersion { level, version }
}

fn unique(list: &str, names: &[String], check: impl Fn(&str) -> Vec<String>, errors: &mut ErrorList) {
    let path = Path::new("exemptions").child(list);
    for (index, name) in names.iter().enumerate() {
        let wrong = check(name);
        if !wrong.is_empty() {
            errors.push(Error::invalid(path.index(index), name.as_str(), wrong.join(", ")));
        } else if names[..index].contains(name) {
            errors.push(Error::duplicate(path.index(index), name.as_str()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(mut members: Value) -> Result<Configuration, String> {
        members["apiVersion"] = "pod-security.admission.config.k8s.io/v1".into();
        members["kind"] = "PodSecurityConfiguration".into();
        Configuration::read(Some(&members))
    }

    #[test]
    fn what_is_not_said_is_open() {
        let found = read(json!({"defaults": {"enforce": "baseline", "enforce-version": "v1.30"}})).unwrap();
        assert_eq!(found.defaults.enforce.to_string(), "baseline:v1.30");
        assert_eq!(found.defaults.warn.to_string(), "privileged:latest");
        assert_eq!(Configuration::read(None).unwrap().defaults, Policy::default());
    }

    #[test]
    fn mistakes_are_named() {
        let why = |members| read(members).unwrap_err();
        assert_eq!(
            why(json!({"defaults": {"warn": "loose"}})),
            "defaults.warn: Invalid value: \"loose\": must be one of privileged, baseline, restricted"
        );
        assert_eq!(
            why(json!({"exemptions": {"usernames": ["a", "", "a"]}})),
            "[exemptions.usernames[1]: Invalid value: \"\": username must not be empty, exemptions.usernames[2]: Duplicate \
             value: \"a\"]"
        );
        assert!(why(json!({"exemption": {}})).contains("unknown field \"exemption\""));
    }
}
