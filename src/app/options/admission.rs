//! Flags of admission. Names, meanings and defaults are kube-apiserver's, but `NodeRestriction` is on.

use std::path::PathBuf;

use ::admission::ChainOptions;
use clap::Args;

#[derive(Debug, Clone, Args)]
pub struct AdmissionFlags {
    /// Admission plugins that run in addition to the default ones; their order does not matter.
    #[arg(long, env = "SKIFF_ENABLE_ADMISSION_PLUGINS", value_delimiter = ',')]
    pub enable_admission_plugins: Vec<String>,
    /// Default admission plugins that do not run.
    #[arg(long, env = "SKIFF_DISABLE_ADMISSION_PLUGINS", value_delimiter = ',')]
    pub disable_admission_plugins: Vec<String>,
    /// Deprecated: the admission plugins that run, and no others.
    #[arg(long, env = "SKIFF_ADMISSION_CONTROL", value_delimiter = ',')]
    pub admission_control: Option<Vec<String>>,
    /// File with an AdmissionConfiguration.
    #[arg(long, env = "SKIFF_ADMISSION_CONTROL_CONFIG_FILE")]
    pub admission_control_config_file: Option<PathBuf>,
    /// Seconds that pods without a toleration of their own stay on a node that is not ready.
    #[arg(long, env = "SKIFF_DEFAULT_NOT_READY_TOLERATION_SECONDS", default_value_t = 300)]
    pub default_not_ready_toleration_seconds: i64,
    /// Seconds that pods without a toleration of their own stay on a node that nobody reaches.
    #[arg(long, env = "SKIFF_DEFAULT_UNREACHABLE_TOLERATION_SECONDS", default_value_t = 300)]
    pub default_unreachable_toleration_seconds: i64,
}

impl AdmissionFlags {
    pub fn chain(&self) -> ChainOptions {
        // An empty flag names nothing.
        let named = |names: &[String]| names.iter().filter(|name| !name.is_empty()).cloned().collect::<Vec<_>>();
        ChainOptions {
            enable: named(&self.enable_admission_plugins),
            disable: named(&self.disable_admission_plugins),
            only: self.admission_control.as_deref().map(named),
            config_file: self.admission_control_config_file.clone(),
            toleration_seconds: (
                self.default_not_ready_toleration_seconds,
                self.default_unreachable_toleration_seconds,
            ),
        }
    }
}
