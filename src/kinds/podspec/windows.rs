//! Windows: options of security contexts, HostProcess pods, and what pods of one system may not say of the other.

use api::field::{Error, ErrorList, Path};
use serde_json::Value;

use crate::checks::subdomain;
use crate::json::Json;

const SPEC_KIB_MAX: usize = 64;
const DOMAIN_MAX: usize = 256;
const USER_MAX: usize = 104;

/// `validateWindowsSecurityContextOptions`.
pub(crate) fn options(errors: &mut ErrorList, path: &Path, options: &Value) {
    if options.has("gmsaCredentialSpecName") {
        subdomain(errors, &path.child("gmsaCredentialSpecName"), options.text("gmsaCredentialSpecName"));
    }
    if options.has("gmsaCredentialSpec") {
        let (at, text) = (path.child("gmsaCredentialSpec"), options.text("gmsaCredentialSpec"));
        if text.is_empty() {
            errors.push(Error::invalid(at, text, "gmsaCredentialSpec cannot be an empty string"));
        } else if text.len() > SPEC_KIB_MAX * 1024 {
            let why = format!("gmsaCredentialSpec size must be under {SPEC_KIB_MAX} KiB");
            errors.push(Error::invalid(at, text, why));
        }
    }
    if options.has("runAsUserName") {
        user_name(errors, &path.child("runAsUserName"), options.text("runAsUserName"));
    }
}

/// `DOMAIN\USER`, of which the domain may be left out.
fn user_name(errors: &mut ErrorList, at: &Path, name: &str) {
    let mut bad = |text: String| errors.push(Error::invalid(at.clone(), name, text));
    if name.is_empty() {
        return bad("runAsUserName cannot be an empty string".to_owned());
    }
    if name.chars().any(|c| c.is_ascii_control()) {
        return bad("runAsUserName cannot contain control characters".to_owned());
    }
    let (domain, user) = match name.split('\\').collect::<Vec<_>>().as_slice() {
        [user] => (None, *user),
        [domain, user] => (Some(*domain), *user),
        _ => return bad("runAsUserName cannot contain more than one backslash".to_owned()),
    };
    if let Some(domain) = domain {
        if domain.len() >= DOMAIN_MAX {
            bad(format!("runAsUserName's Domain length must be under {DOMAIN_MAX} characters"));
        }
        if !is_net_bios(domain) && !is_dns(domain) {
            bad("runAsUserName's Domain doesn't match the NetBios nor the DNS format".to_owned());
        }
    }
    if user.is_empty() {
        bad("runAsUserName's User cannot be empty".to_owned());
    } else if user.len() > USER_MAX {
        bad(format!("runAsUserName's User length must not be longer than {USER_MAX} characters"));
    }
    if !user.is_empty() && user.chars().all(|c| matches!(c, '.' | ' ')) {
        bad("runAsUserName's User cannot contain only periods or spaces".to_owned());
    }
    if user.contains(['"', '/', '\\', ':', ';', '|', '=', ',', '+', '*', '?', '<', '>', '@', '[', ']']) {
        bad("runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]".to_owned());
    }
}

/// One to fifteen characters, the first no dot.
fn is_net_bios(domain: &str) -> bool {
    (1..=15).contains(&domain.chars().count())
        && !domain.starts_with('.')
        && !domain.contains(['\\', '/', ':', '*', '?', '"', '<', '>', '|'])
}

fn is_dns(domain: &str) -> bool {
    let plain = |b: &u8| b.is_ascii_alphanumeric();
    domain.split('.').all(|label| {
        let bytes = label.as_bytes();
        (1..=63).contains(&bytes.len())
            && bytes.first().is_some_and(plain)
            && bytes.last().is_some_and(plain)
            && bytes.iter().all(|b| plain(b) || *b == b'-')
    })
}

/// `validateWindowsHostProcessPod`: all containers are HostProcess containers or none is.
pub(crate) fn host_process(errors: &mut ErrorList, path: &Path, spec: &Value) {
    let of = |context: &Value| context.at("windowsOptions").at("hostProcess").as_bool();
    let pods = of(spec.at("securityContext"));
    let (mut all, mut hosts) = (0, 0);
    for (at, container) in super::containers_at(path, spec) {
        all += 1;
        let own = of(container.at("securityContext"));
        if let (Some(pods), Some(own)) = (pods, own)
            && pods != own
        {
            let at = at.child("securityContext").child("windowsOptions").child("hostProcess");
            let text = format!("pod hostProcess value must be identical if both are specified, was {pods}");
            errors.push(Error::invalid(at, own, text));
        }
        hosts += usize::from(own.or(pods) == Some(true));
    }
    if hosts == 0 {
        return;
    }
    if hosts != all {
        let text = "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        errors.push(Error::invalid(path.clone(), "", text));
    }
    if !spec.flag("hostNetwork") {
        let text = "hostNetwork must be true if pod contains any hostProcess containers";
        errors.push(Error::invalid(path.child("hostNetwork"), false, text));
    }
}

