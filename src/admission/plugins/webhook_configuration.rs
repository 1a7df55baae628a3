//! What the configuration file says of the plugins that call webhooks (apiserver `admission/plugin/webhook/config`).

use std::path::PathBuf;

use api::field::{Error, Path};
use serde::Deserialize;
use serde_json::Value;

use crate::configuration::{Kind, decode};
use crate::dynamic::manifests;

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

/// What such a plugin is told.
#[derive(Default)]
pub(crate) struct WebhookConfiguration {
    /// The kubeconfig with the server's identities at webhooks.
    pub kubeconfig: Option<PathBuf>,
    /// Has configurations beside those of the API.
    pub manifests: Option<PathBuf>,
}

/// Reads the plugin's part of the file.
pub(crate) fn webhook_configuration(document: Option<&Value>) -> Result<WebhookConfiguration, String> {
    let Some(document) = document else { return Ok(WebhookConfiguration::default()) };
    let read: Configuration = decode(document)?;
    let file = read.kube_config_file;
    if !file.as_os_str().is_empty() && !file.is_absolute() {
        let shown = file.display().to_string();
        return Err(Error::invalid(Path::new("kubeConfigFile"), shown, "must be an absolute file path").to_string());
    }
    let kubeconfig = (!file.as_os_str().is_empty()).then_some(file);
    Ok(WebhookConfiguration { kubeconfig, manifests: manifests::folder(&read.static_manifests_dir)? })
}
