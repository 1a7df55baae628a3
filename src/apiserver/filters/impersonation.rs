//! `Impersonate-*` headers (apiserver `endpoints/filters/impersonation`): the modes of KEP-5284, each with a permission
//! for the user and one for what is done as that user, and after them the one permission that there has always been.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

use api::field::Path;
use api::services::AuthorizationAttributes;
use api::user::{AUTHENTICATED, MASTERS, NODES, UNAUTHENTICATED};
use api::validation::{dns1123_label, dns1123_subdomain, domain_prefixed_path};
use api::{Status, UserInfo};
use http::HeaderMap;
use http::request::Parts;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{attributes, audited, forbidden};
use crate::request::RequestInfo;
use crate::server::ApiServer;

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";
/// So many checks are first tried as one for all (`manyAuthorizationChecksInLoop`).
const MANY: usize = 4;
const AUTHENTICATION: &str = "authentication.k8s.io";

/// The user that the request acts as, after checking that `user` may impersonate it for what is asked.
pub async fn apply(
    server: &ApiServer,
    user: UserInfo,
    info: &RequestInfo,
    parts: &mut Parts,
) -> Result<UserInfo, Status> {
    let Some(wanted) = wanted(&parts.headers)? else { return Ok(user) };
    let asked = attributes(info);
    let mut first = None;
    let began = Instant::now();
    let last = server.impersonations.get(&user.name);
    for mode in last.into_iter().chain(Mode::ALL.into_iter().filter(|mode| Some(*mode) != last)) {
        match mode.check(server, &user, &wanted, &asked).await {
            Ok(Some(target)) => {
                if Some(mode) != last {
                    server.impersonations.put(&user.name, mode);
                }
                server.metrics.identities.impersonated(true, mode.name(), began.elapsed());
                if let Some(recorder) = audited::recorder() {
                    recorder.impersonated(&target, &mode.constraint());
                }
                let headers = std::mem::take(&mut parts.headers);
                let kept = headers.iter().filter(|(name, _)| !is_impersonation(name.as_str()));
                parts.headers = kept.map(|(name, value)| (name.clone(), value.clone())).collect();
                return Ok(target);
            }
            Ok(None) => {}
            Err(status) => first = first.or(Some(status)),
        }
    }
    server.metrics.identities.impersonated(false, "", began.elapsed());
    Err(first.unwrap_or_else(|| Status::internal("all impersonation modes failed")))
}

fn is_impersonation(header: &str) -> bool {
    matches!(header, USER | GROUP | UID) || header.starts_with(EXTRA)
}

/// The user that the headers name (`processImpersonationHeaders`).
fn wanted(headers: &HeaderMap) -> Result<Option<UserInfo>, Status> {
    if !headers.keys().any(|name| is_impersonation(name.as_str())) {
        return Ok(None);
    }
    let all = |name: &str| -> Vec<String> {
        headers.get_all(name).iter().filter_map(|v| v.to_str().ok().map(str::to_owned)).collect()
    };
    let one = |name: &str| all(name).into_iter().next().unwrap_or_default();
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers {
        if let (Some(key), Ok(value)) = (name.as_str().strip_prefix(EXTRA), value.to_str()) {
            extra.entry(base::percent_decode(key, false)).or_default().push(value.to_owned());
        }
    }
    let user = UserInfo { name: one(USER), uid: one(UID), groups: all(GROUP), extra };
    if !user.name.is_empty() {
        return Ok(Some(user));
    }
    if user == UserInfo::default() {
        return Ok(None);
    }
    let list =
        |values: &[String]| format!("{{{}}}", values.iter().map(|v| format!("{v:?}")).collect::<Vec<_>>().join(", "));
    let groups = if user.groups.is_empty() { "(nil)".to_owned() } else { list(&user.groups) };
    let extra = if user.extra.is_empty() {
        "(nil)".to_owned()
    } else {
        let entries = user.extra.iter().map(|(key, values)| format!("{key:?}:[]string{}", list(values)));
        format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
    };
    Err(Status::bad_request(format!(
        "requested &user.DefaultInfo{{Name:\"\", UID:{:?}, Groups:[]string{groups}, Extra:map[string][]string{extra}}} \
         without impersonating a user name",
        user.uid
    )))
}

