//! The checks of the pod security standards (`pod-security-admission/policy`), each as a function of the pod and the
//! minor version of the standards.

use std::collections::BTreeSet;

use api::Object;
use serde_json::Value;

use super::policy::{Level, LevelVersion};
use crate::attributes::{containers, text};

/// The newest version that differs from the one before.
const NEWEST: u32 = 37;

/// One way in which a pod violates a level.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Violation {
    pub(super) reason: &'static str,
    detail: String,
}

type Check = fn(&Object, u32) -> Option<Violation>;

/// From version, check; the order is that of upstream's identifiers.
const BASELINE: &[(&str, u32, Check)] = &[
    ("appArmorProfile", 0, app_armor),
    ("capabilities_baseline", 0, capabilities_baseline),
    ("hostNamespaces", 0, host_namespaces),
    ("hostPathVolumes", 0, host_path),
    ("hostPorts", 0, host_ports),
    ("hostProbesAndHostLifecycle", 34, host_probes),
    ("privileged", 0, privileged),
    ("procMount", 0, proc_mount_baseline),
    ("seLinuxOptions", 0, selinux),
    ("seccompProfile_baseline", 0, seccomp_baseline),
    ("sysctls", 0, sysctls),
    ("windowsHostProcess", 0, windows_host_process),
];

/// From version, check, and the baseline check that it takes the place of.
const RESTRICTED: &[(u32, Check, &str)] = &[
    (8, privilege_escalation, ""),
    (22, capabilities_restricted, "capabilities_baseline"),
    (35, proc_mount, "procMount"),
    (0, restricted_volumes, "hostPathVolumes"),
    (0, run_as_non_root, ""),
    (23, run_as_user, ""),
    (19, seccomp_restricted, "seccompProfile_baseline"),
];

/// Everything in which a pod violates a level.
pub(super) fn evaluate(policy: LevelVersion, pod: &Object) -> Vec<Violation> {
    if policy.level == Level::Privileged {
        return Vec::new();
    }
    let minor = policy.version.unwrap_or(NEWEST).min(NEWEST);
    let restricted: Vec<_> = match policy.level {
        Level::Restricted => RESTRICTED.iter().filter(|(from, ..)| *from <= minor).collect(),
        Level::Baseline | Level::Privileged => Vec::new(),
    };
    let replaced = |id: &str| restricted.iter().any(|(_, _, over)| *over == id);
    let baseline = BASELINE.iter().filter(|(id, from, _)| *from <= minor && !replaced(id)).map(|(_, _, check)| check);
    baseline.chain(restricted.iter().map(|(_, check, _)| check)).filter_map(|check| check(pod, minor)).collect()
}

/// All violations in one text.
pub(super) fn details(violations: &[Violation]) -> String {
    let texts = violations.iter().map(|v| match v.detail.as_str() {
        "" => v.reason.to_owned(),
        detail => format!("{} ({detail})", v.reason),
    });
    texts.collect::<Vec<_>>().join(", ")
}

fn violation(reason: &'static str, detail: String) -> Option<Violation> {
    Some(Violation { reason, detail })
}

fn all_containers(pod: &Object) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(|list| containers(pod, list))
}

/// A member of a container's security context by path.
fn context<'a>(container: &'a Value, path: &[&str]) -> Option<&'a Value> {
    let mut value = container.get("securityContext")?;
    for name in path {
        value = value.get(name)?;
    }
    (!value.is_null()).then_some(value)
}

/// A member of the pod's security context by path.
fn pod_context<'a>(pod: &'a Object, path: &[&str]) -> Option<&'a Value> {
    let full: Vec<&str> = ["spec", "securityContext"].iter().chain(path).copied().collect();
    pod.get(&full).filter(|v| !v.is_null())
}

fn is_windows(pod: &Object) -> bool {
    pod.str(&["spec", "os", "name"]) == Some("windows")
}

/// Pods with a user namespace of their own may do more from v1.35 on.
fn has_user_namespace(pod: &Object, minor: u32) -> bool {
    minor >= 35 && pod.bool(&["spec", "hostUsers"]) == Some(false)
}

fn plural<'a>(one: &'a str, many: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { many }
}

