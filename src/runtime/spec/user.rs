//! Who a container's process is: users and groups of the image's own files.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use super::SpecError;
use super::oci::User;
use crate::contract::Security;

/// A passwd or group file larger than this is not believed.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// The image's account files. Absent files count as empty.
#[derive(Debug, Clone, Default)]
pub struct Accounts {
    pub passwd: String,
    pub group: String,
}

impl Accounts {
    /// Reads them below `rootfs`; a symlink is followed inside of it and never out of it.
    pub fn read(rootfs: &Path) -> io::Result<Self> {
        let root: OwnedFd = File::open(rootfs)?.into();
        Ok(Self { passwd: read_below(&root, "etc/passwd")?, group: read_below(&root, "etc/group")? })
    }

    fn users(&self) -> impl Iterator<Item = (&str, u32, u32)> {
        self.passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
            let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
            Some((name, uid, gid))
        })
    }

    fn groups(&self) -> impl Iterator<Item = (&str, u32, &str)> {
        self.group.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
            Some((name, fields.nth(1)?.parse().ok()?, fields.next().unwrap_or_default()))
        })
    }
}

fn read_below(root: &OwnedFd, path: &str) -> io::Result<String> {
    // RESOLVE_IN_ROOT makes the kernel take `root` for `/` while it follows symlinks and `..`.
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = match openat2(root, path, how) {
        Ok(descriptor) => File::from(descriptor),
        Err(nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR) => return Ok(String::new()),
        Err(errno) => return Err(errno.into()),
    };
    if !file.metadata()?.is_file() {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The user that `security` and the image's `User` ask for (containerd's `oci.WithUser`, `WithAdditionalGIDs` and
/// `WithSupplementalGroups`).
pub fn resolve(security: &Security, image_user: &str, accounts: &Accounts) -> Result<User, SpecError> {
    let wanted = match (security.run_as_user, &security.run_as_username) {
        (Some(uid), _) => uid.to_string(),
        (None, Some(name)) if !name.is_empty() => name.clone(),
        _ => image_user.to_owned(),
    };
    let wanted = if wanted.is_empty() { "0".to_owned() } else { wanted };
    let (name, group) = match wanted.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (wanted.as_str(), None),
    };
    let numeric = number(name, &wanted, "uid")?;
    let known = match numeric {
        Some(uid) => accounts.users().find(|user| user.1 == uid),
        None => accounts.users().find(|user| user.0 == name),
    };
    let uid = match (numeric, known) {
        (Some(uid), _) => uid,
        (None, Some(user)) => user.1,
        (None, None) => return Err(SpecError::UnknownUser(name.into())),
    };
    let gid = match (security.run_as_group, group) {
        (Some(gid), _) => u32::try_from(gid).map_err(|_| SpecError::InvalidUser(wanted.clone(), "gid"))?,
        (None, Some(group)) => match number(group, &wanted, "gid")? {
            Some(gid) => gid,
            None => {
                let found = accounts.groups().find(|entry| entry.0 == group);
                found.ok_or_else(|| SpecError::UnknownGroup(group.into()))?.1
            }
        },
        (None, None) => known.map_or(0, |user| user.2),
    };
    let mut groups = vec![gid];
    if !security.strict_groups {
        let member = known.map_or(if numeric.is_none() { name } else { "" }, |user| user.0);
        let listed = |members: &str| members.split(',').any(|listed| listed == member);
        groups.extend(
            accounts
                .groups()
                .filter(|(group, _, members)| !member.is_empty() && *group != member && listed(members))
                .map(|(_, gid, _)| gid),
        );
    }
    groups.extend(security.supplemental_groups.iter().filter_map(|gid| u32::try_from(*gid).ok()));
    groups.sort_unstable();
    groups.dedup();
    Ok(User { uid, gid, additional_gids: groups })
}

/// A number within what runc takes, `None` for a name.
fn number(text: &str, whole: &str, what: &'static str) -> Result<Option<u32>, SpecError> {
    match text.parse::<i64>() {
        Ok(value) if (0..=i64::from(i32::MAX)).contains(&value) => Ok(Some(value as u32)),
        Ok(_) => Err(SpecError::InvalidUser(whole.into(), what)),
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1001::/home/alice:/bin/sh\nbroken\n".into(),
            group: "root:x:0:\nalice:x:1001:\nstaff:x:50:alice,bob\naudio:x:29:bob\n".into(),
        }
    }

    #[test]
    fn users_and_groups_follow_the_image() {
        fn check(image_user: &str, change: impl Fn(&mut Security), uid: u32, gid: u32, groups: &[u32]) {
            let mut security = Security::default();
            change(&mut security);
            let user = resolve(&security, image_user, &accounts()).unwrap();
            assert_eq!((user.uid, user.gid, user.additional_gids.as_slice()), (uid, gid, groups), "{image_user}");
        }
        check("", |_| {}, 0, 0, &[0]);
        check("alice", |_| {}, 1000, 1001, &[50, 1001]);
        check("1000", |_| {}, 1000, 1001, &[50, 1001]);
        check("alice:audio", |_| {}, 1000, 29, &[29, 50]);
        check("12:34", |_| {}, 12, 34, &[34]);
        check("alice", |s| s.strict_groups = true, 1000, 1001, &[1001]);
        check("alice", |s| s.run_as_user = Some(0), 0, 0, &[0]);
        check("", |s| (s.run_as_user, s.run_as_group) = (Some(7), Some(9)), 7, 9, &[9]);
        check("", |s| s.supplemental_groups = vec![60, 5], 0, 0, &[0, 5, 60]);
    }

    #[test]
    fn unknown_names_and_large_numbers_are_refused() {
        let security = Security::default();
        for user in ["nobody", "alice:none", "4294967296", "-1"] {
            assert!(resolve(&security, user, &accounts()).is_err(), "{user}");
        }
    }

    #[test]
    fn symlinks_do_not_leave_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let etc = dir.path().join("etc");
        std::fs::create_dir(&etc).unwrap();
        std::fs::write(dir.path().join("real"), "bob:x:5:6::/:/bin/sh\n").unwrap();
        std::os::unix::fs::symlink("/../../../real", etc.join("passwd")).unwrap();
        std::os::unix::fs::symlink("/etc/shadow-of-the-host", etc.join("group")).unwrap();
        let accounts = Accounts::read(dir.path()).unwrap();
        assert_eq!(accounts.passwd, "bob:x:5:6::/:/bin/sh\n");
        assert_eq!(accounts.group, "");
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig {
            failure_persistence: None,
            ..proptest::prelude::ProptestConfig::default()
        })]
        #[test]
        fn no_accounts_panic(passwd in "([a-b#:]{0,3}:x?:[0-9-]{0,12}:[0-9]{0,12}\n|\\PC{0,8}\n){0,4}", group in "([a-b]{0,2}:x:[0-9]{0,12}:[a-b,]{0,5}\n){0,3}", user in "[a-b0-9:-]{0,14}") {
            let accounts = Accounts { passwd, group };
            let _resolved = resolve(&Security::default(), &user, &accounts);
        }
    }
}