/// The mode that each user was allowed last: it is tried first, and it is its refusal that is told (`modeIndexCache`).
#[derive(Default)]
pub(crate) struct LastModes(Mutex<HashMap<u64, Mode>>);

/// Users that are remembered; on overflow all are forgotten.
const USERS_MAX: usize = 10_000;

impl LastModes {
    /// Users whose names share a hash share the order of modes, nothing else.
    fn key(user: &str) -> u64 {
        let mut hasher = DefaultHasher::new();
        user.hash(&mut hasher);
        hasher.finish()
    }

    fn get(&self, user: &str) -> Option<Mode> {
        self.0.lock().get(&Self::key(user)).copied()
    }

    fn put(&self, user: &str, mode: Mode) {
        let mut modes = self.0.lock();
        if modes.len() >= USERS_MAX {
            modes.clear();
        }
        modes.insert(Self::key(user), mode);
    }
}

/// A way to be allowed to impersonate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// A service account as the node that its pod runs on.
    AssociatedNode,
    ArbitraryNode,
    ServiceAccount,
    UserInfo,
    Legacy,
}

impl Mode {
    /// In the order in which they are tried.
    const ALL: [Self; 5] =
        [Self::AssociatedNode, Self::ArbitraryNode, Self::ServiceAccount, Self::UserInfo, Self::Legacy];

    fn name(self) -> &'static str {
        match self {
            Self::AssociatedNode => "associated-node",
            Self::ArbitraryNode => "arbitrary-node",
            Self::ServiceAccount => "serviceaccount",
            Self::UserInfo => "user-info",
            Self::Legacy => "",
        }
    }

    /// What the audit event says of the permission; nothing of the old one.
    fn constraint(self) -> String {
        if self == Self::Legacy { String::new() } else { format!("impersonate:{}", self.name()) }
    }

    fn verb(self) -> String {
        if self == Self::Legacy { "impersonate".to_owned() } else { self.constraint() }
    }

    /// Whether the mode is about such a user.
    fn is_for(self, wanted: &UserInfo, user: &UserInfo) -> bool {
        let only_name = wanted.uid.is_empty() && wanted.groups.is_empty() && wanted.extra.is_empty();
        let (node, account) = (node_name(&wanted.name), service_account(&wanted.name));
        match self {
            Self::AssociatedNode => {
                let own = user.extra.get("authentication.kubernetes.io/node-name");
                only_name
                    && service_account(&user.name).is_some()
                    && node.is_some_and(|node| own.is_some_and(|own| matches!(own.as_slice(), [one] if one == node)))
            }
            Self::ArbitraryNode => only_name && node.is_some(),
            Self::ServiceAccount => only_name && account.is_some(),
            Self::UserInfo => node.is_none() && account.is_none(),
            Self::Legacy => true,
        }
    }

    /// The user to act as; `None` if the mode is not for such users.
    async fn check(
        self,
        server: &ApiServer,
        user: &UserInfo,
        wanted: &UserInfo,
        asked: &AuthorizationAttributes,
    ) -> Result<Option<UserInfo>, Status> {
        if !self.is_for(wanted, user) {
            return Ok(None);
        }
        let checker = Checker { server, mode: self, user: self.requestor(user) };
        if self != Self::Legacy {
            let verb = format!("impersonate-on:{}:{}", self.name(), asked.verb);
            checker.check(&AuthorizationAttributes { verb, ..asked.clone() }).await?;
        }
        let mut target = wanted.clone();
        checker.username(wanted, &mut target).await?;
        if !wanted.uid.is_empty() {
            checker.check(&checker.question(AUTHENTICATION, "uids", &wanted.uid)).await?;
        }
        checker.groups(&wanted.groups).await?;
        checker.extra(&wanted.extra).await?;
        let add = if target.name == api::user::ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED };
        if !target.in_group(add) && !target.in_group(UNAUTHENTICATED) {
            target.groups.push(add.to_owned());
        }
        Ok(Some(target))
    }

    /// Who asks the authoriser. That a pod is on the node has been checked, so of what the token says about it only the
    /// names count.
    fn requestor(self, user: &UserInfo) -> UserInfo {
        let mut user = user.clone();
        if self == Self::AssociatedNode {
            let keys = user.extra.keys().cloned().collect();
            user.extra = BTreeMap::from([("authentication.kubernetes.io/associated-node-keys".to_owned(), keys)]);
        }
        user
    }
}