fn quoted<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|i| format!("\"{}\"", i.as_ref())).collect();
    items.join(", ")
}

/// `container "a"`, `containers "a", "b"`.
fn named(containers: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", containers.len()), quoted(containers))
}

/// Names of the containers for which something holds.
fn bad(pod: &Object, mut is_bad: impl FnMut(&Value) -> bool) -> Vec<&str> {
    all_containers(pod).filter(|c| is_bad(c)).map(|c| text(c, "name")).collect()
}

/// `pod`, the containers, or both.
fn setters(pod: bool, containers: &[&str]) -> Option<String> {
    match (pod, containers.is_empty()) {
        (false, true) => None,
        (true, true) => Some("pod".to_owned()),
        (false, false) => Some(named(containers)),
        (true, false) => Some(format!("pod and {}", named(containers))),
    }
}

fn app_armor(pod: &Object, _: u32) -> Option<Violation> {
    const PREFIX: &str = "container.apparmor.security.beta.kubernetes.io/";
    let mut values = BTreeSet::new();
    let mut refuse = |profile: Option<&Value>| match profile.map(|p| text(p, "type")) {
        None | Some("RuntimeDefault" | "Localhost") => false,
        Some(other) => {
            values.insert(other.to_owned());
            true
        }
    };
    let of_pod = refuse(pod_context(pod, &["appArmorProfile"]));
    let of_containers = bad(pod, |c| refuse(context(c, &["appArmorProfile"])));
    let annotations = pod.get(&["metadata", "annotations"]).and_then(Value::as_object).into_iter().flatten();
    let mut forbidden: Vec<String> = annotations
        .filter_map(|(key, value)| Some((key, value.as_str()?)))
        .filter(|(key, value)| {
            let good = value.is_empty() || *value == "runtime/default" || value.starts_with("localhost/");
            key.starts_with(PREFIX) && !good
        })
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    forbidden.sort();
    let mut who: Vec<String> = setters(of_pod, &of_containers).into_iter().collect();
    let mut what: Vec<String> = values.into_iter().collect();
    if !forbidden.is_empty() {
        who.push(plural("annotation", "annotations", forbidden.len()).to_owned());
        what.extend(forbidden);
    }
    if who.is_empty() {
        return None;
    }
    let reason = plural("forbidden AppArmor profile", "forbidden AppArmor profiles", what.len());
    violation(reason, format!("{} must not set AppArmor profile type to {}", who.join(" and "), quoted(what)))
}

/// Strings of a list in the capabilities of a container.
fn capabilities<'a>(container: &'a Value, list: &'static str) -> impl Iterator<Item = &'a str> {
    let found = context(container, &["capabilities", list]).and_then(Value::as_array);
    found.into_iter().flatten().filter_map(Value::as_str)
}

fn capabilities_baseline(pod: &Object, _: u32) -> Option<Violation> {
    const ALLOWED: &[&str] = &[
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ];
    let mut others = BTreeSet::new();
    let bad = bad(pod, |container| {
        let more: Vec<String> =
            capabilities(container, "add").filter(|c| !ALLOWED.contains(c)).map(str::to_owned).collect();
        let any = !more.is_empty();
        others.extend(more);
        any
    });
    if bad.is_empty() {
        return None;
    }
    let detail = format!("{} must not include {} in securityContext.capabilities.add", named(&bad), quoted(others));
    violation("non-default capabilities", detail)
}

fn capabilities_restricted(pod: &Object, minor: u32) -> Option<Violation> {
    if minor >= 25 && is_windows(pod) {
        return None;
    }
    let keeping = bad(pod, |c| !capabilities(c, "drop").any(|name| name == "ALL"));
    let mut others = BTreeSet::new();
    let adding = bad(pod, |container| {
        let more: Vec<String> =
            capabilities(container, "add").filter(|c| *c != "NET_BIND_SERVICE").map(str::to_owned).collect();
        let any = !more.is_empty();
        others.extend(more);
        any
    });
    let mut details = Vec::new();
    if !keeping.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", named(&keeping)));
    }
    if !adding.is_empty() {
        let more = quoted(others);
        details.push(format!("{} must not include {more} in securityContext.capabilities.add", named(&adding)));
    }
    if details.is_empty() { None } else { violation("unrestricted capabilities", details.join("; ")) }
}

