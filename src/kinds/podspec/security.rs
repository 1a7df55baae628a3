//! Validation of security contexts of pods and containers.

use api::field::{Error, ErrorList, Path};
use serde_json::Value;

use crate::checks::descending_path;
use crate::json::Json;
use crate::printed::Printed;

use super::windows;

/// A user or group id: 0 to 2^31-1.
fn id(errors: &mut ErrorList, path: Path, value: &Value) {
    if let Some(number) = value.as_i64()
        && !(0..=i64::from(i32::MAX)).contains(&number)
    {
        errors.push(Error::invalid(path, number, "must be between 0 and 2147483647, inclusive"));
    }
}

fn seccomp(errors: &mut ErrorList, path: &Path, profile: &Value) {
    if profile.is_null() {
        return;
    }
    match profile.text("type") {
        "Localhost" | "RuntimeDefault" | "Unconfined" => {}
        "" => errors.push(Error::required(path.child("type"), "type is required when seccompProfile is set")),
        other => {
            let supported = &["Localhost", "RuntimeDefault", "Unconfined"];
            errors.push(Error::not_supported(path.child("type"), other, supported));
        }
    }
    let at = path.child("localhostProfile");
    match (profile.text("type") == "Localhost", profile.has("localhostProfile")) {
        (true, false) => errors.push(Error::required(at, "must be set when seccomp type is Localhost")),
        (true, true) => descending_path(errors, &at, profile.text("localhostProfile")),
        (false, true) => {
            let error = Error::invalid(at, profile.clone(), "can only be set when seccomp type is Localhost");
            errors.push(error.printed("core.SeccompProfile"));
        }
        (false, false) => {}
    }
}

pub(super) fn apparmor(errors: &mut ErrorList, path: &Path, profile: &Value) {
    if profile.is_null() {
        return;
    }
    let at = path.child("localhostProfile");
    match profile.text("type") {
        "Localhost" => {
            let name = profile.text("localhostProfile");
            if name.is_empty() {
                errors.push(Error::required(at.clone(), "must be set when AppArmor type is Localhost"));
            } else if name.trim() != name {
                errors.push(Error::invalid(at.clone(), name, "must not be padded with whitespace"));
            }
            if name.len() > 4095 {
                errors.push(Error::too_long(at, 4095));
            }
        }
        "RuntimeDefault" | "Unconfined" => {
            if profile.has("localhostProfile") {
                let value = profile.text("localhostProfile");
                errors.push(Error::invalid(at, value, "can only be set when AppArmor type is Localhost"));
            }
        }
        "" => errors.push(Error::required(path.child("type"), "type is required when appArmorProfile is set")),
        other => {
            let supported = &["Localhost", "RuntimeDefault", "Unconfined"];
            errors.push(Error::not_supported(path.child("type"), other, supported));
        }
    }
}

/// `validatePodSpecSecurityContext`.
pub(crate) fn pod(errors: &mut ErrorList, path: &Path, spec: &Value) {
    let context = spec.at("securityContext");
    if context.is_null() {
        return;
    }
    for name in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(errors, path.child(name), context.at(name));
    }
    for (i, group) in context.list("supplementalGroups").iter().enumerate() {
        id(errors, path.child("supplementalGroups").index(i), group);
    }
    sysctls(errors, &path.child("sysctls"), context.list("sysctls"), spec);
    one_of_set(errors, path, context, ("fsGroupChangePolicy", &["Always", "OnRootMismatch"]));
    seccomp(errors, &path.child("seccompProfile"), context.at("seccompProfile"));
    windows::options(errors, &path.child("windowsOptions"), context.at("windowsOptions"));
    apparmor(errors, &path.child("appArmorProfile"), context.at("appArmorProfile"));
    for (name, supported) in
        [("supplementalGroupsPolicy", &["Merge", "Strict"]), ("seLinuxChangePolicy", &["MountOption", "Recursive"])]
    {
        one_of_set(errors, path, context, (name, supported));
    }
}

fn one_of_set(errors: &mut ErrorList, path: &Path, context: &Value, (name, supported): (&str, &[&str])) {
    if context.has(name) && !supported.contains(&context.text(name)) {
        errors.push(Error::not_supported(path.child(name), context.text(name), supported));
    }
}

fn sysctls(errors: &mut ErrorList, path: &Path, list: &[Value], spec: &Value) {
    let mut seen: Vec<&str> = Vec::new();
    for (i, sysctl) in list.iter().enumerate() {
        let (at, name) = (path.index(i).child("name"), sysctl.text("name"));
        if name.is_empty() {
            errors.push(Error::required(at.clone(), ""));
        } else if !is_sysctl(name) {
            let text = "must have at most 253 characters and match regex \
                ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            errors.push(Error::invalid(at.clone(), name, text));
        } else if seen.contains(&name) {
            errors.push(Error::duplicate(at.clone(), name));
        }
        let dotted = name.replace('/', ".");
        if spec.flag("hostNetwork") && dotted.starts_with("net.") {
            errors.push(Error::invalid(at, name, "may not be specified when 'hostNetwork' is true"));
        } else if spec.flag("hostIPC") && is_ipc(&dotted) {
            errors.push(Error::invalid(at, name, "may not be specified when 'hostIPC' is true"));
        }
        seen.push(name);
    }
}

fn is_ipc(name: &str) -> bool {
    matches!(name, "kernel.sem") || ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|p| name.starts_with(p))
}

fn is_sysctl(name: &str) -> bool {
    let edge = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    name.len() <= 253
        && name.split(['.', '/']).all(|part| {
            let bytes = part.as_bytes();
            bytes.first().is_some_and(edge)
                && bytes.last().is_some_and(edge)
                && bytes.iter().all(|b| edge(b) || matches!(b, b'-' | b'_'))
        })
}

/// `ValidateSecurityContext` of a container.
pub(crate) fn container(errors: &mut ErrorList, path: &Path, context: &Value, host_users: bool) {
    if context.is_null() {
        return;
    }
    for name in ["runAsUser", "runAsGroup"] {
        id(errors, path.child(name), context.at(name));
    }
    if context.has("procMount") {
        let mount = context.text("procMount");
        if !matches!(mount, "Default" | "Unmasked") {
            errors.push(Error::not_supported(path.child("procMount"), mount, &["Default", "Unmasked"]));
        }
        if host_users && mount == "Unmasked" {
            let text = "`hostUsers` must be false to use `Unmasked`";
            errors.push(Error::invalid(path.child("procMount"), mount, text));
        }
    }
    seccomp(errors, &path.child("seccompProfile"), context.at("seccompProfile"));
    if context.at("allowPrivilegeEscalation").as_bool() == Some(false) {
        if context.flag("privileged") {
            let text = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.push(Error::invalid(path.clone(), context.clone(), text).printed("core.SecurityContext"));
        }
        let added = context.at("capabilities").list("add");
        for _ in added.iter().filter(|c| c.as_str() == Some("CAP_SYS_ADMIN")) {
            let text = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.push(Error::invalid(path.clone(), context.clone(), text).printed("core.SecurityContext"));
        }
    }
    windows::options(errors, &path.child("windowsOptions"), context.at("windowsOptions"));
    apparmor(errors, &path.child("appArmorProfile"), context.at("appArmorProfile"));
}
