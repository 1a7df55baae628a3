//! Manifests and indexes, of OCI's and Docker's media types, which differ in nothing we read.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Manifests are small; a larger one is not read.
pub const MANIFEST_BYTES_MAX: u64 = 8 << 20;

/// Where a blob is and what it is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: String,
    pub size: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Platform {
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub os: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// The manifest of one image.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub schema_version: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    pub config: Descriptor,
    #[serde(default)]
    pub layers: Vec<Descriptor>,
}

/// A list of manifests, one for each platform.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    #[serde(default)]
    pub manifests: Vec<Descriptor>,
}

/// Either, told apart by what they contain: media types are sometimes absent.
#[derive(Debug, Clone)]
pub enum Document {
    Manifest(Manifest),
    Index(Index),
}

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("cannot read the manifest")]
    Json(#[from] serde_json::Error),
    #[error("manifests of schema version 1 are not supported")]
    SchemaOne,
    #[error("no match for platform in manifest: not found")]
    NoPlatform,
}

/// Reads a manifest or an index.
pub fn parse(bytes: &[u8]) -> Result<Document, ManifestError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Probe {
        #[serde(default)]
        schema_version: u32,
        manifests: Option<serde::de::IgnoredAny>,
        config: Option<serde::de::IgnoredAny>,
    }
    let probe: Probe = serde_json::from_slice(bytes)?;
    match probe {
        Probe { schema_version: 1, .. } => Err(ManifestError::SchemaOne),
        Probe { manifests: Some(_), config: None, .. } => Ok(Document::Index(serde_json::from_slice(bytes)?)),
        _ => Ok(Document::Manifest(serde_json::from_slice(bytes)?)),
    }
}

/// The entry for this machine. Entries without a platform count when nothing else matches.
pub fn select(index: &Index) -> Result<&Descriptor, ManifestError> {
    let (architecture, variant) = match std::env::consts::ARCH {
        "x86_64" => ("amd64", None),
        "aarch64" => ("arm64", Some("v8")),
        "arm" => ("arm", Some("v7")),
        "x86" => ("386", None),
        other => (other, None),
    };
    let images = || index.manifests.iter().filter(|entry| is_image(entry));
    let matching = |entry: &&Descriptor| {
        entry.platform.as_ref().is_some_and(|platform| platform.os == "linux" && platform.architecture == architecture)
    };
    let exact = images().filter(matching).find(|entry| {
        let found = entry.platform.as_ref().and_then(|platform| platform.variant.as_deref());
        found == variant || found.is_none()
    });
    exact
        .or_else(|| images().find(matching))
        .or_else(|| images().find(|entry| entry.platform.is_none()))
        .ok_or(ManifestError::NoPlatform)
}

/// False for attestations and the like, which stand in indexes too.
fn is_image(entry: &Descriptor) -> bool {
    let reference = |notes: &BTreeMap<String, String>| notes.contains_key("vnd.docker.reference.type");
    !entry.annotations.as_ref().is_some_and(reference)
        && (entry.media_type.is_empty()
            || [OCI_MANIFEST, DOCKER_MANIFEST, OCI_INDEX, DOCKER_INDEX].contains(&entry.media_type.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_platform_is_chosen() {
        let entry = |arch: &str, digest: &str| {
            format!(
                r#"{{"mediaType":"{OCI_MANIFEST}","digest":"{digest}","size":1,"platform":{{"os":"linux","architecture":"{arch}"}}}}"#
            )
        };
        let own = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let text = format!(r#"{{"schemaVersion":2,"manifests":[{},{}]}}"#, entry("s390x", "a"), entry(own, "b"));
        let Document::Index(index) = parse(text.as_bytes()).unwrap() else { panic!("not an index") };
        assert_eq!(select(&index).unwrap().digest, "b");
        let other = Index { manifests: vec![index.manifests[0].clone()] };
        assert!(matches!(select(&other), Err(ManifestError::NoPlatform)));
    }

    #[test]
    fn old_schemas_are_refused() {
        assert!(matches!(parse(br#"{"schemaVersion":1,"fsLayers":[]}"#), Err(ManifestError::SchemaOne)));
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig {
            failure_persistence: None,
            ..proptest::prelude::ProptestConfig::default()
        })]
        #[test]
        fn no_manifest_panics(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..80),
            changes in proptest::collection::vec((proptest::prelude::any::<proptest::sample::Index>(), "[ -~]{0,3}"), 0..4),
        ) {
            let whole = format!(
                "{{\"schemaVersion\":2,\"manifests\":[{{\"mediaType\":\"{OCI_MANIFEST}\",\"digest\":\"sha256:00\",\"size\":1,\
                 \"platform\":{{\"os\":\"linux\",\"architecture\":\"amd64\"}},\"annotations\":{{\"a\":\"b\"}}}}],\
                 \"config\":{{\"digest\":\"\",\"size\":-1}},\"layers\":[]}}"
            );
            let mut text = whole;
            for (at, with) in changes {
                let at = at.index(text.len() + 1);
                text.replace_range(at..(at + with.len()).min(text.len()), &with);
            }
            for bytes in [bytes, text.into_bytes()] {
                if let Ok(Document::Index(index)) = parse(&bytes) {
                    let _entry = select(&index);
                }
            }
        }
    }
}