fn host_namespaces(pod: &Object, _: u32) -> Option<Violation> {
    let set: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .into_iter()
        .filter(|name| pod.bool(&["spec", name]).unwrap_or_default())
        .map(|name| format!("{name}=true"))
        .collect();
    if set.is_empty() { None } else { violation("host namespaces", set.join(", ")) }
}

fn host_path(pod: &Object, _: u32) -> Option<Violation> {
    let volumes = pod.array(&["spec", "volumes"]).iter();
    let bad: Vec<&str> =
        volumes.filter(|v| v.get("hostPath").is_some_and(|h| !h.is_null())).map(|v| text(v, "name")).collect();
    if bad.is_empty() {
        return None;
    }
    violation("hostPath volumes", format!("{} {}", plural("volume", "volumes", bad.len()), quoted(&bad)))
}

fn host_ports(pod: &Object, _: u32) -> Option<Violation> {
    // As texts, in the order of texts.
    let mut ports = BTreeSet::new();
    let bad = bad(pod, |container| {
        let list = container.get("ports").and_then(Value::as_array).into_iter().flatten();
        let host: Vec<String> = list
            .filter_map(|p| p.get("hostPort")?.as_i64())
            .filter(|port| *port != 0)
            .map(|port| port.to_string())
            .collect();
        let any = !host.is_empty();
        ports.extend(host);
        any
    });
    if bad.is_empty() {
        return None;
    }
    let detail = format!(
        "{} {} {} {}",
        named(&bad),
        plural("uses", "use", bad.len()),
        plural("hostPort", "hostPorts", ports.len()),
        ports.into_iter().collect::<Vec<_>>().join(", ")
    );
    violation("hostPort", detail)
}

fn host_probes(pod: &Object, _: u32) -> Option<Violation> {
    let mut hosts = BTreeSet::new();
    let bad = bad(pod, |container| {
        let probes = ["livenessProbe", "readinessProbe", "startupProbe"].into_iter().filter_map(|n| container.get(n));
        let hooks = ["postStart", "preStop"].into_iter().filter_map(|n| container.get("lifecycle")?.get(n));
        let found: Vec<String> = probes
            .chain(hooks)
            .flat_map(|handler| ["httpGet", "tcpSocket"].map(|kind| handler.get(kind).map(|h| text(h, "host"))))
            .flatten()
            .filter(|host| !host.is_empty())
            .map(str::to_owned)
            .collect();
        let any = !found.is_empty();
        hosts.extend(found);
        any
    });
    let bad: BTreeSet<&str> = bad.into_iter().collect();
    let bad: Vec<&str> = bad.into_iter().collect();
    if bad.is_empty() {
        return None;
    }
    let detail = format!(
        "{} {} {} {}",
        named(&bad),
        plural("uses", "use", bad.len()),
        plural("probe or lifecycle host", "probe or lifecycle hosts", hosts.len()),
        quoted(hosts)
    );
    violation("probe or lifecycle host", detail)
}

fn privileged(pod: &Object, _: u32) -> Option<Violation> {
    let bad = bad(pod, |c| context(c, &["privileged"]) == Some(&Value::Bool(true)));
    if bad.is_empty() {
        return None;
    }
    violation("privileged", format!("{} must not set securityContext.privileged=true", named(&bad)))
}

fn proc_mount_baseline(pod: &Object, minor: u32) -> Option<Violation> {
    if has_user_namespace(pod, minor) { None } else { proc_mount(pod, minor) }
}

fn proc_mount(pod: &Object, _: u32) -> Option<Violation> {
    let mut kinds = BTreeSet::new();
    let bad = bad(pod, |container| match context(container, &["procMount"]).and_then(Value::as_str) {
        None | Some("Default") => false,
        Some(other) => {
            kinds.insert(other.to_owned());
            true
        }
    });
    if bad.is_empty() {
        return None;
    }
    let detail = format!("{} must not set securityContext.procMount to {}", named(&bad), quoted(kinds));
    violation("procMount", detail)
}

