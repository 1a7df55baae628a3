//! What the configuration file says of the plugins that evaluate policies (apiserver `admission/plugin/policy/config`).

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;

use crate::configuration::{Kind, decode};
use crate::dynamic::manifests;

const VALIDATING: (&str, &str) = ("apiserver.config.k8s.io/v1", "ValidatingAdmissionPolicyConfiguration");
const MUTATING: (&str, &str) = ("apiserver.config.k8s.io/v1", "MutatingAdmissionPolicyConfiguration");

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Configuration {
    static_manifests_dir: String,
}

impl Kind for Configuration {
    const NAMES: &'static [(&'static str, &'static str)] = &[VALIDATING, MUTATING];
    const STRICT: bool = true;
    const MEMBERS: &'static [&'static str] = &["staticManifestsDir"];
}

/// The folder with policies and bindings beside those of the API.
pub(crate) fn policy_manifests(document: Option<&Value>, is_mutating: bool) -> Result<Option<PathBuf>, String> {
    let Some(document) = document else { return Ok(None) };
    let read: Configuration = decode(document)?;
    let wanted = if is_mutating { MUTATING.1 } else { VALIDATING.1 };
    if document.get("kind").and_then(Value::as_str) != Some(wanted) {
        let found = document.get("kind").and_then(Value::as_str).unwrap_or_default();
        return Err(format!("unexpected type: *policyconfig.{found}"));
    }
    manifests::folder(&read.static_manifests_dir)
}