/// `validateOS`, `validateLinux` and `validateWindows`.
pub(crate) fn system(errors: &mut ErrorList, path: &Path, spec: &Value) {
    if !spec.has("os") {
        return;
    }
    match spec.at("os").text("name") {
        "" => errors.push(Error::required(path.child("os").child("name"), "")),
        "linux" => linux(errors, path, spec),
        "windows" => windows(errors, path, spec),
        other => errors.push(Error::not_supported(path.child("os"), other, &["linux", "windows"])),
    }
}

fn linux(errors: &mut ErrorList, path: &Path, spec: &Value) {
    let contexts = std::iter::once((path.clone(), spec)).chain(super::containers_at(path, spec));
    for (at, of) in contexts {
        if of.at("securityContext").has("windowsOptions") {
            let at = at.child("securityContext").child("windowsOptions");
            errors.push(Error::forbidden(at, "windows options cannot be set for a linux pod"));
        }
    }
}

/// What only Linux has, of a pod's security context and of a container's. An empty list is something; of system controls
/// it is not.
const OF_PODS: [&str; 11] = [
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "fsGroup",
    "fsGroupChangePolicy",
    "sysctls",
    "runAsUser",
    "runAsGroup",
    "supplementalGroups",
    "supplementalGroupsPolicy",
    "seLinuxChangePolicy",
];
const OF_CONTAINERS: [&str; 10] = [
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
];

fn windows(errors: &mut ErrorList, path: &Path, spec: &Value) {
    let mut refuse = |at: Path| errors.push(Error::forbidden(at, "cannot be set for a windows pod"));
    let context = spec.at("securityContext");
    for name in OF_PODS {
        if context.has(name) && (name != "sysctls" || context.count(name) > 0) {
            refuse(path.child("securityContext").child(name));
        }
    }
    for name in ["hostUsers", "hostPID", "hostIPC", "shareProcessNamespace"] {
        if spec.has(name) && (!matches!(name, "hostPID" | "hostIPC") || spec.flag(name)) {
            refuse(path.child(name));
        }
    }
    for (at, container) in super::containers_at(path, spec) {
        for name in OF_CONTAINERS.into_iter().filter(|name| container.at("securityContext").has(name)) {
            refuse(at.child("securityContext").child(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(check: impl FnOnce(&mut ErrorList)) -> Vec<String> {
        let mut errors = ErrorList::new();
        check(&mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn user_names_have_a_domain_or_none() {
        let check = |name: &str, ok: bool| {
            let found = told(|errors| options(errors, &Path::new("o"), &json!({ "runAsUserName": name })));
            assert_eq!(found.is_empty(), ok, "{name}: {found:?}");
        };
        check("ContainerUser", true);
        check("NT AUTHORITY\\SYSTEM", true);
        check("example.com\\u", true);
        check("", false);
        check("a\\b\\c", false);
        check(".a\\u", false);
        check("d\\", false);
        check("a:b", false);
        check(" .", false);
        check("a\tb", false);
    }

    #[test]
    fn host_processes_are_all_or_none() {
        let check = |spec: Value, want: usize| {
            assert_eq!(told(|errors| host_process(errors, &Path::new("spec"), &spec)).len(), want, "{spec}");
        };
        let (host, other) = (json!({"securityContext": {"windowsOptions": {"hostProcess": true}}}), json!({}));
        check(json!({"containers": [other]}), 0);
        check(json!({"containers": [host], "hostNetwork": true}), 0);
        check(json!({"containers": [host]}), 1);
        check(json!({"containers": [host, other]}), 2);
        check(
            json!({"containers": [host], "hostNetwork": true, "securityContext": {"windowsOptions": {"hostProcess": false}}}),
            1,
        );
    }

    #[test]
    fn each_system_has_its_own_fields() {
        let check = |spec: Value, want: usize| {
            assert_eq!(told(|errors| system(errors, &Path::new("spec"), &spec)).len(), want, "{spec}");
        };
        let both = |os: &str| {
            json!({"os": {"name": os}, "hostPID": true, "securityContext": {"windowsOptions": {}, "fsGroup": 1, "sysctls": []},
                "containers": [{"securityContext": {"windowsOptions": {}, "privileged": false}}]})
        };
        check(both("linux"), 2);
        check(both("windows"), 3);
        check(both("other"), 1);
        check(json!({}), 0);
    }
}
