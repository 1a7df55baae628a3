//! Upstream's descriptions of the built-in types, kept compressed in the program and unpacked only when a document is
//! made of them.

use std::collections::BTreeMap;

static PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptions.zst"));

/// Descriptions by OpenAPI definition name: of the type itself, and of its properties by JSON name. About a megabyte:
/// not to be kept.
///
/// Empty only if the program's own data is damaged.
pub fn load() -> BTreeMap<String, (String, BTreeMap<String, String>)> {
    let unpacked = zstd::decode_all(PACKED).unwrap_or_default();
    serde_json::from_slice(&unpacked).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #[test]
    fn types_and_their_properties_are_described() {
        let texts = super::load();
        let (text, properties) = &texts["io.k8s.api.apps.v1.DeploymentSpec"];
        assert_eq!(text, "DeploymentSpec is the specification of the desired behavior of the Deployment.");
        assert!(properties["replicas"].starts_with("Number of desired pods."));
    }
}
