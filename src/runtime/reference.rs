//! Image references: `[host[:port]/]path[:tag][@algorithm:hex]`, as github.com/distribution/reference reads them.

use std::fmt;

use crate::contract::RuntimeError;

const DEFAULT_HOST: &str = "docker.io";
/// Longest name without host, as upstream (`NameTotalLengthMax`).
const NAME_LENGTH_MAX: usize = 255;

/// A complete reference: with host, and with a tag, a digest or both.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    /// `docker.io`, `registry.k8s.io`, `localhost:5000`.
    pub host: String,
    /// `library/busybox`.
    pub path: String,
    pub tag: Option<String>,
    /// `sha256:…`.
    pub digest: Option<String>,
}

impl Reference {
    /// Completes and checks a reference: `busybox` is `docker.io/library/busybox:latest`.
    pub fn parse(text: &str) -> Result<Self, RuntimeError> {
        parse(text).ok_or_else(|| RuntimeError::InvalidReference {
            reference: text.into(),
            why: "invalid reference format".into(),
        })
    }

    /// Host and path.
    pub fn name(&self) -> String {
        format!("{}/{}", self.host, self.path)
    }

    /// `name@digest` for a digest.
    pub fn with_digest(&self, digest: &str) -> String {
        format!("{}@{digest}", self.name())
    }

    /// What a registry calls it: the digest when there is one, else the tag.
    pub fn version(&self) -> &str {
        self.digest.as_deref().or(self.tag.as_deref()).unwrap_or("latest")
    }

    /// `name:tag`, when the reference has a tag and no digest: a digest decides alone what is meant.
    pub fn tagged(&self) -> Option<String> {
        match (&self.tag, &self.digest) {
            (Some(tag), None) => Some(format!("{}:{tag}", self.name())),
            _ => None,
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.path)?;
        match (&self.digest, &self.tag) {
            (Some(digest), _) => write!(f, "@{digest}"),
            (None, Some(tag)) => write!(f, ":{tag}"),
            (None, None) => Ok(()),
        }
    }
}

fn parse(text: &str) -> Option<Reference> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.to_owned()).filter(|digest| is_digest(digest)).map(Some)?),
        None => (text, None),
    };
    // The first part is a host when it looks like one: a dot, a port, upper case, or localhost.
    let (host, rest) = match rest.split_once('/') {
        Some((first, remainder))
            if first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (first.to_owned(), remainder)
        }
        _ => (DEFAULT_HOST.to_owned(), rest),
    };
    let host = if host == "index.docker.io" { DEFAULT_HOST.to_owned() } else { host };
    let (path, tag) = match rest.rsplit_once(':') {
        Some((path, tag)) => (path, Some(tag.to_owned())),
        None => (rest, None),
    };
    let path = match host == DEFAULT_HOST && !path.contains('/') {
        true => format!("library/{path}"),
        false => path.to_owned(),
    };
    let valid = is_host(&host)
        && path.len() <= NAME_LENGTH_MAX
        && path.split('/').all(is_path_part)
        && tag.as_deref().is_none_or(is_tag);
    // 64 hexadecimal digits alone would be an id.
    let is_id = digest.is_none() && tag.is_none() && text.len() == 64 && text.bytes().all(is_lower_hex);
    if !valid || is_id {
        return None;
    }
    let tag = if tag.is_none() && digest.is_none() { Some("latest".to_owned()) } else { tag };
    Some(Reference { host, path, tag, digest })
}

fn is_lower_hex(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)
}

/// `sha256:` and 64 digits, or `sha512:` and 128.
pub fn is_digest(text: &str) -> bool {
    let length = match text.split_once(':') {
        Some(("sha256", _)) => 64,
        Some(("sha512", _)) => 128,
        _ => return false,
    };
    text.len() == "sha256:".len() + length && text.bytes().skip("sha256:".len()).all(is_lower_hex)
}

fn is_host(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    };
    let name_ok = if let Some(address) = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        address.parse::<std::net::Ipv6Addr>().is_ok()
    } else {
        !name.is_empty()
            && name.split('.').all(|label| {
                !label.is_empty()
                    && !label.starts_with('-')
                    && !label.ends_with('-')
                    && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            })
    };
    name_ok && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

/// Lower-case letters and digits, parted by `.`, `_`, `__` or any number of `-`.
fn is_path_part(part: &str) -> bool {
    let bytes = part.as_bytes();
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    if !alphanumeric(*first) || !alphanumeric(*last) {
        return false;
    }
    part.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .filter(|separator| !separator.is_empty())
        .all(|separator| matches!(separator, "." | "_" | "__") || separator.bytes().all(|b| b == b'-'))
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= 128 && tag.bytes().next().is_some_and(word) && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_completed() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let check = |text: &str, expected: &str| {
            assert_eq!(Reference::parse(text).unwrap().to_string(), expected, "{text}");
        };
        check("busybox", "docker.io/library/busybox:latest");
        check("me/app:v1", "docker.io/me/app:v1");
        check("index.docker.io/library/x", "docker.io/library/x:latest");
        check("registry.k8s.io/e2e-test-images/agnhost:2.55", "registry.k8s.io/e2e-test-images/agnhost:2.55");
        check("localhost:5000/a__b/c-d.e", "localhost:5000/a__b/c-d.e:latest");
        check("localhost/x", "localhost/x:latest");
        check("[::1]:5000/x", "[::1]:5000/x:latest");
        check(&format!("busybox:1@{digest}"), &format!("docker.io/library/busybox@{digest}"));
        check(&format!("busybox@{digest}"), &format!("docker.io/library/busybox@{digest}"));
    }

    #[test]
    fn malformed_references_are_refused() {
        let long = "a".repeat(256);
        let id = "a".repeat(64);
        for text in [
            "",
            "UPPER",
            "a/UPPER",
            "a//b",
            "/a",
            "a:",
            "a:-x",
            "a@sha256:12",
            "a b",
            "a_-b",
            "-a",
            "a/b:c:d",
            "x.y/",
            "bad_host!/a",
            "a___b",
            &long,
            &id,
            "sha256:abc@x",
            "INVALID NAME",
            "Invalid:Image:Name",
        ] {
            assert!(Reference::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_digest_decides_when_there_are_both() {
        let digest = format!("sha256:{}", "b".repeat(64));
        let reference = Reference::parse(&format!("quay.io/a/b:v1@{digest}")).unwrap();
        assert_eq!((reference.version(), reference.tagged()), (digest.as_str(), None));
        assert_eq!(Reference::parse("a:v1").unwrap().tagged().as_deref(), Some("docker.io/library/a:v1"));
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig {
            failure_persistence: None,
            ..proptest::prelude::ProptestConfig::default()
        })]

        #[test]
        fn no_reference_panics(text in "[a-zA-Z0-9./:@_-]{0,60}", any in "\\PC{0,40}") {
            for text in [text, any] {
                if let Ok(read) = Reference::parse(&text) {
                    proptest::prop_assert!(Reference::parse(&read.name()).is_ok(), "{}", read.name());
                }
            }
        }
    }
}
