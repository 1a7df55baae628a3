//! Registry credentials from a pod's `imagePullSecrets` (upstream `pkg/credentialprovider`).

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::{Pod, Secret};
use runtime::RegistryAuth;
use serde::Deserialize;

use crate::context::Context;
use crate::spec;

#[derive(Deserialize, Default)]
struct DockerConfigJson {
    #[serde(default)]
    auths: BTreeMap<String, AuthEntry>,
}

#[derive(Deserialize, Default)]
struct AuthEntry {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    /// Base64 of `username:password`.
    #[serde(default)]
    auth: String,
    #[serde(default)]
    identitytoken: String,
}

impl AuthEntry {
    fn into_auth(self) -> Option<RegistryAuth> {
        let (mut username, mut password) = (self.username, self.password);
        if !self.auth.is_empty() {
            let decoded = STANDARD.decode(self.auth.trim_end_matches('\0').trim()).ok()?;
            let text = String::from_utf8(decoded).ok()?;
            let (user, secret) = text.split_once(':')?;
            (username, password) = (user.to_owned(), secret.trim_end_matches('\0').to_owned());
        }
        Some(RegistryAuth { username, password, identity_token: self.identitytoken })
    }
}

/// Credentials that may open the image's registry, the most specific first; none means anonymous.
pub async fn for_image(ctx: &Context, pod: &Pod, image: &str) -> Vec<RegistryAuth> {
    let mut found: Vec<(String, RegistryAuth)> = Vec::new();
    for reference in spec::spec(pod).image_pull_secrets.iter().flatten() {
        let name = reference.name.as_str();
        if name.is_empty() {
            continue;
        }
        match ctx.secrets.get(spec::uid(pod), spec::namespace(pod), name).await {
            Ok(secret) => found.extend(entries(&secret)),
            Err(error) => {
                let text = format!(
                    "Unable to retrieve some image pull secrets ({name}); attempting to pull the image may not succeed."
                );
                ctx.events.pod(pod, client::EventType::Warning, "FailedToRetrieveImagePullSecret", &text);
                tracing::debug!(secret = name, error = %base::chain(&error), "cannot read image pull secret");
            }
        }
    }
    let repository = repository(image);
    found.retain(|(pattern, _)| matches(pattern, &repository));
    found.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.len()));
    found.into_iter().map(|(_, auth)| auth).collect()
}

fn entries(secret: &Secret) -> Vec<(String, RegistryAuth)> {
    let data = |key: &str| secret.data.as_ref().and_then(|d| d.get(key)).map(|b| b.0.as_slice());
    let auths = if let Some(bytes) = data(".dockerconfigjson") {
        serde_json::from_slice::<DockerConfigJson>(bytes).map(|c| c.auths)
    } else if let Some(bytes) = data(".dockercfg") {
        serde_json::from_slice(bytes)
    } else {
        return Vec::new();
    };
    match auths {
        Ok(auths) => auths.into_iter().filter_map(|(key, entry)| Some((pattern(&key), entry.into_auth()?))).collect(),
        Err(error) => {
            // The parser's text may quote the secret: only where it stopped is logged.
            let name = secret.metadata.name.as_deref().unwrap_or_default();
            tracing::info!(secret = name, line = error.line(), "image pull secret is not valid JSON");
            Vec::new()
        }
    }
}

/// Host and path of a registry key, without scheme and API version (upstream `keyring.go` `Add`).
fn pattern(key: &str) -> String {
    let key = key.trim_start_matches("https://").trim_start_matches("http://");
    let key = key.trim_end_matches('/');
    let (host, path) = key.split_once('/').unwrap_or((key, ""));
    let path = match path {
        "v1" | "v2" => "",
        other => other.strip_prefix("v1/").or_else(|| other.strip_prefix("v2/")).unwrap_or(other),
    };
    let host = if host == "docker.io" || host == "registry-1.docker.io" { "index.docker.io" } else { host };
    if path.is_empty() { host.to_owned() } else { format!("{host}/{path}") }
}

/// Registry and path of an image, Docker Hub's names filled in.
fn repository(image: &str) -> String {
    let name = image.split('@').next().unwrap_or(image);
    let name = match name.rsplit_once(':') {
        Some((before, tag)) if !tag.contains('/') => before,
        _ => name,
    };
    match name.split_once('/') {
        Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => {
            let host = if host == "docker.io" { "index.docker.io" } else { host };
            format!("{host}/{rest}")
        }
        Some(_) => format!("index.docker.io/{name}"),
        None => format!("index.docker.io/library/{name}"),
    }
}

