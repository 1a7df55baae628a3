//! Which capabilities a container's process gets.

use crate::contract::Security;

/// By number, as `linux/capability.h` has them.
const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// containerd's `defaultUnixCaps` (`pkg/oci/spec.go`).
const DEFAULT: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// The effective capabilities of this process, which are all that a container can get.
pub fn own() -> Vec<&'static str> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bits = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = bits.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0);
    (0..NAMES.len()).filter(|bit| bits & (1 << bit) != 0).map(|bit| NAMES[bit]).collect()
}

/// The capabilities of a container, in containerd's order of rules: ALL added, ALL dropped, single ones added, single
/// ones dropped (`internal/cri/opts/spec_linux_opts.go`, `WithCapabilities`). A privileged one gets all of `own`.
pub fn resolve(security: &Security, own: &[&'static str]) -> Vec<String> {
    let all = || own.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    if security.privileged {
        return all();
    }
    let names = |list: &[String]| -> (bool, Vec<String>) {
        let upper = list.iter().map(|name| name.to_uppercase());
        let (every, single): (Vec<_>, Vec<_>) = upper.partition(|name| name == "ALL");
        let prefixed = single.into_iter().map(|name| match name.starts_with("CAP_") {
            true => name,
            false => format!("CAP_{name}"),
        });
        (!every.is_empty(), prefixed.collect())
    };
    let (add_all, add) = names(&security.add_capabilities);
    let (drop_all, drop) = names(&security.drop_capabilities);
    let mut held = match (drop_all, add_all) {
        (true, _) => Vec::new(),
        (false, true) => all(),
        (false, false) => DEFAULT.map(str::to_owned).to_vec(),
    };
    for name in add {
        if !held.contains(&name) {
            held.push(name);
        }
    }
    held.retain(|name| !drop.contains(name));
    held
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_and_drops_apply_in_order() {
        fn check(add: &[&str], drop: &[&str], expected: &[&str]) {
            let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            let security =
                Security { add_capabilities: list(add), drop_capabilities: list(drop), ..Default::default() };
            assert_eq!(resolve(&security, &["CAP_CHOWN", "CAP_NET_ADMIN"]), expected, "{add:?} {drop:?}");
        }
        check(&["net_admin"], &["ALL"], &["CAP_NET_ADMIN"]);
        check(&["ALL"], &["CHOWN"], &["CAP_NET_ADMIN"]);
        check(&["ALL"], &["ALL"], &[]);
        let mut with_admin = DEFAULT.to_vec();
        with_admin.push("CAP_SYS_ADMIN");
        check(&["SYS_ADMIN"], &[], &with_admin);
    }
}
