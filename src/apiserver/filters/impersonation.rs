//! `Impersonate-*` headers (apiserver `endpoints/filters/impersonation`).

use api::services::AuthorizationAttributes;
use api::user::{AUTHENTICATED, UNAUTHENTICATED};
use api::{Status, UserInfo};
use http::request::Parts;

use super::check;
use crate::server::ApiServer;

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";

/// The user that the request acts as, after checking that `user` may impersonate it.
pub async fn apply(server: &ApiServer, user: UserInfo, parts: &mut Parts) -> Result<UserInfo, Status> {
    if !parts.headers.keys().any(|k| k.as_str().starts_with("impersonate-")) {
        return Ok(user);
    }
    let all = |name: &str| -> Vec<String> {
        parts.headers.get_all(name).iter().filter_map(|v| v.to_str().ok().map(ToOwned::to_owned)).collect()
    };
    let name = all(USER).into_iter().next().unwrap_or_default();
    let groups = all(GROUP);
    let uid = all(UID).into_iter().next().unwrap_or_default();
    let extra: Vec<(String, String)> = parts
        .headers
        .iter()
        .filter_map(|(k, v)| {
            Some((base::percent_decode(k.as_str().strip_prefix(EXTRA)?, false), v.to_str().ok()?.to_owned()))
        })
        .collect();
    if name.is_empty() {
        return Err(Status::internal(format_args!(
            "requested {:?} without impersonating a user",
            [groups, vec![uid], extra.into_iter().map(|(_, v)| v).collect()].concat()
        )));
    }
    let question =
        |resource: &str, group: &str, namespace: &str, name: &str, subresource: &str| AuthorizationAttributes {
            verb: "impersonate".to_owned(),
            is_resource: true,
            group: group.to_owned(),
            version: "v1".to_owned(),
            resource: resource.to_owned(),
            subresource: subresource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            path: String::new(),
            ..AuthorizationAttributes::default()
        };
    let own_name = name.clone();
    let account = own_name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    let asked = match account {
        Some((namespace, account)) => question("serviceaccounts", "", namespace, account, ""),
        None => question("users", "", "", &name, ""),
    };
    check(server, &user, &asked).await?;
    for group in &groups {
        check(server, &user, &question("groups", "", "", group, "")).await?;
    }
    if !uid.is_empty() {
        check(server, &user, &question("uids", "authentication.k8s.io", "", &uid, "")).await?;
    }
    let mut target = UserInfo { name, uid, groups, ..UserInfo::default() };
    for (key, value) in extra {
        check(server, &user, &question("userextras", "authentication.k8s.io", "", &value, &key)).await?;
        target.extra.entry(key).or_default().push(value);
    }
    if target.groups.is_empty()
        && let Some((namespace, _)) = account
    {
        target.groups = vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
    }
    let add = if target.name == api::user::ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED };
    if !target.in_group(add) && !target.in_group(UNAUTHENTICATED) {
        target.groups.push(add.to_owned());
    }
    parts.headers = parts
        .headers
        .iter()
        .filter(|(k, _)| !k.as_str().starts_with("impersonate-"))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    Ok(target)
}
