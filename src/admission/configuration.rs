//! The file of `--admission-control-config-file` (apiserver `admission/config.go`), and how the parts of it are read that
//! belong to plugins.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Why the chain cannot be made as it was asked for. The texts are kube-apiserver's.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// Flags that make no sense.
    #[error("{}", go_list(.0))]
    Flags(Vec<String>),
    #[error("failed to read plugin config: unable to read admission control configuration from {path:?}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("failed to read plugin config: {0}")]
    File(String),
    #[error("couldn't open admission plugin configuration {path}")]
    PluginFile {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("couldn't init admission plugin {plugin:?}: {why}")]
    Plugin { plugin: &'static str, why: String },
    /// What files say that the plugin reads beside the API.
    #[error("failed to initialize admission plugin {plugin:?}: {why}")]
    Manifests { plugin: &'static str, why: String },
}

/// Several errors as Go prints them (`utilerrors.NewAggregate`).
pub(crate) fn go_list<T: ToString>(errors: &[T]) -> String {
    match errors {
        [one] => one.to_string(),
        all => format!("[{}]", all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    }
}

/// A kind of configuration file and the versions it has had.
pub(crate) trait Kind: DeserializeOwned {
    /// `apiVersion` and `kind`.
    const NAMES: &'static [(&'static str, &'static str)];
    /// Whether members that nobody knows are errors.
    const STRICT: bool;
    /// Every member at the top but `apiVersion` and `kind`.
    const MEMBERS: &'static [&'static str];
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AdmissionConfiguration {
    plugins: Vec<Plugin>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Plugin {
    name: String,
    path: PathBuf,
    configuration: Option<Value>,
}

impl Kind for AdmissionConfiguration {
    const NAMES: &'static [(&'static str, &'static str)] = &[
        ("apiserver.config.k8s.io/v1", "AdmissionConfiguration"),
        ("apiserver.config.k8s.io/v1beta1", "AdmissionConfiguration"),
        ("apiserver.config.k8s.io/v1alpha1", "AdmissionConfiguration"),
        ("apiserver.k8s.io/v1beta1", "AdmissionConfiguration"),
        ("apiserver.k8s.io/v1alpha1", "AdmissionConfiguration"),
    ];
    const STRICT: bool = true;
    const MEMBERS: &'static [&'static str] = &["plugins"];
}

/// The configurations of plugins by their names.
#[derive(Debug, Default)]
pub(crate) struct PluginConfigurations(Vec<Plugin>);

/// Plugins whose configuration was the whole file before there were several.
const LEGACY: &[(&str, &str)] =
    &[("ImagePolicyWebhook", "imagePolicy"), ("PodNodeSelector", "podNodeSelectorPluginConfig")];

impl PluginConfigurations {
    /// Reads the file (`ReadAdmissionConfiguration`).
    pub(crate) fn read(path: &Path) -> Result<Self, ChainError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ChainError::Read { path: path.to_owned(), source })?;
        let document = parse(&text).map_err(ChainError::File)?;
        let is_legacy =
            document.get("apiVersion").is_none() && LEGACY.iter().any(|(_, key)| document.get(key).is_some());
        if is_legacy {
            let whole = |(name, _): &(&str, &str)| Plugin {
                name: (*name).to_owned(),
                path: PathBuf::new(),
                configuration: Some(document.clone()),
            };
            return Ok(Self(LEGACY.iter().map(whole).collect()));
        }
        let mut file: AdmissionConfiguration = decode(&document).map_err(ChainError::File)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for plugin in file.plugins.iter_mut().filter(|plugin| !plugin.path.as_os_str().is_empty()) {
            plugin.path = folder.join(&plugin.path);
        }
        Ok(Self(file.plugins))
    }

    /// What stands there for a plugin, in the file itself or in another; `None` if nothing does.
    pub(crate) fn of(&self, name: &str) -> Result<Option<Value>, ChainError> {
        let Some(plugin) = self.0.iter().find(|plugin| plugin.name == name) else { return Ok(None) };
        if let Some(found) = plugin.configuration.as_ref().filter(|found| !found.is_null()) {
            return Ok(Some(found.clone()));
        }
        if plugin.path.as_os_str().is_empty() {
            return Ok(None);
        }
        let path = &plugin.path;
        let text =
            std::fs::read_to_string(path).map_err(|source| ChainError::PluginFile { path: path.clone(), source })?;
        parse(&text).map(Some).map_err(ChainError::File)
    }
}