fn selinux(pod: &Object, minor: u32) -> Option<Violation> {
    let (mut types, mut user, mut role) = (BTreeSet::new(), false, false);
    let mut refuse = |options: Option<&Value>| {
        let Some(options) = options else { return false };
        let kind = text(options, "type");
        let good = matches!(kind, "" | "container_t" | "container_init_t" | "container_kvm_t")
            || (minor >= 31 && kind == "container_engine_t");
        if !good {
            types.insert(kind.to_owned());
        }
        let (own_user, own_role) = (!text(options, "user").is_empty(), !text(options, "role").is_empty());
        user |= own_user;
        role |= own_role;
        !good || own_user || own_role
    };
    let of_pod = refuse(pod_context(pod, &["seLinuxOptions"]));
    let of_containers = bad(pod, |c| refuse(context(c, &["seLinuxOptions"])));
    let who = setters(of_pod, &of_containers)?;
    let mut what = Vec::new();
    if !types.is_empty() {
        what.push(format!("{} {}", plural("type", "types", types.len()), quoted(types)));
    }
    if user {
        what.push("user may not be set".to_owned());
    }
    if role {
        what.push("role may not be set".to_owned());
    }
    let detail = format!("{who} set forbidden securityContext.seLinuxOptions: {}", what.join("; "));
    violation("seLinuxOptions", detail)
}

/// The pod and the containers that set a forbidden profile, as a violation.
fn bad_seccomp(pod: &Object) -> Option<Violation> {
    let mut values = BTreeSet::new();
    let mut refuse = |profile: Option<&Value>| match profile.map(|p| text(p, "type")) {
        None | Some("RuntimeDefault" | "Localhost") => false,
        Some(other) => {
            values.insert(other.to_owned());
            true
        }
    };
    let of_pod = refuse(pod_context(pod, &["seccompProfile"]));
    let of_containers = bad(pod, |c| refuse(context(c, &["seccompProfile"])));
    let who = setters(of_pod, &of_containers)?;
    let detail = format!("{who} must not set securityContext.seccompProfile.type to {}", quoted(values));
    violation("seccompProfile", detail)
}

fn seccomp_baseline(pod: &Object, minor: u32) -> Option<Violation> {
    if minor >= 19 {
        return bad_seccomp(pod);
    }
    // Before profiles had fields, annotations said them.
    let of_containers =
        all_containers(pod).map(|c| format!("container.seccomp.security.alpha.kubernetes.io/{}", text(c, "name")));
    let keys = std::iter::once("seccomp.security.alpha.kubernetes.io/pod".to_owned()).chain(of_containers);
    let forbidden: BTreeSet<String> = keys
        .filter_map(|key| {
            let value = pod.annotation(&key)?;
            let good = matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/");
            (!good).then(|| format!("{key}={value:?}"))
        })
        .collect();
    if forbidden.is_empty() {
        return None;
    }
    let word = plural("annotation", "annotations", forbidden.len());
    violation("seccompProfile", format!("forbidden {word} {}", forbidden.into_iter().collect::<Vec<_>>().join(", ")))
}

fn seccomp_restricted(pod: &Object, minor: u32) -> Option<Violation> {
    if minor >= 25 && is_windows(pod) {
        return None;
    }
    if let Some(found) = bad_seccomp(pod) {
        return Some(found);
    }
    let by_pod = pod_context(pod, &["seccompProfile"]).is_some();
    let missing = bad(pod, |c| !by_pod && context(c, &["seccompProfile"]).is_none());
    if missing.is_empty() {
        return None;
    }
    let detail = format!(
        "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
        named(&missing)
    );
    violation("seccompProfile", detail)
}

