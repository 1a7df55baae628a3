//! Seccomp: the RuntimeDefault profile of containerd, made from a list of names, and profiles of the node.

use std::path::Path;

use serde_json::value::RawValue;

use super::SpecError;
use super::oci::{Seccomp, Syscall, SyscallArg};

const DEFAULT: &str = include_str!("seccomp.txt");
const ALLOW: &str = "SCMP_ACT_ALLOW";
const ERRNO: &str = "SCMP_ACT_ERRNO";

/// Address families below this one may be opened, all of them; those from it on only when listed.
const FIRST_UNLISTED_FAMILY: u64 = 38;
/// NFC, KCM, QIPCRTR, SMC, XDP, MCTP. Not ALG (38) and not VSOCK (40), as in containerd 2.3.
const LISTED_FAMILIES: [u64; 6] = [39, 41, 42, 43, 44, 45];
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];
/// CLONE_NEWNS | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET | NEWCGROUP.
const NEW_NAMESPACES: u64 = 0x7e02_0000;

fn only(name: &'static str, index: u32, value: u64, op: &'static str) -> Syscall {
    let args = vec![SyscallArg { index, value, value_two: 0, op }];
    Syscall { names: vec![name], action: ALLOW, errno_ret: None, args }
}

/// containerd's default profile for a process with these capabilities in its bounding set
/// (`contrib/seccomp/seccomp_default.go`, `DefaultProfile`).
pub fn default_profile(bounding: &[String]) -> Seccomp {
    let mut names = Vec::with_capacity(400);
    let mut counts = true;
    for line in DEFAULT.lines().filter(|line| !line.starts_with('#')) {
        if let Some(section) = line.strip_prefix('@') {
            counts = match section.split_once(' ') {
                Some(("arch", arch)) => arch == std::env::consts::ARCH,
                Some(("cap", wanted)) => bounding.iter().any(|capability| capability == wanted),
                _ => false,
            };
        } else if counts {
            names.push(line);
        }
    }
    let mut syscalls = vec![Syscall { names, action: ALLOW, errno_ret: None, args: Vec::new() }];
    syscalls.push(only("socket", 0, FIRST_UNLISTED_FAMILY, "SCMP_CMP_LT"));
    syscalls.extend(LISTED_FAMILIES.map(|family| only("socket", 0, family, "SCMP_CMP_EQ")));
    syscalls.extend(PERSONALITIES.map(|persona| only("personality", 0, persona, "SCMP_CMP_EQ")));
    if !bounding.iter().any(|capability| capability == "CAP_SYS_ADMIN") {
        syscalls.push(only("clone", 0, NEW_NAMESPACES, "SCMP_CMP_MASKED_EQ"));
        // ENOSYS makes C libraries fall back to clone, whose flags can be looked at.
        let errno_ret = Some(libc::ENOSYS as u32);
        syscalls.push(Syscall { names: vec!["clone3"], action: ERRNO, errno_ret, args: Vec::new() });
    }
    let architectures = match std::env::consts::ARCH {
        "x86_64" => vec!["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "aarch64" => vec!["SCMP_ARCH_ARM", "SCMP_ARCH_AARCH64"],
        "riscv64" => vec!["SCMP_ARCH_RISCV64"],
        _ => Vec::new(),
    };
    Seccomp { default_action: ERRNO, architectures, syscalls }
}

/// A profile from a file of the node, passed on as it is.
pub fn load(path: &Path) -> Result<Box<RawValue>, SpecError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| SpecError::SeccompProfile { path: path.into(), source: source.into() })?;
    RawValue::from_string(text).map_err(|source| SpecError::SeccompProfile { path: path.into(), source: source.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(profile: &Seccomp, name: &str) -> bool {
        profile.syscalls.iter().any(|rule| rule.action == ALLOW && rule.args.is_empty() && rule.names.contains(&name))
    }

    #[test]
    fn capabilities_open_their_syscalls() {
        let plain = default_profile(&["CAP_CHOWN".into()]);
        assert!(allows(&plain, "read") && !allows(&plain, "mount") && !allows(&plain, "unshare"));
        assert!(plain.syscalls.iter().any(|rule| rule.names == ["clone3"] && rule.action == ERRNO));
        let admin = default_profile(&["CAP_SYS_ADMIN".into()]);
        assert!(allows(&admin, "mount") && allows(&admin, "clone3") && !allows(&admin, "reboot"));
    }
}