fn parse(text: &str) -> Result<Value, String> {
    serde_saphyr::from_str(text).map_err(|error| {
        let why = error.to_string();
        format!("error converting YAML to JSON: {}", why.lines().next().unwrap_or_default())
    })
}

/// Reads a document of one of a kind's versions.
pub(crate) fn decode<T: Kind>(document: &Value) -> Result<T, String> {
    let text = |name: &str| document.get(name).and_then(Value::as_str).unwrap_or_default();
    let (version, kind) = (text("apiVersion"), text("kind"));
    if kind.is_empty() {
        return Err(format!("Object 'Kind' is missing in '{document}'"));
    }
    if version.is_empty() {
        return Err(format!("Object 'apiVersion' is missing in '{document}'"));
    }
    if !T::NAMES.contains(&(version, kind)) {
        return Err(format!("no kind {kind:?} is registered for version {version:?}"));
    }
    let unknown = document.as_object().and_then(|members| {
        members.keys().find(|key| !matches!(key.as_str(), "apiVersion" | "kind") && !T::MEMBERS.contains(&key.as_str()))
    });
    match unknown {
        Some(key) if T::STRICT => return Err(format!("strict decoding error: unknown field {key:?}")),
        _ => {}
    }
    serde_json::from_value(document.clone()).map_err(|error| {
        let text = error.to_string();
        match text.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`')) {
            Some((field, _)) => format!("strict decoding error: unknown field {field:?}"),
            None => text,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<PluginConfigurations, String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("other.yaml"), "a: 1\n").unwrap();
        let path = folder.path().join("config.yaml");
        std::fs::write(&path, text).unwrap();
        let read = PluginConfigurations::read(&path).map_err(|error| error.to_string())?;
        if let Some(plugin) = read.0.iter().find(|plugin| plugin.name == "Other") {
            assert_eq!(read.of(&plugin.name).unwrap(), Some(serde_json::json!({"a": 1})));
        }
        Ok(read)
    }

    const HEAD: &str = "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\n";

    #[test]
    fn plugins_have_their_part_here_or_in_a_file() {
        let text =
            format!("{HEAD}plugins:\n- name: Own\n  configuration: {{b: 2}}\n- name: Other\n  path: other.yaml\n");
        let read = read(&text).unwrap();
        assert_eq!(read.of("Own").unwrap(), Some(serde_json::json!({"b": 2})));
        assert_eq!(read.of("Nobody").unwrap(), None);
    }

    #[test]
    fn files_of_one_plugin_are_taken_as_before() {
        let read = read("podNodeSelectorPluginConfig: {ns: a=b}\n").unwrap();
        let found = read.of("PodNodeSelector").unwrap().unwrap();
        assert_eq!(found["podNodeSelectorPluginConfig"]["ns"], "a=b");
    }

    #[test]
    fn mistakes_are_named() {
        let check = |text: &str, why: &str| {
            assert_eq!(read(text).unwrap_err(), format!("failed to read plugin config: {why}"));
        };
        check(&format!("{HEAD}plugin: []\n"), "strict decoding error: unknown field \"plugin\"");
        check(&format!("{HEAD}plugins: [{{nam: a}}]\n"), "strict decoding error: unknown field \"nam\"");
        check("a: 1\n", "Object 'Kind' is missing in '{\"a\":1}'");
        check("kind: A\napiVersion: v1\n", "no kind \"A\" is registered for version \"v1\"");
    }
}