/// The name of the node of a node's user name.
fn node_name(user: &str) -> Option<&str> {
    user.strip_prefix("system:node:").filter(|name| dns1123_subdomain(name, false).is_empty())
}

/// Namespace and name of a service account's user name (`serviceaccount.SplitUsername`).
fn service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    let good = dns1123_label(namespace, false).is_empty() && dns1123_subdomain(name, false).is_empty();
    good.then_some((namespace, name))
}

struct Checker<'a> {
    server: &'a ApiServer,
    mode: Mode,
    user: UserInfo,
}

impl Checker<'_> {
    fn is_constrained(&self) -> bool {
        self.mode != Mode::Legacy
    }

    fn question(&self, group: &str, resource: &str, name: &str) -> AuthorizationAttributes {
        AuthorizationAttributes {
            verb: self.mode.verb(),
            is_resource: true,
            group: group.to_owned(),
            version: "v1".to_owned(),
            resource: resource.to_owned(),
            name: name.to_owned(),
            ..AuthorizationAttributes::default()
        }
    }

    /// The group of names and groups.
    fn users_group(&self) -> &'static str {
        if self.is_constrained() { AUTHENTICATION } else { "" }
    }

    async fn check(&self, question: &AuthorizationAttributes) -> Result<(), Status> {
        let (decision, error) = self.server.authorizer.authorize_or_fail(&self.user, question).await;
        if decision.allowed() {
            return Ok(());
        }
        let reason = match (error, decision.reason()) {
            (Some(error), "") => error,
            (Some(error), reason) => format!("{error}: {reason}"),
            (None, reason) => reason.to_owned(),
        };
        Err(forbidden(&self.user, question, &reason))
    }

    fn refuse(&self, question: &AuthorizationAttributes, why: &str) -> Status {
        forbidden(&self.user, question, why)
    }

    async fn username(&self, wanted: &UserInfo, target: &mut UserInfo) -> Result<(), Status> {
        let mut question = self.question(self.users_group(), "users", &wanted.name);
        if self.is_constrained()
            && let Some(node) = node_name(&wanted.name)
        {
            "nodes".clone_into(&mut question.resource);
            // Who may be its own node may be it on every node.
            let name = if self.mode == Mode::AssociatedNode { "*" } else { node };
            name.clone_into(&mut question.name);
            target.groups = vec![NODES.to_owned()];
        }
        if let Some((namespace, name)) = service_account(&wanted.name) {
            "serviceaccounts".clone_into(&mut question.resource);
            namespace.clone_into(&mut question.namespace);
            name.clone_into(&mut question.name);
            if wanted.groups.is_empty() {
                target.groups =
                    vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
            }
        }
        self.check(&question).await
    }

    async fn groups(&self, groups: &[String]) -> Result<(), Status> {
        let question = |name: &str| self.question(self.users_group(), "groups", name);
        if self.is_constrained() {
            if groups.iter().any(String::is_empty) {
                return Err(self.refuse(&question(""), "impersonating the empty string group is not allowed"));
            }
            if groups.iter().any(|group| group == MASTERS) {
                return Err(self.refuse(&question(MASTERS), "impersonating the system:masters group is not allowed"));
            }
            if groups.len() >= MANY && self.check(&question("*")).await.is_ok() {
                return Ok(());
            }
        }
        for group in groups {
            self.check(&question(group)).await?;
        }
        Ok(())
    }

    async fn extra(&self, extra: &BTreeMap<String, Vec<String>>) -> Result<(), Status> {
        let question = |key: &str, value: &str| AuthorizationAttributes {
            subresource: key.to_owned(),
            ..self.question(AUTHENTICATION, "userextras", value)
        };
        if self.is_constrained() {
            check_extra(extra).map_err(|why| self.refuse(&question("", ""), &why))?;
            let many = extra.len() >= MANY || extra.values().map(Vec::len).sum::<usize>() >= MANY;
            if many && self.check(&question("*", "*")).await.is_ok() {
                return Ok(());
            }
        }
        for (key, values) in extra {
            for value in values {
                self.check(&question(key, value)).await?;
            }
        }
        Ok(())
    }
}

