//! What the configuration file says of the plugins that call webhooks (apiserver `admission/plugin/webhook/config`).

use std::path::PathBuf;

use api::field::{Error, Path};
use serde::Deserialize;
use serde_json::Value;

use crate::configuration::{Kind, decode};

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Configuration {
    kube_config_file: PathBuf,
    static_manifests_dir: String,
}

impl Kind for Configuration {
    const NAMES: &'static [(&'static str, &'static str)] =
        &[("apiserver.config.k8s.io/v1", "WebhookAdmissionConfiguration")];
    const STRICT: bool = true;
    const MEMBERS: &'static [&'static str] = &["kubeConfigFile", "staticManifestsDir"];
}

/// The kubeconfig with the server's identities at webhooks.
pub(crate) fn webhook_kubeconfig(document: Option<&Value>) -> Result<Option<PathBuf>, String> {
    let Some(document) = document else { return Ok(None) };
    let read: Configuration = decode(document)?;
    let file = read.kube_config_file;
    if !file.as_os_str().is_empty() && !file.is_absolute() {
        let shown = file.display().to_string();
        return Err(Error::invalid(Path::new("kubeConfigFile"), shown, "must be an absolute file path").to_string());
    }
    if !read.static_manifests_dir.is_empty() {
        return Err("staticManifestsDir is not supported: create the webhook configurations as objects".to_owned());
    }
    Ok((!file.as_os_str().is_empty()).then_some(file))
}