/// Host parts may be globs; the path matches as a prefix (upstream `URLsMatch`).
fn matches(pattern: &str, repository: &str) -> bool {
    let (pattern_host, pattern_path) = pattern.split_once('/').unwrap_or((pattern, ""));
    let (host, path) = repository.split_once('/').unwrap_or((repository, ""));
    let split = |h: &str| -> (Vec<String>, Option<String>) {
        let (name, port) = match h.split_once(':') {
            Some((name, port)) => (name, Some(port.to_owned())),
            None => (h, None),
        };
        (name.split('.').map(str::to_owned).collect(), port)
    };
    let ((globs, glob_port), (parts, port)) = (split(pattern_host), split(host));
    globs.len() == parts.len()
        && glob_port == port
        && globs.iter().zip(&parts).all(|(glob, part)| glob_matches(glob, part))
        && path.starts_with(pattern_path)
}

/// `*` stands for any text. Each part between two of them is taken where it first fits, so that a secret's pattern of many
/// stars costs no more than its length times the text's.
fn glob_matches(glob: &str, text: &str) -> bool {
    let Some((before, after)) = glob.split_once('*') else { return glob == text };
    let Some(mut rest) = text.strip_prefix(before) else { return false };
    let (between, last) = after.rsplit_once('*').unwrap_or(("", after));
    for part in between.split('*') {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_match_by_host_and_path() {
        let check = |key: &str, image: &str, expected: bool| {
            assert_eq!(matches(&pattern(key), &repository(image)), expected, "{key} {image}");
        };
        check("https://index.docker.io/v1/", "nginx", true);
        check("docker.io", "user/app:1", true);
        check("registry.example.com", "registry.example.com/a/b:1", true);
        check("registry.example.com/a", "registry.example.com/a/b:1", true);
        check("registry.example.com/c", "registry.example.com/a/b:1", false);
        check("*.example.com", "registry.example.com/a", true);
        check("registry.example.com:5000", "registry.example.com/a", false);
        check("localhost:5000", "localhost:5000/a@sha256:00", true);
    }

    #[test]
    fn stars_stand_for_any_text() {
        let check = |glob: &str, text: &str, fits: bool| assert_eq!(glob_matches(glob, text), fits, "{glob} {text}");
        check("*", "", true);
        check("a*", "abc", true);
        check("*c", "abc", true);
        check("a*b*c", "a-b-b-c", true);
        check("a*b*c", "a-c-b", false);
        check("*a*a", "a", false);
        check("ab*ba", "aba", false);
        // With a try at every place for every star this would take years.
        check(&format!("{}b", "*a".repeat(30)), &"a".repeat(200), false);
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig {
            failure_persistence: None,
            ..proptest::prelude::ProptestConfig::default()
        })]

        #[test]
        fn no_secret_of_registries_panics(
            key in "(https?://)?[a-c.*:/]{0,30}", any in "\\PC{0,20}", auth in "[A-Za-z0-9+/=]{0,12}",
            image in "[a-c./:@]{0,30}",
        ) {
            let document = serde_json::json!({"auths": {key.as_str(): {"auth": auth}, any.as_str(): {"username": any, "password": key}}});
            let bytes = k8s_openapi::ByteString(document.to_string().into_bytes());
            let secret = Secret { data: Some([(".dockerconfigjson".to_owned(), bytes)].into()), ..Secret::default() };
            let repository = repository(&image);
            for (pattern, _) in entries(&secret) {
                let _fits = matches(&pattern, &repository);
            }
        }

        #[test]
        fn a_glob_made_of_a_text_matches_it(text in "[ab.]{0,20}", cuts in proptest::collection::vec(proptest::prelude::any::<proptest::sample::Index>(), 0..6)) {
            let mut glob = text.clone();
            for cut in cuts {
                let at = cut.index(glob.len() + 1);
                glob.insert(at, '*');
                // What stands behind a star may be part of what it is for.
                if at + 1 < glob.len() && !glob[at + 1..].starts_with('*') {
                    glob.remove(at + 1);
                }
            }
            proptest::prop_assert!(glob_matches(&glob, &text), "{glob} {text}");
        }
    }
}
