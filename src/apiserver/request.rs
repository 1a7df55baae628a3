//! What a URL and method ask for (apiserver `endpoints/request/requestinfo.go` `NewRequestInfo`).

use api::selector::FieldSelector;
use http::Method;

use crate::query::Query;

/// The parts of a request that routing, authorisation and admission look at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestInfo {
    pub is_resource: bool,
    /// Decoded path.
    pub path: String,
    /// Kubernetes verb, or the lower-case method of a non-resource request.
    pub verb: String,
    pub group: String,
    pub version: String,
    pub namespace: String,
    pub resource: String,
    pub subresource: String,
    pub name: String,
    /// What follows the subresource, with a leading slash, as in the URL (still encoded); empty if nothing follows.
    pub rest: String,
    /// Raw field selector of a list, watch or deletecollection.
    pub field_selector: String,
    /// Raw label selector, likewise.
    pub label_selector: String,
    /// The verb came from the path (`/api/v1/watch/…`), which upstream deprecated.
    pub legacy_verb: bool,
}

const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

impl RequestInfo {
    /// Reads a request line.
    ///
    /// # Errors
    /// What is wrong with it, without the URL that upstream's text ends with.
    pub fn parse(method: &Method, raw_path: &str, query: &Query) -> Result<Self, &'static str> {
        let mut info = Self {
            path: base::percent_decode(raw_path, false),
            verb: method.as_str().to_ascii_lowercase(),
            ..Self::default()
        };
        let raw: Vec<&str> = split(raw_path);
        let mut parts: &[&str] = &raw;
        let core = match parts.first() {
            Some(&"api") => true,
            Some(&"apis") => false,
            _ => return Ok(info),
        };
        if parts.len() < if core { 3 } else { 4 } {
            return Ok(info);
        }
        parts = &parts[1..];
        if !core {
            info.group = base::percent_decode(parts[0], false);
            parts = &parts[1..];
        }
        info.is_resource = true;
        info.version = base::percent_decode(parts[0], false);
        parts = &parts[1..];
        if matches!(parts[0], "watch" | "proxy") {
            if parts.len() < 2 {
                return Err("unable to determine kind and namespace from url");
            }
            info.verb = parts[0].to_owned();
            info.legacy_verb = true;
            parts = &parts[1..];
        } else {
            info.verb = match *method {
                Method::POST => "create",
                Method::GET | Method::HEAD => "get",
                Method::PUT => "update",
                Method::PATCH => "patch",
                Method::DELETE => "delete",
                _ => "",
            }
            .to_owned();
        }
        if parts[0] == "namespaces" && parts.len() > 1 {
            info.namespace = base::percent_decode(parts[1], false);
            if parts.len() > 2 && !NAMESPACE_SUBRESOURCES.contains(&parts[2]) {
                parts = &parts[2..];
            }
        }
        info.resource = base::percent_decode(parts[0], false);
        if let Some(name) = parts.get(1) {
            info.name = base::percent_decode(name, false);
        }
        if info.verb != "proxy"
            && let Some(subresource) = parts.get(2)
        {
            info.subresource = base::percent_decode(subresource, false);
        }
        let used = if info.verb == "proxy" { 2 } else { 3 };
        info.rest = rest_of(raw_path, raw.len() - parts.len() + used, raw.len());
        info.name_by_selector(query);
        if matches!(info.verb.as_str(), "list" | "watch" | "deletecollection") && !info.legacy_verb {
            info.field_selector = query.text("fieldSelector").to_owned();
            info.label_selector = query.text("labelSelector").to_owned();
        }
        Ok(info)
    }

    fn name_by_selector(&mut self, query: &Query) {
        if !self.name.is_empty() {
            return;
        }
        if self.verb == "get" {
            self.verb = if query.flag("watch") { "watch" } else { "list" }.to_owned();
            let by_name = FieldSelector::parse(query.text("fieldSelector"))
                .ok()
                .and_then(|s| s.requires_exact("metadata.name").map(ToOwned::to_owned));
            if let Some(name) = by_name
                && is_path_segment(&name)
            {
                self.name = name;
            }
        } else if self.verb == "delete" {
            self.verb = "deletecollection".to_owned();
        }
    }

    /// Whether the URL itself names an object (rather than a field selector).
    pub fn names_object(&self) -> bool {
        !self.name.is_empty() && self.verb != "list" && (self.verb != "watch" || self.legacy_verb)
    }
}