fn sysctls(pod: &Object, minor: u32) -> Option<Violation> {
    /// Name and the version that first allows it.
    const ALLOWED: &[(&str, u32)] = &[
        ("kernel.shm_rmid_forced", 0),
        ("net.ipv4.ip_local_port_range", 0),
        ("net.ipv4.tcp_syncookies", 0),
        ("net.ipv4.ping_group_range", 0),
        ("net.ipv4.ip_unprivileged_port_start", 0),
        ("net.ipv4.ip_local_reserved_ports", 27),
        ("net.ipv4.tcp_keepalive_time", 29),
        ("net.ipv4.tcp_fin_timeout", 29),
        ("net.ipv4.tcp_keepalive_intvl", 29),
        ("net.ipv4.tcp_keepalive_probes", 29),
        ("net.ipv4.tcp_rmem", 32),
        ("net.ipv4.tcp_wmem", 32),
        ("net.ipv4.tcp_slow_start_after_idle", 37),
        ("net.ipv4.tcp_notsent_lowat", 37),
    ];
    let set = pod.array(&["spec", "securityContext", "sysctls"]).iter().map(|s| text(s, "name"));
    let forbidden: Vec<&str> =
        set.filter(|name| !ALLOWED.iter().any(|(good, from)| good == name && *from <= minor)).collect();
    if forbidden.is_empty() { None } else { violation("forbidden sysctls", forbidden.join(", ")) }
}

fn windows_host_process(pod: &Object, _: u32) -> Option<Violation> {
    const PATH: &[&str] = &["windowsOptions", "hostProcess"];
    let set = |value: Option<&Value>| value == Some(&Value::Bool(true));
    let who = setters(set(pod_context(pod, PATH)), &bad(pod, |c| set(context(c, PATH))))?;
    violation("hostProcess", format!("{who} must not set securityContext.windowsOptions.hostProcess=true"))
}

fn privilege_escalation(pod: &Object, minor: u32) -> Option<Violation> {
    if minor >= 25 && is_windows(pod) {
        return None;
    }
    let bad = bad(pod, |c| context(c, &["allowPrivilegeEscalation"]) != Some(&Value::Bool(false)));
    if bad.is_empty() {
        return None;
    }
    let detail = format!("{} must set securityContext.allowPrivilegeEscalation=false", named(&bad));
    violation("allowPrivilegeEscalation != false", detail)
}

fn restricted_volumes(pod: &Object, _: u32) -> Option<Violation> {
    const ALLOWED: &[&str] = &[
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ];
    const OTHERS: &[&str] = &[
        "hostPath",
        "gcePersistentDisk",
        "awsElasticBlockStore",
        "gitRepo",
        "nfs",
        "iscsi",
        "glusterfs",
        "rbd",
        "flexVolume",
        "cinder",
        "cephfs",
        "flocker",
        "fc",
        "azureFile",
        "vsphereVolume",
        "quobyte",
        "azureDisk",
        "photonPersistentDisk",
        "portworxVolume",
        "scaleIO",
        "storageos",
    ];
    let mut kinds = BTreeSet::new();
    let mut bad = Vec::new();
    for volume in pod.array(&["spec", "volumes"]) {
        let has = |name: &&&str| volume.get(**name).is_some_and(|v| !v.is_null());
        if ALLOWED.iter().find(has).is_none() {
            bad.push(text(volume, "name"));
            kinds.insert(OTHERS.iter().find(has).copied().unwrap_or("unknown"));
        }
    }
    if bad.is_empty() {
        return None;
    }
    let detail = format!(
        "{} {} {} {} {}",
        plural("volume", "volumes", bad.len()),
        quoted(&bad),
        plural("uses", "use", bad.len()),
        plural("restricted volume type", "restricted volume types", kinds.len()),
        quoted(kinds)
    );
    violation("restricted volume types", detail)
}

fn run_as_non_root(pod: &Object, minor: u32) -> Option<Violation> {
    const REASON: &str = "runAsNonRoot != true";
    const PATH: &[&str] = &["runAsNonRoot"];
    if has_user_namespace(pod, minor) {
        return None;
    }
    let of_pod = pod_context(pod, PATH).and_then(Value::as_bool);
    let explicit = bad(pod, |c| context(c, PATH) == Some(&Value::Bool(false)));
    if let Some(who) = setters(of_pod == Some(false), &explicit) {
        return violation(REASON, format!("{who} must not set securityContext.runAsNonRoot=false"));
    }
    let implicit = bad(pod, |c| of_pod != Some(true) && context(c, PATH).is_none());
    if implicit.is_empty() {
        return None;
    }
    violation(REASON, format!("pod or {} must set securityContext.runAsNonRoot=true", named(&implicit)))
}