/// `validateExtra`.
fn check_extra(extra: &BTreeMap<String, Vec<String>>) -> Result<(), String> {
    for (key, values) in extra {
        if key.is_empty() {
            return Err("impersonating the empty string key in extra is not allowed".to_owned());
        }
        if let Some(error) = domain_prefixed_path(&Path::new("extra").child("key"), key).first() {
            let why = format!("{}: {}", error.path, error.body());
            return Err(format!("impersonating an invalid key in extra is not allowed: {why}"));
        }
        if values.iter().any(String::is_empty) {
            return Err("impersonating the empty string value in extra is not allowed".to_owned());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mode_is_for_its_own_users() {
        let mut agent = UserInfo::new("system:serviceaccount:kube-system:agent", &[]);
        agent.extra.insert("authentication.kubernetes.io/node-name".to_owned(), vec!["n1".to_owned()]);
        let check = |name: &str, groups: &[&str], want: &[Mode]| {
            let groups = groups.iter().map(|g| (*g).to_owned()).collect();
            let wanted = UserInfo { name: name.to_owned(), groups, ..UserInfo::default() };
            let got: Vec<Mode> = Mode::ALL.into_iter().filter(|mode| mode.is_for(&wanted, &agent)).collect();
            assert_eq!(got, want, "{name}");
        };
        check("system:node:n1", &[], &[Mode::AssociatedNode, Mode::ArbitraryNode, Mode::Legacy]);
        check("system:node:n2", &[], &[Mode::ArbitraryNode, Mode::Legacy]);
        check("system:node:n1", &["g"], &[Mode::Legacy]);
        check("system:serviceaccount:a:b", &[], &[Mode::ServiceAccount, Mode::Legacy]);
        check("ann", &["g"], &[Mode::UserInfo, Mode::Legacy]);
    }

    #[test]
    fn headers_name_a_user() {
        let read = |headers: &[(&'static str, &str)]| {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(*name, value.parse().unwrap());
            }
            wanted(&map)
        };
        assert_eq!(read(&[("accept", "x")]), Ok(None));
        let user =
            read(&[(USER, "ann"), (GROUP, "a"), (GROUP, "b"), ("impersonate-extra-x%2fy", "z")]).unwrap().unwrap();
        assert_eq!((user.name.as_str(), user.groups.len(), user.extra["x/y"].len()), ("ann", 2, 1));
        let status = read(&[(GROUP, "a")]).unwrap_err();
        assert_eq!(
            (status.code, status.message.as_str()),
            (
                400,
                "requested &user.DefaultInfo{Name:\"\", UID:\"\", Groups:[]string{\"a\"}, Extra:map[string][]string(nil)} \
                 without impersonating a user name"
            )
        );
    }
}
