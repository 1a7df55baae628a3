//! The server's own identities at admission webhooks: a kubeconfig whose users are named after the webhooks' servers
//! (apiserver `util/webhook/authentication.go` `defaultAuthenticationInfoResolver`).

use std::collections::BTreeMap;
use std::path::Path;

use crate::remote::{Identity, Kubeconfig, RemoteError};

/// Users by their names: `host:port`, `*.domain:port`, both without the port if it is 443, or `*`.
pub struct Identities {
    users: BTreeMap<String, Identity>,
    /// The user of the current context, who comes where nobody else does.
    current: Option<String>,
}

impl Identities {
    /// Reads a kubeconfig; certificates and keys are read now.
    ///
    /// # Errors
    /// [`RemoteError::File`] or [`RemoteError::Config`].
    pub fn load(path: &Path) -> Result<Self, RemoteError> {
        let config = Kubeconfig::load(path)?;
        let identity = |named: &crate::remote::Named| Ok((named.name.clone(), named.user.identity(path)?));
        let users = config.users.iter().map(identity).collect::<Result<_, RemoteError>>()?;
        Ok(Self { users, current: config.current_user().map(str::to_owned) })
    }

    /// Who comes to `host:port`.
    pub(super) fn at(&self, place: &str) -> Option<(&str, &Identity)> {
        let known = |name: &str| self.users.get_key_value(name);
        let named = |place: &str| {
            let parents = place.match_indices('.').map(|(dot, _)| format!("*{}", &place[dot..]));
            known(place).or_else(|| parents.into_iter().find_map(|name| known(&name)))
        };
        let found = named(place)
            .or_else(|| place.strip_suffix(":443").and_then(named))
            .or_else(|| known("*"))
            .or_else(|| self.current.as_deref().and_then(known));
        found.map(|(name, identity)| (name.as_str(), identity))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_named_after_servers() {
        let check = |users: &[&str], current: &str, place: &str, want: Option<&str>| {
            let identities = Identities {
                users: users.iter().map(|name| ((*name).to_owned(), Identity::default())).collect(),
                current: Some(current.to_owned()),
            };
            assert_eq!(identities.at(place).map(|(name, _)| name), want, "{place}");
        };
        let users = ["a.ns.svc", "*.ns.svc:8443", "*.svc", "*", "me"];
        check(&users, "me", "a.ns.svc:443", Some("a.ns.svc"));
        check(&users, "me", "a.ns.svc:8443", Some("*.ns.svc:8443"));
        check(&users, "me", "b.other.svc:443", Some("*.svc"));
        check(&users, "me", "b.other.svc:444", Some("*"));
        check(&["me"], "me", "x:1", Some("me"));
        check(&["b"], "me", "x:1", None);
    }

    #[test]
    fn a_kubeconfig_has_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        std::fs::write(&path, "users: [{name: '*.svc', user: {token: t}}]\ncurrent-context: ''\n").unwrap();
        let identities = Identities::load(&path).unwrap();
        assert!(identities.at("a.b.svc:443").is_some_and(|(_, identity)| identity.authorization.is_some()));
        std::fs::write(&path, "users: [{name: a, user: {client-certificate: /nothing/there}}]\n").unwrap();
        assert!(Identities::load(&path).is_err());
    }
}