fn run_as_user(pod: &Object, minor: u32) -> Option<Violation> {
    if has_user_namespace(pod, minor) {
        return None;
    }
    let root = |value: Option<&Value>| value.and_then(Value::as_i64) == Some(0);
    let of_containers = bad(pod, |c| root(context(c, &["runAsUser"])));
    let who = setters(root(pod_context(pod, &["runAsUser"])), &of_containers)?;
    violation("runAsUser=0", format!("{who} must not set runAsUser=0"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(level: Level, version: Option<u32>, spec: Value, expected: &str) {
        let pod = Object::from_value(json!({"spec": spec})).unwrap();
        assert_eq!(details(&evaluate(LevelVersion { level, version }, &pod)), expected);
    }

    #[test]
    fn a_plain_pod_is_not_restricted() {
        let plain = json!({"containers": [{"name": "a"}, {"name": "b"}]});
        check(Level::Baseline, None, plain.clone(), "");
        check(
            Level::Restricted,
            None,
            plain,
            "allowPrivilegeEscalation != false (containers \"a\", \"b\" must set \
             securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (containers \"a\", \"b\" must set \
             securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or containers \"a\", \"b\" must set \
             securityContext.runAsNonRoot=true), seccompProfile (pod or containers \"a\", \"b\" must set \
             securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
        );
        let good = json!({"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "a", "securityContext": {"allowPrivilegeEscalation": false,
                "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}}],
            "volumes": [{"name": "v", "emptyDir": {}}]});
        check(Level::Restricted, None, good, "");
    }

    #[test]
    fn the_baseline_refuses_the_host() {
        let spec = json!({"hostNetwork": true, "hostPID": true, "volumes": [{"name": "v", "hostPath": {"path": "/"}}],
            "securityContext": {"sysctls": [{"name": "kernel.x"}, {"name": "net.ipv4.tcp_rmem"}]},
            "containers": [{"name": "a", "ports": [{"hostPort": 80}, {"hostPort": 443}], "securityContext":
                {"privileged": true, "procMount": "Unmasked", "capabilities": {"add": ["SYS_ADMIN", "CHOWN"]},
                "seLinuxOptions": {"type": "x", "user": "u"}, "seccompProfile": {"type": "Unconfined"}}}]});
        let text = "non-default capabilities (container \"a\" must not include \"SYS_ADMIN\" in \
             securityContext.capabilities.add), host namespaces (hostNetwork=true, hostPID=true), hostPath volumes (volume \
             \"v\"), hostPort (container \"a\" uses hostPorts 443, 80), privileged (container \"a\" must not set \
             securityContext.privileged=true), procMount (container \"a\" must not set securityContext.procMount to \
             \"Unmasked\"), seLinuxOptions (container \"a\" set forbidden securityContext.seLinuxOptions: type \"x\"; user \
             may not be set), seccompProfile (container \"a\" must not set securityContext.seccompProfile.type to \
             \"Unconfined\"), forbidden sysctls (kernel.x";
        check(Level::Baseline, None, spec.clone(), &format!("{text})"));
        check(Level::Baseline, Some(31), spec, &format!("{text}, net.ipv4.tcp_rmem)"));
    }

    #[test]
    fn restricted_checks_take_the_place_of_baseline_ones() {
        let spec = json!({"securityContext": {"runAsNonRoot": true, "runAsUser": 0,
            "seccompProfile": {"type": "RuntimeDefault"}}, "volumes": [{"name": "v", "hostPath": {}}, {"name": "w"}],
            "containers": [{"name": "a", "securityContext": {"allowPrivilegeEscalation": false,
                "capabilities": {"drop": ["ALL"], "add": ["KILL"]}}}]});
        check(
            Level::Restricted,
            None,
            spec,
            "unrestricted capabilities (container \"a\" must not include \"KILL\" in securityContext.capabilities.add), \
             restricted volume types (volumes \"v\", \"w\" use restricted volume types \"hostPath\", \"unknown\"), \
             runAsUser=0 (pod must not set runAsUser=0)",
        );
    }
}
