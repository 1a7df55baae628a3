//! How operations are called after the group that they belong to.

/// A group as identifiers and tags of operations have it: `RbacAuthorization`, `rbacAuthorization` (apiserver
/// `endpoints/openapi` `GetOperationIDAndTags`).
pub(super) fn names(group: &str) -> (String, String) {
    let short = group.strip_suffix(".k8s.io").unwrap_or(group);
    (identifier(short, true), identifier(short, false))
}

/// What is no letter goes and makes the next one a capital; so does a digit at the beginning (`ToValidOperationID`).
fn identifier(text: &str, mut capital: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for (at, c) in text.chars().enumerate() {
        if !(c.is_alphabetic() || c == '_' || (at != 0 && c.is_numeric())) {
            capital = true;
        } else if std::mem::take(&mut capital) {
            out.extend(c.to_uppercase());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::names;

    #[test]
    fn groups_become_identifiers_without_dots_and_hyphens() {
        let check = |group: &str, id: &str, tag: &str| assert_eq!(names(group), (id.to_owned(), tag.to_owned()));
        check("core", "Core", "core");
        check("rbac.authorization.k8s.io", "RbacAuthorization", "rbacAuthorization");
        check("acme.cert-manager.io", "AcmeCertManagerIo", "acmeCertManagerIo");
        check("gateway.networking.x-k8s.io", "GatewayNetworkingXK8sIo", "gatewayNetworkingXK8sIo");
        check("3scale.net", "ScaleNet", "ScaleNet");
    }
}
