//! What a container may do: pod and container security contexts put together (upstream
//! `pkg/securitycontext`, `kuberuntime/security_context.go`).

use std::path::Path;

use k8s_openapi::api::core::v1::{Container, Pod, SeccompProfile, SecurityContext};
use runtime::{Image, Seccomp, Security};

use crate::config::KubeletConfig;
use crate::spec;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SecurityError {
    #[error("container's runAsUser breaks non-root policy (pod: {pod:?}, container: {container})")]
    RunsAsRoot { pod: String, container: String },
    #[error("container has runAsNonRoot and image will run as root (pod: {pod:?}, container: {container})")]
    ImageRunsAsRoot { pod: String, container: String },
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root \
         (pod: {pod:?}, container: {container})"
    )]
    NamedUser { user: String, pod: String, container: String },
    #[error("{0:?} not allowlisted")]
    Sysctl(String),
}

/// The container's rights.
pub fn of(config: &KubeletConfig, pod: &Pod, container: &Container, image: &Image) -> Result<Security, SecurityError> {
    let pod_context = spec::spec(pod).security_context.clone().unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let run_as_user = own.run_as_user.or(pod_context.run_as_user);
    let non_root = own.run_as_non_root.or(pod_context.run_as_non_root) == Some(true);
    let (image_uid, image_name) = image_user(&image.user);
    if non_root {
        verify_non_root(pod, container, run_as_user, image_uid, &image_name)?;
    }
    let mut groups = pod_context.supplemental_groups.clone().unwrap_or_default();
    groups.extend(pod_context.fs_group);
    let privileged = own.privileged == Some(true);
    let capabilities = own.capabilities.clone().unwrap_or_default();
    Ok(Security {
        privileged,
        run_as_user,
        run_as_group: own.run_as_group.or(pod_context.run_as_group),
        run_as_username: if run_as_user.is_none() && !image.user.is_empty() { Some(image.user.clone()) } else { None },
        supplemental_groups: groups,
        strict_groups: pod_context.supplemental_groups_policy.as_deref() == Some("Strict"),
        add_capabilities: capabilities.add.unwrap_or_default(),
        drop_capabilities: capabilities.drop.unwrap_or_default(),
        read_only_rootfs: own.read_only_root_filesystem == Some(true),
        no_new_privileges: own.allow_privilege_escalation == Some(false),
        seccomp: seccomp(config, &own, pod_context.seccomp_profile.as_ref(), privileged),
        unmasked_proc: own.proc_mount.as_deref() == Some("Unmasked"),
    })
}

/// The image's user as a number, or as a name. An image without one runs as root.
fn image_user(user: &str) -> (Option<i64>, String) {
    let name = user.split(':').next().unwrap_or_default();
    match name.parse() {
        Ok(uid) => (Some(uid), String::new()),
        Err(_) if name.is_empty() => (Some(0), String::new()),
        Err(_) => (None, name.to_owned()),
    }
}

/// Upstream `verifyRunAsNonRoot`.
fn verify_non_root(
    pod: &Pod,
    container: &Container,
    run_as_user: Option<i64>,
    image_uid: Option<i64>,
    image_name: &str,
) -> Result<(), SecurityError> {
    let (pod, container) = (spec::full_name(pod), container.name.clone());
    match (run_as_user, image_uid) {
        (Some(0), _) => Err(SecurityError::RunsAsRoot { pod, container }),
        (Some(_), _) => Ok(()),
        (None, Some(0)) => Err(SecurityError::ImageRunsAsRoot { pod, container }),
        (None, Some(_)) => Ok(()),
        (None, None) => Err(SecurityError::NamedUser { user: image_name.to_owned(), pod, container }),
    }
}

fn seccomp(
    config: &KubeletConfig,
    own: &SecurityContext,
    pod_profile: Option<&SeccompProfile>,
    privileged: bool,
) -> Seccomp {
    if privileged {
        return Seccomp::Unconfined;
    }
    match own.seccomp_profile.as_ref().or(pod_profile) {
        Some(profile) => match profile.type_.as_str() {
            "RuntimeDefault" => Seccomp::RuntimeDefault,
            "Localhost" => {
                let name = profile.localhost_profile.as_deref().unwrap_or_default();
                Seccomp::Localhost(config.root_dir.join("seccomp").join(Path::new(name)))
            }
            _ => Seccomp::Unconfined,
        },
        None if config.seccomp_default => Seccomp::RuntimeDefault,
        None => Seccomp::Unconfined,
    }
}

/// Sysctls that are namespaced and safe for every pod (upstream `sysctl/safe_sysctls.go`).
const SAFE_SYSCTLS: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// Whether the node lets pods set all of the pod's sysctls; otherwise it rejects the pod (`SysctlForbidden`).
pub fn check_sysctls(config: &KubeletConfig, pod: &Pod) -> Result<(), SecurityError> {
    let context = spec::spec(pod).security_context.as_ref();
    for sysctl in context.and_then(|c| c.sysctls.as_ref()).into_iter().flatten() {
        let name = sysctl.name.replace('/', ".");
        let allowed = SAFE_SYSCTLS.contains(&name.as_str())
            || config.allowed_unsafe_sysctls.iter().any(|pattern| match pattern.strip_suffix('*') {
                Some(prefix) => name.starts_with(prefix),
                None => *pattern == name,
            });
        if !allowed {
            return Err(SecurityError::Sysctl(sysctl.name.clone()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod_from;
    use serde_json::json;

    #[test]
    fn non_root_is_verified_with_upstreams_texts() {
        let check = |context: serde_json::Value, user: &str, expected: Option<&str>| {
            let pod = pod_from(json!({"metadata": {"name": "p", "uid": "u"}, "spec": {"containers": [
                {"name": "c", "securityContext": context}]}}));
            let config = KubeletConfig::new("n", [127, 0, 0, 1].into(), "/k".into(), "/l".into());
            let image = Image { user: user.into(), ..Image::default() };
            let result = of(&config, &pod, &spec::containers(&pod)[0], &image);
            assert_eq!(result.err().map(|e| e.to_string()).as_deref(), expected, "{context} {user}");
        };
        let yes = json!({"runAsNonRoot": true});
        check(json!({}), "", None);
        check(yes.clone(), "1000:1000", None);
        check(
            yes.clone(),
            "",
            Some("container has runAsNonRoot and image will run as root (pod: \"p_default(u)\", container: c)"),
        );
        check(
            yes,
            "nginx",
            Some(
                "container has runAsNonRoot and image has non-numeric user (nginx), cannot verify \
            user is non-root (pod: \"p_default(u)\", container: c)",
            ),
        );
        check(
            json!({"runAsNonRoot": true, "runAsUser": 0}),
            "1",
            Some("container's runAsUser breaks non-root policy (pod: \"p_default(u)\", container: c)"),
        );
    }
}