fn split(path: &str) -> Vec<&str> {
    let path = path.trim_matches('/');
    if path.is_empty() { Vec::new() } else { path.split('/').collect() }
}

/// The path after its first `used` segments, slashes as they were.
fn rest_of(path: &str, used: usize, total: usize) -> String {
    let trailing = path.ends_with('/');
    if used > total || (used == total && !trailing) {
        return String::new();
    }
    let mut rest = path.trim_start_matches('/');
    for _ in 0..used {
        match rest.find('/') {
            Some(slash) => rest = &rest[slash + 1..],
            None => return if trailing { "/".to_owned() } else { String::new() },
        }
    }
    format!("/{rest}")
}

/// Whether a name may stand in a path (`content.IsPathSegmentName`).
pub fn is_path_segment(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains('/') && !name.contains('%')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: Method, url: &str, want: (&str, &str, &str, &str, &str, &str, &str)) {
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        let info = RequestInfo::parse(&method, path, &Query::parse(query)).unwrap();
        let got = (
            info.verb.as_str(),
            info.group.as_str(),
            info.version.as_str(),
            info.namespace.as_str(),
            info.resource.as_str(),
            info.subresource.as_str(),
            info.name.as_str(),
        );
        assert_eq!(got, want, "{method} {url}");
    }

    #[test]
    fn urls_parse_as_upstream() {
        check(Method::GET, "/api/v1/namespaces", ("list", "", "v1", "", "namespaces", "", ""));
        check(Method::GET, "/api/v1/namespaces/other", ("get", "", "v1", "other", "namespaces", "", "other"));
        check(Method::GET, "/api/v1/namespaces/other/pods", ("list", "", "v1", "other", "pods", "", ""));
        check(Method::GET, "/api/v1/namespaces/other/pods?watch=true", ("watch", "", "v1", "other", "pods", "", ""));
        check(Method::GET, "/api/v1/watch/namespaces/other/pods", ("watch", "", "v1", "other", "pods", "", ""));
        check(Method::GET, "/api/v1/pods?fieldSelector=metadata.name%3Dfoo", ("list", "", "v1", "", "pods", "", "foo"));
        check(
            Method::PUT,
            "/api/v1/namespaces/other/finalize",
            ("update", "", "v1", "other", "namespaces", "finalize", "other"),
        );
        check(
            Method::DELETE,
            "/apis/apps/v1/namespaces/n/deployments",
            ("deletecollection", "apps", "v1", "n", "deployments", "", ""),
        );
        check(Method::POST, "/api/v1/namespaces/n/pods/p/exec", ("create", "", "v1", "n", "pods", "exec", "p"));
        check(Method::GET, "/apis/apps/v1", ("get", "", "", "", "", "", ""));
        check(Method::GET, "/healthz", ("get", "", "", "", "", "", ""));
    }

    #[test]
    fn the_rest_of_a_proxied_path_is_kept_as_it_is() {
        let rest = |path: &str| RequestInfo::parse(&Method::GET, path, &Query::default()).unwrap().rest;
        assert_eq!(rest("/api/v1/namespaces/n/pods/p/proxy/a%20b/c/"), "/a%20b/c/");
        assert_eq!(rest("/api/v1/namespaces/n/pods/p/proxy/"), "/");
        assert_eq!(rest("/api/v1/namespaces/n/pods/p/proxy"), "");
        assert_eq!(rest("/api/v1/nodes/n/proxy/metrics"), "/metrics");
    }
}
